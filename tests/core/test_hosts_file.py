"""Hostnames and hosts files."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slurm_adapter.core import hosts_file
from slurm_adapter.core.errors import InvalidInput, Refused
from slurm_adapter.core.hosts_file import (
    Group,
    check_hostnames,
    find_block,
    project,
    replace_block,
    shared_block,
    usable,
    view,
)

LABEL = "a" * 63
BLOCK = "10.0.0.1 job-1\n"
OURS = b"# BEGIN slurm-adapter\n10.0.0.1 job-1\n# END slurm-adapter\n"


def check(*names: str, replicas: int = 1) -> list[str]:
    declared = [(name, replicas, f"resources[{number}].hostname") for number, name in enumerate(names)]
    return check_hostnames(declared, nodes=["node001", "cn-2", "10.0.0.11"], reserved=["ldap.example.org", "mail"])


@pytest.mark.scenario(44)
@pytest.mark.parametrize(
    "name", ["database", "Database", "a", "7up", "x-y", "db.internal", "a.b-c.d9", "1.2.3.x", LABEL, "jobs", "node"]
)
def test_names_that_may_be_declared(name: str) -> None:
    assert check(name) == [name.lower()]


@pytest.mark.scenario(44)
@pytest.mark.parametrize(
    "name",
    [
        "", ".", "a.", ".a", "a..b", "-a", "a-", "a_b", "a b", "a\n", "a\nb", "a#b", "a/b", "*", "æ", "\uff41", "a\0",
        "\u212a", LABEL + "a", ".".join([LABEL] * 4), "127.0.0.1", "10.1", "a.1", "0x7f", "x.0xff", "::1", "localhost",
        "LocalHost", "x.localhost", "localhost.localdomain", "ip6-loopback", "broadcasthost", "node001", "NODE001",
        "cn-2", "ldap.example.org", "ldap", "mail", "job", "job-1", "job-1-2", "a.peers", "peers",
    ],
)  # fmt: skip
def test_names_that_may_not(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"^resources\[0\].hostname: Invalid hostname: "):
        check(name)


@pytest.mark.parametrize(
    ("names", "replicas", "twice"),
    [
        (("db", "db"), 1, "db"), (("db", "DB"), 1, "db"), (("db", "db-0"), 1, "db-0"), (("db-1", "db"), 2, "db-1"),
        (("a-0", "a-0-0", "b"), 1, "a-0-0"),
    ],
)  # fmt: skip
def test_no_name_twice_derived_ones_included(names: tuple[str, ...], replicas: int, twice: str) -> None:
    with pytest.raises(InvalidInput, match=rf"Duplicate hostname detected: (.*, )?{twice}\b"):
        check(*names, replicas=replicas)


def test_a_rank_that_is_not_there_takes_no_name() -> None:
    assert check("db", "db-1", replicas=1) == ["db", "db-1"]


@pytest.mark.parametrize(("name", "replicas", "of_rank"), [("cn", 3, "cn-2"), ("job", 1, "job-0")])
def test_the_name_of_a_rank_must_not_be_taken(name: str, replicas: int, of_rank: str) -> None:
    with pytest.raises(InvalidInput, match=f"the name of its rank {of_rank[-1]} is '{of_rank}'"):
        check(name, replicas=replicas)


def group(hostname: str | None = "db", *, consumer: str = "2", peer: str = "1", ranks: int = 1) -> Group:
    addresses = tuple((f"10.0.0.{rank + 1}", f"fd00::{rank + 1}") for rank in range(ranks))
    return Group(consumer, peer, hostname, "17.0", "/home/al ice/1/exit.json", addresses)


def test_the_text_of_a_view() -> None:
    assert view([group(None, consumer="2", peer="2"), group(ranks=2)]) == (
        "# consumer 2 peer 1 run 17.0 exit /home/al ice/1/exit.json\n"
        "10.0.0.1 db\n10.0.0.1 db-0\nfd00::1 db\nfd00::1 db-0\n10.0.0.2 db-1\nfd00::2 db-1\n"
    )


def test_the_text_of_the_shared_block() -> None:
    assert shared_block([group(None, consumer="1"), group()]) == (
        "# job 1 run 17.0\n10.0.0.1 job-1\n10.0.0.1 job-1-0\nfd00::1 job-1\nfd00::1 job-1-0\n"
        "# consumer 2 peer 1 run 17.0 exit /home/al ice/1/exit.json\n"
        "10.0.0.1 db.2.peers\n10.0.0.1 db-0.2.peers\nfd00::1 db.2.peers\nfd00::1 db-0.2.peers\n"
    )


def test_derived_names_that_are_too_long_are_left_out() -> None:
    long = f"{LABEL}.{'b' * 62}"
    assert [name for _, name in group(long).names()] == [long, long]  # `-0` would make the last label 64 long
    assert [name for _, name in group(".".join([LABEL, LABEL, LABEL, "b" * 60])).names(".4150.peers")] == []


_names = st.from_regex(r"[a-z]([a-z0-9-]{0,5}[a-z0-9])?(\.[a-z]{1,4})?", fullmatch=True)
_groups = st.builds(
    Group,
    consumer=st.sampled_from(["2", "22", "3"]),
    peer=st.sampled_from(["1", "2", "4"]),
    hostname=st.none() | _names,
    run=st.just("17.0"),
    exit_path=st.sampled_from(["/h/1/exit.json", "/with space/consumer 2 /exit.json"]),
    addresses=st.lists(
        st.lists(st.ip_addresses().map(str), min_size=1, max_size=2).map(tuple), min_size=1, max_size=3
    ).map(tuple),
)


@given(st.lists(_groups), st.sampled_from(["2", "22", "3", "9"]))
def test_a_view_is_the_projection_of_the_shared_text(groups: list[Group], consumer: str) -> None:
    # Both have the same order of groups, so the projection equals the view byte for byte.
    assert project(shared_block(groups), consumer) == view(each for each in groups if each.consumer == consumer)


@given(st.lists(_groups))
def test_every_line_is_a_comment_or_one_address_and_one_name(groups: list[Group]) -> None:
    for line in (shared_block(groups) + view(groups)).splitlines():
        if not line.startswith("# "):
            address, name = line.split(" ")
            assert ipaddress.ip_address(address)
            assert len(name) <= 253


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", OURS),
        (b"10.9.9.9 site\n", OURS + b"10.9.9.9 site\n"),
        (b"no newline, \xff and \r\n\0", OURS + b"no newline, \xff and \r\n\0"),
        (b"a\n# BEGIN slurm-adapter\nold\n# END slurm-adapter\nb", b"a\n" + OURS + b"b"),
        (b"# BEGIN slurm-adapter\n# END slurm-adapter", OURS),
        (b"x\n# BEGIN slurm-adapter \n", OURS + b"x\n# BEGIN slurm-adapter \n"),
    ],
)
def test_foreign_bytes_stay(before: bytes, after: bytes) -> None:
    assert replace_block(before, BLOCK) == after
    assert replace_block(after, BLOCK) == after
    assert find_block(after) == BLOCK


@pytest.mark.parametrize(
    "damaged",
    [
        b"# BEGIN slurm-adapter\n", b"# END slurm-adapter\n", b"# END slurm-adapter\n# BEGIN slurm-adapter\n",
        OURS + OURS, OURS + b"# END slurm-adapter\n", b"# BEGIN slurm-adapter\n" + OURS,
    ],
)  # fmt: skip
def test_damaged_marks_are_refused(damaged: bytes) -> None:
    with pytest.raises(Refused, match="keep one pair"):
        replace_block(damaged, BLOCK)


@given(st.binary(), st.binary())
def test_any_foreign_bytes_stay(before: bytes, after: bytes) -> None:
    assume(b"slurm-adapter" not in before + after)
    text = before + b"\n" + OURS + after
    assert replace_block(text, "") == before + b"\n# BEGIN slurm-adapter\n# END slurm-adapter\n" + after


_marks = st.sampled_from([b"# BEGIN slurm-adapter", b"# END slurm-adapter", b"\n", b" ", b"\r", b"10.0.0.1 x\n"])


@given(st.binary(max_size=80) | st.lists(_marks, max_size=12).map(b"".join))
def test_no_file_is_an_error_and_every_line_of_the_sites_stays(text: bytes) -> None:
    assert isinstance(find_block(text), str)
    try:
        new = replace_block(text, BLOCK)
    except Refused:
        return
    assert find_block(new) == BLOCK
    assert replace_block(new, BLOCK) == new
    before, after = new.split(OURS)
    assert text.startswith(before)
    assert text.endswith(after)
    kept = text[len(before) : len(text) - len(after)]
    assert kept == b"" or kept.startswith(b"# BEGIN slurm-adapter\n")


@given(
    st.text(max_size=80)
    | st.lists(st.sampled_from(["# consumer 2 ", "10.0.0.1 x.2.peers", "\n", "#", " "])).map("".join)
)
def test_a_projection_of_any_text_is_text(text: str) -> None:
    assert all(line in text or f"{line}.2.peers" in text for line in project(text, "2").splitlines())


@pytest.mark.edge_case(19)
def test_addresses_that_other_nodes_can_use() -> None:
    never = ["", "127.0.0.1", "127.0.1.1", "::1", "169.254.1.1", "fe80::1", "fe80::1%eth0", "fd00::1%eth0", "224.0.0.1"]
    never += ["0.0.0.0", "::", "::ffff:127.0.0.1", "node001", "10.0.0.1/24"]  # noqa: S104  # nothing listens there
    good = ["10.0.0.1", "10.0.0.1", "FD00:0::01", "::ffff:10.0.0.2"]
    assert usable([*never, *good]) == ("10.0.0.1", "fd00::1", "10.0.0.2")


@pytest.mark.edge_case(18)
def test_jobs_with_ids_that_begin_alike_have_different_names() -> None:
    groups = [group("db", consumer=consumer, peer=peer) for consumer, peer in (("1", "2"), ("11", "3"), ("10", "1"))]
    shared = shared_block([group(None, consumer="1", peer="1"), group(None, consumer="11", peer="11"), *groups])
    for each in groups:
        assert project(shared, each.consumer) == view([each])


def test_an_unknown_consumer_has_nothing() -> None:
    assert project(shared_block([group()]), "22") == ""
    assert hosts_file.find_block(b"10.0.0.1 x\n") == ""

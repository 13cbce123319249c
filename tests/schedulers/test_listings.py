"""What squeue and sacct said on a real cluster, hostile names included, and what they might say."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.errors import Unknown
from slurm_adapter.schedulers import listings
from slurm_adapter.schedulers.listings import sacct_argv, separator, squeue_argv
from slurm_adapter.states import JobState, translate

if TYPE_CHECKING:
    from slurm_adapter.schedulers.interface import Observation

RECORDED = Path(__file__).parent / "recorded/22.05.8"
MARK = "0badcafe0bad"  # what the recordings were made with
SEP = separator(MARK)

HEADER = SEP.join(["JOBID", "STATE", *"23456789", "NAME", "RESTART_COUNT"]) + "\n"
NAMES = {"7701": "alice", "7702": "bob"}


def parse_queue(data: bytes, mark: str, before: str = "") -> tuple[Observation, ...]:
    """Read rows of squeue, whose header is not among them."""
    return listings.parse_queue(f"{before}{HEADER}".encode() + data, mark, NAMES)


def parse_history(data: bytes, mark: str) -> tuple[Observation, ...]:
    """Read rows of sacct."""
    return listings.parse_history(data, mark, NAMES)


def recorded(name: str) -> bytes:
    return (RECORDED / name).read_bytes()


def squeue_row(**fields: str) -> str:
    row = {
        "id": "17",
        "state": "RUNNING",
        "reason": "None",
        "nodes": "node[001-002]",
        "uid": "7701",
        "submitted": "100",
        "started": "200",
        "ended": "300",
        "limit": "1:00:00",
        "status": "0",
        "name": "tok-1",
        "restarts": "0",
    }
    return SEP.join((row | fields).values()) + "\n"


def read_one(**fields: str) -> Observation:
    (found,) = parse_queue(squeue_row(**fields).encode(), MARK)
    return found


def history_row(**fields: str) -> str:
    row = {
        "id": "17",
        "state": "COMPLETED",
        "exit": "0:0",
        "nodes": "node001",
        "user": "alice",
        "uid": "7701",
        "submitted": "100",
        "started": "200",
        "ended": "300",
        "limit": "60",
        "name": "tok-1",
        "raw": "17",
    }
    return SEP.join((row | fields).values()) + "\n"


@pytest.mark.edge_case(2)
@pytest.mark.parametrize(
    ("uid", "by", "canceller"),
    [
        ("7701", "7701", "alice"),
        ("7701", "0", "0"),
        ("7701", "64030", "64030"),
        # What slurmdbd says of a job whose end it has heard of before all of its start.
        ("0", "7701", None),
        ("0", "64030", None),
        ("0", "0", "0"),
    ],
)
def test_who_cancelled_it(uid: str, by: str, canceller: str | None) -> None:
    (seen,) = parse_history(history_row(state=f"CANCELLED by {by}", uid=uid).encode(), MARK)
    assert (seen.state, seen.cancelled_by) == ("CANCELLED", canceller)


@pytest.mark.edge_case(15)
@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("17", None),
        ("17_3", "3"),
        ("17_[4-9]", "4-9"),
        ("17_[1-1000:7%5]", "1-1000:7"),
        ("17_[3-20%2]", "3-20"),
        ("17_[1%1]", "1"),
        ("17_[0,4,8,", "0,4,8,"),
        ("17_[0,4,8,...,4", "0,4,8,...,4"),
        ("17_[0-9,1", "0-9,1"),
        ("17+0", "+0"),
        ("17+1", "+1"),
    ],
)
def test_ids(text: str, task: str | None) -> None:
    assert (read_one(id=text).slurm_id, read_one(id=text).task) == (17, task)
    (told,) = parse_history(history_row(id=text).encode(), MARK)
    assert (told.slurm_id, told.task) == (17, task)


@pytest.mark.edge_case(15)
@pytest.mark.parametrize("text", ["17_4.batch", "17.extern", "17.0", "17.0+", "17.batch", "17_", "_4", "17+", "17_x"])
def test_a_step_is_no_job_and_is_never_dropped(text: str) -> None:
    assert "-X" in sacct_argv([17], MARK)  # steps are not asked for
    for parse, row in ((parse_queue, squeue_row), (parse_history, history_row)):
        with pytest.raises(Unknown, match="is no id of a job"):
            parse((row() + row(id=text)).encode(), MARK)


@pytest.mark.edge_case(16)
def test_both_components_of_a_heterogeneous_job() -> None:
    rows = squeue_row(id="19+0", nodes="node001") + squeue_row(id="19+1", nodes="node[002-003]")
    found = parse_queue(rows.encode(), MARK)
    assert [(seen.slurm_id, seen.task, seen.nodes) for seen in found] == [
        (19, "+0", ("node001",)), (19, "+1", ("node002", "node003"))
    ]  # fmt: skip
    rows = history_row(id="19+0") + history_row(id="19+1", raw="20")
    assert [(seen.slurm_id, seen.task) for seen in parse_history(rows.encode(), MARK)] == [(19, "+0"), (19, "+1")]


@pytest.mark.edge_case(3)
@pytest.mark.parametrize(
    "name",
    ["a|b", "a b", "a'b\"c$(id)", "æøå 日本", "x=y", "a\nb", "\n", "18\x1fRUNNING", "JobState=RUNNING", "\udcff"],
)
def test_a_hostile_name_between_two_others(name: str) -> None:
    for parse, row in ((parse_queue, squeue_row), (parse_history, history_row)):
        middle = row(id="18", state="FAILED", name=name)
        raw = "".join((row(), middle, row(id="19", state="PENDING"))).encode(errors="surrogateescape")
        found = [(seen.slurm_id, seen.state, seen.name) for seen in parse(raw, MARK)]
        shown = name.replace("\udcff", "\N{REPLACEMENT CHARACTER}")
        assert found == [(17, found[0][1], "tok-1"), (18, "FAILED", shown), (19, "PENDING", "tok-1")]


@pytest.mark.edge_case(4)
def test_a_header_of_a_cluster_before_the_rows_is_a_banner_and_alone_it_is_no_answer() -> None:
    assert [seen.slurm_id for seen in parse_history(f"CLUSTER: A\n{history_row()}".encode(), MARK)] == [17]
    assert [seen.slurm_id for seen in parse_queue(squeue_row().encode(), MARK, before="CLUSTER: A\n")] == [17]
    for parse, row in ((parse_queue, squeue_row), (parse_history, history_row)):
        for text in ("CLUSTER: A", f"{row()}CLUSTER: B\n", f"{row()}CLUSTER: B\n{row(id='18')}"):
            with pytest.raises(Unknown):
                parse(text.encode(), MARK)
    # Other clusters are never asked, whatever the site's defaults.
    assert "--local" in squeue_argv(["alice"], MARK)
    assert "--local" in sacct_argv([1], MARK)


@pytest.mark.edge_case(2)
@pytest.mark.scenario(56)
@pytest.mark.parametrize(
    ("text", "state", "by"),
    [
        ("CANCELLED by 7701", "CANCELLED", "alice"),
        ("CANCELLED by 1001", "CANCELLED", "1001"),
        ("CANCELLED", "CANCELLED", None),
        ("COMPLETING by 1001", "COMPLETING", "1001"),
        ("COMPLETED", "COMPLETED", None),
    ],
)
def test_who_cancelled_according_to_accounting(text: str, state: str, by: str | None) -> None:
    (seen,) = parse_history(history_row(state=text).encode(), MARK)
    assert (seen.state, seen.cancelled_by) == (state, by)


@pytest.mark.edge_case(9)
@pytest.mark.parametrize(
    ("submitted", "started", "ended"),
    [
        ("2026-11-23T23:59:00", "2026-11-23T23:59:00", "2026-11-24T00:01:00"),
        ("2026-03-29T00:59:30", "2026-03-29T00:59:30", "2026-03-29T01:01:30"),  # summer time begins in Europe
        ("2026-10-25T00:59:30", "2026-10-25T00:59:30", "2026-10-25T01:01:30"),  # and ends
    ],
)
def test_a_time_is_the_same_second_in_every_zone(submitted: str, started: str, ended: str) -> None:
    times = {
        name: str(int(datetime.fromisoformat(f"{text}+00:00").timestamp()))
        for name, text in (("submitted", submitted), ("started", started), ("ended", ended))
    }
    for parse, row in ((parse_queue, squeue_row), (parse_history, history_row)):
        (seen,) = parse(row(state="COMPLETED", **times).encode(), MARK)
        assert seen.started is not None
        assert seen.ended is not None
        assert seen.ended - seen.started == 120


@pytest.mark.edge_case(20)
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("90:00", 5400),
        ("1:30:00", 5400),
        ("1-3", 97200),
        ("1-3:5", 97500),
        ("1-03:05:06", 97506),
        ("0", None),
        ("-1", None),
        ("20:00", 1200),
        ("1:00", 60),
        ("1:00:00", 3600),
        ("100:00:00", 360000),
        ("2-03:05:00", 183900),
        ("UNLIMITED", None),
        ("Partition_Limit", None),
        ("NOT_SET", None),
        ("INVALID", None),
    ],
)
def test_time_limits(text: str, seconds: int | None) -> None:
    assert read_one(limit=text).time_limit == seconds


@pytest.mark.parametrize("text", [":", "1:2:3:4", "1-", "-2", "1--2", "1-2-3", "1:", "x", "\u0661:00", "1.5"])
def test_what_is_no_time_limit(text: str) -> None:
    with pytest.raises(Unknown, match="is no time limit"):
        read_one(limit=text)


@pytest.mark.edge_case(14)
@pytest.mark.parametrize(
    ("state", "status", "exit_code", "signal"),
    [
        ("COMPLETED", "0", 0, None),
        ("FAILED", "1792", 7, None),
        ("FAILED", "35072", 137, None),
        ("FAILED", "65280", 255, None),
        ("FAILED", "11", None, 11),
        ("FAILED", "139", None, 11),  # with a core
        ("OUT_OF_MEMORY", "253", None, 125),
        ("CANCELLED", "15", None, 15),
        ("CANCELLED", "4294967294", None, None),
        ("RUNNING", "0", None, None),
        ("PENDING", "1792", None, None),
        ("COMPLETING", "35840", None, None),
        # From 23.02 on.
        ("COMPLETED", "0:0", 0, None),
        ("FAILED", "7:0", 7, None),
        ("FAILED", "137:0", 137, None),
        ("FAILED", "255:0", 255, None),
        ("FAILED", "0:11", None, 11),
        ("OUT_OF_MEMORY", "0:125", None, 125),
        ("CANCELLED", "0:15", None, 15),
        ("CANCELLED", "", None, None),
        ("RUNNING", "0:0", None, None),
        ("PENDING", "7:0", None, None),
        ("COMPLETING", "140:0", None, None),
    ],
)
def test_exit_codes_of_the_queue(state: str, status: str, exit_code: int | None, signal: int | None) -> None:
    seen = read_one(state=state, status=status)
    assert (seen.exit_code, seen.signal) == (exit_code, signal)


def test_a_requeued_job_has_no_nodes_and_no_start_though_squeue_shows_the_former_ones() -> None:
    seen = read_one(state="REQUEUED", restarts="1")
    assert (seen.nodes, seen.started, seen.restarts) == ((), None, 1)


def test_a_job_that_is_about_to_end_shows_no_ranks() -> None:
    assert read_one(state="COMPLETING", nodes="node002").nodes == ()


def test_reasons() -> None:
    assert read_one(reason="None").reason == ""
    assert read_one(reason="(null)").reason == ""
    assert read_one(reason="ReqNodeNotAvail, UnavailableNodes:node[001-002]\n").reason.endswith("[001-002]")


def test_times_that_are_not_there() -> None:
    seen = read_one(started="N/A", ended="Unknown")
    assert (seen.started, seen.ended) == (None, None)


def test_an_unknown_state_is_kept_as_it_is() -> None:
    assert read_one(state="NEW_STATE").state == "NEW_STATE"


def test_two_rows_about_one_job() -> None:
    with pytest.raises(Unknown, match="job 17 twice"):
        parse_queue((squeue_row() + squeue_row(state="COMPLETED")).encode(), MARK)


def test_no_jobs() -> None:
    assert parse_queue(b"", MARK) == ()
    assert parse_queue(b"\n", MARK) == ()
    assert parse_history(b"", MARK) == ()


def test_a_banner_before_the_rows_is_skipped() -> None:
    assert parse_queue(squeue_row().encode(), MARK, before="Welcome!\n\n")[0].slurm_id == 17


@pytest.mark.parametrize("text", ["", "\n", squeue_row(), "CLUSTER: x"])
def test_without_its_header_squeue_has_not_answered(text: str) -> None:
    with pytest.raises(Unknown):
        listings.parse_queue(text.encode(), MARK, NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "CLUSTER: x",
        squeue_row()[:-30],
        squeue_row() + "banner",
        squeue_row() + "banner\n" + squeue_row(id="18"),
        squeue_row().replace(SEP, "\x1f"),
        squeue_row(name=f"a{SEP}b"),
        squeue_row(id=""),
        squeue_row(id="x"),
        squeue_row(id="17.batch"),
        squeue_row(state="FAILED", status="?"),
        squeue_row(restarts=""),
        squeue_row(submitted="2026-01-01T00:00:00"),
        squeue_row(limit="later"),
        squeue_row(nodes="node[1"),
    ],
)
def test_a_row_that_cannot_be_read_is_never_dropped(text: str) -> None:
    with pytest.raises(Unknown):
        parse_queue(text.encode(), MARK)


def test_the_message_shows_the_row() -> None:
    with pytest.raises(Unknown, match=r"tok-1.*later.*is no time limit"):
        parse_queue(squeue_row(limit="later").encode(), MARK)


# Whoever names a job does not know the mark; without it, whatever the name says stays a name.
names = st.text(max_size=80) | st.text("\x1e\x1f\n0badcfe17 RUNIG,", max_size=120)


@given(st.lists(names.filter(lambda name: SEP not in name), min_size=1, max_size=5))
def test_no_name_changes_another_row(names: list[str]) -> None:
    rows = [squeue_row(id=str(number), name=name) for number, name in enumerate(names, start=1)]
    found = parse_queue("".join(rows).encode(errors="replace"), MARK)
    expected = [(number, name.encode(errors="replace").decode()) for number, name in enumerate(names, start=1)]
    assert [(seen.slurm_id, seen.name) for seen in found] == expected
    rows = [history_row(id=str(number), name=name) for number, name in enumerate(names, start=1)]
    told = parse_history("".join(rows).encode(errors="replace"), MARK)
    assert [(seen.slurm_id, seen.name) for seen in told] == expected


@given(st.binary(max_size=200) | st.lists(st.sampled_from([SEP, "\n", "1", "RUNNING", "x", squeue_row()])).map("".join))
def test_nothing_but_unknown_is_ever_raised(data: bytes | str) -> None:
    raw = data if isinstance(data, bytes) else data.encode()
    for parse in (parse_queue, parse_history):
        try:
            parse(raw, MARK)
        except Unknown:
            continue


@given(st.data())
def test_damaged_recordings_raise_nothing_but_unknown(data: st.DataObject) -> None:
    name, parse = data.draw(st.sampled_from([("squeue", parse_queue), ("sacct", parse_history)]))
    raw = bytearray(recorded(name))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(raw)))
        raw[start : start + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=5))
    try:
        found = parse(bytes(raw), MARK)
    except Unknown:
        return
    # A row that is still whole has not been dropped: as many as there are separators for.
    separators = bytes(raw).count(SEP.encode())
    assert separators % 11 == 0
    assert len(found) + sum(seen.restarts for seen in found if parse is parse_history) <= separators // 11
    assert parse is parse_history or len(found) == separators // 11


@pytest.mark.edge_case(14)
@pytest.mark.parametrize(
    ("text", "exit_code", "signal"),
    [
        ("7:0", 7, None), ("0:11", None, 11), ("0:0", 0, None), ("1:0", 1, None), ("0:125", None, 125),
        ("0:15", None, 15), ("0:9", None, 9), ("0:53", None, 53), ("", None, None),
    ],
)  # fmt: skip
def test_exit_codes_of_accounting(text: str, exit_code: int | None, signal: int | None) -> None:
    for state in ("FAILED", "OUT_OF_MEMORY"):
        (seen,) = parse_history(history_row(state=state, exit=text).encode(), MARK)
        assert (seen.exit_code, seen.signal) == (exit_code, signal)
        assert translate(seen).state is JobState.FAILURE


def test_the_last_run_counts_and_the_earlier_ones_are_restarts() -> None:
    rows = [
        history_row(state="NODE_FAIL", submitted="100"),
        history_row(state="PREEMPTED", submitted="200"),
        history_row(state="COMPLETED", submitted="300"),
    ]
    for order in (rows, rows[::-1]):
        (seen,) = parse_history("".join(order).encode(), MARK)
        assert (seen.state, seen.restarts, seen.submitted) == ("COMPLETED", 2, 300)


@pytest.mark.edge_case(10)
@pytest.mark.scenario(63)
def test_an_id_that_was_used_before_is_no_restart() -> None:
    rows = history_row() + history_row(name="other", submitted="50") + history_row(uid="7702", submitted="60")
    jobs = [(seen.name, seen.user, seen.restarts) for seen in parse_history(rows.encode(), MARK)]
    assert jobs == [("other", "alice", 0), ("tok-1", "bob", 0), ("tok-1", "alice", 0)]


def test_a_job_that_had_the_id_before_keeps_its_runs() -> None:
    """Another job that got the id later hides nothing of the job that had it first."""
    rows = history_row(state="NODE_FAIL", submitted="50") + history_row() + history_row(name="other", submitted="200")
    jobs = [(seen.name, seen.state, seen.restarts) for seen in parse_history(rows.encode(), MARK)]
    assert jobs == [("tok-1", "COMPLETED", 1), ("other", "COMPLETED", 0)]


def sluid_row(sluid: str, restarts: int, **fields: str) -> str:
    """A row of sacct since 25.11."""
    row = history_row(**fields).split(SEP)
    return SEP.join([*row[:-1], sluid, str(restarts), row[-1]])


def test_runs_have_sluids_and_numbers() -> None:
    """Its next run belongs to a job though it was renamed; a first run is another job, whatever its name."""
    rows = [
        sluid_row("sA", 0, state="REQUEUED"),
        sluid_row("sB", 1, name="renamed", submitted="200"),
        sluid_row("sC", 0, state="FAILED", submitted="300"),
        sluid_row("sD", 1, state="NODE_FAIL", uid="7702", user="bob", submitted="400"),
        sluid_row("s00000000000000", 0, submitted="50"),
    ]
    for order in (rows, rows[::-1]):
        told = listings.parse_history("".join(order).encode(), MARK, NAMES, sluids=True)
        assert [(seen.name, seen.state, seen.user, seen.restarts, seen.sluids) for seen in told] == [
            ("tok-1", "COMPLETED", "alice", 0, ()),
            ("renamed", "COMPLETED", "alice", 1, ("sA", "sB")),
            ("tok-1", "FAILED", "alice", 0, ("sC",)),
            ("tok-1", "NODE_FAIL", "bob", 1, ("sD",)),
        ]


def test_a_job_that_was_resized_is_one_job() -> None:
    """Slurm makes a new row of it, with the same submit time and number."""
    rows = sluid_row("sA", 0, state="RESIZING") + sluid_row("sB", 0, started="250")
    (seen,) = listings.parse_history(rows.encode(), MARK, NAMES, sluids=True)
    assert (seen.state, seen.restarts, seen.sluids) == ("COMPLETED", 0, ("sA", "sB"))


@pytest.mark.edge_case(6, 9)
def test_the_commands() -> None:
    squeue = squeue_argv(["alice", "bob"], "ab")
    assert squeue[squeue.index("-u") + 1] == "alice,bob"
    assert "--all" in squeue
    assert "--noheader" not in squeue  # the header proves that there was an answer
    assert squeue[-1].startswith("JobArrayID:0\x1fab,State:0\x1fab,")
    assert "-j" not in squeue  # one unknown id would be an error, and two would be silence
    sacct = sacct_argv([1, 2], "ab")
    assert sacct[-2:] == ("-j", "1,2")
    assert sacct[sacct.index("-S") + 1] == "1970-01-01"
    assert "SLUID" not in sacct[sacct.index("-o") + 1]
    new = sacct_argv([1, 2], "ab", sluids=True)
    assert new[new.index("-o") + 1].endswith(",SLUID,Restarts,JobIDRaw")

"""Answers of squeue and sacct of a real cluster, with hostile names, and other possible answers."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.cluster.schedulers import listings
from slurm_adapter.cluster.schedulers.listings import NAME_BYTES, sacct_argv, sacct_names_argv, squeue_argv
from slurm_adapter.core.errors import Unknown
from slurm_adapter.core.states import JobState, interpret
from slurm_adapter.state.unique_names import unique_part

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slurm_adapter.core.observation import Observation

NAMES = {"7701": "alice", "7702": "bob"}

HEADER = f"{'NAME':>{NAME_BYTES}}|{'REASON':>96}|JOBID|STATE|NODELIST|UID|...\n".encode()
NAMES_HEADER = (
    b"JobName".ljust(NAME_BYTES) + b" DBIndex".ljust(22) + b"\n" + b"-" * NAME_BYTES + b" " + b"-" * 20 + b" \n"
)


def raw(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def parse_queue(data: bytes, before: str = "") -> tuple[Observation, ...]:
    """Read rows of squeue without the header."""
    return listings.parse_queue(before.encode() + HEADER + data, NAMES)


class Run(NamedTuple):
    """A row of sacct, and its row in the list of names."""

    row: bytes
    name: bytes


def parse_history(runs: Iterable[Run], *, sluids: bool = False, before: str = "") -> tuple[Observation, ...]:
    """Read rows of sacct."""
    rows = list(runs)
    indices = [b"%d" % (number + 1) for number in range(len(rows))]
    data = b"".join(run.row.replace(b"INDEX", index) for run, index in zip(rows, indices, strict=True))
    told = NAMES_HEADER + b"".join(b"%b %-20b \n" % (run.name, n) for run, n in zip(rows, indices, strict=True))
    return listings.parse_history(before.encode() + data, before.encode() + told, NAMES, sluids=sluids)


def squeue_row(**fields: str) -> bytes:
    """Return a row as squeue writes it: `%160s|%96s|`, and fields with separators."""
    row = {
        "id": "17",
        "state": "RUNNING",
        "nodes": "node[001-002]",
        "uid": "7701",
        "submitted": "100",
        "started": "200",
        "ended": "300",
        "limit": "1:00:00",
        "status": "0",
        "restarts": "0",
    }
    texts = {"name": "tok-1", "reason": "None"}
    texts |= {key: fields.pop(key) for key in texts if key in fields}
    fixed = raw(texts["name"])[:NAME_BYTES].rjust(NAME_BYTES) + b"|" + raw(texts["reason"])[:96].rjust(96)
    return fixed + b"|" + raw("|".join((row | fields).values())) + b"\n"


def read_one(**fields: str) -> Observation:
    (found,) = parse_queue(squeue_row(**fields))
    return found


def history_row(**fields: str) -> Run:
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
        "index": "INDEX",
    }
    name = raw(fields.pop("name", "tok-1"))
    shown = name if len(name) <= NAME_BYTES else name[: NAME_BYTES - 1] + b"+"
    return Run(raw("|".join((row | fields).values())) + b"\n", shown.ljust(NAME_BYTES))


@pytest.mark.edge_case(2)
@pytest.mark.parametrize(
    ("uid", "by", "canceller"),
    [
        ("7701", "7701", "alice"),
        ("7701", "0", "0"),
        ("7701", "64030", "64030"),
        # The answer of slurmdbd if it has received a job's end before all of its start.
        ("0", "7701", None),
        ("0", "64030", None),
        ("0", "0", "0"),
    ],
)
def test_who_cancelled_it(uid: str, by: str, canceller: str | None) -> None:
    (seen,) = parse_history([history_row(state=f"CANCELLED by {by}", uid=uid)])
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
    (told,) = parse_history([history_row(id=text)])
    assert (told.slurm_id, told.task) == (17, task)


@pytest.mark.edge_case(15)
@pytest.mark.parametrize("text", ["17_4.batch", "17.extern", "17.0", "17.0+", "17.batch", "17_", "_4", "17+", "17_x"])
def test_a_step_raises_unknown_and_is_not_dropped(text: str) -> None:
    assert "-X" in sacct_argv([17])  # steps are not asked for
    with pytest.raises(Unknown, match="is not a job's id"):
        parse_queue(squeue_row() + squeue_row(id=text))
    with pytest.raises(Unknown, match="is not a job's id"):
        parse_history([history_row(), history_row(id=text)])


@pytest.mark.edge_case(16)
def test_both_components_of_a_heterogeneous_job() -> None:
    rows = squeue_row(id="19+0", nodes="node001") + squeue_row(id="19+1", nodes="node[002-003]")
    found = parse_queue(rows)
    assert [(seen.slurm_id, seen.task, seen.nodes) for seen in found] == [
        (19, "+0", ("node001",)), (19, "+1", ("node002", "node003"))
    ]  # fmt: skip
    runs = [history_row(id="19+0"), history_row(id="19+1")]
    assert [(seen.slurm_id, seen.task) for seen in parse_history(runs)] == [(19, "+0"), (19, "+1")]


A_ROW = squeue_row(id="77", uid="7702", name="tok-2").decode()
HOSTILE = [
    *("a|b", "a b", "a'b\"c$(id)", "æøå 日本", "x=y", "a\nb", "\n", "18\x1fRUNNING", "JobState=RUNNING", "\udcff"),
    *(f"\n{A_ROW}", A_ROW, f"{'x' * 150}\n{A_ROW}", f"{HEADER.decode()}{A_ROW}", "\n" * 300, "é" * 200, "|" * 12),
    *(
        "77|RUNNING|node001|7702|1|1|1|1:00|0|0\n",
        f"{'y':159}\n",
        NAMES_HEADER.decode(),
        "tok-2 99                   \n",
    ),
]


@pytest.mark.edge_case(3)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_or_reason_between_two_others(name: str) -> None:
    """Everything is known to a user who chooses a name: the format, other jobs' names, and what is around them."""
    expected = [(17, "RUNNING", "alice"), (18, "FAILED", "alice"), (19, "PENDING", "alice")]
    rows = (
        squeue_row()
        + squeue_row(id="18", state="FAILED", name=name, reason=name)
        + squeue_row(id="19", state="PENDING")
    )
    found = parse_queue(rows)
    assert [(seen.slurm_id, seen.state, seen.user) for seen in found] == expected
    cut = raw(name)[:NAME_BYTES].decode(errors="replace").strip(" ")
    assert [seen.name for seen in found] == ["tok-1", cut, "tok-1"]
    told = parse_history(
        [
            history_row(state="RUNNING"),
            history_row(id="18", state="FAILED", name=name),
            history_row(id="19", state="PENDING"),
        ]
    )
    assert [(seen.slurm_id, seen.state, seen.user) for seen in told] == expected
    assert (told[1].name == cut) == (len(raw(name)) <= NAME_BYTES)


@pytest.mark.edge_case(4)
def test_a_cluster_header_is_skipped_before_rows_and_is_not_an_answer_alone() -> None:
    assert [seen.slurm_id for seen in parse_history([history_row()], before="CLUSTER: A\n")] == [17]
    assert [seen.slurm_id for seen in parse_queue(squeue_row(), before="CLUSTER: A\n")] == [17]
    for text in (b"CLUSTER: B\n", b"CLUSTER: B\n" + squeue_row(id="18"), b"CLUSTER: A"):
        with pytest.raises(Unknown):
            parse_queue(squeue_row() + text)
    foreign = Run(b"CLUSTER: B\n", b"")
    for runs in ([history_row(), foreign], [history_row(), foreign, history_row(id="18")], [foreign]):
        with pytest.raises(Unknown):
            parse_history(runs)
    # Other clusters are never asked, whatever the site's defaults.
    assert "--local" in squeue_argv(["alice"])
    assert "--local" in sacct_argv([1])


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
    (seen,) = parse_history([history_row(state=text)])
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
    queue = parse_queue(squeue_row(state="COMPLETED", **times))
    for (seen,) in (queue, parse_history([history_row(state="COMPLETED", **times)])):
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
def test_texts_that_are_not_time_limits(text: str) -> None:
    with pytest.raises(Unknown, match="is not a time limit"):
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
        parse_queue(squeue_row() + squeue_row(state="COMPLETED"))


def test_no_jobs() -> None:
    assert parse_queue(b"") == ()
    assert parse_history([]) == ()


def test_a_banner_before_the_rows_is_skipped() -> None:
    assert parse_queue(squeue_row(), before="Welcome!\n\n")[0].slurm_id == 17


@pytest.mark.parametrize("data", [b"", b"\n", squeue_row(), b"CLUSTER: x", b"x" + HEADER])
def test_without_its_header_squeue_has_not_answered(data: bytes) -> None:
    with pytest.raises(Unknown):
        listings.parse_queue(data, NAMES)


@pytest.mark.parametrize(
    "data",
    [
        b"CLUSTER: x",
        b"\n",
        squeue_row()[:-30],
        squeue_row()[:-1],
        squeue_row()[1:],
        squeue_row() + b"banner",
        squeue_row() + b"banner\n" + squeue_row(id="18"),
        squeue_row().replace(b"|", b"\x1f"),
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
def test_a_row_that_cannot_be_read_is_never_dropped(data: bytes) -> None:
    with pytest.raises(Unknown):
        parse_queue(data)


def test_a_run_without_a_name_raises_unknown() -> None:
    row = history_row().row.replace(b"INDEX", b"1")
    for told in (b"", NAMES_HEADER, NAMES_HEADER + b"%-160b %-20b \n" % (b"tok-1", b"2"), NAMES_HEADER + b"tok-1"):
        with pytest.raises(Unknown):
            listings.parse_history(row, told, NAMES)


def test_the_message_shows_the_row() -> None:
    with pytest.raises(Unknown, match=r"tok-1.*later.*is not a time limit"):
        parse_queue(squeue_row(limit="later"))


_pieces = st.sampled_from(
    [A_ROW, HEADER.decode(), "|", "\n", "tok-1", "17", "x" * NAME_BYTES, " " * 96, NAMES_HEADER.decode()]
)
names = st.text(max_size=80) | st.lists(_pieces | st.text(max_size=5), max_size=8).map("".join)


@given(st.lists(st.tuples(names, names), min_size=1, max_size=5))
def test_no_name_and_no_reason_changes_another_row(texts: list[tuple[str, str]]) -> None:
    texts = [(name.replace("\0", ""), reason.replace("\0", "")) for name, reason in texts]  # strings of C
    safe = [(name.encode(errors="replace").decode(), why.encode(errors="replace").decode()) for name, why in texts]
    rows = [squeue_row(id=str(number), name=name, reason=why) for number, (name, why) in enumerate(safe, start=1)]
    found = parse_queue(b"".join(rows))
    assert [seen.slurm_id for seen in found] == list(range(1, len(texts) + 1))
    assert [seen.name for seen in found] == [
        raw(name)[:NAME_BYTES].decode(errors="replace").strip(" ") for name, _ in safe
    ]
    assert {(seen.state, seen.user, seen.nodes) for seen in found} == {("RUNNING", "alice", ("node001", "node002"))}
    told = parse_history([history_row(id=str(number), name=name) for number, (name, _) in enumerate(safe, start=1)])
    assert [seen.slurm_id for seen in told] == list(range(1, len(texts) + 1))
    assert {(seen.state, seen.user, seen.nodes) for seen in told} == {("COMPLETED", "alice", ("node001",))}


@given(
    st.binary(max_size=200) | st.lists(st.sampled_from([HEADER, b"|", b"\n", b"1", b"x", squeue_row()])).map(b"".join)
)
def test_nothing_but_unknown_is_ever_raised(data: bytes) -> None:
    for parse in (parse_queue, partial(listings.parse_history, name_list=data, names=NAMES)):
        with suppress(Unknown):
            parse(data)


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
        (seen,) = parse_history([history_row(state=state, exit=text)])
        assert (seen.exit_code, seen.signal) == (exit_code, signal)
        assert interpret(seen).state is JobState.FAILURE


def test_the_last_run_counts_and_the_earlier_ones_are_restarts() -> None:
    rows = [
        history_row(state="NODE_FAIL", submitted="100"),
        history_row(state="PREEMPTED", submitted="200"),
        history_row(state="COMPLETED", submitted="300"),
    ]
    for order in (rows, rows[::-1]):
        (seen,) = parse_history(order)
        assert (seen.state, seen.restarts, seen.submitted) == ("COMPLETED", 2, 300)


@pytest.mark.edge_case(10)
@pytest.mark.scenario(63)
def test_an_id_that_was_used_before_is_not_a_restart() -> None:
    rows = [history_row(), history_row(name="other", submitted="50"), history_row(uid="7702", submitted="60")]
    jobs = [(seen.name, seen.user, seen.restarts) for seen in parse_history(rows)]
    assert jobs == [("other", "alice", 0), ("tok-1", "bob", 0), ("tok-1", "alice", 0)]


def test_a_job_that_had_the_id_before_keeps_its_runs() -> None:
    """Another job that got the id later hides nothing of the job that had it first."""
    rows = [history_row(state="NODE_FAIL", submitted="50"), history_row(), history_row(name="other", submitted="200")]
    jobs = [(seen.name, seen.state, seen.restarts) for seen in parse_history(rows)]
    assert jobs == [("tok-1", "COMPLETED", 1), ("other", "COMPLETED", 0)]


def sluid_row(sluid: str, restarts: int, **fields: str) -> Run:
    """A row of sacct since 25.11."""
    row = history_row(**fields)
    return row._replace(row=b"%b|%b|%d\n" % (row.row[:-1], sluid.encode(), restarts))


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
        told = parse_history(order, sluids=True)
        assert [(seen.name, seen.state, seen.user, seen.restarts, seen.sluids) for seen in told] == [
            ("tok-1", "COMPLETED", "alice", 0, ()),
            ("renamed", "COMPLETED", "alice", 1, ("sA", "sB")),
            ("tok-1", "FAILED", "alice", 0, ("sC",)),
            ("tok-1", "NODE_FAIL", "bob", 1, ("sD",)),
        ]


def test_a_job_that_was_resized_is_one_job() -> None:
    """Slurm makes a new row of it, with the same submit time and number."""
    rows = [sluid_row("sA", 0, state="RESIZING"), sluid_row("sB", 0, started="250")]
    (seen,) = parse_history(rows, sluids=True)
    assert (seen.state, seen.restarts, seen.sluids) == ("COMPLETED", 0, ("sA", "sB"))


@pytest.mark.edge_case(6, 9)
def test_the_commands() -> None:
    squeue = squeue_argv(["alice", "bob"])
    assert squeue[squeue.index("-u") + 1] == "alice,bob"
    assert "--all" in squeue
    assert "--noheader" not in squeue  # the header proves that there was an answer
    assert squeue[-1].startswith("Name:.160|,Reason:.96|,JobArrayID:0|,State:0|,")
    assert "-j" not in squeue  # one unknown id would be an error, and two would be silence
    sacct = sacct_argv([1, 2])
    assert sacct[-2:] == ("-j", "1,2")
    assert sacct[sacct.index("-S") + 1] == "1970-01-01"
    assert "SLUID" not in sacct[sacct.index("-o") + 1]
    assert sacct_argv([1, 2], sluids=True)[sacct.index("-o") + 1].endswith(",SLUID,Restarts")
    assert "-P" not in sacct_names_argv([1, 2])


def test_no_name_of_ours_is_cut_off() -> None:
    """The longest id of a provider and of UCloud's jobs, between the parts of a Slurm name."""
    assert len(f"{'0' * 8}-{'p' * 64}-{'9' * 64}-{unique_part()}") < NAME_BYTES

"""Rules of a sync, one row each: records and evidence in, decisions out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.core.evidence import (
    Evidence,
    ExitRecord,
    FolderContents,
    is_as_remembered,
    lives_on,
    needs_history,
    needs_look,
)
from slurm_adapter.core.hosts_file import make_groups
from slurm_adapter.core.observation import DISPATCH_SECONDS, Observation
from slurm_adapter.core.plan import Plan, make_plan
from slurm_adapter.core.records import ActiveJob, Peer, Record, Stage
from slurm_adapter.core.states import FENCED, JobState

if TYPE_CHECKING:
    from slurm_adapter.core.hosts_file import Group

NOW = 10_000.0
TOKEN = "i-local-1"
ADDRESSES = {"n1": ("10.0.0.1",), "n2": ("10.0.0.2",), "n3": ()}


def job(id_: str = "1", **values: Any) -> Record:
    """Return a job with the Slurm id 17."""
    plain = Record(
        id=id_, origin="local", key=None, slurm_name=f"i-local-{id_}", owner="alice", project=None, account="alice",
        folder=f"/home/alice/{id_}", application="a 1", specification="{}", labels="{}", replicas=1, time_limit=600,
        array=False, created=1.0, stage=Stage.SUBMITTED, slurm_id=17, sbatch_started=9000.0,
    )  # fmt: skip
    return plain._replace(**values)


RUNNING: dict[str, Any] = {
    "state": JobState.RUNNING, "nodes": ("n1",), "addresses": (("10.0.0.1",),), "started": 9500.0
}  # fmt: skip
LOST_ANSWER: dict[str, Any] = {"stage": Stage.SUBMITTING, "slurm_id": None}
CLAIM: dict[str, Any] = {"stage": Stage.CLAIMED, "slurm_id": None, "sbatch_started": None}


def row(state: str, slurm_id: int = 17, **values: Any) -> Observation:
    """Return a row of Slurm."""
    plain = Observation(slurm_id=slurm_id, task=None, name=TOKEN, user="alice", state=state)
    return plain._replace(ended=9990 if state in ENDED else None, **values)


ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED")


def exited(code: int = 0, **values: Any) -> ExitRecord:
    """Return an exit record."""
    return replace(ExitRecord(slurm_id=17, restarts=0, task=None, exit_code=code, ended=9990.0, reason=None), **values)


def evidence(*records: Record, rows: tuple[Observation, ...] | None = (), **values: Any) -> Evidence:
    """Return evidence: a healthy controller, accounting that was not asked, folders that were read."""
    plain = Evidence(
        now=NOW,
        records=records,
        peers={},
        rows=None if rows is None else {TOKEN: rows},
        silence_counts=True,
        inside={"1": FolderContents(True, "17")},
        addresses=ADDRESSES,
        accounting=False,
    )
    return replace(plain, **values)


def decide(record: Record, rows: tuple[Observation, ...] | None = (), **values: Any) -> tuple[Record, Plan]:
    plan = make_plan(evidence(record, rows=rows, **values))
    new = record
    for old, changes in plan.changes:
        assert old is record
        new = record._replace(**changes)
    return new, plan


def groups_after(learned: Evidence, plan: Plan) -> tuple[Group, ...]:
    """Return the mappings of all live jobs after the plan's changes."""
    known = {**learned.peers, **{record.id: record for record in learned.records}}
    return make_groups(known | {job.id: known[job.id]._replace(**values) for job, values in plan.changes})


IN_QUEUE, RUNS, SUCCESS, FAILURE, EXPIRED = (
    JobState.IN_QUEUE, JobState.RUNNING, JobState.SUCCESS, JobState.FAILURE, JobState.EXPIRED
)  # fmt: skip

# Each row: what is known, what Slurm's queue says, other evidence, the state after it, words of the status.
BY_QUEUE = [
    (job(), (row("PENDING", reason="Priority"),), {}, IN_QUEUE, "waits in the queue: Priority"),
    (job(), (row("RUNNING", nodes=("n1",)),), {}, RUNS, "is running"),
    (job(**RUNNING), (row("SUSPENDED", nodes=("n1",)),), {}, JobState.SUSPENDED, "is suspended"),
    (job(**RUNNING), (row("COMPLETING", nodes=("n1",)),), {}, RUNS, ""),
    (job(**RUNNING), (row("COMPLETED", exit_code=0),), {}, SUCCESS, "exit code 0"),
    (job(**RUNNING), (row("FAILED", exit_code=3),), {}, FAILURE, "exit code 3"),
    (job(**RUNNING), (row("FAILED", signal=11),), {}, FAILURE, "signal 11"),
    (job(**RUNNING), (row("TIMEOUT", exit_code=0),), {}, EXPIRED, "time limit"),
    (job(**RUNNING), (row("OUT_OF_MEMORY"),), {}, FAILURE, "memory"),
    (job(**RUNNING), (row("NODE_FAIL"),), {}, FAILURE, "lost a node"),
    (job(**RUNNING), (row("PENDING", restarts=1),), {}, IN_QUEUE, "to run again"),
    # Slurm's own words beat the script's.
    (job(**RUNNING), (row("TIMEOUT"),), {"exits": (exited(143),)}, EXPIRED, "time limit"),
    (job(**RUNNING), (row("FAILED", exit_code=3),), {"exits": (exited(0),)}, FAILURE, "exit code 3"),
    (job(**RUNNING), (row("COMPLETED", exit_code=0),), {"exits": (exited(3),)}, SUCCESS, "exit code 0"),
    # sacct and pyslurm take 128 off a code beyond it; the script's record has it whole.
    (job(**RUNNING), (row("FAILED", exit_code=9),), {"exits": (exited(137),)}, FAILURE, "exit code 137, as"),
    (job(**RUNNING), (row("FAILED", exit_code=9),), {"exits": (exited(138),)}, FAILURE, "exit code 9"),
    (job(**RUNNING), (row("FAILED", exit_code=0),), {"exits": (exited(128),)}, FAILURE, "exit code 128"),
    (job(**RUNNING), (row("FAILED", exit_code=0),), {"exits": (exited(128, slurm_id=16),)}, FAILURE, "Your job failed"),
    (job(**RUNNING), (row("COMPLETED", exit_code=0),), {"exits": (exited(128),)}, SUCCESS, "exit code 0"),
    # But the script knows why it gave up, unless that was another run.
    (job(), (row("FAILED", exit_code=1),), {"exits": (exited(1, reason="peer 4 (db) never started"),)}, FAILURE,
     "could not start: peer 4 (db) never started"),
    (job(), (row("FAILED", exit_code=1, restarts=1),), {"exits": (exited(1, reason="peer 4"),)}, FAILURE,
     "failed with exit code 1"),
    (job(), (row("FAILED", exit_code=1),), {"exits": (exited(1, reason="peer 4", slurm_id=16),)}, FAILURE,
     "failed with exit code 1"),
    # The site's own table.
    (job(**RUNNING), (row("TIMEOUT"),), {"states": {"TIMEOUT": FAILURE}}, FAILURE, "time limit"),
    (job(**RUNNING), (row("PREEMPTED"),), {"states": {"PREEMPTED": IN_QUEUE}}, IN_QUEUE, "preempted"),
    (job(**RUNNING), (row("COMPLETING"),), {"states": {"COMPLETING": SUCCESS}}, RUNS, ""),
    # Accounting lags behind: no state goes backward.
    (job(**RUNNING), (row("COMPLETED", exit_code=0),), {"accounting": True, "history": {17: (row("RUNNING"),)}},
     SUCCESS, "exit code 0"),
    (job(**RUNNING), (row("RUNNING", nodes=("n1",)),), {"accounting": True, "history": {17: (row("PENDING"),)}},
     RUNS, ""),
    (job(**RUNNING), (row("RUNNING", nodes=("n1",)),), {"accounting": True, "history": {}}, RUNS, ""),
    (job(), (row("PENDING"),), {"accounting": True, "history": {}, "now": NOW + 60}, IN_QUEUE, "waits"),
    # A heterogeneous job is in the state of both components together.
    (job(), (row("RUNNING", task="+0", nodes=("n1",)), row("PENDING", task="+1")), {}, RUNS, "is running"),
    (job(**RUNNING), (row("COMPLETED", task="+0", exit_code=0), row("RUNNING", task="+1", nodes=("n2",))), {}, RUNS,
     ""),
    (job(**RUNNING), (row("COMPLETED", task="+0", exit_code=0), row("FAILED", task="+1", exit_code=4)), {}, FAILURE,
     "exit code 4"),
    # Unknown words, and words without a meaning.
    (job(**RUNNING), (row("BAKING"),), {}, RUNS, ""),
    (job(**RUNNING), (row("REVOKED"),), {}, RUNS, ""),
    (job(**RUNNING), (row("COMPLETED"),), {}, RUNS, ""),
]  # fmt: skip

# A cancel by the adapter, by the job's account, by the site; as accounting reports it.
CANCELLED = (row("CANCELLED"),)
BY_WHOM = [
    (job(cancel_sent=9980.0), CANCELLED, {}, SUCCESS, "was cancelled"),
    (job(), CANCELLED, {}, SUCCESS, "not known who did it"),
    (job(), CANCELLED, {"accounting": True, "history": {17: (row("CANCELLED", cancelled_by="alice"),)}}, SUCCESS,
     "was cancelled"),
    (job(), CANCELLED, {"accounting": True, "history": {17: (row("CANCELLED", cancelled_by="root"),)}}, FAILURE,
     "by the site"),
    (job(), CANCELLED, {"accounting": True, "history": {17: (row("CANCELLED", name="other", cancelled_by="root"),)},
     "now": NOW + 60}, SUCCESS, "not known who did it"),  # another's, who got the id again
    (job(), CANCELLED, {"accounting": True, "history": {}}, IN_QUEUE, ""),  # it lags behind, but will know soon
    (job(), CANCELLED, {"accounting": True, "history": {}, "now": NOW + 60}, SUCCESS, "not known who did it"),
    (job(), CANCELLED, {"accounting": True, "history": None, "now": NOW + 9999}, IN_QUEUE, ""),
]  # fmt: skip

# The queue has forgotten the job.
SILENT = [
    (job(**RUNNING), (), {"accounting": True, "history": {17: (row("COMPLETED", exit_code=0),)}}, SUCCESS, "code 0"),
    (job(**RUNNING), (), {"accounting": True, "history": {17: (row("FAILED", exit_code=9),)}, "exits": (exited(0),)},
     FAILURE, "exit code 9"),
    (job(**RUNNING), (), {"accounting": True, "history": {17: (row("COMPLETED", exit_code=0, name="other"),)}}, RUNS,
     ""),  # another's, who got the id again
    (job(**RUNNING), (), {"accounting": True, "history": {17: (row("COMPLETED", exit_code=0, user="bob"),)}}, RUNS, ""),
    # Accounting does not know it yet.
    (job(**RUNNING), (), {"accounting": True, "history": {}, "now": NOW + 60}, RUNS, ""),
    (job(), (), {"accounting": True, "history": {17: (row("PENDING"),)}, "now": NOW + 60}, IN_QUEUE, ""),
    (job(**RUNNING), (), {"accounting": True, "history": {17: (row("RUNNING"),)}}, RUNS, ""),
    (job(**RUNNING), (), {"accounting": True, "history": {17: (row("RUNNING"),)}, "exits": (exited(0),)}, SUCCESS, ""),
    (job(**RUNNING), (), {"accounting": True, "history": None, "exits": (exited(0),)}, RUNS, ""),
    (job(**RUNNING), (), {"exits": (exited(0),)}, SUCCESS, "exit code 0"),
    (job(**RUNNING), (), {"exits": (exited(3),)}, FAILURE, "exit code 3"),
    (job(**RUNNING), (), {"exits": (exited(1, reason="peer 4 never started"),)}, FAILURE, "peer 4 never started"),
    (job(cancel_sent=9980.0, **RUNNING), (), {"exits": (exited(143),)}, SUCCESS, "was cancelled"),
    (job(**RUNNING), (), {"exits": (exited(143, ended=10100.0),), "now": NOW + 200}, EXPIRED, "time limit"),
    (job(**RUNNING), (), {"exits": (exited(143, ended=10099.0),), "now": NOW + 200}, FAILURE, "exit code 143"),
    # A clock that goes wrong, or a user who writes there, moves no end into the future.
    (job(**RUNNING), (), {"exits": (exited(143, ended=99_999.0),)}, FAILURE, "exit code 143"),
    # It had failed before its end was asked for.
    (job(cancel_sent=9995.0, **RUNNING), (), {"exits": (exited(3),)}, FAILURE, "exit code 3"),
    # Records that say nothing: of an earlier run, of another Slurm job, of a task.
    (job(restarts=1, **RUNNING), (), {"exits": (exited(0),)}, RUNS, ""),
    (job(**RUNNING), (), {"exits": (exited(0, slurm_id=16),)}, RUNS, ""),
    (job(**RUNNING), (), {"exits": (exited(0, task="1"),)}, RUNS, ""),
    # A later one than was seen counts.
    (job(**RUNNING), (), {"exits": (exited(0), exited(4, restarts=1))}, FAILURE, "exit code 4"),
    # Nothing at all: only long and healthy silence makes it lost.
    (job(**RUNNING), (), {}, RUNS, ""),
    (job(missing_since=NOW - 3599, **RUNNING), (), {}, RUNS, ""),
    (job(missing_since=NOW - 3600, **RUNNING), (), {}, FAILURE, "was lost"),
    (job(missing_since=NOW - 3600, cancel_sent=1.0, **RUNNING), (), {}, SUCCESS, "was cancelled"),
    (job(missing_since=NOW - 3600, **RUNNING), (), {"silence_counts": False}, RUNS, ""),
    (job(missing_since=NOW - 3600, **RUNNING), (), {"accounting": True, "history": None}, RUNS, ""),
    (job(missing_since=NOW - 3600, **RUNNING), (), {"inside": {}}, RUNS, ""),
    (job(missing_since=NOW - 3600, **RUNNING), (), {"inside": {"1": FolderContents(False)}}, FAILURE, "was lost"),
    (job(missing_since=NOW - 9999, **RUNNING), None, {}, RUNS, ""),
    (job(missing_since=NOW - 9999, **RUNNING), (row("RUNNING", nodes=("n1",)),), {}, RUNS, ""),
]  # fmt: skip

# Several Slurm jobs for one of ours: `owner` decides.
DOUBLED = [
    # A run after the decided end: its exit code says nothing about the job.
    (job(), (row("FAILED", exit_code=FENCED),), {"owner": "cancelled"}, SUCCESS, "was cancelled"),
    (job(), (row("FAILED", exit_code=FENCED),), {"owner": "closed", "exits": (exited(0),)}, SUCCESS, "exit code 0"),
    (job(), (row("FAILED", exit_code=FENCED),), {"owner": "closed", "exits": (exited(3),)}, FAILURE, "exit code 3"),
    (job(), (row("FAILED", exit_code=FENCED),), {"owner": "closed"}, FAILURE, f"exit code {FENCED}"),
    (job(), (row("FAILED", exit_code=FENCED),), {"exits": (exited(FENCED),)}, FAILURE, f"exit code {FENCED}"),
    (job(**RUNNING), (row("COMPLETED", exit_code=0), row("RUNNING", 18, nodes=("n2",))), {"owner": "18"}, RUNS, ""),
    (job(**RUNNING), (row("RUNNING", nodes=("n1",)), row("COMPLETED", 18, exit_code=0)), {"owner": "17"}, RUNS, ""),
    (job(), (row("COMPLETED", exit_code=0), row("FAILED", 18, exit_code=4)), {"owner": "18"}, FAILURE, "exit code 4"),
    (job(), (row("COMPLETED", 18, exit_code=0),), {"owner": "17"}, IN_QUEUE, ""),
    (job(), (row("COMPLETED", 18, exit_code=0),), {"inside": {}}, IN_QUEUE, ""),
    (job(), (row("PENDING", 18),), {"owner": None}, IN_QUEUE, "waits in the queue"),
    (job(), (), {"owner": "18", "exits": (exited(0),)}, IN_QUEUE, ""),
    (job(), (), {"owner": "18", "exits": (exited(0, slurm_id=18),)}, SUCCESS, "exit code 0"),
]  # fmt: skip

ARRAY: dict[str, Any] = {"array": True, **RUNNING}
ARRAYS = [
    (job(**ARRAY), (row("COMPLETED", task="0", exit_code=0), row("RUNNING", task="1", nodes=("n1",))), {}, RUNS, ""),
    (job(**ARRAY), (row("COMPLETED", task="0", exit_code=0), row("PENDING", task="1-9")), {}, IN_QUEUE, "waits"),
    (job(**ARRAY), (row("COMPLETED", task="0", exit_code=0), row("FAILED", task="1", exit_code=2)), {}, FAILURE,
     "1 of 2 tasks: "),
    (job(**ARRAY), (row("TIMEOUT", task="0"), row("FAILED", task="1", exit_code=2)), {}, FAILURE, "2 of 2 tasks: "),
    (job(**ARRAY), (row("COMPLETED", task="0", exit_code=0), row("TIMEOUT", task="1")), {}, EXPIRED, "time limit"),
    (job(**ARRAY), (row("COMPLETED", task="0", exit_code=0), row("COMPLETED", task="1", exit_code=0)), {}, SUCCESS, ""),
    # Tasks that the queue has forgotten.
    (job(**ARRAY), (row("COMPLETED", task="0", exit_code=0),), {"exits": (exited(5, task="1"),)}, FAILURE, "a task"),
    (job(**ARRAY), (row("COMPLETED", task="0", exit_code=0),),
     {"accounting": True, "history": {17: (row("OUT_OF_MEMORY", task="1"), row("COMPLETED", task="0", exit_code=0))}},
     FAILURE, "1 of 2 tasks: "),
    (job(**ARRAY), (row("COMPLETED", task="0", exit_code=0),), {"accounting": True, "history": None}, RUNS, ""),
    (job(**ARRAY), (), {"exits": (exited(0, task="0"), exited(5, task="1"))}, FAILURE, "exit code 5"),
    (job(**ARRAY), (), {"exits": (exited(0, task="0"), exited(0, task="1"))}, SUCCESS, ""),
    (job(**ARRAY), (), {"exits": (exited(0),)}, RUNS, ""),
    (job(**ARRAY), (), {"accounting": True, "history": {17: (row("COMPLETED", task="0", exit_code=0),
     row("RUNNING", task="1"))}}, RUNS, ""),
]  # fmt: skip

# If the number of tasks is known, an array is final only with evidence of each task.
TEN: dict[str, Any] = {**ARRAY, "tasks": 10}
GOOD = row("COMPLETED", task="0-8", exit_code=0)
TASKS = [
    (job(**TEN), (GOOD, row("COMPLETED", task="9", exit_code=0)), {}, SUCCESS, "exit code 0"),
    (job(**TEN), (GOOD,), {}, RUNS, ""),  # task 9 was killed and forgotten, and left no record
    (job(**TEN), (GOOD,), {"exits": (exited(0, task="9"),)}, SUCCESS, ""),
    (job(**TEN), (GOOD,), {"exits": (exited(7, task="9"),)}, FAILURE, "a task of it"),
    (job(**TEN), (), {"exits": tuple(exited(0, task=str(n)) for n in range(10))}, SUCCESS, "exit code 0"),
    (job(**TEN), (), {"exits": tuple(exited(0, task=str(n)) for n in range(9))}, RUNS, ""),
    (job(**TEN), (), {"exits": (*(exited(0, task=str(n)) for n in range(9)), exited(0, task="x y"))}, RUNS, ""),
    (job(**TEN), (), {"accounting": True, "history": {17: (GOOD, row("NODE_FAIL", task="9"))}}, FAILURE, "lost a node"),
    (job(missing_since=NOW - 3599, **TEN), (GOOD,), {}, RUNS, ""),
    (job(missing_since=NOW - 3600, **TEN), (GOOD,), {}, FAILURE, "1 of its 10 tasks were lost"),
    (job(missing_since=NOW - 3600, **TEN), (GOOD,), {"silence_counts": False}, RUNS, ""),
    (job(missing_since=NOW - 3600, cancel_sent=1.0, **TEN), (GOOD,), {}, SUCCESS, "was cancelled"),
    (job(**TEN), (row("CANCELLED", task="0-9"),), {}, SUCCESS, "not known who did it"),
    # A task that was cancelled has left a record of it; that makes no failure of the cancel.
    (job(cancel_sent=9980.0, **TEN), (row("CANCELLED", task="0-9"),), {"exits": (exited(143, task="3"),)}, SUCCESS,
     "was cancelled"),
    (job(cancel_sent=9980.0, **TEN), (row("CANCELLED", task="0-8"),), {"exits": (exited(143, task="9"),)}, SUCCESS,
     "was cancelled"),
    (job(**TEN), (row("CANCELLED", task="0-9"),), {"exits": (exited(143, task="3"),)}, SUCCESS, "not known who did it"),
]  # fmt: skip


@pytest.mark.edge_case(8)
@pytest.mark.parametrize(
    ("record", "rows", "other", "state", "words"), [*BY_QUEUE, *BY_WHOM, *SILENT, *DOUBLED, *ARRAYS, *TASKS]
)
def test_jobs_that_slurm_has(
    record: Record, rows: tuple[Observation, ...] | None, other: dict[str, Any], state: JobState, words: str
) -> None:
    other = dict(other)
    inside = FolderContents(True, other.pop("owner", "17"), other.pop("exits", ()))
    new, _ = decide(record, rows, **({"inside": {"1": inside}} | other))
    assert (new.state, new.stage) == (state, Stage.ENDED if state.final else Stage.SUBMITTED)
    assert words in new.status
    assert (new.ended is not None) == state.final


# After a lost answer. Each row: what is known, what the queue says, other evidence, the stage after it, its Slurm id.
HANDED = NOW - DISPATCH_SECONDS
ANSWERS = [
    ({}, (row("PENDING"),), {"inside": {}}, Stage.SUBMITTED, 17),
    ({}, (row("PENDING"), row("PENDING", 18)), {"owner": None}, Stage.SUBMITTED, 17),
    ({}, (row("PENDING"), row("RUNNING", 18)), {"owner": "18"}, Stage.SUBMITTED, 18),
    ({}, (row("COMPLETED", exit_code=0),), {"owner": "17"}, Stage.ENDED, 17),
    ({}, (), {"owner": "17"}, Stage.SUBMITTED, 17),
    ({}, (), {"owner": "cancelled"}, Stage.ENDED, None),
    ({}, None, {}, Stage.SUBMITTING, None),
    ({}, (), {"owner": None}, Stage.SUBMITTING, None),
    ({"sbatch_started": HANDED + 1, "missing_since": 0.0}, (), {"owner": None}, Stage.SUBMITTING, None),
    ({"sbatch_started": HANDED, "missing_since": NOW - 139}, (), {"owner": None}, Stage.SUBMITTING, None),
    ({"sbatch_started": HANDED, "missing_since": NOW - 140}, (), {"owner": None}, Stage.CLAIMED, None),
    ({"sbatch_started": HANDED, "missing_since": NOW - 140, "cancel_requested": 9000.0}, (), {"owner": None},
     Stage.SUBMITTING, None),
    # A folder that cannot be looked into is not gone, however long Slurm has known nothing of the job.
    ({"sbatch_started": HANDED, "missing_since": 0.0}, (), {"inside": {"1": FolderContents(False, trouble="no route")}},
     Stage.SUBMITTING, None),
    ({"sbatch_started": HANDED, "missing_since": 0.0}, (), {"inside": {"1": FolderContents(False)}}, Stage.ENDED, None),
    ({"sbatch_started": HANDED, "missing_since": 0.0}, (), {"owner": None, "silence_counts": False},
     Stage.SUBMITTING, None),
    ({"sbatch_started": HANDED, "missing_since": 0.0}, (), {"inside": {}}, Stage.SUBMITTING, None),
    ({"sbatch_started": HANDED, "missing_since": 0.0}, None, {"owner": None}, Stage.SUBMITTING, None),
    ({"sbatch_started": HANDED, "missing_since": 0.0}, (), {"owner": None, "message_timeout": 11}, Stage.CLAIMED, None),
]  # fmt: skip


@pytest.mark.parametrize(("known", "rows", "other", "stage", "slurm_id"), ANSWERS)
def test_jobs_with_a_lost_answer(
    known: dict[str, Any],
    rows: tuple[Observation, ...] | None,
    other: dict[str, Any],
    stage: Stage,
    slurm_id: int | None,
) -> None:
    other = dict(other)
    inside = FolderContents(True, other.pop("owner", "17"))
    new, plan = decide(job(**LOST_ANSWER | known), rows, **({"inside": {"1": inside}} | other))
    assert (new.stage, new.slurm_id) == (stage, slurm_id)
    assert [each.id for each in plan.submit] == (["1"] if stage is Stage.CLAIMED else [])


@pytest.mark.parametrize("other", [{"rows": None}, {"silence_counts": False}, {"inside": {}}])
@pytest.mark.parametrize("known", [{}, LOST_ANSWER])
def test_silence_of_an_unhealthy_controller_does_not_count(other: dict[str, Any], known: dict[str, Any]) -> None:
    values = {"inside": {"1": FolderContents(True)}} | other
    new, _ = decide(job(missing_since=1.0, **known), values.pop("rows", ()), **values)
    assert new.missing_since is None


@pytest.mark.parametrize(
    ("rows", "tasks"), [((row("CANCELLED"),), 0), ((row("CANCELLED"),), 2), ((), 2), ((row("BAKING"),), 0)]
)
def test_a_row_of_slurm_and_missing_accounting_end_a_silence(rows: tuple[Observation, ...], tasks: int) -> None:
    known = job(missing_since=1.0, array=tasks > 0, tasks=tasks)
    new, _ = decide(known, rows, accounting=True, history=None, inside={"1": FolderContents(True)})
    assert new == known._replace(missing_since=None)


def test_silence_is_counted_from_the_first_sync_with_it() -> None:
    new, _ = decide(job(), inside={"1": FolderContents(True)})
    assert new.missing_since == NOW
    again, _ = decide(new, inside={"1": FolderContents(True)}, now=NOW + 50)
    assert again.missing_since == NOW


@pytest.mark.parametrize("state", ["BAKING", "REVOKED"])
def test_missing_evidence_is_a_problem_of_the_job(state: str) -> None:
    new, plan = decide(job(**RUNNING), (row(state),))
    assert new == job(**RUNNING)
    assert state in plan.job_problems["1"]
    assert plan.problems == ()


def test_a_deleted_account_delays_only_its_own_jobs() -> None:
    """Once, a deleted account left the jobs of all users in doubt."""
    hers, his = job(missing_since=0.0), job(missing_since=0.0)._replace(account="bob")
    new, plan = decide(hers, (), unnamed=frozenset({"bob"}))
    assert (new.state, plan.job_problems) == (JobState.FAILURE, {})
    new, plan = decide(his, (), unnamed=frozenset({"bob"}))
    assert (new.state, new.missing_since) == (his.state, None)
    assert "does not know its account bob" in plan.job_problems["1"]
    assert plan.problems == ()


def test_a_job_under_a_strange_name_is_not_lost() -> None:
    known = job(missing_since=0.0)
    assert decide(known, ())[0].state is JobState.FAILURE
    new, plan = decide(known, (), renamed=frozenset({"1"}), inside={"1": FolderContents(True, "17")})
    assert (new.state, new.stage, new.missing_since) == (known.state, known.stage, None)
    assert f"JobId=17 JobName={TOKEN}" in plan.job_problems["1"]


RENAMED: dict[str, Any] = {"renamed": frozenset({"1"}), "accounting": True}


def told(*rows: Observation, sluid: str = "sB", exits: tuple[ExitRecord, ...] = (), **values: Any) -> Record:
    """Judge a job that the queue has forgotten. Its script left a SLUID in its folder."""
    inside = {"1": FolderContents(True, "17", exits, sluid=sluid)}
    new, _ = decide(job(**RUNNING), (), inside=inside, history={17: rows}, **{"accounting": True} | values)
    return new


def test_a_job_that_was_renamed_is_known_by_its_sluid() -> None:
    ended = row("TIMEOUT", name="mine", sluids=("sA", "sB"), submitted=50)
    assert told(ended).state is EXPIRED
    assert told(ended, sluid="").state is RUNS, "nothing but the id speaks for it"
    assert told(ended._replace(user="bob")).state is RUNS
    assert told(ended, sluid="", exits=(exited(1, sluid="sB"),)).state is EXPIRED
    assert told(ended._replace(state="PENDING")).state is RUNS


def test_a_reused_slurm_id_is_not_taken_for_the_old_job() -> None:
    """Another job of the account has its Slurm id, and even its name."""
    other = row("FAILED", exit_code=1, sluids=("sC",), submitted=90)
    assert told(other).state is RUNS
    ended = row("COMPLETED", exit_code=0, sluids=("sB",), submitted=50)
    for rows in ((ended, other), (other._replace(submitted=10), ended)):
        assert told(*rows).state is SUCCESS
    assert told(other, exits=(exited(0, sluid="sB"),)).state is SUCCESS, "its own script decides"
    assert told(exits=(exited(0, sluid="sC"),)).state is RUNS, "a record of another run"


def test_a_job_that_is_listed_under_a_strange_name_has_ended_if_that_is_another_job() -> None:
    ended = row("NODE_FAIL", sluids=("sB",), submitted=50)
    other = row("RUNNING", name="other", sluids=("sC",), submitted=90)
    assert told(ended, other, **RENAMED).state is FAILURE
    assert told(ended, **RENAMED).state is RUNS, "it may have been renamed, and be requeued"
    assert told(other._replace(submitted=10), ended, **RENAMED).state is RUNS
    assert told(ended._replace(sluids=()), other._replace(sluids=()), **RENAMED).state is RUNS


def test_each_task_of_an_array_has_a_sluid_of_its_own() -> None:
    exits = tuple(exited(0, task=str(n), sluid=f"s{n}") for n in (1, 2))
    rows = (
        row("COMPLETED", task="1", exit_code=0, name="mine", sluids=("s1",)),
        row("COMPLETED", task="2", exit_code=0, sluids=("s2",)),
        row("FAILED", task="2", exit_code=1, sluids=("s3",)),
    )
    new, _ = decide(
        job(array=True, tasks=2, **RUNNING), (), inside={"1": FolderContents(True, "17", exits)}, history={17: rows},
        accounting=True,
    )  # fmt: skip
    assert new.state is SUCCESS


def test_claims_and_their_peers() -> None:
    peer, consumer = job("2", slurm_id=None), job(peers=(Peer("db", "2"),), **CLAIM)

    def judged(now: Record | None, **values: Any) -> tuple[Record, list[str]]:
        new, plan = decide(consumer, peers={"2": now} if now else {}, inside={}, **values)
        return new, [each.id for each in plan.submit]

    new, submit = judged(peer)
    assert (new.stage, submit) == (Stage.CLAIMED, [])
    assert new.status == "Your job waits until Slurm has its peer 2 (db)"
    assert judged(peer._replace(slurm_id=9))[1] == ["1"]
    assert judged(peer._replace(slurm_id=9), rows=None)[1] == []
    for gone in (None, peer._replace(slurm_id=9, stage=Stage.ENDED, state=SUCCESS)):
        new, submit = judged(gone)
        assert (new.state, new.stage, submit) == (FAILURE, Stage.ENDED, [])
        assert new.status == "peer 2 (db) ended before this job could start"


def test_a_claim_sees_what_becomes_of_its_peer_in_the_same_pass() -> None:
    peer = job("2", slurm_id=17)
    consumer, third = (job(id_, peers=(Peer("db", of),), **CLAIM) for id_, of in (("1", "2"), ("3", "1")))
    ended = Observation(17, None, "i-local-2", "alice", "FAILED", exit_code=1, ended=9990)
    whole = evidence(
        consumer,
        peer,
        third,
        peers={"2": peer, "1": consumer},
        rows=None,
    )
    plan = make_plan(replace(whole, rows={"i-local-2": (ended,)}, inside={"2": FolderContents(True, "17")}))
    after = {record.id: values.get("state") for record, values in plan.changes}
    assert after == {"1": FAILURE, "2": FAILURE, "3": FAILURE}
    assert plan.submit == ()


def test_a_claim_that_slurm_has_is_not_dispatched_again() -> None:
    back = job(**CLAIM | {"sbatch_started": 1.0})
    new, plan = decide(back, (row("PENDING"),), inside={})
    assert (new.stage, new.slurm_id, plan.submit) == (Stage.SUBMITTED, 17, ())


@pytest.mark.parametrize("state", ["PENDING", "REQUEUE_HOLD"])
@pytest.mark.parametrize("said", ["user env retrieval failed requeued held", "user_env_retrieval_failed_requeued_held"])
def test_a_job_that_slurm_holds_because_its_account_cannot_log_in_fails(state: str, said: str) -> None:
    """If the login environment fails, Slurm 25.11 and later hold the job for ever."""
    held = row(state, reason=said, restarts=1)
    new, plan = decide(job(**RUNNING), (held,))
    assert (new.stage, new.state) == (Stage.ENDED, JobState.FAILURE)
    assert "login environment" in new.status
    assert [slurm_id for _, slurm_id in plan.cancel_again] == [17]
    assert not as_remembered(job(**RUNNING), held)
    others, plan = decide(job(**RUNNING), (row(state, reason="launch failed requeued held", restarts=1),))
    assert (others.stage, plan.cancel_again) == (Stage.SUBMITTED, ())


@pytest.mark.parametrize(("since", "again"), [(119, ()), (120, (17,))])
def test_a_cancel_without_effect_is_repeated(since: int, again: tuple[int, ...]) -> None:
    record = job(cancel_sent=NOW - since, **RUNNING)
    _, plan = decide(record, (row("RUNNING", nodes=("n1",)),))
    assert tuple(slurm_id for _, slurm_id in plan.cancel_again) == again
    _, plan = decide(record, (row("CANCELLED"),))
    assert plan.cancel_again == ()
    _, plan = decide(job(**RUNNING), (row("RUNNING", nodes=("n1",)),))
    assert plan.cancel_again == ()


def test_surplus_slurm_jobs_are_cancelled_once_the_fence_names_the_kept_one() -> None:
    rows = (row("PENDING"), row("RUNNING", 18), row("COMPLETED", 19, exit_code=0))
    _, plan = decide(job(), rows, inside={"1": FolderContents(True, None)})
    assert (plan.fence, [slurm_id for _, slurm_id in plan.cancel]) == ({"1": 17}, [18])
    _, plan = decide(job(), rows, inside={"1": FolderContents(True, "18")})
    assert (plan.fence, [slurm_id for _, slurm_id in plan.cancel]) == ({"1": 18}, [17])
    _, plan = decide(job(), (row("PENDING"),))
    assert (plan.fence, plan.cancel) == ({}, ())


# Nodes and addresses. Each row: what is known, what the queue says, the nodes and addresses after it.
PLACES = [
    (job(), row("RUNNING", nodes=("n2", "n1")), ("n2", "n1"), (("10.0.0.2",), ("10.0.0.1",))),
    (job(**RUNNING), row("RUNNING", nodes=("n1",)), ("n1",), (("10.0.0.1",),)),
    (job(**RUNNING), row("RUNNING", nodes=("n2",), restarts=1), ("n2",), (("10.0.0.2",),)),
    (job(**RUNNING), row("PENDING", restarts=1), (), ()),
    (job(**RUNNING), row("REQUEUED", nodes=("n1",)), (), ()),
    (job(**RUNNING), row("SUSPENDED", nodes=("n1",)), ("n1",), (("10.0.0.1",),)),
    (job(**RUNNING), row("RUNNING"), ("n1",), (("10.0.0.1",),)),
    (job(), row("RUNNING", nodes=("n1", "n3")), ("n1", "n3"), ()),
    (job(**RUNNING), row("RUNNING", nodes=("unknown",)), ("unknown",), ()),
]


@pytest.mark.edge_case(16)
def test_a_heterogeneous_job_is_on_the_nodes_of_all_its_components() -> None:
    parts = (row("RUNNING", task="+1", nodes=("n2",)), row("RUNNING", task="+0", nodes=("n1",)))
    for rows in (parts, parts[::-1]):
        new, plan = decide(job(), rows)
        assert (new.nodes, new.addresses) == (("n1", "n2"), (("10.0.0.1",), ("10.0.0.2",)))
        assert plan.cancel == ()
    ended = tuple(part._replace(state="COMPLETED", exit_code=0) for part in parts)
    assert decide(job(), ended)[0].nodes == ("n1", "n2")


@pytest.mark.parametrize(("record", "seen", "nodes", "addresses"), PLACES)
def test_nodes_and_addresses_of_a_job(
    record: Record, seen: Observation, nodes: tuple[str, ...], addresses: tuple[tuple[str, ...], ...]
) -> None:
    new, plan = decide(record, (seen,))
    assert (new.nodes, new.addresses) == (nodes, addresses)
    assert bool(plan.job_problems) == bool(nodes and not addresses)
    groups = groups_after(evidence(record), plan)
    assert bool([group for group in groups if group.peer == "1"]) == bool(addresses)


def test_a_run_that_no_sync_saw_has_no_addresses_of_another() -> None:
    new, _ = decide(job(**RUNNING), (row("COMPLETED", exit_code=0, nodes=("n2", "n3"), started=9600, restarts=1),))
    assert (new.state, new.nodes, new.addresses) == (SUCCESS, ("n2", "n3"), ())
    new, _ = decide(job(), (row("COMPLETED", exit_code=0, nodes=("n1",), started=9600),))
    assert (new.nodes, new.started, new.addresses) == (("n1",), 9600.0, ())


def test_a_requeue_ends_the_names_and_the_next_start_moves_them() -> None:
    consumer = job("2", slurm_id=18, peers=(Peer("db", "1"),))
    theirs = Observation(18, None, "i-local-2", "alice", "PENDING")

    def names(record: Record, seen: Observation) -> list[tuple[str | None, str, tuple[tuple[str, ...], ...]]]:
        whole = evidence(record, consumer, peers={"1": record}, rows=())
        plan = make_plan(replace(whole, rows={TOKEN: (seen,), "i-local-2": (theirs,)}))
        return [(group.hostname, group.run, group.addresses) for group in groups_after(whole, plan)]

    first = (("10.0.0.1",),)
    assert names(job(**RUNNING), row("RUNNING", nodes=("n1",))) == [(None, "17.0", first), ("db", "17.0", first)]
    assert names(job(**RUNNING), row("PENDING", restarts=1)) == []
    second = (("10.0.0.2",),)
    again = row("RUNNING", nodes=("n2",), restarts=1)
    assert names(job(restarts=1), again) == [(None, "17.1", second), ("db", "17.1", second)]


def test_groups_are_of_live_jobs_only() -> None:
    one = job(**RUNNING)
    ended = job("2", **RUNNING)._replace(stage=Stage.ENDED, state=SUCCESS)
    array = job("3", **ARRAY)
    consumer = job("10", **RUNNING | {"peers": (Peer("b", "1"), Peer("a", "2"), Peer("c", "3"), Peer("d", "99"))})
    late = consumer._replace(id="4", stage=Stage.ENDED, state=FAILURE)
    groups = make_groups({record.id: record for record in (consumer, late, array, ended, one)})
    assert [(group.consumer, group.peer, group.hostname) for group in groups] == [
        ("1", "1", None), ("10", "10", None), ("10", "1", "b")
    ]  # fmt: skip
    assert groups[2].exit_path == "/home/alice/1/exit.json"


@pytest.mark.parametrize(
    ("record", "rows", "look", "history"),
    [
        (job(), None, False, False),
        (job(**CLAIM), (), False, False),
        (job(), (row("RUNNING"),), False, False),
        (job(), (), True, True),
        (job(), (row("COMPLETED", exit_code=0),), True, False),
        (job(), (row("RUNNING"), row("PENDING", 18)), True, False),
        (job(), (row("RUNNING", 18),), True, True),
        (job(), CANCELLED, True, True),
        (job(cancel_sent=1.0), CANCELLED, True, False),
        (job(array=True), (row("COMPLETED", task="0", exit_code=0),), True, True),
        (job(array=True), (row("CANCELLED", task="0"), row("RUNNING", task="1")), False, False),
        (job(**LOST_ANSWER), (), True, False),
        (job(**LOST_ANSWER), (row("PENDING"),), False, False),
        (job(**LOST_ANSWER), (row("PENDING"), row("PENDING", 18)), True, False),
    ],
)
def test_which_evidence_is_needed(
    record: Record, rows: tuple[Observation, ...] | None, look: object, history: object
) -> None:
    assert (needs_look(record, rows), needs_history(record, rows, record.slurm_id)) == (look, history)


def test_the_same_evidence_gives_the_same_plan() -> None:
    whole = evidence(job(), rows=(row("RUNNING", nodes=("n1",)), row("PENDING", 18)))
    assert make_plan(whole) == make_plan(whole)


# Many ends at once that Slurm does not confirm


def silent_jobs(count: int, **values: Any) -> tuple[Record, ...]:
    """Return jobs without evidence, for long enough to be lost."""
    lost: dict[str, Any] = {"missing_since": NOW - 9999, **RUNNING, **values}
    return tuple(job(str(number), slurm_id=100 + number, **lost) for number in range(count))


def alive(count: int) -> tuple[tuple[Record, ...], dict[str, tuple[Observation, ...]]]:
    """Return running jobs, and their rows of Slurm."""
    records = tuple(job(str(number), slurm_id=100 + number, **RUNNING) for number in range(500, 500 + count))
    return records, {
        r.slurm_name: (row("RUNNING", r.slurm_id or 0, name=r.slurm_name, nodes=("n1",)),) for r in records
    }


@pytest.mark.parametrize(
    ("lost", "others", "allow_mass_end", "ended"),
    [
        (10, 0, False, 10),  # not more than ten
        (11, 0, False, 0),
        (11, 44, False, 11),  # a fifth of all, and not more
        (11, 43, False, 0),
        (300, 2000, False, 300),
        (11, 0, True, 11),
    ],
)
def test_many_ends_that_slurm_does_not_confirm_are_held_back(
    lost: int,
    others: int,
    allow_mass_end: bool,  # noqa: FBT001  # a row of the table
    ended: int,
) -> None:
    silent, (living, rows) = silent_jobs(lost), alive(others)
    inside = {record.id: FolderContents(True, str(record.slurm_id)) for record in silent}
    plan = make_plan(evidence(*silent, *living, rows=None, inside=inside, allow_mass_end=allow_mass_end))
    assert not any(values.get("stage") is Stage.ENDED for _, values in plan.changes)  # an outage decides nothing
    whole = replace(evidence(*silent, *living, inside=inside, allow_mass_end=allow_mass_end), rows=rows)
    plan = make_plan(whole)
    assert sum(values.get("stage") is Stage.ENDED for _, values in plan.changes) == ended
    held = [problem for problem in plan.problems if "--allow-mass-end" in problem]
    assert len(held) == (ended == 0)
    if held:
        assert f"{lost} of {lost + others} jobs would end" in held[0]
    named = {group.peer for group in groups_after(whole, plan)}
    assert len(named) == lost + others - ended, "names stay while an ending is held back"
    apart = make_plan(replace(whole, records=silent, others=others))
    assert len(apart.changes) == len(plan.changes), "jobs that were left out count among all"


@pytest.mark.parametrize(
    ("silent", "living", "held", "of_site"),
    [
        ({"mallory": 12}, {"bob": 3}, {"mallory"}, False),
        ({"mallory": 12, "bob": 2}, {"bob": 3, "carol": 1, "dave": 1}, {"mallory"}, False),
        ({"mallory": 12, "bob": 2}, {"bob": 3, "carol": 1}, {"mallory", "bob"}, True),  # more than half the accounts
        ({"mallory": 12}, {}, {"mallory"}, True),
        ({"a": 6, "b": 6}, {"c": 1, "d": 1, "e": 1}, {"a", "b"}, True),  # of none alone are there many
        ({"mallory": 12}, {"bob": 100}, set(), False),
    ],
)
def test_many_unproven_ends_of_one_account_hold_back_no_other(
    silent: dict[str, int],
    living: dict[str, int],
    held: set[str],
    of_site: bool,  # noqa: FBT001  # a row of the table
) -> None:
    lost = [r._replace(id=f"{user}{r.id}", account=user) for user, n in silent.items() for r in silent_jobs(n)]
    inside = {record.id: FolderContents(True, str(record.slurm_id)) for record in lost}
    plan = make_plan(
        replace(
            evidence(*lost, inside=inside),
            others=sum(living.values()),
            submitted=Counter(silent) + Counter(living),
        )
    )
    ended = {record.account for record, values in plan.changes if values.get("stage") is Stage.ENDED}
    assert ended == set(silent) - held
    assert bool(plan.problems) == of_site
    assert {id_.rstrip("0123456789") for id_ in plan.job_problems} == (set() if of_site else held)


def test_ends_that_slurm_confirms_and_jobs_never_dispatched_are_not_held_back() -> None:
    told = silent_jobs(50, missing_since=None)
    rows = {r.slurm_name: (row("COMPLETED", r.slurm_id or 0, name=r.slurm_name, exit_code=0),) for r in told}
    inside = {record.id: FolderContents(True, str(record.slurm_id)) for record in told}
    claims = tuple(job(f"9{n}", peers=(Peer("db", "gone"),), **CLAIM) for n in range(50))
    plan = make_plan(replace(evidence(*told, *claims, inside=inside), rows=rows))
    assert sum(values.get("stage") is Stage.ENDED for _, values in plan.changes) == 100
    assert plan.problems == ()


def test_ends_by_exit_records_alone_count_as_unproven() -> None:
    silent = silent_jobs(11, missing_since=None)
    inside = {r.id: FolderContents(True, str(r.slurm_id), (exited(slurm_id=r.slurm_id or 0),)) for r in silent}
    assert make_plan(evidence(*silent, inside=inside)).changes == ()
    assert len(make_plan(evidence(*silent, inside=inside, allow_mass_end=True)).changes) == 11


def test_a_claim_does_not_end_with_a_peer_that_is_held_back() -> None:
    silent = silent_jobs(11)
    claim = job("900", peers=(Peer("db", "3"),), **CLAIM)
    inside = {record.id: FolderContents(True, str(record.slurm_id)) for record in silent}
    plan = make_plan(evidence(*silent, claim, inside=inside))
    assert [record.id for record in plan.submit] == ["900"]


def as_remembered(record: Record, *rows: Observation, states: dict[str, JobState] | None = None) -> bool:
    standing = ActiveJob(*(getattr(record, name) for name in ActiveJob._fields))
    return lives_on(standing, rows) and is_as_remembered(standing, rows[0], states or {})


@pytest.mark.parametrize(
    "seen",
    [
        row("PENDING", reason="Priority"),
        row("PENDING", restarts=1),
        row("CONFIGURING", nodes=("n1",)),
        row("RUNNING", nodes=("n1", "n2"), started=9500),
        row("SUSPENDED", nodes=("n2",), started=9500),
        row("COMPLETING", started=9500),
    ],
)
def test_the_next_sync_changes_nothing_without_news(seen: Observation) -> None:
    new, _ = decide(job(), (seen,))
    assert not as_remembered(job(), seen)
    assert as_remembered(new, seen)


PENDING = row("PENDING")
WAITS: dict[str, Any] = {"status": "Your job waits in the queue"}


@pytest.mark.parametrize(
    ("remembered", "rows"),
    [
        (WAITS, ()),
        (WAITS, (PENDING, row("PENDING", 18))),
        (WAITS, (row("PENDING", 18),)),
        (WAITS, (row("PENDING", task="0-3"),)),
        (WAITS, (row("PENDING", restarts=1),)),
        (WAITS, (row("PENDING", reason="Resources"),)),
        (WAITS, (row("RUNNING", nodes=("n1",), started=9500),)),
        (WAITS, (row("COMPLETED", exit_code=0),)),
        (WAITS, (row("BAKING"),)),
        (WAITS | {"cancel_sent": 9000.0}, (PENDING,)),
        (WAITS | {"missing_since": 9000.0}, (PENDING,)),
        (WAITS | {"cancel_requested": 9000.0}, (PENDING,)),
        (WAITS, (PENDING._replace(time_limit=7260),)),
        (WAITS | LOST_ANSWER, (PENDING,)),
        (RUNNING, (PENDING,)),
        (RUNNING, (row("RUNNING", nodes=("n2",), started=9500),)),
        (RUNNING, (row("RUNNING", nodes=("n1",), started=9600),)),
        (RUNNING, (row("SUSPENDED", nodes=("n1",), started=9500),)),
        (RUNNING | {"addresses": ()}, (row("RUNNING", nodes=("n1",), started=9500),)),
    ],
)
def test_anything_new_of_a_job_is_looked_at(remembered: dict[str, Any], rows: tuple[Observation, ...]) -> None:
    assert as_remembered(job(**WAITS), PENDING)
    assert as_remembered(job(**RUNNING), row("RUNNING", nodes=("n1",), started=9500))
    assert not as_remembered(job(**remembered), *rows)


def test_the_sites_own_table_counts_for_what_is_remembered() -> None:
    assert not as_remembered(job(**WAITS), PENDING, states={"PENDING": RUNS})

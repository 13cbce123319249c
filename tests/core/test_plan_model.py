"""For any evidence of a sync: no state without evidence, and no names of jobs that do not run."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from slurm_adapter.core.evidence import Evidence, ExitRecord, FolderContents, is_as_remembered, lives_on, needs_look
from slurm_adapter.core.hosts_file import make_groups
from slurm_adapter.core.observation import Observation
from slurm_adapter.core.plan import Plan, make_plan
from slurm_adapter.core.records import ActiveJob, Peer, Record, RecordChange, Stage
from slurm_adapter.core.states import BASE_STATES, ENDED, FLAGS, LIVE, JobState

if TYPE_CHECKING:
    from slurm_adapter.core.hosts_file import Group

_NODES = ("n1", "n2", "n3")
_words = st.sampled_from([*BASE_STATES, *FLAGS, "BAKING", ""])
_rows = st.builds(
    Observation,
    slurm_id=st.integers(17, 19),
    task=st.none() | st.sampled_from(["0", "1"]),
    name=st.just("i-local-1"),
    user=st.just("alice"),
    state=_words,
    nodes=st.sampled_from([(), ("n1",), ("n2", "n3")]),
    restarts=st.integers(0, 2),
    exit_code=st.none() | st.integers(0, 2),
    ended=st.none() | st.just(9900),
    cancelled_by=st.none() | st.sampled_from(["alice", "root"]),
)
_exits = st.builds(
    ExitRecord,
    slurm_id=st.integers(17, 19),
    restarts=st.integers(0, 2),
    task=st.none() | st.sampled_from(["0", "1"]),
    exit_code=st.integers(0, 2),
    ended=st.just(9900.0),
    reason=st.none() | st.just("why"),
)
_inside = st.builds(
    FolderContents,
    exists=st.booleans(),
    owner=st.none() | st.sampled_from(["17", "18", "closed", "cancelled", "x"]),
    exits=st.lists(_exits, max_size=2).map(tuple),
)
_times = st.none() | st.sampled_from([0.0, 6000.0, 9900.0])


@st.composite
def _records(draw: st.DrawFn) -> Record:
    stage = draw(st.sampled_from([Stage.CLAIMED, Stage.SUBMITTING, Stage.SUBMITTED]))
    running = stage is Stage.SUBMITTED and draw(st.booleans())
    return Record(
        id="1", origin="local", key=None, slurm_name="i-local-1", owner="alice", project=None, account="alice",
        folder="/h/1", application="a 1", specification="{}", labels="{}", replicas=1, time_limit=600,
        array=draw(st.booleans()), created=1.0, stage=stage,
        state=JobState.RUNNING if running else JobState.IN_QUEUE,
        slurm_id=17 if stage is Stage.SUBMITTED else None,
        nodes=("n1",) if running else (), addresses=(("10.0.0.1",),) if running else (),
        sbatch_started=None if stage is Stage.CLAIMED else 9000.0, missing_since=draw(_times), cancel_sent=draw(_times),
        restarts=draw(st.integers(0, 1)), peers=draw(st.sampled_from([(), (Peer("db", "2"),)])),
    )  # fmt: skip


@st.composite
def _evidence(draw: st.DrawFn) -> Evidence:
    record = draw(_records())
    other = Record(
        id="2", origin="local", key=None, slurm_name="i-local-2", owner="alice", project=None, account="alice",
        folder="/h/2", application="a 1", specification="{}", labels="{}", replicas=1, time_limit=600, array=False,
        created=1.0, stage=draw(st.sampled_from(list(Stage))), slurm_id=draw(st.sampled_from([None, 30])),
    )  # fmt: skip
    rows = draw(st.none() | st.lists(_rows, max_size=3).map(tuple))
    history = draw(st.none() | st.lists(_rows, max_size=2))
    return Evidence(
        now=draw(st.sampled_from([9950.0, 10_000.0, 20_000.0])),
        records=(record,),
        peers=draw(st.sampled_from([{}, {"2": other}])),
        rows=None if rows is None else {"i-local-1": rows},
        silence_counts=draw(st.booleans()),
        history=None
        if history is None
        else {id_: tuple(r for r in history if r.slurm_id == id_) for id_ in (17, 18, 19)},
        accounting=draw(st.booleans()),
        inside=draw(st.sampled_from([{}, {"1": draw(_inside)}])),
        addresses=draw(st.sampled_from([{}, {node: (f"10.0.0.{node[1]}",) for node in _NODES}])),
    )


def groups_after(evidence: Evidence, plan: Plan) -> tuple[Group, ...]:
    """The mappings of all live jobs, once the plan's changes are made."""
    known = {**evidence.peers, **{record.id: record for record in evidence.records}}
    return make_groups(known | {job.id: known[job.id]._replace(**values) for job, values in plan.changes})


@settings(max_examples=500)
@given(_evidence())
def test_no_state_without_evidence(evidence: Evidence) -> None:
    plan = make_plan(evidence)
    assert plan == make_plan(evidence)
    [record] = evidence.records
    changes: RecordChange = next((change for _, change in plan.changes), RecordChange())
    rows = (evidence.rows or {}).get("i-local-1", ())
    inside = evidence.inside.get("1", FolderContents(False))
    told = [row for some in (evidence.history or {}).values() for row in some]
    if "state" in changes or "stage" in changes:
        assert changes.get("state", record.state).final == (changes.get("stage", record.stage) is Stage.ENDED)
    if changes.get("stage") is Stage.ENDED and record.peers and record.stage is Stage.CLAIMED and not rows:
        return  # it ends with its peer
    if evidence.rows is None:
        assert set(changes) <= {"missing_since", "status"}
    if changes.get("stage") is Stage.ENDED:
        kept = changes.get("slurm_id", record.slurm_id)
        seen = record.restarts if kept == record.slurm_id else 0  # another Slurm job has runs of its own
        by_slurm = any(row.slurm_id == kept and row.state in ENDED for row in (*rows, *told))
        # Each task of an array is started again by itself, and takes the record of its last run away.
        by_script = any(
            exit_.slurm_id == kept
            and (exit_.task is not None if record.array else exit_.task is None and exit_.restarts >= seen)
            for exit_ in inside.exits
        )
        long_ago = record.missing_since is not None and evidence.now - record.missing_since >= evidence.lost_after
        by_silence = long_ago and evidence.silence_counts and not any(row.slurm_id == kept for row in rows)
        # Nothing runs behind a closed fence any more, and nothing ran before it.
        closed = inside.owner == "closed" and record.stage is Stage.SUBMITTING and not inside.exits
        by_fence = inside.owner == "cancelled" or (closed and changes["state"] is JobState.FAILURE)
        assert by_slurm or by_script or by_silence or by_fence
        assert not any(row.slurm_id == kept and row.state in {"RUNNING", "PENDING", "SUSPENDED"} for row in rows)
    if changes.get("state") in {JobState.RUNNING, JobState.SUSPENDED}:
        assert rows
    if plan.submit:
        assert rows == ()
        assert evidence.rows is not None
    for cancelled, slurm_id in plan.cancel:
        assert slurm_id != changes.get("slurm_id", cancelled.slurm_id)
    for group in groups_after(evidence, plan):
        assert group.peer in {"1", "2"}
        if group.peer == "1":
            assert changes.get("state", record.state) in {JobState.RUNNING, JobState.SUSPENDED}
            assert group.addresses


def _after(evidence: Evidence) -> Record:
    """Return the job after the sync."""
    [record] = evidence.records
    return record._replace(**_changes(make_plan(evidence)))


def _changes(plan: Plan) -> RecordChange:
    return next((change for _, change in plan.changes), RecordChange())


def _standing(record: Record) -> ActiveJob:
    return ActiveJob(*(getattr(record, name) for name in ActiveJob._fields))


@st.composite
def _evidence_of_live_jobs(draw: st.DrawFn) -> Evidence:
    """Give Slurm one row of the job, which lives: evidence without conditions has that once in 100 times."""
    evidence = draw(_evidence())
    [record] = evidence.records
    record = record._replace(stage=Stage.SUBMITTED, slurm_id=17, missing_since=None, cancel_sent=None)
    row = draw(_rows)._replace(slurm_id=17, task=None, state=draw(st.sampled_from(sorted(LIVE))))
    return replace(evidence, records=(record,), rows={"i-local-1": (row,)})


@settings(max_examples=200)
@given(_evidence_of_live_jobs())
def test_a_job_that_equals_its_record_changes_nothing(evidence: Evidence) -> None:
    record = _after(evidence)
    rows = (evidence.rows or {}).get("i-local-1", ())
    assume(lives_on(_standing(record), rows))
    assume(is_as_remembered(_standing(record), rows[0], MappingProxyType({})))
    plan = make_plan(replace(evidence, records=(record,)))
    assert (plan.changes, plan.submit, plan.cancel, plan.cancel_again, plan.problems) == ((), (), (), (), ())


@settings(max_examples=200)
@given(_evidence_of_live_jobs())
def test_the_row_of_a_live_job_decides_as_all_evidence_does(evidence: Evidence) -> None:
    [record] = evidence.records
    assume(lives_on(_standing(record), (evidence.rows or {}).get("i-local-1", ())))
    evidence = replace(evidence, inside={})  # a sync reads no folder of such a job
    assert not needs_look(record, (evidence.rows or {}).get("i-local-1", ()))
    whole, little = make_plan(evidence), make_plan(replace(evidence, records=(), alive=(_standing(record),)))
    assert record._replace(**_changes(little)) == record._replace(**_changes(whole))
    assert little.problems == whole.problems
    assert (whole.submit, whole.cancel, whole.cancel_again, whole.limits) == ((), (), (), ())

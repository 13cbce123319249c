"""What always holds: final is final, no state without evidence, names of live jobs only, nothing runs twice."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from slurm_adapter import jobs
from slurm_adapter.folders import ExitRecord, Inside
from slurm_adapter.hosts import find_block, project, view
from slurm_adapter.plan import Evidence, make_groups, make_plan
from slurm_adapter.schedulers.interface import Observation
from slurm_adapter.states import BASE_STATES, ENDED, FLAGS, JobState
from slurm_adapter.store import Peer, Record, Stage
from tests.offline import Offline, peer

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
    Inside,
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
        id="1", origin="local", key=None, token="i-local-1", owner="alice", project=None, account="alice",
        folder="/h/1", application="a 1", specification="{}", labels="{}", replicas=1, time_limit=600,
        array=draw(st.booleans()), created=1.0, stage=stage,
        state=JobState.RUNNING if running else JobState.IN_QUEUE,
        slurm_id=17 if stage is Stage.SUBMITTED else None,
        nodes=("n1",) if running else (), addresses=(("10.0.0.1",),) if running else (),
        handed_over=None if stage is Stage.CLAIMED else 9000.0, missing_since=draw(_times), cancelled=draw(_times),
        restarts=draw(st.integers(0, 1)), peers=draw(st.sampled_from([(), (Peer("db", "2"),)])),
    )  # fmt: skip


@st.composite
def _evidence(draw: st.DrawFn) -> Evidence:
    record = draw(_records())
    other = Record(
        id="2", origin="local", key=None, token="i-local-2", owner="alice", project=None, account="alice",
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


@settings(max_examples=1500, deadline=None)
@given(_evidence())
def test_no_state_without_evidence(evidence: Evidence) -> None:
    plan = make_plan(evidence)
    assert plan == make_plan(evidence)
    [record] = evidence.records
    changes: dict[str, Any] = next((values for _, values in plan.changes), {})
    rows = (evidence.rows or {}).get("i-local-1", ())
    inside = evidence.inside.get("1", Inside(False))
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
        by_script = any(exit_.slurm_id == kept and exit_.restarts >= seen for exit_ in inside.exits)
        long_ago = record.missing_since is not None and evidence.now - record.missing_since >= evidence.lost_after
        by_silence = long_ago and evidence.silence_counts and not any(row.slurm_id == kept for row in rows)
        assert by_slurm or by_script or by_silence or inside.owner == "cancelled"
        assert not any(row.slurm_id == kept and row.state in {"RUNNING", "PENDING", "SUSPENDED"} for row in rows)
    if changes.get("state") in {JobState.RUNNING, JobState.SUSPENDED}:
        assert rows
    if plan.submit:
        assert rows == ()
        assert evidence.rows is not None
    for cancelled, slurm_id in plan.cancel:
        assert slurm_id != changes.get("slurm_id", cancelled.slurm_id)
    after = record if not changes else next(iter(plan.changes))[0]
    for group in plan.groups:
        assert group.peer in {"1", "2"}
        if group.peer == "1":
            assert changes.get("state", after.state) in {JobState.RUNNING, JobState.SUSPENDED}
            assert group.addresses


class Lives(RuleBasedStateMachine):
    """Jobs come, start, end, are requeued, forgotten, lost and cancelled, and passes look on."""

    @initialize(accounting=st.booleans())
    def _begin(self, accounting: bool) -> None:  # noqa: FBT001  # drawn by hypothesis
        self.folder = tempfile.TemporaryDirectory()
        self.site = Offline(Path(self.folder.name), accounting=accounting)
        self.final: dict[str, Record] = {}
        self.ran: dict[str, set[int]] = {}
        self.fresh = False

    def teardown(self) -> None:
        """Give the site back."""
        if hasattr(self, "site"):
            self.site.site.close()
            self.folder.cleanup()

    def _records(self) -> list[Record]:
        return self.site.site.store.all(99)

    def _slurm(self, *states: str) -> list[int]:
        rows = self.site.slurm.queue(["alice"]).observations
        return [row.slurm_id for row in rows if row.state in states]

    def _job_of(self, slurm_id: int) -> Record:
        name = self.site.slurm.see(slurm_id).name
        return next(record for record in self._records() if record.token == name)

    @rule(lost=st.sampled_from([None, "now", "later", "never"]), named=st.integers(0, 3))
    def submit(self, lost: Any, named: int) -> None:
        """A job, perhaps with a peer; perhaps the answer is lost."""
        self.fresh = False
        alive = [record for record in self._records() if not record.state.final]
        resources = [peer("db", alive[named])] if named < len(alive) else []
        if lost:
            self.site.slurm.lose_next(lost)
        self.site.job(resources=resources)

    @precondition(lambda self: self._slurm("PENDING"))
    @rule(which=st.integers(0, 9), node=st.integers(1, 4))
    def start(self, which: int, node: int) -> None:
        """Slurm starts a job, and its script comes to the fence."""
        self.fresh = False
        pending = self._slurm("PENDING")
        slurm_id = pending[which % len(pending)]
        record = self._job_of(slurm_id)
        self.site.slurm.start(slurm_id, [f"node00{node}"])
        link = Path(record.folder) / "owner"
        if not link.is_symlink():
            link.symlink_to(str(slurm_id))
        if link.readlink() == Path(str(slurm_id)):
            assert record.id not in self.final, "a job that is final runs nothing again"
            self.ran.setdefault(record.id, set()).add(slurm_id)
        else:
            self.site.slurm.finish(slurm_id)

    @precondition(lambda self: self._slurm("RUNNING"))
    @rule(which=st.integers(0, 9), how=st.sampled_from(["good", "bad", "requeue", "vanish"]))
    def end(self, which: int, how: str) -> None:
        """A running job ends, or goes back to the queue."""
        self.fresh = False
        running = self._slurm("RUNNING")
        slurm_id = running[which % len(running)]
        if how == "requeue":
            self.site.slurm.requeue(slurm_id)
        elif how == "vanish":
            self.site.slurm.finish(slurm_id, 3)
            self.site.slurm.purge(slurm_id)
        else:
            self.site.slurm.finish(slurm_id, 0 if how == "good" else 3)

    @precondition(lambda self: self._slurm(*ENDED))
    @rule(which=st.integers(0, 9))
    def owner_requeues(self, which: int) -> None:
        """The owner of a job that ended lets Slurm run it again."""
        self.fresh = False
        ended = self._slurm(*ENDED)
        self.site.slurm.requeue(ended[which % len(ended)])

    @rule()
    def arrive(self) -> None:
        """What was lost on its way comes up."""
        self.fresh = False
        self.site.slurm.arrive()

    @precondition(lambda self: self._records())
    @rule(which=st.integers(0, 9))
    def cancel(self, which: int) -> None:
        """Somebody cancels a job."""
        self.fresh = False
        records = self._records()
        jobs.cancel(self.site.site, [records[which % len(records)].id])

    @rule(seconds=st.sampled_from([1, 100, 200, 4000]))
    def sync(self, seconds: int) -> None:
        """A pass."""
        self.site.sync(after=seconds)
        self.fresh = True

    @rule()
    def sync_during_an_outage(self) -> None:
        """A pass while the controller does not answer: only claims that lost their peer may end."""
        before = {record.id: record for record in self._records() if record.stage is not Stage.CLAIMED}
        self.site.slurm.down = True
        self.site.sync(after=5000)
        self.site.slurm.down = False
        self.fresh = False
        for id_, record in before.items():
            now = self.site.site.store.get(id_)
            assert (now.state, now.stage, now.slurm_id) == (record.state, record.stage, record.slurm_id)

    @invariant()
    def final_is_final(self) -> None:
        """A record that has ended never changes."""
        if not hasattr(self, "site"):
            return
        for record in self._records():
            assert record.state.final == (record.stage is Stage.ENDED)
            if record.id in self.final:
                assert record == self.final[record.id]
            elif record.stage is Stage.ENDED:
                self.final[record.id] = record

    @invariant()
    def nothing_runs_as_two_slurm_jobs(self) -> None:
        """Only one Slurm job of each job ever passes the fence."""
        if hasattr(self, "site"):
            assert all(len(slurm_ids) == 1 for slurm_ids in self.ran.values())

    @invariant()
    def the_hosts_files_say_what_is_known(self) -> None:
        """After a pass the files name live jobs only, and each view is the projection of the shared file."""
        if not hasattr(self, "site") or not self.fresh or not self.site.shared:
            return
        records = {record.id: record for record in self._records()}
        block = find_block(self.site.shared.encode())
        named = set(re.findall(r"^# (?:job|consumer \d+ peer) (\d+)", block, re.MULTILINE))
        assert all(records[id_].state in {JobState.RUNNING, JobState.SUSPENDED} for id_ in named)
        consumers = set(re.findall(r"^# consumer (\d+)", block, re.MULTILINE))
        assert all(records[id_].stage is not Stage.ENDED for id_ in consumers)
        groups = make_groups(records)
        for id_ in self.site.views:
            text = (self.site.peers / id_).read_text()
            assert text == project(block, id_) == view(group for group in groups if group.consumer == id_)


TestLives = Lives.TestCase
TestLives.settings = settings(
    max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)

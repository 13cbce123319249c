"""How Slurm's stories of a job go on and end, on a real cluster without accounting, and what is told of them.

With accounting: `test_accounting_e2e.py`. Where Slurm or the machine fails: `test_degraded.py`.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from slurm_adapter import sandbox
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs.sync import sync
from tests.adapter import PRODUCT, UNTIL_TOLD

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from slurm_adapter.core.records import Record
    from tests.adapter import LiveSite, LiveSiteMaker
    from tests.sandbox_cluster import Cluster

pytestmark = [pytest.mark.sandbox, pytest.mark.releases]


def operate(cluster: Cluster, *words: str) -> None:
    """What only SlurmUser may do."""
    cluster.ask("scontrol", *words, user="slurm")


def states(adapter: LiveSite, record: Record) -> list[JobState]:
    """Every state that was told of a job, in order."""
    return [update.state for update in adapter.site.store.updates(record.id) if update.state is not None]


def is_forgotten(cluster: Cluster, slurm_id: str) -> bool:
    return cluster.run("scontrol", "show", "job", slurm_id).returncode != 0


def until_forgotten(cluster: Cluster, *slurm_ids: object) -> None:
    """Wait, without a pass, until slurmctld no longer knows these jobs."""
    for slurm_id in map(str, slurm_ids):
        cluster.wait_for(partial(is_forgotten, cluster, slurm_id))


@pytest.fixture(autouse=True)
def no_strangers(make_adapter: LiveSiteMaker, cluster: Cluster) -> Iterator[None]:
    """Afterwards no job is left, whoever handed it in."""
    del make_adapter
    yield
    for user in ("alice", "bob"):
        cluster.ask("scancel", f"--user={user}", user="root")


@pytest.fixture
def repaired(make_adapter: LiveSiteMaker, cluster: Cluster) -> Iterator[None]:
    """Afterwards every node is there again."""
    del make_adapter
    yield
    cluster.repair()


# Endings


@pytest.mark.scenario(55)
@pytest.mark.edge_case(11, 14)
@pytest.mark.usefixtures("repaired")
def test_what_slurm_makes_of_a_job(adapter: LiveSite, cluster: Cluster) -> None:
    """Time limit, deadline, cancelled by two accounts, signals, a lost node with a second start and without."""
    late = cluster.submit("sleep 600", "--nodelist=node003", "--exclusive", user="bob")
    cluster.wait_state(late, "RUNNING")
    stays = adapter.shell("sleep 600", node="node002")
    overdue, removed_by_user, removed_by_root, killed, loses = adapter.start(*[stays] * 5)
    [moves] = adapter.start(adapter.shell(f"echo run ${{SLURM_RESTART_COUNT:-0}}; {UNTIL_TOLD}", node="node002"))
    by_signal, by_own_hand, too_large = adapter.submit(
        adapter.shell("kill -SEGV $$", node="node001"),
        adapter.shell("kill -KILL $SLURM_TASK_PID", node="node001"),
        adapter.shell("perl -e '$x = \"x\" x 1500_000_000; print length $x'", node="node001"),
    )
    [never] = adapter.submit(
        adapter.shell("sleep 600", node="node003", timeAllocation={"hours": 0, "minutes": 1, "seconds": 0})
    )
    operate(cluster, "update", f"job={never.slurm_id}", "Deadline=now+1")
    operate(cluster, "update", f"job={overdue.slurm_id}", "EndTime=now+1")
    cluster.ask("scancel", str(removed_by_user.slurm_id))
    cluster.ask("scancel", str(removed_by_root.slurm_id), user="root")
    cluster.ask("scancel", "--full", "--signal=KILL", str(killed.slurm_id))
    wanted = {
        removed_by_user.id: (JobState.SUCCESS, "Your job was cancelled; it is not known who did it"),
        removed_by_root.id: (JobState.SUCCESS, "Your job was cancelled; it is not known who did it"),
        killed.id: (JobState.SUCCESS, "Your job was cancelled; it is not known who did it"),
        by_signal.id: (JobState.FAILURE, "Your job failed with exit code 139, as after signal 11 (SIGSEGV)"),
        by_own_hand.id: (JobState.FAILURE, "Your job was ended by signal 9 (SIGKILL)"),
        overdue.id: (JobState.EXPIRED, "Your job reached its time limit"),
        never.id: (JobState.EXPIRED, "Your job reached its deadline"),
    }
    if not sandbox.status(cluster.layout.name).notes:
        wanted[too_large.id] = (JobState.FAILURE, "Your job used more memory than it asked for")
    records = adapter.until_ended(*adapter.site.store.find(wanted).values())
    assert {record.id: (record.state, record.status) for record in records} == wanted
    cluster.ask("scancel", late, user="bob")

    cluster.ask("scontrol", "update", f"job={loses.slurm_id}", "Requeue=0")
    cluster.slurmd(cluster.nodes[1]).kill()
    operate(cluster, "update", "NodeName=node002", "State=DOWN", "Reason=test")  # as after SlurmdTimeout
    [lost] = adapter.until_ended(loses)
    assert (lost.state, lost.status) == (JobState.FAILURE, "Your job lost a node, which failed")
    adapter.sync_until(lambda: adapter.now(moves).state is JobState.IN_QUEUE)
    cluster.ask("scontrol", "update", f"job={moves.slurm_id}", "ReqNodeList=", "ExcNodeList=node002", "StartTime=now")
    adapter.until_said(moves, "^run 1$")
    adapter.tell(moves)
    [moved] = adapter.until_ended(moves)
    assert (moved.state, moved.slurm_id, moved.restarts) == (JobState.SUCCESS, moves.slurm_id, 1)
    assert moved.nodes != moves.nodes
    assert states(adapter, moves) == [JobState.RUNNING, JobState.IN_QUEUE, JobState.RUNNING, JobState.SUCCESS]
    for record in (*records, lost):
        assert [state.final for state in states(adapter, record)].count(True) == 1


@pytest.mark.scenario(55)
def test_an_array_is_one_job(adapter: LiveSite) -> None:
    """It runs while a task of it does, and fails with any of them."""
    fails, runs = adapter.submit(
        adapter.shell('exit "$SLURM_ARRAY_TASK_ID"', application="tasks"),
        adapter.shell(f'[ "$SLURM_ARRAY_TASK_ID" = 0 ] || {UNTIL_TOLD}', application="tasks"),
    )
    [failed] = adapter.until_ended(fails)
    assert (failed.state, failed.exit_code) == (JobState.FAILURE, 1)
    assert failed.status == "1 of 2 tasks: Your job failed with exit code 1"
    adapter.sync_until(lambda: adapter.output(runs, "exit-0.json"))
    assert adapter.sync_until(lambda: adapter.now(runs)).state is JobState.RUNNING
    adapter.tell(runs)
    [ended] = adapter.until_ended(runs)
    assert (ended.state, ended.exit_code) == (JobState.SUCCESS, 0)


# On the way


@pytest.fixture
def long_partition(cluster: Cluster) -> Iterator[None]:
    """Afterwards the partition `scavenge` has its time limit again."""
    yield
    operate(cluster, "update", "PartitionName=scavenge", "MaxTime=12:00:00")


@pytest.mark.scenario(57)
@pytest.mark.edge_case(25)
@pytest.mark.usefixtures("long_partition")
def test_a_job_that_waits_is_in_the_queue_whatever_it_waits_for(adapter: LiveSite, cluster: Cluster) -> None:
    """Held, behind another job, behind one that failed, and too long for its partition."""
    failed = cluster.submit("false")
    cluster.wait_end(failed)
    later = adapter.shell("echo ran", begin="now+1hour")
    held, behind, stuck = adapter.submit(later, later, later)
    [long] = adapter.submit(later | {"product": PRODUCT | {"id": "example-scavenge"}})

    def update(record: Record, *words: str) -> None:
        cluster.ask("scontrol", "update", f"job={record.slurm_id}", "StartTime=now", *words)

    cluster.ask("scontrol", "hold", str(held.slurm_id))
    update(behind, f"Dependency=afterok:{held.slurm_id}")
    update(stuck, f"Dependency=afterok:{failed}")
    operate(cluster, "update", "PartitionName=scavenge", "MaxTime=00:10:00")
    update(long)
    reasons = {
        held: "JobHeldUser",
        behind: "Dependency",
        stuck: "DependencyNeverSatisfied",
        long: "PartitionTimeLimit",
    }

    def all_told() -> bool:
        return all(reasons[record] in adapter.now(record).status for record in reasons)

    adapter.sync_until(all_told)
    for record in reasons:
        new = adapter.now(record)
        never = record not in {held, behind}
        assert ("does not start until that is changed" in new.status) == never, new.status
        assert new.state is JobState.IN_QUEUE
        assert states(adapter, record) == []
    cluster.ask("scontrol", "release", str(held.slurm_id))
    update(held)
    assert adapter.until_successful(held, behind) == ["ran\n", "ran\n"]
    assert all(adapter.now(record).state is JobState.IN_QUEUE for record in (stuck, long))


@pytest.mark.scenario(59)
def test_a_job_that_is_suspended_goes_on(adapter: LiveSite, cluster: Cluster) -> None:
    [record] = adapter.start(adapter.shell(UNTIL_TOLD))
    operate(cluster, "suspend", str(record.slurm_id))
    adapter.sync_until(lambda: adapter.now(record).state is JobState.SUSPENDED)
    assert adapter.now(record).addresses == record.addresses
    operate(cluster, "resume", str(record.slurm_id))
    adapter.until_running(record)
    adapter.tell(record)
    adapter.until_ended(record)
    assert states(adapter, record) == [JobState.RUNNING, JobState.SUSPENDED, JobState.RUNNING, JobState.SUCCESS]


@pytest.mark.scenario(58)
@pytest.mark.edge_case(12)
def test_a_job_that_is_preempted_runs_again(adapter: LiveSite, cluster: Cluster) -> None:
    product = PRODUCT | {"id": "example-scavenge"}
    specification = adapter.shell(f"echo run ${{SLURM_RESTART_COUNT:-0}}; {UNTIL_TOLD}", node="node003")
    [record] = adapter.start(specification | {"product": product})
    first = cluster.submit("sleep 3", "--nodelist=node003", "--exclusive", user="bob")
    adapter.sync_until(lambda: adapter.now(record).state is JobState.IN_QUEUE)
    assert adapter.now(record).nodes == ()
    adapter.until_said(record, "^run 1$")
    assert cluster.wait_end(first) == "COMPLETED"
    adapter.tell(record)
    adapter.until_ended(record)
    assert states(adapter, record) == [JobState.RUNNING, JobState.IN_QUEUE, JobState.RUNNING, JobState.SUCCESS]


@pytest.mark.edge_case(3, 15, 16)
def test_other_jobs_of_the_same_accounts_change_nothing(adapter: LiveSite, cluster: Cluster) -> None:
    """Heterogeneous jobs, arrays that run, wait and have ended, and jobs that look like rows of the listing."""
    [record] = adapter.start(adapter.shell("sleep 600"))
    before = adapter.now(record)
    others = [
        cluster.ask("sbatch", "--parsable", "-n1", "-o/dev/null", ":", "-n1", stdin=b"#!/bin/sh\nsleep 600\n"),
        cluster.submit("sleep 600", "--array=1-1000:7%5"),
        cluster.submit("sleep 600", "--array=3-20%2", "--hold"),
        cluster.submit("false", "--array=1,3,5"),
        cluster.submit("sleep 600", f"--job-name={record.slurm_name}\n{record.slurm_id}|COMPLETED"),
        cluster.submit("sleep 600", f"--job-name={record.slurm_name}x"),
        cluster.submit("sleep 600", f"--comment={record.slurm_name}", user="bob"),
    ]
    cluster.wait_state(others[1], "RUNNING")
    reports = [sync(adapter.site) for _ in range(3)]
    listed = cluster.ask("squeue", "-h", "-a", "-t", "all", "-o", "%i")
    assert "+1" in listed
    assert f"{others[1]}_[" in listed
    cluster.ask("scancel", *others, user="root")
    reports += [sync(adapter.site) for _ in range(2)]
    assert {(report.problems, report.changed, report.cancelled) for report in reports} == {((), (), ())}
    assert adapter.now(record) == before
    assert cluster.show(str(record.slurm_id))["JobState"] == "RUNNING"


# Forgotten by Slurm


@pytest.mark.scenario(62)
@pytest.mark.edge_case(7)
@pytest.mark.usefixtures("short_memory")
def test_jobs_that_ended_and_were_forgotten_between_two_passes(make_adapter: LiveSiteMaker, cluster: Cluster) -> None:
    """One pass tells by their exit records how they ended; of one that left none it is never told that it went well."""
    adapter = make_adapter(in_jobs='lost_after = "00:00:02"')
    well, badly, quick, killed, cancelled, requeued = adapter.start(
        adapter.shell(f"{UNTIL_TOLD}; exit 0"),
        adapter.shell(f"{UNTIL_TOLD}; exit 3"),
        adapter.shell(f"{UNTIL_TOLD}; kill -KILL $$"),
        adapter.shell(f"{UNTIL_TOLD}; kill -KILL $SLURM_TASK_PID"),
        adapter.shell("echo up; sleep 600"),
        adapter.shell(f"[ $SLURM_RESTART_COUNT ] && exit 4; {UNTIL_TOLD}"),
    )
    one_fails, all_go_well = adapter.submit(
        adapter.shell('exit "$SLURM_ARRAY_TASK_ID"', application="tasks"), adapter.shell("true", application="tasks")
    )
    adapter.until_said(cancelled, "^up$")
    for record in (well, badly, quick, killed):
        adapter.tell(record)
    assert adapter.invoke("cancel", cancelled.id).exit_code == 0
    cluster.ask("scontrol", "requeue", str(requeued.slurm_id))
    away = f"ExcNodeList={requeued.nodes[0]}"
    cluster.wait_for(
        lambda: cluster.run("scontrol", "update", f"job={requeued.slurm_id}", away, "StartTime=now").returncode == 0
    )
    everything = (well, badly, quick, killed, cancelled, requeued, one_fails, all_go_well)
    until_forgotten(cluster, *(record.slurm_id for record in everything))
    assert not adapter.output(killed, "exit.json"), "even its own script was killed"

    done = adapter.run("sync")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    told = {record.id: (new.state, new.exit_code) for record in adapter.site.store.all(20) if (new := record)}
    assert told == {
        well.id: (JobState.SUCCESS, 0),
        badly.id: (JobState.FAILURE, 3),
        quick.id: (JobState.FAILURE, 137),
        killed.id: (JobState.RUNNING, None),
        cancelled.id: (JobState.SUCCESS, 143),
        requeued.id: (JobState.FAILURE, 4),
        one_fails.id: (JobState.FAILURE, 1),
        all_go_well.id: (JobState.SUCCESS, 0),
    }
    [lost] = adapter.until_ended(killed)
    assert lost.state is JobState.FAILURE
    words = f"Your job was lost: Slurm no longer knows its job {killed.slurm_id}, nor how it ended"
    assert lost.status == words


@pytest.mark.scenario(63)
@pytest.mark.edge_case(10)
@pytest.mark.usefixtures("short_memory")
@pytest.mark.long
def test_an_id_that_came_round_again_is_another_job(make_adapter: LiveSiteMaker, cluster: Cluster) -> None:
    """Under it runs a job of another user, of the same user, and of another adapter: none is taken for ours."""
    adapter = make_adapter(in_jobs='lost_after = "00:00:20"')
    records = adapter.start(*[adapter.shell(f"{UNTIL_TOLD}; exit 3")] * 3)
    [found] = adapter.start(adapter.shell(f"{UNTIL_TOLD}; exit 3"))
    for record in (*records, found):
        adapter.tell(record)
    until_forgotten(cluster, *(record.slurm_id for record in (*records, found)))
    of_another_user = cluster.submit("sleep 600", user="bob")
    of_the_same_user = cluster.submit("sleep 600")
    of_another_adapter = cluster.submit("sleep 600", f"--job-name=0badcafe-local-{records[2].id}")
    strangers = [of_another_user, of_the_same_user, of_another_adapter]
    for record, stranger in zip(records, strangers, strict=True):
        cluster.wait_state(stranger, "RUNNING")
        adapter.site.store.change([(record, {"slurm_id": int(stranger)})], time.time())
        cluster.ask("rm", "-rf", record.folder)  # in it `owner` would still name the job's own
    adapter.site.store.change([(found, {"slurm_id": int(of_another_user)})], time.time())
    for _ in range(3):
        report = sync(adapter.site)
        for record, stranger in zip(records, strangers, strict=True):
            new = adapter.now(record)
            assert (new.state, new.nodes) == (JobState.RUNNING, record.nodes)
            assert cluster.show(stranger)["JobState"] == "RUNNING"
        assert [problem.split(":")[0] for problem in report.problems] == [f"job {r.id}" for r in records[1:]]
        new = adapter.now(found)
        assert (new.slurm_id, new.state, new.exit_code) == (found.slurm_id, JobState.FAILURE, 3)
    adapter.cancel(*records)
    assert [cluster.show(stranger)["JobState"] for stranger in strangers] == ["RUNNING"] * 3


# The clock


def zone(midnight: float) -> str:
    """A time zone (POSIX) in which it is midnight at that moment."""
    seconds = int(midnight) % 86400
    hours, rest = divmod(seconds, 3600)
    return f"XXX{hours:02}:{rest // 60:02}:{rest % 60:02}"


@pytest.mark.scenario(61)
@pytest.mark.edge_case(9)
def test_the_adapters_time_zone_is_nobodys_affair(adapter: LiveSite) -> None:
    """Passes in zones around the world, one over midnight and one over a change to summer time: the times are right."""
    start = time.time()
    [record] = adapter.submit(adapter.shell(UNTIL_TOLD))
    adapter.until_running(record)
    midnight = time.time() + 1
    passes = [pass_in(adapter, zone(midnight))]
    day, second = time.gmtime(midnight).tm_yday - 1, int(midnight) % 86400
    change = f"{second // 3600}:{second // 60 % 60:02}:{second % 60:02}"
    summer = f"AAA0BBB,{day}/{change},{(day + 30) % 365}/0"
    passes += [pass_in(adapter, name) for name in (summer, "Asia/Kolkata", "America/St_Johns", "Pacific/Kiritimati")]
    running = adapter.now(record)
    time.sleep(max(0.0, midnight + 1 - time.time()))  # the job ends on the other day
    adapter.tell(record)
    adapter.cluster.wait_end(str(record.slurm_id))
    passes += [pass_in(adapter, zone(midnight)), pass_in(adapter, summer)]
    assert [(done.returncode, done.stderr) for done in passes] == [(0, "")] * len(passes)
    ended = adapter.now(record)
    assert (ended.state, ended.exit_code) == (JobState.SUCCESS, 0)
    assert running.started == ended.started
    assert ended.started is not None
    assert ended.ended is not None
    assert int(start) <= ended.started <= ended.ended <= time.time()
    assert int(midnight) <= ended.ended


def pass_in(adapter: LiveSite, zone: str) -> subprocess.CompletedProcess[str]:
    """A pass, as a process in another time zone."""
    return adapter.run("sync", environment={"TZ": zone})

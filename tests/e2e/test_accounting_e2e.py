"""What accounting adds, on a real cluster with slurmdbd: who cancelled a job, and what the queue has forgotten.

One file, so that the cluster is changed once there and once back.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from slurm_adapter import sandbox
from slurm_adapter.cluster.schedulers.versions import read_client, release
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs.sync import sync
from tests.adapter import UNTIL_TOLD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.core.records import Record
    from tests.adapter import LiveSite, LiveSiteMaker
    from tests.sandbox_cluster import Cluster

pytestmark = [pytest.mark.sandbox, pytest.mark.releases]


@pytest.fixture(scope="module", autouse=True)
def with_accounting(cluster: Cluster) -> Iterator[None]:
    """The cluster has accounting, and afterwards none again."""
    if problem := sandbox.obstacle(accounting=True, release=cluster.release):
        pytest.skip(problem)
    cluster.repair(accounting=True)
    yield
    cluster.repair()


@pytest.fixture
def slurmdbd_again(make_adapter: LiveSiteMaker, cluster: Cluster) -> Iterator[None]:
    """Afterwards slurmdbd and slurmctld run."""
    del make_adapter
    yield
    cluster.start_accounting()
    if not cluster.slurmctld.pids:
        cluster.slurmctld.start()


def is_forgotten(cluster: Cluster, slurm_id: str) -> bool:
    return cluster.run("scontrol", "show", "job", slurm_id).returncode != 0


def until_forgotten(cluster: Cluster, *records: Record) -> None:
    """Wait, without a pass, until slurmctld no longer knows these jobs."""
    for slurm_id in [str(record.slurm_id) for record in records]:
        cluster.wait_for(partial(is_forgotten, cluster, slurm_id))


def until_accounted(cluster: Cluster, record: Record, word: str) -> None:
    """Wait until sacct says so of a job."""
    show = ("sacct", "-XnPD", "-S", "1970-01-01", "-j", str(record.slurm_id), "-oState")
    cluster.wait_for(lambda: word in cluster.run(*show).stdout.decode())


def told(adapter: LiveSite, *records: Record) -> list[tuple[JobState, str]]:
    return [(new.state, new.status) for new in map(adapter.now, records)]


def test_a_job_that_its_user_renamed_is_known_by_its_sluid(adapter: LiveSite, cluster: Cluster) -> None:
    """Accounting tells its end though its own script could not; scripts know the SLUID from Slurm 26.05 on."""
    if release(read_client(cluster.ask("squeue", "--version"))) < (26, 5):
        pytest.skip("this Slurm tells a job's script no SLUID")
    [record] = adapter.start(adapter.shell(f"{UNTIL_TOLD}; kill -KILL $SLURM_TASK_PID"))
    cluster.ask("scontrol", "update", f"job={record.slurm_id}", "name=mine")
    adapter.tell(record)
    cluster.wait_end(str(record.slurm_id))
    [ended] = adapter.until_ended(record)
    assert (ended.state, ended.status) == (JobState.FAILURE, "Your job was ended by signal 9 (SIGKILL)")
    assert not adapter.file(record, "exit.json").exists()


@pytest.mark.scenario(55, 56)
@pytest.mark.edge_case(2)
def test_who_cancelled_a_job(adapter: LiveSite, cluster: Cluster) -> None:
    """Its user, the site, another user's name for the site, and the adapter; one that waits, too."""
    sleeps = adapter.shell("sleep 600")
    by_user, by_root, by_slurm, by_adapter = records = adapter.start(sleeps, sleeps, sleeps, sleeps)
    [waits] = adapter.submit(adapter.shell("sleep 600", begin="now+1hour"))
    for record in records:
        until_accounted(cluster, record, "RUNNING")
    cluster.ask("scancel", str(by_user.slurm_id))
    cluster.ask("scancel", str(by_root.slurm_id), str(waits.slurm_id), user="root")
    cluster.ask("scancel", str(by_slurm.slurm_id), user="slurm")
    adapter.cancel(by_adapter)
    adapter.until_ended(*records, waits)
    cancelled, by_site = "Your job was cancelled", "Your job was cancelled by the site"
    assert told(adapter, *records, waits) == [
        (JobState.SUCCESS, cancelled),
        (JobState.FAILURE, by_site),
        (JobState.FAILURE, by_site),
        (JobState.SUCCESS, cancelled),
        (JobState.FAILURE, by_site),
    ]


@pytest.mark.scenario(61, 62)
@pytest.mark.edge_case(7, 9, 11, 14)
@pytest.mark.usefixtures("short_memory")
@pytest.mark.long
def test_what_the_queue_has_forgotten_is_known_to_accounting(adapter: LiveSite, cluster: Cluster) -> None:
    """No exit record is left, and midnight lies between two passes: one pass tells how each of them ended."""
    sleeps = adapter.shell("sleep 600")
    well, badly, by_signal, by_user, by_root, overdue, moves = adapter.start(
        adapter.shell(f"{UNTIL_TOLD}; exit 0"),
        adapter.shell(f"{UNTIL_TOLD}; exit 3"),
        adapter.shell(f"{UNTIL_TOLD}; kill -KILL $SLURM_TASK_PID"),
        sleeps,
        sleeps,
        sleeps,
        adapter.shell("[ ! $SLURM_RESTART_COUNT ] || exit 4; sleep 600"),
    )
    [array] = adapter.submit(adapter.shell(f"{UNTIL_TOLD}; exit $SLURM_ARRAY_TASK_ID", application="tasks"))
    adapter.sync_until(lambda: adapter.now(array).state is JobState.RUNNING)
    for record in (by_user, by_root, overdue, moves):
        until_accounted(cluster, record, "RUNNING")
    midnight = int(time.time()) + 1
    cluster.ask("scontrol", "update", f"job={overdue.slurm_id}", "EndTime=now+1", user="slurm")
    for record in (well, badly, by_signal, array):
        adapter.tell(record)
    cluster.ask("scontrol", "requeue", str(moves.slurm_id))
    again = ("scontrol", "update", f"job={moves.slurm_id}", f"ExcNodeList={moves.nodes[0]}", "StartTime=now")
    cluster.wait_for(lambda: cluster.run(*again).returncode == 0)
    cluster.ask("scancel", str(by_user.slurm_id))
    cluster.ask("scancel", str(by_root.slurm_id), user="root")
    records = (well, badly, by_signal, by_user, by_root, overdue, moves, array)
    until_forgotten(cluster, *records)
    cluster.ask("sh", "-c", 'for folder; do rm -f "$folder"/exit*.json; done', "sh", *(r.folder for r in records))
    second = midnight % 86400
    zone = f"XXX{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
    done = adapter.run("sync", environment={"TZ": zone})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert told(adapter, *records) == [
        (JobState.SUCCESS, "Your job ended with exit code 0"),
        (JobState.FAILURE, "Your job failed with exit code 3"),
        (JobState.FAILURE, "Your job was ended by signal 9 (SIGKILL)"),
        (JobState.SUCCESS, "Your job was cancelled"),
        (JobState.FAILURE, "Your job was cancelled by the site"),
        (JobState.EXPIRED, "Your job reached its time limit"),
        (JobState.FAILURE, "Your job failed with exit code 4"),
        (JobState.FAILURE, "1 of 2 tasks: Your job failed with exit code 1"),
    ]
    for record in map(adapter.now, records):
        assert record.started is not None
        assert record.ended is not None
        assert record.created - 1 <= record.started <= record.ended <= time.time()


@pytest.mark.scenario(60)
@pytest.mark.edge_case(5, 7, 8)
@pytest.mark.usefixtures("short_memory", "slurmdbd_again")
def test_while_slurmdbd_is_away_nothing_is_guessed(make_adapter: LiveSiteMaker, cluster: Cluster) -> None:
    """The queue's words count; what it has forgotten, or does not know, stays; it is told once."""
    adapter = make_adapter(in_jobs='lost_after = "00:00:01"')
    well, badly, by_root, by_user, runs = records = adapter.start(
        adapter.shell(f"{UNTIL_TOLD}; exit 0"),
        adapter.shell(f"{UNTIL_TOLD}; exit 3"),
        *[adapter.shell("sleep 600")] * 3,
    )
    cluster.kill("slurmdbd")
    assert adapter.run("sync").returncode == 0, "all jobs run: nobody had to ask accounting"
    adapter.tell(well)
    adapter.tell(badly)
    cluster.ask("scancel", str(by_root.slurm_id), user="root")
    cluster.ask("scancel", str(by_user.slurm_id))
    until_forgotten(cluster, well, badly, by_root, by_user)
    passes = []
    for _ in range(3):
        passes.append(adapter.run("sync"))
        assert [adapter.now(record).state for record in records] == [JobState.RUNNING] * 5
        time.sleep(0.5)
    assert [done.returncode for done in passes] == [1, 1, 1]
    assert "could not ask Slurm's accounting" in passes[0].stderr
    assert "no job was changed without evidence" in passes[0].stderr
    assert [done.stderr for done in passes[1:]] == ["", ""]
    assert adapter.invoke("hosts").stdout.count("job-") >= 5
    cluster.start_accounting()
    for record, word in ((well, "COMPLETED"), (badly, "FAILED"), (by_root, "CANCELLED"), (by_user, "CANCELLED")):
        until_accounted(cluster, record, word)
    done = adapter.run("sync")
    assert (done.returncode, done.stderr) == (0, "slurm-adapter: syncs are complete again\n")
    assert told(adapter, *records) == [
        (JobState.SUCCESS, "Your job ended with exit code 0"),
        (JobState.FAILURE, "Your job failed with exit code 3"),
        (JobState.FAILURE, "Your job was cancelled by the site"),
        (JobState.SUCCESS, "Your job was cancelled"),
        (JobState.RUNNING, "Your job is running"),
    ]
    assert runs.id == records[-1].id


@pytest.mark.edge_case(8)
@pytest.mark.usefixtures("short_memory", "slurmdbd_again")
def test_accounting_that_lags_behind_takes_nothing_back(adapter: LiveSite, cluster: Cluster) -> None:
    """The queue has told the end, and forgotten it; accounting still says RUNNING: the state stays final."""
    ended, forgotten = adapter.start(*[adapter.shell(f"{UNTIL_TOLD}; exit 3")] * 2)
    until_accounted(cluster, ended, "RUNNING")
    until_accounted(cluster, forgotten, "RUNNING")
    cluster.kill("slurmdbd")
    adapter.tell(ended)
    [final] = adapter.until_ended(ended)
    adapter.tell(forgotten)
    until_forgotten(cluster, ended, forgotten)
    cluster.slurmctld.kill()  # accounting is told nothing more
    cluster.start_accounting()
    until_accounted(cluster, forgotten, "RUNNING")
    cluster.slurmctld.start()
    for _ in range(3):
        sync(adapter.site)
        assert adapter.now(ended) == final
        assert adapter.now(forgotten).state in {JobState.RUNNING, JobState.FAILURE}
    adapter.until_ended(forgotten)
    assert told(adapter, ended, forgotten) == [(JobState.FAILURE, "Your job failed with exit code 3")] * 2

"""What a pass makes of an outage: it changes nothing without evidence, says so once, and one pass mends everything.

Outages of slurmdbd are in `test_accounting_e2e.py`, for they need accounting.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.core.errors import TryAgain
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs.sync import sync
from slurm_adapter.sandbox import layout
from tests.adapter import UNTIL_TOLD
from tests.offline import Offline, offline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slurm_adapter.core.records import Record
    from tests.adapter import LiveSite, LiveSiteMaker
    from tests.sandbox_cluster import Cluster

__all__ = ["offline"]

sandbox = pytest.mark.sandbox
RECOVERED = "slurm-adapter: syncs are complete again\n"


@pytest.fixture
def repaired(make_adapter: LiveSiteMaker, cluster: Cluster) -> Iterator[None]:
    """Afterwards the cluster is up, before sites end their jobs."""
    del make_adapter
    yield
    cluster.repair()


def hosts_files(adapter: LiveSite) -> dict[str, bytes]:
    """Every hosts file on the shared file system, by its name."""
    return {path.name: path.read_bytes() for path in adapter.peers.iterdir() if path.is_file()}


def judged(adapter: LiveSite) -> list[Record]:
    """Return all that is known of jobs, but for what could not be learned of them."""
    return [record._replace(trouble="") for record in adapter.site.store.all(100)]


def passes_in_an_outage(adapter: LiveSite, *words: str, count: int = 2) -> None:
    """Passes as processes: each exits with 1, the first tells the words, no later one tells anything."""
    before = judged(adapter), hosts_files(adapter)
    done = [adapter.run("sync") for _ in range(count)]
    assert [(each.returncode, each.stdout) for each in done] == [(1, "")] * count, done
    first = done[0].stderr
    assert first.startswith("slurm-adapter: this sync is incomplete; no job was changed without evidence:\n"), first
    for word in words:
        assert word in first, first
    assert [each.stderr for each in done[1:]] == [""] * (count - 1)
    assert (judged(adapter), hosts_files(adapter)) == before


def one_pass_mends(adapter: LiveSite) -> None:
    """One pass tells that the outage is over; the next has nothing to tell."""
    done = adapter.run("sync")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", RECOVERED)


def start_three(adapter: LiveSite) -> tuple[Record, Record, Record]:
    """A job that will end well, one that names it and will fail, and one that runs on."""
    [well] = adapter.start(adapter.shell(f"{UNTIL_TOLD}; exit 0"))
    badly, runs = adapter.start(
        adapter.shell(f"echo up; {UNTIL_TOLD}; exit 3", peers={"database": well}), adapter.shell("sleep 600")
    )
    adapter.until_said(badly, "^up$")
    return well, badly, runs


def end_two(adapter: LiveSite, well: Record, badly: Record) -> None:
    """Let both end, which nobody sees."""
    for record in (well, badly):
        adapter.tell(record)
        adapter.cluster.wait_for(partial(adapter.output, record, "exit.json"))


def check_ends(adapter: LiveSite, well: Record, badly: Record, runs: Record) -> None:
    """What became of the three, and that the hosts files say so."""
    told = {record.id: (new.state, new.exit_code) for record in (well, badly, runs) if (new := adapter.now(record))}
    assert told == {
        well.id: (JobState.SUCCESS, 0),
        badly.id: (JobState.FAILURE, 3),
        runs.id: (JobState.RUNNING, None),
    }
    assert re.findall(r"job-(\d+)$", adapter.shared_block, re.MULTILINE) == [runs.id]


# Slurm's controller


@sandbox
@pytest.mark.scenario(60)
@pytest.mark.edge_case(25)
@pytest.mark.usefixtures("repaired")
def test_the_controller_is_away(adapter: LiveSite, cluster: Cluster) -> None:
    [record] = adapter.start(adapter.shell("sleep 600"))
    cluster.slurmctld.stop()
    passes_in_an_outage(adapter, "could not list Slurm's jobs", "Slurm's controller does not answer")
    refused = adapter.invoke("submit", "-", stdin=adapter.shell("true"))
    assert refused.exit_code == 75
    assert "Slurm does not answer, so nothing was submitted" in refused.output
    assert adapter.site.store.active() == [record]
    cluster.slurmctld.start()
    one_pass_mends(adapter)
    assert adapter.now(record) == record


@sandbox
@pytest.mark.long
@pytest.mark.scenario(60)
@pytest.mark.edge_case(25)
@pytest.mark.usefixtures("repaired")
def test_jobs_end_while_the_controller_is_away(adapter: LiveSite, cluster: Cluster) -> None:
    """Afterwards, too, it takes Slurm itself a minute to hear of the ends."""
    well, badly, runs = start_three(adapter)
    cluster.slurmctld.stop()
    passes_in_an_outage(adapter, "could not list Slurm's jobs", count=1)
    end_two(adapter, well, badly)
    done = adapter.run("sync")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", ""), "it was told already"
    assert adapter.now(well).state is JobState.RUNNING
    cluster.slurmctld.start()
    for record in (well, badly):
        cluster.wait_end(str(record.slurm_id), timeout=180)
    one_pass_mends(adapter)
    check_ends(adapter, well, badly, runs)


@sandbox
@pytest.mark.long
@pytest.mark.scenario(60)
@pytest.mark.edge_case(5, 25)
@pytest.mark.usefixtures("repaired")
def test_the_controller_stalls(adapter: LiveSite, cluster: Cluster) -> None:
    well, badly, runs = start_three(adapter)
    cluster.slurmctld.pause()
    passes_in_an_outage(adapter, "could not list Slurm's jobs", "timed out", count=1)
    end_two(adapter, well, badly)
    cluster.slurmctld.resume()
    for record in (well, badly):
        cluster.wait_end(str(record.slurm_id))
    one_pass_mends(adapter)
    check_ends(adapter, well, badly, runs)


# The way to the cluster


@sandbox
@pytest.mark.scenario(60, 86)
@pytest.mark.usefixtures("repaired")
def test_the_login_node_refuses_connections(make_adapter: LiveSiteMaker) -> None:
    adapter = make_adapter("ssh")
    well, badly, runs = start_three(adapter)
    adapter.cluster.sshd.stop()
    adapter.site.transport.close()
    passes_in_an_outage(adapter, "could not list Slurm's jobs", adapter.cluster.login.address, "refused")
    end_two(adapter, well, badly)
    adapter.cluster.sshd.start()
    one_pass_mends(adapter)
    check_ends(adapter, well, badly, runs)


# The shared file system


@pytest.fixture
def mounts(cluster: Cluster) -> Iterator[Callable[..., None]]:
    """Mounts something on the login node; what is still mounted afterwards is taken away."""
    made: list[str] = []

    def mount(*options: str, at: str) -> None:
        cluster.ask("mount", *options, at, user="root")
        made.append(at)

    yield mount
    for folder in reversed(made):
        cluster.run("umount", "--lazy", folder, user="root")


@sandbox
@pytest.mark.scenario(51)
def test_the_shared_file_system_is_read_only(adapter: LiveSite, cluster: Cluster, mounts: Callable[..., None]) -> None:
    """Jobs' states are Slurm's affair and go on; the hosts files stay as they were until they can be written."""
    well, badly, runs = start_three(adapter)
    shared = str(adapter.site.config.shared_dir)
    mounts("--bind", "--options=ro", shared, at=shared)
    before = hosts_files(adapter)
    end_two(adapter, well, badly)
    for record in (well, badly):
        cluster.wait_end(str(record.slurm_id))
    done = [adapter.run("sync") for _ in range(2)]
    assert [each.returncode for each in done] == [1, 1]
    assert f"could not write the hosts files: could not write {shared}/peers on the cluster" in done[0].stderr
    assert "Read-only file system" in done[0].stderr
    assert done[1].stderr == ""
    assert hosts_files(adapter) == before
    assert [adapter.now(record).state.final for record in (well, badly, runs)] == [True, True, False]
    cluster.ask("umount", shared, user="root")
    one_pass_mends(adapter)
    check_ends(adapter, well, badly, runs)


@sandbox
@pytest.mark.scenario(51)
def test_the_shared_file_system_is_full(
    make_adapter: LiveSiteMaker, cluster: Cluster, mounts: Callable[..., None]
) -> None:
    adapter = make_adapter()
    peers = adapter.site.peers_folder
    cluster.ask("mkdir", "-m", "755", peers, user="ucloud")
    mounts(
        "-t", "tmpfs", "-o", f"size=64k,mode=755,uid={layout.ADAPTER.uid},gid={layout.ADAPTER.uid}", "tmpfs", at=peers
    )
    [first] = adapter.start(adapter.shell("sleep 600"))
    cluster.run("sh", "-c", f"head -c 100000 /dev/zero >{peers}/ballast", user="ucloud")
    before = cluster.ask("cat", f"{peers}/hosts", user="ucloud")
    assert f"job-{first.id}" in before
    [second] = adapter.submit(adapter.shell("sleep 600"))
    cluster.wait_state(str(second.slurm_id), "RUNNING")
    done = [adapter.run("sync") for _ in range(2)]
    assert [each.returncode for each in done] == [1, 1]
    assert f"could not write the hosts files: could not write {peers} on the cluster" in done[0].stderr
    assert "No space left on device" in done[0].stderr
    assert done[1].stderr == ""
    assert adapter.now(second).state is JobState.RUNNING
    assert cluster.ask("cat", f"{peers}/hosts", user="ucloud") == before
    cluster.ask("rm", f"{peers}/ballast", user="ucloud")
    one_pass_mends(adapter)
    assert f"job-{second.id}" in cluster.ask("cat", f"{peers}/hosts", user="ucloud")


@sandbox
@pytest.mark.scenario(52)
def test_a_user_writes_into_no_hosts_file(adapter: LiveSite, cluster: Cluster) -> None:
    """Neither the shared file nor a view, his own included; his job's copy on a node is his, and only his."""
    [server] = adapter.start(adapter.shell("sleep 600"))
    poison = 'echo "10.0.0.1 database" >>"$UCLOUD_HOSTS_FILE" || echo not here; sleep 600'
    [own] = adapter.start(adapter.shell(poison, peers={"database": server}))
    ask = "getent hosts database"
    before = hosts_files(adapter)
    for name in before:
        for script in ('echo x >>"$1"', 'rm -f "$1"', 'mv -f "$1" "$1.old"', 'ln -sf /etc/passwd "$1"'):
            path = f"{adapter.site.peers_folder}/{name}"
            assert cluster.run("sh", "-c", script, "sh", path, user="alice").returncode != 0
    [other] = adapter.submit(adapter.shell(ask, peers={"database": server}))
    [output] = adapter.until_successful(other)
    assert output.split() == [server.addresses[0][0], "database"]
    assert adapter.view(own) == before[own.peers_file].decode()


# What this account may see


@pytest.fixture
def private(cluster: Cluster) -> Iterator[None]:
    """Slurm shows users their own jobs only."""
    path = cluster.layout.slurm / "slurm.conf"
    content = path.read_text()
    path.write_text(f"{content}PrivateData=jobs\n")
    cluster.ask("scontrol", "reconfigure", user="slurm")
    yield
    path.write_text(content)
    cluster.ask("scontrol", "reconfigure", user="slurm")


@sandbox
@pytest.mark.edge_case(6)
def test_jobs_that_this_account_may_not_see_are_not_lost(
    make_adapter: LiveSiteMaker, request: pytest.FixtureRequest
) -> None:
    adapter = make_adapter(in_jobs='lost_after = "00:00:01"')
    records = start_three(adapter)
    request.getfixturevalue("private")
    assert adapter.cluster.ask("squeue", "-h", "-a", "-t", "all", "-u", "alice", user="ucloud") == ""
    passes_in_an_outage(adapter, "3 jobs are not listed", "this account may not see others' jobs", count=1)
    for record in records:
        trouble = f"Slurm job {record.slurm_id} is not listed, and this account may not see others' jobs"
        assert adapter.now(record).trouble.startswith(trouble)
    time.sleep(1.5)
    done = adapter.run("sync")
    assert (done.returncode, done.stderr) == (1, "")
    assert [adapter.now(record).state for record in records] == [JobState.RUNNING] * 3


@sandbox
@pytest.mark.edge_case(6)
def test_jobs_that_this_account_may_not_see_end_by_their_records(
    make_adapter: LiveSiteMaker, request: pytest.FixtureRequest
) -> None:
    adapter = make_adapter()
    well, badly, runs = start_three(adapter)
    request.getfixturevalue("private")
    end_two(adapter, well, badly)
    done = adapter.run("sync")
    assert done.returncode == 1
    assert "this account may not see others' jobs" in done.stderr
    assert f"Slurm job {runs.slurm_id} is not listed" in adapter.now(runs).trouble
    check_ends(adapter, well, badly, runs)


# The adapter's own disk


@sandbox
@pytest.mark.scenario(88)
def test_the_adapters_disk_is_read_only(adapter: LiveSite) -> None:
    """Nothing is changed, here or in Slurm, and the message names the file; afterwards one pass has it all."""
    well, badly, runs = start_three(adapter)
    end_two(adapter, well, badly)
    for record in (well, badly):
        adapter.cluster.wait_end(str(record.slurm_id))
    state = adapter.site.config.state_dir
    before = hosts_files(adapter)
    adapter.site.close()
    vars(adapter.site).pop("store").close()
    subprocess.run(["mount", "--bind", "-o", "ro", state, state], check=True, timeout=10)
    try:
        specification = json.dumps(adapter.shell("true")).encode()
        for arguments in (("sync",), ("submit", "-"), ("cancel", runs.id)):
            done = adapter.run(*arguments, stdin=specification)
            assert done.returncode == 1, done
            assert done.stderr.startswith((f"error: {state}/", f"error: {state}:")), done.stderr
            assert re.search("read-?only", done.stderr, re.IGNORECASE), done.stderr
    finally:
        subprocess.run(["umount", state], check=True, timeout=10)
    assert hosts_files(adapter) == before
    assert adapter.cluster.show(str(runs.slurm_id))["JobState"] == "RUNNING"
    done = adapter.run("sync")
    assert (done.returncode, done.stderr) == (0, "")
    check_ends(adapter, well, badly, runs)


@sandbox
@pytest.mark.scenario(88)
def test_the_database_is_damaged(adapter: LiveSite) -> None:
    """Every command says which file it is and what helps, and touches neither Slurm nor a hosts file."""
    [runs] = adapter.start(adapter.shell("sleep 600"))
    adapter.site.close()
    vars(adapter.site).pop("store").close()
    path = adapter.site.config.state_dir / "jobs.sqlite"
    before = hosts_files(adapter)
    backup = path.with_suffix(".backup")
    with sqlite3.connect(path) as source:
        source.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    source.close()
    shutil.copy(path, backup)
    size = path.stat().st_size
    for place, junk in ((0, 4096), (4096, size - 4096), (0, 100)):
        content = bytearray(backup.read_bytes())
        content[place : place + junk] = b"\x5a" * junk
        path.write_bytes(content)
        for name in ("sync", "jobs"):
            done = adapter.run(name)
            assert done.returncode == 1, done
            assert str(path) in done.stderr, done.stderr
            assert "backup" in done.stderr, done.stderr
    assert hosts_files(adapter) == before
    assert adapter.cluster.show(str(runs.slurm_id))["JobState"] == "RUNNING"
    for rest in path.parent.glob("jobs.sqlite-*"):
        rest.unlink()
    shutil.copy(backup, path)
    assert adapter.run("sync").returncode == 0
    assert adapter.now(runs) == runs


@pytest.mark.scenario(88)
def test_another_process_holds_the_database(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that cannot remember what it decides does nothing, and may be repeated."""
    record = offline.run(offline.job())
    offline.slurm.finish(offline.slurm_id(record), 3)
    path = offline.config.state_dir / "jobs.sqlite"
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *words, **options: connect(*words, **(options | {"timeout": 0.1})))
    site = offline.open()
    assert site.store.get(record.id) == record
    with connect(path, isolation_level=None) as holder:
        holder.execute("BEGIN IMMEDIATE")
        shared = offline.shared
        with pytest.raises(TryAgain, match=f"{path}: another process holds the database; try again"):
            sync(site)
        assert (offline.shared, offline.now(record)) == (shared, record)
        holder.execute("ROLLBACK")
    holder.close()
    assert sync(site).problems == ()
    assert (offline.now(record).state, offline.now(record).exit_code) == (JobState.FAILURE, 3)
    site.close()


# Restarts


@pytest.mark.scenario(87)
def test_five_hundred_jobs_are_taken_up_again(offline: Offline) -> None:
    """Some wait, some run, some ended meanwhile and were forgotten: one pass of a new process knows of all."""
    records = [record for _ in range(5) for record in offline.submit(*[offline.item() for _ in range(100)])]
    for record in records[:300]:
        offline.fence(record, offline.slurm_id(record))
        offline.slurm.start(offline.slurm_id(record))
    assert offline.sync().problems == ()
    for number, record in enumerate(records[:200]):
        code = number % 2
        offline.record_exit(record, code)
        offline.slurm.finish(offline.slurm_id(record), code)
        if number >= 100:
            offline.slurm.purge(offline.slurm_id(record))
    offline.site.close()
    offline.site = offline.open()
    report = offline.sync()
    assert (report.problems, report.submitted, report.cancelled) == ((), (), ())
    states = [offline.now(record).state for record in records]
    assert states[:200] == [JobState.SUCCESS, JobState.FAILURE] * 100
    assert states[200:] == [JobState.RUNNING] * 100 + [JobState.IN_QUEUE] * 200
    assert offline.sync().changed == ()
    assert len(offline.slurm.submissions) == 500


@sandbox
@pytest.mark.scenario(87)
def test_jobs_of_a_real_cluster_are_taken_up_again(adapter: LiveSite) -> None:
    """Thirty: by a new process, one pass, no second Slurm job."""
    runs = adapter.submit(*[adapter.shell(f"{UNTIL_TOLD}; exit 3")] * 15)
    waits = adapter.submit(*[adapter.shell("true", begin="now+1hour")] * 15)
    adapter.until_running(*runs)
    for record in runs[:10]:
        adapter.tell(record)
    for record in runs[:10]:
        adapter.cluster.wait_end(str(record.slurm_id))
    done = adapter.run("sync")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    states = [adapter.now(record).state for record in (*runs, *waits)]
    assert states == [JobState.FAILURE] * 10 + [JobState.RUNNING] * 5 + [JobState.IN_QUEUE] * 15
    assert adapter.traces[2] == sorted(record.slurm_name for record in (*runs, *waits))

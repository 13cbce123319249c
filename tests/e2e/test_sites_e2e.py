"""Sites unlike the sandbox, made of it: other names of accounts, warnings of Slurm's commands, nodes that are away."""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs import cancel
from slurm_adapter.jobs.sync import sync

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.adapter import LiveSite
    from tests.sandbox_cluster import Cluster

pytestmark = pytest.mark.sandbox

OTHER_NAME = "alice-corp:x:7701:7701::/srv/home/alice:/bin/bash\n"


@pytest.fixture
def two_names(cluster: Cluster) -> Iterator[None]:
    """Give the account of alice a second name, which Slurm's commands print."""
    files = [node.etc / "passwd" for node in (cluster.login, *cluster.nodes)]
    texts = [file.read_text() for file in files]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text.replace("alice:", f"{OTHER_NAME}alice:", 1))
    yield
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)


@pytest.fixture
def slurm_conf(cluster: Cluster) -> Iterator[Path]:
    """Return the file, which is as it was afterwards."""
    file = cluster.layout.root / "slurm" / "slurm.conf"
    text = file.read_text()
    yield file
    file.write_text(text)


@pytest.mark.usefixtures("two_names")
def test_two_names_with_one_uid(adapter: LiveSite, cluster: Cluster) -> None:
    """Two passwd lines with one uid: configured `alice`, squeue prints `alice-corp`."""
    [job] = adapter.start(adapter.shell("sleep 600"))
    assert cluster.ask("squeue", "-h", "-j", str(job.slurm_id), "-o", "%u", user="ucloud") == "alice-corp"
    cancel.cancel(adapter.site, [job.id])
    cluster.wait_state(str(job.slurm_id), "CANCELLED")
    [ended] = adapter.until_ended(job)
    assert ended.state is JobState.SUCCESS
    [failed] = adapter.until_ended(*adapter.submit(adapter.shell("exit 3")))
    assert (failed.state, failed.exit_code) == (JobState.FAILURE, 3)


@contextmanager
def stopped(cluster: Cluster, user: str) -> Iterator[None]:
    """Stop each process of an account on the login node, as `while :; do kill -STOP -1; done` does there."""
    uid, network = int(cluster.ask("id", "-u", user=user)), cluster.ask("readlink", "/proc/self/ns/net", user=user)
    over = threading.Event()

    def signal_all(number: signal.Signals) -> None:
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if process.stat().st_uid == uid and str((process / "ns/net").readlink()) == network:
                    os.kill(int(process.name), number)

    def keep_stopped() -> None:
        while not over.is_set():
            signal_all(signal.SIGSTOP)

    thread = threading.Thread(target=keep_stopped)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        signal_all(signal.SIGCONT)


def test_processes_of_one_account_that_are_stopped_hold_up_nobody(adapter: LiveSite, cluster: Cluster) -> None:
    """A look into her folders cost everybody 60 seconds."""
    for _ in range(10):  # a look that has ended before it was stopped proves nothing
        [hers], [his] = (adapter.start(adapter.shell("sleep 600"), user=user) for user in ("alice", "bob"))
        cancel.cancel(adapter.site, [hers.id, his.id])
        for record in (hers, his):
            cluster.wait_end(str(record.slurm_id))
        with stopped(cluster, "alice"):
            assert sync(adapter.site).problems == ()
            assert adapter.now(his).state is JobState.SUCCESS
            adapter.until_ended(*adapter.submit(adapter.shell("true"), user="bob"))
        if adapter.now(hers).trouble:
            break
    assert "did not end within" in adapter.now(hers).trouble
    adapter.until_ended(*adapter.submit(adapter.shell("true")))


def test_a_slurm_conf_that_makes_every_command_warn(
    adapter: LiveSite, cluster: Cluster, slurm_conf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`Sockets=2 CoresPerSocket=3 CPUs=64`: commands print an error, exit with 0, and answer right."""
    slurm_conf.write_text(slurm_conf.read_text().replace("CPUs=64", "Sockets=2 CoresPerSocket=3 CPUs=64", 1))
    assert "Resetting CPUs" in cluster.run("squeue", user="ucloud").stderr.decode()
    with caplog.at_level(logging.WARNING):
        [job] = adapter.start(adapter.shell("sleep 600"))
        assert adapter.site.scheduler.longest([job.slurm_id or 0]) != {}
        cancel.cancel(adapter.site, [job.id])
        [ended] = adapter.until_ended(job)
    assert ended.state is JobState.SUCCESS
    warned = [record.getMessage() for record in caplog.records if "Resetting CPUs" in record.getMessage()]
    assert len(warned) == len(set(warned)) == 1


def test_nodes_that_are_away_have_names_that_no_peer_may_have(
    adapter: LiveSite, cluster: Cluster, slurm_conf: Path
) -> None:
    """Powered-down CLOUD nodes, hidden by a plain `scontrol show node`."""
    text = slurm_conf.read_text()
    away = (
        "NodeName=cloud[1-2] CPUs=4 RealMemory=1000 State=CLOUD\n"
        "NodeName=later1 CPUs=4 RealMemory=1000 State=FUTURE\n"
        "PartitionName=cloud Nodes=cloud[1-2] Hidden=YES State=UP\n"
    )
    power = "SuspendProgram=/bin/true\nResumeProgram=/bin/true\nSuspendTime=3600\nSuspendExcNodes=node[001-003]\n"
    [server] = adapter.submit(adapter.shell("sleep 600"))
    try:
        slurm_conf.write_text(text.replace("PartitionName=main", f"{away}PartitionName=main", 1) + power)
        cluster.slurmctld.stop()
        cluster.slurmctld.start()
        cluster.wait_for(lambda: cluster.run("scontrol", "ping").returncode == 0)
        nodes = adapter.site.scheduler.nodes()
        assert {"node001", "cloud1", "cloud2", "later1"} <= set(nodes)
        for name in ("cloud1", "cloud2", "later1"):
            resource = {"type": "peer", "hostname": name, "jobId": server.id}
            specification = {**adapter.shell("true"), "resources": [resource]}
            with pytest.raises(InvalidInput, match=name):
                adapter.submit(specification)
    finally:
        slurm_conf.write_text(text)
        cluster.slurmctld.stop()
        cluster.slurmctld.start()
        cluster.wait_for(lambda: cluster.run("scontrol", "ping").returncode == 0)
    cancel.cancel(adapter.site, [server.id])

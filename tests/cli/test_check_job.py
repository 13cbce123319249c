"""`check --job` submits probes on the program's own path, says which step failed, and leaves nothing behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.cli.check import probe
from slurm_adapter.core.records import Stage
from slurm_adapter.jobs import probes
from slurm_adapter.jobs.sync import sync

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.sandbox.configuration import Identity, Transport
    from tests.adapter import LiveSite, LiveSiteMaker
    from tests.sandbox_cluster import Cluster

pytestmark = pytest.mark.sandbox


def keep_only(adapter: LiveSite, partition: str) -> None:
    """Leave one machine, in this partition, in the configuration."""
    text = adapter.config_file.read_text()
    tables = re.findall(r"^\[machines\.[^\n]*\n(?:[a-z_]+ = [^\n]*\n)+\n?", text, re.MULTILINE)
    wanted = next(table for table in tables if f'partition = "{partition}"' in table)
    for table in tables:
        if table != wanted:
            text = text.replace(table, "")
    adapter.config_file.write_text(text)


def probed(adapter: LiveSite, *options: str) -> list[tuple[str, str]]:
    """Return level and text of each finding about probes. Assert that the probes are removed."""
    result = adapter.invoke("check", "--job", "--json", *options)
    found = [(each["level"], each["text"]) for each in json.loads(result.stdout)]
    said = [(level, text) for level, text in found if re.search(r"partition \w+.*?: |the probe jobs", text)]
    assert adapter.traces[:2] == ([], [])
    assert gone(adapter)
    assert said[-1] == ("ok", "the probe jobs were removed, with their folders and records")
    return said


def gone(adapter: LiveSite) -> bool:
    """Return whether no probe has left a record, a hosts file or a Slurm job."""
    token = adapter.site.store.instance
    live = adapter.cluster.ask("squeue", "-h", "-o", "%j", user="ucloud").split()
    return (
        not adapter.site.store.of_application(f"{probes.NAME} {probes.VERSION}")
        and not [name for name in live if name.startswith(token)]
        and {path.name for path in adapter.peers.iterdir()} <= {"hosts", "hosts.lock", ".lock"}
        and not any(b"job-" in path.read_bytes() for path in adapter.peers.glob("hosts"))
    )


def problems(found: list[tuple[str, str]]) -> list[str]:
    return [text for level, text in found if level == "problem"]


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("node001 lacks programs that a job with names needs: tail | srun: error", "install tail on the nodes"),
        ("batch.sh: 93: awk: not found", "install awk on the nodes"),
        (
            "batch.sh: line 93: /usr/bin/xargs: Permission denied",
            "make /usr/bin/xargs executable for all users on the nodes",
        ),
        (
            "nsenter: unrecognized option '--preserve-credentials'",
            "nsenter on the nodes is too old; install a newer one",
        ),
        ("names did not come to node002 in 120 seconds", "mount the file system of jobs.folder on every node"),
        (
            "the names of this job's peers are not seen on node001",
            "mount the file system of `shared_dir` on every node",
        ),
        ("Your job was ended by SIGKILL", "see the messages of slurmd and slurmctld"),
    ],
)
def test_the_fix_for_what_a_probe_said(said: str, fix: str) -> None:
    assert probe.find_fix(said, probe.FAILURES).startswith(fix)


@pytest.mark.parametrize("identity", ["sudo", "service"])
@pytest.mark.parametrize("transport", ["local", "ssh"])
def test_a_good_site(make_adapter: LiveSiteMaker, transport: Transport, identity: Identity) -> None:
    adapter = make_adapter(transport, identity)
    found = probed(adapter)
    assert {level for level, _ in found} == {"ok", "note"}
    text = "\n".join(text for _, text in found)
    for partition in ("main", "scavenge"):
        assert re.search(rf"partition {partition}: job \d+ runs on node\d+, node\d+", text)
        for step in ("HOME", "temporary files", "the folder of the hosts files", "drives", "programs"):
            assert re.search(rf"partition {partition}: {step}: good on node\d+, node\d+", text), text
        for step in ("names of jobs", "the network between jobs"):
            assert re.search(rf"partition {partition}: {step}: good on node\d+, node\d+", text), text


def test_as_another_user(adapter: LiveSite) -> None:
    keep_only(adapter, "main")
    assert ("note", "partition main: trying 2 nodes as bob (user bob)") in probed(adapter, "--user", "bob")
    result = adapter.invoke("check", "--job", "--user", "nobody")
    assert (result.exit_code, "user 'nobody' has no account on this cluster" in result.output) == (1, True)
    assert adapter.invoke("check", "--user", "bob").exit_code == 2


@contextmanager
def mounted(cluster: Cluster, node: str, *words: str) -> Iterator[None]:
    """Mount something on a node inside the block."""
    cluster.ask("mount", *words, user="root", node=node)
    try:
        yield
    finally:
        cluster.ask("umount", "-l", words[-1], user="root", node=node)


@contextmanager
def changed(cluster: Cluster, words: str, back: str) -> Iterator[None]:
    """Change something in Slurm inside the block."""
    cluster.ask("scontrol", "update", *words.split(), user="slurm")
    try:
        yield
    finally:
        cluster.ask("scontrol", "update", *back.split(), user="slurm")


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.long), 2])
def test_a_node_without_the_shared_folder(adapter: LiveSite, cluster: Cluster, number: int) -> None:
    """The first node runs the script, the second a step, and the third the job with a peer."""
    keep_only(adapter, "main")
    node = cluster.nodes[number].name
    with mounted(cluster, node, "-t", "tmpfs", "tmpfs", str(cluster.shared)):
        [problem] = problems(probed(adapter))
    assert node in problem
    assert "To fix it: mount the file system of jobs.folder on every node" in problem


def test_a_node_without_a_way_to_give_names(adapter: LiveSite, cluster: Cluster) -> None:
    """Without user namespaces, and without bubblewrap and libnss-wrapper."""
    keep_only(adapter, "main")
    adapter.config_file.write_text(adapter.config_file.read_text() + '[peers]\nmethods = ["unshare", "bwrap"]\n')
    node = cluster.nodes[1].name
    with (
        mounted(cluster, node, "--bind", "/bin/false", "/usr/bin/unshare"),
        mounted(cluster, node, "--bind", "/bin/false", "/usr/bin/bwrap"),
    ):
        [problem] = problems(probed(adapter))
    assert f"no method works that gives the job its names on {node}: unshare: " in problem
    assert "To fix it: allow unprivileged user namespaces there" in problem


OLD = "#!/bin/sh\necho \"nsenter: unrecognized option '$5'\" >&2\nexit 1\n"


@pytest.mark.parametrize(
    ("tool", "content", "says"),
    [
        ("nsenter", OLD, "nsenter"),
        ("xargs", "", "xargs"),
    ],
)
def test_a_tool_that_is_missing_or_old(adapter: LiveSite, cluster: Cluster, tool: str, content: str, says: str) -> None:
    keep_only(adapter, "main")
    adapter.config_file.write_text(adapter.config_file.read_text() + '[peers]\nmethods = ["unshare"]\n')
    node = cluster.nodes[0].name
    fake = cluster.ask("mktemp", user="root", node=node)
    cluster.ask("tee", fake, user="root", node=node, stdin=content.encode())
    cluster.ask("chmod", "755" if content else "644", fake, user="root", node=node)
    with mounted(cluster, node, "--bind", fake, f"/usr/bin/{tool}"):
        found = problems(probed(adapter))
    cluster.ask("rm", fake, user="root", node=node)
    assert any(says in each and node in each for each in found), found
    assert any(re.search("install|make .* executable", each.lower()) for each in found), found


@contextmanager
def in_hosts(cluster: Cluster, lines: str, *nodes: str) -> Iterator[None]:
    """Add lines to the /etc/hosts of nodes inside the block."""
    before = {node: cluster.ask("cat", "/etc/hosts", node=node) + "\n" for node in nodes}
    for node, text in before.items():
        cluster.ask("tee", "/etc/hosts", user="root", node=node, stdin=(text + lines).encode())
    try:
        yield
    finally:
        for node, text in before.items():
            cluster.ask("tee", "/etc/hosts", user="root", node=node, stdin=text.encode())


@pytest.mark.parametrize("resolves", [False, True])
def test_nodes_that_do_not_reach_each_other(adapter: LiveSite, cluster: Cluster, *, resolves: bool) -> None:
    """Their names resolve only on the login node, or to unreachable addresses."""
    keep_only(adapter, "main")
    adapter.config_file.write_text(adapter.config_file.read_text() + '[peers]\naddress = "{node}-ib0"\n')
    names = [node.name for node in cluster.nodes]
    lines = "".join(f"192.0.2.{number} {name}-ib0\n" for number, name in enumerate(names, start=1))
    with in_hosts(cluster, lines, cluster.login.name, *(names if resolves else [])):
        found = problems(probed(adapter))
    assert any("partition main: the network between jobs: " in each for each in found), found
    assert any(re.search(r"node\d+: probe-1 \(192\.0\.2\.\d\): Network is unreachable", each) for each in found)
    assert all("peers.address" in each for each in found)
    assert any(re.search(r"node\d+: job-\d+-\d does not resolve", each) for each in found) != resolves


def test_an_account_without_a_folder_for_jobs(adapter: LiveSite, cluster: Cluster) -> None:
    keep_only(adapter, "main")
    folder = adapter.site.config.jobs.folder.replace("{user}", "alice").rsplit("/", 1)[0]
    cluster.ask("rmdir", folder)
    result = adapter.invoke("check", "--job", "--json")
    cluster.ask("mkdir", "-m", "700", folder)
    found = [each["text"] for each in json.loads(result.stdout) if each["level"] == "problem"]
    [problem] = [text for text in found if "partition main: submit: " in text]
    assert "could not be made as alice" in problem
    assert "To fix it: create the folder of jobs as the account" in problem
    assert gone(adapter)


def test_a_partition_that_is_down(adapter: LiveSite, cluster: Cluster) -> None:
    with changed(cluster, "PartitionName=scavenge State=DOWN", "PartitionName=scavenge State=UP"):
        found = probed(adapter)
    assert problems(found) == ["partition scavenge: the partition is DOWN; no job was submitted to it"]
    assert any(text.startswith("partition main: names of jobs: good") for _, text in found)


def test_a_partition_that_the_account_may_not_use(adapter: LiveSite, cluster: Cluster) -> None:
    keep_only(adapter, "scavenge")
    with changed(cluster, "PartitionName=scavenge AllowGroups=root", "PartitionName=scavenge AllowGroups=ALL"):
        [problem] = problems(probed(adapter))
    assert problem.startswith("partition scavenge: ")
    assert "To fix it: allow the account to use the partition" in problem


def test_a_partition_that_is_full(adapter: LiveSite, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a warning only, and `check` does not wait long."""
    keep_only(adapter, "main")
    monkeypatch.setattr(probe, "START_SECONDS", 3.0)
    hog = cluster.submit("sleep 300", "--nodes=3", "--exclusive", "--partition=main", user="bob")
    cluster.wait_state(hog, "RUNNING")
    try:
        found = probed(adapter)
    finally:
        cluster.ask("scancel", hog, user="bob")
    [warning] = [text for level, text in found if level == "warning"]
    assert re.search(
        r"job \d+ did not start within 3 s: Your job waits in the queue.*If the partition is full", warning
    )
    assert not problems(found)


def start(adapter: LiveSite) -> subprocess.Popen[str]:
    """Start `check` as a process, and return when its first probe runs."""
    command = [sys.executable, "-m", "slurm_adapter", "--config", str(adapter.config_file), "check", "--job"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if " runs on " in line:
            return process
    raise AssertionError("no probe ran")


def test_ctrl_c_leaves_nothing_behind(adapter: LiveSite) -> None:
    keep_only(adapter, "main")
    process = start(adapter)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=90)
    assert process.returncode == 1
    assert gone(adapter)


@pytest.mark.parametrize("who", ["check", "sync"])
def test_the_next_check_or_sync_removes_probes_of_a_killed_check(adapter: LiveSite, who: str) -> None:
    keep_only(adapter, "main")
    process = start(adapter)
    process.kill()
    process.communicate(timeout=30)
    left: list[Any] = adapter.site.store.of_application(f"{probes.NAME} {probes.VERSION}")
    assert left
    folders = [adapter.file(record, ".") for record in left]
    if who == "check":
        assert not problems(probed(adapter))
    else:
        sync(adapter.site)
        assert adapter.site.store.of_application(f"{probes.NAME} {probes.VERSION}")  # its check may be at work
        adapter.site.store.set_fact("probes since", str(adapter.site.clock() - probes.LEFT_SECONDS - 1))
        adapter.sync_until(lambda: gone(adapter))
    assert not [folder for folder in folders if folder.exists()]
    assert adapter.site.store.fact("probes since") is None


def test_two_checks_at_once(adapter: LiveSite) -> None:
    keep_only(adapter, "main")
    with adapter.site.probe_lock() as ours:
        assert ours
        result = adapter.invoke("check", "--job")
    assert "another `check --job` is running" in result.output
    assert not [record for record in adapter.site.store.all(10) if record.stage is not Stage.ENDED]

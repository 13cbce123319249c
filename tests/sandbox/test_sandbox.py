"""The sandbox is a real cluster for jobs and the adapter, and can be repaired."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Literal, cast

import pytest

from slurm_adapter import sandbox
from slurm_adapter.core.errors import Refused, TryAgain
from slurm_adapter.local.configuration_file import load_config
from slurm_adapter.sandbox import cluster as making
from slurm_adapter.sandbox import layout, packages, processes, releases, settings
from slurm_adapter.sandbox.layout import layout_of
from tests.sandbox_cluster import installed, notes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sandbox_cluster import Cluster


def up(cluster: Cluster) -> list[str]:
    """Return the command that starts the tests' sandbox."""
    release = ["--release", cluster.release] if cluster.release else []
    return [sys.executable, "-m", "slurm_adapter", "sandbox", "up", "--name", cluster.layout.name, *release]


def quiet(_line: object) -> None:
    pass


def program(folder: Path, name: str) -> Path:
    """Return a program that sleeps, with the name of a daemon."""
    return Path(shutil.copy("/bin/sleep", folder / name))


def own_pids(cluster: Cluster) -> set[int]:
    return {process.pid for process in processes.own(cluster.layout)}


def status(cluster: Cluster) -> sandbox.SandboxStatus:
    return sandbox.status(cluster.layout.name)


def everything_is_killed(cluster: Cluster) -> bool:
    """Kill all processes. Return whether there were none; a process that started meanwhile needs another call."""
    pids = own_pids(cluster)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return not pids


@pytest.fixture
def crash(cluster: Cluster) -> Iterator[None]:
    """Afterwards everything is up, and jobs that Slurm still believes in are gone.

    slurmctld writes its state some seconds late: killed, it may forget a job, or its end.
    """
    yield
    cluster.repair()
    cluster.ask("scancel", "--me")


def test_it_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Refused, match="run it as root"):
        sandbox.up(say=quiet)
    with pytest.raises(Refused, match="run it as root"):
        sandbox.install(quiet)


def test_it_needs_debian_or_ubuntu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(Refused, match="Debian 12"):
        sandbox.up(say=quiet)


def test_accounts_of_the_nodes_replace_accounts_of_the_machine_with_the_same_name_or_number() -> None:
    theirs = (
        "root:x:0:0::/root:/bin/sh",
        "slurm:x:500:500::/:/bin/sh",
        "x:x:7701:7701::/:/bin/sh",
        "eve:x:1000:1::/:/bin/sh",
    )
    lines = settings.passwd("\n".join(theirs)).splitlines()
    assert "root:x:0:0::/root:/bin/sh" in lines
    assert [line for line in lines if line.startswith("slurm:")] == [
        "slurm:x:64030:64030::/nonexistent:/usr/sbin/nologin"
    ]
    assert not [line for line in lines if line.startswith(("x:", "eve:"))]
    assert [line for line in lines if ":7701:" in line] == ["alice:x:7701:7701::/srv/home/alice:/bin/bash"]


def test_a_package_that_is_not_there_is_found_missing() -> None:
    if not shutil.which("dpkg-query"):
        pytest.skip("no dpkg here")
    assert packages.missing_packages(["dpkg", "no-such-package-at-all"]) == ("no-such-package-at-all",)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder for roots, on a machine without sandboxes."""
    monkeypatch.setattr(releases, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(releases, "BASE", tmp_path / "sandbox")
    return tmp_path / "cache"


def build(monkeypatch: pytest.MonkeyPatch, text: str = "", problem: str = "") -> None:
    """Replace the build of a root by one that only writes a text, or fails."""

    def build(_release: str, root: Path, *_: object) -> None:
        (root / "etc/apt/apt.conf.d").mkdir(parents=True)
        (root / "etc/apt/apt.conf.d/00machine").write_text("")
        (root / "text").write_text(text)
        if problem:
            raise TryAgain(problem)

    monkeypatch.setattr(releases, "_build", build)


def grow_old(root: Path) -> None:
    os.utime(root / "etc/apt/apt.conf.d/00machine", (0, 0))


def test_a_root_is_made_once_and_anew_if_it_is_old(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, wanted in (("first", "first"), ("second", "first")):
        build(monkeypatch, text)
        releases.make("sid", quiet)
        assert (cache / "sid/text").read_text() == wanted
    grow_old(cache / "sid")
    releases.make("sid", quiet)
    assert (cache / "sid/text").read_text() == "second"
    assert [path.name for path in cache.iterdir()] == ["sid"]


def test_a_root_in_use_is_never_made_anew_or_removed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(monkeypatch, "first")
    releases.make("sid", quiet)
    grow_old(cache / "sid")
    record = cache.parent / "sandbox-x" / "sandbox.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"wishes": asdict(settings.Wishes(release="sid"))}))
    build(monkeypatch, "second")
    releases.make("sid", quiet)
    with pytest.raises(Refused, match=rf"in use by {record.parent}: remove these sandboxes first"):
        releases.purge(quiet)
    assert (cache / "sid/text").read_text() == "first"
    record.unlink()
    releases.purge(quiet)
    assert not cache.exists()


def test_a_root_that_comes_into_use_at_the_same_time_is_not_removed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`up` records the root that it uses, then checks that it exists. `purge` renames roots, then reads the records."""
    build(monkeypatch, "first")
    releases.make("sid", quiet)
    user = cache.parent / "sandbox-x"

    def users(release: str) -> list[Path]:
        with pytest.raises(TryAgain, match="the root of sid was removed at the same time"):
            releases.must_be_there(release)
        return [user]

    monkeypatch.setattr(releases, "_users", users)
    with pytest.raises(Refused, match=f"in use by {user}"):
        releases.purge(quiet)
    releases.must_be_there("sid")
    assert [path.name for path in cache.iterdir()] == ["sid"]


def test_the_last_good_root_is_used_if_its_release_is_broken(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(monkeypatch, problem="the root of sid could not be built")
    with pytest.raises(TryAgain, match="the root of sid could not be built"):
        releases.make("sid", quiet)
    assert not [*cache.iterdir()]
    build(monkeypatch, "good")
    releases.make("sid", quiet)
    grow_old(cache / "sid")
    build(monkeypatch, problem="the root of sid could not be built")
    lines: list[str] = []
    releases.make("sid", lines.append)
    assert lines[-1] == "note: the root of sid could not be built. The root of 1970-01-01 is used instead"
    assert [path.name for path in cache.iterdir()] == ["sid"]


@pytest.mark.usefixtures("cache")
def test_a_root_needs_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 30))
    with pytest.raises(Refused, match=r"has 1024 MiB free; a root of sid needs 3072 MiB"):
        releases.make("sid", quiet)


def test_tests_of_a_broken_sid_run_on_forky_and_of_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The release that CI needs must work. sid changes every day and may be broken, which is reported."""

    def install(_say: object, *, release: str) -> None:
        if release != "forky":
            raise TryAgain(f"the root of {release} could not be built")

    monkeypatch.setattr(sandbox, "install", install)
    config = cast("pytest.Config", SimpleNamespace(stash=pytest.Stash()))
    assert installed(config, "sid") == "forky"
    assert notes(config) == ["note: the root of sid could not be built. Its tests ran on forky instead"]
    with pytest.raises(TryAgain, match="the root of trixie"):
        installed(config, "trixie")


def test_an_invalid_name_is_refused() -> None:
    with pytest.raises(Refused, match=r"'\.\./x' is not a sandbox's name: use 1 to 20 characters of a-z, 0-9 and '-'"):
        sandbox.status("../x")
    with pytest.raises(Refused, match=r"'\.\.' is not a release: give a code name like trixie or sid"):
        sandbox.install(quiet, release="..")
    assert releases.canonical(releases.own_release()) == ""


@pytest.mark.sandbox
def test_a_second_up_leaves_everything_alone(cluster: Cluster) -> None:
    cluster.repair()
    job = cluster.submit("sleep 60")
    cluster.wait_state(job, "RUNNING")
    before = own_pids(cluster)
    lines: list[str] = []
    assert sandbox.up(name=cluster.layout.name, say=lines.append) == cluster.layout.config
    assert before <= own_pids(cluster)
    assert lines == ["the sandbox is already up"]
    assert cluster.show(job)["JobState"] == "RUNNING"
    cluster.ask("scancel", job)


@pytest.mark.sandbox
def test_status_says_up(cluster: Cluster) -> None:
    cluster.repair()
    found = status(cluster)
    assert found.state == "up"
    assert not found.reasons
    assert [node.name for node in found.nodes] == ["login", "node001", "node002", "node003"]
    assert all(daemon.pid for daemon in found.daemons)


@pytest.mark.sandbox
@pytest.mark.usefixtures("crash")
def test_status_names_what_is_missing(cluster: Cluster) -> None:
    cluster.slurmd(cluster.nodes[1]).kill()
    found = status(cluster)
    assert found.state == "partly"
    assert found.reasons == ("not running: slurmd on node002",)
    cluster.repair()
    assert status(cluster).state == "up"


@pytest.mark.sandbox
@pytest.mark.parametrize("name", ["slurmctld", "slurmd", "munged"])
def test_it_refuses_beside_a_daemon_that_is_not_its_own(name: str, tmp_path: Path, cluster: Cluster) -> None:
    with subprocess.Popen([program(tmp_path, name), "60"]) as stranger:
        try:
            with pytest.raises(Refused, match=rf"runs {name} \(pid {stranger.pid}\)"):
                cluster.repair()
        finally:
            stranger.kill()
    assert status(cluster).state == "up"


@pytest.mark.sandbox
@pytest.mark.parametrize("name", ["slurmctld", "slurmd", "munged"])
def test_a_daemon_of_another_container_is_left_alone(name: str, tmp_path: Path, cluster: Cluster) -> None:
    """It is in another pid namespace, with this sandbox's mark, like a container that has a sandbox."""
    contained = ["unshare", "--pid", "--net", "--fork", "--kill-child", "env", cluster.layout.mark]
    with subprocess.Popen([*contained, program(tmp_path, name), "600"]) as container:
        children = Path(f"/proc/{container.pid}/task/{container.pid}/children")
        (pid,) = cluster.wait_for(lambda: children.read_text().split())
        cluster.wait_for(lambda: Path(f"/proc/{pid}/comm").read_text().strip() == name)
        try:
            assert status(cluster).state == "up"
            cluster.repair()
            assert int(pid) in {process.pid for process in processes.living()}
            assert int(pid) not in own_pids(cluster)
            assert int(pid) not in processes.on_node(cluster.login, name)
        finally:
            container.kill()


@pytest.mark.sandbox
def test_down_ends_marked_processes_of_this_machine_and_no_others(tmp_path: Path, cluster: Cluster) -> None:
    """The others are in another pid namespace, or see another file system at the sandbox's path, like containers."""
    gone = replace(cluster.layout, name=f"test-{os.getpid()}")
    sleep = ["env", gone.mark, str(program(tmp_path, "slurmd")), "600"]
    elsewhere = 'mount -t tmpfs tmpfs /var/lib; mkdir -p "$1"; shift; exec "$@"'
    contained = ["unshare", "--mount", "sh", "-c", elsewhere, "sh", str(gone.root), *sleep]
    with (
        subprocess.Popen(sleep) as left,
        subprocess.Popen(contained) as beside,
        subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", *sleep]) as below,
    ):
        everyone = (left, beside, below)
        try:
            cluster.wait_for(
                lambda: sum(p.name == "slurmd" and p.pid > left.pid - 1 for p in processes.living()) >= len(everyone)
            )
            sandbox.down(quiet, name=gone.name)
            assert [process.poll() for process in everyone] == [-signal.SIGKILL, None, None]
        finally:
            for process in everyone:
                process.kill()


@pytest.mark.sandbox
def test_a_zombie_is_not_a_running_daemon(tmp_path: Path, cluster: Cluster) -> None:
    with subprocess.Popen(["env", cluster.layout.mark, program(tmp_path, "slurmctld"), "0"]) as zombie:
        stat = Path(f"/proc/{zombie.pid}/stat")
        cluster.wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z")
        assert "slurmctld" in stat.read_text()
        assert status(cluster).state == "up"
        cluster.repair()
        processes.end([zombie.pid], patience=5)


@pytest.mark.sandbox
@pytest.mark.parametrize("cgroups", ["as here", "v2 only"])
def test_it_comes_up_in_a_container(cgroups: str, cluster: Cluster) -> None:
    """The mount namespace was made on another processor, or there are only control groups of version 2."""
    first, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    here, there = (first, last) if cgroups == "as here" else (last, first)
    layout = layout_of(f"test-{os.getpid()}")
    release = f"--release={cluster.release or releases.own_release()}"
    script = """
    set -e
    if [ "$1" = "v2 only" ]; then umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; fi
    trap '"$2" -m slurm_adapter sandbox down --name "$3"' EXIT
    "$2" -m slurm_adapter sandbox up --name "$3" --nodes 1 "$4"
    nsenter --mount="$5" --net="$6" srun hostname
    """
    login = layout.login
    words = [cgroups, sys.executable, layout.name, release, *(str(login.namespace(kind)) for kind in ("mnt", "net"))]
    nested = ["taskset", "-c", str(here), "unshare", "--mount", "taskset", "-c", str(there), "sh", "-c", script, "sh"]
    done = subprocess.run([*nested, *words], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "node001"
    assert not layout.root.exists()


@pytest.mark.sandbox
@pytest.mark.usefixtures("crash")
def test_it_repairs_what_is_left_when_everything_was_killed(cluster: Cluster) -> None:
    lost = cluster.submit("sleep 600", "-N3")
    cluster.wait_state(lost, "RUNNING")
    cluster.wait_for(lambda: everything_is_killed(cluster))
    assert status(cluster).state == "down"
    cluster.repair()
    assert status(cluster).state == "up"
    assert sorted(cluster.ask("srun", "-N3", "hostname").split()) == ["node001", "node002", "node003"]


@pytest.mark.sandbox
@pytest.mark.usefixtures("crash")
def test_it_repairs_a_lost_namespace(cluster: Cluster) -> None:
    subprocess.run(["umount", cluster.nodes[0].namespace("mnt")], check=True, timeout=30)
    assert status(cluster).state == "partly"
    cluster.repair()
    assert cluster.ask("srun", "-wnode001", "hostname") == "node001"


@pytest.mark.sandbox
@pytest.mark.usefixtures("crash")
def test_daemons_outlive_the_run_that_started_them_and_hold_no_output(cluster: Cluster) -> None:
    for node in cluster.nodes:
        cluster.slurmd(node).kill()
    cluster.slurmctld.kill()
    # run() returns when the pipes are closed: a daemon that held one would make it wait for ever.
    done = subprocess.run(up(cluster), capture_output=True, timeout=100, check=True)
    assert done.stdout.decode() == f"config: {cluster.layout.config}\n"
    assert "starting slurmctld" in done.stderr.decode()
    assert status(cluster).state == "up"


@pytest.mark.sandbox
@pytest.mark.usefixtures("crash")
def test_stalled_daemons_go_on(cluster: Cluster) -> None:
    for daemon in (cluster.slurmctld, cluster.slurmd(cluster.nodes[0])):
        daemon.pause()
    cluster.wait_for(lambda: "slurmctld" in str(status(cluster).reasons))
    cluster.repair()
    assert cluster.ask("srun", "-wnode001", "hostname") == "node001"


@pytest.mark.sandbox
@pytest.mark.usefixtures("crash")
def test_a_killed_up_is_finished_by_the_next(cluster: Cluster) -> None:
    subprocess.run(["umount", cluster.login.namespace("net")], check=True, timeout=30)
    with subprocess.Popen(up(cluster), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as run:
        assert run.stderr
        assert b"creating" in run.stderr.readline()
        run.kill()
    cluster.repair()
    assert status(cluster).state == "up"
    assert cluster.ask("srun", "-N3", "true") == ""


@pytest.mark.sandbox
def test_the_machine_has_no_accounts_of_the_sandbox(cluster: Cluster) -> None:
    assert cluster.ask("id", "-un", user="alice") == "alice"
    with pytest.raises(KeyError):
        pwd.getpwnam("alice")


@pytest.mark.sandbox
def test_the_adapter_may_be_the_jobs_users_and_nobody_else(cluster: Cluster) -> None:
    for user in ("alice", "bob", "jobs"):
        assert cluster.ask("sudo", "-n", "-u", user, "--", "id", "-un", user="ucloud") == user
    for user in ("root", "slurm", "munge"):
        assert cluster.run("sudo", "-n", "-u", user, "--", "id", user="ucloud").returncode == 1


@pytest.mark.sandbox
@pytest.mark.parametrize("user", ["alice", "bob", "jobs"])
def test_a_jobs_user_may_be_nobody_else(cluster: Cluster, user: str) -> None:
    for other in ("root", "ucloud", "slurm"):
        assert cluster.run("sudo", "-n", "-u", other, "--", "true", user=user).returncode == 1


@pytest.mark.sandbox
def test_the_operators_rule_allows_three_commands_only(cluster: Cluster) -> None:
    job = cluster.submit("sleep 60", "--time=10")
    cluster.wait_state(job, "RUNNING")

    def operate(*words: str) -> int:
        return cluster.run("sudo", "-n", "-u", "slurm", "scontrol", *words, user="ucloud").returncode

    assert cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=20").returncode == 1
    assert operate("update", f"JobId={job}", "TimeLimit=00:20:00") == 0
    assert cluster.show(job)["TimeLimit"] == "00:20:00"
    assert operate("suspend", f"{job},{job}") == 0
    cluster.wait_state(job, "SUSPENDED")
    assert operate("resume", job) == 0
    cluster.wait_state(job, "RUNNING")
    assert operate("update", f"JobId={job}", "TimeLimit=30", "Partition=scavenge") == 1
    assert operate("requeue", job) == 1
    assert cluster.show(job)["TimeLimit"] == "00:20:00"
    cluster.ask("scancel", job)


@pytest.mark.sandbox
def test_homes_are_private(cluster: Cluster) -> None:
    assert cluster.run("ls", f"{cluster.shared}/home/bob", user="alice").returncode == 2
    assert cluster.run("touch", f"{cluster.shared}/ucloud/x", user="alice").returncode == 1


@pytest.mark.sandbox
def test_entering_a_node_brings_nothing_along(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "scavenge")
    seen = cluster.ask("sh", "-c", "env; pwd; grep CapEff /proc/self/status; umask", user="ucloud")
    assert "SBATCH" not in seen
    assert "HOME=/srv/home/ucloud" in seen.splitlines()
    assert "CapEff:\t0000000000000000" in seen.splitlines()
    assert cluster.run("sh", "-c", "kill -9 $$", user="ucloud").returncode == -9


@pytest.mark.sandbox
def test_too_much_memory_kills(cluster: Cluster) -> None:
    if problems := status(cluster).notes:
        pytest.skip(problems[0])
    job = cluster.submit("perl -e '$x = \"x\" x 300_000_000; print length $x'", "--mem=50")
    assert cluster.wait_end(job) == "OUT_OF_MEMORY"


@pytest.mark.sandbox
def test_main_preempts_scavenge_which_is_requeued(cluster: Cluster) -> None:
    low = cluster.submit("sleep 600", "--partition=scavenge", "-wnode003", "--exclusive")
    cluster.wait_state(low, "RUNNING")
    high = cluster.submit("true", "-wnode003", "--exclusive", user="bob")
    assert cluster.wait_end(high) == "COMPLETED"
    cluster.wait_for(lambda: cluster.show(low)["Restarts"] == "1")
    cluster.wait_state(low, "RUNNING")
    cluster.ask("scancel", low)


@pytest.mark.sandbox
def test_gpus_and_features_are_given(cluster: Cluster) -> None:
    job = cluster.submit("hostname; echo $CUDA_VISIBLE_DEVICES", "--gres=gpu:2", "--constraint=fast")
    assert cluster.wait_end(job) == "COMPLETED"
    assert cluster.output(job).split() == ["node001", "0,1"]
    refused = cluster.run("sbatch", "--gres=gpu:3", "--wrap=true")
    assert refused.returncode == 1


@pytest.mark.sandbox
def test_jobs_on_two_nodes_reach_each_other_by_address(cluster: Cluster) -> None:
    listen = "$s = IO::Socket::INET->new(LocalPort => 5432, Listen => 1, ReuseAddr => 1)"
    serve = f"{listen}; $c = $s->accept; print $c `hostname`"
    server = cluster.submit(f"perl -MIO::Socket::INET -e '{serve}'", "-wnode002")
    cluster.wait_state(server, "RUNNING")
    address = cluster.ask("sh", "-c", "scontrol -o show node node002 | grep -o 'NodeAddr=[^ ]*'").partition("=")[2]
    call = f"until exec 3<>/dev/tcp/{address}/5432; do sleep 0.1; done 2>/dev/null; cat <&3"
    client = cluster.submit(call, "-wnode001", "--time=1", user="bob")
    assert cluster.wait_end(client) == "COMPLETED"
    assert cluster.output(client, "bob") == "node002\n"


@pytest.mark.sandbox
def test_nodes_share_files_and_nothing_else(cluster: Cluster) -> None:
    cluster.ask("sh", "-c", "echo seen >~/shared-by-all; echo seen >/tmp/own")
    assert cluster.ask("cat", "/srv/home/alice/shared-by-all", node="node003") == "seen"
    assert cluster.run("cat", "/tmp/own", node="node003").returncode == 1
    assert cluster.ask("hostname", node="node003") == "node003"
    assert cluster.ask("getent", "hosts", "node001", node="node003").split()[-1] == "node001"


@pytest.mark.sandbox
def test_finished_jobs_are_forgotten_after_min_job_age(cluster: Cluster) -> None:
    cluster.set_min_job_age(2)
    try:
        assert "MinJobAge               = 2 sec" in cluster.ask("scontrol", "show", "config")
    finally:
        cluster.set_min_job_age(300)
    assert "MinJobAge               = 300 sec" in cluster.ask("scontrol", "show", "config")


def ssh(cluster: Cluster, known_hosts: Path, user: str = "ucloud") -> subprocess.CompletedProcess[bytes]:
    options = (
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={known_hosts}",
        "IdentitiesOnly=yes",
    )
    command = ["ssh", "-F", "none", *(f"-o{option}" for option in options), "-i", str(cluster.keys / "id_ed25519")]
    target = f"{user}@{cluster.login.address}"
    return subprocess.run([*command, target, "id -un; sinfo -h"], capture_output=True, timeout=30, check=False)


@pytest.mark.sandbox
def test_ssh_with_strict_host_keys_as_the_adapter_only(cluster: Cluster, tmp_path: Path) -> None:
    known = cluster.keys / "known_hosts"
    done = ssh(cluster, known)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split()[0] == "ucloud"
    assert "main*" in done.stdout.decode()
    assert ssh(cluster, known, "alice").returncode == 255
    assert ssh(cluster, known, "root").returncode == 255
    assert ssh(cluster, tmp_path / "empty").returncode == 255


@pytest.mark.sandbox
@pytest.mark.parametrize("transport", ["local", "ssh"])
@pytest.mark.parametrize("identity", ["sudo", "service"])
def test_its_config_is_one_that_the_adapter_reads(
    cluster: Cluster,
    tmp_path: Path,
    transport: Literal["local", "ssh"],
    identity: Literal["sudo", "service"],
) -> None:
    config = load_config(cluster.config(tmp_path, transport, identity))
    assert config.cluster.transport == transport
    assert config.identity.mode == identity
    assert config.state_dir == tmp_path / "state"


@pytest.fixture
def up_again(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.repair()


@pytest.mark.sandbox
@pytest.mark.usefixtures("up_again")
def test_accounting_can_be_added_and_removed(cluster: Cluster) -> None:
    if problem := sandbox.obstacle(accounting=True, release=cluster.release):
        pytest.skip(problem)
    waiting = cluster.submit("sleep 600")
    cluster.wait_state(waiting, "RUNNING")
    cluster.repair(accounting=True)
    assert status(cluster).accounting
    job = cluster.submit("exit 7")
    cluster.wait_end(job)
    cluster.wait_for(
        lambda: "FAILED|7:0|research" in cluster.run("sacct", "-XnPj", job, "-oState,ExitCode,Account").stdout.decode()
    )
    cluster.repair()
    assert cluster.run("sacct").returncode == 1
    assert cluster.show(waiting)["JobState"] == "RUNNING"
    cluster.ask("scancel", waiting)
    assert {"mariadbd", "slurmdbd"}.isdisjoint(process.name for process in processes.own(cluster.layout))


def test_down_continues_if_files_disappear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove, seen = shutil.rmtree, []

    def race(path: Path) -> None:
        seen.append(path)
        if len(seen) == 1:
            raise FileNotFoundError(2, "No such file or directory", "holder.sh")
        remove(path)

    nothing: dict[str, object] = dict.fromkeys(("_remove_nodes", "_remove_control_groups"), quiet)
    for name, value in {"BASE": tmp_path / "root", "machine_obstacle": str, **nothing}.items():
        monkeypatch.setattr(making, name, value)
    monkeypatch.setattr(layout, "BASE", tmp_path / "root")
    monkeypatch.setattr(shutil, "rmtree", race)
    sandbox.down(quiet)
    assert (seen, [*tmp_path.iterdir()]) == ([tmp_path / "root"] * 2, [])


@pytest.mark.sandbox
@pytest.mark.long
@pytest.mark.usefixtures("up_again")
def test_down_leaves_nothing(cluster: Cluster) -> None:
    job = cluster.submit("trap '' TERM; sleep 600", "-N3")
    cluster.wait_state(job, "RUNNING")
    pids = own_pids(cluster)
    sandbox.down(quiet, name=cluster.layout.name)
    assert not cluster.layout.root.exists()
    assert not pids & {process.pid for process in processes.living()}
    assert f"{cluster.layout.root}/" not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True, timeout=30).stdout
    assert f" {cluster.layout.host_interface}@" not in links
    assert not [*Path("/sys/fs/cgroup").glob(f"**/{cluster.layout.control_group}")]
    assert not [*Path("/srv").iterdir()]
    assert status(cluster).state == "down"
    sandbox.down(quiet, name=cluster.layout.name)

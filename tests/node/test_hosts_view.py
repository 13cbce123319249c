"""The programs on the nodes, with a job folder made by hand: the names, their updates, and their end."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.node.folder import Folder
    from tests.sandbox_cluster import Cluster

pytestmark = pytest.mark.sandbox

READER = """
import os, socket, sys, time
folder, number = sys.argv[1:]
misses = asked = 0
seen = []
while not os.path.exists(f"{folder}/stop"):
    asked += 1
    try:
        found = socket.getaddrinfo("database", None, type=socket.SOCK_STREAM)[0][4][0]
        last = socket.getaddrinfo("last", None, type=socket.SOCK_STREAM)[0][4][0]
        misses += last != "10.0.0.9"
    except OSError:
        misses += 1
        continue
    if found not in seen[-1:]:
        seen.append(found)
        with open(f"{folder}/seen-{number}", "a") as file:
            file.write(found + "\\n")
print("misses", misses, "of", asked, flush=True)
"""


@pytest.mark.parametrize("method", ["unshare", "bwrap", "nss_wrapper"])
def test_readers_see_every_change_whole_and_mounts_do_not_pile_up(make: Callable[..., Folder], method: str) -> None:
    payload = """
        for i in 1 2 3 4; do python3 "$ucloud_folder/reader.py" "$ucloud_folder" "$i" & done; wait
        grep -c ' /etc' /proc/self/mountinfo
    """
    folder = make(payload, methods=method)
    folder.write("reader.py", READER)
    # Longer than one read of a resolver, so that a torn file would lack its last lines.
    rest = "".join(f"10.9.{n // 250}.{n % 250} filler-{n}\n" for n in range(500)) + "10.0.0.9 last\n"
    addresses = ["10.1.2.3", "fd00::5", *(f"10.1.2.{n}" for n in range(10, 18))]
    for number, address in enumerate(addresses):
        folder.view(address, more=rest)
        if not number:
            folder = folder.submit()
        seen = "".join(f"{each}\n" for each in addresses[: number + 1])
        for reader in range(1, 5):
            folder.holds(f"seen-{reader}", seen)
    folder.write("stop", "")
    output = folder.end()
    assert len(re.findall(r"^misses 0 of \d+$", output, re.MULTILINE)) == 4, output
    assert int(output.split()[-1]) <= 5, output


def test_every_step_of_two_nodes_has_the_names(make: Callable[..., Folder]) -> None:
    step = "srun -N 2 -n 4 --overlap sh -c 'getent ahostsv4 database | head -n 1; getent hosts job-9-0 job-9-1 | wc -l'"
    payload = f"""
        {step}
        srun --export=NONE -N 2 -n 2 --overlap getent ahostsv6 database
        cd /tmp && srun -N 1 -n 1 --overlap --chdir=/usr sh -c 'pwd; echo "$UCLOUD_DIR"; cat "$UCLOUD_DIR"/rank.txt'
        echo input | srun -N 1 -n 1 --overlap cat
        srun -N 1 -n 1 --overlap sh -c 'exit 7'; echo "code $?"
        srun -N 1 -n 1 --overlap sh -c 'grep Cap /proc/self/status'
        cat "$ucloud_folder"/ucloud/1/node-0.txt "$ucloud_folder"/ucloud/1/node-1.txt
        exit 5
    """
    folder = make(payload)
    folder.view(more="fd00::7 database\n")
    folder = folder.submit("-N2", "-n4")
    lines = folder.end().splitlines()
    assert [line.split()[0] for line in lines if line.startswith("10.1.2.3 ")] == ["10.1.2.3"] * 4
    assert lines.count("2") == 4
    assert {line.split()[0] for line in lines if "fd00::7" in line} == {"fd00::7"}
    assert "/usr" in lines
    assert f"{folder.there}/ucloud/0" in lines
    assert "input" in lines
    assert "code 7" in lines
    caps = [line.split() for line in lines if line.startswith("Cap")]
    assert {words[1] for words in caps if words[0] != "CapBnd:"} == {"0" * 16}
    log = folder.read("log.txt")
    nodes = sorted(re.findall(r"^slurm-adapter: names on (\w+) by unshare$", log, re.MULTILINE))
    assert lines[-2:] == nodes
    assert len(log.splitlines()) == 3, log  # and srun's word on the exit code 7
    assert folder.exit() | {"ended_at": 0} == {
        "format": 1,
        "job": "9",
        "slurm_id": int(folder.job),
        "restart": 0,
        "task": None,
        "exit_code": 5,
        "signal": None,
        "ended_at": 0,
        "reason": None,
    }


def test_replicas_are_one_task_on_each_node(make: Callable[..., Folder]) -> None:
    folder = make('getent ahostsv4 database; echo "$UCLOUD_DIR $SLURM_NODEID"', replicate="yes")
    folder.view()
    folder = folder.submit("-N2", "--ntasks-per-node=2", "--gpus-per-node=1", "--mem-per-cpu=100")
    folder.end()
    for rank in ("0", "1"):
        output = folder.read(f"stdout-{rank}.txt")
        assert output.startswith("10.1.2.3 "), folder.read("log.txt")
        assert output.endswith(f"/ucloud/{rank} {rank}\n")
    assert folder.exit()["exit_code"] == 0


def test_the_environment_and_the_standard_streams_are_the_applications(make: Callable[..., Folder]) -> None:
    payload = """
        module() { echo "a function: $1"; }
        export -f module
        srun -N1 -n1 bash -c 'module x; cat; echo err >&2'
        kill -KILL $$
    """
    folder = make(payload)
    folder = folder.submit()
    assert folder.end() == "a function: x\n"
    assert "err" in folder.read("log.txt").splitlines()
    assert (folder.exit()["exit_code"], folder.exit()["signal"]) == (137, 9)


def test_a_peer_with_an_exit_record_has_no_name(make: Callable[..., Folder]) -> None:
    payload = """
        echo ready
        while getent hosts database >/dev/null; do sleep 0.2; done; echo gone
        until getent hosts database; do sleep 0.2; done
    """
    folder = make(payload)
    folder.view(run="17.1")
    folder = folder.submit()
    folder.said("ready")
    record = {"format": 1, "job": "4", "slurm_id": 17, "restart": 0, "task": None, "exit_code": 0}
    folder.write("peer exit.json", json.dumps(record, separators=(",", ":")) + "\n")
    time.sleep(3)  # another run's record: some passes of the refresher change nothing
    assert "gone" not in folder.read("stdout.txt")
    folder.write("peer exit.json", json.dumps({**record, "restart": 1}, separators=(",", ":")) + "\n")
    folder.said("gone")
    folder.view("10.1.2.4", run="18.0")
    assert "10.1.2.4" in folder.end()


def test_a_view_that_is_gone_changes_nothing(make: Callable[..., Folder]) -> None:
    folder = make('echo ready; until [ -e "$ucloud_folder/go" ]; do sleep 0.1; done; getent hosts database')
    folder.view()
    folder = folder.submit()
    folder.said("ready")
    (folder.here / "hosts").unlink()
    time.sleep(3)  # some passes
    folder.write("go", "")
    assert "10.1.2.3" in folder.end()


def test_a_peer_that_never_starts_is_the_reason(make: Callable[..., Folder]) -> None:
    folder = make("echo ran", peers="4101 database\n4102 cache\n", wait="3")
    folder.write("hosts", "10.0.0.1 database\n")
    folder = folder.submit()
    assert folder.end() == ""
    assert folder.exit()["reason"] == "peer 4102 (cache) never started"
    assert folder.exit()["exit_code"] == 1
    assert "slurm-adapter: peer 4102 (cache) never started" in folder.read("log.txt").splitlines()
    assert folder.cluster.show(folder.job)["ExitCode"] == "1:0"


def test_the_time_limit_bounds_the_wait(make: Callable[..., Folder]) -> None:
    folder = make("echo ran", peers="4101 database none-of-this-name\n", wait="600", time_limit="33")
    folder = folder.submit()
    assert folder.end() == ""
    assert folder.exit()["reason"] == "peer 4101 (database) never started"


def test_a_peer_that_starts_late_is_waited_for(make: Callable[..., Folder]) -> None:
    folder = make("getent hosts database", peers="4101 database\n")
    folder = folder.submit("-N2")
    folder.cluster.wait_for(lambda: "waiting for peer 4101 (database)" in folder.read("log.txt"))
    folder.view()
    assert "10.1.2.3" in folder.end()


def test_a_cancel_while_it_waits_ends_it(make: Callable[..., Folder]) -> None:
    folder = make("echo ran", peers="4101 database\n", wait="600")
    folder = folder.submit()
    folder.cluster.wait_for(lambda: "waiting for" in folder.read("log.txt"))
    folder.cluster.ask("scancel", folder.job)
    assert folder.end() == ""
    assert folder.exit()["exit_code"] == 143
    folder.cluster.wait_for(lambda: not folder.processes())


CLEANING = """
trap 'echo "signal USR1"' USR1
trap 'sleep 1; getent hosts database && echo "names held"; exit 9' TERM
bash -c 'trap "sleep 1; echo child done; exit" TERM; while :; do sleep 0.1; done' &
srun -N 1 -n 1 bash -c 'trap "sleep 1; echo step done; exit" TERM; echo ready; while :; do sleep 0.1; done' &
while :; do sleep 0.1; done
"""


@pytest.mark.parametrize("method", ["unshare", "bwrap", "nss_wrapper"])
def test_a_cancel_lets_all_its_processes_clean_up(make: Callable[..., Folder], method: str) -> None:
    folder = make(CLEANING, methods=method)
    folder.view()
    folder = folder.submit("-n2", "-c2")
    folder.said("ready")
    folder.cluster.ask("scancel", folder.job)
    output = folder.end()
    for line in ("names held", "child done", "step done"):
        assert output.splitlines().count(line) == 1, output + folder.read("log.txt")
    assert folder.exit()["exit_code"] == 9
    # It ended by itself, and not by Slurm's KILL after KillWait.
    assert folder.cluster.show(folder.job)["ExitCode"] == "9:0"
    folder.cluster.wait_for(lambda: not folder.processes())


@pytest.mark.parametrize("how", [["--batch"], ["--full"]])
def test_a_signal_reaches_the_application_once_and_leaves_the_names(
    make: Callable[..., Folder], how: list[str]
) -> None:
    payload = """
        trap 'echo "signal USR1"' USR1
        echo ready
        until [ -e "$ucloud_folder/go" ]; do sleep 0.1; done
        getent hosts database
        srun -N 1 -n 1 getent hosts database
    """
    folder = make(payload)
    folder.view()
    folder = folder.submit()
    folder.said("ready")
    folder.cluster.ask("scancel", *how, "--signal=USR1", folder.job)
    folder.said("signal USR1")
    folder.cluster.ask("scancel", "--signal=USR1", folder.job)  # the steps alone: the holders
    folder.view("10.1.2.4")
    time.sleep(3)  # some passes
    folder.write("go", "")
    output = folder.end()
    assert output.count("signal USR1") == 1
    assert output.count("10.1.2.4") == 2, output + folder.read("log.txt")


@pytest.mark.parametrize("method", ["unshare", "bwrap", "nss_wrapper"])
def test_nothing_outlives_a_batch_script_that_is_killed(make: Callable[..., Folder], method: str) -> None:
    folder = make("echo ready; (trap '' TERM HUP; sleep 300) & sleep 300", methods=method)
    folder.view()
    folder = folder.submit("-N2")
    folder.said("ready")
    node = folder.cluster.show(folder.job)["BatchHost"]
    pattern = f"^/bin/bash -p {re.escape(folder.there)}/node/batch.sh"
    batch = folder.cluster.ask("pgrep", "-o", "-f", pattern, node=node)  # the others are its subshells
    folder.cluster.ask("kill", "-KILL", batch, node=node)
    folder.end()
    folder.cluster.wait_for(lambda: not folder.processes())
    assert folder.read("exit.json") == ""


def test_a_job_that_is_requeued_has_its_names_again(make: Callable[..., Folder]) -> None:
    payload = """
        echo "run ${SLURM_RESTART_COUNT:-0}"; getent hosts database job-9-0
        until [ -e "$ucloud_folder/go" ]; do sleep 0.1; done; srun -N 1 -n 1 getent hosts database
    """
    folder = make(payload)
    folder.view()
    folder = folder.submit("--requeue")
    folder.said("run 0")
    folder.view("10.1.2.4")
    folder.cluster.ask("scontrol", "requeue", folder.job)
    folder.said("run 1")
    folder.write("go", "")
    output = folder.end().split("run 1")[1]
    assert output.count("10.1.2.4") == 2, output
    assert folder.exit()["restart"] == 1


def test_without_any_method_the_reason_names_node_and_answers(make: Callable[..., Folder]) -> None:
    folder = make("echo ran", methods="wishing")
    folder = folder.submit()
    assert folder.end() == ""
    node = folder.cluster.show(folder.job)["BatchHost"]
    reason = f"no method works that gives the job its names on {node}: wishing: not known"
    assert folder.exit()["reason"] == reason


def test_one_node_that_cannot_hold_the_names_is_the_reason_at_once(make: Callable[..., Folder]) -> None:
    """The step goes on on the other nodes: two minutes passed until somebody noticed."""
    folder = make("echo ran", wait="600")
    fails = '[ "$SLURMD_NODENAME" != node002 ] || { echo "slurm-adapter: node002 lacks programs"; exit 1; }\n'
    folder.write("node/holder.sh", fails + folder.read("node/holder.sh"))
    folder = folder.submit("--nodelist=node001,node002", "-N2")
    assert folder.end() == ""  # within a minute
    assert folder.exit()["reason"] == "the step that holds this job's names ended on a node: node002 lacks programs"


def test_if_the_site_allows_it_a_variable_names_the_view(make: Callable[..., Folder]) -> None:
    payload = "srun -N 1 -n 1 sh -c 'cat \"$UCLOUD_HOSTS_FILE\"; getent hosts database || echo unknown'"
    folder = make(payload, methods="wishing", allow_env="yes", peers="4101 database\n")
    folder.view()
    folder = folder.submit()
    output = folder.end()
    assert "10.1.2.3 database\n" in output
    assert output.endswith("unknown\n")
    assert "they are in $UCLOUD_HOSTS_FILE only" in folder.read("log.txt")


def test_if_no_method_works_other_jobs_are_not_affected(make: Callable[..., Folder]) -> None:
    # The last method starts and is found wanting: its library is there, and names do not resolve through it.
    other = make("echo ready; sleep 300", names="no").submit("--nodelist=node003")
    other.said("ready")
    folder = make("echo ready; sleep 3", methods="nss_wrapper", allow_env="yes")
    library = folder.cluster.ask("sh", "-c", "ls /usr/lib/*/libnss_wrapper.so", node="node003")
    folder.cluster.ask("mount", "--bind", "/dev/null", library, user="root", node="node003")
    try:
        folder = folder.submit("--nodelist=node003")
        folder.end()
    finally:
        folder.cluster.ask("umount", library, user="root", node="node003")
    assert folder.exit()["exit_code"] == 0
    assert folder.cluster.show(other.job)["JobState"] == "RUNNING"
    folder.cluster.ask("scancel", other.job)


def test_a_job_without_names_gets_no_namespace(make: Callable[..., Folder]) -> None:
    folder = make("readlink /proc/self/ns/mnt; command -v srun; id -G | wc -w", names="no")
    folder = folder.submit()
    namespace, srun, groups = folder.end().split()
    node = folder.cluster.show(folder.job)["BatchHost"]
    assert namespace == folder.cluster.ask("readlink", "/proc/self/ns/mnt", node=node)
    assert srun == "/usr/bin/srun"
    assert groups == "2"
    assert folder.exit()["exit_code"] == 0
    assert folder.read("log.txt") == ""


def test_tasks_of_an_array_do_not_meet(make: Callable[..., Folder]) -> None:
    folder = make('getent hosts database; exit "$SLURM_ARRAY_TASK_ID"')
    folder.view()
    folder = folder.submit("--array=0-3")
    folder.cluster.wait_for(lambda: len(list(folder.here.glob("exit-*.json"))) == 4)
    for task in range(4):
        told = json.loads(folder.read(f"exit-{task}.json"))
        assert (told["task"], told["exit_code"], told["slurm_id"]) == (task, task, int(folder.job))
    assert folder.read("stdout.txt").count("10.1.2.3") == 4


# --- Why a job gave up -----------------------------------------------------------------------------------------------


@pytest.fixture
def running_peer(cluster: Cluster) -> Iterator[str]:
    """A job on node003. Its name in Slurm."""
    name = "names-test-peer"
    job = cluster.submit("sleep 300", f"--job-name={name}", "--nodelist=node003")
    cluster.wait_state(job, "RUNNING")
    yield name
    cluster.ask("scancel", job)


def hide(cluster: Cluster, path: str, node: str = "node001") -> None:
    """Let a node see an empty file system at a path."""
    cluster.ask("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", path, user="root", node=node)


def test_a_node_that_does_not_see_the_shared_folder_is_the_reason(
    make: Callable[..., Folder], running_peer: str, cluster: Cluster
) -> None:
    shared = cluster.ask("mktemp", "-d", "/srv/home/alice/shared-XXXXXX")
    cluster.ask("mkdir", f"{shared}/peers")
    folder = make("echo ran", peers=f"9003 database {running_peer}\n", view=f"{shared}/peers/9004", wait="3")
    hide(cluster, shared)
    # Another user gives a job the peer's name.
    decoy = cluster.submit("sleep 60", "--mem=1", "--nodelist=node002", f"--job-name={running_peer}", user="bob")
    cluster.wait_state(decoy, "RUNNING")
    try:
        folder = folder.submit("--nodelist=node001")
        assert folder.end() == ""
    finally:
        cluster.ask("umount", shared, user="root", node="node001")
        cluster.ask("scancel", decoy, user="bob")
    where = f"node001 does not see {shared}/peers/9004: is {shared} mounted there?"
    reason = f"peer 9003 (database) runs on node003, but {where}"
    assert folder.exit()["reason"] == reason
    assert f"slurm-adapter: {reason}" in folder.read("log.txt").splitlines()


def test_of_two_nodes_the_one_that_does_not_see_it_is_named(
    make: Callable[..., Folder], running_peer: str, cluster: Cluster
) -> None:
    shared = cluster.ask("mktemp", "-d", "/srv/home/alice/shared-XXXXXX")
    cluster.ask("mkdir", f"{shared}/peers")
    cluster.ask("sh", "-c", 'echo "10.0.0.1 database" >"$1/peers/9004"', "sh", shared)
    folder = make("echo ran", peers=f"9003 database {running_peer}\n", view=f"{shared}/peers/9004", wait="3")
    hide(cluster, f"{shared}/peers", node="node002")
    try:
        folder = folder.submit("--nodelist=node001,node002", "-N2")
        assert folder.end() == ""
    finally:
        cluster.ask("umount", f"{shared}/peers", user="root", node="node002")
    reason = f"peer 9003 (database) runs on node003, but node002 sees no 9004 in {shared}/peers: "
    assert folder.exit()["reason"].startswith(reason)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("chmod 0 9004", "may not read {peers}/9004 (its mode is ----------): was it changed?"),
        ("chmod 0 .", "may not enter {peers} (its mode is d---------): was it changed?"),
        ("true", "reads {peers}/9004 of "),
        ("rm 9004", "sees no 9004 in {peers}: does slurm-adapter sync run"),
    ],
)
def test_a_view_that_is_there_and_no_use_is_the_reason(
    make: Callable[..., Folder], running_peer: str, cluster: Cluster, spoil: str, reason: str
) -> None:
    shared = cluster.ask("mktemp", "-d", "/srv/ucloud/test-XXXXXX", user="ucloud")
    cluster.ask("chmod", "755", shared, user="ucloud")
    script = f'mkdir "$1/peers" && cd "$1/peers" && echo 10.0.0.1 other >9004 && {spoil}'
    cluster.ask("sh", "-c", script, "sh", shared, user="ucloud")
    folder = make("echo ran", peers=f"9003 database {running_peer}\n", wait="3", view=f"{shared}/peers/9004")
    folder = folder.submit("--nodelist=node001")
    assert folder.end() == ""
    said = f"peer 9003 (database) runs on node003, but node001 {reason.format(peers=f'{shared}/peers')}"
    assert folder.exit()["reason"].startswith(said)


def test_a_peer_that_has_ended_is_the_reason(make: Callable[..., Folder], cluster: Cluster) -> None:
    peer = cluster.submit("true", "--job-name=names-test-ended")
    cluster.wait_end(peer)
    folder = make("echo ran", peers="9003 database names-test-ended\n", wait="3").submit()
    assert folder.end() == ""
    assert folder.exit()["reason"] == "peer 9003 (database) ended before this job saw its name (COMPLETED)"


# --- Old nodes -------------------------------------------------------------------------------------------------------

OLD = """
set -e
mkdir -p /run/old/real
for tool in unshare setpriv nsenter mount umount; do
    cp -p "/usr/bin/$tool" /run/old/real/
    {
        printf '#!/bin/sh\ntool=%s\n' "$tool"
        cat <<'END'
case $tool in *mount) if [ "$(id -u)" != 0 ]; then echo "$tool: only root can do that" >&2; exit 1; fi ;; esac
for word do
    case $word in
        --) break ;;
        --map-current-user | --map-user* | --map-group* | --keep-caps | --wd* | --root* | --setuid* | --setgid* | \
            --time* | --user-parent | --namespace | --pdeathsig* | --inh-caps* | --ambient-caps*)
            echo "$tool: unrecognized option '$word'" >&2
            exit 1
            ;;
    esac
done
exec "/run/old/real/$tool" "$@"
END
    } >"/run/old/$tool"
    chmod 755 "/run/old/$tool"
    mount --bind "/run/old/$tool" "/usr/bin/$tool"
done
"""


@pytest.fixture
def old_node(cluster: Cluster) -> Iterator[str]:
    """A node with the util-linux of RHEL 8 (2.32): it refuses newer options, and mount(8) refuses all but root."""
    node = cluster.nodes[-1].name
    cluster.ask("sh", "-c", OLD, user="root", node=node)
    yield node
    undo = "cd /usr/bin && /run/old/real/umount unshare setpriv nsenter mount umount && rm -rf /run/old"
    cluster.ask("sh", "-c", undo, user="root", node=node)


@pytest.mark.parametrize("method", ["unshare", "bwrap", "nss_wrapper"])
def test_a_node_as_old_as_rhel_8(make: Callable[..., Folder], old_node: str, method: str) -> None:
    payload = """
        getent hosts database
        srun -N1 -n1 sh -c 'getent hosts database; id -un; grep CapEff /proc/self/status; echo mine >"$1"' \
            x "$ucloud_folder/made"
        until [ -e "$ucloud_folder/go" ]; do sleep 0.1; done
        getent hosts database
    """
    folder = make(payload, methods=method)
    folder.view()
    folder = folder.submit(f"--nodelist={old_node}")
    folder.said("CapEff:\t0000000000000000")
    folder.view("10.1.2.4")
    time.sleep(3)  # some passes of the refresher
    folder.write("go", "")
    lines = folder.end().splitlines()
    assert [line.split()[0] for line in lines if "database" in line] == ["10.1.2.3", "10.1.2.3", "10.1.2.4"]
    assert "alice" in lines
    assert folder.read("made") == "mine\n"
    assert folder.exit()["exit_code"] == 0
    assert f"slurm-adapter: names on {old_node} by {method}" in folder.read("log.txt")

"""What runs on the nodes, on real ones: names by each method, signals, records, and nothing left behind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slurm_adapter import sandbox
from slurm_adapter.core.states import JobState
from tests.adapter import resources, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.core.records import Record
    from tests.adapter import LiveSite, LiveSiteMaker
    from tests.sandbox_cluster import Cluster

pytestmark = pytest.mark.sandbox

SOURCE = (Path(__file__).parent / "resolve.c").read_bytes()
PROGRAMS = {"glibc-static": ("cc", "-static"), "glibc": ("cc",), "musl-static": ("musl-gcc", "-static")}


@pytest.fixture(scope="session")
def programs(cluster: Cluster) -> str:
    """The folder, on the nodes, of `resolve` linked in three ways."""
    folder = f"{cluster.shared}/ucloud/resolve"
    cluster.ask("mkdir", "-p", "-m", "755", folder, user="ucloud")
    for name, compiler in PROGRAMS.items():
        build = (*compiler, "-x", "c", "-w", "-", "-o", f"{folder}/{name}")
        cluster.ask(*build, user="ucloud", stdin=SOURCE)
    return folder


def only(method: str) -> str:
    return f'[peers]\nmethods = ["{method}"]'


@pytest.mark.parametrize(
    ("method", "works"),
    [
        ("unshare", {"glibc-static", "glibc", "musl-static"}),
        ("bwrap", {"glibc-static", "glibc", "musl-static"}),
        # A library that is loaded before others: what is linked statically does not load it.
        ("nss_wrapper", {"glibc"}),
    ],
)
def test_each_method_gives_names_to_each_kind_of_program(
    make_adapter: LiveSiteMaker, programs: str, method: str, works: set[str]
) -> None:
    adapter = make_adapter(more=only(method))
    [peer] = adapter.start(adapter.shell("sleep 60"))
    script = f"""
        for name in {" ".join(PROGRAMS)}; do
            echo "script $name $({programs}/$name database)"
            srun -N 2 -n 2 sh -c 'echo "step '$name' $({programs}/'$name' database)"'
        done
        srun -N 1 -n 1 sh -c 'grep -E "^(CapEff|CapPrm|CapAmb)" /proc/self/status; id -u'
    """
    [record] = adapter.submit(adapter.shell(script, peers={"database": peer}, replicas=2))
    [output] = adapter.until_successful(record)
    [[address, *_]] = peer.addresses
    for name in PROGRAMS:
        answer = re.escape(address) if name in works else "no: .*"
        assert len(re.findall(rf"^script {name} {answer}$", output, re.MULTILINE)) == 1, output
        assert len(re.findall(rf"^step {name} {answer}$", output, re.MULTILINE)) == 2, output
    assert re.findall(r"^Cap\w+:\s*(\w+)$", output, re.MULTILINE) == ["0" * 16] * 3
    assert output.splitlines()[-1] == "7701"
    log = adapter.errors(record)
    nodes = sorted(adapter.now(record).nodes)
    assert sorted(re.findall(r"names on (\w+) by (\w+)", log)) == [(node, method) for node in nodes]


@pytest.fixture
def without_methods(cluster: Cluster) -> Iterator[str]:
    """A node on which nothing works: no unshare, no bwrap, no library. Its name."""
    node = cluster.nodes[-1].name
    hidden = ["/usr/bin/unshare", "/usr/bin/bwrap"]
    hidden += cluster.ask("sh", "-c", "ls /usr/lib/*/libnss_wrapper.so*", node=node).split()
    for path in hidden:
        cluster.ask("mount", "--bind", "/dev/null", path, user="root", node=node)
    yield node
    for path in hidden:
        cluster.ask("umount", path, user="root", node=node)


def test_a_job_that_cannot_have_its_names_does_not_run(adapter: LiveSite, without_methods: str) -> None:
    [peer] = adapter.start(adapter.shell("sleep 60"))
    [record] = adapter.submit(adapter.shell("echo ran", peers={"database": peer}, node=without_methods))
    [record] = adapter.until_ended(record)
    assert record.state is JobState.FAILURE
    assert f"no method works that gives the job its names on {without_methods}" in record.status
    for method in ("unshare", "bwrap", "nss_wrapper"):
        assert method in record.status
    assert adapter.output(record) == ""


def test_a_user_is_told_which_node_does_not_see_the_shared_folder(make_adapter: LiveSiteMaker) -> None:
    adapter = make_adapter(more='[peers]\nwait = "00:00:05"')
    [peer] = adapter.start(adapter.shell("sleep 60", node="node003"))
    shared = str(adapter.site.config.shared_dir)
    adapter.cluster.ask("mount", "-t", "tmpfs", "tmpfs", shared, user="root", node="node001")
    try:
        [record] = adapter.submit(adapter.shell("echo ran", peers={"database": peer}, node="node001"))
        [record] = adapter.until_ended(record)
    finally:
        adapter.cluster.ask("umount", shared, user="root", node="node001")
    assert record.state is JobState.FAILURE
    said = f"peer {peer.id} (database) runs on node003, but node001 does not see {shared}/peers/"
    assert said in record.status
    assert f": is {shared} mounted there?" in record.status
    assert adapter.output(record) == ""


def test_a_site_may_let_it_run_with_the_file_alone(make_adapter: LiveSiteMaker, without_methods: str) -> None:
    adapter = make_adapter(more="[peers]\nallow_env = true")
    [peer] = adapter.start(adapter.shell("sleep 60"))
    script = 'getent hosts database || cat "$UCLOUD_HOSTS_FILE"'
    [record] = adapter.submit(adapter.shell(script, peers={"database": peer}, node=without_methods))
    [output] = adapter.until_successful(record)
    assert f"{peer.addresses[0][0]} database\n" in output
    assert "they are in $UCLOUD_HOSTS_FILE only" in adapter.errors(record)


def test_a_cancel_lets_the_application_clean_up_with_its_names(adapter: LiveSite) -> None:
    [peer] = adapter.start(adapter.shell("sleep 60"))
    script = "trap 'sleep 1; getent hosts database; exit 9' TERM; echo ready; sleep 60 & wait"
    parameters = {"code": text(script)}
    [record] = adapter.submit(
        adapter.specification("batch", parameters=parameters, resources=resources({"database": peer}))
    )
    adapter.until_said(record, "^ready$")
    adapter.cancel(record)
    [record] = adapter.until_ended(record)
    assert (record.state, record.status) == (JobState.SUCCESS, "Your job was cancelled")
    assert peer.addresses[0][0] in adapter.output(record)
    assert json.loads(adapter.file(record, "exit.json").read_text())["exit_code"] == 9


def test_signals_for_the_batch_script_reach_the_application(adapter: LiveSite) -> None:
    script = "trap 'echo USR1; exit 4' USR1; echo ready; while :; do sleep 0.1; done"
    [record] = adapter.submit(adapter.specification("batch", parameters={"code": text(script)}))
    adapter.until_said(record, "^ready$")
    adapter.cluster.ask("scancel", "--batch", "--signal=USR1", str(record.slurm_id))
    [record] = adapter.until_ended(record)
    assert (record.state, record.exit_code) == (JobState.FAILURE, 4)
    assert "USR1" in adapter.output(record)


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", 137)])
def test_exit_records_tell_how_it_ended(adapter: LiveSite, script: str, code: int) -> None:
    [record] = adapter.submit(adapter.specification("batch", parameters={"code": text(script)}))
    [record] = adapter.until_ended(record)
    told = json.loads(adapter.file(record, "exit.json").read_text())
    assert (told["format"], told["job"], told["slurm_id"], told["restart"]) == (1, record.id, record.slurm_id, 0)
    assert (told["exit_code"], told["signal"], told["reason"]) == (code, code - 128 if code > 128 else None, None)
    assert record.state is (JobState.FAILURE if code else JobState.SUCCESS)


def processes_of(cluster: Cluster, record: Record) -> list[str]:
    """Processes, on any node, that belong to a job: its folder is in their arguments or environment."""
    found = []
    for node in cluster.nodes:
        # The pattern comes on standard input, so that grep does not find itself.
        search = ("sh", "-c", "grep -l -a -F -f - /proc/[0-9]*/cmdline /proc/[0-9]*/environ")
        listed = cluster.run(*search, user="root", node=node.name, stdin=f"/{record.id}/\n".encode())
        found += listed.stdout.decode().split()
    return found


@pytest.mark.parametrize("ending", ["by itself", "cancelled", "batch killed", "ignores TERM"])
def test_no_process_outlives_its_job(make_adapter: LiveSiteMaker, ending: str) -> None:
    adapter = make_adapter(first_id=811_000)
    if ending == "ignores TERM" and (problems := sandbox.status(adapter.cluster.layout.name).notes):
        pytest.skip(f"Slurm loses processes whose parents have ended: {problems[0]}")
    ignoring = "trap '' TERM; " if ending == "ignores TERM" else ""
    last = "sleep 1" if ending == "by itself" else "sleep 300"
    script = f"{ignoring}srun -N 2 -n 2 sh -c 'sleep 1; {last}' & echo ready; {last}; wait"
    [record] = adapter.start(adapter.shell(script, replicas=2))
    adapter.until_said(record, "^ready$")
    assert processes_of(adapter.cluster, record)
    if ending == "batch killed":
        adapter.cluster.ask("pkill", "-KILL", "-f", f"batch.sh .*/{record.id}$", node=record.nodes[0])
    elif ending != "by itself":
        adapter.cancel(record)
    adapter.until_ended(record)
    adapter.cluster.wait_for(lambda: not processes_of(adapter.cluster, record), timeout=20)


MPI = r"""
#include <mpi.h>
#include <netdb.h>
#include <stdio.h>

int main(int argc, char **argv) {
    int rank, size, sum, resolved;
    struct addrinfo *found;
    static double big[1 << 20];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    resolved = getaddrinfo("database", NULL, NULL, &found) == 0;
    MPI_Allreduce(&resolved, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    big[5] = rank == 0 ? 42 : 0;
    MPI_Bcast(big, 1 << 20, MPI_DOUBLE, 0, MPI_COMM_WORLD); /* large: shared memory copies it in one piece */
    if (rank == size - 1) printf("%d of %d ranks resolve it; the last has %g\n", sum, size, big[5]);
    MPI_Finalize();
    return 0;
}
"""


def test_an_mpi_program_over_two_nodes_has_shared_memory_and_names(adapter: LiveSite) -> None:
    cluster = adapter.cluster
    if cluster.run("which", "mpicc").returncode:
        pytest.skip("no MPI on the nodes: apt-get install libopenmpi-dev openmpi-bin")
    program = f"{cluster.shared}/ucloud/mpi-names"
    cluster.ask("mpicc", "-x", "c", "-", "-o", program, user="ucloud", stdin=MPI.encode())
    cluster.ask("chmod", "755", program, user="ucloud")
    [peer] = adapter.start(adapter.shell("sleep 90"))
    script = f"""
        export OMPI_MCA_btl=self,vader,tcp OMPI_MCA_btl_vader_single_copy_mechanism=cma OMPI_MCA_pml=ob1
        export OMPI_MCA_btl_tcp_if_include={cluster.layout.ipv4(0)}/24
        export OMPI_MCA_oob_tcp_if_include=$OMPI_MCA_btl_tcp_if_include
        export OMPI_MCA_orte_keep_fqdn_hostnames=1 OMPI_MCA_rmaps_base_oversubscribe=1
        mpirun --oversubscribe -np 4 --map-by ppr:2:node {program}
    """
    [record] = adapter.submit(adapter.shell(script, peers={"database": peer}, replicas=2))
    [output] = adapter.until_successful(record)
    assert "4 of 4 ranks resolve it; the last has 42" in output
    assert "vader" not in adapter.errors(record)

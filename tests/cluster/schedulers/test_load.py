"""How full partitions are, from recorded and made-up answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurm_adapter.cluster.schedulers.command_line import CommandLineScheduler
from slurm_adapter.cluster.schedulers.interface import Load
from slurm_adapter.cluster.schedulers.load import parse_load
from slurm_adapter.cluster.transports.fake import FakeTransport
from slurm_adapter.cluster.transports.interface import Result
from slurm_adapter.core.errors import TryAgain, Unknown

RECORDED = Path(__file__).parent / "recorded/22.05.8"
MEBIBYTE = 1024 * 1024


def node(state: str, partitions: str = "main", *, used: int = 1, efctv: str = "") -> bytes:
    """One node as scontrol shows it: four processors and 1000 MiB."""
    return (
        f"NodeName=n1 Arch=x86_64 CPUAlloc={used} {efctv}CPUTot=4 CPULoad=9.99 Gres=(null)  RealMemory=1000 "
        f"AllocMem={100 * used} FreeMem=77 State={state} ThreadsPerCore=1 Partitions={partitions}  Comment=CPUTot=99 "
        "Partitions=other State=DOWN RealMemory=1\n"
    ).encode()


def test_recorded_nodes() -> None:
    nodes = (RECORDED / "scontrol-show-node").read_bytes()
    found = parse_load(nodes, b"RUNNING\nPENDING\nPENDING\nSUSPENDED\n", ["main"])
    assert found == Load(192, 192000 * MEBIBYTE, 15, 3840 * MEBIBYTE, running=2, pending=2)
    assert parse_load(nodes, b"", ["main", "scavenge"]) == Load(192, 192000 * MEBIBYTE, 15, 3840 * MEBIBYTE, 0, 0)


def test_a_node_counts_in_each_of_its_partitions() -> None:
    nodes = node("IDLE", "a") + node("IDLE", "a,b") + node("IDLE", "ab") + node("IDLE", "")
    assert parse_load(nodes, b"", ["a"]).cpus == 8
    assert parse_load(nodes, b"", ["a", "b"]).cpus == 8
    assert parse_load(nodes, b"", ["b"]).cpus == 4
    assert parse_load(nodes, b"", ["other"]) == Load(0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("state", "takes_jobs"),
    [
        ("IDLE", True),
        ("MIXED", True),
        ("ALLOCATED+COMPLETING", True),
        ("IDLE+CLOUD+POWERED_DOWN", True),
        ("MIXED+PLANNED", True),
        ("IDLE+RESERVED", True),
        ("MIXED+DRAIN", False),
        ("DOWN", False),
        ("DOWN*+DRAIN", False),
        ("IDLE*", False),
        ("IDLE+NOT_RESPONDING", False),
        ("IDLE+MAINT", False),
        ("FUTURE", False),
        ("UNKNOWN*", False),
    ],
)
def test_a_node_that_accepts_no_jobs_has_only_its_used_resources(state: str, takes_jobs: bool) -> None:  # noqa: FBT001  # a row of the table
    found = parse_load(node(state), b"", ["main"])
    assert (found.used_cpus, found.used_memory) == (1, 100 * MEBIBYTE)
    assert (found.cpus, found.memory) == ((4, 1000 * MEBIBYTE) if takes_jobs else (1, 100 * MEBIBYTE))


def test_processors_reserved_for_the_system_do_not_count() -> None:
    assert parse_load(node("IDLE", efctv="CPUEfctv=3 "), b"", ["main"]).cpus == 3


def test_states_of_jobs() -> None:
    said = b"RUNNING\nCONFIGURING\nSUSPENDED\nCOMPLETING\nPENDING\nREQUEUED\nCOMPLETED\n"
    found = parse_load(node("IDLE"), said, ["main"])
    assert (found.running, found.pending) == (3, 2)


@pytest.mark.parametrize(
    ("nodes", "jobs", "says"),
    [
        (b"No nodes in the system\n", b"", "no nodes"),
        (node("IDLE")[:-1], b"", "nodes breaks off"),
        (node("IDLE"), b"RUNNING\nPEND", "jobs breaks off"),
        (node("IDLE"), b"RUNNING\nwhat is this\n", "not a job's state"),
        (node("IDLE").replace(b"CPUAlloc=1", b"CPUAlloc=x"), b"", "CPUAlloc"),
        (node("IDLE").replace(b" State=", b" Stat="), b"", "State"),
    ],
)
def test_what_cannot_be_read_says_nothing(nodes: bytes, jobs: bytes, says: str) -> None:
    with pytest.raises(Unknown, match=says):
        parse_load(nodes, jobs, ["main"])


@pytest.mark.parametrize("command", ["scontrol", "squeue"])
@pytest.mark.parametrize(
    ("said", "error"),
    [("Unable to contact slurm controller (connect failure)", TryAgain), ("Socket timed out", Unknown)],
)
def test_a_command_that_fails(command: str, said: str, error: type[Exception]) -> None:
    transport = FakeTransport(
        lambda asked: (
            Result(1, b"", f"slurm_load error: {said}".encode())
            if command in asked.argv
            else Result(0, node("IDLE"), b"")
        )
    )
    with pytest.raises(error):
        CommandLineScheduler(transport).load(["main"])

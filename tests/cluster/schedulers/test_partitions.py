"""The limits of partitions and the sizes of their nodes, from recorded and made-up answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.cluster.schedulers.interface import NodeShape
from slurm_adapter.cluster.schedulers.partitions import parse_partitions
from slurm_adapter.core.errors import Unknown

RECORDED = Path(__file__).parent / "recorded/22.05.8"
MEBIBYTE = 1024 * 1024

PARTITION = (
    "PartitionName=main AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL Default=NO MaxNodes=UNLIMITED "
    "MaxTime=UNLIMITED OverSubscribe=NO State=UP TotalNodes=2\n"
)


def node(gres: str = "(null)", more: str = "", features: str = "(null)", comment: str = "x") -> str:
    """One node as scontrol shows it: four processors and 1000 MiB."""
    return (
        f"NodeName=n1 CPUAlloc=0 {more}CPUTot=4 AvailableFeatures={features} Gres={gres} OS=Linux a=b  RealMemory=1000 "
        f"State=IDLE Partitions=main  Comment={comment}\n"
    )


def shape(text: str) -> NodeShape:
    """Read the only shape of the only partition."""
    (found,) = parse_partitions(PARTITION.encode(), text.encode())["main"].shapes
    return found


def test_recorded_partitions() -> None:
    found = parse_partitions(
        (RECORDED / "scontrol-show-partition").read_bytes(),
        (RECORDED / "scontrol-show-node-of-partitions").read_bytes(),
    )
    assert set(found) == {"main", "scavenge", "closed", "denied", "empty"}
    main, closed, denied, empty = (found[name] for name in ("main", "closed", "denied", "empty"))
    fast = NodeShape(64, 64000 * MEBIBYTE, (("", 2),), frozenset({"fast"}))
    plain = NodeShape(64, 64000 * MEBIBYTE, (("", 2),), frozenset())
    assert (main.state, main.default, main.max_time, main.max_nodes, main.shapes) == (
        *("UP", True, 172_800, None),
        {fast: 1, plain: 2},
    )
    assert (closed.state, closed.default, closed.max_time, closed.max_nodes) == ("DRAIN", False, 5400, 2)
    assert (closed.max_cpus_per_node, closed.oversubscribe, closed.shapes) == (32, "EXCLUSIVE", {fast: 1, plain: 1})
    assert (closed.allow_accounts, closed.allow_qos) == (frozenset({"physics", "chem"}), frozenset({"normal", "high"}))
    assert (denied.state, denied.max_time, denied.oversubscribe, denied.shapes) == ("DOWN", None, "FORCE", {plain: 1})
    assert (denied.allow_accounts, denied.deny_accounts) == (None, frozenset({"guests"}))
    assert (denied.allow_qos, denied.deny_qos) == (None, frozenset({"low"}))
    assert (empty.state, empty.shapes, empty.oversubscribe) == ("INACTIVE", {}, "YES")
    assert {each.hidden_nodes for each in found.values()} == {0}


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("(null)", ()),
        ("gpu:2", (("", 2),)),
        ("gpu", (("", 1),)),
        ("gpu:a100:4(S:0-1)", (("a100", 4),)),
        ("gpu:a100:4(S:0,2),gpu:v100:2,shard:8,mps:400", (("a100", 4), ("v100", 2))),
        ("gpu:a100", (("a100", 1),)),
        ("gpu:a100:1,gpu:a100:3", (("a100", 4),)),
        ("gpu_mem:80G,nic:2", ()),
    ],
)
def test_gpus(gres: str, gpus: tuple[tuple[str, int], ...]) -> None:
    assert shape(node(gres)).gpus == gpus


def test_what_is_kept_for_the_system_is_not_for_jobs() -> None:
    found = shape(node(more="CPUEfctv=3 MemSpecLimit=200 "))
    assert (found.cpus, found.memory) == (3, 800 * MEBIBYTE)


def test_features_and_free_text() -> None:
    assert shape(node(features="ib,big", comment="CPUTot=99 AvailableFeatures=c Partitions=b")).features == {
        "ib",
        "big",
    }


def test_nodes_that_slurm_hides_are_counted() -> None:
    found = parse_partitions(PARTITION.encode(), node().encode())["main"]
    assert (sum(found.shapes.values()), found.hidden_nodes) == (1, 1)


@pytest.mark.parametrize(
    ("partitions", "nodes", "says"),
    [
        ("No partitions in the system\n", node(), "no partition"),
        (PARTITION[:-1], node(), "partitions breaks off"),
        (PARTITION, node()[:-1], "nodes breaks off"),
        (PARTITION.replace("MaxTime=UNLIMITED", "MaxTime=soon"), node(), "soon"),
        (PARTITION.replace(" State=UP", ""), node(), "State"),
        (PARTITION, node().replace("CPUTot=4", "CPUTot=many"), "many"),
        (PARTITION, node().replace("RealMemory", "Memory"), "RealMemory"),
    ],
)
def test_what_cannot_be_read_says_nothing(partitions: str, nodes: str, says: str) -> None:
    with pytest.raises(Unknown, match=says):
        parse_partitions(partitions.encode(), nodes.encode())


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_nothing_but_unknown_is_ever_raised(partitions: bytes, nodes: bytes) -> None:
    for data in ((partitions, nodes), (PARTITION.encode() + partitions + b"\n", b"NodeName=" + nodes + b"\n")):
        try:
            parse_partitions(*data)
        except Unknown:
            continue

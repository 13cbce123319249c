"""The cluster's nodes and the addresses of names, from recorded and made-up answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.cluster.schedulers import nodes
from slurm_adapter.cluster.schedulers.command_line import CommandLineScheduler
from slurm_adapter.cluster.schedulers.nodes import parse_addresses
from slurm_adapter.cluster.transports.local import LocalTransport
from slurm_adapter.core.errors import Unknown

RECORDED = Path(__file__).parent / "recorded/22.05.8"
PARTITION = b"PartitionName=main AllowGroups=ALL Nodes=n1 State=UP\n"


def parse_nodes(data: bytes, partitions: bytes = PARTITION) -> dict[str, str]:
    """Read nodes that are all in no partition but this one."""
    return {name: address for name, address in nodes.parse_nodes(data, partitions).items() if address}


def test_a_powered_down_cloud_node_has_a_name() -> None:
    """Some releases hide it: powered-down CLOUD nodes."""
    shown = b"NodeName=n1 NodeAddr=10.0.0.1 NodeHostName=n1 State=IDLE\n"
    partitions = b"PartitionName=a Nodes=n1,cloud[1-2] State=UP\nPartitionName=b Nodes=(null)\n"
    assert nodes.parse_nodes(shown, partitions) == {"n1": "10.0.0.1", "cloud1": "", "cloud2": ""}


@pytest.mark.parametrize("state", ["IDLE+CLOUD+POWERED_DOWN", "FUTURE"])
def test_a_node_that_is_not_there_has_a_name_but_no_address(state: str) -> None:
    shown = f"NodeName=c1 NodeAddr=c1 NodeHostName=c1 State={state}\n".encode()
    assert nodes.parse_nodes(shown, PARTITION) == {"c1": "", "n1": ""}
    assert nodes.parse_nodes(shown.replace(b"Addr=c1", b"Addr=10.0.0.7"), PARTITION)["c1"] == "10.0.0.7"


def test_a_node_with_another_hostname_has_both_names() -> None:
    shown = b"NodeName=n1 NodeAddr=10.0.0.1 NodeHostName=host1 State=IDLE\n"
    assert nodes.parse_nodes(shown, PARTITION) == {"n1": "10.0.0.1", "host1": "10.0.0.1"}


def test_recorded_nodes() -> None:
    found = parse_nodes((RECORDED / "scontrol-show-node").read_bytes())
    assert found == {"node001": "10.213.77.11", "node002": "10.213.77.12", "node003": "10.213.77.13"}


def test_free_text_is_not_an_address() -> None:
    line = "NodeName=n1 Arch=x86_64 NodeAddr=10.0.0.1 NodeHostName=n1 Comment=see NodeAddr=6.6.6.6 Reason=NodeName=n2\n"
    odd = "NodeName=future1 State=FUTURE Comment=a\n NodeName=n9 NodeAddr=6.6.6.6\nwords NodeName=n8 NodeAddr=6.6.6.6\n"
    assert parse_nodes((line + odd).encode()) == {"n1": "10.0.0.1"}


def test_free_text_that_holds_a_line_about_another_node_is_refused() -> None:
    line = "NodeName=n1 NodeAddr=10.0.0.1 Reason=x\nNodeName=n2 NodeAddr=6.6.6.6 y\nNodeName=n2 NodeAddr=10.0.0.2\n"
    with pytest.raises(Unknown, match="shows node n2 twice"):
        parse_nodes(line.encode())


@pytest.mark.edge_case(18)
@pytest.mark.parametrize("names", [("node1", "node10"), ("node10", "node1"), ("n1", "n1.example.org"), ("1", "11")])
def test_a_name_that_begins_like_another(names: tuple[str, str]) -> None:
    lines = [f"NodeName={name} NodeAddr=10.0.0.{number} NodeHostName={name}" for number, name in enumerate(names)]
    found = parse_nodes(("\n".join(lines) + "\n").encode())
    assert found == {names[0]: "10.0.0.0", names[1]: "10.0.0.1"}
    many = [f"n{number}" for number in range(12)]
    answer = "".join(f"resolved {number} 10.0.1.{number} \n" for number in (11, 1, 10, *range(2, 10), 0))
    assert parse_addresses(answer.encode(), many) == {f"n{number}": (f"10.0.1.{number}",) for number in range(12)}


def test_no_nodes_at_all() -> None:
    with pytest.raises(Unknown):
        parse_nodes(b"No nodes in the system\n")


def test_a_list_that_breaks_off_is_none() -> None:
    with pytest.raises(Unknown, match="breaks off"):
        parse_nodes(b"NodeName=n1 NodeAddr=10.0.0.12 State=IDLE\nNodeName=n2 NodeAddr=10.0.0.1")


@pytest.mark.edge_case(19)
def test_addresses_in_order_without_loopback() -> None:
    answer = b"motd\nresolved 1 127.0.1.1 \nresolved 0 fd00::1 10.0.0.1 fd00::1 fe80::1%eth0 ::1 0.0.0.0 169.254.1.1 \n"
    answer += b"resolved 2 \n"
    found = parse_addresses(answer, ["a", "b", "c"])
    assert found == {"a": ("fd00::1", "10.0.0.1")}


def test_a_name_without_an_answer() -> None:
    with pytest.raises(Unknown, match="lookup of b"):
        parse_addresses(b"resolved 0 10.0.0.1\n", ["a", "b"])


def test_a_real_look_up() -> None:
    scheduler = CommandLineScheduler(LocalTransport())
    names = ["localhost", "192.0.2.7", "2001:db8::7", "name.invalid", "-v", "$(id)"]
    assert scheduler.addresses(names) == {"192.0.2.7": ("192.0.2.7",), "2001:db8::7": ("2001:db8::7",)}
    assert scheduler.addresses([]) == {}


@given(st.binary(max_size=300))
def test_nothing_but_unknown_is_ever_raised(data: bytes) -> None:
    for parse in (parse_nodes, lambda raw: parse_addresses(raw, ["a"])):
        try:
            parse(data)
        except Unknown:
            continue


@given(st.lists(st.binary(max_size=60).filter(lambda line: b"resolved " not in line), max_size=8), st.integers(1, 5))
def test_no_line_hides_a_name_that_was_looked_up(noise: list[bytes], count: int) -> None:
    names = [f"n{number}" for number in range(count)]
    told = [f"resolved {number} 10.0.0.{number + 1} ".encode() for number in range(count)]
    text = b"".join(line + b"\n" for pair in zip(told, [*noise, *[b""] * count], strict=False) for line in pair)
    assert parse_addresses(text, names) == {f"n{number}": (f"10.0.0.{number + 1}",) for number in range(count)}
    with pytest.raises(Unknown, match="gave no answer"):
        parse_addresses(text, [*names, "more"])

"""Which jobs a cluster cannot run, as far as facts that were asked for before tell."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.cluster.accounting import UNKNOWN, Accounting
from slurm_adapter.cluster.schedulers.interface import NodeShape, Partition
from slurm_adapter.core.directives import Directive
from slurm_adapter.core.errors import TryAgain
from slurm_adapter.jobs.cluster_facts import CannotRun, ClusterFacts, check, learn, system_names
from tests.offline import Offline

if TYPE_CHECKING:
    from pathlib import Path

GIB = 2**30
BIG = NodeShape(cpus=64, memory=256 * GIB, gpus=(("a100", 4),), features=frozenset({"ib"}))
SMALL = NodeShape(cpus=16, memory=64 * GIB, gpus=(), features=frozenset())

MAIN = Partition(
    name="main",
    state="UP",
    default=True,
    max_time=3600,
    max_nodes=4,
    max_cpus_per_node=None,
    allow_accounts=None,
    deny_accounts=frozenset(),
    allow_qos=None,
    deny_qos=frozenset(),
    oversubscribe="NO",
    shapes={BIG: 2, SMALL: 6},
    hidden_nodes=0,
)
RIGHTS = Accounting(
    enforced=frozenset({"associations", "qos"}),
    accounts=frozenset({"physics"}),
    qos={},
    associations={"alice": {"physics": frozenset({"normal"})}},
    defaults={"alice": "physics"},
)


def refusal(accounting: Accounting | None = None, seconds: int = 60, **wanted: str) -> str:
    """Why a job of alice that wants this is refused; empty if it is not."""
    other = replace(MAIN, name="other", max_time=None)
    facts = ClusterFacts({}, (), {"main": MAIN, "other": other, **PARTITIONS}, accounting)
    words = {"partition": "main", **wanted}
    try:
        check([Directive(name.replace("_", "-"), value) for name, value in words.items()], seconds, "alice", facts)
    except CannotRun as error:
        return str(error)
    return ""


PARTITIONS = {
    "drained": replace(MAIN, name="drained", state="DRAIN"),
    "inactive": replace(MAIN, name="inactive", state="INACTIVE"),
    "down": replace(MAIN, name="down", state="DOWN"),
    "cloud": replace(MAIN, name="cloud", shapes={SMALL: 1}, hidden_nodes=3),
    "shared": replace(MAIN, name="shared", max_cpus_per_node=8),
}


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"partition": "nosuch"}, "no partition nosuch"),
        ({"partition": "main,nosuch"}, "no partition nosuch"),
        ({"partition": "drained"}, "its state is DRAIN"),
        ({"partition": "inactive"}, "its state is INACTIVE"),
        ({"seconds": 3601}, "01:00:01 are longer than partition main allows: 01:00:00"),
        ({"nodes": "5"}, "5 nodes are more than partition main allows: 4"),
        ({"cpus_per_task": "65"}, "0 nodes with 65 processors"),
        ({"partition": "shared", "cpus_per_task": "9"}, "9 processors on a node"),
        ({"mem": "257G"}, "0 nodes with 1 processors, mem 257G"),
        ({"gres": "gpu:5"}, "gres gpu:5"),
        ({"gres": "gpu:v100:1"}, "gres gpu:v100:1"),
        ({"gres": "gpu:a100:1", "nodes": "3"}, "2 nodes with 1 processors, gres gpu:a100:1, and the job needs 3"),
        ({"constraint": "nosuch"}, "constraint nosuch"),
        ({"partition": "main,drained", "seconds": 7200}, "longer than partition main allows"),
        ({"accounting": RIGHTS, "account": "chemistry"}, "alice may not use Slurm's account chemistry, but physics"),
        ({"accounting": RIGHTS, "qos": "high"}, "alice may not use the QOS high, but normal"),
    ],
)
def test_what_slurm_would_refuse_or_let_wait_without_end(wanted: dict[str, Any], says: str) -> None:
    """Row f: what must be known for a refusal is known before."""
    assert says in refusal(**wanted)
    assert says


@pytest.mark.parametrize(
    "wanted",
    [
        {"partition": "main"},
        {"seconds": 3600, "nodes": "4"},
        {"partition": "down"},
        {"partition": "main,other", "seconds": 7200},
        {"partition": "cloud", "cpus_per_task": "512", "nodes": "3"},
        {"cpus_per_task": "64", "mem": "256G", "gres": "gpu:a100:4", "constraint": "ib", "nodes": "2"},
        {"gres": "license:5,gpu"},
        {"constraint": "[a|b]"},
        {"nodes": "1-8"},
        {"accounting": UNKNOWN, "seconds": 7200, "nodes": "5"},
        {"accounting": replace(RIGHTS, lifts=frozenset({"PartitionTimeLimit"})), "seconds": 7200},
        {"accounting": RIGHTS, "account": "Physics", "qos": "normal"},
        {"accounting": replace(RIGHTS, enforced=frozenset()), "account": "chemistry"},
        {"accounting": replace(RIGHTS, enforced=frozenset({"associations"})), "qos": "high"},
        {"accounting": replace(RIGHTS, associations={}), "account": "chemistry"},
    ],
)
def test_what_is_left_to_slurm(wanted: dict[str, Any]) -> None:
    assert refusal(**wanted) == ""


def test_a_hosts_file_that_cannot_be_read_is_not_empty(tmp_path: Path) -> None:
    """A job could take one of its names."""
    offline = Offline(tmp_path)
    assert "localhost" in system_names(offline.site)
    cat = tmp_path / "bin" / "cat"
    cat.write_text("#!/bin/sh\necho Input/output error >&2\nexit 1\n")
    cat.chmod(0o755)
    with pytest.raises(TryAgain, match="/etc/hosts could not be read: Input/output error"):
        learn(offline.site)

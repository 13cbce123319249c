"""`check` compares the machine table with the cluster, and names the file, the line and the key."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from slurm_adapter.cli.check import Level
from slurm_adapter.cli.check.accounting import check_rights
from slurm_adapter.cli.check.machines import check_machines
from slurm_adapter.cli.main import cli
from slurm_adapter.cluster.accounting import Accounting
from slurm_adapter.cluster.schedulers.interface import NodeShape, Partition
from slurm_adapter.core.config_tables import Machine
from slurm_adapter.core.errors import Unknown
from tests.offline import Offline

if TYPE_CHECKING:
    from pathlib import Path

    from tests.adapter import LiveSite

GIBIBYTE = 1024**3
SMALL = NodeShape(cpus=64, memory=64000 * 1024**2, gpus=(), features=frozenset())
GPU = NodeShape(cpus=32, memory=128 * GIBIBYTE, gpus=(("a100", 4),), features=frozenset({"fast", "ib"}))
MAIN = Partition(
    name="main",
    state="UP",
    default=True,
    max_time=2 * 86400,
    max_nodes=None,
    max_cpus_per_node=None,
    allow_accounts=None,
    deny_accounts=frozenset(),
    allow_qos=None,
    deny_qos=frozenset(),
    oversubscribe="NO",
    shapes={SMALL: 3, GPU: 2},
    hidden_nodes=0,
)
MACHINE: dict[str, Any] = {"partition": "main", "cpus": 1, "memory": 1, "max_nodes": 1, "max_time": "1-00:00:00"}


NO_ACCOUNTING = "#!/bin/sh\necho 'AccountingStorageType   = (null)'\n"


def with_programs(folder: Path) -> dict[str, Any]:
    """Return settings for a site with its own scontrol, which reports no accounting."""
    put_program(folder, "scontrol", NO_ACCOUNTING)
    return {"clusters": {"main": {"path": f"{folder}/bin:/usr/bin:/bin"}}}


def put_program(folder: Path, name: str, text: str) -> None:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def found(tmp_path: Path, machine: dict[str, Any], **partition: Any) -> list[tuple[Level, str]]:
    """Return the findings about one machine and its partition. Assert that each text has its key."""
    site = Offline(tmp_path, {"machines": {"c": {"m": MACHINE | machine}}, **with_programs(tmp_path)})
    site.slurm.other_partitions = {"main": dataclasses.replace(MAIN, **partition)}
    with site.site:
        findings = list(check_machines(site.site, {"alice": "alice"}))
    for each in findings:
        if each.key:
            assert each.key[:3] == ("machines", "c", "m")
            assert re.match(rf"{each.key[3]} = .*\(machines\.c\.m\)$", each.text)
    return [(each.level, each.text.removesuffix(" (machines.c.m)")) for each in findings]


@pytest.mark.parametrize(
    ("machine", "partition", "says"),
    [
        ({"partition": "mian"}, {}, 'partition = "mian", but the cluster has no such partition; it has main'),
        ({}, {"state": "DOWN"}, 'partition = "main", which is DOWN: its jobs wait until'),
        ({}, {"state": "DRAIN"}, 'partition = "main", which is DRAIN: new jobs are refused until'),
        ({}, {"shapes": {}}, 'partition = "main", which has no nodes'),
        ({"cpus": 512}, {}, "cpus = 512, but the largest node of partition main has 64"),
        ({"cpus": 8}, {"max_cpus_per_node": 4}, "cpus = 8, but MaxCPUsPerNode of partition main is 4"),
        ({"memory": 512}, {}, "memory = 512, but the largest node of partition main has 128.0 GiB; write at most 128"),
        ({"memory": 63}, {"shapes": {SMALL: 1}}, "memory = 63, but the largest node of partition main has 62.5 GiB"),
        ({"gpus": 8}, {}, "gpus = 8, but no node of partition main has more than 4"),
        ({"gpus": 1}, {"shapes": {SMALL: 1}}, "gpus = 1, but no node of partition main has GPUs"),
        ({"gpus": 1, "gpu_type": "h100"}, {}, 'gpu_type = "h100", but no node of partition main has such GPUs; it has'),
        ({"constraint": "fsat"}, {}, 'constraint = "fsat", but no node of partition main meets it; the'),
        ({"constraint": "fast&big"}, {}, 'constraint = "fast&big", but no node'),
        ({"max_nodes": 6}, {}, "max_nodes = 6, but partition main has 5 nodes"),
        ({"max_nodes": 3, "constraint": "fast"}, {}, "max_nodes = 3, but partition main has 2 nodes that fit"),
        ({"max_nodes": 5}, {"max_nodes": 4}, "max_nodes = 5, but MaxNodes of partition main is 4"),
        ({"cpus": 64, "gpus": 1}, {}, "cpus = 64, but no node of partition main has this many and memory"),
        ({"max_time": "3-00:00:00"}, {}, 'max_time = "3-00:00:00", but MaxTime of partition main is 2-00:00:00'),
        ({"account": "x"}, {"allow_accounts": frozenset({"bio"})}, 'account = "x", but partition main allows only bio'),
        ({"account": "chem"}, {"deny_accounts": frozenset({"chem"})}, 'account = "chem", but partition main denies it'),
        ({"qos": "long"}, {"allow_qos": frozenset({"normal"})}, 'qos = "long", but partition main allows only normal'),
    ],
)  # fmt: skip
def test_a_machine_that_its_partition_cannot_give(
    tmp_path: Path, machine: dict[str, Any], partition: dict[str, Any], says: str
) -> None:
    [(level, text)] = found(tmp_path, machine, **partition)
    assert (level, text[: len(says)]) == (Level.PROBLEM, says)


@pytest.mark.parametrize(
    ("machine", "partition"),
    [
        ({}, {}),
        ({"cpus": 64, "memory": 62, "max_nodes": 3}, {}),
        ({"gpus": 4, "gpu_type": "a100", "cpus": 32, "max_nodes": 2, "constraint": "fast|big"}, {}),
        ({"constraint": "[fast*2&ib]"}, {}),
        ({"account": "Chem"}, {"allow_accounts": frozenset({"chem"})}),
        ({"max_nodes": 7}, {"hidden_nodes": 2}),
        ({"exclusive": True}, {"oversubscribe": "EXCLUSIVE"}),
        ({"max_time": "9-00:00:00"}, {"max_time": None}),
    ],
)
def test_a_machine_that_fits(tmp_path: Path, machine: dict[str, Any], partition: dict[str, Any]) -> None:
    assert found(tmp_path, machine, **partition) == [(Level.GOOD, "machine c/m fits partition main")]


@pytest.mark.parametrize(
    ("machine", "partition", "says"),
    [
        ({}, {"oversubscribe": "EXCLUSIVE"}, "exclusive = false, but partition main allocates whole nodes"),
        ({"exclusive": True}, {"oversubscribe": "FORCE"}, "exclusive = true, but partition main shares every node"),
        ({"gpu_type": "a100"}, {}, 'gpu_type = "a100", but gpus is 0'),
        ({"max_time": "00:30:00"}, {}, 'max_time = "00:30:00", but jobs.default_time is 01:00:00'),
        ({"cpus": 512}, {"hidden_nodes": 2}, "cpus = 512, but the largest node of partition main has 64"),
    ],
)
def test_a_machine_that_may_be_intended(
    tmp_path: Path, machine: dict[str, Any], partition: dict[str, Any], says: str
) -> None:
    """These are warnings only: for example, nodes that Slurm hides may be larger."""
    [(level, text)] = found(tmp_path, machine, **partition)
    assert (level, text[: len(says)]) == (Level.WARNING, says)


ACCOUNTING = Accounting(
    enforced=frozenset({"associations", "qos"}),
    accounts=frozenset({"root", "chem", "bio"}),
    qos={"normal": None, "short": 3600},
    associations={"alice": {"chem": frozenset({"normal"})}, "bob": {"bio": frozenset({"normal", "short"})}},
    defaults={"alice": "chem", "bob": "bio"},
)


@pytest.mark.parametrize(
    ("machine", "partition", "said"),
    [
        ({}, {}, []),
        ({"account": "phys"}, {}, ["account: , but Slurm's accounting has no such account; it has bio, chem, root"]),
        ({"account": "bio"}, {}, ["account: , but alice may not use it: sacctmgr add user alice account=bio"]),
        ({"account": "Bio"}, {}, ["account: , but alice may not use it: sacctmgr add user alice account=bio"]),
        ({"qos": "lnog"}, {}, ["qos: , but Slurm's accounting has no such QOS; it has normal, short"]),
        *(
            (
                {"qos": qos},
                {},
                [
                    "qos: , but alice may not use it in account chem: sacctmgr modify user alice set qos+=short",
                    f"max_time: , but MaxWall of QOS {qos} is 01:00:00; lower it",
                ],
            )
            for qos in ("short", "Short")
        ),
        (
            {},
            {"allow_accounts": frozenset({"bio"})},
            ["partition: , which allows only the accounts bio, but the default account of alice is chem; set account"],
        ),
    ],
)
def test_what_accounting_allows(machine: dict[str, Any], partition: dict[str, Any], said: list[str]) -> None:
    values = Machine.model_validate(MACHINE | machine)
    rights = check_rights(values, dataclasses.replace(MAIN, **partition), ACCOUNTING)
    assert [f"{key}: {text}" for _, key, text in rights] == said


SCONTROL = """#!/bin/sh
echo 'AccountingStorageEnforce = associations,qos'
echo 'AccountingStorageType   = accounting_storage/slurmdbd'
"""

SACCTMGR = """#!/bin/sh
echo Welcome to sacctmgr of this site
case "$*" in
    *'show assoc'*) echo 'chem|alice-corp|normal' ;;
    *'show user'*) echo 'alice-corp|chem' ;;
    *'show account'*) echo chem ;;
    *'show qos'*) echo 'normal|' ;;
esac
"""


@pytest.mark.parametrize(("name", "unknown"), [("alice-corp", []), ("alice", ["alice"])])
def test_accounting_knows_accounts_by_the_name_that_slurm_has_for_them(
    tmp_path: Path, name: str, unknown: list[str]
) -> None:
    """Two passwd lines have the same uid, and the site's own sacctmgr prints additional lines."""
    site = Offline(tmp_path, with_programs(tmp_path))
    for program, text in (("scontrol", SCONTROL), ("sacctmgr", SACCTMGR)):
        put_program(tmp_path, program, text)
    texts = [finding.text for finding in check_machines(site.site, {"alice": name})]
    said = [text.split(":")[0] for text in texts if "has no user" in text]
    assert said == [f"Slurm's accounting has no user {user}" for user in unknown]


def test_accounting_that_has_names_in_lower_case_may_know_an_account_with_capitals(tmp_path: Path) -> None:
    """Directory services such as Active Directory treat both names as the same account."""
    site = Offline(tmp_path, with_programs(tmp_path))
    for program, text in (("scontrol", SCONTROL), ("sacctmgr", SACCTMGR)):
        put_program(tmp_path, program, text)
    said = {finding.text: finding.level for finding in check_machines(site.site, {"Alice": "Alice-Corp"})}
    assert not [text for text in said if "has no user" in text]
    [found] = [text for text in said if "PreserveCaseUser" in text]
    assert found.startswith("Slurm's accounting has user alice-corp, not Alice-Corp: ")
    assert said[found] is Level.WARNING


@pytest.mark.parametrize("text", ["#!/bin/sh\necho 'no route' >&2\nexit 1\n", "#!/bin/sh\n"])
def test_unknown_settings_do_not_mean_that_slurm_has_no_accounting(tmp_path: Path, text: str) -> None:
    site = Offline(tmp_path, with_programs(tmp_path))
    put_program(tmp_path, "scontrol", text)
    with pytest.raises(Unknown, match=r"scontrol show config failed: (no route|exit code 0, and .* no Accounting)"):
        list(check_machines(site.site, {"alice": "alice"}))


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("pattern", "line", "words"),
    [
        ("^cpus = 1$", "cpus = 512", "cpus = 512, but the largest node of partition main has 64"),
        ("^memory = 1$", "memory = 512", "memory = 512, but the largest node of partition main has 62"),
        (r"^gpus = \d+$", "gpus = 3", "gpus = 3, but no node of partition main has more than 2"),
        ('^constraint = "fast"$', 'constraint = "fsat"', "meets it; the nodes have the features fast"),
        ('^partition = "main"$', 'partition = "mian"', "it has main, scavenge (did you mean main?)"),
        ("^max_nodes = 3$", "max_nodes = 4", "max_nodes = 4, but partition main has 3 nodes"),
        ('^max_time = "12:00:00"$', 'max_time = "12:00:01"', "but MaxTime of partition scavenge is 12:00:00"),
    ],
)  # fmt: skip
def test_on_a_real_cluster(adapter: LiveSite, pattern: str, line: str, words: str) -> None:
    text, count = re.subn(pattern, line, adapter.config_file.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1
    adapter.config_file.write_text(text)
    result = CliRunner().invoke(cli, ["--config", str(adapter.config_file), "check", "--json"])
    problems = [each["text"] for each in json.loads(result.stdout) if each["level"] == "problem"]
    number = text.splitlines().index(line) + 1
    [problem] = problems
    assert problem.startswith(f"{adapter.config_file}:{number}: {line}")
    assert words in problem

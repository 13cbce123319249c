"""Slurm's accounting: its accounts and QOS, and the users who may use them."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from slurm_adapter.cluster.transports.interface import Command
from slurm_adapter.core.durations import parse_duration
from slurm_adapter.core.errors import Unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurm_adapter.cluster.transports.interface import Result, Transport
    from slurm_adapter.core.config_tables import Cluster


@dataclass(frozen=True, slots=True)
class Accounting:
    """The answers of sacctmgr."""

    enforced: frozenset[str]
    """Words of AccountingStorageEnforce: `associations`, `limits`, `qos`, ..."""
    accounts: frozenset[str]
    qos: Mapping[str, int | None]
    """The MaxWall of each QOS in seconds, or None."""
    lifts: frozenset[str] = frozenset()
    """Flags of any QOS, such as `PartitionTimeLimit`, which lifts a partition's MaxTime."""
    associations: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)
    """By account of the cluster: the Slurm accounts that it may use, each with the QOS that it may use there."""
    defaults: Mapping[str, str] = field(default_factory=dict)
    """The default Slurm account of each account of the cluster."""


UNKNOWN = Accounting(frozenset(), frozenset(), {}, frozenset({"PartitionTimeLimit", "PartitionMaxNodes"}))
"""The assumption while accounting does not answer: it forbids nothing, and may lift limits."""


def read_accounting(
    transport: Transport, cluster: Cluster, accounts: list[str], settings: Mapping[str, str]
) -> Accounting | None:
    """Ask sacctmgr; None at a site without accounting. Raises `Unknown` if it does not answer.

    `settings`: see `slurm_settings`.
    """
    if "slurmdbd" not in settings.get("AccountingStorageType", ""):
        return None
    name = settings.get("ClusterName", "")
    ask = partial(_rows, transport, cluster)
    qos = {word: _seconds(wall) for word, wall in ask("qos", "format=Name,MaxWall")}
    lifts = frozenset(flag for _, flags in ask("qos", "format=Name,Flags") for flag in flags.split(","))
    known = {word for (word,) in ask("account", "format=Account")}
    may_use: dict[str, dict[str, frozenset[str]]] = defaultdict(dict)
    defaults: dict[str, str] = {}
    if accounts:
        users = f"user={','.join(accounts)}"
        for account, user, names in ask("assoc", users, f"cluster={name}", "format=Account,User,QOS"):
            may_use[user][account] = may_use[user].get(account, frozenset()) | frozenset(names.split(","))
        defaults = dict(ask("user", users, "format=User,DefaultAccount"))
    enforced = frozenset(settings.get("AccountingStorageEnforce", "none").lower().split(",")) - {"none"}
    return Accounting(enforced, frozenset(known), qos, lifts, may_use, defaults)


def run_slurm(transport: Transport, cluster: Cluster, *words: str) -> Result:
    """Run a command of Slurm as the adapter's own account."""
    conf = (f"SLURM_CONF={cluster.slurm_conf}",) if cluster.slurm_conf else ()
    return transport.run(Command(words, environment=(f"PATH={cluster.path}", "LC_ALL=C.UTF-8", *conf)))


def slurm_settings(transport: Transport, cluster: Cluster) -> dict[str, str]:
    """Return slurmctld's configuration by key (scontrol(1), show config). Raise `Unknown` if it does not answer."""
    result = run_slurm(transport, cluster, "scontrol", "show", "config")
    settings = {key: value.strip() for key, value in re.findall(r"^(\w+)\s*= (.*)$", result.text, re.MULTILINE)}
    if result.status != 0 or "AccountingStorageType" not in settings:
        why = result.complaint or f"exit code {result.status}, and its answer has no AccountingStorageType"
        raise Unknown(f"scontrol show config failed: {why}")
    return settings


def _rows(transport: Transport, cluster: Cluster, *words: str) -> list[list[str]]:
    result = run_slurm(transport, cluster, "sacctmgr", "-n", "-P", "show", *words)
    if result.status != 0:
        raise Unknown(f"sacctmgr show {words[0]} failed: {result.complaint or f'exit code {result.status}'}")
    # Other lines of a site's own sacctmgr have other columns.
    columns = words[-1].count(",") + 1
    rows = (line.split("|") for line in result.text.splitlines() if line)
    return [row for row in rows if len(row) == columns]


def _seconds(text: str) -> int | None:
    try:
        return parse_duration(text)
    except ValueError:
        return None

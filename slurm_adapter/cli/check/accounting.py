"""Check accounts and QOS against Slurm's accounting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.cli.check.findings import Level
from slurm_adapter.core.durations import duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.cluster.accounting import Accounting
    from slurm_adapter.cluster.schedulers.interface import Partition
    from slurm_adapter.core.config_tables import Machine


def check_rights(
    machine: Machine, partition: Partition, accounting: Accounting | None
) -> Iterator[tuple[Level, str, str]]:
    """Check the account and the QOS of a machine: they exist, and the partition and accounting allow them."""
    for key, allowed, denied in (
        ("account", partition.allow_accounts, partition.deny_accounts),
        ("qos", partition.allow_qos, partition.deny_qos),
    ):
        value = getattr(machine, key)
        if value is None:
            continue
        if allowed is not None and value.lower() not in {each.lower() for each in allowed}:
            yield Level.PROBLEM, key, f", but partition {partition.name} allows only {', '.join(sorted(allowed))}"
        elif value.lower() in {each.lower() for each in denied}:
            yield Level.PROBLEM, key, f", but partition {partition.name} denies it; use another {key} or partition"
        elif accounting is not None:
            yield from _check_known(key, value, accounting)
    if accounting is not None:
        yield from _check_users(machine, partition, accounting)
        wall = accounting.qos.get(machine.qos.lower()) if machine.qos is not None else None
        if wall is not None and machine.max_time > wall:
            yield Level.PROBLEM, "max_time", f", but MaxWall of QOS {machine.qos} is {duration(wall)}; lower it"


def _check_known(key: str, value: str, accounting: Accounting) -> Iterator[tuple[Level, str, str]]:
    known = accounting.accounts if key == "account" else frozenset(accounting.qos)
    what = "account" if key == "account" else "QOS"
    if known and value.lower() not in {each.lower() for each in known}:
        yield (
            Level.PROBLEM if accounting.enforced else Level.WARNING,
            key,
            f", but Slurm's accounting has no such {what}; it has {', '.join(sorted(known))}",
        )


def _check_users(machine: Machine, partition: Partition, accounting: Accounting) -> Iterator[tuple[Level, str, str]]:
    """Check that each account of the cluster may use the machine's account and QOS, if Slurm enforces this."""
    if not accounting.enforced:
        return
    qos = (machine.qos or "").lower()  # Slurm stores account and QOS names in lower case
    for user, associations in sorted(accounting.associations.items()):
        account = (machine.account or accounting.defaults.get(user, "")).lower()
        if account not in associations:
            if machine.account is not None and account in accounting.accounts:
                yield (
                    Level.PROBLEM,
                    "account",
                    f", but {user} may not use it: sacctmgr add user {user} account={account}",
                )
            continue
        if machine.account is None and partition.allow_accounts is not None and account not in partition.allow_accounts:
            yield (
                Level.PROBLEM,
                "partition",
                (
                    f", which allows only the accounts {', '.join(sorted(partition.allow_accounts))}, but the default "
                    f"account of {user} is {account}; set account"
                ),
            )
        if qos in accounting.qos and qos not in associations[account]:
            yield (
                Level.PROBLEM,
                "qos",
                f", but {user} may not use it in account {account}: sacctmgr modify user {user} set qos+={qos}",
            )

"""Check Slurm's versions and settings, and the permissions of the adapter's account."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from slurm_adapter.cli.check.findings import Finding, Level
from slurm_adapter.cluster.accounting import slurm_settings
from slurm_adapter.cluster.schedulers.versions import TRIED, release, require_supported, show
from slurm_adapter.cluster.transports.interface import Command
from slurm_adapter.core.errors import InvalidConfig, Refused, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.adapter import Adapter


_CLOCKS_APART = 15
"""Allowed difference in seconds: a quarter of the time in which sbatch may be started."""


def check_versions(adapter: Adapter) -> Iterator[Finding]:
    """Check that Slurm's versions are supported and tested."""
    found = adapter.scheduler.versions()
    too_old = False
    for program, version in (("commands", found.client), ("controller", found.controller)):
        try:
            require_supported(version)
        except InvalidConfig as error:
            too_old = True
            yield Finding(Level.PROBLEM, f"Slurm's {program}: {error}")
    of_each = {release(found.client), release(found.controller)}
    shown = f"Slurm {found.controller}" + ("" if len(of_each) == 1 else f", with commands of {found.client}")
    if too_old:
        return
    if untried := sorted(of_each - set(TRIED)):
        yield Finding(
            Level.WARNING,
            f"{shown}: the adapter was not tested with Slurm {', '.join(map(show, untried))}; it was tested with "
            f"{', '.join(map(show, TRIED))}",
        )
    else:
        yield Finding(Level.GOOD, shown)


def check_pyslurm(adapter: Adapter) -> Iterator[Finding]:
    """Check that pyslurm was built for this version of Slurm. Raises an error if pyslurm does not work."""
    made_for = adapter.scheduler.binding_version()
    if made_for is None:
        return
    slurm = adapter.scheduler.versions().client
    if release(made_for) == release(slurm):
        yield Finding(Level.GOOD, f"pyslurm {made_for} fits Slurm {slurm}")
    else:
        yield Finding(Level.PROBLEM, f"pyslurm {made_for} does not fit Slurm {slurm}; install the version that does")


def check_clocks(adapter: Adapter) -> Iterator[Finding]:
    """Check that the clocks agree. `slurm_adapter.cluster.schedulers.sbatch` relies on it."""
    before = adapter.clock()
    found = re.findall(r"^\d{9,11}$", adapter.transport.run(Command(("date", "+%s"))).text, re.MULTILINE | re.ASCII)
    if not found:
        raise Unknown("the cluster's clock could not be read: `date +%s` on the cluster printed no time")
    there = float(found[-1])
    apart = max(before - there - 1, there - adapter.clock(), 0)
    if apart > _CLOCKS_APART:
        yield Finding(
            Level.PROBLEM,
            f"the clocks of this machine and the cluster differ by {apart:.0f} s; synchronise them (NTP): the adapter "
            "and munge need clocks that agree",
        )
    else:
        yield Finding(Level.GOOD, "the clocks of this machine and the cluster agree")


def check_evidence(adapter: Adapter) -> Iterator[Finding]:
    """Check that the adapter's account can find out how jobs end."""
    if adapter.scheduler.queue([]).sees_others:
        yield Finding(Level.GOOD, "the adapter's account sees all users' jobs")
    else:
        yield Finding(
            Level.WARNING,
            "Slurm's PrivateData hides other users' jobs from the adapter's account, so a lost job is never ended; "
            "make the account an operator (sacctmgr modify user NAME set adminlevel=operator)",
        )
    if adapter.scheduler.history([1]) is None:
        yield Finding(
            Level.NOTE,
            "Slurm has no accounting: the adapter learns how jobs ended from the queue and their exit records",
        )
    else:
        yield Finding(Level.GOOD, "Slurm's accounting answers")


def check_message_timeout(adapter: Adapter) -> Iterator[Finding]:
    """Check that the adapter's timeout is not shorter than Slurm's."""
    ours = adapter.config.cluster.message_timeout
    theirs = re.match(r"\d+", slurm_settings(adapter.transport, adapter.config.cluster).get("MessageTimeout", ""))
    if theirs is not None and int(theirs[0]) > ours:
        yield Finding(
            Level.WARNING,
            f"clusters.{adapter.config.cluster_name}.message_timeout = {ours}, but Slurm's MessageTimeout is "
            f"{theirs[0]}: if slurmctld is busy, jobs may seem lost; write {theirs[0]}",
        )


def check_operator(adapter: Adapter) -> Iterator[Finding]:
    """Check that commands of an operator can be run: suspend job 0, which never exists.

    scontrol looks for the job before it checks permissions. Whether Slurm accepts the account as an operator is only
    seen with a real job.
    """
    key = f"clusters.{adapter.config.cluster_name}.operator"
    if not adapter.config.cluster.operator:
        yield Finding(Level.NOTE, f"{key} is not set: jobs cannot be extended, suspended or resumed")
        return
    try:
        adapter.scheduler.suspend([0, 0])
    except (Refused, Unknown) as error:
        if "for job 0" not in str(error).split(": ", 1)[-1]:
            yield Finding(Level.PROBLEM, f"{key}: {error}")
            return
    yield Finding(Level.GOOD, f"{key}: the adapter's account can run scontrol to extend and suspend jobs")

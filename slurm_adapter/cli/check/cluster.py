"""Check what the adapter can ask Slurm, and what its own account may do there."""

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
"""Seconds; a quarter of the time in which sbatch may be started."""


def check_versions(adapter: Adapter) -> Iterator[Finding]:
    """Check that Slurm's versions are supported and were tried."""
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
            f"{shown}: the program was not tried with Slurm {', '.join(map(show, untried))}, but with "
            f"{', '.join(map(show, TRIED))}",
        )
    else:
        yield Finding(Level.GOOD, shown)


def check_pyslurm(adapter: Adapter) -> Iterator[Finding]:
    """Whether pyslurm answers, and was made for this Slurm. One that cannot be used raises."""
    made_for = adapter.scheduler.binding_version()
    if made_for is None:
        return
    slurm = adapter.scheduler.versions().client
    if release(made_for) == release(slurm):
        yield Finding(Level.GOOD, f"pyslurm {made_for} speaks to Slurm {slurm}")
    else:
        yield Finding(Level.PROBLEM, f"pyslurm {made_for} is not made for Slurm {slurm}; their versions must agree")


def check_clocks(adapter: Adapter) -> Iterator[Finding]:
    """An sbatch is given up by the clock: see `slurm_adapter.cluster.schedulers.sbatch`."""
    before = adapter.clock()
    told = re.findall(r"^\d{9,11}$", adapter.transport.run(Command(("date", "+%s"))).text, re.MULTILINE | re.ASCII)
    if not told:
        raise Unknown("the cluster's clock could not be read: `date +%s` did not answer there")
    there = float(told[-1])
    apart = max(before - there - 1, there - adapter.clock(), 0)
    if apart > _CLOCKS_APART:
        yield Finding(
            Level.PROBLEM,
            f"the clocks of this machine and the cluster are {apart:.0f} seconds apart; submissions need them to agree "
            "within a few (NTP), and so does Slurm itself (munge)",
        )
    else:
        yield Finding(Level.GOOD, "the clocks of this machine and the cluster agree")


def check_evidence(adapter: Adapter) -> Iterator[Finding]:
    """Whether this account can know what becomes of jobs."""
    if adapter.scheduler.queue([]).sees_others:
        yield Finding(Level.GOOD, "the adapter's account sees the jobs of others")
    else:
        yield Finding(
            Level.WARNING,
            "PrivateData hides others' jobs from the adapter's account, so that a missing job is never given up; "
            "make the account an operator (sacctmgr modify user NAME set adminlevel=operator)",
        )
    if adapter.scheduler.history([1]) is None:
        yield Finding(Level.NOTE, "no accounting: endings come from the queue and from the jobs' own exit records")
    else:
        yield Finding(Level.GOOD, "accounting answers")


def check_message_timeout(adapter: Adapter) -> Iterator[Finding]:
    """Check that the adapter waits as long as Slurm does."""
    ours = adapter.config.cluster.message_timeout
    told = re.match(r"\d+", slurm_settings(adapter.transport, adapter.config.cluster).get("MessageTimeout", ""))
    if told is not None and int(told[0]) > ours:
        yield Finding(
            Level.WARNING,
            f"cluster.message_timeout = {ours}, but Slurm's MessageTimeout is {told[0]}: jobs of a busy controller may "
            "be taken for missing; write that",
        )


def check_operator(adapter: Adapter) -> Iterator[Finding]:
    """Whether an operator's commands can be given: one is, for a list of job 0, which there never is.

    scontrol looks for the job before it looks for the right: whether Slurm takes the account for an operator shows with
    the first job.
    """
    if not adapter.config.cluster.operator:
        yield Finding(Level.NOTE, "jobs are not extended, suspended or resumed: there is no cluster.operator")
        return
    try:
        adapter.scheduler.suspend([0, 0])
    except (Refused, Unknown) as error:
        if "for job 0" not in str(error).split(": ", 1)[-1]:
            yield Finding(Level.PROBLEM, f"cluster.operator: {error}")
            return
    yield Finding(Level.GOOD, "cluster.operator lets the adapter's account run scontrol, to extend and suspend jobs")

"""Check what the adapter can ask Slurm, and what its own account may do there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from slurm_adapter.check.findings import Finding, Level, slurm_settings
from slurm_adapter.errors import Refused, Unknown
from slurm_adapter.transports.interface import Command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.site import Site


_CLOCKS_APART = 15
"""Seconds; a quarter of the time in which sbatch may be started."""


def check_pyslurm(site: Site) -> Iterator[Finding]:
    """Whether pyslurm answers, and was made for this Slurm. One that cannot be used raises."""
    from slurm_adapter.schedulers.libslurm import LibslurmScheduler  # noqa: PLC0415  # only where it is used

    if not isinstance(site.scheduler, LibslurmScheduler):
        return
    made_for = ".".join(site.scheduler.version().split(".")[:2])
    asked = ("/usr/bin/env", f"PATH={site.config.cluster.path}", "scontrol", "--version")
    words = site.transport.run(Command(asked)).text.split()
    major, minor = (words[1] if len(words) > 1 else "0.0").split(".")[:2]
    if made_for == f"{int(major)}.{int(minor)}":
        yield Finding(Level.GOOD, f"pyslurm {site.scheduler.version()} speaks to Slurm {words[1]}")
    else:
        yield Finding(
            Level.PROBLEM, f"pyslurm {made_for} is not made for Slurm {major}.{minor}; their versions must agree"
        )


def check_clocks(site: Site) -> Iterator[Finding]:
    """An sbatch is given up by the clock: see `slurm_adapter.schedulers.submission`."""
    before = site.clock()
    told = re.findall(r"^\d{9,11}$", site.transport.run(Command(("date", "+%s"))).text, re.MULTILINE | re.ASCII)
    if not told:
        raise Unknown("the cluster's clock could not be read: `date +%s` did not answer there")
    there = float(told[-1])
    apart = max(before - there - 1, there - site.clock(), 0)
    if apart > _CLOCKS_APART:
        yield Finding(
            Level.PROBLEM,
            f"the clocks of this machine and the cluster are {apart:.0f} seconds apart; submissions need them to agree "
            "within a few (NTP), and so does Slurm itself (munge)",
        )
    else:
        yield Finding(Level.GOOD, "the clocks of this machine and the cluster agree")


def check_evidence(site: Site) -> Iterator[Finding]:
    """Whether this account can know what becomes of jobs."""
    if site.scheduler.queue([]).sees_others:
        yield Finding(Level.GOOD, "the adapter's account sees the jobs of others")
    else:
        yield Finding(
            Level.WARNING,
            "PrivateData hides others' jobs from the adapter's account, so that a missing job is never given up; "
            "make the account an operator (sacctmgr modify user NAME set adminlevel=operator)",
        )
    if site.scheduler.history([1]) is None:
        yield Finding(Level.NOTE, "no accounting: endings come from the queue and from the jobs' own exit records")
    else:
        yield Finding(Level.GOOD, "accounting answers")


def check_message_timeout(site: Site) -> Iterator[Finding]:
    """Check that the adapter waits as long as Slurm does."""
    ours = site.config.cluster.message_timeout
    told = re.match(r"\d+", slurm_settings(site).get("MessageTimeout", ""))
    if told is not None and int(told[0]) > ours:
        yield Finding(
            Level.WARNING,
            f"cluster.message_timeout = {ours}, but Slurm's MessageTimeout is {told[0]}: jobs of a busy controller may "
            "be taken for missing; write that",
        )


def check_operator(site: Site) -> Iterator[Finding]:
    """Whether an operator's commands can be given: one is, for a list of job 0, which there never is.

    scontrol looks for the job before it looks for the right: whether Slurm takes the account for an operator shows with
    the first job.
    """
    if not site.config.cluster.operator:
        yield Finding(Level.NOTE, "jobs are not extended, suspended or resumed: there is no cluster.operator")
        return
    try:
        site.scheduler.suspend([0, 0])
    except (Refused, Unknown) as error:
        if "for job 0" not in str(error).split(": ", 1)[-1]:
            yield Finding(Level.PROBLEM, f"cluster.operator: {error}")
            return
    yield Finding(Level.GOOD, "cluster.operator lets the adapter's account run scontrol, to extend and suspend jobs")

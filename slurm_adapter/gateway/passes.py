"""The gateway's own passes: what cron's `sync` does, more often while a job waits for a peer.

A pass costs Slurm one question, so the time between two grows with what a pass takes. Beside cron's `sync` it does no
harm: one of the two holds the lock, and the other lets it be.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from slurm_adapter.check import methods_that_work
from slurm_adapter.errors import AdapterError
from slurm_adapter.reporting import outage_lines, telling_lines
from slurm_adapter.sync import Telling, sync, tell_ucloud

if TYPE_CHECKING:
    from slurm_adapter.gateway.gateway import Gateway
    from slurm_adapter.site import Site

SECONDS = 5.0
"""Between two passes, where nothing tells otherwise."""

PEER_SECONDS = 0.5
"""While a job waits for a peer: its name is to be there within two seconds of the peer's start."""

MOST_SECONDS = 120.0
"""Between two attempts to reach a UCloud that is away."""

SHARE = 10
"""A pass takes at most one part in so many of the time."""

log = logging.getLogger(__name__)


async def reconcile(gateway: Gateway) -> None:
    """Make passes for ever."""
    while True:
        gateway.changed.clear()
        began = time.monotonic()
        hurry = await _one(gateway)
        took = time.monotonic() - began
        if hurry:
            await asyncio.sleep(max(PEER_SECONDS, took))
            continue
        await asyncio.sleep(min(1.0, SHARE * took))
        try:
            await asyncio.wait_for(gateway.changed.wait(), max(SECONDS, SHARE * took))
        except TimeoutError:
            continue


async def tell(gateway: Gateway) -> None:
    """Tell UCloud, for ever: after each pass, and beside them, so that none waits for a UCloud that hangs."""
    vain = 0
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(gateway.passed.wait(), SECONDS)
        gateway.passed.clear()
        vain = vain + 1 if await _tell(gateway) else 0
        await asyncio.sleep(pause(vain))


def pause(vain: int) -> float:
    """Seconds to leave UCloud in peace that was tried so many times in vain."""
    return min(MOST_SECONDS, SECONDS * 2 ** min(vain - 1, 9)) if vain else 0


async def _tell(gateway: Gateway) -> bool:
    """Tell UCloud what is due; whether it is away."""
    try:
        told = await gateway.workers.repeat(_tell_once, gateway.closing)
    except AdapterError as error:
        told = Telling((str(error),), away=True)
    except Exception as error:  # as of a pass
        log.exception("a mistake in slurm-adapter kept UCloud from being told")
        told = Telling((f"a mistake in slurm-adapter: {type(error).__name__}: {error}",), away=True)
    if told is not None:
        gateway.untold = told.problems[0] if told.problems else None
    return told is not None and told.away


def _tell_once(site: Site, closing: threading.Event) -> Telling | None:
    told = tell_ucloud(site, stops=closing.is_set)
    for line in telling_lines(site.store, told.problems) if told is not None else ():
        log.warning("%s", line)
    return told


async def _one(gateway: Gateway) -> bool:
    """A pass, counted; whether the next should come at once."""
    try:
        if not gateway.names_work:
            await _try_names(gateway)
        with gateway.metrics.pass_seconds.time():
            problems, hurry = await gateway.workers.repeat(one_pass)
    except AdapterError as error:
        if str(error) != gateway.not_ready:
            log.warning("a pass was not made: %s", error)
        problems, hurry = (str(error),), False
    except Exception as error:  # the next pass may do, and without passes nothing here would be true for long
        log.exception("a pass came to a mistake in slurm-adapter")
        problems, hurry = (f"a mistake in slurm-adapter: {type(error).__name__}: {error}",), False
    gateway.not_ready = problems[0] if problems else None
    gateway.metrics.passes.labels("no" if problems else "yes").inc()
    gateway.passed.set()
    return hurry


async def _try_names(gateway: Gateway) -> None:
    """See whether jobs get names here. Where that cannot be seen, all else goes on."""
    why = None
    try:
        gateway.names_work = bool(await gateway.workers.repeat(methods_that_work))
    except AdapterError as error:
        why = str(error)
        if why != gateway.names_unseen:
            log.warning("it cannot be seen whether jobs get names here, so UCloud is told that they do not: %s", why)
    gateway.names_unseen = why


def one_pass(site: Site) -> tuple[tuple[str, ...], bool]:
    """Make one pass, unless another process makes one: its problems, and whether a job waits for a peer."""
    problems: tuple[str, ...] = ()
    with site.only_one_pass() as mine:
        if mine:
            report = sync(site, telling=False)
            problems = report.problems
            for line in outage_lines(site.store, report):
                log.warning("%s", line)
    return problems, site.store.waits_for_peer()

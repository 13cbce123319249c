"""The gateway's own syncs: what cron's `sync` does, more often while a job waits for a peer.

A sync costs Slurm one question, so the time between two grows with what a sync takes. What users can cause is bounded:
quick syncs come out of a budget of each user's, and syncs after a change out of one for all. Beside cron's `sync` it
does no harm: one of the two holds the lock, and the other lets it be.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import AdapterError
from slurm_adapter.jobs.name_methods import methods_that_work
from slurm_adapter.jobs.report import Report, outage_lines, telling_lines
from slurm_adapter.jobs.sync import Telling, sync, tell_ucloud

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.gateway.gateway import Gateway

SECONDS = 5.0
"""Between two passes, where nothing tells otherwise."""

PEER_SECONDS = 0.5
"""While a job waits for a peer: its name is to be there within two seconds of the peer's start."""

PEER_SYNCS = 60
"""Quick syncs that one user's waiting jobs cause in a row. A new one comes each `SECONDS`: then they are as others."""

CHANGE_SYNCS, CHANGE_SECONDS = 20, 2.0
"""Syncs at once after what users have changed, in a row; and how long it takes until there is a further one."""

MOST_SECONDS = 120.0
"""Between two attempts to reach a UCloud that is away."""

ACCOUNT_LINES = 5
"""Lines of the log that new troubles of jobs and accounts take in one sync: users can cause them."""

SHARE = 10
"""A sync takes at most one part in this many of the time, if it takes less than `LONGEST_PAUSE / SHARE`."""

LONGEST_PAUSE = 30.0
"""Seconds between two syncs at most, however long one took: an account that makes one slow delays nobody for long."""

log = logging.getLogger(__name__)


class Budget:
    """So many of something in a row for each of several, and a further one after some seconds."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._spent: dict[str, float] = {}
        self._when = clock()

    def take(self, those: Iterable[str]) -> bool:
        """Take one from each of those; return whether any had one left."""
        now = self._clock()
        back, self._when = (now - self._when) / self._seconds, now
        self._spent = {each: spent - back for each, spent in self._spent.items() if spent > back}
        able = [each for each in those if self._spent.get(each, 0.0) <= self._most - 1]
        self._spent |= {each: self._spent.get(each, 0.0) + 1 for each in able}
        return bool(able)


def pause_after(took: float) -> float:
    """Return for how many seconds no sync follows one that took so many, unless something changes."""
    return min(max(SECONDS, SHARE * took), LONGEST_PAUSE)


async def reconcile(gateway: Gateway) -> None:
    """Make syncs for ever."""
    quick, changes = Budget(PEER_SYNCS, SECONDS), Budget(CHANGE_SYNCS, CHANGE_SECONDS)
    jitter = random.Random()  # noqa: S311  # nosec B311 # no secret; and the module's own state is the whole process's
    while True:
        gateway.changed.clear()
        began = time.monotonic()
        waiting = await _one(gateway)
        took = time.monotonic() - began
        if quick.take(waiting):
            await asyncio.sleep(max(PEER_SECONDS, took))
            continue
        await asyncio.sleep(min(1.0, SHARE * took))
        # Several adapters of one cluster, or its other clients, are not to ask at the same moments for ever.
        pause = pause_after(took) * jitter.uniform(0.9, 1.1)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await gateway.changed.wait()
                if not changes.take(["all"]):
                    await asyncio.sleep(pause)


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


def _tell_once(adapter: Adapter, closing: threading.Event) -> Telling | None:
    told = tell_ucloud(adapter, stops=closing.is_set)
    for line in telling_lines(adapter.store, told.problems) if told is not None else ():
        log.warning("%s", line)
    return told


async def _one(gateway: Gateway) -> frozenset[str]:
    """Make a sync, and count it; return the users whose jobs wait for peers."""
    waiting: frozenset[str] = frozenset()
    account_problems: tuple[str, ...] = ()
    try:
        if not gateway.names_work:
            await _try_names(gateway)
        with gateway.metrics.pass_seconds.time():
            problems, account_problems, waiting = await gateway.workers.repeat(one_pass)
    except AdapterError as error:
        if str(error) != gateway.not_ready:
            log.warning("a pass was not made: %s", error)
        problems = (str(error),)
    except Exception as error:  # the next pass may do, and without passes nothing here would be true for long
        log.exception("a pass came to a mistake in slurm-adapter")
        problems = (f"a mistake in slurm-adapter: {type(error).__name__}: {error}",)
    gateway.not_ready = problems[0] if problems else None
    for problem in sorted(set(account_problems) - set(gateway.account_problems))[:ACCOUNT_LINES]:
        log.warning("trouble of one job or account: %s", problem)
    gateway.account_problems = account_problems
    gateway.metrics.passes.labels("no" if problems else "yes").inc()
    gateway.passed.set()
    return waiting


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


def one_pass(adapter: Adapter) -> tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]:
    """Make one sync, unless another process makes one.

    Return the site's problems, those of single accounts and jobs, and the users whose jobs wait for peers.
    """
    report = Report()
    with adapter.sync_lock() as mine:
        if mine:
            report = sync(adapter, telling=False)
            for line in outage_lines(adapter.store, report):
                log.warning("%s", line)
    return report.problems, report.account_problems, adapter.store.owners_waiting_for_peers()

"""Periodic syncs of the gateway: the same as the command `sync`, more often while a job waits for a peer.

A sync costs Slurm one question, so the time between two grows with the time that a sync takes. What users can cause is
bounded: each user has a budget of frequent syncs, and all users share one of syncs after changes. The command `sync`
may run at the same time: one of the two holds the lock, and the other skips its sync.
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
from slurm_adapter.jobs.report import Report, delivery_lines, outage_lines
from slurm_adapter.jobs.sync import DeliveryReport, deliver_updates, sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.gateway.gateway import Gateway
    from slurm_adapter.gateway.limits import Limits

PEER_SYNCS = 60
"""Frequent syncs that the waiting jobs of one user may cause in a row. Another one is allowed each `sync_interval`."""

CHANGE_SYNCS, CHANGE_SECONDS = 20, 2.0
"""Immediate syncs after changes by users in a row, and the seconds after which another one is allowed."""

ACCOUNT_LINES = 5
"""Log lines for new problems of jobs and accounts in one sync, because users can cause them."""

log = logging.getLogger(__name__)


class Budget:
    """A token bucket for each key: `most` in a row, and another one each `seconds`."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._spent: dict[str, float] = {}
        self._when = clock()

    def take(self, keys: Iterable[str]) -> bool:
        """Take one for each of these keys; return whether any had one left."""
        now = self._clock()
        back, self._when = (now - self._when) / self._seconds, now
        self._spent = {each: spent - back for each, spent in self._spent.items() if spent > back}
        able = [each for each in keys if self._spent.get(each, 0.0) <= self._most - 1]
        self._spent |= {each: self._spent.get(each, 0.0) + 1 for each in able}
        return bool(able)


def pause_after(took: float, limits: Limits) -> float:
    """Return the seconds between the end of a sync that took this long and the next one, unless something changes."""
    return min(max(limits.sync_interval, limits.sync_share * took), limits.sync_interval_at_most)


def retry_after(failures: int, limits: Limits) -> float:
    """Return the seconds until the next delivery to UCloud after so many failures in a row."""
    if not failures:
        return 0
    return min(limits.delivery_retry_at_most, limits.sync_interval * 2.0 ** min(failures - 1, 9))


async def sync_forever(gateway: Gateway) -> None:
    """Sync periodically, and soon after a change."""
    limits = gateway.limits
    frequent, changes = Budget(PEER_SYNCS, limits.sync_interval), Budget(CHANGE_SYNCS, CHANGE_SECONDS)
    jitter = random.Random()  # noqa: S311  # nosec B311 # no secret; and the module's own state is the whole process's
    while True:
        gateway.changed.clear()
        began = time.monotonic()
        waiting = await _sync(gateway)
        took = time.monotonic() - began
        if frequent.take(waiting):
            await asyncio.sleep(max(limits.peer_sync_interval, took))
            continue
        await asyncio.sleep(min(1.0, limits.sync_share * took))
        # Several adapters of one cluster must not ask at the same moments.
        pause = pause_after(took, limits) * jitter.uniform(0.9, 1.1)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await gateway.changed.wait()
                if not changes.take(["all"]):
                    await asyncio.sleep(pause)


async def deliver_forever(gateway: Gateway) -> None:
    """Deliver queued updates to UCloud after each sync. Syncs do not wait for a UCloud that hangs."""
    failures = 0
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(gateway.synced.wait(), gateway.limits.sync_interval)
        gateway.synced.clear()
        failures = failures + 1 if await _deliver(gateway) else 0
        await asyncio.sleep(retry_after(failures, gateway.limits))


async def _deliver(gateway: Gateway) -> bool:
    """Deliver what is due; return whether UCloud is down."""
    try:
        delivery = await gateway.pools.repeated.run(deliver_once, gateway.closing)
    except AdapterError as error:
        delivery = DeliveryReport((str(error),), away=True)
    except Exception as error:  # as of a sync
        log.exception("nothing was delivered to UCloud because of a bug in slurm-adapter")
        delivery = DeliveryReport((_bug(error),), away=True)
    if delivery is not None:
        gateway.delivery_problem = delivery.problems[0] if delivery.problems else None
    return delivery is not None and delivery.away


def deliver_once(adapter: Adapter, closing: threading.Event) -> DeliveryReport | None:
    """Deliver what is due until `closing` is set; None if another process delivers."""
    delivery = deliver_updates(adapter, stops=closing.is_set)
    for line in delivery_lines(adapter.store, delivery.problems) if delivery is not None else ():
        log.warning("%s", line)
    return delivery


async def _sync(gateway: Gateway) -> frozenset[str]:
    """Sync once, and count it; return the users with jobs that wait for peers."""
    waiting: frozenset[str] = frozenset()
    account_problems: tuple[str, ...] = ()
    try:
        if not gateway.names_work:
            await _try_names(gateway)
        with gateway.metrics.sync_seconds.time():
            problems, account_problems, waiting = await gateway.pools.repeated.run(sync_once)
    except AdapterError as error:
        if str(error) != gateway.not_ready:
            log.warning("the sync failed: %s", error)
        problems = (str(error),)
    except Exception as error:  # the next sync may succeed, and without syncs nothing here stays true for long
        log.exception("the sync failed because of a bug in slurm-adapter")
        problems = (_bug(error),)
    gateway.not_ready = problems[0] if problems else None
    for problem in sorted(set(account_problems) - set(gateway.account_problems))[:ACCOUNT_LINES]:
        log.warning("problem of one job or account: %s", problem)
    gateway.account_problems = account_problems
    gateway.metrics.syncs.labels("no" if problems else "yes").inc()
    gateway.synced.set()
    return waiting


def _bug(error: Exception) -> str:
    return f"a bug in slurm-adapter: {type(error).__name__}: {error}"


async def _try_names(gateway: Gateway) -> None:
    """Find out whether names of jobs resolve here. If that fails, everything else continues."""
    why = None
    try:
        gateway.names_work = bool(await gateway.pools.repeated.run(methods_that_work))
    except AdapterError as error:
        why = str(error)
        if why != gateway.names_unknown:
            log.warning("names of jobs were not tested, so UCloud sees that peers are not supported: %s", why)
    gateway.names_unknown = why


def sync_once(adapter: Adapter) -> tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]:
    """Sync once, unless another process does.

    Return the problems of the site, those of single accounts and jobs, and the users with jobs that wait for peers.
    """
    report = Report()
    with adapter.sync_lock() as mine:
        if mine:
            report = sync(adapter, delivering=False)
            for line in outage_lines(adapter.store, report):
                log.warning("%s", line)
    return report.problems, report.account_problems, adapter.store.owners_waiting_for_peers()

"""Pings of slurmctld, and facts about the cluster.

slurmctld is pinged every few seconds, so that no request waits for it while it is down. The facts by which jobs are
accepted or refused are asked for before jobs come.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from slurm_adapter.cluster.accounting import UNKNOWN
from slurm_adapter.cluster.schedulers.interface import PING_SECONDS
from slurm_adapter.core.errors import AdapterError, TryAgain
from slurm_adapter.gateway.background import SharedAnswer, StillRunning
from slurm_adapter.jobs.cluster_facts import learn, learn_accounting

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.cluster.accounting import Accounting
    from slurm_adapter.gateway.limits import Limits
    from slurm_adapter.gateway.thread_pools import ThreadPools
    from slurm_adapter.jobs.cluster_facts import ClusterFacts

log = logging.getLogger(__name__)


class Controller:
    """The state of slurmctld, and facts about the cluster."""

    def __init__(self, pools: ThreadPools, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._pools = pools
        self._limits = limits
        self._facts: SharedAnswer[ClusterFacts] = SharedAnswer(partial(pools.questions.run, learn), clock)
        self._accounting: SharedAnswer[Accounting | None] = SharedAnswer(self._ask_accounting, clock)
        self.away: str | None = None
        """Why slurmctld is considered down."""

    def must_answer(self) -> None:
        """Raise `TryAgain` at once if slurmctld is known to be down."""
        if self.away is not None:
            raise TryAgain(f"nothing was done: {self.away}")

    async def facts(self, younger_than: float | None = None, *, accounting: bool = True) -> ClusterFacts:
        """Return facts that are younger than this (`Limits.facts_age`). All callers share one question.

        If `accounting` is set, newer facts include what accounting allows, if accounting answers soon.

        Raise `TryAgain` if the cluster does not answer, at once if slurmctld is known to be down. Accounting that does
        not answer is no reason to raise.
        """
        self.must_answer()
        age = younger_than or self._limits.facts_age
        asks = not self._facts.is_younger(age)
        if asks:
            self._ask()
        try:
            facts = await self._facts.get(self._limits.facts_answer, age)
        except StillRunning:
            raise TryAgain(
                "nothing was submitted: Slurm takes too long to list its partitions and nodes; try again"
            ) from None
        if asks and accounting and younger_than is not None:
            await self._accounting.wait(self._limits.accounting_answer)
        return replace(facts, accounting=self._accounting.latest(UNKNOWN, age))

    async def watch(self) -> None:
        """Ping slurmctld and keep the facts fresh, forever."""
        ping: asyncio.Task[None] | None = None
        while True:
            # One at a time: a ping that hangs in the transport may hang for long.
            if ping is None:
                ping = asyncio.create_task(self._pools.repeated.run(_ping))
                # If the gateway ends first, nobody looks at the failure, and asyncio would log it as lost.
                ping.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait({ping}, timeout=PING_SECONDS)
            self._note(_failure(ping))
            ping = None if ping.done() else ping
            if self.away is None and self._facts.asked_ago >= self._limits.facts_refresh:
                self._ask()
            await asyncio.sleep(self._limits.ping_interval)

    def _note(self, away: str | None) -> None:
        if (away is None) != (self.away is None):
            log.warning("%s", away or "slurmctld answers again")
            self._pools.changed.set()
        self.away = away

    def _ask(self) -> None:
        if not self._facts.under_way:
            self._accounting.ask()
        self._facts.ask()

    async def _ask_accounting(self) -> Accounting | None:
        try:
            return await self._pools.questions.run(learn_accounting)
        except Exception:  # noqa: BLE001  # jobs are not refused by rights that are not known
            return UNKNOWN


def _ping(adapter: Adapter) -> None:
    adapter.scheduler.ping()


def _failure(ping: asyncio.Task[None]) -> str | None:
    """Return why a ping, which is not waited for any longer, means that slurmctld is down."""
    if not ping.done():
        return f"the cluster could not be reached within {PING_SECONDS:.0f} s"
    error = ping.exception()
    if error is None or isinstance(error, AdapterError):
        return None if error is None else str(error)
    log.error("slurmctld was not pinged because of a bug in slurm-adapter", exc_info=error)
    return None

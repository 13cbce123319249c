"""Slurm's controller: whether it answers, and what it has told of the cluster.

It is asked for a sign of life every few seconds, so that while it is away nobody waits for it. The facts by which jobs
are taken or refused are asked for before jobs come.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from slurm_adapter.cluster.accounting import UNKNOWN
from slurm_adapter.cluster.schedulers.interface import PING_SECONDS
from slurm_adapter.core.errors import AdapterError, TryAgain
from slurm_adapter.jobs.cluster_facts import learn, learn_accounting

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.cluster.accounting import Accounting
    from slurm_adapter.gateway.thread_pools import ThreadPools
    from slurm_adapter.jobs.cluster_facts import ClusterFacts

SECONDS = 2.0
"""Between two pings."""

REFRESH_SECONDS = 30.0
"""The age at which facts are asked for again."""

KEPT_SECONDS = 60.0
"""The age from which facts are not used any more."""

ANSWER_SECONDS = 3.0
"""How long a caller waits for facts: UCloud itself waits five seconds."""

RIGHTS_SECONDS = 1.0
"""How long a caller waits for accounting before its job is refused."""

log = logging.getLogger(__name__)


class Controller:
    """What is known of the controller."""

    def __init__(self, workers: ThreadPools, clock: Callable[[], float] = time.monotonic) -> None:
        self._workers = workers
        self._clock = clock
        self._facts: ClusterFacts | None = None
        self._learned = -math.inf
        """When the question for `_facts` was put."""
        self._asked = -math.inf
        """When the last question was put."""
        self._question: asyncio.Future[ClusterFacts] | None = None
        self._accounting: Accounting | None = UNKNOWN
        self._accounted = -math.inf
        """When the question for `_accounting` was put."""
        self._rights: asyncio.Future[Accounting | None] | None = None
        """The last question to Slurm's accounting."""
        self.away: str | None = None
        """Why it is taken to be away."""

    def must_answer(self) -> None:
        """Raise `TryAgain` at once if the controller is known to be away."""
        if self.away is not None:
            raise TryAgain(f"nothing was done: {self.away}")

    async def facts(self, newer_than: float | None = None, *, rights: bool = True) -> ClusterFacts:
        """Return facts that are younger than so many seconds (`KEPT_SECONDS`); all callers share one question.

        `rights`: newer facts have what accounting allows, if it answers soon.

        Raise `TryAgain` if the cluster does not tell them, at once if it is known to be away. Accounting that does not
        tell is no reason.
        """
        self.must_answer()
        if self._facts is None or self._clock() - self._learned >= (newer_than or KEPT_SECONDS):
            question = self._ask()
            await asyncio.wait({question}, timeout=ANSWER_SECONDS)
            if rights and newer_than is not None and self._rights is not None:
                await asyncio.wait({self._rights}, timeout=RIGHTS_SECONDS)
            if not question.done():
                raise TryAgain("Slurm takes too long to say what it has, and nothing was submitted; try again")
            self._facts = question.result()
        fresh = self._clock() - self._accounted < (newer_than or KEPT_SECONDS)
        return replace(self._facts, accounting=self._accounting if fresh else UNKNOWN)

    async def watch(self) -> None:
        """Ping the controller and keep the facts fresh, for ever."""
        ping: asyncio.Future[None] | None = None
        while True:
            # One at a time: what hangs in the transport may hang for long.
            ping = asyncio.ensure_future(self._workers.repeat(_ping)) if ping is None else ping
            await asyncio.wait({ping}, timeout=PING_SECONDS)
            self._note(_failure(ping))
            ping = None if ping.done() else ping
            if self.away is None and self._clock() - self._asked >= REFRESH_SECONDS:
                self._ask()
            await asyncio.sleep(SECONDS)

    def _note(self, away: str | None) -> None:
        if (away is None) != (self.away is None):
            log.warning("%s", away or "Slurm's controller answers again")
            self._workers.changed.set()
        self.away = away

    def _ask(self) -> asyncio.Future[ClusterFacts]:
        if self._question is None or self._question.done():
            asked = self._asked = self._clock()
            if self._rights is None or self._rights.done():
                self._rights = asyncio.ensure_future(self._workers.ask(learn_accounting))
                self._rights.add_done_callback(lambda done: self._keep_accounting(done, asked))
            self._question = asyncio.ensure_future(self._workers.ask(learn))
            self._question.add_done_callback(lambda done: self._keep(done, asked))
        return self._question

    def _keep(self, question: asyncio.Future[ClusterFacts], asked: float) -> None:
        if not question.cancelled() and question.exception() is None:
            self._facts, self._learned = question.result(), asked

    def _keep_accounting(self, question: asyncio.Future[Accounting | None], asked: float) -> None:
        failed = question.cancelled() or question.exception() is not None
        self._accounting, self._accounted = UNKNOWN if failed else question.result(), asked


def _ping(adapter: Adapter) -> None:
    adapter.scheduler.ping()


def _failure(ping: asyncio.Future[None]) -> str | None:
    """Return why a ping, which is waited for no longer, means that the controller is away."""
    if not ping.done():
        return f"the cluster could not be reached within {PING_SECONDS:.0f} s"
    error = ping.exception()
    if error is None or isinstance(error, AdapterError):
        return None if error is None else str(error)
    log.error("a mistake in slurm-adapter kept the controller from being asked", exc_info=error)
    return None

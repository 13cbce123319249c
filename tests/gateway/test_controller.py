"""What the gateway knows of the cluster, and how old it may be."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from slurm_adapter.cluster.accounting import UNKNOWN, Accounting
from slurm_adapter.gateway.controller import Controller
from slurm_adapter.gateway.limits import Limits
from slurm_adapter.jobs.cluster_facts import ClusterFacts, learn

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.gateway.thread_pools import ThreadPools

RIGHTS = Accounting(frozenset({"associations"}), frozenset({"chem"}), {})


class Answers:
    """Stands in for the threads: the cluster answers at once, and accounting unless it hangs."""

    def __init__(self) -> None:
        self.hangs = asyncio.Event()

    @property
    def questions(self) -> Answers:
        """See `ThreadPools.questions`."""
        return self

    async def run(self, work: Callable[..., Any]) -> object:
        """See `ThreadPool.run`."""
        if work is learn:
            return ClusterFacts({}, (), {})
        if self.hangs.is_set():
            await asyncio.Event().wait()
        return RIGHTS


def test_no_job_is_refused_by_what_accounting_said_long_ago() -> None:
    """An account was given a right, and then slurmdbd hangs."""

    async def ask() -> None:
        now = 0.0
        answers = Answers()
        known = Controller(cast("ThreadPools", answers), Limits(accounting_answer=0.01), lambda: now)
        assert (await known.facts(younger_than=5.0)).accounting is RIGHTS
        now = 4.0
        answers.hangs.set()
        assert (await known.facts(younger_than=5.0)).accounting is RIGHTS
        now = 40.0
        assert (await known.facts(younger_than=5.0)).accounting is UNKNOWN

    asyncio.run(ask())

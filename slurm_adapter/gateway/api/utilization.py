"""How full the cluster is, for whoever asks: Slurm is asked once for all who ask within a few seconds."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import NotFound, TryAgain
from slurm_adapter.core.problems import for_message
from slurm_adapter.gateway.api.schemas import Capacity, Queue, Utilization

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.cluster.schedulers.interface import Load
    from slurm_adapter.gateway.controller import Controller
    from slurm_adapter.gateway.thread_pools import ThreadPools

SECONDS = 5.0
"""How long an answer of Slurm's is told again."""

LONGEST_SECONDS = 4.0
"""How long one is waited for: UCloud itself waits five seconds."""


class Utilizations:
    """What Slurm has said of each product category, or is being asked."""

    def __init__(
        self, workers: ThreadPools, controller: Controller, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._workers = workers
        self._controller = controller
        self._clock = clock
        self._asked: dict[str, tuple[asyncio.Future[Load], float]] = {}
        """The last question for each category, and when it was put."""

    async def of(self, category: str) -> Utilization:
        """How full the partitions of this category's machines are.

        Raises `NotFound` for a category that is not here, `TryAgain` where Slurm takes too long, and what
        `Scheduler.load` raises.
        """
        machines = self._workers.config.machines.get(category)
        if machines is None:
            there = ", ".join(sorted(self._workers.config.machines))
            raise NotFound(f"there is no product category {for_message(category)} here; there are {there}")
        self._controller.must_answer()
        work, when = self._asked.get(category, (None, 0.0))
        if work is None or (work.done() and (work.exception() or self._clock() - when >= SECONDS)):
            partitions = sorted({name for machine in machines.values() for name in machine.partition.split(",")})
            work = asyncio.ensure_future(self._workers.ask(_ask, partitions))
            work.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._asked[category] = work, self._clock()
        await asyncio.wait({work}, timeout=LONGEST_SECONDS)
        if not work.done():
            raise TryAgain("Slurm takes too long to say how full the cluster is; try again")
        return _tell(work.result())


def _ask(adapter: Adapter, partitions: Sequence[str]) -> Load:
    return adapter.scheduler.load(partitions)


def _tell(load: Load) -> Utilization:
    return Utilization(
        capacity=Capacity(cpu=load.cpus, memory=load.memory),
        used_capacity=Capacity(cpu=load.used_cpus, memory=load.used_memory),
        queue_status=Queue(running=load.running, pending=load.pending),
    )

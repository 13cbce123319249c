"""How full the cluster is. Slurm is asked once for all requests of a few seconds."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import NotFound, TryAgain
from slurm_adapter.core.problems import for_message
from slurm_adapter.gateway.api.schemas import Capacity, Queue, Utilization
from slurm_adapter.gateway.background import SharedAnswer, StillRunning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.cluster.schedulers.interface import Load
    from slurm_adapter.gateway.controller import Controller
    from slurm_adapter.gateway.limits import Limits
    from slurm_adapter.gateway.thread_pools import ThreadPools


class Utilizations:
    """The utilization of each product category."""

    def __init__(
        self,
        pools: ThreadPools,
        controller: Controller,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pools = pools
        self._controller = controller
        self._limits = limits
        self._clock = clock
        self._answers: dict[str, SharedAnswer[Load]] = {}

    async def of(self, category: str) -> Utilization:
        """Return how full the partitions of this category's machines are.

        Raise `NotFound` for an unknown category, `TryAgain` if Slurm takes too long, and what `Scheduler.load` raises.
        """
        machines = self._pools.config.machines.get(category)
        if machines is None:
            known = ", ".join(sorted(self._pools.config.machines))
            raise NotFound(f"there is no product category {for_message(category)} here; there are {known}")
        self._controller.must_answer()
        partitions = sorted({name for machine in machines.values() for name in machine.partition.split(",")})
        ask = partial(self._pools.questions.run, _load, partitions)
        answer = self._answers.setdefault(category, SharedAnswer(ask, self._clock))
        try:
            load = await answer.get(self._limits.answer, self._limits.utilization_age)
        except StillRunning:
            raise TryAgain("Slurm takes too long to report how full the cluster is; try again") from None
        return Utilization(
            capacity=Capacity(cpu=load.cpus, memory=load.memory),
            used_capacity=Capacity(cpu=load.used_cpus, memory=load.used_memory),
            queue_status=Queue(running=load.running, pending=load.pending),
        )


def _load(adapter: Adapter, partitions: Sequence[str]) -> Load:
    return adapter.scheduler.load(partitions)

"""What goes on behind its answer is waited for at the end, and makes a pass come soon."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.core.errors import TryAgain
from slurm_adapter.gateway.background import BackgroundWork, StillRunning
from slurm_adapter.gateway.thread_pools import ThreadPools
from tests.offline import Offline

if TYPE_CHECKING:
    from pathlib import Path

    from slurm_adapter.adapter import Adapter


def test_at_the_end_all_that_goes_on_is_waited_for_and_its_failures_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()

    def fail(_: Adapter) -> None:
        assert go_on.wait(60)
        raise TryAgain("Slurm is away")

    async def check() -> None:
        workers, behind = ThreadPools(Offline(tmp_path).open()), BackgroundWork()
        done: list[str] = []

        async def in_two_steps() -> None:
            await workers.call(lambda _: go_on.wait(60))
            await asyncio.sleep(0)
            done.append("done")

        with pytest.raises(StillRunning):
            await behind.in_time(in_two_steps(), 0, "two steps")
        with pytest.raises(StillRunning):
            await behind.in_time(workers.change(fail), 0, "a change")
        assert not workers.changed.is_set()
        closing = asyncio.create_task(behind.close())
        await asyncio.sleep(0)
        assert not closing.done()
        go_on.set()
        await closing
        assert done == ["done"]
        assert "a change failed behind its answer: Slurm is away" in caplog.text
        assert workers.changed.is_set()
        await asyncio.to_thread(workers.close)

    asyncio.run(check())

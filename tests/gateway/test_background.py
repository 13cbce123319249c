"""Work in the background is waited for at the end, and causes a sync."""

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
        background = BackgroundWork()
        pools = ThreadPools(Offline(tmp_path).open(), background)
        done: list[str] = []

        async def in_two_steps() -> None:
            await pools.database.run(lambda _: go_on.wait(60))
            await asyncio.sleep(0)
            done.append("done")

        with pytest.raises(StillRunning):
            await background.in_time(in_two_steps(), 0, "two steps")
        with pytest.raises(StillRunning):
            await background.in_time(pools.changes.run(fail), 0, "a change")
        assert not pools.changed.is_set()
        closing = asyncio.create_task(background.close())
        await asyncio.sleep(0)
        assert not closing.done()
        go_on.set()
        await closing
        assert done == ["done"]
        assert "a change failed after the request was answered: Slurm is away" in caplog.text
        assert pools.changed.is_set()
        await asyncio.to_thread(pools.close)

    asyncio.run(check())

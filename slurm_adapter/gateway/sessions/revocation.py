"""Permissions of connections that stay open: they are checked again and again."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slurm_adapter.core.errors import AdapterError, Forbidden, NotAuthenticated, NotFound, Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

_WITHDRAWN = (NotAuthenticated, Forbidden, NotFound, Refused)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Permission:
    """The permission of one connection."""

    check: Callable[[], Awaitable[object]]
    """Raises an error if the permission was withdrawn."""
    interval: float
    """Seconds between two checks."""

    async def watch(self) -> None:
        """Check until the permission is withdrawn; raise what `check` raises then.

        A connection stays open while the check itself fails, for example because the database is busy.
        """
        while True:
            await asyncio.sleep(self.interval)
            try:
                await self.check()
            except _WITHDRAWN:
                raise
            except AdapterError as error:
                _log.warning("the permission of an open connection was not checked: %s", error)


async def until_one_ends(*work: Coroutine[Any, Any, None]) -> None:
    """Run all of this work until one part has ended, and raise what that part raised."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()

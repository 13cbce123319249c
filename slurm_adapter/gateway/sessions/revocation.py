"""Connections that stay open, and no longer than whoever has them may have them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from slurm_adapter.core.errors import AdapterError, Forbidden, NotAuthenticated, NotFound, Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

LOOK_SECONDS = 30.0
"""How often it is looked whether a connection may stay."""

_OVER = (NotAuthenticated, Forbidden, NotFound, Refused)

_log = logging.getLogger(__name__)


async def while_allowed(check: Callable[[], Awaitable[object]]) -> None:
    """Look every so often, and raise what `check` raises once it is over. What cannot be looked at just now goes on."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            await check()
        except _OVER:
            raise
        except AdapterError as error:
            _log.warning("it is not known whether a connection may stay open: %s", error)


async def until_one_ends(*work: Coroutine[Any, Any, None]) -> None:
    """Do these at once until one has ended, and raise what that one raised."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()

"""A malicious application behind the proxy: `python -m tests.gateway.hostile_application PORT`.

Its page is a good one, for honest users.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.websockets import WebSocket

MESSAGE = bytes(64 * 2**20)


async def page(_: Request) -> PlainTextResponse:
    """What an honest browser asks for."""
    return PlainTextResponse("here I am")


async def hang(_: Request) -> PlainTextResponse:
    """No answer for an hour."""
    await asyncio.sleep(3600)
    return PlainTextResponse("")


async def endless(_: Request) -> StreamingResponse:
    """A body without an end."""

    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield MESSAGE[: 2**20]

    return StreamingResponse(pieces())


async def flood(websocket: WebSocket) -> None:
    """Messages of 64 MiB, whether or not somebody reads."""
    await websocket.accept()
    while True:
        await websocket.send_bytes(MESSAGE)


ROUTES = [Route("/", page), Route("/hang", hang), Route("/endless", endless), WebSocketRoute("/flood", flood)]

if __name__ == "__main__":
    uvicorn.run(Starlette(routes=ROUTES), port=int(sys.argv[1]), log_level="critical")

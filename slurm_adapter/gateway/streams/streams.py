"""Conversations over a WebSocket: calls of a client, and streams of messages that answer them.

An invalid frame ends in a response with a reason, or closes the WebSocket. Each stream is a task, and ends with its
WebSocket. Nothing is buffered for a client that does not read.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse
from starlette.websockets import WebSocketDisconnect

from slurm_adapter.core.errors import AdapterError, InvalidInput
from slurm_adapter.gateway.api.schemas import Empty, Error
from slurm_adapter.gateway.http.error_responses import body_of, headers_of, status_of
from slurm_adapter.gateway.sessions.revocation import Permission, until_one_ends
from slurm_adapter.gateway.streams import frames

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from pydantic import BaseModel
    from starlette.websockets import WebSocket

    from slurm_adapter.gateway.limits import Limits
    from slurm_adapter.gateway.streams.frames import Frame

STREAMS = 16
"""Streams of one WebSocket at once."""

_NORMAL, _LOST, _POLICY = 1000, 1006, 1008
"""Close codes (RFC 6455, section 7.4.1). The last one is for clients that do not use this protocol."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Stream:
    id: str
    """Name that the client chose."""
    name: str
    """Name that the gateway chose."""
    task: asyncio.Task[None]


async def refuse(websocket: WebSocket, error: AdapterError) -> None:
    """Refuse a WebSocket with an HTTP response."""
    status = status_of(error, websocket.url.path)
    answer = JSONResponse(body_of(error).model_dump(by_alias=True), status, headers_of(error))
    await websocket.send_denial_response(answer)


class Conversation:
    """A socket and its streams. `size` is the most characters of one frame; `pings` adds those of UCloud's protocol."""

    def __init__(self, websocket: WebSocket, size: int, limits: Limits, *, pings: bool = False) -> None:
        self._websocket = websocket
        self._size = size
        self._limits = limits
        self._pings = pings
        self._sending = asyncio.Lock()
        self._streams: set[_Stream] = set()
        self._idle_since = 0.0
        self._lost = asyncio.Event()
        """Set if the client does not read."""

    async def hold(self, answer: Callable[[Conversation, Frame], Awaitable[None]]) -> None:
        """Read frames until the WebSocket ends, and pass each to `answer`, which may raise `AdapterError`."""
        await self._websocket.accept()
        self._idle_since = asyncio.get_running_loop().time()
        listening = asyncio.create_task(self._listen(answer))
        others = [asyncio.create_task(self._keep()), asyncio.create_task(self._lost.wait())]
        try:
            await asyncio.wait({listening, others[1]}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks = [listening, *others, *(stream.task for stream in self._streams)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not listening.cancelled():
            listening.result()

    def start(
        self,
        stream_id: str,
        name: str,
        messages: AsyncGenerator[BaseModel, None],
        check: Callable[[], Awaitable[object]],
    ) -> None:
        """Answer with a stream of messages, until `check` raises an error.

        Raise `InvalidInput` if there are too many streams, or one with this identifier.
        """
        if len(self._streams) >= STREAMS:
            raise InvalidInput(f"this WebSocket has {STREAMS} streams already, which is the limit")
        if any(stream.id == stream_id for stream in self._streams):
            raise InvalidInput(f"this WebSocket has a stream {stream_id!r} already; use another streamId")
        task = asyncio.create_task(self._run(stream_id, messages, check))
        stream = _Stream(stream_id, name, task)
        self._streams.add(stream)
        task.add_done_callback(lambda _: self._ended(stream))

    async def acknowledge(self, stream_id: str, payload: BaseModel) -> None:
        """Acknowledge a call: with the end of its stream, or with a message if the stream continues."""
        running = any(stream.id == stream_id for stream in self._streams)
        await self._send((frames.message if running else frames.response)(stream_id, payload))

    async def stop(self, name: str, stream_id: str) -> None:
        """End a stream, by either of its names; `stream_id` is the stream of the call that asks for it."""
        stopped = [each for each in self._streams if name in {each.name, each.id}]
        for stream in stopped:
            stream.task.cancel()
        if stopped:
            await asyncio.wait({stream.task for stream in stopped})
        for id_ in {stream_id, *(stream.id for stream in stopped)}:
            await self._send(frames.response(id_, Empty()))

    def _status(self, error: AdapterError) -> HTTPStatus:
        return status_of(error, self._websocket.url.path)

    def _ended(self, stream: _Stream) -> None:
        self._streams.discard(stream)
        self._idle_since = asyncio.get_running_loop().time()

    async def _listen(self, answer: Callable[[Conversation, Frame], Awaitable[None]]) -> None:
        with suppress(WebSocketDisconnect):
            while (message := await self._websocket.receive())["type"] != "websocket.disconnect":
                try:
                    frame = frames.read_frame(message.get("text"), self._size)
                except InvalidInput as error:
                    await self._send(frames.response("", body_of(error), self._status(error)))
                    await self._close(_POLICY)
                    return
                try:
                    await answer(self, frame)
                except AdapterError as error:
                    await self._send(frames.response(frame.stream_id, body_of(error), self._status(error)))

    async def _forward(self, stream_id: str, messages: AsyncGenerator[BaseModel, None]) -> None:
        async with aclosing(messages):
            async for message in messages:
                await self._send(frames.message(stream_id, message))
                await asyncio.sleep(0)  # let other tasks run, even if the client reads everything at once

    async def _run(
        self, stream_id: str, messages: AsyncGenerator[BaseModel, None], check: Callable[[], Awaitable[object]]
    ) -> None:
        body: BaseModel = Empty()
        status = HTTPStatus.OK
        with suppress(WebSocketDisconnect):
            try:
                permission = Permission(check, self._limits.permission_check)
                await until_one_ends(self._forward(stream_id, messages), permission.watch())
            except AdapterError as error:
                body, status = body_of(error), self._status(error)
            except WebSocketDisconnect:
                return
            except Exception:  # noqa: BLE001  # logged, and answered as in HTTP
                _log.exception("a stream failed")
                body, status = Error(why="Internal server error"), HTTPStatus.INTERNAL_SERVER_ERROR
            await self._send(frames.response(stream_id, body, status))

    async def _keep(self) -> None:
        """Send pings, and close a WebSocket without streams."""
        with suppress(WebSocketDisconnect):
            while True:
                await asyncio.sleep(self._limits.stream_ping)
                idle = asyncio.get_running_loop().time() - self._idle_since
                if not self._streams and idle >= self._limits.stream_ping:
                    await self._close(_NORMAL)
                    return
                if self._streams and self._pings:
                    await self._send(frames.PING)

    async def _send(self, text: str) -> None:
        """Send a frame, once the client has read most of those before. Raise `WebSocketDisconnect`."""
        try:
            async with asyncio.timeout(self._limits.stream_send), self._sending:
                await self._websocket.send_text(text)
        except TimeoutError as error:
            self._lost.set()
            raise WebSocketDisconnect(_LOST) from error
        except RuntimeError as error:  # the server raises it if the WebSocket is closed already
            raise WebSocketDisconnect(_LOST) from error

    async def _close(self, code: int) -> None:
        async with self._sending:
            with suppress(RuntimeError):
                await self._websocket.close(code)

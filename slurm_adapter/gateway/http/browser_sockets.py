"""WebSockets of browsers: those of the server, and those of applications, which are forwarded as bytes.

Frames of an application are forwarded as they come, so that no message is ever held here, however large it is. Only the
end of each frame is detected, to insert a ping or a close between two of them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from slurm_adapter.gateway.http.connections import PIECE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Scope
    from uvicorn._types import ASGISendEvent
    from websockets.frames import Frame
    from websockets.http11 import Request

EXTENSION = "slurm_adapter.bytes"
"""Name of the ASGI extension that `take_over` uses."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

FRAGMENTS = 4096
"""Most frames of one message. Otherwise empty frames would be held without limit."""

_TOO_BIG = 1009
"""Close code for a message that is too big (RFC 6455, section 7.4.1)."""

_CLOSE, _PING = 0x8, 0x9
_LAST = 0x80
"""Marks the last frame of a message (RFC 6455, section 5.2)."""


class _TakesOver(Protocol):
    def __call__(self, headers: Iterable[tuple[bytes, bytes]]) -> Streams: ...


def take_over(scope: Scope, headers: Iterable[tuple[bytes, bytes]]) -> Streams:
    """Accept a request for a WebSocket with these headers, and return its connection, for bytes both ways."""
    return cast("_TakesOver", scope["extensions"][EXTENSION])(headers)


class BrowserSocket(WebSocketsSansIOProtocol):
    """The server's WebSocket, which can be taken over, and holds nothing for a client that does not read."""

    _taken: asyncio.StreamWriter | None = None
    _asked = False

    def data_received(self, data: bytes) -> None:
        """Receive bytes of the browser."""
        if self._asked and not self.handshake_complete:
            # A client must not send anything before the answer (RFC 6455, section 4.1).
            self.transport.abort()
            return
        super().data_received(data)

    def handle_connect(self, event: Request) -> None:
        """Receive the request."""
        super().handle_connect(event)
        if not self.handshake_complete:
            self._asked = True
            extensions = cast("dict[str, object]", self.scope["extensions"])
            extensions[EXTENSION] = self._take_over

    def handle_cont(self, event: Frame) -> None:
        """Receive a further frame of a message."""
        if len(self.frames) < FRAGMENTS:
            super().handle_cont(event)
        elif not self.close_sent:
            self.conn.fail(_TOO_BIG, f"a message has more than {FRAGMENTS} frames")
            self.handle_parser_exception()

    def handle_ping(self) -> None:
        """Answer a ping; stop reading from a client that pings and does not read."""
        super().handle_ping()
        if not self.writable.is_set() and not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Continue once the client has read."""
        super().resume_writing()
        if self.read_paused and self.queue.empty() and not self.transport.is_closing():
            self.read_paused = False
            self.transport.resume_reading()

    def shutdown(self) -> None:
        """Close it, because the server stops."""
        if self._taken is None:
            super().shutdown()
        else:
            self.transport.abort()

    async def run_asgi(self) -> None:
        """Serve it."""
        await super().run_asgi()
        if self._taken is not None:
            self.connections.discard(self)

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message of the ASGI application."""
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True  # the server would log a refusal as an error

    def _take_over(self, headers: Iterable[tuple[bytes, bytes]]) -> Streams:
        lines = [b"HTTP/1.1 101 Switching Protocols", *(name + b": " + value for name, value in headers), b"", b""]
        self.handshake_complete = True
        reader = asyncio.StreamReader(limit=PIECE, loop=self.loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self.loop)
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        self._taken = asyncio.StreamWriter(self.transport, protocol, reader, self.loop)
        self._taken.write(b"\r\n".join(lines))
        return reader, self._taken


class Boundaries:
    """Detects the ends of frames in a stream of bytes (RFC 6455, section 5.2)."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._left = 0
        self.closing = False
        """The last frame was seen, after which there are no others."""

    @property
    def between(self) -> bool:
        """True if another frame may be inserted now."""
        return not self._head and not self._left and not self.closing

    def feed(self, data: bytes) -> None:
        """Process more bytes."""
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            self._head.append(data[at])
            at += 1
            if len(self._head) >= 2 and len(self._head) == self._head_size():
                self._end_head()

    def _head_size(self) -> int:
        masked, length = self._head[1] & 0x80, self._head[1] & 0x7F
        return 2 + {126: 2, 127: 8}.get(length, 0) + (4 if masked else 0)

    def _end_head(self) -> None:
        length = self._head[1] & 0x7F
        longer = {126: 2, 127: 8}.get(length, 0)
        self._left = int.from_bytes(self._head[2 : 2 + longer]) if longer else length
        self.closing = self._head[0] & 0x0F == _CLOSE
        self._head.clear()


def ping_frame() -> bytes:
    """Return an empty ping. Its answer is forwarded, and the application ignores it (RFC 6455, section 5.5.3)."""
    return bytes([_LAST | _PING, 0])


def close_frame(code: int, reason: str) -> bytes:
    """Return the frame that closes a WebSocket."""
    content = code.to_bytes(2) + reason.encode()
    return bytes([_LAST | _CLOSE, len(content)]) + content

"""Connections to ports of compute nodes. None is kept for another request.

Nothing is buffered: a side that does not read stops the side that writes.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONNECT_SECONDS = 10.0
"""Seconds until a node must accept a connection."""

STALL_SECONDS = 60.0
"""Seconds after which the connection of a side that reads nothing is closed."""

PIECE = 64 * 1024
"""Approximate size of one read or write in bytes."""


class NotListening(OSError):
    """Nothing listens on the port."""


class Connection(Protocol):
    """Bytes to and from a port of a node."""

    async def read(self) -> bytes:
        """Return the next bytes; `b""` at the end. Raise `OSError` if the connection breaks."""
        ...

    async def write(self, data: bytes) -> None:
        """Send this, and wait until most of it was sent. Raise `OSError` if it cannot be sent."""
        ...


class Direct:
    """A connection that this machine makes itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """See `Connection.read`."""
        return await self._reader.read(PIECE)

    async def write(self, data: bytes) -> None:
        """See `Connection.write`."""
        self._writer.write(data)
        await self._writer.drain()


@asynccontextmanager
async def connect(host: str, port: int) -> AsyncIterator[Connection]:
    """Connect to a port within the block. Raise `NotListening`."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port, limit=PIECE)
    except (OSError, TimeoutError) as error:
        raise NotListening(f"nothing answers at {host}, port {port}") from error
    try:
        give_up_stalled(writer.get_extra_info("socket"))
        yield Direct(reader, writer)
    finally:
        # What was not read by now is dropped.
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


def give_up_stalled(connection: socket.socket) -> None:
    """Let the kernel close a connection if the other side is gone, or reads nothing for `STALL_SECONDS` (tcp(7)).

    Connections of a listening socket inherit it.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALL_SECONDS * 1000))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(STALL_SECONDS))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)

"""Tunnels to ports of nodes that this machine cannot reach directly.

Each tunnel is a command on the login node with a TCP connection to the node.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from slurm_adapter.cluster.transports.interface import Command
from slurm_adapter.gateway.http.connections import PIECE, STALL_SECONDS, NotListening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slurm_adapter.cluster.transports.interface import Stream, Transport
    from slurm_adapter.gateway.http.connections import Connection

MOST = 128
"""Tunnels at once. Each has two threads, and ten share an SSH connection."""

CONNECT_SECONDS = 15
"""Seconds until the command must have reached the node."""

_CONNECTED = b"+"

_SCRIPT = """
exec 3<>"/dev/tcp/$1/$2" || exit 1
exec 4<&0
printf +
cat <&4 >&3 & up=$!
cat <&3 & down=$!
wait -n
kill "$up" "$down"
"""
"""Command with an address and a port as arguments. It ends when either side ends."""


class Tunnels:
    """The tunnels of a gateway."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(3 * MOST, thread_name_prefix="tunnel")
        """Each tunnel has one thread that reads, one that writes, and one to close it."""

    @asynccontextmanager
    async def open(self, transport: Transport, address: str, port: int) -> AsyncIterator[Connection]:
        """Connect to a port of a node, within the block.

        Raise `NotListening` if nothing answers, and `AdapterError` if the cluster cannot be reached.
        """
        stream, first = await self._connect(transport, address, port)
        try:
            yield _Tunnel(stream, first, self._threads)
        finally:
            await asyncio.get_running_loop().run_in_executor(self._threads, stream.close)

    async def _connect(self, transport: Transport, address: str, port: int) -> tuple[Stream, bytes]:
        """Return the command once it has reached the node, and the first bytes."""
        loop = asyncio.get_running_loop()
        command = Command(("bash", "-c", _SCRIPT, "bash", address, str(port)), timeout=CONNECT_SECONDS)
        opening = loop.run_in_executor(self._threads, transport.open, command)
        try:
            stream = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close)
            raise
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                first = await loop.run_in_executor(self._threads, stream.read)
        except TimeoutError as error:
            await loop.run_in_executor(self._threads, stream.close)
            raise NotListening(f"{address}, port {port} did not answer") from error
        except BaseException:
            await loop.run_in_executor(self._threads, stream.close)
            raise
        if first[:1] != _CONNECTED:
            await loop.run_in_executor(self._threads, stream.close)
            raise NotListening(f"nothing answers at {address}, port {port}")
        return stream, first[1:]

    def close(self) -> None:
        """Close everything; tunnels have ended by now."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Tunnel:
    """See `Connection`."""

    def __init__(self, stream: Stream, first: bytes, threads: ThreadPoolExecutor) -> None:
        self._stream = stream
        self._first = first
        self._threads = threads

    async def read(self) -> bytes:
        """See `Connection.read`."""
        first, self._first = self._first, b""
        return first or await asyncio.get_running_loop().run_in_executor(self._threads, self._stream.read)

    async def write(self, data: bytes) -> None:
        """See `Connection.write`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(STALL_SECONDS):
                for at in range(0, len(data), PIECE):
                    await loop.run_in_executor(self._threads, self._stream.write, data[at : at + PIECE])
        except TimeoutError as error:
            raise OSError(f"the application has read nothing for {STALL_SECONDS:.0f} s") from error


def _close(opening: asyncio.Future[Stream]) -> None:
    """Close a stream if its client has disconnected meanwhile."""
    if not opening.cancelled() and opening.exception() is None:
        threading.Thread(target=opening.result().close, name="close tunnel").start()

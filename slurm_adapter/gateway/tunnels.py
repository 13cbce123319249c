"""Ways to ports of nodes that this machine does not reach itself: through commands on the cluster.

A tunnel is a Unix socket of this machine, in a folder that nobody else may enter, for one connection; behind it, a
command on the login node speaks TCP to the node. What speaks HTTP here need not know of it.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from slurm_adapter.transports.interface import Command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slurm_adapter.transports.interface import Stream, Transport

MOST = 64
"""Tunnels at once, all jobs together; more wait for one to end."""

CONNECT_SECONDS = 15
"""How long the command may take to reach the node."""

_PIECE = 64 * 1024

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
"""With an address and a port. Whichever side ends first, ends it."""


class NotListening(OSError):
    """Nothing listens there."""


class Tunnels:
    """The tunnels of a gateway."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(2 * MOST, thread_name_prefix="tunnel")
        self._free = asyncio.Semaphore(MOST)
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @asynccontextmanager
    async def open(self, transport: Transport, address: str, port: int) -> AsyncIterator[str]:
        """The path of a socket that leads there, for one connection, within the block.

        Raises `NotListening` where nothing answers there, and `AdapterError` where the cluster is not reached.
        """
        async with self._free:
            stream, first = await self._connect(transport, address, port)
            loop = asyncio.get_running_loop()
            try:
                if self._folder is None:
                    self._folder = tempfile.TemporaryDirectory(prefix="slurm-adapter-")
                path = Path(self._folder.name) / uuid4().hex

                async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                    up = asyncio.create_task(self._up(reader, stream))
                    try:
                        writer.write(first)
                        while data := await loop.run_in_executor(self._threads, stream.read):
                            writer.write(data)
                            await writer.drain()
                    except OSError:
                        pass  # whoever asked has gone
                    finally:
                        up.cancel()
                        writer.close()

                server = await asyncio.start_unix_server(carry, path)
                try:
                    yield str(path)
                finally:
                    server.close()
                    path.unlink(missing_ok=True)
            finally:
                await loop.run_in_executor(None, stream.close)

    async def _connect(self, transport: Transport, address: str, port: int) -> tuple[Stream, bytes]:
        """The command once it has reached the node, and what came from there already."""
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
            await loop.run_in_executor(None, stream.close)
            raise NotListening(f"no answer came from {address}, port {port}") from error
        except BaseException:
            await loop.run_in_executor(None, stream.close)
            raise
        if first[:1] != _CONNECTED:
            await loop.run_in_executor(None, stream.close)
            raise NotListening(f"nothing answers at {address}, port {port}")
        return stream, first[1:]

    async def _up(self, reader: asyncio.StreamReader, stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(_PIECE):
            await loop.run_in_executor(self._threads, stream.write, data)
        # Whoever asked has hung up: there is nobody to read on for.
        await loop.run_in_executor(self._threads, stream.close)

    def close(self) -> None:
        """Give everything back; tunnels have ended by now."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._folder is not None:
            self._folder.cleanup()


def _close(opening: asyncio.Future[Stream]) -> None:
    """Close what was opened for somebody who has gone meanwhile."""
    if not opening.cancelled() and opening.exception() is None:
        threading.Thread(target=opening.result().close, name="close tunnel").start()

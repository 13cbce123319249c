"""The gateway under the server that `serve` runs it under, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from slurm_adapter.gateway.http.server import Server, server_config
from slurm_adapter.gateway.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp


class _Server(Server):
    """The same server, which stops at once if it has no connections."""

    async def main_loop(self) -> None:
        counter = 0
        while not await self.on_tick(counter):
            counter = (counter + 1) % 100
            await asyncio.sleep(0.01)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)
            return
        for each in (*self.servers, *(sockets or ())):
            each.close()
        await self.lifespan.shutdown()


@contextmanager
def served(app: ASGIApp, port: int = 0, limits: Limits | None = None) -> Iterator[str]:
    """Serve within the block, on a free port unless told otherwise; gives host and port.

    What is under way at its end has five seconds.
    """
    config = server_config(app, limits or Limits())
    config.timeout_graceful_shutdown, config.lifespan = 5, "on"
    server = _Server(config)
    listening = socket.create_server(("127.0.0.1", port))
    thread = threading.Thread(target=server.run, args=([listening],), name="gateway")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        host, port = listening.getsockname()
        yield f"{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server did not end"

"""The HTTP server of `serve`.

SIGTERM stops it gently: no new request is accepted, and requests under way are finished first.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import uvicorn

from slurm_adapter.cluster.schedulers.versions import require_supported
from slurm_adapter.core.errors import InvalidConfig, TryAgain, Unknown
from slurm_adapter.gateway.http.app import make_app
from slurm_adapter.gateway.http.connections import give_up_stalled
from slurm_adapter.gateway.http.incoming import HEAD_SIZE, MESSAGE_SIZE, IncomingRequests, IncomingSocket, ServerConfig
from slurm_adapter.gateway.http.logging import log_to_stderr
from slurm_adapter.gateway.limits import Limits

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from slurm_adapter.adapter import Adapter

SWITCH_SECONDS = 0.0005
"""Seconds for which a computing thread holds the interpreter before others run.

A request takes dozens of steps of the event loop. With Python's default of 5 ms each would wait while bodies are read.
"""

ACCEPTED_AT_ONCE = 8
"""Connections to accept before open ones are served again. Thousands may wait, and each takes 0.2 ms."""

BACKLOG = 4096
"""Connections that may wait to be accepted. The client's kernel retries others after a second."""

log = logging.getLogger(__name__)


def serve(adapter: Adapter) -> None:
    """Serve until SIGTERM or SIGINT. Raise `InvalidConfig` if it cannot begin."""
    settings = adapter.config.gateway
    # A cluster that is down may be up later. A missing pyslurm is an error.
    with suppress(TryAgain, Unknown):
        adapter.scheduler.binding_version()
    with suppress(TryAgain, Unknown):
        adapter.scheduler.ping()  # answers within seconds, also if Slurm is down
        versions = adapter.scheduler.versions()
        for version in (versions.client, versions.controller):
            require_supported(version)
    limits = Limits()
    app = make_app(adapter, limits)
    _ = adapter.store  # without a database nothing can be served
    sockets = _listen(settings.listen, settings.port)
    log_to_stderr()
    for number in (signal.SIGTERM, signal.SIGINT):
        # The server handles them, and raises them again when it has ended; then nothing is left to do.
        signal.signal(number, lambda *_: None)
    sys.setswitchinterval(SWITCH_SECONDS)
    log.info("listening on %s, port %s", settings.listen, settings.port)
    Server(server_config(app, limits)).run(sockets=sockets)


def server_config(app: ASGIApp, limits: Limits) -> ServerConfig:
    """Return the settings of the server. The module `incoming` bounds what they do not bound.

    WebSockets are not compressed: 15 kB may be 15 MB, and are inflated before a token is checked.
    """
    return ServerConfig(
        app,
        limits,
        log_config=None,
        backlog=ACCEPTED_AT_ONCE,
        access_log=False,
        server_header=False,
        loop="asyncio",
        timeout_graceful_shutdown=limits.shutdown,
        http=IncomingRequests,
        h11_max_incomplete_event_size=HEAD_SIZE,
        ws=IncomingSocket,
        ws_per_message_deflate=False,
        ws_max_size=MESSAGE_SIZE,
    )


class Server(uvicorn.Server):
    """A server that accepts a few connections at a time, and serves open ones before it accepts more."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(BACKLOG)  # asyncio uses one number for both


def _listen(host: str, port: int) -> list[socket.socket]:
    """Return a listening socket for each address of the name. Raise `InvalidConfig`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = dict.fromkeys((family, address[:2]) for family, _, _, _, address in found)
        sockets = [socket.create_server(address, family=family) for family, address in addresses]
    except OSError as error:
        raise InvalidConfig(
            f"gateway.listen = {host!r}, gateway.port = {port}: {error.strerror}; use an address of this machine, and "
            "a port that is free and that this account may use"
        ) from error
    for each in sockets:
        # Connections inherit it. asyncio sets it only for a socket that was made with a protocol, and without it the
        # kernel keeps an answer's body back until its head is acknowledged: 40 ms.
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        give_up_stalled(each)
    return sockets

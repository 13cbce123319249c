"""Time limits of incoming connections, and limits of their number.

The server itself waits forever for the rest of a request, and for a client that does not read. Here each connection is
checked every few seconds, and closed if it takes too long.

Behind a reverse proxy all connections have one address, and without one an attacker may have many. So no address is
refused: if too many connections wait for a request, the oldest one of the address with most of them is closed. An
honest request arrives within moments, and is not waiting any more. So recent connections are spared: many that arrive
at once would close each other, and honest ones among them.
"""

from __future__ import annotations

import asyncio
import json
import math
import resource
import sys
from collections import Counter, deque
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from slurm_adapter.gateway.http.browser_sockets import BrowserSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.types import ASGIApp

    from slurm_adapter.gateway.limits import Limits

LEAST_RATE = 240
"""Least bytes of a body each second, over three checks. (Kestrel, the server of ASP.NET, has this default.)"""

WAITING = 128
"""Connections without a request of a known caller. If there are more, the oldest ones are closed."""

NEW = 32
"""New connections between two checks of all of them, unless `Limits.room_check` seconds pass before."""

CONNECTIONS = 1000
"""Connections in all, if this process may open four times as many files."""

HEAD_SIZE = 64 * 1024
"""Bytes of the head of a request: it may contain a list of thousands of ids, or an application's cookies."""

READ_SIZE = 8 * 1024
"""Bytes to read at once. They are parsed at once, too: 8 KiB are 1300 messages of a WebSocket."""

MESSAGE_SIZE = 512 * 1024
"""Bytes of a WebSocket message that this program reads itself. UCloud's contain a whole job, of some KiB."""

CALLER = "caller"
"""Key of a scope's state with the caller, once the caller is known."""

DELAYED = "delayed"
"""Key of a scope's state with a `Delay`, while the request waits because its caller sends too many; see `turns`."""


class Delay(NamedTuple):
    """A request that waits because its caller sends too many."""

    owner: str
    """The caller."""
    end: Callable[[], object]
    """Function that ends the request, because nobody waits for its answer any more."""


def most_connections() -> int:
    """Return the limit of connections: a quarter of the files that this process may open.

    Each may need another one, to an application. The rest is for the database, shells and commands.
    """
    return min(CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)


def _most_in_all() -> int:
    """Return the limit of connections including recent ones."""
    return most_connections() * 5 // 4


class _Watched:
    """The common part of both kinds of connections; a mixin of uvicorn's protocols."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    client: tuple[str, int] | None
    config: Any
    connections: set[Any]
    scope: Any = None

    _look: asyncio.TimerHandle | None = None
    _since = 0.0
    """Time at which its present stage began."""
    _stage: object = None
    _stalled: float | None = None
    """Time since which the client reads too little; None if it reads enough."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the checks, and make room for it."""
        super().connection_made(transport)  # type: ignore[misc]
        # asyncio's transports read 256 KiB at once otherwise; a test checks that this has an effect.
        self.transport.max_size = READ_SIZE  # type: ignore[attr-defined]
        self._since = self.loop.time()
        self._look = self.loop.call_later(self.settings.limits.connection_check, self._check)
        self.settings.room.make(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the checks."""
        self.unwatch()
        if self.delayed is not None:
            self.delayed.end()
        super().connection_lost(exc)  # type: ignore[misc]

    def unwatch(self) -> None:
        """Stop the checks, because another protocol takes over the connection."""
        if self._look is not None:
            self._look.cancel()

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._stalled = self.loop.time()
        super().pause_writing()  # type: ignore[misc]

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._stalled = None
        super().resume_writing()  # type: ignore[misc]

    @property
    def settings(self) -> ServerConfig:
        """The settings of the server."""
        return cast("ServerConfig", self.config)

    @property
    def known(self) -> bool:
        """True while a request of a known caller is under way."""
        return self.scope is not None and CALLER in self.scope.get("state", {})

    @property
    def delayed(self) -> Delay | None:
        """The delay of the request, if its caller sends too many; None otherwise."""
        return None if self.scope is None else self.scope.get("state", {}).get(DELAYED)

    @property
    def waits(self) -> bool:
        """True if no request is under way, so that the connection may be closed for others."""
        raise NotImplementedError

    @property
    def since(self) -> float:
        """Approximate time at which its present stage began."""
        return self._since

    def overdue(self, now: float) -> bool:
        """Return whether the client has taken too long. Called at each check."""
        if self._stalled is not None and now - self._stalled > self.settings.limits.response_stall:
            return True
        return self.transport.is_closing() and self.stays("closing", now) > self.settings.limits.closing

    def stays(self, stage: object, now: float) -> float:
        """Return the seconds for which it has been in this stage."""
        if stage != self._stage:
            self._stage, self._since = stage, now
        return now - self._since

    def _check(self) -> None:
        if self.overdue(self.loop.time()):
            self.transport.abort()
        else:
            self._look = self.loop.call_later(self.settings.limits.connection_check, self._check)


class IncomingRequests(_Watched, H11Protocol):
    """A connection with requests."""

    _received = 0
    """Bytes since the last check."""
    _slow = 0
    """Number of checks in a row at which a body was too slow."""
    _refused = False
    """The input was not HTTP, or is answered. The rest is read and dropped, else the kernel drops the answer."""

    def data_received(self, data: bytes) -> None:
        """Count received bytes."""
        self._received += len(data)
        if not self._refused:
            super().data_received(data)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Leave the connection to the other protocol."""
        self.unwatch()
        super().handle_websocket_upgrade(event)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._since = self.loop.time()
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self._end()  # reading the rest costs more than a new connection

    def send_400_response(self, msg: str) -> None:
        """Answer input that is not HTTP with an error response."""
        del msg
        error = sys.exception()  # it is being handled
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # its body cannot be read to the end
            self.cycle.message_event.set()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            status = HTTPStatus(getattr(error, "error_status_hint", HTTPStatus.BAD_REQUEST))
            self.transport.write(_answer(status, f"the request is not valid HTTP: {error}"))
            self._end()
        else:
            self.transport.close()

    def _end(self) -> None:
        """End the answer, and drop everything that the client still sends."""
        self.transport.write_eof()
        self._refused = True

    @property
    def waits(self) -> bool:
        """See `_Watched.waits`."""
        return self._refused or self.cycle is None or self.cycle.response_complete

    def overdue(self, now: float) -> bool:
        """See `_Watched.overdue`."""
        received, self._received = self._received, 0
        if super().overdue(now):
            return True
        if self.transport.is_closing():
            return False
        theirs = self.conn.their_state
        stayed = self.stays((theirs, id(self.cycle)), now)
        if theirs is h11.IDLE or self._refused:
            return stayed > self.settings.limits.request_head
        if theirs is not h11.SEND_BODY:
            return False
        if self.conn.our_state is h11.DONE:
            return stayed > self.settings.limits.closing
        waited_for = not self.flow.read_paused and not self.conn.they_are_waiting_for_100_continue
        least = LEAST_RATE * self.settings.limits.connection_check
        self._slow = self._slow + 1 if waited_for and received < least else 0
        return self._slow > 2  # the first check comes at any time


class IncomingSocket(_Watched, BrowserSocket):
    """A WebSocket."""

    def data_received(self, data: bytes) -> None:
        """Receive bytes."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(_answer(HTTPStatus.BAD_REQUEST, "the request for a WebSocket is not valid HTTP"))
            self.transport.close()

    @property
    def waits(self) -> bool:
        """See `_Watched.waits`."""
        # A WebSocket of an application has a session. A client that waits for its turn would reconnect.
        return not self.known and self.delayed is None and self._taken is None

    def overdue(self, now: float) -> bool:
        """See `_Watched.overdue`."""
        if super().overdue(now):
            return True
        return not self.handshake_initiated and self.stays("asked", now) > self.settings.limits.request_head


class Room:
    """Closes connections to make room for new ones, at one server.

    A check of all connections takes as long as the answer to a request. So it is done once for several new ones.
    """

    def __init__(self) -> None:
        self._checked = -math.inf
        self._new = 0
        """New connections since the last check of all of them."""
        self._next: deque[_Watched] = deque()
        """Connections to close next if there are too many in all."""

    def make(self, new: _Watched) -> None:
        """Close the oldest waiting connection if there are too many, or the new one if none waits.

        Recent connections may be honest, so there may be a quarter more of them.
        """
        everything = cast("set[_Watched]", new.connections)
        most = most_connections()
        if len(everything) <= min(WAITING - NEW, most):
            return
        now = new.loop.time()
        self._new += 1
        due = self._new >= NEW and (len(everything) <= most or not self._next)
        if due or now - self._checked >= new.settings.limits.room_check:
            self._checked, self._new = now, 0
            self.check(new, now)
        if len(everything) <= most:
            return
        while self._next:
            oldest = self._next.popleft()
            if _may_end(oldest):
                oldest.transport.abort()
                return
        if len(everything) <= _most_in_all():
            return  # soon the recent ones have a caller, wait for their turn, or are closed
        why = f"the limit of {most} connections is reached: try again in 5 s"
        new.transport.write(_answer(HTTPStatus.SERVICE_UNAVAILABLE, why))
        new.transport.close()

    def check(self, new: _Watched, now: float) -> None:
        """Close connections that wait too long, and choose which ones are closed next.

        A delayed request is closed only if there is no other room: its client would reconnect at once.
        """
        others = [each for each in cast("set[_Watched]", new.connections) if each is not new and _may_end(each)]
        waiting = [each for each in others if each.waits]
        recent = now - new.settings.limits.recent
        old = [each for each in waiting if isinstance(each, IncomingSocket) or each.since <= recent]
        for each in _in_order(old)[: max(0, len(old) - (WAITING - NEW))]:
            each.transport.abort()
        delayed = [each for each in others if each.delayed is not None]
        full = len(new.connections) > _most_in_all()
        self._next = deque(_in_order(delayed or old or (waiting if full else [])))


class ServerConfig(uvicorn.Config):
    """Settings of a server, and objects that its connections share."""

    def __init__(self, app: ASGIApp, limits: Limits, **settings: Any) -> None:
        super().__init__(app, **settings)
        self.limits = limits
        self.room = Room()


def _may_end(connection: _Watched) -> bool:
    return not connection.transport.is_closing() and (connection.waits or connection.delayed is not None)


def _in_order(some: Iterable[_Watched]) -> list[_Watched]:
    """Sort connections in closing order: the oldest of the address, or of the delayed user, with most of the rest."""
    newer: Counter[str] = Counter()
    ranks: list[tuple[int, float, _Watched]] = []
    for each in sorted(some, key=lambda each: -each.since):
        owner = each.delayed.owner if each.delayed else _address(each)
        newer[owner] += 1
        ranks.append((-newer[owner], each.since, each))
    return [each for *_, each in sorted(ranks, key=lambda rank: rank[:2])]


def _address(connection: _Watched) -> str:
    return connection.client[0] if connection.client else ""


def _answer(status: HTTPStatus, why: str) -> bytes:
    """Return an answer that closes its connection."""
    body = json.dumps({"why": why, "errorCode": None}).encode()
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", "Content-Type: application/json", "Connection: close"]
    lines += ["Retry-After: 5"] if status is HTTPStatus.SERVICE_UNAVAILABLE else []
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body

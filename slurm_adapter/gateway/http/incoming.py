"""Connections from outside: how long each may take, and how many there may be.

The server itself waits without end for the rest of a request and for a client that does not read. Here each
connection is looked at every few seconds, and ended if it keeps nobody's request waiting but its own.

Behind a reverse proxy all connections have one address, and without one an attacker may have many. So nobody is refused
by address: if too many connections wait for a request, the oldest one of the address with most of them is ended. An
honest request comes within moments, and is not waiting any more. So those of the last moments are left alone: many that
come at once would end each other, and honest ones among them.
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
"""Bytes of a body each second, over three looks. (Kestrel, the server of ASP.NET, has this default.)"""

WAITING = 128
"""Connections without a request of a known caller. More end the oldest ones."""

NEW = 32
"""Connections that are made between two looks at all of them, if less than `ROOM_SECONDS` passes meanwhile."""

ROOM_SECONDS = 0.1
"""The longest time between these looks, if connections are made."""

CONNECTIONS = 1000
"""Connections in all, if this process may have four times as many files open."""

HEAD_SIZE = 64 * 1024
"""Bytes of the head of a request: a list of thousands of ids, or an application's cookies."""

READ_SIZE = 8 * 1024
"""Bytes that are read at once. All that was read is parsed at once: 8 KiB are 1300 messages of a WebSocket."""

MESSAGE_SIZE = 512 * 1024
"""Bytes of a message that this program itself reads from a WebSocket. UCloud's have a whole job, of some KiB."""

CALLER = "caller"
"""The key of a scope's state that says who is asking, once that is known."""

DELAYED = "delayed"
"""The key of a scope's state while the request waits because its caller sends too many: a `Delay`; see `turns`."""


class Delay(NamedTuple):
    """A request that waits because its caller sends too many."""

    owner: str
    """The caller."""
    end: Callable[[], object]
    """Ends it, as nobody waits for its answer any more."""


def most_connections() -> int:
    """Return how many connections there may be at once: a quarter of the files that this process may open.

    Each may need another one, to an application. The rest is for the database, shells and commands.
    """
    return min(CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)


def _most_in_all() -> int:
    """Return how many connections there may be at once with those that came a moment ago."""
    return most_connections() * 5 // 4


class _Watched:
    """What both kinds of connections have in common; a mixin of uvicorn's protocols."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    client: tuple[str, int] | None
    config: Any
    connections: set[Any]
    scope: Any = None

    _look: asyncio.TimerHandle | None = None
    _since = 0.0
    """When it came into its present stage."""
    _stage: object = None
    _stalled: float | None = None
    """Since when too little is read; None if enough is."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to watch it, and make room for it."""
        super().connection_made(transport)  # type: ignore[misc]
        # asyncio's transports read 256 KiB at once otherwise; a test looks that this has an effect.
        self.transport.max_size = READ_SIZE  # type: ignore[attr-defined]
        self._since = self.loop.time()
        self._look = self.loop.call_later(self.settings.limits.connection_check, self._look_at)
        self.settings.room.make(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Watch it no longer."""
        self.unwatch()
        if self.delayed is not None:
            self.delayed.end()
        super().connection_lost(exc)  # type: ignore[misc]

    def unwatch(self) -> None:
        """Leave it to another protocol."""
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
        """Whether a caller is known whose request is under way."""
        return self.scope is not None and CALLER in self.scope.get("state", {})

    @property
    def delayed(self) -> Delay | None:
        """Why the request waits, if it does because its caller sends too many."""
        return None if self.scope is None else self.scope.get("state", {}).get(DELAYED)

    @property
    def waits(self) -> bool:
        """Whether it keeps nobody waiting but itself, so that it may be ended for others."""
        raise NotImplementedError

    @property
    def since(self) -> float:
        """When it came into its present stage, about."""
        return self._since

    def overdue(self, now: float) -> bool:
        """Return whether the client has taken too long. Called at each look."""
        if self._stalled is not None and now - self._stalled > self.settings.limits.response_stall:
            return True
        return self.transport.is_closing() and self.stays("closing", now) > self.settings.limits.closing

    def stays(self, stage: object, now: float) -> float:
        """Return for how long it has been in this stage."""
        if stage != self._stage:
            self._stage, self._since = stage, now
        return now - self._since

    def _look_at(self) -> None:
        if self.overdue(self.loop.time()):
            self.transport.abort()
        else:
            self._look = self.loop.call_later(self.settings.limits.connection_check, self._look_at)


class IncomingRequests(_Watched, H11Protocol):
    """A connection with requests."""

    _received = 0
    """Bytes since the last look."""
    _slow = 0
    """Looks at which a body was too slow, one after the other."""
    _refused = False
    """It was no HTTP, or is answered. What still comes is thrown away: the kernel drops an answer if it is not read."""

    def data_received(self, data: bytes) -> None:
        """Count what comes."""
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
            self._end()  # to read the rest would take longer than to answer the next request on another connection

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, as every error is answered."""
        del msg
        error = sys.exception()  # this is called where it is handled
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # it can neither be read on nor answered as a whole
            self.cycle.message_event.set()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            status = HTTPStatus(getattr(error, "error_status_hint", HTTPStatus.BAD_REQUEST))
            self.transport.write(_answer(status, f"the request is not valid HTTP: {error}"))
            self._end()
        else:
            self.transport.close()

    def _end(self) -> None:
        """Take no more from a client that may still be sending."""
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
        return self._slow > 2  # the first look comes at any time


class IncomingSocket(_Watched, BrowserSocket):
    """A WebSocket."""

    def data_received(self, data: bytes) -> None:
        """Take what comes."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(_answer(HTTPStatus.BAD_REQUEST, "the request for a WebSocket is not valid HTTP"))
            self.transport.close()

    @property
    def waits(self) -> bool:
        """See `_Watched.waits`."""
        # An application's is taken over for a session only. One that waits for its turn would come back.
        return not self.known and self.delayed is None and self._taken is None

    def overdue(self, now: float) -> bool:
        """See `_Watched.overdue`."""
        if super().overdue(now):
            return True
        return not self.handshake_initiated and self.stays("asked", now) > self.settings.limits.request_head


class Room:
    """Ends connections for new ones, at one server.

    To look at all connections takes as long as to answer a request. So it is done once for a few new ones.
    """

    def __init__(self) -> None:
        self._looked = -math.inf
        self._new = 0
        """Connections since the last look at all of them."""
        self._next: deque[_Watched] = deque()
        """Those that are ended next if there are too many in all."""

    def make(self, new: _Watched) -> None:
        """End the oldest of the connections that wait if there are too many, and the new one if none waits.

        Honest clients may be among those that came a moment ago, so there may be a quarter more of those.
        """
        everything = cast("set[_Watched]", new.connections)
        most = most_connections()
        if len(everything) <= min(WAITING - NEW, most):
            return
        now = new.loop.time()
        self._new += 1
        due = self._new >= NEW and (len(everything) <= most or not self._next)
        if due or now - self._looked >= ROOM_SECONDS:
            self._looked, self._new = now, 0
            self.look(new, now)
        if len(everything) <= most:
            return
        while self._next:
            oldest = self._next.popleft()
            if _may_end(oldest):
                oldest.transport.abort()
                return
        if len(everything) <= _most_in_all():
            return  # soon those that just came are known, wait for their turn, or have gone
        new.transport.write(_answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{most} connections are open: try again soon"))
        new.transport.close()

    def look(self, new: _Watched, now: float) -> None:
        """End those that wait for too long already, and note who is next.

        A delayed request is ended only if there is no other room: its client would come back at once.
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
    """Settings of a server, and what its connections share."""

    def __init__(self, app: ASGIApp, limits: Limits, **settings: Any) -> None:
        super().__init__(app, **settings)
        self.limits = limits
        self.room = Room()


def _may_end(connection: _Watched) -> bool:
    return not connection.transport.is_closing() and (connection.waits or connection.delayed is not None)


def _in_order(some: Iterable[_Watched]) -> list[_Watched]:
    """Return them as they are ended: the oldest of the address, or of the delayed user, that has most of the rest."""
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
    """Return an answer that ends its connection."""
    body = json.dumps({"why": why, "errorCode": None}).encode()
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", "Content-Type: application/json", "Connection: close"]
    lines += ["Retry-After: 5"] if status is HTTPStatus.SERVICE_UNAVAILABLE else []
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body

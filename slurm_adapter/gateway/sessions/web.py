"""Web and VNC sessions: the interfaces of a job's application.

Each interface of a rank of a job has a domain of its own, so that browsers separate the pages of applications. A
session begins with a token in the address, which is valid once. After that a cookie of the domain opens it.
"""

from __future__ import annotations

import logging
import math
import re
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qs, urlsplit

from fastapi import APIRouter, Query, WebSocket
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, RedirectResponse

from slurm_adapter.core.errors import AdapterError, InvalidInput, NotAuthenticated, NotOffered, Refused
from slurm_adapter.core.problems import for_message
from slurm_adapter.core.states import JobState
from slurm_adapter.gateway.api.schemas import Session
from slurm_adapter.gateway.authentication import check_grant
from slurm_adapter.gateway.http.connections import Connection, NotListening, connect
from slurm_adapter.gateway.http.incoming import CALLER
from slurm_adapter.gateway.http.turns import Lanes, Turns
from slurm_adapter.gateway.sessions.headers import (
    COOKIE,
    HOST_PREFIX,
    cookie_values,
    from_its_own_page,
    has_two_lengths,
    opens_a_page,
)
from slurm_adapter.gateway.sessions.listeners import Listeners, NotTheJobs
from slurm_adapter.gateway.sessions.one_time_secrets import SecretStore
from slurm_adapter.gateway.sessions.proxy import JobPort, forward, forward_bytes, page, refuse, silent
from slurm_adapter.gateway.sessions.revocation import Permission
from slurm_adapter.gateway.sessions.tunnels import MOST as MOST_TUNNELS
from slurm_adapter.gateway.sessions.tunnels import Tunnels
from slurm_adapter.gateway.shares import Shares, TooMany

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp, Receive, Scope, Send

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.cluster.transports.interface import Transport
    from slurm_adapter.core.config import Config
    from slurm_adapter.core.interfaces import Kind
    from slurm_adapter.core.records import Record
    from slurm_adapter.gateway.limits import Limits
    from slurm_adapter.gateway.sessions.access_grants import AccessGrant
    from slurm_adapter.gateway.thread_pools import ThreadPools

MOST, MOST_OF_ONE = 10_000, 100
"""Unused links, and sessions of browsers, at once: of all users, and of one user."""

CONNECTIONS = 1000
"""Connections to applications at once, if this machine reaches the nodes directly."""
CONNECTIONS_OF_ONE = 64
"""Connections of one user. A browser keeps six for each interface, and each WebSocket is one more."""

REQUESTS_PER_SECOND, REQUESTS_IN_A_ROW = 30, 100
"""Requests of one user to applications that begin each second, and how many may begin at once: a page has dozens."""

log = logging.getLogger(__name__)

_METHODS_REFUSED = {"CONNECT", "TRACE"}
"""Methods for configured proxies, and to show what a page may not see (RFC 9110, section 9.3.8)."""


@dataclass(frozen=True, slots=True)
class Place:
    """An interface of a rank of a job."""

    job: str
    rank: int
    interface: int = 0
    """Number of the job's further interface, from 1; 0 for the interface that its application always has."""
    grant: str | AccessGrant | None = None
    """Permission of the session (`authentication.check_grant`); None if there is no session."""

    user: str = ""
    """User of the session."""

    def same(self, other: Place | None) -> bool:
        """Return whether it is the same interface."""
        return other is not None and self == replace(other, grant=self.grant, user=self.user)


class Domains:
    """The domain of each interface of each rank."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        host, _, _ = pattern.partition(":")
        before, after = (re.escape(part) for part in host.split("{job}-{rank}"))
        numbers = r"([1-9][0-9]*)-(0|[1-9][0-9]{0,5})(?:-([1-9][0-9]{0,2}))?"
        self._host = re.compile(rf"{before}{numbers}{after}\.?(?::[0-9]+)?", re.ASCII | re.IGNORECASE)

    def domain(self, place: Place) -> str:
        """Return the domain of an interface, with the port if the site's pattern has one."""
        return self._pattern.replace("{job}", place.job).replace("{rank}", _number(place))

    def find(self, host: str) -> Place | None:
        """Return the interface of this domain (a request's Host); None if it is not a job's."""
        match = self._host.fullmatch(host)
        return None if match is None else Place(match[1], int(match[2]), int(match[3] or 0))


class Web:
    """The open web and VNC sessions of a gateway."""

    def __init__(self, config: Config, pools: ThreadPools, limits: Limits) -> None:
        self.config = config
        self.limits = limits
        self.pools = pools
        pattern = config.gateway.web_domain
        self.domains = None if pattern is None else Domains(pattern)
        self._tunnels = Tunnels()
        self.listeners = Listeners(pools)
        most = CONNECTIONS if config.gateway.reaches_nodes else MOST_TUNNELS
        self.connections = Shares(most, CONNECTIONS_OF_ONE, "connections to applications")
        self.turns = Turns(REQUESTS_PER_SECOND, REQUESTS_IN_A_ROW)
        self._lanes = Lanes()
        links = Shares(MOST, MOST_OF_ONE, "links to applications that wait for their use")
        self.tokens: SecretStore[tuple[Place, Kind]] = SecretStore(limits.session_start, links)
        sessions = Shares(MOST, MOST_OF_ONE, "sessions with applications")
        self.cookies: SecretStore[Place] = SecretStore(limits.session, sessions, replaces=True)

    @property
    def scheme(self) -> str:
        """The scheme of addresses in browsers."""
        return urlsplit(self.config.gateway.url or "").scheme

    def open(
        self,
        record: Record,
        rank: int,
        kind: Kind,
        target: str = "",
        grant: str | AccessGrant | None = None,
        user: str | None = None,
    ) -> Session:
        """Open a session with an interface of a rank, for a caller who was checked to have access to the job.

        `target` names a further interface of the application. `grant` is the permission of the session; see
        `authentication.check_grant`. `user` is the user of the session; without one, the owner of the job.

        Raise `NotOffered` if the site or the application has none. Raise `Refused` if the job is not running,
        `InvalidInput` for an unknown rank or target, and `TooMany` if the user has too many unused links.
        """
        if self.domains is None or (why := lacks(self.config)) is not None:
            missing = "gateway.web_domain is not set" if self.domains is None else why
            raise NotOffered(f"{_NAMES[kind]} access is not supported by this provider: {missing}")
        place = Place(
            record.id, rank, _find_interface(record, rank, kind, target) if target else 0, grant, user or record.owner
        )
        if not port_of(record, place, kind):
            raise NotOffered(f"{_NAMES[kind]} access: {record.application} declares no port for it")
        check(record, rank)
        token = self.tokens.issue((place, kind), place.user)
        path = f"/ucloud/{self.config.provider}"
        if kind == "WEB":
            address = f"{self.scheme}://{self.domains.domain(place)}{path}/authorize-app?token={token}"
            return Session(type="web", job_id=record.id, rank=rank, redirect_client_to=address)
        host = urlsplit(self.config.gateway.url or "").netloc
        address = f"{self.scheme.replace('http', 'ws')}://{host}{path}/vnc?token={token}"
        return Session(type="vnc", job_id=record.id, rank=rank, url=address, password=record.vnc_password)

    @asynccontextmanager
    async def reach(self, way: JobPort, owner: str) -> AsyncIterator[Connection]:
        """Connect to a port of a node for a user, within the block; through the cluster if there is no direct way.

        Raise `TooMany`, `NotListening`, `NotTheJobs` and, if the cluster cannot be reached, `AdapterError`.
        """
        with self.turns.counted(owner):
            self.connections.acquire(owner)
        async with AsyncExitStack() as stack:
            stack.callback(self.connections.release, owner)
            async with self._lanes.of(owner):
                if self.config.gateway.reaches_nodes:
                    opening = connect(way.host, way.port)
                else:
                    transport = await self.pools.database.run(_transport)
                    opening = self._tunnels.open(transport, way.host, way.port)
                connection = await stack.enter_async_context(opening)
                await self.listeners.check(way)
            yield connection

    def close(self) -> None:
        """Close everything."""
        self._tunnels.close()
        self.listeners.close()

    async def find(self, place: Place) -> Record | None:
        """Return the job; None if it is forgotten. Raise `NotAuthenticated` if the session's token is revoked."""
        return await self.pools.database.run(_find, place)

    def permission(self, place: Place, run: str, secret: str | None, until: float) -> Permission:
        """Return the permission of a connection; see `check`."""
        return Permission(partial(self.check, place, run, secret, until), self.limits.permission_check)

    async def check(self, place: Place, run: str, secret: str | None, until: float) -> None:
        """Raise an error if a connection may not stay open: its job, the cookie `secret` or its token has ended."""
        if time.monotonic() >= until or (secret is not None and self.cookies.find(secret) is None):
            raise NotAuthenticated("the session has ended")
        record = await self.find(place)
        if record is None or record.state.final or record.run != run:
            raise Refused(f"job {place.job} is not running any more")


def lacks(config: Config) -> str | None:
    """Return which key web and VNC sessions need that is not set; None if they work."""
    for key, value in (("web_domain", config.gateway.web_domain), ("url", config.gateway.url)):
        if value is None:
            return f"gateway.{key} is not set"
    return None


def check(record: Record, rank: int) -> None:
    """Raise `NotOffered` for an array, `Refused` if the job is not running, and `InvalidInput` for an unknown rank."""
    if record.array:
        raise NotOffered(f"job {record.id} has no such sessions: the tasks of an array have no common address")
    ranks = record.replicas
    if not 0 <= rank < ranks:
        raise InvalidInput(f"rank: {rank}: job {record.id} has the ranks 0 to {ranks - 1}")
    if record.state is not JobState.RUNNING:
        raise Refused(f"job {record.id} is {record.state}; a session needs a job that is RUNNING")


def port_of(record: Record, place: Place, kind: Kind) -> int | None:
    """Return the port of this interface; None if the job has no such interface."""
    if not place.interface:
        return record.web_port if kind == "WEB" else record.vnc_port
    if place.interface > len(record.interfaces):
        return None
    found = record.interfaces[place.interface - 1]
    return found.port if (found.rank, found.kind) == (place.rank, kind) else None


def _find_interface(record: Record, rank: int, kind: Kind, name: str) -> int:
    """Return the number of a further interface; see `Place`."""
    there = [each.name for each in record.interfaces if (each.rank, each.kind) == (rank, kind)]
    if name not in there:
        has = ", ".join(map(for_message, there)) or "none"
        raise InvalidInput(
            f"target: {for_message(name)}: job {record.id} has no such {kind} interface on rank {rank}: {has}"
        )
    return 1 + next(n for n, each in enumerate(record.interfaces) if (each.rank, each.name) == (rank, name))


def _number(place: Place) -> str:
    return f"{place.rank}-{place.interface}" if place.interface else str(place.rank)


_NAMES = {"WEB": "Web", "VNC": "Vnc"}


def _find(adapter: Adapter, place: Place) -> Record | None:
    check_grant(adapter.store, place.grant, adapter.clock())
    return adapter.store.find([place.job]).get(place.job)


def _transport(adapter: Adapter) -> Transport:
    return adapter.transport


def _way(record: Record, rank: int, port: int) -> JobPort | None:
    """Return how its port is reached; None if its node's address is not known yet."""
    addresses = record.addresses[rank] if rank < len(record.addresses) else ()
    return JobPort(addresses[0], port, record, rank) if addresses else None


class Applications:
    """Serves the domains of jobs; everything else goes to the ASGI application inside."""

    def __init__(self, app: ASGIApp, web: Web) -> None:
        self._app = app
        self._web = web

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or one WebSocket; see ASGI."""
        domains = self._web.domains
        place = None
        if domains is not None and scope["type"] in {"http", "websocket"}:
            place = domains.find(Headers(scope=scope).get("host", ""))
        if place is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == f"/ucloud/{self._web.config.provider}/authorize-app":
            await self._authorize(place, scope)(scope, receive, send)
        else:
            try:
                answer = await self._answer(place, scope)
            except NotAuthenticated:
                answer = _no_session()
            except AdapterError as error:
                answer = _unreached(error)
            if isinstance(answer, HTMLResponse):
                await refuse(scope, receive, send, answer)
                return
            found, permission, owner = answer
            scope["state"][CALLER] = owner
            try:
                async with self._web.reach(found, owner) as connection:
                    ping = self._web.limits.application_ping
                    await forward(scope, receive, send, connection, permission, scheme=self._web.scheme, ping=ping)
            except NotListening:
                await refuse(scope, receive, send, silent(found))
            except AdapterError as error:
                await refuse(scope, receive, send, _unreached(error))

    def _authorize(self, place: Place, scope: Scope) -> HTMLResponse | RedirectResponse:
        if scope["method"] != "GET" or not opens_a_page(scope):
            # Neither HEAD nor an image or frame of another page uses up the link.
            return page(HTTPStatus.METHOD_NOT_ALLOWED, "Open this link in a window of its own.")
        [token] = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[-1:]
        meant, kind = self._web.tokens.redeem(token) or (None, None)
        if kind != "WEB" or meant is None or not meant.same(place):
            text = "This link is valid once, for one minute. Open the application's interface from the job again."
            return page(HTTPStatus.UNAUTHORIZED, text)
        try:
            cookie = self._web.cookies.issue(meant, meant.user)
        except TooMany as error:
            return _too_many(error)
        answer = RedirectResponse(
            "/", HTTPStatus.FOUND, {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        )
        answer.set_cookie(
            self._cookie(place),
            cookie,
            max_age=int(self._web.limits.session),
            path="/",
            secure=self._web.scheme == "https",
            httponly=True,
            samesite="lax",
        )
        return answer

    def _cookie(self, place: Place) -> str:
        # Browsers take the prefix over HTTPS only.
        prefix = HOST_PREFIX if self._web.scheme == "https" else ""
        return f"{prefix}{COOKIE}{place.job}-{_number(place)}-{self._web.config.provider}"

    async def _answer(self, place: Place, scope: Scope) -> HTMLResponse | tuple[JobPort, Permission, str]:
        """Return the way to the application, the permission and the user; or a page with the reason why not."""
        if (why := _malformed(scope)) is not None:
            return why
        secrets = cookie_values(scope, self._cookie(place))
        known = {each: found for each in secrets if place.same(found := self._web.cookies.find(each)) and found}
        if not known:
            return _no_session()
        if not from_its_own_page(scope, self._web.scheme):
            return page(HTTPStatus.FORBIDDEN, "Pages of other sites may not send this request.")
        secret, place = next(iter(known.items()))
        await self._web.turns.wait(place.user, scope["state"])
        record = await self._web.find(place)
        if record is None or record.state.final:
            for each in secrets:
                self._web.cookies.redeem(each)
            return page(HTTPStatus.GONE, "The job has ended.")
        port = port_of(record, place, "WEB")
        if record.state is not JobState.RUNNING or not port:
            text = f"The job is not running at present: it is {record.state}."
            return page(HTTPStatus.SERVICE_UNAVAILABLE, text, again=10)
        way = _way(record, place.rank, port)
        if way is None:
            return page(HTTPStatus.BAD_GATEWAY, "The node of the job is not known yet.", again=3)
        return way, self._web.permission(place, record.run, secret, math.inf), place.user


sockets = APIRouter()


@sockets.websocket("/vnc")
async def vnc(websocket: WebSocket, token: Annotated[str, Query()] = "") -> None:
    """Forward messages between a browser's VNC client and a VNC server (RFC 6143) as bytes."""
    web: Web = websocket.app.state.gateway.web
    found = web.tokens.redeem(token)
    if found is None or found[1] != "VNC":
        await websocket.send_denial_response(page(HTTPStatus.UNAUTHORIZED, "This session has ended."))
        return
    place, until = found[0], time.monotonic() + web.limits.session
    setattr(websocket.state, CALLER, place.user)
    try:
        record = await web.find(place)
    except NotAuthenticated:
        await websocket.send_denial_response(_no_session())
        return
    port = None if record is None else port_of(record, place, "VNC")
    if record is None or record.state is not JobState.RUNNING or not port:
        await websocket.send_denial_response(page(HTTPStatus.GONE, "The job is not running any more."))
        return
    way = _way(record, place.rank, port)
    if way is None:
        text = "The node of the job is not known yet."
        await websocket.send_denial_response(page(HTTPStatus.BAD_GATEWAY, text))
        return
    try:
        async with web.reach(way, place.user) as connection:
            await forward_bytes(websocket, connection, web.permission(place, record.run, None, until))
    except NotListening:
        await websocket.send_denial_response(silent(way))
    except AdapterError as error:
        await websocket.send_denial_response(_unreached(error))


def _no_session() -> HTMLResponse:
    text = "This browser has no session with this application. Open its interface from the job, in UCloud."
    return page(HTTPStatus.UNAUTHORIZED, text)


def _unreached(error: AdapterError) -> HTMLResponse:
    if isinstance(error, NotTheJobs):
        log.warning("a request to an application was refused: %s", error)
        return page(HTTPStatus.BAD_GATEWAY, f"The request was not sent: {error}.", again=10)
    if isinstance(error, TooMany):
        return _too_many(error)
    log.warning("the connection to a node failed: %s", error)
    return page(HTTPStatus.SERVICE_UNAVAILABLE, "The cluster cannot be reached at the moment.", again=10)


def _too_many(error: TooMany) -> HTMLResponse:
    answer = page(HTTPStatus.TOO_MANY_REQUESTS, str(error))
    answer.headers["Retry-After"] = str(error.retry_after)
    return answer


def _malformed(scope: Scope) -> HTMLResponse | None:
    """Return the answer to a malformed request, which no application gets; None for others."""
    if has_two_lengths(scope):
        return page(HTTPStatus.BAD_REQUEST, "The request has both Content-Length and Transfer-Encoding.")
    if scope["type"] == "http" and scope["method"] in _METHODS_REFUSED:
        return page(HTTPStatus.METHOD_NOT_ALLOWED, f"Applications do not get {scope['method']}.")
    if not scope["raw_path"].startswith(b"/"):
        return page(HTTPStatus.BAD_REQUEST, "The request's target is not a path.")
    return None

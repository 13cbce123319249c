"""Requests to applications: the ASGI middleware for their domains, and the WebSocket of VNC sessions."""

from __future__ import annotations

import logging
import math
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, WebSocket
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, RedirectResponse

from slurm_adapter.core.errors import AdapterError, NotAuthenticated
from slurm_adapter.core.states import JobState
from slurm_adapter.gateway.http.connections import NotListening
from slurm_adapter.gateway.http.incoming import CALLER
from slurm_adapter.gateway.sessions.headers import (
    COOKIE,
    HOST_PREFIX,
    cookie_values,
    from_its_own_page,
    has_two_lengths,
    opens_a_page,
)
from slurm_adapter.gateway.sessions.listeners import NotTheJobs
from slurm_adapter.gateway.sessions.proxy import JobPort, forward, forward_bytes, page, refuse, silent
from slurm_adapter.gateway.sessions.web import port_of, port_on_node
from slurm_adapter.gateway.shares import TooMany

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from slurm_adapter.gateway.sessions.revocation import Permission
    from slurm_adapter.gateway.sessions.web import Place, Web

log = logging.getLogger(__name__)

_METHODS_REFUSED = {"CONNECT", "TRACE"}
"""Methods for configured proxies, and to show what a page may not see (RFC 9110, section 9.3.8)."""


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
        return f"{prefix}{COOKIE}{place.job}-{place.number}-{self._web.config.provider}"

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
        way = port_on_node(record, place.rank, port)
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
    way = port_on_node(record, place.rank, port)
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

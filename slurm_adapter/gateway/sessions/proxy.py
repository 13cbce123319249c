"""Forwarding requests and WebSockets to a port of a compute node.

Nothing is buffered. An application is not trusted: an answer that is not HTTP ends in an error page.
"""

from __future__ import annotations

import asyncio
import html
import logging
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import h11
from starlette.responses import HTMLResponse
from starlette.websockets import WebSocket

from slurm_adapter.core.errors import AdapterError
from slurm_adapter.gateway.http.browser_sockets import Boundaries, close_frame, ping_frame, take_over
from slurm_adapter.gateway.http.connections import PIECE, STALL_SECONDS, Connection
from slurm_adapter.gateway.sessions.headers import to_application, to_browser
from slurm_adapter.gateway.sessions.revocation import until_one_ends

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Message, Receive, Scope, Send

    from slurm_adapter.core.records import Record
    from slurm_adapter.gateway.http.browser_sockets import Streams
    from slurm_adapter.gateway.sessions.headers import Pairs
    from slurm_adapter.gateway.sessions.revocation import Permission

HEAD_LIMIT = 64 * 1024
"""Bytes of the head of an application's answer, and of the head of a chunk."""

QUIET_SECONDS = 600.0
"""Seconds for which a request may continue without a byte in either direction."""

PINGS = 3
"""Number of unanswered pings after which a browser is considered gone."""

_INTERIM = 20
"""Most interim answers (status 1xx) before an answer."""

_POLICY = 1008
"""Close code for a session that has ended (RFC 6455, section 7.4.1)."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JobPort:
    """A port of a job on a node."""

    host: str
    """Address of the node."""
    port: int
    record: Record
    rank: int


def page(status: HTTPStatus, text: str, *, again: int | None = None) -> HTMLResponse:
    """Return a short page for a person. `again`: seconds after which the browser retries."""
    title = html.escape(f"{status.value} {status.phrase}")
    refresh = "" if again is None else f'<meta http-equiv="refresh" content="{again}">'
    content = (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">{refresh}<title>{title}</title></head>'
        f"<body><h1>{title}</h1><p>{html.escape(text)}</p></body></html>\n"
    )
    headers = {"Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'"}
    return HTMLResponse(content, status, headers)


async def refuse(scope: Scope, receive: Receive, send: Send, answer: HTMLResponse) -> None:
    """Answer a request, or a request for a WebSocket, with a page."""
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(answer)
    else:
        await answer(scope, receive, send)


async def forward(
    scope: Scope,
    receive: Receive,
    send: Send,
    connection: Connection,
    permission: Permission,
    *,
    scheme: str,
    ping: float,
) -> None:
    """Forward a request or a WebSocket, as long as it is permitted.

    `scheme` is that of the browser's address bar; `ping` the seconds between two pings of a browser.
    """
    application = _Application(connection)
    headers = to_application(scope, scheme)
    if scope["type"] == "websocket":
        await _forward_socket(scope, receive, send, application, headers, permission, ping)
    else:
        await _Request(scope, receive, send, application).forward(headers, permission)


def silent(way: JobPort) -> HTMLResponse:
    """Return the page if nothing listens on the port."""
    text = (
        f"The job's application is not listening on port {way.port} of its node. "
        "This page tries again every few seconds; see the log of the job."
    )
    return page(HTTPStatus.BAD_GATEWAY, text, again=3)


class _NotHTTP(Exception):
    """An application's answer that is not HTTP, or that ends too early."""


class _Application:
    """An HTTP client of an application, over a connection that serves one request."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._wire = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)

    async def send(self, event: h11.Event) -> None:
        """Send a part of the request. Raise `OSError` and `h11.LocalProtocolError`."""
        if data := self._wire.send(event):
            await self.connection.write(data)

    async def answer(self) -> h11.Response | h11.InformationalResponse:
        """Return the head of the answer; an informational one is 101. Raise `OSError` and `_NotHTTP`."""
        for _ in range(_INTERIM):
            event = self._next()
            while event is h11.NEED_DATA:
                await self._read()
                event = self._next()
            if isinstance(event, h11.Response):
                if not HTTPStatus.OK <= event.status_code < 600:
                    raise _NotHTTP(f"it answered with the invalid status {event.status_code}")
                return event
            if isinstance(event, h11.InformationalResponse) and event.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
                return event
        raise _NotHTTP("it sends too many interim answers")

    async def body(self) -> AsyncIterator[bytes]:
        """Give the answer's body as it comes. Raise as `answer` does."""
        piece = bytearray()
        while not isinstance(event := self._next(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                piece += event.data
            # Join many small chunks that came together; each would be a step of its own otherwise.
            if len(piece) >= PIECE or (piece and event is h11.NEED_DATA):
                yield bytes(piece)
                piece.clear()
            if event is h11.NEED_DATA:
                await self._read()
        if piece:
            yield bytes(piece)

    @property
    def switched(self) -> bytes:
        """Bytes after an answer with status 101."""
        return bytes(self._wire.trailing_data[0])

    async def _read(self) -> None:
        self._wire.receive_data(await self.connection.read())

    def _next(self) -> object:
        try:
            event = self._wire.next_event()
        except h11.RemoteProtocolError as error:
            raise _NotHTTP(f"its answer is not HTTP: {error}") from error
        if isinstance(event, h11.ConnectionClosed):
            raise _NotHTTP("it closed the connection without an answer")
        return event


class _Request:
    """A request that is forwarded."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, application: _Application) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._application = application
        self._begun = False
        self._limit = asyncio.timeout(QUIET_SECONDS)

    async def forward(self, headers: Pairs, permission: Permission) -> None:
        """Forward the request and its answer."""
        framing = [each for each in self._scope["headers"] if each[0] == b"transfer-encoding"]
        head = h11.Request(method=self._scope["method"], target=_target(self._scope), headers=headers + framing)
        try:
            async with self._limit:
                await self._application.send(head)
                await until_one_ends(self._answer(), self._upload(), permission.watch())
        except AdapterError as error:
            await self._end(page(HTTPStatus.UNAUTHORIZED, "This session has ended."), error)
        except (_NotHTTP, OSError, h11.LocalProtocolError) as error:
            if self._limit.expired():
                await self._end(page(HTTPStatus.GATEWAY_TIMEOUT, _late(QUIET_SECONDS)), error)
            else:
                await self._end(page(HTTPStatus.BAD_GATEWAY, _broken(error)), error)

    async def _answer(self) -> None:
        head = await self._application.answer()
        if isinstance(head, h11.InformationalResponse):
            raise _NotHTTP("it switches to another protocol without a request")
        headers = to_browser(head.headers)
        await self._give({"type": "http.response.start", "status": head.status_code, "headers": headers})
        async for piece in self._application.body():
            await self._give({"type": "http.response.body", "body": piece, "more_body": True})
        await self._give({"type": "http.response.body", "body": b""})

    async def _give(self, message: Message) -> None:
        self._begun = True
        self._seen()
        await self._send(message)
        self._seen()

    async def _upload(self) -> None:
        """Send the body, and wait until the client disconnects. Drop what the application does not take."""
        more = takes = True
        while (message := await self._receive())["type"] != "http.disconnect":
            if not more:
                continue
            more = message.get("more_body", False)
            self._seen()
            try:
                if takes and (data := message.get("body", b"")):
                    await self._application.send(h11.Data(data))
                if takes and not more:
                    await self._application.send(h11.EndOfMessage())
            except (OSError, h11.LocalProtocolError):
                takes = False  # it may have answered nevertheless
            self._seen()

    def _seen(self) -> None:
        self._limit.reschedule(asyncio.get_running_loop().time() + QUIET_SECONDS)

    async def _end(self, answer: HTMLResponse, error: Exception) -> None:
        """End with a page. An answer that has begun is cut, so that the browser sees that it is incomplete."""
        _log.info("an application's answer was not forwarded: %s: %s", type(error).__name__, error)
        if not self._begun:
            await answer(self._scope, self._receive, self._send)


async def _forward_socket(
    scope: Scope,
    receive: Receive,
    send: Send,
    application: _Application,
    headers: Pairs,
    permission: Permission,
    ping: float,
) -> None:
    browser = WebSocket(scope, receive, send)
    switch = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    answers: list[h11.Response | h11.InformationalResponse] = []

    async def ask() -> None:
        async with asyncio.timeout(STALL_SECONDS):
            await application.send(h11.Request(method="GET", target=_target(scope), headers=headers + switch))
            await application.send(h11.EndOfMessage())
            answers.append(await application.answer())

    async def gone() -> None:
        while (await receive())["type"] != "websocket.disconnect":
            pass

    try:
        await until_one_ends(ask(), gone())
    except TimeoutError:
        await browser.send_denial_response(page(HTTPStatus.GATEWAY_TIMEOUT, _late(STALL_SECONDS)))
        return
    except (_NotHTTP, OSError, h11.LocalProtocolError) as error:
        await browser.send_denial_response(page(HTTPStatus.BAD_GATEWAY, _broken(error)))
        return
    for answer in answers:
        if isinstance(answer, h11.InformationalResponse):
            streams = take_over(scope, [*switch, *to_browser(answer.headers)])
            await _Socket(streams, application, ping).carry(permission)
            return
        said = answer.status_code
        text = f"The job's application refused the WebSocket with the status {said}."
        known = said in {each.value for each in HTTPStatus} and said >= HTTPStatus.BAD_REQUEST
        await browser.send_denial_response(page(HTTPStatus(said) if known else HTTPStatus.BAD_GATEWAY, text))


class _Socket:
    """A WebSocket between a browser and an application, as bytes."""

    def __init__(self, browser: Streams, application: _Application, ping: float) -> None:
        self._ping = ping
        self._reader, self._writer = browser
        self._application = application
        self._frames = Boundaries()
        self._unanswered = 0
        """Pings since the last bytes of the browser."""

    async def carry(self, permission: Permission) -> None:
        """Forward bytes in both directions until one side ends, or the permission is withdrawn."""
        try:
            await until_one_ends(self._up(), self._down(), self._keep(), permission.watch())
        except AdapterError:
            self._say(close_frame(_POLICY, "this session has ended"))
        except OSError as error:
            _log.info("a WebSocket to an application broke: %s", error)
        self._writer.close()

    async def _up(self) -> None:
        while data := await self._reader.read(PIECE):
            self._unanswered = 0
            await self._application.connection.write(data)

    async def _down(self) -> None:
        data = self._application.switched
        while data or (data := await self._application.connection.read()):
            self._frames.feed(data)
            self._writer.write(data)
            data = b""
            await self._writer.drain()

    async def _keep(self) -> None:
        """Ping the browser, so that no proxy closes a silent WebSocket; close a dead one."""
        while self._unanswered < PINGS:
            await asyncio.sleep(self._ping)
            # A large frame takes minutes on a slow line, in which the browser cannot answer a ping.
            if self._frames.between or self._frames.closing:
                self._unanswered += 1
                self._say(ping_frame())

    def _say(self, frame: bytes) -> None:
        if self._frames.between:
            self._writer.write(frame)


async def forward_bytes(browser: WebSocket, connection: Connection, permission: Permission) -> None:
    """Forward the bytes of a WebSocket, without a protocol in between, as long as it is permitted."""
    # Clients that name subprotocols, as VNC clients in browsers do, require one of them.
    await browser.accept("binary" if "binary" in browser.scope["subprotocols"] else None)
    await until_one_ends(_write(browser, connection), _read(connection, browser), _until_over(browser, permission))


async def _until_over(browser: WebSocket, permission: Permission) -> None:
    """Close the WebSocket once its session has ended."""
    try:
        await permission.watch()
    except AdapterError:
        with suppress(RuntimeError):
            await browser.close(_POLICY, "this session has ended")


async def _write(browser: WebSocket, connection: Connection) -> None:
    with suppress(OSError):
        while (message := await browser.receive())["type"] != "websocket.disconnect":
            await connection.write(message.get("bytes") or b"")


async def _read(connection: Connection, browser: WebSocket) -> None:
    with suppress(OSError, RuntimeError):  # the server raises the latter if the browser has disconnected
        while data := await connection.read():
            await browser.send_bytes(data)
        await browser.close()


def _late(seconds: float) -> str:
    return f"The job's application has not answered for {seconds:.0f} seconds."


def _broken(error: Exception) -> str:
    said = str(error) if isinstance(error, _NotHTTP) else "it closed the connection"
    return f"The job's application failed: {said}."


def _target(scope: Scope) -> bytes:
    """Return path and query as the browser sent them."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope["query_string"]
    return raw.partition(b"?")[0] + (b"?" + query if query else b"")

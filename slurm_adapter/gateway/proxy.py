"""Hands requests and WebSockets on to one port of a compute node, and back what comes from there.

Nothing is gathered: what one side sends, the other is given. No connection is kept for another request, since another
job may have the port by then.
"""

from __future__ import annotations

import asyncio
import html
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from slurm_adapter.errors import AdapterError
from slurm_adapter.gateway.lasting import until_one_ends, while_allowed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable

    from starlette.types import Message, Receive, Scope, Send

CONNECT_SECONDS = 10.0
"""How long a node may take to answer at all. What an application takes for its answer is its own business."""

MESSAGE_LIMIT = 64 * 1024 * 1024
"""Bytes of one message of a WebSocket that comes from an application."""

_HOP_BY_HOP = {
    b"connection", b"expect", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection",
    b"te", b"trailer", b"transfer-encoding", b"upgrade",
}  # fmt: skip
"""What is about one connection only (RFC 9110, section 7.6.1)."""

_FORWARDED = {b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto"}
"""What this gateway says itself; see `slurm_adapter.gateway.server` for whom it believes."""

_PIECE = 64 * 1024
"""The most bytes of one message to a VNC client."""

_POLICY = 1008
"""Why a socket is closed whose session is over (RFC 6455, section 7.4.1)."""

_NO_STATUS, _ABNORMAL, _NO_TLS = 1005, 1006, 1015
"""Codes that are never sent (RFC 6455, section 7.4.1)."""

_log = logging.getLogger(__name__)

Pairs = list[tuple[bytes, bytes]]
Check = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Way:
    """How a port of a node is reached."""

    host: str
    """The node's address."""
    port: int
    socket: str | None = None
    """A Unix socket of this machine that leads there; None: directly."""


def page(status: HTTPStatus, text: str, *, again: int | None = None) -> HTMLResponse:
    """A short page for a person; `again`: the browser is to try again after so many seconds."""
    title = html.escape(f"{status.value} {status.phrase}")
    refresh = "" if again is None else f'<meta http-equiv="refresh" content="{again}">'
    content = (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">{refresh}<title>{title}</title></head>'
        f"<body><h1>{title}</h1><p>{html.escape(text)}</p></body></html>\n"
    )
    return HTMLResponse(content, status, {"Cache-Control": "no-store"})


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
    way: Way,
    check: Check,
    *,
    scheme: str,
    without: Collection[str] = (),
) -> None:
    """Have a request or a WebSocket answered there, as long as `check` raises nothing.

    `scheme` is that of the browser's address bar; `without`: names of cookies, or beginnings of such, that only the
    gateway sees.
    """
    headers = _headers_in(scope, scheme, without)
    if scope["type"] == "websocket":
        await _forward_socket(scope, receive, send, way, headers, check)
    else:
        await _forward_request(scope, receive, send, way, headers, check)


def silent(way: Way) -> HTMLResponse:
    """What is said where nothing listens."""
    text = (
        f"The job's application does not listen on port {way.port} of its node yet, or no longer. "
        "This page tries again every few seconds; the job's log may say more."
    )
    return page(HTTPStatus.BAD_GATEWAY, text, again=3)


def _broken(error: Exception) -> HTMLResponse:
    return page(HTTPStatus.BAD_GATEWAY, f"The job's application broke off: {type(error).__name__}.")


async def _forward_request(scope: Scope, receive: Receive, send: Send, way: Way, headers: Pairs, check: Check) -> None:
    uploaded = asyncio.Event()
    given = Headers(scope=scope)
    has_body = given.get("content-length", "0") != "0" or "transfer-encoding" in given

    async def body() -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise httpx.ReadError("the client has gone")
            more = message.get("more_body", False)
            yield message.get("body", b"")
        uploaded.set()

    if not has_body:
        uploaded.set()
    request = httpx.Request(
        scope["method"],
        httpx.URL(scheme="http", host=way.host, port=way.port),
        headers=headers,
        content=body() if has_body else None,
        extensions={
            "target": _target(scope),
            "timeout": {"connect": CONNECT_SECONDS, "read": None, "write": None, "pool": None},
        },
    )

    async def gone() -> None:
        await uploaded.wait()
        while (await receive())["type"] != "http.disconnect":
            pass

    begun = asyncio.Event()

    async def give(message: Message) -> None:
        begun.set()
        await send(message)

    try:
        await until_one_ends(_answer(request, scope, receive, give, way), gone(), while_allowed(check))
    except AdapterError as error:
        # An answer that has begun has no end then, as where an application breaks off.
        _log.info("an answer of an application was cut: %s", error)
        if not begun.is_set():
            await refuse(scope, receive, send, page(HTTPStatus.UNAUTHORIZED, "This session is over."))


async def _answer(request: httpx.Request, scope: Scope, receive: Receive, send: Send, way: Way) -> None:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncHTTPTransport(limits=limits, trust_env=False, uds=way.socket) as transport:
        try:
            response = await transport.handle_async_request(request)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            await refuse(scope, receive, send, silent(way))
            return
        except httpx.TransportError as error:
            await refuse(scope, receive, send, _broken(error))
            return
        try:
            # The server of the gateway dates its answers itself.
            headers = _without_hops(response.headers.raw, {b"date"})
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            async for chunk in response.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except httpx.TransportError as error:
            # The answer has no end then, which is how the browser learns that it is not whole.
            _log.info("an application broke off in its answer: %s", error)
        finally:
            await response.aclose()


async def _forward_socket(scope: Scope, receive: Receive, send: Send, way: Way, headers: Pairs, check: Check) -> None:
    browser = WebSocket(scope, receive, send)
    host = Headers(scope=scope).get("host", way.host)
    target = _target(scope).decode("ascii", "replace")
    own = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in headers
        if name != b"host" and not name.startswith(b"sec-websocket-")
    ]
    options: dict[str, Any] = {
        "additional_headers": own,
        "subprotocols": [Subprotocol(each) for each in scope["subprotocols"]] or None,
        "compression": None,
        "max_size": MESSAGE_LIMIT,
        "open_timeout": CONNECT_SECONDS,
        "ping_interval": None,
        "user_agent_header": None,
        "proxy": None,
    }
    url = f"ws://{host}{target}"
    try:
        if way.socket is None:
            application = await connect(url, host=way.host, port=way.port, **options)
        else:
            application = await unix_connect(way.socket, url, **options)
    except InvalidStatus as error:
        said = error.response.status_code
        text = f"The job's application takes no WebSocket there: it answered with the status {said}."
        known = said in {each.value for each in HTTPStatus} and said >= HTTPStatus.BAD_REQUEST
        await browser.send_denial_response(page(HTTPStatus(said) if known else HTTPStatus.BAD_GATEWAY, text))
        return
    except (WebSocketException, ValueError) as error:  # the latter for a redirection to somewhere else
        await browser.send_denial_response(_broken(error))
        return
    except (OSError, TimeoutError):
        await browser.send_denial_response(silent(way))
        return
    async with application:
        await browser.accept(application.subprotocol, _cookies_set(application))
        await until_one_ends(
            _to_application(browser, application), _to_browser(application, browser), _until_over(browser, check)
        )


async def forward_bytes(browser: WebSocket, way: Way, check: Check) -> None:
    """Have a WebSocket's bytes read by what listens there, and its bytes sent back, without any protocol between.

    As long as `check` raises nothing.
    """
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            if way.socket is None:
                reader, writer = await asyncio.open_connection(way.host, way.port)
            else:
                reader, writer = await asyncio.open_unix_connection(way.socket)
    except (OSError, TimeoutError):
        await browser.send_denial_response(silent(way))
        return
    try:
        # Clients that say which subprotocols they speak, as VNC clients in browsers do, need one of them.
        await browser.accept("binary" if "binary" in browser.scope["subprotocols"] else None)
        await until_one_ends(_write(browser, writer), _read(reader, browser), _until_over(browser, check))
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _until_over(browser: WebSocket, check: Check) -> None:
    """Close the socket once whoever has it may not have it any more."""
    try:
        await while_allowed(check)
    except AdapterError:
        with suppress(RuntimeError):
            await browser.close(_POLICY, "this session is over")


async def _write(browser: WebSocket, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while (message := await browser.receive())["type"] != "websocket.disconnect":
            writer.write(message.get("bytes") or b"")
            await writer.drain()


async def _read(reader: asyncio.StreamReader, browser: WebSocket) -> None:
    with suppress(OSError, RuntimeError):  # the latter, says the server, where the browser has gone
        while data := await reader.read(_PIECE):
            await browser.send_bytes(data)
        await browser.close()


def _cookies_set(application: ClientConnection) -> Pairs:
    response = application.response
    values = () if response is None else response.headers.get_all("Set-Cookie")
    return [(b"set-cookie", value.encode("latin-1")) for value in values]


async def _to_application(browser: WebSocket, application: ClientConnection) -> None:
    with suppress(ConnectionClosed):
        while (message := await browser.receive())["type"] != "websocket.disconnect":
            text = message.get("text")
            await application.send(message["bytes"] if text is None else text)
        await application.close(_sendable(message.get("code")), message.get("reason") or "")


async def _to_browser(application: ClientConnection, browser: WebSocket) -> None:
    try:
        async for message in application:
            if isinstance(message, str):
                await browser.send_text(message)
            else:
                await browser.send_bytes(message)
    except ConnectionClosed:
        pass  # the code tells how
    except RuntimeError:
        return  # so says the server where the browser has gone
    with suppress(RuntimeError):
        await browser.close(_sendable(application.close_code), application.close_reason or None)


def _sendable(code: int | None) -> int:
    """The code of an end, for the other side; a connection that broke off is an error of the one between them."""
    if code is None or code == _NO_STATUS:
        return 1000
    return 1011 if code in {_ABNORMAL, _NO_TLS} else code


def _target(scope: Scope) -> bytes:
    """Path and query as the browser sent them."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope["query_string"]
    return raw.partition(b"?")[0] + (b"?" + query if query else b"")


def _headers_in(scope: Scope, scheme: str, without: Collection[str]) -> Pairs:
    headers = _without_hops(scope["headers"], _FORWARDED)
    found: Pairs = []
    for name, value in headers:
        if name == b"cookie":
            kept = _without_cookies(value, without)
            if kept:
                found.append((name, kept))
            continue
        found.append((name, value))
    client = scope.get("client")
    if client is not None:
        found.append((b"x-forwarded-for", client[0].encode()))
    found.append((b"x-forwarded-host", Headers(scope=scope).get("host", "").encode("latin-1")))
    found.append((b"x-forwarded-proto", scheme.encode()))
    return found


def _without_hops(headers: Iterable[tuple[bytes, bytes]], others: set[bytes]) -> Pairs:
    pairs = [(name.lower(), value) for name, value in headers]
    named = {each.strip().lower() for name, value in pairs if name == b"connection" for each in value.split(b",")} - {
        b"host",
        b"content-length",
    }
    return [(name, value) for name, value in pairs if name not in _HOP_BY_HOP | named | others]


def _without_cookies(value: bytes, without: Collection[str]) -> bytes:
    prefixes = tuple(each.encode() for each in without)
    pairs = [each.strip() for each in value.split(b";")]
    return b"; ".join(each for each in pairs if each and not each.startswith(prefixes))

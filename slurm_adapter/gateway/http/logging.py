"""The log of `serve`: one JSON object a line on stderr, with the id of the request.

Bodies, queries and headers are never logged, because they contain tokens, sessions and data of users.
"""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import time
from contextvars import ContextVar
from http import HTTPStatus
from typing import TYPE_CHECKING

from pythonjsonlogger.json import JsonFormatter
from starlette.datastructures import Headers, MutableHeaders

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

_request: ContextVar[str | None] = ContextVar("request", default=None)

_PROCESS, _numbers = f"{secrets.token_hex(6)}-", itertools.count(1)
"""The parts of request ids. They are made without a random number for each, which the event loop would wait for."""

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def _add_request(record: logging.LogRecord) -> bool:
    record.request = _request.get()
    return True


def _is_no_refusal(record: logging.LogRecord) -> bool:
    """Drop a message of the server, which reports each refused WebSocket as an error. `RequestLog` logs it."""
    return record.getMessage() != "ASGI callable returned without completing handshake."


def log_to_stderr() -> None:
    """Log everything of this process to stderr."""
    handler = logging.StreamHandler()
    handler.addFilter(_add_request)
    handler.setFormatter(
        JsonFormatter(
            "{asctime}{levelname}{name}{message}{request}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # The server's own lines would contain queries of WebSockets, with sessions and tokens of applications.
    for noisy in ("httpx", "httpcore", "paramiko", "uvicorn", "uvicorn.error", "websockets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_no_refusal)


class RequestLog:
    """Gives every request an id (that of the client's `X-Request-Id`, if present), and logs its result.

    A WebSocket is logged when it ends, with status 101 if it was opened.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        id_ = given if _ID.fullmatch(given) else f"{_PROCESS}{next(_numbers):x}"
        _request.set(id_)
        began = time.monotonic()
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] in {"http.response.start", "websocket.http.response.start", "websocket.accept"}:
                status = message.get("status", HTTPStatus.SWITCHING_PROTOCOLS)
                MutableHeaders(scope=message)["X-Request-Id"] = id_
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            took = round((time.monotonic() - began) * 1000)
            method = scope.get("method", "WebSocket")
            fields = {"method": method, "path": scope["path"], "status": int(status), "milliseconds": took}
            log.info("%s %s: %s", method, scope["path"], int(status), extra=fields)

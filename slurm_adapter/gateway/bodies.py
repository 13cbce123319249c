"""What is the same for every request and its body, before anybody reads it."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import HTTPException
from fastapi.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_COMPRESSED = "bodies are not decompressed here: send it as it is, without Content-Encoding"
_TOO_LARGE = "the request is larger than this gateway takes: {limit} bytes (gateway.body_limit)"


class Bodies:
    """Takes every body for JSON, and none that is larger than `limit` bytes; answers HEAD as GET, without the body.

    UCloud's newer core sends no Content-Type, and its documented examples send a malformed one (contract 1.1).
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
        length = dict(headers).get(b"content-length", b"")
        why = _TOO_LARGE.format(limit=self._limit)
        if length.isdigit() and int(length) > self._limit:
            await _refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, why)(scope, receive, send)
            return
        if dict(headers).get(b"content-encoding", b"identity").lower() != b"identity":
            await _refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, _COMPRESSED)(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, why)
            return message

        # The server itself leaves the body of an answer to HEAD out.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        headers.append((b"content-type", b"application/json"))
        await self._app({**scope, "method": method, "headers": headers}, counted, send)


def _refuse(status: HTTPStatus, why: str) -> JSONResponse:
    return JSONResponse({"why": why, "errorCode": None}, status)

"""Limits of request bodies, before anything reads them."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import HTTPException
from fastapi.responses import JSONResponse

from slurm_adapter.cluster.transports.interface import MEBIBYTE
from slurm_adapter.gateway.http.error_responses import is_uclouds
from slurm_adapter.gateway.shares import TooMany

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

USERS_LIMIT = MEBIBYTE
"""Largest body of the user API in bytes. A thousand jobs have about half of it."""

AT_ONCE = 3
"""Number of the largest bodies that are held at once, of both APIs together."""

_COMPRESSED = "compressed bodies are not supported: send the body without Content-Encoding"


class BodyLimitMiddleware:
    """Reads every body as JSON, refuses large bodies, and answers HEAD like GET, without a body.

    UCloud's newer core sends no Content-Type, and its documented examples send a malformed one.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """Make it. `limit` is the size in bytes of the largest body of UCloud."""
        self._app = app
        self._limit = limit
        self._held = 0
        """Bytes of all bodies of requests under way."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
        length = dict(headers).get(b"content-length", b"")
        limit, key = (self._limit, "gateway.body_limit") if is_uclouds(scope["path"]) else (USERS_LIMIT, "user API")
        why = f"the request is larger than the limit of {limit} bytes ({key})"
        if length.isdigit() and (len(length) > 18 or int(length) > limit):
            await _refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, why)(scope, receive, send)
            return
        if dict(headers).get(b"content-encoding", b"identity").lower() != b"identity":
            await _refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, _COMPRESSED)(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            size = len(message.get("body", b""))
            read += size
            self._held += size
            if read > limit:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, why)
            if self._held > AT_ONCE * self._limit:
                raise TooMany(f"the gateway already reads {self._held} bytes of requests: try again")
            return message

        # The server itself leaves the body of an answer to HEAD out.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        headers.append((b"content-type", b"application/json"))
        try:
            await self._app({**scope, "method": method, "headers": headers}, counted, send)
        finally:
            self._held -= read


def _refuse(status: HTTPStatus, why: str) -> JSONResponse:
    return JSONResponse({"why": why, "errorCode": None}, status)

"""Access to the API documentation and the metrics, for all users with an access token.

Browsers ask for a name and a password: the password is the access token (RFC 7617). Prometheus sends a bearer token.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers

from slurm_adapter.core.errors import AdapterError, NotAuthenticated
from slurm_adapter.gateway import authentication
from slurm_adapter.gateway.http.error_responses import body_of, status_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.gateway.thread_pools import ThreadPools

GUARDED = ("/docs", "/redoc", "/openapi.json", "/static-offline-docs", "/metrics")
"""Beginnings of these paths."""


class DocsAuthMiddleware:
    """Refuses these paths without an access token."""

    def __init__(self, app: ASGIApp, pools: ThreadPools) -> None:
        self._app = app
        self._pools = pools

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see ASGI."""
        if scope["type"] == "http" and scope["path"].startswith(GUARDED):
            header = Headers(scope=scope).get("authorization")
            try:
                await self._pools.database.run(_authenticate, as_bearer(header))
            except AdapterError as error:
                if not isinstance(error, NotAuthenticated):
                    refusal = JSONResponse(body_of(error).model_dump(by_alias=True), status_of(error))
                    await refusal(scope, receive, send)
                    return
                headers = {"WWW-Authenticate": 'Basic realm="slurm-adapter: the password is an access token"'}
                refusal = JSONResponse({"why": str(error), "errorCode": None}, 401, headers)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def as_bearer(header: str | None) -> str | None:
    """Return the header; if a browser sends a password, as a bearer token."""
    scheme, _, rest = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return header
    try:
        _, _, password = base64.b64decode(rest, validate=True).decode().partition(":")
    except ValueError:  # no base64, or not of UTF-8
        return header
    return f"Bearer {password}"


def _authenticate(adapter: Adapter, header: str | None) -> None:
    authentication.person(adapter.store, header, adapter.clock())

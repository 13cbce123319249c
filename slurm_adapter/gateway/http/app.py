"""The ASGI application: both APIs, and their error responses.

An invalid request is answered with 4xx and a reason, and with 503 if a retry helps. The body of every error is
`{"why", "errorCode"}`, which both generations of UCloud's core read. UCloud gets 502 instead of 503: it reads 503 as
"the user is not connected", calls `init`, and retries five times before it reports the error to its user.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import Depends, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException as AnyHTTPException

from slurm_adapter import __version__
from slurm_adapter.cluster.transports.interface import MEBIBYTE
from slurm_adapter.core.errors import AdapterError, NotFound
from slurm_adapter.gateway.api import provider, schemas, users
from slurm_adapter.gateway.background_sync import deliver_forever, sync_forever
from slurm_adapter.gateway.gateway import Gateway
from slurm_adapter.gateway.http import health
from slurm_adapter.gateway.http.body_limit import BodyLimitMiddleware
from slurm_adapter.gateway.http.docs_auth import DocsAuthMiddleware
from slurm_adapter.gateway.http.error_responses import body_of, headers_of, status_of
from slurm_adapter.gateway.http.logging import RequestLog
from slurm_adapter.gateway.http.strict_route import error_text
from slurm_adapter.gateway.sessions import applications, shell
from slurm_adapter.gateway.streams import log_websockets
from slurm_adapter.gateway.streams.streams import refuse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.gateway.limits import Limits

log = logging.getLogger(__name__)

_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": schemas.Error} for code in (400, 401, 403, 404, 409, 413, 415)
}
_ERRORS_FOR_UCLOUD = _ERRORS | {502: {"model": schemas.Error}}
_ERRORS_FOR_USERS = _ERRORS | {503: {"model": schemas.Error}}

# They only document that a token is needed; `authentication` and `ucloud.key` check it.
_UCLOUDS_TOKEN = HTTPBearer(scheme_name="ucloud", description="A token that UCloud signs.", auto_error=False)
_USERS_TOKEN = HTTPBearer(scheme_name="user", description="An access token of `slurm-adapter token`.", auto_error=False)


def make_app(adapter: Adapter, limits: Limits | None = None) -> FastAPI:
    """Return the application, which closes the adapter at its end. Raise `InvalidConfig` if a key cannot be read."""
    gateway = Gateway(adapter, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loops = [asyncio.create_task(sync_forever(gateway)), asyncio.create_task(gateway.controller.watch())]
        if adapter.config.ucloud is not None:
            loops.append(asyncio.create_task(deliver_forever(gateway)))
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await gateway.close()

    app = FastAPIOffline(
        title="Slurm adapter for UCloud",
        version=__version__,
        lifespan=lifespan,
        strict_content_type=False,
        redirect_slashes=False,  # behind a reverse proxy the redirect would lead elsewhere
    )
    app.state.gateway = gateway
    if adapter.config.ucloud is not None:
        app.include_router(
            provider.api,
            prefix=f"/ucloud/{adapter.config.provider}",
            dependencies=[Depends(_UCLOUDS_TOKEN)],
            responses=_ERRORS_FOR_UCLOUD,
        )
        app.include_router(log_websockets.provider)
        app.include_router(
            shell.for_ucloud,
            prefix=f"/ucloud/{adapter.config.provider}",
            dependencies=[Depends(_UCLOUDS_TOKEN)],
            responses=_ERRORS_FOR_UCLOUD,
        )
    if adapter.config.gateway.stand_alone:
        app.include_router(users.api, dependencies=[Depends(_USERS_TOKEN)], responses=_ERRORS_FOR_USERS)
        app.include_router(log_websockets.users)
        app.include_router(shell.for_users, dependencies=[Depends(_USERS_TOKEN)], responses=_ERRORS_FOR_USERS)
    app.include_router(shell.for_browsers)
    app.include_router(health.api)
    app.add_middleware(DocsAuthMiddleware, pools=gateway.pools)
    app.add_middleware(BodyLimitMiddleware, limit=adapter.config.gateway.body_limit * MEBIBYTE)
    app.add_middleware(RequestLog)
    if gateway.web.domains is not None:
        app.include_router(applications.sockets, prefix=f"/ucloud/{adapter.config.provider}")
        # Outermost: requests to applications pass nothing else.
        app.add_middleware(applications.Applications, web=gateway.web)
    app.add_api_websocket_route("/{path:path}", _find_nothing)
    _answer_errors(app)
    _document_no_422(app)
    return app


async def _find_nothing(websocket: WebSocket) -> None:
    await refuse(websocket, NotFound(f"there is no WebSocket at {websocket.url.path}"))


def _document_no_422(app: FastAPI) -> None:
    """Remove FastAPI's own 422 from the document: invalid input is answered with 400 here."""
    make = app.openapi

    def document() -> dict[str, Any]:
        made = make()
        for operations in made["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            made.get("components", {}).get("schemas", {}).pop(name, None)
        return made

    app.openapi = document  # type: ignore[method-assign]  # as FastAPI's own documentation does


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(AdapterError)
    async def _(request: Request, error: AdapterError) -> JSONResponse:
        status, body = status_of(error, request.url.path), body_of(error)
        return JSONResponse(body.model_dump(by_alias=True), status, headers_of(error))

    @app.exception_handler(RequestValidationError)
    async def _(_: Request, error: RequestValidationError) -> JSONResponse:
        # The location of a missing body is the body itself, so it is left out.
        problems = [{**each, "loc": () if each["loc"] == ("body",) else each["loc"]} for each in error.errors()]
        return _error(HTTPStatus.BAD_REQUEST, error_text(problems))

    @app.exception_handler(AnyHTTPException)
    async def _(request: Request, error: AnyHTTPException) -> JSONResponse:
        why = error.detail
        missing = error.status_code in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
        if missing and request.url.path.startswith("/ucloud/"):
            gateway: Gateway = request.app.state.gateway
            body = body_of(provider.not_offered_at(request.url.path, gateway.config.provider)).model_dump(by_alias=True)
            return JSONResponse(body, error.status_code, error.headers)
        if error.status_code == HTTPStatus.NOT_FOUND:
            why = f"{request.method} {request.url.path} does not exist"
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            why = f"{request.url.path} does not support {request.method}, only {(error.headers or {})['Allow']}"
        return _error(error.status_code, why, headers=error.headers)

    @app.exception_handler(Exception)
    async def _(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _error(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal server error")


def _error(status: int, why: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"why": why, "errorCode": None}, status, headers)

"""Routes whose bodies are read as strictly as the command line reads them, whatever type they say they are of."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException, Request
from fastapi.routing import APIRoute

from slurm_adapter.errors import InvalidInput
from slurm_adapter.specification import decode_json

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fastapi import Response


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return decode_json(await self.body())
        except InvalidInput as error:
            raise HTTPException(HTTPStatus.BAD_REQUEST, str(error)) from error


class StrictRoute(APIRoute):
    """No key twice, finite numbers, UTF-8: see `slurm_adapter.specification.decode_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Hand over a request that reads so."""
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly

"""Routes that read no body of whoever may not ask, and read bodies as strictly as the command line does.

A body is decoded and checked in a thread: a large one takes seconds, in which others are answered.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import Depends, HTTPException, Request
from fastapi.routing import APIRoute

from slurm_adapter.errors import InvalidInput
from slurm_adapter.specification import decode_json, describe_all

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from fastapi import Response
    from fastapi._compat import ModelField

MOST_PROBLEMS = 100
"""Wrong fields that one answer tells of."""


class StrictRoute(APIRoute):
    """No key twice, finite numbers, UTF-8, whatever type it says it is of: see `specification.decode_json`."""

    async def admit(self, request: Request) -> None:
        """Raise what the answer is to be where whoever asks may not. Called before the body is read."""
        raise NotImplementedError

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Hand over a request that reads so."""
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            request.state.came = monotonic()
            await self.admit(request)
            return await handle(_StrictRequest(request, self.body_field))

        return strictly


class _StrictRequest(Request):
    def __init__(self, request: Request, field: ModelField | None) -> None:
        super().__init__(request.scope, request.receive)
        self._field = field

    async def json(self) -> Any:
        return await asyncio.to_thread(self._read, await self.body())

    def _read(self, body: bytes) -> Any:
        """The body as the route takes it; the framework checks it once more, which costs nothing then."""
        try:
            document = decode_json(body)
        except InvalidInput as error:
            raise HTTPException(HTTPStatus.BAD_REQUEST, str(error)) from error
        if self._field is None:
            return document
        value, problems = self._field.validate(document)
        if problems:
            raise HTTPException(HTTPStatus.BAD_REQUEST, describe(problems))
        return value


def describe(problems: Iterable[Mapping[str, Any]]) -> str:
    """One line for each wrong field, of as many as a reader may want to see."""
    lines = iter(describe_all(problems))
    told = list(islice(lines, MOST_PROBLEMS))
    return "\n".join([*told, "... and more"] if next(lines, None) is not None else told)


def _came(request: Request) -> float:
    return cast("float", request.state.came)


Came = Annotated[float, Depends(_came)]
"""When a request came, by `time.monotonic`: half a second of the five that UCloud waits is to read a thousand jobs."""

"""Routes that authenticate a request before they read its body, and read it as strictly as the command line does.

A body is decoded and checked in a thread: a large one takes seconds, while other requests are answered.
"""

from __future__ import annotations

from http import HTTPStatus
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import Depends, HTTPException, Request
from fastapi.routing import APIRoute

from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.problems import PROBLEMS_LIMIT, join_problems, list_problems
from slurm_adapter.core.specification import BULK_LIMIT, decode_json
from slurm_adapter.gateway.api.schemas import BulkRequest
from slurm_adapter.gateway.http.incoming import CALLER

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping
    from contextlib import AbstractContextManager

    from fastapi import Response
    from fastapi._compat import ModelField

    from slurm_adapter.gateway.gateway import Gateway


class StrictRoute(APIRoute):
    """A route that requires unique keys, finite numbers and UTF-8, and ignores the Content-Type."""

    async def admit(self, request: Request) -> AbstractContextManager[str]:
        """Return the caller, for the duration of the request. Called before the body is read.

        Raise the error that is the answer if the caller is not permitted.
        """
        raise NotImplementedError

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return a handler that authenticates first and reads strictly."""
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            request.state.came = monotonic()
            with await self.admit(request) as caller:
                setattr(request.state, CALLER, caller)
                return await handle(_StrictRequest(request, self.body_field))

        return strictly


class _StrictRequest(Request):
    def __init__(self, request: Request, field: ModelField | None) -> None:
        super().__init__(request.scope, request.receive)
        self._field = field

    async def json(self) -> Any:
        gateway: Gateway = self.app.state.gateway
        return await gateway.pools.read(getattr(self.state, CALLER), self._read, await self.body())

    def _read(self, body: bytes) -> Any:
        """Return the body as the route takes it. The framework checks it again, which costs nothing then."""
        try:
            document = decode_json(body)
        except InvalidInput as error:
            raise HTTPException(HTTPStatus.BAD_REQUEST, str(error)) from error
        if self._field is None:
            return document
        value, problems = _validate(self._field, document)
        if problems:
            raise HTTPException(HTTPStatus.BAD_REQUEST, error_text(problems))
        return value


def _validate(field: ModelField, document: Any) -> tuple[Any, list[Any]]:
    """Return the value and its problems. The items of a bulk are checked one by one, until there are enough problems.

    Checked at once they take gigabytes if each has many problems.
    """
    items = document.get("items") if isinstance(document, dict) else None
    whole = not (isinstance(items, list) and 1 < len(items) <= BULK_LIMIT and _is_bulk(field))
    if items is None or whole:
        return field.validate(document)
    found: list[Any] = []
    problems: list[Any] = []
    for number, item in enumerate(items):
        value, wrong = field.validate({"items": [item]})
        problems += [{**each, "loc": ("items", number, *each["loc"][2:])} for each in wrong[: PROBLEMS_LIMIT + 1]]
        if len(problems) > PROBLEMS_LIMIT:
            break
        if not wrong:
            found += value.items
    return None if problems else value.model_copy(update={"items": tuple(found)}), problems


def _is_bulk(field: ModelField) -> bool:
    kind = field.field_info.annotation
    return isinstance(kind, type) and issubclass(kind, BulkRequest)


def error_text(problems: Iterable[Mapping[str, Any]]) -> str:
    """Return one line for each invalid field, for a limited number of them."""
    return join_problems(list_problems(problems))


def _came(request: Request) -> float:
    return cast("float", request.state.came)


Came = Annotated[float, Depends(_came)]
"""The time of a request, by `time.monotonic`. To read a thousand jobs takes half a second, and UCloud waits five."""

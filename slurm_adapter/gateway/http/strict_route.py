"""Routes that read no body of whoever may not ask, and read bodies as strictly as the command line does.

A body is decoded and checked in a thread: a large one takes seconds, in which others are answered.
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
    """No key twice, finite numbers, UTF-8, whatever type it says it is of: see `specification.decode_json`."""

    async def admit(self, request: Request) -> AbstractContextManager[str]:
        """Return who is asking, as long as the request takes. Called before the body is read.

        Raise what the answer is to be if the caller may not ask.
        """
        raise NotImplementedError

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Hand over a request that reads so."""
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
        """The body as the route takes it; the framework checks it once more, which costs nothing then."""
        try:
            document = decode_json(body)
        except InvalidInput as error:
            raise HTTPException(HTTPStatus.BAD_REQUEST, str(error)) from error
        if self._field is None:
            return document
        value, problems = _validate(self._field, document)
        if problems:
            raise HTTPException(HTTPStatus.BAD_REQUEST, describe(problems))
        return value


def _validate(field: ModelField, document: Any) -> tuple[Any, list[Any]]:
    """Return the value, and what is wrong. The items of a bulk are checked one by one, until enough are wrong.

    All at once they take gigabytes if much is wrong with each.
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


def describe(problems: Iterable[Mapping[str, Any]]) -> str:
    """One line for each wrong field, of as many as a reader may want to see."""
    return join_problems(list_problems(problems))


def _came(request: Request) -> float:
    return cast("float", request.state.came)


Came = Annotated[float, Depends(_came)]
"""When a request came, by `time.monotonic`: half a second of the five that UCloud waits is to read a thousand jobs."""

"""Error messages about wrong values: one line per problem, with the field, its value and what is allowed."""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PROBLEMS_LIMIT = 100
"""Most problems in one message."""

_SHOWN = 60
"""Characters of a wrong value in a message."""

_SHORTER = {
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "tuple_type": "must be a list",
    "string_type": "must be a text",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
}
"""Messages that replace pydantic's, by pydantic's type of error."""


def for_message(value: object) -> str:
    """Return a value for a message: shortened, and without control characters, which a terminal would interpret."""
    text = value[: _SHOWN + 1] if isinstance(value, str) else _as_json(value)
    shortened = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    return repr(shortened) if isinstance(value, str) else repr(shortened)[1:-1]


def _as_json(value: object) -> str:
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return f"an integer of {value.bit_length()} bits"  # Python refuses to print very long integers
    text = ""
    for piece in json.JSONEncoder(default=str).iterencode(value):  # stops as soon as the text is long enough
        text += piece[: _SHOWN + 1]
        if len(text) > _SHOWN:
            break
    return text


def join_problems(problems: Iterable[str]) -> str:
    """Return a message of at most `PROBLEMS_LIMIT` lines."""
    lines = iter(problems)
    shortened = list(islice(lines, PROBLEMS_LIMIT))
    return "\n".join([*shortened, "... and more"] if next(lines, None) is not None else shortened)


def list_problems(
    error: ValidationError | Iterable[Mapping[str, Any]], prefix: tuple[str | int, ...] = ()
) -> Iterable[str]:
    """Yield one line per problem that pydantic found: the field, its value, and what is allowed.

    `prefix` is the path of the validated object.
    """
    for problem in error.errors(include_url=False) if isinstance(error, ValidationError) else error:
        path = field_path((*prefix, *(part for part in problem["loc"] if not str(part).startswith("<"))))
        if problem["type"] == "missing":
            yield f"{path}: is missing; it is required"
        else:
            yield f"{path}: {for_message(problem['input'])}: {_allowed(problem)}"


def _allowed(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "too_short" and problem["input"] == "":
        return "must not be empty"
    if problem["type"] == "too_long" and isinstance(problem["input"], str):
        return f"must have at most {problem['ctx']['max_length']} characters"
    message: str = problem["msg"]
    return _SHORTER.get(problem["type"]) or message.removeprefix("Value error, ").removeprefix("Input ")


def field_path(parts: Iterable[str | int]) -> str:
    """Return the path of a field as `items[1].resources[0].hostname`."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"\w+", part, re.ASCII):
            text += f".{part}" if text else part
        else:
            text += f"[{for_message(part)}]"
    return text or "the input"

"""Explain errors of a configuration file: file, line, key, what is allowed, and the fix."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticCustomError

from slurm_adapter.core.toml_lines import key_lines, line_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pydantic import ValidationError
    from pydantic.fields import FieldInfo

    from slurm_adapter.core.toml_lines import Key

_TYPES = {
    "bool_type": "must be true or false, without quotes",
    "dict_type": "must be a table",
    "int_type": "must be a whole number, without quotes",
    "model_type": "must be a table",
    "path_type": 'must be a path in quotes, such as "/etc/x"',
    "string_type": 'must be text in quotes, such as "x"',
    "tuple_type": 'must be a list, such as ["a", "b"]',
}
_LIMITS = {
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
}
_RENAMED = {
    "state": ("state_dir", "this key is now state_dir"),
    "shared": ("shared_dir", "this key is now shared_dir"),
    "cluster": (
        "clusters",
        "[cluster] and [cluster.ssh] are now [clusters.NAME] and [clusters.NAME.ssh]; choose a name, such as main",
    ),
}
"""Keys of the file that have new names: the new key, and the message."""


def wrong(text: str, *key: str | int) -> PydanticCustomError:
    """Return the error of a validator about a key in the table that it validates."""
    return PydanticCustomError("config", "{text}", {"text": text, "key": key})


def place(path: Path, line: int | None) -> str:
    """Return `FILE:LINE`, or the file alone if the line is not known."""
    return f"{path}:{line}" if line is not None else f"{path}"


def explain_syntax(path: Path, text: str, error: tomllib.TOMLDecodeError) -> str:
    """Return the message about a file that is not TOML, with tomllib's line."""
    found = re.search(r" \(at line (\d+), column (\d+)\)$", str(error))
    number = int(found[1]) if found else len(text.splitlines())
    reason = str(error)[: found.start()] if found else str(error).removesuffix(" (at end of document)")
    lines = text.splitlines()
    line = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    if reason.startswith(("Cannot overwrite", "Cannot declare", "Cannot mutate", "Duplicate inline table key")):
        what = "this table" if line.startswith("[") else "this key"
        fix = f"{what} stands in the file twice; keep one"
    elif reason == "Invalid value":
        fix = "a value is text in double quotes, a number, true, false, a list or a table"
    else:
        fix = "see https://toml.io for the format"
    return f"{place(path, number)}: not TOML: {reason}: {line[:80]!r}; {fix}"


def explain(path: Path, text: str, model: type[BaseModel], error: ValidationError) -> str:
    """Return one line for each problem."""
    lines, data = key_lines(text), tomllib.loads(text)
    return "\n".join(
        f"{place(path, line_of(lines, key))}: {problem}" for key, problem in _problems(model, data, error.errors())
    )


def _problems(
    model: type[BaseModel], data: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Key, str]]:
    renamed = {_RENAMED[name][0] for name in data if name in _RENAMED}
    for each in errors:
        key: Key = (*each["loc"], *each.get("ctx", {}).get("key", ()))
        kind, value = each["type"], _value(data, key)
        name = dotted(key) or "the file"
        if kind == "config":
            yield key, f"{name}: {each['ctx']['text']}"
        elif kind == "missing" and name in renamed:
            continue
        elif kind == "missing":
            yield key, f"{name}: is missing; it is required: {_allowed(model, key) or 'config.example.toml shows it'}"
        elif kind == "extra_forbidden" and name in _RENAMED:
            yield key, f"{name}: {_RENAMED[name][1]}"
        elif kind == "extra_forbidden":
            yield key, f"{name}: is not a key of the configuration; {_near(model, key)}"
        elif kind in _TYPES:
            yield key, f"{name} = {_as_written(value)}: {_TYPES[kind]}"
        elif kind in {"string_pattern_mismatch", "string_too_short", "too_short"}:
            yield (
                key,
                f"{name} = {_as_written(value)}: allowed is {_allowed(model, key) or 'a value that is not empty'}",
            )
        elif kind in _LIMITS:
            yield key, f"{name} = {_as_written(value)}: {_LIMITS[kind].format_map(each['ctx'])}"
        else:
            yield key, f"{name} = {_as_written(value)}: {each['msg'].removeprefix('Value error, ')}"


def dotted(key: Key) -> str:
    """Return a key for messages, such as `drives.0.path`."""
    return ".".join(map(str, key))


def split_key(text: str, lines: Mapping[Key, int]) -> Key | None:
    """Return the key at the begin of a message, if a colon or an equals sign follows it."""
    found: Key | None = None
    for key in lines:
        name = dotted(key)
        if text.startswith(name) and re.match(r"(\.[\w-]+)*(: | = )", text[len(name) :]):
            found = key if found is None or len(name) > len(dotted(found)) else found
    return found


def _value(data: Any, key: Key) -> Any:
    for part in key:
        try:
            data = data[part]
        except (LookupError, TypeError):
            return None
    return data


def _as_written(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _find(model: type[BaseModel], key: Sequence[str | int]) -> tuple[Any, FieldInfo | None]:
    """Return the type of a key, and its field. Elements of lists and free tables have no field."""
    kind: Any = model
    field: FieldInfo | None = None
    for part in key:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(part))
            kind = None if field is None else _plain(field.annotation)
        else:
            field, kind = None, _element(kind)
    return kind, field


def _plain(kind: Any) -> Any:
    """Return `X` for `X | None`."""
    return next(each for each in get_args(kind) if each is not NoneType) if isinstance(kind, UnionType) else kind


def _element(kind: Any) -> Any:
    arguments = [each for each in get_args(kind) if each is not Ellipsis]
    return _plain(arguments[-1]) if arguments else None


def _allowed(model: type[BaseModel], key: Key) -> str:
    _, field = _find(model, key)
    return (field.description or "") if field is not None else ""


_NAMES = {"clusters": ".NAME", "machines": ".CATEGORY.ID"}
"""Names that a site chooses, after the first part of a table's header."""


def _tables(kind: Any, header: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield every table of the configuration with its header."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield header, kind
        for name, field in kind.model_fields.items():
            inner = f"{header}.{name}" if header else name
            yield from _tables(_plain(field.annotation), inner + _NAMES.get(inner, ""))
    elif (element := _element(kind)) is not None:
        yield from _tables(element, header)


def _near(model: type[BaseModel], key: Key) -> str:
    """Return a hint about an unknown key."""
    name = str(key[-1])
    table, _ = _find(model, key[:-1])
    if close := difflib.get_close_matches(name, table.model_fields, 1):
        return f"did you mean {close[0]}?"
    if homes := [header for header, each in _tables(model) if name in each.model_fields]:
        return "it belongs " + " or ".join(f"in [{each}]" if each else "above the first table" for each in homes)
    return f"allowed here are {', '.join(table.model_fields)}"

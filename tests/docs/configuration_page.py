"""Make the page of the configuration: every key with type, default, meaning and example.

Meanings are the docstrings of the models and their fields. Examples come from `config.example.toml`.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel

from slurm_adapter.core.config import Config
from slurm_adapter.core.durations import duration
from slurm_adapter.core.states import JobState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo

INTRODUCTION = """\
# Configuration

<!-- Written from the models in core/config_tables.py: pytest --update-golden tests/docs/test_documents.py -->

One TOML file configures the adapter. It is the first of these that exists:

1. `--config FILE`
2. `$SLURM_ADAPTER_CONFIG`
3. `./config.toml`
4. `~/.config/slurm-adapter/config.toml`
5. `/etc/slurm-adapter/config.toml`

`slurm-adapter check` compares the configuration with the cluster, its accounts and UCloud, and names file, line, key
and fix. `slurm-adapter config example` prints a file that shows every key with its default.

Values are read strictly:

- Unknown keys are refused.
- `"4"` is not a number.
- A duration is `"HH:MM:SS"` or `"D-HH:MM:SS"`, such as `"02:00:00"` or `"1-12:00:00"`, and never a number.
- A path is absolute: `~` is not expanded.
- In double quotes a backslash is written twice: `"DOMAIN\\\\anne"`.

A key is required if its default is "required", and only if its table is used. An empty default means that the key is
not set.
"""

_TYPES = {
    str: "text",
    bool: "true or false",
    int: "integer",
    Path: "path",
    JobState: " or ".join(f'`"{each}"`' for each in JobState),
}
_DURATION = re.compile(r'"(\d+-)?\d\d:\d\d:\d\d"')

Examples = dict[str, dict[str, str]]
"""Values as the example shows them, by table and key."""


def render(example: str) -> str:
    """Return the page. `example` is the text of `config.example.toml`."""
    return "\n".join([INTRODUCTION, *_tables(Config, "", _examples(example))])


def _examples(text: str) -> Examples:
    found: Examples = {"": {}}
    table = ""
    for line in text.splitlines():
        if match := re.fullmatch(r"(?:# )?(\[.+\])", line):
            table = match[1]
            found[table] = {}
        elif match := re.fullmatch(r"(?:# )?(\w+) = (.+)", line):
            found[table][match[1]] = match[2]
    return found


def _tables(model: type[BaseModel], header: str, examples: Examples) -> Iterator[str]:
    """Yield the part of the page about a model, then those about the tables in it."""
    meanings, values = _meanings(model), _values_of(header, examples)
    rows, inner, free = [], [], []
    for name, field in model.model_fields.items():
        kind = _plain(field.annotation)
        below = f"{header[1:-1]}.{name}".lstrip(".")
        if (found := _table_type(kind)) is not None:
            shape = get_origin(kind)
            names = ".CATEGORY.ID" if name == "machines" else ".NAME" if shape is dict else ""
            inner.append((found, f"[[{below}]]" if shape is tuple else f"[{below}{names}]"))
        elif get_origin(kind) is dict and not header:
            free.append(_free_table(f"[{name}]", field, meanings[name], examples))
        else:
            rows.append(_row(name, field, meanings[name], values.get(name, "")))
    yield _part(header, inspect.cleandoc(model.__doc__ or ""), rows)
    for found, below in inner:
        yield from _tables(found, below, examples)
    yield from free


def _part(header: str, meaning: str, rows: list[tuple[str, ...]]) -> str:
    title = f"`{header}`" if header else "Keys above the first table"
    lines = ["", "| key | type | default | meaning | example |", "|---|---|---|---|---|"]
    return "\n".join([f"## {title}", "", meaning, *lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


def _free_table(header: str, field: FieldInfo, meaning: str, examples: Examples) -> str:
    """Return the part about a table with keys of the site's choice, as the example has them."""
    kind = _name(_plain(get_args(_plain(field.annotation))[1]))
    return _part(header, meaning, [(f"`{key}`", kind, "", "", f"`{value}`") for key, value in examples[header].items()])


def _values_of(header: str, examples: Examples) -> Mapping[str, str]:
    """Return the example of a table, whatever names stand for NAME, CATEGORY and ID there."""
    pattern = re.sub(r"\b(NAME|CATEGORY|ID)\b", r"[\\w-]+", re.escape(header))
    return next(values for table, values in examples.items() if re.fullmatch(pattern, table))


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring of each field, on one line."""
    found = {}
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    for field, after in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(after.value.value).split())
    return found


def _row(name: str, field: FieldInfo, meaning: str, example: str) -> tuple[str, ...]:
    shown = f"`{example}`" if example else ""
    return f"`{name}`", _type(field, example), _default(field, example), meaning, shown


def _type(field: FieldInfo, example: str) -> str:
    kind = _plain(field.annotation)
    if _DURATION.fullmatch(example):
        return "duration" + _bounds(field, duration)
    return _name(kind) + (_bounds(field, str) if kind is int else "")


def _name(kind: Any) -> str:
    if kind in _TYPES:
        return _TYPES[kind]
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(f'`"{each}"`' for each in arguments)
    if get_origin(kind) is tuple:
        return f"list of {_name(_plain(arguments[0]))}"
    assert get_origin(kind) is dict, kind
    return f"table of {_name(_plain(arguments[1]))}"


def _bounds(field: FieldInfo, show: Any) -> str:
    """Return the limits of a number that say more than that it is not negative."""
    least = next((each.ge for each in field.metadata if isinstance(each, Ge)), None)
    most = next((each.le for each in field.metadata if isinstance(each, Le)), None)
    if any(isinstance(each, Gt) for each in field.metadata):
        return ", more than 0"
    if most is not None:
        return f", {show(least)} to {show(most)}"
    return f", at least {show(least)}" if least else ""


def _default(field: FieldInfo, example: str) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ({}, ""):
        return ""
    if _DURATION.fullmatch(example):
        return f'`"{duration(value)}"`'
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{each}"' for each in value) + "]`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _plain(kind: Any) -> Any:
    """Return `X` for `X | None` and for `Annotated[X, ...]`."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return _plain(next(each for each in get_args(kind) if each is not NoneType))
    return kind


def _table_type(kind: Any) -> type[BaseModel] | None:
    """Return the model of a table, of a list of tables, or of tables by name."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    found = [_table_type(_plain(each)) for each in get_args(kind)]
    return next((each for each in found if each is not None), None)

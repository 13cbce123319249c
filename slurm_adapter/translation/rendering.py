"""Render Jinja templates of UCloud's applications in a sandbox that quotes every printed value for bash.

Jinja's sandbox gives templates no access to Python, but limits neither time nor memory. So untrusted templates are
rendered in a child process (`slurm_adapter.local.render_process`), and only the site's own in this process (`render`).
The child has limits on time and memory, and `slurm_adapter.local.confinement` takes everything else from it, so that a
template that escapes from the sandbox reaches nothing. The child's answer is not trusted either. The child imports this
module, so keep it light.

Rules for printing:

* A value is quoted for bash unless it is `safe`: text that is marked so, the output of a macro or of a `{% set %}`
  block (their values were quoted when they were printed), `srun()`, `option`, and load snippets.
* None prints nothing. It is the value of an optional parameter without a value.
* Lists, mappings and functions are refused. Join a list, or print its items.
* Values of `environment` and `sbatch` are text, not shell. They are quoted later, as a whole.

A template gives the same text every time: `random` and `lipsum` are removed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from slurm_adapter.core.bash import plain, quote
from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.interfaces import Interface, check_interfaces, declare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jinja2 import Template

OUTPUT_LIMIT = 1024 * 1024
"""Most characters of a rendered invocation. (sbatch accepts scripts of 4 MiB.)"""

CALLS = 1000
"""Most calls of `sbatch()` in one text. sbatch has about a hundred directives."""

TEMPLATE_NAMES = frozenset(("ucloud", "cfg", "sbatch", "srun", "script", "ternary", "dynamicInterface"))
"""Names with a meaning in templates. A parameter cannot have them."""

_REMOVED_FILTERS = ("forceescape", "random", "striptags", "urlize", "xmlattr")


@dataclass(frozen=True)
class Source:
    """Template with its name and line, for messages."""

    text: str
    name: str
    line: int = 1


@dataclass(frozen=True)
class Task:
    """Templates of one job."""

    variables: dict[str, Any]
    """Variables of the templates, as JSON."""
    safe: dict[str, str] = field(default_factory=dict)
    """More variables. Their values are shell text."""
    srun: str = "srun"
    """Shell text of `srun()`."""
    body: tuple[Source, ...] = ()
    """The invocation. Several templates are rendered one after the other."""
    environment: dict[str, Source] = field(default_factory=dict)
    sbatch: dict[str, Source] = field(default_factory=dict)


@dataclass(frozen=True)
class Rendered:
    """Result of a task."""

    body: str
    environment: dict[str, str]
    sbatch: dict[str, str]
    """Values of the application's map of directives."""
    calls: tuple[tuple[str, Any], ...]
    """Name and value of each call of `sbatch()`, in order."""
    interfaces: tuple[Interface, ...] = ()
    """Interfaces that `dynamicInterface()` declared, in order."""


class Safe(str):
    """Shell text, which is printed without quoting."""

    __slots__ = ()


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**"})

    def __init__(self, finalize: Callable[[object], str]) -> None:
        super().__init__(
            undefined=StrictUndefined,
            finalize=finalize,
            keep_trailing_newline=True,
            extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"],
        )
        for name in _REMOVED_FILTERS:
            del self.filters[name]
        del self.globals["lipsum"]
        self.filters |= {
            "e": _escape,
            "escape": _escape,
            "flag": _flag,
            "option": _option,
            "safe": lambda value: Safe(plain(value)),
            "tojson": lambda value: json.dumps(value, ensure_ascii=False),
        }
        self.tests |= {
            "escaped": lambda value: isinstance(value, Safe),
            "match": _match,
            "search": _search,
        }

    def call(self, context: Any, function: Any, /, *args: Any, **named: Any) -> Any:
        """Call a function, and mark the result of a macro as safe: the macro quoted its values."""
        result = super().call(context, function, *args, **named)
        return Safe(result) if isinstance(function, Macro) else result

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute an operator, and refuse operations that only use up memory."""
        sizes = [len(side) for side in (left, right) if isinstance(side, str | list | tuple)]
        counts = [side for side in (left, right) if isinstance(side, int)]
        if operator == "*" and sizes and counts and sizes[0] * counts[0] > OUTPUT_LIMIT:
            raise SecurityError(f"a repetition is longer than {OUTPUT_LIMIT}")
        if operator == "**" and abs(right) > 1000:
            raise SecurityError("a power is greater than 1000")
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
            raise TemplateSyntaxError("include, import and extends are not available", node.lineno)
        for block in tree.find_all(nodes.AssignBlock):
            block.filter = nodes.Filter(block.filter, "safe", [], [], None, None, lineno=block.lineno)
        return tree


def _printable(value: object) -> object:
    if isinstance(value, Undefined):
        str(value)  # raises an error with the name
    if value is not None and not isinstance(value, str | int | float):
        raise TemplateError(f"a value of type {type(value).__name__} cannot be printed; print its items")
    return value


def _print(value: object) -> str:
    text = plain(_printable(value))
    return text if value is None or isinstance(value, Safe) else quote(text)


def _print_plain(value: object) -> str:
    return plain(_printable(value))


def _escape(value: object) -> Safe:
    return value if isinstance(value, Safe) else Safe(quote(plain(_printable(value))))


def _flag(value: object, when_true: str, when_false: str = "") -> str:
    text = when_true if value else when_false
    return text or Safe("")


def _option(value: object, name: str, add_space: Any = None) -> Safe:
    if value is None:
        return Safe("")
    spaced = not name.endswith("=") if add_space is None else add_space
    text = plain(_printable(value))
    return Safe(f"{name} {quote(text)}" if spaced else quote(name + text))


def _flags(*, ignorecase: bool, multiline: bool) -> re.RegexFlag:
    return (re.IGNORECASE if ignorecase else re.NOFLAG) | (re.MULTILINE if multiline else re.NOFLAG)


def _match(value: str, pattern: str, *, ignorecase: bool = False, multiline: bool = False) -> bool:
    return re.search(f"^(?:{pattern})$", value, _flags(ignorecase=ignorecase, multiline=multiline)) is not None


def _search(value: str, pattern: str, *, ignorecase: bool = False, multiline: bool = False) -> bool:
    return re.search(pattern, value, _flags(ignorecase=ignorecase, multiline=multiline)) is not None


def render(task: Task) -> Rendered:
    """Render in this process. Raise `InvalidInput` that names the template, the line, and the problem."""
    found: list[tuple[str, Any]] = []
    interfaces: list[Interface] = []

    def sbatch(name: str, value: Any = "") -> Safe:
        if not isinstance(name, str):
            raise TemplateError(f"sbatch(): name: must be a text, but has the type {type(name).__name__}")
        _whole(name + plain(_printable(value)))
        if len(found) >= CALLS:
            raise TemplateError(f"sbatch(): more than {CALLS} calls")
        found.append((name, value))
        return Safe("")

    def dynamic_interface(rank: Any, kind: Any, target: Any, port: Any) -> Safe:
        new = declare(*map(_printable, (rank, kind, target, port)))
        interfaces[:] = check_interfaces((*interfaces, new))
        return Safe("")

    def absent(name: str) -> Callable[..., Safe]:
        def refuse(*_args: Any, **_named: Any) -> Safe:
            raise TemplateError(f"{name}() is not available here")

        return refuse

    variables = {
        **task.variables,
        **{name: Safe(text) for name, text in task.safe.items()},
        "sbatch": sbatch,
        "srun": lambda: Safe(task.srun),
        "ternary": lambda condition, when_true, when_false: when_true if condition else when_false,
        "script": absent("script"),
        "dynamicInterface": dynamic_interface,
    }
    directives = {name: _render_one(_print_plain, source, variables) for name, source in task.sbatch.items()}
    environment = {name: _render_one(_print_plain, source, variables) for name, source in task.environment.items()}
    found.clear()  # values cannot set directives or declare interfaces
    interfaces.clear()
    body = "\n".join(_render_one(_print, source, variables) for source in task.body)
    return Rendered(
        body=body, environment=environment, sbatch=directives, calls=tuple(found), interfaces=tuple(interfaces)
    )


@lru_cache(maxsize=256)
def _compile(printed: Callable[[object], Any], text: str) -> Template:
    """Compile a template, once for all jobs of an application: this takes most of the time of a translation."""
    return _Environment(printed).from_string(text)


def _render_one(printed: Callable[[object], Any], source: Source, variables: Mapping[str, Any]) -> str:
    try:
        return _whole("".join(_limited(_compile(printed, source.text).generate(variables))))
    except TemplateSyntaxError as error:
        raise _problem(source, error.lineno, error.message) from error
    except Exception as error:  # operators and filters in a template can raise any error
        raise _problem(source, _line_of(error), str(error) or type(error).__name__) from error


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TemplateError("gives half of a surrogate pair, which is not a character") from error
    return text


def _limited(chunks: Iterator[str]) -> Iterator[str]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > OUTPUT_LIMIT:
            raise TemplateError(f"gives more than {OUTPUT_LIMIT} characters")
        yield chunk


def _line_of(error: BaseException) -> int | None:
    """Return the line in the template. Jinja's frames have the file name `<template>`."""
    line, traceback = None, error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _problem(source: Source, line: int | None, message: str | None) -> InvalidInput:
    at_line = f", line {source.line + line - 1}" if line else ""
    text = " ".join((message or "an error").split())
    return InvalidInput(f"{source.name}{at_line}: {repr(text[:300])[1:-1]}")

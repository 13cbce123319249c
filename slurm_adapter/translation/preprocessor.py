"""The lines `{- name -}` and `{- name("a", "b") -}` of UCloud's application templates, before Jinja sees them.

Each becomes a Jinja variable on the same line, so that lines in messages stay right and a site's shell text is never
read as a template.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.problems import for_message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.translation.application import Application, Template

_BEGIN, _END = "{- ", " -}"
_LONGEST = 1000
"""Characters of a line of the preprocessor; longer texts between its marks are not its."""


@dataclass(frozen=True, slots=True)
class Preprocessed:
    """A template that is Jinja alone."""

    text: str
    uses_system_load: bool


def preprocess(template: Template, application: Application, where: str) -> Preprocessed:
    """Replace the preprocessor's lines.

    `systemLoad` and `systemUnload` become variables of the same name with a leading underscore. What needs the site's
    own configuration of applications is refused: there is none yet. Raises `InvalidInput` with the line.
    """
    text = template.text
    pieces: list[str] = []
    uses_system_load = False
    done = 0
    for begin, end, name in _find(text):
        pieces.append(text[done:begin])
        done = end
        if name in {"systemLoad", "systemUnload"}:
            uses_system_load = uses_system_load or name == "systemLoad"
            pieces.append("{{ _" + name + " }}")
            continue
        if name in {"applicationLoad", "applicationUnload"} and not application.load:
            continue
        line = template.line + text.count("\n", 0, begin)
        said = f"{where}, line {line}: "
        if name in {"applicationLoad", "applicationUnload", "loadApplication", "unloadApplication", "versionResolver"}:
            raise InvalidInput(
                f"{said}{text[begin:end]} needs the site's configuration of applications, which is not supported; load "
                "the software in jobs.system_load or by its full path"
            )
        raise InvalidInput(f"{said}{for_message(text[begin:end])} is not known; known are systemLoad and systemUnload")
    pieces.append(text[done:])
    return Preprocessed("".join(pieces), uses_system_load)


def _find(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield where each line of the preprocessor begins and ends, and its name. Takes time linear in the text.

    Neither mark is looked for twice in the same place: a pattern would look for the end from every beginning.
    """
    begin = text.find(_BEGIN)
    end = 0
    while begin >= 0:
        inner = begin + len(_BEGIN)
        if end < inner:
            end = text.find(_END, inner)
        if end < 0:
            return
        name = _name(text[inner:end]) if end - begin <= _LONGEST else None
        if name is not None:
            yield begin, end + len(_END), name
        begin = text.find(_BEGIN, begin + 1 if name is None else end + len(_END))


def _name(inner: str) -> str | None:
    """Return NAME of `NAME` or `NAME(...)`; None for another text."""
    name, bracket, arguments = inner.partition("(")
    if set(name) & set("-{})") or (bracket and arguments.partition(")")[1:] != (")", "")):
        return None
    return name.rstrip()

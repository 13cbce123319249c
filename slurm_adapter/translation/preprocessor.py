"""Replace `{- name -}` and `{- name("a", "b") -}` in UCloud's application templates before Jinja reads them.

Each becomes a Jinja variable on the same line. So line numbers in messages stay correct, and a site's shell text is not
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
"""Most characters between the marks. Longer texts are left as they are."""


@dataclass(frozen=True, slots=True)
class Preprocessed:
    """Template in Jinja only."""

    text: str
    uses_system_load: bool


def preprocess(template: Template, application: Application, place: str) -> Preprocessed:
    """Replace the preprocessor's marks.

    `systemLoad` and `systemUnload` become variables with the same name and a leading underscore. Marks that need a
    configuration of applications are refused, because sites cannot have one yet. Raise `InvalidInput` with the line.
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
        prefix = f"{place}, line {line}: "
        if name in {"applicationLoad", "applicationUnload", "loadApplication", "unloadApplication", "versionResolver"}:
            raise InvalidInput(
                f"{prefix}{text[begin:end]} needs the site's configuration of applications, which is not supported; "
                "load the software in jobs.system_load or by its full path"
            )
        raise InvalidInput(f"{prefix}{for_message(text[begin:end])} is unknown; known are systemLoad and systemUnload")
    pieces.append(text[done:])
    return Preprocessed("".join(pieces), uses_system_load)


def _find(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield begin, end and name of each mark, in time linear in the text.

    No place is searched twice for the end of a mark. A regular expression would search for it from every begin.
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
    """Return NAME of `NAME` or `NAME(...)`; None for other texts."""
    name, bracket, arguments = inner.partition("(")
    if set(name) & set("-{})") or (bracket and arguments.partition(")")[1:] != (")", "")):
        return None
    return name.rstrip()

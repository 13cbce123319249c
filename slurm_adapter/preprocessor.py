"""The lines `{- name -}` and `{- name("a", "b") -}` of UCloud's application templates, before Jinja sees them.

Each becomes a Jinja variable on the same line, so that lines in messages stay right and a site's shell text is never
read as a template.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm_adapter.errors import InvalidInput
from slurm_adapter.specification import shown

if TYPE_CHECKING:
    from slurm_adapter.application import Application, Template

_LINE = re.compile(r"\{- ([^-{}()]*?)\s*(\(([^)]*)\))? -\}")


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
    used: set[str] = set()

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name in {"systemLoad", "systemUnload"}:
            used.add(name)
            return "{{ _" + name + " }}"
        if name in {"applicationLoad", "applicationUnload"} and not application.load:
            return ""
        line = template.line + template.text[: match.start()].count("\n")
        if name in {"applicationLoad", "applicationUnload", "loadApplication", "unloadApplication", "versionResolver"}:
            raise InvalidInput(
                f"{where}, line {line}: {match[0]} needs the site's configuration of applications, which is not "
                f"supported; load the software in jobs.system_load or by its full path"
            )
        raise InvalidInput(
            f"{where}, line {line}: {shown(match[0])} is not known; known are systemLoad and systemUnload"
        )

    return Preprocessed(_LINE.sub(replace, template.text), "systemLoad" in used)

"""What is to be handed to Slurm for one job, as bytes that the database keeps until Slurm has it.

A claim that a crash left behind is handed over as it was validated, whatever has become of the application's file and
the configuration since.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm_adapter.directives import Directive
from slurm_adapter.translation import File

if TYPE_CHECKING:
    from slurm_adapter.translation import Translation


@dataclass(frozen=True, slots=True)
class Bundle:
    """A job's directives and the files of its folder."""

    directives: tuple[Directive, ...]
    files: dict[str, File]


def pack(translation: Translation) -> bytes:
    """The bundle of a translated job, as bytes."""
    return json.dumps(
        {
            "format": 1,
            "directives": [[directive.name, directive.value] for directive in translation.directives],
            "files": {
                name: [file.content.decode("utf-8", "surrogateescape"), file.mode]
                for name, file in translation.files.items()
            },
        }
    ).encode()


def unpack(data: bytes) -> Bundle:
    """What `pack` wrote."""
    content = json.loads(data)
    return Bundle(
        directives=tuple(Directive(name, value) for name, value in content["directives"]),
        files={
            name: File(text.encode("utf-8", "surrogateescape"), mode) for name, (text, mode) in content["files"].items()
        },
    )

"""What is to be handed to Slurm for one job, as bytes that the database keeps until Slurm has it.

A claim that a crash left behind is handed over as it was validated, whatever has become of the application's file and
the configuration since.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from slurm_adapter.core.directives import Directive
from slurm_adapter.translation.translate import File

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurm_adapter.translation.translate import Translation


@dataclass(frozen=True, slots=True)
class Bundle:
    """A job's directives and the files of its folder."""

    directives: tuple[Directive, ...]
    files: dict[str, File]


def pack(translation: Translation) -> bytes:
    """The bundle of a translated job, as bytes; of its shared files it has the digests only."""
    return json.dumps(
        {
            "format": 2,
            "directives": [[directive.name, directive.value] for directive in translation.directives],
            "files": {
                name: [file.content.decode("utf-8", "surrogateescape"), file.mode]
                for name, file in translation.files.items()
                if not file.shared
            },
            "shared": {
                name: [digest(file.content), file.mode] for name, file in translation.files.items() if file.shared
            },
        }
    ).encode()


def shared(translation: Translation) -> dict[str, bytes]:
    """What a translated job shares with others, by digest."""
    return {digest(file.content): file.content for file in translation.files.values() if file.shared}


def unpack(data: bytes, contents: Mapping[str, bytes]) -> Bundle:
    """What `pack` wrote, now or before an upgrade; `contents` is what is shared, by digest."""
    content = json.loads(data)
    files = {
        name: File(text.encode("utf-8", "surrogateescape"), mode) for name, (text, mode) in content["files"].items()
    }
    for name, (named, mode) in content.get("shared", {}).items():
        files[name] = File(contents[named], mode, shared=True)
    return Bundle(tuple(Directive(name, value) for name, value in content["directives"]), files)


@lru_cache(maxsize=64)
def digest(content: bytes) -> str:
    """By which a content is known: its SHA-256."""
    return hashlib.sha256(content).hexdigest()

"""Files and directives of one job, as bytes that the database keeps until Slurm has the job.

A claim that a crash left behind is dispatched as it was validated, even if the application's file or the configuration
has changed since.
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
    """Pack the bundle of a translated job, with the digests alone of its shared files."""
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
    """Return the files that a translated job shares with others, by digest."""
    return {digest(file.content): file.content for file in translation.files.values() if file.shared}


def unpack(data: bytes, contents: Mapping[str, bytes]) -> Bundle:
    """Unpack what `pack` wrote, now or before an upgrade. `contents` holds the shared files, by digest."""
    content = json.loads(data)
    files = {
        name: File(text.encode("utf-8", "surrogateescape"), mode) for name, (text, mode) in content["files"].items()
    }
    for name, (named, mode) in content.get("shared", {}).items():
        files[name] = File(contents[named], mode, shared=True)
    return Bundle(tuple(Directive(name, value) for name, value in content["directives"]), files)


@lru_cache(maxsize=64)
def digest(content: bytes) -> str:
    """Return the SHA-256 of a content."""
    return hashlib.sha256(content).hexdigest()

"""Tar archives that carry files to the cluster: the same entries give the same bytes."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class SameAs:
    """A hard link to an earlier entry of the archive."""

    name: str


Content = bytes | str | SameAs | None
"""The content of an entry: a text is the target of a symbolic link, and None stands for a folder."""


def archive(entries: Mapping[str, tuple[Content, int]]) -> bytes:
    """Return a tar archive of these entries, given by name with content and mode."""
    blocks = []
    for name, (content, mode) in entries.items():
        if isinstance(content, bytes):
            blocks += [_head(name, tarfile.REGTYPE, mode, len(content), ""), content, b"\0" * (-len(content) % _BLOCK)]
        elif isinstance(content, str):
            blocks.append(_head(name, tarfile.SYMTYPE, mode, 0, content))
        elif content is None:
            blocks.append(_head(name, tarfile.DIRTYPE, mode, 0, ""))
        else:
            blocks.append(_head(name, tarfile.LNKTYPE, mode, 0, content.name))
    return b"".join([*blocks, b"\0" * (2 * _BLOCK)])


_BLOCK = tarfile.BLOCKSIZE


def _head(name: str, kind: bytes, mode: int, size: int, link: str) -> bytes:
    """Return the header of an entry. Python's library takes as long for each header as it takes to make the file."""
    own, other = name.encode(errors="surrogateescape"), link.encode(errors="surrogateescape")
    if kind == tarfile.DIRTYPE:
        own += b"/"
    if max(len(own), len(other)) > 100:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.size, info.linkname = kind, mode, size, link
        return info.tobuf(tarfile.GNU_FORMAT, "utf-8")
    # Name, mode and so on, checksum, type, link target, the rest: tar(5). The sum counts its own field as blanks.
    middle, rest, total = _nameless(kind, mode, size)
    checksum = b"%06o\0 " % (total + sum(own) + sum(other))
    return b"".join((own.ljust(100, b"\0"), middle, checksum, kind, other.ljust(100, b"\0"), rest))


@lru_cache(maxsize=1024)
def _nameless(kind: bytes, mode: int, size: int) -> tuple[bytes, bytes, int]:
    """Return the two parts that the headers of such entries have in common, and their part of the checksum."""
    info = tarfile.TarInfo()
    info.type, info.mode, info.size = kind, mode, size
    head = info.tobuf(tarfile.GNU_FORMAT)
    return head[100:148], head[257:], int(head[148:154], 8) - sum(head[:100])

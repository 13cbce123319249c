"""A job's output, read through the transport under the job's account.

The whole of it is read in pieces of a megabyte, from where the last piece ended, one command for all files. A file that
appears late is picked up, and one that the job has cut short is read from its beginning.
"""

from __future__ import annotations

import base64
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from slurm_adapter.errors import Unknown
from slurm_adapter.transports.interface import MEBIBYTE, Command

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from slurm_adapter.site import Site
    from slurm_adapter.store import Record

_READ = r"""
cd -P -- "$1" 2>/dev/null || exit 3
limit=$2
shift 2
for file in stdout.txt stderr.txt stdout-*.txt stderr-*.txt; do
    [ -f "$file" ] || continue
    # Other files that the job has named so are its own affair.
    case ${file%.txt} in stdout | stderr) ;; std???-*[!0-9]*) continue ;; esac
    from=0
    for known do
        [ "${known%%:*}" != "$file" ] || from=${known##*:}
    done
    size=$(stat -c %s -- "$file")
    [ "$size" -ne "$from" ] || continue
    [ "$size" -gt "$from" ] || from=0
    printf '%s %s ' "$file" "$from"
    tail -c +$((from + 1)) -- "$file" | head -c "$limit" | base64 -w 0
    echo
done
"""


_LINE = re.compile(
    rb"((stdout|stderr)(?:-([0-9]{1,18}))?\.txt) ([0-9]{1,18}) "
    rb"((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}[A-Za-z0-9+/=]=)?)"
)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some output, as it was written."""

    data: bytes
    is_error: bool
    rank: int | None
    """Of the replica that wrote it, where each writes files of its own."""


def read(site: Site, record: Record, *, follow: bool = False, interval: float = 1.0) -> Iterator[Piece]:
    """A job's output so far; with `follow` also what comes, until the job has ended and all of it was read."""
    offsets: dict[str, int] = {}
    while True:
        ended = site.store.get(record.id).state.final
        pieces = list(_read_once(site, record, offsets))
        yield from pieces
        if pieces:
            continue
        if not follow or ended:
            return
        time.sleep(interval)


def labelled(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same, with `[RANK] ` before each line of a replica that writes files of its own."""
    inside: dict[tuple[int, bool], bool] = {}
    for piece in pieces:
        if piece.rank is None:
            yield piece
            continue
        stream = (piece.rank, piece.is_error)
        label = f"[{piece.rank}] ".encode()
        lines = piece.data.splitlines(keepends=True)
        data = b"".join(
            line if number == 0 and inside.get(stream) else label + line for number, line in enumerate(lines)
        )
        inside[stream] = not piece.data.endswith(b"\n")
        yield replace(piece, data=data)


def _read_once(site: Site, record: Record, offsets: dict[str, int]) -> Iterator[Piece]:
    known = tuple(f"{name}:{offset}" for name, offset in offsets.items())
    argv = ("/bin/sh", "-c", _READ, "sh", record.folder, str(MEBIBYTE), *known)
    result = site.transport.run(Command(argv, user=record.account))
    if result.status == 3:
        return  # the folder is not there yet, or no longer
    if result.status != 0:
        raise Unknown(f"could not read the output of job {record.id} in {record.folder}: {result.complaint}")
    for line in result.stdout.split(b"\n"):
        match = _LINE.fullmatch(line)
        if match is None and not line.startswith((b"stdout", b"stderr")):
            continue  # a banner
        if match is None:
            raise Unknown(f"the output of job {record.id} was garbled on its way: {line[:100]!r}")
        data = base64.b64decode(match[5])
        offsets[match[1].decode()] = int(match[4]) + len(data)
        yield Piece(data, match[2] == b"stderr", int(match[3]) if match[3] else None)

"""A job's output, read through the transport under the job's account.

The whole of it is read in rounds of about a megabyte, one command for all files, each from the end of the last round.
A file that appears late is picked up, and one that the job has cut short is read from its beginning.
"""

from __future__ import annotations

import base64
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from slurm_adapter.cluster.transports.interface import MEBIBYTE, Command
from slurm_adapter.core.errors import Unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import Record

READ_SECONDS = 20.0
"""Time limit of one round: others wait for the same readers."""

_READ = r"""
cd -P -- "$1" 2>/dev/null || exit 3
limit=$2
shift 2
known=" $* "
# Those of replicas, a bounded number; other files that the job has named so are its own affair.
ranks=$(find . -maxdepth 1 -name 'std*-[0-9]*.txt' ! -name '*[!-.a-z0-9]*' -type f -printf '%f\n' |
    grep -a -E -x 'std(out|err)-[0-9]{1,9}\.txt' | head -n 20000 | sort -V | head -n 2000)
set --
for file in stdout.txt stderr.txt $ranks; do
    [ -f "$file" ] || continue
    # Opened first: over NFS only then does its size hold what a node wrote last (nfs(5), close-to-open).
    { true <"$file"; } 2>/dev/null || continue
    set -- "$@" "$file"
done
[ $# -gt 0 ] || exit 0
news=$(stat -L -c '%s %n' -- "$@" 2>/dev/null | while read -r size file; do
    from=0
    case $known in
    *" $file:"*)
        from=${known##*" $file:"}
        from=${from%% *}
        ;;
    esac
    [ "$size" -ne "$from" ] || continue
    [ "$size" -gt "$from" ] || from=0
    echo "$file $from $size"
done)
[ -n "$news" ] || exit 0
set -- $news # names of these files, and numbers: nothing to quote
limit=$((limit * 3 / $#))
[ "$limit" -ge 1024 ] || limit=1024
while [ $# -gt 0 ]; do
    printf '%s %s %s ' "$1" "$2" "$3"
    tail -c +$(($2 + 1)) -- "$1" | head -c "$limit" | base64 -w 0
    echo
    shift 3
done
"""
"""Prints a line for each file that has grown: its name, the begin of the piece, the file's size, the piece."""


USER_SCRIPTS = {"logs": _READ}
"""Scripts that run as the account of a user, by name; see `slurm_adapter.cli.sudo_helper`."""


_LINE = re.compile(
    rb"((stdout|stderr)(?:-([0-9]{1,18}))?\.txt) ([0-9]{1,18}) ([0-9]{1,18}) "
    rb"((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}[A-Za-z0-9+/=]=)?)"
)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some output, as it was written."""

    data: bytes
    is_error: bool
    rank: int | None
    """Rank of the replica that wrote it, if each writes files of its own."""
    file: str = ""
    start: int = 0
    """Its begin in the file; 0 again for a file that has become shorter."""
    more: bool = False
    """The file goes on after it."""

    @property
    def end(self) -> int:
        """Return its end in the file."""
        return self.start + len(self.data)


def read(adapter: Adapter, record: Record, *, follow: bool = False, interval: float = 1.0) -> Iterator[Piece]:
    """Yield a job's output so far; with `follow` also new output, until the job has ended and all of it was read."""
    offsets: dict[str, int] = {}
    while True:
        ended = adapter.store.get(record.id).state.final
        pieces = read_round(adapter, record, offsets)
        offsets.update({piece.file: piece.end for piece in pieces})
        yield from pieces
        if any(piece.data for piece in pieces):
            continue
        if not follow or ended:
            return
        time.sleep(interval)


def read_round(adapter: Adapter, record: Record, offsets: Mapping[str, int], limit: int = MEBIBYTE) -> list[Piece]:
    """Return the output after these offsets, by file: about `limit` bytes in all, shared evenly by files that grew.

    One command, however many files. Nothing if the folder does not exist yet, or no longer. Raises `Unknown` if the
    answer is unreadable, and what the transport raises.
    """
    known = tuple(f"{name}:{offset}" for name, offset in offsets.items())
    argv = ("/bin/sh", "-c", _READ, "sh", record.folder, str(limit), *known)
    result = adapter.transport.run(Command(argv, user=record.account, timeout=READ_SECONDS))
    if result.status == 3:
        return []
    if result.status != 0:
        raise Unknown(f"could not read the output of job {record.id} in {record.folder}: {result.complaint}")
    pieces: list[Piece] = []
    for line in result.stdout.split(b"\n"):
        match = _LINE.fullmatch(line)
        if match is None and not line.startswith((b"stdout", b"stderr")):
            continue  # a banner
        if match is None:
            raise Unknown(f"the output of job {record.id} was garbled on its way: {line[:100]!r}")
        data, start = base64.b64decode(match[6]), int(match[4])
        rank = int(match[3]) if match[3] else None
        more = start + len(data) < int(match[5])
        pieces.append(Piece(data, match[2] == b"stderr", rank, match[1].decode(), start, more))
    return pieces


def labelled(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yield the pieces with `[RANK] ` before each line of a replica that writes files of its own."""
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

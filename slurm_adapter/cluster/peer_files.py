"""The hosts files on the shared file system: the shared one, and a hosts view for each job with peers.

`<shared_dir>/peers` and its files belong to the adapter's own account on the cluster, with modes 0755 and 0644. Other
accounts may read but not write there. A new file is written next to the old one, flushed, and renamed over it. So a
reader sees either the whole old file or the whole new one, and a killed writer or a full disk leaves the old one.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slurm_adapter.cluster.archive import archive
from slurm_adapter.cluster.transports.interface import Command
from slurm_adapter.core import hosts_file
from slurm_adapter.core.errors import TryAgain, Unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurm_adapter.cluster.transports.interface import Transport

# If an adapter was killed, its writer may still run, and would later restore old content. So it is waited for. No user
# of a job can take the lock. There is no lock if the parent folder is not ours, or if the file system or the cluster
# does not support locks.
_LOCK = r"""
if (umask 077 && : >>"$1.lock") 2>/dev/null; then
    exec 9<>"$1.lock"
    flock -w 30 9 2>/dev/null
    [ $? -ne 1 ] || { echo "the writer of an adapter that has ended is still running" >&2; exit 75; }
fi
"""

_READ = rf"""
umask 022
[ -d "$1" ] || mkdir -m 755 -- "$1" || exit 1
cd -P -- "$1" || exit 1
[ -O . ] || {{ echo "$1 does not belong to this account" >&2; exit 1; }}
{_LOCK}
set -- [0-9]*
[ ! -e "$1" ] || printf '%s\0' "$@" | xargs -0 sha256sum --
printf '\nhosts\n'
[ ! -e hosts ] || cat hosts
"""

_WRITE = rf"""
umask 022
cd -P -- "$1" || exit 1
{_LOCK}
# Remove the leftovers of killed writers, but not those of a writer that may still run after its caller's timeout.
find . -maxdepth 1 -name '.new.*' -mmin +60 -exec rm -rf {{}} +
new=$(mktemp -d .new.XXXXXX) || exit 1
trap 'rm -rf "$new"' EXIT
tar -x -f - -C "$new" || exit 1
if [ -f "$new/hosts" ]; then
    now=$(if [ -e hosts ]; then cat hosts; fi | sha256sum)
    [ "${{now%% *}}" = "$2" ] || {{ echo "it was changed in the meantime" >&2; exit 75; }}
fi
sync "$new"/* 2>/dev/null
for file in "$new"/*; do
    [ "${{file##*/}}" = remove ] || mv -fT -- "$file" "${{file##*/}}" || exit 1
done
[ ! -f "$new/remove" ] || while IFS= read -r name; do rm -f -- "$name"; done <"$new/remove"
"""


@dataclass(frozen=True, slots=True)
class PeerFiles:
    """The content of `<shared_dir>/peers`."""

    shared: bytes = b""
    """The whole shared file."""
    views: Mapping[str, str] = field(default_factory=dict)
    """The SHA-256 of each hosts view, by the name of its file (`Record.peers_file`)."""


@dataclass(frozen=True, slots=True)
class PeerFilesChange:
    """The changes to write there."""

    shared: bytes | None
    """The whole new shared file; None if it does not change."""
    views: Mapping[str, bytes]
    removed: tuple[str, ...]

    def __bool__(self) -> bool:
        """Return whether there is anything to do."""
        return self.shared is not None or bool(self.views or self.removed)


def plan_change(current: PeerFiles, views: Mapping[str, str], block: str) -> PeerFilesChange:
    """Return the changes after which the files have these views, and the shared file has this block. Pure."""
    shared = hosts_file.replace_block(current.shared, block)
    wanted = {name: text.encode() for name, text in views.items()}
    return PeerFilesChange(
        shared=None if shared == current.shared else shared,
        views={
            name: text for name, text in wanted.items() if current.views.get(name) != hashlib.sha256(text).hexdigest()
        },
        removed=tuple(sorted(set(current.views) - set(wanted))),
    )


def read(transport: Transport, folder: str) -> PeerFiles:
    """Read `folder`, and make it if it does not exist. Raises `Unknown` if it cannot be read."""
    result = transport.run(Command(("/bin/sh", "-c", _READ, "sh", folder)))
    listed, mark, shared = result.stdout.partition(b"\nhosts\n") if result.status == 0 else (b"", b"", b"")
    if not mark:
        raise Unknown(f"could not read {folder} on the cluster: {result.complaint or f'exit {result.status}'}")
    rows = re.findall(
        r"^([0-9a-f]{64})  ([0-9]+(?:-[0-9a-z]+)?)$", listed.decode(errors="replace"), re.MULTILINE | re.ASCII
    )
    return PeerFiles(shared, {name: digest for digest, name in rows})


def write(transport: Transport, folder: str, seen: PeerFiles, change: PeerFilesChange) -> None:
    """Write a change that was planned for the content `seen`.

    Raises `TryAgain` if somebody else has changed the shared file in the meantime, and `Unknown` if writing failed. The
    old files remain whole.
    """
    if not change:
        return
    files = {name: (text, 0o644) for name, text in change.views.items()}
    if change.shared is not None:
        files["hosts"] = (change.shared, 0o644)
    if change.removed:
        files["remove"] = ("".join(f"{name}\n" for name in change.removed).encode(), 0o644)
    digest = hashlib.sha256(seen.shared).hexdigest()
    result = transport.run(Command(("/bin/sh", "-c", _WRITE, "sh", folder, digest), stdin=archive(files)))
    if result.status == 75:
        raise TryAgain(f"{folder}/hosts was changed by somebody else while it was written; the next sync writes it")
    if result.status != 0:
        raise Unknown(f"could not write {folder} on the cluster: {result.complaint or f'exit {result.status}'}")

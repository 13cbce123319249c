"""Paths in drives that jobs name: each is looked at on the cluster, as the job's account, before a job is taken."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from slurm_adapter.cluster.transports.interface import Command
from slurm_adapter.core.errors import InvalidInput, TryAgain, Unknown
from slurm_adapter.core.problems import for_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from slurm_adapter.cluster.transports.interface import Transport
    from slurm_adapter.translation.drives import DrivePath

KEPT_SECONDS = 10.0
"""How long a path that was good is not looked at again: jobs that come one after another often name the same one."""

LATE_SECONDS = 3.0
"""After so long a look is late, and nobody else waits for the same file system."""

BUSY_SECONDS = 1.5
"""How long a look waits for other commands to make room: one that is late is not one that waits."""


class PathChecks:
    """What was seen lately, and what is being looked at. Threads may share it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._good: dict[tuple[str, DrivePath], float] = {}
        self._looking: dict[object, tuple[set[str], float]] = {}
        """The drives' folders that each look is about, and when it began."""

    def check(self, transport: Transport, paths: Sequence[DrivePath], account: str) -> None:
        """Look at paths as an account, unless that was done just now. Raise as `read_path_check`.

        Raise `TryAgain` if another look into one of the drives has not ended for seconds: its file system may be away.
        """
        now = self._clock()
        self._good = {seen: when for seen, when in list(self._good.items()) if now - when < KEPT_SECONDS}
        if not (unseen := [path for path in paths if (account, path) not in self._good]):
            return
        roots = {path.root for path in unseen}
        for others, began in list(self._looking.values()):
            if now - began > LATE_SECONDS and (stuck := roots & others):
                raise TryAgain(f"the folder {min(stuck)} on the cluster does not answer; is its file system away?")
        mine = object()
        self._looking[mine] = roots, now
        try:
            read_path_check(
                unseen, transport.run(replace(check_paths_command(unseen, account), waits=BUSY_SECONDS)).stdout
            )
        finally:
            del self._looking[mine]
        self._good |= {(account, path): now for path in unseen}


_LOOK = """
why_not() {
    case $(LC_ALL=C stat -L -- "$1" 2>&1 >/dev/null) in
    *': No such file or directory') ;;
    '' | *': Not a directory' | *': Permission denied' | *': Too many levels of symbolic links') printf -- -; return ;;
    *': File name too long') printf -- -; return ;;
    *) printf x; return ;;
    esac
    up=${1%/*}
    until [ -d "$up/" ]; do up=${up%/*}; done
    if [ -r "$up/" ] && [ -z "$(ls -A -- "$up/" 2>/dev/null | head -n 1)" ]; then printf e; else printf -- -; fi
}
for path do
    if [ -d "$path" ]; then printf d; elif [ -e "$path" ]; then printf f; else why_not "$path"; fi
    realpath -ez -- "$path" 2>/dev/null || printf '\\0'
done
"""
"""For each path one record, ended by NUL: d or f for what it is, and its real path. Else x if its file system fails,
e if the folder that should hold it is empty, as a mount point without its file system is, and - for the rest.

A constant: paths reach it as arguments, through xargs, and never as shell text.
"""


USER_SCRIPTS = {"paths": _LOOK}
"""What runs as the account of a user, by name; see `slurm_adapter.cli.sudo_helper`."""


def check_paths_command(paths: Iterable[DrivePath], user: str | None) -> Command:
    """One command that looks at all paths and their drives, as the job's user."""
    stdin = b"".join(name.encode() + b"\0" for name in _looked_at(paths))
    return Command(("xargs", "-0", "-r", "sh", "-c", _LOOK, "sh"), stdin=stdin, user=user)


def _looked_at(paths: Iterable[DrivePath]) -> list[str]:
    """Each once: the jobs of a bulk may all name the same."""
    return list(dict.fromkeys(name for path in paths for name in (path.root, path.cluster)))


def read_path_check(paths: Sequence[DrivePath], stdout: bytes) -> None:
    """What the command saw.

    Raises `InvalidInput` naming each path that does not exist, is of the wrong kind, or leaves its drive through a
    symbolic link, `TryAgain` if the file system of one seems to be away, and `Unknown` if the answer is not one record
    for each path.
    """
    names = _looked_at(paths)
    *records, rest = stdout.split(b"\0")
    if len(records) != len(names) or rest:
        raise Unknown(f"looking at {len(names)} paths on the cluster gave {len(records)} answers")
    seen = dict(zip(names, records, strict=True))
    problems = []
    for path in paths:
        found = seen[path.cluster]
        if b"x" in {found, seen[path.root]} or seen[path.root] == b"e":
            raise TryAgain(
                f"{path.field}: {for_message(path.ucloud)}: {path.root} on the cluster cannot be read; "
                "is its file system away?"
            )
        if problem := _problem(path, seen[path.root][1:], found[:1], found[1:]):
            problems.append(f"{path.field}: {for_message(path.ucloud)}: {problem}")
    if problems:
        raise InvalidInput("\n".join(problems))


def _problem(path: DrivePath, root: bytes, kind: bytes, found: bytes) -> str | None:
    if not root:
        return f"its drive's folder {path.root} does not exist on the cluster, or the job's user may not reach it"
    if not found or kind == b"-":
        return f"{for_message(path.cluster)} does not exist on the cluster, or the job's user may not reach it"
    if found != root and not found.startswith(root.rstrip(b"/") + b"/"):
        return "leaves its drive through a symbolic link; name a path inside the drive"
    if path.kind == "directory" and kind != b"d":
        return "is a file; the parameter takes a folder"
    if path.kind == "file" and kind != b"f":
        return "is a folder; the parameter takes a file"
    return None

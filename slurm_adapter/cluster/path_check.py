"""Checks of the paths in drives that jobs name, on the cluster and as the job's account, before a job is accepted."""

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
"""Seconds for which a good path is not checked again: consecutive jobs often name the same path."""

LATE_SECONDS = 3.0
"""Seconds after which a check is late, and no other check waits for the same file system."""

BUSY_SECONDS = 1.5
"""Maximum wait of a check for a slot, which is shorter than `LATE_SECONDS`: a waiting check is not a late one."""


class PathChecks:
    """Recent and running checks. Threads may share it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._good: dict[tuple[str, DrivePath], float] = {}
        self._running: dict[object, tuple[set[str], float]] = {}
        """The drives' folders in each running check, and its start."""

    def check(self, transport: Transport, paths: Sequence[DrivePath], account: str) -> None:
        """Check paths as an account, unless they were checked just now. Raise as `read_path_check`.

        Raise `TryAgain` if another check of one of the drives is late: its file system may be unavailable.
        """
        now = self._clock()
        self._good = {seen: when for seen, when in list(self._good.items()) if now - when < KEPT_SECONDS}
        if not (unseen := [path for path in paths if (account, path) not in self._good]):
            return
        roots = {path.root for path in unseen}
        for others, began in list(self._running.values()):
            if now - began > LATE_SECONDS and (stuck := roots & others):
                raise TryAgain(f"the folder {min(stuck)} on the cluster does not answer; is its file system mounted?")
        mine = object()
        self._running[mine] = roots, now
        try:
            read_path_check(
                unseen, transport.run(replace(check_paths_command(unseen, account), waits=BUSY_SECONDS)).stdout
            )
        finally:
            del self._running[mine]
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
"""Prints a record for each path, ended by NUL: d (folder) or f (file), and its real path. Other records are x if its
file system fails, e if its parent folder is empty, as a mount point without its file system, and - otherwise.

Paths are arguments of this constant script, through xargs, and never shell text.
"""


USER_SCRIPTS = {"paths": _LOOK}
"""The script that runs as the account of a user, by the name of `slurm_adapter.cli.sudo_helper`."""


def check_paths_command(paths: Iterable[DrivePath], user: str | None) -> Command:
    """Return a command that checks all paths and their drives, as the job's user."""
    stdin = b"".join(name.encode() + b"\0" for name in _names(paths))
    return Command(("xargs", "-0", "-r", "sh", "-c", _LOOK, "sh"), stdin=stdin, user=user)


def _names(paths: Iterable[DrivePath]) -> list[str]:
    """Return each path and drive once, because the jobs of a bulk may all name the same ones."""
    return list(dict.fromkeys(name for path in paths for name in (path.root, path.cluster)))


def read_path_check(paths: Sequence[DrivePath], stdout: bytes) -> None:
    """Read the command's answer, and return if all paths are good.

    Raises `InvalidInput` with each path that does not exist, is of the wrong kind, or leaves its drive through a
    symbolic link, `TryAgain` if a file system seems to be unavailable, and `Unknown` if the answer does not have one
    record for each path.
    """
    names = _names(paths)
    *records, rest = stdout.split(b"\0")
    if len(records) != len(names) or rest:
        raise Unknown(f"could not check {len(names)} paths on the cluster: the answer has {len(records)} records")
    seen = dict(zip(names, records, strict=True))
    problems = []
    for path in paths:
        found = seen[path.cluster]
        if b"x" in {found, seen[path.root]} or seen[path.root] == b"e":
            raise TryAgain(
                f"{path.field}: {for_message(path.ucloud)}: {path.root} on the cluster cannot be read; "
                "is its file system mounted?"
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

"""UCloud's paths on this cluster: `/<drive>/a/b` becomes a path under the drive's folder.

Two steps. `resolve_path` is pure: it knows the table of drives, who may use them, and refuses a path that could leave
its drive by its text. `check_paths_command` and `read_path_check` are the other half: one command for all paths of a
request, run as the job's user, that sees on the cluster whether a symbolic link leads out of the drive.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from slurm_adapter.config import Drive, DrivePattern
from slurm_adapter.errors import InvalidInput, Unknown
from slurm_adapter.specification import shown
from slurm_adapter.transports.interface import Command

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Kind = Literal["file", "directory", "any"]

PATH_LIMIT = 4095
"""The most bytes of a path (PATH_MAX of Linux less its terminator)."""


@dataclass(frozen=True, slots=True)
class DrivePath:
    """A path that a job names."""

    field: str
    """Where it stands in the specification."""
    ucloud: str
    cluster: str
    root: str
    """The drive's folder, which the path must not leave."""
    read_only: bool
    """The drive is mounted read-only by the site."""
    kind: Kind = "any"
    """What it must be."""

    @property
    def name(self) -> str:
        """The last component: the drive's own id where the whole drive is named."""
        return self.ucloud.rsplit("/", 1)[1]


def resolve_path(
    path: str,
    drives: Sequence[Drive],
    *,
    user: str,
    project: str | None,
    field: str,
    kind: Kind = "any",
    pattern: DrivePattern | None = None,
) -> DrivePath:
    """Where a UCloud path is on the cluster.

    `pattern` is where a drive is that is not in the table: the workspace's own folder for it.
    Raises `InvalidInput` for a path that is not `/<drive>/...`, holds `.`, `..`, empty components or NUL, or names a
    drive that is not in the table or not open to this user or project; which of the two it is, is not told.
    """
    said = f"{field}: {shown(path)}"
    first, *components = path.split("/")
    if first or not components or "" in components or "\0" in path:
        raise InvalidInput(f"{said}: must be /DRIVE or /DRIVE/folder/file, without empty parts and without a final /")
    if {".", ".."} & set(components):
        raise InvalidInput(f"{said}: must not hold . or .. as a part; no path leaves its drive")
    name, *inner = components
    drive = next((drive for drive in drives if drive.id == name), None)
    if drive is None and pattern is not None:
        drive = by_pattern(name, pattern, user=user, project=project)
    if drive is None or not _may_use(drive, user, project):
        raise InvalidInput(f"{said}: drive {shown(name)} is not known here, or not open to {_who(user, project)}")
    root = drive.path.rstrip("/") or "/"
    cluster = "/".join([root.rstrip("/"), *inner]) or "/"
    if len(cluster.encode()) > PATH_LIMIT:
        raise InvalidInput(f"{said}: is longer than {PATH_LIMIT} bytes on the cluster")
    return DrivePath(field=field, ucloud=path, cluster=cluster, root=root, read_only=drive.read_only, kind=kind)


def by_pattern(drive_id: str, pattern: DrivePattern, *, user: str, project: str | None) -> Drive | None:
    """The folder that a workspace has for a drive; None where the pattern gives none.

    None of the values may be more than a part of one component, so that none leads out of the pattern's folders.
    """
    form = pattern.user if project is None else pattern.project
    values = {"{drive}": drive_id, "{user}": user, "{project}": project or ""}
    if form is None or any("/" in value or "\0" in value or "\n" in value for value in values.values()):
        return None
    # In one pass: a value that holds another's name in braces is no pattern.
    path = re.sub(r"\{(?:drive|user|project)\}", lambda match: values[match[0]], form.rstrip("/"))
    if {"", ".", ".."} & set(path.split("/")[1:]):
        return None
    return Drive(id=drive_id, path=path)


def ucloud_path(cluster_path: str, drives: Sequence[Drive]) -> str | None:
    """The UCloud path of a folder on the cluster, by the deepest drive that holds it; None where none does."""
    holding = [drive for drive in drives if f"{cluster_path.rstrip('/')}/".startswith(f"{drive.path.rstrip('/')}/")]
    if not holding:
        return None
    drive = max(holding, key=lambda each: len(each.path.rstrip("/")))
    inner = cluster_path.rstrip("/")[len(drive.path.rstrip("/")) :]
    return f"/{drive.id}{inner}"


def _may_use(drive: Drive, user: str, project: str | None) -> bool:
    if not drive.users and not drive.projects:
        return True
    return user in drive.users or (project is not None and project in drive.projects)


def _who(user: str, project: str | None) -> str:
    return f"user {shown(user)}" + (f" of project {shown(project)}" if project is not None else "")


_LOOK = """
for path do
    if [ -d "$path" ]; then printf d; elif [ -e "$path" ]; then printf f; else printf -- -; fi
    realpath -ez -- "$path" 2>/dev/null || printf '\\0'
done
"""
"""For each path one record, ended by NUL: d, f or - for what it is, and its real path where it has one.

A constant: paths reach it as arguments, through xargs, and never as shell text.
"""


def check_paths_command(paths: Iterable[DrivePath], user: str | None) -> Command:
    """One command that looks at all paths and their drives, as the job's user."""
    names = [name for path in paths for name in (path.root, path.cluster)]
    stdin = b"".join(name.encode() + b"\0" for name in names)
    return Command(("xargs", "-0", "-r", "sh", "-c", _LOOK, "sh"), stdin=stdin, user=user)


def read_path_check(paths: Sequence[DrivePath], stdout: bytes) -> None:
    """What the command saw.

    Raises `InvalidInput` naming each path that does not exist, is of the wrong kind, or leaves its drive through a
    symbolic link, and `Unknown` where the answer is not one record for each path.
    """
    records = stdout.split(b"\0")
    if len(records) != 2 * len(paths) + 1 or records[-1]:
        raise Unknown(f"looking at {len(paths)} paths on the cluster gave {len(records) - 1} answers")
    problems = []
    for path, root, found in zip(paths, records[::2], records[1::2], strict=False):
        if problem := _problem(path, root[1:], found[:1], found[1:]):
            problems.append(f"{path.field}: {shown(path.ucloud)}: {problem}")
    if problems:
        raise InvalidInput("\n".join(problems))


def _problem(path: DrivePath, root: bytes, kind: bytes, found: bytes) -> str | None:
    if not root:
        return f"its drive's folder {path.root} does not exist on the cluster, or the job's user may not reach it"
    if not found or kind == b"-":
        return f"{shown(path.cluster)} does not exist on the cluster, or the job's user may not reach it"
    if found != root and not found.startswith(root.rstrip(b"/") + b"/"):
        return "leaves its drive through a symbolic link; name a path inside the drive"
    if path.kind == "directory" and kind != b"d":
        return "is a file; the parameter takes a folder"
    if path.kind == "file" and kind != b"f":
        return "is a folder; the parameter takes a file"
    return None

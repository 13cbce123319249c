"""UCloud's paths on this cluster: `/<drive>/a/b` becomes a path under the drive's folder.

A drive's folder is looked for in three places: the site's table, its pattern, and UCloud, which keeps for each drive
what its provider has named it when it registered it. UCloud's own provider for Slurm names a drive by its folder, and
that is what is read here (`UcloudDrive.folder`).

Two steps. `resolve_path` is pure: it knows the table of drives, who may use them, and refuses a path that could leave
its drive by its text. `check_paths_command` and `read_path_check` are the other half: one command for all paths of a
request, run as the job's user, that sees on the cluster whether a symbolic link leads out of the drive.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from slurm_adapter.core.config import Drive, DrivePattern
from slurm_adapter.core.errors import InvalidInput, Unknown
from slurm_adapter.core.problems import for_message
from slurm_adapter.core.specification import FileValue, Owner, ProductReference, Text, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from slurm_adapter.core.config import Config
    from slurm_adapter.core.specification import JobSpecification

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

    @property
    def drive(self) -> Drive:
        """The drive that it lies in."""
        return Drive(id=self.ucloud.split("/")[1], path=self.root, read_only=self.read_only)


class _DriveSpecification(Wire):
    product: ProductReference


class UcloudDrive(Wire):
    """A drive as UCloud tells of it (`FileCollection` of the older generation, `Drive` of the newer)."""

    id: Text
    owner: Owner
    specification: _DriveSpecification
    provider_generated_id: Text = ""
    """What its provider has named it."""

    @property
    def folder(self) -> str | None:
        """Its folder, where its provider's name for it holds one.

        UCloud's provider for Slurm writes `PROVIDER-OWNER`, a new line, and the folder; before it had owners in it,
        `PROVIDER-` and the folder.
        """
        mark, line, path = self.provider_generated_id.partition("\n")
        if not (mark and line and path):
            path = self.provider_generated_id.removeprefix(f"{self.specification.product.provider}-")
        path = path.rstrip("/")
        if not path.startswith("/") or "\n" in path or {"", ".", ".."} & set(path.split("/")[1:]):
            return None
        return path

    def belongs_to(self, owner: Owner) -> bool:
        """Whether it is a drive of the workspace in which this owner acts: a project's, or his personal one."""
        if owner.project is not None:
            return self.owner.project == owner.project
        return self.owner.project is None and self.owner.created_by == owner.created_by


def read_ucloud_drive(answer: object) -> UcloudDrive:
    """A drive from UCloud's JSON. Raises `Unknown` where it is none."""
    try:
        return UcloudDrive.model_validate(answer)
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, each["loc"])) or "the whole" for each in error.errors())
        raise Unknown(f"UCloud's answer is no drive: {wrong}") from error


def may_be_ucloud_drive(id_: str) -> bool:
    """Whether UCloud is worth the question: its ids are positive numbers of 64 bits."""
    return re.fullmatch(r"[1-9][0-9]{0,18}", id_, re.ASCII) is not None


def to_ask_ucloud_for(
    specification: JobSpecification, defaults: Mapping[str, FileValue], config: Config, owner: Owner, account: str
) -> Iterator[tuple[str, str]]:
    """The drives that a job names and the site does not know, each with the place in the specification.

    So does its application for it: `defaults` has those files by parameter; see `invocation.default_files`.
    """
    values = [(f"parameters.{name}", value) for name, value in {**defaults, **specification.parameters}.items()]
    values += [(f"resources[{number}]", value) for number, value in enumerate(specification.resources)]
    paths = [(f"{place}.path", value.path) for place, value in values if isinstance(value, FileValue)]
    if specification.opened_file:
        paths.append(("openedFile", specification.opened_file))
    table = {drive.id for drive in config.drives}
    for place, path in paths:
        first, _, rest = path.partition("/")
        id_ = rest.split("/", 1)[0]
        if first or id_ in table or not may_be_ucloud_drive(id_):
            continue
        if by_pattern(id_, config.drive_pattern, owner.created_by, owner.project, account) is None:
            yield id_, place


def as_found(drive: UcloudDrive, owner: Owner, provider: str, place: str) -> Drive | None:
    """A drive that UCloud has told of, for a job of this owner; None where it is not his workspace's.

    Raises `InvalidInput` where it is, and has no folder that can be known here.
    """
    if not drive.belongs_to(owner):
        return None
    if drive.specification.product.provider != provider or drive.folder is None:
        raise InvalidInput(
            f"{place}: drive {for_message(drive.id)} has no folder on this cluster: in UCloud it has the name "
            f"{for_message(drive.provider_generated_id)} of provider "
            f"{for_message(drive.specification.product.provider)}"
        )
    projects, users = ((), (owner.created_by,)) if owner.project is None else ((owner.project,), ())
    return Drive(id=drive.id, path=drive.folder, users=users, projects=projects)


def resolve_path(
    path: str,
    drives: Sequence[Drive],
    *,
    user: str,
    project: str | None,
    field: str,
    kind: Kind = "any",
    pattern: DrivePattern | None = None,
    account: str | None = None,
) -> DrivePath:
    """Where a UCloud path is on the cluster.

    `pattern` is where a drive is that is not in the table: the workspace's own folder for it. `account` is the user's
    on the cluster.
    Raises `InvalidInput` for a path that is not `/<drive>/...`, holds `.`, `..`, empty components or NUL, or names a
    drive that is not in the table or not open to this user or project; which of the two it is, is not told.
    """
    said = f"{field}: {for_message(path)}"
    first, *components = path.split("/")
    if first or not components or "" in components or "\0" in path:
        raise InvalidInput(f"{said}: must be /DRIVE or /DRIVE/folder/file, without empty parts and without a final /")
    if {".", ".."} & set(components):
        raise InvalidInput(f"{said}: must not hold . or .. as a part; no path leaves its drive")
    name, *inner = components
    drive = next((drive for drive in drives if drive.id == name), None)
    if drive is None and pattern is not None:
        drive = by_pattern(name, pattern, user, project, account)
    if drive is None or not may_use(drive, user, project):
        raise InvalidInput(f"{said}: drive {for_message(name)} is not known here, or not open to {_who(user, project)}")
    root = drive.path.rstrip("/") or "/"
    cluster = "/".join([root.rstrip("/"), *inner]) or "/"
    if len(cluster.encode()) > PATH_LIMIT:
        raise InvalidInput(f"{said}: is longer than {PATH_LIMIT} bytes on the cluster")
    return DrivePath(field=field, ucloud=path, cluster=cluster, root=root, read_only=drive.read_only, kind=kind)


def by_pattern(
    drive_id: str, pattern: DrivePattern, user: str, project: str | None, account: str | None = None
) -> Drive | None:
    """The folder that a workspace has for a drive; None where the pattern gives none.

    None of the values may be more than a part of one component, so that none leads out of the pattern's folders.
    """
    form = pattern.user if project is None else pattern.project
    values = {"{drive}": drive_id, "{user}": user, "{project}": project or "", "{account}": account or ""}
    if form is None or any("/" in value or "\0" in value or "\n" in value for value in values.values()):
        return None
    # In one pass: a value that holds another's name in braces is no pattern.
    path = re.sub(r"\{(?:drive|user|project|account)\}", lambda match: values[match[0]], form.rstrip("/"))
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


def may_use(drive: Drive, user: str, project: str | None) -> bool:
    """Whether a drive is open to a user, or to the members of his project."""
    if not drive.users and not drive.projects:
        return True
    return user in drive.users or (project is not None and project in drive.projects)


def _who(user: str, project: str | None) -> str:
    return f"user {for_message(user)}" + (f" of project {for_message(project)}" if project is not None else "")

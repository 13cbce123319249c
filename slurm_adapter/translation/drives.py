"""Resolve UCloud's paths: `/<drive>/a/b` becomes a path in the drive's folder on the cluster.

The folder of a drive comes from the site's table, from its pattern, or from UCloud. UCloud keeps the name that the
provider gave a drive when it was registered, and UCloud's own provider for Slurm uses the folder as this name
(`UcloudDrive.folder`).

`resolve_path` checks permissions, and refuses paths with components that leave the drive. It does not see the file
system: `slurm_adapter.cluster.path_check` finds symbolic links that leave the drive.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from slurm_adapter.core.config_tables import Drive, DrivePattern
from slurm_adapter.core.errors import InvalidInput, Unknown
from slurm_adapter.core.problems import for_message
from slurm_adapter.core.specification import FileValue, Owner, ProductReference, Text, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from slurm_adapter.core.config import Config
    from slurm_adapter.core.specification import JobSpecification

Kind = Literal["file", "directory", "any"]

PATH_LIMIT = 4095
"""Most bytes of a path (PATH_MAX of Linux without the terminator)."""


@dataclass(frozen=True, slots=True)
class DrivePath:
    """Path that a job uses."""

    field: str
    """Its field in the specification."""
    ucloud: str
    cluster: str
    root: str
    """Folder of the drive, which the path must not leave."""
    read_only: bool
    """Users cannot write to the drive."""
    kind: Kind = "any"
    """Required kind."""

    @property
    def name(self) -> str:
        """Return the last component: the id of the drive if the path is the whole drive."""
        return self.ucloud.rsplit("/", 1)[1]

    @property
    def drive(self) -> Drive:
        """Return the drive of the path."""
        return Drive(id=self.ucloud.split("/")[1], path=self.root, read_only=self.read_only)


class _DriveSpecification(Wire):
    product: ProductReference


class UcloudDrive(Wire):
    """Drive as UCloud sends it (`FileCollection` in the older generation, `Drive` in the newer)."""

    id: Text
    owner: Owner
    specification: _DriveSpecification
    provider_generated_id: Text = ""
    """Name that the provider gave it."""

    @property
    def folder(self) -> str | None:
        """Return its folder, if the provider's name contains one.

        UCloud's provider for Slurm writes `PROVIDER-OWNER`, a newline and the folder. Older versions write `PROVIDER-`
        and the folder.
        """
        mark, line, path = self.provider_generated_id.partition("\n")
        if not (mark and line and path):
            path = self.provider_generated_id.removeprefix(f"{self.specification.product.provider}-")
        path = path.rstrip("/")
        if not path.startswith("/") or "\n" in path or {"", ".", ".."} & set(path.split("/")[1:]):
            return None
        return path

    def belongs_to(self, owner: Owner) -> bool:
        """Return whether it belongs to the owner's workspace: the project, or the personal workspace."""
        if owner.project is not None:
            return self.owner.project == owner.project
        return self.owner.project is None and self.owner.created_by == owner.created_by


def read_ucloud_drive(answer: object) -> UcloudDrive:
    """Return a drive from UCloud's JSON. Raise `Unknown` if it is not a drive."""
    try:
        return UcloudDrive.model_validate(answer)
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, each["loc"])) or "all" for each in error.errors())
        raise Unknown(f"UCloud's answer is not a drive; wrong fields: {wrong}") from error


def may_be_ucloud_drive(id_: str) -> bool:
    """Return whether UCloud may have a drive of this id. Its ids are positive 64-bit integers."""
    return re.fullmatch(r"[1-9][0-9]{0,18}", id_, re.ASCII) is not None


def to_ask_ucloud_for(
    specification: JobSpecification, defaults: Mapping[str, FileValue], config: Config, owner: Owner, account: str
) -> Iterator[tuple[str, str]]:
    """Yield id and field of each drive that a job uses and the site does not know.

    `defaults` has files that the application uses by default, by parameter; see `invocation.default_files`.
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
    """Return a drive that UCloud sent for a job of this owner; None if it does not belong to the owner's workspace.

    Raise `InvalidInput` if it does, but has no known folder.
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
    """Return the path on the cluster for a path of UCloud.

    `pattern` gives the folders of drives that are not in the table. `account` is the user's account on the cluster.
    Raise `InvalidInput` if the path is not `/<drive>/...`, if it has components `.`, `..` or empty ones, or NUL, or if
    the drive is unknown or not open to this user or project. The message does not say which of the two.
    """
    subject = f"{field}: {for_message(path)}"
    first, *components = path.split("/")
    if first or not components or "" in components or "\0" in path:
        raise InvalidInput(
            f"{subject}: must be /DRIVE or /DRIVE/folder/file, without empty components and without a final /"
        )
    if {".", ".."} & set(components):
        raise InvalidInput(f"{subject}: must not contain . or .. as a component; a path cannot leave its drive")
    name, *inner = components
    drive = next((drive for drive in drives if drive.id == name), None)
    if drive is None and pattern is not None:
        drive = by_pattern(name, pattern, user, project, account)
    if drive is None or not may_use(drive, user, project):
        raise InvalidInput(
            f"{subject}: drive {for_message(name)} is not known here, or not open to {_who(user, project)}"
        )
    root = drive.path.rstrip("/") or "/"
    cluster = "/".join([root.rstrip("/"), *inner]) or "/"
    if len(cluster.encode()) > PATH_LIMIT:
        raise InvalidInput(f"{subject}: is longer than {PATH_LIMIT} bytes on the cluster")
    return DrivePath(field=field, ucloud=path, cluster=cluster, root=root, read_only=drive.read_only, kind=kind)


def by_pattern(
    drive_id: str, pattern: DrivePattern, user: str, project: str | None, account: str | None = None
) -> Drive | None:
    """Return a workspace's folder for a drive; None if the pattern gives none.

    No value may contain a slash, so that the folder stays in the pattern's folders.
    """
    form = pattern.user if project is None else pattern.project
    values = {"{drive}": drive_id, "{user}": user, "{project}": project or "", "{account}": account or ""}
    if form is None or any("/" in value or "\0" in value or "\n" in value for value in values.values()):
        return None
    # All at once: a value may itself contain a name in braces, which is not replaced.
    path = re.sub(r"\{(?:drive|user|project|account)\}", lambda match: values[match[0]], form.rstrip("/"))
    if {"", ".", ".."} & set(path.split("/")[1:]):
        return None
    return Drive(id=drive_id, path=path)


def ucloud_path(cluster_path: str, drives: Sequence[Drive]) -> str | None:
    """Return the UCloud path of a folder on the cluster, in its innermost drive; None if no drive contains it."""
    holding = [drive for drive in drives if f"{cluster_path.rstrip('/')}/".startswith(f"{drive.path.rstrip('/')}/")]
    if not holding:
        return None
    drive = max(holding, key=lambda each: len(each.path.rstrip("/")))
    inner = cluster_path.rstrip("/")[len(drive.path.rstrip("/")) :]
    return f"/{drive.id}{inner}"


def may_use(drive: Drive, user: str, project: str | None) -> bool:
    """Return whether a drive is open to a user, or to the members of the user's project."""
    if not drive.users and not drive.projects:
        return True
    return user in drive.users or (project is not None and project in drive.projects)


def _who(user: str, project: str | None) -> str:
    return f"user {for_message(user)}" + (f" of project {for_message(project)}" if project is not None else "")

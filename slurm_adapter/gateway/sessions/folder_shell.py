"""Folders of drives in which a shell on the login node may start. They are checked as the account of the user."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from slurm_adapter.cluster.path_check import check_paths_command, read_path_check
from slurm_adapter.core.errors import InvalidInput, NotOffered
from slurm_adapter.core.specification import Owner
from slurm_adapter.gateway.sessions.access_grants import read_username
from slurm_adapter.gateway.sessions.sessions import FolderShell
from slurm_adapter.translation.drives import as_found, by_pattern, may_be_ucloud_drive, resolve_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.config import Config
    from slurm_adapter.core.config_tables import Drive
    from slurm_adapter.translation.drives import DrivePath


def find(adapter: Adapter, owner: Owner, folders: Sequence[str]) -> list[FolderShell]:
    """Return these folders of the workspace's drives.

    Raise `NotOffered` if the site has no such shells. Raise `InvalidInput` for a folder that this user or workspace may
    not use, that is not a folder, or that is outside its drive. Raise what `Transport.run` raises.
    """
    _check_offered(adapter.config)
    account = adapter.usable_account_of(owner)
    return _look(adapter, account, [_resolve(adapter, owner, account, *each) for each in enumerate(folders)])


def find_for_ucloud(adapter: Adapter, folders: Sequence[str], username: str | None) -> list[FolderShell]:
    """Return these folders for the user in UCloud's header, in base64.

    UCloud has checked that the user may use the drives, but does not send their project. Raise as `find`, and
    `TryAgain` if UCloud does not answer.
    """
    _check_offered(adapter.config)
    try:
        user = Owner(created_by=read_username(username) or "")
    except ValidationError as error:
        raise InvalidInput("the header ucloud-username must contain the name of the user, in base64") from error
    account = adapter.usable_account_of(user)
    paths = []
    for at, folder in enumerate(folders):
        owner, drives = _ask(adapter, user, account, folder[1:].partition("/")[0], at)
        paths.append(_resolve(adapter, owner, account, at, folder, drives))
    return _look(adapter, account, paths)


def _ask(adapter: Adapter, user: Owner, account: str, id_: str, at: int) -> tuple[Owner, list[Drive]]:
    """Return the workspace of a drive, and the drive itself if only UCloud knows its folder."""
    config = adapter.config
    known = next((drive for drive in config.drives if drive.id == id_), None)
    if known is not None:
        by_project = known.projects and user.created_by not in known.users
        return _in_project(user, known.projects[0] if by_project else None), []
    if adapter.ucloud_drives is None or not may_be_ucloud_drive(id_):
        return user, []
    found = adapter.ucloud_drives.find(id_)
    if found is None:
        return user, []
    owner = _in_project(user, found.owner.project)
    if by_pattern(id_, config.drive_pattern, owner.created_by, owner.project, account) is not None:
        return owner, []
    drive = as_found(found, owner, config.provider, _place(at))
    return owner, [] if drive is None else [drive]


def _in_project(user: Owner, project: str | None) -> Owner:
    return Owner(created_by=user.created_by, project=project)


def _place(at: int) -> str:
    return f"items[{at}].folder"


def _check_offered(config: Config) -> None:
    for key, value in (("folder_shells", config.gateway.folder_shells), ("url", config.gateway.url)):
        if not value:
            raise NotOffered(
                f"this provider opens no terminals in folders: gateway.{key} is not set; running jobs have terminals"
            )


def _resolve(
    adapter: Adapter, owner: Owner, account: str, at: int, folder: str, drives: Sequence[Drive] = ()
) -> DrivePath:
    return resolve_path(
        folder,
        (*adapter.config.drives, *drives),
        user=owner.created_by,
        project=owner.project,
        field=_place(at),
        kind="directory",
        pattern=adapter.config.drive_pattern,
        account=account,
    )


def _look(adapter: Adapter, account: str, paths: Sequence[DrivePath]) -> list[FolderShell]:
    read_path_check(paths, adapter.transport.run(check_paths_command(paths, account)).stdout)
    return [FolderShell(account, path) for path in paths]

"""Where a shell on the login node may begin: folders of drives, looked at as the user whose shell it will be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from slurm_adapter.cluster.path_check import check_paths_command, read_path_check
from slurm_adapter.core.errors import InvalidInput, NotOffered
from slurm_adapter.core.specification import Owner
from slurm_adapter.gateway.sessions.access_grants import read_username
from slurm_adapter.gateway.sessions.sessions import Folder
from slurm_adapter.translation.drives import as_found, by_pattern, may_be_ucloud_drive, resolve_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.config import Config
    from slurm_adapter.core.config_tables import Drive
    from slurm_adapter.translation.drives import DrivePath


def find(adapter: Adapter, owner: Owner, folders: Sequence[str]) -> list[Folder]:
    """These folders of UCloud's, of the workspace's drives.

    Raises `NotOffered` where the site has no such shells, `InvalidInput` for one that this user or workspace may not
    use, is no folder, or leaves its drive, and what `Transport.run` raises.
    """
    _check_offered(adapter.config)
    account = adapter.usable_account_of(owner)
    return _look(adapter, account, [_resolve(adapter, owner, account, *each) for each in enumerate(folders)])


def find_for_ucloud(adapter: Adapter, folders: Sequence[str], username: str | None) -> list[Folder]:
    """The same for the user whom UCloud names in its header, in base64 (contract 3.2).

    Whether he may use the drives UCloud has asked itself, but it does not tell in which project they are. Raises
    `TryAgain`, too, where UCloud cannot be asked for a drive.
    """
    _check_offered(adapter.config)
    try:
        user = Owner(created_by=read_username(username) or "")
    except ValidationError as error:
        raise InvalidInput("the header ucloud-username must name the user whose shell it is, in base64") from error
    account = adapter.usable_account_of(user)
    paths = []
    for at, folder in enumerate(folders):
        owner, drives = _ask(adapter, user, account, folder[1:].partition("/")[0], at)
        paths.append(_resolve(adapter, owner, account, at, folder, drives))
    return _look(adapter, account, paths)


def _ask(adapter: Adapter, user: Owner, account: str, id_: str, at: int) -> tuple[Owner, list[Drive]]:
    """The workspace in which UCloud has a drive, and the drive where only UCloud knows its folder."""
    config = adapter.config
    known = next((drive for drive in config.drives if drive.id == id_), None)
    if known is not None:
        by_project = known.projects and user.created_by not in known.users
        return _in_project(user, known.projects[0] if by_project else None), []
    if adapter.ucloud_drives is None or not may_be_ucloud_drive(id_):
        return user, []
    told = adapter.ucloud_drives.find(id_)
    if told is None:
        return user, []
    owner = _in_project(user, told.owner.project)
    if by_pattern(id_, config.drive_pattern, owner.created_by, owner.project, account) is not None:
        return owner, []
    drive = as_found(told, owner, config.provider, _place(at))
    return owner, [] if drive is None else [drive]


def _in_project(user: Owner, project: str | None) -> Owner:
    return Owner(created_by=user.created_by, project=project)


def _place(at: int) -> str:
    return f"items[{at}].folder"


def _check_offered(config: Config) -> None:
    for key, value in (("folder_shells", config.gateway.folder_shells), ("url", config.gateway.url)):
        if not value:
            raise NotOffered(
                f"this provider opens no terminals in folders: gateway.{key} is not set; a job that runs has terminals"
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


def _look(adapter: Adapter, account: str, paths: Sequence[DrivePath]) -> list[Folder]:
    read_path_check(paths, adapter.transport.run(check_paths_command(paths, account)).stdout)
    return [Folder(account, path) for path in paths]

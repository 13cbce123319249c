"""Where a shell on the login node may begin: folders of drives, looked at as the user whose shell it will be."""

from __future__ import annotations

from base64 import b64decode
from typing import TYPE_CHECKING

from pydantic import ValidationError

from slurm_adapter.drives import DrivePath, check_paths_command, read_path_check, resolve_path
from slurm_adapter.errors import InvalidInput, NotOffered
from slurm_adapter.gateway.sessions import Folder
from slurm_adapter.specification import Owner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_adapter.config import Config
    from slurm_adapter.site import Site


def find(site: Site, owner: Owner, folders: Sequence[str]) -> list[Folder]:
    """These folders of UCloud's, of the workspace's drives.

    Raises `NotOffered` where the site has no such shells, `InvalidInput` for one that this user or workspace may not
    use, is no folder, or leaves its drive, and what `Transport.run` raises.
    """
    _check_offered(site.config)
    return _look(site, owner, [_resolve(site.config, owner, folder, at) for at, folder in enumerate(folders)])


def find_for_ucloud(site: Site, folders: Sequence[str], username: str | None) -> list[Folder]:
    """The same for the user whom UCloud names in its header, in base64 (contract 3.2).

    Whether he may use the drives UCloud has asked itself, but it does not tell in which project.
    """
    _check_offered(site.config)
    try:
        user = Owner(created_by=b64decode(username or "", validate=True).decode())
    except (ValueError, ValidationError) as error:
        raise InvalidInput("the header ucloud-username must name the user whose shell it is, in base64") from error
    projects = {drive.id: drive.projects for drive in site.config.drives if user.created_by not in drive.users}
    paths = []
    for at, folder in enumerate(folders):
        project = next(iter(projects.get(folder[1:].partition("/")[0], ())), None)
        paths.append(_resolve(site.config, Owner(created_by=user.created_by, project=project), folder, at))
    return _look(site, user, paths)


def _check_offered(config: Config) -> None:
    for key, value in (("folder_shells", config.gateway.folder_shells), ("url", config.gateway.url)):
        if not value:
            raise NotOffered(
                f"this provider opens no terminals in folders: gateway.{key} is not set; a job that runs has terminals"
            )


def _resolve(config: Config, owner: Owner, folder: str, at: int) -> DrivePath:
    return resolve_path(
        folder,
        config.drives,
        user=owner.created_by,
        project=owner.project,
        field=f"items[{at}].folder",
        kind="directory",
        pattern=config.drive_pattern,
    )


def _look(site: Site, owner: Owner, paths: Sequence[DrivePath]) -> list[Folder]:
    account = site.account_of(owner)
    read_path_check(paths, site.transport.run(check_paths_command(paths, account)).stdout)
    return [Folder(account, path) for path in paths]

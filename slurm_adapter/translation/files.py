"""Resolve the files of a job: its parameters, its resources, and the file that it opens."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.problems import for_message
from slurm_adapter.core.specification import FileValue, PeerValue, UnknownValue
from slurm_adapter.translation.drives import DrivePath, resolve_path
from slurm_adapter.translation.invocation import UNSUPPORTED_VALUES, DeclaredPeer, read_peer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slurm_adapter.core.config import Config
    from slurm_adapter.core.config_tables import Drive
    from slurm_adapter.core.specification import JobSpecification, Owner
    from slurm_adapter.translation.application import Application
    from slurm_adapter.translation.drives import Kind
    from slurm_adapter.translation.invocation import Resolve

_RESERVED_MOUNTS = ("/work", "/etc/ucloud", "/opt/ucloud")


@dataclass(frozen=True, slots=True)
class Resources:
    """Peers and files among a job's resources."""

    peers: list[DeclaredPeer] = field(default_factory=list)
    links: dict[str, DrivePath] = field(default_factory=dict)
    """Files, by the name of their link in the job's folder `mounts/`."""


def find_drive_path(
    config: Config, owner: Owner, account: str | None, drives: Sequence[Drive]
) -> Callable[..., DrivePath]:
    """Return `resolve_path` for one owner, with the drives of the configuration and `drives`."""
    return partial(
        resolve_path,
        drives=(*config.drives, *drives),
        user=owner.created_by,
        project=owner.project,
        pattern=config.drive_pattern,
        account=account,
    )


def resolve_file(find: Callable[..., DrivePath], value: FileValue, field: str, kind: Kind) -> DrivePath:
    """Return the path of a file value. Raise `InvalidInput` if it cannot be provided as requested."""
    path = find(value.path, field=f"{field}.path", kind=kind)
    if value.read_only and not path.read_only:
        raise InvalidInput(
            f"{field}.readOnly: true: users can write to drive {for_message(path.ucloud.split('/')[1])}, and jobs run "
            "as their users; use a drive with read_only in the site's configuration"
        )
    if value.mount_path and value.mount_path != path.cluster:
        reserved = any(f"{value.mount_path}/".startswith(f"{name}/") for name in _RESERVED_MOUNTS)
        raise InvalidInput(
            f"{field}.mountPath: {for_message(value.mount_path)}: "
            + ("is reserved; " if reserved else "")
            + f"files are not mounted; leave it empty, or use the path on the cluster, {for_message(path.cluster)}"
        )
    return path


def read_resources(specification: JobSpecification, application: Application, resolve: Resolve) -> Resources:
    """Return a job's resources. Raise `InvalidInput` for those that this site or the application does not support."""
    found = Resources()
    for number, value in enumerate(specification.resources):
        field = f"resources[{number}]"
        match value:
            case PeerValue():
                if application.job_linking is False:
                    raise InvalidInput(f"{field}: peer: the application {application} supports no additional peers")
                found.peers.append(read_peer(value, field))
            case FileValue():
                if application.folders is False:
                    raise InvalidInput(f"{field}: file: the application {application} supports no additional files")
                path = resolve(value, field, "any")
                if path.name in found.links:
                    raise InvalidInput(
                        f"{field}.path: {for_message(value.path)}: two files have the name {for_message(path.name)}"
                    )
                found.links[path.name] = path
            case UnknownValue():
                raise InvalidInput(f"{field}: unknown type of resource: {for_message(value.type)}")
            case _:
                reason = UNSUPPORTED_VALUES.get(value.type, "a value of this type belongs to parameters")
                raise InvalidInput(f"{field}: {value.type}: {reason}")
    return found

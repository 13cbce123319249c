"""Configuration of a site: one TOML file, which is read once and validated as a whole.

`config.example.toml` shows every key with its default, and a test compares both. The models are frozen: the
configuration does not change while the program runs.
"""

from __future__ import annotations

import re

from pydantic import Field, model_validator

from slurm_adapter.core.config_errors import wrong
from slurm_adapter.core.config_tables import (
    Cluster,
    CommandLine,
    Drive,
    DrivePattern,
    GatewayConfig,
    Identity,
    Jobs,
    Machine,
    Peers,
    Retention,
    Table,
    Ucloud,
)
from slurm_adapter.core.config_values import AbsolutePath
from slurm_adapter.core.states import BASE_STATES, FLAGS, JobState

FIRST_ID_BESIDE_UCLOUD = 10**12
"""Lowest id of other jobs at a site with UCloud. UCloud's ids are far below."""

_CLUSTER_NAME = r"[A-Za-z0-9_-]{1,64}"


class Config(Table):
    """The whole file. These keys stand above its first table."""

    provider: str = Field(
        pattern=r"^[A-Za-z0-9_-]{1,64}$", description="1 to 64 letters, digits, - and _: the provider's id in UCloud"
    )
    """The provider's id in UCloud: 1 to 64 letters, digits, `-` and `_`."""
    state_dir: AbsolutePath
    """The adapter's own folder, mode 700, on a local disk: database and locks."""
    shared_dir: str = Field(
        pattern=r"^/[^\x00\n]*[^/\x00\n]$", description="an absolute path on the cluster, without a slash at its end"
    )
    """The adapter's folder on the cluster's shared file system, mode 755. It holds `peers/`, with the hosts files."""
    first_id: int = Field(default=1, ge=1)
    """First id of jobs that do not come from UCloud. With `[ucloud]` at least 1000000000000."""
    templates: AbsolutePath | None = None
    """Folder with the site's own `job.sbatch.j2`, which replaces the packaged one."""
    applications: AbsolutePath | None = None
    """Folder with the site's own UCloud application files, which come before the packaged ones."""
    clusters: dict[str, Cluster] = Field(
        default={"main": Cluster()}, min_length=1, description="a table [clusters.NAME], or no table at all"
    )
    identity: Identity = Identity()
    command_line: CommandLine = CommandLine()
    jobs: Jobs = Jobs()
    machines: dict[str, dict[str, Machine]] = Field(
        min_length=1, description="a table [machines.CATEGORY.ID] for each product, with partition, cpus, memory, ..."
    )
    """Products, by category and id."""
    drives: tuple[Drive, ...] = ()
    drive_pattern: DrivePattern = DrivePattern()
    peers: Peers = Peers()
    retention: Retention = Retention()
    ucloud: Ucloud | None = None
    gateway: GatewayConfig = GatewayConfig()
    states: dict[str, JobState] = Field(default_factory=dict)
    """States of UCloud for words of Slurm, if the site wants others than the adapter's own table has."""

    @property
    def cluster_name(self) -> str:
        """Return the name of the only cluster."""
        return next(iter(self.clusters))

    @property
    def cluster(self) -> Cluster:
        """Return the only cluster."""
        return self.clusters[self.cluster_name]

    @model_validator(mode="after")
    def _one_cluster(self) -> Config:
        name, *others = self.clusters
        if others:
            raise wrong(
                f"one cluster is supported for now; keep this table or [clusters.{name}]", "clusters", others[0]
            )
        if not re.fullmatch(_CLUSTER_NAME, name):
            raise wrong(
                f"{name!r} is not allowed as a cluster's name; use 1 to 64 letters, digits, - and _", "clusters", name
            )
        for category, machines in self.machines.items():
            for id_, machine in machines.items():
                if machine.cluster is not None and machine.cluster != name:
                    raise wrong(
                        f"there is no table [clusters.{machine.cluster}]; the cluster is {name!r}",
                        "machines",
                        category,
                        id_,
                        "cluster",
                    )
        return self

    @model_validator(mode="after")
    def _one_account(self) -> Config:
        if self.cluster.scheduler == "pyslurm" and self.identity.mode != "service":
            raise wrong(
                '"pyslurm" needs identity.mode = "service", because libslurm acts as the account of its process; '
                'use "commands"',
                "clusters",
                self.cluster_name,
                "scheduler",
            )
        if self.cluster.scheduler == "pyslurm" and self.identity.sudo_helper is not None:
            raise wrong(
                'sudo_helper does not run Python, which "pyslurm" needs; remove it, or use "commands"',
                "identity",
                "sudo_helper",
            )
        return self

    @model_validator(mode="after")
    def _ids_differ(self) -> Config:
        if self.ucloud is not None and self.first_id < FIRST_ID_BESIDE_UCLOUD:
            raise wrong(
                f"{self.first_id} is too small: with [ucloud] it must be at least {FIRST_ID_BESIDE_UCLOUD}, "
                "so that the ids of UCloud's jobs are not used",
                "first_id",
            )
        return self

    @model_validator(mode="after")
    def _users_differ(self) -> Config:
        pattern = self.drive_pattern.user
        if self.identity.mode == "service" and pattern is not None and "{user}" not in pattern:
            raise wrong(
                f"{pattern!r} must contain {{user}}, because all users have the same account", "drive_pattern", "user"
            )
        return self

    @model_validator(mode="after")
    def _drives_differ(self) -> Config:
        paths: dict[str, str] = {}
        for number, drive in enumerate(self.drives):
            if drive.id in paths:
                raise wrong(
                    f"two drives have the id {drive.id!r}: {paths[drive.id]} and {drive.path}; keep one, or give the "
                    "other its own id",
                    "drives",
                    number,
                    "id",
                )
            paths[drive.id] = drive.path
        return self

    @model_validator(mode="after")
    def _words_known(self) -> Config:
        for word in self.states:
            if word not in BASE_STATES and word not in FLAGS:
                known = ", ".join((*BASE_STATES, *FLAGS))
                raise wrong(f"{word!r} is not a state of Slurm; its states are {known}", "states", word)
        return self

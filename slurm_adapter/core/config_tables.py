"""Tables of the configuration file. Every table is frozen. Durations are in seconds."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from slurm_adapter.core.config_errors import wrong
from slurm_adapter.core.config_values import (
    ACCOUNT_NAME,
    SBATCH_VALUE,
    URL,
    URL_FORM,
    AbsolutePath,
    check_pattern,
    read_duration,
)


class Table(BaseModel):
    """Table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Ssh(Table):
    """Login to the cluster by SSH. Unknown host keys are always refused."""

    host: str = Field(min_length=1, description="a name from ~/.ssh/config, a hostname or an address")
    """Name from `~/.ssh/config`, hostname or address of the login node."""
    user: str | None = None
    """Account on the login node. Default: as in the SSH configuration, otherwise the name of the account here."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """Port of the SSH server. Default: as in the SSH configuration, otherwise 22."""
    key: AbsolutePath | None = None
    """File with the private key, mode 600. Default: the keys of the SSH configuration and of the agent."""
    known_hosts: AbsolutePath | None = None
    """File with the known host keys. Default: as in the SSH configuration, otherwise `~/.ssh/known_hosts`."""
    config: AbsolutePath | None = None
    """SSH configuration file to read instead of `~/.ssh/config` and the system's file."""


class Cluster(Table):
    """The cluster, with a name of the site's choice, and how Slurm's commands run there. One cluster is supported."""

    transport: Literal["local", "ssh"] = "local"
    """`local`: Slurm's commands run on this machine. `ssh`: they run on a login node."""
    prefix: tuple[str, ...] = ()
    """Words before every command of the local transport, to enter a container or a namespace."""
    ssh: Ssh | None = None
    """See the table of this name. It belongs to `transport = "ssh"`."""
    path: str = "/usr/local/bin:/usr/bin:/bin"
    """PATH on the cluster for Slurm's commands."""
    scheduler: Literal["commands", "pyslurm"] = "commands"
    """`commands`: Slurm's commands are used. `pyslurm`: libslurm is used, through pyslurm, which must be installed."""
    pyslurm_python: str | None = None
    """Python that has pyslurm. Default: the Python of the adapter. `prefix` applies to it, too."""
    slurm_conf: str | None = None
    """SLURM_CONF for Slurm's commands and jobs, if the site needs one."""
    message_timeout: int = Field(default=10, ge=1)
    """MessageTimeout of Slurm, in seconds: an accepted submission may stay unseen for so long."""
    operator: tuple[str, ...] = ()
    """Words before `scontrol` for extending, suspending and resuming jobs, which need an operator of Slurm. Empty: none
    of this is offered. If `slurm_conf` is set, the last words are `"env", "SLURM_CONF=..."`."""

    @model_validator(mode="after")
    def _complete(self) -> Cluster:
        if (self.transport == "ssh") != (self.ssh is not None):
            raise wrong(
                'transport = "ssh" and a table [clusters.NAME.ssh] go together: '
                + ("add the table, with host" if self.ssh is None else 'set transport = "ssh", or remove the table'),
                *(("transport",) if self.ssh is None else ("ssh",)),
            )
        if self.prefix and self.transport == "ssh":
            raise wrong("prefix is for the local transport only; remove it", "prefix")
        if self.scheduler == "pyslurm" and self.transport == "ssh":
            raise wrong('scheduler = "pyslurm" is for the local transport only; use "commands"', "scheduler")
        return self


class Identity(Table):
    """The account on the cluster that runs a job."""

    mode: Literal["sudo", "service"] = "sudo"
    """`sudo`: the account of the job's owner. `service`: one account for all jobs (a single tenant)."""
    service_user: str | None = None
    """Account of mode `service`. It is not the adapter's own account."""
    users: dict[str, str] = Field(default_factory=dict)
    """Account of each UCloud user, as `getent passwd` on the cluster calls it."""
    pattern: str | None = None
    """Account of users who are not in `users`, such as `{user}`. Default: they are refused."""
    sudo_helper: str | None = Field(
        default=None, pattern=r"^/[^\x00\n]*$", description="an absolute path on the cluster, without line breaks"
    )
    """Absolute path of the only program that the sudo rule allows, instead of ALL. `slurm-adapter sudo-helper` prints
    it."""
    lowest_uid: int = Field(default=1000, ge=1)
    """Lowest uid of an account that may run jobs; see UID_MIN in login.defs(5). Root, nobody, Slurm's accounts and the
    adapter's own are refused in any case."""

    @model_validator(mode="after")
    def _complete(self) -> Identity:
        if (self.mode == "service") != (self.service_user is not None):
            missing = self.service_user is None
            raise wrong(
                'mode = "service" and service_user go together; ' + ("add it" if missing else "set mode, or remove it"),
                "mode" if missing else "service_user",
            )
        accounts: list[tuple[tuple[str, ...], str]] = [
            (("users", user), account) for user, account in self.users.items()
        ]
        if self.service_user is not None:
            accounts.append((("service_user",), self.service_user))
        for key, account in accounts:
            if not ACCOUNT_NAME.fullmatch(account) or account == "root":
                raise wrong(
                    f'{account!r} is not an account that may run jobs; write UCLOUD_USER = "account", never root',
                    *key,
                )
        if self.pattern is not None:
            try:
                check_pattern(self.pattern, ("user",), ("user",))
            except ValueError as error:
                raise wrong(f"{self.pattern!r}: {error}", "pattern") from error
        return self


class CommandLine(Table):
    """Owner of jobs that are submitted on the command line without `--user` and `--project`."""

    user: str | None = None
    """UCloud user."""
    project: str | None = None
    """UCloud project. Default: the personal workspace."""


class Jobs(Table):
    """Folders, time limits and submission of jobs."""

    folder: str = "/home/{user}/ucloud-jobs/{id}"
    """A job's folder on the shared file system. Its parent exists and belongs to the job's account. For a job from
    UCloud, `{id}` is the job's id with a random part."""
    default_time: Annotated[int, Field(gt=0)] = 3600
    """Time limit of a job without a time allocation."""
    lost_after: Annotated[int, Field(gt=0)] = 3600
    """Time after which a job that a healthy controller does not know is given up as lost."""
    attempts: int = Field(default=5, ge=1)
    """Number of submissions of a job if each answer of sbatch is lost and Slurm never has the job. Then it fails."""
    retry: Annotated[int, Field(ge=0)] = 86400
    """Time for which a job that Slurm refuses temporarily is retried, such as for a limit on queued jobs."""
    srun: Annotated[tuple[str, ...], Field(min_length=1, description='words such as ["srun"]')] = ("srun",)
    """Words that `srun()` in an application's template expands to: the command, then flags."""
    system_load: str = ""
    """Shell text for `{- systemLoad -}` in an application's template."""
    system_unload: str = ""
    """Shell text for `{- systemUnload -}` in an application's template."""
    allow_unconfined: bool = False
    """Render templates that the site did not write, even if this machine cannot confine the process that renders
    them."""

    _read_times = field_validator("default_time", "lost_after", "retry", mode="before")(read_duration)

    @field_validator("folder")
    @classmethod
    def _folder(cls, value: str) -> str:
        path = PurePosixPath(value)
        if not path.is_absolute() or ".." in path.parts or "{id}" not in path.name:
            raise ValueError(
                "must be an absolute path with {id} in its last component, such as /home/{user}/ucloud-jobs/{id}"
            )
        check_pattern(value, ("user", "id"), ("id",))
        if re.search(r"[\x00-\x1f\\]", value):  # a backslash changes how sbatch(1) reads % in file names
            raise ValueError("must contain no backslashes and no control characters")
        return value


class Retention(Table):
    """Time for which things are kept after a job has ended. A pending or running job loses nothing."""

    logs: Annotated[int | None, Field(ge=3600)] = None
    """Standard output and standard error. Default: as long as the folder."""
    folders: Annotated[int | None, Field(ge=3600)] = None
    """The job's folder, with what the application wrote there. Default: for ever."""
    records: Annotated[int, Field(ge=3600)] = 365 * 86400
    """The record of the job in the database. Afterwards its idempotency key makes a new job."""

    _read_times = field_validator("logs", "folders", "records", mode="before")(read_duration)

    @model_validator(mode="after")
    def _ordered(self) -> Retention:
        for name, each in (("logs", self.logs), ("folders", self.folders)):
            if each is not None and each > self.records:
                raise wrong(
                    f"{name} are kept longer than records, without which they cannot be found; raise records", name
                )
        return self


class Machine(Table):
    """Product of UCloud on the cluster."""

    cluster: str | None = None
    """Name of the machine's cluster: the NAME of its table `[clusters.NAME]`. Default: the only cluster."""
    partition: str = Field(pattern=SBATCH_VALUE, description="the name of a partition of Slurm")
    """Partition of Slurm."""
    qos: str | None = Field(
        default=None, pattern=SBATCH_VALUE, description="the name of a QOS of Slurm; leave it out if there is none"
    )
    """QOS of Slurm."""
    account: str | None = Field(
        default=None, pattern=SBATCH_VALUE, description="the name of an account of Slurm; leave it out if there is none"
    )
    """Account of Slurm."""
    constraint: str | None = Field(
        default=None,
        pattern=SBATCH_VALUE,
        description="features of nodes, as for --constraint; leave it out if there are none",
    )
    """Features of nodes, as for `--constraint`."""
    cpus: int = Field(ge=1)
    """Processors of a node."""
    memory: int = Field(ge=1)
    """Memory of a node, in GiB."""
    gpus: int = Field(default=0, ge=0)
    """GPUs of a node."""
    gpu_type: str | None = Field(
        default=None, pattern=SBATCH_VALUE, description="the type of GPUs in Slurm; leave it out if there is none"
    )
    """Type of GPUs in Slurm."""
    cpu_model: str | None = None
    """Model of the processors, for users."""
    memory_model: str | None = None
    """Model of the memory, for users."""
    gpu_model: str | None = None
    """Model of the GPUs, for users."""
    exclusive: bool = False
    """Allocate whole nodes only."""
    max_nodes: int = Field(ge=1)
    """Largest number of replicas of a job."""
    max_time: Annotated[int, Field(gt=0)]
    """Longest time allocation of a job."""

    _read_time = field_validator("max_time", mode="before")(read_duration)


class Drive(Table):
    """Drive of UCloud on the cluster."""

    id: str = Field(
        pattern=r"^([^/.\x00\n]|\.[^/.\x00\n]|\.\.[^/\x00\n])[^/\x00\n]*$",
        description="the drive's id in UCloud, without a slash, and neither . nor ..",
    )
    """Id of the drive in UCloud, without a slash: the first component of a UCloud path."""
    path: str = Field(pattern=r"^/[^\x00\n]*$", description="an absolute path on the cluster")
    """The drive's folder on the cluster, as an absolute path."""
    users: tuple[str, ...] = ()
    """UCloud users who may use it."""
    projects: tuple[str, ...] = ()
    """UCloud projects. All their members may use it. A drive with neither users nor projects is open to all."""
    read_only: bool = False
    """Users cannot write to it, by means of the file system. Only such a drive may be requested read-only."""


class DrivePattern(Table):
    """Folders of drives that are not in the table. A job's paths then lie in folders of its own workspace."""

    user: str | None = None
    """Folder of a personal drive, from `{user}` (the UCloud user), `{account}` (on the cluster) and `{drive}` (its id).
    Default: there are none."""
    project: str | None = None
    """Folder of a project's drive, from `{project}` (its id), `{user}`, `{account}` and `{drive}`. Default: there are
    none."""

    @model_validator(mode="after")
    def _usable(self) -> DrivePattern:
        for name, pattern, known in (
            ("user", self.user, ("user", "account", "drive")),
            ("project", self.project, ("project", "user", "account", "drive")),
        ):
            if pattern is None:
                continue
            path = PurePosixPath(pattern)
            if not path.is_absolute() or ".." in path.parts or re.search(r"[\x00-\x1f]", pattern):
                raise wrong(f"{pattern!r}: must be an absolute path without ..", name)
            try:
                check_pattern(pattern, known, ("drive",))
                check_pattern(pattern, known, ("project",) if name == "project" else ("user", "account"))
            except ValueError as error:
                raise wrong(f"{pattern!r}: {error}", name) from error
        return self


class Peers(Table):
    """Names by which jobs find each other."""

    wait: Annotated[int, Field(ge=0)] = 600
    """Time for which a job waits for its peers to start."""
    address: str | None = None
    """Pattern such as `{node}-ib0`, which is resolved on the cluster, instead of Slurm's NodeAddr."""
    reserved: tuple[str, ...] = ()
    """Names that no job may declare. Names of nodes and those in the cluster's `/etc/hosts` are reserved in any
    case."""
    private: bool = False
    """Write each job's hosts view to its own folder, readable by its user only, and no shared hosts file."""
    always: bool = False
    """Make a namespace for every job, so that peers can be attached while it runs."""
    allow_env: bool = False
    """Run a job if its names cannot be made to resolve, with `$UCLOUD_HOSTS_FILE` only."""
    methods: Annotated[
        tuple[Literal["unshare", "bwrap", "nss_wrapper"], ...],
        Field(min_length=1, description='one or more of "unshare", "bwrap" and "nss_wrapper"'),
    ] = ("unshare", "bwrap", "nss_wrapper")
    """Methods that give a job its names, in the order in which they are tried."""

    _read_time = field_validator("wait", mode="before")(read_duration)

    @field_validator("address")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None:
            check_pattern(value, ("node",), ("node",))
        return value


class Ucloud(Table):
    """The UCloud that submits jobs here. Without this table there is no provider API."""

    url: str = Field(pattern=URL, description=URL_FORM)
    """Address of UCloud: `http://` or `https://`, a host and perhaps a port, without a path."""
    key: AbsolutePath
    """File with the public key of UCloud's tokens: PEM, a PEM certificate, or base64 of the DER, as UCloud shows it."""
    refresh_token: AbsolutePath
    """File with the refresh token that UCloud showed when the provider was registered, mode 600."""
    issuer: str = "cloud.sdu.dk"
    """Issuer in UCloud's tokens."""
    ask_for_drives: bool = False
    """Ask UCloud for drives that are neither in the table nor under the pattern."""


class GatewayConfig(Table):
    """Settings of `slurm-adapter serve`."""

    listen: str = "127.0.0.1"
    """Address to listen on. A reverse proxy adds TLS."""
    port: int = Field(default=8889, ge=0, le=65535)
    """Port to listen on."""
    url: str | None = Field(default=None, pattern=URL, description=URL_FORM)
    """Address at which browsers reach the gateway, as `https://HOST`. Default: UCloud's users get no shells, web and
    VNC sessions."""
    stand_alone: bool = True
    """Serve `/api/jobs`, for users with access tokens."""
    refuse_duplicates: bool = False
    """Refuse a job with the same specification as another job of the owner that has not ended."""
    folder_shells: bool = False
    """Give users shells on the cluster's login node, in folders of their drives. Such a shell is not confined to the
    drive."""
    project_sessions: bool = False
    """Members of a job's project may open shell, web and VNC sessions with it, too. These act as the account of the
    job's owner."""
    web_domain: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9.-]*\{job\}-\{rank\}[a-z0-9.-]*(:[0-9]{1,5})?$",
        description="a hostname in lower case with {job}-{rank}, such as app-{job}-{rank}.example.org",
    )
    """Domain of a job's web application, in lower case, with `{job}-{rank}`. Default: there are no web and VNC
    sessions."""
    reaches_nodes: bool = False
    """This machine reaches the ports of compute nodes. Otherwise connections go through commands on the login node."""
    body_limit: int = Field(default=32, ge=1, le=1024)
    """Largest request of UCloud, in MiB."""

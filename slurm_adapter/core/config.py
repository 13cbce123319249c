"""The site's configuration: one TOML file, read once, checked whole before anything is done.

`config.example.toml` shows every key with its default; a test holds the two together. The models here are frozen:
what a run was started with is what it ends with.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from slurm_adapter.core.config_errors import wrong
from slurm_adapter.core.durations import parse_duration
from slurm_adapter.core.states import BASE_STATES, FLAGS, JobState

if TYPE_CHECKING:
    from collections.abc import Sequence

ACCOUNT_NAME = re.compile(r"(?![-+#.]|\d+$)[^\x00-\x1f\x7f:,/\s](?:[^\x00-\x1f\x7f:,/]{0,254}[^\x00-\x1f\x7f:,/\s])?")
"""What an account may be called here: what passwd(5) can hold, and no command takes for something else.

Names of digits alone, with `+` or with `#` before them are uids to id(1) and sudo(8). A comma separates names for
squeue(1), a first `-` makes an option, and a slash or a first dot leads out of a folder.
"""

FIRST_ID_BESIDE_UCLOUD = 10**12
"""UCloud's own ids come nowhere near it."""

_VALUE = r"^\S(.*\S)?$"
"""What becomes the value of an option of sbatch."""

_URL = r"^https?://[^/\s]+$"
_URL_WORDS = "http:// or https:// and a host, with a port if it has one, and without a path"


_NO_UNITS = (
    'a number has no units: write "HH:MM:SS" or "D-HH:MM:SS", such as "48:00:00" for 48 hours or "00:48:00" for 48 '
    "minutes"
)


def _duration(value: object) -> object:
    if isinstance(value, str):
        return parse_duration(value)
    if type(value) in {int, float}:
        raise PydanticCustomError("duration", _NO_UNITS)
    return value  # which pydantic refuses


def _absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError("must be an absolute path: ~ and relative paths depend on who starts the program, and where")
    return value


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


def _check_pattern(pattern: str, known: Sequence[str], required: Sequence[str]) -> None:
    """Raise `ValueError` for braces that mean nothing, or that have to be there and are not."""
    allowed = ", ".join(f"{{{name}}}" for name in known)
    if re.search(r"[{}]", re.sub(rf"\{{({'|'.join(known)})\}}", "", pattern)):
        raise ValueError(f"known in braces: {allowed}")
    if not any(f"{{{name}}}" in pattern for name in required):
        raise ValueError(f"holds no {' or '.join(f'{{{name}}}' for name in required)}: it would be the same for all")


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ssh(_Table):
    """How to reach the cluster's login node by SSH. Unknown host keys are always refused."""

    host: str = Field(min_length=1, description="a name from ~/.ssh/config, a host name or an address")
    """A name from `~/.ssh/config`, a host name or an address."""
    user: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    key: AbsolutePath | None = None
    """A private key's file; without it the keys of the SSH configuration and the agent are tried."""
    known_hosts: AbsolutePath | None = None
    """Instead of `~/.ssh/known_hosts`."""
    config: AbsolutePath | None = None
    """Instead of `~/.ssh/config` and the system's file."""


class Cluster(_Table):
    """Where Slurm's commands are run."""

    transport: Literal["local", "ssh"] = "local"
    prefix: tuple[str, ...] = ()
    """Words put before every command of the local transport, to enter a container or a namespace."""
    ssh: Ssh | None = None
    path: str = "/usr/local/bin:/usr/bin:/bin"
    """PATH on the cluster for Slurm's commands."""
    scheduler: Literal["commands", "pyslurm"] = "commands"
    """How Slurm is spoken to: by its commands, or by libslurm through pyslurm (an extra; see README)."""
    pyslurm_python: str | None = None
    """The Python that has pyslurm, if it is not the adapter's own; `prefix` applies to it too."""
    slurm_conf: str | None = None
    """SLURM_CONF for Slurm's commands and jobs, where the site needs one."""
    message_timeout: int = Field(default=10, ge=1)
    """Slurm's MessageTimeout in seconds: how long an accepted submission may stay unseen."""
    operator: tuple[str, ...] = ()
    """Words put before the commands that only an operator of Slurm may give: to extend, suspend and resume jobs."""

    @model_validator(mode="after")
    def _complete(self) -> Cluster:
        if (self.transport == "ssh") != (self.ssh is not None):
            raise wrong(
                'transport = "ssh" and a table [cluster.ssh] go together: '
                + ("add the table, with host" if self.ssh is None else 'set transport = "ssh", or remove the table'),
                *(("transport",) if self.ssh is None else ("ssh",)),
            )
        if self.prefix and self.transport == "ssh":
            raise wrong("prefix is for the local transport only; remove it", "prefix")
        if self.scheduler == "pyslurm" and self.transport == "ssh":
            raise wrong('scheduler = "pyslurm" is for the local transport only; use "commands"', "scheduler")
        return self


class Identity(_Table):
    """Which account of the cluster runs a job."""

    mode: Literal["sudo", "service"] = "sudo"
    """`sudo`: the account of the job's owner. `service`: one account for all jobs (a single tenant)."""
    service_user: str | None = None
    """The account of mode `service`. Not the adapter's own."""
    users: dict[str, str] = Field(default_factory=dict)
    """UCloud user name to account, as `getent passwd` on the cluster calls it; see `ACCOUNT_NAME`."""
    pattern: str | None = None
    """The account of users who are not in `users`, e.g. "{user}"; without it they are refused."""
    sudo_helper: str | None = Field(
        default=None, pattern=r"^/[^\x00\n]*$", description="an absolute path on the cluster, without line breaks"
    )
    """The only program that the sudo rule for the adapter allows; `slurm-adapter sudo-helper` prints it (README)."""
    lowest_uid: int = Field(default=1000, ge=1)
    """Accounts with a lower uid on the cluster run nothing; see UID_MIN in login.defs(5)."""

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
                    f'{account!r} is not an account that may run jobs; write UCLOUD_USER = "account", and never root',
                    *key,
                )
        if self.pattern is not None:
            try:
                _check_pattern(self.pattern, ("user",), ("user",))
            except ValueError as error:
                raise wrong(f"{self.pattern!r}: {error}", "pattern") from error
        return self


class CommandLine(_Table):
    """Whom jobs handed in on the command line belong to, unless told otherwise there."""

    user: str | None = None
    project: str | None = None


class Jobs(_Table):
    """Where jobs live and how long they may run."""

    folder: str = "/home/{user}/ucloud-jobs/{id}"
    """A job's folder on the shared file system. Its parent belongs to the job's user."""
    default_time: Annotated[int, Field(gt=0)] = 3600
    """The time limit, in seconds, of a job that names none. In the file: "HH:MM:SS"."""
    lost_after: Annotated[int, Field(gt=0)] = 3600
    """Seconds after which a job that a healthy controller knows nothing of is given up. In the file: "HH:MM:SS"."""
    attempts: int = Field(default=5, ge=1)
    """How often a job is given to sbatch if its answer is lost each time and Slurm never has the job."""
    retry: Annotated[int, Field(ge=0)] = 86400
    """Seconds for which a job is tried again that Slurm refuses only for now. In the file: "D-HH:MM:SS"."""
    srun: Annotated[tuple[str, ...], Field(min_length=1, description='words such as ["srun"]')] = ("srun",)
    """What `srun()` in an application's template expands to."""
    system_load: str = ""
    """Shell text for `{- systemLoad -}` in an application's template."""
    system_unload: str = ""
    allow_unconfined: bool = False
    """Render templates that the site did not write though this machine cannot confine their renderer."""

    _read_times = field_validator("default_time", "lost_after", "retry", mode="before")(_duration)

    @field_validator("folder")
    @classmethod
    def _folder(cls, value: str) -> str:
        path = PurePosixPath(value)
        if not path.is_absolute() or ".." in path.parts or "{id}" not in path.name:
            raise ValueError(
                "must be an absolute path whose last part holds {id}, such as /home/{user}/ucloud-jobs/{id}"
            )
        _check_pattern(value, ("user", "id"), ("id",))
        if re.search(r"[\x00-\x1f\\]", value):  # sbatch(1): a backslash changes how it reads % in file names
            raise ValueError("must hold no backslashes and no control characters")
        return value


class Retention(_Table):
    """How long what has to do with a job is kept once it has ended. None of it is ever taken from a job that lives."""

    logs: Annotated[int | None, Field(ge=3600)] = None
    """Seconds, as are all of these. In the file: "D-HH:MM:SS". None: as long as the folder."""
    folders: Annotated[int | None, Field(ge=3600)] = None
    """With all that is in them, what the application wrote there included. None: for ever."""
    records: Annotated[int, Field(ge=3600)] = 365 * 86400
    """What is remembered of the job; a key that it was handed in with is a new one afterwards."""

    _read_times = field_validator("logs", "folders", "records", mode="before")(_duration)

    @model_validator(mode="after")
    def _ordered(self) -> Retention:
        for name, each in (("logs", self.logs), ("folders", self.folders)):
            if each is not None and each > self.records:
                raise wrong(
                    f"{name} are kept longer than records, which alone know where they are; raise records", name
                )
        return self


class Machine(_Table):
    """What a UCloud product is on this cluster."""

    partition: str = Field(pattern=_VALUE, description="the name of a partition of Slurm")
    qos: str | None = Field(
        default=None, pattern=_VALUE, description="the name of a QOS of Slurm; without it leave it out"
    )
    account: str | None = Field(
        default=None, pattern=_VALUE, description="the name of an account of Slurm; without it leave it out"
    )
    constraint: str | None = Field(
        default=None, pattern=_VALUE, description="features of nodes, as for --constraint; without them leave it out"
    )
    cpus: int = Field(ge=1)
    """Per node."""
    memory: int = Field(ge=1)
    """Per node, in GiB."""
    gpus: int = Field(default=0, ge=0)
    """Per node."""
    gpu_type: str | None = Field(
        default=None, pattern=_VALUE, description="the type of GPUs in Slurm; without it leave it out"
    )
    cpu_model: str | None = None
    memory_model: str | None = None
    gpu_model: str | None = None
    exclusive: bool = False
    """Whole nodes only."""
    max_nodes: int = Field(ge=1)
    """The most replicas of a job. `check` compares it with the partition."""
    max_time: Annotated[int, Field(gt=0)]
    """The longest time allocation, in seconds. In the file: "HH:MM:SS"."""

    _read_time = field_validator("max_time", mode="before")(_duration)


class Drive(_Table):
    """A UCloud drive on this cluster."""

    id: str = Field(
        pattern=r"^([^/.\x00\n]|\.[^/.\x00\n]|\.\.[^/\x00\n])[^/\x00\n]*$",
        description="the drive's id in UCloud, without a slash, and neither . nor ..",
    )
    """The first component of a UCloud path."""
    path: str = Field(pattern=r"^/[^\x00\n]*$", description="an absolute path on the cluster")
    """The drive's folder on the cluster."""
    users: tuple[str, ...] = ()
    """UCloud users who may use it."""
    projects: tuple[str, ...] = ()
    """UCloud projects whose members may use it. A drive with neither users nor projects is open to all."""
    read_only: bool = False


class DrivePattern(_Table):
    """Where drives are that are in no table. A job's paths then lie in the folders of its own workspace."""

    user: str | None = None
    """The folder of a personal drive, from {user} (the UCloud user), {account} (that he has on the cluster) and {drive}
    (its id). None: there are none."""
    project: str | None = None
    """The folder of a project's drive, from {project} (its id), {user}, {account} and {drive}. None: there are none."""

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
                _check_pattern(pattern, known, ("drive",))
                _check_pattern(pattern, known, ("project",) if name == "project" else ("user", "account"))
            except ValueError as error:
                raise wrong(f"{pattern!r}: {error}", name) from error
        return self


class Peers(_Table):
    """How jobs find each other by name."""

    wait: Annotated[int, Field(ge=0)] = 600
    """Seconds a job waits for its peers to start. In the file: "HH:MM:SS"."""
    address: str | None = None
    """A pattern such as "{node}-ib0" that is resolved on the cluster instead of Slurm's NodeAddr."""
    reserved: tuple[str, ...] = ()
    """Names that no job may declare, besides the nodes' own."""
    private: bool = False
    """Views in the job's folder, readable by its user only, and no shared file."""
    always: bool = False
    """A namespace for every job, so that peers can be attached while it runs."""
    allow_env: bool = False
    """Run a job whose names cannot be made to resolve, with UCLOUD_HOSTS_FILE only."""
    methods: Annotated[
        tuple[Literal["unshare", "bwrap", "nss_wrapper"], ...],
        Field(min_length=1, description='one or more of "unshare", "bwrap" and "nss_wrapper"'),
    ] = ("unshare", "bwrap", "nss_wrapper")
    """The ways to give a job its names, in the order in which they are tried."""

    _read_time = field_validator("wait", mode="before")(_duration)

    @field_validator("address")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None:
            _check_pattern(value, ("node",), ("node",))
        return value


class Ucloud(_Table):
    """The UCloud that sends jobs here. Without it there is no door for it."""

    url: str = Field(pattern=_URL, description=_URL_WORDS)
    """Where it is told what becomes of its jobs."""
    key: AbsolutePath
    """The public key that its tokens are signed with: PEM, or base64 of the DER, as UCloud shows it."""
    refresh_token: AbsolutePath
    """The file with the token that UCloud showed when the provider was registered. For this account's eyes only."""
    issuer: str = "cloud.sdu.dk"
    """Who its tokens say has issued them."""
    ask_for_drives: bool = False
    """Ask it for drives that are neither in the table nor under the pattern; see `slurm_adapter.translation.drives`."""


class Gateway(_Table):
    """What `serve` offers."""

    listen: str = "127.0.0.1"
    """The address. TLS is a reverse proxy's business (README)."""
    port: int = Field(default=8889, ge=0, le=65535)
    url: str | None = Field(default=None, pattern=_URL, description=_URL_WORDS)
    """Where browsers reach it; without it there are no shells, no web and no VNC sessions for UCloud's users."""
    stand_alone: bool = True
    """Serve `/api/jobs`, for users with tokens of `slurm-adapter token`."""
    refuse_duplicates: bool = False
    """Refuse a job whose specification is that of another job of the same owner that has not ended."""
    folder_shells: bool = False
    """Users get shells on the cluster's login node, in folders of their drives. With `url`."""
    project_sessions: bool = False
    """Members of a job's project open shells, web and VNC sessions with it, which act as the account of its owner."""
    web_domain: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9.-]*\{job\}-\{rank\}[a-z0-9.-]*(:[0-9]{1,5})?$",
        description="a host name in lower case that holds {job}-{rank}, such as app-{job}-{rank}.example.org",
    )
    """Where a job's web application is seen, e.g. "app-{job}-{rank}.example.org"; without it there are none."""
    reaches_nodes: bool = False
    """The compute nodes' ports are reached from this machine; otherwise by commands on the cluster's login node."""
    body_limit: int = Field(default=32, ge=1, le=1024)
    """The largest request, in MiB."""


class Config(_Table):
    """The whole file."""

    provider: str = Field(
        pattern=r"^[A-Za-z0-9_-]{1,64}$", description="1 to 64 letters, digits, - and _: the provider's id in UCloud"
    )
    """The provider's id in UCloud."""
    state: AbsolutePath
    """The adapter's own folder on a local disk: database and locks."""
    shared: str = Field(
        pattern=r"^/[^\x00\n]*[^/\x00\n]$", description="an absolute path on the cluster, without a slash at its end"
    )
    """The adapter's folder on the cluster's shared file system; `peers/` is in it."""
    first_id: int = Field(default=1, ge=1)
    """The first id of jobs that do not come from UCloud."""
    templates: AbsolutePath | None = None
    """The site's templates, looked in before the packaged ones."""
    applications: AbsolutePath | None = None
    """The site's folder of UCloud application files, looked in before the packaged ones."""
    cluster: Cluster = Cluster()
    identity: Identity = Identity()
    command_line: CommandLine = CommandLine()
    jobs: Jobs = Jobs()
    machines: dict[str, dict[str, Machine]] = Field(
        min_length=1, description="a table [machines.CATEGORY.ID] for each product, with partition, cpus, memory, ..."
    )
    """By product category, then product id."""
    drives: tuple[Drive, ...] = ()
    drive_pattern: DrivePattern = DrivePattern()
    peers: Peers = Peers()
    retention: Retention = Retention()
    ucloud: Ucloud | None = None
    gateway: Gateway = Gateway()
    states: dict[str, JobState] = Field(default_factory=dict)
    """Slurm's state words to UCloud's states, where the site wants another one than the adapter's table."""

    @model_validator(mode="after")
    def _one_account(self) -> Config:
        if self.cluster.scheduler == "pyslurm" and self.identity.mode != "service":
            raise wrong(
                '"pyslurm" goes with identity.mode = "service": libslurm speaks as the account of its process, and '
                'there is one for all jobs; use "commands"',
                "cluster",
                "scheduler",
            )
        if self.cluster.scheduler == "pyslurm" and self.identity.sudo_helper is not None:
            raise wrong(
                'sudo_helper starts no Python, which "pyslurm" needs; remove it, or use "commands"',
                "identity",
                "sudo_helper",
            )
        return self

    @model_validator(mode="after")
    def _ids_differ(self) -> Config:
        if self.ucloud is not None and self.first_id < FIRST_ID_BESIDE_UCLOUD:
            raise wrong(
                f"{self.first_id} is too small: with [ucloud] it is at least {FIRST_ID_BESIDE_UCLOUD}, for UCloud's "
                "ids are below, and no two jobs may share folders and names",
                "first_id",
            )
        return self

    @model_validator(mode="after")
    def _users_differ(self) -> Config:
        pattern = self.drive_pattern.user
        if self.identity.mode == "service" and pattern is not None and "{user}" not in pattern:
            raise wrong(
                f"{pattern!r} holds no {{user}}, and there is one account for all users", "drive_pattern", "user"
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
                raise wrong(f"{word!r} is no state of Slurm; known are {known}", "states", word)
        return self

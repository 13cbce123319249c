"""The site's configuration: one TOML file, read once, checked whole before anything is done.

`config.example.toml` shows every key with its default; a test holds the two together. The models here are frozen:
what a run was started with is what it ends with.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from slurm_adapter.errors import InvalidConfig
from slurm_adapter.states import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ACCOUNT_NAME = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")
"""What a Unix account may be called here (useradd(8), with the dot that many sites use)."""

FIRST_ID_BESIDE_UCLOUD = 10**12
"""UCloud's own ids come nowhere near it."""

_DURATION = re.compile(r"(?:(\d+)-)?(\d{1,3}):(\d{2}):(\d{2})", re.ASCII)


def parse_duration(text: str) -> int:
    """`[D-]HH:MM:SS` in seconds.

    Of Slurm's forms only the unambiguous one is taken: `90` would be minutes to Slurm and seconds to most people.
    """
    match = _DURATION.fullmatch(text)
    if match is None or int(match[3]) > 59 or int(match[4]) > 59:
        raise ValueError(f"{text!r} is no duration: write HH:MM:SS or D-HH:MM:SS")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ssh(_Table):
    """How to reach the cluster's login node by SSH. Unknown host keys are always refused."""

    host: str = Field(min_length=1)
    """A name from `~/.ssh/config`, a host name or an address."""
    user: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    key: Path | None = None
    """A private key's file; without it the keys of the SSH configuration and the agent are tried."""
    known_hosts: Path | None = None
    """Instead of `~/.ssh/known_hosts`."""
    config: Path | None = None
    """Instead of `~/.ssh/config`."""


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
    slurm_conf: str | None = None
    """SLURM_CONF for Slurm's commands and jobs, where the site needs one."""
    message_timeout: int = Field(default=10, ge=1)
    """Slurm's MessageTimeout in seconds: how long an accepted submission may stay unseen."""
    operator: tuple[str, ...] = ()
    """Words put before the commands that only an operator of Slurm may give: to extend, suspend and resume jobs."""

    @model_validator(mode="after")
    def _complete(self) -> Cluster:
        if (self.transport == "ssh") != (self.ssh is not None):
            raise ValueError('transport = "ssh" and a table [cluster.ssh] go together')
        if self.prefix and self.transport == "ssh":
            raise ValueError("prefix is for the local transport only")
        if self.scheduler == "pyslurm" and self.transport == "ssh":
            raise ValueError('scheduler = "pyslurm" is for the local transport only')
        return self


class Identity(_Table):
    """Which account of the cluster runs a job."""

    mode: Literal["sudo", "service"] = "sudo"
    """`sudo`: the account of the job's owner. `service`: one account for all jobs (a single tenant)."""
    service_user: str | None = None
    """The account of mode `service`. Not the adapter's own."""
    users: dict[str, str] = Field(default_factory=dict)
    """UCloud user name to account."""
    pattern: str | None = None
    """The account of users who are not in `users`, e.g. "{user}"; without it they are refused."""

    @model_validator(mode="after")
    def _complete(self) -> Identity:
        if (self.mode == "service") != (self.service_user is not None):
            raise ValueError('mode = "service" and service_user go together')
        for account in (*self.users.values(), *filter(None, [self.service_user])):
            if not ACCOUNT_NAME.fullmatch(account) or account == "root":
                raise ValueError(f"{account!r} is not an account that may run jobs")
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
    srun: tuple[str, ...] = ("srun",)
    """What `srun()` in an application's template expands to."""
    system_load: str = ""
    """Shell text for `{- systemLoad -}` in an application's template."""
    system_unload: str = ""

    _read_times = field_validator("default_time", "lost_after", mode="before")(_duration)

    @field_validator("folder")
    @classmethod
    def _folder(cls, value: str) -> str:
        path = PurePosixPath(value)
        if not path.is_absolute() or ".." in path.parts or "{id}" not in path.name:
            raise ValueError("folder is an absolute path whose last part holds {id}")
        if re.sub(r"\{(user|id)\}", "", value).count("{"):
            raise ValueError("folder knows {user} and {id} only")
        if re.search(r"[\x00-\x1f\\]", value):  # sbatch(1): a backslash changes how it reads % in file names
            raise ValueError("folder holds no backslashes and no control characters")
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
        if any(each is not None and each > self.records for each in (self.logs, self.folders)):
            raise ValueError("records are kept as long as logs and folders: nothing else knows where those are")
        return self


class Machine(_Table):
    """What a UCloud product is on this cluster."""

    partition: str = Field(min_length=1)
    qos: str | None = None
    account: str | None = None
    constraint: str | None = None
    cpus: int = Field(ge=1)
    """Per node."""
    memory: int = Field(ge=1)
    """Per node, in GiB."""
    gpus: int = Field(default=0, ge=0)
    """Per node."""
    gpu_type: str | None = None
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

    id: str = Field(pattern=r"^[^/\x00\n]+$")
    """The first component of a UCloud path."""
    path: str = Field(pattern=r"^/[^\x00\n]*$")
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
        for pattern, names in ((self.user, "user|account|drive"), (self.project, "project|user|account|drive")):
            if pattern is None:
                continue
            path = PurePosixPath(pattern)
            if not path.is_absolute() or ".." in path.parts or re.search(r"[\x00-\x1f]", pattern):
                raise ValueError(f"{pattern!r} is no absolute path without ..")
            if re.search(r"[{}]", re.sub(rf"\{{({names})\}}", "", pattern)):
                raise ValueError(f"{pattern!r}: known are {names.replace('|', ', ')}, each in braces")
            if "{drive}" not in pattern:
                raise ValueError(f"{pattern!r} holds no {{drive}}: every id would be the same folder")
            if pattern is self.project and "{project}" not in pattern:
                raise ValueError(f"{pattern!r} holds no {{project}}: all projects would share it")
            if pattern is self.user and not re.search(r"\{(user|account)\}", pattern):
                raise ValueError(f"{pattern!r} holds neither {{user}} nor {{account}}: all users would share it")
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
    methods: tuple[Literal["unshare", "bwrap", "nss_wrapper"], ...] = ("unshare", "bwrap", "nss_wrapper")
    """The ways to give a job its names, in the order in which they are tried."""

    _read_time = field_validator("wait", mode="before")(_duration)


class Ucloud(_Table):
    """The UCloud that sends jobs here. Without it there is no door for it."""

    url: str = Field(pattern=r"^https?://[^/\s]+$")
    """Where it is told what becomes of its jobs."""
    key: Path
    """The public key that its tokens are signed with: PEM, or base64 of the DER, as UCloud shows it."""
    refresh_token: Path
    """The file with the token that UCloud showed when the provider was registered. For this account's eyes only."""
    issuer: str = "cloud.sdu.dk"
    """Who its tokens say has issued them."""
    ask_for_drives: bool = False
    """Ask it for drives that are neither in the table nor under the pattern; see `slurm_adapter.drives`."""


class Gateway(_Table):
    """What `serve` offers."""

    listen: str = "127.0.0.1"
    """The address. TLS is a reverse proxy's business (README)."""
    port: int = Field(default=8889, ge=0, le=65535)
    url: str | None = Field(default=None, pattern=r"^https?://[^/\s]+$")
    """Where browsers reach it; without it there are no shells, no web and no VNC sessions for UCloud's users."""
    stand_alone: bool = True
    """Serve `/api/jobs`, for users with tokens of `slurm-adapter token`."""
    refuse_duplicates: bool = False
    """Refuse a job whose specification is that of another job of the same owner that has not ended."""
    folder_shells: bool = False
    """Users get shells on the cluster's login node, in folders of their drives. With `url`."""
    web_domain: str | None = Field(default=None, pattern=r"^[a-z0-9.-]*\{job\}-\{rank\}[a-z0-9.-]*(:[0-9]{1,5})?$")
    """Where a job's web application is seen, e.g. "app-{job}-{rank}.example.org"; without it there are none."""
    reaches_nodes: bool = False
    """The compute nodes' ports are reached from this machine; otherwise by commands on the cluster's login node."""
    body_limit: int = Field(default=32, ge=1, le=1024)
    """The largest request, in MiB."""


class Config(_Table):
    """The whole file."""

    provider: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    """The provider's id in UCloud."""
    state: Path
    """The adapter's own folder on a local disk: database and locks."""
    shared: str = Field(pattern=r"^/[^\x00\n]*[^/\x00\n]$")
    """The adapter's folder on the cluster's shared file system; `peers/` is in it."""
    first_id: int = Field(default=1, ge=1)
    """The first id of jobs that do not come from UCloud."""
    templates: Path | None = None
    """The site's templates, looked in before the packaged ones."""
    applications: Path | None = None
    """The site's folder of UCloud application files, looked in before the packaged ones."""
    cluster: Cluster = Cluster()
    identity: Identity = Identity()
    command_line: CommandLine = CommandLine()
    jobs: Jobs = Jobs()
    machines: dict[str, dict[str, Machine]] = Field(min_length=1)
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
            raise ValueError(
                'cluster.scheduler = "pyslurm" goes with identity.mode = "service": libslurm speaks as the account of '
                "its process, and there is one for all jobs"
            )
        return self

    @model_validator(mode="after")
    def _ids_differ(self) -> Config:
        if self.ucloud is not None and self.first_id < FIRST_ID_BESIDE_UCLOUD:
            raise ValueError(
                f"with [ucloud], first_id is at least {FIRST_ID_BESIDE_UCLOUD}: UCloud's ids are below, and no two "
                "jobs may share folders and names"
            )
        return self

    @model_validator(mode="after")
    def _users_differ(self) -> Config:
        pattern = self.drive_pattern.user
        if self.identity.mode == "service" and pattern is not None and "{user}" not in pattern:
            raise ValueError(f"drive_pattern.user: {pattern!r} holds no {{user}}: there is one account for all users")
        return self

    @field_validator("drives")
    @classmethod
    def _drives_differ(cls, value: tuple[Drive, ...]) -> tuple[Drive, ...]:
        ids = [drive.id for drive in value]
        if len(set(ids)) < len(ids):
            raise ValueError("two drives have the same id")
        return value


def find_config(explicit: Path | None, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The file to read: `--config`, `$SLURM_ADAPTER_CONFIG`, then the first that exists of the usual places.

    None where there is none. A file that was named but does not exist is returned all the same: reading it then
    fails with its name.
    """
    if explicit is not None:
        return explicit
    if named := environment.get("SLURM_ADAPTER_CONFIG"):
        return Path(named)
    home = Path(environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "/")) / ".config")
    places = (Path("config.toml"), home / "slurm-adapter/config.toml", Path("/etc/slurm-adapter/config.toml"))
    return next((place for place in places if place.is_file()), None)


_SAID_SHORTER = {
    "extra_forbidden": "is no key of the configuration; config.example.toml shows every key",
    "missing": "is missing; it is required",
    "tuple_type": "must be a list",
}


def load_config(path: Path) -> Config:
    """Read and check the file. Raises `InvalidConfig` that names the file, the key, its line, and what is allowed."""
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        raise InvalidConfig(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"{path}: cannot be read: it is not UTF-8 at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig(f"{path}: not TOML: {error}") from error
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        problems = [
            f"{path}:{_line_of(text, problem['loc'])}{'.'.join(map(str, problem['loc'])) or 'the file'}: "
            f"{_SAID_SHORTER.get(problem['type']) or problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()
        ]
        raise InvalidConfig("\n".join(problems)) from error


def located(path: Path, text: str) -> str:
    """The same text after the file and the line, where it begins with a key of the configuration and a colon."""
    key = text.partition(": ")[0]
    if not re.fullmatch(r"[a-z_]+(\.[\w-]+)+", key, re.ASCII):
        return text
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return text
    return f"{path}:{_line_of(content, key.split('.'))}{text}"


def _line_of(text: str, location: Sequence[str | int]) -> str:
    """Where the innermost key that stands in the file is, as `LINE: `; empty where none of them does."""
    wanted = [part for part in location if isinstance(part, str)]
    table: list[str] = []
    found, depth = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[+([^\[\]]+)\]", line)
        key = re.match(r"\s*([\w.\"'-]+)\s*=", line)
        if header is not None:
            here = table = _keys(header[1])
        elif key is not None:
            here = [*table, *_keys(key[1])]
        else:
            continue
        if len(here) > depth and here == wanted[: len(here)]:
            found, depth = f"{number}: ", len(here)
    return found or " "


def _keys(dotted: str) -> list[str]:
    return [part.strip(" \t\"'") for part in dotted.split(".")]

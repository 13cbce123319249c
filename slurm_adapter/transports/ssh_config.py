"""Where an SSH connection leads: the adapter's settings and the user's `~/.ssh/config`, made one.

The file is read by paramiko, with its `Host` and `Match` rules. What the settings say is put before the file's first
line, because in this format the first value found wins: tokens such as `%p` and `Match user` then see it too.
"""

from __future__ import annotations

import getpass
import io
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import paramiko

from slurm_adapter.errors import InvalidConfig

HONOURED = frozenset(
    {
        "hostkeyalias",
        "hostname",
        "identitiesonly",
        "identityfile",
        "port",
        "proxycommand",
        "proxyjump",
        "user",
        "userknownhostsfile",
    }
)
"""The options of the file that have an effect here, as paramiko spells them."""

_SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")
_USUAL_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
_MOST_HOPS = 8
_JUMP = re.compile(r"(?:ssh://)?(?:(?P<user>[^@]+)@)?(?P<host>\[[^\]]+\]|[^:\[\]]+)(?::(?P<port>\d+))?/?")


@dataclass(frozen=True, slots=True)
class SshSettings:
    """How to reach the cluster's login node. What is None is left to the SSH configuration file."""

    host: str
    """A name from the configuration file, a host name or an address."""
    user: str | None = None
    port: int | None = None
    key_files: tuple[Path, ...] = ()
    """Private keys to log in with, instead of the configuration file's and the usual ones."""
    known_hosts: Path | None = None
    """The only file to look for host keys in, instead of `~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts`."""
    config_file: Path | None = None
    """Instead of `~/.ssh/config`."""
    connect_timeout: float = 15.0
    """Seconds for the whole of connecting, hops and login included."""


@dataclass(frozen=True, slots=True)
class Target:
    """One SSH server on the way to the cluster, with all that is needed to log in to it."""

    name: str
    """As it was called by the settings or by `ProxyJump`."""
    host: str
    port: int
    user: str
    key_files: tuple[Path, ...]
    only_key_files: bool
    """Of the agent's keys only those of `key_files` are offered."""
    known_hosts: tuple[Path, ...]
    host_key_name: str
    """How the server is called in the files of known hosts."""
    proxy_command: str | None = None
    jumps: tuple[Target, ...] = ()
    """The servers to go through, the first to connect to first."""

    def __str__(self) -> str:
        """As in a message."""
        return f"{self.user}@{self.host}:{self.port}"


def resolve(settings: SshSettings) -> Target:
    """The server that the settings and the configuration file mean. Raises `InvalidConfig`; connects to nothing."""
    try:
        return _resolve(settings, depth=0)
    except _CONFIG_FAILURES as error:
        raise InvalidConfig(f"{_config_file(settings)}: cannot be used for host {settings.host!r}: {error}") from error


def ignored_options(settings: SshSettings) -> list[str]:
    """The options that the configuration file sets for this host and that have no effect here, sorted.

    Raises `InvalidConfig` as `resolve` does.
    """
    try:
        text = _config_text(settings)
        options = _look_up(settings)
    except _CONFIG_FAILURES as error:
        raise InvalidConfig(f"{_config_file(settings)}: cannot be used for host {settings.host!r}: {error}") from error
    spelling = {word.lower(): word for word in re.findall(r"^\s*(\w+)", text, re.MULTILINE)}
    return sorted(spelling.get(option, option) for option in options if option not in HONOURED)


_CONFIG_FAILURES = (
    paramiko.ssh_exception.ConfigParseError,
    paramiko.ssh_exception.CouldNotCanonicalize,
    OSError,  # the file
    ValueError,  # a port that is no number, an unbalanced quote
    KeyError,  # CanonicalizeHostname without CanonicalDomains
    ImportError,  # `Match exec` needs a package that this program does without
)


def _resolve(settings: SshSettings, depth: int) -> Target:
    if depth > _MOST_HOPS:
        raise ValueError(f"ProxyJump leads in a circle, or over more than {_MOST_HOPS} hosts")
    options = _look_up(settings)
    host = options["hostname"]
    port = int(options.get("port", 22))
    user = options.get("user") or getpass.getuser()
    alias = options.get("hostkeyalias")
    jump = options.get("proxyjump", "none")
    through_jumps = jump.lower() != "none"
    # To hops the settings' keys are offered where the file names none for them.
    by_settings = bool(settings.key_files) and (depth == 0 or "identityfile" not in options)
    return Target(
        name=settings.host,
        host=host,
        port=port,
        user=user,
        key_files=settings.key_files if by_settings else _identity_files(options),
        only_key_files=by_settings or options.get("identitiesonly", "no").lower() == "yes",
        known_hosts=_known_hosts(settings, options, host=host, user=user),
        host_key_name=(alias or (host if port == 22 else f"[{host}]:{port}")).lower(),
        proxy_command=None if through_jumps else options.get("proxycommand"),
        jumps=_jumps(jump, settings, depth) if through_jumps else (),
    )


def _jumps(value: str, settings: SshSettings, depth: int) -> tuple[Target, ...]:
    """The hops of a `ProxyJump` in order. The first may have hops of its own; the next is reached from it."""
    hops: list[Target] = []
    for spec in value.split(","):
        match = _JUMP.fullmatch(spec.strip())
        if match is None:
            raise ValueError(f"ProxyJump {spec.strip()!r} is not [user@]host[:port]")
        of_hop = replace(
            settings,
            host=match["host"].strip("[]"),
            user=match["user"],
            port=int(match["port"]) if match["port"] else None,
        )
        hop = _resolve(of_hop, depth + 1)
        if hops:
            hop = replace(hop, jumps=(), proxy_command=None)
        hops += [*hop.jumps, replace(hop, jumps=())]
    return tuple(hops)


def _look_up(settings: SshSettings) -> dict[str, str]:
    """All options of a host, by lower-case name."""
    told = ""
    if settings.user is not None:
        if not re.fullmatch(r"[^\s\"]+", settings.user):
            raise ValueError(f"user {settings.user!r} is no account name")
        told += f"User {settings.user}\n"
    if settings.port is not None:
        told += f"Port {settings.port}\n"
    config = paramiko.SSHConfig.from_file(io.StringIO(told + _config_text(settings)))
    return config.lookup(settings.host)


def _config_file(settings: SshSettings) -> Path:
    return settings.config_file or Path("~/.ssh/config").expanduser()


def _config_text(settings: SshSettings) -> str:
    file = _config_file(settings)
    if settings.config_file is None and not file.exists():
        return ""
    return file.read_text(encoding="utf-8", errors="surrogateescape")


def _identity_files(options: dict[str, str]) -> tuple[Path, ...]:
    if "identityfile" in options:
        return tuple(Path(name).expanduser() for name in options["identityfile"] if name.lower() != "none")
    usual = (Path("~/.ssh").expanduser() / name for name in _USUAL_KEYS)
    return tuple(file for file in usual if file.exists())


def _known_hosts(settings: SshSettings, options: dict[str, str], *, host: str, user: str) -> tuple[Path, ...]:
    if settings.known_hosts is not None:
        return (settings.known_hosts,)
    tokens = {"%%": "%", "%d": str(Path.home()), "%h": host, "%r": user, "%u": getpass.getuser()}
    names = shlex.split(options.get("userknownhostsfile", "~/.ssh/known_hosts"))
    of_user = (re.sub("%.", lambda token: tokens.get(token[0], token[0]), name) for name in names)
    return (*(Path(name).expanduser() for name in of_user if name.lower() != "none"), _SYSTEM_KNOWN_HOSTS)

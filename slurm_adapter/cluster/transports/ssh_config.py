"""The target of an SSH connection, from the adapter's settings and OpenSSH's configuration files.

OpenSSH's own client reads the files (`ssh -G`, see ssh(1)), so that `Match`, `Include` and quoting have the same
meaning as there. The adapter's settings are arguments of that command, which take precedence over the files.
"""

from __future__ import annotations

import getpass
import os
import pwd
import re
import shutil
import socket
import subprocess
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import InvalidConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

HONOURED = frozenset(
    {
        "canonicaldomains",
        "canonicalizefallbacklocal",
        "canonicalizehostname",
        "canonicalizemaxdots",
        "canonicalizepermittedcnames",
        "certificatefile",
        "globalknownhostsfile",
        "host",
        "hostkeyalias",
        "hostname",
        "identitiesonly",
        "identityfile",
        "port",
        "proxycommand",
        "proxyjump",
        "tag",
        "user",
        "userknownhostsfile",
    }
)
"""The options of the files that have an effect here, by the names of `ssh -G`."""

_SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
_USUAL_KEYS = ("rsa", "ecdsa", "ecdsa_sk", "ed25519", "ed25519_sk", "xmss", "mldsa44_ed25519", "dsa")
_MOST_HOPS = 8
_ANSWER_SECONDS = 20.0
"""Timeout of `ssh -G`: `Match exec` and CanonicalizeHostname make it wait for other programs and servers."""
_JUMP = re.compile(r"(?:ssh://)?(?:(?P<user>.+)@)?(?P<host>\[[^\]]+\]|[^:\[\]]+)(?::(?P<port>\d+))?/?")
_CRITERION = re.compile(r"debug3: (?P<place>.+ line \d+): (?P<no>not )?matched '(?P<word>[^ ']+)", re.IGNORECASE)
"""The line in which ssh shows at `-vvv` the result of one criterion of a `Match` line."""

Options = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class SshSettings:
    """Settings to log in to the cluster's login node. The SSH configuration file determines those that are None."""

    host: str
    """A name from the configuration file, a host name or an address."""
    user: str | None = None
    port: int | None = None
    key_files: tuple[Path, ...] = ()
    """Private keys to log in with, instead of the configuration file's and the default ones."""
    known_hosts: Path | None = None
    """The only file with host keys, instead of `~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts`."""
    config_file: Path | None = None
    """The configuration file, instead of `~/.ssh/config` and the system's file."""
    connect_timeout: float = 15.0
    """Timeout in seconds of the whole connection, with hops and login."""


@dataclass(frozen=True, slots=True)
class Target:
    """One SSH server on the way to the cluster, with all that is needed to log in to it."""

    name: str
    """The name in the settings or in `ProxyJump`."""
    host: str
    port: int
    user: str
    key_files: tuple[Path, ...]
    certificate_files: tuple[Path, ...] | None
    """Certificates for keys; None for the file `KEY-cert.pub` next to each key."""
    only_key_files: bool
    """True if keys of the agent are offered only if they are in `key_files`."""
    known_hosts: tuple[Path, ...]
    host_key_name: str
    """The server's name in the files of known hosts."""
    proxy_command: str | None = None
    jumps: tuple[Target, ...] = ()
    """The servers on the way, the first to connect to first."""

    def __str__(self) -> str:
        """Return the server for a message."""
        return f"{self.user}@{self.host}:{self.port}"


def resolve(settings: SshSettings) -> Target:
    """Return the server of settings and configuration files, without connecting. Raises `InvalidConfig`."""
    try:
        return _resolve(settings, depth=0)
    except _CONFIG_FAILURES as error:
        raise InvalidConfig(f"{_config_file(settings)}: cannot be used for host {settings.host!r}: {error}") from error


def ignored_options(settings: SshSettings) -> list[str]:
    """Return the options that the configuration file sets for this host without an effect here, sorted.

    Options of the system's own file are left out. Raises `InvalidConfig` as `resolve` does.
    """
    try:
        options = _look_up(settings)
        system = Path(os.devnull) if _chooses_file(settings) or not _SYSTEM_CONFIG.exists() else _SYSTEM_CONFIG
        usual = _look_up(replace(settings, config_file=system))
        text = _config_text(settings)
    except _CONFIG_FAILURES as error:
        raise InvalidConfig(f"{_config_file(settings)}: cannot be used for host {settings.host!r}: {error}") from error
    spelling = {word.lower(): word for word in re.findall(r"^\s*(\w+)", text, re.MULTILINE)}
    changed = (option for option, values in options.items() if values != usual.get(option))
    return sorted(spelling.get(option, option) for option in changed if option not in HONOURED)


_CONFIG_FAILURES = (OSError, ValueError)
"""Errors of an unreadable file, and of options that ssh or this program refuses."""


def _resolve(settings: SshSettings, depth: int) -> Target:
    if depth > _MOST_HOPS:
        raise ValueError(f"ProxyJump is circular, or goes through more than {_MOST_HOPS} hosts")
    options = _look_up(settings)
    host, user, port = options["hostname"][0], options["user"][0], int(options["port"][0])
    alias = options.get("hostkeyalias", [""])[0]
    tokens = {
        "%%": "%",
        "%d": str(Path.home()),
        "%h": host,
        "%i": str(os.getuid()),
        "%k": alias or settings.host,
        "%L": socket.gethostname().partition(".")[0],
        "%l": socket.gethostname(),
        "%n": settings.host,
        "%p": str(port),
        "%r": user,
        "%u": getpass.getuser(),
    }
    proxy_tokens = {token: tokens[token] for token in ("%%", "%h", "%n", "%p", "%r")}
    jump = _expand(options.get("proxyjump", ["none"])[0], proxy_tokens, "ProxyJump")
    through_jumps = jump.lower() != "none"
    command = options.get("proxycommand", ["none"])[0]
    key_files = _key_files(options, tokens)
    # The settings' keys are also offered to hops if the file names no keys for them.
    by_settings = bool(settings.key_files) and (depth == 0 or _are_usual(options["identityfile"]))
    certificates = options.get("certificatefile", [])
    return Target(
        name=settings.host,
        host=host,
        port=port,
        user=user,
        key_files=settings.key_files if by_settings else key_files,
        certificate_files=tuple(_path(name, tokens, "CertificateFile") for name in certificates if name != "none")
        if certificates
        else None,
        only_key_files=by_settings or options.get("identitiesonly", ["no"])[0] == "yes",
        known_hosts=_known_hosts(settings, options),
        host_key_name=(alias or (host if port == 22 else f"[{host}]:{port}")).lower(),
        proxy_command=None
        if through_jumps or command.lower() == "none"
        else _expand(command, proxy_tokens, "ProxyCommand"),
        jumps=_jumps(jump, settings, depth) if through_jumps else (),
    )


def _jumps(value: str, settings: SshSettings, depth: int) -> tuple[Target, ...]:
    """Return the hops of a `ProxyJump` in order. The first may have hops of its own; the next is reached from it."""
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


def _look_up(settings: SshSettings) -> Options:
    """Return the values of each option of a host, by lower-case name."""
    for what, value in (("host", settings.host), ("user", settings.user or "")):
        if value.startswith("-") or re.search(r"[\x00-\x1f\x7f]", value):
            raise ValueError(f"{what} {value!r} is not {'an account' if what == 'user' else 'a host'} name")
    program = shutil.which("ssh")
    if program is None:
        return _without_client(settings)
    file = _config_file(settings) if _config_exists(settings) else os.devnull
    arguments = [
        *(("-F", str(file)) if _chooses_file(settings) else ()),
        *(("-l", settings.user) if settings.user is not None else ()),
        *(("-p", str(settings.port)) if settings.port is not None else ()),
        # As scp(1) does, because the commands are the adapter's own. `true` makes this a session of type `exec`.
        *("-o", "RemoteCommand=none", "-vvv", "-G", "--", settings.host, "true"),
    ]
    try:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"`ssh -G {settings.host}` gave no answer within {_ANSWER_SECONDS:.0f} s; does a `Match exec` in it hang?"
        ) from error
    said = os.fsdecode(done.stderr).splitlines()
    if done.returncode != 0:
        why = [line for line in said if not re.match(r"debug\d: |OpenSSH_|.*: terminating, ", line)]
        raise ValueError("\n  ".join(["`ssh -G` fails:", *why]))
    _check_criteria(said)
    options: Options = defaultdict(list)
    for line in os.fsdecode(done.stdout).split("\n"):
        option, _, value = line.partition(" ")
        options[option].append(value)
    return dict(options)


def _check_criteria(said: list[str]) -> None:
    """Raise `ValueError` for a `Match` line that depends on the command, because commands share a connection."""
    found = [match for line in said if (match := _CRITERION.match(line))]
    decided = {match["place"] for match in found if match["no"] and match["word"].lstrip("!").lower() != "command"}
    for match in found:
        if match["word"].lstrip("!").lower() == "command" and match["place"] not in decided:
            raise ValueError(
                f"{match['place']}: `Match command` cannot be evaluated: all commands share one connection\n"
                "Use another criterion there, or set `config` in [clusters.NAME.ssh] to a file without it"
            )


def _without_client(settings: SshSettings) -> Options:
    """Return OpenSSH's defaults, for a machine without its client. Raises `ValueError` if a file sets any option."""
    if re.search(r"^\s*[^#\s]", _config_text(settings), re.MULTILINE):
        raise ValueError(
            "reading it needs OpenSSH's client, and there is no `ssh` in PATH\n"
            "Install it (Debian: openssh-client), or give user, port, key and known_hosts in [clusters.NAME.ssh] and "
            'set `config = "/dev/null"` there'
        )
    return {
        "hostname": [settings.host.lower()],
        "user": [settings.user or getpass.getuser()],
        "port": [str(settings.port or 22)],
        "identityfile": [f"~/.ssh/id_{kind}" for kind in _USUAL_KEYS],
        "userknownhostsfile": ["~/.ssh/known_hosts"],
        "globalknownhostsfile": ["/etc/ssh/ssh_known_hosts"],
    }


def _chooses_file(settings: SshSettings) -> bool:
    """Return whether ssh must be given a file. By itself it goes by the password database, and not by HOME."""
    return settings.config_file is not None or Path.home() != _home_of_ssh()


def _home_of_ssh() -> Path:
    return Path(pwd.getpwuid(os.getuid()).pw_dir)


def _config_file(settings: SshSettings) -> Path:
    return settings.config_file or Path("~/.ssh/config").expanduser()


def _config_exists(settings: SshSettings) -> bool:
    """Return whether there is a file to read; one that was asked for must be there."""
    return settings.config_file is not None or _config_file(settings).exists()


def _config_text(settings: SshSettings) -> str:
    if not _config_exists(settings):
        return ""
    return _config_file(settings).read_text(encoding="utf-8", errors="surrogateescape")


def _are_usual(names: list[str]) -> bool:
    """Return whether these are the keys that ssh tries if no file names any."""
    return len(names) > 2 and {Path(name).name.removeprefix("id_") for name in names} <= set(_USUAL_KEYS)


def _key_files(options: Options, tokens: Mapping[str, str]) -> tuple[Path, ...]:
    names = options["identityfile"]
    files = tuple(_path(name, tokens, "IdentityFile") for name in names if name.lower() != "none")
    return tuple(file for file in files if file.exists()) if _are_usual(names) else files


def _path(name: str, tokens: Mapping[str, str], option: str) -> Path:
    """Return the file that an option names: `~`, tokens and `${VARIABLES}` replaced, in OpenSSH's order."""
    try:
        return Path(_expand(str(Path(name).expanduser()), tokens, option, variables=True))
    except RuntimeError as error:
        raise ValueError(f"{option} {name!r}: there is no such account") from error


def _expand(text: str, tokens: Mapping[str, str], option: str, *, variables: bool = False) -> str:
    """Replace the tokens of ssh_config(5), TOKENS, and if wanted its ENVIRONMENT VARIABLES."""

    def replaced(match: re.Match[str]) -> str:
        found = os.environ.get(match["name"]) if match["name"] else tokens.get(match[0])
        if found is None:
            raise ValueError(f"{option} {text!r}: {match[0]} is not known here")
        return found

    return re.sub(r"%.?|\$\{(?P<name>[^}]*)\}" if variables else r"%.?(?P<name>)", replaced, text, flags=re.DOTALL)


def _known_hosts(settings: SshSettings, options: Options) -> tuple[Path, ...]:
    if settings.known_hosts is not None:
        return (settings.known_hosts,)
    # ssh has replaced all tokens, and quotes nothing: what follows a blank is a new name if it looks like one.
    names = [
        name
        for option in ("userknownhostsfile", "globalknownhostsfile")
        for name in re.split(r" (?=[/~]|none\b)", options.get(option, ["none"])[0])
        if name.lower() != "none"
    ]
    files = [Path(name).expanduser() for name in names]
    if Path.home() != (home := _home_of_ssh()):
        files = [Path.home() / file.relative_to(home) if file.is_relative_to(home) else file for file in files]
    # The second of each kind is a relic, and no place to add a key to.
    return tuple(file for file in files if file.name not in {"known_hosts2", "ssh_known_hosts2"} or file.exists())

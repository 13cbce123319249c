"""Check this machine: the adapter's database, templates, applications, keys, and the port of `serve`."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections import defaultdict
from typing import TYPE_CHECKING

from slurm_adapter.cli.check.findings import Finding, Level, some
from slurm_adapter.cli.formatting import safe
from slurm_adapter.core.errors import AdapterError
from slurm_adapter.local.confinement import SECCOMP
from slurm_adapter.local.render_process import ConfinedRenderer, explain_unconfined
from slurm_adapter.local.template_folder import open_templates
from slurm_adapter.translation.script import SCRIPT_NAME, ScriptInputs, render_script

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slurm_adapter.adapter import Adapter

_SHORTEST_LOST_AFTER = 600


def check_here(adapter: Adapter) -> Iterator[Finding]:
    """Check everything that needs no cluster."""
    try:
        known = adapter.store.all(1)
        yield Finding(
            Level.GOOD, f"the state in {adapter.config.state_dir} can be used" + ("" if known else "; no jobs yet")
        )
    except AdapterError as error:
        yield Finding(Level.PROBLEM, str(error), ("state_dir",))
    if os.geteuid() == 0:
        yield Finding(Level.WARNING, "this program runs as root, but does not need it; run it as the adapter's account")
    if adapter.config.jobs.lost_after < _SHORTEST_LOST_AFTER:
        yield Finding(
            Level.WARNING,
            f"jobs.lost_after: {adapter.config.jobs.lost_after} s is less than slurmctld may need to restart: "
            "running jobs would be ended as lost; write 00:10:00 or more",
        )
    yield from _check_templates(adapter.config.templates)
    yield from _check_applications(adapter)
    yield from _check_renderer(allowed=adapter.config.jobs.allow_unconfined)
    yield from _check_ssh(adapter)
    yield from _check_listen(adapter)
    yield from _find_troubles(adapter)


def _check_mode(path: Path, key: str, forbidden: int, fix: str) -> Iterator[Finding]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & forbidden:
        yield Finding(Level.WARNING, f'{key} = "{path}": others can read it (mode {mode:o}); {fix} {path}')


def _entries(folder: Path, key: str) -> list[Path] | Finding:
    """Return the entries of a folder in the configuration, or a finding if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        return Finding(
            Level.PROBLEM,
            f'{key} = "{folder}": {error.strerror}; name a folder that the adapter\'s account can read',
        )


def _check_templates(folder: Path | None) -> Iterator[Finding]:
    if folder is not None:
        entries = _entries(folder, "templates")
        if isinstance(entries, Finding):
            yield entries
            return
        unused = [entry.name for entry in entries if entry.name != f"{SCRIPT_NAME}.j2"]
        if len(unused) == len(entries):
            yield Finding(
                Level.PROBLEM,
                f'templates = "{folder}": has no {SCRIPT_NAME}.j2, which is the only template; add it, or remove the '
                "key",
            )
            return
        if unused:
            yield Finding(Level.WARNING, f'templates = "{folder}": these files have no effect: {some(unused)}')
    try:
        script = ScriptInputs((), "/folder", (), (), (), (), purge=False, payload="true")
        render_script(script, open_templates(folder))
    except (AdapterError, OSError, UnicodeDecodeError) as error:
        yield Finding(Level.PROBLEM, f"the script of a job cannot be rendered: {error}", ("templates",))


def _check_applications(adapter: Adapter) -> Iterator[Finding]:
    folder = adapter.config.applications
    if folder is not None:
        entries = _entries(folder, "applications")
        if isinstance(entries, Finding):
            yield entries
            return
        unused = [entry.name for entry in entries if entry.suffix not in {".yaml", ".yml"}]
        if len(unused) == len(entries):
            yield Finding(
                Level.WARNING,
                f'applications = "{folder}": has no files *.yaml or *.yml; add application files of UCloud',
            )
        elif unused:
            yield Finding(Level.WARNING, f'applications = "{folder}": these files have no effect: {some(unused)}')
    try:
        found = adapter.catalogue.applications
        yield Finding(Level.GOOD, f"{len(found)} applications: {', '.join(map(str, found))}")
        yield from (Finding(Level.PROBLEM, text) for text in adapter.catalogue.problems.values())
        yield from (Finding(Level.WARNING, text) for text in adapter.catalogue.warnings)
    except AdapterError as error:
        yield Finding(Level.PROBLEM, str(error))


def _check_renderer(*, allowed: bool) -> Iterator[Finding]:
    """Check the confinement of the process that renders templates which the site did not write."""
    try:
        with ConfinedRenderer() as renderer:
            stand, lacking = renderer.restrictions()
    except AdapterError as error:
        yield Finding(Level.PROBLEM, str(error))
        return
    lacks = "".join(f"; this machine lacks {wall} ({reason})" for wall, reason in lacking.items())
    walls = " and ".join(f"{wall} ({version})" for wall, version in stand.items()) or "limits alone"
    if SECCOMP in stand:
        yield Finding(Level.GOOD, f"template rendering is confined by {walls}{lacks}")
    elif allowed:
        yield Finding(
            Level.WARNING,
            f"jobs.allow_unconfined: template rendering is confined by {walls}{lacks}; install libseccomp 2",
        )
    else:
        yield Finding(Level.PROBLEM, explain_unconfined(lacking), ("jobs", "allow_unconfined"))


def _check_ssh(adapter: Adapter) -> Iterator[Finding]:
    ssh = adapter.config.cluster.ssh
    name = adapter.config.cluster_name
    if ssh is None or (settings := adapter.ssh_settings) is None:
        return
    for key, path in (("key", ssh.key), ("known_hosts", ssh.known_hosts), ("config", ssh.config)):
        if path is None:
            continue
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            yield Finding(
                Level.PROBLEM,
                f'clusters.{name}.ssh.{key} = "{path}": {error.strerror}; name a file that the adapter can read',
            )
            continue
        if key == "key":
            yield from _check_mode(path, f"clusters.{name}.ssh.key", 0o077, "chmod 600")
    from slurm_adapter.cluster.transports.ssh_config import ignored_options  # noqa: PLC0415  # paramiko, for SSH only

    try:
        for option in ignored_options(settings):
            yield Finding(Level.WARNING, f"the SSH option {option} has no effect on the adapter")
    except AdapterError as error:
        yield Finding(Level.PROBLEM, str(error))


def _check_listen(adapter: Adapter) -> Iterator[Finding]:
    """Check that `serve` can listen on its address. If the port is in use, `serve` may be running already."""
    gateway = adapter.config.gateway
    if gateway.web_domain is not None and gateway.url is None:
        yield Finding(Level.WARNING, "gateway.web_domain: web sessions are disabled, because gateway.url is not set")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            gateway.listen, gateway.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            yield Finding(
                Level.NOTE, f"gateway.port = {gateway.port}: already in use on {gateway.listen}; is `serve` running?"
            )
            return
        key = "port" if error.errno == errno.EACCES else "listen"
        fix = "a port above 1023" if key == "port" else "an address of this machine, such as 127.0.0.1 or 0.0.0.0"
        yield Finding(
            Level.PROBLEM,
            f'gateway.{key}: `serve` cannot listen on "{gateway.listen}", port {gateway.port}: {error.strerror}; use '
            f"{fix}",
        )


def _find_troubles(adapter: Adapter) -> Iterator[Finding]:
    """Report accounts with blocked jobs. `sync` does not report them, because users can cause that themselves."""
    troubled: dict[str, list[tuple[str, str]]] = defaultdict(list)
    try:
        for id_, account, trouble in adapter.store.troubled():
            troubled[account].append((id_, trouble))
    except AdapterError:  # already reported: the database cannot be read
        return
    for account, [(id_, trouble), *others] in sorted(troubled.items()):
        more = f" and {len(others)} more" if others else ""
        why = safe(trouble.split("\n", 1)[0])[:200]
        yield Finding(Level.NOTE, f"{account}: job {id_}{more} is blocked: {why}; see `slurm-adapter show {id_}`")

"""The Debian packages that a sandbox is made of."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import Refused, TryAgain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PACKAGES = (
    "slurm-wlm",
    "slurmctld",
    "slurmd",
    "slurm-client",
    "slurm-wlm-basic-plugins",
    "munge",
    "openssh-server",
    "openssh-client",
    "iproute2",
    "bubblewrap",
    "libnss-wrapper",
    "sudo",
    "util-linux",
    "gcc",
    "libc6-dev",
    "musl-tools",
)
ACCOUNTING_PACKAGES = ("slurmdbd", "mariadb-server")
ROOT_PACKAGES = ("debootstrap", "openssh-client", "iproute2", "util-linux")
"""Packages that this machine needs if the nodes run another release."""

_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = "#!/bin/sh\n# slurm-adapter sandbox install: starts no services; removed when done\nexit 101\n"
_SERVICES = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurmdbd": "slurmdbd",
    "munge": "munge",
    "openssh-server": "ssh",
    "mariadb-server": "mariadb",
}
"""Service that each of these packages would start at the machine's next boot."""


def wanted_packages(*, release: str = "", accounting: bool = False) -> tuple[str, ...]:
    """Return the packages that this machine needs for a sandbox of a release (empty: its own)."""
    if release:
        return ROOT_PACKAGES
    return PACKAGES + (ACCOUNTING_PACKAGES if accounting else ())


def missing_packages(wanted: Iterable[str]) -> tuple[str, ...]:
    """Return the packages that are not installed."""
    wanted = tuple(wanted)
    query = ["dpkg-query", "-W", "-f=${Package} ${db:Status-Status}\n", *wanted]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    there = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")}
    return tuple(name for name in wanted if name not in there)


def machine_obstacle() -> str:
    """Return why this account or system cannot run a sandbox. Empty if it can."""
    if os.geteuid() != 0:
        return "a sandbox needs root to create network namespaces: run it as root (sudo)"
    if not shutil.which("dpkg-query") or not shutil.which("apt-get"):
        return "a sandbox needs Debian's packages: run it on Debian 12 or Ubuntu 24.04, or later"
    return ""


def install_packages(wanted: Iterable[str], say: Callable[[str], None]) -> None:
    """Install missing packages, without starting or enabling any service.

    Raises `Refused` if this machine cannot have them, and `TryAgain` if apt-get failed.
    """
    if problem := machine_obstacle():
        raise Refused(problem)
    missing = missing_packages(wanted)
    if not missing:
        return
    say(f"installing {', '.join(missing)}")
    own_policy = not _POLICY.exists() or _POLICY.read_text(errors="replace") == _POLICY_TEXT
    if own_policy:
        _POLICY.write_text(_POLICY_TEXT, encoding="utf-8")
        _POLICY.chmod(0o755)
    try:
        # Failure is ignored: the old package list may be sufficient, and otherwise the installation fails.
        _apt(["update"], say)
        status, last = _apt(["install", "-y", "--no-install-recommends", *missing], say)
    finally:
        if own_policy:
            _POLICY.unlink(missing_ok=True)
    still = missing_packages(missing)
    if status or still:
        raise TryAgain(
            f"apt-get could not install {', '.join(still or missing)}: {last or f'exit code {status}'}. "
            "Check that the machine reaches its package mirror and has 1 GB free, then run the command again"
        )
    _disable(missing)


def _apt(arguments: list[str], say: Callable[[str], None]) -> tuple[int, str]:
    """Run apt-get. Return its exit status and its last error message."""
    last = ""
    command = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Use-Pty=0", *arguments]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            words = line.strip()
            if words.startswith(("E:", "Err:")):
                last = words
            elif words.startswith(("Setting up ", "Need to get ")):
                say(words)
    return process.returncode, last


def _disable(installed: Iterable[str]) -> None:
    """Disable the services of newly installed packages. The sandbox starts its own daemons."""
    units = [_SERVICES[name] for name in installed if name in _SERVICES]
    if units and shutil.which("systemctl"):
        subprocess.run(["systemctl", "disable", *units], capture_output=True, timeout=60, check=False)

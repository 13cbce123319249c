"""Slurm's versions: reading them from its commands, and the versions that the adapter supports."""

from __future__ import annotations

import re
from dataclasses import dataclass

from slurm_adapter.core.errors import InvalidConfig, Unknown

CLIENT_ARGV = ("squeue", "--version")

OLDEST = (22, 5)
"""In older releases `srun --overlap` waits for the CPUs of other steps, so that a job with peers would hang."""

_SLUID_SINCE = (25, 11)
"""The first release in which sacct shows SLUIDs, Slurm's own unique ids, and the numbers of runs."""

TRIED = ((22, 5), (24, 11), (25, 11), (26, 5))
"""Releases on which the tests ran."""

_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.\d+)?\S*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of Slurm on a cluster, as Slurm writes them: `24.11.5`."""

    client: str
    """The version of the commands that the adapter runs."""
    controller: str
    """The version of slurmctld."""


def release(version: str) -> tuple[int, int]:
    """Return the release of a version: (24, 11) for `24.11.5`. Raises `Unknown` if it is not a version."""
    match = _VERSION.fullmatch(version)
    if match is None:
        raise Unknown(f"{version[:100]!r} is not a version of Slurm")
    return int(match[1]), int(match[2])


def show(of: tuple[int, int]) -> str:
    """Return a release as Slurm writes it: `22.05`."""
    return f"{of[0]}.{of[1]:02}"


def read_client(text: str) -> str:
    """Return the version in a command's answer to `--version`: `slurm 24.11.5`, `slurm-wlm 22.05.8`."""
    match = re.match(r"slurm\S* (\S+)", text)
    if match is None:
        raise Unknown(f"Slurm's commands do not show their version: {text[:100]!r}")
    return match[1]


def has_sluids(text: str) -> bool:
    """Return whether a command's answer to `--version` is of a release with SLUIDs."""
    try:
        return release(read_client(text)) >= _SLUID_SINCE
    except Unknown:
        return False


def read_controller(config: str) -> str:
    """Return the controller's version in the answer of `scontrol show config`."""
    match = re.search(r"^SLURM_VERSION *= *(\S+)", config, re.MULTILINE)
    if match is None:
        raise Unknown("Slurm's controller does not show its version (SLURM_VERSION in `scontrol show config`)")
    return match[1]


def require_supported(version: str) -> None:
    """Raise `InvalidConfig` if a version of Slurm is too old."""
    if release(version) < OLDEST:
        raise InvalidConfig(f"Slurm {version} is too old: slurm-adapter needs Slurm {show(OLDEST)} or later")

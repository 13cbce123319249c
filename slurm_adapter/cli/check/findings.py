"""Findings of `check`, and helpers for its parts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from slurm_adapter.cluster.transports.interface import Command
from slurm_adapter.core.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from slurm_adapter.adapter import Adapter


class Level(Enum):
    """Importance of a finding."""

    GOOD = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"
    """Jobs will fail, or their states will be wrong."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check."""

    level: Level
    text: str
    key: tuple[str | int, ...] = ()
    """Configuration key that it is about, if the text does not begin with the key."""


def noted(findings: Iterator[Finding]) -> Iterator[Finding]:
    """Yield the findings of one check. Turn its failure into a problem, so that the next check is still made."""
    try:
        yield from findings
    except AdapterError as error:
        yield Finding(Level.PROBLEM, str(error))


_MOST_SHOWN = 5


def some(texts: Sequence[str]) -> str:
    """Join the first texts of a list."""
    return ", ".join(texts[:_MOST_SHOWN]) + (", ..." if len(texts) > _MOST_SHOWN else "")


_FOLDERS = r"""
for path do [ ! -d "$path" ] || printf '%s\0' "$path"; done
"""


USER_SCRIPTS = {"check_folders": _FOLDERS}
"""Scripts that run as the account of a user, by name; see `slurm_adapter.cli.sudo_helper`."""


def reached(adapter: Adapter, paths: Sequence[str], accounts: list[str]) -> set[str]:
    """Return the paths that are folders for any of the accounts, or for the adapter's account if there are none."""
    found: set[str] = set()
    asked: list[str | None] = [*accounts]
    for account in asked or [None]:
        if left := [path for path in paths if path not in found]:
            stdin = b"".join(path.encode() + b"\0" for path in left)
            result = adapter.transport.run(
                Command(("xargs", "-0", "-r", "sh", "-c", _FOLDERS, "sh"), stdin=stdin, user=account)
            )
            found |= {name.decode(errors="replace") for name in result.stdout.split(b"\0")[:-1]}
    return found

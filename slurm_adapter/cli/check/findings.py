"""The findings of `check`, and what several of its parts need."""

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
    """How much a finding matters."""

    GOOD = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"
    """Jobs will fail, or be told falsely."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    text: str
    key: tuple[str | int, ...] = ()
    """The key of the configuration that it is about, if its text does not begin with that."""


def noted(findings: Iterator[Finding]) -> Iterator[Finding]:
    """A check that cannot be made is a problem, and the next one is made all the same."""
    try:
        yield from findings
    except AdapterError as error:
        yield Finding(Level.PROBLEM, str(error))


_MOST_SHOWN = 5


def some(texts: Sequence[str]) -> str:
    """Join the first of these texts."""
    return ", ".join(texts[:_MOST_SHOWN]) + (", ..." if len(texts) > _MOST_SHOWN else "")


_FOLDERS = r"""
for path do [ ! -d "$path" ] || printf '%s\0' "$path"; done
"""


USER_SCRIPTS = {"check_folders": _FOLDERS}
"""What runs as the account of a user, by name; see `slurm_adapter.cli.sudo_helper`."""


def reached(adapter: Adapter, paths: Sequence[str], accounts: list[str]) -> set[str]:
    """Those of these paths that are folders to any of the accounts, or to the adapter's where none is known."""
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

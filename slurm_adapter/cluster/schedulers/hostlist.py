"""Expands Slurm's lists of node names (`node[001-003],gpu1`), as `scontrol show hostnames` does."""

from __future__ import annotations

import re
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import Unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 100_000
"""Maximum number of names in one list; Slurm itself stops at 65,536 in one range."""

_NO_NODES = frozenset({"", "(null)", "None", "None assigned", "N/A"})
"""Slurm's words if there are no nodes."""

_PART = re.compile(r"(?:[^,\[]|\[[^\]]*+\]?)++")
"""Text between commas outside brackets."""
_ENTRY = re.compile(r"(?:[A-Za-z0-9_.-]|\[[0-9,-]+\])+", re.ASCII)
_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?", re.ASCII)


def expand(text: str) -> tuple[str, ...]:
    """Return the names in their order, which is that of a job's ranks; empty if Slurm says that there are no nodes.

    Raises `Unknown` if the text is not a list of node names, or has more than `LIMIT` names.
    """
    if text.strip() in _NO_NODES:
        return ()
    names: list[str] = []
    for entry in _PART.findall(text):
        if not _ENTRY.fullmatch(entry):
            raise _unreadable(text)
        literals = re.split(r"\[[^\]]*\]", entry)
        groups = [
            [_read_range(part, text) for part in group.split(",")] for group in re.findall(r"\[([^\]]*)\]", entry)
        ]
        size = prod(sum(last - first + 1 for first, last, _ in ranges) for ranges in groups)
        if len(names) + size > LIMIT:
            raise Unknown(f"the list of nodes {_shown(text)} has more than {LIMIT} names")
        names.extend(_combine(literals, [list(_count(ranges)) for ranges in groups]))
    return tuple(names)


def _read_range(part: str, text: str) -> tuple[int, int, int]:
    """Return the first and last number, and the minimum of digits, which is that of the first: `[01-3]` is 01 02 03."""
    match = _RANGE.fullmatch(part)
    if match is None:
        raise _unreadable(text)
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise _unreadable(text)
    return first, last, len(match[1])


def _count(ranges: list[tuple[int, int, int]]) -> Iterator[str]:
    for first, last, width in ranges:
        for number in range(first, last + 1):
            yield f"{number:0{width}}"


def _combine(literals: list[str], groups: list[list[str]]) -> Iterator[str]:
    """Yield the literal parts with the numbers between them.

    In Slurm's order of several brackets, the last changes fastest, and of the others the first.
    """
    if not groups:
        yield literals[0]
        return
    *front, final = groups
    for turned in product(*reversed(front)):
        numbers = turned[::-1]
        prefix = "".join(literal + number for literal, number in zip(literals, numbers, strict=False))
        for number in final:
            yield prefix + literals[-2] + number + literals[-1]


def _unreadable(text: str) -> Unknown:
    return Unknown(f"{_shown(text)} is not a list of node names such as node[001-003],gpu1")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:200] + "...")

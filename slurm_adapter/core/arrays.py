"""Arrays of jobs (`--array`): which tasks a text names, as people write it for sbatch and as squeue prints it."""

from __future__ import annotations

import re

MOST_INDEX = 4_000_000
"""Slurm's own bound of MaxArraySize (slurm.conf(5)), which is 1001 where a site has not raised it."""

MOST_TASKS = 1_000_000
"""A bound on what one text may cost; far more tasks than a controller holds jobs (MaxJobCount)."""

_PART = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?", re.ASCII)


def read_tasks(text: str) -> frozenset[int]:
    """The indices that `0-9`, `1,3,5-7`, `0-15:4%2` or `[4-9]` name (sbatch(1)); `%2` says how many run at once.

    Raises `ValueError` for any other text, for a range that runs backwards, and beyond `MOST_INDEX`.
    """
    plain = text.removeprefix("[").removesuffix("]").partition("%")[0].removesuffix("]")
    found: set[int] = set()
    named = 0
    for part in plain.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"{text[:80]!r} names no tasks; write 0-9, 1,3,5-7 or 0-15:4")
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if step < 1 or not first <= last < MOST_INDEX:
            raise ValueError(f"{text[:80]!r}: a range of tasks goes up, in steps of 1 or more, below {MOST_INDEX}")
        named += (last - first) // step + 1
        if named > MOST_TASKS:
            raise ValueError(f"{text[:80]!r} names more than {MOST_TASKS} tasks")
        found.update(range(first, last + 1, step))
    return frozenset(found)

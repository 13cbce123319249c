"""Arrays of jobs (`--array`): lists of tasks as sbatch reads them and squeue prints them."""

from __future__ import annotations

import re

MOST_INDEX = 4_000_000
"""Upper bound of MaxArraySize in Slurm (slurm.conf(5)). The default of MaxArraySize is 1001."""

MOST_TASKS = 1_000_000
"""Most tasks of one list. It limits time and memory, and is far above the jobs of a controller (MaxJobCount)."""

_PART = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?", re.ASCII)


def read_tasks(text: str) -> frozenset[int]:
    """Return the indices in a list such as `0-9`, `1,3,5-7`, `0-15:4%2` or `[4-9]` (sbatch(1)).

    `%2` limits the tasks that run at the same time, and is ignored. Raise `ValueError` for other texts, for descending
    ranges, and for indices from `MOST_INDEX` on.
    """
    plain = text.removeprefix("[").removesuffix("]").partition("%")[0].removesuffix("]")
    found: set[int] = set()
    named = 0
    for part in plain.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"{text[:80]!r} is not a list of tasks; write 0-9, 1,3,5-7 or 0-15:4")
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if step < 1 or not first <= last < MOST_INDEX:
            raise ValueError(f"{text[:80]!r}: a range of tasks must ascend, in steps of 1 or more, below {MOST_INDEX}")
        named += (last - first) // step + 1
        if named > MOST_TASKS:
            raise ValueError(f"{text[:80]!r} names more than {MOST_TASKS} tasks")
        found.update(range(first, last + 1, step))
    return frozenset(found)

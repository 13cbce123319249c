"""What hostile clients make honest ones wait, and what memory they take."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.report import Figure
from tests.gateway.hostile_load import measure

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE, HONEST = 200, 20
MEGABYTES = 300
SECONDS = 30.0


class _Attacks:
    """One attack for all sides of a round."""

    def __init__(self, hostile: int, honest: int, seconds: float) -> None:
        self._measure = partial(measure, hostile=hostile, honest=honest, seconds=seconds)
        self._left: dict[str, float] = {}

    def take(self, side: str) -> float:
        """Return a side's value. The first side that asks has the attack made."""
        if side not in self._left:
            with tempfile.TemporaryDirectory() as folder:
                made = self._measure(Path(folder))
            if made.under.failed:
                raise RuntimeError(f"{len(made.under.failed)} honest requests failed, such as {made.under.failed[0]}")
            self._left = {
                "before": 1000 * made.before.p95, "under attack": 1000 * made.under.p95, "memory": made.under.megabytes,
            }  # fmt: skip
        return self._left.pop(side)


def hostile(jobs: int) -> Iterator[Figure]:
    """Measure honest clients beside hostile ones; with fewer jobs in a bulk than 1000, all that is smaller, too."""
    part = min(1.0, jobs / 1000)
    counts = max(13, round(HOSTILE * part)), max(2, round(HONEST * part))
    attacks = _Attacks(*counts, seconds=max(2.0, SECONDS * part))
    yield Figure(
        f"{counts[0]} hostile clients beside {counts[1]} honest ones: p95 of the honest, and MB of serve",
        {side: partial(attacks.take, side) for side in ("before", "under attack", "memory")},
        unit="",
        target=f"p95 (ms) below twice its value without them, memory below {MEGABYTES} MB",
        met=lambda m: (
            m["under attack"] < 2 * m["before"] and m["memory"] < MEGABYTES,
            f"{m['under attack'] / m['before']:.1f}x, {m['memory']:.0f} MB",
        ),
    )

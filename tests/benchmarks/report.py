"""What was measured, as a table for a terminal, as a table in Markdown, and as JSON."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Medians = dict[str, float]


@dataclass
class Figure:
    """One thing that is measured, by several sides."""

    name: str
    sides: dict[str, Callable[[], float]]
    """Each does it once, and tells what it took."""
    unit: str = "s"
    target: str = ""
    """In words."""
    met: Callable[[Mapping[str, float]], tuple[bool, str]] | None = None
    """Whether the medians meet it, and what they come to."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Sides that could not be run, and why."""


@dataclass
class Result:
    """A figure, measured."""

    figure: Figure
    rounds: dict[str, list[float]]

    @property
    def medians(self) -> Medians:
        """By side."""
        return {side: median(values) for side, values in self.rounds.items() if values}

    @property
    def verdict(self) -> str:
        """Whether the target was met, with what was reached."""
        if self.figure.met is None:
            return ""
        try:
            met, reached = self.figure.met(self.medians)
        except KeyError as error:
            return f"not measured: {error.args[0]} is missing"
        return f"{'met' if met else 'missed'}: {reached}"


def measure(figure: Figure, rounds: int, say: Callable[[str], None]) -> Result:
    """Run every side in turn, so many times. A side that fails is left out from then on, with its reason.

    Each round begins with another side: what one leaves behind, such as ended jobs in slurmctld, slows those after it.
    """
    taken: dict[str, list[float]] = {side: [] for side in figure.sides}
    sides = list(figure.sides)
    for number in range(rounds):
        begin = number % len(sides)
        for side in sides[begin:] + sides[:begin]:
            if side in figure.left_out:
                continue
            try:
                taken[side].append(figure.sides[side]())
            except Exception as error:  # noqa: BLE001  # another's library: whatever it raises is told
                figure.left_out[side] = f"{type(error).__name__}: {str(error)[:200]}"
                continue
            say(f"{figure.name}, round {number + 1}, {side}: {taken[side][-1]:.3f} {figure.unit}")
    return Result(figure, taken)


def lines(results: list[Result]) -> list[str]:
    """A table for a terminal."""
    told = []
    for result in results:
        told.append(f"{result.figure.name}" + (f"   (target: {result.figure.target})" if result.figure.target else ""))
        for side, values in result.rounds.items():
            if values:
                spread = f"{median(values):10.3f} {result.figure.unit:<6} {min(values):.3f} to {max(values):.3f}"
                told.append(f"    {side:<34}{spread}")
        told += [f"    {side:<34}not run: {why}" for side, why in result.figure.left_out.items()]
        if result.verdict:
            told.append(f"    => {result.verdict}")
    return told


def markdown(results: list[Result]) -> str:
    """Return the table of the documentation (docs/benchmark.md)."""
    rows = ["| figure | what | median (spread) |", "|---|---|---|"]
    for result in results:
        name, unit = result.figure.name, result.figure.unit
        for side, values in result.rounds.items():
            if values:
                spread = f"{median(values):.3g} {unit} ({min(values):.3g} to {max(values):.3g})"
                rows.append(f"| {name} | {side} | {spread} |")
                name = ""
        if result.verdict:
            verdict, _, reached = result.verdict.partition(": ")
            rows.append(f"| {name} | target: {result.figure.target} | **{verdict}**: {reached} |")
    return "\n".join(rows)


def versions() -> dict[str, str | None]:
    """Of what is measured; none for what is not installed."""
    found: dict[str, str | None] = {}
    for name in ("slurm-adapter", "pyslurm", "psij-python", "submitit", "parsl"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def as_json(results: list[Result], slurm: str) -> dict[str, Any]:
    """Everything, with the machine that it was measured on."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processors": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "versions": versions() | {"Slurm": slurm},
        "figures": [
            {
                "name": result.figure.name,
                "unit": result.figure.unit,
                "target": result.figure.target,
                "verdict": result.verdict,
                "rounds": result.rounds,
                "medians": result.medians,
                "left out": result.figure.left_out,
            }
            for result in results
        ],
    }


def write_json(path: Path, results: list[Result], slurm: str) -> None:
    """Write it."""
    path.write_text(json.dumps(as_json(results, slurm), indent=2) + "\n", encoding="utf-8")

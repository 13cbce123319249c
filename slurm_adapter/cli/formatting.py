"""Format output for people: tables, times, colours. Piped output has no colours and is never cut."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
import unicodedata
from typing import TYPE_CHECKING

import click

from slurm_adapter.core.states import JobState

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLOURS = {
    JobState.IN_QUEUE: "yellow",
    JobState.RUNNING: "green",
    JobState.SUSPENDED: "magenta",
    JobState.SUCCESS: "cyan",
    JobState.FAILURE: "red",
    JobState.EXPIRED: "red",
}


def safe(text: str) -> str:
    """Return text with control characters escaped, so that a terminal does not interpret them."""
    return "".join(c if c == "\t" or unicodedata.category(c)[0] != "C" else f"\\x{ord(c):02x}" for c in text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, wide: int = -1) -> str:
    """Return an aligned table. On a terminal, cut the column `wide` to the width that is left."""
    cells = [[safe(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - sum(widths) - 2 * (len(widths) - 1) + widths[wide]
        widths[wide] = max(min(widths[wide], room), len(header[wide]), 12)
    lines = []
    for number, row in enumerate(cells):
        words = [_cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)]
        words[-1] = words[-1].rstrip()
        lines.append("  ".join(click.style(word, bold=True) if number == 0 else _coloured(word) for word in words))
    return "\n".join(lines)


def labelled(label: str, colour: str, text: str) -> str:
    """Return a text after a coloured label. On a terminal, wrap the text beside the label."""
    head, text = f"{label:7}  ", safe(text)
    if sys.stdout.isatty():
        width = max(shutil.get_terminal_size().columns - len(head), 40)
        lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
        text = f"\n{' ' * len(head)}".join(lines)
    return click.style(head, fg=colour) + text


def state(value: JobState) -> str:
    """Return a state in its colour."""
    return click.style(value, fg=_COLOURS[value])


def ago(when: float | None, now: float) -> str:
    """Return the age in the largest unit of which there are at least two: `90s`, `15m`, `7h`, `3d`."""
    if when is None:
        return "-"
    seconds = max(0, int(now - when))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def moment(when: float | None) -> str:
    """Return a time in the local time zone, with seconds and the zone's offset."""
    return "-" if when is None else time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(when))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _coloured(word: str) -> str:
    plain = word.rstrip()
    return click.style(word, fg=_COLOURS[JobState(plain)]) if plain in JobState.__members__ else word

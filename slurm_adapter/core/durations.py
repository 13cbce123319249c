"""Convert durations between text and seconds."""

from __future__ import annotations

import re


def duration(seconds: float) -> str:
    """Return seconds as Slurm writes them, such as `1-02:03:04`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days}-" if days else "") + f"{hours:02d}:{minutes:02d}:{rest:02d}"


_DURATION = re.compile(r"(?:(\d+)-)?(\d{1,3}):(\d{2}):(\d{2})", re.ASCII)


def parse_duration(text: str) -> int:
    """Return the seconds of `[D-]HH:MM:SS`. Raise `ValueError` for other texts.

    Slurm's other forms are refused because they are ambiguous: in Slurm `90` is minutes, but most people read seconds.
    """
    match = _DURATION.fullmatch(text)
    if match is None or int(match[3]) > 59 or int(match[4]) > 59:
        raise ValueError(f"{text!r} is not a duration: write HH:MM:SS or D-HH:MM:SS, such as 02:00:00 or 1-12:00:00")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def whole_minutes(seconds: int) -> int:
    """Return seconds rounded up to whole minutes, the unit of Slurm's time limits."""
    return -(-seconds // 60) * 60


def back_off(lasted: float, shortest: float, longest: float) -> float:
    """Return how many seconds to wait before the next try: as long as the failure has lasted, within these limits."""
    return min(max(lasted, shortest), longest)

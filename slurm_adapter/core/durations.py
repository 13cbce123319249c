"""Durations in text and in seconds."""

from __future__ import annotations

import re


def duration(seconds: float) -> str:
    """`1-02:03:04`, as Slurm writes it."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days}-" if days else "") + f"{hours:02d}:{minutes:02d}:{rest:02d}"


_DURATION = re.compile(r"(?:(\d+)-)?(\d{1,3}):(\d{2}):(\d{2})", re.ASCII)


def parse_duration(text: str) -> int:
    """`[D-]HH:MM:SS` in seconds.

    Of Slurm's forms only the unambiguous one is taken: `90` would be minutes to Slurm and seconds to most people.
    """
    match = _DURATION.fullmatch(text)
    if match is None or int(match[3]) > 59 or int(match[4]) > 59:
        raise ValueError(f"{text!r} is no duration: write HH:MM:SS or D-HH:MM:SS, such as 02:00:00 or 1-12:00:00")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def whole_minutes(seconds: int) -> int:
    """A time limit as Slurm keeps it, in seconds."""
    return -(-seconds // 60) * 60

"""Limits on JSON that are checked before it is parsed.

A parser makes an object of 50 to 100 bytes for each value, even for one of two bytes, and reads to the end. So the
values are counted first. The count needs one scan and no copy, and stops at the first limit that is exceeded.
"""

from __future__ import annotations

import re

from slurm_adapter.core.errors import InvalidInput

MOST_VALUES = 500_000
"""Most values in one document. A job from UCloud has 300 to 400 values, and a request has at most 1000 jobs."""

MOST_ENTRIES = 5_000
"""Most entries in one list or object."""

MOST_LEVELS = 64
"""Most levels of nested lists and objects. UCloud sends up to 11."""

MOST_DIGITS = 40
"""Most digits of an integer. Python needs long to convert longer ones. Fields have narrower limits."""

# Strings are skipped, even an unterminated one. Possessive quantifiers do not backtrack, so the time is linear.
_UP_TO_MARK = re.compile(rb'(?:[^"\[\]{},]++|"[^"\\]*+(?:\\.[^"\\]*+)*+"?)*+([\[\]{},]?)', re.DOTALL)


def check_bounds(data: bytes) -> None:
    """Raise `InvalidInput` if JSON has too many values or levels. The syntax is not checked."""
    values = 0
    entries: list[int] = []
    for match in _UP_TO_MARK.finditer(data):
        mark = match[1]
        if mark in b"]}":  # also true at the end, with an empty mark
            if entries:
                entries.pop()
            continue
        values += 1
        if values > MOST_VALUES:
            raise InvalidInput(f"the input has more than {MOST_VALUES} values; send it in several requests")
        if mark in b"[{":
            entries.append(1)
            if len(entries) > MOST_LEVELS:
                raise InvalidInput(f"the input is nested too deeply: {MOST_LEVELS} levels are allowed")
        elif entries:
            entries[-1] += 1
            if entries[-1] > MOST_ENTRIES:
                raise InvalidInput(f"a list or an object has more than {MOST_ENTRIES} entries")


def read_integer(text: str) -> int:
    """Return an integer of JSON. Raise `InvalidInput` if it has too many digits."""
    if len(text) > MOST_DIGITS:
        raise InvalidInput(f"the number {text[:MOST_DIGITS]}... is too long; integers have at most 64 bits")
    return int(text)

"""Bounds on JSON before it is parsed.

Parsing makes an object of 50 to 100 bytes for each value, however short it is in the text, and does not stop before the
end. So the values are counted first: in one scan, without a copy, which ends at the first bound that is exceeded.
"""

from __future__ import annotations

import re

from slurm_adapter.core.errors import InvalidInput

MOST_VALUES = 500_000
"""Values of one document. A job as UCloud sends it has 300 to 400 of them, and a request has 1000 jobs at most."""

MOST_ENTRIES = 5_000
"""Entries of one list or object."""

MOST_LEVELS = 64
"""Lists and objects within each other. What UCloud sends has 11."""

MOST_DIGITS = 40
"""Digits of the longest integer that is converted: Python takes long for long ones. Fields have narrower bounds."""

# Strings are skipped, also one without an end. Nothing here backtracks (possessive quantifiers), so it is linear.
_UP_TO_MARK = re.compile(rb'(?:[^"\[\]{},]++|"[^"\\]*+(?:\\.[^"\\]*+)*+"?)*+([\[\]{},]?)', re.DOTALL)


def check_bounds(data: bytes) -> None:
    """Raise `InvalidInput` for JSON with too many values, or too deep. Whether it is JSON is not looked at."""
    values = 0
    entries: list[int] = []
    for match in _UP_TO_MARK.finditer(data):
        mark = match[1]
        if mark in b"]}":  # or the end
            if entries:
                entries.pop()
            continue
        values += 1
        if values > MOST_VALUES:
            raise InvalidInput(f"the input holds more than {MOST_VALUES} values; send it in several requests")
        if mark in b"[{":
            entries.append(1)
            if len(entries) > MOST_LEVELS:
                raise InvalidInput(f"the input is nested too deeply: {MOST_LEVELS} levels are allowed")
        elif entries:
            entries[-1] += 1
            if entries[-1] > MOST_ENTRIES:
                raise InvalidInput(f"a list or an object has more than {MOST_ENTRIES} entries")


def read_integer(text: str) -> int:
    """Return the integer that a text says. Raise `InvalidInput` if it is long."""
    if len(text) > MOST_DIGITS:
        raise InvalidInput(f"the number {text[:MOST_DIGITS]}... is too long; integers have at most 64 bits")
    return int(text)

"""Values of the configuration: accounts, addresses, paths, durations and patterns."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from slurm_adapter.core.durations import parse_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

ACCOUNT_NAME = re.compile(r"(?![-+#.]|\d+$)[^\x00-\x1f\x7f:,/\s](?:[^\x00-\x1f\x7f:,/]{0,254}[^\x00-\x1f\x7f:,/\s])?")
"""Names of accounts that passwd(5) allows and that no command interprets in another way.

id(1) and sudo(8) read digits, also after `+` or `#`, as a uid. squeue(1) separates names by commas. A name that begins
with `-` is read as an option. Slashes and leading dots lead out of a folder.
"""

SBATCH_VALUE = r"^\S(.*\S)?$"
"""Value of an option of sbatch."""

URL = r"^https?://[^/\s]+$"
URL_FORM = "http:// or https:// and a host, with a port if it has one, and without a path"


_NO_UNITS = (
    'a number has no units: write "HH:MM:SS" or "D-HH:MM:SS", such as "48:00:00" for 48 hours or "00:48:00" for 48 '
    "minutes"
)


def read_duration(value: object) -> object:
    """Return the seconds of a duration, for validators. Raise `ValueError`."""
    if isinstance(value, str):
        return parse_duration(value)
    if type(value) in {int, float}:
        raise PydanticCustomError("duration", _NO_UNITS)
    return value  # pydantic refuses it


def _absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError("must be an absolute path: ~ and relative paths depend on account and folder of the program")
    return value


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


def check_pattern(pattern: str, known: Sequence[str], required: Sequence[str]) -> None:
    """Raise `ValueError` if a pattern has unknown names in braces, or none of the required ones."""
    allowed = ", ".join(f"{{{name}}}" for name in known)
    if re.search(r"[{}]", re.sub(rf"\{{({'|'.join(known)})\}}", "", pattern)):
        raise ValueError(f"may contain in braces: {allowed}")
    if not any(f"{{{name}}}" in pattern for name in required):
        raise ValueError(f"must contain {' or '.join(f'{{{name}}}' for name in required)}, so that results differ")

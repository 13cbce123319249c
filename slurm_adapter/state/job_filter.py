"""Filters of jobs, as conditions in SQL: UCloud's flags of browse and search.

A page begins after the last job of the one before, whatever came or went meanwhile.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from slurm_adapter.core.errors import InvalidInput

if TYPE_CHECKING:
    from slurm_adapter.core.states import JobState

SortBy = Literal["createdAt", "createdBy", "timeLeft"]

_KEYS: dict[SortBy, str] = {
    "createdAt": "created",
    "createdBy": "owner",
    "timeLeft": "coalesce(started, created) + time_limit",
}


@dataclass(frozen=True, slots=True)
class Selection:
    """Jobs of one workspace; None means any."""

    owner: str
    project: str | None
    query: str | None = None
    """A part of the application's name, the job's name or its id, in whatever case."""
    ids: tuple[str, ...] | None = None
    state: JobState | None = None
    application: str | None = None
    created_by: str | None = None
    created_after: float | None = None
    """Seconds since the epoch."""
    created_before: float | None = None
    provider: str | None = None
    product: str | None = None
    category: str | None = None
    without_provider: str | None = None
    without_product: str | None = None
    without_category: str | None = None
    slurm_names: tuple[str, ...] | None = None
    """UCloud's field for the provider's own ids."""
    labels: tuple[tuple[str, str], ...] = ()
    sort_by: SortBy = "createdAt"
    ascending: bool = False
    limit: int = 50
    after: str | None = None
    """The `next` of the page before."""

    @property
    def key(self) -> str:
        """Return the sort key as SQL."""
        return _KEYS[self.sort_by]

    def conditions(self) -> tuple[str, list[object]]:
        """Return the conditions as SQL, and their values. Raises `InvalidInput` for an unknown `after`."""
        conditions = ["project = ?"] if self.project is not None else ["project IS NULL AND owner = ?"]
        values: list[object] = [self.project if self.project is not None else self.owner]
        plain = {
            "state = ?": self.state,
            "owner = ?": self.created_by,
            "created >= ?": self.created_after,
            "created <= ?": self.created_before,
            "json_extract(specification, '$.application.name') = ?": self.application,
        }
        products = (("provider", self.provider, self.without_provider), ("id", self.product, self.without_product))
        for name, wanted_part, unwanted in (*products, ("category", self.category, self.without_category)):
            plain[f"json_extract(specification, '$.product.{name}') = ?"] = wanted_part
            plain[f"json_extract(specification, '$.product.{name}') <> ?"] = unwanted
        for condition, value in plain.items():
            if value is not None:
                conditions.append(condition)
                values.append(value)
        for name, wanted in (("id", self.ids), ("slurm_name", self.slurm_names)):
            if wanted is not None:
                conditions.append(f"{name} IN (SELECT value FROM json_each(?))")  # noqa: S608  # nosec B608 # our own names
                values.append(json.dumps(wanted))
        for label, value in self.labels:
            conditions.append("EXISTS (SELECT 1 FROM json_each(labels) WHERE key = ? AND value = ?)")
            values += [label, value]
        if self.query:
            text = "(id || char(10) || json_extract(specification, '$.name') || char(10) || application)"
            conditions.append(f"instr(lower({text}), lower(?)) > 0")
            values.append(self.query)
        if self.after is not None:
            conditions.append(f"({self.key}, rowid) {'>' if self.ascending else '<'} (?, ?)")
            values += _read_place(self.after)
        return " AND ".join(conditions), values


def place(key: float | str, rowid: int) -> str:
    """Return the place of a page's last job, for the next page."""
    return base64.urlsafe_b64encode(json.dumps([key, rowid]).encode()).decode()


def _read_place(text: str) -> list[object]:
    try:
        key, rowid = json.loads(base64.urlsafe_b64decode(text.encode()))
    except (ValueError, TypeError, RecursionError):
        key, rowid = None, None
    too_large = any(isinstance(each, int) and abs(each) >= 2**63 for each in (key, rowid))
    if not isinstance(key, int | float | str) or not isinstance(rowid, int) or too_large:
        raise InvalidInput("next: must be what the page before gave as its next, unchanged")
    return [key, rowid]

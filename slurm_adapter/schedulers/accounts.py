"""Accounts by their uids: a directory service may give an account another name than the one that it was asked for."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from slurm_adapter.schedulers.interface import Observation


class Accounts:
    """Accounts of jobs, under the names that the configuration has for them."""

    def __init__(self, uids: Mapping[str, str]) -> None:
        """Take the uids of accounts by their names."""
        grouped: dict[str, list[str]] = defaultdict(list)
        for name, uid in uids.items():
            grouped[uid].append(name)
        self.names: Mapping[str, str] = {uid: names[0] for uid, names in grouped.items()}
        """One name of each uid."""
        self._others = {names[0]: names[1:] for names in grouped.values() if len(names) > 1}

    def with_aliases(self, observations: Iterable[Observation]) -> tuple[Observation, ...]:
        """Return these, and those of accounts with several names once more under each of the other names."""
        found = tuple(observations)
        if not self._others:
            return found
        more = [
            seen._replace(user=name, cancelled_by=name if seen.cancelled_by == seen.user else seen.cancelled_by)
            for seen in found
            for name in self._others.get(seen.user, ())
        ]
        return (*found, *more)


def read_uids(data: bytes, names: Sequence[str]) -> dict[str, str]:
    """Return the uids of these accounts, as far as lines of passwd(5) tell them."""
    rows = [line.split(":") for line in data.decode(errors="surrogateescape").splitlines()]
    found = {row[0]: row[2] for row in rows if len(row) > 3 and row[2].isdigit()}
    return {name: found[name] for name in names if name in found}

"""Accounts by uid: a directory service may return another name of an account than the requested one."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from slurm_adapter.core.observation import Observation


class Accounts:
    """Accounts of jobs, by their names in the configuration."""

    def __init__(self, uids: Mapping[str, str]) -> None:
        """Take the uids of accounts by their names."""
        grouped: dict[str, list[str]] = defaultdict(list)
        for name, uid in uids.items():
            grouped[uid].append(name)
        self.names: Mapping[str, str] = {uid: names[0] for uid, names in grouped.items()}
        """One name of each uid."""
        self._others = {names[0]: names[1:] for names in grouped.values() if len(names) > 1}

    def with_aliases(self, observations: Iterable[Observation]) -> tuple[Observation, ...]:
        """Return these observations, with a copy for each further name of their accounts."""
        found = tuple(observations)
        if not self._others:
            return found
        more = [
            seen._replace(user=name, cancelled_by=name if seen.cancelled_by == seen.user else seen.cancelled_by)
            for seen in found
            for name in self._others.get(seen.user, ())
        ]
        return (*found, *more)


_GUARD = "root"


def guarded(names: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments of getent(1) with which `read_uids` can assign each line to an account."""
    return (_GUARD, *(word for name in names for word in (name, _GUARD)))


def read_uids(data: bytes, names: Sequence[str]) -> dict[str, str]:
    """Return the uids of these accounts that lines of passwd(5) show.

    If users may edit their own entries of a directory service, a comment (GECOS) may contain whole lines about other
    accounts. So a line of a fixed account, the guard, stands between two accounts, and several lines between guards
    prove nothing. A forged guard is noticed, because guards are counted.
    """
    first, *lines = data.decode(errors="surrogateescape").split("\n")
    if not first.startswith(f"{_GUARD}:") or lines.count(first) != len(names):
        return {}
    found: dict[str, str] = {}
    for name in names:
        end = lines.index(first)
        fields = lines[0].split(":") if end == 1 else []
        if len(fields) > 3 and fields[2].isdecimal():
            found[name] = fields[2]
        del lines[: end + 1]
    return found

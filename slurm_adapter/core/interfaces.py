"""Further interfaces of a job, which its application's template declares beside its web or VNC port."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST = 100
"""How many a job may have: each is an update of the job (contract 1.14)."""

LOWEST_PORT = 1024
"""Of an interface: below are the nodes' own services, and no job may listen there."""

NAME_LIMIT = 100
"""Characters of a name."""

Kind = Literal["WEB", "VNC"]


class Interface(NamedTuple):
    """One interface of one rank (contract 1.14, `DynamicTarget`)."""

    rank: int
    kind: Kind
    name: str
    """By which a session asks for it; each rank has a name once."""
    port: int

    @property
    def status(self) -> str:
        """The text by which UCloud's web interface learns of it."""
        told = {
            "rank": self.rank,
            "type": self.kind,
            "target": self.name,
            "port": self.port,
            "defaultName": None,
        }
        return f"Target: {json.dumps(told, ensure_ascii=False, separators=(',', ':'))}"


def declare(rank: object, kind: object, name: object, port: object) -> Interface:
    """Return what a template declares. Raise `ValueError` that says what is allowed."""
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 0:
        raise ValueError(f"dynamicInterface(): rank: {rank!r}: must be a whole number from 0 on")
    if kind not in get_args(Kind):
        raise ValueError(f"dynamicInterface(): type: {kind!r}: must be WEB or VNC")
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= NAME_LIMIT:
        raise ValueError(
            f"dynamicInterface(): target: {name!r}: must be a text of 1 to {NAME_LIMIT} printed characters"
        )
    if not isinstance(port, int) or isinstance(port, bool) or not LOWEST_PORT <= port < 65536:
        raise ValueError(f"dynamicInterface(): port: {port!r}: must be a whole number from {LOWEST_PORT} to 65535")
    return Interface(rank, "WEB" if kind == "WEB" else "VNC", str(name), port)


def check_interfaces(interfaces: Iterable[Interface]) -> tuple[Interface, ...]:
    """Return the interfaces of a job. Raise `ValueError` if two of a rank have one name, or if there are too many."""
    found: dict[tuple[int, str], Interface] = {}
    for each in interfaces:
        if (each.rank, each.name) in found:
            raise ValueError(f"dynamicInterface(): target: {each.name!r}: rank {each.rank} has one of this name")
        found[each.rank, each.name] = each
    if len(found) > MOST:
        raise ValueError(f"dynamicInterface(): a job has at most {MOST} further interfaces")
    return tuple(found.values())

"""Interfaces that an application's template declares for a job, in addition to its web or VNC port."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST = 100
"""Most interfaces of a job. Each interface is sent to UCloud as an update of the job."""

LOWEST_PORT = 1024
"""Lowest port of an interface. Lower ports belong to services of the nodes, and jobs cannot listen there."""

NAME_LIMIT = 100
"""Most characters of a name."""

Kind = Literal["WEB", "VNC"]


class Interface(NamedTuple):
    """One interface of one rank. UCloud calls it `DynamicTarget`."""

    rank: int
    kind: Kind
    name: str
    """Name by which a session requests it. The names of a rank differ."""
    port: int

    @property
    def status(self) -> str:
        """Return the status text from which UCloud's web interface reads it."""
        fields = {
            "rank": self.rank,
            "type": self.kind,
            "target": self.name,
            "port": self.port,
            "defaultName": None,
        }
        return f"Target: {json.dumps(fields, ensure_ascii=False, separators=(',', ':'))}"


def declare(rank: object, kind: object, name: object, port: object) -> Interface:
    """Return an interface from the values in a template. Raise `ValueError` that says what is allowed."""
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 0:
        raise ValueError(f"dynamicInterface(): rank: {rank!r}: must be an integer of at least 0")
    if kind not in get_args(Kind):
        raise ValueError(f"dynamicInterface(): type: {kind!r}: must be WEB or VNC")
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= NAME_LIMIT:
        raise ValueError(
            f"dynamicInterface(): target: {name!r}: must be a text of 1 to {NAME_LIMIT} printable characters"
        )
    if not isinstance(port, int) or isinstance(port, bool) or not LOWEST_PORT <= port < 65536:
        raise ValueError(f"dynamicInterface(): port: {port!r}: must be an integer from {LOWEST_PORT} to 65535")
    return Interface(rank, "WEB" if kind == "WEB" else "VNC", str(name), port)


def check_interfaces(interfaces: Iterable[Interface]) -> tuple[Interface, ...]:
    """Return the interfaces of a job. Raise `ValueError` for duplicate names of a rank, and for too many interfaces."""
    found: dict[tuple[int, str], Interface] = {}
    for each in interfaces:
        if (each.rank, each.name) in found:
            raise ValueError(f"dynamicInterface(): target: {each.name!r}: stands twice for rank {each.rank}")
        found[each.rank, each.name] = each
    if len(found) > MOST:
        raise ValueError(f"dynamicInterface(): a job can have at most {MOST} interfaces")
    return tuple(found.values())

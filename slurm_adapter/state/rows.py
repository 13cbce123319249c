"""Rows of the table `jobs`: read as records, and written from them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from slurm_adapter.core.errors import NotFound
from slurm_adapter.core.interfaces import Interface
from slurm_adapter.core.records import Peer, Record, Stage
from slurm_adapter.core.states import JobState
from slurm_adapter.state.database import Database, translate_errors

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence

COLUMNS = tuple(name for name in Record._fields if name != "peers")


class Rows(Database):
    """The records of jobs in the database."""

    def get(self, id_: str) -> Record:
        """Return a job. Raises `NotFound`."""
        record = self._one(id_)
        if record is None:
            raise NotFound(f"there is no job {id_}; `slurm-adapter jobs --all` lists those that are known")
        return record

    def find(self, ids: Iterable[str]) -> dict[str, Record]:
        """Return those of these jobs that are known, by id."""
        return {record.id: record for record in self._select_in("id", ids)}

    def again(self, records: Iterable[Record]) -> list[Record]:
        """Return these very jobs as they are now, in the same order, those that are still known."""
        wanted = [record.slurm_name for record in records]
        known = {record.slurm_name: record for record in self.with_slurm_names(wanted)}
        return [known[slurm_name] for slurm_name in wanted if slurm_name in known]

    def with_slurm_names(self, slurm_names: Iterable[str]) -> list[Record]:
        """Return those of these jobs that are known."""
        return self._select_in("slurm_name", slurm_names)

    def _one(self, id_: str) -> Record | None:
        found = self._select("id = ?", (id_,))
        return found[0] if found else None

    def _select_in(self, column: str, values: Iterable[str]) -> list[Record]:
        """Select by one query, however many values: SQLite takes them as one JSON array."""
        return self._select(f"{column} IN (SELECT value FROM json_each(?))", (json.dumps(list(values)),))  # noqa: S608  # nosec B608 # our own names

    def _select(self, condition: str, values: Sequence[object]) -> list[Record]:
        with translate_errors(self._path):
            query = f"SELECT {_NAMES} FROM jobs WHERE {condition} ORDER BY created, rowid"  # noqa: S608  # nosec B608 # our own conditions
            rows = self._connection.execute(query, values).fetchall()
            peers: dict[str, list[Peer]] = {}
            if rows:
                ids = json.dumps([row["id"] for row in rows])
                for row in self._connection.execute(
                    "SELECT * FROM peers WHERE consumer IN (SELECT value FROM json_each(?)) ORDER BY position", (ids,)
                ):
                    peers.setdefault(row["consumer"], []).append(Peer(row["hostname"], row["job_id"]))
        return [_record(row, tuple(peers.get(row["id"], ()))) for row in rows]

    def _plain(self, query: str, *values: object) -> sqlite3.Cursor:
        """Return the rows as tuples, which is much faster for many rows."""
        cursor = self._connection.cursor()
        cursor.row_factory = None
        return cursor.execute(query, values)


def insert_peers(connection: sqlite3.Connection, record: Record) -> None:
    """Insert the peers of a job."""
    connection.executemany(
        "INSERT INTO peers VALUES (?, ?, ?, ?)",
        [(record.id, peer.hostname, peer.job_id, position) for position, peer in enumerate(record.peers)],
    )


def values_of(record: Record) -> list[object]:
    """Return the columns of a record as SQLite takes them."""
    return [plain(getattr(record, name)) for name in COLUMNS]


def plain(value: object) -> object:
    """Return a value as SQLite takes it."""
    kind = type(value)
    if kind is tuple:
        return json.dumps(value) if value else "[]"
    return int(value) if kind is bool else value  # type: ignore[call-overload]  # mypy does not follow `kind`


def read_list(text: str) -> tuple[Any, ...]:
    """Read a tuple from its JSON."""
    return tuple(json.loads(text)) if text != "[]" else ()


def read_addresses(text: str) -> tuple[tuple[str, ...], ...]:
    """Read addresses of ranks from their JSON."""
    return tuple(map(tuple, read_list(text)))


def _read_interfaces(text: str) -> tuple[Interface, ...]:
    return tuple(Interface(*each) for each in read_list(text)) if text != "[]" else ()


STAGES = {stage.value: stage for stage in Stage}
STATES = {state.value: state for state in JobState}


_READERS: tuple[tuple[int, Callable[[Any], Any]], ...] = (
    (COLUMNS.index("array"), bool),
    (COLUMNS.index("has_hosts_file"), bool),
    (COLUMNS.index("stage"), STAGES.__getitem__),
    (COLUMNS.index("state"), STATES.__getitem__),
    (COLUMNS.index("nodes"), read_list),
    (COLUMNS.index("addresses"), read_addresses),
    (COLUMNS.index("interfaces"), _read_interfaces),
)
"""Functions that convert columns from SQLite's types, by the places of the columns."""


_NAMES = ", ".join(COLUMNS)


def _record(row: Sequence[Any], peers: tuple[Peer, ...]) -> Record:
    values = list(row)
    for number, read in _READERS:
        values[number] = read(values[number])
    return Record(*values, peers=peers)  # type: ignore[misc]  # the columns are all fields but the last

"""Updates of jobs for their users, and the queue of those that UCloud has not got yet."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from slurm_adapter.core.messages import Message
from slurm_adapter.core.records import STANDALONE, Update
from slurm_adapter.core.states import JobState
from slurm_adapter.state.database import translate_errors
from slurm_adapter.state.rows import Rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

    from slurm_adapter.core.records import Record

QUEUE_UPDATE = """
    INSERT INTO updates (job_id, time, state, status, more, due)
    SELECT id, ?, ?, ?, ?, origin <> 'local' AND deleted_in_ucloud IS NULL FROM jobs WHERE
"""
"""Queues an update. It is due for UCloud only if the job came from there and was not deleted there."""


class Outbox(Rows):
    """The updates in the database."""

    def note(
        self, notes: Iterable[tuple[str, str]], now: float, more: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Queue updates about jobs, given by id, that change nothing of them; none about jobs that have ended.

        `more`: see `Update.more`.
        """
        fields = json.dumps(dict(more))
        with self._transaction() as connection:
            connection.executemany(
                f"{QUEUE_UPDATE} id = ? AND stage <> 'ended'", [(now, None, text, fields, id_) for id_, text in notes]
            )

    def updates(self, id_: str) -> list[Update]:
        """Return the updates about a job, in order."""
        with translate_errors(self._path):
            rows = self._connection.execute("SELECT * FROM updates WHERE job_id = ? ORDER BY number", (id_,)).fetchall()
        return [
            Update(
                row["number"],
                row["job_id"],
                row["time"],
                JobState(row["state"]) if row["state"] else None,
                row["status"],
                row["delivered"],
                json.loads(row["more"]),
            )
            for row in rows
        ]

    def last_updates(self, ids: Iterable[str]) -> dict[str, int]:
        """Return the number of the last update about each of these jobs."""
        with translate_errors(self._path):
            rows = self._connection.execute(
                """
                SELECT job_id, max(number) AS number FROM updates
                WHERE job_id IN (SELECT value FROM json_each(?)) GROUP BY job_id
                """,
                (json.dumps(list(ids)),),
            ).fetchall()
        return {row["job_id"]: row["number"] for row in rows}

    def outbox(self) -> tuple[int, float | None]:
        """Return how many updates UCloud has not got yet, and the time of the oldest one."""
        with translate_errors(self._path):
            row = self._connection.execute(
                "SELECT count(*) AS due, min(time) AS oldest FROM updates WHERE due = 1"
            ).fetchone()
        return row["due"], row["oldest"]

    def due(self, after: int, limit: int) -> list[Message]:
        """Return updates that UCloud has not got yet, after this number, in order, at most `limit`."""
        with translate_errors(self._path):
            rows = self._connection.execute(
                """
                SELECT *, (
                    SELECT state FROM updates AS earlier
                    WHERE earlier.job_id = updates.job_id AND earlier.number < updates.number AND state IS NOT NULL
                    ORDER BY number DESC LIMIT 1
                ) AS before, (
                    SELECT count(*) FROM updates AS earlier
                    WHERE earlier.job_id = updates.job_id AND earlier.number < updates.number
                    AND earlier.state IS updates.state AND earlier.status = updates.status
                ) AS copies
                FROM updates WHERE due = 1 AND number > ? ORDER BY number LIMIT ?
                """,
                (after, limit),
            ).fetchall()
        return [
            Message(
                row["number"],
                row["job_id"],
                row["time"],
                JobState(row["state"]) if row["state"] else None,
                row["status"],
                JobState(row["before"] or JobState.IN_QUEUE),
                json.loads(row["more"]),
                fresh=not row["sent"],
                copies=row["copies"],
            )
            for row in rows
        ]

    def note_sent(self, numbers: Iterable[int], *, sent: bool) -> frozenset[int]:
        """Note that these updates are on their way to UCloud, or certainly did not arrive. Return those still due."""
        with self._transaction() as connection:
            rows = connection.execute(
                "UPDATE updates SET sent = ? WHERE due = 1 AND number IN (SELECT value FROM json_each(?)) "
                "RETURNING number",
                (int(sent), json.dumps(list(numbers))),
            ).fetchall()
        return frozenset(row["number"] for row in rows)

    def note_delivered(self, numbers: Iterable[int], now: float) -> None:
        """Note that UCloud has got these updates."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE updates SET due = 0, delivered = ? WHERE number = ?", [(now, number) for number in numbers]
            )

    def expected(self) -> list[str]:
        """Return the ids of the jobs that have not ended and that UCloud should know."""
        query = (
            "SELECT id FROM jobs WHERE stage <> 'ended' AND origin <> ? AND deleted_in_ucloud IS NULL "
            "ORDER BY created, rowid"
        )
        with translate_errors(self._path):
            return [row["id"] for row in self._connection.execute(query, (STANDALONE,))]

    def note_unknown(self, ids: Iterable[str], since: float | None) -> None:
        """Note that UCloud has not known these jobs since this time or earlier; None: it knows them."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE jobs SET unknown_since = CASE WHEN ? IS NULL THEN NULL ELSE coalesce(unknown_since, ?) END "
                "WHERE id = ?",
                [(since, since, id_) for id_ in ids],
            )

    def unknown_since(self, time: float) -> list[Record]:
        """Return the jobs that UCloud has not known since this time or earlier.

        Jobs that have ended, and without updates that are due, are left out: they need nothing.
        """
        return self._select(
            "unknown_since <= ? AND deleted_in_ucloud IS NULL AND (stage <> 'ended' OR EXISTS "
            "(SELECT 1 FROM updates WHERE job_id = jobs.id AND due = 1))",
            (time,),
        )

    def note_deleted_in_ucloud(self, ids: Iterable[str], text: str, now: float) -> None:
        """Note that UCloud has no such jobs: it gets no updates about them, not even those that were due."""
        with self._transaction() as connection:
            for id_ in ids:
                connection.execute("UPDATE jobs SET deleted_in_ucloud = ? WHERE id = ?", (now, id_))
                deliver_no_more(connection, id_, text, now)


def deliver_no_more(connection: sqlite3.Connection, id_: str, text: str, now: float) -> None:
    """Deliver no further updates about a job, not even those that were due; its own history says why."""
    connection.execute("UPDATE updates SET due = 0 WHERE job_id = ?", (id_,))
    connection.execute(f"{QUEUE_UPDATE} id = ?", (now, None, text, "{}", id_))

"""Removal of jobs that ended, and troubles with job folders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from slurm_adapter.state.database import translate_errors
from slurm_adapter.state.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from slurm_adapter.core.records import Record

Removable = Literal["logs_gone", "folder_gone"]
"""Parts of an ended job that are removed, by the column with the time of that."""

LONGEST_TROUBLE = 2000
"""Characters of a trouble of a job: users' own text may be in it."""


class Cleanup(Rows):
    """The jobs that ended, in the database."""

    def ended_before(self, time: float, column: Removable, now: float, limit: int) -> list[Record]:
        """Return jobs that ended before this time and still have this part, oldest first, at most `limit`."""
        has_it = f"stage = 'ended' AND ended < ? AND folder_gone IS NULL AND {column} IS NULL"
        oldest = f"SELECT rowid FROM jobs WHERE {has_it} AND coalesce(cleanup_retry, 0) <= ? ORDER BY ended LIMIT ?"  # noqa: S608  # nosec B608 # our own names
        return self._select(f"rowid IN ({oldest})", (time, now, limit))

    def forgettable(self, time: float, limit: int, *, with_folder: bool) -> dict[str, str]:
        """Return the ids, by Slurm name, of jobs that ended before this time.

        They have no updates that are due, and no live job names them as its peer.

        `with_folder`: also those with a folder. A folder that could not be removed is given up after a month.
        """
        with translate_errors(self._path):
            rows = self._connection.execute(
                """
                SELECT slurm_name, id FROM jobs WHERE stage = 'ended' AND ended < ?
                AND (? OR folder_gone IS NOT NULL OR ended < ?)
                AND NOT EXISTS (SELECT 1 FROM updates WHERE job_id = jobs.id AND due = 1)
                AND NOT EXISTS (
                    SELECT 1 FROM peers JOIN jobs AS consumers ON consumers.id = consumer
                    WHERE peers.job_id = jobs.id AND consumers.stage <> 'ended'
                )
                ORDER BY ended LIMIT ?
                """,
                (time, with_folder, time - 30 * 86400, limit),
            ).fetchall()
        return {row["slurm_name"]: row["id"] for row in rows}

    def forget_ended(self, slurm_names: Iterable[str]) -> None:
        """Remove these jobs, given by Slurm name, from the database. One that has not ended stays."""
        with self._transaction() as connection:
            ended = "DELETE FROM jobs WHERE slurm_name = ? AND stage = 'ended'"
            connection.executemany(ended, [(slurm_name,) for slurm_name in slurm_names])

    def note_removed(self, slurm_names: Iterable[str], column: Removable, now: float) -> None:
        """Note that this part of these jobs is gone. They are given by Slurm name: an id may pass to another job."""
        with self._transaction() as connection:
            connection.executemany(
                f"UPDATE jobs SET {column} = ? WHERE slurm_name = ? AND stage = 'ended'",  # noqa: S608  # nosec B608 # our own names
                [(now, slurm_name) for slurm_name in slurm_names],
            )

    def unclosed(self, now: float, limit: int) -> list[Record]:
        """Return jobs that ended and with folders that must be closed now, because that failed before."""
        due = "SELECT rowid FROM jobs WHERE close_after <= ? AND stage = 'ended' AND folder_gone IS NULL LIMIT ?"
        return self._select(f"rowid IN ({due})", (now, limit))

    def note_trouble(self, troubles: Mapping[str, str]) -> None:
        """Note the troubles with job folders, by Slurm name; empty if there is none."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE jobs SET trouble = ? WHERE slurm_name = ? AND trouble <> ?",
                [(why[:LONGEST_TROUBLE], slurm_name, why[:LONGEST_TROUBLE]) for slurm_name, why in troubles.items()],
            )

    def troubled(self) -> list[tuple[str, str, str]]:
        """Return the ids, accounts and troubles of jobs that have any, newest first."""
        with translate_errors(self._path):
            query = "SELECT id, account, trouble FROM jobs WHERE trouble <> '' ORDER BY created DESC, rowid DESC"
            return [(id_, account, trouble) for id_, account, trouble in self._plain(query)]

    def note_closing(self, tries: Mapping[str, float | None]) -> None:
        """Note when closing jobs' folders is tried again, by Slurm name; None if they are closed."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE jobs SET close_after = ? WHERE slurm_name = ?",
                [(after, slurm_name) for slurm_name, after in tries.items()],
            )

    def put_off(self, slurm_names: Iterable[str], until: float) -> None:
        """Do not try to remove anything of these jobs, given by Slurm name, before this time."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE jobs SET cleanup_retry = ? WHERE slurm_name = ? AND stage = 'ended'",
                [(until, slurm_name) for slurm_name in slurm_names],
            )

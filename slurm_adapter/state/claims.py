"""Claims: new jobs that Slurm was not given yet."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING

from slurm_adapter.core.records import STANDALONE, Record, Stage, has_new_id, same_job
from slurm_adapter.state.hosts_version import note_hosts_change
from slurm_adapter.state.outbox import Outbox, deliver_no_more
from slurm_adapter.state.rows import COLUMNS, insert_peers, values_of
from slurm_adapter.state.unique_names import unique_part

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping, Sequence


LEASE_SECONDS = 60
"""Time for which a claim is left to the process that made it; then a sync may dispatch it, too.

It is usually dispatched within a second. See `slurm_adapter.jobs.submit`.
"""


class Claims(Outbox):
    """The claims in the database, with the files and directives for Slurm."""

    def reserve_ids(self, count: int, first: int) -> list[str]:
        """Return `count` new ids, from `first` upwards, never used before or again."""
        if not count:
            return []
        with self._transaction() as connection:
            row = connection.execute("SELECT value FROM facts WHERE name = 'next_id'").fetchone()
            start = max(first, int(row["value"]) if row else first)
            connection.execute("INSERT OR REPLACE INTO facts VALUES ('next_id', ?)", (str(start + count),))
        return [str(number) for number in range(start, start + count)]

    def claim(
        self,
        claims: Sequence[tuple[Record, bytes]],
        shared: Mapping[str, bytes] = MappingProxyType({}),
        still_wanted: Callable[[], None] = lambda: None,
    ) -> list[Record]:
        """Store new jobs with their files and directives for Slurm, all or none.

        `still_wanted` is called inside the transaction, when nothing can delay the claim any more; if it raises,
        nothing is stored. `shared` holds the contents that the bundles name by digest. If the key or UCloud's id of a
        job is known, the known job is in the result instead. Raises `InvalidInput` if the known job has another
        specification.

        If UCloud has given the id of a known job to a new job (`has_new_id`), the known job makes room in the same
        transaction: it gets another id, the next sync cancels it, and UCloud gets no further updates about it.
        """
        with self._transaction() as connection:
            still_wanted()
            known = self._known([record for record, _ in claims])
            found: list[Record] = []
            new: list[tuple[Record, bytes]] = []
            for record, bundle in claims:
                one = known.get(_key(record))
                if one is not None and has_new_id(one, record.created_at):
                    _make_room(connection, one, record.created)
                    one = None
                if one is None:
                    known[_key(record)] = one = record
                    new.append((record, bundle))
                found.append(same_job(one, record.specification))
            marks = ", ".join("?" * len(COLUMNS))
            connection.executemany(
                f"INSERT INTO jobs ({', '.join(COLUMNS)}) VALUES ({marks})",  # noqa: S608  # nosec B608 # our own names
                [values_of(record) for record, _ in new],
            )
            for record, _ in new:
                insert_peers(connection, record)
            if new:
                self._share(connection, shared)
            connection.executemany("INSERT INTO bundles VALUES (?, ?)", [(record.id, bundle) for record, bundle in new])
        return found

    def _known(self, records: Iterable[Record]) -> dict[tuple[str, ...], Record]:
        """Return the known jobs with the same keys, or ids of UCloud, as these, by `_key`."""
        keys: dict[tuple[str, str, str | None], list[str]] = {}
        ids: list[str] = []
        for record in records:
            if record.origin != STANDALONE:
                ids.append(record.id)
            elif record.key is not None:
                keys.setdefault((record.origin, record.owner, record.project), []).append(record.key)
        with_keys = [record for place, some in keys.items() for record in self.find_keys(*place, some).values()]
        return {_key(record): record for record in [*with_keys, *self._select_in("id", ids)]}

    @staticmethod
    def _share(connection: sqlite3.Connection, shared: Mapping[str, bytes]) -> None:
        names = json.dumps(list(shared))
        here = "SELECT count(*) FROM shared WHERE digest IN (SELECT value FROM json_each(?))"
        if connection.execute(here, (names,)).fetchone()[0] == len(shared):
            return
        # An upgrade: remove contents that no bundle names any more.
        connection.execute("DELETE FROM shared WHERE NOT EXISTS (SELECT 1 FROM bundles)")
        connection.executemany("INSERT OR IGNORE INTO shared VALUES (?, ?)", shared.items())

    def bundles(self, slurm_names: Iterable[str]) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Return the bundles of these jobs, by Slurm name, and the contents that bundles name by digest.

        A bundle is kept until Slurm has the job.
        """
        found = """
            SELECT slurm_name, content FROM bundles JOIN jobs ON id = job_id
            WHERE slurm_name IN (SELECT value FROM json_each(?))
        """
        with self._transaction() as connection:  # otherwise another process's upgrade might come in between
            packed = connection.execute(found, (json.dumps(list(slurm_names)),)).fetchall()
            shared = connection.execute("SELECT digest, content FROM shared").fetchall()
        return {row["slurm_name"]: row["content"] for row in packed}, {row["digest"]: row["content"] for row in shared}

    def take(self, slurm_names: Iterable[str], now: float) -> list[Record]:
        """Move those of these jobs that are still only claimed to stage `submitting`, before sbatch is started.

        Jobs that another process has taken meanwhile are not in the result: exactly one process dispatches a job.
        """
        with self._transaction() as connection:
            taken = [record for record in self._select_in("slurm_name", slurm_names) if record.stage is Stage.CLAIMED]
            connection.executemany(
                "UPDATE jobs SET stage = 'submitting', sbatch_started = ?, missing_since = NULL, lease = NULL "
                "WHERE id = ?",
                [(now, record.id) for record in taken],
            )
        return [
            record._replace(stage=Stage.SUBMITTING, sbatch_started=now, missing_since=None, lease=None)
            for record in taken
        ]

    def lease(self, claims: Iterable[Record], until: float) -> list[Record]:
        """Lease claims until this time. Return them, without those that were taken or leased since they were read."""
        ours = "UPDATE jobs SET lease = ? WHERE slurm_name = ? AND stage = 'claimed' AND lease IS ?"
        with self._transaction() as connection:
            return [
                each._replace(lease=until)
                for each in claims
                if connection.execute(ours, (until, each.slurm_name, each.lease)).rowcount
            ]

    def end_leases(self, claims: Iterable[Record]) -> None:
        """End the leases of claims, unless another process has leased them, so that a sync may dispatch the claims."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE jobs SET lease = NULL WHERE slurm_name = ? AND stage = 'claimed' AND lease = ?",
                [(each.slurm_name, each.lease) for each in claims],
            )

    def find_keys(self, origin: str, owner: str, project: str | None, keys: Iterable[str]) -> dict[str, Record]:
        """Return the jobs that were submitted with these keys, by key."""
        listed = list(keys)
        if not listed:
            return {}
        found = self._select(
            "origin = ? AND owner = ? AND coalesce(project, '') = coalesce(?, '') AND key IS NOT NULL "
            "AND key IN (SELECT value FROM json_each(?))",
            (origin, owner, project, json.dumps(listed)),
        )
        return {record.key: record for record in found if record.key is not None}

    def forget(self, slurm_names: Iterable[str]) -> None:
        """Remove claims that were refused."""
        with self._transaction() as connection:
            connection.executemany(
                "DELETE FROM jobs WHERE slurm_name = ?", [(slurm_name,) for slurm_name in slurm_names]
            )
            note_hosts_change(connection)


def _make_room(connection: sqlite3.Connection, record: Record, now: float) -> None:
    """Give a job another id, since UCloud has given its own to a new job; see `Store.claim`."""
    id_ = record.peers_file if record.peers_file != record.id else f"{record.id}-{unique_part()}"
    connection.execute("PRAGMA defer_foreign_keys = ON")
    connection.execute(
        "UPDATE jobs SET id = ?, key = NULL, deleted_in_ucloud = coalesce(deleted_in_ucloud, ?), "
        "cancel_requested = CASE WHEN stage <> 'ended' THEN 0 END WHERE id = ?",
        (id_, now, record.id),
    )
    for table, column in (("bundles", "job_id"), ("peers", "consumer"), ("peers", "job_id"), ("updates", "job_id")):
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (id_, record.id))  # noqa: S608  # nosec B608 # our own names
    deliver_no_more(connection, id_, f"UCloud has given the id {record.id} to a new job; this job is ended", now)
    note_hosts_change(connection)


def _key(record: Record) -> tuple[str, ...]:
    """Return the identity of a job: its id, or the key of a stand-alone job that has one."""
    if record.origin != STANDALONE or record.key is None:
        return (record.id,)
    return (record.origin, record.owner, record.project or "", record.key)

"""Jobs: how they change, and which ones there are."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING

from slurm_adapter.core.records import STANDALONE, ActiveJob, Record, Stage
from slurm_adapter.core.states import JobState
from slurm_adapter.state.claims import Claims
from slurm_adapter.state.database import translate_errors
from slurm_adapter.state.hosts_version import note_hosts_change
from slurm_adapter.state.job_filter import place
from slurm_adapter.state.outbox import QUEUE_UPDATE
from slurm_adapter.state.rows import COLUMNS, STAGES, STATES, insert_peers, plain, read_addresses, read_list, values_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Iterable, Mapping

    from slurm_adapter.core.records import Amendment, RecordChange
    from slurm_adapter.state.job_filter import Selection

_IN_HOSTS = frozenset({"state", "slurm_id", "restarts", "nodes", "addresses"})
"""Fields that the hosts files are made from."""


class Jobs(Claims):
    """The jobs in the database."""

    def change(self, changes: Iterable[tuple[Record, RecordChange]], now: float) -> list[Record]:
        """Change records, each once, all or none, and queue updates about changes of state or status.

        A final state stays. A change counts only while its job is at the same stage, with the same Slurm job and the
        same id as the record: if another process was faster, it is not made, and the job is not in the result.
        """
        changes = list(changes)
        if not changes:
            return []
        with self._transaction() as connection:
            made = self._change(connection, changes, now)
            return self._select_in("id", made)

    def make_changes(self, changes: Collection[tuple[ActiveJob | Record, RecordChange]], now: float) -> set[str]:
        """Change records as `change` does, and return their ids: quick for thousands."""
        if not changes:
            return set()
        with self._transaction() as connection:
            return self._change(connection, changes, now)

    def _change(
        self, connection: sqlite3.Connection, changes: Collection[tuple[ActiveJob | Record, RecordChange]], now: float
    ) -> set[str]:
        made: set[str] = set()
        # Mostly many jobs change in the same way: one statement for all of them, by rowid, which is fastest.
        updates: dict[tuple[tuple[str, object], ...], list[object]] = defaultdict(list)
        queued: dict[tuple[object, object, str], list[object]] = defaultdict(list)
        ran: list[tuple[object, ...]] = []
        done: list[tuple[str]] = []
        known = self._read_plain({name for _, values in changes for name in values}, changes)
        in_hosts = False
        for record, values in changes:
            id_, old = record.id, known.get(record.id)
            if old is None or old["stage"] == Stage.ENDED:
                continue
            if (old["slurm_name"], old["stage"], old["slurm_id"]) != (record.slurm_name, record.stage, record.slurm_id):
                continue
            new = {name: stored for name, value in values.items() if (stored := plain(value)) != old[name]}
            more = _of_submission(record, old, new)
            ran += _unseen_run(old, values, now)
            old |= new
            if new:
                updates[tuple(new.items())].append(old["rowid"])
            in_hosts = in_hosts or old["stage"] == Stage.ENDED or not _IN_HOSTS.isdisjoint(new)
            if "state" in new or "status" in new:
                queued[new.get("state"), old["status"], more].append(old["rowid"])
            if new.get("stage") in {Stage.SUBMITTED, Stage.ENDED}:
                done.append((id_,))
            made.add(id_)
        for new_values, rows in updates.items():
            sets = ", ".join(f"{name} = ?" for name, _ in new_values)
            alike = f"UPDATE jobs SET {sets} WHERE rowid IN (SELECT value FROM json_each(?))"  # noqa: S608  # nosec B608 # our own names
            connection.execute(alike, [*(value for _, value in new_values), json.dumps(rows)])
        connection.executemany("DELETE FROM bundles WHERE job_id = ?", done)
        unseen = "NOT EXISTS (SELECT 1 FROM updates WHERE job_id = jobs.id AND state = 'RUNNING')"
        connection.executemany(f"{QUEUE_UPDATE} rowid = ? AND {unseen}", ran)
        for words, rows in queued.items():
            many = f"{QUEUE_UPDATE} rowid IN (SELECT value FROM json_each(?))"  # noqa: S608  # nosec B608 # our own names
            connection.execute(many, (now, *words, json.dumps(rows)))
        if in_hosts:
            note_hosts_change(connection)
        return made

    def _read_plain(
        self, names: Iterable[str], changes: Iterable[tuple[ActiveJob | Record, object]]
    ) -> dict[str, dict[str, object]]:
        """Return these columns of the jobs to change, and the columns that decide whether they change, by id."""
        columns = ("id", "rowid", *{*names, "slurm_name", "stage", "slurm_id", "state", "status", "output_folder"})
        query = f"SELECT {', '.join(columns)} FROM jobs WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608  # nosec B608 # our own names
        ids = json.dumps([job.id for job, _ in changes])
        return {row[0]: dict(zip(columns, row, strict=True)) for row in self._plain(query, ids)}

    def amend(self, id_: str, amend: Callable[[Record], Amendment | None], now: float) -> Record:
        """Change a job that has not ended, and queue an update about it, in one step. Return the job after that.

        `amend` gets the job as it is at that moment; it may raise, or return None for no change. Raises `NotFound`.
        """
        with self._transaction() as connection:
            record = self.get(id_)
            amendment = amend(record) if record.stage is not Stage.ENDED else None
            if amendment is None:
                return record
            new = record._replace(**amendment.change)
            if amendment.peers is not None:
                new = new._replace(peers=amendment.peers)
            row = dict(zip(COLUMNS, values_of(new), strict=True))
            names = list(amendment.change)
            sets = ", ".join(f"{name} = ?" for name in names)
            connection.execute(f"UPDATE jobs SET {sets} WHERE id = ?", [*(row[name] for name in names), id_])  # noqa: S608  # nosec B608 # our own names
            if new.peers != record.peers:
                connection.execute("DELETE FROM peers WHERE consumer = ?", (id_,))
                insert_peers(connection, new)
                note_hosts_change(connection)
            connection.execute(
                f"{QUEUE_UPDATE} id = ?", (now, None, amendment.text, json.dumps(dict(amendment.more)), id_)
            )
        return new

    def active(self) -> list[Record]:
        """Return all jobs that have not ended, oldest first."""
        return self._select("stage <> 'ended'", ())

    def active_jobs(self) -> list[ActiveJob]:
        """Return a few fields of all jobs that have not ended, in no order: much faster than `active`."""
        nodes_of, addresses_of = cache(read_list), cache(read_addresses)
        query = f"SELECT {', '.join(ActiveJob._fields)} FROM jobs WHERE stage <> 'ended'"  # noqa: S608  # nosec B608 # our own names
        with translate_errors(self._path):
            return [
                ActiveJob._make((*values, STAGES[stage], STATES[state], nodes_of(nodes), addresses_of(addresses)))
                for *values, stage, state, nodes, addresses in self._plain(query)
            ]

    def in_hosts(self, *, every: bool) -> list[Record]:
        """Return the jobs that have not ended and have, or had, names of their own or of peers.

        `every`: all jobs that have not ended.
        """
        has_some = "addresses <> '[]' OR original IS NOT NULL OR id IN (SELECT consumer FROM peers)"
        return self._select(f"stage <> 'ended' AND (? OR {has_some})", (every,))

    def all(self, limit: int) -> list[Record]:
        """Return the newest `limit` jobs, oldest first."""
        newest = "rowid IN (SELECT rowid FROM jobs ORDER BY created DESC, rowid DESC LIMIT ?)"
        return self._select(newest, (limit,))

    def of_application(self, application: str) -> list[Record]:
        """Return all stand-alone jobs of an application, given as `name version`."""
        return self._select("application = ? AND origin = ?", (application, STANDALONE))

    def owners_waiting_for_peers(self) -> frozenset[str]:
        """Return the users with a job that waits, or will wait, for the name of one that has not started."""
        query = """
            SELECT DISTINCT consumer.owner FROM peers
            JOIN jobs AS peer ON peer.id = peers.job_id JOIN jobs AS consumer ON consumer.id = peers.consumer
            WHERE peer.stage <> 'ended' AND peer.state = 'IN_QUEUE' AND consumer.stage <> 'ended'
        """
        with translate_errors(self._path):
            return frozenset(row["owner"] for row in self._connection.execute(query))

    def count_states(self) -> dict[JobState, int]:
        """Return the number of jobs in each state."""
        with translate_errors(self._path):
            rows = self._connection.execute("SELECT state, count(*) AS jobs FROM jobs GROUP BY state").fetchall()
        return {JobState(row["state"]): row["jobs"] for row in rows}

    def keep_labels(self, labels: Mapping[str, Mapping[str, str]]) -> None:
        """Replace the labels of jobs, given by id."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE jobs SET labels = ? WHERE id = ?",
                [(json.dumps(dict(each), sort_keys=True), id_) for id_, each in labels.items()],
            )

    def select(self, selection: Selection) -> tuple[list[Record], str | None]:
        """Return a page of jobs, and the start of the next page; None if there is none."""
        condition, values = selection.conditions()
        direction = "ASC" if selection.ascending else "DESC"
        query = (
            f"SELECT id, rowid, {selection.key} AS key FROM jobs WHERE {condition} "  # noqa: S608  # nosec B608 # our own conditions
            f"ORDER BY key {direction}, rowid {direction} LIMIT ?"
        )
        with translate_errors(self._path):
            rows = self._connection.execute(query, [*values, selection.limit + 1]).fetchall()
        page = rows[: selection.limit]
        found = self.find(row["id"] for row in page)
        following = place(page[-1]["key"], page[-1]["rowid"]) if len(rows) > len(page) else None
        return [found[row["id"]] for row in page if row["id"] in found], following

    def request_cancel(self, slurm_names: Iterable[str], since: float | None) -> None:
        """Note that these jobs, by Slurm name, must be cancelled since this time or earlier; None: that was done."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE jobs SET cancel_requested = CASE WHEN ? IS NULL THEN NULL "
                "ELSE coalesce(cancel_requested, ?) END WHERE slurm_name = ? AND stage <> 'ended'",
                [(since, since, slurm_name) for slurm_name in slurm_names],
            )

    def cancel_requested(self, time: float) -> list[Record]:
        """Return the jobs that must be cancelled since this time or earlier, and that have not ended."""
        return self._select("stage <> 'ended' AND cancel_requested <= ?", (time,))


def _of_submission(job: ActiveJob | Record, old: Mapping[str, object], new: Mapping[str, object]) -> str:
    """Return, as JSON, further fields of the update that Slurm has a job: its folder, and a default time limit."""
    more: dict[str, object] = {}
    if old["slurm_id"] is None and new.get("slurm_id") is not None:
        if old["output_folder"]:
            more["outputFolder"] = old["output_folder"]
        if isinstance(job, Record) and json.loads(job.specification).get("time_allocation") is None:
            more["newTimeAllocation"] = job.time_limit * 1000
    return json.dumps(more)


def _unseen_run(old: Mapping[str, object], change: RecordChange, now: float) -> list[tuple[object, ...]]:
    """Return the values of an update that says RUNNING, if a job has ended that was never seen to run, but did."""
    started = change.get("started")
    if change.get("stage") is not Stage.ENDED or old["state"] != JobState.IN_QUEUE or started is None:
        return []
    return [(min(started, now), JobState.RUNNING, "Your job started", "{}", old["rowid"])]

"""The jobs of one adapter: every question and every change is a method here, see `slurm_adapter.state.database`."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from slurm_adapter.core.errors import InvalidInput, NotFound
from slurm_adapter.core.interfaces import Interface
from slurm_adapter.core.messages import Message
from slurm_adapter.core.records import STANDALONE, ActiveJob, Peer, Record, Stage, Token, Update, has_new_id, same_job
from slurm_adapter.core.states import JobState
from slurm_adapter.state.database import Database, told
from slurm_adapter.state.job_filter import place
from slurm_adapter.state.unique_names import unique_part

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from slurm_adapter.core.records import Amendment
    from slurm_adapter.state.job_filter import Selection

Removable = Literal["logs_gone", "folder_gone"]
"""What is removed of a job that has ended, by the column that tells when it was."""

_COLUMNS = tuple(name for name in Record._fields if name != "peers")

LONGEST_TROUBLE = 2000
"""Characters of what stands in the way of a job: users' own text may be in it."""

_IN_HOSTS = frozenset({"state", "slurm_id", "restarts", "nodes", "addresses"})
"""What the hosts files are made from."""

_TELL = """
    INSERT INTO updates (job_id, time, state, status, more, due)
    SELECT id, ?, ?, ?, ?, origin <> 'local' AND deleted_in_ucloud IS NULL FROM jobs WHERE
"""
"""Notes what users are told. Nobody waits for what becomes of jobs that do not come from UCloud, or that it deleted."""

_CHANGED, _WRITTEN = "hosts changed", "hosts written"
"""The facts that say what the hosts files must hold, and what they hold."""


class Store(Database):
    """The jobs of one adapter, what users are told of them, and users' slurm_names; see `Database`."""

    def reserve_ids(self, count: int, first: int) -> list[str]:
        """`count` new ids, from `first` upwards, never used before or again."""
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
        """Remember new jobs with what is to be handed to Slurm, all or none.

        `still_wanted` is called once nothing can delay it any more; if it raises, nothing is remembered.
        `shared` is what the bundles name by its digest. If the key or UCloud's id of a job is known, the known job is
        in the result instead. Raises `InvalidInput` if the known job has another specification.

        If UCloud has given the id of a known job to a new job (`has_new_id`), the known job makes room in the same
        transaction: it gets another id, the next pass ends it, and UCloud is told nothing more of it.
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
            marks = ", ".join("?" * len(_COLUMNS))
            connection.executemany(
                f"INSERT INTO jobs ({', '.join(_COLUMNS)}) VALUES ({marks})",  # noqa: S608  # nosec B608 # our own names
                [_values(record) for record, _ in new],
            )
            for record, _ in new:
                _insert_peers(connection, record)
            if new:
                self._share(connection, shared)
            connection.executemany("INSERT INTO bundles VALUES (?, ?)", [(record.id, bundle) for record, bundle in new])
        return found

    def _known(self, records: Iterable[Record]) -> dict[tuple[str, ...], Record]:
        """Return the jobs that are known by the keys of these, or by UCloud's ids, by `_key`."""
        keys: dict[tuple[str, str, str | None], list[str]] = {}
        ids: list[str] = []
        for record in records:
            if record.origin != STANDALONE:
                ids.append(record.id)
            elif record.key is not None:
                keys.setdefault((record.origin, record.owner, record.project), []).append(record.key)
        with_keys = [record for whose, some in keys.items() for record in self.find_keys(*whose, some).values()]
        return {_key(record): record for record in [*with_keys, *self._select_in("id", ids)]}

    @staticmethod
    def _share(connection: sqlite3.Connection, shared: Mapping[str, bytes]) -> None:
        names = json.dumps(list(shared))
        here = "SELECT count(*) FROM shared WHERE digest IN (SELECT value FROM json_each(?))"
        if connection.execute(here, (names,)).fetchone()[0] == len(shared):
            return
        # An upgrade: what no bundle can name any more goes.
        connection.execute("DELETE FROM shared WHERE NOT EXISTS (SELECT 1 FROM bundles)")
        connection.executemany("INSERT OR IGNORE INTO shared VALUES (?, ?)", shared.items())

    def bundles(self, slurm_names: Iterable[str]) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Return what is to be given to Slurm for these jobs, by Slurm name, and what bundles name by its digest.

        A bundle is kept until Slurm has the job.
        """
        found = """
            SELECT slurm_name, content FROM bundles JOIN jobs ON id = job_id
            WHERE slurm_name IN (SELECT value FROM json_each(?))
        """
        with self._transaction() as connection:  # else another process's upgrade might come in between
            packed = connection.execute(found, (json.dumps(list(slurm_names)),)).fetchall()
            shared = connection.execute("SELECT digest, content FROM shared").fetchall()
        return {row["slurm_name"]: row["content"] for row in packed}, {row["digest"]: row["content"] for row in shared}

    def take(self, slurm_names: Iterable[str], now: float) -> list[Record]:
        """Move those of these jobs that are still only claimed to stage `submitting`, before sbatch is started.

        What another process has taken meanwhile is not in the result: exactly one of them hands a job over.
        """
        with self._transaction() as connection:
            taken = [record for record in self._select_in("slurm_name", slurm_names) if record.stage is Stage.CLAIMED]
            connection.executemany(
                "UPDATE jobs SET stage = 'submitting', sbatch_started = ?, missing_since = NULL WHERE id = ?",
                [(now, record.id) for record in taken],
            )
        return [record._replace(stage=Stage.SUBMITTING, sbatch_started=now, missing_since=None) for record in taken]

    def find_keys(self, origin: str, owner: str, project: str | None, keys: Iterable[str]) -> dict[str, Record]:
        """The jobs that were handed in with these keys, by key."""
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
        """Remove claims that came to nothing."""
        with self._transaction() as connection:
            connection.executemany(
                "DELETE FROM jobs WHERE slurm_name = ?", [(slurm_name,) for slurm_name in slurm_names]
            )
            _note_for_hosts(connection)

    def change(self, changes: Iterable[tuple[Record, dict[str, Any]]], now: float) -> list[Record]:
        """Change records, each once, all or none, and note what users are to be told: a change of state or of status.

        A final state stays. And what was decided on a record counts only while its job is at the same stage, with the
        same Slurm job, and has its id still: where another process was faster, that change is not made, and is not in
        the result.
        """
        changes = list(changes)
        if not changes:
            return []
        with self._transaction() as connection:
            made = self._change(connection, changes, now)
            return self._select_in("id", made)

    def make_changes(self, changes: Collection[tuple[ActiveJob | Record, dict[str, Any]]], now: float) -> set[str]:
        """As `change`, with the ids of the records that were changed: quick for thousands."""
        if not changes:
            return set()
        with self._transaction() as connection:
            return self._change(connection, changes, now)

    def _change(
        self, connection: sqlite3.Connection, changes: Collection[tuple[ActiveJob | Record, dict[str, Any]]], now: float
    ) -> set[str]:
        made: set[str] = set()
        # Mostly many change alike: one statement for all that do, by their rowids, which SQLite finds soonest.
        updates: dict[tuple[tuple[str, object], ...], list[object]] = defaultdict(list)
        told: dict[tuple[object, object, str], list[object]] = defaultdict(list)
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
            new = {name: plain for name, value in values.items() if (plain := _plain(value)) != old[name]}
            more = _of_submission(record, old, new)
            ran += _unseen_run(old, values, now)
            old |= new
            if new:
                updates[tuple(new.items())].append(old["rowid"])
            in_hosts = in_hosts or old["stage"] == Stage.ENDED or not _IN_HOSTS.isdisjoint(new)
            if "state" in new or "status" in new:
                told[new.get("state"), old["status"], more].append(old["rowid"])
            if new.get("stage") in {Stage.SUBMITTED, Stage.ENDED}:
                done.append((id_,))
            made.add(id_)
        for new_values, rows in updates.items():
            sets = ", ".join(f"{name} = ?" for name, _ in new_values)
            alike = f"UPDATE jobs SET {sets} WHERE rowid IN (SELECT value FROM json_each(?))"  # noqa: S608  # nosec B608 # our own names
            connection.execute(alike, [*(value for _, value in new_values), json.dumps(rows)])
        connection.executemany("DELETE FROM bundles WHERE job_id = ?", done)
        unseen = "NOT EXISTS (SELECT 1 FROM updates WHERE job_id = jobs.id AND state = 'RUNNING')"
        connection.executemany(f"{_TELL} rowid = ? AND {unseen}", ran)
        for words, rows in told.items():
            many = f"{_TELL} rowid IN (SELECT value FROM json_each(?))"  # noqa: S608  # nosec B608 # our own names
            connection.execute(many, (now, *words, json.dumps(rows)))
        if in_hosts:
            _note_for_hosts(connection)
        return made

    def _read_plain(
        self, names: Iterable[str], changes: Iterable[tuple[ActiveJob | Record, object]]
    ) -> dict[str, dict[str, object]]:
        """These columns of the jobs that are to be changed, and what decides whether they are, by id."""
        columns = ("id", "rowid", *{*names, "slurm_name", "stage", "slurm_id", "state", "status", "output_folder"})
        query = f"SELECT {', '.join(columns)} FROM jobs WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608  # nosec B608 # our own names
        ids = json.dumps([job.id for job, _ in changes])
        return {row[0]: dict(zip(columns, row, strict=True)) for row in self._plain(query, ids)}

    def _plain(self, query: str, *values: object) -> sqlite3.Cursor:
        """The rows as tuples, which take a fraction of the time where there are many."""
        cursor = self._connection.cursor()
        cursor.row_factory = None
        return cursor.execute(query, values)

    def amend(self, id_: str, amend: Callable[[Record], Amendment | None], now: float) -> Record:
        """Change what is remembered of a job that has not ended, and tell users, in one step; the job as it is then.

        `amend` is given the job as it is at that moment; it may raise, or give None for no change. Raises `NotFound`.
        """
        with self._transaction() as connection:
            record = self.get(id_)
            amendment = amend(record) if record.stage is not Stage.ENDED else None
            if amendment is None:
                return record
            new = record._replace(**amendment.values)
            row = dict(zip(_COLUMNS, _values(new), strict=True))
            names = [name for name in amendment.values if name != "peers"]
            sets = ", ".join(f"{name} = ?" for name in names)
            connection.execute(f"UPDATE jobs SET {sets} WHERE id = ?", [*(row[name] for name in names), id_])  # noqa: S608  # nosec B608 # our own names
            if new.peers != record.peers:
                connection.execute("DELETE FROM peers WHERE consumer = ?", (id_,))
                _insert_peers(connection, new)
                _note_for_hosts(connection)
            connection.execute(f"{_TELL} id = ?", (now, None, amendment.text, json.dumps(dict(amendment.more)), id_))
        return new

    def get(self, id_: str) -> Record:
        """One job. Raises `NotFound`."""
        record = self._one(id_)
        if record is None:
            raise NotFound(f"there is no job {id_}; `slurm-adapter jobs --all` lists those that are known")
        return record

    def find(self, ids: Iterable[str]) -> dict[str, Record]:
        """Those of these jobs that are known, by id."""
        return {record.id: record for record in self._select_in("id", ids)}

    def again(self, records: Iterable[Record]) -> list[Record]:
        """Return these very jobs as they are now, in the same order, those that are still known."""
        wanted = [record.slurm_name for record in records]
        known = {record.slurm_name: record for record in self.with_slurm_names(wanted)}
        return [known[slurm_name] for slurm_name in wanted if slurm_name in known]

    def with_slurm_names(self, slurm_names: Iterable[str]) -> list[Record]:
        """Those of these slurm_names' jobs that are known."""
        return self._select_in("slurm_name", slurm_names)

    def active(self) -> list[Record]:
        """Every job that has not ended, oldest first."""
        return self._select("stage <> 'ended'", ())

    def standing(self) -> list[ActiveJob]:
        """As `active`, in no order: for ten thousand jobs it takes a fraction of the time."""
        read_nodes, read_addresses = cache(_read_list), cache(_read_addresses)
        query = f"SELECT {', '.join(ActiveJob._fields)} FROM jobs WHERE stage <> 'ended'"  # noqa: S608  # nosec B608 # our own names
        with told(self._path):
            return [
                ActiveJob._make((*values, _STAGES[stage], _STATES[state], read_nodes(nodes), read_addresses(addresses)))
                for *values, stage, state, nodes, addresses in self._plain(query)
            ]

    def expected(self) -> list[str]:
        """Ids of the jobs that have not ended and that UCloud is taken to know."""
        query = (
            "SELECT id FROM jobs WHERE stage <> 'ended' AND origin <> ? AND deleted_in_ucloud IS NULL "
            "ORDER BY created, rowid"
        )
        with told(self._path):
            return [row["id"] for row in self._connection.execute(query, (STANDALONE,))]

    def in_hosts(self, *, every: bool) -> list[Record]:
        """Those jobs that have not ended and have names, or may have had some: their own, or their peers'.

        `every`: all that have not ended.
        """
        has_some = "addresses <> '[]' OR original IS NOT NULL OR id IN (SELECT consumer FROM peers)"
        return self._select(f"stage <> 'ended' AND (? OR {has_some})", (every,))

    def all(self, limit: int) -> list[Record]:
        """The newest `limit` jobs, oldest first."""
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
        with told(self._path):
            return frozenset(row["owner"] for row in self._connection.execute(query))

    def count_states(self) -> dict[JobState, int]:
        """How many jobs are remembered in each state."""
        with told(self._path):
            rows = self._connection.execute("SELECT state, count(*) AS jobs FROM jobs GROUP BY state").fetchall()
        return {JobState(row["state"]): row["jobs"] for row in rows}

    def outbox(self) -> tuple[int, float | None]:
        """How much UCloud is yet to be told, and since when the oldest of it is true."""
        with told(self._path):
            row = self._connection.execute(
                "SELECT count(*) AS due, min(time) AS oldest FROM updates WHERE due = 1"
            ).fetchone()
        return row["due"], row["oldest"]

    def keep_labels(self, labels: Mapping[str, Mapping[str, str]]) -> None:
        """Remember these labels of jobs, given by id, in place of those before."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE jobs SET labels = ? WHERE id = ?",
                [(json.dumps(dict(each), sort_keys=True), id_) for id_, each in labels.items()],
            )

    def select(self, selection: Selection) -> tuple[list[Record], str | None]:
        """A page of jobs, and where the next one begins; None where there is none."""
        condition, values = selection.conditions()
        direction = "ASC" if selection.ascending else "DESC"
        query = (
            f"SELECT id, rowid, {selection.key} AS key FROM jobs WHERE {condition} "  # noqa: S608  # nosec B608 # our own conditions
            f"ORDER BY key {direction}, rowid {direction} LIMIT ?"
        )
        with told(self._path):
            rows = self._connection.execute(query, [*values, selection.limit + 1]).fetchall()
        page = rows[: selection.limit]
        found = self.find(row["id"] for row in page)
        following = place(page[-1]["key"], page[-1]["rowid"]) if len(rows) > len(page) else None
        return [found[row["id"]] for row in page if row["id"] in found], following

    def note(
        self, notes: Iterable[tuple[str, str]], now: float, more: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Tell users more of jobs, given by id, that changes nothing of them; nothing of those that have ended.

        `more`: see `Update.more`.
        """
        fields = json.dumps(dict(more))
        with self._transaction() as connection:
            connection.executemany(
                f"{_TELL} id = ? AND stage <> 'ended'", [(now, None, text, fields, id_) for id_, text in notes]
            )

    def updates(self, id_: str) -> list[Update]:
        """What was to be told of a job, in order."""
        with told(self._path):
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

    def last_told(self, ids: Iterable[str]) -> dict[str, int]:
        """The number of the last thing that was to be told of each of these jobs."""
        with told(self._path):
            rows = self._connection.execute(
                """
                SELECT job_id, max(number) AS number FROM updates
                WHERE job_id IN (SELECT value FROM json_each(?)) GROUP BY job_id
                """,
                (json.dumps(list(ids)),),
            ).fetchall()
        return {row["job_id"]: row["number"] for row in rows}

    def due(self, after: int, limit: int) -> list[Message]:
        """What UCloud is yet to be told, beyond this number, in order, at most `limit`."""
        with told(self._path):
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
        """Note that these are on their way to UCloud, or have certainly not arrived. Return those still due."""
        with self._transaction() as connection:
            rows = connection.execute(
                "UPDATE updates SET sent = ? WHERE due = 1 AND number IN (SELECT value FROM json_each(?)) "
                "RETURNING number",
                (int(sent), json.dumps(list(numbers))),
            ).fetchall()
        return frozenset(row["number"] for row in rows)

    def note_delivered(self, numbers: Iterable[int], now: float) -> None:
        """UCloud was told these."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE updates SET due = 0, delivered = ? WHERE number = ?", [(now, number) for number in numbers]
            )

    def note_unknown(self, ids: Iterable[str], since: float | None) -> None:
        """UCloud does not know these jobs, since this time or an earlier one; None: it does."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE jobs SET unknown_since = CASE WHEN ? IS NULL THEN NULL ELSE coalesce(unknown_since, ?) END "
                "WHERE id = ?",
                [(since, since, id_) for id_ in ids],
            )

    def want_ended(self, slurm_names: Iterable[str], since: float | None) -> None:
        """Note that these jobs, by Slurm name, are to end, since this time or an earlier one; None: that was done."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE jobs SET cancel_requested = CASE WHEN ? IS NULL THEN NULL "
                "ELSE coalesce(cancel_requested, ?) END WHERE slurm_name = ? AND stage <> 'ended'",
                [(since, since, slurm_name) for slurm_name in slurm_names],
            )

    def cancel_requested(self, time: float) -> list[Record]:
        """Jobs whose end is wanted since this time or an earlier one, and that have not ended."""
        return self._select("stage <> 'ended' AND cancel_requested <= ?", (time,))

    def unknown_since(self, time: float) -> list[Record]:
        """Jobs that UCloud has not known since this time or an earlier one, and of which it is to be told all the same.

        Such as have ended, and of which nothing is due, matter to nobody.
        """
        return self._select(
            "unknown_since <= ? AND deleted_in_ucloud IS NULL AND (stage <> 'ended' OR EXISTS "
            "(SELECT 1 FROM updates WHERE job_id = jobs.id AND due = 1))",
            (time,),
        )

    def note_deleted_in_ucloud(self, ids: Iterable[str], text: str, now: float) -> None:
        """UCloud has no such jobs: it is told nothing more of them, not even what was due."""
        with self._transaction() as connection:
            for id_ in ids:
                connection.execute("UPDATE jobs SET deleted_in_ucloud = ? WHERE id = ?", (now, id_))
                _tell_no_more(connection, id_, text, now)

    def ended_before(self, time: float, column: Removable, now: float, limit: int) -> list[Record]:
        """Jobs that ended before this time and still have this part of them, oldest first, at most `limit`."""
        has_it = f"stage = 'ended' AND ended < ? AND folder_gone IS NULL AND {column} IS NULL"
        oldest = f"SELECT rowid FROM jobs WHERE {has_it} AND coalesce(cleanup_retry, 0) <= ? ORDER BY ended LIMIT ?"  # noqa: S608  # nosec B608 # our own names
        return self._select(f"rowid IN ({oldest})", (time, now, limit))

    def forgettable(self, time: float, limit: int, *, with_folder: bool) -> dict[str, str]:
        """Return the ids, by Slurm name, of jobs that ended before this time.

        Nothing is due of them, and no live job names them as its peer.

        `with_folder`: those, too, whose folder still stands. One that could not be removed is given up after a month.
        """
        with told(self._path):
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
        """Remember these jobs, given by Slurm name, no longer. One that has not ended stays."""
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
        """Return jobs that ended and whose folders are to be closed now, because that failed before."""
        due = "SELECT rowid FROM jobs WHERE close_after <= ? AND stage = 'ended' AND folder_gone IS NULL LIMIT ?"
        return self._select(f"rowid IN ({due})", (now, limit))

    def note_trouble(self, troubles: Mapping[str, str]) -> None:
        """Note what stands in the way of seeing to jobs, by Slurm name; empty if nothing does."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE jobs SET trouble = ? WHERE slurm_name = ? AND trouble <> ?",
                [(why[:LONGEST_TROUBLE], slurm_name, why[:LONGEST_TROUBLE]) for slurm_name, why in troubles.items()],
            )

    def troubled(self) -> list[tuple[str, str, str]]:
        """Return the ids, accounts and troubles of jobs that have any, newest first."""
        with told(self._path):
            query = "SELECT id, account, trouble FROM jobs WHERE trouble <> '' ORDER BY created DESC, rowid DESC"
            return [(id_, account, trouble) for id_, account, trouble in self._plain(query)]

    def note_closing(self, tries: Mapping[str, float | None]) -> None:
        """Note when closing jobs' folders is to be tried again, by Slurm name; None if they are closed."""
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

    def add_token(self, token: Token, digest: str) -> None:
        """Remember a token by its digest. Raises `InvalidInput` where its name is taken."""
        with self._transaction() as connection:
            if connection.execute("SELECT 1 FROM tokens WHERE name = ?", (token.name,)).fetchone():
                raise InvalidInput(
                    f"there is a token {token.name} already; take another name, or revoke that one first "
                    f"(`slurm-adapter token revoke {token.name}`)"
                )
            projects = json.dumps(token.projects)
            connection.execute(
                "INSERT INTO tokens (name, digest, user, projects, created, expires) VALUES (?, ?, ?, ?, ?, ?)",
                (token.name, digest, token.user, projects, token.created, token.expires),
            )

    def tokens(self) -> list[Token]:
        """All tokens, by name, those that have expired included."""
        with told(self._path):
            rows = self._connection.execute("SELECT * FROM tokens ORDER BY name").fetchall()
        return [_token(row) for row in rows]

    def token_of(self, digest: str) -> Token | None:
        """The token with this digest, expired or not; None where it is not known, or was revoked."""
        with told(self._path):
            row = self._connection.execute("SELECT * FROM tokens WHERE digest = ?", (digest,)).fetchone()
        return _token(row) if row else None

    def revoke_token(self, name: str) -> Token:
        """Forget a token: it opens nothing from now on. Raises `NotFound`."""
        with self._transaction() as connection:
            rows = connection.execute("DELETE FROM tokens WHERE name = ? RETURNING *", (name,)).fetchall()
        if not rows:
            raise NotFound(f"there is no token {name!r}; `slurm-adapter token list` shows those that there are")
        return _token(rows[0])

    def hosts_version(self) -> str:
        """Stands for what the hosts files have to say; another one after every change of it."""
        return self.fact(_CHANGED) or "0"

    def hosts_are_written(self) -> bool:
        """Whether the hosts files say what they have to: a pass that could not write them leaves it to the next."""
        return self.fact(_WRITTEN) == self.hosts_version()

    def note_hosts_written(self, version: str) -> None:
        """Remember that the hosts files say what belongs to this version, which was asked for before they were made."""
        self.set_fact(_WRITTEN, version)

    def _one(self, id_: str) -> Record | None:
        found = self._select("id = ?", (id_,))
        return found[0] if found else None

    def _select_in(self, column: str, values: Iterable[str]) -> list[Record]:
        """One query however many values: SQLite takes them as one JSON array."""
        return self._select(f"{column} IN (SELECT value FROM json_each(?))", (json.dumps(list(values)),))  # noqa: S608  # nosec B608 # our own names

    def _select(self, condition: str, values: Sequence[object]) -> list[Record]:
        with told(self._path):
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


def _of_submission(job: ActiveJob | Record, old: Mapping[str, object], new: Mapping[str, object]) -> str:
    """Return, as JSON, what UCloud learns once Slurm has a job: its folder, and its time limit if UCloud set none."""
    told: dict[str, object] = {}
    if old["slurm_id"] is None and new.get("slurm_id") is not None:
        if old["output_folder"]:
            told["outputFolder"] = old["output_folder"]
        if isinstance(job, Record) and json.loads(job.specification).get("time_allocation") is None:
            told["newTimeAllocation"] = job.time_limit * 1000
    return json.dumps(told)


def _unseen_run(old: Mapping[str, object], values: Mapping[str, Any], now: float) -> list[tuple[object, ...]]:
    """Return the values of an update that says RUNNING, if a job has ended that was never seen to run, but did."""
    if values.get("stage") is not Stage.ENDED or old["state"] != JobState.IN_QUEUE or values.get("started") is None:
        return []
    return [(min(values["started"], now), JobState.RUNNING, "Your job started", "{}", old["rowid"])]


def _insert_peers(connection: sqlite3.Connection, record: Record) -> None:
    connection.executemany(
        "INSERT INTO peers VALUES (?, ?, ?, ?)",
        [(record.id, peer.hostname, peer.job_id, position) for position, peer in enumerate(record.peers)],
    )


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
    _tell_no_more(connection, id_, f"UCloud has given the id {record.id} to a new job; this job is ended", now)
    _note_for_hosts(connection)


def _tell_no_more(connection: sqlite3.Connection, id_: str, text: str, now: float) -> None:
    """Deliver nothing more of a job that is marked as gone, not even what was due; its own history says why."""
    connection.execute("UPDATE updates SET due = 0 WHERE job_id = ?", (id_,))
    connection.execute(f"{_TELL} id = ?", (now, None, text, "{}", id_))


def _note_for_hosts(connection: sqlite3.Connection) -> None:
    """Within the transaction that changes it, so that no crash can come between."""
    connection.execute(
        "INSERT INTO facts VALUES (?, '1') ON CONFLICT (name) DO UPDATE SET value = CAST(value AS INTEGER) + 1",
        (_CHANGED,),
    )


def _key(record: Record) -> tuple[str, ...]:
    """Return what a job is known by: its id, or the key of a stand-alone job that has one."""
    if record.origin != STANDALONE or record.key is None:
        return (record.id,)
    return (record.origin, record.owner, record.project or "", record.key)


def _values(record: Record) -> list[object]:
    """A record as SQLite takes it."""
    return [_plain(getattr(record, name)) for name in _COLUMNS]


def _plain(value: object) -> object:
    """A value as SQLite takes it."""
    kind = type(value)
    if kind is tuple:
        return json.dumps(value) if value else "[]"
    return int(value) if kind is bool else value  # type: ignore[call-overload]  # mypy does not follow `kind`


def _read_list(text: str) -> tuple[Any, ...]:
    return tuple(json.loads(text)) if text != "[]" else ()


def _read_addresses(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(map(tuple, _read_list(text)))


def _read_interfaces(text: str) -> tuple[Interface, ...]:
    return tuple(Interface(*each) for each in _read_list(text)) if text != "[]" else ()


_STAGES = {stage.value: stage for stage in Stage}
_STATES = {state.value: state for state in JobState}

_READERS: tuple[tuple[int, Callable[[Any], Any]], ...] = (
    (_COLUMNS.index("array"), bool),
    (_COLUMNS.index("has_hosts_file"), bool),
    (_COLUMNS.index("stage"), _STAGES.__getitem__),
    (_COLUMNS.index("state"), _STATES.__getitem__),
    (_COLUMNS.index("nodes"), _read_list),
    (_COLUMNS.index("addresses"), _read_addresses),
    (_COLUMNS.index("interfaces"), _read_interfaces),
)
"""What makes more of the columns than SQLite gives, by their places."""

_NAMES = ", ".join(_COLUMNS)


def _record(row: Sequence[Any], peers: tuple[Peer, ...]) -> Record:
    values = list(row)
    for number, read in _READERS:
        values[number] = read(values[number])
    return Record(*values, peers=peers)  # type: ignore[misc]  # the columns are all fields but the last


def _token(row: sqlite3.Row) -> Token:
    return Token(row["name"], row["user"], tuple(json.loads(row["projects"])), row["created"], row["expires"])

"""What the adapter must remember: one SQLite file on a local disk.

Every change is one transaction, flushed to the disk before the call returns (`synchronous=FULL`), because a claim that
is lost is a job that runs twice. A network file system is refused: SQLite's locks are not kept there
(https://www.sqlite.org/faq.html, question 5), and WAL needs shared memory.

A job moves through four stages:

    claimed      it has an id; nothing was handed to Slurm
    submitting   sbatch may have been started; its answer has not been recorded
    submitted    its Slurm id is known
    ended        its state is final, for good
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sqlite3
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import cache
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from slurm_adapter.errors import AdapterError, InvalidConfig, InvalidInput, NotFound, TryAgain
from slurm_adapter.receivers.interface import Message
from slurm_adapter.selection import place
from slurm_adapter.states import JobState
from slurm_adapter.targets import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from slurm_adapter.selection import Selection

STANDALONE = "local"
"""The origin of jobs that do not come from UCloud."""

NETWORK_FILE_SYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "ocfs2", "panfs"}
    | {"smb3", "fuse.ceph", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.sshfs"}
)

Removable = Literal["logs_gone", "folder_gone"]
"""What is removed of a job that has ended, by the column that tells when it was."""

MOUNTS = Path("/proc/self/mountinfo")


class StoreError(AdapterError):
    """The database cannot be read or written; nothing was changed."""


class Stage(StrEnum):
    """How far a job has come; see the module."""

    CLAIMED = "claimed"
    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Peer:
    """Another job that a job names."""

    hostname: str
    """What the job calls it, in lower case."""
    job_id: str


@dataclass(frozen=True, slots=True)
class Record:
    """One job as it is remembered."""

    id: str
    origin: str
    """The provider's id for UCloud's jobs, `local` for others."""
    key: str | None
    """By which the same submission is recognised when it comes again."""
    token: str
    """The job's name and comment in Slurm; unique over all sites and stores."""
    owner: str
    """The UCloud user."""
    project: str | None
    account: str
    """The account on the cluster that runs it."""
    folder: str
    application: str
    """`name version`."""
    specification: str
    """The JobSpecification as JSON."""
    labels: str
    """UCloud's labels as JSON."""
    replicas: int
    time_limit: int
    """Seconds."""
    array: bool
    """Each replica is a task of an array; see `tasks`."""
    created: float
    """Seconds since the epoch, as are all times here."""
    stage: Stage = Stage.CLAIMED
    state: JobState = JobState.IN_QUEUE
    status: str = ""
    """What the user was last told."""
    slurm_id: int | None = None
    restarts: int = 0
    nodes: tuple[str, ...] = ()
    """Of the present run, or of the last, in the order of ranks."""
    addresses: tuple[tuple[str, ...], ...] = ()
    """Of each rank."""
    handed_over: float | None = None
    """When sbatch was last started."""
    missing_since: float | None = None
    """Since when every pass has had a healthy controller say that it knows nothing of the job."""
    cancelled: float | None = None
    """When its end was asked for through the adapter."""
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    tasks: int = 0
    """How many an array has; 0 where there is none, or it is older than this field."""
    logs_gone: float | None = None
    """When its logs were removed; see `slurm_adapter.retention`."""
    folder_gone: float | None = None
    """When its folder was removed."""
    tidy_after: float | None = None
    """Removing failed, and is tried again then."""
    view: str | None = None
    """The SHA-256 of the view last written into the job's folder, where views are private."""
    names: bool = False
    """It has a hosts file of its own on its nodes; see `slurm_adapter.script.NodeSettings`."""
    web_port: int | None = None
    """Where its application's web interface listens on the node of a rank, if it has one."""
    vnc_port: int | None = None
    vnc_password: str | None = None
    targets: tuple[Target, ...] = ()
    """Further interfaces, which its application's template declares."""
    output_folder: str | None = None
    """Its folder as UCloud names it, where that lies in a drive."""
    unknown_since: float | None = None
    """Since when UCloud says that it knows no such job."""
    gone: float | None = None
    """When it was sure that UCloud has no such job: it is told nothing more of it."""
    original: str | None = None
    """The JobSpecification that it was handed in with, where its peers were changed since."""
    unwanted: float | None = None
    """Since when its end is wanted; nobody has carried that out yet."""
    peers: tuple[Peer, ...] = ()

    @property
    def run(self) -> str:
        """Names one run of the job: Slurm's id and how often it was started again."""
        return f"{self.slurm_id}.{self.restarts}"

    def having(self, values: Mapping[str, Any]) -> Record:
        """The record with these values of its fields: `dataclasses.replace`, quick for so many fields."""
        all_ = list(_ALL(self))
        for name, value in values.items():
            all_[_PLACES[name]] = value
        return Record(*all_)


class Standing(NamedTuple):
    """The little of a job that has not ended by which a pass sees whether anything is new of it; see `Record`."""

    id: str
    token: str
    account: str
    stage: str
    slurm_id: int | None
    cancelled: float | None
    missing_since: float | None
    unwanted: float | None
    time_limit: int
    state: str
    status: str
    restarts: int
    started: float | None
    nodes: tuple[str, ...]
    addresses: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Update:
    """One thing that UCloud and the user are told of a job."""

    number: int
    job_id: str
    time: float
    state: JobState | None
    status: str
    delivered: float | None
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of UCloud's `JobUpdate` (contract 1.14)."""


@dataclass(frozen=True, slots=True)
class Amendment:
    """What becomes of a job by a wish of its user, and what users are told of it; see `Store.amend`."""

    values: Mapping[str, Any]
    """Fields of `Record`; at least one that is not `peers`."""
    text: str
    more: Mapping[str, Any]
    """See `Update.more`."""


@dataclass(frozen=True, slots=True)
class Token:
    """What is remembered of a user's token; see `slurm_adapter.tokens`."""

    name: str
    user: str
    """The UCloud user."""
    projects: tuple[str, ...]
    """In which it may be used, besides the user's personal workspace."""
    created: float
    expires: float | None
    """None: never."""

    def expired(self, now: float) -> bool:
        """Whether it is of no use any more."""
        return self.expires is not None and self.expires <= now


_ALL = attrgetter(*(each.name for each in fields(Record)))
_PLACES = {each.name: place for place, each in enumerate(fields(Record))}
_COLUMNS = tuple(each.name for each in fields(Record) if each.name != "peers")

_IN_HOSTS = frozenset({"state", "slurm_id", "restarts", "nodes", "addresses"})
"""What the hosts files are made from."""

_TELL = """
    INSERT INTO updates (job_id, time, state, status, more, due)
    SELECT id, ?, ?, ?, ?, origin <> 'local' AND gone IS NULL FROM jobs WHERE id = ?
"""
"""Notes what users are told. Nobody waits for what becomes of jobs that do not come from UCloud, or that it deleted."""

_CHANGED, _WRITTEN = "hosts changed", "hosts written"
"""The facts that say what the hosts files must hold, and what they hold."""

_MIGRATIONS: tuple[tuple[str, str], ...] = (
    (
        "jobs, peers and updates",
        """
        CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
        CREATE TABLE jobs (
            id TEXT PRIMARY KEY, origin TEXT NOT NULL, key TEXT, token TEXT NOT NULL UNIQUE,
            owner TEXT NOT NULL, project TEXT, account TEXT NOT NULL, folder TEXT NOT NULL,
            application TEXT NOT NULL, specification TEXT NOT NULL, labels TEXT NOT NULL,
            replicas INTEGER NOT NULL, time_limit INTEGER NOT NULL, array INTEGER NOT NULL, created REAL NOT NULL,
            stage TEXT NOT NULL, state TEXT NOT NULL, status TEXT NOT NULL, slurm_id INTEGER,
            restarts INTEGER NOT NULL, nodes TEXT NOT NULL, addresses TEXT NOT NULL, handed_over REAL,
            missing_since REAL, cancelled REAL, started REAL, ended REAL, exit_code INTEGER, view TEXT
        ) STRICT;
        CREATE UNIQUE INDEX jobs_by_key ON jobs (origin, owner, coalesce(project, ''), key) WHERE key IS NOT NULL;
        CREATE INDEX jobs_by_stage ON jobs (stage) WHERE stage <> 'ended';
        CREATE TABLE bundles (
            job_id TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE, content BLOB NOT NULL
        ) STRICT;
        CREATE TABLE peers (
            consumer TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, hostname TEXT NOT NULL, job_id TEXT NOT NULL,
            position INTEGER NOT NULL, PRIMARY KEY (consumer, hostname)
        ) STRICT;
        CREATE TABLE updates (
            number INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
            time REAL NOT NULL, state TEXT, status TEXT NOT NULL, delivered REAL
        ) STRICT;
        CREATE INDEX updates_by_job ON updates (job_id);
        """,
    ),
    (
        "the tasks of arrays, the outbox, and what was removed",
        """
        ALTER TABLE jobs ADD COLUMN tasks INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE jobs ADD COLUMN logs_gone REAL;
        ALTER TABLE jobs ADD COLUMN folder_gone REAL;
        ALTER TABLE jobs ADD COLUMN tidy_after REAL;
        CREATE INDEX jobs_by_end ON jobs (ended) WHERE stage = 'ended';
        ALTER TABLE updates ADD COLUMN due INTEGER NOT NULL DEFAULT 0;
        CREATE INDEX updates_due ON updates (number) WHERE due = 1;
        DELETE FROM facts WHERE name = 'outage';
        """,
    ),
    (
        "what the gateway needs",
        """
        ALTER TABLE jobs ADD COLUMN names INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE jobs ADD COLUMN web_port INTEGER;
        ALTER TABLE jobs ADD COLUMN vnc_port INTEGER;
        ALTER TABLE jobs ADD COLUMN vnc_password TEXT;
        ALTER TABLE jobs ADD COLUMN targets TEXT NOT NULL DEFAULT '[]';
        ALTER TABLE jobs ADD COLUMN output_folder TEXT;
        ALTER TABLE jobs ADD COLUMN unknown_since REAL;
        ALTER TABLE jobs ADD COLUMN gone REAL;
        ALTER TABLE jobs ADD COLUMN original TEXT;
        ALTER TABLE jobs ADD COLUMN unwanted REAL;
        UPDATE jobs SET names = 1 WHERE replicas > 1 OR EXISTS (SELECT 1 FROM peers WHERE consumer = jobs.id);
        CREATE INDEX jobs_by_owner ON jobs (owner, project, created);
        ALTER TABLE updates ADD COLUMN more TEXT NOT NULL DEFAULT '{}';
        ALTER TABLE updates ADD COLUMN sent INTEGER NOT NULL DEFAULT 0;
        CREATE TABLE shared (digest TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT;
        CREATE TABLE tokens (
            name TEXT PRIMARY KEY, digest TEXT NOT NULL UNIQUE, user TEXT NOT NULL, projects TEXT NOT NULL,
            created REAL NOT NULL, expires REAL
        ) STRICT;
        """,
    ),
)
"""What made the tables what they are, in order; the file's `user_version` counts those that ran."""


class Store:
    """The jobs of one adapter. Cheap to open; one connection, for one thread at a time.

    Every method raises `StoreError` where the file cannot be read or written, and then nothing was changed.
    """

    def __init__(self, folder: Path) -> None:
        """Open the store in `folder`, and make it where there is none.

        Raises `InvalidConfig` where the folder belongs to somebody else or lies on a network file system.
        """
        _check_folder(folder)
        path = folder / "jobs.sqlite"
        with _told(path):
            with suppress(FileExistsError):
                # Only where there is none: closing a file drops this process's locks on it (fcntl(2)), SQLite's too.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        self._path = path
        try:
            with _told(path):
                self._connection.row_factory = sqlite3.Row
                for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                    self._connection.execute(f"PRAGMA {pragma}")
                self._migrate()
                self.instance = self._fact("instance", secrets.token_hex(4))
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        """Close it at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """See `close`."""
        self.close()

    def reserve_ids(self, count: int, first: int) -> list[str]:
        """`count` new ids, from `first` upwards, never used before or again."""
        with self._transaction() as connection:
            row = connection.execute("SELECT value FROM facts WHERE name = 'next_id'").fetchone()
            start = max(first, int(row["value"]) if row else first)
            connection.execute("INSERT OR REPLACE INTO facts VALUES ('next_id', ?)", (str(start + count),))
        return [str(number) for number in range(start, start + count)]

    def claim(
        self, claims: Sequence[tuple[Record, bytes]], shared: Mapping[str, bytes] = MappingProxyType({})
    ) -> list[Record]:
        """Remember new jobs with what is to be handed to Slurm, all or none.

        `shared` is what the bundles name by its digest. For a job whose key is known already, the record that has it is
        in the result instead. Raises `InvalidInput` where a known key comes with another specification.
        """
        with self._transaction() as connection:
            known = self._with_keys([record for record, _ in claims])
            found: list[Record] = []
            new: list[tuple[Record, bytes]] = []
            for record, bundle in claims:
                one = known.get(_key(record)) if record.key is not None else None
                if one is None:
                    known[_key(record)] = one = record
                    new.append((record, bundle))
                found.append(same_job(one, record.specification))
            marks = ", ".join("?" * len(_COLUMNS))
            connection.executemany(
                f"INSERT INTO jobs ({', '.join(_COLUMNS)}) VALUES ({marks})",  # noqa: S608  # our own names
                [_values(record) for record, _ in new],
            )
            for record, _ in new:
                _insert_peers(connection, record)
            if new:
                self._share(connection, shared)
            connection.executemany("INSERT INTO bundles VALUES (?, ?)", [(record.id, bundle) for record, bundle in new])
        return found

    def _with_keys(self, records: Iterable[Record]) -> dict[tuple[str, ...], Record]:
        """The jobs that are known by the keys of these, by `_key`."""
        keys: dict[tuple[str, str, str | None], list[str]] = {}
        for record in records:
            if record.key is not None:
                keys.setdefault((record.origin, record.owner, record.project), []).append(record.key)
        return {
            _key(record): record for whose, some in keys.items() for record in self.find_keys(*whose, some).values()
        }

    @staticmethod
    def _share(connection: sqlite3.Connection, shared: Mapping[str, bytes]) -> None:
        names = json.dumps(list(shared))
        here = "SELECT count(*) FROM shared WHERE digest IN (SELECT value FROM json_each(?))"
        if connection.execute(here, (names,)).fetchone()[0] == len(shared):
            return
        # An upgrade: what no bundle can name any more goes.
        connection.execute("DELETE FROM shared WHERE NOT EXISTS (SELECT 1 FROM bundles)")
        connection.executemany("INSERT OR IGNORE INTO shared VALUES (?, ?)", shared.items())

    def bundles(self, ids: Iterable[str]) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """What is to be handed to Slurm for these jobs, kept until it has it; and what bundles name by its digest."""
        found = "SELECT job_id, content FROM bundles WHERE job_id IN (SELECT value FROM json_each(?))"
        with self._transaction() as connection:  # else another process's upgrade might come in between
            packed = connection.execute(found, (json.dumps(list(ids)),)).fetchall()
            shared = connection.execute("SELECT digest, content FROM shared").fetchall()
        return {row["job_id"]: row["content"] for row in packed}, {row["digest"]: row["content"] for row in shared}

    def take(self, ids: Iterable[str], now: float) -> list[Record]:
        """Move those of these jobs that are still only claimed to stage `submitting`, before sbatch is started.

        What another process has taken meanwhile is not in the result: exactly one of them hands a job over.
        """
        with self._transaction() as connection:
            taken = [record for record in self._select_in("id", ids) if record.stage is Stage.CLAIMED]
            connection.executemany(
                "UPDATE jobs SET stage = 'submitting', handed_over = ?, missing_since = NULL WHERE id = ?",
                [(now, record.id) for record in taken],
            )
        return [replace(record, stage=Stage.SUBMITTING, handed_over=now, missing_since=None) for record in taken]

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

    def forget(self, ids: Iterable[str]) -> None:
        """Remove claims that came to nothing."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM jobs WHERE id = ?", [(id_,) for id_ in ids])
            _note_for_hosts(connection)

    def change(self, changes: Iterable[tuple[Record, dict[str, Any]]], now: float) -> list[Record]:
        """Change records, all or none, and note what users are to be told: a change of state or of status.

        A final state stays. And what was decided on a record counts only while its job is at the same stage, with the
        same Slurm job: where another process was faster, that change is not made, and is not in the result.
        """
        changes = list(changes)
        if not changes:
            return []
        with self._transaction() as connection:
            made = self._change(connection, changes, now)
            return self._select_in("id", made)

    def make_changes(self, changes: Collection[tuple[Record, dict[str, Any]]], now: float) -> set[str]:
        """As `change`, with the ids of the records that were changed: quick for thousands."""
        if not changes:
            return set()
        with self._transaction() as connection:
            return self._change(connection, changes, now)

    def _change(
        self, connection: sqlite3.Connection, changes: Collection[tuple[Record, dict[str, Any]]], now: float
    ) -> set[str]:
        made: set[str] = set()
        updates: dict[tuple[str, ...], list[list[object]]] = {}
        told: list[tuple[object, ...]] = []
        done: list[tuple[str]] = []
        known = self._read_plain({name for _, values in changes for name in values}, changes)
        in_hosts = False
        for record, values in changes:
            id_, old = record.id, known.get(record.id)
            if old is None or old["stage"] == Stage.ENDED:
                continue
            if (old["stage"], old["slurm_id"]) != (record.stage, record.slurm_id):
                continue
            new = {name: plain for name, value in values.items() if (plain := _plain(value)) != old[name]}
            handed_in = record.output_folder and old["slurm_id"] is None and new.get("slurm_id") is not None
            old |= new
            if new:
                updates.setdefault(tuple(new), []).append([*new.values(), id_])
            in_hosts = in_hosts or old["stage"] == Stage.ENDED or not _IN_HOSTS.isdisjoint(new)
            if "state" in new or "status" in new:
                more = json.dumps({"outputFolder": record.output_folder}) if handed_in else "{}"
                told.append((now, new.get("state"), old["status"], more, id_))
            if new.get("stage") in {Stage.SUBMITTED, Stage.ENDED}:
                done.append((id_,))
            made.add(id_)
        for names, rows in updates.items():
            sets = ", ".join(f"{name} = ?" for name in names)
            connection.executemany(f"UPDATE jobs SET {sets} WHERE id = ?", rows)  # noqa: S608  # our own names
        connection.executemany("DELETE FROM bundles WHERE job_id = ?", done)
        connection.executemany(_TELL, told)
        if in_hosts:
            _note_for_hosts(connection)
        return made

    def _read_plain(
        self, names: Iterable[str], changes: Iterable[tuple[Record, object]]
    ) -> dict[str, dict[str, object]]:
        """These columns of the jobs that are to be changed, and what decides whether they are, by id."""
        columns = ", ".join({*names, "id", "stage", "slurm_id", "state", "status"})
        rows = self._connection.execute(
            f"SELECT {columns} FROM jobs WHERE id IN (SELECT value FROM json_each(?))",  # noqa: S608  # our own names
            (json.dumps([record.id for record, _ in changes]),),
        )
        return {row["id"]: dict(row) for row in rows}

    def amend(self, id_: str, amend: Callable[[Record], Amendment | None], now: float) -> Record:
        """Change what is remembered of a job that has not ended, and tell users, in one step; the job as it is then.

        `amend` is given the job as it is at that moment; it may raise, or give None for no change. Raises `NotFound`.
        """
        with self._transaction() as connection:
            record = self.get(id_)
            amendment = amend(record) if record.stage is not Stage.ENDED else None
            if amendment is None:
                return record
            new = replace(record, **amendment.values)
            row = dict(zip(_COLUMNS, _values(new), strict=True))
            names = [name for name in amendment.values if name != "peers"]
            sets = ", ".join(f"{name} = ?" for name in names)
            connection.execute(f"UPDATE jobs SET {sets} WHERE id = ?", [*(row[name] for name in names), id_])  # noqa: S608  # our own names
            if new.peers != record.peers:
                connection.execute("DELETE FROM peers WHERE consumer = ?", (id_,))
                _insert_peers(connection, new)
                _note_for_hosts(connection)
            connection.execute(_TELL, (now, None, amendment.text, json.dumps(dict(amendment.more)), id_))
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

    def with_tokens(self, tokens: Iterable[str]) -> list[Record]:
        """Those of these tokens' jobs that are known."""
        return self._select_in("token", tokens)

    def active(self) -> list[Record]:
        """Every job that has not ended, oldest first."""
        return self._select("stage <> 'ended'", ())

    def standing(self) -> list[Standing]:
        """As `active`, in no order: for ten thousand jobs it takes a fraction of the time."""
        read_nodes, read_addresses = cache(_read_list), cache(_read_addresses)
        query = f"SELECT {', '.join(Standing._fields)} FROM jobs WHERE stage <> 'ended'"  # noqa: S608  # our own names
        with _told(self._path):
            cursor = self._connection.execute(query)
            return [
                Standing._make((*values, read_nodes(nodes), read_addresses(addresses)))
                for *values, nodes, addresses in cursor
            ]

    def expected(self) -> list[str]:
        """Ids of the jobs that have not ended and that UCloud is taken to know."""
        query = "SELECT id FROM jobs WHERE stage <> 'ended' AND origin <> ? AND gone IS NULL ORDER BY created, rowid"
        with _told(self._path):
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

    def waits_for_peer(self) -> bool:
        """Whether some job waits, or will wait, for the name of one that has not started."""
        query = """
            SELECT 1 FROM peers
            JOIN jobs AS peer ON peer.id = peers.job_id JOIN jobs AS consumer ON consumer.id = peers.consumer
            WHERE peer.stage <> 'ended' AND peer.state = 'IN_QUEUE' AND consumer.stage <> 'ended' LIMIT 1
        """
        with _told(self._path):
            return self._connection.execute(query).fetchone() is not None

    def count_states(self) -> dict[JobState, int]:
        """How many jobs are remembered in each state."""
        with _told(self._path):
            rows = self._connection.execute("SELECT state, count(*) AS jobs FROM jobs GROUP BY state").fetchall()
        return {JobState(row["state"]): row["jobs"] for row in rows}

    def outbox(self) -> tuple[int, float | None]:
        """How much UCloud is yet to be told, and since when the oldest of it is true."""
        with _told(self._path):
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
            f"SELECT id, rowid, {selection.key} AS key FROM jobs WHERE {condition} "  # noqa: S608  # our own conditions
            f"ORDER BY key {direction}, rowid {direction} LIMIT ?"
        )
        with _told(self._path):
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
                f"{_TELL} AND stage <> 'ended'", [(now, None, text, fields, id_) for id_, text in notes]
            )

    def updates(self, id_: str) -> list[Update]:
        """What was to be told of a job, in order."""
        with _told(self._path):
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
        with _told(self._path):
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
        with _told(self._path):
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

    def note_sent(self, numbers: Iterable[int], *, sent: bool) -> None:
        """These are on their way to UCloud, or have certainly not arrived."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE updates SET sent = ? WHERE number = ?", [(int(sent), number) for number in numbers]
            )

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

    def want_ended(self, ids: Iterable[str], since: float | None) -> None:
        """The end of these jobs is wanted, since this time or an earlier one; None: that was seen to."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE jobs SET unwanted = CASE WHEN ? IS NULL THEN NULL ELSE coalesce(unwanted, ?) END "
                "WHERE id = ? AND stage <> 'ended'",
                [(since, since, id_) for id_ in ids],
            )

    def unwanted(self, time: float) -> list[Record]:
        """Jobs whose end is wanted since this time or an earlier one, and that have not ended."""
        return self._select("stage <> 'ended' AND unwanted <= ?", (time,))

    def unknown_since(self, time: float) -> list[Record]:
        """Jobs that UCloud has not known since this time or an earlier one, and of which it is to be told all the same.

        Such as have ended, and of which nothing is due, matter to nobody.
        """
        return self._select(
            "unknown_since <= ? AND gone IS NULL AND (stage <> 'ended' OR EXISTS "
            "(SELECT 1 FROM updates WHERE job_id = jobs.id AND due = 1))",
            (time,),
        )

    def note_gone(self, ids: Iterable[str], text: str, now: float) -> None:
        """UCloud has no such jobs: it is told nothing more of them, not even what was due."""
        with self._transaction() as connection:
            for id_ in ids:
                connection.execute("UPDATE jobs SET gone = ? WHERE id = ?", (now, id_))
                connection.execute("UPDATE updates SET due = 0 WHERE job_id = ?", (id_,))
                connection.execute(_TELL, (now, None, text, "{}", id_))

    def ended_before(self, time: float, column: Removable, now: float, limit: int) -> list[Record]:
        """Jobs that ended before this time and still have this part of them, oldest first, at most `limit`."""
        has_it = f"stage = 'ended' AND ended < ? AND folder_gone IS NULL AND {column} IS NULL"
        oldest = f"SELECT rowid FROM jobs WHERE {has_it} AND coalesce(tidy_after, 0) <= ? ORDER BY ended LIMIT ?"  # noqa: S608  # our own names
        return self._select(f"rowid IN ({oldest})", (time, now, limit))

    def forgettable(self, time: float, limit: int, *, with_folder: bool) -> list[str]:
        """Ids of jobs that ended before this time, of which nothing is due and which no live job names as its peer.

        `with_folder`: those, too, whose folder still stands. One that could not be removed is given up after a month.
        """
        with _told(self._path):
            rows = self._connection.execute(
                """
                SELECT id FROM jobs WHERE stage = 'ended' AND ended < ?
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
        return [row["id"] for row in rows]

    def forget_ended(self, ids: Iterable[str]) -> None:
        """Remember these jobs no longer. One that has not ended stays."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM jobs WHERE id = ? AND stage = 'ended'", [(id_,) for id_ in ids])

    def note_removed(self, ids: Iterable[str], column: Removable, now: float) -> None:
        """This part of these jobs is gone."""
        with self._transaction() as connection:
            connection.executemany(f"UPDATE jobs SET {column} = ? WHERE id = ?", [(now, id_) for id_ in ids])  # noqa: S608  # our own names

    def put_off(self, ids: Iterable[str], until: float) -> None:
        """Do not try to remove anything of these jobs before this time."""
        with self._transaction() as connection:
            connection.executemany("UPDATE jobs SET tidy_after = ? WHERE id = ?", [(until, id_) for id_ in ids])

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
        with _told(self._path):
            rows = self._connection.execute("SELECT * FROM tokens ORDER BY name").fetchall()
        return [_token(row) for row in rows]

    def token_of(self, digest: str) -> Token | None:
        """The token with this digest, expired or not; None where it is not known, or was revoked."""
        with _told(self._path):
            row = self._connection.execute("SELECT * FROM tokens WHERE digest = ?", (digest,)).fetchone()
        return _token(row) if row else None

    def revoke_token(self, name: str) -> Token:
        """Forget a token: it opens nothing from now on. Raises `NotFound`."""
        with self._transaction() as connection:
            rows = connection.execute("DELETE FROM tokens WHERE name = ? RETURNING *", (name,)).fetchall()
        if not rows:
            raise NotFound(f"there is no token {name!r}; `slurm-adapter token list` shows those that there are")
        return _token(rows[0])

    def fact(self, name: str) -> str | None:
        """Something remembered under a name, such as an outage that was told already."""
        with _told(self._path):
            row = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row["value"]) if row else None

    def set_fact(self, name: str, value: str | None) -> None:
        """Remember something, or forget it."""
        with self._transaction() as connection:
            if value is None:
                connection.execute("DELETE FROM facts WHERE name = ?", (name,))
            else:
                connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def hosts_version(self) -> str:
        """Stands for what the hosts files have to say; another one after every change of it."""
        return self.fact(_CHANGED) or "0"

    def hosts_are_written(self) -> bool:
        """Whether the hosts files say what they have to: a pass that could not write them leaves it to the next."""
        return self.fact(_WRITTEN) == self.hosts_version()

    def note_hosts_written(self, version: str) -> None:
        """Remember that the hosts files say what belongs to this version, which was asked for before they were made."""
        self.set_fact(_WRITTEN, version)

    def _fact(self, name: str, value: str) -> str:
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, value))
            return str(connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()["value"])

    def _one(self, id_: str) -> Record | None:
        found = self._select("id = ?", (id_,))
        return found[0] if found else None

    def _select_in(self, column: str, values: Iterable[str]) -> list[Record]:
        """One query however many values: SQLite takes them as one JSON array."""
        return self._select(f"{column} IN (SELECT value FROM json_each(?))", (json.dumps(list(values)),))  # noqa: S608  # our own names

    def _select(self, condition: str, values: Sequence[object]) -> list[Record]:
        with _told(self._path):
            query = f"SELECT {_NAMES} FROM jobs WHERE {condition} ORDER BY created, rowid"  # noqa: S608  # our own conditions
            rows = self._connection.execute(query, values).fetchall()
            peers: dict[str, list[Peer]] = {}
            if rows:
                ids = json.dumps([row["id"] for row in rows])
                for row in self._connection.execute(
                    "SELECT * FROM peers WHERE consumer IN (SELECT value FROM json_each(?)) ORDER BY position", (ids,)
                ):
                    peers.setdefault(row["consumer"], []).append(Peer(row["hostname"], row["job_id"]))
        return [_record(row, tuple(peers.get(row["id"], ()))) for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; the write lock is taken at once, so that what is read stays true until it is written."""
        with _told(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite itself undoes it where the disk is full
                    self._connection.execute("ROLLBACK")
                raise

    def _migrate(self) -> None:
        done = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if done > len(_MIGRATIONS):
            raise InvalidConfig(f"{self._path} was written by a newer slurm-adapter; upgrade this one")
        for number in range(done, len(_MIGRATIONS)):
            with self._transaction() as connection:
                if connection.execute("PRAGMA user_version").fetchone()[0] > number:
                    continue  # another process was faster
                for statement in filter(str.strip, _MIGRATIONS[number][1].split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number + 1}")


def _insert_peers(connection: sqlite3.Connection, record: Record) -> None:
    connection.executemany(
        "INSERT INTO peers VALUES (?, ?, ?, ?)",
        [(record.id, peer.hostname, peer.job_id, position) for position, peer in enumerate(record.peers)],
    )


def _note_for_hosts(connection: sqlite3.Connection) -> None:
    """Within the transaction that changes it, so that no crash can come between."""
    connection.execute(
        "INSERT INTO facts VALUES (?, '1') ON CONFLICT (name) DO UPDATE SET value = CAST(value AS INTEGER) + 1",
        (_CHANGED,),
    )


def same_job(known: Record, specification: str) -> Record:
    """The job that a key belongs to. Raises `InvalidInput` where the key comes with another specification."""
    if (known.original or known.specification) != specification:
        raise InvalidInput(
            f"the key {known.key!r} belongs to job {known.id}, whose specification is another one; "
            "use a new key for a new job"
        )
    return known


def by_account(records: Iterable[Record]) -> Iterator[tuple[str, list[Record]]]:
    """Records grouped by the account that runs them: a command runs as one account."""
    grouped: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        grouped[record.account].append(record)
    yield from sorted(grouped.items())


def _key(record: Record) -> tuple[str, ...]:
    """By which a job with a key is known; by its id, where it has none."""
    if record.key is None:
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


_READERS: tuple[tuple[int, Callable[[Any], Any]], ...] = (
    (_COLUMNS.index("array"), bool),
    (_COLUMNS.index("names"), bool),
    (_COLUMNS.index("stage"), {stage.value: stage for stage in Stage}.__getitem__),
    (_COLUMNS.index("state"), {state.value: state for state in JobState}.__getitem__),
    (_COLUMNS.index("nodes"), _read_list),
    (_COLUMNS.index("addresses"), _read_addresses),
    (_COLUMNS.index("targets"), lambda text: tuple(Target(*each) for each in _read_list(text))),
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


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """SQLite's and the system's errors, as this program's own."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise TryAgain(f"{path}: another process holds the database; try again") from error
        raise StoreError(f"{path}: {error}; is the disk full, or read-only?") from error
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{path}: {error}; restore it from a backup (README, operation)") from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    except UnicodeEncodeError as error:  # a lone surrogate, as Python makes it of a byte on the command line
        raise InvalidInput(
            f"{error.object[:80]!r} is no text: it holds a character that UTF-8 does not have"
        ) from error


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.stat().st_uid
    except OSError as error:
        raise InvalidConfig(
            f"state = {folder}: {error.strerror}; make it for the adapter's account, mode 700"
        ) from error
    if owner != os.geteuid():
        raise InvalidConfig(
            f"state = {folder} belongs to uid {owner}, and this is uid {os.geteuid()}; "
            "run the adapter as the account that owns it"
        )
    if (kind := _file_system(folder)) in NETWORK_FILE_SYSTEMS:
        raise InvalidConfig(f"state = {folder} is on {kind}, a network file system; use a local disk")


def _file_system(folder: Path) -> str:
    """The type of the mount that holds `folder` (proc(5), mountinfo); the longest mount point wins, then the last."""
    best, kind = -1, ""
    resolved = folder.resolve()
    for line in MOUNTS.read_bytes().splitlines():
        left, _, right = line.partition(b" - ")
        escaped = left.split(b" ")[4]
        point = os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), escaped))
        if resolved.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), right.split(b" ")[0].decode(errors="replace")
    return kind

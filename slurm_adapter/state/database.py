"""The database of the adapter: one SQLite file on a local disk.

Every change is one transaction, flushed to the disk before the call returns (`synchronous=FULL`), because a claim that
is lost is a job that runs twice (docs/design.md#database). A network file system is refused: SQLite's locks are not
kept there (https://www.sqlite.org/faq.html, question 5), and WAL needs shared memory.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from slurm_adapter.core.errors import AdapterError, InvalidConfig, InvalidInput, TryAgain
from slurm_adapter.state import locks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NETWORK_FILE_SYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "ocfs2", "panfs"}
    | {"smb3", "fuse.ceph", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.sshfs"}
)

MOUNTS = Path("/proc/self/mountinfo")

NAME = "jobs.sqlite"
"""The database's file in the state folder."""


class StoreError(AdapterError):
    """The database cannot be read or written; nothing was changed."""


MIGRATIONS: tuple[tuple[str, str], ...] = (
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
    (
        "other sites and other histories",
        """
        ALTER TABLE jobs ADD COLUMN peers_file TEXT NOT NULL DEFAULT '';
        ALTER TABLE jobs ADD COLUMN created_at INTEGER;
        UPDATE jobs SET peers_file = id;
        ALTER TABLE jobs ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE jobs ADD COLUMN answer TEXT NOT NULL DEFAULT '';
        ALTER TABLE jobs ADD COLUMN postponed REAL;
        ALTER TABLE jobs ADD COLUMN trouble TEXT NOT NULL DEFAULT '';
        ALTER TABLE jobs ADD COLUMN close_after REAL;
        CREATE INDEX jobs_to_close ON jobs (close_after) WHERE close_after IS NOT NULL;
        """,
    ),
    (
        "columns named by the field's terms, and several clusters",
        """
        ALTER TABLE jobs RENAME COLUMN token TO slurm_name;
        ALTER TABLE jobs RENAME COLUMN handed_over TO sbatch_started;
        ALTER TABLE jobs RENAME COLUMN cancelled TO cancel_sent;
        ALTER TABLE jobs RENAME COLUMN unwanted TO cancel_requested;
        ALTER TABLE jobs RENAME COLUMN gone TO deleted_in_ucloud;
        ALTER TABLE jobs RENAME COLUMN names TO has_hosts_file;
        ALTER TABLE jobs RENAME COLUMN view TO hosts_digest;
        ALTER TABLE jobs RENAME COLUMN targets TO interfaces;
        ALTER TABLE jobs RENAME COLUMN tidy_after TO cleanup_retry;
        ALTER TABLE jobs ADD COLUMN cluster TEXT NOT NULL DEFAULT '';
        ALTER TABLE jobs ADD COLUMN lease REAL;
        UPDATE facts SET name = 'failures of slurmctld' WHERE name = 'asked in vain';
        """,
    ),
)
"""Migrations of the tables, in order; the file's `user_version` counts those that ran."""


class Database:
    """The file, its tables, and facts by name. Cheap to open; one connection, for one thread at a time.

    Every method raises `StoreError` if the file cannot be read or written, and then nothing was changed.
    """

    def __init__(self, folder: Path) -> None:
        """Open the database in `folder`, and make it if there is none.

        Raises `InvalidConfig` if the folder belongs to another account or lies on a network file system.
        """
        path = folder / NAME
        self._path = path
        with translate_errors(path):
            check_folder(folder)
        self._lock: int | None = hold(folder)
        try:
            with translate_errors(path):
                with suppress(FileExistsError):
                    # Only if there is none: closing a file drops this process's locks on it (fcntl(2)), SQLite's too.
                    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
                _hide(path)
                self._connection = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        except BaseException:
            os.close(self._lock)
            raise
        try:
            with translate_errors(path):
                self._connection.row_factory = sqlite3.Row
                for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                    self._connection.execute(f"PRAGMA {pragma}")
                self._migrate()
                # Reads first: a process that only opens the file and reads does not wait for writers.
                self.instance = self.fact("instance") or self._fact("instance", secrets.token_hex(4))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        """Close it at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """See `close`."""
        self.close()

    def fact(self, name: str) -> str | None:
        """Return what is stored under a name, such as an outage that was reported already."""
        with translate_errors(self._path):
            row = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row["value"]) if row else None

    def set_fact(self, name: str, value: str | None) -> None:
        """Store a value under a name, or remove it."""
        self.change_fact(name, lambda _: value)

    def change_fact(self, name: str, change: Callable[[str | None], str | None]) -> None:
        """Replace the value of a name by what `change` makes of it, in one transaction."""
        with self._transaction() as connection:
            value = change(self.fact(name))
            if value is None:
                connection.execute("DELETE FROM facts WHERE name = ?", (name,))
            else:
                connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def _fact(self, name: str, value: str) -> str:
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, value))
            return str(connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()["value"])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a transaction. It takes the write lock at once, so that what it reads stays true until it writes."""
        with translate_errors(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite itself undoes it if the disk is full
                    self._connection.execute("ROLLBACK")
                raise

    def _migrate(self) -> None:
        done = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if done > len(MIGRATIONS):
            raise InvalidConfig(f"{self._path} was written by a newer slurm-adapter; upgrade this one")
        for number in range(done, len(MIGRATIONS)):
            with self._transaction() as connection:
                if connection.execute("PRAGMA user_version").fetchone()[0] > number:
                    continue  # another process was faster
                for statement in filter(str.strip, MIGRATIONS[number][1].split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number + 1}")


_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_OF_DISK = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
    | {sqlite3.SQLITE_AUTH, sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOMEM}
)


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Raise errors of SQLite and of the system that an administrator can fix as errors of this program.

    Other errors of SQLite, such as "no such column", are mistakes in this program, and stay as they are.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        unreadable = sqlite3.SQLITE_CORRUPT if isinstance(error, sqlite3.OperationalError) else sqlite3.SQLITE_ERROR
        # Python's own error for a text that is not UTF-8 has no code. Of SQLite's codes the extended part is left out.
        code = getattr(error, "sqlite_errorcode", unreadable) & 0xFF
        if code in _BUSY:
            raise TryAgain(f"{path}: another process holds the database; try again") from error
        if code in _OF_DISK:
            raise StoreError(f"{path}: {error}; is the disk full, or read-only?") from error
        if code in _DAMAGED:
            raise StoreError(f"{path}: {error}; restore a backup: `slurm-adapter restore FILE`") from error
        raise
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    except UnicodeEncodeError as error:  # a lone surrogate, as Python makes it of a byte on the command line
        raise InvalidInput(
            f"{error.object[:80]!r} is no text: it holds a character that UTF-8 does not have"
        ) from error


def hold(folder: Path, *, alone: bool = False) -> int:
    """Return a locked file descriptor: processes that use the database share the lock, `restore` has it `alone`.

    Raises `TryAgain` if others have the lock.
    """
    with translate_errors(folder):
        descriptor = locks.acquire(folder / "database.lock", shared=not alone, wait=False)
    if descriptor is not None:
        return descriptor
    if alone:
        why = "another process uses the database; stop `slurm-adapter serve` and the timer of `sync`, then try again"
    else:
        why = "the database is being restored; try again in a moment"
    raise TryAgain(f"{folder}: {why}")


def _hide(path: Path) -> None:
    """Give the database's files mode 600: one that was copied here has the mode that the copier's umask gave it."""
    for suffix in ("", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        with suppress(FileNotFoundError):
            if file.stat().st_mode & 0o077:
                file.chmod(0o600)


def check_folder(folder: Path) -> None:
    """Make the state folder if there is none. Raises `InvalidConfig` if it can be no state folder."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise InvalidConfig(
            f"state_dir = {folder}: {error.strerror}; make it for the adapter's account, mode 700"
        ) from error
    if found.st_uid != os.geteuid():
        raise InvalidConfig(
            f"state_dir = {folder} belongs to uid {found.st_uid}, and this is uid {os.geteuid()}; "
            "run the adapter as the account that owns it"
        )
    if found.st_mode & 0o077:
        folder.chmod(0o700)  # it is the adapter's own, whatever umask it was made with
    if (kind := _file_system(folder)) in NETWORK_FILE_SYSTEMS:
        raise InvalidConfig(f"state_dir = {folder} is on {kind}, a network file system; use a local disk")


def _file_system(folder: Path) -> str:
    """Return the type of the mount that holds `folder` (proc(5), mountinfo): the longest mount point, then the last."""
    best, kind = -1, ""
    resolved = folder.resolve()
    for line in MOUNTS.read_bytes().splitlines():
        left, _, right = line.partition(b" - ")
        escaped = left.split(b" ")[4]
        point = os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), escaped))
        if resolved.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), right.split(b" ")[0].decode(errors="replace")
    return kind

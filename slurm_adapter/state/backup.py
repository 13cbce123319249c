"""Backups of the database: made while the adapter works, and put back while nothing uses it.

A backup holds what the database holds: specifications, which may contain secrets, and digests of access tokens. All
files here have mode 600 from their first byte, whatever the umask.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import InvalidConfig, InvalidInput, TryAgain
from slurm_adapter.state.database import MIGRATIONS, NAME, StoreError, check_folder, hold, translate_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_DOUBT = "The database was restored from a backup; checking whether Slurm has the job"
"""The status of a job that the backup has not yet given to Slurm, or not for certain."""


@dataclass(frozen=True, slots=True)
class Contents:
    """Contents of a backup."""

    schema: int
    jobs: int
    live: int
    doubtful: int
    """Live jobs that Slurm did not have for certain when the backup was made."""
    tokens: int

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.jobs} jobs, {self.live} of them live, {self.tokens} access tokens, schema {self.schema}"


@dataclass(frozen=True, slots=True)
class Restored:
    """Result of `restore`."""

    contents: Contents
    aside: Path | None
    """The database that was there before."""
    revoked: int | None
    """Access tokens of the backup that have been revoked since; None if the database from before cannot be read."""


def make(state: Path, file: Path, *, overwrite: bool = False) -> Contents:
    """Write a verified backup of the database in `state`. The file is there whole, or as it was before.

    Raises `InvalidInput` if the file exists and is not to be replaced, and what `translate_errors` raises.
    """
    source = state / NAME
    if not source.exists():
        raise InvalidConfig(f"{source}: there is no database yet; is `state_dir` the folder of this site?")
    if file.parent.resolve() == state.resolve() and file.name.startswith(NAME):
        raise InvalidInput(f"{file} is a file of the database itself; name another file, best on another disk")
    if os.path.lexists(file) and not overwrite:
        raise InvalidInput(f"{file} exists; name another file, or add --overwrite")
    check_folder(state)
    with _held(state), translate_errors(file), _beside(file) as new:
        with translate_errors(source), closing(_open(source, "rw")) as live, closing(sqlite3.connect(new)) as copy:
            live.backup(copy)
            contents = _verify(copy, source)
            _make_one_file(copy, new)
        if overwrite:
            new.replace(file)
        else:
            try:
                file.hardlink_to(new)  # unlike a rename, it fails if another process has made the file meanwhile
            except FileExistsError:
                raise InvalidInput(f"{file} exists; name another file, or add --overwrite") from None
        _flush(file.parent)
    return contents


def restore(state: Path, file: Path, now: float) -> Restored:
    """Put a backup in the place of the database, which is kept beside it.

    A backup knows less than has happened. So that no job runs twice, jobs that it has not given to Slurm for certain
    are in doubt: evidence decides (see `plan`), and evidence of silence begins anew.

    Raises `TryAgain` if another process uses the database, `InvalidInput` if the file is no sound backup.
    """
    check_folder(state)
    path = state / NAME
    with _held(state, alone=True), translate_errors(path), _beside(path) as new:
        _merge(path)
        for left in state.glob(f".{NAME}.*"):
            if left != new:
                left.unlink()  # of a restore that was killed
        with closing(sqlite3.connect(new, isolation_level=None)) as copy:
            contents = _read(file, copy)
            _put_in_doubt(copy, now)
            revoked = _forget_revoked(copy, path)
            _make_one_file(copy, new)
        aside = _keep(path, now)
        new.replace(path)
        _flush(state)
    return Restored(contents, aside, revoked)


def explain(done: Restored) -> list[str]:
    """Return what an administrator must know after a restore, above all the effects of the next sync."""
    contents = done.contents
    lines = [f"restored: {contents}"]
    if done.aside is not None:
        lines.append(f"the database from before is kept as {done.aside}")
    lines += [
        f"the next sync asks Slurm about the {contents.live - contents.doubtful} live jobs that Slurm had",
        f"{contents.doubtful} jobs are in doubt, because Slurm did not have them for certain: a sync looks for them",
        "a job is submitted again only if its folder proves that it never ran",
        "jobs and idempotency keys that are newer than the backup are not known: such jobs run on, unwatched",
        "UCloud learns that such jobs ended only by `slurm-adapter sync --allow-mass-end`",
    ]
    if done.revoked is None:
        lines.append("access tokens that were revoked since the backup are valid again: see `slurm-adapter token list`")
    elif done.revoked:
        lines.append(f"{done.revoked} access tokens were revoked since the backup, and stay so")
    return lines


@contextmanager
def _held(state: Path, *, alone: bool = False) -> Iterator[None]:
    descriptor = hold(state, alone=alone)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """Give an empty file of mode 600 in the same folder, flushed when it is renamed, and removed if it is left."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            Path(name + suffix).unlink(missing_ok=True)


def _open(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=30)


def _read(file: Path, copy: sqlite3.Connection) -> Contents:
    """Copy a backup, and verify the copy."""
    try:
        with closing(_open(file, "ro")) as source:
            source.backup(copy)
        return _verify(copy, file)
    except (sqlite3.DatabaseError, StoreError) as error:
        why = "does not exist" if not file.exists() else f"is no sound backup of the adapter: {error}"
        raise InvalidInput(f"{file} {why}; the database was not changed") from error


def _verify(copy: sqlite3.Connection, file: Path) -> Contents:
    """Return what a copy holds. Raises `StoreError` if it is damaged, `InvalidInput` if it is something else."""
    [schema] = copy.execute("PRAGMA user_version").fetchone()
    [tables] = copy.execute("SELECT count(*) FROM sqlite_schema WHERE name IN ('facts', 'jobs', 'updates')").fetchone()
    if tables < 3 or not schema:
        raise InvalidInput(f"{file} is no database of slurm-adapter")
    if schema > len(MIGRATIONS):
        raise InvalidConfig(f"{file} was written by a newer slurm-adapter; upgrade this one")
    [found] = copy.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise StoreError(f"{file} is damaged: {found}")
    counted = "SELECT count(*), sum(stage <> 'ended'), sum(stage IN ('claimed', 'submitting')) FROM jobs"
    jobs, live, doubtful = (number or 0 for number in copy.execute(counted).fetchone())
    return Contents(schema, jobs, live, doubtful, len(_tokens(copy)))


def _tokens(connection: sqlite3.Connection) -> set[str]:
    known = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'tokens'").fetchone()
    return {digest for (digest,) in connection.execute("SELECT digest FROM tokens")} if known else set()


def _put_in_doubt(copy: sqlite3.Connection, now: float) -> None:
    known = {row[1] for row in copy.execute("PRAGMA table_info(jobs)")}
    started = "sbatch_started" if "sbatch_started" in known else "handed_over"  # its name in an older program's backup
    copy.execute(
        f"UPDATE jobs SET stage = 'submitting', {started} = ?, status = ? WHERE stage IN ('claimed', 'submitting')",  # noqa: S608  # nosec B608 # see above
        (now, IN_DOUBT),
    )
    for column in ("missing_since", "unknown_since"):
        if column in known:
            copy.execute(f"UPDATE jobs SET {column} = NULL WHERE stage <> 'ended'")  # noqa: S608  # nosec B608 # see above


def _forget_revoked(copy: sqlite3.Connection, path: Path) -> int | None:
    """Remove access tokens that the database from before no longer has; how many, None if it cannot be read."""
    try:
        with closing(_open(path, "ro")) as old:
            revoked = _tokens(copy) - _tokens(old)
    except sqlite3.DatabaseError:
        return None
    for digest in revoked:
        copy.execute("DELETE FROM tokens WHERE digest = ?", (digest,))
    return len(revoked)


def _make_one_file(copy: sqlite3.Connection, path: Path) -> None:
    """Leave nothing in a journal beside the file, so that the file alone is the database."""
    copy.commit()
    copy.execute("PRAGMA journal_mode = DELETE")
    _flush(path)


def _merge(path: Path) -> None:
    """Write what is in the journal into the database's own file; no other process may have the database open.

    A program from before `hold` holds SQLite's own lock. A damaged database is left as it is.
    """
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path, timeout=0)) as old:
            old.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise TryAgain(f"{path}: another process has the database open; stop it, then try again") from error
    except sqlite3.DatabaseError:
        pass


def _keep(path: Path, now: float) -> Path | None:
    """Keep the database under another name too, and remove its journal: SQLite would play it into the next one."""
    if not path.exists():
        return None
    aside = path.with_name(f"{path.name}.before-restore-{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now))}")
    for suffix in ("", "-wal"):
        with suppress(FileNotFoundError):
            Path(f"{aside}{suffix}").hardlink_to(f"{path}{suffix}")
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    _flush(path.parent)
    return aside


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

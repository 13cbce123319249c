"""A database that was restored or lost, and a shared file system that is away, on a real cluster."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.core.states import JobState
from tests.adapter import UNTIL_TOLD

if TYPE_CHECKING:
    from tests.adapter import LiveSite

pytestmark = pytest.mark.sandbox


def lose_database(adapter: LiveSite, backup: bytes | None = None) -> None:
    """Put a backup in the place of the database, or nothing."""
    adapter.site.store.close()
    del adapter.site.store  # it is opened anew
    for path in adapter.site.config.state_dir.iterdir():
        path.unlink()
    if backup is not None:
        (adapter.site.config.state_dir / "jobs.sqlite").write_bytes(backup)


def copied(adapter: LiveSite) -> bytes:
    """A backup of the database."""
    with closing(sqlite3.connect(adapter.site.config.state_dir / "jobs.sqlite")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return connection.serialize()


def test_a_job_that_is_newer_than_a_backup_is_never_taken_for_another(adapter: LiveSite) -> None:
    """A restored database gives no id whose folder exists; the old job runs on, and the new one has its own end."""
    [before] = adapter.submit(adapter.shell("echo before"))
    adapter.until_successful(before)
    backup = copied(adapter)
    [old] = adapter.start(adapter.shell(f"{UNTIL_TOLD}; echo old"))
    lose_database(adapter, backup)
    [new] = adapter.submit(adapter.shell("echo new; exit 3"))
    assert new.id != old.id
    assert new.slurm_name.rpartition("-")[0] != old.slurm_name.rpartition("-")[0]
    [ended] = adapter.until_ended(new)
    assert (ended.state, ended.exit_code) == (JobState.FAILURE, 3)
    assert adapter.output(new) == "new\n"
    adapter.tell(old)
    adapter.cluster.wait_for(lambda: adapter.output(old) == "old\n")
    adapter.cluster.wait_for(adapter.file(old, "exit.json").exists)


def test_jobs_are_submitted_beside_the_folders_of_a_lost_database(adapter: LiveSite) -> None:
    """The first try succeeds, and the old folders are left as they are."""
    old = adapter.submit(*[adapter.shell("echo old")] * 3)
    adapter.until_successful(*old)
    lose_database(adapter)
    done = adapter.run("submit", "--user", "alice", "-", stdin=json.dumps(adapter.shell("echo new")).encode())
    assert done.returncode == 0, done.stderr
    [answer] = json.loads(done.stdout)["responses"]
    assert int(answer["id"]) == max(int(record.id) for record in old) + 1
    assert adapter.until_successful(adapter.site.store.get(answer["id"])) == ["new\n"]
    assert [adapter.output(record) for record in old] == ["old\n"] * 3


def test_a_shared_file_system_that_is_away_is_worth_another_try(adapter: LiveSite) -> None:
    """Its mount point is there, and empty: exit code 75, and nothing is left of the job."""
    homes = f"{adapter.cluster.shared}/home"
    job = json.dumps(adapter.shell("echo here")).encode()
    adapter.cluster.ask("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", homes, user="root")
    try:
        done = adapter.run("submit", "--user", "alice", "-", stdin=job)
    finally:
        adapter.cluster.ask("umount", homes, user="root")
    assert (done.returncode, done.stdout) == (75, ""), done.stderr
    assert "is its file system mounted?; try again once it is there" in done.stderr
    assert adapter.site.store.all(9) == []
    [record] = adapter.submit(adapter.shell("echo here"))
    assert adapter.until_successful(record) == ["here\n"]

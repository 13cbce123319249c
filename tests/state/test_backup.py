"""Backups: whole, for their owner alone, made while others write; restored at once or not at all, and no job twice."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.core.errors import InvalidConfig, InvalidInput, TryAgain
from slurm_adapter.core.records import Stage
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs import user_tokens
from slurm_adapter.local.configuration_file import load_config
from slurm_adapter.state import backup
from slurm_adapter.state.database import MIGRATIONS, NAME, StoreError
from slurm_adapter.state.store import Store
from tests.offline import Offline, configuration, offline, peer
from tests.state.test_store import record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slurm_adapter.core.records import Record

__all__ = ["offline"]

NOW = 1_000_000_000.0


@pytest.fixture(params=[0o000, 0o022, 0o077], ids="{:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A database with job 1."""
    with Store(tmp_path / "state") as store:
        store.claim([(record(), b"bundle")])
    return tmp_path / "state"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def ids(state: Path) -> list[str]:
    with Store(state) as store:
        return sorted(each.id for each in store.all(1000))


@pytest.mark.usefixtures("umask")
def test_no_umask_lets_others_read_a_file_of_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, file = tmp_path / "state", tmp_path / "backup"
    with Store(state) as store:
        store.claim([(record(), b"")])
        assert {path.name for path in state.iterdir()} == {NAME, f"{NAME}-wal", f"{NAME}-shm", "database.lock"}
        seen: list[int] = []
        monkeypatch.setattr(backup, "_flush", lambda path: seen.append(mode(path)))
        backup.make(state, file)
        assert seen == [0o600, mode(tmp_path)], "the file has its mode before it has its name"
        assert {mode(path) for path in state.iterdir()} == {0o600}
    backup.restore(state, file, NOW)
    assert {mode(path) for path in (file, *state.iterdir())} == {0o600}
    assert mode(state) == 0o700


def test_a_state_folder_and_a_database_that_others_could_read_are_closed(state: Path) -> None:
    state.chmod(0o777)
    (state / NAME).chmod(0o644)
    with Store(state):
        assert mode(state) == 0o700
        assert {mode(path) for path in state.iterdir()} == {0o600}


def test_a_backup_is_one_whole_file(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "elsewhere" / "backup"
    file.parent.mkdir()
    contents = backup.make(state, file)
    assert (contents.jobs, contents.live, contents.doubtful, contents.schema) == (1, 1, 1, len(MIGRATIONS))
    assert str(contents) == f"1 jobs, 1 of them live, 0 access tokens, schema {len(MIGRATIONS)}"
    assert [path.name for path in file.parent.iterdir()] == ["backup"]
    assert file.read_bytes()[18:20] == b"\1\1", "no write-ahead log belongs to it"


def test_a_backup_is_made_while_others_write(state: Path, tmp_path: Path) -> None:
    stop, written = threading.Event(), 0

    def write() -> None:
        nonlocal written
        with Store(state) as store:
            while not stop.is_set():
                pair = [(record(f"{written}-{half}", slurm_name=f"t-{written}-{half}"), b"x" * 9000) for half in "ab"]
                store.claim(pair)
                written += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(10):
            before = written
            backup.make(state, tmp_path / f"{number}")
            while writer.is_alive() and written == before:
                pass  # a backup holds up nobody who writes
    finally:
        stop.set()
        writer.join()
    for number in range(10):
        with closing(sqlite3.connect(tmp_path / f"{number}")) as copy:
            assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            [jobs] = copy.execute("SELECT count(*) FROM jobs").fetchone()
            assert jobs % 2 == 1, "a transaction is in it whole or not at all"
            assert copy.execute("SELECT count(*) FROM bundles").fetchone() == (jobs,)


def test_a_file_is_replaced_only_on_request(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    file.write_text("precious")
    with pytest.raises(InvalidInput, match="backup exists; name another file, or add --overwrite"):
        backup.make(state, file)
    assert file.read_text() == "precious"
    backup.make(state, file, overwrite=True)
    assert mode(file) == 0o600
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="link exists"):
        backup.make(state, link)


def test_a_file_that_appears_meanwhile_is_not_replaced(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "backup"
    monkeypatch.setattr(backup, "_make_one_file", lambda *_: file.write_text("another's"))
    with pytest.raises(InvalidInput, match="backup exists"):
        backup.make(state, file)
    assert file.read_text() == "another's"
    assert {path.name for path in tmp_path.iterdir()} == {"state", "backup"}


def test_no_backup_is_written_over_the_database(state: Path, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(state)
    for folder in (state, tmp_path / "other"):
        for name in (NAME, f"{NAME}-wal"):
            with pytest.raises(InvalidInput, match="a file of the database itself"):
                backup.make(state, folder / name, overwrite=True)
    assert ids(state) == ["1"]


def test_without_a_database_or_a_folder_nothing_is_made(state: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="there is no database yet"):
        backup.make(tmp_path / "other", tmp_path / "backup")
    assert not (tmp_path / "other").exists()
    with pytest.raises(StoreError, match="nowhere/backup: No such file or directory"):
        backup.make(state, tmp_path / "nowhere" / "backup")


def test_a_damaged_database_gives_no_backup(state: Path, tmp_path: Path) -> None:
    with (state / NAME).open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(40000))
    with pytest.raises(StoreError, match=NAME):
        backup.make(state, tmp_path / "backup")
    assert {path.name for path in tmp_path.iterdir()} == {"state"}


def test_a_restored_database_is_the_backup_and_the_old_one_is_kept(state: Path, tmp_path: Path) -> None:
    backup.make(state, tmp_path / "backup")
    with Store(state) as store:
        instance = store.instance
        store.claim([(record("2"), b"")])
    done = backup.restore(state, tmp_path / "backup", NOW)
    assert ids(state) == ["1"]
    with Store(state) as store:
        assert store.instance == instance
        [restored] = store.active()
    assert (restored.stage, restored.sbatch_started, restored.status) == (Stage.SUBMITTING, NOW, backup.IN_DOUBT)
    assert done.aside == state / f"{NAME}.before-restore-20010909T014640"
    with closing(sqlite3.connect(done.aside)) as old:
        assert old.execute("SELECT count(*) FROM jobs").fetchone() == (2,)
    assert (tmp_path / "backup").read_bytes()[18:20] == b"\1\1", "the backup itself is only read"


def test_a_database_that_is_lost_or_damaged_is_restored(state: Path, tmp_path: Path) -> None:
    backup.make(state, tmp_path / "backup")
    (state / NAME).write_bytes(b"nonsense" * 1000)
    done = backup.restore(state, tmp_path / "backup", NOW)
    assert ids(state) == ["1"]
    assert done.aside is not None
    assert done.aside.read_bytes() == b"nonsense" * 1000
    assert "access tokens that were revoked since the backup are valid again" in "\n".join(backup.explain(done))
    shutil.rmtree(state)
    assert backup.restore(state, tmp_path / "backup", NOW).aside is None
    assert ids(state) == ["1"]


def test_nothing_is_restored_while_another_process_uses_the_database(state: Path, tmp_path: Path) -> None:
    backup.make(state, tmp_path / "backup")
    with Store(state), pytest.raises(TryAgain, match="another process uses the database; stop `slurm-adapter serve`"):
        backup.restore(state, tmp_path / "backup", NOW)
    with closing(sqlite3.connect(state / NAME)) as older:  # a program that does not know the lock
        older.execute("SELECT * FROM jobs").fetchone()
        with pytest.raises(TryAgain, match="another process has the database open"):
            backup.restore(state, tmp_path / "backup", NOW)
    backup.restore(state, tmp_path / "backup", NOW)


def test_nothing_opens_the_database_while_it_is_restored(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup.make(state, tmp_path / "backup")

    def open_it(*_: object) -> None:
        with pytest.raises(TryAgain, match="the database is being restored; try again in a moment"):
            Store(state)

    monkeypatch.setattr(backup, "_forget_revoked", open_it)
    backup.restore(state, tmp_path / "backup", NOW)
    assert ids(state) == ["1"]


def test_what_is_no_sound_backup_changes_nothing(state: Path, tmp_path: Path) -> None:
    backup.make(state, tmp_path / "backup")
    whole = (tmp_path / "backup").read_bytes()
    bad = {
        "cut": whole[: len(whole) // 2],
        "text": b"nonsense" * 1000,
        "empty": b"",
        "torn": whole[:8192] + os.urandom(8192) + whole[16384:],
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    with closing(sqlite3.connect(tmp_path / "foreign")) as foreign:
        foreign.execute("CREATE TABLE jobs (id)")
    with closing(sqlite3.connect(tmp_path / "newer")) as newer:
        newer.executescript("".join(text for _, text in MIGRATIONS) + "PRAGMA user_version = 99")
    for name in (*bad, "foreign", "newer", "missing"):
        with pytest.raises((InvalidInput, InvalidConfig), match=name):
            backup.restore(state, tmp_path / name, NOW)
    assert ids(state) == ["1"]
    assert {path.name for path in state.iterdir()} <= {NAME, "database.lock"}


def test_an_access_token_that_was_revoked_stays_so(offline: Offline, tmp_path: Path) -> None:
    for name in ("kept", "stolen"):
        user_tokens.create(offline.site, name, "alice")
    backup.make(offline.config.state_dir, tmp_path / "backup")
    offline.site.store.revoke_token("stolen")
    offline.site.close()
    done = backup.restore(offline.config.state_dir, tmp_path / "backup", NOW)
    assert "1 access tokens were revoked since the backup, and stay so" in backup.explain(done)
    with Store(offline.config.state_dir) as store:
        assert [each.name for each in store.tokens()] == ["kept"]


def claimed(site: Offline) -> tuple[Record, Record]:
    """A job in doubt, and one that waits for it: claimed, and not given to Slurm."""
    site.slurm.lose_next("never")
    first = site.job()
    second = site.job(resources=[peer("db", first)])
    assert site.now(second).stage is Stage.CLAIMED
    return first, second


def restored(site: Offline, file: Path) -> None:
    site.site.close()
    backup.restore(site.config.state_dir, file, site.site.clock())
    site.site = site.open()


@pytest.mark.parametrize("folder", ["kept", "removed"])
def test_a_job_that_ran_after_the_backup_does_not_run_again(offline: Offline, tmp_path: Path, folder: str) -> None:
    _, job = claimed(offline)
    backup.make(offline.config.state_dir, tmp_path / "backup")
    while offline.now(job).slurm_id is None:
        offline.sync(60)
    record = offline.run(job)
    assert record.slurm_id is not None
    offline.record_exit(record, 0)
    offline.slurm.finish(record.slurm_id)
    offline.sync()
    offline.slurm.now += 86400
    offline.slurm.forget(record.slurm_id)
    if folder == "removed":
        shutil.rmtree(record.folder)
    given = [each.slurm_name for each in offline.slurm.submissions].count(job.slurm_name)
    restored(offline, tmp_path / "backup")
    for _ in range(40):
        offline.sync(300)
    assert [each.slurm_name for each in offline.slurm.submissions].count(job.slurm_name) == given == 1
    now = offline.now(job)
    assert now.state is (JobState.SUCCESS if folder == "kept" else JobState.FAILURE), now.status


def test_a_job_that_still_runs_is_found_again(offline: Offline, tmp_path: Path) -> None:
    _, job = claimed(offline)
    backup.make(offline.config.state_dir, tmp_path / "backup")
    while offline.now(job).slurm_id is None:
        offline.sync(60)
    running = offline.run(job)
    restored(offline, tmp_path / "backup")
    offline.sync(1)
    assert (offline.now(job).slurm_id, offline.now(job).state) == (running.slurm_id, JobState.RUNNING)


def test_silence_from_before_the_backup_does_not_count(offline: Offline, tmp_path: Path) -> None:
    record = offline.run(offline.job())
    assert record.slurm_id is not None
    offline.slurm.forget(record.slurm_id)
    offline.sync(1)
    assert offline.now(record).missing_since is not None
    backup.make(offline.config.state_dir, tmp_path / "backup")
    restored(offline, tmp_path / "backup")
    offline.slurm.now += 7 * 86400
    offline.sync(1)
    assert offline.now(record).state is JobState.RUNNING


CRASHING = """
import os, pathlib, sys
from slurm_adapter.state import backup
step = left = int(sys.argv[1])
def at(call):
    def wrapped(*given, **more):
        global left
        left -= 1
        if left == 0:
            os._exit(9)
        return call(*given, **more)
    return wrapped
for name in ("fsync", "link", "replace", "unlink"):
    setattr(os, name, at(getattr(os, name)))
state, file, action = pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4]
backup.make(state, file, overwrite=True) if action == "make" else backup.restore(state, file, step * 1000.0)
"""


@pytest.mark.parametrize("action", ["make", "restore"])
def test_a_crash_leaves_the_old_or_the_new(state: Path, tmp_path: Path, action: str) -> None:
    file = tmp_path / "backup"
    backup.make(state, file)
    with Store(state) as store:
        store.claim([(record("2"), b"")])
    files = {path: path.read_bytes() for path in (state / NAME, file)}
    before, after = (["1"], ["1", "2"]) if action == "make" else (["1", "2"], ["1"])
    for step in range(1, 40):
        for path, content in files.items():
            path.write_bytes(content)
        command = [sys.executable, "-c", CRASHING, str(step), str(state), str(file), action]
        code = subprocess.run(command, timeout=60, check=False).returncode
        if action == "make":
            with closing(sqlite3.connect(file)) as copy:
                found = sorted(id_ for (id_,) in copy.execute("SELECT id FROM jobs"))
        else:
            found = ids(state)
        assert found in (before, after)
        assert {mode(path) for path in (file, *tmp_path.glob(".*"), *state.iterdir())} == {0o600}
        if code == 0:
            break
        assert code == 9
    assert found == after
    assert step > 3
    assert not list(state.glob(f".{NAME}.*")), "a later one clears away what a killed one left"


def test_the_commands_say_what_they_did(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(toml(configuration(tmp_path)))
    state = load_config(path).state_dir
    with Store(state) as store:
        store.claim([(record(), b"")])

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "slurm_adapter", "--config", str(path), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return f"{done.returncode} {done.stdout}{done.stderr}"

    file = tmp_path / "backup"
    assert run("backup", str(file)) == f"0 {file}: 1 jobs, 1 of them live, 0 access tokens, schema {len(MIGRATIONS)}\n"
    assert run("backup", str(file)).startswith("65 error: ")
    with Store(state):
        assert run("restore", str(file)).startswith("75 error: ")
    said = run("restore", str(file))
    assert said.startswith("0 restored: 1 jobs, 1 of them live")
    assert "1 jobs are in doubt" in said


def toml(table: dict[str, object], name: str = "") -> str:
    """Return tables of plain values as TOML."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    text = f"[{name}]\n" * bool(name) + "".join(f"{key} = {json.dumps(value)}\n" for key, value in plain.items())
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    return text + "".join(toml(value, f"{name}.{key}".lstrip(".")) for key, value in inner.items())

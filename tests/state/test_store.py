"""The database: durable, one truth for many processes, and refused where it cannot be that."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from slurm_adapter.core.errors import InvalidConfig, InvalidInput, NotFound, TryAgain
from slurm_adapter.core.records import ActiveJob, Peer, Record, RecordChange, Stage
from slurm_adapter.core.states import JobState
from slurm_adapter.state import database as module
from slurm_adapter.state.database import StoreError
from slurm_adapter.state.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator


def record(id_: str = "1", **values: object) -> Record:
    """A claim."""
    plain = Record(
        id=id_, origin="local", key=None, slurm_name=f"i-local-{id_}", owner="alice", project=None, account="alice",
        folder=f"/home/alice/{id_}", application="a 1", specification="{}", labels="{}", replicas=1, time_limit=60,
        array=False, created=1.0,
    )  # fmt: skip
    return plain._replace(**values)  # type: ignore[arg-type]  # any field of Record


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "state") as opened:
        yield opened


def test_what_was_remembered_is_there_after_a_restart(tmp_path: Path) -> None:
    whole = record(
        key="k", project="p", nodes=("n1", "n2"), addresses=(("10.0.0.1", "fd00::1"), ("10.0.0.2",)), array=True,
        peers=(Peer("b", "7"), Peer("a", "8")), slurm_id=17, restarts=2, started=2.5, exit_code=0, hosts_digest="x",
    )  # fmt: skip
    with Store(tmp_path / "state") as store:
        store.claim([(whole, b"\0bundle")])
        instance = store.instance
    with Store(tmp_path / "state") as store:
        assert store.get("1") == whole
        assert store.bundles(["i-local-1", "i-local-2"])[0] == {"i-local-1": b"\0bundle"}
        assert store.instance == instance
    with Store(tmp_path / "other") as other:
        assert other.instance != instance


def test_the_database_is_its_owners_alone(tmp_path: Path) -> None:
    with Store(tmp_path / "state"):
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()} == {0o600}


def test_every_change_is_flushed_to_the_disk(store: Store) -> None:
    connection = store._connection  # noqa: SLF001  # what SQLite was told cannot be asked of another connection
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_ids_are_never_used_again(tmp_path: Path) -> None:
    with Store(tmp_path / "state") as store:
        assert store.reserve_ids(3, 100) == ["100", "101", "102"]
        store.claim([(record("102"), b"")])
        store.forget(["i-local-102"])
    with Store(tmp_path / "state") as store:
        assert store.reserve_ids(1, 100) == ["103"]
        assert store.reserve_ids(1, 1000) == ["1000"]
        assert store.reserve_ids(1, 1) == ["1001"]


def test_the_same_key_is_the_same_job(store: Store) -> None:
    first = record(key="k")
    assert store.claim([(first, b"1")]) == [first]
    assert store.claim([(record("2", key="k"), b"2")]) == [first]
    assert store.find_keys("local", "alice", None, ["k"]) == {"k": first}
    assert [each.id for each in store.all(10)] == ["1"]


@pytest.mark.parametrize("other", [{"owner": "bob"}, {"project": "p"}, {"origin": "ucloud"}, {"key": None}])
def test_a_key_belongs_to_an_owner_a_project_and_an_origin(store: Store, other: dict[str, object]) -> None:
    store.claim([(record(key="k"), b"")])
    [second] = store.claim([(record("2", **({"key": "k"} | other)), b"")])
    assert second.id == "2"


def test_a_key_with_another_specification_is_refused_and_all_of_the_claim_with_it(store: Store) -> None:
    store.claim([(record(key="k"), b"")])
    with pytest.raises(InvalidInput, match="the key 'k' belongs to job 1"):
        store.claim([(record("2"), b""), (record("3", key="k", specification="[]"), b"")])
    assert [each.id for each in store.all(10)] == ["1"]


def test_a_key_twice_in_one_claim_is_one_job(store: Store) -> None:
    assert [each.id for each in store.claim([(record(key="k"), b""), (record("2", key="k"), b"")])] == ["1", "1"]


def test_no_key_is_no_key(store: Store) -> None:
    assert len(store.claim([(record(), b""), (record("2"), b"")])) == 2
    assert store.find_keys("local", "alice", None, []) == {}


def test_a_claim_is_taken_once(store: Store) -> None:
    store.claim([(record(), b""), (record("2"), b"")])
    assert [each.id for each in store.take(["i-local-1"], 5.0)] == ["1"]
    assert [
        (each.id, each.stage, each.sbatch_started) for each in store.take(["i-local-1", "i-local-2", "i-local-3"], 6.0)
    ] == [("2", Stage.SUBMITTING, 6.0)]
    assert store.get("1").sbatch_started == 5.0


def test_what_is_to_be_handed_over_is_kept_until_slurm_has_it(store: Store) -> None:
    store.claim([(record(), b"x")])
    [taken] = store.take(["i-local-1"], 5.0)
    [back] = store.change([(taken, {"stage": Stage.CLAIMED})], 6.0)
    assert store.bundles(["i-local-1"])[0] == {"i-local-1": b"x"}
    store.change([(back, {"stage": Stage.SUBMITTED, "slurm_id": 17})], 7.0)
    assert store.bundles(["i-local-1"])[0] == {}


def test_only_what_users_are_told_is_noted(store: Store) -> None:
    job = record(stage=Stage.SUBMITTED, slurm_id=17)
    store.claim([(job, b"")])
    store.change([(job, {"restarts": 1})], 5.0)
    store.change([(job, {"state": JobState.RUNNING, "status": "runs"}), (job, {"status": "runs on"})], 6.0)
    store.change([(job, {"status": "runs on"})], 7.0)
    told = [(each.number, each.time, each.state, each.status, each.delivered) for each in store.updates("1")]
    assert told == [(1, 6.0, JobState.RUNNING, "runs", None), (2, 6.0, None, "runs on", None)]


def test_final_is_final(store: Store) -> None:
    job = record(stage=Stage.SUBMITTED, slurm_id=17)
    store.claim([(job, b"")])
    end: RecordChange = {"stage": Stage.ENDED, "state": JobState.FAILURE}
    assert len(store.change([(job, end), (job, {"state": JobState.SUCCESS})], 5.0)) == 1
    assert store.change([(job, {"status": "again"}), (store.get("1"), {"stage": Stage.CLAIMED})], 6.0) == []
    assert store.get("1").state is JobState.FAILURE
    assert store.active() == []


@pytest.mark.parametrize("decided_on", [{"stage": Stage.CLAIMED}, {"slurm_id": 18}, {"slurm_id": None}])
def test_what_was_decided_on_another_stage_or_slurm_job_is_not_done(
    store: Store, decided_on: dict[str, object]
) -> None:
    now = record(stage=Stage.SUBMITTED, slurm_id=17)
    store.claim([(now, b"")])
    assert store.change([(now._replace(**decided_on), {"stage": Stage.CLAIMED, "status": "back"})], 5.0) == []  # type: ignore[arg-type]  # as in `record`
    assert store.get("1") == now


def test_what_another_process_changed_meanwhile_stays(store: Store) -> None:
    old = record(stage=Stage.SUBMITTED, slurm_id=17)
    store.claim([(old, b"")])
    store.change([(old, {"cancel_sent": 5.0})], 5.0)
    [new] = store.change([(old, {"state": JobState.RUNNING})], 6.0)
    assert (new.cancel_sent, new.state) == (5.0, JobState.RUNNING)
    assert store.get("1") == new


def test_all_or_none(store: Store) -> None:
    one, two = record("1"), record("2")
    store.claim([(one, b""), (two, b"")])
    with pytest.raises(sqlite3.IntegrityError):  # a mistake in a program, and no trouble with the disk
        store.change([(one, {"status": "x"}), (two, cast("RecordChange", {"slurm_name": "i-local-1"}))], 5.0)
    assert store.get("1").status == ""
    assert store.change([(one, {"status": "y"})], 6.0)[0].status == "y"


def test_a_job_that_is_unknown_is_not_made_by_a_change(store: Store) -> None:
    assert store.change([(record(), {"status": "x"})], 5.0) == []
    with pytest.raises(NotFound, match="there is no job 1"):
        store.get("1")


def test_forgetting_takes_everything_of_a_claim(store: Store) -> None:
    job = record(peers=(Peer("a", "2"),))
    store.claim([(job, b"x")])
    store.change([(job, {"status": "x"})], 5.0)
    store.forget(["i-local-1"])
    assert (store.all(9), store.bundles(["i-local-1"])[0], store.updates("1")) == ([], {}, [])
    store.claim([(record(), b"")])
    assert store.get("1").peers == ()


def test_the_hosts_files_are_due_after_every_change_of_what_they_say(store: Store) -> None:
    job = record(stage=Stage.SUBMITTED, slurm_id=17)
    store.claim([(job, b"")])
    changes: list[RecordChange] = [
        {"state": JobState.RUNNING}, {"nodes": ("n",)}, {"addresses": (("10.0.0.1",),)}, {"restarts": 1},
        {"stage": Stage.ENDED},
    ]  # fmt: skip
    for values in changes:
        store.note_hosts_written(store.hosts_version())
        assert store.hosts_are_written()
        store.change([(job, {"status": f"{values}"})], 5.0)
        assert store.hosts_are_written()
        store.change([(job, values)], 6.0)
        assert not store.hosts_are_written()
    version = store.hosts_version()
    store.forget(["i-local-1"])
    store.note_hosts_written(version)
    assert not store.hosts_are_written(), "what changed while they were written is still to be written"


def test_facts(store: Store) -> None:
    assert store.fact("x") is None
    store.set_fact("x", "1")
    store.set_fact("x", "2")
    assert store.fact("x") == "2"
    store.set_fact("x", None)
    assert store.fact("x") is None


def test_the_newest_jobs_oldest_first(store: Store) -> None:
    store.claim([(record(str(number), created=float(number)), b"") for number in (3, 1, 2)])
    assert [each.id for each in store.all(2)] == ["2", "3"]
    assert [each.id for each in store.active()] == ["1", "2", "3"]
    assert [each.id for each in store.with_slurm_names(["i-local-2", "none"])] == ["2"]
    assert set(store.find(["1", "9"])) == {"1"}


def test_the_little_of_jobs_that_a_pass_looks_at(store: Store) -> None:
    waits = record("1", stage=Stage.SUBMITTED, slurm_id=17, status="Your job waits", missing_since=3.0)
    runs = record("2", stage=Stage.SUBMITTED, slurm_id=18, state=JobState.RUNNING, restarts=1, started=2.0,
                  nodes=("n1", "n2"), addresses=(("10.0.0.1", "fd00::1"), ("10.0.0.2",)), cancel_sent=4.0)  # fmt: skip
    ended = record("3", stage=Stage.ENDED)
    store.claim([(each, b"") for each in (waits, runs, ended)])
    found = {standing.id: standing for standing in store.active_jobs()}
    assert found == {each.id: ActiveJob(*(getattr(each, name) for name in ActiveJob._fields)) for each in (waits, runs)}


def test_jobs_that_have_to_do_with_names(store: Store) -> None:
    running = record("1", stage=Stage.SUBMITTED, addresses=(("10.0.0.1",),))
    consumer = record("2", peers=(Peer("db", "1"),))
    detached = record("3", original="{}")
    plain = record("4")
    ended = record("5", stage=Stage.ENDED, addresses=(("10.0.0.1",),), peers=(Peer("db", "1"),))
    store.claim([(each, b"") for each in (running, consumer, detached, plain, ended)])
    assert store.in_hosts(every=False) == [running, consumer, detached]
    assert store.in_hosts(every=True) == [running, consumer, detached, plain]


def test_jobs_that_ucloud_is_taken_to_know(store: Store) -> None:
    records = [
        record("1", origin="p"),
        record("2"),
        record("3", origin="p", stage=Stage.ENDED),
        record("4", origin="p"),
    ]
    store.claim([(each, b"") for each in records])
    store.note_deleted_in_ucloud(["4"], "gone", 5.0)
    assert store.expected() == ["1"]


def test_many_changes_are_made_as_one_is(store: Store) -> None:
    one, two, three = (record(str(number), stage=Stage.SUBMITTED, slurm_id=number) for number in (1, 2, 3))
    store.claim([(each, b"") for each in (one, two, three)])
    store.change([(three, {"stage": Stage.ENDED})], 5.0)
    runs: RecordChange = {
        "state": JobState.RUNNING, "status": "Your job is running", "nodes": ("n1",), "addresses": (("10.0.0.1",),)
    }  # fmt: skip
    decided: list[tuple[Record, RecordChange]] = [
        (one, runs),
        (two, {"status": ""}),
        (three, runs),
        (record("9"), runs),
    ]
    assert store.make_changes(decided, 6.0) == {"1", "2"}
    assert store.get("1") == one._replace(**runs)
    assert store.get("2") == two
    assert [(update.state, update.status) for update in store.updates("1")] == [
        (JobState.RUNNING, "Your job is running")
    ]
    assert store.updates("2") == []
    assert store.make_changes([], 7.0) == set()


RACE = """
import sys
from pathlib import Path
from slurm_adapter.state.store import Store
from tests.state.test_store import record
sys.stdin.readline()
with Store(Path(sys.argv[1])) as store:
    for number in range(25):
        [id_] = store.reserve_ids(1, 1)
        [claimed] = store.claim([(record(id_, key=f"k{number}"), b"")])
        taken = store.take([claimed.slurm_name], float(number))
        print(id_, claimed.id, len(taken))
"""


def test_two_processes_claim_at_once(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", RACE, str(tmp_path / "state")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    rows = [line.split() for output in outputs for line in output.splitlines()]
    reserved = [id_ for id_, _, _ in rows]
    assert len(set(reserved)) == len(reserved) == 75, "no id is given out twice"
    assert len({claimed for _, claimed, _ in rows}) == 25, "one key, one job"
    assert sum(int(taken) for _, _, taken in rows) == 25, "each is handed over by one process"
    with Store(tmp_path / "state") as store:
        assert len(store.all(100)) == 25


CRASH = """
import os, sys
from pathlib import Path
from slurm_adapter.core.records import Stage
from slurm_adapter.state.store import Store
from tests.state.test_store import record
store = Store(Path(sys.argv[1]))
store.claim([(record("1"), b"kept")])
store.take(["i-local-1"], 5.0)
with store._transaction() as connection:
    connection.execute("UPDATE jobs SET stage = 'ended'")
    os.kill(os.getpid(), 9)
"""


def test_a_killed_process_leaves_what_it_had_finished(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", CRASH, str(tmp_path / "state")], timeout=60, check=False, env=environment
    )
    assert done.returncode == -9
    with Store(tmp_path / "state") as store:
        assert store.get("1").stage is Stage.SUBMITTING
        assert store.bundles(["i-local-1"])[0] == {"i-local-1": b"kept"}


def test_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    monkeypatch.setattr(module, "MOUNTS", mounts)
    state = tmp_path / "grün und weiß"
    point = str(state).encode().replace(b" ", b"\\040")
    head = b"1 0 0:1 / / rw - ext4 /dev/x rw\n2 1 0:2 / /\xff\\011odd rw - nfs4 y rw\n"
    mounts.write_bytes(head + b"3 1 0:3 / " + point + b" rw,relatime shared:1 - nfs4 server:/x rw\n")
    with pytest.raises(InvalidConfig, match="is on nfs4, a network file system; use a local disk"):
        Store(state)
    # What is mounted over it later counts, and a neighbour whose name begins alike does not.
    mounts.write_bytes(mounts.read_bytes() + b"4 1 0:4 / " + point + b" rw - xfs /dev/z rw\n")
    Store(state).close()
    mounts.write_bytes(head + b"3 1 0:3 / " + point[:-1] + b" rw - nfs4 server:/x rw\n")
    Store(state).close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder that belongs to somebody else")
def test_a_process_that_may_open_no_more_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(StoreError, match=r"jobs\.sqlite: Too many open files"):
        Store(tmp_path / "state")


def test_somebody_elses_folder(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    os.chown(tmp_path / "state", 12345, -1)
    with pytest.raises(InvalidConfig, match=r"belongs to uid 12345, and this is uid 0; run the adapter as"):
        Store(tmp_path / "state")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"state_dir = .*/none/state: No such file or directory; make it"):
        Store(tmp_path / "none" / "state")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidConfig, match=r"state_dir = .*/file: "):
        Store(tmp_path / "file")


@pytest.mark.scenario(88)
def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "jobs.sqlite").write_bytes(b"this is no database, and never was one" * 50)
    with pytest.raises(StoreError, match=r"jobs\.sqlite: file is not a database; restore a backup"):
        Store(tmp_path / "state")


def test_a_damaged_page(tmp_path: Path) -> None:
    with Store(tmp_path / "state") as store:
        store.claim([(record(str(number), specification="x" * 3000), b"") for number in range(50)])
    path = tmp_path / "state" / "jobs.sqlite"
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(StoreError, match="restore a backup"), Store(tmp_path / "state") as store:
        store.all(100)


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    with Store(tmp_path / "state") as store:
        store.claim([(record(), b"")])
    path = tmp_path / "state" / "jobs.sqlite"
    path.write_bytes(path.read_bytes().replace(b"claimed", b"cla\xffmed"))
    with pytest.raises(StoreError, match=r"Could not decode .*; restore a backup"), Store(tmp_path / "state") as store:
        store.all(100)


def test_a_lock_that_does_not_go(store: Store, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "state" / "jobs.sqlite", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        store._connection.execute("PRAGMA busy_timeout = 1")  # noqa: SLF001  # not to wait for half a minute
        with pytest.raises(TryAgain, match="another process holds the database; try again"):
            store.reserve_ids(1, 1)
        assert store.all(1) == [], "reading goes on"
        other.execute("ROLLBACK")
        assert store.reserve_ids(1, 1) == ["1"]
    finally:
        other.close()


def test_a_full_disk(store: Store) -> None:
    connection = store._connection  # noqa: SLF001  # SQLite's own limit stands for the disk's
    store.claim([(record(), b"")])
    connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(StoreError, match="is the disk full, or read-only"):
        store.claim([(record("2"), b"x" * 100_000)])
    connection.execute("PRAGMA max_page_count = 100000")
    assert [each.id for each in store.all(9)] == ["1"]
    store.claim([(record("2"), b"")])


def test_a_text_that_is_none(store: Store) -> None:
    with pytest.raises(InvalidInput, match="is no text"):
        store.get("\udcff")
    with pytest.raises(InvalidInput, match="is no text"):
        store.claim([(record(key="\udcff"), b"")])
    assert store.all(9) == []


def test_each_runs_once_in_order_and_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(tmp_path / "state") as store:
        store.claim([(record(), b"x")])
    more = (*module.MIGRATIONS, ("a", "CREATE TABLE a (x TEXT)"), ("b", "ALTER TABLE a ADD COLUMN y TEXT;"))
    monkeypatch.setattr(module, "MIGRATIONS", more)
    for _ in range(2):
        with Store(tmp_path / "state") as store:
            assert store.get("1") == record()
            assert store._connection.execute("SELECT x, y FROM a").fetchall() == []  # noqa: SLF001  # as above


def test_one_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path / "state").close()
    whole = module.MIGRATIONS
    monkeypatch.setattr(module, "MIGRATIONS", (*whole, ("a", "CREATE TABLE a (x TEXT); CREATE TABLE jobs (y)")))
    with pytest.raises(sqlite3.OperationalError, match="already exists"):  # a mistake in a program
        Store(tmp_path / "state")
    monkeypatch.setattr(module, "MIGRATIONS", (*whole, ("a", "CREATE TABLE a (x TEXT)")))
    Store(tmp_path / "state").close()


def test_a_newer_program_has_been_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path / "state").close()
    monkeypatch.setattr(module, "MIGRATIONS", ())
    with pytest.raises(InvalidConfig, match="was written by a newer slurm-adapter; upgrade this one"):
        Store(tmp_path / "state")


SECOND = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
try:
    connection.execute("BEGIN IMMEDIATE")
except sqlite3.OperationalError as error:
    print(error)
"""


def test_whoever_only_reads_waits_for_nobody_who_writes(tmp_path: Path) -> None:
    with (
        Store(tmp_path / "state") as first,
        first._transaction(),  # noqa: SLF001  # a change under way
        Store(tmp_path / "state") as second,
    ):
        assert (second.instance, second.all(9)) == (first.instance, [])


def test_opening_it_again_takes_no_lock_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Closing any descriptor of a file drops this process's locks on it (fcntl(2)), and SQLite would not know.
    with Store(tmp_path / "state") as first, first._transaction():  # noqa: SLF001  # a change under way
        monkeypatch.setattr(sqlite3, "connect", _locked)
        with pytest.raises(TryAgain):
            Store(tmp_path / "state")
        path = tmp_path / "state" / "jobs.sqlite"
        done = subprocess.run(
            [sys.executable, "-c", SECOND, path], capture_output=True, text=True, timeout=60, check=True
        )
    assert done.stdout == "database is locked\n"


def _locked(*_: object, **__: object) -> sqlite3.Connection:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    raise error

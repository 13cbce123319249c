"""One user's folder is that user's trouble: noted on the job, tried again later, and never the site's outage."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.cluster.transports.interface import Busy, CommandTimeout, ConnectionLost, NotConnected
from slurm_adapter.core.records import Stage
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs import accounts, gather
from slurm_adapter.jobs.accounts import LONGEST, PATIENCE, SHARE, SHORTEST
from slurm_adapter.jobs.report import outage_lines
from tests.offline import Offline, offline, peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slurm_adapter.cluster.transports.interface import Command
    from slurm_adapter.core.records import Record

__all__ = ["offline"]


def failing(offline: Offline, account: str, error: Exception) -> list[Command]:
    """Let each command of an account fail; those that were tried."""
    tried: list[Command] = []

    def before(command: Command) -> None:
        if command.user == account:
            tried.append(command)
            raise error

    offline.transport.before = before
    return tried


def finish(offline: Offline, record: Record) -> None:
    offline.slurm.finish(offline.slurm_id(record))


def test_accounts_are_acted_for_at_the_same_time(offline: Offline) -> None:
    """Processes of one account stopped by `kill -STOP`: 60 s more for everybody."""
    hers, his = offline.run(offline.job()), offline.run(offline.job(user="bob"))
    finish(offline, hers)
    finish(offline, his)
    bob_is_done = threading.Event()

    def before(command: Command) -> None:
        if command.user == "bob":
            bob_is_done.set()
        elif command.user == "alice":
            assert bob_is_done.wait(30), "bob waits for alice"
            raise CommandTimeout("sh as alice did not end within 10 s")

    offline.transport.before = before
    assert offline.sync().problems == ()
    assert [offline.now(record).state for record in (hers, his)] == [JobState.SUCCESS] * 2
    assert "did not end" in offline.now(hers).trouble
    assert (Path(his.folder) / "owner").readlink() == Path("closed")


def test_claims_of_accounts_go_to_slurm_beside_one_that_hangs(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "WAIT_SECONDS", 0.1)
    offline.slurm.lose_next("later")
    database = offline.job(project="p")
    hers, his = (offline.job(user=user, project="p", resources=[peer("db", database)]) for user in ("alice", "bob"))
    offline.slurm.arrive()
    go_on = threading.Event()

    def before(command: Command) -> None:
        if command.user == "alice" and ".ucloud-new." in str(command.argv):
            assert go_on.wait(60)

    offline.transport.before = before
    try:
        offline.sync()
        assert offline.slurm_id(his)
        assert offline.sync().problems == (), "what hangs is not waited for again"
        assert offline.now(hers).stage is Stage.CLAIMED
    finally:
        go_on.set()
    assert offline.slurm_id(hers), "it goes on behind the sync"


def test_an_account_gets_a_small_part_of_the_time(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be well again each time that it is tried, and hang the next time."""

    def ask(now: int) -> tuple[object, float]:
        offline.slurm.now = start + now
        given: list[float] = []

        def timed(_act: object, _user: str, _some: object, seconds: float) -> Callable[[], object]:
            given.append(seconds)
            return lambda: answer

        monkeypatch.setattr(accounts, "_timed", timed)
        found = accounts.Accounts(offline.site)
        [(_, _, told)] = found.each({"alice": [1]}, "do it", lambda *_: None)
        return told, sum(given)

    offline.job()
    start = offline.slurm.now
    answer: tuple[object, float] = (None, 1.0)
    assert ask(0) == (None, PATIENCE)
    answer = (None, 7.0)
    assert ask(1) == (None, PATIENCE)
    slow, given = ask(2)
    assert isinstance(slow, accounts.Trouble)
    assert (slow.slow, given) == (True, 0)
    assert ask(1 + int(SHARE * 7) - 1)[1] == 0
    answer = (CommandTimeout("late"), 10.0)
    assert ask(1 + int(SHARE * 7))[1] == PATIENCE
    assert ask(140 + int(SHARE * 10))[1] == 0
    assert ask(142 + int(SHARE * 10))[1] == 2 * PATIENCE, "it is given more time, ever more rarely"
    answer = (None, 1.0)
    assert ask(8000) == (None, 4 * PATIENCE)
    assert ask(8001) == (None, PATIENCE)


def test_one_look_covers_so_many_folders_of_an_account(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "LOOKS", 2)
    records = offline.submit(*(offline.item() for _ in range(5)))
    his = offline.job(user="bob")
    for record in (*records, his):
        offline.slurm.start(offline.slurm_id(record), ["node001"])
        finish(offline, record)
    left = []
    for _ in range(3):
        assert offline.sync().problems == ()
        left.append([offline.now(record).state.final for record in (*records, his)].count(False))
    assert left == [3, 1, 0]


def _into_a_folder(owner: Path) -> None:
    """Stand for a folder that may not be changed: in place of the fence is a folder, which no rename replaces."""
    owner.unlink()
    owner.mkdir()


def test_a_folder_that_cannot_be_closed_is_noted_and_tried_again_ever_more_rarely(offline: Offline) -> None:
    """One user's chmod 000 on an ended job's folder made syncs exit 1."""
    record = offline.run(offline.job())
    owner = Path(record.folder) / "owner"
    _into_a_folder(owner)
    finish(offline, record)
    report = offline.sync()
    assert report.problems == ()
    assert outage_lines(offline.site.store, report) == []
    now = offline.now(record)
    assert now.state is JobState.SUCCESS
    assert now.trouble.startswith("could not close it: ")
    closings = []
    for seconds in (30, 30, 30, 60, 60, 240, 3600):
        offline.transport.commands.clear()
        assert offline.sync(seconds).problems == ()
        closings.append(sum(command.user == "alice" for command in offline.transport.commands))
    assert closings == [0, 1, 0, 1, 0, 1, 1]
    owner.rmdir()
    offline.sync(2 * 86400)
    assert owner.readlink() == Path("closed")
    assert (offline.now(record).trouble, offline.now(record).close_after) == ("", None)


@pytest.mark.parametrize(
    "error",
    [
        NotConnected("sudo did not run sh as alice: sudo: unknown user alice\nthe cluster has no account alice"),
        CommandTimeout("sh as alice did not end within 60 s and was stopped"),
    ],
)
def test_an_account_that_is_gone_or_hangs_holds_up_nobody(offline: Offline, error: Exception) -> None:
    """An account deleted from the cluster; a home folder whose file system hangs for one account."""
    hers, his = offline.run(offline.job()), offline.run(offline.job(user="bob"))
    tried = failing(offline, "alice", error)
    finish(offline, hers)
    finish(offline, his)
    assert offline.sync().problems == ()
    assert [offline.now(record).state for record in (hers, his)] == [JobState.SUCCESS] * 2
    assert str(error) in offline.now(hers).trouble
    assert offline.now(his).trouble == ""
    assert len(tried) == 1, "what hangs is not waited for twice in a pass"
    offline.sync(int(SHORTEST) - 5)
    assert len(tried) == 1
    offline.sync(10)
    assert len(tried) == 2
    offline.transport.before = lambda _: None
    offline.sync(int(LONGEST) + 86400)
    assert (Path(hers.folder) / "owner").readlink() == Path("closed")
    assert offline.now(hers).trouble == ""


def test_a_job_that_vanished_with_its_account_is_lost_after_its_time_and_says_why(offline: Offline) -> None:
    record = offline.run(offline.job())
    failing(offline, "alice", NotConnected("sudo: unknown user alice"))
    finish(offline, record)
    offline.slurm.purge(offline.slurm_id(record))
    assert offline.sync().problems == ()
    assert not offline.now(record).state.final
    assert "unknown user" in offline.now(record).trouble
    for _ in range(3):
        assert offline.sync(after=1900).problems == ()
    assert offline.now(record).state is JobState.FAILURE


@pytest.mark.parametrize("spoil", ["removed", "a file", "a dangling link", "a fifo"])
def test_something_else_in_the_place_of_a_folder(offline: Offline, spoil: str) -> None:
    record = offline.run(offline.job())
    folder = Path(record.folder)
    folder.rename(folder.with_name("elsewhere"))
    if spoil == "a file":
        folder.write_text("x")
    elif spoil == "a dangling link":
        folder.symlink_to("nowhere")
    elif spoil == "a fifo":
        os.mkfifo(folder)
    finish(offline, record)
    for _ in range(2):
        assert offline.sync().problems == ()
    assert offline.now(record).state is JobState.SUCCESS


def test_a_home_that_is_not_there_is_its_accounts_trouble(offline: Offline) -> None:
    hers, his = offline.run(offline.job()), offline.run(offline.job(user="bob"))
    home = Path(hers.folder).parent
    home.rename(home.with_name("unmounted"))
    finish(offline, hers)
    finish(offline, his)
    assert offline.sync().problems == ()
    assert [offline.now(record).state for record in (hers, his)] == [JobState.SUCCESS] * 2
    assert offline.now(hers).trouble == "the folder that it should be in is gone"


@pytest.mark.parametrize("how", ["missing", "an empty mount point", "hangs for all", "the connection breaks"])
def test_what_all_accounts_share_is_the_sites_problem(offline: Offline, how: str) -> None:
    record = offline.run(offline.job())
    home = offline.folder / "home"

    def before(_: Command) -> None:
        raise ConnectionLost("gone") if how == "the connection breaks" else CommandTimeout("hangs")

    if how in {"missing", "an empty mount point"}:
        home.rename(home.with_name("away"))
        if how == "an empty mount point":
            home.mkdir()
    else:
        offline.transport.before = before
    finish(offline, record)
    assert offline.sync().problems != ()
    assert not offline.now(record).state.final
    if not home.exists() or not any(home.iterdir()):
        shutil.rmtree(home, ignore_errors=True)
        home.with_name("away").rename(home)
    offline.transport.before = lambda _: None
    assert offline.sync().problems == ()
    assert offline.now(record).state is JobState.SUCCESS


def test_one_accounts_private_views_hold_up_nobody_elses(tmp_path: Path) -> None:
    """Private hosts views are written as each job's account."""
    site = Offline(tmp_path, {"peers": {"private": True}})
    hers, his = site.run(site.job()), site.run(site.job(user="bob"))
    failing(site, "alice", CommandTimeout("hangs"))
    consumer = site.job(resources=[peer("db", his)], user="bob")
    assert "db" in (Path(consumer.folder) / "hosts").read_text()
    assert site.sync().problems == ()
    assert not site.now(hers).state.final


def test_a_private_view_that_could_not_be_written_is_written_once_its_account_is_well(tmp_path: Path) -> None:
    """Otherwise a job that runs misses the names of its peers until all files are looked at again."""
    site = Offline(tmp_path, {"peers": {"private": True}})
    database = site.job()
    consumer = site.run(site.job(resources=[peer("db", database)]))
    failing(site, "alice", CommandTimeout("hangs"))
    site.run(database)
    site.transport.before = lambda _: None
    assert site.sync(int(SHORTEST) + 1).problems == ()
    assert "db" in (Path(consumer.folder) / "hosts").read_text()


@pytest.fixture
def unprivileged() -> Iterator[Offline]:
    """A site whose jobs' folders belong to an account that may not do everything, for root.

    Not below pytest's own folder, which each pytest that starts closes to other accounts.
    """
    with tempfile.TemporaryDirectory() as folder:
        offline = Offline(Path(folder))
        if os.geteuid() == 0:
            (offline.folder / "bin" / "sudo").write_text(
                '#!/bin/sh\nshift 4\nexec setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"\n'
            )
            for each in (offline.folder, offline.folder / "home"):
                each.chmod(0o711)
            for account in ("alice", "bob"):
                os.chown(offline.folder / "home" / account, 65534, 65534)
        yield offline
        offline.site.close()


@pytest.mark.parametrize("mode", [0o000, 0o600, 0o300])
def test_a_folder_that_its_user_has_closed_off(unprivileged: Offline, mode: int) -> None:
    """One user's chmod 000 on an ended job's folder, by an account that it binds."""
    record = unprivileged.run(unprivileged.job())
    finish(unprivileged, record)
    Path(record.folder).chmod(mode)
    for seconds in (1, 100, 1000):
        assert unprivileged.sync(seconds).problems == ()
    now = unprivileged.now(record)
    assert now.state is JobState.SUCCESS
    assert bool(now.trouble) == (mode != 0o300)
    Path(record.folder).chmod(0o700)
    unprivileged.sync(86400)
    assert unprivileged.now(record).trouble == ""


def test_no_job_is_lost_while_its_account_is_only_left_alone(offline: Offline) -> None:
    """The account was well again after half an hour, and was to be tried again only after the job was given up."""
    record = offline.run(offline.job())
    failing(offline, "alice", CommandTimeout("hangs"))
    offline.record_exit(record, 0)
    finish(offline, record)
    offline.slurm.purge(offline.slurm_id(record))
    for _ in range(34):
        offline.sync(60)
    offline.transport.before = lambda _: None
    for _ in range(40):
        offline.sync(60)
    assert offline.now(record).state is JobState.SUCCESS


@pytest.mark.parametrize(
    ("error", "blamed"), [(ConnectionLost("gone"), False), (Busy("full"), False), (CommandTimeout("hangs"), True)]
)
def test_an_account_is_not_blamed_for_the_way_to_the_cluster(
    offline: Offline, error: Exception, *, blamed: bool
) -> None:
    """A connection broke while a claim's folder was made, and the account was left alone for a minute."""
    offline.slurm.lose_next("later")
    database = offline.job(project="p")
    waiting = offline.job(project="p", resources=[peer("db", database)])
    offline.slurm.arrive()
    failing(offline, "alice", error)
    offline.sync()
    assert offline.now(waiting).stage is Stage.CLAIMED
    offline.transport.before = lambda _: None
    offline.sync()
    assert (offline.now(waiting).stage is Stage.CLAIMED) == blamed


def test_what_waited_for_other_accounts_has_most_of_its_time_left(offline: Offline) -> None:
    """Sessions over SSH were taken by hanging accounts, and another one's command that got one late timed out."""
    record = offline.run(offline.job())
    finish(offline, record)
    offline.transport.commands.clear()
    offline.sync()
    waits = [(command.waits, command.timeout) for command in offline.transport.commands if command.user == "alice"]
    assert len(waits) == 2  # to look, to close
    assert all(wait is not None and wait <= timeout / 4 for wait, timeout in waits)


def test_an_account_that_nobody_waited_for_is_not_late(offline: Offline) -> None:
    """It was waited for no more as long as it had something to do every 100 seconds."""
    go_on = threading.Event()
    lanes = offline.site.lanes
    lanes._late["alice"] = then = time.monotonic() - 1  # noqa: SLF001  # it was late a second ago
    found = accounts.Accounts(offline.site)
    try:
        [(_, _, told)] = found.in_background({"alice": [1]}, "do it", lambda *_: go_on.wait(60))
        assert isinstance(told, accounts.Trouble)
        assert lanes._late["alice"] == then  # noqa: SLF001
    finally:
        go_on.set()

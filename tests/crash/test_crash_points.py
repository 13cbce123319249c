"""A process that is killed at any point of its work loses no job and doubles none.

Every test counts the points of an action in a run that nobody kills, so that what the action does in future is covered
by itself. Then for each point: a site of its own, the action is killed there, the same is asked for again, passes are
made until all is quiet, and everything is counted.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.core.errors import Refused
from slurm_adapter.core.observation import DISPATCH_SECONDS
from slurm_adapter.core.records import Stage
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs.sync import sync
from tests.adapter import on_node, text
from tests.crash.ground import effects

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slurm_adapter.core.records import Record
    from tests.crash.ground import Death, Ground, GroundMaker

    Play = Callable[[Ground, str], Death]

pytestmark = pytest.mark.sandbox


class Gone(BaseException):
    """The process is gone: for what was there before a test's own crash, an exception does as well as a signal."""


def kill_everywhere(make_ground: GroundMaker, play: Play, choose: Callable[[Sequence[str]], Sequence[int]]) -> int:
    """Play once without a crash, then once for each point that is chosen; how many these were."""
    points = play(make_ground(), "never").points
    numbers = choose(points)
    grounds = [make_ground() for _ in numbers]

    def one(ground: Ground, number: int) -> None:
        try:
            assert play(ground, str(number)).killed
        except BaseException as error:
            error.add_note(f"killed at point {number}, {points[number - 1]}; the points: {points}")
            raise

    # Most of the time is spent waiting for Slurm.
    with ThreadPoolExecutor(6) as pool:
        assert len(list(pool.map(one, grounds, numbers))) == len(numbers)
    return len(numbers)


def every(points: Sequence[str]) -> Sequence[int]:
    return range(1, len(points) + 1)


# In which a bulk is handed in


def submit(ground: Ground, point: str) -> Death:
    """A bulk of two, of which one names a peer that runs."""
    [database] = ground.start(ground.job("database", code="sleep 300"))
    bulk = [ground.job("plain"), ground.job("consumer", peers={"database": database})]
    death = ground.die(point, "submit", "key", ground.write("bulk", bulk))
    records = ground.hand_in("key", bulk)
    if death.answered is not None:
        assert death.answered == tuple(record.id for record in records)
    ground.settle(database)
    assert [record.id for record in records] == [record.id for record in ground.hand_in("key", bulk)]
    assert [ground.now(record).status for record in records] == ["Your job ended with exit code 0"] * 2
    assert (ground.starts("plain"), ground.starts("consumer"), ground.starts("database")) == (1, 1, 1)
    assert len(ground.site.store.all(9)) == 3
    ground.check(database)
    return death


def submit_without_key(ground: Ground, point: str) -> Death:
    """Nobody asks again: what was claimed runs once, what was not does not."""
    job = ground.job("plain")
    death = ground.die(point, "submit", "-", ground.write("plain", [job]))
    ground.settle()
    records = ground.site.store.all(9)
    assert ground.starts("plain") == len(records) <= 1
    if death.answered is not None or "after Store.claim" in death.points:
        assert len(records) == 1
    ground.check()
    return death


def submit_what_slurm_refuses(ground: Ground, point: str) -> Death:
    """Whoever asks again is told Slurm's words; nothing is left but a job that ended with them."""
    bad = ground.specification("directive", parameters={"name": text("reservation"), "value": text("never-made")})
    death = ground.die(point, "submit", "key", ground.write("bad", [bad]))
    assert death.killed or (death.code, "Slurm refused" in death.complaint) == (1, True), death
    ground.settle(problem="Slurm refused")
    told: list[str] = [record.status for record in ground.site.store.all(9)]
    try:
        told += [record.status for record in ground.hand_in("key", [bad])]
    except Refused as refused:
        told.append(str(refused))
    assert told
    assert all("Slurm refused" in words and "reservation" in words for words in told)
    ground.check()
    return death


def replace(ground: Ground, point: str) -> Death:
    """UCloud gives the id of a job that runs to another job, and repeats its `create`."""
    [database] = ground.start(ground.job("database", code="sleep 300"))
    old = ground.create("4101", 1000, ground.job("old", peers={"database": database}, code="sleep 300"))
    ground.until_running(old)
    job = ground.job("new", peers={"database": database})
    death = ground.die(point, "create", "4101", "2000", ground.write("new", [job]))
    new = ground.create("4101", 2000, job)
    if death.answered is not None:
        assert death.answered == (new.slurm_name,)
    ground.settle(database)
    [ended] = ground.site.store.again([old])
    assert (ended.state, ended.key, ended.id.partition("-")[0]) == (JobState.SUCCESS, None, "4101")
    assert ground.now(new).status == "Your job ended with exit code 0"
    assert [ground.starts(name) for name in ("database", "old", "new")] == [1, 1, 1]
    assert len(ground.site.store.all(9)) == 3
    assert ground.create("4101", 2000, job).slurm_name == new.slurm_name
    ground.check(database)
    return death


# In which jobs are cancelled


def leave_in_doubt(ground: Ground, name: str, *, arrived: bool) -> Record:
    """A job whose sbatch was never answered: Slurm has it, or nobody knows that Slurm has not."""
    scheduler = ground.site.scheduler
    inner = scheduler.submit

    def lost(submissions: Any) -> Any:
        if arrived:
            inner(submissions)
        raise Gone

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "submit", lost)
        with pytest.raises(Gone):
            ground.submit(ground.job(name))
    record = ground.site.store.active()[-1]
    assert record.stage is Stage.SUBMITTING
    return record


def cancel(ground: Ground, point: str) -> Death:
    """One that runs, one that waits, one whose answer was lost, and a consumer of that one, which is only claimed."""
    doubtful = leave_in_doubt(ground, "doubtful", arrived=False)
    [claimed] = ground.submit(ground.job("claimed", peers={"db": doubtful}))
    [pending] = ground.submit(ground.job("pending", begin="now+1hour"))
    [running] = ground.submit(ground.job("running", code="sleep 300"))
    ground.cluster.wait_for(lambda: ground.starts("running"))
    records = [running, pending, doubtful, claimed]
    assert [ground.now(record).stage for record in records] == ["submitted", "submitted", "submitting", "claimed"]
    death = ground.die(point, "cancel", *(record.id for record in records))
    ground.cancel(*records)
    ground.settle()
    for record in records:
        assert (ground.now(record).state, ground.now(record).status) == (JobState.SUCCESS, "Your job was cancelled")
    assert [ground.starts(name) for name in ("running", "pending", "doubtful", "claimed")] == [1, 0, 0, 0]
    assert ground.file(doubtful, "owner").is_symlink(), "its job could come up late"
    ground.check()
    return death


# In which a pass is made


def leave_a_claim(ground: Ground, name: str, peers: dict[str, Record]) -> Record:
    """A job that nobody has handed over yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ground.site.store, "take", raise_gone)
        with pytest.raises(Gone):
            ground.submit(ground.job(name, peers=peers))
    record = ground.site.store.active()[-1]
    assert record.stage is Stage.CLAIMED
    return record


def raise_gone(*_arguments: Any) -> None:
    raise Gone


def submit_once_more(ground: Ground, record: Record) -> None:
    """A second Slurm job for a job, as a lost answer may make one. It waits for an hour."""
    ground.cluster.ask("sbatch", "--begin=now+1hour", "--export=NONE", f"{record.folder}/job.sbatch")


def one_pass(ground: Ground, point: str) -> Death:
    """All that a pass can have to do, in one.

    One job begins, one ends, one is found again, one is handed in again, one for the first time; a surplus Slurm job of
    one that runs and one of a job that has ended are cancelled; and the hosts files are written.
    """
    silent = leave_in_doubt(ground, "silent", arrived=False)
    [before] = ground.submit(ground.job("before"))
    [database] = ground.start(ground.job("database", code="sleep 300"))
    ground.cluster.wait_for(lambda: ground.starts("database"))
    ground.cluster.wait_for(lambda: ground.file(before, "exit.json").exists())
    ground.clock.ahead = DISPATCH_SECONDS + 5
    while ground.now(before).stage is not Stage.ENDED or ground.now(silent).missing_since is None:
        assert sync(ground.site).problems == ()
    lasts = f"until [ -e {ground.own}/go ]; do sleep 0.2; done"
    ending, starting = ground.submit(ground.job("ending"), ground.job("starting", code=lasts))
    found = leave_in_doubt(ground, "found", arrived=True)
    waiting = leave_a_claim(ground, "waiting", {"database": database})
    submit_once_more(ground, database)
    submit_once_more(ground, before)
    ground.cluster.wait_for(lambda: ground.file(ending, "exit.json").exists())
    ground.clock.ahead = DISPATCH_SECONDS + 5 + 160
    ground.cluster.wait_for(lambda: ground.starts("starting"))
    death = ground.die(point, "sync")
    assert death.complaint == ""
    (on_node(ground.own, ground.cluster) / "go").touch()
    ground.settle(database)
    for name, record in {"before": before, "ending": ending, "starting": starting, "found": found}.items():
        assert (ground.now(record).state, ground.starts(name)) == (JobState.SUCCESS, 1), name
    for name, record in {"silent": silent, "waiting": waiting}.items():
        assert (ground.now(record).status, ground.starts(name)) == ("Your job ended with exit code 0", 1), name
    assert len(ground.site.store.all(99)) == 7
    ground.check(database)
    return death


@pytest.mark.scenario(25)
@pytest.mark.edge_case(1)
@pytest.mark.parametrize(
    ("play", "step"),
    [(submit, 2), (submit_without_key, 2), (submit_what_slurm_refuses, 2), (replace, 2), (cancel, 2), (one_pass, 4)],
)
def test_killed_between_two_effects(make_ground: GroundMaker, play: Play, step: int) -> None:
    """Some thirty points in all, as many as a quick run allows; `test_killed_at_every_point` has all of them."""
    assert kill_everywhere(make_ground, play, lambda points: effects(points)[::-step]) >= 4


@pytest.mark.long
@pytest.mark.scenario(25)
@pytest.mark.edge_case(1)
@pytest.mark.parametrize("play", [submit, submit_without_key, submit_what_slurm_refuses, replace, cancel, one_pass])
def test_killed_at_every_point(make_ground: GroundMaker, play: Play) -> None:
    number = kill_everywhere(make_ground, play, every)
    print(f"{play.__name__}: killed at each of {number} points")  # noqa: T201  # shown by -rP, for the record
    assert number > 10

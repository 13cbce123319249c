"""The adapter is killed while sbatch runs on the cluster, which goes on without it, or is killed with it.

A slow sbatch stands first in `clusters.NAME.path`: it waits before it calls the real one, and again before it answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slurm_adapter.core.observation import DISPATCH_SECONDS
from slurm_adapter.core.records import Stage
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs.sync import sync
from tests.crash.ground import finish, kill

if TYPE_CHECKING:
    from tests.crash.ground import GroundMaker, Slow

pytestmark = [pytest.mark.sandbox, pytest.mark.scenario(25), pytest.mark.edge_case(1)]


@pytest.mark.parametrize("place", ["asked", "answered"])
@pytest.mark.parametrize("all_of_it", [False, True], ids=["sbatch-lives", "sbatch-dies"])
def test_killed_while_sbatch_runs(make_ground: GroundMaker, slow: Slow, place: str, *, all_of_it: bool) -> None:
    ground = make_ground(path=slow.folder("sbatch"))
    [database] = ground.start(ground.job("database", code="sleep 300"))
    job = ground.job("job", peers={"database": database})
    slow.hold(place)
    process = ground.launch("never", "submit", "key", ground.write("job", [job]))
    slow.wait_held()
    kill(process, all_of_it=all_of_it)
    # It is in doubt now. Whoever asks again gets its id, and no pass hands it in a second time.
    [record] = ground.hand_in("key", [job])
    assert sync(ground.site).problems == ()
    ground.clock.ahead = 100
    assert sync(ground.site).problems == ()
    assert ground.now(record).stage is (Stage.SUBMITTED if place == "answered" else Stage.SUBMITTING)
    assert slow.calls == 2, "the database's and the one that was killed"
    slow.release()
    assert finish(process).killed
    ground.settle(database)
    # One that died before it reached Slurm was started once more, when it was certainly dead.
    assert slow.calls == (3 if (place, all_of_it) == ("asked", True) else 2)
    assert [each.id for each in ground.hand_in("key", [job])] == [record.id]
    assert (ground.now(record).status, ground.starts("job")) == ("Your job ended with exit code 0", 1)
    ground.check(database)


def test_an_sbatch_that_outlives_its_clock_makes_a_job_that_runs_nothing(make_ground: GroundMaker, slow: Slow) -> None:
    """What must not be, and was seen all the same where a controller was stalled: the fence stands for it."""
    ground = make_ground(path=slow.folder("sbatch"))
    job = ground.job("job", code="sleep 3")
    slow.hold("asked")
    process = ground.launch("never", "submit", "key", ground.write("job", [job]))
    slow.wait_held()
    kill(process, all_of_it=False)
    [record] = ground.site.store.active()
    for _ in range(3):
        ground.clock.ahead += DISPATCH_SECONDS + 5
        assert sync(ground.site).problems == ()
    assert slow.calls == 2
    assert ground.now(record).stage is Stage.SUBMITTED
    slow.release()
    finish(process)
    ground.settle()
    assert (ground.now(record).state, ground.starts("job")) == (JobState.SUCCESS, 1)
    listed = ground.site.scheduler.queue(["alice"]).observations
    assert len([row for row in listed if row.name == record.slurm_name]) == 2
    assert [row for row in listed if row.name == record.slurm_name and row.state in {"PENDING", "RUNNING"}] == []


@pytest.mark.parametrize("place", ["asked", "answered"])
def test_a_job_that_is_cancelled_after_a_crash_in_sbatch_runs_nothing(
    make_ground: GroundMaker, slow: Slow, place: str
) -> None:
    """Cancelled while its sbatch is still under way: it comes up afterwards, or is pending already."""
    ground = make_ground(path=slow.folder("sbatch"))
    job = ground.job("job", begin="now+1hour")
    slow.hold(place)
    process = ground.launch("never", "submit", "key", ground.write("job", [job]))
    slow.wait_held()
    kill(process, all_of_it=False)
    [record] = ground.site.store.active()
    ground.cancel(record)
    assert ground.now(record).status == "Your job was cancelled"
    slow.release()
    assert finish(process).killed
    # The database has nothing left to watch, but a pass for any other job sees the late one, and cancels it.
    [other] = ground.submit(ground.job("other", begin="now+1hour"))
    ground.settle(other)
    ground.check(other)
    assert ground.starts("job") == 0

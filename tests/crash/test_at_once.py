"""Processes of the real command line that do the same at the same time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.crash.ground import ROOT

if TYPE_CHECKING:
    from tests.crash.ground import Ground, GroundMaker, Slow

pytestmark = pytest.mark.sandbox


def start(ground: Ground, *arguments: str) -> subprocess.Popen[str]:
    words = (sys.executable, "-m", "slurm_adapter", "--config", str(ground.config_file), *arguments)
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def submit_until_answered(ground: Ground, file: str) -> str:
    """What a patient caller does: the same again for as long as the answer is that it may try again."""
    limit = time.monotonic() + 60
    while True:
        process = start(ground, "submit", "--key", "K", file)
        out, complaint = process.communicate(timeout=60)
        if process.returncode != 75:
            assert process.returncode == 0, complaint
            [answer] = json.loads(out)["responses"]
            return str(answer["id"])
        assert time.monotonic() < limit, complaint
        time.sleep(0.2)


@pytest.mark.scenario(24)
@pytest.mark.parametrize(("processes", "times"), [(10, 1), (2, 10)])
def test_the_same_key_at_the_same_time_is_one_job(make_ground: GroundMaker, processes: int, times: int) -> None:
    ground = make_ground()
    file = ground.config_file.parent / "job.json"
    file.write_text(json.dumps(ground.job("job")))
    with ThreadPoolExecutor(processes) as pool:
        answers = list(pool.map(lambda _: submit_until_answered(ground, str(file)), range(processes * times)))
    assert len(answers) == processes * times
    assert len(set(answers)) == 1
    ground.settle()
    assert [record.id for record in ground.site.store.all(99)] == answers[:1]
    assert ground.starts("job") == 1
    ground.check()


@pytest.mark.edge_case(25)
@pytest.mark.scenario(51)
def test_of_two_passes_at_once_one_works_and_the_other_leaves(make_ground: GroundMaker, slow: Slow) -> None:
    ground = make_ground(path=slow.folder("squeue"))
    [record] = ground.submit(ground.job("job"))
    slow.hold("asked")
    first = start(ground, "sync")
    slow.wait_held()
    second = start(ground, "sync")
    assert (*second.communicate(timeout=60), second.returncode) == ("", "", 75)
    assert ground.now(record).nodes == ()
    slow.release()
    assert (*first.communicate(timeout=60), first.returncode) == ("", "", 0)
    ground.settle()
    assert ground.starts("job") == 1
    ground.check()


@pytest.mark.edge_case(25)
@pytest.mark.scenario(51)
def test_the_lock_of_a_pass_that_was_killed_is_free(make_ground: GroundMaker, slow: Slow) -> None:
    """What the killed pass has started on the cluster lives on meanwhile, and holds nothing."""
    ground = make_ground(path=slow.folder("squeue"))
    ground.submit(ground.job("job"))
    slow.hold("asked")
    first = start(ground, "sync")
    slow.wait_held()
    first.kill()
    second = start(ground, "sync")
    assert (*second.communicate(timeout=60), second.returncode) == ("", "", 0)
    slow.release()
    first.communicate(timeout=60)
    ground.settle()
    ground.check()

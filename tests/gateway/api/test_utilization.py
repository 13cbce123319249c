"""How full the cluster is, at both APIs; Slurm is asked once for many."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.core.errors import TryAgain
from slurm_adapter.gateway.api.utilization import Utilizations
from slurm_adapter.gateway.controller import Controller
from slurm_adapter.gateway.limits import Limits
from slurm_adapter.gateway.thread_pools import ThreadPools
from tests.gateway.api_site import ApiSite, opened, wait_until
from tests.offline import Offline, configuration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from slurm_adapter.cluster.schedulers.interface import Load

PATH = "/jobs/retrieveUtilization"
GIBIBYTE = 1024**3


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiSite]:
    machines = configuration(tmp_path)["machines"]
    machines["other"] = {"one": machines["example-compute"]["example-compute"] | {"partition": "other"}}
    with opened(tmp_path, {"machines": machines}) as both:
        yield both


def test_both_apis_tell_what_is_there_and_what_is_used(api: ApiSite) -> None:
    runs, _ = (api.offline.job(replicas=replicas) for replicas in (2, 1))
    api.offline.sync()
    api.offline.run(runs, "node001", "node002")
    told = {
        "capacity": {"cpu": 256.0, "memory": 4 * 64000 * 1024 * 1024},
        "usedCapacity": {"cpu": 2.0, "memory": 2 * GIBIBYTE},
        "queueStatus": {"running": 1, "pending": 1},
    }
    theirs = api.ask("GET", f"/ucloud/example{PATH}?categoryId=example-compute", **api.as_ucloud())
    assert (theirs.status_code, theirs.json()) == (200, told), theirs.text
    for query in (f"jobId={runs.id}", "category=example-compute", "category=example-compute&provider=example"):
        answer = api.ask("GET", f"/api{PATH}?{query}", **api.token())
        assert (answer.status_code, answer.json()) == (200, told), query
    nothing = api.ask("GET", f"/api{PATH}?category=other", **api.token()).json()
    assert nothing["capacity"] == nothing["usedCapacity"] == {"cpu": 0.0, "memory": 0}


def test_what_is_not_there_is_not_told(api: ApiSite) -> None:
    record = api.offline.job()
    for path, header, status in (
        (f"/ucloud/example{PATH}?categoryId=none", api.as_ucloud(), 404),
        (f"/ucloud/example{PATH}", api.as_ucloud(), 400),
        (f"/api{PATH}?category=none", api.token(), 404),
        (f"/api{PATH}?category=", api.token(), 404),
        (f"/api{PATH}?jobId=99", api.token(), 404),
        (f"/api{PATH}?jobId={record.id}", api.token("bob"), 404),
        (f"/api{PATH}?jobId={record.id}&category=example-compute", api.token(), 400),
        (f"/api{PATH}", api.token(), 400),
    ):
        answer = api.ask("GET", path, **header)
        assert (answer.status_code, set(answer.json())) == (status, {"why", "errorCode"}), path


def test_slurm_down_is_502_until_it_is_up(api: ApiSite) -> None:
    path, known = f"/ucloud/example{PATH}?categoryId=example-compute", api.as_ucloud()
    api.slurm.down = True
    answer = api.ask("GET", path, **known)
    assert (answer.status_code, "controller" in answer.json()["why"]) == (502, True)
    api.slurm.down = False
    wait_until(lambda: api.ask("GET", path, **known).status_code == 200, "Slurm is still taken to be away")


def test_slurm_is_asked_once_for_many_and_waited_for_not_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline = Offline(tmp_path)
    asked: list[Sequence[str]] = []
    may_answer = threading.Event()
    load = offline.slurm.load

    def slow(partitions: Sequence[str]) -> Load:
        asked.append(partitions)
        may_answer.wait(60)
        return load(partitions)

    monkeypatch.setattr(offline.slurm, "load", slow)
    now = 0.0

    async def ask() -> None:
        nonlocal now
        pools, limits = ThreadPools(offline.site), Limits(answer=0.5)
        mine = Utilizations(pools, Controller(pools, limits), limits, lambda: now)
        with pytest.raises(TryAgain, match="too long"):
            await mine.of("example-compute")
        age = limits.utilization_age
        now = age * 100  # a question that is under way is not asked again, however old
        many = [asyncio.create_task(mine.of("example-compute")) for _ in range(20)]
        await asyncio.sleep(0)  # all of them ask
        may_answer.set()
        assert len(set(await asyncio.gather(*many))) == 1
        assert asked == [["main"]]
        for later, questions in ((age * 100, 2), (age * 101 - 1, 2), (age * 101, 3)):
            now = later
            await mine.of("example-compute")
            assert len(asked) == questions, later
        await asyncio.to_thread(pools.close)

    asyncio.run(ask())

"""What waits for Slurm keeps nothing else waiting."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.adapter import Adapter
from slurm_adapter.cluster import lanes
from slurm_adapter.cluster.lanes import Lanes
from slurm_adapter.core.config import Config
from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.gateway import background_sync, thread_pools
from slurm_adapter.gateway.api import users
from slurm_adapter.gateway.limits import Limits
from slurm_adapter.gateway.sessions import folder_shell
from tests.gateway.api_site import opened
from tests.gateway.sessions.test_folder_shell import PATH, site
from tests.offline import configuration

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import httpx

    from slurm_adapter.cluster.schedulers.interface import Load, Outcome, Submission


OFTEN = Limits(sync_interval=0.1, sync_share=1)
"""Sync often, however long a sync takes on a busy machine."""


def test_submissions_that_are_slow_do_not_keep_others_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_pools, "DATABASE", 2)
    monkeypatch.setattr(thread_pools, "CHANGING", 2)
    with opened(tmp_path) as api, ThreadPoolExecutor(4) as threads:
        alice, bob, inner = api.token(), api.token("bob"), api.slurm.submit
        made = api.ask("POST", "/api/jobs", {"items": [api.item()]}, **alice).json()
        begun, go_on = threading.Semaphore(0), threading.Event()

        def slow(submissions: Sequence[Submission]) -> list[Outcome]:
            begun.release()
            assert go_on.wait(60)
            return inner(submissions)

        def submit(caller: dict[str, str]) -> httpx.Response:
            return api.ask("POST", "/api/jobs", {"items": [api.item()]}, **caller)

        monkeypatch.setattr(api.slurm, "submit", slow)
        try:
            answers = threads.map(submit, [alice, alice])
            assert begun.acquire(timeout=60)
            others = threads.map(submit, [bob])
            assert begun.acquire(timeout=60)  # one user has not taken both threads
            [job] = made["responses"]
            assert api.ask("GET", f"/api/jobs/retrieve?id={job['id']}", **alice).status_code == 200
            assert api.ask("GET", "/healthz").status_code == 200
        finally:
            go_on.set()
        refused = [answer for answer in answers if answer.status_code != 200]
        assert [(answer.status_code, answer.headers["Retry-After"]) for answer in refused] == [(429, "5")]
        assert "alice has 1 changes in Slurm under way" in refused[0].json()["why"]
        assert [answer.status_code for answer in others] == [200]


@pytest.mark.parametrize("asks", ["how full it is", "for a shell in a folder"])
def test_questions_that_hang_do_not_keep_others_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asks: str
) -> None:
    for pool in ("DATABASE", "ASKING"):
        monkeypatch.setattr(thread_pools, pool, 1)
    with opened(tmp_path, site(tmp_path), limits=OFTEN) as api, ThreadPoolExecutor(2) as threads:
        alice = api.token()
        begun, go_on, passed = threading.Event(), threading.Event(), threading.Event()

        def hang(*_: object) -> Load:
            begun.set()
            assert go_on.wait(60)
            raise InvalidInput("it came too late")

        def note(_: Adapter) -> tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]:
            passed.set()
            return (), (), frozenset()

        def ask(_: int) -> httpx.Response:
            if asks == "how full it is":
                return api.ask("GET", "/api/jobs/retrieveUtilization?category=example-compute", **alice)
            return api.ask("POST", f"/api/{PATH}", {"items": [{"folder": "/123/x"}]}, **alice)

        monkeypatch.setattr(api.slurm, "load", hang)
        monkeypatch.setattr(folder_shell, "read_path_check", hang)
        answers = threads.map(ask, range(2))
        try:
            assert begun.wait(60)
            assert api.ask("GET", "/api/jobs/browse", **alice).status_code == 200
            monkeypatch.setattr(background_sync, "sync_once", note)
            assert passed.wait(60), "no pass was made"
        finally:
            go_on.set()
        assert {answer.status_code for answer in answers} <= {400, 503}


def test_requests_that_hang_hold_up_neither_passes_nor_the_teller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pool in ("DATABASE", "ASKING", "CHANGING"):
        monkeypatch.setattr(thread_pools, pool, 1)
    with opened(tmp_path, limits=OFTEN) as api, ThreadPoolExecutor(3) as threads:
        alice = api.token()
        go_on, passed, told = threading.Event(), threading.Event(), threading.Event()
        begun = threading.Semaphore(0)

        def hang(*_: object, **__: object) -> None:
            begun.release()
            assert go_on.wait(60)
            raise InvalidInput("it came too late")

        def note_pass(_: Adapter) -> tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]:
            passed.set()
            return (), (), frozenset()

        for where, name in ((users, "_browse"), (users, "_suspend"), (api.slurm, "load")):
            monkeypatch.setattr(where, name, hang)
        known = {"items": [{"id": "1"}]}
        for method, path, body in (
            ("GET", "retrieveUtilization?category=example-compute", None),
            ("POST", "suspend", known),
            ("GET", "browse", None),  # the last one, for each asks first who is asking
        ):
            threads.submit(api.ask, method, f"/api/jobs/{path}", body, **alice)
            assert begun.acquire(timeout=60), path
        try:
            monkeypatch.setattr(background_sync, "sync_once", note_pass)
            monkeypatch.setattr(background_sync, "deliver_once", lambda *_: told.set())
            assert passed.wait(60), "no pass was made"
            assert told.wait(60), "UCloud was not told"
        finally:
            go_on.set()


def test_threads_that_begin_at_the_same_time_share_one_way_to_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each of them uses first is made once: from Python 3.12 on `cached_property` does not see to that."""
    whole = Adapter(Config.model_validate(configuration(tmp_path)))
    made: list[Lanes] = []

    class Slow(Lanes):
        def __init__(self) -> None:
            time.sleep(0.1)  # long enough for the others to begin, too
            super().__init__()
            made.append(self)

    monkeypatch.setattr(lanes, "Lanes", Slow)
    with closing(whole), ThreadPoolExecutor(8) as threads:
        besides = list(threads.map(lambda _: whole.for_thread(), range(8)))
        assert [beside.lanes for beside in besides] == made * 8
        assert {beside.transport for beside in besides} == {whole.transport}


def test_bodies_of_one_caller_are_read_one_by_one_and_others_meanwhile(tmp_path: Path) -> None:
    """A body that is read takes several times its size, and the interpreter."""
    pools = thread_pools.ThreadPools(Adapter(Config.model_validate(configuration(tmp_path))))
    go_on, one = threading.Event(), threading.Semaphore(0)
    begun: list[str] = []

    def read(owner: str) -> None:
        begun.append(owner)
        one.release()
        go_on.wait(60)

    async def three() -> None:
        reading = [asyncio.create_task(pools.read(owner, read, owner)) for owner in ("UCloud", "UCloud", "alice")]
        for _ in range(2):
            await asyncio.to_thread(one.acquire, timeout=60)
        assert begun == ["UCloud", "alice"]
        go_on.set()
        await asyncio.gather(*reading)

    with closing(pools):
        asyncio.run(three())
    assert begun == ["UCloud", "alice", "UCloud"]


def test_what_threads_take_of_the_processor_is_counted(tmp_path: Path) -> None:
    def compute(_: Adapter) -> None:
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            pass

    async def count() -> float:
        pools = thread_pools.ThreadPools(Adapter(Config.model_validate(configuration(tmp_path))))
        with closing(pools):
            await pools.database.run(compute)
            with thread_pools.counting() as spent:
                await pools.database.run(compute)
                await pools.database.run(lambda _: time.sleep(0.3))
        return spent.seconds

    assert 0.1 <= asyncio.run(count()) < 0.25

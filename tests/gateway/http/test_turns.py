"""The pace of each user's requests, by a clock that stands still."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.gateway.http.incoming import DELAYED
from slurm_adapter.gateway.http.turns import MOST_SECONDS, REFUSED_SECONDS, Lanes, Turns
from slurm_adapter.gateway.shares import TooMany
from tests.gateway.api_site import opened, wait_until

if TYPE_CHECKING:
    from pathlib import Path


class Clock:
    """A clock that goes on only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Go on at once."""
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def turns(clock: Clock) -> Turns:
    return Turns(8, 4, clock, clock.sleep)


def refuse(turns: Turns, owner: str) -> None:
    """Have a request of this user refused."""
    with pytest.raises(TooMany), turns.counted(owner):
        raise TooMany("x")


def wait(turns: Turns, owner: str, times: int = 1) -> None:
    """Wait for the turns of so many requests."""

    async def all_of_them() -> None:
        for _ in range(times):
            await turns.wait(owner, {})

    asyncio.run(all_of_them())


def test_some_begin_at_once_and_the_others_at_the_rate(turns: Turns, clock: Clock) -> None:
    wait(turns, "alice", 7)
    assert clock.slept == [0.125, 0.125, 0.125]


def test_others_do_not_wait(turns: Turns, clock: Clock) -> None:
    wait(turns, "alice", 4)
    wait(turns, "bob")
    assert clock.slept == []


def test_who_asks_no_faster_than_the_rate_never_waits(turns: Turns, clock: Clock) -> None:
    for _ in range(100):
        wait(turns, "alice")
        clock.now += 0.125
    assert clock.slept == []


def test_refusals_use_up_the_time_of_the_requests_that_follow(turns: Turns, clock: Clock) -> None:
    refuse(turns, "alice")
    wait(turns, "alice")
    assert clock.slept == [REFUSED_SECONDS + 0.125 - 0.5]


def test_nobody_waits_for_long_whatever_was_refused(turns: Turns, clock: Clock) -> None:
    for _ in range(1000):
        refuse(turns, "alice")
    wait(turns, "alice")
    assert 0 < clock.slept[0] <= MOST_SECONDS


def test_a_connection_may_be_ended_for_others_only_while_it_waits(clock: Clock) -> None:
    state: dict[str, Any] = {}
    seen: list[bool] = []

    async def sleep(seconds: float) -> None:
        del seconds
        seen.append(DELAYED in state)

    turns = Turns(10, 1, clock, sleep)

    async def two() -> None:
        await turns.wait("alice", state)
        await turns.wait("alice", state)

    asyncio.run(two())
    assert (seen, state) == ([True], {})


def test_a_request_whose_client_left_waits_no_longer() -> None:
    state: dict[str, Any] = {}
    turns = Turns(1e-3, 1, sleep=asyncio.sleep)

    async def leave() -> None:
        await turns.wait("alice", state)
        waiting = asyncio.create_task(turns.wait("alice", state))
        await asyncio.sleep(0)
        assert state[DELAYED].owner == "alice"
        state[DELAYED].end()
        with pytest.raises(TooMany, match="closed the connection"):
            await waiting

    asyncio.run(leave())
    assert state == {}


def test_no_more_wait_than_are_served_in_the_longest_wait() -> None:
    """Others would all be served at once after it."""
    sleeps: list[float] = []

    async def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        await asyncio.sleep(0)

    turns = Turns(1, 1, lambda: 0.0, sleep)

    async def many() -> list[BaseException | None]:
        return await asyncio.gather(*(turns.wait("alice", {}) for _ in range(20)), return_exceptions=True)

    refused = [each for each in asyncio.run(many()) if each is not None]
    assert len(refused) == 20 - 1 - MOST_SECONDS
    assert all(isinstance(each, TooMany) for each in refused)
    assert sleeps == [*range(1, 11), *[MOST_SECONDS] * len(refused)]


def test_what_a_request_takes_of_the_processor_is_its_users(turns: Turns, clock: Clock) -> None:
    wait(turns, "alice")
    turns.spend("alice", 1.0)
    wait(turns, "alice")
    assert clock.slept == []  # nobody else needs it
    wait(turns, "bob")
    turns.spend("alice", 1.0)
    wait(turns, "bob")
    assert clock.slept == []
    wait(turns, "alice")
    assert clock.slept == [1.0 + 2 * 0.125 + 0.125 - 0.5]


def test_those_who_asked_for_nothing_lately_do_not_count(turns: Turns, clock: Clock) -> None:
    wait(turns, "bob")
    clock.now += 60
    turns.spend("alice", 1.0)
    wait(turns, "alice")
    assert clock.slept == []


def test_the_lanes_of_one_user_are_not_another_ones() -> None:
    began: list[str] = []

    async def three() -> None:
        lanes, go_on = Lanes(1), asyncio.Event()

        async def work(owner: str, name: str) -> None:
            async with lanes.of(owner):
                began.append(name)
                await go_on.wait()

        tasks = [asyncio.create_task(work(*each)) for each in (("alice", "1"), ("alice", "2"), ("bob", "3"))]
        await asyncio.sleep(0)
        assert began == ["1", "3"]
        go_on.set()
        await asyncio.gather(*tasks)

    asyncio.run(three())
    assert began == ["1", "3", "2"]


class Held:
    """A sleep that lasts until the test lets it end."""

    def __init__(self) -> None:
        self.begun = 0
        self.over = threading.Event()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        del seconds
        self.begun += 1
        await asyncio.to_thread(self.over.wait)


def test_a_user_who_asks_too_fast_waits_and_others_are_answered_meanwhile(tmp_path: Path) -> None:
    with opened(tmp_path, ucloud=False) as api, ThreadPoolExecutor(1) as pool:
        held = Held()
        api.gateway.turns = Turns(1e-6, 1, sleep=held.sleep)
        alice, bob = api.token(), api.token("bob")
        assert api.ask("GET", "/api/jobs/browse", **alice).status_code == 200
        try:
            later = pool.submit(api.ask, "GET", "/api/jobs/browse", **alice)
            wait_until(lambda: held.begun == 1, "the second request is not delayed")
            assert api.ask("GET", "/api/jobs/browse", **bob).status_code == 200
            assert not later.done()
        finally:
            held.over.set()
        assert later.result().status_code == 200


def test_ucloud_never_waits(tmp_path: Path) -> None:
    with opened(tmp_path) as api:
        held = Held()
        api.gateway.turns = Turns(1e-6, 1, sleep=held.sleep)
        for number in range(20):
            body = {"items": [api.job(str(4000 + number))]}
            answer = api.ask("POST", "/ucloud/example/jobs", body, **api.as_ucloud())
            assert answer.status_code == 200, answer.text
        assert held.begun == 0

"""The contract of all receivers of updates: the one in memory, and UCloud over HTTP."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import pytest

from slurm_adapter.core.errors import TryAgain, Unknown
from slurm_adapter.core.messages import Message
from slurm_adapter.core.states import JobState
from slurm_adapter.ucloud.client import Client
from slurm_adapter.ucloud.fake import FakeReceiver
from slurm_adapter.ucloud.receiver import UcloudReceiver
from tests.ucloud_double import Ucloud, ucloud

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slurm_adapter.ucloud.interface import Receiver

__all__ = ["ucloud"]


def message(number: int, job_id: str = "1", state: JobState | None = None, **values: JobState) -> Message:
    before = values.get("before", JobState.IN_QUEUE)
    return Message(number, job_id, float(number), state, f"text {number}", before, fresh=True)


LIFE = (
    message(1),
    message(2, state=JobState.RUNNING),
    message(3, "2", state=JobState.RUNNING),
    message(4, state=JobState.SUCCESS, before=JobState.RUNNING),
)

AGAIN = tuple(replace(each, fresh=False) for each in LIFE)
"""The same messages, which may have arrived before."""

ALL = frozenset({1, 2, 3, 4})


class World(Protocol):
    """A receiver, and what is behind it."""

    @property
    def receiver(self) -> Receiver: ...
    def told(self, job_id: str) -> list[tuple[JobState | None, str]]: ...
    def lose_next(self, after: int, /) -> None: ...
    def down(self) -> None: ...
    def forget(self, job_id: str, /) -> None: ...
    def know(self, job_id: str, /) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self.receiver = FakeReceiver()
        self.lose_next = self.receiver.lose_next

    def told(self, job_id: str) -> list[tuple[JobState | None, str]]:
        return [(each.state, each.status) for each in self.receiver.delivered if each.job_id == job_id]

    def down(self) -> None:
        self.receiver.down = True

    def forget(self, job_id: str) -> None:
        self.receiver.unknown.add(job_id)

    def know(self, job_id: str) -> None:
        self.receiver.unknown.discard(job_id)


class OverHttp:
    def __init__(self, ucloud: Ucloud, folder: Path) -> None:
        self._ucloud = ucloud
        self.receiver = UcloudReceiver(Client(ucloud.url, ucloud.write_refresh_token(folder / "refresh")))
        ucloud.know("1", "2")
        self.lose_next = ucloud.lose_next
        self.down = ucloud.down
        self.forget = ucloud.forget
        self.know = ucloud.know

    def told(self, job_id: str) -> list[tuple[JobState | None, str]]:
        if not self._ucloud.knows(job_id):
            return []
        states = [(each["state"], each["status"]) for each in self._ucloud.updates(job_id)]
        return [(None if state is None else JobState(state), status) for state, status in states]


@pytest.fixture(params=["memory", "ucloud"])
def world(request: pytest.FixtureRequest, ucloud: Ucloud, tmp_path: Path) -> Iterator[World]:
    made: World = InMemory() if request.param == "memory" else OverHttp(ucloud, tmp_path)
    yield made
    made.receiver.close()


def life(job_id: str, first: int = len(LIFE)) -> list[tuple[JobState | None, str]]:
    """Return the updates of a job after so many of the messages have arrived."""
    return [(each.state, each.status) for each in LIFE[:first] if each.job_id == job_id]


def test_messages_arrive_in_their_order(world: World) -> None:
    told = world.receiver.deliver(LIFE)
    assert (told.taken, told.unknown, told.problems) == (ALL, frozenset(), ())
    assert (world.told("1"), world.told("2")) == (life("1"), life("2"))


def test_what_comes_again_arrives_once(world: World) -> None:
    world.receiver.deliver(LIFE[:2])
    assert world.receiver.deliver((*AGAIN[:2], *LIFE[2:])).taken == ALL
    assert world.receiver.deliver(AGAIN).taken == ALL
    assert (world.told("1"), world.told("2")) == (life("1"), life("2"))


def test_an_unknown_job_does_not_hold_back_the_others(world: World) -> None:
    world.forget("1")
    told = world.receiver.deliver(LIFE)
    assert (told.taken, told.unknown) == (frozenset({3}), frozenset({"1"}))
    assert (world.told("1"), world.told("2")) == ([], life("2"))
    world.know("1")
    assert world.receiver.deliver(AGAIN).taken == ALL
    assert (world.told("1"), world.told("2")) == (life("1"), life("2"))


def test_out_of_reach(world: World) -> None:
    world.down()
    with pytest.raises(TryAgain):
        world.receiver.deliver(LIFE)
    with pytest.raises(TryAgain):
        world.receiver.exists(["1"])
    assert (world.told("1"), world.told("2")) == ([], [])


@pytest.mark.scenario(65)
@pytest.mark.parametrize("arrived", range(len(LIFE) + 1))
def test_an_answer_that_is_lost(world: World, arrived: int) -> None:
    world.lose_next(arrived)
    with pytest.raises(Unknown):
        world.receiver.deliver(LIFE)
    assert (world.told("1"), world.told("2")) == (life("1", arrived), life("2", arrived))
    assert world.receiver.deliver(AGAIN).taken == ALL
    assert (world.told("1"), world.told("2")) == (life("1"), life("2"))


def test_which_jobs_it_has(world: World) -> None:
    world.forget("2")
    assert world.receiver.exists(["2", "1"]) == {"1"}
    assert world.receiver.exists([]) == frozenset()


def test_a_job_that_runs_twice(world: World) -> None:
    """The same state and text a second time is another update; only lost updates are delivered again."""
    runs = message(1, state=JobState.RUNNING)
    waits = message(2, state=JobState.IN_QUEUE, before=JobState.RUNNING)
    runs_again = replace(runs, number=3, copies=1)
    world.lose_next(2)
    with pytest.raises(Unknown):
        world.receiver.deliver((runs, waits, runs_again))
    world.receiver.deliver(tuple(replace(each, fresh=False) for each in (runs, waits, runs_again)))
    assert world.told("1") == [
        (JobState.RUNNING, "text 1"),
        (JobState.IN_QUEUE, "text 2"),
        (JobState.RUNNING, "text 1"),
    ]

"""What everyone promises who is told what becomes of jobs: so far the one in memory."""

from __future__ import annotations

import pytest

from slurm_adapter.errors import TryAgain, Unknown
from slurm_adapter.receivers.fake import FakeReceiver
from slurm_adapter.receivers.interface import Message
from slurm_adapter.states import JobState


def message(number: int, job_id: str = "1", state: JobState | None = None, **values: JobState) -> Message:
    return Message(number, job_id, float(number), state, f"text {number}", values.get("before", JobState.IN_QUEUE))


LIFE = (
    message(1),
    message(2, state=JobState.RUNNING),
    message(3, "2", state=JobState.RUNNING),
    message(4, state=JobState.SUCCESS, before=JobState.RUNNING),
)


@pytest.fixture
def receiver() -> FakeReceiver:
    return FakeReceiver()


def test_messages_arrive_in_their_order(receiver: FakeReceiver) -> None:
    assert receiver.tell(LIFE) == frozenset()
    assert receiver.told == list(LIFE)
    assert (receiver.state("1"), receiver.state("2")) == (JobState.SUCCESS, JobState.RUNNING)


def test_what_comes_again_arrives_once(receiver: FakeReceiver) -> None:
    receiver.tell(LIFE[:2])
    receiver.tell(LIFE)
    receiver.tell(LIFE)
    assert receiver.told == list(LIFE)


def test_an_unknown_job_does_not_hold_back_the_others(receiver: FakeReceiver) -> None:
    receiver.unknown.add("1")
    assert receiver.tell(LIFE) == {"1"}
    assert receiver.told == [LIFE[2]]
    receiver.unknown.clear()
    assert receiver.tell(LIFE) == frozenset()
    assert receiver.state("1") is JobState.SUCCESS


def test_out_of_reach(receiver: FakeReceiver) -> None:
    receiver.down = True
    with pytest.raises(TryAgain):
        receiver.tell(LIFE)
    assert receiver.told == []


@pytest.mark.parametrize("arrived", range(len(LIFE) + 1))
def test_an_answer_that_is_lost(receiver: FakeReceiver, arrived: int) -> None:
    receiver.lose_next(arrived)
    with pytest.raises(Unknown):
        receiver.tell(LIFE)
    assert receiver.told == list(LIFE[:arrived])
    receiver.tell(LIFE)
    assert receiver.told == list(LIFE)

"""Questions to Slurm that users cause are bounded: in their number, and in what one user takes of it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

import pytest

from slurm_adapter.cluster.schedulers.fake import FakeScheduler
from slurm_adapter.core.errors import Unknown
from slurm_adapter.gateway.background_sync import Budget, pause_after
from slurm_adapter.gateway.limits import Limits
from slurm_adapter.gateway.questions import Gathered, GatheringScheduler

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurm_adapter.cluster.schedulers.interface import Scheduler


def test_those_who_ask_during_a_question_share_the_next_one() -> None:
    asked: list[list[int]] = []
    begun, go_on = threading.Event(), threading.Event()

    def ask(keys: list[int]) -> int:
        asked.append(keys)
        begun.set()
        assert go_on.wait(60)
        return len(asked)

    gathered = Gathered(ask)
    with ThreadPoolExecutor(21) as threads:
        first = threads.submit(gathered.ask, [0])
        assert begun.wait(60)
        others = [threads.submit(gathered.ask, [number, 99]) for number in range(1, 21)]
        while (waiting := gathered._gathering) is None or len(waiting[0]) < 21:  # noqa: SLF001  # no other way to know
            pass
        go_on.set()
        assert [first.result(60), *(each.result(60) for each in others)] == [1, *[2] * 20]
    assert asked == [[0], [*range(1, 21), 99]]


def test_a_question_that_fails_fails_for_those_who_share_it_alone() -> None:
    failures = [Unknown("half a row")]

    def ask(_: list[str]) -> str:
        if failures:
            raise failures.pop()
        return "an answer"

    gathered = Gathered(ask, keep=60)
    with pytest.raises(Unknown):
        gathered.ask(["alice"])
    assert gathered.ask(["alice"]) == "an answer"
    failures.append(Unknown("not asked again"))
    assert gathered.ask(["bob"]) == "an answer"


def test_the_nodes_are_not_asked_for_by_each_job_that_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each invalid create asked `scontrol show node`."""
    slurm = FakeScheduler()
    asked: list[str] = []
    inner = slurm.nodes

    def nodes() -> Mapping[str, str]:
        asked.append("nodes")
        return inner()

    monkeypatch.setattr(slurm, "nodes", nodes)
    sparing = GatheringScheduler(cast("Scheduler", slurm), Limits())
    assert [sparing.nodes() for _ in range(50)] == [inner()] * 50
    assert len(asked) == 1
    assert sparing.queue(["alice", "bob"]) == slurm.queue(["alice", "bob"])
    assert sparing.longest([]) == {}
    sparing.ping()


def test_one_users_waiting_jobs_cause_so_many_quick_syncs_and_others_have_their_own() -> None:
    """Two syncs a second while any peer is pending, which may be for ever."""
    now = [0.0]
    budget = Budget(60, 5.0, lambda: now[0])
    quick = 0
    for _ in range(7200):
        quick += budget.take({"alice"})
        now[0] += 0.5
    assert 60 + 719 <= quick <= 60 + 721
    assert budget.take({"alice", "bob"})
    assert not budget.take(set())
    assert sum(budget.take({"bob"}) for _ in range(100)) == 59


@pytest.mark.parametrize(
    ("took", "pause"),
    [
        (0.1, Limits().sync_interval),
        (1.0, Limits().sync_share),
        (10.0, Limits().sync_interval_at_most),
        (600.0, 30.0),
    ],
)
def test_no_slow_sync_puts_the_next_one_off_for_long(took: float, pause: float) -> None:
    assert pause_after(took, Limits()) == pause

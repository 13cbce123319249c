"""What UCloud is told: durable before it is sent, in order, once, and nothing after the end."""

from __future__ import annotations

from contextlib import closing, suppress
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_adapter.core.errors import AdapterError, TryAgain, Unknown
from slurm_adapter.core.records import RecordChange, Stage
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs import deliver, prepare
from slurm_adapter.state.store import Store
from slurm_adapter.ucloud.client import Client
from slurm_adapter.ucloud.fake import FakeReceiver
from slurm_adapter.ucloud.receiver import UcloudReceiver
from tests.offline import Offline, offline
from tests.state.test_store import record
from tests.ucloud_double import Ucloud

if TYPE_CHECKING:
    from pathlib import Path

    from slurm_adapter.core.records import Record

__all__ = ["offline"]

RUNS: RecordChange = {"state": JobState.RUNNING, "status": "runs"}
WAITS: RecordChange = {"state": JobState.IN_QUEUE, "status": "waits again"}
NOTES: RecordChange = {"status": "still there"}
ENDS: RecordChange = {"state": JobState.SUCCESS, "status": "done", "stage": Stage.ENDED, "ended": 9.0}


def claim(store: Store, *ids: str) -> list[Record]:
    """Jobs that came from UCloud."""
    return store.claim([(record(id_, origin="example", slurm_name=f"i-example-{id_}"), b"{}") for id_ in ids])


def change(store: Store, record: Record, *steps: RecordChange) -> None:
    """One change after another."""
    for values in steps:
        store.change([(store.get(record.id), values)], 1.0)


def told(receiver: FakeReceiver, id_: str = "1") -> list[JobState | None]:
    return [message.state for message in receiver.delivered if message.job_id == id_]


@pytest.fixture
def receiver() -> FakeReceiver:
    return FakeReceiver()


def test_what_was_decided_is_told_after_a_restart(tmp_path: Path, receiver: FakeReceiver) -> None:
    with Store(tmp_path / "state") as store:
        change(store, claim(store, "1")[0], RUNS, WAITS, RUNS, ENDS)
    with Store(tmp_path / "state") as store:
        deliver.deliver(store, receiver, 5.0)
        assert told(receiver) == [JobState.RUNNING, JobState.IN_QUEUE, JobState.RUNNING, JobState.SUCCESS]
        assert [update.delivered for update in store.updates("1")] == [5.0] * 4
        deliver.deliver(store, receiver, 6.0)
        assert len(receiver.delivered) == 4
        assert store.due(after=0, limit=9) == []


def test_nobody_waits_for_jobs_that_do_not_come_from_ucloud(tmp_path: Path, receiver: FakeReceiver) -> None:
    with Store(tmp_path / "state") as store:
        [own] = store.claim([(record("1"), b"{}")])
        change(store, own, RUNS)
        store.note([("1", "a note")], 1.0)
        deliver.deliver(store, receiver, 5.0)
        assert receiver.delivered == []
        assert [update.status for update in store.updates("1")] == ["runs", "a note"]


@pytest.mark.scenario(66)
def test_nothing_follows_a_final_state(tmp_path: Path, receiver: FakeReceiver) -> None:
    with Store(tmp_path / "state") as store:
        change(store, claim(store, "1")[0], ENDS, RUNS, {"status": "more"})
        store.note([("1", "a note")], 2.0)
        deliver.deliver(store, receiver, 5.0)
        assert [message.status for message in receiver.delivered] == ["done"]


def test_an_outage_loses_nothing_and_doubles_nothing(tmp_path: Path, receiver: FakeReceiver) -> None:
    with Store(tmp_path / "state") as store:
        first, second = claim(store, "1", "2")
        receiver.down = True
        for values in (RUNS, WAITS):
            change(store, first, values)
            change(store, second, values)
            with pytest.raises(TryAgain):
                deliver.deliver(store, receiver, 5.0)
        receiver.down = False
        receiver.lose_next(after=3)
        with pytest.raises(Unknown):
            deliver.deliver(store, receiver, 6.0)
        change(store, first, ENDS)
        deliver.deliver(store, receiver, 7.0)
        assert told(receiver, "1") == [JobState.RUNNING, JobState.IN_QUEUE, JobState.SUCCESS]
        assert told(receiver, "2") == [JobState.RUNNING, JobState.IN_QUEUE]


def test_whoever_stops_is_not_told_the_rest_which_stays_due(
    tmp_path: Path, receiver: FakeReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "AT_ONCE", 2)
    with Store(tmp_path / "state") as store:
        change(store, claim(store, "1")[0], RUNS, WAITS, RUNS, ENDS)
        deliver.deliver(store, receiver, 5.0, stops=lambda: len(receiver.delivered) == 2)
        assert told(receiver) == [JobState.RUNNING, JobState.IN_QUEUE]
        assert len(store.due(after=0, limit=9)) == 2
        deliver.deliver(store, receiver, 6.0)
        assert told(receiver) == [JobState.RUNNING, JobState.IN_QUEUE, JobState.RUNNING, JobState.SUCCESS]


def test_a_job_that_ucloud_does_not_know_is_told_of_later_and_in_order(
    tmp_path: Path, receiver: FakeReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "AT_ONCE", 2)
    with Store(tmp_path / "state") as store:
        first, second = claim(store, "1", "2")
        for values in (RUNS, WAITS, RUNS):
            change(store, first, values)
            change(store, second, values)
        receiver.unknown.add("1")
        deliver.deliver(store, receiver, 5.0)
        assert (len(told(receiver, "1")), len(told(receiver, "2"))) == (0, 3)
        assert {message.job_id for message in store.due(after=0, limit=9)} == {"1"}
        receiver.unknown.clear()
        deliver.deliver(store, receiver, 6.0)
        assert told(receiver, "1") == [JobState.RUNNING, JobState.IN_QUEUE, JobState.RUNNING]


@given(st.lists(st.sampled_from(["run", "wait", "end", "tell", "down", "lose 0", "lose 1", "lose 2", "unknown"])))
def test_whatever_happens_each_job_is_told_of_in_order_and_once(
    tmp_path_factory: pytest.TempPathFactory, story: list[str]
) -> None:
    receiver = FakeReceiver()
    with Store(tmp_path_factory.mktemp("store") / "state") as store:
        [job] = claim(store, "1")
        for step in [*story, "end", "tell"]:
            receiver.down = step == "down"
            receiver.unknown = {"1"} if step == "unknown" else set()
            if step.startswith("lose"):
                receiver.lose_next(int(step[-1]))
            if step in {"run", "wait", "end"}:
                change(store, job, {"run": RUNS, "wait": WAITS, "end": ENDS}[step])
                continue
            with suppress(AdapterError):
                deliver.deliver(store, receiver, 1.0)
        deliver.deliver(store, receiver, 1.0)
        assert told(receiver) == [update.state for update in store.updates("1")]
        assert receiver.state("1") is JobState.SUCCESS
        assert told(receiver).count(JobState.SUCCESS) == 1
        assert all(earlier.number < later.number for earlier, later in pairwise(receiver.delivered))


@settings(max_examples=15)
@given(
    st.lists(
        st.sampled_from(
            [
                "run",
                "wait",
                "note",
                "end",
                "tell",
                "down",
                "lose 0",
                "lose 1",
                "lose 2",
                "fail 500",
                "fail 429",
                "killed",
            ]
        ),
        min_size=4,
    )
)
def test_whatever_happens_on_the_way_to_ucloud_each_update_arrives_in_order_and_once(
    tmp_path_factory: pytest.TempPathFactory, story: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    with Ucloud() as ucloud, Store(folder / "state") as store:
        ucloud.know("1", "2")
        with closing(UcloudReceiver(Client(ucloud.url, ucloud.write_refresh_token(folder / "refresh")))) as receiver:
            first, second = claim(store, "1", "2")
            for step in [*story, "end", "tell", "tell"]:
                if step in {"run", "wait", "note", "end"}:
                    change(store, first, {"run": RUNS, "wait": WAITS, "note": NOTES, "end": ENDS}[step])
                    change(store, second, {"run": WAITS, "wait": RUNS, "note": NOTES, "end": ENDS}[step])
                    continue
                if step == "down":
                    ucloud.down()
                elif step.startswith("lose"):
                    ucloud.lose_next(int(step[-1]))
                elif step.startswith("fail"):
                    ucloud.fail(int(step[-3:]))
                with suppress(AdapterError):
                    if step == "killed":  # after UCloud took it, and before that was remembered
                        messages = store.due(after=0, limit=9)
                        store.note_sent([each.number for each in messages], sent=True)
                        receiver.deliver(messages)
                    deliver.deliver(store, receiver, 1.0)
                if step == "down":
                    ucloud.up()
            # A loss or failure that was ordered while there was nothing to tell comes at the end.
            for _ in story:
                with suppress(AdapterError):
                    deliver.deliver(store, receiver, 1.0)
            for id_ in ("1", "2"):
                told = [(each["state"], each["status"]) for each in ucloud.updates(id_)]
                assert told == [(each.state, each.status) for each in store.updates(id_)]
                assert ucloud.state(id_) == "SUCCESS"


def test_a_pass_tells_what_it_has_decided(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "STANDALONE", "example")
    receiver = FakeReceiver()
    offline.site.receiver = receiver
    job = offline.job()
    receiver.down = True
    offline.slurm.start(offline.slurm_id(job))
    assert "could not deliver updates to UCloud" in offline.sync().problems[0]
    assert offline.now(job).state is JobState.RUNNING, "what is true does not wait for who is told"
    offline.slurm.finish(offline.slurm_id(job))
    receiver.down = False
    assert offline.sync().problems == ()
    assert told(receiver, job.id) == [None, JobState.RUNNING, JobState.SUCCESS]
    assert offline.sync().problems == ()


def test_what_is_left_is_told_though_no_job_lives(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "STANDALONE", "example")
    job = offline.run(offline.job())
    offline.slurm.finish(offline.slurm_id(job))
    offline.sync()
    offline.site.receiver = receiver = FakeReceiver()
    offline.sync()
    assert receiver.state(job.id) is JobState.SUCCESS

"""UCloud hands in jobs at the gateway's door, and the gateway's own passes tell it what becomes of them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.gateway.background_sync import retry_after
from slurm_adapter.gateway.limits import Limits
from slurm_adapter.gateway.streams.log_follow import Following
from slurm_adapter.jobs import deliver
from slurm_adapter.jobs.deleted_in_ucloud import ASK_SECONDS, UNKNOWN_SECONDS
from slurm_adapter.jobs.report import UNTOLD
from slurm_adapter.ucloud.receiver import UcloudReceiver
from tests.gateway.doors import Doors, opened, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from slurm_adapter.core.messages import Message
    from slurm_adapter.ucloud.interface import Delivery


@pytest.fixture
def doors(tmp_path: Path) -> Iterator[Doors]:
    with opened(tmp_path, limits=Limits(sync_interval=0.2)) as made:
        yield made


def test_ucloud_is_told_of_a_job_from_its_queue_to_its_end(doors: Doors) -> None:
    assert doors.ucloud.create(doors.job("4101")).status == 200
    record = doors.offline.site.store.get("4101")
    doors.slurm.start(doors.offline.slurm_id(record))
    wait_until(lambda: doors.ucloud.state("4101") == "RUNNING", "UCloud was not told that it runs")
    doors.slurm.finish(doors.offline.slurm_id(record))
    wait_until(lambda: doors.ucloud.state("4101") == "SUCCESS", "UCloud was not told that it ended")
    told = [(update["state"], update["status"]) for update in doors.ucloud.updates("4101")]
    assert told == [(update.state, update.status) for update in doors.offline.site.store.updates("4101")]


def test_a_job_that_ucloud_deleted_is_ended(doors: Doors) -> None:
    """As it does with one whose `create` was answered too late."""
    assert doors.ucloud.create(doors.job("4101")).status == 200
    record = doors.offline.site.store.get("4101")
    doors.slurm.start(doors.offline.slurm_id(record))
    doors.ucloud.forget("4101")
    doors.slurm.now += ASK_SECONDS
    wait_until(lambda: doors.offline.now(record).unknown_since is not None, "it was not asked for")
    doors.slurm.now += UNKNOWN_SECONDS
    wait_until(lambda: doors.offline.now(record).stage == "ended", "it goes on")
    assert doors.offline.now(record).cancel_sent is not None
    assert doors.offline.site.store.due(after=0, limit=9) == []


@pytest.mark.scenario(65)
def test_a_ucloud_that_hangs_holds_up_no_pass(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doors.ucloud.create(doors.job("4101")).status == 200
    record = doors.offline.site.store.get("4101")
    inner, begun, go_on = UcloudReceiver.deliver, threading.Event(), threading.Event()

    def hang(self: UcloudReceiver, messages: Sequence[Message]) -> Delivery:
        begun.set()
        assert go_on.wait(60)
        return inner(self, messages)

    monkeypatch.setattr(UcloudReceiver, "deliver", hang)
    doors.slurm.start(doors.offline.slurm_id(record))
    try:
        assert begun.wait(60)
        wait_until(lambda: doors.offline.now(record).state == "RUNNING", "it was not seen to run")
        doors.slurm.finish(doors.offline.slurm_id(record))
        wait_until(lambda: doors.offline.now(record).state == "SUCCESS", "it was not seen to end")
    finally:
        go_on.set()
    wait_until(lambda: doors.ucloud.state("4101") == "SUCCESS", "UCloud was not told that it ended")


def test_a_gateway_that_ends_leaves_the_rest_to_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However much is due, it ends with the request that is under way, and takes no outage for over."""
    monkeypatch.setattr(deliver, "AT_ONCE", 1)
    inner, closing, begun, go_on = UcloudReceiver.deliver, Following.close, threading.Event(), threading.Event()

    def hang(self: UcloudReceiver, messages: Sequence[Message]) -> Delivery:
        begun.set()
        assert go_on.wait(60)
        return inner(self, messages)

    async def close(self: Following) -> None:
        go_on.set()
        await closing(self)

    monkeypatch.setattr(UcloudReceiver, "deliver", hang)
    monkeypatch.setattr(Following, "close", close)
    ids = [str(number) for number in range(4101, 4106)]
    with opened(tmp_path, limits=Limits(sync_interval=0.2)) as doors:
        doors.ucloud.know(*ids)
        body = {"items": [doors.job(id_) for id_ in ids]}
        assert doors.ask("POST", "/ucloud/example/jobs", body, **doors.as_ucloud()).is_success
        assert begun.wait(60)
        doors.offline.site.store.set_fact(UNTOLD, "[]")
    assert sum(len(doors.ucloud.updates(id_)) for id_ in ids) == 1
    assert len(doors.offline.site.store.due(after=0, limit=99)) >= len(ids) - 1
    assert "UCloud is told all again" not in caplog.text
    assert doors.offline.site.store.fact(UNTOLD) is not None


@pytest.mark.scenario(65)
def test_the_gateway_is_ready_while_only_ucloud_is_away_and_says_so(doors: Doors) -> None:
    doors.ucloud.down()
    assert doors.ask("POST", "/ucloud/example/jobs", {"items": [doors.job("1")]}, **doors.as_ucloud()).is_success
    wait_until(lambda: "UCloud" in str(doors.ask("GET", "/healthz").json()["why"]), "it is not said")
    wait_until(lambda: doors.ask("GET", "/healthz/ready").is_success, "it is not ready")
    doors.ucloud.know("1")
    doors.ucloud.up()
    wait_until(lambda: doors.ask("GET", "/healthz").json()["why"] is None, "it is said still")
    assert doors.ucloud.updates("1") != []


def test_a_ucloud_that_is_away_is_tried_less_and_less_often() -> None:
    assert [retry_after(failures, Limits()) for failures in (0, 1, 2, 3, 6, 5000)] == [0, 5, 10, 20, 120, 120]


@pytest.mark.scenario(69)
def test_a_job_that_is_not_known_here_is_told_to_be_gone(doors: Doors) -> None:
    verify = "/ucloud/example/jobs/verify"
    assert doors.ucloud.create(doors.job("4101")).status == 200
    wait_until(lambda: bool(doors.ucloud.updates("4101")), "UCloud was not told that it was submitted")
    doors.ucloud.know("4102", "4103")
    doors.ucloud.know("4104", state="SUCCESS")
    told = doors.ucloud.updates("4101")[:]
    forged = doors.job("4101") | {"providerGeneratedId": "another"}
    ended = doors.job("4104") | {"status": {"state": "SUCCESS"}}
    body = {"items": [forged, doors.job("4102"), doors.job("4103"), doors.job("4102"), doors.job("9"), ended]}
    for _ in range(2):
        answer = doors.ucloud.call(verify, body, user="alice")
        assert (answer.status, answer.json) == (200, {})
    for id_ in ("4102", "4103"):
        updates = [(update["state"], update["status"]) for update in doors.ucloud.updates(id_)]
        assert updates == [("FAILURE", "Your job is no longer available")]
    assert doors.ucloud.updates("4101") == told
    assert doors.ucloud.updates("4104") == []
    doors.ucloud.know("4105")
    doors.ucloud.down()
    assert doors.ask("POST", verify, {"items": [doors.job("4105")]}, **doors.as_ucloud()).status_code == 502
    doors.ucloud.up()
    assert doors.ask("POST", verify, {"items": [doors.job("4105")]}, **doors.as_ucloud()).json() == {}
    assert doors.ucloud.state("4105") == "FAILURE"

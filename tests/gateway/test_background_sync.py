"""UCloud submits jobs by the provider API, and the gateway's own syncs deliver their updates."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.gateway.background_sync import retry_after
from slurm_adapter.gateway.limits import Limits
from slurm_adapter.gateway.streams.log_follow import Following
from slurm_adapter.jobs import deliver
from slurm_adapter.jobs.deleted_in_ucloud import ASK_SECONDS, UNKNOWN_SECONDS
from slurm_adapter.jobs.report import UNDELIVERED
from slurm_adapter.ucloud.receiver import UcloudReceiver
from tests.gateway.api_site import ApiSite, opened, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from slurm_adapter.core.messages import Message
    from slurm_adapter.ucloud.interface import Delivery


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiSite]:
    with opened(tmp_path, limits=Limits(sync_interval=0.2, sync_share=1)) as made:
        yield made


def test_ucloud_is_told_of_a_job_from_its_queue_to_its_end(api: ApiSite) -> None:
    assert api.ucloud.create(api.job("4101")).status == 200
    record = api.offline.site.store.get("4101")
    api.slurm.start(api.offline.slurm_id(record))
    wait_until(lambda: api.ucloud.state("4101") == "RUNNING", "UCloud was not told that it runs")
    api.slurm.finish(api.offline.slurm_id(record))
    wait_until(lambda: api.ucloud.state("4101") == "SUCCESS", "UCloud was not told that it ended")
    told = [(update["state"], update["status"]) for update in api.ucloud.updates("4101")]
    assert told == [(update.state, update.status) for update in api.offline.site.store.updates("4101")]


def test_a_job_that_ucloud_deleted_is_ended(api: ApiSite) -> None:
    """As it does with one whose `create` was answered too late."""
    assert api.ucloud.create(api.job("4101")).status == 200
    record = api.offline.site.store.get("4101")
    api.slurm.start(api.offline.slurm_id(record))
    api.ucloud.forget("4101")
    api.slurm.now += ASK_SECONDS
    wait_until(lambda: api.offline.now(record).unknown_since is not None, "it was not asked for")
    api.slurm.now += UNKNOWN_SECONDS
    wait_until(lambda: api.offline.now(record).stage == "ended", "it goes on")
    assert api.offline.now(record).cancel_sent is not None
    assert api.offline.site.store.due(after=0, limit=9) == []


@pytest.mark.scenario(65)
def test_a_ucloud_that_hangs_holds_up_no_pass(api: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    assert api.ucloud.create(api.job("4101")).status == 200
    record = api.offline.site.store.get("4101")
    inner, begun, go_on = UcloudReceiver.deliver, threading.Event(), threading.Event()

    def hang(self: UcloudReceiver, messages: Sequence[Message]) -> Delivery:
        begun.set()
        assert go_on.wait(60)
        return inner(self, messages)

    monkeypatch.setattr(UcloudReceiver, "deliver", hang)
    api.slurm.start(api.offline.slurm_id(record))
    try:
        assert begun.wait(60)
        wait_until(lambda: api.offline.now(record).state == "RUNNING", "it was not seen to run")
        api.slurm.finish(api.offline.slurm_id(record))
        wait_until(lambda: api.offline.now(record).state == "SUCCESS", "it was not seen to end")
    finally:
        go_on.set()
    wait_until(lambda: api.ucloud.state("4101") == "SUCCESS", "UCloud was not told that it ended")


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
    with opened(tmp_path, limits=Limits(sync_interval=0.2, sync_share=1)) as api:
        api.ucloud.know(*ids)
        body = {"items": [api.job(id_) for id_ in ids]}
        assert api.ask("POST", "/ucloud/example/jobs", body, **api.as_ucloud()).is_success
        assert begun.wait(60)
        api.offline.site.store.set_fact(UNDELIVERED, "[]")
    assert sum(len(api.ucloud.updates(id_)) for id_ in ids) == 1
    assert len(api.offline.site.store.due(after=0, limit=99)) >= len(ids) - 1
    assert "updates to UCloud are delivered again" not in caplog.text
    assert api.offline.site.store.fact(UNDELIVERED) is not None


@pytest.mark.scenario(65)
def test_the_gateway_is_ready_while_only_ucloud_is_away_and_says_so(api: ApiSite) -> None:
    api.ucloud.down()
    assert api.ask("POST", "/ucloud/example/jobs", {"items": [api.job("1")]}, **api.as_ucloud()).is_success
    wait_until(lambda: "UCloud" in str(api.ask("GET", "/healthz").json()["why"]), "it is not said")
    wait_until(lambda: api.ask("GET", "/healthz/ready").is_success, "it is not ready")
    api.ucloud.know("1")
    api.ucloud.up()
    wait_until(lambda: api.ask("GET", "/healthz").json()["why"] is None, "it is said still")
    assert api.ucloud.updates("1") != []


def test_a_ucloud_that_is_away_is_tried_less_and_less_often() -> None:
    assert [retry_after(failures, Limits()) for failures in (0, 1, 2, 3, 6, 5000)] == [0, 5, 10, 20, 120, 120]


@pytest.mark.scenario(69)
def test_a_job_that_is_not_known_here_is_told_to_be_gone(api: ApiSite) -> None:
    verify = "/ucloud/example/jobs/verify"
    assert api.ucloud.create(api.job("4101")).status == 200
    waits = "Your job waits in the queue: Priority"
    wait_until(lambda: waits in str(api.ucloud.updates("4101")), "UCloud does not get the reason why it waits")
    api.ucloud.know("4102", "4103")
    api.ucloud.know("4104", state="SUCCESS")
    told = api.ucloud.updates("4101")[:]
    forged = api.job("4101") | {"providerGeneratedId": "another"}
    ended = api.job("4104") | {"status": {"state": "SUCCESS"}}
    body = {"items": [forged, api.job("4102"), api.job("4103"), api.job("4102"), api.job("9"), ended]}
    for _ in range(2):
        answer = api.ucloud.call(verify, body, user="alice")
        assert (answer.status, answer.json) == (200, {})
    for id_ in ("4102", "4103"):
        updates = [(update["state"], update["status"]) for update in api.ucloud.updates(id_)]
        assert updates == [("FAILURE", "Your job is no longer available")]
    assert api.ucloud.updates("4101") == told
    assert api.ucloud.updates("4104") == []
    api.ucloud.know("4105")
    api.ucloud.down()
    assert api.ask("POST", verify, {"items": [api.job("4105")]}, **api.as_ucloud()).status_code == 502
    api.ucloud.up()
    assert api.ask("POST", verify, {"items": [api.job("4105")]}, **api.as_ucloud()).json() == {}
    assert api.ucloud.state("4105") == "FAILURE"

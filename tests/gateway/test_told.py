"""UCloud hands in jobs at the gateway's door, and the gateway's own passes tell it what becomes of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.gateway import passes
from slurm_adapter.orphans import ASK_SECONDS, UNKNOWN_SECONDS
from tests.gateway.doors import Doors, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def doors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Doors]:
    monkeypatch.setattr(passes, "SECONDS", 0.2)
    with opened(tmp_path) as made:
        yield made


def wait_until(happened: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


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
    assert doors.offline.now(record).cancelled is not None
    assert doors.offline.site.store.due(after=0, limit=9) == []


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
    assert doors.ask("POST", verify, {"items": [doors.job("4105")]}, **doors.as_ucloud()).status_code == 503
    doors.ucloud.up()
    assert doors.ask("POST", verify, {"items": [doors.job("4105")]}, **doors.as_ucloud()).json() == {}
    assert doors.ucloud.state("4105") == "FAILURE"

"""Ending jobs over HTTP: answered in time, and done whatever comes between."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.core.records import Stage
from slurm_adapter.core.states import JobState
from slurm_adapter.gateway.limits import Limits
from slurm_adapter.jobs import cancel
from tests.gateway.api_site import ApiSite, opened, wait_until, within
from tests.offline import Offline, offline, peer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["offline"]

JOBS = "/ucloud/example/jobs"


@pytest.fixture
def limits() -> Limits:
    return Limits(sync_interval=0.2, sync_share=1)


@pytest.fixture
def api(tmp_path: Path, limits: Limits) -> Iterator[ApiSite]:
    with opened(tmp_path, limits=limits) as made:
        yield made


def start(api: ApiSite, *ids: str) -> None:
    """Jobs of UCloud's that run."""
    answer = api.ask("POST", JOBS, {"items": [api.job(id_) for id_ in ids]}, **api.as_ucloud())
    assert answer.status_code == 200, answer.text
    api.ucloud.know(*ids)
    for id_ in ids:
        api.slurm.start(api.offline.slurm_id(api.offline.site.store.get(id_)))


@pytest.mark.scenario(70)
@within(sync_interval=0.2, sync_share=1, cancel_answer=0.2)
def test_the_answer_does_not_wait_for_a_slurm_that_is_slow(api: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    start(api, "1", "2")
    inner, go_on, begun = api.slurm.cancel, threading.Event(), threading.Event()

    def slow(named: Mapping[int, str]) -> None:
        begun.set()
        assert go_on.wait(60)
        inner(named)

    monkeypatch.setattr(api.slurm, "cancel", slow)
    body = {"items": [api.job("1"), api.job("2")]}
    answer = api.ask("POST", f"{JOBS}/terminate", body, **api.as_ucloud())
    assert answer.json() == {"responses": [{}, {}]}
    assert begun.wait(60)
    go_on.set()
    wait_until(lambda: api.offline.now_stage("2") is Stage.ENDED, "it goes on")
    assert {record.state for record in api.offline.site.store.find(["1", "2"]).values()} == {JobState.SUCCESS}


def test_what_cannot_be_ended_during_an_outage_is_ended_after_it(api: ApiSite) -> None:
    start(api, "1")
    api.slurm.down = True
    answer = api.ask("POST", f"{JOBS}/terminate", {"items": [api.job("1")]}, **api.as_ucloud())
    assert answer.json() == {"responses": [{}]}
    api.slurm.now += cancel.CANCEL_AGAIN_SECONDS
    api.slurm.down = False
    wait_until(lambda: api.offline.now_stage("1") is Stage.ENDED, "it goes on")
    assert api.offline.site.store.get("1").cancel_sent is not None


@pytest.mark.scenario(70)
def test_a_pass_ends_what_a_crash_has_left(offline: Offline) -> None:
    runs, lives = offline.job(), offline.job()
    for record in (runs, lives):
        offline.run(record)
    offline.site.store.request_cancel([runs.slurm_name], offline.site.clock())
    offline.sync()
    assert offline.now(runs).cancel_sent is None, "whoever was asked has not had his time"
    offline.sync(cancel.CANCEL_AGAIN_SECONDS)
    offline.sync()
    assert (offline.now(runs).stage, offline.now(lives).stage) == (Stage.ENDED, Stage.SUBMITTED)
    assert offline.site.store.cancel_requested(offline.site.clock()) == []


def test_a_claim_whose_end_is_wanted_is_not_handed_over(offline: Offline) -> None:
    offline.slurm.lose_next("now")
    database = offline.job()
    claim = offline.job(resources=[peer("database", database)])
    offline.site.store.request_cancel([claim.slurm_name], offline.site.clock())
    offline.sync()
    assert (offline.now(database).stage, offline.now(claim).stage) == (Stage.SUBMITTED, Stage.CLAIMED)
    offline.sync(cancel.CANCEL_AGAIN_SECONDS)
    assert offline.now(claim).state is JobState.SUCCESS
    assert len(offline.slurm.submissions) == 1


def test_one_that_its_user_renamed_is_refused_once(offline: Offline) -> None:
    record = offline.job()
    offline.run(record)
    offline.slurm.change(offline.slurm_id(record), name="mine")
    offline.site.store.request_cancel([record.slurm_name], offline.site.clock())
    assert any("not cancelled" in each for each in offline.sync(cancel.CANCEL_AGAIN_SECONDS).account_problems)
    assert not any("not cancelled" in each for each in offline.sync(cancel.CANCEL_AGAIN_SECONDS).account_problems)


@pytest.mark.parametrize("path", ["terminate", "onUpdatedLabels"])
@within(sync_interval=0.2, sync_share=1, answer=0.2)
def test_a_database_that_is_held_is_502_and_the_work_is_done_later(api: ApiSite, path: str) -> None:
    start(api, "1")
    body = {"items": [api.job("1", labels={"a": "b"})]}
    with closing(sqlite3.connect(api.offline.config.state_dir / "jobs.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = api.ask("POST", f"{JOBS}/{path}", body, **api.as_ucloud())
        assert (answer.status_code, "database is busy" in answer.json()["why"]) == (502, True), answer.text
    again = partial(api.ask, "POST", f"{JOBS}/{path}", body, **api.as_ucloud())
    wait_until(lambda: again().status_code == 200, "the database is still busy")


@pytest.mark.scenario(70, 72)
def test_terminate_ends_what_is_known_under_its_own_name(api: ApiSite) -> None:
    known = api.as_ucloud()
    for id_ in ("1", "2"):
        assert api.ask("POST", JOBS, {"items": [api.job(id_)]}, **known).status_code == 200
    forged = [api.job("2") | {"providerGeneratedId": bad} for bad in ("acc/1/17", "'; rm -rf /", "a/b")]
    wanted = [api.job("1"), *forged, api.job("99")]
    answer = api.ask("POST", f"{JOBS}/terminate", {"items": wanted}, **known)
    assert answer.json() == {"responses": [{}] * len(wanted)}
    api.offline.sync()
    records = api.offline.site.store.find(["1", "2"])
    assert (records["1"].stage, records["1"].state) == (Stage.ENDED, "SUCCESS")
    assert records["2"].stage is Stage.SUBMITTED
    again = api.ask("POST", f"{JOBS}/terminate", {"items": [api.job("1")]}, **known)
    assert again.json() == {"responses": [{}]}

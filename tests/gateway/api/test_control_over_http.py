"""Extend, suspend, resume and live peers through both APIs."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.core.errors import AdapterError, Refused
from slurm_adapter.gateway import background_sync
from slurm_adapter.gateway.limits import Limits
from slurm_adapter.jobs import attach, control, unknown_here
from tests.gateway.api_site import ApiSite, opened, wait_until, within
from tests.ucloud_double import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import httpx

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import Record

JOBS = "/ucloud/example/jobs"
HOUR = {"hours": 1, "minutes": 0, "seconds": 0}


@pytest.fixture
def api(tmp_path: Path, limits: Limits) -> Iterator[ApiSite]:
    with opened(tmp_path, {"clusters": {"main": {"operator": ["true"]}}}, limits=limits) as api:
        yield api


def start(api: ApiSite, id_: str, **fields: Any) -> Record:
    """A job of UCloud's that runs."""
    answer = api.ask("POST", JOBS, {"items": [api.job(id_, **fields)]}, **api.as_ucloud())
    assert answer.status_code == 200, answer.text
    api.ucloud.know(id_)
    return api.offline.run(api.offline.site.store.get(id_))


@pytest.mark.scenario(73)
def test_ucloud_extends_a_job(api: ApiSite) -> None:
    start(api, "1", timeAllocation={"hours": 5, "minutes": 0, "seconds": 0})
    body = {"items": [{"job": api.job("1"), "requestedTime": HOUR}]}
    answer = api.ask("POST", f"{JOBS}/extend", body, **api.as_ucloud())
    assert answer.json() == {"responses": [{}]}
    assert api.offline.site.store.get("1").time_limit == 6 * 3600
    told = [each.more.get("newTimeAllocation") for each in api.offline.site.store.updates("1")]
    assert [each for each in told if each] == [21600000]
    too_much = {"items": [{"job": api.job("1"), "requestedTime": {"hours": 100, "minutes": 0, "seconds": 0}}]}
    assert api.ask("POST", f"{JOBS}/extend", too_much, **api.as_ucloud()).status_code == 400
    assert api.offline.site.store.get("1").time_limit == 6 * 3600
    unknown = {"items": [{"job": api.job("77"), "requestedTime": HOUR}]}
    assert api.ask("POST", f"{JOBS}/extend", unknown, **api.as_ucloud()).status_code == 404


@pytest.mark.scenario(73)
def test_an_operator_without_the_right_changes_no_limit(api: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    before = start(api, "1").time_limit
    told = api.offline.site.store.updates("1")
    body = {"items": [{"job": api.job("1"), "requestedTime": HOUR}]}

    def refuse(limits: Mapping[int, int]) -> Mapping[int, AdapterError]:
        return dict.fromkeys(limits, Refused("Access/permission denied"))

    monkeypatch.setattr(api.slurm, "set_time_limits", refuse)
    answer = api.ask("POST", f"{JOBS}/extend", body, **api.as_ucloud())
    assert (answer.status_code, "Access/permission denied" in answer.json()["why"]) == (400, True)
    assert api.offline.site.store.get("1").time_limit == before
    more = [each.more for each in api.offline.site.store.updates("1")[len(told) :]]
    assert not any("newTimeAllocation" in each for each in more)


@pytest.mark.scenario(75)
def test_ucloud_suspends_a_job_and_lets_it_run_on(api: ApiSite) -> None:
    start(api, "1")
    [support] = api.ask("GET", f"{JOBS}/retrieveProducts", **api.as_ucloud()).json()["responses"]
    assert (support["native"]["suspension"], support["native"]["timeExtension"]) == (True, True)
    body = {"items": [{"job": api.job("1")}]}
    for path, state in (("suspend", "SUSPENDED"), ("unsuspend", "RUNNING")):
        assert api.ask("POST", f"{JOBS}/{path}", body, **api.as_ucloud()).json() == {"responses": [{}]}
        api.offline.sync()
        assert api.offline.site.store.get("1").state == state


def test_users_do_the_same_with_their_own_jobs_only(api: ApiSite) -> None:
    alice, bob = api.token(), api.token("bob")
    made = api.ask("POST", "/api/jobs", {"items": [api.item()]}, **alice).json()
    id_ = made["responses"][0]["id"]
    api.offline.run(api.offline.site.store.get(id_))
    before = api.offline.site.store.get(id_).time_limit
    extension = {"items": [{"jobId": id_, "requestedTime": HOUR}]}
    named = {"items": [{"id": id_}]}
    for path, body in (("extend", extension), ("suspend", named), ("unsuspend", named)):
        assert api.ask("POST", f"/api/jobs/{path}", body, **bob).status_code == 404
        assert api.ask("POST", f"/api/jobs/{path}", body, **alice).json() == {"responses": [{}]}
    assert api.offline.site.store.get(id_).time_limit == before + 3600


@pytest.mark.scenario(13)
def test_without_an_operator_none_of_it_is_offered(tmp_path: Path) -> None:
    with opened(tmp_path) as api:
        start(api, "1")
        extension = {"items": [{"job": api.job("1"), "requestedTime": HOUR}]}
        named = {"items": [{"job": api.job("1")}]}
        for path, body in (("extend", extension), ("suspend", named), ("unsuspend", named)):
            answer = api.ask("POST", f"{JOBS}/{path}", body, **api.as_ucloud())
            assert answer.status_code == 400
            assert answer.json()["errorCode"] == "FEATURE_NOT_SUPPORTED_BY_PROVIDER"


@pytest.mark.scenario(81)
def test_ucloud_attaches_and_detaches_a_peer(api: ApiSite) -> None:
    start(api, "1")
    start(api, "2")
    peer = {"type": "peer", "hostname": "database", "jobId": "1"}
    start(api, "3", resources=[peer])
    change = {"job": api.job("3"), "resource": {"type": "peer", "hostname": "cache", "jobId": "2"}}
    assert api.ask("POST", f"{JOBS}/attachResource", change, **api.as_ucloud()).json() == {}
    assert "cache" in api.offline.view("3").read_text()
    lists = [each.more.get("resourceList") for each in api.offline.site.store.updates("3")]
    assert [len(each) for each in lists if each] == [2]
    assert api.ask("POST", f"{JOBS}/detachResource", change, **api.as_ucloud()).json() == {}
    assert "cache" not in api.offline.view("3").read_text()
    alone = {"job": api.job("1"), "resource": {"type": "peer", "hostname": "cache", "jobId": "2"}}
    refused = api.ask("POST", f"{JOBS}/attachResource", alone, **api.as_ucloud())
    assert (refused.status_code, "started without peers" in refused.json()["why"]) == (400, True)
    other = {"job": api.job("3"), "resource": {"type": "file", "path": "/1/a"}}
    assert api.ask("POST", f"{JOBS}/attachResource", other, **api.as_ucloud()).status_code == 400


@pytest.mark.parametrize(
    ("path", "where", "called"),
    [
        ("extend", control, "extend"),
        ("suspend", control, "suspend"),
        ("unsuspend", control, "resume"),
        ("attachResource", attach, "attach"),
        ("detachResource", attach, "detach"),
    ],
)
@within(answer=0.2)
def test_a_change_that_is_slow_is_answered_in_time_and_goes_on(
    api: ApiSite, monkeypatch: pytest.MonkeyPatch, path: str, where: Any, called: str
) -> None:
    start(api, "1")
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        begun.set()
        assert go_on.wait(60)
        done.set()

    monkeypatch.setattr(where, called, slow)
    job = api.job("1")
    item = {"job": job, "requestedTime": HOUR} if path == "extend" else {"job": job}
    body: Any = {"items": [item]}
    if path.endswith("Resource"):
        body = {"job": job, "resource": {"type": "peer", "hostname": "other", "jobId": "1"}}
    try:
        answer = api.ask("POST", f"{JOBS}/{path}", body, **api.as_ucloud())
        assert (answer.status_code, "Slurm has not confirmed" in answer.json()["why"]) == (400, True), answer.text
        assert begun.wait(60)
    finally:
        go_on.set()
    assert done.wait(60), "it goes on"


@pytest.mark.scenario(74)
@within(answer=60.0)
def test_requests_for_more_time_at_the_same_time_add_up(api: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    before = start(api, "1").time_limit
    inner, begun, go_on = control.extend, threading.Semaphore(0), threading.Event()

    def slow(site: Adapter, wanted: Sequence[tuple[str, int]]) -> list[Record]:
        begun.release()
        assert go_on.wait(60)
        return inner(site, wanted)

    def press(_: int) -> httpx.Response:
        body = {"items": [{"job": api.job("1"), "requestedTime": HOUR}]}
        return api.ask("POST", f"{JOBS}/extend", body, **api.as_ucloud())

    monkeypatch.setattr(control, "extend", slow)
    with ThreadPoolExecutor(2) as threads:
        answers = threads.map(press, range(2))
        try:
            for _ in range(2):
                assert begun.acquire(timeout=60), "one waits for the other"
        finally:
            go_on.set()
        assert [answer.json() for answer in answers] == [{"responses": [{}]}] * 2
    assert api.offline.site.store.get("1").time_limit == before + 2 * 3600


@within(answer=1.5)
def test_who_asks_once_more_while_an_answer_is_late_is_not_given_the_time_twice(
    api: ApiSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = start(api, "1").time_limit
    start(api, "2")
    inner, begun, go_on, done = control.extend, threading.Event(), threading.Event(), threading.Event()

    def slow(site: Adapter, wanted: Sequence[tuple[str, int]]) -> None:
        begun.set()
        assert go_on.wait(60)
        inner(site, wanted)
        done.set()

    def press(*ids: str) -> httpx.Response:
        items = [{"job": api.job(id_), "requestedTime": HOUR} for id_ in ids]
        return api.ask("POST", f"{JOBS}/extend", {"items": items}, **api.as_ucloud())

    with monkeypatch.context() as patch:
        patch.setattr(control, "extend", slow)
        try:
            assert (press("1").status_code, begun.wait(60)) == (400, True)
            patch.setattr(control, "extend", inner)
            own = {"items": [{"jobId": "1", "requestedTime": HOUR}]}
            for again in (press("1"), press("2", "1"), api.ask("POST", "/api/jobs/extend", own, **api.token())):
                assert again.status_code == 400
                assert "an earlier request to extend job 1 is still running" in again.json()["why"]
            assert api.ask("POST", "/api/jobs/extend", own, **api.token("bob")).status_code == 404
        finally:
            go_on.set()
    assert done.wait(60)
    assert [api.offline.site.store.get(id_).time_limit for id_ in ("1", "2")] == [before + 3600, before]
    wait_until(lambda: press("1").status_code == 200, "it is never extended again")
    assert api.offline.site.store.get("1").time_limit == before + 2 * 3600


def test_a_pass_comes_soon_after_a_change_that_has_ended_behind_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[None] = []
    inner, begun, go_on = background_sync.sync_once, threading.Event(), threading.Event()

    def counted(site: Adapter) -> tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]:
        found = inner(site)
        made.append(None)
        return found

    def slow(*_: object) -> None:
        begun.set()
        assert go_on.wait(60)

    monkeypatch.setattr(background_sync, "sync_once", counted)
    monkeypatch.setattr(control, "suspend", slow)
    limits = Limits(sync_interval=3600, sync_interval_at_most=3600, answer=0.2)
    with opened(tmp_path, {"clusters": {"main": {"operator": ["true"]}}}, limits=limits) as api:
        wait_until(lambda: len(made) == 1, "no pass at first")
        start(api, "1")
        wait_until(lambda: len(made) == 2, "no pass after a submission")
        try:
            answer = api.ask("POST", f"{JOBS}/suspend", {"items": [{"job": api.job("1")}]}, **api.as_ucloud())
            assert answer.status_code == 400
            assert begun.wait(60)
            assert len(made) == 2
        finally:
            go_on.set()
        wait_until(lambda: len(made) == 3, "no pass after the change")


def test_what_is_answered_in_time_is_answered_before_ucloud_has_given_up() -> None:
    """The tests of it make the times short."""
    limits = Limits()
    longest = (limits.answer, limits.claim_answer, limits.cancel_answer, limits.verify_answer)
    assert max(longest) < TIMEOUT


@within(verify_answer=0.2)
def test_verify_is_answered_in_time_and_goes_on(api: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, done = threading.Event(), threading.Event()

    def slow(*_: object) -> list[str]:
        assert go_on.wait(60)
        done.set()
        return []

    monkeypatch.setattr(unknown_here, "verify", slow)
    try:
        answer = api.ask("POST", f"{JOBS}/verify", {"items": [api.job("1")]}, **api.as_ucloud())
        assert (answer.status_code, answer.json()) == (200, {})
    finally:
        go_on.set()
    assert done.wait(60), "it goes on"

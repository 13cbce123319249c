"""Extend, suspend, resume and live peers through both doors."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.core.errors import AdapterError, Refused
from slurm_adapter.gateway import background_sync
from slurm_adapter.gateway.limits import Limits
from slurm_adapter.jobs import attach, control, unknown_here
from tests.gateway.doors import Doors, opened, wait_until, within
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
def doors(tmp_path: Path, limits: Limits) -> Iterator[Doors]:
    with opened(tmp_path, {"clusters": {"main": {"operator": ["true"]}}}, limits=limits) as doors:
        yield doors


def start(doors: Doors, id_: str, **fields: Any) -> Record:
    """A job of UCloud's that runs."""
    answer = doors.ask("POST", JOBS, {"items": [doors.job(id_, **fields)]}, **doors.as_ucloud())
    assert answer.status_code == 200, answer.text
    doors.ucloud.know(id_)
    return doors.offline.run(doors.offline.site.store.get(id_))


@pytest.mark.scenario(73)
def test_ucloud_extends_a_job(doors: Doors) -> None:
    start(doors, "1", timeAllocation={"hours": 5, "minutes": 0, "seconds": 0})
    body = {"items": [{"job": doors.job("1"), "requestedTime": HOUR}]}
    answer = doors.ask("POST", f"{JOBS}/extend", body, **doors.as_ucloud())
    assert answer.json() == {"responses": [{}]}
    assert doors.offline.site.store.get("1").time_limit == 6 * 3600
    told = [each.more.get("newTimeAllocation") for each in doors.offline.site.store.updates("1")]
    assert [each for each in told if each] == [21600000]
    too_much = {"items": [{"job": doors.job("1"), "requestedTime": {"hours": 100, "minutes": 0, "seconds": 0}}]}
    assert doors.ask("POST", f"{JOBS}/extend", too_much, **doors.as_ucloud()).status_code == 400
    assert doors.offline.site.store.get("1").time_limit == 6 * 3600
    unknown = {"items": [{"job": doors.job("77"), "requestedTime": HOUR}]}
    assert doors.ask("POST", f"{JOBS}/extend", unknown, **doors.as_ucloud()).status_code == 404


@pytest.mark.scenario(73)
def test_an_operator_without_the_right_changes_no_limit(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    before = start(doors, "1").time_limit
    told = doors.offline.site.store.updates("1")
    body = {"items": [{"job": doors.job("1"), "requestedTime": HOUR}]}

    def refuse(limits: Mapping[int, int]) -> Mapping[int, AdapterError]:
        return dict.fromkeys(limits, Refused("Access/permission denied"))

    monkeypatch.setattr(doors.slurm, "set_time_limits", refuse)
    answer = doors.ask("POST", f"{JOBS}/extend", body, **doors.as_ucloud())
    assert (answer.status_code, "Access/permission denied" in answer.json()["why"]) == (400, True)
    assert doors.offline.site.store.get("1").time_limit == before
    more = [each.more for each in doors.offline.site.store.updates("1")[len(told) :]]
    assert not any("newTimeAllocation" in each for each in more)


@pytest.mark.scenario(75)
def test_ucloud_suspends_a_job_and_lets_it_run_on(doors: Doors) -> None:
    start(doors, "1")
    [support] = doors.ask("GET", f"{JOBS}/retrieveProducts", **doors.as_ucloud()).json()["responses"]
    assert (support["native"]["suspension"], support["native"]["timeExtension"]) == (True, True)
    body = {"items": [{"job": doors.job("1")}]}
    for path, state in (("suspend", "SUSPENDED"), ("unsuspend", "RUNNING")):
        assert doors.ask("POST", f"{JOBS}/{path}", body, **doors.as_ucloud()).json() == {"responses": [{}]}
        doors.offline.sync()
        assert doors.offline.site.store.get("1").state == state


def test_users_do_the_same_with_their_own_jobs_only(doors: Doors) -> None:
    alice, bob = doors.token(), doors.token("bob")
    made = doors.ask("POST", "/api/jobs", {"items": [doors.item()]}, **alice).json()
    id_ = made["responses"][0]["id"]
    doors.offline.run(doors.offline.site.store.get(id_))
    before = doors.offline.site.store.get(id_).time_limit
    extension = {"items": [{"jobId": id_, "requestedTime": HOUR}]}
    named = {"items": [{"id": id_}]}
    for path, body in (("extend", extension), ("suspend", named), ("unsuspend", named)):
        assert doors.ask("POST", f"/api/jobs/{path}", body, **bob).status_code == 404
        assert doors.ask("POST", f"/api/jobs/{path}", body, **alice).json() == {"responses": [{}]}
    assert doors.offline.site.store.get(id_).time_limit == before + 3600


@pytest.mark.scenario(13)
def test_without_an_operator_none_of_it_is_offered(tmp_path: Path) -> None:
    with opened(tmp_path) as doors:
        start(doors, "1")
        extension = {"items": [{"job": doors.job("1"), "requestedTime": HOUR}]}
        named = {"items": [{"job": doors.job("1")}]}
        for path, body in (("extend", extension), ("suspend", named), ("unsuspend", named)):
            answer = doors.ask("POST", f"{JOBS}/{path}", body, **doors.as_ucloud())
            assert answer.status_code == 400
            assert answer.json()["errorCode"] == "FEATURE_NOT_SUPPORTED_BY_PROVIDER"


@pytest.mark.scenario(81)
def test_ucloud_attaches_and_detaches_a_peer(doors: Doors) -> None:
    start(doors, "1")
    start(doors, "2")
    peer = {"type": "peer", "hostname": "database", "jobId": "1"}
    start(doors, "3", resources=[peer])
    change = {"job": doors.job("3"), "resource": {"type": "peer", "hostname": "cache", "jobId": "2"}}
    assert doors.ask("POST", f"{JOBS}/attachResource", change, **doors.as_ucloud()).json() == {}
    assert "cache" in doors.offline.view("3").read_text()
    lists = [each.more.get("resourceList") for each in doors.offline.site.store.updates("3")]
    assert [len(each) for each in lists if each] == [2]
    assert doors.ask("POST", f"{JOBS}/detachResource", change, **doors.as_ucloud()).json() == {}
    assert "cache" not in doors.offline.view("3").read_text()
    alone = {"job": doors.job("1"), "resource": {"type": "peer", "hostname": "cache", "jobId": "2"}}
    refused = doors.ask("POST", f"{JOBS}/attachResource", alone, **doors.as_ucloud())
    assert (refused.status_code, "started without peers" in refused.json()["why"]) == (400, True)
    other = {"job": doors.job("3"), "resource": {"type": "file", "path": "/1/a"}}
    assert doors.ask("POST", f"{JOBS}/attachResource", other, **doors.as_ucloud()).status_code == 400


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
    doors: Doors, monkeypatch: pytest.MonkeyPatch, path: str, where: Any, called: str
) -> None:
    start(doors, "1")
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        begun.set()
        assert go_on.wait(60)
        done.set()

    monkeypatch.setattr(where, called, slow)
    job = doors.job("1")
    item = {"job": job, "requestedTime": HOUR} if path == "extend" else {"job": job}
    body: Any = {"items": [item]}
    if path.endswith("Resource"):
        body = {"job": job, "resource": {"type": "peer", "hostname": "other", "jobId": "1"}}
    try:
        answer = doors.ask("POST", f"{JOBS}/{path}", body, **doors.as_ucloud())
        assert (answer.status_code, "Slurm has not confirmed" in answer.json()["why"]) == (400, True), answer.text
        assert begun.wait(60)
    finally:
        go_on.set()
    assert done.wait(60), "it goes on"


@pytest.mark.scenario(74)
@within(answer=60.0)
def test_requests_for_more_time_at_the_same_time_add_up(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    before = start(doors, "1").time_limit
    inner, begun, go_on = control.extend, threading.Semaphore(0), threading.Event()

    def slow(site: Adapter, wanted: Sequence[tuple[str, int]]) -> list[Record]:
        begun.release()
        assert go_on.wait(60)
        return inner(site, wanted)

    def press(_: int) -> httpx.Response:
        body = {"items": [{"job": doors.job("1"), "requestedTime": HOUR}]}
        return doors.ask("POST", f"{JOBS}/extend", body, **doors.as_ucloud())

    monkeypatch.setattr(control, "extend", slow)
    with ThreadPoolExecutor(2) as threads:
        answers = threads.map(press, range(2))
        try:
            for _ in range(2):
                assert begun.acquire(timeout=60), "one waits for the other"
        finally:
            go_on.set()
        assert [answer.json() for answer in answers] == [{"responses": [{}]}] * 2
    assert doors.offline.site.store.get("1").time_limit == before + 2 * 3600


@within(answer=1.5)
def test_who_asks_once_more_while_an_answer_is_late_is_not_given_the_time_twice(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = start(doors, "1").time_limit
    start(doors, "2")
    inner, begun, go_on, done = control.extend, threading.Event(), threading.Event(), threading.Event()

    def slow(site: Adapter, wanted: Sequence[tuple[str, int]]) -> None:
        begun.set()
        assert go_on.wait(60)
        inner(site, wanted)
        done.set()

    def press(*ids: str) -> httpx.Response:
        items = [{"job": doors.job(id_), "requestedTime": HOUR} for id_ in ids]
        return doors.ask("POST", f"{JOBS}/extend", {"items": items}, **doors.as_ucloud())

    with monkeypatch.context() as patch:
        patch.setattr(control, "extend", slow)
        try:
            assert (press("1").status_code, begun.wait(60)) == (400, True)
            patch.setattr(control, "extend", inner)
            own = {"items": [{"jobId": "1", "requestedTime": HOUR}]}
            for again in (press("1"), press("2", "1"), doors.ask("POST", "/api/jobs/extend", own, **doors.token())):
                assert again.status_code == 400
                assert "an earlier request to extend job 1 is still running" in again.json()["why"]
            assert doors.ask("POST", "/api/jobs/extend", own, **doors.token("bob")).status_code == 404
        finally:
            go_on.set()
    assert done.wait(60)
    assert [doors.offline.site.store.get(id_).time_limit for id_ in ("1", "2")] == [before + 3600, before]
    wait_until(lambda: press("1").status_code == 200, "it is never extended again")
    assert doors.offline.site.store.get("1").time_limit == before + 2 * 3600


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
    with opened(tmp_path, {"clusters": {"main": {"operator": ["true"]}}}, limits=limits) as doors:
        wait_until(lambda: len(made) == 1, "no pass at first")
        start(doors, "1")
        wait_until(lambda: len(made) == 2, "no pass after a submission")
        try:
            answer = doors.ask("POST", f"{JOBS}/suspend", {"items": [{"job": doors.job("1")}]}, **doors.as_ucloud())
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
def test_verify_is_answered_in_time_and_goes_on(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, done = threading.Event(), threading.Event()

    def slow(*_: object) -> list[str]:
        assert go_on.wait(60)
        done.set()
        return []

    monkeypatch.setattr(unknown_here, "verify", slow)
    try:
        answer = doors.ask("POST", f"{JOBS}/verify", {"items": [doors.job("1")]}, **doors.as_ucloud())
        assert (answer.status_code, answer.json()) == (200, {})
    finally:
        go_on.set()
    assert done.wait(60), "it goes on"

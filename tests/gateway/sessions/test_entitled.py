"""Sessions act as the account of a job's owner, so nobody else opens them; what only shows the job stays shared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.gateway.doors import Doors, opened
from tests.gateway.sessions.test_web import SETTINGS, never_sync

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from slurm_adapter.core.records import Record, RecordChange

KINDS = ("SHELL", "WEB", "VNC")
PROJECT = {"Project": "physics"}


@pytest.fixture
def more() -> dict[str, Any]:
    """What the site sets besides."""
    return {}


@pytest.fixture
def doors(tmp_path: Path, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Doors]:
    """Both doors."""
    monkeypatch.setattr("slurm_adapter.gateway.http.app.sync_forever", never_sync)
    with opened(tmp_path, {"gateway": {**SETTINGS, **more}}) as both:
        yield both


@pytest.fixture
def record(doors: Doors) -> Record:
    """A job of alice in a project, which UCloud sent, that runs and has interfaces."""
    job = doors.job("4101")
    job["owner"]["project"] = "physics"
    answer = doors.ask("POST", "/ucloud/example/jobs", {"items": [job]}, **doors.as_ucloud())
    assert answer.status_code == 200, answer.text
    found = doors.offline.run(doors.offline.site.store.get("4101"))
    change: RecordChange = {"addresses": (("127.0.0.1",),), "web_port": 8080, "vnc_port": 5900}
    doors.offline.site.store.change([(found, change)], doors.offline.slurm.now)
    return doors.offline.now(found)


def as_user(doors: Doors, kind: str, user: str) -> httpx.Response:
    """A member of the project asks for a session."""
    body = {"items": [{"id": "4101", "rank": 0, "sessionType": kind}]}
    return doors.ask("POST", "/api/jobs/interactiveSession", body, **PROJECT, **doors.token(user, "physics"))


def as_ucloud(doors: Doors, kind: str, user: str | None) -> httpx.Response:
    """UCloud asks for a session, for the user whom it names."""
    body = {"items": [{"job": doors.job("4101"), "rank": 0, "sessionType": kind}]}
    return doors.ask("POST", "/ucloud/example/jobs/interactiveSession", body, **doors.as_ucloud(user))


@pytest.mark.usefixtures("record")
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_owner_opens_sessions(doors: Doors, kind: str) -> None:
    for answer in (as_user(doors, kind, "alice"), as_ucloud(doors, kind, "alice")):
        assert answer.status_code == 200, answer.text
    for answer in (as_user(doors, kind, "bob"), as_ucloud(doors, kind, "bob"), as_ucloud(doors, kind, "Alice")):
        assert answer.status_code == 403
        assert "account of 'alice'" in answer.json()["why"]
    nobody = as_ucloud(doors, kind, None)
    assert (nobody.status_code, "did not name the user" in nobody.json()["why"]) == (403, True)


@pytest.mark.parametrize("more", [{"project_sessions": True}])
@pytest.mark.usefixtures("record")
def test_a_site_lets_members_of_the_project_in(doors: Doors) -> None:
    for kind in KINDS:
        assert as_user(doors, kind, "bob").status_code == 200
        assert as_ucloud(doors, kind, "bob").status_code == 200
    strangers = doors.token("bob")
    body = {"items": [{"id": "4101", "rank": 0, "sessionType": "SHELL"}]}
    assert doors.ask("POST", "/api/jobs/interactiveSession", body, **strangers).status_code == 404


def test_one_foreign_job_among_own_ones_opens_none(doors: Doors, record: Record) -> None:
    own = doors.offline.run(doors.offline.job(user="bob", project="physics"))
    items = [{"id": id_, "rank": 0, "sessionType": "SHELL"} for id_ in (own.id, record.id)]
    token = PROJECT | doors.token("bob", "physics")
    answer = doors.ask("POST", "/api/jobs/interactiveSession", {"items": items}, **token)
    assert answer.status_code == 403
    answer = doors.ask("POST", "/api/jobs/interactiveSession", {"items": items[:1]}, **token)
    assert answer.status_code == 200, answer.text


def test_an_account_that_is_the_users_no_more_opens_nothing(doors: Doors, record: Record) -> None:
    doors.offline.site.store.change([(record, {"account": "bob"})], doors.offline.slurm.now)
    answer = as_user(doors, "SHELL", "alice")
    assert (answer.status_code, "runs as bob" in answer.json()["why"]) == (403, True)


@pytest.mark.usefixtures("record")
def test_what_only_shows_or_ends_a_job_stays_the_projects(doors: Doors) -> None:
    token = PROJECT | doors.token("bob", "physics")
    assert doors.ask("GET", "/api/jobs/retrieve?id=4101", **token).status_code == 200
    assert doors.ask("POST", "/api/jobs/terminate", {"items": [{"id": "4101"}]}, **token).status_code == 200

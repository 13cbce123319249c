"""Sessions act as the account of a job's owner, so nobody else opens them; what only shows the job stays shared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.gateway.api_site import ApiSite, opened
from tests.gateway.sessions.web_ground import SETTINGS, never_sync

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
def api(tmp_path: Path, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiSite]:
    """Both APIs."""
    monkeypatch.setattr("slurm_adapter.gateway.http.app.sync_forever", never_sync)
    with opened(tmp_path, {"gateway": {**SETTINGS, **more}}) as both:
        yield both


@pytest.fixture
def record(api: ApiSite) -> Record:
    """A job of alice in a project, which UCloud sent, that runs and has interfaces."""
    job = api.job("4101")
    job["owner"]["project"] = "physics"
    answer = api.ask("POST", "/ucloud/example/jobs", {"items": [job]}, **api.as_ucloud())
    assert answer.status_code == 200, answer.text
    found = api.offline.run(api.offline.site.store.get("4101"))
    change: RecordChange = {"addresses": (("127.0.0.1",),), "web_port": 8080, "vnc_port": 5900}
    api.offline.site.store.change([(found, change)], api.offline.slurm.now)
    return api.offline.now(found)


def as_user(api: ApiSite, kind: str, user: str) -> httpx.Response:
    """A member of the project asks for a session."""
    body = {"items": [{"id": "4101", "rank": 0, "sessionType": kind}]}
    return api.ask("POST", "/api/jobs/interactiveSession", body, **PROJECT, **api.token(user, "physics"))


def as_ucloud(api: ApiSite, kind: str, user: str | None) -> httpx.Response:
    """UCloud asks for a session, for the user whom it names."""
    body = {"items": [{"job": api.job("4101"), "rank": 0, "sessionType": kind}]}
    return api.ask("POST", "/ucloud/example/jobs/interactiveSession", body, **api.as_ucloud(user))


@pytest.mark.usefixtures("record")
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_owner_opens_sessions(api: ApiSite, kind: str) -> None:
    for answer in (as_user(api, kind, "alice"), as_ucloud(api, kind, "alice")):
        assert answer.status_code == 200, answer.text
    for answer in (as_user(api, kind, "bob"), as_ucloud(api, kind, "bob"), as_ucloud(api, kind, "Alice")):
        assert answer.status_code == 403
        assert "account of 'alice'" in answer.json()["why"]
    nobody = as_ucloud(api, kind, None)
    assert (nobody.status_code, "did not name the user" in nobody.json()["why"]) == (403, True)


@pytest.mark.parametrize("more", [{"project_sessions": True}])
@pytest.mark.usefixtures("record")
def test_a_site_lets_members_of_the_project_in(api: ApiSite) -> None:
    for kind in KINDS:
        assert as_user(api, kind, "bob").status_code == 200
        assert as_ucloud(api, kind, "bob").status_code == 200
    strangers = api.token("bob")
    body = {"items": [{"id": "4101", "rank": 0, "sessionType": "SHELL"}]}
    assert api.ask("POST", "/api/jobs/interactiveSession", body, **strangers).status_code == 404


def test_one_foreign_job_among_own_ones_opens_none(api: ApiSite, record: Record) -> None:
    own = api.offline.run(api.offline.job(user="bob", project="physics"))
    items = [{"id": id_, "rank": 0, "sessionType": "SHELL"} for id_ in (own.id, record.id)]
    token = PROJECT | api.token("bob", "physics")
    answer = api.ask("POST", "/api/jobs/interactiveSession", {"items": items}, **token)
    assert answer.status_code == 403
    answer = api.ask("POST", "/api/jobs/interactiveSession", {"items": items[:1]}, **token)
    assert answer.status_code == 200, answer.text


def test_an_account_that_is_the_users_no_more_opens_nothing(api: ApiSite, record: Record) -> None:
    api.offline.site.store.change([(record, {"account": "bob"})], api.offline.slurm.now)
    answer = as_user(api, "SHELL", "alice")
    assert (answer.status_code, "runs as bob" in answer.json()["why"]) == (403, True)


@pytest.mark.usefixtures("record")
def test_what_only_shows_or_ends_a_job_stays_the_projects(api: ApiSite) -> None:
    token = PROJECT | api.token("bob", "physics")
    assert api.ask("GET", "/api/jobs/retrieve?id=4101", **token).status_code == 200
    assert api.ask("POST", "/api/jobs/terminate", {"items": [{"id": "4101"}]}, **token).status_code == 200

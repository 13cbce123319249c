"""UCloud takes a job from a user, and his sessions with it are over; those of others are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from slurm_adapter.gateway.limits import Limits
from tests.gateway.api_site import ApiSite, opened
from tests.gateway.sessions.test_shell import SRUN, browser
from tests.gateway.sessions.web_ground import SETTINGS, application, never_sync
from tests.gateway.tls import TLS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slurm_adapter.core.records import RecordChange

__all__ = ["application"]

JOBS = "/ucloud/example/jobs"


@pytest.fixture
def api(tmp_path: Path, application: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiSite]:
    """Both APIs, and alice's jobs 1 and 2, which run and show something."""
    monkeypatch.setattr("slurm_adapter.gateway.http.app.sync_forever", never_sync)
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "srun").write_text(SRUN)
    (tmp_path / "slurm" / "srun").chmod(0o755)
    more = {
        "gateway": SETTINGS | {"project_sessions": True},
        "clusters": {"main": {"path": f"{tmp_path}/slurm:/usr/bin:/bin"}},
    }
    with opened(tmp_path, more, limits=Limits(permission_check=0.1)) as both:
        for id_ in ("1", "2"):
            answer = both.ask("POST", JOBS, {"items": [both.job(id_)]}, **both.as_ucloud())
            assert answer.status_code == 200, answer.text
            record = both.offline.run(both.offline.site.store.get(id_))
            change: RecordChange = {"addresses": (("127.0.0.1",),), "web_port": application}
            both.offline.site.store.change([(record, change)], both.offline.slurm.now)
        yield both


def open_session(api: ApiSite, user: str | None, id_: str = "1", kind: str = "WEB") -> dict[str, Any]:
    """UCloud asks for a session, for this user."""
    body = {"items": [{"job": api.job(id_), "rank": 0, "sessionType": kind}]}
    answer = api.ask("POST", f"{JOBS}/interactiveSession", body, **api.as_ucloud(user))
    assert answer.status_code == 200, answer.text
    [session] = answer.json()["responses"]
    return dict(session)


class Visitor:
    """A browser with a session of its own."""

    def __init__(self, api: ApiSite, user: str | None, id_: str = "1") -> None:
        self.api = api
        self.link = urlsplit(open_session(api, user, id_)["redirectClientTo"])
        self.cookie: dict[str, str] = {}

    def enter(self) -> None:
        """Follow the link."""
        answer = self._get(f"{self.link.path}?{self.link.query}")
        self.cookie = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}

    def look(self) -> int:
        """The status of the application's answer."""
        return self._get("/x").status_code

    def _get(self, path: str) -> httpx.Response:
        headers = {"Host": self.link.netloc, **self.cookie}
        return httpx.get(f"{self.api.url}{path}", headers=headers, timeout=30, verify=TLS)


def delete(api: ApiSite, *entities: dict[str, Any], id_: str = "1") -> None:
    """UCloud tells that these may no longer use a job."""
    items = [{"resource": api.job(id_), "added": None, "deleted": [each]} for each in entities]
    answer = api.ask("POST", f"{JOBS}/updateAcl", {"items": items}, **api.as_ucloud())
    assert (answer.status_code, answer.json()) == (200, {"responses": [{}] * len(items)})


USER = {"projectId": None, "group": None}


@pytest.mark.scenario(80)
def test_the_sessions_of_a_user_who_was_deleted_are_over(api: ApiSite) -> None:
    owner, bob, late, carol, elsewhere = (
        Visitor(api, *who) for who in (("alice",), ("bob",), ("bob",), ("carol",), ("bob", "2"))
    )
    for each in (owner, bob, carol, elsewhere):
        each.enter()
        assert each.look() == 207
    delete(api, {"type": "user", "username": "dave", **USER}, {"type": "user", "username": "bob", **USER})
    late.enter()  # his link was made before
    assert [each.look() for each in (bob, late, owner, carol, elsewhere)] == [401, 401, 207, 207, 207]
    again = Visitor(api, "bob")  # UCloud would not ask for it, unless he may
    again.enter()
    assert again.look() == 207
    delete(api, {"type": "user", "username": "alice", **USER})
    assert owner.look() == 207, "it is her job"


@pytest.mark.scenario(80)
def test_of_a_group_all_but_the_owners_are_over_and_have_others_opened(api: ApiSite) -> None:
    owner, carol, nameless, elsewhere = (
        Visitor(api, *who) for who in (("alice",), ("carol",), (None,), ("carol", "2"))
    )
    for each in (owner, carol, nameless, elsewhere):
        each.enter()
    delete(api, {"type": "project_group", "projectId": "p", "group": "g", "username": None})
    assert [each.look() for each in (owner, carol, nameless, elsewhere)] == [207, 401, 401, 207]


@pytest.mark.scenario(80)
def test_what_is_open_is_closed(api: ApiSite) -> None:
    """A WebSocket of the application, and a shell; a shell that was not opened yet is not."""
    bob = Visitor(api, "bob")
    bob.enter()
    host, _, port = api.url.removeprefix("http://").partition(":")
    shells = [open_session(api, "bob", kind="SHELL")["sessionIdentifier"] for _ in range(2)]
    with (
        connect(
            f"ws://{bob.link.netloc}/talk", address=(host, int(port)), additional_headers=bob.cookie, proxy=None
        ) as talk,
        browser(api) as one,
        browser(api) as other,
    ):
        talk.recv(timeout=30)
        one.call(type="initialize", sessionIdentifier=shells[0])
        one.until("ready")
        delete(api, {"type": "user", "username": "bob", **USER})
        with pytest.raises(ConnectionClosed, match="this session has ended"):
            talk.recv(timeout=30)
        assert one.response()["status"] == 401
        other.call(type="initialize", sessionIdentifier=shells[1])
        assert other.response()["status"] == 401
        assert "ready" not in other.text

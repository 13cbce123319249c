"""Shells in folders, over a site whose login node is this machine."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.gateway.sessions import folder_shell
from slurm_adapter.gateway.thread_pools import ThreadPools
from slurm_adapter.jobs import shells
from tests.gateway.api_site import WIRE, ApiSite, opened, wait_until, within
from tests.gateway.sessions.test_shell import browser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx

    from slurm_adapter.gateway.limits import Limits

PATH = "jobs/openTerminalInFolder"


def site(folder: Path, **gateway: Any) -> dict[str, Any]:
    """What the site's file says: drives of everybody, of bob, and of a project, and each user's own by a pattern."""
    for drive in ("123", "bobs", "shared", "own/alice/alice-7"):
        (folder / "drives" / drive / "x").mkdir(parents=True)
    (folder / "drives" / "123" / "file").touch()
    (folder / "drives" / "123" / "out").symlink_to(folder / "drives" / "bobs")
    (folder / "drives" / "123" / "in").symlink_to(folder / "drives" / "123" / "x")
    return {
        "gateway": {"url": "https://gateway.example.org", "folder_shells": True, **gateway},
        "drives": [
            {"id": "123", "path": f"{folder}/drives/123"},
            {"id": "bobs", "path": f"{folder}/drives/bobs", "users": ["bob"]},
            {"id": "shared", "path": f"{folder}/drives/shared", "projects": ["p1"]},
        ],
        "drive_pattern": {"user": f"{folder}/drives/own/{{account}}/{{user}}-{{drive}}"},
    }


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiSite]:
    """Both APIs, for tests that change nothing there."""
    folder = tmp_path_factory.mktemp("shared")
    with opened(folder, site(folder)) as api:
        yield api


@pytest.fixture
def api(tmp_path: Path, limits: Limits) -> Iterator[ApiSite]:
    """Both APIs, of a site with shells in folders."""
    with opened(tmp_path, site(tmp_path), limits=limits) as both:
        yield both


def ask(api: ApiSite, *folders: str, user: str = "alice", project: str | None = None) -> httpx.Response:
    """A user asks for sessions."""
    body = {"items": [{"folder": folder} for folder in folders]}
    named = {} if project is None else {"Project": project}
    known = api.token(user, *([] if project is None else [project]))
    return api.ask("POST", f"/api/{PATH}", body, **known, **named)


def ask_as_ucloud(api: ApiSite, *folders: str, user: str | None = "alice") -> httpx.Response:
    """UCloud does, for a user."""
    body = {"items": [{"folder": folder} for folder in folders]}
    named = {} if user is None else {"ucloud-username": b64encode(user.encode()).decode()}
    return api.ask("POST", f"/ucloud/example/{PATH}", body, **api.as_ucloud(), **named)


def identifier(answer: httpx.Response) -> str:
    """What a browser shows for the first of the sessions."""
    assert answer.status_code == 200, answer.text
    first = answer.json()["responses"][0]
    found: str = first.get("session", first)["sessionIdentifier"]
    return found


def where(api: ApiSite, session: str) -> str:
    """The folder in which a session's shell says that it is."""
    with browser(api, f"?session={session}") as one:
        one.call(type="initialize")
        one.call("2", type="input", data="echo \"<$(pwd -P)>\"'<end>'; exit\n")
        one.until("<end>\r\n")
        return one.text.rpartition("<end>\r\n")[0].rpartition("<")[2].rstrip(">")


def test_both_apis_give_shells_in_folders(api: ApiSite, tmp_path: Path) -> None:
    mine = ask(api, "/123/x", "/123")
    assert [each["session"]["jobId"] for each in mine.json()["responses"]] == ["/123/x", "/123"]
    assert mine.json()["responses"][0]["providerDomain"] == "https://gateway.example.org"
    assert where(api, identifier(mine)) == f"{tmp_path}/drives/123/x"
    request = json.loads((WIRE / "openTerminalInFolder.json").read_bytes())
    named = {"Ucloud-Username": b64encode(b"alice").decode()}
    theirs = api.ask("POST", f"/ucloud/example/{PATH}", request, **api.as_ucloud(), **named)
    session = identifier(theirs)
    [told] = theirs.json()["responses"]
    assert {key: told[key] for key in ("type", "jobId", "rank", "domainOverride", "sessionIdentifier")} == {
        "type": "shell", "jobId": "/123/x", "rank": 0, "domainOverride": None, "sessionIdentifier": session,
    }  # fmt: skip
    assert where(api, session) == f"{tmp_path}/drives/123/x"
    with browser(api, f"?session={session}") as thief:
        thief.call(type="initialize")
        assert thief.response()["status"] == 401


def test_a_link_inside_the_drive_and_a_drive_by_pattern(api: ApiSite, tmp_path: Path) -> None:
    assert where(api, identifier(ask(api, "/123/in"))) == f"{tmp_path}/drives/123/x"
    for answer in (ask(api, "/7/x"), ask_as_ucloud(api, "/7/x")):
        assert where(api, identifier(answer)) == f"{tmp_path}/drives/own/alice/alice-7/x"


def test_ucloud_answers_for_the_project_that_it_does_not_name(api: ApiSite) -> None:
    assert ask_as_ucloud(api, "/shared/x", "/123").status_code == 200
    assert ask_as_ucloud(api, "/bobs/x", user="bob").status_code == 200
    assert ask(api, "/shared/x").status_code == 400
    assert ask(api, "/shared/x", project="p1").status_code == 200


def test_drives_that_only_ucloud_knows(tmp_path: Path) -> None:
    more = site(tmp_path)
    more["drive_pattern"] = {"project": f"{tmp_path}/drives/own/{{project}}/{{drive}}"}
    for drive in ("alice", "bob", "p2", "own/p1/79"):
        (tmp_path / "drives" / drive / "y").mkdir(parents=True)
    with opened(tmp_path, more, asks_for_drives=True) as api:
        api.ucloud.have_drive("77", "alice", folder=f"{tmp_path}/drives/alice")
        api.ucloud.have_drive("78", "bob", folder=f"{tmp_path}/drives/bob")
        api.ucloud.have_drive("79", "alice", "p1", name="a name that says nothing")
        api.ucloud.have_drive("80", "alice", name="a name that says nothing")
        for path, folder in (("/77/y", "alice/y"), ("/79/y", "own/p1/79/y")):
            assert where(api, identifier(ask_as_ucloud(api, path))) == f"{tmp_path}/drives/{folder}"
        for path, says in (
            ("/78/y", "not open"), ("/80/y", "has no folder"), ("/404/y", "not known"), ("/x/y", "not known"),
        ):  # fmt: skip
            answer = ask_as_ucloud(api, "/123/x", path)
            assert (answer.status_code, says in answer.json()["why"]) == (400, True), path
            assert "items[1].folder" in answer.json()["why"]
        retrieve = "/api/files/collections/control/retrieve"
        assert [call.query["id"] for call in api.ucloud.calls_to(retrieve)] == ["77", "79", "78", "80", "404"]
        api.ucloud.have_drive("81", "alice", folder=f"{tmp_path}/drives/alice")
        api.ucloud.fail(500, 99, retrieve)
        assert ask_as_ucloud(api, "/81/y").status_code == 502


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("/none/x", "its drive's folder"),
        ("/bobs/x", "not open"),
        ("/123/none", "does not exist"),
        ("/123/file", "is a file"),
        ("/123/out", "symbolic link"),
        ("/123/out/x", "symbolic link"),
        ("/123/../bobs", ".."),
        ("", "must be"),
        ("/", "must be"),
        ("123/x", "must be"),
    ],
)
def test_a_folder_that_may_not_be_entered_has_no_session(shared: ApiSite, folder: str, says: str) -> None:
    for answer in (ask(shared, "/123/x", folder), ask_as_ucloud(shared, "/123/x", folder)):
        assert (answer.status_code, set(answer.json())) == (400, {"why", "errorCode"})
        assert says in answer.json()["why"]
        assert "items[1]" in answer.json()["why"]


@pytest.mark.parametrize("user", [None, "", "mallory", "a\nb", "\0"])
def test_a_user_who_is_not_named_or_has_no_account_has_no_session(shared: ApiSite, user: str | None) -> None:
    answer = ask_as_ucloud(shared, "/123/x", user=user)
    assert (answer.status_code, set(answer.json())) == (400, {"why", "errorCode"})
    bad = {**shared.as_ucloud(), "ucloud-username": "no base64"}
    body = {"items": [{"folder": "/123/x"}]}
    assert "base64" in shared.ask("POST", f"/ucloud/example/{PATH}", body, **bad).json()["why"]


@pytest.mark.parametrize(("becomes", "says"), [("bobs", "leaves its drive"), (None, "not there any more")])
def test_what_became_of_the_folder_meanwhile(api: ApiSite, tmp_path: Path, becomes: str | None, says: str) -> None:
    folder = tmp_path / "drives" / "123" / "x"
    session = identifier(ask(api, "/123/x"))
    folder.rmdir()
    if becomes:
        folder.symlink_to(tmp_path / "drives" / becomes)
    with browser(api, f"?session={session}") as one:
        one.call(type="initialize")
        assert one.response()["status"] == 200
        assert says in one.text


def test_a_shell_that_comes_up_while_the_gateway_ends_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, closed = threading.Event(), threading.Event(), threading.Event()
    inner = ThreadPools.close

    class Late:
        def close(self) -> None:
            closed.set()

    def late(*_: object) -> Late:
        begun.set()
        assert go_on.wait(60)
        return Late()

    def close(pools: ThreadPools) -> None:
        go_on.set()  # by now the threads of shells take nothing more
        inner(pools)

    monkeypatch.setattr(shells, "open_in_folder", late)
    monkeypatch.setattr(ThreadPools, "close", close)
    with opened(tmp_path, site(tmp_path)) as api, browser(api, f"?session={identifier(ask(api, '/123'))}") as one:
        one.call(type="initialize")
        assert begun.wait(60)
    assert closed.is_set()


@pytest.mark.parametrize("missing", [{"folder_shells": False}, {"url": None}])
def test_a_site_that_has_not_turned_them_on_has_none(tmp_path: Path, missing: dict[str, Any]) -> None:
    with opened(tmp_path, site(tmp_path, **missing)) as api:
        for answer in (ask(api, "/123/x"), ask_as_ucloud(api, "/123/x"), ask_as_ucloud(api, "/", user=None)):
            assert (answer.status_code, answer.json()["errorCode"]) == (400, "FEATURE_NOT_SUPPORTED_BY_PROVIDER")
            assert f"gateway.{next(iter(missing))}" in answer.json()["why"]


@within(answer=0.5)
@pytest.mark.parametrize(("named", "asked"), [("find_for_ucloud", ask_as_ucloud), ("find", ask)])
def test_a_cluster_or_ucloud_that_is_slow_is_503_or_502(
    api: ApiSite, monkeypatch: pytest.MonkeyPatch, named: str, asked: Callable[[ApiSite, str], httpx.Response]
) -> None:
    inner, go_on = getattr(folder_shell, named), threading.Event()

    def slow(*wanted: Any) -> Any:
        assert go_on.wait(60)
        return inner(*wanted)

    monkeypatch.setattr(folder_shell, named, slow)
    try:
        answer = asked(api, "/123/x")
        expected = 502 if asked is ask_as_ucloud else 503
        assert (answer.status_code, "too long" in answer.json()["why"]) == (expected, True)
    finally:
        go_on.set()
    wait_until(lambda: asked(api, "/123/x").status_code == 200, "the cluster is still slow")

"""Shells in browsers, over a site whose srun is a stand-in: sessions, frames, and what must not be lost or left."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from slurm_adapter.core.errors import NotAuthenticated
from slurm_adapter.gateway.limits import Limits
from slurm_adapter.gateway.sessions import sessions
from slurm_adapter.gateway.sessions.sessions import Sessions
from slurm_adapter.gateway.shares import Shares, TooMany
from tests.gateway.api_site import ApiSite, opened, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from websockets.sync.client import ClientConnection

    from slurm_adapter.core.records import Record

SRUN = """#!/bin/sh
while [ "$1" != /bin/bash ] && [ "$1" != /bin/sh ]; do shift; done
[ "$1" = /bin/bash ] || exec "$@"
exec sh -c 'stty -echo; echo ready; while read -r line; do eval "$line"; done'
"""
CALL = "jobs.compute.example.shell.open"


@pytest.fixture
def api(tmp_path: Path, limits: Limits) -> Iterator[ApiSite]:
    """Both APIs, of a site that browsers reach."""
    more = {
        "gateway": {"url": "https://gateway.example.org"},
        "clusters": {"main": {"path": f"{tmp_path}/slurm:/usr/bin:/bin"}},
    }
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "srun").write_text(SRUN)
    (tmp_path / "slurm" / "srun").chmod(0o755)
    with opened(tmp_path, more, limits=limits) as both:
        yield both


def running(api: ApiSite) -> Record:
    """A job of alice that runs."""
    record = api.offline.job()
    api.offline.sync()
    return api.offline.run(record)


def ask(api: ApiSite, record: Record, rank: int = 0, kind: str = "SHELL", user: str = "alice") -> httpx.Response:
    """A user asks for a session."""
    body = {"items": [{"id": record.id, "rank": rank, "sessionType": kind}]}
    return api.ask("POST", "/api/jobs/interactiveSession", body, **api.token(user))


def session_of(api: ApiSite, record: Record, user: str = "alice") -> str:
    """The identifier of a new session."""
    answer = ask(api, record, user=user)
    assert answer.status_code == 200, answer.text
    identifier: str = answer.json()["responses"][0]["session"]["sessionIdentifier"]
    return identifier


class Browser:
    """A socket with, maybe, a shell."""

    def __init__(self, client: ClientConnection) -> None:
        self.client = client
        self.text = ""

    def call(self, stream: str = "1", **payload: Any) -> None:
        """Say something to the gateway."""
        self.client.send(json.dumps({"call": CALL, "streamId": stream, "payload": payload}))

    def receive(self) -> dict[str, Any]:
        """The next frame; the shell's text is put together besides."""
        frame: dict[str, Any] = json.loads(self.client.recv(timeout=30))
        if frame["payload"].get("type") == "data":
            self.text += frame["payload"]["data"]
        return frame

    def until(self, text: str) -> None:
        """Listen until the shell has said this."""
        while text not in self.text:
            self.receive()

    def response(self, stream: str = "1") -> dict[str, Any]:
        """The end of a stream."""
        while (frame := self.receive())["type"] != "response" or frame["streamId"] != stream:
            pass
        return frame


@contextmanager
def browser(api: ApiSite, query: str = "") -> Iterator[Browser]:
    """A browser's socket, within the block."""
    url = f"{api.url.replace('http', 'ws', 1)}/ucloud/example/websocket{query}"
    with connect(url, compression=None) as client:
        yield Browser(client)


@contextmanager
def shell(api: ApiSite, record: Record, user: str = "alice") -> Iterator[Browser]:
    """A browser with a shell, within the block."""
    with browser(api) as one:
        one.call(type="initialize", sessionIdentifier=session_of(api, record, user), cols=101, rows=31)
        assert one.receive() == {
            "type": "message", "streamId": "1", "payload": {"type": "initialize", "data": None},
        }  # fmt: skip
        one.until("ready")
        yield one


def runs(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.scenario(79)
def test_both_apis_give_sessions(api: ApiSite) -> None:
    record = running(api)
    [mine] = ask(api, record).json()["responses"]
    assert mine["providerDomain"] == "https://gateway.example.org"
    assert mine["providerId"] == "example"
    assert {key: mine["session"][key] for key in ("type", "jobId", "rank", "domainOverride")} == {
        "type": "shell", "jobId": record.id, "rank": 0, "domainOverride": None,
    }  # fmt: skip
    assert len(mine["session"]["sessionIdentifier"]) == 43
    job = api.job("4150")
    api.ask("POST", "/ucloud/example/jobs", {"items": [job]}, **api.as_ucloud())
    api.offline.sync()
    theirs = api.offline.run(api.offline.site.store.get("4150"))
    items = [{"job": job | {"providerGeneratedId": theirs.slurm_name}, "rank": 0, "sessionType": "SHELL"}]
    path = "/ucloud/example/jobs/interactiveSession"
    answer = api.ask("POST", path, {"items": items}, **api.as_ucloud("alice"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["responses"][0]["jobId"] == "4150"
    for rank in (1, -1, 10**9):
        refused = api.ask("POST", path, {"items": [items[0] | {"rank": rank}]}, **api.as_ucloud("alice"))
        assert (refused.status_code, "rank" in refused.json()["why"]) == (400, True)


@pytest.mark.scenario(79)
def test_what_has_no_session(api: ApiSite) -> None:
    waiting = api.offline.job()
    assert "IN_QUEUE" in ask(api, waiting).json()["why"]
    record = running(api)
    assert ask(api, record, 1).status_code == 400
    assert ask(api, record, user="bob").status_code == 404
    for kind in ("WEB", "VNC"):
        answer = ask(api, record, kind=kind)
        assert (answer.status_code, answer.json()["errorCode"]) == (400, "FEATURE_NOT_SUPPORTED_BY_PROVIDER")
    folder = {"items": [{"folder": "/1/x"}]}
    answer = api.ask("POST", "/api/jobs/openTerminalInFolder", folder, **api.token())
    assert answer.json()["errorCode"] == "FEATURE_NOT_SUPPORTED_BY_PROVIDER"


def test_without_an_address_for_browsers_there_are_no_shells(tmp_path: Path) -> None:
    with opened(tmp_path) as api:
        answer = ask(api, running(api))
        assert answer.json()["errorCode"] == "FEATURE_NOT_SUPPORTED_BY_PROVIDER"
        with pytest.raises(InvalidStatus, match="404"), browser(api):
            pass


def test_input_is_acknowledged_and_the_size_is_told(api: ApiSite) -> None:
    with shell(api, running(api)) as one:
        one.call("2", type="input", data="stty size\n")
        assert one.response("2") == {
            "type": "response", "streamId": "2", "payload": {"type": "ack", "data": None}, "status": 200,
        }  # fmt: skip
        one.until("31 101")
        one.call("3", type="resize", cols=120, rows=40)
        one.call("4", type="input", data="stty size\n")
        one.until("40 120")


@pytest.mark.scenario(79)
def test_a_session_is_good_for_one_use_and_one_run(api: ApiSite) -> None:
    record = running(api)
    identifier = session_of(api, record)
    for status in (200, 401):
        with browser(api, f"?session={identifier}") as one:
            one.call(type="initialize")
            if status == 200:
                one.until("ready")
                one.call("2", type="input", data="exit\n")
            assert one.response()["status"] == status
    identifier = session_of(api, record)
    with browser(api) as one:
        one.call(type="initialize", sessionIdentifier="x" * 43)
        assert one.response()["status"] == 401


@pytest.mark.scenario(79)
def test_a_session_expires(api: ApiSite) -> None:
    record = running(api)
    now = 0.0
    mine, shells = Sessions(Limits(), lambda: now), Shares(2, 2, "shells")
    old, young = mine.add(record, 0), ""
    now = 30.0
    young = mine.add(record, 0)
    now = 60.0
    with pytest.raises(NotAuthenticated):
        mine.use(old, shells)
    assert mine.use(young, shells)[0] == sessions.JobShell(record.id, record.run, 0, user="alice")
    for _ in range(sessions.MOST_OF_ONE):
        mine.add(record, 0)
    with pytest.raises(TooMany, match="alice has 100 sessions that wait to be opened, the most"):
        mine.add(record, 0)
    mine.add(record, 0, user="bob")
    now = 120.0
    assert mine.add(record, 0) not in str(vars(mine))


def test_characters_are_never_cut(api: ApiSite) -> None:
    with shell(api, running(api)) as one:
        one.call("2", type="input", data="i=0; while [ $i -lt 20000 ]; do printf '🦆æ'; i=$((i+1)); done; echo end\n")
        one.until("end")
        assert one.text.count("🦆æ") == 20000
        assert "\ufffd" not in one.text
        one.call("3", type="input", data="printf '\\360\\237'; sleep 0.3; printf '\\246\\206.'; printf '\\377<'\n")
        one.until("🦆.\ufffd<")


def test_closing_the_socket_ends_the_shell(api: ApiSite) -> None:
    with shell(api, running(api)) as one:
        one.call("2", type="input", data="echo $$.\n")
        one.until(".")
        pid = int(one.text.rpartition(".")[0].split()[-1])
    limit = time.monotonic() + 30
    while runs(pid):
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("limits", "how"),
    [(Limits(permission_check=0.1), "revoked"), (Limits(permission_check=0.1, session=0), "too long")],
    ids=["revoked", "too long"],
)
def test_a_shell_ends_with_the_right_to_it(api: ApiSite, how: str) -> None:
    with browser(api) as one:
        one.call(type="initialize", sessionIdentifier=session_of(api, running(api)))
        if how == "revoked":
            one.until("ready")
            for token in api.offline.site.store.tokens():
                api.offline.site.store.revoke_token(token.name)
        assert one.response()["status"] == 401


def test_one_users_shells_are_one_users(api: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.gateway.shells, "per_owner", 1)
    mine = running(api)
    theirs = api.offline.job(user="bob")
    api.offline.sync()
    theirs = api.offline.run(theirs)
    session = session_of(api, mine)
    with shell(api, mine):
        with browser(api) as refused:
            refused.call(type="initialize", sessionIdentifier=session)
            answer = refused.response()
            assert (answer["status"], "alice has 1 shells, the most" in answer["payload"]["why"]) == (503, True)
        with shell(api, theirs, "bob"):
            pass
    wait_until(lambda: not api.gateway.shells.used, "the share is not given back")
    with browser(api) as again:  # the refusal did not use the session up
        again.call(type="initialize", sessionIdentifier=session)
        again.until("ready")
    wait_until(lambda: not api.gateway.shells.used, "the share is not given back")


def test_a_shell_that_does_not_read_holds_up_nobody(api: ApiSite) -> None:
    record = running(api)
    with shell(api, record) as stuck, shell(api, record) as other:
        stuck.call("2", type="input", data="stty raw -echo; printf be%s gun; sleep 600\n")
        stuck.until("begun")  # else bash reads what follows, or the terminal drops it
        for number in range(3, 20):
            stuck.call(str(number), type="input", data="x" * 100_000)
        assert stuck.response("19")["status"] == 400
        other.call("2", type="input", data="echo fine\n")
        other.until("fine")


def test_bad_frames_end_in_reasons(api: ApiSite) -> None:
    with browser(api) as one:
        one.call(type="input", data="x")
        assert one.response()["status"] == 401
        for payload in ({"type": "explode"}, {"type": "initialize", "cols": 0}, {"type": "resize", "rows": "x"}, {}):
            one.call(**payload)
            assert one.response()["status"] == 400
        one.client.send(json.dumps({"call": "jobs.follow", "streamId": "1", "payload": {}}))
        assert one.response()["status"] == 404
        one.client.send(b"\x00")
        assert one.response("")["status"] == 400

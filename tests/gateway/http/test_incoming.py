"""Clients that show no token, or send half of something: they take little, not for long, and from nobody else."""

from __future__ import annotations

import base64
import http.client
import json
import logging
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.gateway.http import incoming
from slurm_adapter.gateway.http.turns import Turns
from slurm_adapter.jobs import user_tokens
from tests.gateway.api_site import ApiSite, opened, wait_until, within
from tests.gateway.http.test_health import toml
from tests.gateway.process import free_port, serving
from tests.offline import Offline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.gateway.limits import Limits

MEBIBYTE = 1024 * 1024
UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"


@pytest.fixture
def api(tmp_path: Path, limits: Limits) -> Iterator[ApiSite]:
    with opened(tmp_path, {"gateway": {"url": "http://localhost"}}, limits=limits) as api:
        yield api


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiSite]:
    """Both APIs, for tests that change nothing there."""
    with opened(tmp_path_factory.mktemp("shared"), {"gateway": {"url": "http://localhost"}}) as api:
        yield api


hurried = within(connection_check=0.05, request_head=0.2, closing=0.2, response_stall=0.2)


def connect(api: ApiSite, data: bytes = b"", address: str = "127.0.0.1") -> socket.socket:
    """Connect from an address of this machine, and send this."""
    port = int(api.url.rpartition(":")[2])
    connection = socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(address, 0))
    connection.sendall(data)
    return connection


def is_open(connection: socket.socket) -> bool:
    """Return whether the other side has not ended it."""
    connection.setblocking(False)
    try:
        return connection.recv(65536) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def until_ended(connection: socket.socket) -> bytes:
    """Read to the end, which must come within a minute."""
    found = b""
    try:
        while data := connection.recv(65536):
            found += data
    except ConnectionResetError:
        pass
    return found


def send_until_ended(connection: socket.socket, data: bytes) -> None:
    """Send this again and again, without reading, until the other side ends it."""
    with pytest.raises(ConnectionError):  # noqa: PT012  # a loop is one statement
        while True:
            connection.sendall(data)


def upgrade(path: str = "/ucloud/example/websocket", more: str = "") -> bytes:
    """Return a request for a WebSocket."""
    key = base64.b64encode(bytes(16)).decode()
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{UPGRADE}Sec-WebSocket-Key: {key}\r\n{more}\r\n".encode()


def post(token: str = "", length: int = 1000) -> bytes:
    """Return the head of a submission."""
    authorization = f"Authorization: {token}\r\n" if token else ""
    return f"POST /api/jobs HTTP/1.1\r\nHost: x\r\n{authorization}Content-Length: {length}\r\n\r\n".encode()


@pytest.mark.parametrize("data", [b"", b"GET", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ", post() + b"{"])
@hurried
def test_half_a_request_is_not_waited_for(api: ApiSite, data: bytes) -> None:
    with connect(api, data) as connection:
        until_ended(connection)


@hurried
def test_half_a_body_is_not_waited_for_with_a_token_either(api: ApiSite) -> None:
    with connect(api, post(api.token()["Authorization"]) + b"{") as connection:
        assert until_ended(connection) == b""


@hurried
def test_an_answered_request_does_not_go_on_for_long(api: ApiSite) -> None:
    with connect(api, post()) as connection:
        send_until_ended(connection, b"a" * 65536)


@hurried
def test_who_does_not_read_is_not_written_for(api: ApiSite) -> None:
    known = api.token()["Authorization"]
    asked = f"GET /openapi.json HTTP/1.1\r\nHost: x\r\nAuthorization: {known}\r\n\r\n".encode()
    with connect(api) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        send_until_ended(connection, asked * 100)


@within(recent=60.0)
def test_many_that_come_at_once_do_not_end_each_other(api: ApiSite) -> None:
    """Behind a reverse proxy all have one address, and an honest one is as old as the others."""
    half = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
    with ExitStack() as held:
        honest = held.enter_context(connect(api, half))
        for _ in range(incoming.WAITING + 70):
            held.enter_context(connect(api))
        assert api.ask("GET", "/healthz").status_code == 200
        honest.sendall(b"Connection: close\r\n\r\n")
        assert until_ended(honest).startswith(b"HTTP/1.1 200 ")


@within(recent=0.0)
def test_those_who_wait_are_bounded_and_others_are_answered(api: ApiSite) -> None:
    half = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
    with ExitStack() as held:
        honest = held.enter_context(connect(api, half))
        hostile = [held.enter_context(connect(api, half, "127.0.0.2")) for _ in range(incoming.WAITING + 70)]
        assert api.ask("GET", "/healthz").status_code == 200
        honest.sendall(b"Connection: close\r\n\r\n")
        assert until_ended(honest).startswith(b"HTTP/1.1 200 ")
        assert sum(map(is_open, hostile)) <= incoming.WAITING


def test_sockets_without_a_session_are_bounded(api: ApiSite) -> None:
    with ExitStack() as held:
        sockets = [held.enter_context(connect(api, upgrade())) for _ in range(incoming.WAITING + 70)]
        assert api.ask("GET", "/healthz").status_code == 200
        assert sum(is_open(each) and is_open(each) for each in sockets) <= incoming.WAITING  # the first finds the 101


def test_a_request_that_waits_for_its_turn_makes_room(api: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the user who has most of them, and nothing of it goes on."""
    monkeypatch.setattr(incoming, "CONNECTIONS", 8)
    api.gateway.turns = Turns(0.1, 1)
    known = api.token()["Authorization"]
    ask = f"GET /api/jobs/browse HTTP/1.1\r\nHost: x\r\nAuthorization: {known}\r\n\r\n".encode()
    with ExitStack() as held:
        delayed = [held.enter_context(connect(api, ask)) for _ in range(8)]
        wait_until(lambda: api.gateway.turns.waiting("alice") > 0, "nothing waits")
        for _ in range(10):
            assert api.ask("GET", "/healthz").status_code == 200
        assert sum(map(is_open, delayed)) < 8
        wait_until(lambda: api.gateway.turns.waiting("alice") <= 1, "the ended ones wait on")


def test_what_is_answered_before_its_end_is_not_read_to_its_end(shared: ApiSite) -> None:
    with connect(shared, post(length=MEBIBYTE)) as connection:
        assert until_ended(connection).startswith(b"HTTP/1.1 401 ")


@within(room_check=60.0)
def test_all_connections_are_looked_at_only_now_and_then(api: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look takes as long as to answer a request."""
    looks: list[float] = []
    look = incoming.Room.check

    def noted(self: incoming.Room, new: Any, now: float) -> None:
        looks.append(now)
        look(self, new, now)

    monkeypatch.setattr(incoming.Room, "check", noted)
    with ExitStack() as held:
        for _ in range(incoming.WAITING + 70):
            held.enter_context(connect(api))
        assert api.ask("GET", "/healthz").status_code == 200
    assert 0 < len(looks) <= (70 + incoming.NEW) // incoming.NEW + 1


def test_a_socket_that_waits_for_its_turn_is_left_alone(api: ApiSite) -> None:
    """If it was ended, its client would come back at once."""
    api.gateway.turns = Turns(0.01, 1)
    follow = upgrade("/api/jobs", f"Authorization: {api.token()['Authorization']}\r\n")
    with ExitStack() as held:
        assert held.enter_context(connect(api, follow)).recv(100)[:12] == b"HTTP/1.1 101"
        second = held.enter_context(connect(api, follow))
        wait_until(lambda: api.gateway.turns.waiting("alice") == 1, "the second does not wait")
        for _ in range(incoming.WAITING + 70):
            held.enter_context(connect(api, upgrade()))
        assert api.ask("GET", "/healthz").status_code == 200
        assert is_open(second)


def test_if_nobody_waits_a_new_connection_is_refused(api: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "CONNECTIONS", 2)
    follow = upgrade("/api/jobs", f"Authorization: {api.token()['Authorization']}\r\n")
    with connect(api, follow) as one, connect(api, follow) as other:
        assert [each.recv(100)[:12] for each in (one, other)] == [b"HTTP/1.1 101"] * 2
        with connect(api) as third:
            answer = until_ended(third)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 5" in answer


NO_HTTP = {
    "nonsense": (b"nonsense\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "a path": (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a nul": (b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n", 400),
    "below 0": (b"POST /api/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
    "two lengths": (b"POST /api/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    "an encoding": (b"POST /api/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500, 400),
    "a long head": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * incoming.HEAD_SIZE * 2, 431),
    "many headers": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * incoming.HEAD_SIZE, 431),
    "many headers of a socket": (upgrade(more="a: b\r\n" * 300), 400),
    "two keys": (upgrade(more="Sec-WebSocket-Key: x\r\n"), 400),
}


@pytest.mark.parametrize(("data", "status"), NO_HTTP.values(), ids=NO_HTTP)
def test_what_is_no_http_is_told_so(
    shared: ApiSite, data: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(shared, data) as connection:
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        body = answer.read()
    assert answer.status == status
    if b"Key: x" not in data:
        assert set(json.loads(body)) == {"why", "errorCode"}
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_body_that_is_no_http_ends_its_request(shared: ApiSite, caplog: pytest.LogCaptureFixture) -> None:
    head = post(shared.token()["Authorization"]).replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked")
    with connect(shared, head + b"5\r\n{\r\n\r\n") as connection:
        connection.sendall(b"nonsense\r\n" * 3)
        assert until_ended(connection).startswith(b"HTTP/1.1 400 ")
    assert shared.ask("GET", "/healthz").status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_little_is_read_at_once(api: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attribute of asyncio's transports does it, which is not documented."""
    sizes = []
    take = incoming.IncomingRequests.data_received

    def noted(self: incoming.IncomingRequests, data: bytes) -> None:
        sizes.append(len(data))
        take(self, data)

    monkeypatch.setattr(incoming.IncomingRequests, "data_received", noted)
    assert api.ask("POST", "/api/jobs", b"a" * MEBIBYTE, **api.token()).status_code == 400
    assert max(sizes) <= incoming.READ_SIZE


def memory(pid: int) -> int:
    """Return the most memory that a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def item(**more: Any) -> dict[str, Any]:
    """Return a specification, as JSON."""
    product = {"provider": "example", "category": "example-compute", "id": "example-compute"}
    return {"application": {"name": "sleeper", "version": "1"}, "product": product, **more}


def test_a_served_process_keeps_its_memory(tmp_path: Path) -> None:
    port = free_port()
    offline = Offline(tmp_path, {"gateway": {"port": port}})
    token = user_tokens.create(offline.site, "alice", "alice")
    config = tmp_path / "config.toml"
    config.write_text(toml(offline.config).replace("[gateway]", '[gateway]\nurl = "http://localhost"'))
    ones = [1] * 4000
    bodies = [
        {"items": [item(resources=[1] * 400_000)]},
        {"items": [[]] * 300_000},
        {"items": [{"resources": [1] * 400}] * 1000},
        {"items": [item(resources=[{"type": "modules", "modules": ones}] * 80)]},
        {"items": [item(labels={str(n): 1 for n in range(4900)}, parameters={str(n): 1 for n in range(4900)})]},
    ]
    with serving(config, port) as url, ExitStack() as held:
        pid = _child()
        before = memory(pid)
        here = ApiSite(offline, offline.slurm, None, url, None)  # type: ignore[arg-type]
        for body in bodies:
            answer = here.ask("POST", "/api/jobs", body, Authorization=f"Bearer {token}")
            assert answer.status_code in {400, 413}
            assert len(answer.content) < MEBIBYTE
        frame = bytes([0x81, 0xFF]) + (incoming.MESSAGE_SIZE - 1).to_bytes(8) + bytes(4) + b"a" * 400_000
        for _ in range(60):
            connection = held.enter_context(
                connect(here, upgrade(more="Sec-WebSocket-Extensions: permessage-deflate\r\n"))
            )
            assert b"deflate" not in connection.recv(4096)
            connection.sendall(frame)
        assert here.ask("GET", "/healthz").status_code == 200
        assert memory(pid) - before < 100 * MEBIBYTE


def _child() -> int:
    """Return the process that this one has started."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    [pid] = [each for each in children if Path(f"/proc/{each}/cmdline").read_text().endswith("serve\0")]
    return int(pid)

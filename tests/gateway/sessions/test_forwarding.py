"""Forwarding between browsers and applications, until a session ends."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from slurm_adapter.core.states import JobState
from tests.gateway.api_site import within
from tests.gateway.process import free_port
from tests.gateway.sessions.web_ground import GONE, READ, Ground, application, either, ground

__all__ = ["application", "either", "ground"]


def test_an_application_is_asked_what_the_browser_asks(either: Ground) -> None:
    cookie = either.cookie()
    cookie["Cookie"] = f"a=1; {cookie['Cookie']}; ucloud-compute-session-77-0-other=2; b=3"
    asked = {
        **cookie, "X-Forwarded-For": "198.51.100.1", "X-Forwarded-Proto": "https", "Connection": "X-Hop, close",
        "X-Hop": "1", "Te": "trailers", "Authorization": "Basic eA==", "Origin": f"http://{either.host()}",
    }  # fmt: skip
    answer = either.ask("PUT", "/a%2Fb/%E2%82%AC//c?x=1&y=%20&x=2", headers=asked, content=b"0123456789")
    assert answer.status_code == 207
    seen = answer.json()
    headers = dict(seen["headers"])
    assert (seen["method"], seen["path"], seen["query"]) == ("PUT", "/a%2Fb/%E2%82%AC//c", "x=1&y=%20&x=2")
    assert (seen["length"], seen["last"]) == (10, "0123456789")
    assert headers["cookie"] == "a=1; b=3"
    assert headers["host"] == headers["x-forwarded-host"] == either.host()
    assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) in {
        ("127.0.0.1", "http"),
        ("198.51.100.1", "http"),  # the server believes what runs on its own machine
    }
    assert headers["authorization"] == "Basic eA=="
    assert not {"x-hop", "te"} & set(headers)
    assert len(seen["headers"]) == len(headers)
    assert answer.headers.get_list("set-cookie") == ["own=1; Path=/; SameSite=lax", "other=2; Path=/; SameSite=lax"]
    assert (answer.headers["x-own"], answer.headers["content-type"]) == ("yes", "application/json")
    assert "keep-alive" not in answer.headers


def test_bodies_are_as_large_as_they_are(either: Ground) -> None:
    size = 5 * 1024 * 1024
    assert either.web.config.gateway.body_limit < 5
    whole = either.ask("POST", "/", headers=either.cookie(), content=b"x" * size + b"last bytes")
    assert (whole.json()["length"], whole.json()["last"]) == (size + 10, "last bytes")
    pieces = either.ask("POST", "/", headers=either.cookie(), content=iter([b"y" * size, b"last bytes"]))
    assert (pieces.json()["length"], pieces.json()["last"]) == (size + 10, "last bytes")


def test_an_answer_comes_piece_by_piece(either: Ground) -> None:
    READ.clear()
    headers = {"Host": either.host(), **either.cookie()}
    with httpx.stream("GET", f"http://{either.address}/stream", headers=headers, timeout=30) as answer:
        pieces = answer.iter_bytes()
        assert next(pieces) == b"first\n"
        READ.set()
        assert b"".join(pieces) == b"second\n"


def test_with_the_browser_goes_what_it_asked_for(either: Ground) -> None:
    GONE.clear()
    headers = {"Host": either.host(), **either.cookie()}
    with httpx.stream("GET", f"http://{either.address}/endless", headers=headers, timeout=30) as answer:
        pieces = answer.iter_bytes()  # without a name it would be gone at once, and the connection with it
        assert next(pieces) == b"first\n"
        assert not GONE.is_set()
    assert GONE.wait(60)


def test_sockets_carry_both_kinds_both_ways(either: Ground) -> None:
    cookie = either.cookie()
    own = {"Cookie": f"a=1; {cookie['Cookie']}", "Origin": f"http://{either.host()}"}
    with either.socket("/talk?x=1", own, subprotocols=[Subprotocol("other"), Subprotocol("chat")]) as client:
        assert client.subprotocol == "chat"
        seen = json.loads(client.recv(timeout=30))
        assert (seen["query"], seen["headers"]["cookie"], seen["headers"]["host"]) == ("x=1", "a=1", either.host())
        for message in ("grün", b"\x00\xff", "", "x" * 100_000):
            client.send(message)
            assert client.recv(timeout=30) == message
        client.send("bye")
        with pytest.raises(Exception, match=r"4321.*as you wish"):
            client.recv(timeout=30)
    with pytest.raises(InvalidStatus) as refused, either.socket("/nothing", cookie):
        pass
    assert refused.value.response.status_code in {403, 404}


def test_an_application_that_does_not_listen_yet_says_so(either: Ground) -> None:
    port = free_port()
    either.keep(either.record, web_port=port)
    answer = either.ask("GET", "/", headers=either.cookie())
    assert (answer.status_code, f"not listening on port {port}" in answer.text) == (502, True)
    with pytest.raises(InvalidStatus) as refused, either.socket("/talk", either.cookie()):
        pass
    assert refused.value.response.status_code == 502
    either.keep(either.record, addresses=())
    assert either.ask("GET", "/", headers=either.cookie()).status_code == 502


def test_a_desktop_is_bytes_both_ways(either: Ground) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        record = either.keep(either.record, vnc_port=server.getsockname()[1], vnc_password="secret")
        session = either.web.open(record, 0, "VNC")
        assert (session.type, session.password) == ("vnc", "secret")
        link = urlsplit(session.url or "")
        assert (link.scheme, link.netloc, link.path) == ("ws", "gateway.localhost", "/ucloud/example/vnc")
        url = f"ws://{either.address}{link.path}?{link.query}"
        with connect(url, subprotocols=[Subprotocol("binary")], proxy=None) as client:
            desktop, _ = server.accept()
            with desktop:
                desktop.sendall(b"RFB 003.008\n")
                assert client.recv(timeout=30) == b"RFB 003.008\n"
                client.send(b"RFB 003.008\n")
                assert desktop.recv(100) == b"RFB 003.008\n"
            with pytest.raises(Exception, match="1000"):
                client.recv(timeout=30)
        for once_more in (url, f"ws://{either.address}/ucloud/example/vnc"):
            with pytest.raises(InvalidStatus) as refused, connect(once_more, proxy=None):
                pass
            assert refused.value.response.status_code == 401
    session = either.web.open(record, 0, "VNC")
    with pytest.raises(InvalidStatus) as refused:  # nobody listens there now
        connect(f"ws://{either.address}/ucloud/example/vnc?{urlsplit(session.url or '').query}", proxy=None)
    assert refused.value.response.status_code == 502


@pytest.mark.parametrize("how", ["cookie", "job", "run"])
@within(permission_check=0.1)
def test_a_socket_is_closed_once_its_session_is_over(ground: Ground, how: str) -> None:
    cookie = ground.cookie()
    with ground.socket("/talk", cookie) as client:
        client.recv(timeout=30)
        if how == "cookie":
            ground.web.cookies.redeem(cookie["Cookie"].partition("=")[2])
        else:
            ground.keep(ground.record, **({"state": JobState.SUCCESS} if how == "job" else {"restarts": 1}))
        with pytest.raises(ConnectionClosed, match="this session has ended"):
            client.recv(timeout=30)


@pytest.mark.parametrize("how", ["cookie", "job", "run"])
@within(permission_check=0.1)
def test_an_answer_is_cut_once_its_session_is_over(either: Ground, how: str) -> None:
    GONE.clear()
    cookie = either.cookie()
    headers = {"Host": either.host(), **cookie}
    with httpx.stream("GET", f"http://{either.address}/endless", headers=headers, timeout=30) as answer:
        pieces = answer.iter_bytes()
        assert next(pieces) == b"first\n"
        if how == "cookie":
            either.web.cookies.redeem(cookie["Cookie"].partition("=")[2])
        else:
            either.keep(either.record, **({"state": JobState.SUCCESS} if how == "job" else {"restarts": 1}))
        with pytest.raises(httpx.RemoteProtocolError):
            next(pieces)
    assert GONE.wait(60)


@within(permission_check=0.1)
def test_an_answer_that_has_not_begun_says_that_its_session_is_over(ground: Ground) -> None:
    cookie = ground.cookie()
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:
        ground.keep(ground.record, web_port=server.getsockname()[1])
        answer = threads.submit(ground.ask, "GET", "/", headers=cookie)
        application, _ = server.accept()
        with application:
            ground.web.cookies.redeem(cookie["Cookie"].partition("=")[2])
            assert (answer.result(60).status_code, "session has ended" in answer.result().text) == (401, True)


@within(permission_check=0.1)
def test_a_desktop_is_closed_once_its_session_is_over(ground: Ground) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        record = ground.keep(ground.record, vnc_port=server.getsockname()[1])
        link = urlsplit(ground.web.open(record, 0, "VNC").url or "")
        with connect(f"ws://{ground.address}{link.path}?{link.query}", proxy=None) as client:
            desktop, _ = server.accept()
            with desktop:
                ground.keep(record, state=JobState.SUCCESS)
                with pytest.raises(ConnectionClosed, match="this session has ended"):
                    client.recv(timeout=30)

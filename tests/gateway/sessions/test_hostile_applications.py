"""Applications that say whatever they like, before a real `serve`: no traceback, no memory, nothing for other jobs."""

from __future__ import annotations

import select
import struct
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.gateway.sessions.web_site import WEBSOCKET, WebSite, application, read_all, switch, web_site

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

MEBIBYTE = 1024 * 1024
BLOCK = b"x" * 65536


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebSite]:
    """A site that reaches the nodes itself."""
    with web_site(tmp_path_factory.mktemp("site")) as site:
        yield site
    log = (site.offline.folder / "config.log").read_text()
    assert "Traceback" not in log, log


def answered(site: WebSite, answer: bytes, head: str = "GET / HTTP/1.1", *headers: str) -> bytes:
    """Return what a browser gets if the application says this, and ends."""

    def handle(connection: socket.socket, _: bytes) -> None:
        connection.sendall(answer)

    with application(handle) as port:
        record, cookie = site.session(port)
        return site.exchange(site.request(record, cookie, head, "Connection: close", *headers))


def seen(site: WebSite, head: str = "GET / HTTP/1.1", *headers: str, cookie: str = "") -> tuple[bytes, bytes]:
    """Return what the application gets of a request, and what the browser gets."""
    got: list[bytes] = []

    def handle(connection: socket.socket, head: bytes) -> None:
        got.append(head)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with application(handle) as port:
        record, own = site.session(port)
        answer = site.exchange(site.request(record, own + cookie, head, "Connection: close", *headers))
    return b"".join(got), answer


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 999 What\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 600 What\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 0 What\r\n\r\n",
        b"HTTP/1.1 099 What\r\n\r\n",
        b"HTTP/1.1 1000 What\r\n\r\n",
        b"HTTP/1.1 -1 What\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 199 Wait\r\n\r\n" * 1000,
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"<html>HTTP/0.9</html>",
        b"",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000,
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n123456",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: no name\r\n\r\n",
        b"\xff" * 1000,
    ],
    ids=lambda answer: repr(answer[:24]),
)
def test_what_is_no_answer_is_told_as_such(site: WebSite, answer: bytes) -> None:
    said = answered(site, answer)
    assert said.startswith(b"HTTP/1.1 502 "), said[:200]
    assert b"The job's application failed" in said.replace(b"&#x27;", b"'")
    upgraded = answered(site, answer, "GET / HTTP/1.1", *WEBSOCKET)
    assert upgraded[:13] in {b"HTTP/1.1 502 ", b"HTTP/1.1 101 "}, upgraded[:200]


@pytest.mark.parametrize(
    "body",
    [b"5\r\n123", b"zz\r\n123\r\n0\r\n\r\n", b"-5\r\n12345\r\n0\r\n\r\n", b"5\r\n123456\r\n0\r\n\r\n", b"f" * 100_000],
    ids=lambda body: repr(body[:24]),
)
def test_a_body_that_breaks_off_is_cut(site: WebSite, body: bytes) -> None:
    said = answered(site, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert said.startswith(b"HTTP/1.1 200 ")
    assert not said.endswith(b"0\r\n\r\n"), "a browser must see that it is not whole"


def test_a_body_is_as_long_as_was_said(site: WebSite) -> None:
    short = answered(site, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
    assert short.endswith(b"\r\n\r\n12345")
    long = answered(site, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12345HTTP/1.1 200 OK\r\n\r\n")
    assert long.endswith(b"\r\n\r\n12345")
    assert answered(site, b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc").endswith(b"\r\n\r\n")
    assert answered(site, b"HTTP/1.0 200 OK\r\n\r\nuntil the end").count(b"until the end") == 1
    interim = answered(
        site, b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    )
    assert (interim[:13], interim[-2:]) == (b"HTTP/1.1 200 ", b"ok")
    packed = b"\x1f\x8b\x08\x00" + bytes(range(256))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    assert answered(site, head + packed).endswith(packed)


@pytest.mark.parametrize("first", ["Content-Length: 3", "Transfer-Encoding: chunked"])
def test_two_lengths_are_never_handed_on(site: WebSite, first: str) -> None:
    lengths = {"Content-Length: 3", "Transfer-Encoding: chunked"}
    [second] = lengths - {first}
    head = f"HTTP/1.1 200 OK\r\n{first}\r\n{second}\r\n\r\n"
    said = answered(site, head.encode() + b"7\r\nchunked\r\n0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"content-length" not in said.lower()
    assert b"7\r\nchunked\r\n" in said
    got, refused = seen(site, "POST / HTTP/1.1", first, second)
    assert (got, refused[:13]) == (b"", b"HTTP/1.1 400 ")


def test_an_answer_may_come_before_the_body_is_read(site: WebSite) -> None:
    def handle(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!")
        time.sleep(30)

    with application(handle) as port:
        record, cookie = site.session(port)
        head = site.request(record, cookie, "POST / HTTP/1.1", f"Content-Length: {100 * MEBIBYTE}")
        with site.raw(head + b"x" * 1000) as client:
            client.settimeout(20)
            with suppress(TimeoutError):
                for _ in range(100):
                    client.sendall(BLOCK)
            said = b""
            while not said.endswith(b"no!"):
                said += client.recv(4096)
            assert said.startswith(b"HTTP/1.1 413 ")


def test_what_an_application_may_not_say_is_left_out(site: WebSite) -> None:
    refused = [
        "Set-Cookie2: a=1", "Strict-Transport-Security: max-age=1; includeSubDomains", 'Alt-Svc: h2=":1"',
        'Clear-Site-Data: "cookies"', "Public-Key-Pins: x", "X-Accel-Redirect: /etc/passwd", "X-Accel-Buffering: no",
        "X_Accel_Redirect: /etc/passwd", "X-Sendfile: /etc/passwd", "X-LIGHTTPD-send-file: /etc/passwd",
        "Connection: close, X-Hop, Content-Length, Set-Cookie", "X-Hop: 1", "Keep-Alive: x", "Upgrade: h2c",
        "Proxy-Authenticate: Basic", "Trailer: x",
    ]  # fmt: skip
    kept = [
        "X-Own: 1",
        "Location: http://elsewhere.example/",
        "Refresh: 0; url=http://elsewhere.example/",
        "Set-Cookie: a=1",
    ]
    head = "\r\n".join(["HTTP/1.1 302 Found", "Content-Length: 2", *refused, *kept])
    said = answered(site, head.encode() + b"\r\n\r\nok")
    lines = said.partition(b"\r\n\r\n")[0].decode().lower().split("\r\n")[1:]
    names = sorted(line.partition(":")[0] for line in lines)
    assert names == ["connection", "content-length", "date", "location", "refresh", "set-cookie", "x-own"]
    assert "connection: close" in lines


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a=1; Domain=localhost; Path=/", "a=1; Path=/"),
        ("a=1; Path=/;domain = .localhost;Secure", "a=1; Path=/;Secure"),
        ("a=1; DOMAIN", "a=1"),
        ("a=1; Domain=; \tDomain=x", "a=1"),
        ("__Host-own=1; Secure; Path=/", "__Host-own=1; Secure; Path=/"),
        ('a="x; Domain=localhost"', 'a="x'),
        ("ucloud-compute-session-1-0-example=x", None),
        (" UCloud-Compute-Session-1-0-example=x", None),
        ("__Host-ucloud-compute-session-1-0-example=x; Secure; Path=/", None),
        ("__host-ucloud-compute-session-1-0-example=x; Secure; Path=/", None),
        ("__SECURE-ucloud-compute-session-1-0-example=x; Secure", None),
        ("=ucloud-compute-session-1-0-example=x", None),
        ("ucloud-compute-session-1-0-example", None),
        ("a=1\x01; Domain=localhost", None),
        ("a=1\x7f", None),
        ("", None),
        ("a=" + "x" * 5000, None),
    ],
    ids=lambda text: repr(text)[:60],
)  # fmt: skip
def test_a_cookie_is_for_its_own_host(site: WebSite, given: str, kept: str | None) -> None:
    for kind in ((), WEBSOCKET):

        def handle(connection: socket.socket, head: bytes, kind: tuple[str, ...] = kind) -> None:
            first = switch(head)[:-2] if kind else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"
            connection.sendall(first + f"Set-Cookie: {given}\r\n\r\n".encode())

        with application(handle) as port:
            record, cookie = site.session(port)
            said = site.exchange(site.request(record, cookie, "GET / HTTP/1.1", *(kind or ["Connection: close"])))
        lines = said.partition(b"\r\n\r\n")[0].decode().split("\r\n")
        cookies = [line.partition(": ")[2] for line in lines if line.lower().startswith("set-cookie:")]
        assert cookies == ([] if kept is None else [kept]), said


def test_no_application_sees_a_session(site: WebSite) -> None:
    others = (
        "; ucloud-compute-session-2-0-example=x; UCLOUD-compute-session-3-0-x=y"
        ";__Host-ucloud-compute-session-1-0-example=z; __hOsT-ucloud-compute-session-1-0-example=z"
        ';\tucloud-compute-session-9; b=2; c="d; ucloud-compute-session-1=q"'
    )
    got, answer = seen(site, "GET / HTTP/1.1", "Cookie: e=5; ucloud-compute-session-1-0-example=k", cookie=others)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"compute-session" not in got.lower()
    assert b'cookie: b=2; c="d\r\n' in got
    assert b"cookie: e=5\r\n" in got


def test_a_client_says_nothing_that_only_a_proxy_says(site: WebSite) -> None:
    strange = [
        "X-Forwarded-For: 198.51.100.1", "X-Forwarded-Host: evil.example", "X-Forwarded-Prefix: /x",
        "X-Real-IP: 198.51.100.1", "X_Forwarded_For: 198.51.100.1", "X_Real_IP: 198.51.100.1",
        "Forwarded: for=198.51.100.1",
        "Transfer_Encoding: chunked", "Content_Length: 5", "Proxy-Authorization: x", "TE: trailers", "Keep-Alive: x",
        "HTTP2-Settings: x", "X-Hop: 1", "Connection: X-Hop, Host",
    ]  # fmt: skip
    got, _ = seen(site, "GET /a%2Fb HTTP/1.1", *strange)
    lines = got.decode().split("\r\n")
    names = [line.partition(":")[0] for line in lines[1:-2]]
    assert lines[0] == "GET /a%2Fb HTTP/1.1"
    assert sorted(names) == ["host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"]
    assert "evil" not in got.decode()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET http://evil.example/ HTTP/1.1", 400), ("CONNECT evil.example:80 HTTP/1.1", 405),
        ("TRACE / HTTP/1.1", 405), ("OPTIONS * HTTP/1.1", 400), ("GET /../../etc/passwd HTTP/1.1", 200),
        ("GET //evil.example/ HTTP/1.1", 200),
    ],
)  # fmt: skip
def test_targets_are_paths(site: WebSite, head: str, status: int) -> None:
    got, answer = seen(site, head)
    assert answer.split()[1] == str(status).encode()
    assert bool(got) is (status == 200)


PAGE = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}, 200),
        ("GET", {"Sec-Fetch-Site": "none", **PAGE}, 200),
        ("GET", {"Sec-Fetch-Site": "cross-site", **PAGE}, 200),
        ("GET", {"Sec-Fetch-Site": "same-site", **PAGE}, 200),
        ("POST", {"Sec-Fetch-Site": "same-site", **PAGE}, 403),
        ("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403),
        ("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "object"}, 403),
        ("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, 403),
        ("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}, 403),
        ("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}, 403),
        ("OPTIONS", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}, 403),
        ("GET", {"Sec-Fetch-Site": "sideways"}, 200),
        ("GET", {"Origin": "null"}, 403),
        ("GET", {"Origin": "http://app-99-0.localhost"}, 403),
    ],
)
def test_other_pages_cannot_use_a_session(site: WebSite, method: str, headers: dict[str, str], status: int) -> None:
    got, answer = seen(site, f"{method} / HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()))
    assert answer.split()[1] == str(status).encode()
    assert bool(got) is (status == 200)


def test_a_link_is_used_up_by_a_browser_that_opens_it(site: WebSite) -> None:
    record = site.start(1)
    url = httpx.URL(site.link(record))
    address, host = f"{site.url}{url.raw_path.decode()}", {"Host": f"{url.host}:{url.port}"}
    for method in ("HEAD", "POST", "OPTIONS"):
        assert httpx.request(method, address, headers=host, timeout=30).status_code == 405
    frame = {**host, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe", "Sec-Fetch-Site": "same-site"}
    assert httpx.get(address, headers=frame, timeout=30).status_code == 405
    assert httpx.get(address, headers={**host, **PAGE}, timeout=30).status_code == 302
    assert httpx.get(address, headers=host, timeout=30).status_code == 401


def endless_messages(connection: socket.socket, head: bytes) -> None:
    """An application that sends messages of 64 MiB."""
    size = 64 * MEBIBYTE
    connection.sendall(switch(head))
    while True:
        connection.sendall(b"\x82\x7f" + struct.pack("!Q", size))
        for _ in range(size // len(BLOCK)):
            connection.sendall(BLOCK)


def endless_answer(connection: socket.socket, _: bytes) -> None:
    """An application that never ends its answer."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(BLOCK)


def no_reader(connection: socket.socket, head: bytes) -> None:
    """An application that reads no more than a head."""
    if b"websocket" in head:
        connection.sendall(switch(head))
    time.sleep(60)


def until_stalled(client: socket.socket, most: int = 64 * MEBIBYTE) -> int:
    """Send until nothing more is taken; return how many bytes were."""
    client.settimeout(0.5)
    sent = 0
    with suppress(TimeoutError, ConnectionError):
        while sent < most:
            sent += client.send(BLOCK)
    return sent


@pytest.mark.parametrize("direct", [True, False], ids=["itself", "by commands"])
def test_who_does_not_read_costs_no_memory(tmp_path: Path, *, direct: bool) -> None:
    """Ten of each kind: what is held grew by 1.3 GB for one."""
    with web_site(tmp_path, direct=direct) as site, ExitStack() as stack:
        before = site.peak
        for handle, kind in ((endless_messages, WEBSOCKET), (endless_answer, ())):
            record, cookie = site.session(stack.enter_context(application(handle)))
            request = site.request(record, cookie, "GET / HTTP/1.1", *kind)
            clients = [stack.enter_context(site.raw(request)) for _ in range(10)]
            assert {client.recv(12)[9:] for client in clients} <= {b"101", b"200"}
        record, cookie = site.session(stack.enter_context(application(no_reader)))
        for more in (WEBSOCKET, ("Content-Length: 1000000000",), ("Transfer-Encoding: chunked",)):
            method = "GET" if more is WEBSOCKET else "POST"
            for _ in range(2):
                request = site.request(record, cookie, f"{method} / HTTP/1.1", *more)
                client = stack.enter_context(site.raw(request + (b"7fffffff\r\n" if "chunked" in more[0] else b"")))
                if more is WEBSOCKET:
                    assert client.recv(12)[9:] == b"101"
                assert until_stalled(client) < 32 * MEBIBYTE
        assert site.peak - before < 60 * MEBIBYTE
        assert httpx.get(f"{site.url}/healthz", timeout=30).json()["live"] is True


def test_one_users_hanging_requests_are_one_users(site: WebSite) -> None:
    def hang(connection: socket.socket, head: bytes) -> None:
        if b"/hang" in head:
            time.sleep(60)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with application(hang) as port, ExitStack() as stack:
        (mine, cookie), (theirs, other) = site.session(port), site.session(port, "bob")
        request = site.request(mine, cookie, "GET /hang HTTP/1.1", "Connection: close")
        clients = [stack.enter_context(site.raw(request)) for _ in range(100)]
        [first, *_], _, _ = select.select(clients, [], [], 60)
        refused = read_all(first)
        assert refused.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 5" in refused.lower()
        assert b"alice has 64 connections to applications, the most that one user may have" in refused
        answer = site.exchange(site.request(theirs, other, "GET / HTTP/1.1", "Connection: close"))
        assert answer.endswith(b"ok")
        for client in clients:
            client.close()
        limit = time.monotonic() + 30
        request = site.request(mine, cookie, "GET / HTTP/1.1", "Connection: close")
        while not site.exchange(request).endswith(b"ok"):
            assert time.monotonic() < limit
            time.sleep(0.1)

"""A browser that has sessions with two jobs: the page of one cannot use the other's, nor plant anything there."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.gateway.api_site import wait_until
from tests.gateway.sessions.web_site import application, web_site

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")

HONEST = "<!DOCTYPE html><body>Honest<script>if (location.pathname == '/') location = 'ATTACKER'</script></body>"

ATTACK = """<!DOCTYPE html><body>
<iframe name="form" hidden></iframe>
<script>
const victim = "http://VICTIM", said = {};
const wait = ms => new Promise(done => setTimeout(done, ms));
const ends = (element, url) => new Promise(done => {
    element.onload = () => done("loaded");
    element.onerror = () => done("failed");
    element.src = element.data = url;
    document.body.append(element);
    setTimeout(() => done("nothing"), 3000);
});
const make = name => document.createElement(name);
const asked = (path, options) => fetch(victim + path, {credentials: "include", ...options}).then(
    async answer => answer.type + " " + answer.status + " " + await answer.text(), error => "failed");
async function attack() {
    document.cookie = "ucloud-compute-session-JOB-0-example=evil; Domain=apps.localhost; Path=/";
    document.cookie = "__Host-ucloud-compute-session-JOB-0-example=evil; Domain=apps.localhost; Path=/; Secure";
    said.image = await ends(make("img"), victim + "/image");
    said.script = await ends(make("script"), victim + "/script");
    said.frame = await ends(make("iframe"), victim + "/frame");
    said.object = await ends(make("object"), victim + "/object");
    said.opaque = await asked("/opaque", {mode: "no-cors"});
    said.cors = await asked("/cors", {});
    said.post = await asked("/post", {method: "POST", mode: "no-cors", body: "x=1"});
    said.put = await asked("/put", {method: "PUT", body: "x=1"});
    said.link = await asked("/ucloud/example/authorize-app?token=TOKEN", {mode: "no-cors"});
    said.socket = await new Promise(done => {
        const socket = new WebSocket("ws://VICTIM/socket");
        socket.onopen = () => done("open");
        socket.onclose = () => done("closed");
    });
    const form = make("form");
    Object.assign(form, {method: "POST", action: victim + "/form", target: "form"});
    document.body.append(form);
    form.submit();
    await wait(1000);
    await fetch("/said", {method: "POST", body: JSON.stringify(said)});
    location = victim + "/again";
}
attack();
</script></body>
"""
"""Attacks, tells its own application what came of it, and leads to the other one as a link does."""


@contextmanager
def browser(url: str, profile: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A browser that opens this, within the block."""
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage",
        "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--no-proxy-server", f"--user-data-dir={profile}", *more, url,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


class Pages:
    """An application that keeps what it is asked, and answers with one page."""

    def __init__(self) -> None:
        self.page = ""
        self.headers: tuple[str, ...] = ()
        self.asked: list[tuple[str, str]] = []
        """Request line and cookies."""
        self.said = ""
        """What its page has told it."""

    def __call__(self, connection: socket.socket, head: bytes) -> None:
        """Answer a request."""
        head, _, body = head.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        if lines[0].startswith("POST /said "):
            while not body.endswith(b"}"):
                body += connection.recv(65536)
            self.said = body.decode()
        cookies = "; ".join(line[8:] for line in lines if line.lower().startswith("cookie: "))
        if "favicon" not in lines[0]:
            self.asked.append((lines[0], cookies))
        page = self.page.encode()
        answer = ["HTTP/1.1 200 OK", "Content-Type: text/html", f"Content-Length: {len(page)}", *self.headers, "", ""]
        connection.sendall("\r\n".join(answer).encode() + page)


def test_a_page_cannot_use_the_session_of_another_job(tmp_path: Path) -> None:
    honest, hostile = Pages(), Pages()
    with application(honest) as first, application(hostile) as second, web_site(tmp_path) as site:
        victim, attacker = site.start(first), site.start(second, "bob")
        link = site.link(victim)
        names = {"VICTIM": site.host(victim), "JOB": victim.id, "TOKEN": link.rpartition("=")[2]}
        hostile.page = ATTACK
        for name, value in names.items():
            hostile.page = hostile.page.replace(name, value)
        planted = f"ucloud-compute-session-{victim.id}-0-example=evil"
        hostile.headers = (
            f"Set-Cookie: {planted}; Domain=apps.localhost; Path=/",
            f"Set-Cookie: __Host-{planted}; Secure; Path=/",
            "Set-Cookie: bomb=" + "x" * 3000 + "; Domain=apps.localhost; Path=/",
            "Set-Cookie: mine=1; Path=/",
            'Clear-Site-Data: "cookies"',
        )
        begin = site.link(victim)
        honest.page = HONEST.replace("ATTACKER", site.link(attacker, "bob"))
        with browser(begin, tmp_path / "profile"):
            wait_until(lambda: ("GET /again HTTP/1.1") in [line for line, _ in honest.asked], f"{hostile.asked}")
        # Nothing of the attack has reached the other application, no cookie was planted, and the session counts on.
        assert honest.asked == [("GET / HTTP/1.1", ""), ("GET /again HTTP/1.1", "")]
        said = json.loads(hostile.said)
        assert said["socket"] == "closed"
        assert {said[each] for each in ("image", "script", "cors", "put")} == {"failed"}
        assert not any("Honest" in each for each in said.values())
        assert any("mine=1" in cookies for _, cookies in hostile.asked), "an application has its own cookies"
        url = httpx.URL(link)
        opened = httpx.get(f"{site.url}{url.raw_path.decode()}", headers={"Host": f"{url.host}:{url.port}"}, timeout=30)
        assert opened.status_code == 302, "the link that the page has tried was not used up"


def test_the_gateways_own_pages_load_nothing(tmp_path: Path) -> None:
    """They hold text only, and no page may put them into a frame."""
    with web_site(tmp_path) as site:
        record = site.start(1)
        answer = site.exchange(site.request(record, "none=1", "GET /<script> HTTP/1.1", "Connection: close"))
        assert b"content-security-policy: default-src 'none'; frame-ancestors 'none'" in answer
        with browser(f"http://{site.host(record)}/", tmp_path / "profile", "--dump-dom") as process:
            assert "401 Unauthorized" in process.communicate(timeout=120)[0]

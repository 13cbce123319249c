"""A browser sees the page, and a VNC client the desktop, of an application that runs on a node of the cluster."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from slurm_adapter.adapter import Adapter
from slurm_adapter.gateway.http.app import make_app
from slurm_adapter.jobs import user_tokens
from slurm_adapter.local.configuration_file import load_config
from tests.gateway.process import free_port
from tests.gateway.serving import served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slurm_adapter.core.records import Record
    from slurm_adapter.sandbox.configuration import Transport
    from tests.adapter import LiveSiteMaker

pytestmark = pytest.mark.sandbox

PORT, FURTHER = 18911, 18912

INTERFACE = """
application: v2
name: interface
version: "1"
software: {type: Native, load: []}
features: {}
parameters: {}
"""

PAGES = f"""{INTERFACE}
web: {{enabled: true, port: {PORT}}}
invocation: |
  mkdir pages more
  {{{{ dynamicInterface(0, "WEB", "More pages", {FURTHER}) }}}}
  echo '<!DOCTYPE html><body>More of it</body>' >more/index.html
  python3 -u -m http.server {FURTHER} --directory more &
  echo '<!DOCTYPE html><body><script src="hello.js"></script></body>' >pages/index.html
  echo 'document.body.append(`Hello, ${{location.hostname}}. Cookies: [${{document.cookie}}]`)' >pages/hello.js
  exec python3 -u -m http.server {PORT} --directory pages
"""

DESKTOP = f"""{INTERFACE}
vnc: {{enabled: true, port: {PORT}, password: hidden}}
invocation: |
  exec python3 -c '
  import socket
  with socket.create_server(("", {PORT})) as server:
      print("Serving", flush=True)
      while True:
          client, _ = server.accept()
          with client:
              client.sendall(b"RFB 003.008\\n")
              client.sendall(client.recv(12)[::-1])
              client.recv(1)'
"""
"""Greets as a VNC server does (RFC 6143, 7.1.1), and says backwards what the client greets it with."""


def show(url: str, profile: Path) -> str:
    """What a browser that has never been here shows of a page, as HTML."""
    browser = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage",
        "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--no-proxy-server", f"--user-data-dir={profile}", "--dump-dom", url,
    ]  # fmt: skip
    done = subprocess.run(browser, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class Opener:
    """Opens sessions of jobs that run at a site which is served."""

    make_adapter: LiveSiteMaker

    @contextmanager
    def open(
        self, application: str, kind: Literal["WEB", "VNC"], transport: Transport, direct: str, *further: str
    ) -> Iterator[tuple[Record, list[dict[str, str]]]]:
        """A job that runs this application and says of each interface that it is there; sessions, within the block.

        One of its own interface, and one of each of these further ones.
        """
        port = free_port()
        adapter = self.make_adapter(
            transport,
            more=f"""
                [gateway]
                url = "http://localhost:{port}"
                web_domain = "app-{{job}}-{{rank}}.localhost:{port}"
                reaches_nodes = {direct}
            """,
        )
        (adapter.config_file.parent / "applications" / "interface.yaml").write_text(application)
        [record] = adapter.start(adapter.specification("interface"))
        adapter.cluster.wait_for(lambda: adapter.output(record).count("Serving") > len(further))
        token = {"Authorization": f"Bearer {user_tokens.create(adapter.site, 'laptop', 'alice')}"}
        item = {"id": record.id, "rank": 0, "sessionType": kind}
        wanted = {"items": [item, *({**item, "target": target} for target in further)]}
        with served(make_app(Adapter(load_config(adapter.config_file))), port) as address:
            answer = httpx.post(f"http://{address}/api/jobs/interactiveSession", headers=token, json=wanted, timeout=30)
            yield record, [each["session"] for each in answer.json()["responses"]]


@pytest.fixture
def opener(make_adapter: LiveSiteMaker) -> Opener:
    return Opener(make_adapter)


@pytest.mark.scenario(79)
@pytest.mark.parametrize(("transport", "direct"), [("local", "true"), ("local", "false"), ("ssh", "false")])
def test_a_browser_sees_the_page_of_a_job(opener: Opener, tmp_path: Path, transport: Transport, direct: str) -> None:
    with opener.open(PAGES, "WEB", transport, direct, "More pages") as (record, sessions):
        url, more = [session["redirectClientTo"] for session in sessions]
        host = f"app-{record.id}-0.localhost"
        assert f"Hello, {host}. Cookies: []" in show(url, tmp_path / "first")
        assert "401 Unauthorized" in show(f"http://{host}:{urlsplit(url).port}/", tmp_path / "second")
        assert urlsplit(more).hostname == f"app-{record.id}-0-1.localhost"
        assert "More of it" in show(more, tmp_path / "third")


@pytest.mark.scenario(79)
@pytest.mark.parametrize(("transport", "direct"), [("local", "true"), ("ssh", "false")])
def test_a_vnc_client_is_greeted_by_the_desktop_of_a_job(opener: Opener, transport: Transport, direct: str) -> None:
    with opener.open(DESKTOP, "VNC", transport, direct) as (_, [session]):
        assert session["password"] == "hidden"
        with connect(session["url"], subprotocols=[Subprotocol("binary")], proxy=None) as client:
            assert client.recv(timeout=60) == b"RFB 003.008\n"
            client.send(b"RFB 003.008\n")
            assert client.recv(timeout=60) == b"\n800.300 BFR"


QUIET = f"""{INTERFACE}
web: {{enabled: true, port: {PORT}}}
invocation: |
  {{{{ sbatch("nodelist", "node001") }}}}
  echo Serving; sleep 600
"""

LOUD = QUIET.replace("echo Serving; sleep 600", f"exec python3 -u -m http.server {PORT} --bind 0.0.0.0")


@pytest.mark.parametrize(("transport", "direct"), [("local", "true"), ("ssh", "false")])
def test_no_other_jobs_page_is_shown(make_adapter: LiveSiteMaker, transport: Transport, direct: str) -> None:
    port = free_port()
    adapter = make_adapter(
        transport,
        more=f"""
            [gateway]
            url = "http://localhost:{port}"
            web_domain = "app-{{job}}-{{rank}}.localhost:{port}"
            reaches_nodes = {direct}
        """,
    )
    for name, application in (("quiet", QUIET), ("loud", LOUD)):
        text = application.replace("name: interface", f"name: {name}")
        (adapter.config_file.parent / "applications" / f"{name}.yaml").write_text(text)
    [loud] = adapter.start(adapter.specification("loud"), user="alice")
    quiet = [adapter.start(adapter.specification("quiet"), user=user)[0] for user in ("alice", "bob")]
    adapter.cluster.wait_for(lambda: "Serving" in adapter.output(loud))
    assert {record.nodes for record in map(adapter.now, (loud, *quiet))} == {("node001",)}
    with served(make_app(Adapter(load_config(adapter.config_file))), port) as address:

        def look(record: Record, user: str) -> str:
            token = {"Authorization": f"Bearer {user_tokens.create(adapter.site, f'{user}-{record.id}', user)}"}
            body = {"items": [{"id": record.id, "rank": 0, "sessionType": "WEB"}]}
            answer = httpx.post(f"http://{address}/api/jobs/interactiveSession", headers=token, json=body, timeout=30)
            link = urlsplit(answer.json()["responses"][0]["session"]["redirectClientTo"])
            entered = httpx.get(f"http://{address}{link.path}?{link.query}", headers={"Host": link.netloc}, timeout=30)
            cookie = entered.headers["Set-Cookie"].partition(";")[0]
            return httpx.get(
                f"http://{address}/", headers={"Host": link.netloc, "Cookie": cookie}, timeout=60
            ).text  # fmt: skip

        assert "Directory listing" in look(loud, "alice")
        assert f"port {PORT} on node001 is held by another account" in look(quiet[1], "bob")
        assert f"port {PORT} on node001 is held by another job of the account alice" in look(quiet[0], "alice")

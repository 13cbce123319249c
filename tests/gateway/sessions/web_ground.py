"""A gateway before an application of the test, with web and VNC sessions."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from websockets.sync.client import connect

from slurm_adapter.gateway.http.app import make_app
from tests.gateway.serving import served
from tests.gateway.tls import TLS
from tests.offline import Offline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from starlette.requests import Request
    from starlette.websockets import WebSocket
    from websockets.sync.client import ClientConnection

    from slurm_adapter.core.records import Record, RecordChange
    from slurm_adapter.gateway.gateway import Gateway
    from slurm_adapter.gateway.limits import Limits
    from slurm_adapter.gateway.sessions.web import Web


SETTINGS = {
    "url": "http://gateway.localhost",
    "web_domain": "app-{job}-{rank}.localhost",
    "reaches_nodes": True,
    "body_limit": 1,
}


async def echo(request: Request) -> Response:
    """Tell what was asked, as the application sees it."""
    body = await request.body()
    seen = {
        "method": request.method,
        "path": request.scope["raw_path"].decode(),
        "query": request.scope["query_string"].decode(),
        "headers": [[name.decode(), value.decode()] for name, value in request.scope["headers"]],
        "length": len(body),
        "last": body[-10:].decode("latin-1"),
    }
    headers = {"Content-Type": "application/json", "X-Own": "yes", "Keep-Alive": "timeout=5"}
    answer = Response(json.dumps(seen), 207, headers)
    answer.set_cookie("own", "1")
    answer.set_cookie("other", "2")
    return answer


async def stream(_: Request) -> StreamingResponse:
    """Say something, and more once somebody has read it; see `READ`."""

    async def lines() -> AsyncIterator[bytes]:
        yield b"first\n"
        await asyncio.to_thread(READ.wait, 30)
        yield b"second\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


async def endless(_: Request) -> StreamingResponse:
    """Say something for ever; `GONE` once nobody listens any more."""

    async def lines() -> AsyncIterator[bytes]:
        yield b"first\n"
        try:
            await asyncio.sleep(3600)
        finally:
            GONE.set()

    return StreamingResponse(lines(), media_type="text/event-stream")


READ = threading.Event()


GONE = threading.Event()


async def talk(websocket: WebSocket) -> None:
    """Say everything again, to whoever speaks `chat`; `bye` ends it."""
    await websocket.accept("chat" if "chat" in websocket.scope["subprotocols"] else None)
    await websocket.send_json({"headers": dict(websocket.headers), "query": websocket.scope["query_string"].decode()})
    while (message := await websocket.receive())["type"] != "websocket.disconnect":
        if message.get("text") == "bye":
            await websocket.close(4321, "as you wish")
            return
        if message.get("text") is not None:
            await websocket.send_text(message["text"])
        else:
            await websocket.send_bytes(message["bytes"])


APPLICATION = Starlette(
    routes=[
        Route("/stream", stream),
        Route("/endless", endless),
        WebSocketRoute("/talk", talk),
        Route("/{path:path}", echo, methods=["GET", "POST", "PUT", "DELETE", "OPTIONS"]),
    ]
)


class Ground:
    """A running job whose application listens here, and the gateway before it."""

    def __init__(self, offline: Offline, web: Web, address: str, port: int) -> None:
        self.offline = offline
        self.web = web
        self.address = address
        self.port = port
        self.record = self.start()

    def host(self, record: Record | None = None, rank: int = 0) -> str:
        """The domain of a rank."""
        return f"app-{(record or self.record).id}-{rank}.localhost"

    def ask(self, method: str, path: str, *, host: str | None = None, **more: Any) -> httpx.Response:
        """Ask the gateway by the name of a domain."""
        headers = [("Host", host or self.host()), *more.pop("headers", {}).items()]
        return httpx.request(method, f"http://{self.address}{path}", headers=headers, timeout=30, verify=TLS, **more)

    def authorize(self, record: Record | None = None, rank: int = 0) -> httpx.Response:
        """Follow the link of a new session."""
        session = self.web.open(record or self.record, rank, "WEB")
        assert session.redirect_client_to is not None
        link = urlsplit(session.redirect_client_to)
        return self.ask("GET", f"{link.path}?{link.query}", host=link.netloc)

    def cookie(self, record: Record | None = None, rank: int = 0) -> dict[str, str]:
        """The header of a browser with a session."""
        answer = self.authorize(record, rank)
        return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}

    def keep(self, record: Record, **fields: Any) -> Record:
        """Change what is remembered of a job."""
        return self.offline.site.store.change(
            [(self.offline.now(record), cast("RecordChange", fields))], self.offline.slurm.now
        )[0]

    def start(self, **fields: Any) -> Record:
        """A job that runs on this machine, with a web and a VNC interface."""
        record = self.offline.run(self.offline.job(**fields))
        local = (("127.0.0.1",),) * record.replicas
        return self.keep(record, addresses=local, web_port=self.port, vnc_port=self.port)

    def socket(self, path: str, headers: dict[str, str], **more: Any) -> ClientConnection:
        """A WebSocket to the application."""
        host, _, port = self.address.partition(":")
        url = f"ws://{self.host()}{path}"
        where = (host, int(port))
        client: ClientConnection = connect(url, address=where, additional_headers=headers, proxy=None, **more)
        return client


@pytest.fixture(scope="module")
def application() -> Iterator[int]:
    """The port on which an application listens."""
    with served(APPLICATION) as address:
        yield int(address.rpartition(":")[2])


async def never_sync(_: Gateway) -> None:
    """What is remembered is what the test says."""


@contextmanager
def opened(folder: Path, port: int, limits: Limits | None = None, **settings: Any) -> Iterator[Ground]:
    """A gateway before a job whose port this is."""
    offline = Offline(folder, {"gateway": {**SETTINGS, **settings}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slurm_adapter.gateway.http.app.sync_forever", never_sync)
        app = make_app(offline.open(), limits)
        with served(app) as address:
            yield Ground(offline, app.state.gateway.web, address, port)


@pytest.fixture
def ground(tmp_path: Path, application: int, limits: Limits) -> Iterator[Ground]:
    """A gateway that reaches the nodes itself."""
    with opened(tmp_path, application, limits) as ground:
        yield ground


@pytest.fixture(params=[True, False], ids=["itself", "by commands"])
def either(request: pytest.FixtureRequest, tmp_path: Path, application: int, limits: Limits) -> Iterator[Ground]:
    """One that reaches the nodes itself, and one that reaches them by commands on the cluster."""
    with opened(tmp_path, application, limits, reaches_nodes=request.param) as ground:
        yield ground

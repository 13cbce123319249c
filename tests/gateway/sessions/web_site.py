"""`serve` as a process before jobs whose applications are hostile: raw sockets of the test's own."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest

from slurm_adapter.jobs import user_tokens
from tests.gateway.process import free_port, serving
from tests.gateway.tls import TLS
from tests.offline import Offline, configuration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slurm_adapter.core.records import Record, RecordChange

    Handler = Callable[[socket.socket, bytes], None]


@dataclass
class WebSite:
    """A served site, and short ways to use its applications."""

    offline: Offline
    url: str
    pid: int
    port: int
    _sessions: dict[str, tuple[Record, str]] = field(default_factory=dict)

    def start(self, port: int, user: str = "alice") -> Record:
        """Return a job that runs on this machine, with its interfaces on this port."""
        record = self.offline.run(self.offline.job(user=user))
        change: RecordChange = {"addresses": (("127.0.0.1",),), "web_port": port, "vnc_port": port}
        return self.offline.site.store.change([(self.offline.now(record), change)], self.offline.slurm.now)[0]

    def session(self, port: int, user: str = "alice") -> tuple[Record, str]:
        """Return a job of this user whose interfaces are on this port, and the cookie of a session with it.

        Of each user it is always the same job.
        """
        if user not in self._sessions:
            record = self.start(port, user)
            self._sessions[user] = record, self.cookie(record, user)
        record, cookie = self._sessions[user]
        self.offline.site.store.change([(self.offline.now(record), {"web_port": port})], self.offline.slurm.now)
        return record, cookie

    def token(self, user: str = "alice") -> dict[str, str]:
        """Return the header of a user with a token."""
        name = f"{user}-{len(self.offline.site.store.tokens())}"
        return {"Authorization": f"Bearer {user_tokens.create(self.offline.site, name, user)}"}

    def ask_for_session(self, record: Record, kind: str = "WEB", items: int = 1, user: str = "alice") -> httpx.Response:
        """Ask for sessions with a job."""
        body = {"items": [{"id": record.id, "rank": 0, "sessionType": kind}] * items}
        return httpx.post(
            f"{self.url}/api/jobs/interactiveSession", json=body, headers=self.token(user), timeout=60, verify=TLS
        )

    def link(self, record: Record, user: str = "alice") -> str:
        """Return the address by which a browser begins a session."""
        answer = self.ask_for_session(record, user=user)
        link: str = answer.json()["responses"][0]["session"]["redirectClientTo"]
        return link

    def host(self, record: Record) -> str:
        """Return the job's domain."""
        return f"app-{record.id}-0.apps.localhost:{self.port}"

    def cookie(self, record: Record, user: str = "alice") -> str:
        """Return the cookie of a new session."""
        link = urlsplit(self.link(record, user))
        answer = httpx.get(f"{self.url}{link.path}?{link.query}", headers={"Host": link.netloc}, timeout=30, verify=TLS)
        return answer.headers["Set-Cookie"].partition(";")[0]

    def raw(self, data: bytes, timeout: float = 60) -> socket.socket:
        """Return a connection to the gateway over which this was sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        connection.sendall(data)
        return connection

    def request(self, record: Record, cookie: str, head: str = "GET / HTTP/1.1", *more: str) -> bytes:
        """Return the head of a request to an application."""
        return "\r\n".join((head, f"Host: {self.host(record)}", f"Cookie: {cookie}", *more, "", "")).encode()

    def exchange(self, data: bytes) -> bytes:
        """Return all that is answered until the connection ends."""
        with self.raw(data) as connection:
            return read_all(connection)

    @property
    def peak(self) -> int:
        """Bytes of memory that the process had at most."""
        return _memory(self.pid, "VmHWM")


WEBSOCKET = (
    "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip


def switch(head: bytes) -> bytes:
    """Return the answer of an application that takes this WebSocket."""
    [key] = re.findall(rb"(?i)sec-websocket-key: *(\S+)", head)
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())  # noqa: S324  # RFC 6455
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


def read_all(connection: socket.socket) -> bytes:
    """Return what comes until the end, however it ends."""
    data = bytearray()
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            data += piece
    return bytes(data)


@contextmanager
def application(handle: Handler) -> Iterator[int]:
    """An application that gets the head of each request, in a thread; gives its port."""
    server = socket.create_server(("127.0.0.1", 0), backlog=512)
    open_: set[socket.socket] = set()

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head and (piece := connection.recv(65536)):
                head += piece
            handle(connection, head)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                open_.add(connection)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        for connection in open_:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def web_site(folder: Path, *, scheme: str = "http", direct: bool = True, **more: Any) -> Iterator[WebSite]:
    """`serve` before jobs of this machine, within the block."""
    port = free_port()
    settings = {
        "port": port,
        "url": f"{scheme}://gateway.localhost:{port}",
        "web_domain": f"app-{{job}}-{{rank}}.apps.localhost:{port}",
        "reaches_nodes": direct,
        "folder_shells": False,
    }
    offline = Offline(folder, {"gateway": settings, **more})
    path = folder / "config.toml"
    path.write_text(_toml(configuration(folder, {"gateway": settings, **more})))
    before = _children()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", offline.environment["PATH"])
        with serving(path, port) as url:
            [pid] = _children() - before
            yield WebSite(offline, url, pid, port)


def _toml(tables: dict[str, Any], at: str = "") -> str:
    plain = [f"{key} = {json.dumps(value)}" for key, value in tables.items() if not isinstance(value, dict)]
    deeper = [_toml(value, f"{at}{key}.") for key, value in tables.items() if isinstance(value, dict)]
    return "\n".join([*([f"[{at[:-1]}]"] if at else []), *plain, *deeper, ""])


def _children() -> set[int]:
    tasks = Path("/proc/self/task").glob("*/children")
    return {int(pid) for task in tasks for pid in task.read_text().split()}


def _memory(pid: int, name: str) -> int:
    [line] = [each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith(name)]
    return int(line.split()[1]) * 1024

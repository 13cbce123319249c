"""Hostile clients: `python -m tests.gateway.hostile_clients PORT COUNT [KIND...] < USERS`, until it is ended.

USERS is the list of hostile users that `hostile_site` says. The clients take turns in kind and user. Everything is
written to sockets byte by byte: a well-behaved library would not send it. Once a second a line on stdout says how many
requests of each kind were begun. They give way to the gateway, for on one machine their own work would else pass for
the harm that they do.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import zlib
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

HOLD_SECONDS = 15.0
"""How long a client holds what it has got before it begins again."""

PROVIDER = "example"

SLEEPER = {
    "application": {"name": "sleeper", "version": "1"},
    "product": {"provider": PROVIDER, "category": "example-compute", "id": "example-compute"},
}


@dataclass(frozen=True, slots=True)
class Attacker:
    """Who attacks what."""

    port: int
    user: str
    token: str
    job: str
    kind: str = ""

    @property
    def bearer(self) -> dict[str, str]:
        """The header of a user."""
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def domain(self) -> str:
        """Where the user's own application is seen."""
        return f"app-{self.job}-0.localhost:{self.port}"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection to the gateway, whose reader takes little in."""
        return await asyncio.open_connection("127.0.0.1", self.port, limit=2**16)

    async def ask(self, head: bytes, *pieces: bytes) -> bytes:
        """Send a request, and return its answer if the gateway is to close the connection, else the beginning."""
        reader, writer = await self.connect()
        try:
            SENT[self.kind] += 1
            for piece in (head, *pieces):
                writer.write(piece)
                await writer.drain()
            async with asyncio.timeout(HOLD_SECONDS):
                return await reader.read(-1 if b"\r\nConnection: close\r\n" in head else 2**16)
        finally:
            writer.close()

    async def post(self, path: str, body: bytes) -> bytes:
        """Ask as a user with a token."""
        headers = {**self.bearer, "Connection": "close", "Content-Length": str(len(body))}
        return await self.ask(request("POST", path, headers), body)

    async def hold(self, head: bytes, *pieces: bytes) -> None:
        """Send a request, read no answer, and stay connected."""
        reader, writer = await self.connect()
        try:
            SENT[self.kind] += 1
            for piece in (head, *pieces):
                writer.write(piece)
                async with asyncio.timeout(HOLD_SECONDS):
                    await writer.drain()
            await asyncio.sleep(HOLD_SECONDS)
            if reader.at_eof():
                return
        finally:
            writer.transport.abort()

    async def cookie(self) -> dict[str, str]:
        """Return the header of a browser with a session of the user's own application."""
        item = {"id": self.job, "rank": 0, "sessionType": "WEB"}
        answer = await self.post("/api/jobs/interactiveSession", json.dumps({"items": [item]}).encode())
        token = re.search(rb"authorize-app\?token=([\w-]+)", answer)
        path = f"/ucloud/{PROVIDER}/authorize-app?token={token[1].decode() if token else ''}"
        answer = await self.ask(request("GET", path, {"Host": self.domain}))
        cookie = re.search(rb"(?im)^set-cookie: ([^;]+)", answer)
        return {"Host": self.domain, "Cookie": cookie[1].decode() if cookie else ""}


def request(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request."""
    whole = {"Host": "g", **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in whole.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def upgrade(path: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request for a WebSocket that takes compressed frames."""
    own = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Extensions": "permessage-deflate",
    }  # fmt: skip
    return request("GET", path, own | dict(headers))


def frame(payload: bytes, *, compressed: bool = False) -> bytes:
    """Return a text frame, masked with zeros, as clients must mask."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
    return bytes([0xC1 if compressed else 0x81]) + length + bytes(4) + payload


def deflated(size: int) -> bytes:
    """Return so many zeros as permessage-deflate has them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (packer.compress(b"0" * size) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


SENT: Counter[str] = Counter()
"""Requests that were begun, by kind."""

BOMB = frame(deflated(15 * 2**20), compressed=True)

_ITEM = json.dumps(SLEEPER).encode()[:-1]

LARGE = [
    b'{"items":[' + _ITEM + b',"resources":[' + b"1," * (15 * 2**20) + b"1]}]}",
    b'{"items":[' + _ITEM + b',"resources":[' + b"1," * 400_000 + b"1]}]}",
    b'{"items":[' + b"[]," * 700_000 + b"[]]}",
    b'{"items":' + b"[" * 500_000,
    b'{"items":[{"parameters":{' + b",".join(b'"%d":{}' % number for number in range(100_000)) + b"}}]}",
    b'{"items":[{"name":"' + b"\\u0000" * 200_000 + b'"}]}',
]

TEXTS = ["{- " + " " * 40_000, "{{" * 20_000, "{% for a in b %}" * 3_000, "#" + " #SBATCH" * 5_000, "{-" * 20_000]


async def bomb(by: Attacker) -> None:
    """Send frames that grow a thousandfold when they are unpacked, without a token."""
    for path in ("/api/jobs", f"/ucloud/{PROVIDER}/websocket", f"/ucloud/{PROVIDER}/vnc", "/nowhere"):
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(by.hold(upgrade(path, {}), *[BOMB] * 8), HOLD_SECONDS / 4)


async def body(by: Attacker) -> None:
    """Send large bodies, with and without a token, told how large or not."""
    for large in LARGE:
        for headers in ({}, by.bearer):
            await _forgiven(by.ask(request("POST", "/api/jobs", headers | {"Content-Length": str(len(large))}), large))
            pieces = [b"%x\r\n%b\r\n" % (len(part), part) for part in _parts(large)]
            head = request("POST", "/api/jobs", headers | {"Transfer-Encoding": "chunked"})
            await _forgiven(by.ask(head, *pieces, b"0\r\n\r\n"))


async def text(by: Attacker) -> None:
    """Send job texts that are slow to read."""
    for each in TEXTS:
        flow = {"type": "workflow", "specification": {"language": "JINJA2", "job": each}}
        item = SLEEPER | {"application": {"name": "flow", "version": "1"}, "parameters": {"flow": flow}}
        await _forgiven(by.post("/api/jobs", json.dumps({"items": [item]}).encode()))


async def half(by: Attacker) -> None:
    """Send half a request, and let the other half be waited for."""
    heads = [
        b"POST /api/jobs HTTP/1.1\r\nHost: g\r\nX-More: ",
        request("POST", "/api/jobs", {**by.bearer, "Content-Length": "100"}) + b'{"items": ',
        request("POST", "/api/jobs", {"Transfer-Encoding": "chunked"}) + b"5\r\nx",
        b"",
        b"GET /healthz HTTP/1.1\r\n" + b"X: " + b"x" * 30_000,
    ]
    await asyncio.gather(*(_forgiven(by.hold(head)) for head in heads))


async def link(by: Attacker) -> None:
    """Have links made that nobody follows."""
    item = {"id": by.job, "rank": 0, "sessionType": "WEB"}
    await _forgiven(by.post("/api/jobs/interactiveSession", json.dumps({"items": [item] * 1000}).encode()))


async def cookie(by: Attacker) -> None:
    """Have sessions made that nobody uses."""
    for _ in range(100):
        await _forgiven(by.cookie())


async def tunnel(by: Attacker) -> None:
    """Ask an application that never answers, or never ends."""
    headers = await by.cookie()
    paths = ["/hang"] * 15 + ["/endless"] * 5
    await asyncio.gather(*(_forgiven(by.hold(request("GET", path, headers))) for path in paths))


async def flood(by: Attacker) -> None:
    """Have one's own application send large messages, and read none."""
    headers = await by.cookie()
    await asyncio.gather(*(_forgiven(by.hold(upgrade("/flood", headers))) for _ in range(4)))


async def stream(by: Attacker) -> None:
    """Follow one's own job by as many streams as there may be, and read none."""
    calls = [
        frame(json.dumps({"call": "jobs.follow", "streamId": str(number), "payload": {"id": by.job}}).encode())
        for number in range(100)
    ]
    await asyncio.gather(*(_forgiven(by.hold(upgrade("/api/jobs", by.bearer), *calls)) for _ in range(4)))


async def follow(by: Attacker) -> None:
    """Begin to follow, and go away, again and again."""
    call = frame(json.dumps({"call": "jobs.follow", "streamId": "1", "payload": {"id": by.job}}).encode())
    for _ in range(20):
        await _forgiven(by.ask(upgrade("/api/jobs", by.bearer), call))


async def create(by: Attacker) -> None:
    """Submit jobs all at once."""
    item = json.dumps({"items": [SLEEPER] * 10}).encode()
    await asyncio.gather(*(_forgiven(by.post("/api/jobs", item)) for _ in range(20)))


async def question(by: Attacker) -> None:
    """Submit what can only be refused once Slurm was asked."""
    item = SLEEPER | {"resources": [{"type": "peer", "hostname": "node001", "jobId": by.job}]}
    for wrong in ({**item, "replicas": 4}, SLEEPER | {"replicas": 100}, item):
        await _forgiven(by.post("/api/jobs", json.dumps({"items": [wrong] * 20}).encode()))


async def look(by: Attacker) -> None:
    """Ask for what is dear to answer, with and without a token."""
    for path in ("/metrics", "/docs", "/openapi.json", "/healthz", "/api/jobs/browse?itemsPerPage=1000", "/x" * 4000):
        for headers in ({}, by.bearer):
            await _forgiven(by.ask(request("GET", path, headers)))


KINDS: dict[str, Callable[[Attacker], Awaitable[None]]] = {
    each.__name__: each
    for each in (bomb, body, text, half, link, cookie, tunnel, flood, stream, follow, create, question, look)
}


def _parts(whole: bytes, size: int = 2**16) -> list[bytes]:
    return [whole[start : start + size] for start in range(0, len(whole), size)]


async def _forgiven(attack: Awaitable[object]) -> None:
    """Go on whatever the gateway makes of it."""
    with suppress(OSError, TimeoutError):
        await attack


async def _attack(by: Attacker) -> None:
    while True:
        await _forgiven(KINDS[by.kind](by))
        await asyncio.sleep(0.05)


async def _report() -> None:
    while True:
        sys.stdout.write(json.dumps(SENT) + "\n")
        sys.stdout.flush()
        await asyncio.sleep(1)


async def main(port: int, count: int, kinds: list[str], users: list[dict[str, Any]]) -> None:
    """Attack with so many clients."""
    some = cycle(users)
    chosen = kinds or list(KINDS)
    attackers = [Attacker(port, kind=chosen[number % len(chosen)], **next(some)) for number in range(count)]
    await asyncio.gather(_report(), *map(_attack, attackers))


if __name__ == "__main__":
    os.nice(5)
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:], json.load(sys.stdin)))

"""A UCloud for tests: a real HTTP server on a loopback port that does what the contract says of its core, no more.

    with Ucloud() as ucloud:
        ucloud.write_key(path); ucloud.write_refresh_token(path)     # what a site is given
        ucloud.know("4101")                                          # it has a job, IN_QUEUE
        ucloud.provider = "http://127.0.0.1:8889"                    # whom it calls
        ucloud.create(job_json); ucloud.terminate("4101"); ucloud.call("/ucloud/example/jobs/extend", {...})
        ucloud.state("4101"), ucloud.updates("4101"), ucloud.calls   # what it was told
    ucloud.have_drive("77", "alice", folder="/work/alice")       # it has a drive that the provider registered

What goes wrong: `fail`, `lose_next`, `slow`, `down`, `deny`, `forget`. Sources: contract sections 1.13, 1.14, 3.2, 3.5,
3.6 and 4, and `accepted-and-refused-answers.txt` for how strictly its decoder reads.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import hmac
import http.client
import json
import secrets
import socket
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal, Self

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from slurm_adapter.core.config import FIRST_ID_BESIDE_UCLOUD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

FINAL = frozenset({"SUCCESS", "FAILURE", "EXPIRED"})

LIFETIME = 600
"""Seconds that its tokens are good for."""

TIMEOUT = 5.0
"""Seconds that it waits for a provider."""


@cache
def key_pair(name: str) -> rsa.RSAPrivateKey:
    """Key pairs cost time to make; each name has one for the whole test run."""
    del name
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass(frozen=True)
class Call:
    """One request that it was sent."""

    method: str
    path: str
    """Without the query."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By lower-case name."""
    body: Any
    status: int
    """What it answered; 0 where it dropped the connection."""
    at: float
    """When, by `time.monotonic`."""


@dataclass(frozen=True)
class Answer:
    """What a provider answered; status 0 where it did not in time, or not at all."""

    status: int
    headers: Mapping[str, str]
    text: str
    seconds: float

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.text)


@dataclass
class _Refusal(Exception):
    status: int
    why: str


def _missing() -> _Refusal:
    """As its newer core answers a question for a resource that is not there, or not the asking provider's."""
    return _Refusal(403, "Write permission is required")


@dataclass
class _Fault:
    status: int
    times: int
    path: str | None


@dataclass
class _Job:
    json: dict[str, Any]
    confirmed: bool = True
    """Not while the provider is still to answer to `create`: only `retrieve` knows it then."""
    updates: list[dict[str, Any]] = field(default_factory=list)


class Ucloud:
    """One UCloud with one provider."""

    def __init__(self, provider_id: str = "example", clock: Callable[[], float] = time.time) -> None:
        """Not started yet; use it in a `with` block."""
        self.provider_id = provider_id
        self.provider = ""
        """The URL of the provider that it calls."""
        self.clock = clock
        """By which its tokens are issued and judged."""
        self.refresh_token = f"refresh-{secrets.token_hex(16)}"
        self.lifetime = LIFETIME
        """Seconds; of the access tokens that it issues."""
        self.calls: list[Call] = []
        """Every request, in order."""
        self.slow = 0.0
        """Seconds that it takes over an answer."""
        self.drives: dict[str, dict[str, Any]] = {}
        """Its drives (files/collections), by id; see `have_drive`."""
        self.issued: list[str] = []
        """Access tokens."""
        self._port = 0
        self._jobs: dict[str, _Job] = {}
        self._denied: set[str] = set()
        self._faults: list[_Fault] = []
        self._lost_after: int | None = None
        self._lose = False
        self._lock = threading.RLock()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Listen."""
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        self.down()

    @property
    def url(self) -> str:
        """Where it listens; the same after an outage."""
        return f"http://127.0.0.1:{self._port}"

    def up(self) -> None:
        """Take connections, at the same port as before."""
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def down(self) -> None:
        """Refuse connections, and drop those that are open."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join(10)
            self._server.drop_all()
            self._server.server_close()
            self._server = self._thread = None

    # What a site is given, and tokens

    def settings(self, folder: Path, **more: Any) -> dict[str, Any]:
        """What the configuration of a site says that knows it; the key and the refresh token are written there."""
        return {
            "first_id": FIRST_ID_BESIDE_UCLOUD,
            "ucloud": {
                "url": self.url,
                "key": str(self.write_key(folder / "ucloud.pem")),
                "refresh_token": str(self.write_refresh_token(folder / "refresh-token")),
                **more,
            },
        }

    def write_key(self, path: Path, form: Literal["pem", "der"] = "pem") -> Path:
        """The public key of its tokens: PEM, or base64 of the DER, as UCloud shows it."""
        public = key_pair("ucloud").public_key()
        if form == "pem":
            path.write_bytes(_pem(public))
        else:
            path.write_bytes(base64.b64encode(public.public_bytes(serialization.Encoding.DER, _SPKI)))
        return path

    def write_refresh_token(self, path: Path) -> Path:
        """The refresh token, for the file's owner only."""
        path.touch(mode=0o600)
        path.write_text(self.refresh_token + "\n")
        return path

    def token(self, *, key: str = "ucloud", **claims: Any) -> str:
        """A token of its own for calls to the provider; claims replace those of a good one, None leaves one out."""
        return jwt.encode(self._claims("_UCloud", "SERVICE", "service", claims), key_pair(key), algorithm="RS256")

    def access_token(self, **claims: Any) -> str:
        """The provider's own token for calls to UCloud, signed with the same key."""
        mine = self._claims(
            f"#P_{self.provider_id}", "PROVIDER", "provider", {"exp": self._now + self.lifetime} | claims
        )
        token = jwt.encode(mine, key_pair("ucloud"), algorithm="RS256")
        self.issued.append(token)
        return token

    def bad_tokens(self) -> dict[str, str]:
        """Tokens that a provider must refuse, by what is wrong with them."""
        good = self._claims("_UCloud", "SERVICE", "service", {})
        return {
            "no algorithm": _signed({"alg": "none", "typ": "JWT"}, good, b""),
            "the public key as a secret": _hs256(good, _pem(key_pair("ucloud").public_key())),
            "another key": self.token(key="another"),
            "expired": self.token(iat=self._now - 1200, exp=self._now - 600),
            "another issuer": self.token(iss="cloud.example.org"),
            "another subject": self.token(sub="user"),
            "another role": self.token(role="USER"),
            "another audience": self.token(aud=["other:read"]),
            "issued in an hour": self.token(iat=self._now + 3600, exp=self._now + 4200),
            "no end": self.token(exp=None),
            "the provider's own": self.access_token(),
            "no token": "nonsense",
        }

    @property
    def _now(self) -> int:
        return int(self.clock())

    def _claims(self, sub: str, role: str, kind: str, claims: Mapping[str, Any]) -> dict[str, Any]:
        whole = {
            "sub": sub, "role": role, "principalType": kind, "aud": ["all:write"], "iss": "cloud.sdu.dk",
            "iat": self._now, "exp": self._now + LIFETIME, **claims,
        }  # fmt: skip
        return {name: value for name, value in whole.items() if value is not None}

    # What it knows of jobs

    def know(self, *ids: str, state: str = "IN_QUEUE") -> None:
        """It has these jobs."""
        with self._lock:
            for id_ in ids:
                self._denied.discard(id_)
                self._jobs[id_] = _Job({"id": id_, "status": {"state": state, "startedAt": None}})

    def forget(self, *ids: str) -> None:
        """It has these jobs no more."""
        with self._lock:
            for id_ in ids:
                self._jobs.pop(id_, None)

    def deny(self, *ids: str) -> None:
        """It has these jobs and says so, but not for this provider: updates of them are answered with 404."""
        self._denied.update(ids)

    def knows(self, id_: str) -> bool:
        """Whether it has this job."""
        return id_ in self._jobs

    def job(self, id_: str) -> dict[str, Any]:
        """A job as it holds it."""
        return self._jobs[id_].json

    def state(self, id_: str) -> str:
        """The state of a job."""
        return str(self._jobs[id_].json["status"]["state"])

    def updates(self, id_: str) -> list[dict[str, Any]]:
        """The updates of a job that were applied, in order."""
        return self._jobs[id_].updates

    def calls_to(self, path: str) -> list[Call]:
        """The requests to one path, in order."""
        return [call for call in self.calls if call.path == path]

    def have_drive(
        self, id_: str, user: str, project: str | None = None, *, name: str | None = None, **more: str
    ) -> None:
        """It has this drive, maybe of another `provider`.

        `name` is what its provider has named it; without one it is named by `folder`, as UCloud's for Slurm does.
        """
        provider = more.get("provider", self.provider_id)
        if name is None:
            name = f"{provider}-{project or user}\n{more['folder']}"
        self.drives[id_] = {
            "id": id_,
            "createdAt": self._now * 1000,
            "owner": {"createdBy": "_ucloud" if project else user, "project": project},
            "permissions": {"myself": ["READ", "PROVIDER"], "others": []},
            "providerGeneratedId": name,
            "specification": {
                "title": f"Drive {id_}",
                "product": {"id": "example-storage", "category": "example-storage", "provider": provider},
                "labels": None,
            },
            "updates": [],
            "status": {"preferredDrive": False, "resolvedSupport": None, "resolvedProduct": None},
        }

    # What goes wrong

    def fail(self, status: int, times: int = 1, path: str | None = None) -> None:
        """Answer the next requests, of one path or any, with this status, and do nothing of what they ask for."""
        self._faults.append(_Fault(status, times, path))

    def lose_next(self, after: int | None = None) -> None:
        """Take the next bulk of updates, or so many of its items, and drop the connection instead of answering."""
        self._lost_after, self._lose = after, True

    # What it asks of the provider

    def create(self, job: Mapping[str, Any], user: str | None = None) -> Answer:
        """Hand a job in: it is deleted again where the provider answers late, or anything but 2xx with JSON."""
        id_ = str(job["id"])
        with self._lock:
            self._jobs[id_] = _Job({**job, "status": {"startedAt": None, **job.get("status", {})}}, confirmed=False)
        user = user or str(job["owner"]["createdBy"])
        answer = self.call(f"/ucloud/{self.provider_id}/jobs", {"items": [job]}, user=user)
        with self._lock:
            try:
                [made] = answer.json["responses"] if 200 <= answer.status < 300 else [self._jobs.pop(id_).json]
            except (ValueError, KeyError, TypeError):
                self._jobs.pop(id_)
            else:
                if id_ in self._jobs:
                    self._jobs[id_].confirmed = True
                    self._jobs[id_].json["providerGeneratedId"] = (made or {}).get("id", "")
        return answer

    def terminate(self, *ids: str, user: str = "user") -> Answer:
        """Ask for the end of jobs, as their user does."""
        path = f"/ucloud/{self.provider_id}/jobs/terminate"
        return self.call(path, {"items": [self._jobs[id_].json for id_ in ids]}, user=user)

    def call(
        self, path: str, body: Any = None, *, user: str | None = None, method: str = "POST", token: str | None = None
    ) -> Answer:
        """Call the provider as the core does: no Content-Type, five seconds, and again after 449 and 503."""
        answer = self._call(method, path, body, user, token)
        for _ in range(5):
            if answer.status not in {449, 503} or user is None:
                break
            self._call("POST", f"/ucloud/{self.provider_id}/integration/init", {"username": user}, user, token)
            time.sleep(0.5)
            answer = self._call(method, path, body, user, token)
        return answer

    def _call(self, method: str, path: str, body: Any, user: str | None, token: str | None) -> Answer:
        address = urllib.parse.urlsplit(self.provider)
        content = b"" if body is None else json.dumps(body).encode()
        headers = {
            "User-Agent": "Go-http-client/1.1",
            "Authorization": f"Bearer {self.token() if token is None else token}",
            "Accept-Encoding": "gzip",
        }
        if body is not None:
            headers["Content-Length"] = str(len(content))
        if user is not None:
            headers["Ucloud-Username"] = base64.b64encode(user.encode()).decode()
        started = time.monotonic()
        connection = http.client.HTTPConnection(address.hostname or "", address.port or 80, timeout=TIMEOUT)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders(content)
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException):
            return Answer(0, {}, "", time.monotonic() - started)
        finally:
            connection.close()
        seconds = time.monotonic() - started
        if seconds > TIMEOUT:  # of the whole call, as in Go
            return Answer(0, {}, "", seconds)
        told = {name.lower(): value for name, value in response.getheaders()}
        if told.get("content-encoding") == "gzip":
            data = gzip.decompress(data)
        return Answer(response.status, told, data.decode(), seconds)

    # Its own endpoints

    def answer(self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: Any) -> Any:
        """One request; raises `_Refusal`."""
        with self._lock:
            for fault in self._faults:
                if fault.times and fault.path in {None, path}:
                    fault.times -= 1
                    raise _Refusal(fault.status, f"It was told to answer {fault.status}")
            if (method, path) == ("POST", "/auth/providers/refresh"):
                if any(item.get("refreshToken") != self.refresh_token for item in _items(body)):
                    raise _Refusal(401, "Unauthorized")
                return {"responses": [{"accessToken": self.access_token(), "csrfToken": "none"} for _ in _items(body)]}
            endpoint = _ENDPOINTS.get((method, path))
            if endpoint is None:
                raise _Refusal(404, "Not found")
            self._authenticate(headers.get("authorization", ""))
            return endpoint(self, body if method == "POST" else query)

    def lost(self, path: str) -> bool:
        """Whether this answer is to be lost."""
        if path == "/api/jobs/control/update" and self._lose:
            self._lost_after, self._lose = None, False
            return True
        return False

    def _authenticate(self, header: str) -> None:
        try:
            claims = jwt.decode(
                header.removeprefix("Bearer "),
                key_pair("ucloud").public_key(),
                algorithms=["RS256"],
                audience="all:write",
                issuer="cloud.sdu.dk",
                options={"verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError as error:
            raise _Refusal(401, "Unauthorized") from error
        if claims["exp"] <= self._now:
            raise _Refusal(401, "Unauthorized")
        if (claims["sub"], claims["role"]) != (f"#P_{self.provider_id}", "PROVIDER"):
            raise _Refusal(403, "Forbidden")

    def _may_update(self, id_: str) -> bool:
        return id_ in self._jobs and self._jobs[id_].confirmed and id_ not in self._denied

    def _update(self, body: Any) -> Any:
        items = [(_text(item, "id", required=True), _decode_update(item.get("update"))) for item in _items(body)]
        for id_, _ in items:
            if not self._may_update(str(id_)):
                raise _Refusal(404, f"Not found or permission denied ({id_})")
        for id_, update in items[: self._lost_after] if self._lose else items:
            self._apply(self._jobs[str(id_)], update)
        return {}

    def _apply(self, job: _Job, update: dict[str, Any]) -> None:
        status = job.json["status"]
        known, wanted = status["state"], update["state"]
        if update["expectedState"] is not None:
            if known != update["expectedState"]:
                return
        elif update["expectedDifferentState"] and known == wanted:
            return
        if wanted is not None:
            if known in FINAL and wanted not in FINAL:
                return
            status["state"] = wanted
            if wanted == "RUNNING":
                status["startedAt"] = self._now * 1000
        if update["newTimeAllocation"] is not None:
            hours, rest = divmod(update["newTimeAllocation"] // 1000, 3600)
            allocation = {"hours": hours, "minutes": rest // 60, "seconds": 0}
            job.json.setdefault("specification", {})["timeAllocation"] = allocation
        if update["resourceList"] is not None:
            job.json.setdefault("specification", {})["resources"] = update["resourceList"]
        if update["outputFolder"] is not None:
            job.json["output"] = {"outputFolder": update["outputFolder"]}
        job.updates.append({**update, "timestamp": self._now * 1000})

    def _retrieve(self, query: Any) -> Any:
        job = self._jobs.get(query.get("id", ""))
        if job is None or query["id"] in self._denied:
            raise _missing()
        return {**job.json, "updates": job.updates if query.get("includeUpdates") == "true" else None}

    def _check_existence(self, body: Any) -> Any:
        if len(_items(body)) > 1000:
            raise _Refusal(400, "Too many items")
        ids = [_text(item, "id", required=True) for item in _items(body)]
        return {"responses": [id_ in self._jobs and self._jobs[id_].confirmed for id_ in ids]}

    def _drive(self, query: Any) -> Any:
        id_ = query.get("id", "")  # read as a number, whatever is not one is 0
        drive = self.drives.get(str(int(id_)) if id_.isascii() and id_.isdecimal() else "0")
        if drive is None or not self._own_drive(drive):
            raise _missing()
        return drive

    def _drive_page(self, query: Any) -> Any:
        drives = [drive for drive in self.drives.values() if self._own_drive(drive)]
        drives.sort(key=lambda drive: -int(drive["id"]))
        size = min(max(int(query.get("itemsPerPage", 50)), 1), 1000)
        more = drives[size - 1]["id"] if len(drives) > size else None
        return {"itemsPerPage": size, "items": drives[:size] or None, "next": more}

    def _own_drive(self, drive: Mapping[str, Any]) -> bool:
        return bool(drive["specification"]["product"]["provider"] == self.provider_id)


_ENDPOINTS: dict[tuple[str, str], Callable[[Ucloud, Any], Any]] = {
    ("POST", "/api/jobs/control/update"): Ucloud._update,  # noqa: SLF001  # its own
    ("GET", "/api/jobs/control/retrieve"): Ucloud._retrieve,  # noqa: SLF001
    ("POST", "/api/providers/resources/checkExistence"): Ucloud._check_existence,  # noqa: SLF001
    ("GET", "/api/files/collections/control/retrieve"): Ucloud._drive,  # noqa: SLF001
    ("GET", "/api/files/collections/control/browse"): Ucloud._drive_page,  # noqa: SLF001
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], ucloud: Ucloud) -> None:
        self.ucloud = ucloud
        self.open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def drop_all(self) -> None:
        for each in list(self.open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.open.add(self.connection)

    def finish(self) -> None:
        self.server.open.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # it was dropped
            super().handle()

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its base names it so
        """Nothing: `Ucloud.calls` tells."""

    def _serve(self, method: str) -> None:
        ucloud = self.server.ucloud
        address = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(address.query))
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        body: Any = None
        try:
            try:
                body = json.loads(content) if content else None
            except ValueError as error:
                raise _Refusal(400, "Invalid request supplied") from error
            status, answer = 200, ucloud.answer(method, address.path, query, headers, body)
        except _Refusal as refusal:
            status = refusal.status
            answer = {"statusCode": status, "why": refusal.why, "errorCode": "", "detailedCode": 0}
        lost = status == 200 and ucloud.lost(address.path)
        at = time.monotonic()
        ucloud.calls.append(Call(method, address.path, query, headers, body, 0 if lost else status, at))
        if ucloud.slow:
            time.sleep(ucloud.slow)
        if lost:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _items(body: Any) -> list[dict[str, Any]]:
    if not isinstance(body, dict):
        raise _Refusal(400, "No request body found")
    items = body.get("items") or []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise _Refusal(400, "Invalid request supplied")
    return items


def _decode_update(update: Any) -> dict[str, Any]:
    """As its decoder reads an update: absent and null are alike but for the timestamp, and integers are integers."""
    if not isinstance(update, dict):
        raise _Refusal(400, "Invalid request supplied")
    if "timestamp" in update:
        _integer(update, "timestamp")
    if update.get("newTimeAllocation") is not None:
        _integer(update, "newTimeAllocation")
    for name in ("expectedDifferentState", "allowRestart"):
        if not isinstance(update.get(name), bool | None):
            raise _Refusal(400, "Invalid request supplied")
    if not isinstance(update.get("resourceList"), list | None):
        raise _Refusal(400, "Invalid request supplied")
    texts = {name: _text(update, name) for name in ("state", "outputFolder", "status", "expectedState")}
    others = ("expectedDifferentState", "newTimeAllocation", "allowRestart", "resourceList")
    return {**texts, **{name: update.get(name) for name in others}}


def _text(item: Mapping[str, Any], name: str, *, required: bool = False) -> str | None:
    value = item.get(name)
    if isinstance(value, str) or (value is None and not required):
        return value
    raise _Refusal(400, "Invalid request supplied")


def _integer(item: Mapping[str, Any], name: str) -> None:
    if not isinstance(item.get(name), int) or isinstance(item[name], bool):
        raise _Refusal(400, "Invalid request supplied")


_SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


def _pem(key: rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, _SPKI)


def _encode(value: object) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


def _signed(header: object, claims: object, signature: bytes) -> str:
    return b".".join([_encode(header), _encode(claims), signature]).decode()


def _hs256(claims: object, secret: bytes) -> str:
    """By hand: a library refuses to use a public key so."""
    header = {"alg": "HS256", "typ": "JWT"}
    digest = hmac.new(secret, b".".join([_encode(header), _encode(claims)]), hashlib.sha256).digest()
    return _signed(header, claims, base64.urlsafe_b64encode(digest).rstrip(b"="))


@pytest.fixture
def ucloud() -> Iterator[Ucloud]:
    """A UCloud of the test's own."""
    with Ucloud() as running:
        yield running


class Clock:
    """Time that goes when it is told to."""

    now = 1_700_000_000.0

    def __call__(self) -> float:
        """Seconds since 1970."""
        return self.now


@pytest.fixture
def clock(ucloud: Ucloud) -> Clock:
    """For both sides."""
    ucloud.clock = made = Clock()
    return made

"""A served site with jobs to follow, and clients that follow them."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.sync.client import ClientConnection, connect

from slurm_adapter.core.specification import Owner
from slurm_adapter.gateway.http.app import make_app
from slurm_adapter.jobs import submit, user_tokens
from slurm_adapter.jobs.item import Item
from tests.gateway.serving import served
from tests.offline import Offline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from slurm_adapter.core.records import Record
    from slurm_adapter.gateway.limits import Limits


KEY = rsa.generate_private_key(65537, 2048)


FOLLOW = "jobs.provider.example.follow"


PROVIDER = "/ucloud/jobs.provider.example/websocket?usernameHint=YWxpY2U="


def ucloud_token(**claims: Any) -> str:
    """Return a token of UCloud with these claims changed."""
    now = int(time.time())
    whole = {
        "sub": "_UCloud", "role": "SERVICE", "principalType": "service", "aud": ["all:write"], "iss": "cloud.sdu.dk",
        "iat": now, "exp": now + 600,
    }  # fmt: skip
    return jwt.encode(whole | claims, KEY, algorithm="RS256")


class Served(Offline):
    """A site without a cluster, whose gateway is served at `address`."""

    address = ""

    def ucloud_job(self, id_: str = "54112") -> Record:
        """A job that UCloud has handed in."""
        item = Item(self.item().specification, id=id_)
        return submit.submit(self.site, Owner(created_by="alice", project=None), [item])[0]

    def connect(
        self, path: str = "/api/jobs", token: str | None = None, **headers: str
    ) -> AbstractContextManager[ClientConnection]:
        """Connect a client."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return connect(f"ws://{self.address}{path}", additional_headers=headers, open_timeout=20, close_timeout=5)

    def as_ucloud(self) -> AbstractContextManager[ClientConnection]:
        """Connect UCloud."""
        return self.connect(PROVIDER, ucloud_token())

    def token(self, user: str = "alice", *projects: str) -> str:
        """A user's token."""
        return user_tokens.create(self.site, f"t{time.monotonic_ns()}", user, projects)


@contextmanager
def open_site(folder: Path, limits: Limits | None = None) -> Iterator[Served]:
    """A site whose gateway is served, with both APIs."""
    (folder / "key.pem").write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (folder / "refresh").write_text("secret")
    ucloud = {"url": "http://127.0.0.1:1", "key": str(folder / "key.pem"), "refresh_token": str(folder / "refresh")}
    made = Served(folder, {"ucloud": ucloud, "first_id": 10**12})
    behind = made.open()
    behind.receiver = made.site.receiver = None  # nobody is to be told
    with served(make_app(behind, limits)) as made.address:
        yield made


@pytest.fixture
def site(tmp_path: Path, limits: Limits) -> Iterator[Served]:
    """A site of the test's own."""
    with open_site(tmp_path, limits) as made:
        yield made


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A site for those who do no more than knock."""
    with open_site(tmp_path_factory.mktemp("apis")) as made:
        yield made


def call(payload: object, stream: str = "s1", name: str = "jobs.follow", **more: object) -> str:
    return json.dumps({"call": name, "streamId": stream, "payload": payload, **more})


def init(record: Record, stream: str = "ignored") -> str:
    """As UCloud's core asks for a job's output."""
    job = {
        "id": record.id,
        "createdAt": 1633329776235,
        "owner": {"createdBy": record.owner, "project": record.project},
        "updates": None,
        "specification": json.loads(record.specification),
        "status": {"state": "RUNNING", "jobParametersJson": None},
        "providerGeneratedId": record.slurm_name,
        "output": {"outputFolder": None},
    }
    return call({"type": "init", "job": job}, stream, FOLLOW, bearer="", project=None)


def receive(client: ClientConnection) -> dict[str, Any]:
    """The next frame that is no ping."""
    while True:
        frame: dict[str, Any] = json.loads(client.recv(timeout=30))
        if frame != {"ping": "pong"}:
            return frame


def rest(client: ClientConnection) -> list[dict[str, Any]]:
    """All frames up to a response, which comes last."""
    found = [receive(client)]
    while found[-1]["type"] != "response":
        found.append(receive(client))
    return found


def write(record: Record, name: str, data: bytes) -> None:
    with Path(record.folder, name).open("ab") as file:
        file.write(data)


def end(site: Served, record: Record, code: int = 0) -> None:
    """The job ends, and a pass sees it."""
    site.slurm.finish(site.slurm_id(record), code)
    site.sync()
    assert site.now(record).state.final

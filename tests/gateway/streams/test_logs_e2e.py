"""Following jobs on the sandbox, over both transports, as UCloud and users do."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.sync.client import connect

from slurm_adapter.adapter import Adapter
from slurm_adapter.gateway.http.app import make_app
from slurm_adapter.gateway.limits import Limits
from slurm_adapter.gateway.streams import log_follow
from slurm_adapter.jobs import logs, user_tokens
from slurm_adapter.local.configuration_file import load_config
from tests.gateway.serving import served
from tests.offline import Tripping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from websockets.sync.client import ClientConnection

    from slurm_adapter.sandbox.configuration import Transport
    from tests.adapter import LiveSite, LiveSiteMaker

pytestmark = pytest.mark.sandbox

WIRE = Path(__file__).parents[2] / "translation" / "wire" / "create-4101.json"
TOLD = 'until [ -e "$UCLOUD_DIR/../../told" ]; do sleep 0.1; done'
LINES = 900_000


class LoggedSite:
    """A served site, with ways to follow jobs by both APIs."""

    def __init__(self, adapter: LiveSite, address: str, key: rsa.RSAPrivateKey, tripping: Tripping) -> None:
        self.adapter = adapter
        self.address = address
        now = int(time.time())
        claims = {
            "sub": "_UCloud", "role": "SERVICE", "principalType": "service", "aud": ["all:write"],
            "iss": "cloud.sdu.dk", "iat": now, "exp": now + 600,
        }  # fmt: skip
        self.ucloud = {"Authorization": f"Bearer {jwt.encode(claims, key, algorithm='RS256')}"}
        self.tripping = tripping

    @property
    def rounds(self) -> int:
        """Commands that have read a job's output."""
        return sum(logs._READ in command.argv for command in self.tripping.commands)  # noqa: SLF001  # nobody else has it

    def create(self, code: str, **fields: Any) -> dict[str, Any]:
        """A job of UCloud's that runs a text of shell in every replica, handed in as UCloud does."""
        job: dict[str, Any] = deepcopy(json.loads(WIRE.read_text())["items"][0])
        invocation = job["status"]["resolvedApplication"]["invocation"]
        word = invocation["invocation"][0]
        invocation["invocation"] = [{**word, "word": text} for text in ("bash", "-c", code)]
        invocation |= {"parameters": [], "allowMultiNode": True}
        job["specification"] |= {"parameters": None, "timeAllocation": None, **fields}
        job["owner"] = {"createdBy": "alice", "project": None}
        answer = httpx.post(
            f"http://{self.address}/ucloud/example/jobs", headers=self.ucloud, json={"items": [job]}, timeout=20
        )
        assert answer.status_code == 200, answer.text
        job["providerGeneratedId"] = answer.json()["responses"][0]["id"]
        return job

    @contextmanager
    def follow(self, job: dict[str, Any]) -> Iterator[ClientConnection]:
        """UCloud follows a job."""
        call = {
            "call": "jobs.provider.example.follow", "streamId": "ignored", "payload": {"type": "init", "job": job},
            "bearer": "", "project": None,
        }  # fmt: skip
        url = f"ws://{self.address}/ucloud/jobs.provider.example/websocket?usernameHint=YWxpY2U="
        with connect(url, additional_headers=self.ucloud, compression=None) as client:
            client.send(json.dumps(call))
            yield client

    def tell(self, job: dict[str, Any]) -> None:
        """The job may go on."""
        self.adapter.tell(self.adapter.site.store.get(job["id"]))


@pytest.fixture(params=["local", "ssh"])
def served_site(request: pytest.FixtureRequest, make_adapter: LiveSiteMaker, tmp_path: Path) -> Iterator[LoggedSite]:
    """A site whose gateway is served, over each transport."""
    key = rsa.generate_private_key(65537, 2048)
    (tmp_path / "key.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "refresh").write_text("secret")
    ucloud = f'[ucloud]\nurl = "http://127.0.0.1:1"\nkey = "{tmp_path}/key.pem"\nrefresh_token = "{tmp_path}/refresh"\n'
    transport: Transport = request.param
    adapter = make_adapter(transport, more=ucloud, first_id=10**12)
    site = Adapter(load_config(adapter.config_file))
    inner = site.transport
    tripping = Tripping(inner)
    site.transport = tripping
    with served(make_app(site, Limits(sync_interval=0.5, sync_share=1))) as address:
        yield LoggedSite(adapter, address, key, tripping)
    inner.close()


def receive(client: ClientConnection) -> dict[str, Any]:
    """The next frame that is no ping."""
    limit = time.monotonic() + 60
    while True:
        frame: dict[str, Any] = json.loads(client.recv(timeout=max(0, limit - time.monotonic())))
        if frame != {"ping": "pong"}:
            return frame


class Heard:
    """What a follower was given, by rank and kind."""

    def __init__(self, client: ClientConnection) -> None:
        self.texts: dict[tuple[int, str], str] = {}
        self.response: dict[str, Any] | None = None
        self._client = client

    def until(self, condition: Callable[[], object]) -> None:
        """Listen until it is true, or to the end."""
        while not condition() and self.response is None:
            frame = receive(self._client)
            if frame["type"] == "response":
                self.response = frame
                continue
            payload = frame["payload"]
            assert payload["channel"] is None
            for kind in ("stdout", "stderr"):
                if payload[kind] is not None:
                    key = (payload["rank"], kind)
                    self.texts[key] = self.texts.get(key, "") + payload[kind]

    def to_the_end(self) -> None:
        """Listen to the end, which is a good one."""
        self.until(lambda: False)
        assert self.response == {"type": "response", "streamId": "ignored", "payload": {}, "status": 200}


@pytest.mark.scenario(76, 78)
def test_every_rank_is_heard_from_the_queue_to_its_last_byte(served_site: LoggedSite) -> None:
    job = served_site.create(
        f'rank=$SLURM_PROCID; echo "out $rank"; echo "err $rank" >&2; {TOLD}; printf "last %s" "$rank"', replicas=2
    )
    with served_site.follow(job) as client:
        heard = Heard(client)
        heard.until(lambda: {(0, "stdout"), (1, "stdout"), (1, "stderr")} <= set(heard.texts))
        assert heard.response is None
        served_site.tell(job)
        heard.to_the_end()
    assert (heard.texts[0, "stdout"], heard.texts[1, "stdout"]) == ("out 0\nlast 0", "out 1\nlast 1")
    assert heard.texts[1, "stderr"] == "err 1\n"
    assert "err 0\n" in heard.texts[0, "stderr"]  # beside the adapter's own lines
    with served_site.follow(job) as client:
        again = Heard(client)
        again.to_the_end()
    assert again.texts == heard.texts


@pytest.mark.scenario(77)
def test_ten_megabytes_at_once_arrive_whole_whatever_else_comes(served_site: LoggedSite) -> None:
    folder = '"$UCLOUD_DIR/../.."'
    job = served_site.create(
        f'echo begin; {TOLD}; seq -f "%.0f 🦄" {LINES}; head -c 300000 /dev/urandom >&2; printf "\\xf0\\x9f" >&2; '
        f"sleep 1; echo late >{folder}/stdout-7.txt; echo end"
    )
    with ExitStack() as stack:
        heard = [Heard(stack.enter_context(served_site.follow(job))) for _ in range(2)]
        heard[0].until(lambda: heard[0].texts)
        served_site.tell(job)
        heard[0].until(lambda: len(heard[0].texts.get((0, "stdout"), "")) > 1_000_000)
        heard.append(Heard(stack.enter_context(served_site.follow(job))))
        for each in heard:
            each.to_the_end()
    record = served_site.adapter.site.store.get(job["id"])
    wanted = "begin\n" + "".join(f"{number} 🦄\n" for number in range(1, LINES + 1)) + "end\n"
    errors = served_site.adapter.file(record, "stderr.txt").read_bytes().decode(errors="replace")
    assert len(wanted.encode()) > 10_000_000
    for each in heard:
        assert each.texts[0, "stdout"] == wanted
        assert each.texts[7, "stdout"] == "late\n"
        assert each.texts[0, "stderr"] == errors


@pytest.mark.scenario(77)
@pytest.mark.parametrize("served_site", ["ssh"], indirect=True)
def test_fifty_followers_cost_the_cluster_what_one_does(served_site: LoggedSite) -> None:
    token = {"Authorization": f"Bearer {user_tokens.create(served_site.adapter.site, 'laptop', 'alice')}"}

    def user() -> AbstractContextManager[ClientConnection]:
        return connect(f"ws://{served_site.address}/api/jobs", additional_headers=token)

    [record] = served_site.adapter.submit(served_site.adapter.shell(f"echo one; {TOLD}; echo last"))
    began = time.monotonic()
    with ExitStack() as stack:
        clients = [stack.enter_context(user()) for _ in range(50)]
        heard = [""] * len(clients)
        status = [0] * len(clients)
        for client in clients:
            client.send(json.dumps({"call": "jobs.follow", "streamId": "1", "payload": {"id": record.id}}))
        for number, client in enumerate(clients):
            while "one\n" not in heard[number]:
                heard[number] += "".join(log["stdout"] or "" for log in receive(client)["payload"]["log"])
        served_site.adapter.tell(record)
        for number, client in enumerate(clients):
            while (frame := receive(client))["type"] != "response":
                heard[number] += "".join(log["stdout"] or "" for log in frame["payload"]["log"])
            status[number] = frame["status"]
    assert heard == ["one\nlast\n"] * 50
    assert status == [200] * 50
    assert served_site.rounds <= (time.monotonic() - began) / log_follow.INTERVAL + 10

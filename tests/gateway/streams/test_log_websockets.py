"""Following over real WebSockets, through both APIs: the frames, who may, and what clients can do wrong."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from slurm_adapter.core.errors import InvalidInput, TryAgain
from slurm_adapter.core.specification import Owner
from slurm_adapter.gateway.api.schemas import Empty
from slurm_adapter.gateway.http.app import make_app
from slurm_adapter.gateway.limits import Limits
from slurm_adapter.gateway.streams import frames, log_websockets, streams
from slurm_adapter.jobs import submit, user_tokens
from slurm_adapter.jobs.item import Item
from tests.gateway.api_site import within
from tests.gateway.serving import served
from tests.offline import Offline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from slurm_adapter.core.records import Record

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


@pytest.mark.scenario(76)
def test_ucloud_follows_a_job_to_its_last_byte(site: Served) -> None:
    record = site.run(site.ucloud_job())
    write(record, "stdout.txt", b"one\n")
    with site.as_ucloud() as client:
        client.send(init(record))
        first = receive(client)
        name = first["payload"]["streamId"]
        assert first == {
            "type": "message",
            "streamId": "ignored",
            "payload": {"streamId": name, "rank": 0, "stdout": "one\n", "stderr": None, "channel": None},
        }
        write(record, "stderr-3.txt", "🦄\n".encode())
        assert receive(client)["payload"] == {
            "streamId": name, "rank": 3, "stdout": None, "stderr": "🦄\n", "channel": None
        }  # fmt: skip
        write(record, "stdout.txt", b"last\n")
        end(site, record)
        *messages, response = rest(client)
        assert "".join(message["payload"]["stdout"] for message in messages) == "last\n"
        assert response == {"type": "response", "streamId": "ignored", "payload": {}, "status": 200}


@pytest.mark.scenario(78)
def test_a_user_follows_a_job_from_the_queue_to_its_end(site: Served) -> None:
    record = site.job()
    with site.connect(token=site.token()) as client:
        client.send(call({"id": record.id}))
        first = receive(client)
        assert (first["type"], first["streamId"]) == ("message", "s1")
        job = first["payload"].pop("initialJob")
        assert first["payload"] == {"updates": [], "log": [], "newStatus": None}
        assert (job["id"], job["status"]["state"], job["specification"]["application"]["name"]) == (
            record.id, "IN_QUEUE", "sleeper"
        )  # fmt: skip
        assert job["status"]["resolvedProduct"]["name"] == "example-compute"
        seen = len(job["updates"])
        site.run(record)
        news = receive(client)["payload"]
        assert [update["state"] for update in news["updates"]] == ["RUNNING"]
        assert news["newStatus"]["state"] == "RUNNING"
        assert news["newStatus"]["resolvedProduct"] == job["status"]["resolvedProduct"]
        write(record, "stdout.txt", b"hello\n")
        assert receive(client)["payload"]["log"] == [{"rank": 0, "stdout": "hello\n", "stderr": None, "channel": None}]
        end(site, record)
        news = receive(client)["payload"]
        assert news["newStatus"]["state"] == "SUCCESS"
        assert rest(client) == [{"type": "response", "streamId": "s1", "payload": {}, "status": 200}]
        assert len(site.site.store.updates(record.id)) == seen + 2


@within(permission_check=0.1)
def test_following_ends_with_the_token(site: Served) -> None:
    record = site.run(site.job())
    with site.connect(token=user_tokens.create(site.site, "revoked", "alice")) as client, site.connect() as browser:
        client.send(call({"id": record.id}))
        browser.send(call({"id": record.id}, bearer=site.token()))
        assert [receive(each)["type"] for each in (client, browser)] == ["message"] * 2
        site.site.store.revoke_token("revoked")
        assert rest(client)[-1]["status"] == 401
        write(record, "stdout.txt", b"more\n")
        assert receive(browser)["payload"]["log"][0]["stdout"] == "more\n"


@within(permission_check=0.1)
def test_ucloud_follows_as_long_as_its_key_is_the_one(site: Served) -> None:
    record = site.run(site.ucloud_job())
    with site.as_ucloud() as client:
        client.send(init(record))
        write(record, "stdout.txt", b"one\n")
        assert receive(client)["payload"]["stdout"] == "one\n"
        other = rsa.generate_private_key(65537, 2048).public_key()
        (site.folder / "key.pem").write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        assert rest(client)[-1]["status"] == 401


@pytest.mark.scenario(78)
def test_of_a_job_that_has_ended_the_log_is_given_and_the_end(site: Served) -> None:
    record = site.run(site.ucloud_job())
    write(record, "stdout.txt", "é".encode() * 100_000)
    end(site, record)
    with site.as_ucloud() as client:
        client.send(init(record))
        *messages, response = rest(client)
    assert "".join(message["payload"]["stdout"] for message in messages) == "é" * 100_000
    assert response["status"] == 200
    with site.connect(token=site.token()) as client:
        client.send(call({"id": record.id}))
        (first, *_, response) = rest(client)
    assert first["payload"]["initialJob"]["status"]["state"] == "SUCCESS"
    assert response["status"] == 200


@pytest.mark.scenario(77)
def test_fifty_sockets_cost_one_command_a_round(site: Served) -> None:
    record = site.run(site.job())
    write(record, "stdout.txt", b"x" * 300_000)
    token = site.token()
    with ExitStack() as stack:
        clients = [stack.enter_context(site.connect(token=token)) for _ in range(50)]
        for client in clients:
            client.send(call({"id": record.id}))
        for client in clients:
            while not receive(client)["payload"]["log"]:
                pass
        write(record, "stdout.txt", b"last\n")
        end(site, record)
        for client in clients:
            *messages, response = rest(client)
            texts = [log["stdout"] for message in messages for log in message["payload"]["log"]]
            assert "".join(texts).endswith("xlast\n")
            assert response["status"] == 200


def test_a_stream_is_cancelled_and_the_socket_stays(site: Served) -> None:
    record = site.run(site.ucloud_job())
    write(record, "stdout.txt", b"one\n")
    with site.as_ucloud() as client:
        client.send(init(record))
        name = receive(client)["payload"]["streamId"]
        client.send(call({"type": "cancel", "streamId": name}, "other", FOLLOW))
        responses = [receive(client), receive(client)]
        assert {response["streamId"] for response in responses} == {"ignored", "other"}
        assert all(response["status"] == 200 for response in responses)
        client.send(init(record, "again"))
        assert receive(client)["payload"]["stdout"] == "one\n"


def test_browsers_send_their_token_with_each_call(site: Served) -> None:
    record = site.job(project="p1")
    with site.connect() as client:
        client.send(call({"id": record.id}))
        assert rest(client)[0]["status"] == 401
        client.send(call({"id": record.id}, bearer=site.token("alice", "p1")))
        assert rest(client)[0]["status"] == 404
        client.send(call({"id": record.id}, bearer=site.token("alice", "p1"), project="p1"))
        assert receive(client)["payload"]["initialJob"]["id"] == record.id


def test_a_project_may_be_named_in_the_header(site: Served) -> None:
    record = site.job(project="p1")
    with site.connect(token=site.token("bob", "p1"), Project="p1") as client:
        client.send(call({"id": record.id}))
        assert receive(client)["payload"]["initialJob"]["id"] == record.id


def test_nobody_follows_a_job_of_another_workspace(site: Served) -> None:
    record, theirs = site.job(), site.ucloud_job()
    with site.connect(token=site.token("bob")) as client:
        for id_ in (record.id, theirs.id, "1", "", "' OR 1=1", "x" * 1000):
            client.send(call({"id": id_}))
            (response,) = rest(client)
            assert response["status"] == 404
            assert response["payload"]["why"].startswith("Permission denied or job not found")
    with site.as_ucloud() as client:
        client.send(init(record))
        assert rest(client)[0]["status"] == 404


def test_ucloud_is_answered_502_for_503_over_a_socket_too(site: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """UCloud takes 503 for a user who is not connected, and repeats it for 30 seconds."""
    record, own = site.ucloud_job(), site.job()

    def fail(*_: object, **__: object) -> None:
        raise TryAgain("the database is busy")

    monkeypatch.setattr(log_websockets, "get_own", fail)
    monkeypatch.setattr(log_websockets, "_find", fail)
    with site.as_ucloud() as client, site.connect(token=site.token()) as user:
        client.send(init(record))
        user.send(call({"id": own.id}))
        assert [rest(each)[0]["status"] for each in (client, user)] == [502, 503]


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [
        (PROVIDER, None, 401),
        (PROVIDER, "nonsense", 401),
        (PROVIDER, {"sub": "#P_example", "role": "PROVIDER"}, 403),
        (PROVIDER.replace("example", "another"), {}, 404),
        ("/api/jobs", "nonsense", 401),
        ("/api/jobs", {}, 401),
    ],
    ids=["nobody", "no token", "a provider", "another provider's path", "no user's token", "ucloud as a user"],
)
def test_who_may_not_gets_no_socket(api: Served, path: str, token: str | dict[str, str] | None, status: int) -> None:
    if isinstance(token, dict):  # made now: one that was made with the tests' list may have expired by now
        token = ucloud_token(**token)
    with pytest.raises(InvalidStatus) as refused, api.connect(path, token):
        pass
    response = refused.value.response
    assert response.status_code == status
    body = json.loads(response.body)
    assert set(body) == {"why", "errorCode"}


@pytest.mark.parametrize(
    "frame",
    [
        b"binary", b"\xff\xfe", "", "null", "[]", "7", '"x"', "{", '{"call":1}', '{"call":"jobs.follow","payload":[]}',
        '{"call":"jobs.follow","call":"jobs.follow"}', '{"streamId":"s"}', '{"call":"a\\u0000b"}',
        '{"call":"a","streamId":"\\ud800"}', '{"call":"a","payload":{"x":NaN}}', "[" * 5000,
        '{"call":"a","streamId":"' + "x" * 300 + '"}', '{"call":"a","payload":{"x":"' + "x" * 70_000 + '"}}',
    ],
)  # fmt: skip
def test_what_is_no_frame_ends_the_socket_with_a_reason(api: Served, frame: str | bytes) -> None:
    with api.connect() as client:
        client.send(frame)
        (response,) = rest(client)
        assert (response["type"], response["streamId"], response["status"]) == ("response", "", 400)
        assert response["payload"]["why"]
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


@pytest.mark.parametrize(
    ("frame", "status", "why"),
    [
        (call({}, name="jobs.control.update"), 404, "supports jobs.provider.example.follow"),
        (call({}, name=FOLLOW), 400, "payload.type: is missing"),
        (call({"type": "explode"}, name=FOLLOW), 400, "payload.type"),
        (call({"type": "init"}, name=FOLLOW), 400, "payload.job: is required"),
        (call({"type": "init", "job": {"id": 1}}, name=FOLLOW), 400, "payload.job.id"),
        (call({"type": "cancel", "streamId": "unheard of"}, name=FOLLOW), 200, ""),
    ],
)
def test_a_call_that_cannot_be_answered_says_why_and_the_socket_stays(
    api: Served, frame: str, status: int, why: str
) -> None:
    with api.as_ucloud() as client:
        for _ in range(2):
            client.send(frame)
            (response,) = rest(client)
            assert (response["streamId"], response["status"]) == ("s1", status)
            assert why.lower() in response["payload"].get("why", "").lower()


def test_a_socket_has_few_streams_each_with_a_name_of_its_own(site: Served) -> None:
    record = site.job()
    with site.connect(token=site.token()) as client:
        for number in range(streams.STREAMS):
            client.send(call({"id": record.id}, str(number)))
            assert receive(client)["streamId"] == str(number)
        client.send(call({"id": record.id}, "one more"))
        assert "16 streams" in rest(client)[0]["payload"]["why"]
    with site.connect(token=site.token()) as client:
        client.send(call({"id": record.id}, "s"))
        receive(client)
        client.send(call({"id": record.id}, "s"))
        assert "has a stream 's' already" in rest(client)[0]["payload"]["why"]


def test_clients_that_leave_in_the_middle_leave_nothing_behind(site: Served, caplog: pytest.LogCaptureFixture) -> None:
    record = site.run(site.job())
    write(record, "stdout.txt", b"x" * 3_000_000)
    app = make_app(site.open())
    token = site.token()
    with served(app) as site.address:
        for number in range(60):
            with site.connect(token=token) as client:
                client.send(call({"id": record.id}))
                if number % 3:
                    receive(client)
                if number % 2:
                    client.socket.shutdown(socket.SHUT_RDWR)
        following = app.state.gateway.following
        limit = time.monotonic() + 30
        while following.followers or following.readers:
            assert time.monotonic() < limit
            time.sleep(0.05)
    # A client that has shut its own socket down complains itself.
    ours = [entry for entry in caplog.records if not entry.name.startswith("websockets.client")]
    assert [entry for entry in ours if entry.exc_info] == []


def test_a_client_that_does_not_read_is_given_up(site: Served) -> None:
    record = site.run(site.job())
    write(record, "stdout.txt", b"x" * 30_000_000)
    app = make_app(site.open(), Limits(stream_send=0.3))
    with served(app) as site.address:
        header = {"Authorization": f"Bearer {site.token()}"}
        with connect(
            f"ws://{site.address}/api/jobs", compression=None, max_queue=1, additional_headers=header
        ) as client:
            client.send(call({"id": record.id}))
            receive(client)
            limit = time.monotonic() + 30
            while app.state.gateway.following.readers:
                assert time.monotonic() < limit
                time.sleep(0.05)
            client.socket.shutdown(socket.SHUT_RDWR)


def test_the_gateway_ends_while_jobs_are_followed(site: Served, caplog: pytest.LogCaptureFixture) -> None:
    record = site.run(site.job())
    with ExitStack() as stack:
        with served(make_app(site.open())) as site.address:
            clients = [stack.enter_context(site.connect(token=site.token())) for _ in range(3)]
            for client in clients:
                client.send(call({"id": record.id}))
                receive(client)
        for client in clients:
            with suppress(ConnectionClosed):
                while receive(client)["type"] != "response":
                    pass
            with pytest.raises(ConnectionClosed):
                client.recv(timeout=20)
    assert [entry for entry in caplog.records if entry.exc_info] == []


@within(stream_ping=1.0)
def test_ucloud_is_pinged_and_who_is_of_no_use_is_sent_away(site: Served) -> None:
    record = site.ucloud_job()
    with site.as_ucloud() as client:
        client.send(init(record))
        for _ in range(3):
            assert client.recv(timeout=20) == '{"ping":"pong"}'
    with site.connect() as idle:
        with pytest.raises(ConnectionClosed) as closed:
            idle.recv(timeout=20)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1000


@given(
    st.text()
    | st.recursive(st.none() | st.integers() | st.text(), lambda x: st.dictionaries(st.text(), x)).map(json.dumps)
)
def test_no_frame_is_an_error_of_another_kind(text: str) -> None:
    try:
        frame = frames.read_frame(text, 1000)
    except InvalidInput:
        return
    assert json.loads(frames.response(frame.stream_id, Empty()))["streamId"] == frame.stream_id


def test_keys_that_are_not_known_are_left_alone() -> None:
    text = call({"a": [1]}, causedBy=None, signedIntent="x", bearer=None, future={"b": 2})
    frame = frames.read_frame(text, 1000)
    assert (frame.call, frame.stream_id, frame.payload, frame.bearer) == ("jobs.follow", "s1", {"a": [1]}, "")

"""Following over real WebSockets, through both APIs: the frames, who may, and what clients can do wrong."""

from __future__ import annotations

from contextlib import ExitStack, suppress

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.exceptions import ConnectionClosed

from slurm_adapter.core.errors import TryAgain
from slurm_adapter.gateway.http.app import make_app
from slurm_adapter.gateway.streams import log_websockets
from slurm_adapter.jobs import user_tokens
from tests.gateway.api_site import within
from tests.gateway.serving import served
from tests.gateway.streams.log_site import FOLLOW, Served, call, end, init, receive, rest, site, write

__all__ = ["site"]


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

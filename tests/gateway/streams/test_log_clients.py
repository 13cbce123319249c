"""Clients of the log WebSockets that are not permitted, send invalid frames, or leave."""

from __future__ import annotations

import json
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.gateway.api.schemas import Empty
from slurm_adapter.gateway.http.app import make_app
from slurm_adapter.gateway.limits import Limits
from slurm_adapter.gateway.streams import frames, streams
from tests.gateway.serving import served
from tests.gateway.streams.log_site import FOLLOW, PROVIDER, Served, api, call, receive, rest, site, ucloud_token, write

__all__ = ["api", "site"]


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

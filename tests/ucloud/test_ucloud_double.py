"""The UCloud of the tests reads and decides as the contract says of the real one."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from tests.ucloud_double import Ucloud, ucloud

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ucloud"]

PATH = "/api/jobs/control/update"


def post(ucloud: Ucloud, path: str, body: Any, token: str | None = None) -> tuple[int, Any]:
    with closing(http.client.HTTPConnection(ucloud.url.removeprefix("http://"), timeout=10)) as connection:
        bearer = ucloud.access_token() if token is None else token
        connection.request("POST", path, json.dumps(body), {"Authorization": f"Bearer {bearer}"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def get(ucloud: Ucloud, path: str, token: str | None = None) -> tuple[int, Any]:
    with closing(http.client.HTTPConnection(ucloud.url.removeprefix("http://"), timeout=10)) as connection:
        bearer = ucloud.access_token() if token is None else token
        connection.request("GET", path, headers={"Authorization": f"Bearer {bearer}"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def update(ucloud: Ucloud, **fields: Any) -> int:
    return post(ucloud, PATH, {"items": [{"id": "1", "update": fields}]})[0]


@pytest.mark.parametrize(
    "fields",
    [{"timestamp": None}, {"timestamp": 1.0}, {"newTimeAllocation": 3600000.0}, {"newTimeAllocation": "3600000"}],
)
def test_what_its_decoder_refuses(ucloud: Ucloud, fields: dict[str, Any]) -> None:
    ucloud.know("1")
    assert update(ucloud, state="RUNNING", **fields) == 400
    assert ucloud.state("1") == "IN_QUEUE"


@pytest.mark.parametrize("fields", [{}, {"timestamp": 0}, {"newMounts": None, "more": 1}])
def test_what_its_decoder_takes(ucloud: Ucloud, fields: dict[str, Any]) -> None:
    ucloud.know("1")
    assert update(ucloud, state="RUNNING", **fields) == 200
    assert ucloud.state("1") == "RUNNING"


def test_a_number_is_not_an_id(ucloud: Ucloud) -> None:
    ucloud.know("1")
    assert post(ucloud, PATH, {"items": [{"id": 1, "update": {"state": "RUNNING"}}]})[0] == 400


def test_the_rules_of_states(ucloud: Ucloud) -> None:
    ucloud.know("1")
    assert update(ucloud, state="RUNNING", expectedState="SUSPENDED") == 200
    assert ucloud.state("1") == "IN_QUEUE"
    assert update(ucloud, state="RUNNING", expectedDifferentState=True) == 200
    assert update(ucloud, state="RUNNING", expectedDifferentState=True) == 200
    assert update(ucloud, state="SUCCESS", expectedState="RUNNING") == 200
    assert update(ucloud, state="RUNNING") == 200
    assert ucloud.state("1") == "SUCCESS"
    assert [each["state"] for each in ucloud.updates("1")] == ["RUNNING", "SUCCESS"]


def test_one_unknown_job_and_nothing_of_the_bulk_is_taken(ucloud: Ucloud) -> None:
    ucloud.know("1")
    items = [{"id": id_, "update": {"state": "RUNNING"}} for id_ in ("1", "2")]
    status, answer = post(ucloud, PATH, {"items": items})
    assert (status, answer["why"]) == (404, "Not found or permission denied (2)")
    assert ucloud.state("1") == "IN_QUEUE"


def test_who_may_call_it(ucloud: Ucloud) -> None:
    ucloud.know("1")
    assert post(ucloud, PATH, {}, ucloud.access_token(exp=1))[0] == 401
    assert post(ucloud, PATH, {}, "")[0] == 401
    assert post(ucloud, PATH, {}, ucloud.token())[0] == 403
    assert post(ucloud, "/auth/providers/refresh", {"items": [{"refreshToken": "another"}]})[0] == 401


class _Provider(BaseHTTPRequestHandler):
    """Gives the configured answers in order, and keeps the requests."""

    answers: list[tuple[int, bytes]]
    asked: list[tuple[str, dict[str, str]]]

    def do_POST(self) -> None:
        self.asked.append((self.path, dict(self.headers)))
        status, body = self.answers.pop(0)
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its base names it so
        """Nothing."""


@pytest.fixture
def provider(ucloud: Ucloud) -> Iterator[type[_Provider]]:
    handler = type("Provider", (_Provider,), {"answers": [], "asked": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        ucloud.provider = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield handler
        server.shutdown()
        thread.join(10)


JOB = {"id": "54112", "owner": {"createdBy": "user", "project": None}, "status": {"state": "IN_QUEUE"}}


def test_it_calls_as_the_core_does(ucloud: Ucloud, provider: type[_Provider]) -> None:
    provider.answers += [(200, b'{"responses":[{"id":"token"}]}')]
    assert ucloud.create(JOB).status == 200
    path, headers = provider.asked[0]
    assert path == "/ucloud/example/jobs"
    assert set(headers) == {
        "Host", "User-Agent", "Authorization", "Accept-Encoding", "Content-Length", "Ucloud-Username"
    }  # fmt: skip
    assert (headers["Accept-Encoding"], headers["Ucloud-Username"]) == ("gzip", "dXNlcg==")
    assert ucloud.job("54112")["providerGeneratedId"] == "token"


@pytest.mark.parametrize("answer", [(400, b'{"why":"no"}'), (200, b"")])
def test_a_job_that_the_provider_did_not_take_is_deleted(
    ucloud: Ucloud, provider: type[_Provider], answer: tuple[int, bytes]
) -> None:
    provider.answers.append(answer)
    ucloud.create(JOB)
    assert not ucloud.knows("54112")


def test_a_provider_that_is_busy_is_asked_again(ucloud: Ucloud, provider: type[_Provider]) -> None:
    provider.answers += [(503, b""), (200, b"{}"), (200, b'{"responses":[null]}')]
    assert ucloud.create(JOB).status == 200
    assert [path for path, _ in provider.asked] == [
        "/ucloud/example/jobs", "/ucloud/example/integration/init", "/ucloud/example/jobs"
    ]  # fmt: skip
    assert ucloud.knows("54112")


def test_only_the_provider_gets_its_drives(ucloud: Ucloud) -> None:
    path = "/api/files/collections/control"
    ucloud.have_drive("77", "alice", "p1", folder="/work/p1")
    ucloud.have_drive("78", "alice", folder="/work/alice", provider="another")
    status, drive = get(ucloud, f"{path}/retrieve?id=077")
    assert (status, drive["id"], drive["owner"]) == (200, "77", {"createdBy": "_ucloud", "project": "p1"})
    assert drive["providerGeneratedId"] == "example-p1\n/work/p1"
    for query in ("id=78", "id=79", "id=x", ""):
        assert get(ucloud, f"{path}/retrieve?{query}")[0] == 403
    assert get(ucloud, f"{path}/retrieve?id=77", token=ucloud.token())[0] == 403
    assert get(ucloud, f"{path}/retrieve?id=77", token="nonsense")[0] == 401
    assert [each["id"] for each in get(ucloud, f"{path}/browse?itemsPerPage=250")[1]["items"]] == ["77"]

"""No value of any field ends in more than an answer with a reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.gateway.api_site import ApiSite, opened

if TYPE_CHECKING:
    from collections.abc import Iterator

MARK = "the value goes here"
VALUES = [
    "1" + "0" * 400,
    str(2**63),
    str(-(2**63)),
    "-1",
    "1e400",
    "1e308",
    "NaN",
    '""',
    '"\\u0000"',
    '"\\ud800"',
    "[]",
]
VALUES += ["{}", "null", "true", '"' + "9" * 5000 + '"', "[" * 70 + "]" * 70, '{"a": 1, "a": 2}']


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiSite]:
    with opened(tmp_path_factory.mktemp("site")) as api:
        yield api


def places(value: Any) -> Iterator[Any]:
    """Return copies of a document, each with `MARK` in another place."""
    yield MARK
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from ({**value, key: each} for each in places(inner))
    if isinstance(value, list):
        for number, inner in enumerate(value):
            yield from ([*value[:number], each, *value[number + 1 :]] for each in places(inner))


TIME = {"hours": 0, "minutes": 1, "seconds": 0}


def job() -> dict[str, Any]:
    """Return a job as UCloud sends it."""
    return {
        "id": "17", "owner": {"createdBy": "alice", "project": None}, "createdAt": 1, "providerGeneratedId": "x",
        "updates": [], "status": {"state": "IN_QUEUE", "resolvedProduct": {"cpu": 1, "memoryInGigs": 1, "gpu": 0}},
        "specification": {
            "application": {"name": "sleeper", "version": "1"},
            "product": {"provider": "example", "category": "example-compute", "id": "example-compute"},
            "name": "x", "replicas": 1, "labels": {"a": "b"}, "timeAllocation": TIME,
            "parameters": {"a": {"type": "integer", "value": 1}},
            "resources": [{"type": "file", "path": "/1/a", "readOnly": False}],
        },
    }  # fmt: skip


OF_UCLOUD = {
    "": job(), "/terminate": job(), "/verify": job(), "/extend": {"job": job(), "requestedTime": TIME},
    "/suspend": {"job": job()}, "/onUpdatedLabels": job(),
    "/updateAcl": {"resource": job(), "added": [], "deleted": []},
    "/interactiveSession": {"job": job(), "rank": 0, "sessionType": "WEB", "target": ""},
}  # fmt: skip
OF_USERS = {
    "": job()["specification"], "/terminate": {"id": "1"}, "/extend": {"jobId": "1", "requestedTime": TIME},
    "/suspend": {"id": "1"}, "/interactiveSession": {"id": "1", "rank": 0, "sessionType": "SHELL", "target": ""},
    "/openTerminalInFolder": {"folder": "/1"},
}  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value[:20])
def test_no_value_is_the_gateways_mistake(api: ApiSite, value: str, caplog: pytest.LogCaptureFixture) -> None:
    apis = (("/ucloud/example/jobs", OF_UCLOUD, api.as_ucloud()), ("/api/jobs", OF_USERS, api.token()))
    for prefix, requests, known in apis:
        for path, item in requests.items():
            marked = list(places(item))
            # Each value in some of the places: all of them take minutes.
            for place in marked[VALUES.index(value) :: 17]:
                body = json.dumps({"items": [place]}).replace(f'"{MARK}"', value)
                answer = api.ask("POST", f"{prefix}{path}", body.encode(), **known)
                assert answer.status_code in {200, 400, 404, 429, 503}, (path, body, answer.text)
                assert answer.json() is not None
    assert "Traceback" not in caplog.text


def test_a_time_beyond_all_numbers_is_refused(api: ApiSite) -> None:
    """The database would not take it, nor a float hold it."""
    body = json.dumps({"items": [job() | {"createdAt": 1}]}).replace('"createdAt": 1', f'"createdAt": 1{"0" * 400}')
    answer = api.ask("POST", "/ucloud/example/jobs/verify", body.encode(), **api.as_ucloud())
    assert answer.status_code == 400
    assert "64 bits" in answer.json()["why"]

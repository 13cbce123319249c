"""The OpenAPI document of both APIs, and whether what is served is what it says: by requests that are made from it."""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.errors import UnsupportedSchema
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from slurm_adapter.core.specification import decode_json
from tests.gateway.api_site import ApiSite, opened
from tests.gateway.tls import TLS

if TYPE_CHECKING:
    from collections.abc import Iterator

BIG = "9" * 5000
HALF = "\\ud800"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiSite]:
    with opened(tmp_path_factory.mktemp("apis")) as api:
        yield api


def document(api: ApiSite) -> Any:
    """As it is served."""
    return api.ask("GET", "/openapi.json", **api.token()).json()


def credentials(api: ApiSite) -> dict[str, dict[str, str]]:
    """The header for each security scheme."""
    return {"ucloud": api.as_ucloud(), "user": api.token("alice", "p1")}


def operations(api: ApiSite) -> Iterator[Any]:
    """All that the document holds."""
    schema = schemathesis.openapi.from_dict(document(api))
    schema.config.update(base_url=api.url)
    for each in schema.get_all_operations():
        assert isinstance(each, Ok), each
        yield each.ok()


def make_good(api: ApiSite, case: Any) -> None:
    """Name what is there in a request that was made up, so that it comes further than the first refusal."""
    case.headers["Project"] = "p1"
    body = case.body
    if not isinstance(body, dict) or not isinstance(body.get("items"), list):
        return
    for number, item in enumerate(body["items"]):
        if not isinstance(item, dict):
            continue
        if case.path == "/api/jobs":
            item.update(api.item())
        elif case.path == "/ucloud/example/jobs":
            given = item.get("specification")
            item.update(api.job(str(number)))
            item["specification"] = {**(given if isinstance(given, dict) else {}), **item["specification"]}


@st.composite
def cases(draw: st.DrawFn, operation: Any, mode: GenerationMode) -> Any:
    """Requests for an operation. Some ways to break a schema lead to one that schemathesis cannot make values of."""
    try:
        return draw(operation.as_strategy(generation_mode=mode))
    except UnsupportedSchema:
        reject()


def ask_all(api: ApiSite, operation: Any, mode: GenerationMode, header: dict[str, str]) -> None:
    """Ask for one operation in several ways, the same in every run."""

    @settings(
        max_examples=3,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases(operation, mode), good=st.booleans())
    def ask(case: Any, good: bool) -> None:  # noqa: FBT001  # as hypothesis calls it
        if good:
            make_good(api, case)
        answer = case.call(headers=header, timeout=30)
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        case.validate_response(
            answer, checks=[status_code_conformance, content_type_conformance, response_schema_conformance]
        )

    ask()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_is_as_the_document_says(api: ApiSite, mode: GenerationMode) -> None:
    known = credentials(api)
    asked = set()
    for operation in operations(api):
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # what takes nothing can be asked for nothing wrong
        schemes = [name for each in operation.definition.raw.get("security", []) for name in each]
        ask_all(api, operation, mode, known[schemes[0]] if schemes else {})
        asked.add(operation.label)
    assert {"POST /ucloud/example/jobs", "POST /api/jobs", "POST /api/jobs/search"} <= asked


def test_what_needs_a_token_says_so_and_does(api: ApiSite) -> None:
    free = set()
    for operation in operations(api):
        answer = httpx.request(operation.method, f"{api.url}{operation.path}", timeout=30, verify=TLS)
        said = operation.definition.raw
        if "security" in said:
            assert answer.status_code == 401, operation.label
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "401" in said["responses"]
        else:
            free.add(operation.path)
            assert str(answer.status_code) in said["responses"]
    assert free == {"/healthz", "/healthz/ready"}


@pytest.mark.parametrize(
    "query",
    [
        f"itemsPerPage={BIG}", f"filterCreatedAfter=-{BIG}", "filterCreatedAfter=-9223372036854775808", "next=%00",
        "next=%ED%A0%80", "next=%FF", f"next={'A' * 50000}", f"filterIds={'1,' * 15000}", "filterIds=%00,%ED%A0%80",
        "filterApplication=%00", "includeUpdates=%D9%A3",
    ],
)  # fmt: skip
def test_a_query_that_is_odd_is_answered(api: ApiSite, query: str) -> None:
    assert api.ask("GET", f"/api/jobs/browse?{query}", **api.token()).status_code in {200, 400}


@pytest.mark.parametrize("path", ["%00", "%FF", "%ED%A0%80", "..%2F..%2Fetc%2Fpasswd", "%2F%2F"])
@pytest.mark.parametrize("folder", ["/", "/api/jobs/", "/ucloud/example/jobs/", "/static-offline-docs/"])
def test_a_path_that_is_odd_is_not_there(api: ApiSite, folder: str, path: str) -> None:
    assert api.ask("GET", f"{folder}{path}", **api.token()).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        f'{{"items": [{{"timeAllocation": {{"hours": {BIG}}}}}]}}', '{"items": [{"replicas": 1e999}]}',
        f'{{"items": [{{"name": "{HALF}"}}]}}', f'{{"items": [{{"{HALF}": "{HALF}"}}]}}', "[" * 100_000,
        '{"items": [{"name": "\\u0000", "labels": {"\\u0000": "\\u0000"}}]}', '{"items": [null]}', "5", "\ufeff{}",
        f'{{"items": [{{"parameters": {{"{HALF}": {{"type": "{HALF}"}}}}}}]}}',
    ],
)  # fmt: skip
def test_a_body_that_is_odd_is_refused(api: ApiSite, body: str) -> None:
    for path, header in (("/api/jobs", api.token()), ("/ucloud/example/jobs", api.as_ucloud())):
        answer = api.ask("POST", path, body.encode(), **header)
        assert answer.status_code == 400
        assert set(json.loads(answer.text)) == {"why", "errorCode"}


@pytest.mark.parametrize("header", [b"\xff", b"Basic \xff", b"Basic //79/w==", b"Bearer \xed\xa0\x80", b"Bearer ..."])
def test_a_token_that_is_odd_is_none(api: ApiSite, header: bytes) -> None:
    for path in ("/api/jobs/browse", "/ucloud/example/jobs/retrieveProducts", "/openapi.json"):
        answer = httpx.get(f"{api.url}{path}", headers={b"Authorization": header}, timeout=30, verify=TLS)
        assert answer.status_code == 401


def test_no_body_is_read_of_whoever_may_not_ask(api: ApiSite) -> None:
    for path, header in (("/api/jobs", api.as_ucloud()), ("/ucloud/example/jobs", api.token())):
        assert api.ask("POST", path, b"{").status_code == 401
        assert api.ask("POST", path, b"{", **header).status_code == 401


def test_others_are_answered_while_a_large_body_is_read(api: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = Event()

    def slowly(body: bytes) -> Any:
        assert answered.wait(60), "nobody else was answered meanwhile"
        return decode_json(body)

    monkeypatch.setattr("slurm_adapter.gateway.http.strict_route.decode_json", slowly)
    with ThreadPoolExecutor() as threads:
        reading = threads.submit(api.ask, "POST", "/api/jobs", {"items": []}, **api.token())
        assert api.ask("GET", "/healthz").status_code == 200
        assert not reading.done()
        answered.set()
        assert reading.result().status_code == 400


@pytest.mark.parametrize(("count", "lines"), [(1001, 1), (1000, 101), (1, 1)])
def test_of_many_mistakes_some_are_told(api: ApiSite, count: int, lines: int) -> None:
    why = api.ask("POST", "/api/jobs", {"items": [None] * count}, **api.token()).json()["why"].splitlines()
    assert len(why) == lines
    assert why[0].startswith("items: " if count > 1000 else "items[0]: null: must be an object")


def test_head_is_answered_as_get_without_a_body(api: ApiSite) -> None:
    for path, header in (("/healthz", {}), ("/docs", api.token()), ("/api/jobs/browse", api.token())):
        asked, got = (api.ask(method, path, **header) for method in ("HEAD", "GET"))
        assert (asked.status_code, asked.content) == (200, b"")
        assert asked.headers["content-length"] == got.headers["content-length"]
    assert api.ask("HEAD", "/nothing").status_code == 404


def test_another_method_is_told_the_right_one(api: ApiSite) -> None:
    answer = api.ask("PUT", "/api/jobs", **api.token())
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json() == {"why": "/api/jobs does not support PUT, only POST", "errorCode": None}


def test_a_compressed_body_is_told_that_it_may_not_be(api: ApiSite) -> None:
    body = gzip.compress(json.dumps({"items": [api.item()]}).encode())
    answer = api.ask("POST", "/api/jobs", body, **api.token(), **{"Content-Encoding": "gzip"})
    assert (answer.status_code, "without Content-Encoding" in answer.json()["why"]) == (415, True)


@pytest.mark.parametrize("path", ["/nothing", "/healthz", "/api/jobs/browse"])
def test_a_websocket_where_there_is_none_is_told_so(api: ApiSite, path: str) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(f"ws{api.url.removeprefix('http')}{path}"):
        raise AssertionError("it was opened")
    assert refused.value.response.status_code == 404
    assert json.loads(refused.value.response.body) == {"why": f"there is no WebSocket at {path}", "errorCode": None}

"""The user API: the documented requests, and no access to jobs of other workspaces."""

from __future__ import annotations

import base64
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.gateway.api_site import ApiSite, opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CURL = """
curl -sS -XPOST -H "Authorization: Bearer $accessToken" \
 -H "Content-Type: content-type: application/json; charset=utf-8" "$host/api/jobs" -d '{
    "items": [
        {
            "application": {"name": "sleeper", "version": "1"},
            "product": {"id": "example-compute", "category": "example-compute", "provider": "example"},
            "name": "my-database",
            "replicas": 1,
            "allowDuplicateJob": false,
            "parameters": null,
            "resources": null,
            "timeAllocation": null,
            "openedFile": null,
            "restartOnExit": null,
            "sshEnabled": null
        }
    ]
}'
"""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiSite]:
    with opened(tmp_path, {"first_id": 4101}, ucloud=False) as api:
        yield api


@pytest.fixture(scope="module")
def three_jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiSite]:
    """The user API with jobs 1 to 3 of alice, of which 2 has a label. No test changes them."""
    with opened(tmp_path_factory.mktemp("shared"), ucloud=False) as api:
        labelled = api.item(labels={"example.org/colour": "red"})
        api.ask("POST", "/api/jobs", {"items": [api.item(), labelled, api.item()]}, **api.token())
        yield api


def create(api: ApiSite, who: dict[str, str], **fields: Any) -> str:
    """Submit one job; its id."""
    answer = api.ask("POST", "/api/jobs", {"items": [api.item(**fields)]}, **who)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["responses"][0]["id"])


@pytest.mark.scenario(18)
def test_the_documents_curl(api: ApiSite) -> None:
    curl = shutil.which("curl")
    assert curl, "the test needs curl"
    token = api.token()["Authorization"].removeprefix("Bearer ")
    done = subprocess.run(
        ["sh", "-ec", CURL],
        env={"accessToken": token, "host": api.url, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == b'{"responses":[{"id":"4101"}]}'


def test_a_job_as_it_is_read(api: ApiSite) -> None:
    alice = api.token()
    id_ = create(api, alice, name="mine", timeAllocation={"hours": 0, "minutes": 90, "seconds": 30})
    [row] = api.offline.slurm.queue(["alice"]).observations
    api.offline.slurm.start(row.slurm_id, ("node001",))
    api.offline.sync()
    job = api.ask("GET", f"/api/jobs/retrieve?id={id_}&includeUpdates=true&includeSupport=true", **alice).json()
    assert job["id"] == id_
    assert job["owner"] == {"createdBy": "alice", "project": None}
    assert job["specification"]["timeAllocation"] == {"hours": 0, "minutes": 90, "seconds": 30}
    assert job["specification"]["name"] == "mine"
    assert job["status"]["state"] == "RUNNING"
    assert job["status"]["expiresAt"] - job["status"]["startedAt"] == 5460_000, "whole minutes, as Slurm has it"
    assert isinstance(job["createdAt"], int)
    assert [each["state"] for each in job["updates"] if each["state"]] == ["RUNNING"]
    assert job["status"]["resolvedSupport"]["support"]["native"]["enabled"]


def test_a_workspace_is_closed(api: ApiSite) -> None:
    alice, bob = api.token(), api.token("bob", "p1")
    id_ = create(api, alice)
    for who in (bob, bob | {"Project": "p1"}):
        missing = api.ask("GET", f"/api/jobs/retrieve?id={id_}", **who)
        assert missing.status_code == 404
        assert missing.json()["why"] == f"Permission denied or job not found ({id_})"
        assert api.ask("POST", "/api/jobs/terminate", {"items": [{"id": id_}]}, **who).status_code == 404
        assert api.ask("GET", "/api/jobs/browse", **who).json()["items"] == []
        assert api.ask("POST", "/api/jobs/search", {"query": id_}, **who).json()["items"] == []
    assert api.ask("GET", "/api/jobs/browse", **(alice | {"Project": "p1"})).status_code == 403
    assert api.ask("GET", "/api/jobs/browse").status_code == 401
    shared = create(api, bob | {"Project": "p1"})
    other = api.token("alice", "p1") | {"Project": "p1"}
    assert api.ask("GET", f"/api/jobs/retrieve?id={shared}", **other).json()["owner"]["project"] == "p1"


def test_a_key_makes_a_submission_recognisable(api: ApiSite) -> None:
    alice = api.token() | {"Idempotency-Key": "once"}
    body = {"items": [api.item(), api.item(name="second")]}
    first = api.ask("POST", "/api/jobs", body, **alice)
    assert first.status_code == 200
    assert api.ask("POST", "/api/jobs", body, **alice).json() == first.json()
    assert len(api.offline.slurm.queue(["alice"]).observations) == 2
    assert api.ask("POST", "/api/jobs", {"items": [api.item(name="other")] * 2}, **alice).status_code == 400


def test_pages_follow_each_other(api: ApiSite) -> None:
    alice = api.token()
    body = {"items": [api.item(name=f"job {n}") for n in range(5)]}
    ids = [each["id"] for each in api.ask("POST", "/api/jobs", body, **alice).json()["responses"]]
    seen: list[str] = []
    page: dict[str, Any] = {"next": ""}
    while page["next"] is not None:
        after = f"&next={page['next']}" if page["next"] else ""
        page = api.ask("GET", f"/api/jobs/browse?itemsPerPage=2{after}", **alice).json()
        seen += [job["id"] for job in page["items"]]
    assert seen == ids[::-1]
    for wrong in ("nonsense", "NQ==", "bnVsbA==", base64.b64encode(b"[" + b"9" * 30 + b",1]").decode()):
        assert api.ask("GET", f"/api/jobs/browse?next={wrong}", **alice).status_code == 400
    deep = base64.b64encode(b"[" * 200_000).decode()
    assert api.ask("POST", "/api/jobs/search", {"query": "", "next": deep}, **alice).status_code == 400


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("filterState=IN_QUEUE", ["1", "2", "3"]),
        ("filterState=RUNNING", []),
        ("filterIds=1,3", ["1", "3"]),
        ("filterApplication=sleeper", ["1", "2", "3"]),
        ("filterApplication=other", []),
        ("filterProductId=example-compute", ["1", "2", "3"]),
        ("hideProductId=example-compute", []),
        ("filterCreatedBy=alice&sortBy=createdAt&sortDirection=ascending", ["1", "2", "3"]),
        ("filterCreatedAfter=0&filterCreatedBefore=1", []),
        ("sortBy=timeLeft", ["1", "2", "3"]),
        ("filterType=JOBS_ONLY", ["1", "2", "3"]),
        ("filterType=VMS_ONLY", []),
        ("filterLabels.example.org/colour=red", ["2"]),
        ("filterLabels.example.org/colour=red&filterLabels.size=1", []),
        ("filterLabels.colour=red", []),
        ("itemsPerPage=0", ["1", "2", "3"]),
    ],
)
def test_filters(three_jobs: ApiSite, query: str, expected: list[str]) -> None:
    answer = three_jobs.ask("GET", f"/api/jobs/browse?{query}", **three_jobs.token())
    assert answer.status_code == 200, answer.text
    assert sorted(job["id"] for job in answer.json()["items"]) == expected


def test_a_search_is_for_name_application_and_id(api: ApiSite) -> None:
    alice = api.token()
    id_ = create(api, alice, name="My Database")
    for query in ("database", "SLEEP", id_):
        found = api.ask("POST", "/api/jobs/search", {"query": query}, **alice).json()
        assert [job["id"] for job in found["items"]] == [id_]
    assert api.ask("POST", "/api/jobs/search", {"query": "%"}, **alice).json()["items"] == []


@pytest.mark.scenario(30)
def test_the_same_job_twice_where_the_site_refuses_it(tmp_path: Path) -> None:
    with opened(tmp_path, {"gateway": {"refuse_duplicates": True}}, ucloud=False) as api:
        alice, bob = api.token(), api.token("bob")
        first = create(api, alice)
        answer = api.ask("POST", "/api/jobs", {"items": [api.item()]}, **alice)
        assert answer.status_code == 409
        assert answer.json()["why"].startswith("Duplicate job is already running")
        assert answer.json()["errorCode"] is None
        create(api, alice, allowDuplicateJob=True)
        create(api, bob)
        create(api, alice, name="another")
        running = [job["id"] for job in api.ask("GET", "/api/jobs/browse", **alice).json()["items"]]
        api.ask("POST", "/api/jobs/terminate", {"items": [{"id": each} for each in running]}, **alice)
        api.offline.sync()
        assert first in running
        create(api, alice)


def test_ended_jobs_can_be_terminated_again(api: ApiSite) -> None:
    alice = api.token()
    id_ = create(api, alice)
    for _ in range(2):
        answer = api.ask("POST", "/api/jobs/terminate", {"items": [{"id": id_}]}, **alice)
        assert answer.json() == {"responses": [{}]}
        api.offline.sync()
    status = api.ask("GET", f"/api/jobs/retrieve?id={id_}", **alice).json()["status"]
    assert (status["state"], status["expiresAt"]) == ("SUCCESS", None)


def test_products(api: ApiSite) -> None:
    found = api.ask("GET", "/api/jobs/retrieveProducts", **api.token()).json()["productsByProvider"]["example"]
    assert [each["product"]["name"] for each in found] == ["example-compute"]

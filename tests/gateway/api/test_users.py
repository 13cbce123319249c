"""The users' door: the document's own requests as they are printed, and nobody in another's workspace."""

from __future__ import annotations

import base64
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.gateway.doors import Doors, opened

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
def doors(tmp_path: Path) -> Iterator[Doors]:
    with opened(tmp_path, {"first_id": 4101}, ucloud=False) as doors:
        yield doors


def create(doors: Doors, who: dict[str, str], **fields: Any) -> str:
    """Submit one job; its id."""
    answer = doors.ask("POST", "/api/jobs", {"items": [doors.item(**fields)]}, **who)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["responses"][0]["id"])


@pytest.mark.scenario(18)
def test_the_documents_curl(doors: Doors) -> None:
    curl = shutil.which("curl")
    assert curl, "the test needs curl"
    token = doors.token()["Authorization"].removeprefix("Bearer ")
    done = subprocess.run(
        ["sh", "-ec", CURL],
        env={"accessToken": token, "host": doors.url, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == b'{"responses":[{"id":"4101"}]}'


def test_a_job_as_it_is_read(doors: Doors) -> None:
    alice = doors.token()
    id_ = create(doors, alice, name="mine", timeAllocation={"hours": 0, "minutes": 90, "seconds": 30})
    [row] = doors.offline.slurm.queue(["alice"]).observations
    doors.offline.slurm.start(row.slurm_id, ("node001",))
    doors.offline.sync()
    job = doors.ask("GET", f"/api/jobs/retrieve?id={id_}&includeUpdates=true&includeSupport=true", **alice).json()
    assert job["id"] == id_
    assert job["owner"] == {"createdBy": "alice", "project": None}
    assert job["specification"]["timeAllocation"] == {"hours": 0, "minutes": 90, "seconds": 30}
    assert job["specification"]["name"] == "mine"
    assert job["status"]["state"] == "RUNNING"
    assert job["status"]["expiresAt"] - job["status"]["startedAt"] == 5460_000, "whole minutes, as Slurm has it"
    assert isinstance(job["createdAt"], int)
    assert [each["state"] for each in job["updates"] if each["state"]] == ["RUNNING"]
    assert job["status"]["resolvedSupport"]["support"]["native"]["enabled"]


def test_a_workspace_is_closed(doors: Doors) -> None:
    alice, bob = doors.token(), doors.token("bob", "p1")
    id_ = create(doors, alice)
    for who in (bob, bob | {"Project": "p1"}):
        missing = doors.ask("GET", f"/api/jobs/retrieve?id={id_}", **who)
        assert missing.status_code == 404
        assert missing.json()["why"] == f"Permission denied or job not found ({id_})"
        assert doors.ask("POST", "/api/jobs/terminate", {"items": [{"id": id_}]}, **who).status_code == 404
        assert doors.ask("GET", "/api/jobs/browse", **who).json()["items"] == []
        assert doors.ask("POST", "/api/jobs/search", {"query": id_}, **who).json()["items"] == []
    assert doors.ask("GET", "/api/jobs/browse", **(alice | {"Project": "p1"})).status_code == 403
    assert doors.ask("GET", "/api/jobs/browse").status_code == 401
    shared = create(doors, bob | {"Project": "p1"})
    other = doors.token("alice", "p1") | {"Project": "p1"}
    assert doors.ask("GET", f"/api/jobs/retrieve?id={shared}", **other).json()["owner"]["project"] == "p1"


def test_a_key_makes_a_submission_recognisable(doors: Doors) -> None:
    alice = doors.token() | {"Idempotency-Key": "once"}
    body = {"items": [doors.item(), doors.item(name="second")]}
    first = doors.ask("POST", "/api/jobs", body, **alice)
    assert first.status_code == 200
    assert doors.ask("POST", "/api/jobs", body, **alice).json() == first.json()
    assert len(doors.offline.slurm.queue(["alice"]).observations) == 2
    assert doors.ask("POST", "/api/jobs", {"items": [doors.item(name="other")] * 2}, **alice).status_code == 400


def test_pages_follow_each_other(doors: Doors) -> None:
    alice = doors.token()
    body = {"items": [doors.item(name=f"job {n}") for n in range(5)]}
    ids = [each["id"] for each in doors.ask("POST", "/api/jobs", body, **alice).json()["responses"]]
    seen: list[str] = []
    page: dict[str, Any] = {"next": ""}
    while page["next"] is not None:
        after = f"&next={page['next']}" if page["next"] else ""
        page = doors.ask("GET", f"/api/jobs/browse?itemsPerPage=2{after}", **alice).json()
        seen += [job["id"] for job in page["items"]]
    assert seen == ids[::-1]
    for wrong in ("nonsense", "NQ==", "bnVsbA==", base64.b64encode(b"[" + b"9" * 30 + b",1]").decode()):
        assert doors.ask("GET", f"/api/jobs/browse?next={wrong}", **alice).status_code == 400
    deep = base64.b64encode(b"[" * 200_000).decode()
    assert doors.ask("POST", "/api/jobs/search", {"query": "", "next": deep}, **alice).status_code == 400


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
def test_filters(tmp_path: Path, query: str, expected: list[str]) -> None:
    with opened(tmp_path, ucloud=False) as doors:
        alice = doors.token()
        labelled = doors.item(labels={"example.org/colour": "red"})
        doors.ask("POST", "/api/jobs", {"items": [doors.item(), labelled, doors.item()]}, **alice)
        answer = doors.ask("GET", f"/api/jobs/browse?{query}", **alice)
        assert answer.status_code == 200, answer.text
        assert sorted(job["id"] for job in answer.json()["items"]) == expected


def test_a_search_is_for_name_application_and_id(doors: Doors) -> None:
    alice = doors.token()
    id_ = create(doors, alice, name="My Database")
    for query in ("database", "SLEEP", id_):
        found = doors.ask("POST", "/api/jobs/search", {"query": query}, **alice).json()
        assert [job["id"] for job in found["items"]] == [id_]
    assert doors.ask("POST", "/api/jobs/search", {"query": "%"}, **alice).json()["items"] == []


@pytest.mark.scenario(30)
def test_the_same_job_twice_where_the_site_refuses_it(tmp_path: Path) -> None:
    with opened(tmp_path, {"gateway": {"refuse_duplicates": True}}, ucloud=False) as doors:
        alice, bob = doors.token(), doors.token("bob")
        first = create(doors, alice)
        answer = doors.ask("POST", "/api/jobs", {"items": [doors.item()]}, **alice)
        assert answer.status_code == 409
        assert answer.json()["why"].startswith("Duplicate job is already running")
        assert answer.json()["errorCode"] is None
        create(doors, alice, allowDuplicateJob=True)
        create(doors, bob)
        create(doors, alice, name="another")
        running = [job["id"] for job in doors.ask("GET", "/api/jobs/browse", **alice).json()["items"]]
        doors.ask("POST", "/api/jobs/terminate", {"items": [{"id": each} for each in running]}, **alice)
        doors.offline.sync()
        assert first in running
        create(doors, alice)


def test_ended_jobs_can_be_terminated_again(doors: Doors) -> None:
    alice = doors.token()
    id_ = create(doors, alice)
    for _ in range(2):
        answer = doors.ask("POST", "/api/jobs/terminate", {"items": [{"id": id_}]}, **alice)
        assert answer.json() == {"responses": [{}]}
        doors.offline.sync()
    status = doors.ask("GET", f"/api/jobs/retrieve?id={id_}", **alice).json()["status"]
    assert (status["state"], status["expiresAt"]) == ("SUCCESS", None)


def test_products(doors: Doors) -> None:
    found = doors.ask("GET", "/api/jobs/retrieveProducts", **doors.token()).json()["productsByProvider"]["example"]
    assert [each["product"]["name"] for each in found] == ["example-compute"]

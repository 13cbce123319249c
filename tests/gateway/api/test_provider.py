"""The provider API: valid requests of UCloud are accepted, others are refused, and a refusal leaves nothing behind."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from slurm_adapter.core.specification import BULK_LIMIT
from tests.gateway.api_site import WIRE, ApiSite, opened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.core.records import Record
    from slurm_adapter.gateway.limits import Limits


JOBS = "/ucloud/example/jobs"


DOCUMENTS_JOB = Path(__file__).with_name("create-54112.json")


@pytest.fixture
def api(tmp_path: Path, limits: Limits) -> Iterator[ApiSite]:
    with opened(tmp_path, limits=limits) as api:
        yield api


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiSite]:
    """Both APIs, for tests that change nothing there."""
    with opened(tmp_path_factory.mktemp("shared")) as api:
        yield api


def names_in_slurm(api: ApiSite) -> list[str]:
    """The names of all jobs that Slurm has, whatever became of them."""
    api.until_dispatched()
    return [row.name for row in api.offline.slurm.queue(["alice", "bob"]).observations]


def script(record: Record) -> str:
    """What Slurm was given."""
    return (Path(record.folder) / "job.sbatch").read_text()


def why(answer: httpx.Response) -> str:
    """What an error says; its body has exactly the two keys that both cores read."""
    body = answer.json()
    assert set(body) == {"why", "errorCode"}
    return str(body["why"])


@pytest.mark.scenario(1)
def test_ucloud_is_let_in(api: ApiSite) -> None:
    assert api.ask("GET", f"{JOBS}/retrieveProducts", **api.as_ucloud()).status_code == 200


@pytest.mark.scenario(2, 3, 4, 5, 6)
def test_nobody_else_is(api: ApiSite) -> None:
    nobody = api.ask("GET", f"{JOBS}/retrieveProducts")
    assert (nobody.status_code, bool(why(nobody))) == (401, True)
    unsigned = {"no algorithm", "the public key as a secret", "another key"}
    for wrong, token in api.ucloud.bad_tokens().items():
        answer = api.ask("GET", f"{JOBS}/retrieveProducts", Authorization=f"Bearer {token}")
        assert answer.status_code in ({401} if wrong in unsigned else {401, 403}), wrong
        assert why(answer)
        unsigned.discard(wrong)
    assert not unsigned, "a token that nobody has tried"
    own = api.ask("GET", f"{JOBS}/retrieveProducts", Authorization=f"Bearer {api.ucloud.access_token()}")
    assert own.status_code == 403
    user = api.ask("GET", f"{JOBS}/retrieveProducts", **api.token())
    assert user.status_code == 401
    skewed = api.ucloud.token(iat=api.ucloud._now + 20)  # noqa: SLF001  # the double's own clock
    answer = api.ask("GET", f"{JOBS}/retrieveProducts", Authorization=f"Bearer {skewed}")
    assert answer.status_code == 200


@pytest.mark.scenario(7)
def test_another_provider_is_not_here(api: ApiSite) -> None:
    answer = api.ask("POST", "/ucloud/other/jobs", {"items": [api.job("1")]}, **api.as_ucloud())
    assert answer.status_code == 404
    assert why(answer)


@pytest.mark.scenario(9)
@pytest.mark.parametrize("kind", [None, "content-type: application/json; charset=utf-8", "text/plain"])
def test_every_content_type_is_json(api: ApiSite, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = api.ask("POST", JOBS, {"items": [api.job("54112")]}, **headers, **api.as_ucloud())
    assert answer.status_code == 200, answer.text


@pytest.mark.scenario(10)
def test_what_is_no_request_is_refused(api: ApiSite) -> None:
    known = api.as_ucloud()
    for wrong in (b"no json", b"", b'{"items": [], "items": []}', b'["items"]', b"\xff"):
        answer = api.ask("POST", JOBS, wrong, **known)
        assert (answer.status_code, bool(why(answer))) == (400, True), wrong
    for method, path, status in (("POST", f"{JOBS}/nothing", 404), ("GET", JOBS, 405), ("GET", f"{JOBS}/extend", 405)):
        answer = api.ask(method, path, {} if method == "POST" else None, **known)
        assert (answer.status_code, bool(why(answer))) == (status, True), path
    large = b" " * (33 * 1024 * 1024)
    for content in (large, iter([large])):  # with a Content-Length, and in chunks
        answer = httpx.post(f"{api.url}{JOBS}", content=content, headers=known, timeout=30)
        assert (answer.status_code, "body_limit" in why(answer)) == (413, True)
    assert api.ask("GET", f"{JOBS}/retrieveProducts", **known).status_code == 200


@pytest.mark.scenario(11)
def test_products_and_what_they_can_do(api: ApiSite) -> None:
    [support] = api.ask("GET", f"{JOBS}/retrieveProducts", **api.as_ucloud()).json()["responses"]
    assert support["product"] == {"id": "example-compute", "category": "example-compute", "provider": "example"}
    assert support["native"]["enabled"]
    assert support["native"]["logs"]
    assert support["native"]["utilization"]
    assert not support["native"]["timeExtension"], "without clusters.NAME.operator"
    assert not support["docker"]["enabled"]


@pytest.mark.scenario(12)
def test_what_core_asks_for_by_itself_is_answered(api: ApiSite) -> None:
    known = api.as_ucloud()
    ready = api.ask("POST", "/ucloud/example/integration/init", {"username": "alice"}, **known)
    assert (ready.status_code, ready.json()) == (200, {})
    manifest = api.ask("GET", "/ucloud/example/integration/retrieveManifest", **known)
    assert (manifest.status_code, manifest.json()) == (200, {"enabled": False, "expireAfterMs": None})
    assert api.ask("GET", "/ucloud/example/provider/branding/retrieveInfo", **known).json() == {}
    for kind in ("files/collections", "ingresses", "networkips", "licenses", "private-networks"):
        answer = api.ask("GET", f"/ucloud/example/{kind}/retrieveProducts", **known)
        assert answer.json() == {"responses": []}
    parameters = api.ask("POST", f"{JOBS}/requestDynamicParameters", {"owner": None, "application": {}}, **known)
    assert parameters.json() == {"parameters": []}


def wire_job(name: str) -> dict[str, Any]:
    """A job as UCloud's newer core writes it."""
    return dict(json.loads((WIRE / f"{name}.json").read_bytes())["items"][0])


def requests(job: dict[str, Any]) -> dict[str, Any]:
    """Return each request of the provider API (docs/gateway.md#provider-api) with its body; None for a GET."""
    item, user, hour = {"job": job}, {"username": "alice"}, {"hours": 1, "minutes": 0, "seconds": 0}
    [peer] = wire_job("create-4150")["specification"]["resources"]
    file = peer | {"type": "file", "path": "/1/a"}
    return {
        "jobs": {"items": [job]},
        "jobs/retrieveProducts": None,
        "jobs/updateAcl": {"items": [{"resource": job, "added": None, "deleted": None}]},
        "jobs/extend": {"items": [{**item, "requestedTime": hour}]},
        "jobs/suspend": {"items": [item]},
        "jobs/unsuspend": {"items": [item]},
        **{
            f"jobs/interactiveSession {kind}": {"items": [{**item, "rank": 0, "sessionType": kind, "target": None}]}
            for kind in ("SHELL", "WEB", "VNC")
        },
        "jobs/requestDynamicParameters": {"owner": job["owner"], "application": {"name": "a", "version": "1"}},
        "jobs/openTerminalInFolder": {"items": [{"folder": "/123"}]},
        "jobs/attachResource": {**item, "resource": peer},
        "jobs/detachResource": {**item, "resource": peer},
        "jobs/attachResource file": {**item, "resource": file},
        "jobs/detachResource file": {**item, "resource": file},
        "jobs/onUpdatedLabels": {"items": [job]},
        "jobs/verify": {"items": [job]},
        "jobs/init": {"principal": {"type": "user", **user}},
        "jobs/retrieveUtilization?categoryId=example-compute": None,
        "integration/init": user,
        "integration/connect": user,
        "integration/unlinked": user,
        "integration/retrieveManifest": None,
        "ssh/keyUploaded": {**user, "allKeys": []},
        "provider/branding/retrieveInfo": None,
        "files/collections/retrieveProducts": None,
        "jobs/terminate": {"items": [job]},
    }


NOT_OFFERED = {
    "jobs/extend",
    "jobs/suspend",
    "jobs/unsuspend",
    "jobs/interactiveSession SHELL",
    "jobs/interactiveSession WEB",
    "jobs/interactiveSession VNC",
    "jobs/openTerminalInFolder",
    "jobs/attachResource",  # to a job that was started without peers
    "jobs/detachResource",
    "jobs/attachResource file",
    "jobs/detachResource file",
    "integration/connect",
    "ssh/keyUploaded",
}
"""Of a site that sets nothing that it need not set."""


@pytest.mark.scenario(13)
def test_all_that_ucloud_may_ask_is_served_or_not_offered(tmp_path: Path) -> None:
    """As its newer core writes it; and what is told to be supported says nothing else."""
    (tmp_path / "drive" / "acme-database").mkdir(parents=True)
    more = {"drives": [{"id": "123", "path": f"{tmp_path}/drive"}], "identity": {"users": {"user": "alice"}}}
    job, asked = wire_job("create-4101"), {}
    with opened(tmp_path, more) as api:
        for name, body in requests(job).items():
            path = f"/ucloud/example/{name.partition(' ')[0]}"
            asked[name] = api.ask("GET" if body is None else "POST", path, body, **api.as_ucloud())
            if name == "jobs":
                job["providerGeneratedId"] = api.offline.run(api.offline.site.store.get("4101")).slurm_name
    for name in NOT_OFFERED:
        answer = asked.pop(name)
        assert (answer.status_code, bool(why(answer))) == (400, True), name
        assert answer.json()["errorCode"] == "FEATURE_NOT_SUPPORTED_BY_PROVIDER", name
    assert {name: answer.status_code for name, answer in asked.items() if answer.status_code != 200} == {}
    [support] = asked["jobs/retrieveProducts"].json()["responses"]
    native = support["native"]
    told = {"timeExtension", "suspension", "terminal", "web", "vnc"}
    assert {name: native[name] for name in told} == dict.fromkeys(told, False)
    for kind in ("docker", "virtualMachine"):
        assert not any(support[kind].values()), kind


@pytest.mark.scenario(19)
def test_what_cores_own_code_sends_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "drive" / "acme-database").mkdir(parents=True)
    more = {"drives": [{"id": "123", "path": f"{tmp_path}/drive"}], "identity": {"users": {"user": "alice"}}}
    with opened(tmp_path, more) as api:
        for name in ("create-4101", "create-4150"):
            answer = api.ask("POST", JOBS, (WIRE / f"{name}.json").read_bytes(), **api.as_ucloud())
            assert answer.status_code == 200, answer.text
        records = api.offline.site.store.find(["4101", "4150"])
        assert names_in_slurm(api) == [records["4101"].slurm_name, records["4150"].slurm_name]
        assert f"acme-database {tmp_path}/drive/acme-database" in script(records["4101"])
        assert [(peer.hostname, peer.job_id) for peer in records["4150"].peers] == [("database", "4101")]


def documents_job(**description: str) -> dict[str, Any]:
    """The documentation's job 54112, as UCloud's Kotlin core wrote it, with such a description of its tool."""
    job: dict[str, Any] = json.loads(DOCUMENTS_JOB.read_bytes())["items"][0]
    job["owner"]["createdBy"] = "alice"
    job["specification"]["product"]["id"] = "example-compute"  # as the test's site calls its only one
    job["status"]["resolvedApplication"]["invocation"]["tool"]["tool"]["description"].update(description)
    return job


@pytest.mark.scenario(20)
def test_what_the_kotlin_core_sent_is_taken(api: ApiSite) -> None:
    """Every key is there, with nulls, its product has a price of the first kind, and `output` is null."""
    answer = api.ask("POST", JOBS, {"items": [documents_job(backend="NATIVE")]}, **api.as_ucloud())
    assert answer.status_code == 200, answer.text
    record = api.offline.site.store.get("54112")
    assert names_in_slurm(api) == [record.slurm_name]
    assert "acme-batch --debug true 'Hello, World!'" in script(record)


@pytest.mark.scenario(28)
@pytest.mark.parametrize("backend", ["DOCKER", "VIRTUAL_MACHINE"])
def test_containers_and_machines_are_refused(api: ApiSite, backend: str) -> None:
    answer = api.ask("POST", JOBS, {"items": [documents_job(backend=backend)]}, **api.as_ucloud())
    assert (answer.status_code, backend in why(answer)) == (400, True)
    assert names_in_slurm(api) == []
    assert api.offline.site.store.find(["54112"]) == {}


@pytest.mark.scenario(16, 17, 28)
@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"timeAllocation": {"hours": 0, "minutes": 0, "seconds": 0}}, "timeAllocation"),
        ({"replicas": 0}, "replicas"),
        ({"replicas": -1}, "replicas"),
        ({"replicas": 5}, "replicas"),
        ({"product": {"provider": "example", "category": "example-compute", "id": "none"}}, "product"),
        ({"resources": [{"type": "peer", "hostname": "database", "jobId": "77"}]}, "jobId"),
        ({"parameters": {"what": {"type": "text", "value": "is this"}}}, "what"),
    ],
)
def test_a_refusal_leaves_nothing(api: ApiSite, fields: dict[str, Any], says: str) -> None:
    answer = api.ask("POST", JOBS, {"items": [api.job("5", **fields)]}, **api.as_ucloud())
    assert answer.status_code == 400
    assert says in why(answer)
    assert api.offline.site.store.find(["5"]) == {}
    assert names_in_slurm(api) == []


@pytest.mark.scenario(29)
def test_a_user_without_an_account_here_is_refused(api: ApiSite) -> None:
    answer = api.ask("POST", JOBS, {"items": [api.job("6", user="mallory")]}, **api.as_ucloud())
    assert (answer.status_code, "account" in why(answer), "mallory" in why(answer)) == (400, True, True)
    assert api.offline.site.store.find(["6"]) == {}
    assert api.offline.slurm.submissions == []


@pytest.mark.scenario(22)
def test_a_bulk_with_one_wrong_job_is_refused_whole(api: ApiSite) -> None:
    items = [api.job("1"), api.job("2", replicas=0), api.job("3")]
    answer = api.ask("POST", JOBS, {"items": items}, **api.as_ucloud())
    assert answer.status_code == 400
    assert "items[1]" in why(answer)
    assert api.offline.site.store.find(["1", "2", "3"]) == {}
    assert api.offline.slurm.submissions == []


@pytest.mark.scenario(30)
def test_the_same_job_twice_where_the_site_refuses_it(tmp_path: Path) -> None:
    """One that comes again under its own id is no second one; a parameter that UCloud puts in makes no difference."""

    def create(api: ApiSite, id_: str, rate: str = "0ms", **fields: Any) -> int:
        job = api.job(id_, **fields)
        job["specification"]["parameters"] = {"ucMetricSampleRate": {"type": "text", "value": rate}}
        answer = api.ask("POST", JOBS, {"items": [job]}, **api.as_ucloud())
        if answer.status_code == 409:
            assert why(answer).startswith("Duplicate job is already running")
        return answer.status_code

    def create_in_project(api: ApiSite, id_: str) -> int:
        job = api.job(id_)
        job["owner"]["project"] = "p"
        return api.ask("POST", JOBS, {"items": [job]}, **api.as_ucloud()).status_code

    with opened(tmp_path, {"gateway": {"refuse_duplicates": True}}) as api:
        assert [create(api, "1"), create(api, "1"), create(api, "2", "250ms")] == [200, 200, 409]
        assert api.offline.site.store.find(["2"]) == {}
        assert [create(api, "3", user="bob"), create_in_project(api, "4")] == [200, 200]
        assert create(api, "5", allowDuplicateJob=True) == 200
        bulk = {"items": [api.job("1"), api.job("5")]}
        assert api.ask("POST", f"{JOBS}/terminate", bulk, **api.as_ucloud()).status_code == 200
        api.offline.sync()
        assert create(api, "6") == 200
    (tmp_path / "off").mkdir()
    with opened(tmp_path / "off") as api:
        assert [create(api, "1"), create(api, "2")] == [200, 200]


@pytest.mark.scenario(23)
def test_a_bulk_has_one_to_a_thousand_jobs(api: ApiSite) -> None:
    known = api.as_ucloud()
    for empty in (b"{}", b'{"items": null}', b'{"items": []}'):
        assert "Request must not be empty" in why(api.ask("POST", JOBS, empty, **known))
    many = [api.job(str(number)) for number in range(BULK_LIMIT + 1)]
    answer = api.ask("POST", JOBS, {"items": many}, **known)
    assert answer.status_code == 400
    assert "Request cannot exceed 1000 items" in why(answer)
    taken = api.ask("POST", JOBS, {"items": many[:BULK_LIMIT]}, **known)
    assert taken.status_code == 200, taken.text
    tokens = [each["id"] for each in taken.json()["responses"]]
    records = api.offline.site.store.find(str(number) for number in range(BULK_LIMIT))
    assert tokens == [records[str(number)].slurm_name for number in range(BULK_LIMIT)]


@pytest.mark.scenario(24)
def test_the_same_create_again_is_the_same_job(api: ApiSite) -> None:
    known = api.as_ucloud()
    body = {"items": [api.job("54112")]}
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda _: api.ask("POST", JOBS, body, **known), range(10)))
    answers.append(api.ask("POST", JOBS, body, **known))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    [name] = names_in_slurm(api)
    assert answers[0].json() == {"responses": [{"id": name}]}


def test_an_id_that_is_no_number_is_refused(api: ApiSite) -> None:
    for id_ in ("../x", "a", "1 2", "٣"):
        answer = api.ask("POST", JOBS, {"items": [api.job(id_)]}, **api.as_ucloud())
        assert answer.status_code == 400
        assert "id" in why(answer)


def test_an_id_that_is_taken_is_told_as_one(api: ApiSite) -> None:
    own = api.ask("POST", "/api/jobs", {"items": [api.item()]}, **api.token()).json()["responses"][0]["id"]
    api.ask("POST", "/ucloud/example/jobs", {"items": [api.job("77")]}, **api.as_ucloud())
    for job, said in (
        (api.job(own), f"id: {own}: a job that did not come from UCloud"),
        (api.job("77", name="another"), "the id '77' belongs to job 77"),
    ):
        answer = api.ask("POST", "/ucloud/example/jobs", {"items": [job]}, **api.as_ucloud())
        assert (answer.status_code, said in answer.json()["why"]) == (400, True), answer.text


def test_a_job_of_another_is_not_created_again(api: ApiSite) -> None:
    known = api.as_ucloud()
    assert api.ask("POST", JOBS, {"items": [api.job("7")]}, **known).status_code == 200
    assert api.ask("POST", JOBS, {"items": [api.job("7", user="bob")]}, **known).status_code == 400
    other = api.ask("POST", JOBS, {"items": [api.job("7", replicas=2)]}, **known)
    assert (other.status_code, "another specification" in why(other)) == (400, True)


@pytest.mark.scenario(80, 81)
def test_acls_and_labels_are_taken_note_of(api: ApiSite) -> None:
    known = api.as_ucloud()
    api.ask("POST", JOBS, {"items": [api.job("1")]}, **known)
    acl = {"items": [{"resource": api.job("1"), "added": [], "deleted": [{"type": "user", "username": "bob"}]}]}
    assert api.ask("POST", f"{JOBS}/updateAcl", acl, **known).json() == {"responses": [{}]}
    labelled = {"items": [api.job("1", labels={"colour": "red"})]}
    assert api.ask("POST", f"{JOBS}/onUpdatedLabels", labelled, **known).json() == {}
    assert json.loads(api.offline.site.store.get("1").labels) == {"colour": "red"}


def test_the_folder_is_told_as_ucloud_names_it(tmp_path: Path) -> None:
    drives = [{"id": "77", "path": f"{tmp_path}/home/alice"}]
    with opened(tmp_path, {"drives": drives}) as api:
        assert api.ask("POST", JOBS, {"items": [api.job("1")]}, **api.as_ucloud()).status_code == 200
        api.until_dispatched()
        told = [each.more.get("outputFolder") for each in api.offline.site.store.updates("1")]
        name = Path(api.offline.site.store.get("1").folder).name
        assert re.fullmatch(r"1-[a-z][a-z2-7]{7}", name)
        assert [each for each in told if each] == [f"/77/{name}"]


@pytest.mark.parametrize(
    ("method", "path", "offered"),
    [
        ("POST", "licenses", "software licenses"),
        ("DELETE", "licenses", "software licenses"),
        ("POST", "ingresses", "public links"),
        ("POST", "networkips/firewall", "public IP addresses"),
        ("POST", "private-networks", "private networks"),
        ("POST", "files/collections", "drives"),
        ("POST", "files/browse", "files"),
        ("POST", "shares", "shares of folders"),
        ("GET", "files/collections/retrieveEverything", "drives"),
        ("POST", "jobs/rename", "this operation on jobs"),
        ("DELETE", "jobs/terminate", "this operation on jobs"),
        ("POST", "something/new", "this"),
        ("POST", "", "this"),
    ],
)
def test_what_is_not_offered_is_told_without_a_path(shared: ApiSite, method: str, path: str, offered: str) -> None:
    answer = shared.ask(method, f"/ucloud/example/{path}", {"items": []}, **shared.as_ucloud())
    assert answer.status_code in {404, 405}
    assert why(answer) == f"this provider does not offer {offered}: it runs jobs"
    assert answer.json()["errorCode"] == "FEATURE_NOT_SUPPORTED_BY_PROVIDER"

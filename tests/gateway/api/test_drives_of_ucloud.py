"""Drives that only UCloud knows: they are requested from it and checked, and a refusal leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.gateway.api_site import ApiSite, opened, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

JOBS = "/ucloud/example/jobs"
RETRIEVE = "/api/files/collections/control/retrieve"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiSite]:
    """A site that asks UCloud for drives that are neither drive 1 nor of a project."""
    work = tmp_path / "work"
    for folder in ("table", "projects/p1/55", "alice", "bob", "p2"):
        (work / folder).mkdir(parents=True)
        (work / folder / "data").touch()
    more = {
        "drives": [{"id": "1", "path": f"{work}/table"}],
        "drive_pattern": {"project": f"{work}/projects/{{project}}/{{drive}}"},
    }
    with opened(tmp_path, more, asks_for_drives=True) as api:
        api.ucloud.have_drive("77", "alice", folder=f"{work}/alice")
        api.ucloud.have_drive("78", "bob", folder=f"{work}/bob")
        api.ucloud.have_drive("79", "alice", "p2", folder=f"{work}/p2")
        api.ucloud.have_drive("80", "alice", name="h-alice")
        api.ucloud.have_drive("81", "alice", folder=f"{work}/alice", provider="another")
        api.ucloud.have_drive("82", "alice", folder=f"{work}/gone")
        api.ucloud.have_drive("83", "alice", folder=f"{work}/../alice")
        yield api


def create(api: ApiSite, *paths: str, project: str | None = None, first: int = 1) -> tuple[int, str]:
    """Hand in jobs 1, 2, ... with one of these files each; the status, and what is said."""
    items = []
    for number, path in enumerate(paths, start=first):
        item = api.job(str(number), resources=[{"type": "file", "path": path}])
        item["owner"]["project"] = project
        items.append(item)
    answer = api.ask("POST", JOBS, {"items": items}, **api.as_ucloud())
    if answer.is_success:
        api.until_dispatched()
    return answer.status_code, answer.text


def asked(api: ApiSite) -> list[str]:
    """The drives that UCloud was asked for."""
    return [call.query["id"] for call in api.ucloud.calls_to(RETRIEVE)]


def nothing_is_left(api: ApiSite) -> bool:
    """Whether there is no job, no claim and no folder."""
    site = api.offline.site
    folders = list((api.offline.folder / "home").glob("*/*"))
    return not site.store.all(10) and not api.offline.slurm.queue(["alice"]).observations and not folders


def script(api: ApiSite, id_: str) -> str:
    api.until_dispatched()
    return Path(api.offline.site.store.get(id_).folder, "job.sbatch").read_text()


@pytest.mark.scenario(37)
def test_a_drive_that_only_ucloud_knows_is_the_folder_that_it_was_registered_with(api: ApiSite) -> None:
    assert create(api, "/77/data")[0] == 200
    assert f"{api.offline.folder}/work/alice/data" in script(api, "1")
    assert asked(api) == ["77"]


def test_a_drive_that_only_the_application_names_is_asked_for(api: ApiSite) -> None:
    data = {"type": "input_file", "name": "data", "defaultValue": {"type": "file", "path": "/77/data"}}
    job = api.job("1")
    job["status"]["resolvedApplication"] = {
        "metadata": {"name": "sleeper", "version": "1"},
        "invocation": {
            "tool": {"tool": {"description": {"backend": "NATIVE"}}},
            "invocation": [{"type": "word", "word": "cat"}, {"type": "var", "variableNames": ["data"]}],
            "parameters": [data],
        },
    }
    answer = api.ask("POST", JOBS, {"items": [job]}, **api.as_ucloud())
    assert answer.status_code == 200, answer.text
    assert f"cat {api.offline.folder}/work/alice/data" in script(api, "1")
    own = job | {"id": "2", "specification": api.item(parameters={"data": {"type": "file", "path": "/1/data"}})}
    data["defaultValue"] = {"type": "file", "path": "/80/data"}
    assert api.ask("POST", JOBS, {"items": [own]}, **api.as_ucloud()).status_code == 200
    assert asked(api) == ["77"], "only where the default counts"
    answer = api.ask("POST", JOBS, {"items": [job | {"id": "3"}]}, **api.as_ucloud())
    assert (answer.status_code, "parameters.data.path: drive '80' has no folder" in answer.text) == (400, True)


def test_what_the_site_knows_is_not_asked_for(api: ApiSite) -> None:
    assert create(api, "/1/data")[0] == 200
    assert create(api, "/1/data", "/55/data", project="p1", first=7)[0] == 200
    assert f"{api.offline.folder}/work/projects/p1/55/data" in script(api, "8")
    assert asked(api) == []


def test_a_drive_is_asked_for_once_for_a_bulk_and_for_what_comes_after_it(api: ApiSite) -> None:
    assert create(api, *["/77/data"] * 50)[0] == 200
    assert create(api, "/77", first=99)[0] == 200
    assert asked(api) == ["77"]


@pytest.mark.scenario(37)
def test_what_is_no_drive_of_the_workspace_is_refused(api: ApiSite) -> None:
    wrong = {
        "/404/data": "drive '404' is not known here",
        "/78/data": "drive '78' is not known here, or not open to user 'alice'",
        "/79/data": "drive '79' is not known here, or not open to user 'alice'",
        "/81/data": "drive '81' is not known here",
        "/80/data": "drive '80' has no folder on this cluster: in UCloud it has the name 'h-alice'",
        "/83/data": "drive '83' has no folder on this cluster",
        "/82/data": "its drive's folder",
        "/77/../bob/data": "a path cannot leave its drive",
    }
    for path, said in wrong.items():
        status, text = create(api, "/1/data", path)
        assert (status, said in text) == (400, True), text
        assert path == "/82/data" or "items[1].resources[0]" in text
        assert nothing_is_left(api)
    assert asked(api) == ["404", "78", "79", "81", "80", "83", "82", "77"]


def test_what_cannot_be_an_id_of_ucloud_is_not_asked_for(api: ApiSite) -> None:
    for path in ("/077/data", "/77x/data", "/0/data", "/-77/data", "/99999999999999999999/data", "77/data", "//77"):
        assert create(api, path)[0] == 400
    assert asked(api) == []
    assert nothing_is_left(api)


def test_a_personal_drive_is_none_of_a_projects_job(tmp_path: Path) -> None:
    (tmp_path / "alice").mkdir()
    (tmp_path / "p2").mkdir()
    with opened(tmp_path, asks_for_drives=True) as api:
        api.ucloud.have_drive("77", "alice", folder=f"{tmp_path}/alice")
        api.ucloud.have_drive("79", "alice", "p2", folder=f"{tmp_path}/p2")
        assert create(api, "/77", project="p2")[0] == 400
        assert create(api, "/79", project="p3")[0] == 400
        assert nothing_is_left(api)
        assert create(api, "/79", project="p2")[0] == 200


@pytest.mark.parametrize(
    "trouble", ["down", "busy", "mistaken", "not let in", "no refresh", "no drive", "another drive", "slow"]
)
def test_a_ucloud_that_does_not_tell_is_502_and_leaves_nothing(api: ApiSite, trouble: str) -> None:
    match trouble:
        case "down":
            api.ucloud.down()
        case "busy":
            api.ucloud.fail(503, path=RETRIEVE)
        case "mistaken":
            api.ucloud.fail(500, path=RETRIEVE)
        case "not let in":
            api.ucloud.fail(403, path=RETRIEVE)
        case "no refresh":
            api.ucloud.fail(500, path="/auth/providers/refresh")
        case "no drive":
            api.ucloud.drives["77"]["owner"] = None
        case "another drive":
            api.ucloud.drives["77"]["id"] = 77
        case "slow":
            api.ucloud.slow = 6.0
    status, text = create(api, "/77/data")
    assert (status, "drive 77" in text) == (502, True) or trouble == "slow", text
    assert status == 502
    assert nothing_is_left(api)
    if trouble == "down":
        api.ucloud.up()
    api.ucloud.slow = 0.0
    api.ucloud.have_drive("77", "alice", folder=f"{api.offline.folder}/work/alice")
    wait_until(lambda: create(api, "/77/data")[0] == 200, "nothing of the trouble is kept")
    assert len(api.offline.slurm.queue(["alice"]).observations) == 1


def test_ucloud_is_asked_for_its_own_jobs_only(api: ApiSite) -> None:
    """A user with a token of this site may have the name of one of UCloud's users."""
    item: dict[str, Any] = api.item(resources=[{"type": "file", "path": "/77/data"}])
    answer = api.ask("POST", "/api/jobs", {"items": [item]}, **api.token())
    assert (answer.status_code, "drive '77' is not known here" in answer.text) == (400, True)
    assert asked(api) == []


def test_a_site_that_does_not_ask_knows_its_own_drives_only(tmp_path: Path) -> None:
    with opened(tmp_path) as api:
        api.ucloud.have_drive("77", "alice", folder=str(tmp_path))
        assert create(api, "/77")[0] == 400
        assert asked(api) == []


@pytest.mark.parametrize("source", ["pattern", "UCloud"])
def test_the_folder_is_told_in_a_drive_that_the_job_names(tmp_path: Path, source: str) -> None:
    home = f"{tmp_path}/home"
    pattern = {"user": f"{home}/{{account}}/drive-{{drive}}"} if source == "pattern" else {}
    more = {"jobs": {"folder": f"{home}/{{user}}/drive-77/jobs/{{id}}"}, "drive_pattern": pattern}
    with opened(tmp_path, more, asks_for_drives=True) as api:
        Path(home, "alice/drive-77/jobs").mkdir(parents=True)
        api.ucloud.have_drive("77", "alice", folder=f"{home}/alice/drive-77")
        assert create(api, "/77")[0] == 200
        api.until_dispatched()
        told = [each.more.get("outputFolder") for each in api.offline.site.store.updates("1")]
        folder = Path(api.offline.site.store.get("1").folder).name
        assert [each for each in told if each] == [f"/77/jobs/{folder}"]
        assert asked(api) == ([] if source == "pattern" else ["77"])


def test_the_folder_is_not_told_in_a_drive_that_is_not_open_to_the_owner(tmp_path: Path) -> None:
    with opened(tmp_path, {"drives": [{"id": "77", "path": f"{tmp_path}/home/alice", "users": ["bob"]}]}) as api:
        answer = api.ask("POST", JOBS, {"items": [api.job("1")]}, **api.as_ucloud())
        assert answer.status_code == 200, answer.text
        api.until_dispatched()
        assert [each for each in api.offline.site.store.updates("1") if "outputFolder" in each.more] == []

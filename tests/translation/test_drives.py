"""UCloud's paths: folders of drives, and symbolic links on the cluster."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.cluster.path_check import check_paths_command, read_path_check
from slurm_adapter.core.config import Config
from slurm_adapter.core.config_tables import Drive, DrivePattern
from slurm_adapter.core.errors import InvalidInput, TryAgain, Unknown
from slurm_adapter.core.specification import FileValue, Owner, parse_specifications
from slurm_adapter.translation.drives import (
    DrivePath,
    UcloudDrive,
    by_pattern,
    read_ucloud_drive,
    resolve_path,
    to_ask_ucloud_for,
    ucloud_path,
)
from tests.offline import configuration

if TYPE_CHECKING:
    from pathlib import Path

DRIVES = (
    Drive(id="123", path="/shared/data/123"),
    Drive(id="hers", path="/shared/hers/", users=("alice",), projects=("p1",), read_only=True),
    Drive(id="all", path="/"),
)


def resolve(path: str, *, user: str = "bob", project: str | None = None) -> DrivePath:
    return resolve_path(path, DRIVES, user=user, project=project, field="parameters.x.path")


@pytest.mark.parametrize(
    ("path", "cluster", "name"),
    [
        ("/123", "/shared/data/123", "123"),
        ("/123/acme-database", "/shared/data/123/acme-database", "acme-database"),
        ("/123/a b/…/$x\n", "/shared/data/123/a b/…/$x\n", "$x\n"),
        ("/123/..a", "/shared/data/123/..a", "..a"),
        ("/all", "/", "all"),
        ("/all/etc", "/etc", "etc"),
    ],
)
def test_paths_on_the_cluster(path: str, cluster: str, name: str) -> None:
    found = resolve(path)
    assert (found.cluster, found.name) == (cluster, name)


@pytest.mark.parametrize(
    "path",
    ["", "/", "123/a", "/123/", "/123//a", "//123/a", "/123/../../etc/passwd", "/123/a/..", "/123/./a", "/..",
     "/123/a\0b", "/123/" + "x" * 4096],
)  # fmt: skip
def test_a_path_that_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match=r"^parameters\.x\.path: '"):
        resolve(path)


@pytest.mark.parametrize(("user", "project"), [("alice", None), ("alice", "p2"), ("bob", "p1")])
def test_who_may_use_a_drive(user: str, project: str | None) -> None:
    found = resolve("/hers/a", user=user, project=project)
    assert found.cluster == "/shared/hers/a"
    assert found.read_only


@pytest.mark.parametrize(("user", "project"), [("bob", None), ("bob", "p2"), ("p1", "alice")])
def test_an_unknown_drive_and_one_of_others_look_the_same(user: str, project: str | None) -> None:
    with pytest.raises(InvalidInput) as theirs:
        resolve("/hers/a", user=user, project=project)
    with pytest.raises(InvalidInput) as unknown:
        resolve("/999/a", user=user, project=project)
    assert str(theirs.value).replace("hers", "999") == str(unknown.value)
    assert "is not known here, or not open to" in str(unknown.value)


@pytest.mark.scenario(37)
@given(st.text())
def test_no_text_leaves_its_drive(path: str) -> None:
    try:
        found = resolve(f"/123/{path}")
    except InvalidInput:
        return
    assert f"{found.cluster}/".startswith("/shared/data/123/")
    assert not {"", ".", ".."} & set(found.cluster.split("/")[1:])


@pytest.fixture
def drive(tmp_path: Path) -> Drive:
    """A drive with all kinds of files, which is itself behind a symbolic link."""
    (tmp_path / "real/folder").mkdir(parents=True)
    (tmp_path / "real-2").mkdir()
    (tmp_path / "real/file").touch()
    (tmp_path / "real/a 'b\" $c\n\\d").touch()
    (tmp_path / "real/inside").symlink_to("folder")
    (tmp_path / "real/out").symlink_to("/etc")
    (tmp_path / "real/beside").symlink_to("../real-2")
    (tmp_path / "real/loop").symlink_to("loop")
    (tmp_path / "real/-rf").touch()
    (tmp_path / "drive").symlink_to("real")
    return Drive(id="d", path=str(tmp_path / "drive"))


def look(drive: Drive, *paths: str, kind: str = "any") -> int:
    """Check paths on the file system. Return how many were checked, including the folder of the drive."""
    found = [
        resolve_path(path, [drive], user="u", project=None, field=f"f{n}", kind=kind)  # type: ignore[arg-type]  # drawn from the table below
        for n, path in enumerate(paths)
    ]
    command = check_paths_command(found, None)
    done = subprocess.run(command.words, input=command.stdin, capture_output=True, check=True)
    assert done.stderr == b""
    read_path_check(found, done.stdout)
    return done.stdout.count(b"\0")


def test_paths_that_are_fine(drive: Drive) -> None:
    assert look(drive, "/d", "/d/file", "/d/folder", "/d/inside", "/d/a 'b\" $c\n\\d", "/d/-rf") == 6
    assert look(drive, "/d/inside", kind="directory") == 2
    assert look(drive, "/d/file", kind="file") == 2
    assert look(drive) == 0


@pytest.mark.parametrize(
    ("path", "kind", "said"),
    [
        ("/d/out", "any", "leaves its drive through a symbolic link"),
        ("/d/out/passwd", "any", "leaves its drive through a symbolic link"),
        ("/d/beside", "any", "leaves its drive through a symbolic link"),
        ("/d/loop", "any", "does not exist"),
        ("/d/absent", "any", "does not exist"),
        ("/d/file", "directory", "is a file; the parameter takes a folder"),
        ("/d/folder", "file", "is a folder; the parameter takes a file"),
    ],
)
def test_what_is_seen_on_the_cluster(drive: Drive, path: str, kind: str, said: str) -> None:
    with pytest.raises(InvalidInput) as error:
        look(drive, "/d/inside" if kind == "directory" else "/d/file" if kind == "file" else "/d", path, kind=kind)
    assert f"f1: '{path}': " in str(error.value)
    assert said in str(error.value)


def test_a_drive_without_a_folder(tmp_path: Path) -> None:
    (tmp_path / "another").mkdir()
    with pytest.raises(InvalidInput, match=r"its drive's folder .* does not exist"):
        look(Drive(id="d", path=str(tmp_path / "gone")), "/d/x")


@pytest.mark.parametrize("inside", ["", "/projects/7"])
def test_a_mount_point_without_its_file_system_is_no_mistake_of_the_job(tmp_path: Path, inside: str) -> None:
    (tmp_path / "mounted").mkdir()
    with pytest.raises(TryAgain, match=r"is its file system mounted\?"):
        look(Drive(id="d", path=f"{tmp_path}/mounted{inside}/gone"), "/d/x")


@pytest.mark.parametrize(("path", "error"), [("/d/x", TryAgain), ("/d", None)])
def test_a_file_system_that_fails_is_no_mistake_of_the_job(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, error: type[Exception] | None
) -> None:
    """A file server is down, and an application uses a file there."""
    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin/stat"
    stub.write_text("#!/bin/sh\necho \"stat: cannot statx '$3': Stale file handle\" >&2\nexit 1\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")
    with pytest.raises(error, match="is its file system mounted") if error else nullcontext():
        look(drive, path)


def test_a_thousand_paths_are_one_command_that_looks_at_each_once(drive: Drive, tmp_path: Path) -> None:
    names = [f"long-{number:0200}" for number in range(1000)]
    for name in names:
        (tmp_path / "real" / name).touch()
    assert look(drive, *(f"/d/{name}" for name in names)) == 1001
    assert look(drive, *["/d/folder"] * 1000) == 2


@pytest.mark.parametrize("answer", [b"", b"d/x", b"d/x\0", b"d/x\0d/x\0d/x\0", b"Permission denied\n"])
def test_answers_that_are_not_checks_of_paths(drive: Drive, answer: bytes) -> None:
    path = resolve_path("/d/file", [drive], user="u", project=None, field="f")
    with pytest.raises(Unknown):
        read_path_check([path], answer)


PATTERN = DrivePattern(user="/work/u/{user}/{drive}", project="/work/p/{project}/{drive}")


@pytest.mark.parametrize(
    ("path", "project", "cluster"),
    [
        ("/77/a", None, "/work/u/bob/77/a"),
        ("/77/a", "p1", "/work/p/p1/77/a"),
        ("/123/a", "p1", "/shared/data/123/a"),
        ("/{user}", None, "/work/u/bob/{user}"),
    ],
)
def test_a_drive_that_is_in_no_table_is_the_workspaces_own(path: str, project: str | None, cluster: str) -> None:
    found = resolve_path(path, DRIVES, user="bob", project=project, field="x", pattern=PATTERN)
    assert found.cluster == cluster


def test_a_drive_of_the_table_that_is_not_open_is_not_looked_for_by_pattern() -> None:
    with pytest.raises(InvalidInput, match="not open to user 'bob'"):
        resolve_path("/hers/a", DRIVES, user="bob", project=None, field="x", pattern=PATTERN)


@given(st.text(), st.text(), st.none() | st.text())
def test_no_value_leads_out_of_the_patterns_folders(drive: str, user: str, project: str | None) -> None:
    found = by_pattern(drive, PATTERN, user, project) if drive else None
    if found is not None:
        parts = found.path.split("/")
        assert parts[:3] == ["", "work", "u" if project is None else "p"]
        assert len(parts) == 5
        assert not {"", ".", ".."} & set(parts[1:])


@pytest.mark.parametrize(
    ("folder", "path"),
    [
        ("/shared/data/123", "/123"),
        ("/shared/data/123/jobs/7/", "/123/jobs/7"),
        ("/shared/hers/a", "/hers/a"),
        ("/shared/data/1234", None),
        ("/elsewhere", None),
    ],
)
def test_the_drive_that_holds_a_folder_names_it(folder: str, path: str | None) -> None:
    assert ucloud_path(folder, DRIVES[:2]) == path


@pytest.mark.parametrize(
    "pattern",
    ["work/{user}/{drive}", "/work/../{user}/{drive}", "/work/{user}", "/work/{drive}", "/{user}/{drive}/{x}"],
)
def test_a_pattern_that_cannot_tell_drives_or_users_apart_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"(an absolute path|may contain in braces|must contain)"):
        DrivePattern(user=pattern)


def test_a_pattern_knows_the_users_account(tmp_path: Path) -> None:
    pattern = DrivePattern(user="/home/{account}/{drive}", project="/work/{project}/{account}-{drive}")
    personal = by_pattern("77", pattern, "Alice#1", None, "alice")
    assert personal is not None
    assert personal.path == "/home/alice/77"
    shared = by_pattern("77", pattern, "Alice#1", "p1", "alice")
    assert shared is not None
    assert shared.path == "/work/p1/alice-77"
    assert by_pattern("77", pattern, "Alice#1", None) is None
    one_account = {"identity": {"mode": "service", "service_user": "jobs"}, "drive_pattern": pattern.model_dump()}
    with pytest.raises(ValueError, match=r"must contain {user}, because all users have the same account"):
        Config.model_validate(configuration(tmp_path, one_account))


def ucloud_drive(**fields: Any) -> UcloudDrive:
    product = {"id": "example-storage", "category": "example-storage", "provider": "example"}
    whole = {"id": "77", "owner": {"createdBy": "alice", "project": None}, "specification": {"product": product}}
    return read_ucloud_drive(whole | fields)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("example-alice\n/work/alice", "/work/alice"),
        ("example-9f2c-11\n/work/p/9f2c-11/", "/work/p/9f2c-11"),
        ("example-/work/alice", "/work/alice"),
        ("/work/alice", "/work/alice"),
        ("\n/work/alice", None),
        ("example-alice\n", None),
        ("example-alice\nwork/alice", None),
        ("example-alice\n/drives/../etc", None),
        ("example-alice\n/work//alice", None),
        ("example-alice\n/work/alice\n/x", None),
        ("example-alice\n/", None),
        ("other-/work/alice", None),
        ("h-alice", None),
        ("", None),
        (None, None),
    ],
)
def test_the_folder_in_what_a_provider_named_its_drive(name: str | None, folder: str | None) -> None:
    assert ucloud_drive(providerGeneratedId=name).folder == folder


@pytest.mark.parametrize(
    ("owner", "project", "belongs"),
    [
        ({"createdBy": "alice", "project": None}, None, True),
        ({"createdBy": "bob", "project": None}, None, False),
        ({"createdBy": "alice", "project": None}, "p1", False),
        ({"createdBy": "_ucloud", "project": "p1"}, "p1", True),
        ({"createdBy": "alice", "project": "p1"}, "p2", False),
        ({"createdBy": "alice", "project": "p1"}, None, False),
    ],
)
def test_workspaces_of_ucloud_drives(owner: dict[str, str | None], project: str | None, *, belongs: bool) -> None:
    assert ucloud_drive(owner=owner).belongs_to(Owner(created_by="alice", project=project)) == belongs


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (None, "wrong fields: all"),
        ({}, "id, owner, specification"),
        ({"id": 77, "owner": {"createdBy": "alice"}, "specification": {}}, "id, specification.product"),
    ],
)
def test_answers_that_are_not_drives_of_ucloud(answer: object, wrong: str) -> None:
    with pytest.raises(Unknown, match=wrong):
        read_ucloud_drive(answer)


def test_which_drives_ucloud_is_worth_asking_for(tmp_path: Path) -> None:
    more = {"drives": [{"id": "1", "path": "/a"}], "drive_pattern": {"project": "/p/{project}/{drive}"}}
    config = Config.model_validate(configuration(tmp_path, more))
    whole = {
        "application": {"name": "a", "version": "1"},
        "product": {"id": "x", "category": "x", "provider": "example"},
        "parameters": {
            "one": {"type": "file", "path": "/1/a"},
            "two": {"type": "file", "path": "/2/a"},
            "text": {"type": "text", "value": "/3/a"},
            "odd": {"type": "file", "path": "/x/a"},
        },
        "resources": [{"type": "peer", "hostname": "h", "jobId": "4"}, {"type": "file", "path": "/5"}],
        "openedFile": "/6/a",
    }
    [job] = parse_specifications(json.dumps(whole).encode())
    personal = Owner(created_by="alice")
    defaults = {name: FileValue(type="file", path=path) for name, path in (("two", "/8/a"), ("three", "/9/a"))}
    assert list(to_ask_ucloud_for(job, defaults, config, personal, "alice")) == [
        ("2", "parameters.two.path"),
        ("9", "parameters.three.path"),
        ("5", "resources[1].path"),
        ("6", "openedFile"),
    ]
    assert list(to_ask_ucloud_for(job, defaults, config, Owner(created_by="alice", project="p1"), "alice")) == []

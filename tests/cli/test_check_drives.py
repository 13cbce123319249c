"""`check` reports the folders of drives, and who gets shells in them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.cli.check import Level, check_site, shells
from slurm_adapter.core.errors import TryAgain
from tests.offline import Offline
from tests.ucloud_double import Ucloud, ucloud

if TYPE_CHECKING:
    from pathlib import Path

    from slurm_adapter.cluster.transports.interface import Command

__all__ = ["ucloud"]


def found(folder: Path, more: dict[str, Any]) -> dict[str, Level]:
    """Return what `check` finds about drives and shells in them, on a site without Slurm's commands."""
    site = Offline(folder, more)

    def before(command: Command) -> None:
        if "scontrol" in command.argv:
            raise TryAgain("there is no scontrol")

    site.transport.before = before
    with site.site:
        findings = list(check_site(site.site))
    beginnings = ("drive", "UCloud's drives", "ucloud.ask_for_drives", "GET ", "gateway.folder_shells")
    return {each.text: each.level for each in findings if each.text.startswith(beginnings)}


def test_folders_of_a_drive_pattern(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    more = {
        "drive_pattern": {
            "user": f"{tmp_path}/home/{{account}}/d-{{drive}}",
            "project": f"{tmp_path}/file/x{{project}}/{{drive}}",
        }
    }
    assert found(tmp_path, more) == {
        f"drive_pattern.user: {tmp_path}/home exists; drive DRIVE of alice is {tmp_path}/home/alice/d-DRIVE": (
            Level.GOOD
        ),
        f"drive_pattern.project: {tmp_path}/file is not a folder that any of alice, bob can reach": Level.WARNING,
    }


def test_a_project_s_drive_by_the_pattern(tmp_path: Path) -> None:
    would = f"DRIVE of PROJECT, for alice, is {tmp_path}/home/PROJECT/alice/DRIVE"
    more = {"drive_pattern": {"project": f"{tmp_path}/home/{{project}}/{{user}}/{{drive}}"}}
    assert found(tmp_path, more) == {f"drive_pattern.project: {tmp_path}/home exists; drive {would}": Level.GOOD}


@pytest.mark.parametrize("asks", [False, True])
def test_ucloud_s_drives(ucloud: Ucloud, tmp_path: Path, *, asks: bool) -> None:
    ucloud.have_drive("77", "alice", folder=f"{tmp_path}/home/alice")
    ucloud.have_drive("78", "bob", folder=f"{tmp_path}/gone")
    ucloud.have_drive("79", "bob", name="h-bob")
    said = found(tmp_path, ucloud.settings(tmp_path, ask_for_drives=asks))
    gone = f"UCloud's drives with folders that any of alice, bob cannot reach: 78 is {tmp_path}/gone"
    nameless = "UCloud's drives with no folder in their provider id: 79; add them to [[drives]], or "
    wanted = {
        f"UCloud's drives have folders here (1 of 3): 77 is {tmp_path}/home/alice": Level.GOOD,
        gone: Level.WARNING,
        f"{nameless}jobs that name them are refused": Level.WARNING,
    }
    assert said == (wanted if asks else {})


def test_drives_that_the_site_finds_by_itself_are_no_problem(ucloud: Ucloud, tmp_path: Path) -> None:
    """UCloud names no folder for a drive that is in [[drives]] or under [drive_pattern]."""
    (tmp_path / "four").mkdir()
    ucloud.have_drive("4", "alice", name="h-alice")
    ucloud.have_drive("5", "bob", name="h-bob")
    ucloud.have_drive("6", "bob", "project", name="h-project")
    more: dict[str, Any] = {"drives": [{"id": "4", "path": f"{tmp_path}/four"}]}
    said = found(tmp_path, ucloud.settings(tmp_path, ask_for_drives=True) | more)
    assert said[f"drive 4 is {tmp_path}/four"] is Level.GOOD
    [warning] = [text for text, level in said.items() if level is Level.WARNING]
    assert "provider id: 6, 5; add them to" in warning
    more["drive_pattern"] = {"user": f"{tmp_path}/home/{{user}}/{{drive}}"}
    said = found(tmp_path, ucloud.settings(tmp_path, ask_for_drives=True) | more)
    [warning] = [text for text, level in said.items() if level is Level.WARNING]
    assert "provider id: 6; add them to" in warning


def test_a_ucloud_without_drives(ucloud: Ucloud, tmp_path: Path) -> None:
    [(text, level)] = found(tmp_path, ucloud.settings(tmp_path, ask_for_drives=True)).items()
    assert (level, "UCloud has no drives of provider example" in text) == (Level.NOTE, True)


def test_a_pattern_that_leaves_nothing_to_ask_for(ucloud: Ucloud, tmp_path: Path) -> None:
    both = {name: f"{tmp_path}/home/{{{name}}}/{{drive}}" for name in ("user", "project")}
    said = found(tmp_path, ucloud.settings(tmp_path, ask_for_drives=True) | {"drive_pattern": both})
    [note] = [text for text, level in said.items() if level is Level.NOTE]
    assert "ucloud.ask_for_drives has no effect" in note
    assert ucloud.calls_to("/api/files/collections/control/browse") == []


def test_a_ucloud_that_does_not_answer(ucloud: Ucloud, tmp_path: Path) -> None:
    ucloud.fail(500, path="/api/files/collections/control/browse")
    said = found(
        tmp_path, ucloud.settings(tmp_path, ask_for_drives=True) | {"drives": [{"id": "1", "path": str(tmp_path)}]}
    )
    assert said[f"drive 1 is {tmp_path}"] is Level.GOOD
    [problem] = [text for text, level in said.items() if level is Level.PROBLEM]
    assert "files/collections/control/browse was answered with 500" in problem


SHELLS = {"folder_shells": True, "url": "https://gateway.example.org"}


@pytest.mark.parametrize("identity", ["sudo", "pattern", "service"])
def test_users_of_shells_in_folders(tmp_path: Path, identity: str) -> None:
    more: dict[str, Any] = {"gateway": SHELLS, "drive_pattern": {"user": f"{tmp_path}/home/{{user}}/{{drive}}"}}
    level, says = Level.NOTE, "Accounts: alice, bob; no other accounts"
    if identity == "pattern":
        more["identity"] = {"users": {"alice": "alice"}, "pattern": "u-{user}"}
        says = "Accounts: alice; others by identity.pattern"
    elif identity == "service":
        more["identity"] = {"mode": "service", "service_user": "alice"}
        level, says = Level.WARNING, "All users share alice, which can"
    said = {text: level for text, level in found(tmp_path, more).items() if text.startswith("gateway.")}
    [(opens, its), (tried, good)] = said.items()
    assert (its, says in opens) == (level, True), opens
    assert "users with access tokens get login shells on the login node" in opens
    assert good is Level.GOOD
    assert tried == f"gateway.folder_shells: alice can have a terminal on {os.uname().nodename}"


@pytest.mark.parametrize(
    ("gateway", "drives", "says"),
    [
        ({"folder_shells": True}, True, ["gateway.url is not set"]),
        (SHELLS, False, ["no drive has a folder"]),
        ({**SHELLS, "folder_shells": False}, True, []),
    ],
)
def test_shells_in_folders_that_are_not_possible(
    tmp_path: Path, gateway: dict[str, Any], says: list[str], *, drives: bool
) -> None:
    table = [{"id": "1", "path": str(tmp_path)}] if drives else []
    said = found(tmp_path, {"gateway": gateway, "drives": table})
    warnings = [text for text, level in said.items() if level is Level.WARNING]
    assert [each in text for each, text in zip(says, warnings, strict=True)] == [True] * len(says)
    assert says or not [text for text in said if text.startswith("gateway.")]


def test_a_login_node_that_gives_no_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shells, "_TERMINAL", "echo 'sorry, not in a terminal'; exit 1")
    said = found(tmp_path, {"gateway": SHELLS, "drives": [{"id": "1", "path": f"{tmp_path}"}]})
    [problem] = [text for text, level in said.items() if level is Level.PROBLEM]
    assert "a shell for alice on the login node failed: sorry, not in a terminal; it needs" in problem
    monkeypatch.setattr(shells, "_TERMINAL", "sleep 60; echo 'a terminal on time.'")
    monkeypatch.setattr(shells, "_TERMINAL_SECONDS", 0.1)
    said = found(tmp_path, {"gateway": SHELLS, "drives": [{"id": "1", "path": f"{tmp_path}"}]})
    [problem] = [text for text, level in said.items() if level is Level.PROBLEM]
    assert "no output" in problem

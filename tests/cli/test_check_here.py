"""`check` finds what is wrong on the adapter's own machine, with the key and the fix."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.cli.check import Finding, Level
from slurm_adapter.cli.check.accounts import check_command_line
from slurm_adapter.cli.check.here import check_here
from slurm_adapter.local.render_process import ConfinedRenderer
from tests.offline import Offline

if TYPE_CHECKING:
    from pathlib import Path


def found(tmp_path: Path, more: dict[str, Any]) -> dict[str, Level]:
    site = Offline(tmp_path, {"gateway": {"port": 0}} | more)
    with site.site:
        findings = [*check_here(site.site), *check_command_line(site.site)]
    return {each.text: each.level for each in findings if "runs as root" not in each.text}


def test_a_problem_of_the_database_is_about_the_key_of_its_folder(tmp_path: Path) -> None:
    site = Offline(tmp_path)
    site.config.state_dir.write_text("no folder", encoding="utf-8")
    with site.site:
        [problem] = [each for each in check_here(site.site) if each.key == ("state_dir",)]
    assert problem.level is Level.PROBLEM
    assert problem.text.startswith(f"state_dir = {site.config.state_dir}: ")


# Files that are there, what the configuration says, and what is found. {p} is the folder of the test.
WRONG: list[tuple[list[str], dict[str, Any], Level, str]] = [
    ([], {"templates": "{p}/tempaltes"}, Level.PROBLEM, 'templates = "{p}/tempaltes": No such file or directory; '),
    (["t/job.sbatch"], {"templates": "{p}/t"}, Level.PROBLEM, 'templates = "{p}/t": has no job.sbatch.j2'),
    (["t/a/job.sbatch.j2"], {"templates": "{p}/t"}, Level.PROBLEM, 'templates = "{p}/t": has no job.sbatch.j2'),
    (
        ["t/job.sbatch.j2"],
        {"templates": "{p}/t"},
        Level.PROBLEM,
        "the script of a job cannot be rendered: {p}/t: job.sbatch.j2, ",
    ),
    (["t"], {"templates": "{p}/t"}, Level.PROBLEM, 'templates = "{p}/t": Not a directory'),
    ([], {"applications": "{p}/none"}, Level.PROBLEM, 'applications = "{p}/none": No such file or directory; '),
    (["a/b/x.yaml"], {"applications": "{p}/a"}, Level.WARNING, 'applications = "{p}/a": has no files *.yaml or *.yml'),
    (["a/x.json"], {"applications": "{p}/a"}, Level.WARNING, 'applications = "{p}/a": has no files'),
    (["a/x.yaml"], {"applications": "{p}/a"}, Level.PROBLEM, "{p}/a/x.yaml:1: "),
    ([], {"jobs": {"lost_after": "00:01:00"}}, Level.WARNING, "jobs.lost_after: 60 s is less than"),
    ([], {"gateway": {"listen": "192.0.2.1"}}, Level.PROBLEM, "gateway.listen: `serve` cannot listen on"),
    ([], {"gateway": {"listen": "127.0.0.1:80"}}, Level.PROBLEM, "gateway.listen: `serve` cannot listen on"),
    (
        [],
        {"gateway": {"port": 0, "web_domain": "app-{job}-{rank}.example.org"}},
        Level.WARNING,
        "gateway.web_domain: web sessions are disabled, because gateway.url is not set",
    ),
    ([], {"command_line": {"user": "alcie"}}, Level.PROBLEM, 'command_line.user = "alcie": this user has no account'),
    (
        [],
        {"drives": [{"id": "1", "path": "/x", "users": ["alice", "bbo"]}]},
        Level.WARNING,
        "drives.0.users: 'bbo' has no account here",
    ),
]


@pytest.mark.parametrize(("files", "more", "level", "says"), WRONG)
def test_what_is_wrong(tmp_path: Path, files: list[str], more: dict[str, Any], level: Level, says: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("echo {{ nonsense")
    said = found(tmp_path, json.loads(json.dumps(more).replace("{p}", str(tmp_path))))
    beginning = says.replace("{p}", str(tmp_path))
    assert [at for text, at in said.items() if text.startswith(beginning)] == [level], said


def test_nothing_is_wrong(tmp_path: Path) -> None:
    assert set(found(tmp_path, {}).values()) == {Level.GOOD}


def test_a_state_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    assert set(found(tmp_path, {}).values()) == {Level.GOOD}
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("key", "content", "mode", "says"), [
    ("key", None, 0o600, "No such file or directory; name a file that the adapter can read"),
    ("key", "x", 0o644, "others can read it (mode 644); chmod 600"),
    ("known_hosts", None, 0o600, "No such file or directory"),
    ("config", None, 0o600, "No such file or directory"),
])  # fmt: skip
def test_files_of_ssh(tmp_path: Path, key: str, content: str | None, mode: int, says: str) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    said = found(tmp_path, {"clusters": {"main": {"transport": "ssh", "ssh": {"host": "h", key: str(path)}}}})
    assert any(text.startswith(f'clusters.main.ssh.{key} = "{path}": {says}') for text in said), said


def test_a_finding_knows_its_key() -> None:
    assert Finding(Level.GOOD, "x").key == ()


@pytest.mark.parametrize(
    ("walls", "allowed", "level", "said"),
    [
        (
            ({"seccomp": "x", "Landlock": "ABI 7"}, {}),
            False,
            Level.GOOD,
            "confined by seccomp (x) and Landlock (ABI 7)",
        ),
        (
            ({"seccomp": "x"}, {"Landlock": "Function not implemented"}),
            False,
            Level.GOOD,
            "confined by seccomp (x); this machine lacks Landlock (Function not implemented)",
        ),
        (({}, {"seccomp": "no such library"}), False, Level.PROBLEM, "(no such library). Install libseccomp 2"),
        (
            ({}, {"seccomp": "no such library"}),
            True,
            Level.WARNING,
            "limits alone; this machine lacks seccomp (no such",
        ),
    ],
)
def test_what_confines_the_renderer_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    walls: tuple[dict[str, str], dict[str, str]],
    allowed: bool,  # noqa: FBT001  # pytest passes it by name
    level: Level,
    said: str,
) -> None:
    monkeypatch.setattr(ConfinedRenderer, "restrictions", lambda _: walls)
    findings = found(tmp_path, {"jobs": {"allow_unconfined": allowed}})
    assert [how for text, how in findings.items() if said in text] == [level]


def test_blocked_jobs_of_accounts_are_reported(tmp_path: Path) -> None:
    """`sync` sends no mail about it."""
    site = Offline(tmp_path, {"gateway": {"port": 0}})
    for_her, also_for_her = site.submit(site.item(), site.item())
    for_him = site.job(user="bob")
    site.site.store.note_trouble({job.slurm_name: f"{job.id}\x1b[2J is gone\nmore" for job in (for_her, also_for_her)})
    notes = [each.text for each in check_here(site.site) if "is blocked" in each.text]
    [note] = notes
    assert note.startswith(f"alice: job {also_for_her.id} and 1 more is blocked: {also_for_her.id}")
    assert note.endswith(f"is gone; see `slurm-adapter show {also_for_her.id}`")
    assert "\x1b" not in note
    site.site.store.note_trouble({for_him.slurm_name: "x", for_her.slurm_name: ""})
    assert len(site.site.store.troubled()) == 2


def test_warnings_of_application_files_are_shown(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    text = 'application: v2\nname: x\nversion: "1"\nmodul: y\nsoftware: {type: Native}\ninvocation: "true"\n'
    (tmp_path / "a" / "x.yaml").write_text(text)
    said = found(tmp_path, {"applications": str(tmp_path / "a")})
    assert [at for line, at in said.items() if line.startswith(f"{tmp_path}/a/x.yaml:4: modul: ")] == [Level.WARNING]

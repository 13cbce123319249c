"""The sudo helper starts the adapter's own commands, and nothing else."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.cli.check.helper import check_helper
from slurm_adapter.cli.sudo_helper import SCRIPTS, render
from slurm_adapter.cluster.archive import archive
from slurm_adapter.cluster.path_check import check_paths_command
from slurm_adapter.cluster.schedulers import sbatch
from slurm_adapter.cluster.transports.frame import Frame
from slurm_adapter.cluster.transports.interface import Command, NotConnected, Result, Terminal
from slurm_adapter.cluster.transports.sudo import check_sudo_started
from slurm_adapter.jobs import cancel, logs, shells
from slurm_adapter.translation.drives import DrivePath
from tests.offline import Offline, peer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ID = """#!/bin/sh
case "$1 $3" in
    "-u ") echo "${TEST_UID:-7701}" ;;
    "-u alice") echo 7701 ;;
    *) exit 1 ;;
esac
"""
PATH = "/usr/local/bin:/usr/bin:/bin"


class Helper:
    """The helper of a site, which prints the command instead of starting it."""

    def __init__(self, folder: Path) -> None:
        self.site = Offline(folder, {"clusters": {"main": {"path": PATH}}})
        (folder / "stub").mkdir()
        (folder / "stub" / "id").write_text(ID)
        (folder / "stub" / "id").chmod(0o755)
        text = render(self.site.config)
        for old, new in ((f"PATH={PATH}\nunset", f"PATH={folder}/stub:{PATH}\nunset"), ('exec "$@"', "echo allowed")):
            assert text.count(old) == 1
            text = text.replace(old, new)
        self.path = folder / "helper"
        self.path.write_text(text)

    def ask(self, words: Sequence[str], shell: str = "/bin/sh", **environment: str) -> str:
        """What the helper says to a command line."""
        done = subprocess.run(
            [shell, self.path, *words], capture_output=True, text=True, timeout=30, check=False, env=environment
        )
        assert (done.returncode == 0) == (done.stdout == "allowed\n")
        return done.stdout + done.stderr

    def run(self, command: Command, **environment: str) -> str:
        """The same to a command of the adapter that runs to its end."""
        return self.ask(Frame(command).words[5:], **environment)

    def as_alice(self, *argv: str, environment: tuple[str, ...] | None = None) -> str:
        """The same to a command as alice."""
        return self.run(Command(argv, user="alice", environment=environment))


@pytest.fixture
def helper(tmp_path: Path) -> Helper:
    return Helper(tmp_path)


def test_every_command_for_a_job_is_started(helper: Helper) -> None:
    site = helper.site
    server = site.run(site.job())
    consumer = site.run(site.job(resources=[peer("db", server)]))
    (site.folder / "home" / "alice" / server.id / "stdout.txt").write_text("said")
    list(logs.read(site.site, server))
    logs.read_round(site.site, server, {"stdout.txt": 2, "stderr-1.txt": 0})
    cancel.cancel(site.site, [consumer.id])
    for record in (server, consumer):
        site.record_exit(record, 0)
        site.slurm.finish(site.slurm_id(record))
    site.sync()
    commands = [command for command in site.transport.commands if command.user is not None]
    paths = [DrivePath("field", "/1/a", "/drive/a", "/drive", read_only=False, kind="any")]
    clean = (f"PATH={PATH}", "LC_ALL=C.UTF-8")
    commands += [
        check_paths_command(paths, "alice"),
        Command(sbatch.submit_argv(1.5e9, 3, 0.5), user="alice", environment=clean),
        Command(("scancel", "17"), user="alice", environment=clean),
        Command(("id", "-un"), user="alice"),
    ]
    seen = {name for name, script in SCRIPTS.items() if any(script in command.argv for command in commands)}
    assert seen >= {"make", "free", "look", "close", "logs", "submit"}
    for shell in ("/bin/sh", "bash"):
        assert {helper.ask(Frame(command).words[5:], shell) for command in commands} == {"allowed\n"}


def test_shells_and_commands_on_nodes_are_started(helper: Helper) -> None:
    site = helper.site
    record = site.run(site.job())
    opened: list[Command] = []

    def note(command: Command) -> None:
        opened.append(command)
        raise NotConnected("noted")

    site.transport.before = note
    with pytest.raises(NotConnected):
        shells.open_shell(site.site, record, 0, Terminal())
    with pytest.raises(NotConnected):
        shells.open_watcher(site.site, record, 0, SCRIPTS["watch_node"])
    path = DrivePath("field", "/1/a", "/drive/a", "/drive", read_only=False, kind="any")
    with pytest.raises(NotConnected):
        shells.open_in_folder(site.site, "alice", path, Terminal())
    assert [helper.ask(command.words[5:]).strip() for command in opened[:2]] == ["allowed"] * 2
    assert "folder_shells is not set" in helper.ask(opened[2].words[5:])
    attach = list(opened[0].words[5:])
    for at, value in ((4, f"/tmp:{PATH}"), (5, "/tmp/slurm.conf"), (6, "1 --prolog=/tmp/x"), (9, "--prolog=/tmp/x")):
        changed = [*attach]
        changed[at] = value
        assert "refused" in helper.ask(changed)
    watch = list(opened[1].words[5:])
    assert "refused" in helper.ask([*watch[:8], "id"])


ATTACKS = {
    "a shell": ("/bin/sh", "-c", "id"),
    "a script of another": ("/bin/sh", "-c", SCRIPTS["look"] + "id", "sh"),
    "another shell": ("/bin/bash", "-c", SCRIPTS["look"], "sh"),
    "a program": ("cat", "/etc/passwd"),
    "a program by xargs": ("xargs", "-0", "-r", "sh", "-c", "id", "sh"),
    "options of xargs": ("xargs", "-a", "/etc/passwd", "-r", "sh", "-c", SCRIPTS["paths"], "sh"),
    "options of id": ("id", "-un", "root"),
    "what sbatch's script runs": ("/bin/sh", "-c", SCRIPTS["submit"], "sh", "1", "id", "8", "1", ""),
    "arithmetic that runs something": (
        "/bin/sh", "-c", SCRIPTS["submit"], "sh", "a[$(id)]", SCRIPTS["submit_some"], "8", "1", "",
    ),
    "arithmetic of free": ("/bin/sh", "-c", SCRIPTS["free"], "sh", "a[$(id)]", "1", "/x"),
    "arithmetic of look": ("/bin/sh", "-c", SCRIPTS["look"], "sh", "a[$(id)]"),
    "arithmetic of logs": ("/bin/sh", "-c", SCRIPTS["logs"], "sh", "FOLDER/1", "a[$(id)]"),
    "a folder of nobody's jobs": ("/bin/sh", "-c", SCRIPTS["make"], "sh", "/home/alice/.ssh", ""),
    "a folder above": ("/bin/sh", "-c", SCRIPTS["make"], "sh", "FOLDER/..", ""),
    "an option of tar": ("/bin/sh", "-c", SCRIPTS["make"], "sh", "FOLDER", "--to-command=id"),
    "logs of elsewhere": ("/bin/sh", "-c", SCRIPTS["logs"], "sh", "/etc", "10"),
    "logs above": ("/bin/sh", "-c", SCRIPTS["logs"], "sh", "FOLDER/..", "10"),
    "another file": ("/bin/sh", "-c", SCRIPTS["views"], "sh", "../.bashrc"),
    "a script for shells": ("/bin/sh", "-c", SCRIPTS["enter"], "sh", PATH, "", "/", "/"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_what_is_not_the_adapters_is_refused(helper: Helper, name: str) -> None:
    folder = f"{helper.site.folder}/home/alice"
    argv = tuple(word.replace("FOLDER", folder) for word in ATTACKS[name])
    assert "slurm-adapter-helper: refused: " in helper.as_alice(*argv)
    assert "refused" in helper.ask(argv)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_no_argument_of_a_script_is_run_by_arithmetic(helper: Helper, name: str) -> None:
    """Bash, which is /bin/sh on many systems, executes text in brackets in an arithmetic expression."""
    ran = helper.path.with_name("ran")
    folder = helper.path.with_name("job")
    folder.mkdir()
    (folder / "exit-1.json").write_text("{}")
    hostile = f"a[$(echo >{ran})]"
    for count in range(1, 6):
        argv = ("/bin/sh", "-c", SCRIPTS[name], "sh", *[hostile] * count)
        if helper.as_alice(*argv) != "allowed\n" and helper.ask(argv) != "allowed\n":
            continue
        for fields in (f"5\t{folder}", f"{hostile}\t{folder}", f"{hostile}\t{hostile}"):
            subprocess.run(
                ["bash", "-p", *argv[1:]], input=f"{fields}\n".encode(), capture_output=True, timeout=30, check=False
            )
    assert not ran.exists()


def test_no_archive_makes_a_folder_elsewhere_and_no_token_removes_one(tmp_path: Path) -> None:
    """The helper checks arguments only. Standard input must not write outside the folder of jobs."""
    jobs_folder, other = tmp_path / "jobs", tmp_path / "other"
    for folder in (jobs_folder, other):
        folder.mkdir()
    hostile = {
        "jobs": (None, 0o700),
        "jobs/.ucloud-gone.x": (None, 0o700),
        ".ssh": (None, 0o700),
        ".ssh/authorized_keys": (b"key", 0o600),
        "list": (b"0\tx\t.ucloud-gone.x\n1\tx\t../.ssh\n", 0o600),
    }
    calls = [
        (("make", str(jobs_folder), ""), archive(hostile)),
        (("remove",), f"x/../../other\t{jobs_folder}/1\n".encode()),
    ]
    for (name, *arguments), given in calls:
        subprocess.run(
            ["/bin/sh", "-c", SCRIPTS[name], "sh", *arguments], input=given, capture_output=True, timeout=30, check=True
        )
    assert (jobs_folder / ".ucloud-gone.x").is_dir()
    assert not (tmp_path / ".ssh").exists()
    assert other.is_dir()


@pytest.mark.parametrize(
    "variable", ["LD_PRELOAD=/tmp/x.so", "PATH=/tmp", f"PATH=/tmp:{PATH}", "SLURM_CONF=/tmp/x", "BASH_ENV=/tmp/x"]
)
def test_a_variable_that_decides_what_runs_is_refused(helper: Helper, variable: str) -> None:
    assert helper.as_alice("scancel", "17", environment=(f"PATH={PATH}",)) == "allowed\n"
    assert "refused" in helper.as_alice("scancel", "17", environment=(variable,))


def test_accounts_that_are_not_users_are_refused(helper: Helper) -> None:
    command = Command(("id", "-un"), user="alice")
    assert "below 1000" in helper.run(command, TEST_UID="999")
    assert "below 1000" in helper.run(command, TEST_UID="0")
    assert "nobody" in helper.run(command, TEST_UID="65534")
    assert "adapter's own" in helper.run(command, SUDO_UID="7701")
    assert "alice is not the account" in helper.run(command, TEST_UID="7702")


def test_a_refusal_says_what_to_install() -> None:
    said = Result(1, b"", b"slurm-adapter-helper: refused: this command line\n")
    with pytest.raises(NotConnected, match="slurm-adapter sudo-helper"):
        check_sudo_started(Command(("id",), user="alice", helper="/helper"), said)
    rule = Result(1, b"", b"sudo: a password is required\n")
    with pytest.raises(NotConnected, match=r"ADAPTER ALL=\(alice\) NOPASSWD: /helper`"):
        check_sudo_started(Command(("id",), user="alice", helper="/helper"), rule)


def test_check_compares_the_helper(tmp_path: Path) -> None:
    path = tmp_path / "helper"
    identity = {"users": {"alice": "alice"}, "sudo_helper": str(path)}
    site = Offline(tmp_path, {"identity": identity})
    [missing] = check_helper(site.site)
    assert ("cannot be read" in missing.text, missing.key) == (True, ("identity", "sudo_helper"))
    path.write_text(render(site.config))
    path.chmod(0o775)
    assert "must belong to root" in next(check_helper(site.site)).text

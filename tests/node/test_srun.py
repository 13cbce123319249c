"""The `srun` that an application finds first in PATH: what it makes of a command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slurm_adapter.local.template_folder import packaged_templates

REAL = '#!/bin/sh\nfor word do printf "%s\\0" "$word"; done\n'


@pytest.fixture(params=["dash", "bash"])
def shell(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job's folder with an odd name, and a real srun that prints its words."""
    folder = tmp_path / 'it\'s a "job" $x'
    (folder / "node").mkdir(parents=True)
    shutil.copy(packaged_templates() / "node" / "srun", folder / "node" / "srun")
    (folder / "node" / "join.sh").touch()
    real = tmp_path / "bin" / "srun"
    real.parent.mkdir()
    real.write_text(REAL)
    real.chmod(0o755)
    return folder


def run(shell: str, folder: Path, *words: str, **environment: str) -> tuple[list[str], str]:
    """Return the arguments of the real srun, and the log."""
    path = f"{folder}/node:{folder.parent}/bin:{os.environ['PATH']}"
    done = subprocess.run(
        [shell, f"{folder}/node/srun", *words],
        capture_output=True,
        env={"PATH": path, "SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "2", **environment},
        check=True,
        timeout=20,
    )
    return done.stdout.decode().split("\0")[:-1], done.stderr.decode()


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-N2"],
        ["-N", "2", "-n", "4"],
        ["-lN2"],
        ["-lN", "2"],
        ["-K"],
        ["-K1"],
        ["-I5"],
        ["--nodes=2", "--ntasks=4", "--export=NONE"],
        ["--nodes", "2", "--cpu-bind", "cores"],
        ["--cpu-bind=map_cpu:0,1", "--mpi=pmi2", "--pty"],
        ["--exclusive", "--overlap", "--exclusive=user"],
        ["--kill-on-bad-exit", "--kill-on-bad-exit=1"],
        ["-w", "node001,node002", "--chdir", "/a folder"],
        ["-o", "out file-%t", "-e", "-odd"],
        ["-D/tmp", "-J", "a name", "-uQv"],
        ["--gres", "gpu:1"],
        ["--"],
        ["-n1", "--"],
        ["--ntasks-per-n=1", "--nodel", "node001", "--overl"],  # getopt takes a beginning that is one option's
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("command", [["hostname"], ["./a b", "-N", "9", "--pty", ""], ["sh", "-c", "echo $x; 'y'\n"]])
def test_the_join_stands_before_the_command(shell: str, folder: Path, options: list[str], command: list[str]) -> None:
    words, log = run(shell, folder, *options, *command)
    assert words == [*options, "/bin/bash", "-p", f"{folder}/node/join.sh", "--run", "17-2", *command]
    assert log == ""


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--multi-prog", "programs.conf"], "--multi-prog"),
        (["--sites-own-option=1", "hostname"], "--sites-own-option=1 is not known"),
        (["--no", "2", "hostname"], "--no is not known"),  # --nodes, or --no-kill
        (["--bcast=/tmp/x", "hostname"], "--bcast"),
        (["-y", "hostname"], "-y is not known"),
        (["-N"], "lacks its value"),
        (["-N", "2"], "no command"),
        (["--nodes"], "lacks its value"),
        (["--container=/image", "hostname"], "container"),
        (["--het-group=0,1", "hostname"], "heterogeneous"),
        (["-n1", "hostname", ":", "-n1", "date"], "several components"),
    ],
)
def test_an_unreadable_command_line_is_run_unchanged_with_a_message(
    shell: str, folder: Path, words: list[str], why: str
) -> None:
    seen, log = run(shell, folder, *words)
    assert seen == words
    assert log.startswith("slurm-adapter: srun is run without the job's names: ")
    assert why in log
    assert log.count("\n") == 1


def test_each_reason_is_reported_once_in_a_job(shell: str, folder: Path) -> None:
    logs = [run(shell, folder, *words)[1] for words in (["-y", "a"], ["-y", "b"], ["-n1", "a", ":", "b"], ["-y", "c"])]
    assert [log.count("\n") for log in logs] == [1, 0, 1, 0]


@pytest.mark.parametrize("name", ["SLURM_BCAST", "SLURM_CONTAINER"])
def test_what_the_environment_asks_of_srun_counts(shell: str, folder: Path, name: str) -> None:
    words, log = run(shell, folder, "hostname", **{name: "/somewhere"})
    assert words == ["hostname"]
    assert "files of its own" in log


def test_jobs_within_jobs_find_the_real_srun(shell: str, folder: Path) -> None:
    outer = folder.parent / "outer" / "node"
    shutil.copytree(folder / "node", outer)
    for place in (outer, folder / "node"):
        (place / "join.sh").touch()
    path = f"{folder}/node:{outer}:{folder.parent}/bin:{os.environ['PATH']}"
    for place in (folder / "node", outer):
        done = subprocess.run(
            [shell, f"{place}/srun", "-N2", "a"], capture_output=True, env={"PATH": path}, check=True, timeout=20
        )
        assert done.stdout.split(b"\0")[:1] == [b"-N2"]


@pytest.mark.parametrize("word", ["--help", "--version", "-V", "--usage"])
def test_questions_to_srun_itself_are_passed_on(shell: str, folder: Path, word: str) -> None:
    assert run(shell, folder, word) == ([word], "")


def test_a_missing_srun_is_reported(shell: str, folder: Path) -> None:
    tools = folder.parent / "tools"
    tools.mkdir()
    for name in ("dirname", "sh"):
        (tools / name).symlink_to(shutil.which(name) or "")
    shell_path = shutil.which(shell) or ""
    done = subprocess.run(
        [shell_path, f"{folder}/node/srun", "hostname"],
        capture_output=True,
        env={"PATH": f"{folder}/node:{tools}"},
        check=False,
        timeout=20,
    )
    assert done.returncode == 127
    assert b"srun: not found in PATH" in done.stderr


def test_the_shell_files_are_clean() -> None:
    folder = packaged_templates() / "node"
    done = subprocess.run(
        ["shellcheck", *sorted(map(str, folder.iterdir()))],
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert done.stdout.decode() == ""

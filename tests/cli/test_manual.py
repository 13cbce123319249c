"""The documentation that comes with the program: pages, example configuration, man page, shell completion."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from slurm_adapter.cli.main import cli
from tests.cli.test_cli import run
from tests.offline import Offline, offline
from tests.wheel import install_wheel

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

__all__ = ["offline", "run"]

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "slurm_adapter" / "docs").glob("*.md"))
MAN_PAGE = ROOT / ".packaging" / "slurm-adapter.1"
PROGRAM = (sys.executable, "-m", "slurm_adapter")


def test_topics_are_listed_with_their_titles() -> None:
    lines = CliRunner().invoke(cli, ["docs"]).stdout.splitlines()
    assert lines[0].split() == ["TOPIC", "TITLE"]
    assert [line.split()[0] for line in lines[1:]] == [page.stem for page in PAGES]
    for page, line in zip(PAGES, lines[1:], strict=True):
        assert page.read_text(encoding="utf-8").startswith(f"# {line.split(maxsplit=1)[1]}\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_plain_text_if_the_output_is_piped(page: Path) -> None:
    assert CliRunner().invoke(cli, ["docs", page.stem]).stdout == page.read_text(encoding="utf-8")


def test_a_page_goes_through_the_pager_on_a_terminal(tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\necho paged; cat\n")
    pager.chmod(0o755)
    controller, terminal = pty.openpty()
    environment = {**os.environ, "PAGER": str(pager), "TERM": "xterm"}
    command = [*PROGRAM, "docs", "peers"]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        seen = b""
        try:
            while piece := os.read(controller, 4096):
                seen += piece
        except OSError:  # Linux: the terminal has no writer left
            pass
    os.close(controller)
    assert process.returncode == 0
    assert seen.startswith(b"paged\r\n# Peers")


def test_an_unknown_topic_is_refused_with_the_known_ones() -> None:
    result = CliRunner().invoke(cli, ["docs", "nonsense"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "there is no topic 'nonsense'; the topics are architecture, " in result.stderr


def test_the_example_configuration_is_the_annotated_one() -> None:
    example = (ROOT / "config.example.toml").read_text(encoding="utf-8")
    assert CliRunner().invoke(cli, ["config", "example"]).stdout == example


def test_the_man_page_is_that_of_the_commands() -> None:
    command = [sys.executable, str(ROOT / ".ci" / "man_page.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    fix = f"run `.ci/man_page.py >{MAN_PAGE.relative_to(ROOT)}`"
    assert MAN_PAGE.read_text(encoding="utf-8") == done.stdout, fix


def test_man_shows_the_page_without_a_warning() -> None:
    if not shutil.which("man"):
        pytest.skip("no man(1) here")
    environment = {**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8"}
    command = ["man", "--warnings", "--local-file", str(MAN_PAGE)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    for words in ("slurm-adapter - run UCloud jobs", "slurm-adapter token create [OPTIONS] NAME", "--allow-mass-end"):
        assert words in done.stdout


COMPLETE = """
eval "$({program} completion bash)"
COMP_WORDS=({words}) COMP_CWORD={last} COMPREPLY=()
_slurm_adapter_completion {program}
echo "${{COMPREPLY[@]}}"
"""


def complete(*words: str, program: str, **environment: str) -> list[str]:
    """Return what bash offers for the last word."""
    shown = " ".join(word or "''" for word in ("slurm-adapter", *words))
    script = COMPLETE.format(program=program, words=shown, last=len(words))
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def program(tmp_path: Path) -> str:
    """Return a program that runs the command line of this checkout."""
    path = tmp_path / "slurm-adapter"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m slurm_adapter "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_bash_completes_commands_topics_and_options(program: str) -> None:
    assert complete("su", program=program) == ["submit", "sudo-helper", "suspend"]
    assert complete("docs", "sec", program=program) == ["security"]
    assert complete("sync", "--al", program=program) == ["--allow-mass-end"]


def test_bash_completes_ids_of_active_jobs(program: str, run: Callable[..., Result], offline: Offline) -> None:
    jobs = [offline.job().id for _ in range(3)]
    offline.run(offline.site.store.get(jobs[1]))
    run("cancel", jobs[2])
    run("sync")
    config = {"SLURM_ADAPTER_CONFIG": str(offline.folder / "config.toml")}
    assert sorted(complete("logs", "", program=program, **config)) == jobs[:2]
    assert complete("cancel", jobs[0], "", program=program, **config) == [jobs[1]]
    assert complete("show", "9", program=program, **config) == []


def test_completion_makes_no_database_and_no_noise(program: str, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("provider = 3\n")
    assert complete("logs", "", program=program, SLURM_ADAPTER_CONFIG=str(config)) == []
    config.write_text((ROOT / "config.example.toml").read_text().replace("/var/lib/slurm-adapter", f"{tmp_path}/state"))
    assert complete("logs", "", program=program, SLURM_ADAPTER_CONFIG=str(config)) == []
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_accepts_its_script(shell: str) -> None:
    script = CliRunner().invoke(cli, ["completion", shell]).stdout
    assert "_SLURM_ADAPTER_COMPLETE" in script
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    subprocess.run([shell, "-n"], input=script, text=True, timeout=60, check=True)


def test_an_installed_wheel_has_all_of_it(tmp_path: Path) -> None:
    prefix = install_wheel(tmp_path)
    program = prefix / "bin" / "slurm-adapter"

    def output(*words: str) -> str:
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=60, check=True, cwd="/")
        return done.stdout

    assert [line.split()[0] for line in output("docs").splitlines()[1:]] == [page.stem for page in PAGES]
    assert output("docs", "security") == (ROOT / "slurm_adapter/docs/security.md").read_text(encoding="utf-8")
    assert output("config", "example") == (ROOT / "config.example.toml").read_text(encoding="utf-8")
    assert complete("docs", "sec", program=str(program)) == ["security"]
    installed = prefix / "share" / "man" / "man1" / "slurm-adapter.1"
    assert installed.read_text(encoding="utf-8") == MAN_PAGE.read_text(encoding="utf-8")

"""The lint for plain English: what it reads, and what it fails for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def english() -> ModuleType:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("english", ROOT / ".ci" / "english.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["english"] = module
    spec.loader.exec_module(module)
    return module


class Project:
    """A project of the few files that a test writes."""

    def __init__(self, english: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.english, self.root, self.capsys = english, root, capsys
        for folder in ("slurm_adapter/docs", "templates"):
            (root / folder).mkdir(parents=True)
        for file in ("README.md", "config.example.toml"):
            (root / file).touch()

    def lint(self, file: str, text: str, *arguments: str) -> tuple[int, list[str]]:
        """Return the exit code and the findings."""
        (self.root / file).write_text(text, encoding="utf-8")
        code = self.english.main(list(arguments), self.root)
        return code, [
            line for line in self.capsys.readouterr().out.splitlines() if line.startswith((f"{file}:", ".ci/"))
        ]


@pytest.fixture
def project(english: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Project:
    return Project(english, tmp_path, capsys)


PLAIN = '''"""Submit jobs to Slurm."""

# The tail of the log is enough, because messages end it.
NAME = f"job {3}: {4} is cancelled"
'''


def test_plain_text_passes(project: Project) -> None:
    assert project.lint("slurm_adapter/plain.py", PLAIN) == (0, [])


@pytest.mark.parametrize(
    ("code", "line", "phrase"),
    [
        ('x = 1\n"""Return the user,\nwhom the job belongs to."""\n', 3, "whom"),
        ("x = 1  # the job is handed\n       # over\n", 1, "handed over"),
        ("# The list is read\n# in vain if nobody waits.\n", 2, "in vain"),
        ("# Nobody waits in\n# vain for it.\n", 1, "in vain"),
        ('raise X("a job", "it runs no more")\n', 1, "no more"),
        ('raise X(f"{job}: is no error, {why}")\n', 1, "is no error"),
        ("# Asks whether he may.\n", 1, "he"),
        ("# Besides, it is slow.\n", 1, "Besides"),
        ("# As D11 says.\n", 1, "D11"),
        ("# See contract 3.2 for it.\n", 1, "contract 3.2"),
    ],
)
def test_a_banned_phrase_is_found_on_its_line(project: Project, code: str, line: int, phrase: str) -> None:
    status, found = project.lint("slurm_adapter/bad.py", code)
    assert status == 1
    [finding] = found
    assert finding.startswith(f"slurm_adapter/bad.py:{line}: {phrase!r}: ")


@pytest.mark.parametrize(
    "text",
    [
        'WORD = "besides"\n',  # one word is a name, not a message
        "# Run `scontrol told whom` again.\n",
        "# no more than two at a time; THE HE of one\n",
        "import he  # noqa: BESIDES\n",
        '"SELECT a FROM b WHERE c"\n',
    ],
)
def test_names_code_and_other_meanings_are_left_alone(project: Project, text: str) -> None:
    assert project.lint("slurm_adapter/good.py", text) == (0, [])


def test_words_are_allowed_up_to_a_frequency(project: Project) -> None:
    often = "# It was told so.\n" + "# A job runs on a node of the cluster.\n" * 300
    assert project.lint("slurm_adapter/often.py", often) == (0, [])
    seldom = often + "# It was told so, and told again.\n"
    status, found = project.lint("slurm_adapter/often.py", seldom)
    assert status == 1
    assert [line.split(":")[1] for line in found] == ["1", "302"]
    assert project.lint("slurm_adapter/often.py", often, "--report")[1] == [found[0]]


def test_a_few_docstrings_may_begin_with_what(project: Project) -> None:
    docstrings = [f'A{n} = 1\n"""What the job has."""\n' for n in range(20)]
    assert project.lint("slurm_adapter/opening.py", "".join(docstrings[:19])) == (0, [])
    status, found = project.lint("slurm_adapter/opening.py", "".join(docstrings))
    assert (status, len(found)) == (1, 20)


def test_scripts_and_toml_are_read(project: Project) -> None:
    script = '#!/bin/sh\necho "$x: whoever asks" # besides\n'
    assert [line.split(": ")[1] for line in project.lint("templates/x.sh", script)[1]] == ["'besides'", "'whoever'"]
    assert project.lint("config.example.toml", 'a = "b" # in peace\n')[0] == 1


def test_a_page_is_read_without_its_code_blocks(project: Project) -> None:
    page = "# Title\n\n```\nin vain\n```\n\nIt waits <!-- in vain --> `in vain`.\n\n- It waits in\n  vain.\n"
    assert project.lint("slurm_adapter/docs/page.md", page) == (
        1,
        ['slurm_adapter/docs/page.md:9: \'in vain\': use "without success", "failed"'],
    )


def test_a_paragraph_is_short_and_each_item_of_a_list_is_one(project: Project) -> None:
    words = "word " * 60
    assert project.lint("README.md", f"{words}\n\n- {words[5:]}\n- {words[5:]}\n\n| {words * 2} |\n") == (0, [])
    assert project.lint("README.md", f"ok\n\n{words}\nmore\n") == (
        1,
        ["README.md:3: a paragraph of 61 words; use at most 60"],
    )


def test_the_help_of_a_command_fits_in_its_line(project: Project) -> None:
    command = '@cli.command("x")\n@option\ndef x() -> None:\n    """{}"""\n\n\ndef y() -> None:\n    """{}"""\n'
    fits, long = "Show a job. " + "More of it. " * 9, "Show a job " * 6
    assert project.lint("slurm_adapter/x.py", command.format(fits, long)) == (0, [])
    status, found = project.lint("slurm_adapter/x.py", command.format(long, fits))
    assert (status, found) == (1, [f"slurm_adapter/x.py:4: {long.strip()!r} has 65 characters; use at most 60"])


def test_an_exception_allows_a_phrase_and_is_removed_with_it(
    project: Project, english: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: dict[Any, str] = {("slurm_adapter/quoted.py", "in vain"): "a message of Slurm"}
    monkeypatch.setattr(english, "EXCEPTIONS", allowed)
    assert project.lint("slurm_adapter/quoted.py", "# It says: asked in vain.\n") == (0, [])
    status, found = project.lint("slurm_adapter/quoted.py", "# It says nothing.\n")
    assert (status, len(found)) == (1, 1)
    assert "does not contain 'in vain'" in found[0]


def test_a_report_counts_per_package_and_does_not_fail(project: Project) -> None:
    (project.root / "slurm_adapter" / "core").mkdir()
    project.lint("slurm_adapter/core/x.py", "# It is told in vain.\n")
    assert project.english.main(["--report", "slurm_adapter/jobs"], project.root) == 0
    lines = project.capsys.readouterr().out.splitlines()
    assert not any("slurm_adapter/core" in line for line in lines)
    assert project.english.main(["--report", "slurm_adapter/core"], project.root) == 0
    lines = project.capsys.readouterr().out.splitlines()
    assert [line.split(":")[1] for line in lines if line.startswith("slurm_adapter/core/x.py")] == ["1", "1"]
    [counted] = [line.split() for line in lines if line.startswith("slurm_adapter/core ")]
    assert counted[1:] == ["5", "1", "0", "0", "0", "1", "0", "0", "0"]

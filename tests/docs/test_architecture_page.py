"""The architecture page names files and functions that exist, and its drawing is that of the import contract."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "slurm_adapter" / "docs" / "architecture.md").read_text(encoding="utf-8")

STEPS = re.findall(r"^\| (\d+)\. [^|]+ \| `([\w./]+)`(?: \| `(\w+)`)? \|$", PAGE, re.MULTILINE)
"""Number, file and function of each step in the walk of one job."""


def test_the_walk_has_all_its_steps() -> None:
    assert [int(number) for number, _, _ in STEPS] == list(range(1, len(STEPS) + 1))
    assert len(STEPS) > 30


@pytest.mark.parametrize(("number", "file", "function"), STEPS)
def test_each_step_names_a_file_and_a_function_that_exist(number: str, file: str, function: str) -> None:
    path = ROOT / file
    assert path.is_file(), f"step {number} names {file}"
    if path.suffix != ".py":
        assert not function
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    defined = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    assert function in defined, f"step {number} names {function} in {file}"


def test_every_path_that_it_names_exists() -> None:
    named = re.findall(r"`((?:slurm_adapter|tests|templates|\.ci)/[\w./-]*|[\w.]+\.(?:toml|md))`", PAGE)
    assert len(named) > 50
    for path in named:
        assert (ROOT / path).exists(), path


def drawn_levels() -> list[set[str]]:
    """Return the parts on each level of the drawing, the highest first."""
    drawing = re.search(r"<!-- layers -->\n```\n(.*?)```", PAGE, re.DOTALL)
    assert drawing
    return [set(line.split()[1:]) for line in drawing[1].splitlines() if re.match(r" *\d", line)]


def test_the_drawing_is_that_of_the_import_contract() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    [layers] = [contract["layers"] for contract in settings["contracts"] if contract["id"] == "layers"]
    assert drawn_levels() == [set(re.split(r" *[|:] *", level)) for level in layers]


def test_every_part_is_drawn_and_explained() -> None:
    package = ROOT / "slurm_adapter"
    parts = {path.parent.name for path in package.glob("*/__init__.py")}
    parts |= {path.stem for path in package.glob("[a-z]*.py")}
    explained = set(re.findall(r"^\| `(\w+)` \| [^|]+ \|$", PAGE.partition("## One job")[0], re.MULTILINE))
    assert explained == parts
    assert set().union(*drawn_levels()) == parts - {"sandbox"}

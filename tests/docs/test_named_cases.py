"""Every edge case, and every acceptance scenario of jobs and their states, is named by a test that shows it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent.parent / "slurm_adapter" / "docs"
EDGE_CASES = set(range(1, 26))
SCENARIOS = {*range(24, 28), *range(48, 53), *range(55, 64), *range(70, 73), *range(86, 89), 91}


def named(mark: str, calls: list[ast.Call]) -> set[int]:
    """The numbers in all `pytest.mark.<mark>(...)` on tests, on rows of their tables, and on whole modules."""
    return {
        int(ast.literal_eval(number))
        for call in calls
        if ast.unparse(call.func) == f"pytest.mark.{mark}"
        for number in call.args
    }


def calls_in(source: str) -> list[ast.Call]:
    """Return the calls of an attribute in a module."""
    nodes = ast.walk(ast.parse(source))
    return [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]


@cache
def calls() -> list[ast.Call]:
    """Return the calls of marks in all tests. Reading all files takes about a second."""
    tests = Path(__file__).parents[1]
    files = [path.read_text() for path in sorted(tests.rglob("test_*.py")) if path != Path(__file__)]
    return [call for text in files for call in calls_in(text) if ast.unparse(call.func).startswith("pytest.mark.")]


@pytest.mark.parametrize(("mark", "wanted"), [("edge_case", EDGE_CASES), ("scenario", SCENARIOS)])
def test_every_case_is_named_by_a_test(mark: str, wanted: set[int]) -> None:
    missing = wanted - named(mark, calls())
    assert not missing, f"no test says that it shows {mark} {', '.join(map(str, sorted(missing)))}"


def test_a_number_that_is_no_edge_case_is_a_mistake() -> None:
    assert named("edge_case", calls()) <= EDGE_CASES
    assert named("scenario", calls()) <= set(range(1, 92))


def test_the_documentation_explains_every_case() -> None:
    cases = re.findall(r"^(\d+)\. \*\*", (DOCS / "design.md").read_text(encoding="utf-8"), re.MULTILINE)
    scenarios = re.findall(r"^\| (\d+) \|", (DOCS / "ucloud.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(number) for number in cases] == sorted(EDGE_CASES)
    assert [int(number) for number in scenarios] == list(range(1, 92))


def test_what_counts_as_a_name() -> None:
    source = """
# @pytest.mark.edge_case(1)
text = "@pytest.mark.edge_case(2)"
pytestmark = pytest.mark.edge_case(3)
@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.edge_case(4))])
@pytest.mark.edge_case(5, 6)
@pytest.mark.scenario(7)
def test_x(x): pass
"""
    assert named("edge_case", calls_in(source)) == {3, 4, 5, 6}
    assert named("scenario", calls_in(source)) == {7}

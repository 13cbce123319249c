"""The pages of the documentation are true: links, commands, settings, requests, metrics, messages and scenarios."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import TYPE_CHECKING

import click
import pytest
from starlette.routing import WebSocketRoute

from slurm_adapter.cli.main import cli
from slurm_adapter.gateway.http.metrics import Metrics
from slurm_adapter.gateway.sessions import applications, shell
from slurm_adapter.gateway.streams import log_websockets
from slurm_adapter.local.configuration_file import load_config
from tests.docs.configuration_page import render
from tests.docs.test_references import DOCS, ROOT, assert_exists
from tests.gateway.api_site import opened

if TYPE_CHECKING:
    from pathlib import Path

PAGES = sorted(DOCS.rglob("*.md"))

_CODE = re.compile(r"(?ms)^ *```.*?^ *```$|`[^`\n]+`")
_COMMAND = re.compile(
    r"(?<!lib/)(?<!-[ugo] )(?<!user )\bslurm-adapter (?=[a-z]|--(?:version|help|config)\b)([^`\n|>#;&]*)"
)


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


@pytest.fixture(params=PAGES, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_links_lead_to_pages_and_headings(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", re.sub(_CODE, "", path.read_text(encoding="utf-8"))):
        name, _, anchor = target.partition("#")
        assert_exists(DOCS / (name or path.name), anchor, path.name)


def test_commands_and_options_exist(path: Path) -> None:
    for code in _CODE.findall(path.read_text(encoding="utf-8")):
        for found in _COMMAND.findall(code):
            command: click.Command = cli
            for word in found.split():
                if word == "...":
                    break
                if word.startswith("--"):
                    options = {name for each in command.params for name in each.opts} | {"--help"}
                    assert word.partition("=")[0] in options, f"slurm-adapter {found}"
                elif isinstance(command, click.Group) and re.fullmatch(r"[a-z][a-z-]*", word):
                    assert word in command.commands, f"slurm-adapter {found}"
                    command = command.commands[word]


def test_no_line_of_prose_is_longer_than_120(path: Path) -> None:
    prose = re.sub(r"(?ms)^ *```.*?^ *```$", "", path.read_text(encoding="utf-8"))
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []


# The configuration: the steps of the installation, and the page


def _blocks(name: str, language: str) -> list[str]:
    found = re.findall(rf"(?ms)^( *)```{language}\n(.*?)^ *```$", page(name))
    return [re.sub(rf"(?m)^{indent}", "", block) for indent, block in found]


def test_the_configuration_of_the_installation_can_be_read(tmp_path: Path) -> None:
    """In the order of the steps: each block adds to the first one, or takes the place of a table."""
    minimal, ssh, helper, operator, applications = _blocks("installation", "toml")
    path = tmp_path / "config.toml"

    def read(content: str) -> None:
        path.write_text(content)
        load_config(path)

    read(minimal)
    read(minimal.replace("[clusters.main]\n", ssh))
    read(minimal.replace("[identity]\n", helper))
    read(minimal.replace("[clusters.main]\n", operator))
    read(applications + minimal)
    [ucloud] = _blocks("ucloud", "toml")
    first_id, tables = ucloud.split("\n\n", 1)
    read(f"{first_id}\n{minimal}\n{tables}")


def test_the_page_of_the_configuration_is_that_of_the_models(request: pytest.FixtureRequest) -> None:
    """With --update-golden the page is written."""
    text = render((ROOT / "config.example.toml").read_text(encoding="utf-8"))
    if request.config.getoption("--update-golden"):
        (DOCS / "configuration.md").write_text(text, encoding="utf-8")
    assert page("configuration") == text


# Requests, metrics and messages


NOT_IN_OPENAPI = {
    "GET /metrics",
    "GET /docs",
    "GET /redoc",
    "GET /openapi.json",
    "GET /ucloud/PROVIDER/authorize-app",  # served on the domains of applications
}


def test_the_requests_are_those_that_are_served(tmp_path: Path) -> None:
    with opened(tmp_path) as api:
        document = api.ask("GET", "/openapi.json", **api.token()).json()
    served = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    for router, prefix in (
        (log_websockets.provider, ""),
        (log_websockets.users, ""),
        (shell.for_browsers, ""),
        (applications.sockets, "/ucloud/example"),
    ):
        served |= {f"WS {prefix}{route.path}" for route in router.routes if isinstance(route, WebSocketRoute)}
    served = {
        re.sub(r"/ucloud/(jobs\.provider\.)?(example|\{name\})/", r"/ucloud/\1PROVIDER/", each) for each in served
    }
    named = {
        f"{method} {path}" if path.startswith(_WHOLE_PATHS) else f"{method} /ucloud/PROVIDER{path}"
        for method, path in re.findall(r"`(GET|POST|WS) (/[^` ]*)`", page("gateway"))
    }
    assert named == served | NOT_IN_OPENAPI


_WHOLE_PATHS = ("/api/", "/ucloud/", "/healthz", "/metrics", "/docs", "/redoc", "/openapi.json")


def test_the_metrics_are_those_that_are_counted() -> None:
    counted = {
        name
        for metric in Metrics().registry.collect()
        for name in [metric.name + ("_total" if metric.type == "counter" else "")]
    }
    assert set(re.findall(r"(?m)^\| `(slurm_adapter_\w+)` \|", page("operation"))) == counted


@cache
def _messages() -> str:
    """Return every text of the program, with a NUL for each value in it."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "templates").rglob("*") if path.is_file()]
    for path in (ROOT / "slurm_adapter").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_the_messages_of_troubleshooting_are_those_of_the_program() -> None:
    sections = page("troubleshooting") + page("peers").partition("## Troubleshooting")[2]
    prose = re.sub(r"(?ms)^ *```.*?^ *```$", "", sections)
    quoted = re.findall(r'"([^"\n]+)"', prose)
    pieces = {piece.strip(" ,:") for quote in quoted for piece in re.split(r"\.\.\.|`[^`]*`|node\d+|\b1000\b", quote)}
    assert len(pieces) > 40
    assert {piece for piece in pieces if piece not in _messages()} == set()


# Acceptance scenarios

_ROW = re.compile(r"(?m)^\| (\d+) \| (.+?) \| (.*?) ?\|$")
SHOWN = 3
"""Tests that are named for one scenario."""


def _tests_of_scenarios() -> dict[int, list[str]]:
    """Return the tests with `pytest.mark.scenario`, by number, in the order of their files."""
    found: dict[int, list[str]] = {}
    tests = ROOT / "tests"
    for path in sorted(tests.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name, marks = f"{path.relative_to(tests)}", []
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                name, marks = f"{name}::{node.name}", list(node.decorator_list)
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
                marks = list(node.value.elts) if isinstance(node.value, ast.List) else [node.value]
            for mark in marks:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.scenario":
                    for number in mark.args:
                        found.setdefault(int(ast.literal_eval(number)), []).append(name)
    return found


def test_each_acceptance_scenario_names_the_tests_that_show_it(request: pytest.FixtureRequest) -> None:
    """With --update-golden the page is written."""
    tests, text = _tests_of_scenarios(), page("ucloud")

    def row(match: re.Match[str]) -> str:
        names = tests.get(int(match[1]), [])
        more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        shown = ", ".join(f"`{name}`" for name in names[:SHOWN]) + more
        return f"| {match[1]} | {match[2]} | {shown or match[3]} |"

    written = _ROW.sub(row, text)
    if request.config.getoption("--update-golden"):
        (DOCS / "ucloud.md").write_text(written, encoding="utf-8")
    assert page("ucloud") == written
    rows = _ROW.findall(written)
    assert [int(number) for number, _, _ in rows] == list(range(1, len(rows) + 1))
    assert set(tests) <= set(range(1, len(rows) + 1))
    for number, _, shown in rows:
        assert shown.startswith("not supported: ") == (int(number) not in tests), number

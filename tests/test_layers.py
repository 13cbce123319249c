"""The layout: pure parts do no I/O, modules form no cycles, and the layers are those of pyproject.toml."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import slurm_adapter

PACKAGE = Path(slurm_adapter.__file__).parent
PURE = ("core", "translation")

# What reads files, the clock or the environment, or starts processes and threads.
IMPURE_MODULES = frozenset(
    [
        "asyncio",
        "ctypes",
        "fcntl",
        "glob",
        "io",
        "logging",
        "multiprocessing",
        "os",
        "random",
        "resource",
        "secrets",
        "select",
        "shutil",
        "socket",
        "sqlite3",
        "ssl",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
        "urllib.request",
        "httpx",
        "paramiko",
    ]
)
IMPURE_FUNCTIONS = frozenset({"open", "input", "print", "exec", "eval"})
IMPURE_METHODS = frozenset(
    {
        *("open", "read_text", "read_bytes", "write_text", "write_bytes", "iterdir", "glob", "rglob", "stat", "lstat"),
        *("resolve", "is_file", "is_dir", "exists", "unlink", "mkdir", "touch", "cwd", "home", "expanduser"),
        *("now", "today", "utcnow"),
    }
)


def pure_modules() -> list[Path]:
    return sorted(path for part in PURE for path in (PACKAGE / part).rglob("*.py"))


def impure(source: str) -> list[str]:
    """Return what a module does that a pure one does not."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found += [f"imports {name}" for name in names if {name, name.split(".")[0]} & IMPURE_MODULES]
        if isinstance(node, ast.Call):
            is_name = isinstance(node.func, ast.Name)
            called = getattr(node.func, "id" if is_name else "attr", "")
            if called in (IMPURE_FUNCTIONS if is_name else IMPURE_METHODS):
                found.append(f"line {node.lineno}: calls {called}")
    return found


@pytest.mark.parametrize("path", pure_modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_pure_parts_do_no_io(path: Path) -> None:
    assert not impure(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "source",
    ["import os", "from os import environ", "import os.path", "open('x')", "path.read_text()", "from time import time"],
)
def test_io_is_found(source: str) -> None:
    assert impure(source)


def imports() -> dict[str, set[str]]:
    """Return the modules of the package, each with those that it imports anywhere, for types too."""
    paths = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found: dict[str, set[str]] = {}
    for name, path in paths.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & paths.keys()
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    found[name] |= {whole if whole in paths else node.module} & paths.keys()
    return found


def test_modules_form_no_cycle() -> None:
    graph = imports()
    assert len(graph) > 150
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")

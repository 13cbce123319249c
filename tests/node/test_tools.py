"""Nodes and login nodes as old as RHEL 8, SLES 15 and Ubuntu 20.04: what the shell text uses is there.

Seen once: `setpriv --pdeathsig` (util-linux 2.33 and later) made every job fail on RHEL 8.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tree_sitter_bash
from tree_sitter import Language, Parser

from slurm_adapter.cli.check import probe
from slurm_adapter.local.template_folder import packaged_templates
from tests.node.shell_tools import FLOOR, TOOLS, Tool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tree_sitter import Node

SOURCES = Path(__file__).parents[2] / "slurm_adapter"
_BUILTINS = """
. : [ [[ alias break builtin cd command continue declare disown echo eval exec exit export false getopts hash kill local
printf pwd read readonly return set shift source test times trap true type ulimit umask unalias unset wait
"""
_KEYWORDS = "if then elif else fi while until do done case esac for in { } !"
BUILTINS = frozenset(_BUILTINS.split())
KEYWORDS = frozenset(_KEYWORDS.split())
WRAPPERS = {
    "exec": 0,
    "timeout": 1,
    "xargs": 0,
    "env": 0,
    "setsid": 0,
    "nsenter": 0,
    "bwrap": 0,
    "unshare": 0,
    "set": 1,
}
"""Commands that run the command that follows after this many words. (`set --` is how the node's files build one.)"""
PLACES = frozenset(["module", "PAYLOAD"])
"""The site's function of this name, and what stands in a template for an application."""
SHELL_TEXT = re.compile(r"(^|[\s;({])(exec |printf |read -r|cd -P|command -v|for \w+ (in|do)|while |\[ -)")


def walk(node: Node) -> Iterator[Node]:
    """Give a node and all below it."""
    yield node
    for child in node.children:
        yield from walk(child)


def plain(word: str) -> str:
    """Return a word without quotes, `$nsenter` as `nsenter`, and without the folder of a program."""
    word = word.strip("\"'")
    word = re.sub(r"^\$\{?(\w+)\}?$", r"\1", word)
    return word.rsplit("/", 1)[1] if re.fullmatch(r"/(usr/)?s?bin/\w+", word) else word


def problems(words: list[str], known: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the parts of a command line that are not in the list; `known` are functions of the same text."""
    while words and (words[0] in KEYWORDS or re.match(r"\w+=", words[0])):
        words = words[1:]
    if not words:
        return
    name, rest = plain(words[0]), words[1:]
    if name in known or (name not in TOOLS and re.match(r"['\"$*\[-]|.*\*", words[0])):
        return
    if name == "find" and "-exec" in rest:
        yield from problems(rest[rest.index("-exec") + 1 :], known)
        rest = rest[: rest.index("-exec")]
    if name in TOOLS:
        tool = TOOLS[name]
        if tool.first > FLOOR[tool.package]:
            yield f"the program {name}, of {tool.package} {tool.first}"
        found, rest = read_options(name, rest)
        if tool.package != "slurm":  # the scheduler's tests try those options on each version
            yield from (f"{name} {problem}" for problem in found)
    elif name not in BUILTINS:
        yield f"the program {name}"
    if name in WRAPPERS and (name != "set" or rest[:1] == ["--"]):
        yield from problems(rest[WRAPPERS[name] :], known)


def read_options(name: str, words: list[str]) -> tuple[list[str], list[str]]:
    """Report options of a listed program that are not listed or too new, and return the words after the options."""
    tool = TOOLS[name]
    listed = {option.rstrip(":"): option.count(":") for option in tool.options.split()}
    found = []
    number = 0
    while number < len(words):
        word = words[number]
        if word != "--" and re.match(r"-[^\s]", word):
            options = split_options(name, word, listed)
            found += [option for option in options if option not in listed]
            found += [
                f"{option}, of {tool.package} {tool.newer[option]}" for option in options if too_new(tool, option)
            ]
            number += listed.get(options[-1], 0) if word.endswith(options[-1].lstrip("-")) else 0
        elif word == "--":
            return found, words[number + 1 :]
        elif name in {*WRAPPERS, "bash", "sh"}:
            return found, words[number:]
        number += 1  # GNU programs take options after operands, too
    return found, []


def too_new(tool: Tool, option: str) -> bool:
    """Return whether the oldest release lacks an option."""
    return tool.newer.get(option, (0,)) > FLOOR[tool.package]


def split_options(name: str, word: str, listed: dict[str, int]) -> list[str]:
    """Return the options in one word: of `-An` it is `-A` alone if that takes a value."""
    if word.startswith("--") or word in listed or name == "find":
        return [word.split("=", 1)[0]]
    options = []
    for letter in word[1:]:
        options.append(f"-{letter}")
        if listed.get(f"-{letter}"):
            break
    return options


def shell_problems(text: str) -> list[str]:
    """Return what a shell text uses that is not in the list, with its lines."""
    tree = Parser(Language(tree_sitter_bash.language())).parse(text.encode())
    nodes = list(walk(tree.root_node))
    functions = {node.child_by_field_name("name") for node in nodes if node.type == "function_definition"}
    known = frozenset(node.text.decode() for node in functions if node is not None and node.text is not None) | PLACES
    found = []
    for node in nodes:
        if node.type == "command":
            redirects = {"file_redirect", "herestring_redirect", "heredoc_redirect"}
            words = [child.text.decode() for child in node.children if child.type not in redirects and child.text]
            found += [f"line {node.start_point[0] + 1}: {problem}" for problem in problems(words, known)]
    return found


def python_shell_texts() -> Iterator[tuple[str, str]]:
    """Give the shell text in Python constants, which runs on login nodes, by place."""
    for path in sorted(SOURCES.rglob("*.py")):
        if "sandbox" in path.relative_to(SOURCES).parts:
            continue  # runs on a developer's machine
        constants: dict[str, str] = {}
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.JoinedStr):
                pieces = node.value.values if isinstance(node.value, ast.JoinedStr) else [node.value]
                text = "".join(
                    str(piece.value)
                    if isinstance(piece, ast.Constant)
                    else constants.get(ast.unparse(piece.value) if isinstance(piece, ast.FormattedValue) else "", "0")
                    for piece in pieces
                )
                constants[ast.unparse(node.targets[0])] = text
                if SHELL_TEXT.search(text):
                    yield f"{path.relative_to(SOURCES)}:{node.lineno}", text


def python_command_lines() -> Iterator[tuple[str, list[str]]]:
    """Give the command lines that stand in Python as tuples of words, as far as they are constant."""
    for path in sorted(SOURCES.rglob("*.py")):
        if "sandbox" in path.relative_to(SOURCES).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Tuple | ast.List) and node.elts and isinstance(node.elts[0], ast.Constant):
                words = [str(each.value) if isinstance(each, ast.Constant) else '"$x"' for each in node.elts]
                if plain(words[0]) in TOOLS and len(words) > 1 and any(word.startswith("-") for word in words):
                    yield f"{path.relative_to(SOURCES)}:{node.lineno}", words


NODE_FILES = [*sorted((packaged_templates() / "node").iterdir()), packaged_templates() / "job.sbatch.j2"]


def read_node_file(path: Path) -> str:
    """Return a file that runs on nodes, as shell text."""
    return re.sub(r"\{\{.*?\}\}", "PAYLOAD", re.sub(r"\{%.*?%\}", "", path.read_text()))


def test_the_probe_looks_for_all_programs_that_jobs_need_on_a_node() -> None:
    parser = Parser(Language(tree_sitter_bash.language()))
    used = {
        plain(word)
        for path in NODE_FILES
        for node in walk(parser.parse(read_node_file(path).encode()).root_node)
        if node.type == "command" and node.text is not None
        for word in node.text.decode().split()
    }
    # bwrap is one of several methods, and sbatch stands in a message only.
    assert set(probe.TOOLS.split()) == (used & set(TOOLS)) - BUILTINS - {"bwrap", "sbatch"}


@pytest.mark.parametrize("path", NODE_FILES, ids=lambda path: path.name)
def test_the_nodes_files_use_what_old_releases_have(path: Path) -> None:
    assert shell_problems(read_node_file(path)) == []


def test_the_login_nodes_shell_text_uses_what_old_releases_have() -> None:
    texts = dict(python_shell_texts())
    assert len(texts) > 20  # it is found at all
    assert {place: found for place, text in texts.items() if (found := shell_problems(text))} == {}


def test_the_login_nodes_command_lines_use_what_old_releases_have() -> None:
    lines = list(python_command_lines())
    assert len(lines) > 5
    assert [(place, *found) for place, words in lines if (found := list(problems(words)))] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("setpriv --pdeathsig KILL sleep infinity &", "the program setpriv"),
        ("x=$(unshare -Um --map-current-user --keep-caps sh)", "unshare --map-current-user"),
        ("set -- unshare -Um --map-current-user", "unshare --map-current-user"),
        ('exec "$nsenter" -t 1 --wdns / -- ls', "nsenter --wdns"),
        ("timeout -v 5 ls", "timeout -v"),
        ("timeout 5 perl -e 1", "the program perl"),
        ("if ! env --default-signal=INT ls; then ls; fi", "env --default-signal"),
        ("xargs -0 -r perl", "the program perl"),
        ("xargs -0 -r -P 4 -n 2 sh -c 'true' | cut -d x -f 1", ""),
        ("od -An -N2 -tu2 /dev/urandom | head -n 1", ""),
        ("numfmt x | sort -V", "the program numfmt"),
        ("exec timeout -s KILL 5 mktemp -u", "mktemp -u"),
        ("ls -dZ x", "ls -Z"),
        ("find . -maxdepth 1 -readable", "find -readable"),
    ],
)
def test_what_is_not_in_the_list_is_found(text: str, found: str) -> None:
    said = shell_problems(text)
    assert said[0].removeprefix("line 1: ") == found if found else said == []


def test_an_option_newer_than_the_oldest_release_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FLOOR, "util-linux", (2, 24))
    assert shell_problems("unshare -Urm true") == ["line 1: unshare -r, of util-linux (2, 25)"]

#!/usr/bin/env python3
"""Check that the text of the code and the documentation is plain English: `.ci/english.py [--report] [PATH...]`.

Reads docstrings, comments and messages in slurm_adapter/, comments and messages of the scripts in templates/, comments
of config.example.toml, README.md and slurm_adapter/docs/. Text between backticks and in code blocks is not checked.

Prints each finding as `file:line: 'words': what to use instead`, then the counts per package. Words that are allowed up
to a frequency are listed if they are over it. With PATH, such as slurm_adapter/cli, it reads only files below it.

With `--report` it lists all of these words, and does not fail. To allow a phrase, for example in quoted output of
Slurm, add it to EXCEPTIONS with a reason.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_NAME = 'a name: "the user who ...", "the job with ..."'

FREQUENT = {
    "told, tell": (re.compile(r"\b(?:told|tells?|telling)\b", re.IGNORECASE), 0.5, "report, send, deliver, show"),
    "where": (re.compile(r"\b[Ww]here\b"), 1.5, "if, when, in which"),
    "whose, whom": (
        re.compile(r"\b(?:whoever|whom|whose|whosoever)\b", re.IGNORECASE),
        0.1,
        _NAME,
    ),
}
"""Words that are rarely the plainest ones: pattern, uses that are allowed per 1000 words, and what to write instead."""

OPENINGS = re.compile(r"\s*(?:What|Whether|Those|So)\b")
"""Docstrings that begin so are no sentences with a subject and a verb."""

OPENINGS_ALLOWED = 19

BANNED = {
    r"whoever|whom": _NAME,
    r"(?-i:[Hh]e|[Hh]is|[Hh]im|[Hh]imself)": '"they", "the user"',
    r"no more(?! than)": '"no longer", "not any more"',
    r"(?:is|are) no errors?": '"is ignored", "is not an error"',
    r"besides": '"also", or leave it out',
    r"likewise": '"also", "in the same way"',
    r"in vain": '"without success", "failed"',
    r"in peace": '"is not retried for 40 s", "is left unchanged"',
    r"hand(?:s|ed|ing)? in": '"submit"',
    r"hand(?:s|ed|ing)? over": '"dispatch" (to Slurm), "pass" (to a function)',
    r"hand-?overs?": '"dispatch"',
    r"(?:a|the|one|each|every|this|that|next|last|first|another|other|whole) pass|(?:the|between) passes": '"sync"',
    r"visits?": '"session" (what is open), "access grant" (the permission)',
    r"doors?": '"API": "the provider API", "the user API"',
    r"such as ha(?:ve|s)|such as (?:is|are)": '"that have", "that are"',
    r"to be seen to": '"must be handled"',
    r"is seen to": '"is handled"',
    r"unsuspend(?:s|ed|ing)?": '"resume"',
    r"good for nothing|for good and all": '"unusable", "permanently"',
}
"""What is never written (a regular expression of whole words, case ignored), and what to write instead."""

_BANNED = re.compile(
    "|".join(rf"(?P<b{n}>\b(?:{words})\b)" for n, words in enumerate(BANNED)).replace(" ", r"\s+"), re.IGNORECASE
)
_INSTEAD = list(BANNED.values())

POINTERS = re.compile(r"\bD\d{1,2}\b(?!:)|\b[Cc]ontract,? \d+(?:\.\d+)*")
"""References to documents that a reader cannot open."""

EXCEPTIONS: dict[tuple[str, str], str] = {
    ("slurm_adapter/state/database.py", "in vain"): "a fact's name in databases of older programs",
}
"""Allowed phrases, as {(file, phrase in lower case): reason}. One that is not found any more is a finding."""

HELP_LIMIT = 60
"""Characters of a command's one-line help."""

PARAGRAPH_LIMIT = 60
"""Words in a paragraph, or in an item of a list."""


@dataclass(frozen=True)
class Text:
    """One comment, docstring, message or paragraph."""

    file: str
    line: int
    text: str
    kind: str = ""
    """`docstring`, `help` (the docstring of a command), `paragraph`, or nothing for others."""

    @property
    def prose(self) -> str:
        """Return the text without what is quoted: code spans and addresses."""
        return re.sub(r"`[^`]*`|https?://\S+", lambda found: re.sub(r"[^\n]", "_", found[0]), self.text)

    @property
    def package(self) -> str:
        """Return the part of the project that the report counts it for."""
        return "/".join(Path(self.file).parts[:-1][:2]) or self.file


_WORD = re.compile(r"\b[A-Za-z][A-Za-z'-]*")
_PROSE = re.compile(r"[A-Za-z]{2,}[,:;]? [A-Za-z]+")
"""Two words: what makes a string a message. A name of one word is none."""

_DIRECTIVE = re.compile(r"#\s*(?:noqa|type:|nosec|pragma|shellcheck|!|SBATCH|PBS)[^#]*")


def read_python(file: str, source: str) -> Iterator[Text]:
    """Yield the comments, docstrings and messages of Python code."""
    yield from _join_comments(file, _python_comments(source))
    tree = ast.parse(source)
    commands = {id(node.body[0]) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and _is_command(node)}
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            inside.add(id(node.value))
            yield Text(file, node.lineno, node.value.value, "help" if id(node) in commands else "docstring")
        elif isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "_" for part in node.values]
            inside |= {id(part) for part in node.values}
            yield from _message(file, node, "".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield from _message(file, node, node.value)


def _is_command(function: ast.FunctionDef) -> bool:
    calls = [each.func for each in function.decorator_list if isinstance(each, ast.Call)]
    return any(isinstance(each, ast.Attribute) and each.attr in {"command", "group"} for each in calls)


def _message(file: str, node: ast.expr, text: str) -> Iterator[Text]:
    if _PROSE.search(text):
        yield Text(file, node.lineno, text)


def _python_comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def read_script(file: str, source: str) -> Iterator[Text]:
    """Yield the comments of a shell script, a template or TOML, and the messages between double quotes."""
    lines = list(enumerate(source.splitlines(), 1))
    comments = [(number, found[1]) for number, line in lines if (found := re.search(r"(?:^|\s)(#.*)", line))]
    yield from _join_comments(file, comments)
    for number, line in lines:
        code = re.sub(r"(?:^|\s)#.*", "", line)
        for message in re.findall(r'"([^"]*)"', code):
            if _PROSE.search(message):
                yield Text(file, number, message)


def _join_comments(file: str, comments: Iterable[tuple[int, str]]) -> Iterator[Text]:
    """Yield comments on consecutive lines as one text, because phrases go across lines."""
    start, lines = 0, list[str]()
    for number, comment in comments:
        if lines and number != start + len(lines):
            yield Text(file, start, "\n".join(lines))
            lines = []
        start = start if lines else number
        lines.append(_DIRECTIVE.sub("", comment).lstrip("#").strip())
    if lines:
        yield Text(file, start, "\n".join(lines))


def read_markdown(file: str, source: str) -> Iterator[Text]:
    """Yield the headings, paragraphs, list items and table rows of a page, without its code blocks."""
    source = re.sub(r"(?ms)^ *(```|~~~).*?^ *\1 *$|<!--.*?-->", lambda found: re.sub(r"[^\n]", "", found[0]), source)
    start, lines = 0, list[str]()

    def text() -> Iterator[Text]:
        if lines:
            plain = re.match(r"\s*(?:#|\|)", lines[0])
            yield Text(file, start, "\n".join(lines), "" if plain else "paragraph")

    for number, line in enumerate([*source.splitlines(), ""], 1):
        if not line.strip() or re.match(r"\s*(?:[-*+] |\d+[.)] |#|\||>)", line):
            yield from text()
            lines = []
        if line.strip():
            start = start if lines else number
            lines.append(line)


def read_project(root: Path) -> Iterator[Text]:
    """Yield every text of the project."""
    readers = [
        (read_python, sorted(root.glob("slurm_adapter/**/*.py"))),
        (read_script, [*sorted(root.glob("templates/**/*")), root / "config.example.toml"]),
        (read_markdown, [root / "README.md", *sorted(root.glob("slurm_adapter/docs/**/*.md"))]),
    ]
    for read, files in readers:
        for path in files:
            if path.is_file() and path.suffix not in {".c", ".json"}:
                yield from read(str(path.relative_to(root)), path.read_text(encoding="utf-8"))


class Lint:
    """Counts and findings of all texts."""

    def __init__(self) -> None:
        self.words: Counter[str] = Counter()
        """Words per package."""
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        """Uses per kind of finding and package."""
        self.findings: list[tuple[str, int, str]] = []
        """File, line and message of what fails."""
        self.over: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
        """The same, of words that are allowed up to a frequency."""
        self._files: set[str] = set()
        self._used: set[tuple[str, str]] = set()

    def read(self, text: Text) -> None:
        """Check one text."""
        prose = text.prose
        self._files.add(text.file)
        self.words[text.package] += len(_WORD.findall(prose))
        for name, (pattern, _, instead) in FREQUENT.items():
            for found in pattern.finditer(prose):
                self._allow_some(name, text, found, instead)
        for found in _BANNED.finditer(prose):
            key = (text.file, " ".join(found[0].lower().split()))
            if key in EXCEPTIONS:
                self._used.add(key)
            else:
                self._fail("banned", text, found, f"use {_INSTEAD[int((found.lastgroup or 'b0')[1:])]}")
        for found in POINTERS.finditer(prose):
            self._fail("pointer", text, found, "explain it in words, or name a page of slurm_adapter/docs/")
        if text.kind in {"docstring", "help"} and (opening := OPENINGS.match(prose)):
            self._allow_some("opening", text, opening, "begin with a verb (a function) or a noun (a class, a field)")
        if text.kind == "help" and len(short := _one_line(text.text)) > HELP_LIMIT:
            self._fail("help", text, None, f"{short!r} has {len(short)} characters; use at most {HELP_LIMIT}")
        if text.kind == "paragraph" and (length := len(text.text.split())) > PARAGRAPH_LIMIT:
            self._fail("paragraph", text, None, f"a paragraph of {length} words; use at most {PARAGRAPH_LIMIT}")

    def _allow_some(self, name: str, text: Text, found: re.Match[str], instead: str) -> None:
        self.counts[name][text.package] += 1
        self.over[name].append((text.file, _line(text, found), f"{found[0].strip()!r}: use {instead}"))

    def _fail(self, kind: str, text: Text, found: re.Match[str] | None, message: str) -> None:
        self.counts[kind][text.package] += 1
        named = f"{' '.join(found[0].split())!r}: " if found else ""
        self.findings.append((text.file, _line(text, found) if found else text.line, named + message))

    def finish(self, *, everything: bool) -> list[str]:
        """Add findings: words that are too frequent (or all of them), stale exceptions. Return what is over a limit."""
        for file, phrase in {key for key in EXCEPTIONS if key[0] in self._files} - self._used:
            self.findings.append((".ci/english.py", 1, f"EXCEPTIONS: {file} does not contain {phrase!r}; remove it"))
        failed = []
        total = sum(self.words.values())
        for name, uses in self.over.items():
            if name == "opening":
                limit, measured, unit = float(OPENINGS_ALLOWED), float(len(uses)), "docstrings"
            else:
                limit, measured, unit = FREQUENT[name][1], 1000 * len(uses) / total, "per 1000 words"
            if measured > limit:
                failed.append(f"too frequent: {name}: {measured:.4g} {unit}, allowed are {limit:g}")
            if measured > limit or everything:
                self.findings += uses
        return failed

    def table(self) -> Iterator[str]:
        """Yield the counts per package, and the sums."""
        kinds = [*FREQUENT, "opening", "banned", "pointer", "help", "paragraph"]
        yield f"{'':26}{'words':>8}" + "".join(f"{kind:>12}" for kind in kinds)
        for package, words in sorted(self.words.items()):
            yield f"{package:26}{words:8}" + "".join(f"{self.counts[kind][package]:12}" for kind in kinds)
        total, sums = sum(self.words.values()), {kind: sum(self.counts[kind].values()) for kind in kinds}
        yield f"{'all':26}{total:8}" + "".join(f"{sums[kind]:12}" for kind in kinds)
        rates = "".join(f"{1000 * sums[kind] / (total or 1):12.2f}" for kind in FREQUENT)
        yield f"{'per 1000 words':34}{rates}"
        limits = [*(limit for _, limit, _ in FREQUENT.values()), OPENINGS_ALLOWED, 0, 0, 0, 0]
        yield f"{'allowed':34}" + "".join(f"{limit:>12}" for limit in limits)


def _line(text: Text, found: re.Match[str]) -> int:
    return text.line + text.text.count("\n", 0, found.start())


def _one_line(docstring: str) -> str:
    """Return the sentence of a command's docstring that click shows in a list of commands."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    return re.split(r"(?<=\.) ", paragraph)[0]


def main(arguments: list[str], root: Path = Path(__file__).parent.parent) -> int:
    """Print the findings and the table, and return the exit code."""
    report = "--report" in arguments
    paths = tuple(each for each in arguments if each != "--report") or ("",)
    lint = Lint()
    for text in read_project(root):
        if text.file.startswith(paths):
            lint.read(text)
    failed = lint.finish(everything=report)
    for file, line, message in sorted(set(lint.findings)):
        print(f"{file}:{line}: {message}")
    print(*lint.table(), *failed, sep="\n")
    return 1 if lint.findings and not report else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Find the line of each key in a TOML file. `tomllib` does not report lines, and tomlkit only those of errors."""

from __future__ import annotations

import re
import tomllib
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Key = tuple[str | int, ...]
"""Full path of a key. Elements of lists and arrays of tables have numbers."""

_TOKEN = re.compile(
    r'''(?P<skip>\#[^\n]*|[ \t\r]+)
    |(?P<text>"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*')
    |(?P<other>[A-Za-z0-9_-]+|.)''',
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):
    word: str
    line: int


def key_lines(text: str) -> Mapping[Key, int]:
    """Return the first line of each key and each element. Raise `tomllib.TOMLDecodeError`."""
    tomllib.loads(text)  # the reader below needs a valid file
    return _Reader(text).read()


def line_of(lines: Mapping[Key, int], key: Sequence[str | int]) -> int | None:
    """Return the line of a key, or of its innermost table that is in the file."""
    parts = tuple(key)
    return next((lines[parts[:end]] for end in range(len(parts), 0, -1) if parts[:end] in lines), None)


class _Reader:
    """Reader of a valid file's tokens."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Key, int] = {}
        self._lengths: dict[Key, int] = {}
        """Number of tables in each array of tables, so far."""
        self._tokens: deque[_Token] = deque()
        line = 1
        for match in _TOKEN.finditer(text):
            if match["skip"] is None:
                self._tokens.append(_Token(match[0], line))
            line += match[0].count("\n")

    def read(self) -> Mapping[Key, int]:
        """Return the line of each key."""
        table: Key = ()
        while self._tokens:
            if self._next == "\n":
                self._tokens.popleft()
            elif self._next == "[":
                table = self._read_header()
            else:
                self._read_pair(table)
        return self._lines

    @property
    def _next(self) -> str:
        return self._tokens[0].word if self._tokens else "\n"

    def _read_header(self) -> Key:
        line = self._tokens.popleft().line
        is_array = self._next == "["
        if is_array:
            self._tokens.popleft()
        names = self._read_key()
        for _ in range(1 + is_array):
            self._tokens.popleft()
        table: Key = ()
        for number, name in enumerate(names, start=1):
            table = (*table, name)
            if number == len(names) and is_array:
                self._lengths[table] = self._lengths.get(table, 0) + 1
            self._lines.setdefault(table, line)
            if table in self._lengths:
                table = (*table, self._lengths[table] - 1)
                self._lines.setdefault(table, line)
        return table

    def _read_key(self) -> list[str]:
        names = [self._read_name()]
        while self._next == ".":
            self._tokens.popleft()
            names.append(self._read_name())
        return names

    def _read_name(self) -> str:
        word = self._tokens.popleft().word
        name: str = tomllib.loads(f"name = {word}")["name"] if word[0] in "\"'" else word
        return name

    def _read_pair(self, table: Key) -> None:
        line = self._tokens[0].line
        for name in self._read_key():
            table = (*table, name)
            self._lines.setdefault(table, line)
        self._tokens.popleft()  # the equals sign
        self._read_value(table)

    def _read_value(self, key: Key) -> None:
        first = self._tokens.popleft()
        if first.word == "{":
            while self._next != "}":
                if self._next in {",", "\n"}:
                    self._tokens.popleft()
                else:
                    self._read_pair(key)
            self._tokens.popleft()
        elif first.word == "[":
            number = 0
            while self._next != "]":
                if self._next in {",", "\n"}:
                    self._tokens.popleft()
                else:
                    self._lines[*key, number] = self._tokens[0].line
                    self._read_value((*key, number))
                    number += 1
            self._tokens.popleft()
        else:
            while self._next not in {"\n", ",", "]", "}"}:
                self._tokens.popleft()

"""Limits on JSON that are checked before parsing: they refuse nothing else."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.json_bounds import MOST_ENTRIES, MOST_LEVELS, MOST_VALUES, check_bounds
from slurm_adapter.core.specification import decode_json

MEBIBYTE = 1024 * 1024

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


@given(VALUES)
def test_what_is_within_the_bounds_is_read(value: Any) -> None:
    if "\\ud" not in (text := json.dumps(value)):
        assert decode_json(text.encode()) == value


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    try:
        decode_json(data)
    except InvalidInput:
        return
    json.loads(data)


@pytest.mark.parametrize(
    "text",
    ["[" * MOST_LEVELS + "]" * MOST_LEVELS, '"' + "[" * 10_000 + '"', '{"a": "' + '\\"[,' * 10_000 + '"}'],
)
def test_brackets_count_up_to_the_bound_and_not_within_strings(text: str) -> None:
    decode_json(text.encode())


HOSTILE = {
    "deep": b"[" * MEBIBYTE,
    "deep objects": b'{"a":' * 200_000,
    "a list": b"[" + b"1," * 100_000 + b"1]",
    "empty lists": b'{"items":[' + b"[]," * 300_000 + b"[]]}",
    "objects": b"[" + b"{}," * 300_000 + b"{}]",
    "members": b"{" + b'"a":1,' * 100_000 + b'"b":1}',
    "lists of lists": b"[" + (b"[" + b"0," * 4_000 + b"0],") * 300 + b"0]",
    "a number": b"9" * MEBIBYTE,
    "a long way below 0": b'{"items": -' + b"9" * MEBIBYTE + b"}",
    "no end": b'"' + b'\\"' * MEBIBYTE,
    "no ends": b'"a" "' * 200_000,
    "a backslash": b'"' + b"\\" * (MEBIBYTE + 1),
    "all": b"[{," * 400_000,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_what_exceeds_them_is_refused_without_memory(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput) as refused:
            decode_json(data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(str(refused.value)) < 300
    assert most < 4 * len(data) + MEBIBYTE


def test_the_bounds_are_exact() -> None:
    check_bounds(b"[" + b"1," * (MOST_ENTRIES - 1) + b"1]")
    with pytest.raises(InvalidInput, match="entries"):
        check_bounds(b"[" + b"1," * MOST_ENTRIES + b"1]")
    with pytest.raises(InvalidInput, match="too deeply"):
        check_bounds(b"[" * (MOST_LEVELS + 1))
    rows = b"[" + b"1," * 998 + b"1],"
    check_bounds(rows * (MOST_VALUES // 1000))
    with pytest.raises(InvalidInput, match="values"):
        check_bounds(rows * (MOST_VALUES // 1000 + 1))

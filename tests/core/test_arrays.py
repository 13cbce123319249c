"""Lists of tasks of an array."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.core.arrays import MOST_INDEX, MOST_TASKS, read_tasks


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("0", {0}),
        ("0-3", {0, 1, 2, 3}),
        ("1,3,5-7", {1, 3, 5, 6, 7}),
        ("0-15:4", {0, 4, 8, 12}),
        ("0-15:4%2", {0, 4, 8, 12}),
        ("[4-6%2]", {4, 5, 6}),
        ("[4-6]", {4, 5, 6}),
        ("1,1,1-2", {1, 2}),
        ("7-7", {7}),
        (f"{MOST_INDEX - 1}", {MOST_INDEX - 1}),
    ],
)
def test_tasks(text: str, tasks: set[int]) -> None:
    assert read_tasks(text) == tasks


@pytest.mark.parametrize(
    "text",
    [
        *("", "%2", "a", "1-", "-1", "3-1", "0-9:0", "1 2", "1,,2", "0,4,8,...", "+1", "٣"),
        *(str(MOST_INDEX), "0-999999,0-999999", f"0-{MOST_TASKS}"),
    ],
)
def test_texts_that_are_not_lists_of_tasks(text: str) -> None:
    with pytest.raises(ValueError, match="tasks"):
        read_tasks(text)


@given(st.text(max_size=20) | st.text("0123456789-:,%[]", max_size=12))
def test_no_text_is_another_error(text: str) -> None:
    try:
        assert read_tasks(text)
    except ValueError:
        return


@given(st.sets(st.integers(0, 3000), min_size=1))
def test_a_list_of_tasks_names_these(tasks: set[int]) -> None:
    assert read_tasks(",".join(map(str, sorted(tasks)))) == tasks

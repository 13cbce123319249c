"""Slurm's words for states, in every form in which it prints them, and what each means."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.core.observation import Observation
from slurm_adapter.core.states import BASE_STATES, FLAGS, LIVE, JobState, canonical, interpret

WORDS = {**BASE_STATES, **FLAGS}

MEANING = {
    "PENDING": JobState.IN_QUEUE,
    "RUNNING": JobState.RUNNING,
    "SUSPENDED": JobState.SUSPENDED,
    "COMPLETED": JobState.SUCCESS,
    "CANCELLED": JobState.SUCCESS,
    "FAILED": JobState.FAILURE,
    "TIMEOUT": JobState.EXPIRED,
    "NODE_FAIL": JobState.FAILURE,
    "PREEMPTED": JobState.FAILURE,
    "BOOT_FAIL": JobState.FAILURE,
    "DEADLINE": JobState.EXPIRED,
    "OUT_OF_MEMORY": JobState.FAILURE,
    "COMPLETING": JobState.RUNNING,
    "STAGE_OUT": JobState.RUNNING,
    "CONFIGURING": JobState.IN_QUEUE,
    "EXPEDITING": JobState.IN_QUEUE,
    "RESIZING": JobState.RUNNING,
    "REQUEUED_CRON": JobState.IN_QUEUE,
    "REQUEUED": JobState.IN_QUEUE,
    "REQUEUE_FED": JobState.IN_QUEUE,
    "REQUEUE_HOLD": JobState.IN_QUEUE,
    "SPECIAL_EXIT": JobState.IN_QUEUE,
    "STOPPED": JobState.SUSPENDED,
    "REVOKED": None,
    "RESV_DEL_HOLD": JobState.IN_QUEUE,
    "SIGNALING": JobState.RUNNING,
}


def seen(state: str, **values: object) -> Observation:
    fields: dict[str, object] = {"slurm_id": 1, "task": None, "name": "t", "user": "alice", "exit_code": 0}
    return Observation(**(fields | {"state": state} | values))  # type: ignore[arg-type]  # any of its fields


@pytest.mark.edge_case(2, 13)
@pytest.mark.scenario(56)
@pytest.mark.parametrize("word", WORDS)
def test_every_form_of_a_word(word: str) -> None:
    forms = [word, word.lower(), f" {word}\n", f"{word}+", f'["{word}"]', json.dumps([word.title()])]
    if WORDS[word]:
        forms += [WORDS[word], WORDS[word].lower(), f'["{WORDS[word]}"]']
    if word == "CANCELLED":
        forms += ["CANCELLED by 1000", "cancelled by 0", "CANCELLED by alice", "CANCELLED+"]
    assert {form: canonical(form) for form in forms} == dict.fromkeys(forms, word)


@pytest.mark.scenario(56)
@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("OUT_OF_ME+", "OUT_OF_MEMORY"),
        ("COMPLETED+", "COMPLETED"),
        ("CANCELLED+", "CANCELLED"),
        ("CANCELLED by 1000", "CANCELLED"),
        ("CANCELLED by 1+", "CANCELLED"),
        ("REQUEUE_H+", "REQUEUE_HOLD"),
        ("RESV_DEL_+", "RESV_DEL_HOLD"),
        ("SPECIAL_E+", "SPECIAL_EXIT"),
        ('["RUNNING","CONFIGURING"]', "CONFIGURING"),
        ('["CONFIGURING", "RUNNING", "POWER_UP_NODE"]', "CONFIGURING"),
        ('["PENDING","LAUNCH_FAILED","REQUEUED"]', "REQUEUED"),
        ('["COMPLETED","COMPLETING"]', "COMPLETING"),
        ('["FAILED","RECONFIG_FAIL"]', "FAILED"),
        ('["PENDING","UPDATE_DB"]', "PENDING"),
        ("PENDING,REQUEUE_HOLD", "REQUEUE_HOLD"),
        ("PR", "PREEMPTED"),
    ],
)
def test_cut_off_and_combined_words(text: str, word: str) -> None:
    assert canonical(text) == word


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "UNKNOWN",
        "RUNNIN",
        "COMP+",
        "REQUEUE+",
        "R+UNNING",
        "[]",
        "[",
        '["RUNNING","NEW"]',
        "[1]",
        "POWER_UP_NODE",
    ],
)
def test_what_is_no_word_of_slurm(text: str) -> None:
    assert canonical(text) is None
    verdict = interpret(seen(text))
    assert verdict.state is None
    assert repr(text) in verdict.text


@given(st.text() | st.text('[]",RUNNINGbycd +0?', max_size=30))
def test_no_text_is_an_error(text: str) -> None:
    assert canonical(text) is None or canonical(text) in WORDS
    interpret(seen(text))


def test_the_whole_vocabulary_has_a_meaning() -> None:
    assert {word: interpret(seen(word)).state for word in WORDS} == MEANING


@pytest.mark.parametrize("word", WORDS)
def test_a_live_job_is_one_that_has_neither_ended_nor_been_given_away(word: str) -> None:
    state = interpret(seen(word)).state
    assert (word in LIVE) == (state is not None and not state.final)


@pytest.mark.parametrize("state", JobState)
def test_final_states(state: JobState) -> None:
    assert state.final == (state in {"SUCCESS", "FAILURE", "EXPIRED"})


@pytest.mark.edge_case(14)
@pytest.mark.parametrize(
    ("state", "values", "expected", "text"),
    [
        ("COMPLETED", {"exit_code": 0}, JobState.SUCCESS, "exit code 0"),
        ("COMPLETED", {"exit_code": 3}, JobState.FAILURE, "failed with exit code 3"),
        ("COMPLETED", {"exit_code": None, "signal": 9}, JobState.FAILURE, "signal 9 (SIGKILL)"),
        ("COMPLETED", {"exit_code": None}, None, "does not report its exit code"),
        ("FAILED", {"exit_code": 3, "reason": "NonZeroExitCode"}, JobState.FAILURE, "Your job failed with exit code 3"),
        ("FAILED", {"exit_code": 0}, JobState.FAILURE, "Your job failed"),
        ("FAILED", {"exit_code": 0, "reason": "BadConstraints"}, JobState.FAILURE, "failed: BadConstraints"),
        ("FAILED", {"exit_code": 1, "reason": "BadConstraints"}, JobState.FAILURE, "exit code 1: BadConstraints"),
        ("FAILED", {"exit_code": None}, JobState.FAILURE, "Your job failed"),
        ("FAILED", {"exit_code": 137}, JobState.FAILURE, "exit code 137, as after signal 9 (SIGKILL)"),
        ("FAILED", {"exit_code": 143}, JobState.FAILURE, "exit code 143, as after signal 15 (SIGTERM)"),
        ("FAILED", {"exit_code": None, "signal": 15}, JobState.FAILURE, "ended by signal 15 (SIGTERM)"),
        ("FAILED", {"exit_code": 255}, JobState.FAILURE, "exit code 255"),
        ("FAILED", {"exit_code": None, "signal": 11}, JobState.FAILURE, "ended by signal 11 (SIGSEGV)"),
        ("FAILED", {"exit_code": None, "signal": 53}, JobState.FAILURE, "cannot be opened on the node"),
        ("FAILED", {"exit_code": None, "signal": 99}, JobState.FAILURE, "ended by signal 99"),
        ("OUT_OF_MEMORY", {"exit_code": 0}, JobState.FAILURE, "more memory than it asked for"),
        ("OUT_OF_MEMORY", {"signal": 125}, JobState.FAILURE, "more memory than it asked for"),
        ("TIMEOUT", {}, JobState.EXPIRED, "reached its time limit"),
        ("PENDING", {"reason": "Resources"}, JobState.IN_QUEUE, "Your job waits in the queue: Resources"),
        ("PENDING", {"restarts": 2}, JobState.IN_QUEUE, "waits in the queue to run again"),
        ("PENDING", {"reason": "DependencyNeverSatisfied"}, JobState.IN_QUEUE, "does not start until"),
        ("SPECIAL_EXIT", {}, JobState.IN_QUEUE, "is held"),
        ("CANCELLED", {"cancelled_by": "alice"}, JobState.SUCCESS, "Your job was cancelled"),
        ("CANCELLED", {"cancelled_by": "0"}, JobState.FAILURE, "cancelled by the site"),
        ("CANCELLED", {"cancelled_by": "bob"}, JobState.FAILURE, "cancelled by the site"),
        ("CANCELLED", {"exit_code": 143}, JobState.SUCCESS, "not known who did it"),
    ],
)
@pytest.mark.scenario(55, 56)
@pytest.mark.edge_case(2, 14)
def test_verdicts(state: str, values: dict[str, object], expected: JobState | None, text: str) -> None:
    verdict = interpret(seen(state, **values))
    assert verdict.state is expected
    assert text in verdict.text


def test_a_cancel_by_the_adapter_is_not_a_failure() -> None:
    verdict = interpret(seen("CANCELLED", cancelled_by="7700"), we_cancelled=True)
    assert verdict.state is JobState.SUCCESS
    assert verdict.text == "Your job was cancelled"


def test_a_cancel_by_the_adapter_does_not_hide_another_end() -> None:
    assert interpret(seen("FAILED", exit_code=3), we_cancelled=True).state is JobState.FAILURE
    assert interpret(seen("TIMEOUT"), we_cancelled=True).state is JobState.EXPIRED


def test_the_sites_own_table_comes_first() -> None:
    table = {"cancelled": JobState.FAILURE, "PR": JobState.IN_QUEUE}
    assert interpret(seen("CANCELLED"), table).state is JobState.FAILURE
    assert interpret(seen("PREEMPTED"), table).state is JobState.IN_QUEUE
    assert interpret(seen("COMPLETED"), table).state is JobState.SUCCESS


@given(st.sampled_from(sorted(WORDS)), st.none() | st.integers(0, 255), st.none() | st.integers(1, 127))
def test_success_needs_exit_code_zero_or_a_cancel(word: str, exit_code: int | None, signal: int | None) -> None:
    verdict = interpret(seen(word, exit_code=exit_code, signal=signal))
    if verdict.state is JobState.SUCCESS:
        assert word == "CANCELLED" or (word == "COMPLETED" and exit_code == 0 and signal is None)

"""Temporary and permanent refusals: this program's table against the errors of every version of Slurm."""

from __future__ import annotations

import json
import os
from errno import EAGAIN
from pathlib import Path

import pytest

from slurm_adapter.cluster.schedulers import refusals
from slurm_adapter.cluster.schedulers.interface import InDoubt, NotStarted, Postponed, Rejected
from slurm_adapter.cluster.schedulers.sbatch import judge_answer

FAILED = "sbatch: error: Batch job submission failed: "
RECORDED = sorted((Path(__file__).parent / "recorded").glob("*/errors.json"))
NO_ANSWERS = range(1000, 2000)
"""Numbers of errors of communication, which say nothing of a job."""


def read(path: Path) -> dict[str, int]:
    """The numbers of a version's errors, by their words."""
    errors = (text.split(" ", 1) for text in json.loads(path.read_text())["errors"].values())
    return {words: int(number) for number, words in errors}


@pytest.fixture(params=RECORDED, ids=lambda path: path.parent.name)
def version(request: pytest.FixtureRequest) -> Path:
    """A version's file."""
    assert isinstance(request.param, Path)
    return request.param


def test_every_release_is_recorded() -> None:
    assert {path.parent.name[:5] for path in RECORDED} == {
        "20.11", "21.08", "22.05", "23.02", "23.11", "24.05", "24.11", "25.05", "25.11", "26.05"
    }  # fmt: skip


def test_numbers_and_words_are_slurms_own(version: Path) -> None:
    errors = read(version)
    table = {**refusals.PASSING, refusals.POLICY[0]: refusals.POLICY[1]}
    assert {words: number for words, number in table.items() if words in errors}.items() <= errors.items()
    assert refusals.POLICY[0] in errors
    assert tuple(json.loads(version.read_text())["reasons"]) == refusals.PASSING_REASONS


def test_no_error_of_the_table_is_unknown_to_every_version() -> None:
    known = set[str]().union(*map(read, RECORDED))
    assert set(refusals.PASSING) - known == {os.strerror(EAGAIN)}


def test_an_error_of_communication_is_not_a_refusal(version: Path) -> None:
    for words, number in read(version).items():
        outcome = judge_answer(1, f"sbatch: error: slurm: a word before it\n{FAILED}{words}")
        if number in NO_ANSWERS and not words.startswith(("I/O stream", "Invalid MPI", "MPI plugin", "Plugin", "Data")):
            assert isinstance(outcome, InDoubt | NotStarted), words
        elif words in refusals.PASSING:
            assert outcome == Postponed(f"slurm: a word before it; Batch job submission failed: {words}")


@pytest.mark.parametrize("reason", refusals.PASSING_REASONS)
def test_a_limit_on_queued_jobs_passes(reason: str) -> None:
    """A QOS with MaxSubmitJobs=2 and a bulk of 4."""
    assert isinstance(judge_answer(1, f"sbatch: error: {reason}\n{FAILED}{refusals.POLICY[0]}"), Postponed)


@pytest.mark.parametrize(
    "said",
    [
        f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{FAILED}{refusals.POLICY[0]}",
        f"sbatch: error: AssocMaxCpuPerJobLimit\n{FAILED}{refusals.POLICY[0]}",
        f"sbatch: error: QOSMaxNodePerJobLimit\n{FAILED}{refusals.POLICY[0]}",
        f"sbatch: error: the policy of this site allows no more than 4 GPUs\n{FAILED}{refusals.POLICY[0]}",
        f"{FAILED}Invalid account or account/partition combination specified",
        f"{FAILED}Invalid partition name specified",
        f"{FAILED}Invalid qos specification",
        f"{FAILED}Requested node configuration is not available",
        f"{FAILED}Requested partition configuration not available now",
        f"{FAILED}Requested reservation is invalid",
        f"{FAILED}Invalid license specification",
        f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)",
    ],
)
def test_what_a_job_asks_for_is_refused_for_good(said: str) -> None:
    """Limits that a job itself exceeds, and names that do not exist, do not pass."""
    outcome = judge_answer(1, said)
    assert isinstance(outcome, Rejected)
    assert outcome.certain


def test_a_policy_without_a_reason_counts_jobs_an_hour() -> None:
    """Only the plugin job_submit/throttle gives none."""
    assert isinstance(judge_answer(1, f"{FAILED}{refusals.POLICY[0]}"), Postponed)


@pytest.mark.parametrize(
    ("number", "kind"), [(2016, Postponed), (2105, Postponed), (2050, Postponed), (2014, Rejected), (-1, Rejected)]
)
def test_an_error_that_an_older_sbatch_has_no_words_for(number: int, kind: type) -> None:
    outcome = judge_answer(1, f"{FAILED}Unknown error {number}")
    assert isinstance(outcome, kind)
    assert not isinstance(outcome, Rejected) or not outcome.certain


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (1, f"{FAILED}Unspecified error"),
        (1, f"sbatch: error: say why you need a GPU\n{FAILED}Unspecified error"),
        (1, f"{FAILED}Operation not permitted"),
        (1, f"{FAILED}Unknown negative error number"),
        (1, "sbatch: error: cli_filter plugin terminated with error"),
        (1, "sbatch: error: Plugin stack post-option processing failed"),
        (1, "/usr/local/bin/sbatch: line 3: HOME: unbound variable"),
        (1, "Refused: your project has no hours left. Connect to the help desk."),
        (2, "usage: sbatch [options]"),
        (3, ""),
        (64, "ERROR: timed out of patience, said the wrapper\n"),
        (125, "no"),
    ],
)
def test_an_sbatch_that_ended_by_itself_has_refused(status: int, said: str) -> None:
    """A job_submit.lua that returns slurm.ERROR, and a site's own sbatch that refuses in its own words."""
    outcome = judge_answer(status, said)
    assert isinstance(outcome, Rejected)
    assert not outcome.certain
    assert outcome.words


@pytest.mark.parametrize(
    ("status", "said"),
    [(0, "Refused: no hours left"), (1, "17\nERROR: cannot write my log"), (124, ""), (137, "Killed"), (143, "no")],
)
def test_an_sbatch_that_was_ended_or_names_a_job_is_in_doubt(status: int, said: str) -> None:
    assert isinstance(judge_answer(status, said), InDoubt)

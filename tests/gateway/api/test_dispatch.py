"""Jobs of UCloud are taken once they are claimed, and go to Slurm behind the answers."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.gateway.doors import Doors, opened, wait_until, within

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from slurm_adapter.cluster.schedulers.interface import Outcome, Submission
    from slurm_adapter.gateway.limits import Limits

JOBS = "/ucloud/example/jobs"


@pytest.fixture
def doors(tmp_path: Path, limits: Limits) -> Iterator[Doors]:
    with opened(tmp_path, limits=limits) as doors:
        wait_until(lambda: doors.ask("GET", "/healthz/ready").is_success, "it is not ready")
        yield doors


def test_jobs_that_come_while_sbatch_runs_go_together(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row f: UCloud sends a bulk one by one; each is answered while sbatch runs for those before."""
    inner, begun, go_on = doors.slurm.submit, threading.Event(), threading.Event()
    rounds: list[int] = []

    def slow(submissions: Sequence[Submission]) -> list[Outcome]:
        rounds.append(len(submissions))
        begun.set()
        assert go_on.wait(60)
        return inner(submissions)

    monkeypatch.setattr(doors.slurm, "submit", slow)
    known = doors.as_ucloud()
    assert doors.ask("POST", JOBS, {"items": [doors.job("1")]}, **known).status_code == 200
    assert begun.wait(60)
    for number in range(2, 12):
        assert doors.ask("POST", JOBS, {"items": [doors.job(str(number))]}, **known).status_code == 200
    go_on.set()
    doors.until_dispatched()
    assert rounds == [1, 10]


def test_what_sbatch_alone_refuses_ends_as_failure_with_its_words(doors: Doors) -> None:
    """Row f: the price of an answer before sbatch."""
    doors.slurm.refuse_next("Batch job submission failed: Invalid license specification")
    assert doors.ask("POST", JOBS, {"items": [doors.job("1")]}, **doors.as_ucloud()).status_code == 200
    wait_until(lambda: doors.offline.now_stage("1") == "ended", "it is not refused")
    record = doors.offline.site.store.get("1")
    assert (record.state, "Invalid license specification" in (record.status or "")) == ("FAILURE", True)


@within(facts_refresh=0.1)
def test_what_the_facts_refuse_is_400_and_newer_facts_are_asked_for_before(doors: Doors) -> None:
    """Row f: what must be known for a refusal is known before."""
    main = replace(doors.slurm.partitions()["main"], state="DRAIN")
    doors.slurm.other_partitions["main"] = main

    def create(id_: str) -> tuple[int, str]:
        answer = doors.ask("POST", JOBS, {"items": [doors.job(id_)]}, **doors.as_ucloud())
        return answer.status_code, answer.text

    # Facts from before the change do for a while: then Slurm is asked.
    numbers = iter(range(1, 1000))
    wait_until(lambda: create(str(next(numbers)))[0] == 400, "the partition takes jobs")
    status, text = create("5000")
    assert (status, "partition main takes no new jobs: its state is DRAIN" in text) == (400, True)
    assert doors.offline.site.store.find(["5000"]) == {}
    doors.slurm.other_partitions.clear()
    wait_until(lambda: create("5001")[0] == 200, "it is refused still")


@within(claim_answer=0.5, claimed_answer=0.3)
def test_a_claim_that_waits_for_a_held_database_is_given_up_and_leaves_nothing(doors: Doors) -> None:
    """Row e: a database that another process holds is answered with 502, in time."""
    with closing(sqlite3.connect(doors.offline.config.state_dir / "jobs.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = doors.ask("POST", JOBS, {"items": [doors.job("1")]}, **doors.as_ucloud())
        assert answer.status_code == 502, answer.text
    create = partial(doors.ask, "POST", JOBS, {"items": [doors.job("2")]}, **doors.as_ucloud())
    wait_until(lambda: create().status_code == 200, "the database is still busy")
    assert doors.offline.site.store.find(["1"]) == {}

"""Jobs of UCloud are taken once they are claimed, and go to Slurm behind the answers."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.gateway.api_site import ApiSite, opened, wait_until, within

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from slurm_adapter.cluster.schedulers.interface import Outcome, Submission
    from slurm_adapter.gateway.limits import Limits

JOBS = "/ucloud/example/jobs"


@pytest.fixture
def api(tmp_path: Path, limits: Limits) -> Iterator[ApiSite]:
    with opened(tmp_path, limits=limits) as api:
        wait_until(lambda: api.ask("GET", "/healthz/ready").is_success, "it is not ready")
        yield api


def test_jobs_that_come_while_sbatch_runs_go_together(api: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row f: UCloud sends a bulk one by one; each is answered while sbatch runs for those before."""
    inner, begun, go_on = api.slurm.submit, threading.Event(), threading.Event()
    rounds: list[int] = []

    def slow(submissions: Sequence[Submission]) -> list[Outcome]:
        rounds.append(len(submissions))
        begun.set()
        assert go_on.wait(60)
        return inner(submissions)

    monkeypatch.setattr(api.slurm, "submit", slow)
    known = api.as_ucloud()
    assert api.ask("POST", JOBS, {"items": [api.job("1")]}, **known).status_code == 200
    assert begun.wait(60)
    for number in range(2, 12):
        assert api.ask("POST", JOBS, {"items": [api.job(str(number))]}, **known).status_code == 200
    go_on.set()
    api.until_dispatched()
    assert rounds == [1, 10]


def test_what_sbatch_alone_refuses_ends_as_failure_with_its_words(api: ApiSite) -> None:
    """Row f: the price of an answer before sbatch."""
    api.slurm.refuse_next("Batch job submission failed: Invalid license specification")
    assert api.ask("POST", JOBS, {"items": [api.job("1")]}, **api.as_ucloud()).status_code == 200
    wait_until(lambda: api.offline.now_stage("1") == "ended", "it is not refused")
    record = api.offline.site.store.get("1")
    assert (record.state, "Invalid license specification" in (record.status or "")) == ("FAILURE", True)


@within(facts_refresh=0.1)
def test_what_the_facts_refuse_is_400_and_newer_facts_are_asked_for_before(api: ApiSite) -> None:
    """Row f: what must be known for a refusal is known before."""
    main = replace(api.slurm.partitions()["main"], state="DRAIN")
    api.slurm.other_partitions["main"] = main

    def create(id_: str) -> tuple[int, str]:
        answer = api.ask("POST", JOBS, {"items": [api.job(id_)]}, **api.as_ucloud())
        return answer.status_code, answer.text

    # Facts from before the change do for a while: then Slurm is asked.
    numbers = iter(range(1, 1000))
    wait_until(lambda: create(str(next(numbers)))[0] == 400, "the partition takes jobs")
    status, text = create("5000")
    assert (status, "partition main takes no new jobs: its state is DRAIN" in text) == (400, True)
    assert api.offline.site.store.find(["5000"]) == {}
    api.slurm.other_partitions.clear()
    wait_until(lambda: create("5001")[0] == 200, "it is refused still")


@within(claim_answer=0.5, claimed_answer=0.3)
def test_a_claim_that_waits_for_a_held_database_is_given_up_and_leaves_nothing(api: ApiSite) -> None:
    """Row e: a database that another process holds is answered with 502, in time."""
    with closing(sqlite3.connect(api.offline.config.state_dir / "jobs.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = api.ask("POST", JOBS, {"items": [api.job("1")]}, **api.as_ucloud())
        assert answer.status_code == 502, answer.text
    create = partial(api.ask, "POST", JOBS, {"items": [api.job("2")]}, **api.as_ucloud())
    wait_until(lambda: create().status_code == 200, "the database is still busy")
    assert api.offline.site.store.find(["1"]) == {}

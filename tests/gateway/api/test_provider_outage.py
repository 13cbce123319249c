"""The provider API while Slurm is down or slow."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.core.records import Stage
from slurm_adapter.gateway.http import strict_route
from slurm_adapter.jobs import cancel
from tests.gateway.api.test_provider import JOBS, api, names_in_slurm, requests, why
from tests.gateway.api_site import ApiSite, wait_until, within

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slurm_adapter.cluster.schedulers.interface import Outcome, Partition, Submission

__all__ = ["api"]


@pytest.mark.scenario(27)
def test_slurm_known_to_be_away_is_502_and_leaves_nothing(api: ApiSite) -> None:
    """Row e: UCloud takes 503 for a user who is not connected, and repeats it for 30 seconds."""
    tell_health(api, ready=True)
    api.offline.slurm.down = True
    tell_health(api, ready=False)
    answer = api.ask("POST", JOBS, {"items": [api.job("8")]}, **api.as_ucloud())
    assert answer.status_code == 502
    assert "Slurm" in why(answer)
    assert api.offline.site.store.find(["8"]) == {}
    api.offline.slurm.down = False
    tell_health(api, ready=True)
    assert api.ask("POST", JOBS, {"items": [api.job("8")]}, **api.as_ucloud()).status_code == 200
    assert len(names_in_slurm(api)) == 1


def test_while_slurm_is_away_no_request_of_ucloud_is_answered_with_503(api: ApiSite) -> None:
    """Row e: what needs Slurm gets 502; the end of a job is noted, and comes once Slurm is back."""
    known = api.as_ucloud()
    assert api.ask("POST", JOBS, {"items": [api.job("1")]}, **known).status_code == 200
    assert len(names_in_slurm(api)) == 1
    api.slurm.down = True
    tell_health(api, ready=False)
    asked = {}
    for name, body in requests(api.job("1")).items():
        path = f"/ucloud/example/{name.partition(' ')[0]}"
        asked[name] = api.ask("GET" if body is None else "POST", path, body, **known)
    needs = {f"jobs/{name}" for name in ("extend", "suspend", "unsuspend", "attachResource", "detachResource")}
    needs |= {"jobs", "jobs/attachResource file", "jobs/detachResource file"}
    needs |= {"jobs/retrieveUtilization?categoryId=example-compute"}
    assert {name for name, answer in asked.items() if answer.status_code == 502} == needs
    assert {answer.status_code for answer in asked.values()} == {200, 400, 502}
    assert all("Slurm" in why(asked[name]) for name in needs)
    assert api.offline.site.store.get("1").cancel_requested is not None
    api.slurm.down = False
    api.slurm.now += cancel.CANCEL_AGAIN_SECONDS
    wait_until(lambda: api.offline.now_stage("1") is Stage.ENDED, "it goes on")


def tell_health(api: ApiSite, *, ready: bool) -> None:
    """Wait until the gateway says so, and not only because of a pass that failed."""

    def told() -> bool:
        answer = api.ask("GET", "/healthz/ready")
        return answer.status_code == 200 if ready else "Slurm does not answer" in (answer.json()["why"] or "")

    wait_until(told, f"ready is not {ready}")


def test_what_is_claimed_while_slurm_goes_away_goes_on_once_it_is_back(api: ApiSite) -> None:
    """Row e: before it is known that the controller is away, jobs are taken, and none is lost."""
    tell_health(api, ready=True)
    api.slurm.down = True
    answers = [api.ask("POST", JOBS, {"items": [api.job(id_)]}, **api.as_ucloud()) for id_ in ("1", "2")]
    taken = [id_ for id_, answer in zip(("1", "2"), answers, strict=True) if answer.status_code == 200]
    assert {answer.status_code for answer in answers} <= {200, 502}
    assert set(api.offline.site.store.find(["1", "2"])) == set(taken)
    api.slurm.down = False
    assert len(names_in_slurm(api)) == len(taken)


@pytest.mark.scenario(26)
def test_an_sbatch_that_hangs_is_answered_in_time_and_its_job_is_kept(
    api: ApiSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UCloud waits five seconds. The double deletes a job if its create failed; this one it keeps."""
    inner, go_on = api.slurm.submit, threading.Event()

    def hang(submissions: Sequence[Submission]) -> list[Outcome]:
        assert go_on.wait(60)
        return inner(submissions)

    monkeypatch.setattr(api.slurm, "submit", hang)
    try:
        answer = api.ucloud.create(api.job("9"))
    finally:
        go_on.set()
    assert answer.status == 200, answer
    assert api.ucloud.knows("9")
    record = api.offline.site.store.get("9")
    assert record.slurm_name == answer.json["responses"][0]["id"]
    assert len(names_in_slurm(api)) <= 1


@within(facts_age=0.0, facts_answer=0.5)
def test_a_cluster_that_hangs_before_the_claim_is_502_and_leaves_nothing(
    api: ApiSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell_health(api, ready=True)
    go_on, inner = threading.Event(), api.slurm.partitions

    def partitions() -> Mapping[str, Partition]:
        assert go_on.wait(60)
        return inner()

    monkeypatch.setattr(api.slurm, "partitions", partitions)
    answer = api.ask("POST", JOBS, {"items": [api.job("10")]}, **api.as_ucloud())
    assert answer.status_code == 502
    go_on.set()
    create = partial(api.ask, "POST", JOBS, {"items": [api.job("11")]}, **api.as_ucloud())
    wait_until(lambda: create().status_code == 200, "the cluster still hangs")
    assert api.offline.site.store.find(["10"]) == {}
    assert len(names_in_slurm(api)) == 1


@within(claimed_answer=60.0, claim_answer=120.0, facts_age=0.0, facts_answer=60.0)
def test_the_time_that_it_took_to_read_a_request_is_not_waited_for_again(
    api: ApiSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict_route, "monotonic", lambda: time.monotonic() - 120)  # so long ago it came
    go_on = threading.Event()

    def partitions() -> dict[str, Partition]:
        assert go_on.wait(60)
        return {}

    monkeypatch.setattr(api.slurm, "partitions", partitions)
    try:
        answer = api.ask("POST", JOBS, {"items": [api.job("12")]}, **api.as_ucloud())  # waits for 30 s at most
    finally:
        go_on.set()
    assert answer.status_code == 502

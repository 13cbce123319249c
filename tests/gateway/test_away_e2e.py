"""Slurm's controller goes away under a gateway that is served, and comes back."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.gateway.test_ucloud_e2e import Served, served, tell, timed, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.adapter import LiveSiteMaker
    from tests.sandbox_cluster import Cluster

pytestmark = pytest.mark.sandbox


@pytest.fixture
def site(make_adapter: LiveSiteMaker, tmp_path: Path) -> Iterator[Served]:
    with served(make_adapter, tmp_path) as site:
        yield site


def until_ready(site: Served, *, ready: bool) -> None:
    """Wait until the gateway says so."""
    url = f"http://127.0.0.1:{site.port}/healthz/ready"
    until(lambda: httpx.get(url, timeout=30).is_success is ready, f"ready is not {ready}")


@contextmanager
def away(cluster: Cluster, how: str) -> Iterator[None]:
    """The controller is away within the block, and started again at its end."""
    controller = cluster.slurmctld
    getattr(controller, how)()
    try:
        yield
    finally:
        if how == "pause":
            controller.resume()
        else:
            controller.start()


@pytest.mark.parametrize("how", ["stop", "kill", "pause"])
def test_a_controller_that_is_away_is_told_at_once_and_jobs_go_on_once_it_is_back(
    site: Served, cluster: Cluster, how: str
) -> None:
    """Row e: create was answered 503 after 4.5 s, which UCloud repeated for 30 s; health stayed ready for 12 s."""
    until_ready(site, ready=True)
    running = site.create(site.job("4101", "1", "sleep 600"))
    site.until_state("1", "RUNNING")
    cluster.save_state()
    with away(cluster, how):
        claimed = site.ucloud.create(site.job("4101", "2", "sleep 600"))
        tell(f"{how}: not ready after {timed(lambda: until_ready(site, ready=False)):.1f} s")
        refused = site.ucloud.create(site.job("4101", "3", "sleep 600"))
        tell(f"{how}: create answered {claimed.status}, and then {refused.status} after {refused.seconds:.3f} s")
        assert (refused.status, "Slurm" in refused.text) == (502, True)
        extend = {"items": [{"job": site.ucloud.job("1"), "requestedTime": {"hours": 1, "minutes": 0, "seconds": 0}}]}
        for path, body in (
            ("jobs/extend", extend),
            ("jobs/suspend", {"items": [{"job": site.ucloud.job("1")}]}),
            ("jobs/unsuspend", {"items": [{"job": site.ucloud.job("1")}]}),
        ):
            answer = site.ucloud.call(f"/ucloud/example/{path}", body, user="alice")
            tell(f"{how}: {path} answered {answer.status} after {answer.seconds:.3f} s")
            assert answer.status == 502
        use = site.ucloud.call(
            "/ucloud/example/jobs/retrieveUtilization?categoryId=example-compute", user="alice", method="GET"
        )
        assert use.status == 502
        ended = site.ucloud.terminate("1", user="alice")
        tell(f"{how}: terminate answered {ended.status} after {ended.seconds:.3f} s")
        assert ended.status == 200
    tell(f"{how}: ready again after {timed(lambda: until_ready(site, ready=True)):.1f} s")
    if claimed.status == 200:
        site.until_state("2", "RUNNING")
    site.until_state("1", "SUCCESS")
    assert site.adapter.now(running).cancel_sent is not None
    assert site.adapter.site.store.find(["3"]) == {}

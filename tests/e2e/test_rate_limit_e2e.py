"""A site whose slurmctld limits each user's requests: `SlurmctldParameters=rl_enable`, 30 tokens, 2 more each second.

Slurm's commands wait by themselves until they get through (slurm.conf(5)), which is what must not be given up.
"""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.cluster.schedulers import sbatch
from slurm_adapter.cluster.schedulers.versions import release
from slurm_adapter.core.specification import Owner, parse_specifications
from slurm_adapter.jobs import cancel, item, submit
from slurm_adapter.jobs.sync import sync

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.adapter import LiveSiteMaker
    from tests.sandbox_cluster import Cluster

pytestmark = [pytest.mark.sandbox, pytest.mark.releases]

USERS = 20


@pytest.fixture
def limited(cluster: Cluster) -> Iterator[None]:
    """Switch the limiter on."""
    if release(cluster.ask("squeue", "--version").split()[1]) < (23, 2):
        pytest.skip("this release has no limiter: it came with 23.02")
    file = cluster.layout.root / "slurm" / "slurm.conf"
    text = file.read_text()
    for content in (f"{text}SlurmctldParameters=rl_enable\n", text):
        file.write_text(content)
        cluster.slurmctld.stop()
        cluster.slurmctld.start()
        cluster.wait_for(lambda: cluster.run("scontrol", "ping").returncode == 0)
        if content != text:
            yield


def count_requests(cluster: Cluster) -> dict[str, int]:
    """Return how many requests slurmctld had from each user since it counts (sdiag(1))."""
    told = cluster.ask("sdiag", user="root").partition("statistics by user")[2]
    return {name: int(count) for name, count in re.findall(r"^\s+(\w+)\s+\(\s*\d+\) count:(\d+)", told, re.MULTILINE)}


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=pytest.mark.long)])
def test_a_bulk_and_questions_of_many_users_get_through_the_rate_limiter(
    make_adapter: LiveSiteMaker, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """All as one service account; nobody starves, nothing is lost or doubled."""
    if count < sbatch.START_SECONDS:  # not all fit into one command
        monkeypatch.setattr(sbatch, "START_SECONDS", count // 2)
    adapter = make_adapter(identity="service")
    site = adapter.site
    waiting = adapter.submit(*[adapter.shell("true", begin="now+1hour")] * USERS)
    cluster.ask("sdiag", "--reset", user="root")
    sync(site)
    print("requests of one sync:", count_requests(cluster))  # noqa: T201  # the figure in docs/operation.md

    def submit_bulk() -> float:
        begun = time.monotonic()
        bulk = json.dumps({"items": [adapter.shell("true")] * count}).encode()
        other = site.for_thread()
        with closing(other.store):  # the rest of it is the site's
            submit.submit(other, Owner(created_by="alice"), [item.Item(each) for each in parse_specifications(bulk)])
        return time.monotonic() - begun

    def ask(number: int) -> float:
        begun = time.monotonic()
        other = site.for_thread()
        with closing(other.store):  # the rest of it is the site's
            cancel.cancel(other, [waiting[number].id])
        return time.monotonic() - begun

    with ThreadPoolExecutor(USERS + 1) as pool:
        bulk = pool.submit(submit_bulk)
        questions = list(pool.map(ask, range(USERS)))
        took = bulk.result()
    print(f"bulk of {count}: {took:.0f} s; questions: {min(questions):.1f} to {max(questions):.1f} s")  # noqa: T201
    begun = time.monotonic()
    while any(record.slurm_id is None for record in site.store.all(count + USERS)):
        assert sync(site).problems == ()
    print(f"the rest: {time.monotonic() - begun:.0f} s; requests: {count_requests(cluster)}")  # noqa: T201
    records = site.store.all(count + USERS)
    assert len({record.slurm_id for record in records}) == count + USERS

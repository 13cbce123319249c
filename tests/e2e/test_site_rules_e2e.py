"""Rules and histories of real sites, on a real cluster and without a change of its configuration.

A site's own sbatch, limits that pass, jobs that are over before anybody looks, and a folder that is gone.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.adapter import Adapter
from slurm_adapter.cluster.schedulers.versions import read_client, release
from slurm_adapter.core import plan
from slurm_adapter.core.errors import Refused
from slurm_adapter.core.records import Stage
from slurm_adapter.core.states import NOT_OPENED_TEXT, JobState
from slurm_adapter.jobs.sync import sync
from slurm_adapter.local.configuration_file import load_config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.adapter import LiveSite, LiveSiteMaker
    from tests.sandbox_cluster import Cluster

pytestmark = [pytest.mark.sandbox, pytest.mark.releases]

WRAPPER = """#!/bin/bash
set -eu
if [ -e "$(dirname "$0")/refuses" ]; then
    echo "acme-hpc: no hours left for $USER ($HOME $LOGNAME $SHELL)"
    exit 1
fi
exec /usr/bin/sbatch "$@"
"""


@pytest.fixture
def own_sbatch(make_adapter: LiveSiteMaker, cluster: Cluster) -> Iterator[LiveSite]:
    """Make a site with an sbatch of its own, which refuses jobs while a file `refuses` is beside it."""
    adapter = make_adapter()
    folder = adapter.peers.parent / "sbin"
    folder.mkdir()
    (folder / "sbatch").write_text(WRAPPER)
    (folder / "sbatch").chmod(0o755)
    there = f"{cluster.shared}/{folder.relative_to(cluster.shared_here)}"
    text = adapter.config_file.read_text()
    adapter.config_file.write_text(
        text.replace("[clusters.main]\n", f'[clusters.main]\npath = "{there}:/usr/bin:/bin"\n')
    )
    with Adapter(load_config(adapter.config_file)) as site:
        yield replace(adapter, site=site)


def test_lines_for_other_schedulers_mean_nothing_to_slurm(adapter: LiveSite) -> None:
    [record] = adapter.submit(adapter.specification("pbs"))
    assert adapter.until_successful(record) == [f"{record.slurm_name} 1\n"]


def test_a_sites_own_sbatch_refuses_in_its_own_words_and_sees_its_users_environment(own_sbatch: LiveSite) -> None:
    """Row d: the refusal is final at once. Row e: a bash wrapper with `set -u` that uses HOME, USER, LOGNAME, SHELL."""
    refuses = own_sbatch.peers.parent / "sbin" / "refuses"
    refuses.touch()
    with pytest.raises(Refused, match=r"acme-hpc: no hours left for alice \(/srv/home/alice alice /bin/bash\)"):
        own_sbatch.submit(own_sbatch.shell("true"))
    refuses.unlink()
    assert sync(own_sbatch.site).problems == ()
    assert own_sbatch.until_successful(*own_sbatch.submit(own_sbatch.shell("echo well"))) == ["well\n"]
    assert [job.state for job in own_sbatch.site.store.all(10)].count(JobState.SUCCESS) == 1


def test_what_slurm_refuses_for_a_while_is_submitted_once_it_passes(
    adapter: LiveSite, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row i: a partition that the site drains, as one limit that passes."""
    monkeypatch.setattr(plan, "RETRY_SECONDS", 1)
    cluster.ask("scontrol", "update", "PartitionName=main", "State=DRAIN", user="root")
    try:
        records = adapter.submit(adapter.shell("echo first"), adapter.shell("echo second"))
        for record in map(adapter.now, records):
            assert record.stage is Stage.CLAIMED
            assert "Slurm does not accept the job at present; the adapter retries" in record.status
            assert "inactive or drain" in record.status
    finally:
        cluster.ask("scontrol", "update", "PartitionName=main", "State=UP", user="root")
    assert adapter.until_successful(*records) == ["first\n", "second\n"]


def test_a_job_that_is_over_before_anybody_looks_is_told_as_running_before_its_end(
    adapter: LiveSite, cluster: Cluster
) -> None:
    """Row g, with its start; and row h: the default time limit is Slurm's, too."""
    [record] = adapter.submit(adapter.shell("true"))
    slurm_id = str(record.slurm_id)
    assert cluster.wait_end(slurm_id) == "COMPLETED"
    assert (record.time_limit, cluster.show(slurm_id)["TimeLimit"]) == (1800, "00:30:00")
    [ended] = adapter.until_ended(record)
    assert ended.started is not None
    assert ended.ended is not None
    assert ended.started <= ended.ended
    states = [update.state for update in adapter.site.store.updates(record.id) if update.state is not None]
    assert states[-2:] == [JobState.RUNNING, JobState.SUCCESS]


def test_a_job_whose_folder_is_gone_when_it_starts_says_so_and_leaves_none(adapter: LiveSite, cluster: Cluster) -> None:
    """From 23.11 on Slurm makes the folder of the output file anew."""
    [record] = adapter.submit(adapter.shell("echo ran", begin="now+1hour"))
    folder = adapter.file(record, "")
    shutil.rmtree(folder)
    cluster.ask("scontrol", "update", f"job={record.slurm_id}", "StartTime=now", user="root")
    [ended] = adapter.until_ended(record)
    assert (ended.state, ended.status) == (JobState.FAILURE, NOT_OPENED_TEXT)
    assert not folder.exists()


@pytest.fixture
def no_login(cluster: Cluster) -> Iterator[None]:
    """Let alice log in on no compute node."""
    files = [node.etc / "passwd" for node in cluster.nodes]
    texts = [file.read_text() for file in files]
    for file, text in zip(files, texts, strict=True):
        file.write_text(re.sub(r"^(alice:.*):/bin/bash$", r"\1:/usr/sbin/nologin", text, flags=re.MULTILINE))
    yield
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)


@pytest.mark.usefixtures("no_login")
def test_a_job_that_slurm_holds_for_its_login_environment_fails(adapter: LiveSite, cluster: Cluster) -> None:
    """Row m: from 25.11 on Slurm puts such a job back into the queue, held. Older ones start it without."""
    if release(read_client(cluster.ask("squeue", "--version"))) < (25, 11):
        pytest.skip("this Slurm holds no such job")
    [record] = adapter.submit(adapter.shell("true"))
    [ended] = adapter.until_ended(record)
    assert (ended.state, ended.status) == (JobState.FAILURE, plan.NO_LOGIN_TEXT)
    cluster.wait_state(str(record.slurm_id), "CANCELLED")

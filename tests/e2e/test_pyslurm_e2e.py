"""The whole way of jobs by pyslurm, on a real cluster. If the login node has no pyslurm the tests are skipped."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.adapter import Adapter
from slurm_adapter.cluster.schedulers.pyslurm import PyslurmScheduler
from slurm_adapter.core.states import JobState
from slurm_adapter.local.configuration_file import load_config
from tests.adapter import UNTIL_TOLD
from tests.sandbox_cluster import PYSLURM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.adapter import LiveSite, LiveSiteMaker
    from tests.sandbox_cluster import Cluster

pytestmark = [pytest.mark.sandbox, pytest.mark.releases]


@pytest.fixture
def by_pyslurm(cluster: Cluster, make_adapter: LiveSiteMaker) -> Iterator[LiveSite]:
    """A site that speaks to Slurm by pyslurm, as the one account of all jobs."""
    cluster.need_pyslurm()
    adapter = make_adapter("local", "service")
    text = re.sub(
        r"^\[clusters\.main\]$",
        f'[clusters.main]\nscheduler = "pyslurm"\npyslurm_python = "{PYSLURM}"',
        adapter.config_file.read_text(),
        flags=re.MULTILINE,
    )
    adapter.config_file.write_text(text)
    adapter.site = Adapter(load_config(adapter.config_file))
    assert isinstance(adapter.site.scheduler, PyslurmScheduler)
    with adapter.site:
        yield adapter


def test_check_says_which_pyslurm_it_is(by_pyslurm: LiveSite) -> None:
    done = by_pyslurm.run("check")
    assert done.returncode == 0, done.stdout
    words = re.search(r"^ok +pyslurm (\d+)\.(\d+)\.\d+ fits Slurm (\d+)\.(\d+)\.\d+$", done.stdout, re.MULTILINE)
    assert words is not None, done.stdout
    assert (int(words[1]), int(words[2])) == (int(words[3]), int(words[4]))


def test_jobs_find_each_other_whoever_handed_them_in(by_pyslurm: LiveSite) -> None:
    [server] = by_pyslurm.start(by_pyslurm.shell(UNTIL_TOLD))
    [node] = by_pyslurm.nodes_of(server)
    consumer = by_pyslurm.shell("getent hosts database; getent hosts job-2-1", peers={"database": server}, replicas=2)
    [said] = by_pyslurm.until_successful(*by_pyslurm.submit(consumer))
    assert said.split()[:2] == [node.address, "database"]
    by_pyslurm.tell(server)
    by_pyslurm.until_successful(server)


def test_how_jobs_end(by_pyslurm: LiveSite) -> None:
    codes = {"exit 0": JobState.SUCCESS, "exit 3": JobState.FAILURE, "kill -9 $$": JobState.FAILURE}
    records = by_pyslurm.submit(*map(by_pyslurm.shell, codes))
    ended = by_pyslurm.until_ended(*records)
    assert [record.state for record in ended] == list(codes.values())
    assert [record.exit_code for record in ended] == [0, 3, 137]


def test_arrays_and_jobs_that_pyslurm_cannot_describe(by_pyslurm: LiveSite) -> None:
    array, waits = by_pyslurm.submit(by_pyslurm.specification("array"), by_pyslurm.shell("sleep 60", begin="now+1hour"))
    by_pyslurm.sync_until(lambda: by_pyslurm.now(array).state is JobState.RUNNING)
    by_pyslurm.cancel(array, waits)
    for record in by_pyslurm.until_ended(array, waits):
        assert (record.state, record.status) == (JobState.SUCCESS, "Your job was cancelled")


def test_a_job_has_the_same_environment_and_resources_as_by_sbatch(
    by_pyslurm: LiveSite, make_adapter: LiveSiteMaker
) -> None:
    by_sbatch = make_adapter("local", "service", first_id=1)
    found = []
    for adapter in (by_pyslurm, by_sbatch):
        show = "scontrol show job $SLURM_JOB_ID -o"
        specification = adapter.shell(f"env -0 | tr '\\n\\0' ' \\n' | sort; echo ==; {show}", replicas=2)
        [text] = adapter.until_successful(*adapter.submit(specification))
        environment, _, shown = text.partition("\n==\n")
        variables = dict(line.split("=", 1) for line in environment.splitlines() if "=" in line)
        values = dict(word.split("=", 1) for word in shown.split() if "=" in word)
        assert values.keys() & {"TRES", "ReqTRES"}
        found.append((variables, {key: values[key] for key in _SAME if key in values}))
    (variables, resources), (others, other_resources) = found
    assert resources == other_resources
    assert others.keys() - variables.keys() - _SBATCHS_OWN == set()
    launchers = {name: value for name, value in others.items() if re.search("HYDRA|MCA|TRES", name)}
    assert launchers.items() <= variables.items()


_SAME = (
    "NumNodes", "NumCPUs", "NumTasks", "CPUs/Task", "TRES", "ReqTRES", "AllocTRES",
    "MinCPUsNode", "MinMemoryNode", "TimeLimit", "Partition",
    "Requeue", "OverSubscribe", "Restarts", "UserId", "GroupId",
)  # fmt: skip
_SBATCHS_OWN = frozenset({"SLURM_PRIO_PROCESS", "SLURM_SUBMIT_DIR", "SLURM_SUBMIT_HOST"})
"""What sbatch tells of itself."""

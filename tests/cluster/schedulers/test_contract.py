"""The contract of all schedulers: the one in memory, and Slurm's commands on a real cluster."""

from __future__ import annotations

import ipaddress
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import pytest

from slurm_adapter.cluster.schedulers.command_line import CommandLineScheduler
from slurm_adapter.cluster.schedulers.fake import FakeScheduler
from slurm_adapter.cluster.schedulers.interface import Accepted, InDoubt, Load, NotStarted, Rejected, Submission
from slurm_adapter.cluster.schedulers.listings import NAME_BYTES
from slurm_adapter.cluster.schedulers.pyslurm import PyslurmScheduler
from slurm_adapter.cluster.transports.local import LocalTransport
from slurm_adapter.core.directives import Directive
from slurm_adapter.core.errors import Refused, TryAgain, Unknown
from slurm_adapter.core.states import ENDED, WAITING
from slurm_adapter.sandbox import layout
from tests.sandbox_cluster import PYSLURM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slurm_adapter.cluster.schedulers.interface import Outcome, Scheduler
    from slurm_adapter.core.observation import Observation
    from tests.sandbox_cluster import Cluster


pytestmark = pytest.mark.releases

OPERATOR = ("sudo", "-n", "-u", "slurm")


class Bench(Protocol):
    """A scheduler, and what makes its jobs move."""

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler in the test."""

    def make(self, script: str, *directives: str, user: str = "alice") -> Submission:
        """A job that can be dispatched; `script` is `sleep 300` or `exit N`."""

    def refuse(self) -> Submission:
        """A job that will be refused."""

    def start(self, slurm_id: int) -> None:
        """Let a job run."""

    def finish(self, slurm_id: int, exit_code: int) -> None:
        """Let a job with the script `exit N` run to its end."""

    def requeue(self, slurm_id: int) -> None:
        """Put a running job back into the queue."""

    def empty(self) -> None:
        """End all jobs that other tests left."""

    def away(self) -> Scheduler:
        """The same while the controller is out of reach."""


class FakeBench:
    """Jobs in memory."""

    def __init__(self) -> None:
        self.scheduler = FakeScheduler()
        self.scheduler.partition_limit = 172_800

    def make(self, script: str, *directives: str, user: str = "alice") -> Submission:
        """See `Bench`."""
        token = f"test-{uuid.uuid4().hex[:12]}"
        words = [word.removeprefix("--").partition("=") for line in directives for word in line.split()[1:]]
        given = [Directive(name, value) for name, _, value in words if value]
        return Submission(token, user, f"/srv/{token}", (Directive("comment", f"{script} {directives}"), *given))

    def refuse(self) -> Submission:
        """See `Bench`."""
        self.scheduler.refuse_next("Batch job submission failed: Invalid partition name specified")
        return self.make("exit 0")

    def start(self, slurm_id: int) -> None:
        """See `Bench`."""
        self.scheduler.start(slurm_id)

    def finish(self, slurm_id: int, exit_code: int) -> None:
        """See `Bench`."""
        self.scheduler.start(slurm_id)
        self.scheduler.finish(slurm_id, exit_code)

    def requeue(self, slurm_id: int) -> None:
        """See `Bench`."""
        self.scheduler.requeue(slurm_id)

    def empty(self) -> None:
        """See `Bench`. There are none."""

    def away(self) -> Scheduler:
        """See `Bench`."""
        self.scheduler.down = True
        return self.scheduler


class RealBench:
    """Jobs on the sandbox."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._made: list[Submission] = []
        self._transport = LocalTransport(cluster.enter())
        self.scheduler: Scheduler = CommandLineScheduler(self._transport, operator=OPERATOR)

    def make(self, script: str, *directives: str, user: str = "alice") -> Submission:
        """See `Bench`."""
        token = f"test-{uuid.uuid4().hex[:12]}"
        folder = f"{self._cluster.shared}/home/{user}/{token} '\" $(id)"
        lines = ["#!/bin/bash", f"#SBATCH --job-name={token} --output=/dev/null", *directives, script, ""]
        self._cluster.ask(
            *("sh", "-c", 'mkdir "$1" && cat >"$1/job.sbatch"', "sh", folder),
            user=user,
            stdin="\n".join(lines).encode(),
        )
        self._made.append(Submission(token, user, folder, ()))
        return self._made[-1]

    def clear(self) -> None:
        """Take the folders away."""
        for job in self._made:
            self._cluster.ask("rm", "-rf", job.folder, user=job.user)

    def refuse(self) -> Submission:
        """See `Bench`."""
        return self.make("exit 0", "#SBATCH --partition=nosuch")

    def start(self, slurm_id: int) -> None:
        """See `Bench`."""
        self._cluster.wait_state(str(slurm_id), "RUNNING")

    def finish(self, slurm_id: int, exit_code: int) -> None:
        """See `Bench`."""
        del exit_code  # the script's own
        self._cluster.wait_end(str(slurm_id))

    def requeue(self, slurm_id: int) -> None:
        """See `Bench`."""
        self._cluster.ask("scontrol", "requeue", str(slurm_id))

    def empty(self) -> None:
        """See `Bench`."""
        for account in layout.JOB_ACCOUNTS:
            self._cluster.ask("scancel", "-u", account.name, user=account.name)
        self._cluster.wait_for(lambda: self._cluster.ask("squeue", "-h", "-a") == "")

    def away(self) -> Scheduler:
        """See `Bench`."""
        return CommandLineScheduler(self._transport, slurm_conf=self.away_conf())

    def away_conf(self) -> str:
        """A configuration that names a port without a listener; the cluster is not changed."""
        path = f"/tmp/away-{uuid.uuid4().hex[:8]}.conf"
        script = (
            '{ grep -v -i -e "^SlurmctldPort" -e "^MessageTimeout" /etc/slurm/slurm.conf; '
            'echo SlurmctldPort=6; echo MessageTimeout=2; } >"$1"; chmod 644 "$1"'
        )
        self._cluster.ask("sh", "-c", script, "sh", path, user="ucloud")
        return path


class LibslurmBench(RealBench):
    """Jobs on the sandbox, by pyslurm: those of alice, its account."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._commands = CommandLineScheduler(self._transport, operator=OPERATOR)
        self.scheduler = PyslurmScheduler(self._transport, "alice", self._commands, python=PYSLURM)

    def make(self, script: str, *directives: str, user: str = "alice") -> Submission:
        """See `Bench`. pyslurm reads directives as data."""
        job = super().make(script, *directives, user=user)
        words = [word.removeprefix("--") for line in directives for word in line.removeprefix("#SBATCH ").split()]
        pairs = [word.partition("=") for word in [f"job-name={job.slurm_name}", "output=/dev/null", *words]]
        return replace(job, directives=tuple(Directive(name, value or None) for name, _, value in pairs))

    def away(self) -> Scheduler:
        """See `Bench`."""
        path = self.away_conf()
        commands = CommandLineScheduler(self._transport, slurm_conf=path)
        return PyslurmScheduler(self._transport, "alice", commands, slurm_conf=path, python=PYSLURM)


@pytest.fixture
def libslurm(cluster: Cluster) -> Iterator[LibslurmBench]:
    cluster.need_pyslurm()
    bench = LibslurmBench(cluster)
    yield bench
    bench.clear()


@pytest.fixture
def real(cluster: Cluster) -> Iterator[RealBench]:
    bench = RealBench(cluster)
    yield bench
    bench.clear()


@pytest.fixture(params=["fake", *(pytest.param(name, marks=pytest.mark.sandbox) for name in ("real", "libslurm"))])
def bench(request: pytest.FixtureRequest) -> Bench:
    if request.param == "fake":
        return FakeBench()
    found: RealBench = request.getfixturevalue(request.param)
    return found


def accept(outcome: Outcome) -> int:
    assert isinstance(outcome, Accepted), outcome
    return outcome.slurm_id


def look(bench: Bench, slurm_id: int) -> Observation:
    (seen,) = (seen for seen in bench.scheduler.queue(["alice", "bob"]).observations if seen.slurm_id == slurm_id)
    return seen


def wait(bench: Bench, slurm_id: int, ready: Callable[[Observation], bool]) -> Observation:
    limit = time.monotonic() + 60
    while not ready(seen := look(bench, slurm_id)):
        assert time.monotonic() < limit, seen
        time.sleep(0.1)
    return seen


def test_jobs_of_several_users_are_listed_under_their_tokens(bench: Bench) -> None:
    jobs = [bench.make("sleep 300", "#SBATCH --hold", user=user) for user in ("alice", "bob", "alice")]
    ids = [accept(outcome) for outcome in bench.scheduler.submit(jobs)]
    listing = bench.scheduler.queue(["alice", "bob"])
    found = {seen.slurm_id: (seen.name, seen.user) for seen in listing.observations}
    assert [found[slurm_id] for slurm_id in ids] == [(job.slurm_name, job.user) for job in jobs]
    assert listing.sees_others
    assert {seen.user for seen in bench.scheduler.queue(["bob"]).observations} == {"bob"}
    assert bench.scheduler.queue([]).observations == ()
    bench.scheduler.cancel({slurm_id: job.user for slurm_id, job in zip(ids, jobs, strict=True)})


def test_a_refusal_has_slurms_words_and_leaves_nothing(bench: Bench) -> None:
    job = bench.refuse()
    (outcome,) = bench.scheduler.submit([job])
    assert isinstance(outcome, Rejected)
    assert "Invalid partition name specified" in outcome.words
    assert job.slurm_name not in {seen.name for seen in bench.scheduler.queue(["alice"]).observations}


def test_a_waiting_job_has_neither_nodes_nor_a_start(bench: Bench) -> None:
    (outcome,) = bench.scheduler.submit([bench.make("sleep 300", "#SBATCH --hold")])
    seen = look(bench, accept(outcome))
    assert (seen.state, seen.nodes, seen.started, seen.exit_code, seen.restarts) == ("PENDING", (), None, None, 0)
    assert seen.submitted is not None
    assert seen.reason
    bench.scheduler.cancel({seen.slurm_id: "alice"})


@pytest.mark.parametrize(("exit_code", "state"), [(0, "COMPLETED"), (3, "FAILED"), (137, "FAILED")])
def test_a_job_that_ends(bench: Bench, exit_code: int, state: str) -> None:
    (outcome,) = bench.scheduler.submit([bench.make(f"exit {exit_code}")])
    slurm_id = accept(outcome)
    bench.finish(slurm_id, exit_code)
    seen = wait(bench, slurm_id, lambda seen: seen.state in ENDED)
    assert (seen.state, seen.signal, seen.restarts) == (state, None, 0)
    assert seen.exit_code in {exit_code, exit_code - 128}  # of one above 128 sacct and pyslurm show what is left
    assert seen.nodes
    assert seen.started is not None
    assert seen.ended is not None
    assert seen.submitted is not None
    assert seen.submitted <= seen.started <= seen.ended


@pytest.mark.edge_case(6)
def test_cancelling_twice_and_what_was_never_there(bench: Bench) -> None:
    (outcome,) = bench.scheduler.submit([bench.make("sleep 300")])
    slurm_id = accept(outcome)
    bench.start(slurm_id)
    seen = wait(bench, slurm_id, lambda seen: seen.state == "RUNNING")
    assert seen.nodes
    assert seen.exit_code is None
    bench.scheduler.cancel({slurm_id: "alice", 66_000_000: "bob"})
    seen = wait(bench, slurm_id, lambda seen: seen.state in ENDED)
    assert seen.state == "CANCELLED"
    assert seen.cancelled_by is None  # only accounting shows it
    bench.scheduler.cancel({slurm_id: "alice"})


def test_a_requeued_job_keeps_its_id_and_counts_its_restarts(bench: Bench) -> None:
    (outcome,) = bench.scheduler.submit([bench.make("sleep 300")])
    slurm_id = accept(outcome)
    bench.start(slurm_id)
    bench.requeue(slurm_id)
    seen = wait(bench, slurm_id, lambda seen: seen.state in WAITING)
    assert (seen.nodes, seen.started, seen.exit_code) == ((), None, None)
    seen = wait(bench, slurm_id, lambda seen: seen.restarts == 1)
    bench.scheduler.cancel({slurm_id: "alice"})


def test_a_time_limit_in_whole_minutes(bench: Bench) -> None:
    """And what the partition allows, which an operator is not held to."""
    [outcome] = bench.scheduler.submit([bench.make("sleep 300", "#SBATCH --time=0-01:00:00")])
    slurm_id = accept(outcome)
    assert look(bench, slurm_id).time_limit == 3600
    assert bench.scheduler.longest([slurm_id]) == {slurm_id: 172_800}
    assert bench.scheduler.longest([66_000_000]) == bench.scheduler.longest([]) == {}
    assert bench.scheduler.set_time_limits({slurm_id: 7141}) == {}
    assert look(bench, slurm_id).time_limit == 7200
    bench.start(slurm_id)
    assert bench.scheduler.set_time_limits({slurm_id: 180_000}) == {}
    assert look(bench, slurm_id).time_limit == 180_000
    bench.scheduler.cancel({slurm_id: "alice"})
    wait(bench, slurm_id, lambda seen: seen.state in ENDED)
    failures = bench.scheduler.set_time_limits({slurm_id: 3600, 66_000_000: 3600})
    assert [type(failures[each]) for each in (slurm_id, 66_000_000)] == [Refused, Refused]


def test_each_job_in_a_list_has_its_own_result(bench: Bench) -> None:
    """Whatever comes of those before it and after it, and with several limits."""
    made = bench.scheduler.submit([bench.make("sleep 300", "#SBATCH --time=0-01:00:00 --mem=10M") for _ in range(4)])
    first, ended, second, third = map(accept, made)
    for each in (first, second, third):
        bench.start(each)
    bench.scheduler.cancel({ended: "alice"})
    wait(bench, ended, lambda seen: seen.state in ENDED)
    wanted = {66_000_000: 7200, first: 7200, ended: 7200, second: 10_800, 66_000_001: 10_800, third: 7200}
    failures = bench.scheduler.set_time_limits(wanted)
    assert set(failures) == {66_000_000, ended, 66_000_001}
    assert all(isinstance(failure, Refused) and str(id_) in str(failure) for id_, failure in failures.items())
    assert [look(bench, each).time_limit for each in (first, second, third)] == [7200, 10_800, 7200]
    for each in (first, second, third):
        wait(bench, each, lambda seen: seen.state == "RUNNING")
    for move, state in ((bench.scheduler.suspend, "SUSPENDED"), (bench.scheduler.resume, "RUNNING")):
        with pytest.raises((Refused, Unknown), match=str(ended)):
            move([first, ended, second, third])
        assert {look(bench, each).state for each in (first, second, third)} == {state}
        move([first, second, third])
    bench.scheduler.cancel(dict.fromkeys((first, second, third), "alice"))


def test_a_job_is_suspended_and_runs_on(bench: Bench) -> None:
    outcomes = bench.scheduler.submit([bench.make("sleep 300"), bench.make("sleep 300", "#SBATCH --hold")])
    runs, waits = map(accept, outcomes)
    for move in (bench.scheduler.suspend, bench.scheduler.resume):
        with pytest.raises(Refused):
            move([waits])
    bench.start(runs)
    wait(bench, runs, lambda seen: seen.state == "RUNNING")
    for _ in range(2):
        with pytest.raises(Refused):  # the other one is suspended all the same
            bench.scheduler.suspend([waits, runs])
        assert look(bench, runs).state == "SUSPENDED"
    for _ in range(2):
        bench.scheduler.resume([runs])
        assert look(bench, runs).state == "RUNNING"
    bench.scheduler.cancel({runs: "alice", waits: "alice"})
    wait(bench, runs, lambda seen: seen.state in ENDED)
    with pytest.raises(Refused):
        bench.scheduler.suspend([runs])


def test_how_full_the_cluster_is(bench: Bench) -> None:
    bench.empty()
    before = bench.scheduler.load(["main", "scavenge"])
    assert before.cpus >= 3 * 64
    assert before.memory >= 3 * 64000 * 1024 * 1024
    wish = "#SBATCH --nodes=1 --cpus-per-task=2 --mem=100M"
    runs, waits = bench.scheduler.submit([bench.make("sleep 300", wish), bench.make("sleep 300", f"{wish} --hold")])
    ids = accept(runs), accept(waits)
    bench.start(ids[0])
    wait(bench, ids[0], lambda seen: seen.state == "RUNNING")
    during = bench.scheduler.load(["main", "scavenge"])
    bench.scheduler.cancel(dict.fromkeys(ids, "alice"))
    wait(bench, ids[0], lambda seen: seen.state in ENDED)
    assert during == replace(
        before,
        used_cpus=before.used_cpus + 2,
        used_memory=before.used_memory + 100 * 1024 * 1024,
        running=before.running + 1,
        pending=before.pending + 1,
    )
    bench.empty()
    assert bench.scheduler.load(["main", "scavenge"]) == before
    assert bench.scheduler.load(["nosuch"]) == Load(0, 0, 0, 0, 0, 0)


def test_nodes_and_their_addresses(bench: Bench) -> None:
    nodes = bench.scheduler.nodes()
    assert {"node001", "node002", "node003"} <= set(nodes)
    found = bench.scheduler.addresses([*nodes, "name.invalid"])
    assert set(found) == set(nodes)
    assert not any(ipaddress.ip_address(address).is_loopback for each in found.values() for address in each)


def test_a_controller_that_answers(bench: Bench) -> None:
    bench.scheduler.ping()


def test_the_limits_of_partitions(bench: Bench) -> None:
    main = bench.scheduler.partitions()["main"]
    assert (main.name, main.state, main.default, main.max_time, main.max_nodes) == ("main", "UP", True, 172_800, None)
    assert (main.allow_accounts, main.deny_accounts, main.allow_qos, main.deny_qos) == (
        None,
        frozenset(),
        None,
        frozenset(),
    )
    assert (main.oversubscribe, main.max_cpus_per_node, main.hidden_nodes) == ("NO", None, 0)
    assert {(shape.cpus, shape.memory, shape.gpus) for shape in main.shapes} == {(64, 64000 * 2**20, (("", 2),))}
    assert sum(main.shapes.values()) == len(bench.scheduler.nodes())


def test_a_controller_out_of_reach(bench: Bench) -> None:
    job = bench.make("exit 0")
    away = bench.away()
    (outcome,) = away.submit([job])
    assert isinstance(outcome, NotStarted)
    for ask in (
        lambda: away.queue(["alice"]),
        away.nodes,
        lambda: away.cancel({1: "alice"}),
        lambda: away.longest([1]),
        lambda: away.load(["main"]),
        away.partitions,
        away.ping,
    ):
        with pytest.raises(TryAgain):
            ask()
    # What scontrol says then may mean an unknown id, too.
    failures = away.set_time_limits({1: 60, 2: 120})
    assert [isinstance(failures[each], TryAgain | Unknown) for each in (1, 2)] == [True, True]
    with pytest.raises((TryAgain, Unknown)):
        away.suspend([1, 2])


def test_the_fake_loses_answers() -> None:
    bench = FakeBench()
    jobs = [bench.make("exit 0") for _ in range(3)]
    bench.scheduler.lose_next("now")
    bench.scheduler.lose_next("later")
    bench.scheduler.lose_next("never")
    assert all(isinstance(outcome, InDoubt) for outcome in bench.scheduler.submit(jobs))
    assert [seen.name for seen in bench.scheduler.queue(["alice"]).observations] == [jobs[0].slurm_name]
    bench.scheduler.arrive()
    assert [seen.name for seen in bench.scheduler.queue(["alice"]).observations] == [
        jobs[0].slurm_name,
        jobs[1].slurm_name,
    ]
    assert bench.scheduler.submissions == jobs


def test_the_fakes_accounting_remembers_what_the_queue_has_forgotten() -> None:
    scheduler = FakeScheduler(accounting=True)
    (outcome,) = scheduler.submit([Submission("t", "alice", "/f", ())])
    slurm_id = accept(outcome)
    scheduler.cancel({slurm_id: "alice"})
    scheduler.purge(slurm_id)
    assert scheduler.queue(["alice"]).observations == ()
    told = scheduler.history([slurm_id, 99])
    assert told is not None
    assert [(seen.slurm_id, seen.state, seen.cancelled_by) for seen in told] == [(slurm_id, "CANCELLED", "alice")]


@pytest.mark.sandbox
@pytest.mark.edge_case(3)
def test_names_of_other_jobs_change_nothing(cluster: Cluster, real: RealBench) -> None:
    hostile = [
        "a|b",
        "a b",
        "x=y",
        "a'b\"c$(id)",
        "x\n17\x1fRUNNING\x1falice",
        "\x1e\x1f",
        "'\"$(id)`id`",
        "æ日本",
        "JobState=RUNNING",
        "y" * NAME_BYTES,
        f"\n{'tok':>{NAME_BYTES}}|{'None':>96}|17|RUNNING|node001|7702|1|1|1|1:00|0|0\n"[-NAME_BYTES:],
    ]
    ids = [int(cluster.submit("sleep 300", "--hold", f"--job-name={name}")) for name in hostile]
    found = {seen.slurm_id: seen for seen in real.scheduler.queue(["alice"]).observations}
    assert [found[slurm_id].name for slurm_id in ids] == [name.strip(" ") for name in hostile]
    assert 17 not in found
    assert {found[slurm_id].state for slurm_id in ids} == {"PENDING"}
    real.scheduler.cancel(dict.fromkeys(ids, "alice"))


@pytest.mark.sandbox
@pytest.mark.edge_case(9, 22)
def test_the_adapters_own_environment_changes_nothing(cluster: Cluster, real: RealBench) -> None:
    hostile = {
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
        "SBATCH_PARTITION": "nosuch",
        "SBATCH_HOLD": "1",
        "SBATCH_TIMELIMIT": "7",
        "SBATCH_JOB_NAME": "another",
        "SQUEUE_ALL": "1",
        "LANG": "da_DK.UTF-8",
        "LC_ALL": "C",
        "SQUEUE_FORMAT": "%i",
        "SQUEUE_STATES": "RUNNING",
        "SQUEUE_USERS": "bob",
        "SLURM_TIME_FORMAT": "relative",
        "SLURM_CONF": "/nonexistent",
        "TZ": "America/New_York",
    }
    scheduler = CommandLineScheduler(LocalTransport(cluster.enter(), hostile))
    job = real.make("sleep 300", "#SBATCH --hold")
    (outcome,) = scheduler.submit([job])
    slurm_id = accept(outcome)
    (seen,) = (seen for seen in scheduler.queue(["alice"]).observations if seen.slurm_id == slurm_id)
    assert seen.submitted is not None
    assert abs(seen.submitted - time.time()) < 60
    assert (seen.name, seen.state, seen.time_limit) == (job.slurm_name, "PENDING", 3600)
    scheduler.cancel({slurm_id: "alice"})


@pytest.mark.sandbox
@pytest.mark.edge_case(6)
def test_which_exit_code_of_squeue_and_scancel_means_what(cluster: Cluster, real: RealBench) -> None:
    """Silence and success of Slurm's commands say nothing of a job: so one is never asked for by its id."""
    gone = ("66000001", "66000002")
    array = cluster.submit("sleep 300", "--hold", "--array=0-3")
    asked = (gone[0], ",".join(gone), f"{array}_99")
    one, two, task = (cluster.run("squeue", "-h", "-j", ids) for ids in asked)
    cluster.ask("scancel", array)
    assert (one.returncode, b"Invalid job id specified" in one.stderr) == (1, True)
    assert [(each.returncode, each.stdout) for each in (two, task)] == [(0, b""), (0, b"")]
    ended = cluster.submit("exit 0")
    cluster.wait_end(ended)
    assert [cluster.run("scancel", id_).returncode for id_ in (*gone, ended)] == [0, 0, 0]
    found = {seen.slurm_id: seen.state for seen in real.scheduler.queue(["alice", "bob"]).observations}
    assert found[int(ended)] == "COMPLETED"
    assert not {int(id_) for id_ in gone} & set(found)


@pytest.mark.sandbox
@pytest.mark.edge_case(15)
def test_an_array_is_listed_by_its_own_id(real: RealBench) -> None:
    (outcome,) = real.scheduler.submit([real.make("sleep 300", "#SBATCH --hold --array=0-900:2%3")])
    slurm_id = accept(outcome)
    seen = look(real, slurm_id)
    assert seen.task is not None
    assert seen.task.startswith("0,2,4") or seen.task.startswith("0-900:2")
    real.scheduler.cancel({slurm_id: "alice"})

"""Jobs as pyslurm's attributes, and the answers of its worker; these tests do not need pyslurm."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.cluster.schedulers.command_line import CommandLineScheduler
from slurm_adapter.cluster.schedulers.interface import Accepted, InDoubt, NotStarted, Rejected, Submission
from slurm_adapter.cluster.schedulers.pyslurm import PyslurmScheduler, describe
from slurm_adapter.cluster.schedulers.sbatch import parse_submission
from slurm_adapter.cluster.transports.fake import FakeTransport
from slurm_adapter.cluster.transports.interface import CommandTimeout, NotConnected, Result
from slurm_adapter.cluster.transports.local import LocalTransport
from slurm_adapter.core.config import Config
from slurm_adapter.core.directives import Directive
from slurm_adapter.core.errors import AdapterError, InvalidConfig, TryAgain, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.cluster.schedulers.interface import Outcome
    from slurm_adapter.cluster.transports.interface import Command

FAILED = "sbatch: error: Batch job submission failed: "


def job(*directives: tuple[str, str | None], user: str = "jobs") -> Submission:
    return Submission("t", user, "/f", tuple(Directive(*each) for each in directives))


def scheduler(answer: Callable[[Command], Result]) -> PyslurmScheduler:
    transport, clock = FakeTransport(answer), lambda: 1000.0
    return PyslurmScheduler(transport, "jobs", CommandLineScheduler(transport, clock=clock), clock=clock)


def says(*lines: tuple[object, ...], status: int = 0) -> Callable[[Command], Result]:
    """A worker that says these lines; the last word of each is encoded, unless it is `begun`."""

    def answer(_: Command) -> Result:
        text = ""
        for *words, last in lines:
            kind = "job" if isinstance(words[0], int) else "worker"
            end = last if last == "begun" else base64.b64encode(str(last).encode()).decode()
            text += " ".join(map(str, [kind, *words, end])) + "\n"
        return Result(status, b"a banner\n" + text.encode(), b"")

    return answer


USUAL = (
    ("job-name", "t"), ("comment", "t"), ("partition", "main"), ("nodes", "2"), ("cpus-per-task", "4"), ("mem", "16G"),
    ("time", "0-01:00:00"), ("chdir", "/f"), ("output", "/f/stdout.txt"), ("open-mode", "append"), ("export", "NONE"),
)  # fmt: skip


def test_a_usual_job() -> None:
    assert describe(job(*USUAL, ("gres", "gpu:a100:2"), ("exclusive", None), ("dependency", "after:17:18"))) == {
        "script": "/f/job.sbatch",
        "name": "t",
        "comment": "t",
        "partitions": "main",
        "nodes": 2,
        "ntasks": 2,
        "cpus_per_task": 4,
        "memory_per_node": "16G",
        "time_limit": "0-01:00:00",
        "working_directory": "/f",
        "standard_output": "/f/stdout.txt",
        "log_files_open_mode": "append",
        "gres_per_node": "gpu:a100:2",
        "resource_sharing": "exclusive",
        "dependencies": "after:17:18",
        "environment": {
            "SLURM_GET_USER_ENV": "1", "SLURM_JOB_NAME": "t", "SLURM_CPUS_PER_TASK": "4", "SLURM_OPEN_MODE": "a"
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    "directive",
    [
        ("signal", "B:USR1@60"),  # pyslurm has it, and does not send it
        ("begin", "now+1hour"),
        ("hold", None),
        ("exclusive", "user"),
        ("export", "ALL"),
        ("gres", "gpu"),
        ("gres", "license:x:1,gpu:2"),
        ("mem", "0"),
        ("mem", "1.5G"),
        ("nodes", "1-2"),
        ("ntasks", "0"),
        ("gpus", "2"),
        ("account", ""),
        ("array", None),
    ],
)
def test_jobs_that_pyslurm_cannot_express_go_to_sbatch(directive: tuple[str, str | None]) -> None:
    assert describe(job(*USUAL, directive)) is None


def test_outcomes_keep_their_order_through_pyslurm_and_sbatch() -> None:
    def answer(command: Command) -> Result:
        if any("xargs" in word for word in command.argv):
            return Result(0, b"job 0 begun\njob 0 0 MTcK\n", b"")
        return says(
            (0, "begun"), (0, 0, "21"), (1, "begun"), (1, 1, f"{FAILED}Invalid partition name specified"), (2, "begun")
        )(command)

    outcomes = scheduler(answer).submit([job(), job(("hold", None)), job(), job(user="bob"), job(), job()])
    assert [type(outcome) for outcome in outcomes] == [Accepted, Accepted, Rejected, Accepted, InDoubt, NotStarted]
    assert outcomes[:2] == [Accepted(21), Accepted(17)]
    assert isinstance(outcomes[2], Rejected)
    assert outcomes[2].words == "Batch job submission failed: Invalid partition name specified"


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (
            says((0, "begun"), (0, 255, "sbatch: error: Invalid value specified: x: invalid")),
            Rejected,
            "x",
        ),
        (says((0, "begun"), (0, 1, f"{FAILED}Socket timed out on send/recv operation")), InDoubt, "timed out"),
        (says((0, "begun"), status=124), InDoubt, "lost"),
        (says(("fatal", "ModuleNotFoundError: No module named 'pyslurm'")), NotStarted, "pyslurm cannot be used by"),
        (lambda _: Result(127, b"", b"no such file"), NotStarted, "cannot be run as jobs"),
    ],
)
def test_what_becomes_of_one_job(answer: Callable[[Command], Result], kind: type, words: str) -> None:
    [outcome] = scheduler(answer).submit([job()])
    assert isinstance(outcome, kind)
    assert words in str(outcome)


@pytest.mark.parametrize(("error", "kind"), [(NotConnected("no"), NotStarted), (CommandTimeout("late"), InDoubt)])
def test_a_transport_that_fails(error: Exception, kind: type) -> None:
    def answer(_: Command) -> Result:
        raise error

    [outcome] = scheduler(answer).submit([job()])
    assert isinstance(outcome, kind)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (says(("failed", "Unable to contact slurm controller (connect failure)")), TryAgain, "does not answer pyslurm"),
        (says(("failed", "Access/permission denied")), Unknown, "nodes failed: Access/permission denied"),
        (says(("fatal", "ImportError: libslurm.so.38")), InvalidConfig, "install a pyslurm of Slurm's release"),
        (says(), Unknown, "breaks off"),
        (says(status=124), Unknown, "exit code 124"),  # libslurm has ended it, or the clock
        (lambda _: Result(126, b"", b"Permission denied"), InvalidConfig, "Permission denied"),
    ],
)
def test_questions_without_an_answer(
    answer: Callable[[Command], Result], error: type[AdapterError], words: str
) -> None:
    with pytest.raises(error, match=r".*") as raised:
        scheduler(answer).nodes()
    assert words in str(raised.value)


ROW = [17, None, "t", "jobs", "RUNNING", "None", "node[001-002]", 1, 0, 0, 5, 6, 3606, 60]


def listing(*rows: list[Any], **more: Any) -> Callable[[Command], Result]:
    told = {"rows": rows, "hidden": False, "slurm_user": "slurm", "unknown": [], "identity": "jobs", **more}
    return says(("answer", json.dumps(told)))


def test_rows() -> None:
    ended = [18, "3", "u", "jobs", "FAILED", "NonZeroExitCode", "node001", 0, 3, 0, 5, 6, 9, None]
    signalled = [19, None, "v", "jobs", "FAILED", None, None, 0, 0, 11, 5, 6, 9, None]
    waits = [20, "4-9", "w", "jobs", "PENDING", "Priority", "", 0, 0, 0, 5, 99, 0, 60]
    seen = scheduler(listing(ROW, ended, signalled, waits)).queue(["jobs"]).observations
    assert [(each.slurm_id, each.task, each.state, each.exit_code, each.signal) for each in seen] == [
        (17, None, "RUNNING", None, None),
        (18, "3", "FAILED", 3, None),
        (19, None, "FAILED", None, 11),
        (20, "4-9", "PENDING", None, None),
    ]
    assert (seen[0].nodes, seen[0].time_limit, seen[0].restarts) == (("node001", "node002"), 3600, 1)
    assert (seen[3].nodes, seen[3].started, seen[3].reason) == ((), None, "Priority")


@pytest.mark.parametrize(
    ("more", "users", "proven"),
    [
        ({}, ["jobs", "alice"], True),
        ({"hidden": True}, ["jobs", "alice"], False),
        ({"hidden": True}, ["jobs"], True),  # its own it sees always
        ({"hidden": True, "slurm_user": "jobs"}, ["alice"], True),
        ({"unknown": ["alice"]}, ["jobs", "alice"], False),
    ],
)
def test_when_absence_from_the_queue_is_proof(more: dict[str, Any], users: list[str], proven: bool) -> None:  # noqa: FBT001
    assert scheduler(listing(**more)).queue(users).sees_others == proven


@given(st.lists(st.none() | st.integers() | st.text() | st.floats(), max_size=14))
def test_a_row_that_cannot_be_read_is_unknown(row: list[Any]) -> None:
    try:
        scheduler(listing(row)).queue(["jobs"])
    except Unknown:
        return
    assert len(row) == 14


def test_a_worker_without_pyslurm_reports_it_in_one_line() -> None:
    """The real worker, under a Python that has none."""
    local = LocalTransport(environment={"PATH": "/usr/bin:/bin"})

    def run(command: Command) -> Result:
        # What `python -I` finds is not this environment's: an empty one.
        argv = tuple("/usr/bin/python3" if word == sys.executable else word for word in command.argv)
        return local.run(replace(command, argv=argv, user=None))

    with pytest.raises(InvalidConfig, match=r"pyslurm cannot be used by .* as jobs: ModuleNotFoundError") as raised:
        scheduler(run).nodes()
    assert 'clusters.NAME.scheduler = "commands"' in str(raised.value)


_STAND_IN = """
import os, sys
from slurm_adapter.cluster.schedulers import pyslurm_worker as worker

class Slurm:
    __version__ = "22.5.3"

    class RPCError(Exception):
        pass

    class JobSubmitDescription:
        def __init__(self, script, environment):
            self.what, _, self.id = script.partition(" ")

        def submit(self):
            if self.what == "ends":
                os._exit(1)  # as libslurm does
            if self.what == "refused":
                raise Slurm.RPCError(self.id)
            return int(self.id)

jobs = [(number, {"script": text}) for number, text in enumerate(sys.argv[1:])]
worker.submit(Slurm, {"jobs": jobs, "until": 4e9, "seconds": 10})
"""


_OLD = """
class Slurm:
    __version__ = {version!r}

    class config:
        def get(self):
            return {{"mpi_params": {mpi!r}}}
"""
_NEW = """
class Slurm:
    __version__ = {version!r}

    class slurmctld:
        class Config:
            mpi_parameters = {mpi!r}

            @classmethod
            def load(cls):
                return cls
"""
_DESCRIBES = """
import json
from slurm_adapter.cluster.schedulers import pyslurm_worker as worker

class Description:
    def __init__(self, **fields):
        self.fields = fields

    def submit(self):
        print(json.dumps(self.fields))
        return 17

Slurm.JobSubmitDescription = Description
Slurm.RPCError = RuntimeError
job = {"script": "s", "cpus_per_task": 2, "environment": {"SLURM_GET_USER_ENV": "1"}}
worker.submit(Slurm, {"jobs": [(0, job)], "until": 4e9, "seconds": 10})
"""

_HYDRA = {"HYDRA_BOOTSTRAP", "HYDRA_LAUNCHER_EXTRA_ARGS"} | {
    "I_MPI_HYDRA_BOOTSTRAP", "I_MPI_HYDRA_BOOTSTRAP_EXEC_EXTRA_ARGS"
}  # fmt: skip
_OPEN_MPI = {"OMPI_MCA_plm_slurm_args", "PRTE_MCA_plm_slurm_args"}


@pytest.mark.parametrize(
    ("stand_in", "version", "mpi", "wanted"),
    [
        (_OLD, "22.5.3", None, set()),
        (_OLD, "23.2.3", None, set()),
        (_OLD, "23.11.1", None, _HYDRA | _OPEN_MPI | {"SLURM_TRES_PER_TASK"}),
        (_OLD, "24.11.0", "ports=1-9", _HYDRA | _OPEN_MPI | {"SLURM_TRES_PER_TASK"}),
        (_OLD, "24.11.0", "ports=1-9,disable_slurm_hydra_bootstrap", _OPEN_MPI | {"SLURM_TRES_PER_TASK"}),
        (_NEW, "25.11.2", {}, _HYDRA | _OPEN_MPI | {"SLURM_TRES_PER_TASK"}),
        (_NEW, "25.11.2", {"disable_slurm_hydra_bootstrap": True}, _OPEN_MPI | {"SLURM_TRES_PER_TASK"}),
    ],
)
def test_jobs_have_the_variables_for_mpi_launchers_that_sbatch_of_this_slurm_sets(
    stand_in: str, version: str, mpi: object, wanted: set[str]
) -> None:
    program = stand_in.format(version=version, mpi=mpi) + _DESCRIBES
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=True)
    [fields] = [line for line in done.stdout.decode().splitlines() if line.startswith("{")]
    environment = json.loads(fields)["environment"]
    assert set(environment) == wanted | {"SLURM_GET_USER_ENV"}
    assert environment.get("SLURM_TRES_PER_TASK", "cpu=2") == "cpu=2"


def hand_in(*jobs: str) -> list[Outcome]:
    """By the real worker, to a stand-in for pyslurm."""
    done = subprocess.run([sys.executable, "-c", _STAND_IN, *jobs], capture_output=True, timeout=60, check=True)
    assert max(map(len, done.stdout.splitlines()), default=0) < 4096
    return parse_submission(done.stdout, len(jobs))


@pytest.mark.parametrize("count", [1, 3, 4, 41])
def test_many_jobs_are_dispatched_once_each_in_parallel(count: int) -> None:
    assert hand_in(*(f"taken {number + 17}" for number in range(count))) == [
        Accepted(number + 17) for number in range(count)
    ]


def test_one_that_ends_libslurms_process_leaves_the_others_alone() -> None:
    outcomes = hand_in(*(f"{'ends' if number == 4 else 'taken'} {number + 17}" for number in range(12)))
    assert [number for number, outcome in enumerate(outcomes) if isinstance(outcome, InDoubt)] == [4]
    assert [number for number, outcome in enumerate(outcomes) if isinstance(outcome, NotStarted)] == [8]
    assert sum(isinstance(outcome, Accepted) for outcome in outcomes) == 10


def test_the_end_of_a_long_message_is_reported() -> None:
    [outcome, taken] = hand_in(f"refused {'é' * 9000} Invalid partition name specified", "taken 17")
    assert isinstance(outcome, Rejected)
    assert not outcome.certain  # what it began with is not there, and it proves nothing without
    assert taken == Accepted(17)


@pytest.mark.parametrize(
    ("cluster", "identity", "words"),
    [
        ({"transport": "ssh", "ssh": {"host": "h"}}, {"mode": "service", "service_user": "jobs"}, "local transport"),
        ({}, {"mode": "sudo"}, "identity.mode"),
    ],
)
def test_what_it_goes_with(cluster: dict[str, Any], identity: dict[str, Any], words: str) -> None:
    machine = {"partition": "main", "cpus": 1, "memory": 1, "max_nodes": 4, "max_time": "01:00:00"}
    values = {
        "provider": "example", "state_dir": "/s", "shared_dir": "/t", "machines": {"c": {"i": machine}},
        "clusters": {"main": {"scheduler": "pyslurm", **cluster}}, "identity": identity,
    }  # fmt: skip
    with pytest.raises(ValueError, match=words):
        Config.model_validate(values)

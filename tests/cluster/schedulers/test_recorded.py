"""Answers of Slurm's commands on real clusters, one per release, as `record.py` recorded them."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.cluster.schedulers.command_line import CommandLineScheduler
from slurm_adapter.cluster.schedulers.interface import Accepted, Rejected
from slurm_adapter.cluster.schedulers.listings import NAME_BYTES, parse_history, parse_queue
from slurm_adapter.cluster.schedulers.load import parse_load
from slurm_adapter.cluster.schedulers.nodes import parse_nodes
from slurm_adapter.cluster.schedulers.partitions import parse_partitions
from slurm_adapter.cluster.schedulers.sbatch import parse_submission
from slurm_adapter.cluster.schedulers.versions import TRIED, read_client, read_controller, release
from slurm_adapter.cluster.transports.fake import FakeTransport
from slurm_adapter.cluster.transports.interface import Result
from slurm_adapter.core.errors import AdapterError, Refused, TryAgain, Unknown
from slurm_adapter.core.states import ENDED, JobState, interpret
from tests.cluster.schedulers.extract_states import RECORDED
from tests.cluster.schedulers.record import HOSTILE, UNKNOWN_ID

if TYPE_CHECKING:
    from slurm_adapter.core.observation import Observation

NAMES = {"7701": "alice"}


@dataclass(frozen=True)
class Release:
    """The recordings of one version of Slurm."""

    version: str

    def read(self, name: str) -> bytes:
        """Return an answer."""
        return (RECORDED / self.version / name).read_bytes()

    @cached_property
    def _answers(self) -> dict[str, Any]:
        return dict(json.loads(self.read("answers.json")))

    @property
    def ids(self) -> dict[str, int]:
        """The ids of the jobs by their names."""
        return {name: int(id_) for name, id_ in self._answers["jobs"].items()}

    def answer(self, key: str) -> Result:
        """Return the answer of a command."""
        told = self._answers["answers"][key]
        output, errors = (told[stream].encode(errors="surrogateescape") for stream in ("stdout", "stderr"))
        return Result(told["status"], output, errors)

    def scheduler(self, key: str) -> CommandLineScheduler:
        """Return a cluster on which every command gives this answer."""
        return CommandLineScheduler(FakeTransport(lambda _: self.answer(key)))

    def by_name(self, observations: tuple[Observation, ...]) -> dict[str, Observation]:
        """Return what is said of jobs, of arrays and heterogeneous jobs of one part."""
        names = {id_: name for name, id_ in self.ids.items()}
        return {names[seen.slurm_id]: seen for seen in observations if seen.task is None}


VERSIONS = sorted(path.parent.name for path in RECORDED.glob("*/answers.json"))


@pytest.fixture(params=VERSIONS)
def recorded(request: pytest.FixtureRequest) -> Release:
    """Every release that was recorded."""
    return Release(request.param)


def test_every_release_that_counts_as_tried_was_recorded() -> None:
    assert {release(version) for version in VERSIONS} == set(TRIED)


STATES = {
    "timeout": ("TIMEOUT", JobState.EXPIRED),
    "held": ("PENDING", JobState.IN_QUEUE),
    "dependency": ("PENDING", JobState.IN_QUEUE),
    "begin": ("PENDING", JobState.IN_QUEUE),
    "completed": ("COMPLETED", JobState.SUCCESS),
    "failed": ("FAILED", JobState.FAILURE),
    "exit-137": ("FAILED", JobState.FAILURE),
    "signalled": ("FAILED", JobState.FAILURE),
    "no-folder": ("COMPLETED", JobState.SUCCESS),
    "no-output": ("FAILED", JobState.FAILURE),
    "gpus": ("RUNNING", JobState.RUNNING),
    "two-nodes": ("RUNNING", JobState.RUNNING),
    "unlimited": ("PENDING", JobState.IN_QUEUE),
    "suspended": ("SUSPENDED", JobState.SUSPENDED),
    "requeued": ("RUNNING", JobState.RUNNING),
    "requeue-held": ("PENDING", JobState.IN_QUEUE),
    "special-exit": ("SPECIAL_EXIT", JobState.IN_QUEUE),
    "cancelled": ("CANCELLED", JobState.SUCCESS),
    "cancelled-by-root": ("CANCELLED", JobState.SUCCESS),
    "cancelled-pending": ("CANCELLED", JobState.SUCCESS),
    "x=y": ("RUNNING", JobState.RUNNING),
    "no-such-node": ("PENDING", JobState.IN_QUEUE),
    "node-fail": ("NODE_FAIL", JobState.FAILURE),
    "node-fail-requeued": ("RUNNING", JobState.RUNNING),
    **dict.fromkeys(HOSTILE, ("PENDING", JobState.IN_QUEUE)),
}
RESTARTED = {"requeued", "requeue-held", "special-exit", "node-fail-requeued"}


def tasks(observations: tuple[Observation, ...], id_: int) -> dict[str | None, Observation]:
    """Return what is said of the parts of a job."""
    return {seen.task: seen for seen in observations if seen.slurm_id == id_}


@pytest.mark.edge_case(3)
def test_queue_of_jobs_in_every_state(recorded: Release) -> None:
    observations = parse_queue(recorded.read("squeue"), NAMES)
    found = recorded.by_name(observations)
    states = {name: state for name, state in STATES.items() if name in recorded.ids}
    assert {name: (seen.state, interpret(seen).state) for name, seen in found.items()} == states
    assert {seen.user for seen in observations} == {"alice"}
    assert {name: found[name].name for name in HOSTILE if name in found} == {
        name: raw[:NAME_BYTES].decode(errors="replace").strip(" ") for name, raw in HOSTILE.items() if name in found
    }
    assert 77 not in {seen.slurm_id for seen in observations}
    assert {name for name, seen in found.items() if seen.restarts} == RESTARTED
    endings = {name: (seen.exit_code, seen.signal) for name, seen in found.items() if seen.state == "FAILED"}
    assert endings == {
        "failed": (3, None),
        "exit-137": (137, None),
        "signalled": (None, 11),
        "no-output": (None, 53),
    }
    assert (found["completed"].exit_code, found["timeout"].signal, found["cancelled"].signal) == (0, 15, 15)
    assert (found["dependency"].reason, found["held"].reason) == ("Dependency", "JobHeldUser")
    assert (found["unlimited"].reason, found["no-such-node"].reason) == (
        "PartitionTimeLimit",
        "DependencyNeverSatisfied",
    )
    assert found["requeue-held"].reason == "job requeued in held state"
    assert (found["timeout"].time_limit, found["held"].time_limit) == (60, ((2 * 24 + 3) * 60 + 5) * 60)
    assert found["unlimited"].time_limit is None
    # Several seconds late: Slurm looks at time limits now and then.
    assert (found["timeout"].ended or 0) - (found["timeout"].started or 0) >= 60
    assert found["two-nodes"].nodes == ("node001", "node002")
    waiting = [seen for seen in observations if seen.state == "PENDING"]
    assert all(seen.nodes == () and seen.started is None and seen.exit_code is None for seen in waiting)
    assert all(seen.submitted and 1.79e9 < seen.submitted < 1.8e9 for seen in observations)


@pytest.mark.edge_case(15, 16)
@pytest.mark.parametrize("name", ["squeue", "squeue-short-arrays"])
def test_queue_of_arrays_and_heterogeneous_jobs(recorded: Release, name: str) -> None:
    observations = parse_queue(recorded.read(name), NAMES)
    throttled = tasks(observations, recorded.ids["throttled"])
    assert set(throttled) == {"1", "8", "15", "22", "29", "36-995:7"}
    assert (throttled["36-995:7"].state, throttled["36-995:7"].nodes) == ("PENDING", ())
    assert throttled["29"].nodes == ("node001",)
    ended = tasks(observations, recorded.ids["tasks"])
    assert {task: seen.exit_code for task, seen in ended.items()} == {"0": 0, "1": 1, "2": 2}
    [(scattered, _)] = tasks(observations, recorded.ids["scattered"]).items()
    assert scattered is not None
    assert scattered.startswith("0,4,9,14,")
    assert scattered.endswith("94,99") == (name == "squeue"), "squeue cuts it off unless SLURM_BITSTR_LEN is 0"
    parts = {task: seen.nodes for task, seen in tasks(observations, recorded.ids["het"]).items()}
    assert parts == {"+0": ("node001",), "+1": ("node002",)}


@pytest.mark.edge_case(2)
def test_accounting_of_jobs_in_every_state(recorded: Release) -> None:
    observations = parse_history(recorded.read("sacct"), recorded.read("sacct-names"), NAMES)
    found = recorded.by_name(observations)
    # A job that is held after a requeue is just pending to accounting, and it knows who cancelled one.
    states = {name: state for name, state in STATES.items() if name in recorded.ids}
    known = states | {
        "special-exit": ("PENDING", JobState.IN_QUEUE), "cancelled-by-root": ("CANCELLED", JobState.FAILURE)
    }  # fmt: skip
    assert {name: (seen.state, interpret(seen).state) for name, seen in found.items()} == known
    assert {seen.user for seen in observations} == {"alice"}
    assert {name for name, seen in found.items() if seen.restarts} == RESTARTED
    by = {name: seen.cancelled_by for name, seen in found.items() if seen.state == "CANCELLED"}
    assert by == {"cancelled": "alice", "cancelled-by-root": "0", "cancelled-pending": "alice"}
    assert (found["failed"].exit_code, found["signalled"].signal, found["timeout"].exit_code) == (3, 11, 0)
    assert (found["held"].time_limit, found["unlimited"].time_limit) == (((2 * 24 + 3) * 60 + 5) * 60, None)
    assert (found["held"].nodes, found["held"].started) == ((), None)
    assert found["node-fail-requeued"].nodes == ("node003",)
    for name in ("lines", "separators", "a-row"):
        assert found[name].name == HOSTILE[name].decode()
    assert set(tasks(observations, recorded.ids["throttled"])) == {"1", "8", "15", "22", "29", "36-995:7"}
    assert set(tasks(observations, recorded.ids["het"])) == {"+0", "+1"}


def test_what_the_two_say_of_a_job_does_not_contradict(recorded: Release) -> None:
    """Neither says of a live job that it has ended, whichever is asked first."""
    queue = recorded.by_name(parse_queue(recorded.read("squeue"), NAMES))
    history = recorded.by_name(parse_history(recorded.read("sacct"), recorded.read("sacct-names"), NAMES))
    for job, seen in queue.items():
        assert (seen.state in ENDED) == (history[job].state in ENDED), job
        assert (seen.slurm_id, seen.restarts) == (history[job].slurm_id, history[job].restarts)


@given(st.data())
def test_damaged_recordings_raise_nothing_but_unknown(data: st.DataObject) -> None:
    version = Release(data.draw(st.sampled_from(VERSIONS)))
    told = {name: bytearray(version.read(name)) for name in ("squeue", "sacct", "sacct-names")}
    damaged = told[data.draw(st.sampled_from(sorted(told)))]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(damaged)))
        damaged[start : start + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=5))
    with suppress(Unknown):
        parse_queue(bytes(told["squeue"]), NAMES)
    with suppress(Unknown):
        parse_history(bytes(told["sacct"]), bytes(told["sacct-names"]), NAMES)


def test_nodes_partitions_and_load(recorded: Release) -> None:
    shown, partitions = recorded.read("nodes"), recorded.read("partitions")
    names = [f"node00{number}" for number in (1, 2, 3)]
    nodes = parse_nodes(shown, partitions)
    assert list(nodes) == names
    assert all(address.startswith("10.213.") for address in nodes.values())
    found = parse_partitions(partitions, shown)
    assert {name: each.max_time for name, each in found.items()} == {"main": 2 * 86400, "scavenge": 12 * 3600}
    assert {(shape.cpus, shape.gpus) for each in found.values() for shape in each.shapes} == {(64, (("", 2),))}
    load = parse_load(shown, recorded.read("states-of-partition"), ["main"])
    assert (load.cpus, load.memory) == (3 * 64, 3 * 64000 * 1024 * 1024)
    assert load.used_cpus >= 10
    assert (load.running >= 10, load.pending >= 10) == (True, True)


def test_versions(recorded: Release) -> None:
    client = read_client(recorded.answer("squeue --version").text)
    assert client == read_controller(recorded.read("config").decode()) == recorded.version


def test_submissions(recorded: Release) -> None:
    """The words of sbatch about jobs that it accepts, and about jobs that it refuses permanently."""
    outcomes = {
        key: parse_submission(recorded.answer(f"sbatch {key}").stdout, 1)[0]
        for key in ("accepted", "no-such-partition", "no-such-option", "no-such-gpu")
    }
    assert {key: type(outcome) for key, outcome in outcomes.items()} == {
        "accepted": Accepted,
        **dict.fromkeys(("no-such-partition", "no-such-option", "no-such-gpu"), Rejected),
    }


@pytest.mark.parametrize("key", ["ended", "unknown", "both"])
def test_cancels_of_jobs_that_are_gone(recorded: Release, key: str) -> None:
    recorded.scheduler(f"scancel {key}").cancel({recorded.ids["completed"]: "alice", int(UNKNOWN_ID): "alice"})


@pytest.mark.parametrize(("key", "error"), [("another's", Unknown), ("without controller", TryAgain)])
def test_cancels_that_fail(recorded: Release, key: str, error: type[AdapterError]) -> None:
    with pytest.raises(error):
        recorded.scheduler(f"scancel {key}").cancel({recorded.ids["x=y"]: "alice"})


FAILURES: dict[str, dict[str, type[AdapterError]]] = {
    "suspend running": {},
    "suspend array": {},
    "suspend ended": {"completed": Refused},
    "suspend pending": {"held": Refused},
    "suspend unknown": {"unknown": Unknown},
    "suspend several": {"completed": Refused, "unknown": Unknown},
    "suspend denied": {"x=y": Refused},
    "resume running": {},
    "resume array": {},
    "resume several": {"completed": Refused, "unknown": Unknown},
    "resume denied": {"x=y": Refused},
    "update running": {},
    "update ended": {"completed": Refused},
    "update several": {"unknown": Refused},
    "update denied": {"x=y": Refused},
}


@pytest.mark.parametrize("key", FAILURES)
def test_operators_commands(recorded: Release, key: str) -> None:
    """Exactly the jobs that a command did not change have an error, each of its own kind."""
    ids = recorded.ids | {"unknown": int(UNKNOWN_ID)}
    asked = {
        "running": ["x=y"],
        "denied": ["x=y"],
        "array": ["throttled"],
        "ended": ["completed"],
        "pending": ["held"],
        "unknown": ["unknown"],
        "several": ["x=y", "unknown"] if key.startswith("update") else ["x=y", "completed", "unknown"],
    }[key.split()[1]]
    scheduler = recorded.scheduler(f"scontrol {key}")
    failures = scheduler.set_time_limits({ids[name]: 42_000 for name in asked})
    told: dict[str, type[AdapterError]] = defaultdict()
    told |= {name: type(failures[ids[name]]) for name in asked if ids[name] in failures}
    assert told == FAILURES[key]


def test_a_controller_that_is_down(recorded: Release) -> None:
    for key in ("squeue", "scontrol"):
        with pytest.raises(TryAgain):
            recorded.scheduler(f"{key} without controller").longest([17])


def test_ids_and_accounts_that_slurm_does_not_know(recorded: Release) -> None:
    assert recorded.scheduler("squeue unknown id").longest([int(UNKNOWN_ID)]) == {}
    told = recorded.answer("squeue unknown user")
    assert told.status == 0
    assert "Invalid user: no-such-user" in told.complaint
    assert len(parse_queue(told.stdout, NAMES)) > 20

"""Many short jobs at once, handed in, cancelled and looked after by many processes: none double, none lost, all right.

What became of them is held against Slurm's own records, read by other means than the adapter's.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.core.records import Stage
from tests.adapter import UNTIL_TOLD, peer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.core.records import Record
    from slurm_adapter.state.store import Store
    from tests.adapter import LiveSite

pytestmark = pytest.mark.sandbox

TASKS = """
application: v2
name: tasks
version: "1"
software: {type: Native, load: []}
features: {}
parameters:
  code: {type: TextArea, optional: false}
sbatch: {array: 0-2}
invocation: |
  bash -c {{ code }}
"""

DAEMON = """
import sys, time
from slurm_adapter.local.configuration_file import load_config
from slurm_adapter.adapter import Adapter
from slurm_adapter.jobs.sync import sync
from pathlib import Path
with Adapter(load_config(Path(sys.argv[1]))) as site:
    while True:
        with site.sync_lock() as ours:
            if ours:
                for problem in sync(site).problems:
                    print(problem, flush=True)
        time.sleep(0.5)
"""
"""A process that lives long: pass after pass in one interpreter."""

MEANING = {"COMPLETED": "SUCCESS", "CANCELLED": "SUCCESS", "TIMEOUT": "EXPIRED", "DEADLINE": "EXPIRED"}
"""What Slurm's words mean where nobody but the job's user cancels; every other ending is a FAILURE."""

WORST_FIRST = ("FAILURE", "EXPIRED", "SUCCESS")

CODES = ("exit 0", "exit 0", "exit 1", "exit 7", "exit 255", "kill -TERM $$", "kill -KILL $$", "sleep 2")


@dataclass
class Soak:
    """What the processes of a soak have done."""

    adapter: LiveSite
    ids: list[str] = field(default_factory=list)
    consumers: list[str] = field(default_factory=list)
    """Those of them that end well only if they find their peer by its name."""
    ended: dict[str, dict[str, str]] = field(default_factory=dict)
    """What Slurm said of each job or task that ended, by its id."""
    passes: int = 0
    busy: int = 0
    """Passes that left at once, since another one was under way."""
    problems: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    """Seconds, and the long-living process's resident memory in KiB."""
    settled: int = 0
    """How many of these were noted while there were ever more jobs."""
    over: threading.Event = field(default_factory=threading.Event)

    def hand_in(self, specification: dict[str, Any], user: str) -> str:
        """Hand in a job by a process of its own; its id."""
        done = self.adapter.run("submit", "-", "--user", user, stdin=json.dumps(specification).encode())
        assert done.returncode == 0, done.stderr
        id_: str = json.loads(done.stdout)["responses"][0]["id"]
        self.ids.append(id_)
        return id_

    def hand_in_some(self, count: int, seed: int) -> None:
        """One user's share: jobs that end by themselves, arrays, some with a peer, some that are cancelled."""
        draw = random.Random(seed)  # noqa: S311  # a history, not a secret
        user = ("alice", "bob")[seed % 2]
        shell = self.adapter.shell
        for number in range(count):
            code = f"echo ran; {draw.choice(CODES)}"
            match number % 8:
                case 3:
                    id_ = self.hand_in(shell("echo ran; sleep 300"), user)
                    time.sleep(draw.random())
                    assert self.adapter.run("cancel", id_).returncode == 0
                case 5:
                    code = f"echo ran; test $SLURM_ARRAY_TASK_ID != {draw.randrange(6)}"
                    self.hand_in(shell(code, application="tasks"), user)
                case 6 if number % 3 == 0:
                    # It lives until its consumer has found it, however long that waits: nobody names a job that ended.
                    server = self.hand_in(shell(f"echo ran; {UNTIL_TOLD}"), user)
                    named = {"resources": [peer("db", server)]}
                    find = f'getent hosts db; found=$?; touch "$UCLOUD_DIR/../../../{server}/told"; exit $found'
                    self.consumers.append(self.hand_in(shell(f"echo ran; {find}") | named, user))
                case _:
                    self.hand_in(shell(code), user)

    def sync_again_and_again(self) -> None:
        """A pass by a process of its own every second, as a timer makes it, and a look at Slurm's own records."""
        while not self.over.wait(1):
            done = self.adapter.run("sync")
            assert done.returncode in {0, 1, 75}, done.stdout + done.stderr
            self.passes += done.returncode != 75
            self.busy += done.returncode == 75
            self.problems += done.stderr.splitlines()
            self.look()

    def look(self) -> None:
        """Read Slurm's own records before they are purged."""
        for line in self.adapter.cluster.ask("scontrol", "-o", "show", "job", user="ucloud").splitlines():
            job = dict(re.findall(r"(\w+)=(\S*)", line))
            ours = job.get("JobName", "").startswith(f"{self.adapter.site.store.instance}-")
            if ours and job["JobState"] not in {"PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "CONFIGURING"}:
                self.ended[job["JobId"]] = job

    def watch(self, daemon: subprocess.Popen[str]) -> None:
        """Note how much memory a process has."""
        began = time.monotonic()
        while not self.over.wait(0.5):
            for resident in re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{daemon.pid}/status").read_text()):
                self.memory.append((time.monotonic() - began, int(resident)))

    @property
    def slope(self) -> float:
        """KiB a minute by which that memory grew in passes over a number of jobs that grew no more (least squares).

        Slurm lists jobs for minutes after their end: while there are ever more of them a pass has ever more to read.
        """
        some = self.memory[(self.settled + len(self.memory)) // 2 :]
        x, y = (sum(values) / len(some) for values in zip(*some, strict=True))
        grown: float = 60 * sum((t - x) * (m - y) for t, m in some) / sum((t - x) ** 2 for t, _ in some)
        return grown


@pytest.fixture
def soak(adapter: LiveSite) -> Iterator[Soak]:
    applications = adapter.config_file.parent / "applications"
    (applications / "tasks.yaml").write_text(TASKS)
    soak = Soak(adapter)
    yield soak
    soak.over.set()


def run_soak(soak: Soak, users: int, count: int, patience: float, rest: float = 0) -> list[Record]:
    """`users` people hand in `count` jobs each, while passes are made; all records, once every job has ended.

    After that passes go on for `rest` seconds, over one more job.
    """
    store = soak.adapter.site.store
    argv = [sys.executable, "-c", DAEMON, str(soak.adapter.config_file)]
    with (
        subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as daemon,
        ThreadPoolExecutor() as threads,
    ):
        try:
            watching = [threads.submit(soak.watch, daemon), threads.submit(soak.sync_again_and_again)]
            for done in [threads.submit(soak.hand_in_some, count, seed) for seed in range(users)]:
                done.result()
            wait_until_all_ended(store, patience)
            soak.settled = len(soak.memory)
            if rest:
                last = soak.hand_in(soak.adapter.shell("echo ran; sleep 300"), "alice")
                time.sleep(rest)
                assert soak.adapter.run("cancel", last).returncode == 0
                wait_until_all_ended(store, patience)
            lives = daemon.poll() is None
        finally:
            soak.over.set()
            daemon.kill()
        for each in watching:
            each.result()
        assert lives, "the long-living process has died"
        assert daemon.stdout is not None
        soak.problems += daemon.stdout.read().splitlines()
    soak.look()
    return store.all(10_000)


def wait_until_all_ended(store: Store, patience: float) -> None:
    limit = time.monotonic() + patience
    while active := store.active():
        assert time.monotonic() < limit, active
        time.sleep(0.5)


def check_soak(soak: Soak, records: list[Record]) -> None:
    """Every job once in our records and once in Slurm's, in the same state; it ran once; no name is left."""
    assert sorted(record.id for record in records) == sorted(soak.ids)
    of_token: dict[str, list[dict[str, str]]] = {}
    for job in soak.ended.values():
        of_token.setdefault(job["JobName"], []).append(job)
    for record in records:
        assert record.stage is Stage.ENDED
        theirs = of_token[record.slurm_name]
        ids = {job.get("ArrayJobId", job["JobId"]) for job in theirs}
        assert ids == {str(record.slurm_id)}, "a job is double"
        meant = min((MEANING.get(job["JobState"], "FAILURE") for job in theirs), key=WORST_FIRST.index)
        assert record.state == meant, (record, theirs)
        assert record.state == "SUCCESS" or record.id not in soak.consumers, soak.adapter.errors(record)
        ran = soak.adapter.output(record).count("ran\n")
        whole = sum(job["JobState"] != "CANCELLED" for job in theirs)
        assert whole <= ran <= len(theirs), (record, soak.adapter.errors(record))
    assert set(of_token) == {record.slurm_name for record in records}
    assert soak.adapter.shared_block == ""
    assert not [path for path in soak.adapter.peers.iterdir() if path.name != "hosts"]
    assert soak.problems == []


@pytest.mark.edge_case(25)
def test_a_few_jobs_at_once_are_neither_double_nor_lost(soak: Soak) -> None:
    check_soak(soak, run_soak(soak, users=3, count=8, patience=90))


@pytest.mark.long
@pytest.mark.edge_case(25)
def test_many_jobs_at_once_are_neither_double_nor_lost(soak: Soak, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    records = run_soak(soak, users=4, count=75, patience=300, rest=60)
    seconds = time.monotonic() - began
    with capsys.disabled():
        print(  # noqa: T201  # figures for whoever asked for a long run
            f"\n{len(records)} jobs in {seconds:.0f} s; {soak.passes} passes and {soak.busy} that met another one; "
            f"{len(soak.problems)} problems; memory {soak.memory[-1][1]} KiB, {soak.slope:+.0f} KiB a minute"
        )
    check_soak(soak, records)
    assert soak.slope < 1024

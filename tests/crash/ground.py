"""A site on the sandbox where processes may die, and where everything can be counted afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from slurm_adapter.adapter import Adapter
from slurm_adapter.core.errors import AdapterError
from slurm_adapter.core.observation import DISPATCH_SECONDS
from slurm_adapter.core.records import Stage
from slurm_adapter.core.specification import Owner, parse_specifications
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs import cancel, item, submit
from slurm_adapter.jobs.sync import sync
from slurm_adapter.local.configuration_file import load_config
from slurm_adapter.state.claims import LEASE_SECONDS
from tests.adapter import LiveSite, on_node

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from slurm_adapter.core.records import Record
    from tests.sandbox_cluster import Cluster

    class GroundMaker(Protocol):
        """What the fixture `make_ground` gives."""

        def __call__(self, *, path: str = "") -> Ground:
            """A new site; `path` is a folder that comes first where Slurm's commands are looked for."""


ROOT = Path(__file__).parents[2]
USER = Owner(created_by="alice")


@dataclass
class Clock:
    """The site's clock: the real time, or ahead of it."""

    ahead: float = 0

    def __call__(self) -> float:
        """Seconds since the epoch."""
        return time.time() + self.ahead


@dataclass(frozen=True)
class Death:
    """What is known of a process that was to die: the points that it reached, what it answered, how it ended."""

    points: tuple[str, ...]
    answered: tuple[str, ...] | None
    code: int
    complaint: str

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.code == 128 + signal.SIGKILL


@dataclass
class Ground(LiveSite):
    """An adapter whose processes die."""

    clock: Clock = field(default_factory=Clock)
    own: str = ""
    """The folder of its user's, on the nodes, with its jobs' folders and what their applications write."""

    def job(self, name: str, *, peers: dict[str, Record] | None = None, code: str = "", **more: Any) -> dict[str, Any]:
        """A job whose application says that it has started; then come its peers' names, and `code`."""
        told = f'echo "$SLURM_JOB_ID" >>{self.own}/started-{name}'
        looks = [f"getent hosts {each}" for each in peers or {}]
        return self.shell(" && ".join([told, *looks, *([code] if code else [])]), peers=peers, **more)

    def starts(self, name: str) -> int:
        """How often the application of the job of this name was started."""
        path = on_node(self.own, self.cluster) / f"started-{name}"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def launch(self, point: str, action: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a process that dies at a point; see `tests.crash.child`."""
        words = (str(self.config_file), str(self.clock.ahead), point, action, *arguments)
        return subprocess.Popen(
            [sys.executable, "-m", "tests.crash.child", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def die(self, point: str, action: str, *arguments: str) -> Death:
        """Start one, and wait until it and all that it has left behind on the cluster have ended."""
        return finish(self.launch(point, action, *arguments))

    def write(self, name: str, specifications: Sequence[dict[str, Any]]) -> str:
        """Write a bulk for the action `submit`."""
        path = self.config_file.parent / f"{name}.json"
        path.write_text(json.dumps({"items": list(specifications)}))
        return str(path)

    def hand_in(self, key: str, specifications: Sequence[dict[str, Any]]) -> list[Record]:
        """The same as the action `submit`, in this process."""
        parsed = parse_specifications(json.dumps({"items": list(specifications)}).encode())
        items = [item.Item(each, f"{key}/{number}") for number, each in enumerate(parsed)]
        return submit.submit(self.site, USER, items)

    def create(self, id_: str, created_at: int, specification: dict[str, Any]) -> Record:
        """The same as the action `create`, in this process."""
        [parsed] = parse_specifications(json.dumps(specification).encode())
        [record] = submit.submit(self.site, USER, [item.Item(parsed, id=id_, created_at=created_at)])
        return record

    def settle(self, *living: Record, problem: str = "", timeout: float = 90) -> None:
        """Pass after pass, until only these jobs are left and a pass changes nothing; none but this problem may arise.

        Call it when no sbatch can be under way any more (`die` and `finish` see to that): where an answer was lost the
        clock is moved ahead, for otherwise every such job would wait for five minutes of real time.
        """
        limit = time.monotonic() + timeout
        while True:
            active = self.site.store.active()
            self._pass_time(active)
            report = sync(self.site)
            assert [each for each in report.problems if not problem or problem not in each] == []
            if {record.id for record in active} == {record.id for record in living} and not report.changed:
                return
            assert time.monotonic() < limit, f"not quiet after {timeout} s: {active}"
            time.sleep(0.2)

    def _pass_time(self, active: Sequence[Record]) -> None:
        """Move the clock to the end of what lost answers and leases of killed processes have to wait for."""
        if any(record.stage is Stage.SUBMITTING for record in active):
            self.clock.ahead += DISPATCH_SECONDS + 5
        elif any(record.lease is not None and record.lease > self.clock() for record in active):
            self.clock.ahead += LEASE_SECONDS

    def check(self, *living: Record) -> None:
        """Count everything: rows, Slurm's jobs, updates, folders, hosts files. Only these jobs live."""
        rows = {record.slurm_name: record for record in self.site.store.all(10_000)}
        listed = self.site.scheduler.queue(["alice"]).observations
        ours = [row for row in listed if row.name.startswith(f"{self.site.store.instance}-")]
        assert {row.name for row in ours} <= set(rows), "a Slurm job without a row"
        ran = Counter(row.name for row in ours if row.state != "CANCELLED")
        assert max(ran.values(), default=1) == 1, f"two Slurm jobs of one job: {ran}"
        alive = {row.name for row in ours if row.state in {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"}}
        assert alive == {record.slurm_name for record in living}
        for record in rows.values():
            if record.id not in {each.id for each in living}:
                self._check_ended(record)
        self._check_folders(rows.values())
        self._check_hosts(living)

    def _check_ended(self, record: Record) -> None:
        assert record.stage is Stage.ENDED, record
        updates = self.site.store.updates(record.id)
        told = [update.state for update in updates if update.state is not None]
        # Told one after the other, and once: what ends is the last word.
        assert updates[-1].state is record.state
        assert [state for state in told if state.final] == [record.state]
        assert told.count(JobState.RUNNING) <= 1
        owner = self.file(record, "owner")
        if record.slurm_id is not None or owner.is_symlink():
            assert owner.readlink() in {Path("closed"), Path("cancelled")}, "its user could run it again"

    def _check_folders(self, records: Collection[Record]) -> None:
        pattern = self.site.config.jobs.folder
        parent, prefix = on_node(pattern.replace("{user}", "alice"), self.cluster).parent, pattern.split("/")[-1]
        there = {path.name for path in parent.glob(prefix.replace("{id}", "*"))}
        assert there <= {Path(record.folder).name for record in records}, "a folder without a row"

    def _check_hosts(self, living: Sequence[Record]) -> None:
        now = [self.now(record) for record in living]
        ids = {record.id for record in now if record.state is JobState.RUNNING}
        assert set(re.findall(r"^# (?:job|consumer) (\d+) ", self.shared_block, re.MULTILINE)) == ids
        there = {path.name for path in self.peers.iterdir()}
        assert there - {"hosts"} == {record.peers_file for record in now if record.peers}, (
            "views of no living job, or rests"
        )

    def end(self) -> None:
        """Leave nothing in Slurm, whatever was asserted before."""
        with self.site:
            limit = time.monotonic() + 60
            while (active := self.site.store.active()) and time.monotonic() < limit:
                self._pass_time(active)
                try:
                    cancel.cancel(self.site, [record.id for record in active if record.cancel_sent is None])
                    sync(self.site)
                except AdapterError:
                    pass
                time.sleep(0.2)
            assert not self.site.store.active()


def finish(process: subprocess.Popen[str]) -> Death:
    """Wait until a process of `Ground.launch` and all that it has left behind have ended."""
    out, complaint = process.communicate(timeout=120)
    lines = out.splitlines()
    answers = [line.split()[1:] for line in lines if line.startswith("answer")]
    points = tuple(line.removeprefix("point ") for line in lines if line.startswith("point "))
    return Death(points, tuple(answers[0]) if answers else None, process.returncode, complaint)


def kill(process: subprocess.Popen[str], *, all_of_it: bool, after: float = 0) -> None:
    """Kill the one that works some seconds after it has begun, or it and all that it has started on the cluster."""
    worker = int(_first_line(process).split()[1])
    time.sleep(after)
    others = _descendants(worker) if all_of_it else []
    os.kill(worker, signal.SIGKILL)
    for pid in others:
        with suppress(ProcessLookupError):  # it has gone with the one that started it
            os.kill(pid, signal.SIGKILL)


def _first_line(process: subprocess.Popen[str]) -> str:
    """What it says first, byte by byte: a buffer would take more, and `communicate` does not look into it."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(process.stdout.fileno(), 1)
        assert byte, "it ended before it began"
        line += byte
    return line.decode()


def _descendants(pid: int) -> list[int]:
    children = [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]
    return [each for child in children for each in (child, *_descendants(child))]


def effects(points: Sequence[str]) -> list[int]:
    """The numbers of those points that lie between two effects, each once.

    Between the end of one effect and the beginning of the next nothing happens, and of a call of the scheduler only
    the commands that it runs are effects.
    """
    inner = [
        number
        for number, name in enumerate(points, 1)
        if name.startswith(("before Store.", "before Transport.")) and name != "before Store.note_hosts_written"
    ]
    return [*inner, len(points)]


_SLOW = """#!/bin/sh
# The real program of this name, but the call for which a test has asked waits before it, or before it answers.
here={control}
hold() {{
    /bin/mv "$here/hold-$1" "$here/held" 2>/dev/null || return 0
    until [ -e "$here/release" ]; do /bin/sleep 0.05; done
}}
echo "$$" >>"$here/calls"
hold asked
said=$(/usr/bin/{name} "$@")
status=$?
hold answered
[ -z "$said" ] || printf '%s\\n' "$said"
exit "$status"
"""


@dataclass
class Slow:
    """Commands of the cluster that wait where a test wants them to."""

    cluster: Cluster
    path: str
    """The folder that holds them, on the nodes."""

    def folder(self, name: str) -> str:
        """Make one of them slow; the folder that has to come first in the path."""
        text = _SLOW.format(control=f"{self.path}/control", name=name)
        file = on_node(self.path, self.cluster) / name
        file.write_text(text)
        file.chmod(0o755)
        return self.path

    @property
    def _control(self) -> Path:
        return on_node(self.path, self.cluster) / "control"

    @property
    def calls(self) -> int:
        """How often it was called."""
        path = self._control / "calls"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def hold(self, place: str) -> None:
        """Let the next call wait when it is `asked`, or when it has `answered` and has not said so."""
        (self._control / f"hold-{place}").touch()

    def wait_held(self) -> None:
        """Wait until a call waits."""
        self.cluster.wait_for((self._control / "held").exists)

    def release(self) -> None:
        """Let the call that waits go on."""
        (self._control / "release").touch()


@pytest.fixture
def slow(adapter: LiveSite, cluster: Cluster) -> Iterator[Slow]:
    """Slow commands; at the end none waits any more."""
    path = f"{adapter.site.config.shared_dir}/slow"
    cluster.ask("sh", "-c", 'mkdir -m 755 "$1" && mkdir -m 777 "$1/control"', "sh", path, user="ucloud")
    made = Slow(cluster, path)
    yield made
    made.release()


@pytest.fixture
def make_ground(adapter: LiveSite) -> Iterator[Callable[..., Ground]]:
    """Makes sites that share nothing but the cluster and the accounts on it."""
    made: list[Ground] = []
    config = adapter.config_file.read_text()
    shared, pattern = adapter.site.config.shared_dir, adapter.site.config.jobs.folder

    def make(*, path: str = "") -> Ground:
        name = f"ground-{len(made)}"
        folder = adapter.config_file.parent / name
        folder.mkdir()
        adapter.cluster.ask("mkdir", "-m", "755", f"{shared}/{name}", user="ucloud")
        text = config.replace(f'"{shared}"', f'"{shared}/{name}"')
        text = text.replace(f'"{adapter.site.config.state_dir}"', f'"{folder}/state"')
        text = text.replace(f'"{pattern}"', f'"{pattern.replace("{id}", name + "-{id}")}"')
        if path:
            text = text.replace("[clusters.main]\n", f'[clusters.main]\npath = "{path}:/usr/bin:/bin"\n')
            text = text.replace('"PATH=', f'"PATH={path}:')
        file = folder / "config.toml"
        file.write_text(text)
        clock = Clock()
        site = Adapter(load_config(file), clock)
        own = f"{pattern.replace('{user}', 'alice').rpartition('/')[0]}/{name}"
        adapter.cluster.ask("mkdir", "-m", "700", own)
        made.append(Ground(adapter.cluster, file, site, clock, own))
        return made[-1]

    yield make
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(Ground.end, made))

"""Random histories of jobs, held against a simple model of what is true.

Hypothesis plays Slurm, its users, other processes of the adapter, and everything that breaks. The model knows of each
job what really became of it, and what a pass could have learned of that; it knows nothing of how the adapter decides.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from slurm_adapter.cluster.schedulers.interface import InDoubt, Listing, Submission
from slurm_adapter.cluster.transports.interface import ConnectionLost, NotConnected, Result
from slurm_adapter.core.errors import AdapterError, InvalidInput
from slurm_adapter.core.hosts_file import find_block, make_groups, project, view
from slurm_adapter.core.records import Record, Stage
from slurm_adapter.core.specification import Owner
from slurm_adapter.core.states import FENCED, JobState
from slurm_adapter.jobs import submit as jobs
from slurm_adapter.jobs.cancel import cancel as cancel_jobs
from slurm_adapter.jobs.sync import sync
from tests.offline import APPLICATION, Offline, peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from slurm_adapter.core.observation import Observation
    from slurm_adapter.jobs.report import Report

    Key = tuple[int, str | None]

QUEUED, RUNNING, SUSPENDED = JobState.IN_QUEUE, JobState.RUNNING, JobState.SUSPENDED
GOOD, BAD, LATE = JobState.SUCCESS, JobState.FAILURE, JobState.EXPIRED

LIVE = {"PENDING": QUEUED, "RUNNING": RUNNING, "COMPLETING": RUNNING, "SUSPENDED": SUSPENDED}
WORST_FIRST = (BAD, LATE, GOOD)

ENDS: dict[str, dict[str, Any]] = {
    "exit 0": {"state": "COMPLETED"},
    "exit 3": {"state": "FAILED", "exit_code": 3, "reason": "NonZeroExitCode"},
    "killed": {"state": "FAILED", "exit_code": None, "signal": 9},
    "memory": {"state": "OUT_OF_MEMORY", "signal": 125},
    "time limit": {"state": "TIMEOUT"},
    "node failed": {"state": "NODE_FAIL"},
    "preempted": {"state": "PREEMPTED"},
    "cancelled by its user": {"state": "CANCELLED"},
    "cancelled by root": {"state": "CANCELLED", "cancelled_by": "root"},
}
"""How jobs end, and what Slurm says of it."""

CODES = {"exit 0": 0, "exit 3": 3, "memory": 137, "time limit": 143}
"""What the job's own script records, where it has the time to; 143 for what ends by TERM."""

PARTS = ("controller", "accounting", "sight", "hosts", "folders")
"""What breaks, for any number of passes."""


class Killed(BaseException):
    """The process is gone in the middle of what it did."""


@dataclass
class Truth:
    """What is true of one job, whatever the adapter makes of it."""

    record: Record
    """As it was handed in."""
    tasks: tuple[str | None, ...]
    passed: set[int] = field(default_factory=set)
    """The Slurm jobs that passed its fence."""
    robbed: bool = False
    """Its user took the folder away."""
    quiet: float | None = None
    """Since when every healthy pass could learn nothing of it, or of some of its tasks."""


class Lives(RuleBasedStateMachine):
    """Jobs come, start, end, are requeued, forgotten, lost and cancelled; things break; and passes look on."""

    @initialize(
        accounting=st.booleans(),
        first=st.lists(st.sampled_from(["server", "consumer", "wide"]), min_size=1, max_size=4),
        begun=st.integers(0, 4),
    )
    def _open(self, *, accounting: bool, first: list[str], begun: int) -> None:
        """Some jobs are there from the start, and some of those run: most of what can happen happens to such."""
        self._open_site(accounting=accounting)
        for kind in first:
            application = "wide" if kind == "wide" else "sleeper"
            self._hand_in("alice", None, application, self._nameable("alice", None)[:1] if kind == "consumer" else [])
        for key in self._ours("PENDING")[:begun]:
            self._begin(key, ("node001",))

    def _open_site(self, *, accounting: bool) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.site = Offline(Path(self.folder.name), accounting=accounting)
        wide = Path(self.folder.name, "applications", "wide.yaml")
        wide.write_text(APPLICATION.format(name="wide", more="sbatch: {array: 0-2}"))
        self.other = self.site.open()
        self.slurm = self.site.slurm
        self.accounting = accounting
        self.truths: dict[str, Truth] = {}
        self.purged: dict[Key, Observation] = {}
        self.final: dict[str, Record] = {}
        self.broken: set[str] = set()
        self.late = False
        self.countdown = 0
        self.meanwhile = False
        self.event: Callable[[Callable[..., Any], tuple[Any, ...]], Any] = lambda inner, given: inner(*given)
        self.queue = self.slurm.queue
        for name in ("submit", "cancel", "queue", "history", "nodes", "addresses"):
            setattr(self.slurm, name, partial(self._call, getattr(self.slurm, name)))
        for site in (self.site.site, self.other):
            inner = site.transport.inner  # type: ignore[attr-defined]  # an offline site's `Tripping`
            inner.run = partial(self._call, inner.run)

    def teardown(self) -> None:
        """Mend everything: then every job ends, in its right state, and its names are gone."""
        if not hasattr(self, "site"):
            return
        try:
            if sys.exc_info()[0] is None:
                self._heal()
        finally:
            self.site.site.close()
            self.other.close()
            self.folder.cleanup()

    # What happens between the adapter and the cluster

    def _call(self, inner: Callable[..., Any], *given: Any) -> Any:
        """A call of a port: something may happen just then, and parts of the cluster may be broken."""
        self.countdown -= 1
        if self.countdown == 0:
            return self.event(inner, given)
        return self._answer(inner, *given)

    def _answer(self, inner: Callable[..., Any], *given: Any) -> Any:
        name = getattr(inner, "__name__", "")
        if name == "submit":
            for each in given[0]:
                truth = self._truth(each.slurm_name)
                assert truth is None or truth.robbed or not truth.passed, "handed in again after its application ran"
        if name == "queue" and "sight" in self.broken:
            inner(*given)
            return Listing((), sees_others=False)
        if name == "run":
            [command] = given
            if "hosts" in self.broken and self.site.site.peers_folder in command.argv:
                return Result(1, b"", b"Read-only file system")
            if "folders" in self.broken and command.user is not None:
                return Result(1, b"", b"sudo: unable to fork")
        return inner(*given)

    def _break_off(self, how: str, inner: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        """A call in which the connection breaks, or the process is killed, before or after it did its work."""
        if how in {"killed after", "lost after"}:
            self._answer(inner, *given)
        if how.startswith("killed"):
            raise Killed
        if getattr(inner, "__name__", "") == "submit":  # which promises to raise nothing
            return [InDoubt("Connection reset by peer") for _ in given[0]]
        raise NotConnected("no route") if how == "unreachable" else ConnectionLost("Connection reset by peer")

    def _meanwhile(self, act: Callable[[], object], inner: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        """Another process does something during this call; what could be learned before it, and after, both count."""
        with suppress(AdapterError):
            act()
        self.meanwhile = True
        return self._answer(inner, *given)

    # What is true

    def _truth(self, token: str) -> Truth | None:
        for record in self.site.site.store.with_slurm_names([token]):
            if token not in self.truths:
                self.truths[token] = Truth(record, ("0", "1", "2") if record.array else (None,))
            return self.truths[token]
        return None

    def _rows(self) -> dict[Key, Observation]:
        """All that the controller holds, whether it can be asked or not; an array's waiting tasks are listed as one."""
        down, self.slurm.down = self.slurm.down, False
        found = {(row.slurm_id, row.task): row for row in self.queue(["alice", "bob"]).observations}
        for (slurm_id, task), row in list(found.items()):
            truth = self._truth(row.name)
            assert truth is not None or row.name == "stranger", "a Slurm job of ours that nobody remembers"
            if truth is not None and truth.record.array and task is None:
                self.slurm.split(slurm_id, "0-2")
                found[slurm_id, "0-2"] = self.slurm.see(slurm_id, "0-2")
                del found[slurm_id, task]
        self.slurm.down = down
        return found

    def _ours(self, *states: str) -> list[Key]:
        return sorted(
            (key for key, row in self._rows().items() if row.state in states and row.name != "stranger"), key=str
        )

    def _owner(self, truth: Truth) -> str:
        link = Path(truth.record.folder, "owner")
        return link.readlink().name if link.is_symlink() else ""

    def _exits(self, truth: Truth, slurm_id: int) -> dict[str | None, dict[str, Any]]:
        read = [json.loads(path.read_text()) for path in Path(truth.record.folder).glob("exit*.json")]
        known = self.site.site.store.get(truth.record.id)
        own = [each for each in read if each["slurm_id"] == slurm_id]
        # The record of an earlier run proves nothing about one that was requeued since.
        return {each["task"]: each for each in own if known.array or each["restart"] >= known.restarts}

    # What a pass could learn

    def _in_back_off(self, truth: Truth) -> bool:
        """Return whether a sync leaves the job's account alone, so that it tries nothing in the job's folder."""
        known = json.loads(self.site.site.store.fact("accounts in trouble") or "{}")
        return bool(known.get(truth.record.account, (0, 0))[1] > self.slurm.now)

    def _is_unread(self, truth: Truth) -> bool:
        """Return whether a sync does not read the job's folder: it cannot, or its account is in back-off."""
        return "folders" in self.broken or self._in_back_off(truth)

    def _may_be_fenced(self, truth: Truth) -> bool:
        """Return whether only the job's folder can tell which Slurm job is its own, and no sync reads it now."""
        ids = {id_ for id_, _ in self._shown(truth)}
        lost_at_fence = any(row.exit_code == FENCED for row in self._shown(truth).values())
        doubtful = lost_at_fence or len(ids) > 1 or self.site.site.store.get(truth.record.id).attempts > 0
        return doubtful and self._is_unread(truth)

    def _shown(self, truth: Truth) -> dict[Key, Observation]:
        if {"controller", "sight"} & self.broken:
            return {}
        return {key: row for key, row in self._rows().items() if row.name == truth.record.slurm_name}

    def _own_ids(self, truth: Truth) -> set[int]:
        """The Slurm jobs that may be the job's own: the one that its fence names, else any."""
        owner = self._owner(truth)
        if owner.isdigit() and not self._is_unread(truth):
            return {int(owner)}
        known = self.site.site.store.get(truth.record.id).slurm_id
        return {slurm_id for slurm_id, _ in self._shown(truth)} | ({known} if known is not None else set())

    def _live_states(self, truth: Truth) -> set[JobState]:
        own = self._own_ids(truth)
        return {LIVE[row.state] for (id_, _), row in self._shown(truth).items() if id_ in own and row.state in LIVE}

    def _learn(self, truth: Truth, slurm_id: int) -> tuple[set[JobState], bool]:
        """The endings of the job that are on show, and whether there is silence about it, or about one of its tasks."""
        record = self.site.site.store.get(truth.record.id)
        now = float(self.slurm.now)
        shown = _by_task(row for (id_, _), row in self._shown(truth).items() if id_ == slurm_id)
        if "controller" in self.broken or any(row.state in LIVE for row in shown.values()):
            return set(), False
        blind = self.accounting and "accounting" in self.broken
        asked = self.accounting and not blind
        hidden = self._rows() if asked and "sight" in self.broken else {}  # accounting shows them all the same
        told = _by_task(
            row
            for row in (*hidden.values(), *(self.purged.values() if asked else ()))
            if row.slurm_id == slurm_id and row.name == record.slurm_name
        )
        exits = {} if self._is_unread(truth) else self._exits(truth, slurm_id)
        verdicts = []
        silent = False
        for task in truth.tasks:
            row = shown.get(task) or told.get(task)
            if row is not None and row.state not in LIVE:
                verdicts.append(self._verdict(row, record, now, blind=blind))
            elif task in exits and not blind:
                verdicts.append(self._recorded(exits[task], record))
            else:
                silent = True
        if silent:
            return set(), not blind
        return {min(states, key=WORST_FIRST.index) for states in product(*verdicts)}, False

    def _verdict(self, row: Observation, record: Record, now: float, *, blind: bool) -> set[JobState]:
        if row.state != "CANCELLED":
            return {{"COMPLETED": GOOD, "TIMEOUT": LATE}.get(row.state, BAD)}
        if record.cancel_sent is not None or not self.accounting:
            return {GOOD}
        if blind:
            return set()
        by = self._by(row)
        known = (row.ended or 0) + self.slurm.accounting_lag <= now
        return {GOOD if by == row.user else BAD} if known else {GOOD} if now >= (row.ended or 0) + 60 else set()

    def _by(self, row: Observation) -> str | None:
        key = (row.slurm_id, row.task)
        return self.purged[key].cancelled_by if key in self.purged else self.slurm.see(*key).cancelled_by

    def _recorded(self, exit_: dict[str, Any], record: Record) -> set[JobState]:
        if exit_["exit_code"] == 0:
            return {GOOD}
        if record.cancel_sent is not None:
            return {GOOD}
        late = record.started is not None and exit_["ended_at"] >= record.started + record.time_limit
        return {LATE, BAD} if late else {BAD}

    # What the adapter made of it

    def _records(self) -> dict[str, Record]:
        return {record.id: record for record in self.site.site.store.all(99)}

    def _learnable(self) -> dict[str, tuple[set[JobState], set[JobState], set[JobState]]]:
        """For each job the states that it may have after a pass: endings on show, endings by silence, live ones."""
        found = {}
        known = self._records()
        for truth in self.truths.values():
            if truth.record.id not in known:
                continue  # refused, and forgotten
            record = known[truth.record.id]
            learned = [self._learn(truth, slurm_id) for slurm_id in sorted(self._own_ids(truth))]
            # A folder that cannot be read counts as one that is gone: what Slurm does not know is lost then, too.
            healthy = not ({"controller", "sight"} | ({"accounting"} if self.accounting else set())) & self.broken
            if healthy and any(silent for _, silent in learned):
                truth.quiet = self.slurm.now if truth.quiet is None else truth.quiet
            else:
                truth.quiet = None
            lost: set[JobState] = set()
            silence = 0 if truth.quiet is None else self.slurm.now - truth.quiet
            if silence >= self.site.config.jobs.lost_after and not self._in_back_off(truth):
                lost = {BAD if record.cancel_sent is None else GOOD}
            ends = set().union(*(states for states, _ in learned))
            found[record.id] = (ends, lost, self._live_states(truth))
        return found

    def _judge(
        self,
        before: dict[str, Record],
        learnable: dict[str, tuple[set[JobState], set[JobState], set[JobState]]],
    ) -> None:
        """Nothing changed without evidence."""
        for id_, record in self._records().items():
            truth = self._truth(record.slurm_name)
            assert truth is not None
            old = before.get(id_, truth.record)
            ends, lost, live = learnable.get(id_, (set(), set(), set()))
            if record.state is old.state:
                continue
            if not record.state.final:
                assert record.state in live, (old, record, live)
            elif record.state not in ends | lost:
                # It never ran, and it never will.
                assert truth.robbed or not truth.passed, (old, record, ends)
                by_us = record.cancel_sent is not None and record.state is GOOD
                refused = record.status.startswith("Slurm refused") and record.state is BAD
                records = self._records()
                alone = any(records[each.job_id].stage is Stage.ENDED for each in record.peers)
                # In doubt, and with its folder the fence is gone: nobody can tell any more whether it ran.
                gone = old.stage is Stage.SUBMITTING and not Path(record.folder).exists() and record.state is BAD
                left_alone = alone and record.state is BAD and record.slurm_id is None
                assert by_us or refused or gone or left_alone, (old, record)

    def _act(self, act: Callable[[], Any]) -> Any:
        """Something that a process does, from its start to its end, whatever that is."""
        before, learnable = self._records(), self._learnable()
        try:
            return act()
        except (AdapterError, Killed) as error:
            return error
        finally:
            self.countdown, meanwhile = 0, self.meanwhile
            self.meanwhile = False
            if sys.exc_info()[0] in {None, Killed} or isinstance(sys.exc_info()[1], AdapterError):
                self._rows()
                if meanwhile:
                    for id_, each in self._learnable().items():
                        learnable[id_] = tuple(map(set.union, learnable.get(id_, each), each))  # type: ignore[assignment]
                self._judge(before, learnable)

    def _pass(self, seconds: int, *, whole: bool = True, allow_mass_end: bool = False) -> None:
        self.slurm.now += seconds
        before = self._records()
        rows = self._rows()
        must = self._learnable()
        delayed = {
            each.record.id for each in self.truths.values() if each.record.id in before and self._may_be_fenced(each)
        }
        done: Report | Exception = self._act(partial(sync, self.site.site, allow_mass_end=allow_mass_end))
        if not whole or isinstance(done, Exception | Killed):
            return
        if "controller" in self.broken:
            self._check_outage(before)
        if "hosts" not in self.broken:
            self._check_hosts(rows, delayed)
        if self.broken or any("would end in this sync" in problem for problem in done.problems):
            return
        for id_, record in self._records().items():
            truth = self._truth(record.slurm_name)
            if id_ in before and truth is not None and before[id_].stage is Stage.SUBMITTED and not truth.robbed:
                ends, _, live = must[id_]
                assert record.stage is Stage.ENDED or not ends or live or id_ in delayed, (record, ends)
                if record.stage is not Stage.ENDED and live:
                    order = (RUNNING, SUSPENDED, QUEUED)
                    assert record.state is min(live, key=order.index), (record, live)

    def _check_outage(self, before: dict[str, Record]) -> None:
        """While the controller does not answer nothing moves but claims, which end with their peers."""
        now = self._records()
        for id_, old in before.items():
            if old.stage is not Stage.CLAIMED:
                assert (now[id_].state, now[id_].stage, now[id_].slurm_id) == (old.state, old.stage, old.slurm_id)

    def _check_hosts(self, rows: dict[Key, Observation], delayed: set[str]) -> None:
        """Names of live jobs only, in their workspace; after a healthy sync those of all present runs.

        Jobs with a delayed decision keep their names until it is made.
        """
        if not self.site.shared or not self.site.site.store.hosts_are_written():
            return
        records = self._records()
        block = find_block(self.site.shared.encode())
        found: dict[str, tuple[str, set[str]]] = {}
        pairs: set[tuple[str, str]] = set()
        for comment, names in re.findall(r"^# (.*)\n((?:[^#].*\n)*)", block, re.MULTILINE):
            words = comment.split()
            id_ = words[1] if words[0] == "job" else words[3]
            assert records[id_].state in {RUNNING, SUSPENDED}, comment
            run = words[words.index("run") + 1]
            addresses = {line.split()[0] for line in names.splitlines()}
            assert found.setdefault(id_, (run, addresses)) == (run, addresses)
            if words[0] == "consumer":
                consumer, named = records[words[1]], records[id_]
                pairs.add((consumer.id, id_))
                assert consumer.stage is not Stage.ENDED
                same = consumer.project == named.project and (consumer.project or consumer.owner == named.owner)
                assert same, "a name of another workspace's job"
        groups = make_groups(records)
        for id_ in self.site.views:
            assert records[id_].stage is not Stage.ENDED
            text = self.site.view(id_).read_text()
            assert text == project(block, id_) == view(group for group in groups if group.consumer == id_)
        if self.broken:
            return
        wanted: dict[str, tuple[str, set[str]]] = {}
        for truth in self.truths.values():
            for (slurm_id, _), row in rows.items():
                own = row.name == truth.record.slurm_name and slurm_id in truth.passed
                runs = LIVE.get(row.state, QUEUED) is not QUEUED
                if own and runs and not truth.record.array and not truth.robbed:
                    at = {f"192.0.2.{int(node[4:])}" for node in row.nodes}
                    wanted[truth.record.id] = (f"{slurm_id}.{row.restarts}", at)
        # Of a job that Slurm has forgotten nobody knows whether it has ended.
        listed = {row.name for row in rows.values()}
        known = {
            each.record.id for each in self.truths.values() if not each.robbed and each.record.slurm_name in listed
        } - delayed
        wanted = {id_: each for id_, each in wanted.items() if id_ in known}
        assert {id_: each for id_, each in found.items() if id_ in known} == wanted, (found, wanted)
        living = [record for record in records.values() if record.stage is not Stage.ENDED]
        wished = {(each.id, one.job_id) for each in living for one in each.peers if one.job_id in wanted}
        assert {pair for pair in pairs if pair[1] in known} == wished

    def _heal(self) -> None:
        self._set_broken(set())
        self.slurm.accounting_lag = 0
        self.slurm.arrive()
        self._pass(1)
        for key, row in self._rows().items():
            if row.name == "stranger":
                self.slurm.forget(key[0])
        for _ in range(25):
            for key in self._ours("PENDING"):
                self._begin(key, ("node001",))
            for key in self._ours("RUNNING", "SUSPENDED", "COMPLETING"):
                self._end(key, "exit 0", recorded=True)
            self._pass(1300, allow_mass_end=True)
            if all(record.stage is Stage.ENDED for record in self._records().values()):
                break
        left = [record for record in self._records().values() if record.stage is not Stage.ENDED]
        assert not left
        self._pass(1300)
        # While no job is active a pass asks nobody: what came up late for one that is final meets the fence.
        while waiting := self._ours("PENDING"):
            self._begin(waiting[0], ("node001",))
        assert not self._ours(*LIVE)
        assert find_block(self.site.shared.encode()) == ""
        assert self.site.views == set()
        self.final_is_final()
        self.updates_tell_a_path()

    # Slurm and its users

    def _begin(self, key: Key, nodes: Iterable[str]) -> None:
        """Slurm starts a job, or the first task of those that wait, and its script comes to the fence."""
        slurm_id, task = key
        if task is not None and len(names := _names(task)) > 1:
            first, *rest = names
            self.slurm.split(slurm_id, first, ",".join(rest), of=task)
            key = (slurm_id, first)
        self.slurm.start(slurm_id, nodes, key[1])
        truth = self._truth(self.slurm.see(*key).name)
        assert truth is not None
        folder = Path(truth.record.folder)
        if not folder.is_dir():  # it fails closed
            self.slurm.finish(slurm_id, 1, of=key[1])
            return
        link = folder / "owner"
        if not link.is_symlink():
            link.symlink_to(str(slurm_id))
        if link.readlink() != Path(str(slurm_id)):
            self.slurm.finish(slurm_id, FENCED, of=key[1])
            return
        final = self.final.get(truth.record.id)
        unclosed = final is not None and self.site.site.store.get(final.id).close_after is not None
        assert final is None or unclosed, "a job that is final runs nothing again, once its folder is closed"
        truth.passed.add(slurm_id)
        assert truth.robbed or len(truth.passed) == 1, "it ran under two Slurm ids"
        (folder / _exit_name(key[1])).unlink(missing_ok=True)

    def _end(self, key: Key, how: str, *, recorded: bool, code: int | None = None) -> None:
        row = self.slurm.see(*key)
        if how == "time limit":
            self.slurm.now = max(self.slurm.now, (row.started or 0) + 3600)
        if recorded and row.state != "PENDING":
            self._record(key, CODES.get(how, 143) if code is None else code)
        by = {"cancelled_by": row.user} if how == "cancelled by its user" else {}
        values = {**ENDS[how], **by}
        self.slurm.end(key[0], values.pop("state"), of=key[1], **values)

    def _record(self, key: Key, code: int) -> None:
        row = self.slurm.see(*key)
        truth = self._truth(row.name)
        assert truth is not None
        path = Path(truth.record.folder, _exit_name(key[1]))
        if key[0] in truth.passed and path.parent.is_dir():
            content = {
                "format": 1, "job": truth.record.id, "slurm_id": key[0], "restart": row.restarts, "task": key[1],
                "exit_code": code, "signal": None, "ended_at": self.slurm.now, "reason": None,
            }  # fmt: skip
            path.write_text(json.dumps(content))

    def _set_broken(self, broken: set[str]) -> None:
        self.broken = broken
        self.slurm.down = "controller" in broken
        self.slurm.accounting_down = "accounting" in broken

    @rule(
        lost=st.sampled_from([None, None, None, "now", "later", "never", "refused"]),
        named=st.sampled_from(["nobody", "its own", "its own", "anybody"]),
        which=st.integers(0, 9),
        user=st.sampled_from(["alice", "alice", "bob"]),
        workspace=st.sampled_from([None, None, "project"]),
        application=st.sampled_from(["sleeper", "sleeper", "wide"]),
    )
    def submit(self, lost: Any, named: str, which: int, user: str, workspace: str | None, application: str) -> None:
        """A job, perhaps with a peer; perhaps the answer is lost."""
        anybody = [record for record in self._records().values() if record.stage is not Stage.ENDED]
        some = {"nobody": [], "its own": self._nameable(user, workspace), "anybody": anybody}[named]
        if lost == "refused":
            self.slurm.refuse_next("Batch job submission failed: Invalid qos specification")
        elif lost:
            self.slurm.lose_next(lost)
        self.late = self.late or lost == "later"
        self._hand_in(user, workspace, application, [some[which % len(some)]] if some else [])

    def _nameable(self, user: str, workspace: str | None) -> list[Record]:
        """The jobs that this user may name as peers there."""
        return [
            record
            for record in self._records().values()
            if record.stage is not Stage.ENDED and not record.array
            if (record.project, record.owner if record.project is None else user) == (workspace, user)
        ]

    def _hand_in(self, user: str, workspace: str | None, application: str, peers: list[Record]) -> None:
        records = self._records()
        given: dict[str, Any] = {"user": user, "project": workspace, "application": application}
        stood = self._folders()
        done = self._act(lambda: self.site.job(resources=[peer("db", each) for each in peers], **given))
        if isinstance(done, AdapterError):
            assert set(self._records()) == set(records)
            assert "folders" in self.broken or self._folders() == stood
        own = {record.id for record in self._nameable(user, workspace)}
        foreign = any(each.id not in own for each in peers)
        if "controller" not in self.broken:
            assert foreign == isinstance(done, InvalidInput)

    def _folders(self) -> set[Path]:
        return set(Path(self.folder.name, "home").glob("*/*"))

    @rule(
        key=st.sampled_from(["k", "l"]),
        at=st.integers(0, 8),
        lost=st.sampled_from([None, "now"]),
        meanwhile=st.sampled_from(["submit", "sync", "cancel"]),
        which=st.integers(0, 9),
    )
    def submit_while_another_process_is_at_work(self, key: str, at: int, lost: Any, meanwhile: str, which: int) -> None:
        """With a key: two that hand in the same job get the same job, and a pass may come between."""
        if lost:
            self.slurm.lose_next(lost)
        item, owner = self.site.item(key), Owner(created_by="alice", project=None)
        acts: dict[str, Callable[[], Any]] = {
            "submit": lambda: jobs.submit(self.other, owner, [item]),
            "sync": lambda: sync(self.other),
            "cancel": lambda: cancel_jobs(self.other, [sorted(self._records())[which % len(self._records())]]),
        }
        self.countdown, self.event = at, partial(self._meanwhile, acts[meanwhile])
        if not self._records() and meanwhile == "cancel":
            self.countdown = 0
        # What the other process learns meanwhile it learns from what is on show now.
        self._act(lambda: jobs.submit(self.site.site, owner, [item]))
        assert len([record for record in self._records().values() if record.key == key]) <= 1

    @precondition(lambda self: self._ours("PENDING"))
    @rule(which=st.integers(0, 9), nodes=st.sampled_from([("node001",), ("node002",), ("node003", "node004")]))
    def start(self, which: int, nodes: tuple[str, ...]) -> None:
        """A job, or a task, runs."""
        waiting = self._ours("PENDING")
        self._begin(waiting[which % len(waiting)], nodes)

    @precondition(lambda self: self._ours("RUNNING", "COMPLETING", "SUSPENDED"))
    @rule(
        which=st.integers(0, 9),
        how=st.sampled_from([*ENDS, "requeue", "suspend", "resume", "completing", "vanish"]),
        recorded=st.booleans(),
        code=st.sampled_from([None, None, 0]),
    )
    def move(self, which: int, how: str, *, recorded: bool, code: int | None) -> None:
        """Something becomes of a job that runs."""
        running = self._ours("RUNNING", "COMPLETING", "SUSPENDED")
        key = running[which % len(running)]
        row = self.slurm.see(*key)
        if how in ENDS:
            self._end(key, how, recorded=recorded and how not in {"killed", "node failed"}, code=_plausible(how, code))
        elif how == "requeue":
            if recorded:
                self._record(key, 143)
            self.slurm.requeue(*key)
        elif how == "vanish":
            if recorded:
                self._record(key, 0)
            self._forget(key[0])
        elif how == "completing":
            self.slurm.change(key[0], of=key[1], state="COMPLETING")
        elif row.state == {"suspend": "RUNNING", "resume": "SUSPENDED"}[how]:
            self.slurm.change(key[0], of=key[1], state="SUSPENDED" if how == "suspend" else "RUNNING")

    @precondition(lambda self: self._ours("PENDING"))
    @rule(
        which=st.integers(0, 9), how=st.sampled_from(["hold", "cancelled by its user", "cancelled by root", "vanish"])
    )
    def move_waiting(self, which: int, how: str) -> None:
        """Something becomes of a job that waits."""
        waiting = self._ours("PENDING")
        key = waiting[which % len(waiting)]
        if how == "hold":
            self.slurm.change(key[0], of=key[1], reason="JobHeldUser")
        elif how == "vanish":
            self._forget(key[0])
        elif key[1] is None or len(_names(key[1])) == 1:
            self._end(key, how, recorded=False)

    @precondition(lambda self: self._ours(*(each["state"] for each in ENDS.values())))
    @rule(which=st.integers(0, 9), how=st.sampled_from(["requeue", "purge", "purge", "vanish"]))
    def move_ended(self, which: int, how: str) -> None:
        """The owner of a job that ended lets it run again, or Slurm forgets it."""
        ended = self._ours(*(each["state"] for each in ENDS.values()))
        key = ended[which % len(ended)]
        row = self.slurm.see(*key)
        if how == "requeue":
            self.slurm.requeue(*key)
        elif how == "vanish":
            self._forget(key[0])
        else:
            self.slurm.now = max(self.slurm.now, (row.ended or 0) + 300)
            self.slurm.purge(*key)
            self.purged[key] = row

    def _forget(self, slurm_id: int) -> None:
        self.slurm.forget(slurm_id)
        self.purged = {key: row for key, row in self.purged.items() if key[0] != slurm_id}
        self.last_lost = slurm_id

    @precondition(lambda self: hasattr(self, "last_lost"))
    @rule(user=st.sampled_from(["alice", "bob"]), ours=st.booleans())
    def hand_out_an_id_again(self, user: str, *, ours: bool) -> None:
        """A controller that lost its state gives the id to the next job of ours, or to a stranger's."""
        if ours:
            self.slurm.next_id = self.last_lost
        elif all(key[0] != self.last_lost for key in self._rows()):
            self.slurm.make(self.last_lost, Submission("stranger", user, "/nonexistent", ()))
            self.slurm.start(self.last_lost)
        del self.last_lost

    @precondition(lambda self: self.late)
    @rule()
    def arrive(self) -> None:
        """What was lost on its way comes up."""
        self.slurm.arrive()
        self.late = False

    @precondition(lambda self: self.truths)
    @rule(which=st.integers(0, 9))
    def take_a_folder_away(self, which: int) -> None:
        """A user removes the folder of a job."""
        truth = list(self.truths.values())[which % len(self.truths)]
        folder = Path(truth.record.folder)
        if folder.is_dir():
            shutil.rmtree(folder)
        truth.robbed = True

    @rule(parts=st.sets(st.sampled_from(PARTS), max_size=2), lag=st.sampled_from([0, 0, 30]))
    def break_and_mend(self, parts: set[str], lag: int) -> None:
        """These parts are broken from now on, all others are whole, and so late does accounting learn of an end."""
        self._set_broken(parts)
        self.slurm.accounting_lag = lag

    @precondition(lambda self: self._records())
    @rule(which=st.integers(0, 9), tidy=st.sampled_from([None, 0, 143]))
    def cancel(self, which: int, tidy: int | None) -> None:
        """Somebody cancels a job through the adapter; its script may have the time to record that."""
        records = list(self._records().values())
        running = self._ours("RUNNING", "COMPLETING", "SUSPENDED")
        chosen = records[which % len(records)]
        self._act(lambda: cancel_jobs(self.site.site, [chosen.id]))
        for key in running:
            if tidy is not None and self.slurm.see(*key).state == "CANCELLED":
                self._record(key, tidy)

    @rule(seconds=st.sampled_from([1, 1, 70, 200, 4000]))
    def sync(self, seconds: int) -> None:
        """A pass."""
        self._pass(seconds)

    @rule(
        seconds=st.sampled_from([1, 200, 4000]),
        at=st.integers(1, 8),
        how=st.sampled_from(["killed before", "killed after", "lost before", "lost after", "unreachable"]),
    )
    def sync_that_is_cut_short(self, seconds: int, at: int, how: str) -> None:
        """A pass in which one call fails, or with which the process dies."""
        self.countdown, self.event = at, partial(self._break_off, how)
        self._pass(seconds, whole=False)

    @rule(
        at=st.integers(1, 8),
        how=st.sampled_from(["killed before", "killed after", "lost before", "lost after", "unreachable"]),
    )
    def submit_that_is_cut_short(self, at: int, how: str) -> None:
        """A submission in which one call fails, or with which the process dies."""
        before = self._records()
        self.countdown, self.event = at, partial(self._break_off, how)
        done = self._act(self.site.job)
        if isinstance(done, AdapterError):
            assert set(self._records()) == set(before)

    @precondition(lambda self: self._records())
    @rule(at=st.integers(1, 6), which=st.integers(0, 9))
    def cancel_during_a_pass(self, at: int, which: int) -> None:
        """Another process cancels a job while a pass is at work."""
        chosen = list(self._records().values())[which % len(self._records())]
        self.countdown = at
        self.event = partial(self._meanwhile, lambda: cancel_jobs(self.other, [chosen.id]))
        self._pass(1, whole=False)

    # What always holds

    @invariant()
    def final_is_final(self) -> None:
        """What a record tells of a job that has ended never changes; closing its folder may go on."""
        if not hasattr(self, "site"):
            return
        for record in self._records().values():
            assert record.state.final == (record.stage is Stage.ENDED)
            if record.stage is Stage.ENDED:
                kept = record._replace(trouble="", close_after=None)
                assert self.final.setdefault(record.id, kept) == kept

    @invariant()
    def updates_tell_a_path(self) -> None:
        """Users are told of one final state, and of nothing after it; the last state told is the present one."""
        if not hasattr(self, "site"):
            return
        for record in self._records().values():
            told = self.site.site.store.updates(record.id)
            assert not any(update.state is not None and update.state.final for update in told[:-1])
            states = [QUEUED, *(update.state for update in told if update.state is not None)]
            assert states[-1] is record.state
            assert all(one is not other for one, other in pairwise(states))


def _by_task(rows: Iterable[Observation]) -> dict[str | None, Observation]:
    return {name: row for row in rows for name in ([None] if row.task is None else _names(row.task))}


def _names(task: str) -> list[str]:
    return ["0", "1", "2"] if task == "0-2" else task.split(",")


def _exit_name(task: str | None) -> str:
    return "exit.json" if task is None else f"exit-{task}.json"


def _plausible(how: str, code: int | None) -> int | None:
    """Who is told to end may still end well."""
    return code if how in {"time limit", "cancelled by its user", "cancelled by root"} else None


class LongLives(Lives):
    """The same, longer and more often."""


_ALL = settings(suppress_health_check=list(HealthCheck))

TestLives = Lives.TestCase
# The same lives every time, so that no change is blamed for what it did not do. `-m long` looks for new ones.
TestLives.settings = settings(_ALL, max_examples=30, stateful_step_count=25, derandomize=True)

TestLongLives = pytest.mark.long(LongLives.TestCase)
TestLongLives.settings = settings(_ALL, max_examples=1000, stateful_step_count=60, derandomize=False)

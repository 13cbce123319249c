"""The logs of jobs for any number of followers: each gets all of the log, from the start, at its own pace.

A followed job has one reader. Its rounds are commands of `slurm_adapter.jobs.logs`, one at a time. The result of a
round goes to every follower that it fits. Followers that have caught up are at the same place in every file, and cost
one command an interval together. A follower that comes late, or is slow, gets rounds of its own until it has caught up;
those that come late in the same interval share theirs.

    Following ── one query of the database an interval, for all followed jobs
        └ _Reader, one for each job ── one round at a time, for the follower that has waited longest
              └ Follower ── at most two rounds of bytes; they are decoded when the text is taken

A follower that takes nothing is given nothing: it holds at most two megabytes, and delays others only for a moment. For
a job in the queue only the database is read. The end of a job is read before the round that finds nothing new, so that
its last bytes are never lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import AdapterError, TryAgain, Unknown
from slurm_adapter.core.states import JobState
from slurm_adapter.gateway.shares import Shares
from slurm_adapter.gateway.streams.follower import ROUND, Follower
from slurm_adapter.jobs import logs

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import Record
    from slurm_adapter.gateway.thread_pools import ThreadPools

INTERVAL = 1.0
"""Seconds between two rounds for a follower that has caught up, and between two queries of the database."""

AT_ONCE = 3
"""Reading commands at once: an SSH connection has five sessions, and new jobs must not wait for one."""

SLOW_SECONDS = 2.0
"""Seconds from which a round is slow. The next round of its account waits for its duration, times `SLOW_PAUSE`."""

SLOW_PAUSE = 9
"""Factor for slow rounds. So an account with hanging files takes a tenth of one reader, and others continue."""

FOLLOWERS, FOLLOWERS_OF_ONE = 2000, 200
"""Streams at once, of all users and of jobs of one user.

Each holds at most two rounds. Followers at the same place hold the same bytes.
"""

LONGEST_PAUSE = 30.0
"""Most seconds until the next round while the cluster cannot be reached."""

_log = logging.getLogger(__name__)


class _Reader:
    """A followed job."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.last_update = 0
        """Number of its last update."""
        self.followers: set[Follower] = set()
        self.wakes = asyncio.Event()
        self.not_before = 0.0
        """Time from which the next round may begin after a failure."""
        self.next_start = 0.0
        """Time of the next round from the start of the log. New followers of one interval share it."""

    def refresh(self, record: Record | None, last_update: int) -> None:
        """Give the job's present record to its followers; None if it was deleted."""
        if record is None:
            self.finish()
        elif (record, last_update) != (self.record, self.last_update):
            self.record, self.last_update = record, last_update
            for follower in self.followers:
                follower.update(record)
        self.wakes.set()

    def finish(self, error: AdapterError | None = None) -> None:
        """End all of its followers."""
        for follower in self.followers:
            follower.finish(error)

    def choose(self, now: float, patience: float) -> tuple[Follower | None, float | None]:
        """Return the follower of the next round, and the seconds until then; None if something must happen first."""
        ready = [follower for follower in self.followers if follower.has_room]
        if not ready or not _may_have_output(self.record):
            return None, None
        first = min(ready, key=lambda follower: follower.due)
        due = first.due
        if any(follower.offsets == first.offsets for follower in self.followers.difference(ready)):
            # A round for one of several at the same place would cost the others rounds of their own.
            due += patience
        return first, max(due, self.not_before) - now

    async def wait(self, seconds: float | None) -> None:
        """Wait until something happens, or for so many seconds."""
        self.wakes.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wakes.wait()


class _Account:
    """An account: one round at a time reads files of all of its jobs."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.not_before = 0.0
        """Time from which its next round may begin."""


class Following:
    """All followers of jobs at one gateway."""

    def __init__(
        self,
        pools: ThreadPools,
        *,
        interval: float = INTERVAL,
        patience: float = INTERVAL,
        limit: int = FOLLOWERS_OF_ONE,
    ) -> None:
        self._pools = pools
        self._interval = interval
        self._patience = patience
        self._shares = Shares(FOLLOWERS, limit, "streams that follow jobs")
        self._accounts: defaultdict[str, _Account] = defaultdict(_Account)
        self._readers: dict[str, _Reader] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._watching = False
        self._closed = False

    @property
    def followers(self) -> int:
        """Number of followers."""
        return sum(len(reader.followers) for reader in self._readers.values())

    @property
    def readers(self) -> int:
        """Number of followed jobs."""
        return len(self._readers)

    @contextmanager
    def follow(self, record: Record) -> Iterator[Follower]:
        """Follow a job within the block. Raise `TooMany` if too many streams follow jobs of its owner already."""
        if self._closed:
            raise TryAgain("the gateway is stopping; follow the job again")
        self._shares.acquire(record.owner)
        reader = self._readers.get(record.id)
        if reader is None:
            reader = self._readers[record.id] = _Reader(record)
            self._start(self._read(reader), f"follow {record.id}")
            if not self._watching:
                self._watching = True
                self._start(self._watch(), "watch followed jobs")
        follower = Follower(reader.record, reader.wakes, max(asyncio.get_running_loop().time(), reader.next_start))
        reader.followers.add(follower)
        reader.wakes.set()
        try:
            yield follower
        finally:
            self._shares.release(record.owner)
            reader.followers.discard(follower)
            reader.wakes.set()

    async def close(self) -> None:
        """End all followers and readers. A command under way ends by itself."""
        self._closed = True
        for reader in self._readers.values():
            reader.finish(TryAgain("the gateway is stopping; follow the job again"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self, reader: _Reader) -> None:
        """Read for the followers of a job, as long as there are any."""
        failures = 0
        try:
            while reader.followers:
                if (reader.record.logs_gone or reader.record.folder_gone) is not None:
                    reader.finish()
                first, wait = reader.choose(asyncio.get_running_loop().time(), self._patience)
                if first is None or wait is None or wait > 0:
                    await reader.wait(wait)
                    continue
                try:
                    await self._round(reader, first)
                    failures = 0
                except AdapterError as error:
                    failures += 1
                    pause = min(self._interval * 2**failures, LONGEST_PAUSE)
                    reader.not_before = asyncio.get_running_loop().time() + pause
                    _log.warning("job %s: log not read: %s; next attempt in %g s", reader.record.id, error, pause)
        except Exception:  # noqa: BLE001  # logged, and no follower is left waiting
            _log.exception("job %s: following its log failed", reader.record.id)
            reader.finish(Unknown(f"following job {reader.record.id} failed; follow it again"))
        finally:
            del self._readers[reader.record.id]

    async def _round(self, reader: _Reader, first: Follower) -> None:
        clock = asyncio.get_running_loop().time
        account = self._accounts[reader.record.account]
        async with account.turn:
            await asyncio.sleep(account.not_before - clock())
            async with self._turns:
                record, asked, began = reader.record, dict(first.offsets), clock()
                if not asked:
                    reader.next_start = began + self._interval
                try:
                    pieces = await self._pools.questions.run(logs.read_round, record, asked, ROUND)
                finally:
                    if (took := clock() - began) > SLOW_SECONDS:
                        account.not_before = clock() + SLOW_PAUSE * took
        reached = {file: end for file, end in {**asked, **{piece.file: piece.end for piece in pieces}}.items() if end}
        news, more = any(piece.data for piece in pieces), any(piece.more for piece in pieces)
        now = asyncio.get_running_loop().time()
        for follower in reader.followers:
            before = follower.offsets == asked
            if follower.has_room:
                follower.give(pieces, asked)
            if follower.offsets != reached:
                continue
            if record.state.final and before and not news:
                follower.finish()
            follower.due = now if more or record.state.final else now + self._interval

    async def _watch(self) -> None:
        """Read the records of followed jobs periodically, as long as there are any."""
        try:
            while self._readers:
                await asyncio.sleep(self._interval)
                ids = list(self._readers)
                try:
                    found, updates = await self._pools.database.run(_look, ids)
                except AdapterError as error:
                    _log.warning("the records of followed jobs could not be read: %s", error)
                    continue
                for id_ in ids:
                    if (reader := self._readers.get(id_)) is not None:
                        reader.refresh(found.get(id_), updates.get(id_, 0))
        finally:
            self._watching = False


def _may_have_output(record: Record) -> bool:
    return record.state is not JobState.IN_QUEUE or record.restarts > 0


def _look(adapter: Adapter, ids: list[str]) -> tuple[dict[str, Record], dict[str, int]]:
    return adapter.store.find(ids), adapter.store.last_updates(ids)

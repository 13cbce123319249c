"""Jobs' output, to as many followers as there are: each gets all of it, from the start, at its own pace.

A job that is followed has one reader. Its rounds are commands of `slurm_adapter.jobs.logs`, one at a time, and what a
round brings is for every follower that it fits: those who have caught up are at the same place in every file, and cost
one command an interval, however many they are. Who comes late, or does not keep up, is given rounds of its own in
turn, until it is where others are.

    Following ── one look at the database an interval, for all jobs that are followed
        └ _Reader, one for each job ── one round at a time, for whoever has waited longest
              └ Follower ── at most two rounds of bytes; the text is made where it is taken

A follower that takes nothing is given nothing: it holds two megabytes at most, and nobody waits for it longer than a
moment. A job that waits in the queue is looked for in the database only. That a job has ended is seen before the round
that finds nothing new, so that its last bytes are never left out.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
from collections import defaultdict, deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from slurm_adapter.cluster.transports.interface import MEBIBYTE
from slurm_adapter.core.errors import AdapterError, TryAgain, Unknown
from slurm_adapter.core.states import JobState
from slurm_adapter.gateway.shares import Shares
from slurm_adapter.jobs import logs

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import Record
    from slurm_adapter.gateway.thread_pools import ThreadPools
    from slurm_adapter.jobs.logs import Piece

INTERVAL = 1.0
"""Seconds between two rounds for a follower that has caught up, and between two looks at the database."""

ROUND = MEBIBYTE
"""Bytes of one round, about."""

AT_ONCE = 3
"""Reading commands under way at once: an SSH connection has five sessions, and new jobs must not wait for one."""

SLOW_SECONDS = 2.0
"""A round that takes longer is a slow one. Its account's next one may be after as many times its duration as..."""

SLOW_PAUSE = 9
"""... this, so that an account whose files hang takes a tenth of one reader, and others' output goes on."""

FOLLOWERS, FOLLOWERS_OF_ONE = 2000, 200
"""Streams at once, and of the jobs of one user.

Each holds two rounds at most, and those who are at the same place hold the same bytes.
"""

LONGEST_PAUSE = 30.0
"""Seconds until the next round, at most, while the cluster cannot be reached."""

STEP = 64 * 1024
"""Bytes of the longest text that a follower is given at once."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Output:
    """Some text that a job has written."""

    rank: int
    is_error: bool
    text: str


@dataclass(slots=True)
class _Held:
    """Bytes that were read for a follower and that it has not taken yet."""

    file: str
    rank: int
    is_error: bool
    data: memoryview
    again: bool
    """The file begins anew: it has become shorter."""


class _Text:
    """A file's bytes as text: a character that two pieces share is not broken, and what is none is replaced."""

    def __init__(self, rank: int, *, is_error: bool) -> None:
        self._rank = rank
        self._is_error = is_error
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, data: memoryview) -> Output | None:
        """What more there is to be read."""
        return self._output(self._decoder.decode(bytes(data)))

    def end(self) -> Output | None:
        """What is left when nothing more comes: half a character."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return self._output(text)

    def _output(self, text: str) -> Output | None:
        return Output(self._rank, self._is_error, text) if text else None


class Follower:
    """One who follows a job: `async for` gives its output, and its record at first and whenever more is told of it.

    It ends when the job has ended and all of its output was given. Raises `TryAgain` where the gateway stops before,
    and `Unknown` where something unforeseen has ended the reading.
    """

    def __init__(self, record: Record, reader_wakes: asyncio.Event, now: float) -> None:
        self.offsets: dict[str, int] = {}
        """Up to where each file was read; a file at its beginning is not in it."""
        self.due = now
        """When its next round may be."""
        self._news: Record | None = record
        self._held: deque[_Held] = deque()
        self._size = 0
        self._texts: dict[str, _Text] = {}
        self._finished = False
        self._error: AdapterError | None = None
        self._wakes = asyncio.Event()
        self._reader_wakes = reader_wakes

    @property
    def has_room(self) -> bool:
        """Whether it is given more."""
        return self._size < ROUND and not self._finished

    def give(self, pieces: Sequence[Piece], asked: dict[str, int]) -> None:
        """Take what fits of a round that was read from these places."""
        for piece in pieces:
            own = self.offsets.get(piece.file, 0)
            again = piece.start < asked.get(piece.file, 0) == own
            if again:
                own = 0
            if piece.start <= own <= piece.end:
                self._hold(piece, own - piece.start, again=again)
        self._wakes.set()

    def tell(self, record: Record) -> None:
        """More is known of the job."""
        self._news = record
        self._wakes.set()

    def finish(self, error: AdapterError | None = None) -> None:
        """Nothing more comes after what it holds."""
        if not self._finished:
            self._finished, self._error = True, error
            self._wakes.set()

    def __aiter__(self) -> Self:
        """Follow."""
        return self

    async def __anext__(self) -> Output | Record:
        """Wait for more, and take it."""
        while True:
            if self._news is not None:
                news, self._news = self._news, None
                return news
            if (output := self._next_text()) is not None:
                return output
            if self._finished:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._wakes.clear()
            await self._wakes.wait()

    def _hold(self, piece: Piece, skip: int, *, again: bool) -> None:
        self.offsets[piece.file] = piece.end
        if piece.end == 0:
            del self.offsets[piece.file]
        data = memoryview(piece.data)[skip:]
        if data or again:
            self._held.append(_Held(piece.file, piece.rank or 0, piece.is_error, data, again))
            self._size += len(data)

    def _next_text(self) -> Output | None:
        while self._held:
            held = self._held[0]
            text = self._texts.setdefault(held.file, _Text(held.rank, is_error=held.is_error))
            if held.again:
                held.again = False
                if (rest := text.end()) is not None:
                    return rest
            step, held.data = held.data[:STEP], held.data[STEP:]
            if not held.data:
                self._held.popleft()
            full = not self.has_room
            self._size -= len(step)
            if full and self.has_room:
                self._reader_wakes.set()
            if (output := text.add(step)) is not None:
                return output
        while self._finished and self._texts:
            _, text = self._texts.popitem()
            if (rest := text.end()) is not None:
                return rest
        return None


class _Reader:
    """A job that is followed."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.told = 0
        """The number of the last thing that was told of it."""
        self.followers: set[Follower] = set()
        self.wakes = asyncio.Event()
        self.not_before = 0.0
        """After a failure: when the next round may be."""

    def see(self, record: Record | None, told: int) -> None:
        """Take what the database has to say of the job now; None where it is remembered no longer."""
        if record is None:
            self.finish()
        elif (record, told) != (self.record, self.told):
            self.record, self.told = record, told
            for follower in self.followers:
                follower.tell(record)
        self.wakes.set()

    def finish(self, error: AdapterError | None = None) -> None:
        """Give nothing more to anybody who follows now."""
        for follower in self.followers:
            follower.finish(error)

    def choose(self, now: float, patience: float) -> tuple[Follower | None, float | None]:
        """For whom the next round is, and in how many seconds; None where something else must happen first."""
        ready = [follower for follower in self.followers if follower.has_room]
        if not ready or not _may_have_output(self.record):
            return None, None
        first = min(ready, key=lambda follower: follower.due)
        due = first.due
        if any(follower.offsets == first.offsets for follower in self.followers.difference(ready)):
            # A round for one of many at the same place would leave the others with rounds of their own.
            due += patience
        return first, max(due, self.not_before) - now

    async def wait(self, seconds: float | None) -> None:
        """Until something happens, or so many seconds."""
        self.wakes.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wakes.wait()


class _Account:
    """An account whose files are read: one round at a time, for all of its jobs."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.not_before = 0.0
        """When its next round may be."""


class Following:
    """All who follow jobs of one site."""

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
        """How many follow now."""
        return sum(len(reader.followers) for reader in self._readers.values())

    @property
    def readers(self) -> int:
        """How many jobs are read for them."""
        return len(self._readers)

    @contextmanager
    def follow(self, record: Record) -> Iterator[Follower]:
        """Follow a job within the block. Raises `TooMany` if too many streams follow jobs of its owner already."""
        if self._closed:
            raise TryAgain("the gateway is being stopped; follow the job again")
        self._shares.acquire(record.owner)
        reader = self._readers.get(record.id)
        if reader is None:
            reader = self._readers[record.id] = _Reader(record)
            self._start(self._read(reader), f"follow {record.id}")
            if not self._watching:
                self._watching = True
                self._start(self._watch(), "watch followed jobs")
        follower = Follower(reader.record, reader.wakes, asyncio.get_running_loop().time())
        reader.followers.add(follower)
        reader.wakes.set()
        try:
            yield follower
        finally:
            self._shares.release(record.owner)
            reader.followers.discard(follower)
            reader.wakes.set()

    async def close(self) -> None:
        """Let nobody wait any longer, and end the reading. A command that is under way ends by itself."""
        self._closed = True
        for reader in self._readers.values():
            reader.finish(TryAgain("the gateway is being stopped; follow the job again"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self, reader: _Reader) -> None:
        """Read for those who follow a job, until nobody does."""
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
                    _log.warning("job %s: %s; its output is read again in %g s", reader.record.id, error, pause)
        except Exception:  # noqa: BLE001  # logged, and nobody is left waiting
            _log.exception("job %s: following it broke off", reader.record.id)
            reader.finish(Unknown(f"following job {reader.record.id} broke off; follow it again"))
        finally:
            del self._readers[reader.record.id]

    async def _round(self, reader: _Reader, first: Follower) -> None:
        clock = asyncio.get_running_loop().time
        account = self._accounts[reader.record.account]
        async with account.turn:
            await asyncio.sleep(account.not_before - clock())
            async with self._turns:
                record, asked, began = reader.record, dict(first.offsets), clock()
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
        """Look what has become of the jobs that are followed, while there are any."""
        try:
            while self._readers:
                await asyncio.sleep(self._interval)
                ids = list(self._readers)
                try:
                    found, told = await self._pools.database.run(_look, ids)
                except AdapterError as error:
                    _log.warning("what became of the jobs that are followed is not known: %s", error)
                    continue
                for id_ in ids:
                    if (reader := self._readers.get(id_)) is not None:
                        reader.see(found.get(id_), told.get(id_, 0))
        finally:
            self._watching = False


def _may_have_output(record: Record) -> bool:
    return record.state is not JobState.IN_QUEUE or record.restarts > 0


def _look(adapter: Adapter, ids: list[str]) -> tuple[dict[str, Record], dict[str, int]]:
    return adapter.store.find(ids), adapter.store.last_updates(ids)

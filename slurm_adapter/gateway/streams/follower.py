"""A follower of one job: the bytes that were read for it, and the text that it takes."""

from __future__ import annotations

import asyncio
import codecs
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from slurm_adapter.cluster.transports.interface import MEBIBYTE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_adapter.core.errors import AdapterError
    from slurm_adapter.core.records import Record
    from slurm_adapter.jobs.logs import Piece

ROUND = MEBIBYTE
"""Approximate size of one round in bytes."""

STEP = 64 * 1024
"""Bytes of the longest text that a follower gets at once."""


@dataclass(frozen=True, slots=True)
class LogText:
    """Some text that a job has written."""

    rank: int
    is_error: bool
    text: str


@dataclass(slots=True)
class _Held:
    """Bytes that a follower has not taken yet."""

    file: str
    rank: int
    is_error: bool
    data: memoryview
    again: bool
    """True if the file begins again, because it has become shorter."""


class _Text:
    """A decoder of a file: it joins characters that are split between pieces, and replaces invalid bytes."""

    def __init__(self, rank: int, *, is_error: bool) -> None:
        self._rank = rank
        self._is_error = is_error
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, data: memoryview) -> LogText | None:
        """Return the text of further bytes."""
        return self._output(self._decoder.decode(bytes(data)))

    def end(self) -> LogText | None:
        """Return the rest at the end: an incomplete character."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return self._output(text)

    def _output(self, text: str) -> LogText | None:
        return LogText(self._rank, self._is_error, text) if text else None


class Follower:
    """A follower of a job: `async for` gives its log, and its record at first and after each update.

    It ends when the job has ended and all of its log was given. Raises `TryAgain` if the gateway stops before that, and
    `Unknown` if an unexpected error has ended the reading.
    """

    def __init__(self, record: Record, reader_wakes: asyncio.Event, now: float) -> None:
        self.offsets: dict[str, int] = {}
        """Offset up to which each file was read; a file at its beginning is not in it."""
        self.due = now
        """Time from which its next round may begin."""
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
        """True if it can hold another round."""
        return self._size < ROUND and not self._finished

    def give(self, pieces: Sequence[Piece], asked: dict[str, int]) -> None:
        """Keep the fitting pieces of a round that was read from these offsets."""
        for piece in pieces:
            own = self.offsets.get(piece.file, 0)
            again = piece.start < asked.get(piece.file, 0) == own
            if again:
                own = 0
            if piece.start <= own <= piece.end:
                self._hold(piece, own - piece.start, again=again)
        self._wakes.set()

    def update(self, record: Record) -> None:
        """Give the changed record of the job."""
        self._news = record
        self._wakes.set()

    def finish(self, error: AdapterError | None = None) -> None:
        """End after what it holds, with an error if there is one."""
        if not self._finished:
            self._finished, self._error = True, error
            self._wakes.set()

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> LogText | Record:
        """Wait for the next text or record."""
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

    def _next_text(self) -> LogText | None:
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

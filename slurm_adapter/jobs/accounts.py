"""Act as many accounts of the cluster at the same time, so that the trouble of one does not delay the others.

Each sync runs commands as the accounts that own its jobs. Each account has a lane of its own, and a limited time. If it
fails, a check decides between trouble of the account and of the site: whether the adapter's own account sees the file
system with the job folders. An account that is in trouble, or slow, is not used for a multiple of the time that it took
(back-off). So it takes a small, bounded share of the time of all syncs, whatever its processes do.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from slurm_adapter.cluster.lanes import WAIT_SECONDS, T
from slurm_adapter.cluster.transports.interface import Busy, Command, CommandTimeout, ConnectionLost
from slurm_adapter.core.durations import back_off
from slurm_adapter.core.errors import AdapterError, TryAgain, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from slurm_adapter.adapter import Adapter

K = TypeVar("K")

SHORTEST, LONGEST = 60.0, 3600.0
"""Shortest and longest back-off of an account in trouble, in seconds."""

SHARE = 20
"""The back-off is at least this multiple of the time that the account took."""

SLOW_SECONDS = 5.0
"""An account that takes longer gets a back-off, too, even if all went well."""

PATIENCE, LONGEST_PATIENCE = 10.0, 60.0
"""Seconds that an account gets at first, and at most: twice as many after each timeout."""


_FACT = "accounts in trouble"
_THERE = 'ls -A -- "$1" | head -n 1'
_ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """Trouble of one account alone."""

    why: str
    slow: bool = False
    """The account may well answer later: nothing is known to be wrong with it."""
    tried: bool = True
    """It was tried just now; otherwise the trouble is from an earlier sync."""


class FolderTrouble(TryAgain):
    """A job's folder cannot be made at present."""


class AccountTrouble(FolderTrouble):
    """Nothing can be done as a job's account at present."""


class _Known(NamedTuple):
    """Stored trouble of an account."""

    since: float
    until: float
    """End of the back-off."""
    why: str
    patience: float = PATIENCE
    slow: bool = False


class Accounts:
    """The accounts of the cluster as one sync finds them.

    `remember`: note what is learned for the next syncs. `asked`: a user waits for this, so that it is tried although
    the account was in trouble a while ago.
    """

    def __init__(self, adapter: Adapter, *, remember: bool = True, asked: bool = False) -> None:
        self._adapter = adapter
        self._remember = remember
        self._asked = asked
        self._well: bool | None = None

    def each(
        self, groups: Mapping[str, Sequence[K]], what: str, act: Callable[[str, Sequence[K], float], T]
    ) -> Iterator[tuple[str, Sequence[K], T | Trouble | AdapterError]]:
        """Act as each of these accounts. Yield the result, the account's own trouble, or an error of the site.

        `act` gets the account, what it is to act on, and how many seconds it may take. It runs in a thread: it uses the
        transport alone.
        """
        remembered, now = self._remembered(), self._adapter.clock()
        begun: list[tuple[str, Trouble | Future[tuple[T | AdapterError, float]], float]] = []
        for user in groups:
            known = remembered.get(user)
            seconds = known.patience if known is not None else PATIENCE
            if self._adapter.lanes.still_runs(user) and not self._asked:
                begun.append((user, Trouble(f"{user} is busy with earlier commands", slow=True), 0.0))
            elif known is not None and known.since <= now < known.until and not self._asked:
                begun.append((user, Trouble(known.why, known.slow, tried=False), 0.0))
            else:
                begun.append((user, self._adapter.lanes.start(_timed(act, user, groups[user], seconds)), seconds))
        until = time.monotonic() + 2 * LONGEST_PATIENCE
        for user, work, seconds in begun:
            if isinstance(work, Trouble):
                yield user, groups[user], work
            elif (done := self._wait(user, work, max(0.0, until - time.monotonic()))) is None:
                yield user, groups[user], Trouble(f"{user} does not answer", slow=True)
            else:
                yield user, groups[user], self._judge(user, what, *done, seconds, remembered.get(user))

    def in_background(
        self, groups: Mapping[str, Sequence[K]], what: str, act: Callable[[str, Sequence[K]], T]
    ) -> Iterator[tuple[str, Sequence[K], T | Trouble | AdapterError]]:
        """Act in the same way, by commands that may take minutes: they go on in the background.

        Without `what`, failures are not judged here: the caller judges them.
        """
        remembered, now = self._remembered(), self._adapter.clock()
        begun: dict[str, Future[tuple[T | AdapterError, float]]] = {}
        for user, some in groups.items():
            known = remembered.get(user)
            if self._adapter.lanes.still_runs(user) and not self._asked:
                yield user, some, Trouble(f"{user} is busy with earlier commands", slow=True)
            elif known is not None and not known.slow and known.since <= now < known.until and not self._asked:
                yield user, some, Trouble(known.why, tried=False)
            else:
                work = _timed(lambda user, some, _: act(user, some), user, some, 0.0)
                begun[user] = self._adapter.lanes.start(work, long=True)
        until = time.monotonic() + WAIT_SECONDS
        for user, future in begun.items():
            late = self._adapter.lanes.was_late(user)
            seconds = None if self._asked else 0.0 if late else max(0.0, until - time.monotonic())
            done = self._wait(user, future, seconds)
            if done is None:
                yield user, groups[user], Trouble(f"{user} does not answer yet", slow=True)
            else:
                judged = self._judge(user, what, done[0], 0.0, PATIENCE, remembered.get(user)) if what else done[0]
                yield user, groups[user], judged

    def cancel(self, slurm_jobs: Mapping[int, str]) -> dict[str, AdapterError | Trouble]:
        """Cancel Slurm jobs, given by id with their accounts. Return what went wrong, by account."""
        groups: dict[str, list[int]] = {}
        for id_, user in slurm_jobs.items():
            groups.setdefault(user, []).append(id_)

        def cancel(user: str, ids: Sequence[int]) -> None:
            self._adapter.scheduler.cancel(dict.fromkeys(ids, user))

        return {user: answer for user, _, answer in self.in_background(groups, "", cancel) if answer is not None}

    def blame(self, user: str, why: str) -> None:
        """Note that something failed because of an account."""
        self._judge(user, "", Unknown(why), 0.0, PATIENCE, self._remembered().get(user))

    @property
    def site_is_well(self) -> bool:
        """Return whether the adapter's own account sees something in the folder that holds the accounts' folders.

        A mount point without its file system is empty. With one account for all jobs there are no others to see.
        """
        if self._well is None:
            above, several, _ = self._adapter.config.jobs.folder.partition("{user}")
            self._well = bool(several) and self._adapter.config.identity.mode == "sudo" and self._sees(above)
        return self._well

    def _sees(self, path: str) -> bool:
        folder = path[: path.rindex("/")] or "/"
        command = Command(("/bin/sh", "-c", _THERE, "sh", folder), timeout=_ANSWER_SECONDS)
        try:
            result = self._adapter.transport.run(command)
        except AdapterError:
            return False
        return result.status == 0 and bool(result.stdout.strip())

    def _wait(self, user: str, work: Future[T], seconds: float | None) -> T | None:
        """Return the result of some work; None if it takes too long, or if no lane was free."""
        try:
            return work.result(seconds)
        except (TimeoutError, CancelledError):
            if not work.cancel():
                self._adapter.lanes.leave_running(user, work, waited=seconds != 0)
            return None

    def _judge(
        self, user: str, what: str, answer: T | AdapterError, took: float, seconds: float, known: _Known | None
    ) -> T | Trouble | AdapterError:
        now = self._adapter.clock()
        if not isinstance(answer, AdapterError):
            if took >= SLOW_SECONDS:
                why = f"the account {user} is slow: it took {took:.0f} s to {what}"
                self._note(user, _Known(now, now + SHARE * took, why, seconds, slow=True))
            elif known is not None:
                self._note(user, None)
            return answer
        if isinstance(answer, Busy):
            return Trouble(str(answer), slow=True)
        if isinstance(answer, ConnectionLost) or not self.site_is_well:
            return answer
        why = f"could not {what}: {answer}" if what else str(answer)
        since = min(known.since, now) if known is not None and not known.slow else now - took
        pause = max(back_off(now - since, SHORTEST, LONGEST), SHARE * took)
        patience = min(2 * seconds, LONGEST_PATIENCE) if isinstance(answer, CommandTimeout) else seconds
        self._note(user, _Known(since, now + pause, why, patience))
        return Trouble(why)

    def _remembered(self) -> dict[str, _Known]:
        known = json.loads(self._adapter.store.fact(_FACT) or "{}")
        return {user: _Known(*each) for user, each in known.items()}

    def _note(self, user: str, trouble: _Known | None) -> None:
        if not self._remember:
            return

        def change(text: str | None) -> str | None:
            known = json.loads(text or "{}")
            known.pop(user, None)
            if trouble is not None:
                known[user] = trouble
            return json.dumps(known) if known else None

        with suppress(AdapterError):  # a database that is busy for long must not stop what is done for others
            self._adapter.store.change_fact(_FACT, change)


def _timed(
    act: Callable[[str, Sequence[K], float], T], user: str, some: Sequence[K], seconds: float
) -> Callable[[], tuple[T | AdapterError, float]]:
    def run() -> tuple[T | AdapterError, float]:
        began = time.monotonic()
        try:
            answer: T | AdapterError = act(user, some, seconds)
        except AdapterError as error:
            answer = error
        return answer, time.monotonic() - began

    return run

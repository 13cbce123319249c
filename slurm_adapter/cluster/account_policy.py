"""The policy on the accounts that may run commands for users, by their uids on the cluster.

A name proves little: `toor` may be root, and with a pattern such as "{user}" any account name may be a user's. So the
adapter asks the cluster for the uid before it uses an account, and again after `FRESH_SECONDS`.
See docs/design.md#identity.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from slurm_adapter.cluster.transports.interface import Command, NotConnected
from slurm_adapter.core.errors import AdapterError, TryAgain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from slurm_adapter.cluster.transports.interface import Result, Stream, Terminal, Transport
    from slurm_adapter.core.config_tables import Identity

FRESH_SECONDS = 60.0
"""Seconds for which the uid of an account is trusted."""
SLURM_SECONDS = 600.0
"""Seconds for which the uids of Slurm's own accounts are trusted. To change SlurmUser, all daemons must restart."""
MUNGE = "munge"
"""The account with the key of munge(7)."""
KNOWN_LIMIT = 10_000
"""Maximum number of accounts in the cache of uids."""

_NOBODY = frozenset({65534, 65535, 2**32 - 2, 2**32 - 1})
"""The overflow uid, and "no uid" in system calls (credentials(7), chown(2)), in 16 and 32 bits."""
_FACT = "uids of Slurm's own accounts"
_UIDS = 'id -u; for name do id -u -- "$name" || echo; done'
_ANSWER_SECONDS = 20.0

_log = logging.getLogger(__name__)


class Memory(Protocol):
    """Short texts that are kept after the end of the process. May be used from several threads."""

    def read(self, name: str) -> str | None:
        """Return the text of this name, or None."""

    def write(self, name: str, text: str) -> None:
        """Keep a text. Raise `AdapterError` if that fails."""


class AccountPolicy:
    """Decides which accounts may be used. May be used from several threads."""

    def __init__(
        self,
        identity: Identity,
        own_uids: Callable[[], Mapping[str, int]],
        memory: Memory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a policy. `own_uids` asks Slurm as `Scheduler.own_uids`; `memory` keeps its last answer."""
        self._identity = identity
        self._own_uids = own_uids
        self._memory = memory
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str | None, float]] = {}
        """The reason why each account is refused, or None, with the time of the cluster's answer."""
        self._slurm: tuple[Mapping[str, int], float] | None = None
        self._asking = threading.Lock()
        """Held by the thread that asks Slurm: many accounts start at the same time, and sites limit requests."""

    @property
    def helper(self) -> str | None:
        """The site's helper for sudo."""
        return self._identity.sudo_helper

    def refusal(self, account: str, transport: Transport) -> str | None:
        """Return the reason why this account is refused, or None. Raise `TryAgain` if the cluster does not answer."""
        with self._lock:
            known = self._known.get(account)
        if known is not None and known[1] <= self._clock() < known[1] + FRESH_SECONDS:
            return known[0]
        now = self._clock()
        try:
            own, (uid, munge) = ask_uids(transport, [account, MUNGE])
        except TryAgain:
            raise
        except AdapterError as error:
            raise TryAgain(f"the uid of {account} is not known: {error}") from error
        if uid is None:
            # Not cached: an unavailable directory service knows no account.
            raise NotConnected(f"nothing was run as {account}: the cluster has no account {account}")
        why = self.judge(uid, own, munge)
        with self._lock:
            if len(self._known) >= KNOWN_LIMIT:
                self._known.clear()
            self._known[account] = why, now
        return why

    def judge(self, uid: int, own: int | None, munge: int | None) -> str | None:
        """Return the reason why an account with this uid is refused, or None.

        `own` and `munge` are the uids of the adapter's account there, and of munge's, if they are known. Raise
        `TryAgain` if Slurm's own accounts are not known.
        """
        lowest = self._identity.lowest_uid
        if uid == 0:
            return "it is root (uid 0)"
        if uid < lowest:
            return (
                f"its uid is {uid}, and accounts below {lowest} are the system's (identity.lowest_uid); if it is meant "
                "to run jobs, set identity.lowest_uid to the lowest uid of such an account"
            )
        if uid in _NOBODY:
            return f"its uid is {uid}, which stands for nobody"
        if uid == own:
            return f"it is the adapter's own account (uid {uid})"
        if uid == munge:
            return f"it is munge's account (uid {uid}), which vouches to Slurm for every user"
        if not self._asking.acquire(timeout=_ANSWER_SECONDS):
            raise TryAgain("Slurm has not yet answered which accounts are its own; try again")
        try:
            slurm_uids = self._slurm_uids()
        finally:
            self._asking.release()
        for key, other in slurm_uids.items():
            if uid == other:
                return f"it is Slurm's own account: {key} has the uid {uid}"
        return None

    def _slurm_uids(self) -> Mapping[str, int]:
        with self._lock:
            known = self._slurm
        now = self._clock()
        if known is not None and known[1] <= now < known[1] + SLURM_SECONDS:
            return known[0]
        try:
            uids = self._own_uids()
        except AdapterError as error:
            # With the last answer, logs and folders can be read while the controller is down.
            last = known[0] if known is not None else self._recall()
            if last is None:
                raise TryAgain(f"Slurm does not answer which accounts are its own: {error}") from error
            with self._lock:  # it is asked again only after a while, because each request may take minutes
                self._slurm = last, self._clock() - SLURM_SECONDS + FRESH_SECONDS
            return last
        with self._lock:
            self._slurm = uids, now
        if known is None or known[0] != uids:
            self._remember(uids)
        return uids

    def _recall(self) -> Mapping[str, int] | None:
        text = self._memory.read(_FACT)
        return None if text is None else json.loads(text)

    def _remember(self, uids: Mapping[str, int]) -> None:
        try:
            self._memory.write(_FACT, json.dumps(uids))
        except AdapterError as error:
            _log.warning("the uids of Slurm's own accounts could not be stored: %s", error)


class GuardedTransport:
    """A transport that runs commands as accounts that the policy allows only, through the site's helper."""

    def __init__(self, inner: Transport, policy: AccountPolicy) -> None:
        self._inner = inner
        self._policy = policy

    def run(self, command: Command) -> Result:
        """See `Transport.run`."""
        return self._inner.run(self._checked(command))

    def open(self, command: Command, terminal: Terminal | None = None) -> Stream:
        """See `Transport.open`."""
        return self._inner.open(self._checked(command), terminal)

    def close(self) -> None:
        """See `Transport.close`."""
        self._inner.close()

    def _checked(self, command: Command) -> Command:
        if command.user is None:
            return command
        if (why := self._policy.refusal(command.user, self._inner)) is not None:
            raise NotConnected(f"nothing was run as {command.user}: {why}")
        return replace(command, helper=self._policy.helper)


def ask_uids(transport: Transport, accounts: Sequence[str]) -> tuple[int | None, list[int | None]]:
    """Return the uids of the adapter's own account on the cluster and of these accounts; None for a missing account."""
    result = transport.run(Command(("/bin/sh", "-c", _UIDS, "sh", *accounts), timeout=_ANSWER_SECONDS))
    lines = result.text.split("\n")[-len(accounts) - 2 : -1]
    uids = [int(line) if line.isascii() and line.isdigit() else None for line in lines]
    uids += [None] * (1 + len(accounts) - len(uids))
    return uids[0], uids[1:]

"""Keep the trouble of one account, such as a home folder that does not answer, from being the whole site's.

Each pass runs commands as the accounts whose jobs it sees to. If one fails, a question decides whose trouble that is:
whether the file system with the job folders is there for the adapter's own account. An account in trouble is left
alone for a while, so that a command that hangs costs every pass but a few nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from slurm_adapter.errors import AdapterError, TryAgain
from slurm_adapter.transports.interface import Command, ConnectionLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.site import Site

T = TypeVar("T")

SHORTEST, LONGEST = 60.0, 3600.0
"""Seconds for which an account in trouble is left alone: as long as the trouble has lasted, within these limits."""

_FACT = "accounts in trouble"
_THERE = 'ls -A -- "$1" | head -n 1'
_ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """What stands in the way of one account alone."""

    why: str


class FolderTrouble(TryAgain):
    """A job's folder cannot be made at present."""


class Accounts:
    """The accounts of the cluster as one pass finds them. `remember`: note what is learned for the next passes."""

    def __init__(self, site: Site, *, remember: bool = True) -> None:
        self._site = site
        self._remember = remember
        self._well: bool | None = None

    def run(self, user: str, what: str, act: Callable[[], T]) -> T | Trouble:
        """Return what `act` does as an account, or the account's own trouble. Raises what is the site's trouble."""
        known: dict[str, tuple[float, float, str]] = json.loads(self._site.store.fact(_FACT) or "{}")
        now = self._site.clock()
        since, until, why = known.get(user, (now, 0.0, ""))
        if since <= now < until:
            return Trouble(why)
        try:
            answer = act()
        except AdapterError as error:
            if isinstance(error, ConnectionLost) or not self.site_is_well:
                raise
            why = f"could not {what}: {error}"
            now = self._site.clock()
            self._note(user, (min(since, now), now + min(max(now - since, SHORTEST), LONGEST), why))
            return Trouble(why)
        if user in known:
            self._note(user, None)
        return answer

    @property
    def site_is_well(self) -> bool:
        """Whether the adapter's own account sees something in the folder that holds the accounts' folders.

        A mount point without its file system is empty. With one account for all jobs there are no others to see.
        """
        if self._well is None:
            above, several, _ = self._site.config.jobs.folder.partition("{user}")
            self._well = bool(several) and self._site.config.identity.mode == "sudo" and self._sees(above)
        return self._well

    def _sees(self, path: str) -> bool:
        folder = path[: path.rindex("/")] or "/"
        command = Command(("/bin/sh", "-c", _THERE, "sh", folder), timeout=_ANSWER_SECONDS)
        try:
            result = self._site.transport.run(command)
        except AdapterError:
            return False
        return result.status == 0 and bool(result.stdout.strip())

    def _note(self, user: str, trouble: tuple[float, float, str] | None) -> None:
        if not self._remember:
            return

        def change(text: str | None) -> str | None:
            known = json.loads(text or "{}")
            known.pop(user, None)
            if trouble is not None:
                known[user] = trouble
            return json.dumps(known) if known else None

        self._site.store.change_fact(_FACT, change)

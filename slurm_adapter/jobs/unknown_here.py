"""Jobs that UCloud takes for ours, and that are not known here.

UCloud gets the update that such a job is no longer available, which ends it there. So this program must not be the one
that has forgotten it: a database that was lost, or restored from a backup, does not know what still runs. No update is
sent about a job that Slurm has, or that a database of this provider accepted once, or about many jobs at once, until an
administrator has looked (`sync --allow-mass-end`).
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import InvalidInput, Unknown
from slurm_adapter.core.evidence import live_row
from slurm_adapter.core.messages import Message
from slurm_adapter.core.plan import MANY, MANY_OF_ALL
from slurm_adapter.core.states import JobState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.specification import Job
    from slurm_adapter.ucloud.interface import Receiver

NO_LONGER_AVAILABLE = "Your job is no longer available"
"""Status of a job that UCloud has and this adapter does not have."""

NEW_SECONDS = 120
"""A younger job may still be on its way here."""

FINAL_STATES = frozenset(state.value for state in JobState if state.final)

_DOUBTED = "jobs in doubt"
"""The fact that holds them: their ids, with the account of each."""


def verify(adapter: Adapter, wanted: Sequence[Job]) -> list[str]:
    """Report those of these jobs that are gone, and hold back doubtful ones. Return lines about those for the log.

    Raises as Slurm's queue and the receiver do. UCloud asks again then; a repeated update counts once.
    """
    known = adapter.store.find(job.id for job in wanted)
    # A job that is known here is never reported as lost, whatever name of ours comes with it.
    lost = {job.id: job for job in wanted if job.id not in known and job.status.state not in FINAL_STATES}
    lost = {id_: job for id_, job in lost.items() if adapter.clock() - job.created_at / 1000 >= NEW_SECONDS}
    if not lost or adapter.receiver is None:
        return []
    accounts = {id_: _account(adapter, job) for id_, job in lost.items()}
    dead = _dead(adapter, accounts)
    taken = re.compile(rf"[0-9a-f]{{8}}-{re.escape(adapter.config.provider)}-[0-9]+(-[a-z0-9]+)?")
    gone = [id_ for id_ in lost if id_ in dead and not taken.fullmatch(lost[id_].provider_generated_id)]
    if len(gone) > max(MANY, MANY_OF_ALL * len({job.id for job in wanted})):
        gone = []
    taken_now = adapter.store.find(gone)  # one may have come in while Slurm was asked
    _report_lost(adapter, adapter.receiver, [id_ for id_ in gone if id_ not in taken_now])
    doubted = {id_: account for id_, account in accounts.items() if id_ not in gone}
    if not doubted:
        return []
    adapter.store.change_fact(_DOUBTED, lambda noted: json.dumps(_read(noted) | doubted))
    return [_explain(doubted)]


def end_doubted(adapter: Adapter, receiver: Receiver, *, allow_mass_end: bool = False) -> list[str]:
    """Return which jobs are in doubt. With `allow_mass_end` report those to UCloud that Slurm does not have.

    Raises as `verify` does.
    """
    noted = _doubted(adapter)
    known = adapter.store.find(noted)
    doubted = {id_: account for id_, account in noted.items() if id_ not in known}
    if allow_mass_end and doubted:
        gone = _dead(adapter, doubted)
        _report_lost(adapter, receiver, [id_ for id_ in doubted if id_ in gone])
        doubted = {id_: account for id_, account in doubted.items() if id_ not in gone}
    if settled := noted.keys() - doubted.keys():
        adapter.store.change_fact(_DOUBTED, partial(_without, settled))
    return [_explain(doubted)] if doubted else []


def doubts(adapter: Adapter) -> str | None:
    """Return a line about jobs in doubt; None if there are none."""
    doubted = _doubted(adapter)
    return _explain(doubted) if doubted else None


def _account(adapter: Adapter, job: Job) -> str | None:
    with suppress(InvalidInput):
        return adapter.account_of(job.owner)
    return None


def _dead(adapter: Adapter, accounts: Mapping[str, str | None]) -> frozenset[str]:
    """Return those of these jobs that Slurm does not have under a name from any database of this provider."""
    users = sorted({account for account in accounts.values() if account is not None})
    if not users:
        return frozenset()
    listing = adapter.scheduler.queue(users)
    if not listing.sees_others:
        return frozenset()
    ours = re.compile(rf"[0-9a-f]{{8}}-{re.escape(adapter.config.provider)}-([0-9]+)(-[a-z0-9]+)?")
    alive = {
        (match[1], row.user) for row in listing.observations if live_row(row) and (match := ours.fullmatch(row.name))
    }
    return frozenset(id_ for id_, account in accounts.items() if account is not None and (id_, account) not in alive)


def _report_lost(adapter: Adapter, receiver: Receiver, ids: Iterable[str]) -> None:
    messages = [
        Message(number, id_, adapter.clock(), JobState.FAILURE, NO_LONGER_AVAILABLE, JobState.IN_QUEUE, fresh=True)
        for number, id_ in enumerate(ids)
    ]
    answer = receiver.deliver(messages) if messages else None
    if answer is not None and answer.problems:
        raise Unknown("\n".join(answer.problems))


def _doubted(adapter: Adapter) -> dict[str, str | None]:
    return _read(adapter.store.fact(_DOUBTED))


def _read(noted: str | None) -> dict[str, str | None]:
    found: dict[str, str | None] = json.loads(noted or "{}")
    return found


def _without(settled: Collection[str], noted: str | None) -> str | None:
    """Return the noted jobs without settled ones; more may have been noted meanwhile."""
    left = {id_: account for id_, account in _read(noted).items() if id_ not in settled}
    return json.dumps(left) if left else None


def _explain(doubted: Mapping[str, str | None]) -> str:
    named = ", ".join(list(doubted)[:5]) + (", ..." if len(doubted) > 5 else "")
    return (
        f"UCloud has {len(doubted)} jobs of this provider that this database does not know ({named}); nothing was "
        "reported to UCloud. Was the database lost, or restored from a backup? The jobs may still run: see squeue. "
        "Once they have ended, `slurm-adapter sync --allow-mass-end` reports to UCloud that they are gone"
    )

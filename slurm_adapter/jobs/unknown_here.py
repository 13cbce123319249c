"""Jobs that UCloud takes for ours, and that are not known here (contract 3.8).

UCloud is told that such a job is no longer available, which ends it there for good. So it must not be this program that
has forgotten it: a database that was lost, or restored from yesterday's backup, does not know what still runs. Nothing
is told of a job that Slurm has, nor of one that a database of this provider has taken once, nor of many at once, before
somebody has looked (`sync --allow-mass-end`).
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
"""What is told of a job that UCloud has and this adapter has not (contract 3.8)."""

NEW_SECONDS = 120
"""A job that is younger may be about to be handed in."""

FINAL_STATES = frozenset(state.value for state in JobState if state.final)

_DOUBTED = "jobs in doubt"
"""The fact that holds them: their ids, with the account of each."""


def verify(adapter: Adapter, wanted: Sequence[Job]) -> list[str]:
    """Tell of those of these jobs that are gone, and hold back what may not be; what was held back, for the log.

    Raises what Slurm's queue and the receiver raise. UCloud asks again then; what it was told meanwhile counts once.
    """
    known = adapter.store.find(job.id for job in wanted)
    # A job that is known here is never given up for lost, whatever name of ours comes with it.
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
    _tell(adapter, adapter.receiver, [id_ for id_ in gone if id_ not in taken_now])
    doubted = {id_: account for id_, account in accounts.items() if id_ not in gone}
    if not doubted:
        return []
    adapter.store.change_fact(_DOUBTED, lambda noted: json.dumps(_read(noted) | doubted))
    return [_explain(doubted)]


def end_doubted(adapter: Adapter, receiver: Receiver, *, allow_mass_end: bool = False) -> list[str]:
    """Say which jobs are in doubt; with `allow_mass_end` tell UCloud that those are gone that Slurm does not have.

    Raises as `verify` does.
    """
    noted = _doubted(adapter)
    known = adapter.store.find(noted)
    doubted = {id_: account for id_, account in noted.items() if id_ not in known}
    if allow_mass_end and doubted:
        gone = _dead(adapter, doubted)
        _tell(adapter, receiver, [id_ for id_ in doubted if id_ in gone])
        doubted = {id_: account for id_, account in doubted.items() if id_ not in gone}
    if settled := noted.keys() - doubted.keys():
        adapter.store.change_fact(_DOUBTED, partial(_without, settled))
    return [_explain(doubted)] if doubted else []


def doubts(adapter: Adapter) -> str | None:
    """What there is to say of jobs in doubt, for somebody who looks; None where there are none."""
    doubted = _doubted(adapter)
    return _explain(doubted) if doubted else None


def _account(adapter: Adapter, job: Job) -> str | None:
    with suppress(InvalidInput):
        return adapter.account_of(job.owner)
    return None


def _dead(adapter: Adapter, accounts: Mapping[str, str | None]) -> frozenset[str]:
    """Those of these jobs that Slurm says it does not have, under a name that any database of this provider gave."""
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


def _tell(adapter: Adapter, receiver: Receiver, ids: Iterable[str]) -> None:
    messages = [
        Message(number, id_, adapter.clock(), JobState.FAILURE, NO_LONGER_AVAILABLE, JobState.IN_QUEUE, fresh=True)
        for number, id_ in enumerate(ids)
    ]
    told = receiver.deliver(messages) if messages else None
    if told is not None and told.problems:
        raise Unknown("\n".join(told.problems))


def _doubted(adapter: Adapter) -> dict[str, str | None]:
    return _read(adapter.store.fact(_DOUBTED))


def _read(noted: str | None) -> dict[str, str | None]:
    found: dict[str, str | None] = json.loads(noted or "{}")
    return found


def _without(settled: Collection[str], noted: str | None) -> str | None:
    """What is left of what was noted, which may have become more since these were settled."""
    left = {id_: account for id_, account in _read(noted).items() if id_ not in settled}
    return json.dumps(left) if left else None


def _explain(doubted: Mapping[str, str | None]) -> str:
    named = ", ".join(list(doubted)[:5]) + (", ..." if len(doubted) > 5 else "")
    return (
        f"UCloud takes {len(doubted)} jobs for ours that this database does not know ({named}), and was told nothing "
        "of them: was the database lost, or restored from a backup? They may run on, unwatched; squeue shows it. Once "
        "they have ended, `slurm-adapter sync --allow-mass-end` tells UCloud that they are gone"
    )

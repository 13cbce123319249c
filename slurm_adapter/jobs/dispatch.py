"""Dispatch: claimed jobs are given to Slurm, by the last three of the five steps in `slurm_adapter.jobs.submit`.

Many jobs are dispatched in parts: the folders of a part are made while sbatch runs for the part before it.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from slurm_adapter.cluster import job_folders
from slurm_adapter.cluster.schedulers.interface import Accepted, InDoubt, NotStarted, Postponed, Rejected, Submission
from slurm_adapter.cluster.transports.interface import Busy, ConnectionLost
from slurm_adapter.core import evidence
from slurm_adapter.core.durations import duration
from slurm_adapter.core.errors import AdapterError, InvalidConfig, Later, Refused, TryAgain
from slurm_adapter.core.evidence import live_row
from slurm_adapter.core.plan import submitted_text
from slurm_adapter.core.records import STANDALONE, Record, RecordChange, Stage, by_account
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs.accounts import Accounts, AccountTrouble, FolderTrouble
from slurm_adapter.jobs.close_folders import close
from slurm_adapter.jobs.publish_hosts import publish_hosts
from slurm_adapter.jobs.report import Problems
from slurm_adapter.state import pending_files
from slurm_adapter.state.claims import LEASE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.cluster.schedulers.interface import Outcome

MANY = 100
"""From so many jobs on they are dispatched in parts."""

_TENTHS = (1, 3, 6)
"""Sizes of the parts. Few, because each is two round trips; the first is small, because nothing runs beside it."""


def dispatch(
    adapter: Adapter, records: Sequence[Record], *, may_forget: Callable[[], bool] | None = None
) -> dict[str, AdapterError]:
    """Give claimed jobs to Slurm: folders, hosts files, then sbatch. Return the errors of those that failed, by id.

    `may_forget`: they were claimed just now, and whether the caller still waits for the answer. If so, jobs that failed
    are removed again instead of being retried by the next sync.
    """
    ready = _with_peers_in_slurm(adapter, records)
    if len(ready) < len(records):  # a sync waits for the peers
        names = {record.slurm_name for record in ready}
        adapter.store.end_leases([each for each in records if each.slurm_name not in names])
    ready = _hold(adapter, ready)
    if not ready:
        return {}
    current = {record.id: record for record in (*records, *ready)}
    try:
        return _dispatch(adapter, ready, current, may_forget)
    except BaseException:
        with suppress(AdapterError):
            adapter.store.end_leases(list(current.values()))  # a sync need not wait
        raise


def _hold(adapter: Adapter, claims: Sequence[Record]) -> list[Record]:
    """Return those of these claims that no other process has leased or taken; until their leases end, none does.

    Two processes must not make the folder of a job: sbatch would read a file that the other one is writing.
    """
    now = adapter.clock()
    if all(each.lease is not None and now + LEASE_SECONDS / 2 < each.lease <= now + LEASE_SECONDS for each in claims):
        return list(claims)
    return adapter.store.lease(claims, now + LEASE_SECONDS)


def _dispatch(
    adapter: Adapter, ready: Sequence[Record], current: dict[str, Record], may_forget: Callable[[], bool] | None
) -> dict[str, AdapterError]:
    """Do as `dispatch`. `current` holds all its jobs, by id, and is kept up to date."""
    new = may_forget is not None
    alone = new and len(current) == 1
    packed, contents = adapter.store.bundles([record.slurm_name for record in ready])
    bundles = {slurm_name: pending_files.unpack(content, contents) for slurm_name, content in packed.items()}
    parts = _parts([record for record in ready if record.slurm_name in bundles])
    failures: dict[str, AdapterError] = {}
    waiting: dict[str, NotStarted] = {}
    with ThreadPoolExecutor(1, "folders") as pool:
        making = [pool.submit(_make_folders, adapter, part, bundles, new=new) for part in parts]
        for number, made in enumerate(making):
            if number:
                left = {each.id: each for each in _hold(adapter, [each for part in parts[number:] for each in part])}
                current |= left
                parts[number:] = [[left[each.id] for each in part if each.id in left] for part in parts[number:]]
            part = parts[number]
            put_off = {
                record.id: _not_started(record, waiting[record.account]) for record in part if record.account in waiting
            }
            failed = {} if len(put_off) == len(part) and made.cancel() else made.result()
            failures |= {record.id: failed[record.id] for record in part if record.id in failed} | put_off
            with_folder = [record for record in part if record.id not in failures]
            if with_folder:
                waiting |= _submit(adapter, with_folder, bundles, current, failures, alone=alone)
    _settle_failures(adapter, current, failures, new=bool(failures) and may_forget is not None and may_forget())
    return failures


def _parts(records: Sequence[Record]) -> list[Sequence[Record]]:
    if len(records) < MANY:
        return [records]
    ends = [len(records) * tenths // 10 for tenths in accumulate(_TENTHS, initial=0)]
    return [records[start:end] for start, end in pairwise(ends)]


def _not_started(record: Record, outcome: NotStarted) -> TryAgain:
    kind = Later if outcome.slow else TryAgain
    return kind(f"job {record.id} could not be given to Slurm: {outcome.why}")


def _submit(
    adapter: Adapter,
    records: Sequence[Record],
    bundles: Mapping[str, pending_files.Bundle],
    current: dict[str, Record],
    failures: dict[str, AdapterError],
    *,
    alone: bool,
) -> dict[str, NotStarted]:
    """Run sbatch for jobs with folders, and note the results, also in `current` and `failures`.

    Return the accounts with a last job that could not be started, and why: their next jobs would only wait, too.
    `alone`: the caller has submitted nothing else, and may use the same key for another try.
    """
    if any(record.peers for record in records):
        lost = _publish_hosts(adapter, records)
        failures |= lost
        records = [record for record in records if record.id not in lost]
    taken = adapter.store.take([record.slurm_name for record in records], adapter.clock())
    # A job that is to be cancelled stays in doubt; a sync fences and ends it.
    ours = [record for record in taken if record.cancel_requested is None]
    current |= {record.id: record for record in ours}
    outcomes = adapter.scheduler.submit(
        [Submission(r.slurm_name, r.account, r.folder, bundles[r.slurm_name].directives) for r in ours]
    )
    outcomes = _fence_refused(adapter, ours, outcomes)
    changes: list[tuple[Record, RecordChange]] = []
    for record, outcome in zip(ours, outcomes, strict=True):
        answer = _judge(adapter, record, outcome)
        if isinstance(answer, AdapterError):
            failures[record.id] = answer
        else:
            changes.append((record, answer))
        if isinstance(outcome, Rejected) and not outcome.certain:
            # It stays in the database: if Slurm gets it after all, a sync cancels it.
            free: RecordChange = {"key": None} if alone and record.origin == STANDALONE else {}
            changes.append((record, _failed(failures[record.id], adapter.clock()) | free))
    changed = {record.id: record for record in adapter.store.change(changes, adapter.clock())}
    current |= changed
    _cancel_requested(adapter, [record for record, each in changes if "slurm_id" in each and record.id not in changed])
    last = {record.account: outcome for record, outcome in zip(ours, outcomes, strict=True)}
    return {account: outcome for account, outcome in last.items() if isinstance(outcome, NotStarted)}


def _publish_hosts(adapter: Adapter, records: Sequence[Record]) -> dict[str, AdapterError]:
    """Write the hosts files. Return errors of jobs with peers that have no hosts file, by id."""
    why = "its account's folders cannot be reached"
    try:
        failed = publish_hosts(adapter)
    except AdapterError as error:
        failed, why = frozenset(record.account for record in records), str(error)
    return {
        record.id: TryAgain(f"job {record.id} was not given to Slurm: its hosts file was not written: {why}")
        for record in records
        if record.peers and record.account in failed
    }


def _failed(error: AdapterError, now: float) -> RecordChange:
    return {"stage": Stage.ENDED, "state": JobState.FAILURE, "status": str(error), "ended": now}


def _judge(adapter: Adapter, record: Record, outcome: Outcome) -> RecordChange | AdapterError:
    """Return the change of a job by the outcome of its submission, or why it was not submitted."""
    match outcome:
        case Accepted(slurm_id):
            return {"stage": Stage.SUBMITTED, "slurm_id": slurm_id, "status": submitted_text(slurm_id)}
        case Rejected(words):
            return Refused(f"Slurm refused job {record.id}: {words}")
        case Postponed(words):
            since, retry = record.postponed or adapter.clock(), adapter.config.jobs.retry
            if adapter.clock() - since >= retry:
                return Refused(f"Slurm refused job {record.id} for {duration(retry)} (jobs.retry): {words}")
            status = f"Slurm does not accept the job at present; the adapter retries for {duration(retry)}: {words}"
            return {"stage": Stage.CLAIMED, "postponed": since, "status": status}
        case NotStarted():
            return _not_started(record, outcome)
        case InDoubt(why):
            status = f"Slurm did not confirm the submission; checking whether it has the job ({why})"
            return {"status": status, "answer": why, "attempts": record.attempts + 1}


def _fence_refused(adapter: Adapter, records: Sequence[Record], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Close the fences of jobs that were refused in words that prove nothing, and return the outcomes after that.

    A job behind a closed fence runs nothing, however late Slurm gets it: its refusal stands. One that has passed its
    fence already runs, and one with a fence that cannot be reached stays in doubt.
    """
    judged = dict(zip(records, outcomes, strict=True))
    doubtful = [record for record, outcome in judged.items() if isinstance(outcome, Rejected) and not outcome.certain]
    for user, owned in by_account(doubtful):
        names = [""] * len(owned)
        with suppress(AdapterError):
            names = job_folders.fence(adapter.transport, user, {record.folder: evidence.CLOSED for record in owned})
        for record, name in zip(owned, names, strict=True):
            if (slurm_id := evidence.slurm_id(name)) is not None:
                judged[record] = Accepted(slurm_id)
            elif name != evidence.CLOSED and isinstance(outcome := judged[record], Rejected):
                judged[record] = InDoubt(outcome.words)
    return list(judged.values())


def _cancel_requested(adapter: Adapter, records: Sequence[Record]) -> None:
    """Cancel the Slurm jobs of records that were cancelled during their dispatch; the fence holds."""
    ended = [record for record in adapter.store.again(records) if record.stage is Stage.ENDED]
    if ended:
        with suppress(AdapterError):
            Accounts(adapter, asked=True).cancel(own_slurm_jobs(adapter, ended)[0])


def own_slurm_jobs(adapter: Adapter, records: Sequence[Record]) -> tuple[dict[int, str], list[Record]]:
    """Return the Slurm jobs of these records, found by Slurm name and account: an id may be another job's by now.

    Return also the records without a Slurm job, if a live job with their id and account has another name.
    """
    accounts = {record.slurm_name: record.account for record in records}
    rows = adapter.scheduler.queue(sorted(set(accounts.values()))).observations
    own = {row.slurm_id: row.user for row in rows if accounts.get(row.name) == row.user}
    strange = {
        (row.slurm_id, row.user)
        for row in rows
        if live_row(row) and not row.name.startswith(f"{adapter.store.instance}-")
    }
    named = {(row.name, row.user) for row in rows}
    return own, [r for r in records if (r.slurm_name, r.account) not in named and (r.slurm_id, r.account) in strange]


def confirmed(adapter: Adapter, jobs: Sequence[tuple[Record, int]]) -> list[tuple[Record, int]]:
    """Return those Slurm jobs that belong to their records now, by id, account and name."""
    rows = adapter.scheduler.queue([account for account, _ in by_account(record for record, _ in jobs)]).observations
    seen = {(row.slurm_id, row.user, row.name) for row in rows}
    return [(record, id_) for record, id_ in jobs if (id_, record.account, record.slurm_name) in seen]


def _with_peers_in_slurm(adapter: Adapter, records: Sequence[Record]) -> list[Record]:
    """Return the jobs with peers that Slurm has all, so that they may wait for them there."""
    known = adapter.store.find({peer.job_id for record in records for peer in record.peers})
    there = {id_ for id_, peer in known.items() if peer.slurm_id is not None and peer.stage is not Stage.ENDED}
    return [record for record in records if all(peer.job_id in there for peer in record.peers)]


_TEMPORARY = re.compile(
    r"is its file system mounted|No space left|Wrote only|quota exceeded|Read-only file system|Input/output error"
    r"|Stale (NFS )?file handle|timed out|Transport endpoint|Resource temporarily|No such device|Host is down"
    r"|No route to host|Network is|Connection re|Remote I/O error|Device or resource busy|Key has expired"
    r"|Required key not available|Cannot allocate memory|Too many open files|Interrupted system call",
    re.IGNORECASE,
)
"""Words of errno(3), and of `job_folders.make`, for temporary problems of a file system."""

_OF_ALL = re.compile(r"No space left|Wrote only|Read-only|Input/output error|Stale (NFS )?file handle", re.IGNORECASE)
"""Words for problems of the whole file system, or of the quota of one account."""


def means_all(error: AdapterError) -> bool:
    """Return whether a folder could not be made for a reason that may hold for all accounts."""
    return _OF_ALL.search(str(error)) is not None


def _make_folders(
    adapter: Adapter,
    records: Sequence[Record],
    bundles: Mapping[str, pending_files.Bundle],
    *,
    new: bool,
) -> dict[str, AdapterError]:
    """Make these jobs' folders. Return the errors of those that could not be made, by id."""
    failures: dict[str, AdapterError] = {}
    for user, owned in by_account(records):
        wanted = [job_folders.NewFolder(r.folder, r.slurm_name, bundles[r.slurm_name].files) for r in owned]
        try:
            answers = job_folders.make(adapter.transport, user, wanted)
        except AdapterError as error:  # one account's trouble is not the others'
            match error:
                case Busy():
                    kind: type[TryAgain] = Later
                case ConnectionLost():  # the account has nothing to do with it
                    kind = FolderTrouble
                case _:
                    kind = AccountTrouble
            failures |= {r.id: kind(f"job {r.id} was not given to Slurm: {error}") for r in owned}
            continue
        for record, why in zip(owned, answers, strict=True):
            if why is None:
                continue
            text = f"the folder {record.folder} of job {record.id} could not be made as {user}: {why}"
            if "File exists" in why:
                # Another site with the same jobs.folder has made it just now: a new job gets another id.
                failures[record.id] = (
                    TryAgain(f"{text}; try again") if new else Refused(f"{text}; submit the job again")
                )
            elif _TEMPORARY.search(why) or not new:
                # The folder could be made when the job was claimed: the claim waits until the problem is fixed.
                failures[record.id] = FolderTrouble(f"{text}; try again once it is there")
            else:
                failures[record.id] = InvalidConfig(text)
    return failures


def _settle_failures(
    adapter: Adapter, records: Mapping[str, Record], failures: Mapping[str, AdapterError], *, new: bool
) -> None:
    """Settle claims that failed: remove them if the caller gets the error, else retry or end them."""
    failed = [records[id_] for id_ in failures]
    if failed and new and len(failed) == len(records):
        _forget(adapter, failed, failures)
        return
    changes: list[tuple[Record, RecordChange]] = []
    for record in failed:
        error = failures[record.id]
        if record.stage is Stage.ENDED:
            continue
        if isinstance(error, Refused | InvalidConfig):
            change = _failed(error, adapter.clock())
        else:
            change = {
                "stage": Stage.CLAIMED,
                "status": "Your job waits until it can be submitted to Slurm",
                "lease": None,
            }
        changes.append((record, change))
    # A job of an earlier sbatch with a lost answer may still come up: it must run nothing. Without one the folder may
    # not be the job's own.
    ended = [
        record for record, change in changes if change["stage"] is Stage.ENDED and record.sbatch_started is not None
    ]
    close(adapter, Accounts(adapter), ended, Problems())  # what stays open is noted, and a sync closes it
    adapter.store.change(changes, adapter.clock())


def _forget(adapter: Adapter, records: Sequence[Record], failures: Mapping[str, AdapterError]) -> None:
    """Remove all traces of these jobs. One that a sync has leased or taken meanwhile stays: Slurm gets it.

    They end first: without its folder, nothing would show that a job in doubt has not run. The folders are removed
    before the records: nothing would look for folders that a crash between the two leaves.
    """
    ours = [record for record in records if record.stage is Stage.SUBMITTING]
    claims = _hold(adapter, [record for record in records if record.stage is Stage.CLAIMED])
    ours += adapter.store.take([record.slurm_name for record in claims], adapter.clock())
    now = adapter.clock()
    ours = adapter.store.change([(record, _failed(failures[record.id], now)) for record in ours], now)
    with suppress(AdapterError):  # the cluster may be what is out of reach
        for user, owned in by_account(ours):
            job_folders.remove(adapter.transport, user, {record.folder: record.slurm_name for record in owned})
    adapter.store.forget(record.slurm_name for record in ours)
    if any(record.peers for record in ours):
        with suppress(AdapterError):
            publish_hosts(adapter)

"""The decisions of a sync: records and evidence in, changes out. Nothing here asks, waits or writes.

The rules (docs/design.md#evidence), each of which another program has paid for:

* Absent is not finished, and an error is not an answer: without evidence nothing changes.
* Evidence, best first: Slurm's queue, its accounting, the exit record of the job's own script for this very run.
* The Slurm job of a job is the one that its folder's `owner` names, whatever id is in its record: a second job made by
  a lost answer runs nothing, and its end proves nothing.
* A final state stays.
* Many endings at once that Slurm itself does not confirm are more likely a mistake of ours, or of the site, than true:
  they are held back until an administrator has looked (`Evidence.allow_mass_end`). If they are those of few accounts,
  only these accounts' jobs are held back: a user can cause that.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from slurm_adapter.core.durations import back_off, whole_minutes
from slurm_adapter.core.endings import Decision, end, end_by_fence, judge_over, nodes_of
from slurm_adapter.core.evidence import CANCELLED, CLOSED, Evidence, FolderContents, live_row, own_slurm_id
from slurm_adapter.core.observation import DISPATCH_SECONDS
from slurm_adapter.core.records import Record, RecordChange, Stage
from slurm_adapter.core.states import JobState, cannot_log_in, interpret

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from slurm_adapter.core.observation import Observation
    from slurm_adapter.core.records import ActiveJob


CANCEL_SECONDS = 120
"""After this time a job that was cancelled on request is cancelled again: longer than most sites' KillWait."""

RETRY_SECONDS, MAX_RETRY_SECONDS = 30, 600
"""Shortest and longest back-off of a job that Slurm refused temporarily."""

RETRIES = 20
"""Jobs of an account that are retried in one sync after Slurm refused them: mostly one limit blocks all of them."""

MANY, MANY_OF_ALL = 10, 0.2
"""More endings than this, and more than this part of all jobs, are many."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a sync will do."""

    changes: tuple[tuple[ActiveJob | Record, RecordChange], ...]
    submit: tuple[Record, ...]
    """Claims to dispatch."""
    fence: Mapping[str, int]
    """The Slurm id that a job's `owner` must name, by job id, before the others are cancelled."""
    cancel: tuple[tuple[Record, int], ...]
    """Slurm jobs to cancel: those that are not, or no longer, the job's own."""
    cancel_again: tuple[tuple[Record, int], ...]
    """Jobs that go on although they were cancelled, and jobs that end here while Slurm holds them."""
    limits: tuple[tuple[Record, int], ...]
    """Time limits in Slurm, in seconds, that differ from those in the records: somebody changed them in Slurm."""
    problems: tuple[str, ...]
    """Problems of the whole site that left something unknown."""
    job_problems: Mapping[str, str]
    """Problems of single jobs that left something unknown, by job id."""


def make_plan(evidence: Evidence) -> Plan:
    """Decide. Pure: the same evidence gives the same plan."""
    changes: list[tuple[ActiveJob | Record, RecordChange]] = []
    submit: list[Record] = []
    fence: dict[str, int] = {}
    cancel: list[tuple[Record, int]] = []
    again: list[tuple[Record, int]] = []
    limits: list[tuple[Record, int]] = []
    problems: list[str] = []
    job_problems: dict[str, str] = {}
    for job in evidence.alive:
        change = _alive(job, (evidence.rows or {})[job.slurm_name], evidence, job_problems)
        if _is_news(job, change):
            changes.append((job, change))
    awaited = {peer.job_id for record in evidence.records if record.stage is Stage.CLAIMED for peer in record.peers}
    after = {**evidence.peers, **{record.id: record for record in evidence.records if record.id in awaited}}
    for record, decision in _judge_all(evidence, after, problems, job_problems):
        change = decision.change
        if decision.submit:
            submit.append(record._replace(**change))
        rows = (evidence.rows or {}).get(record.slurm_name, ())
        kept = change.get("slurm_id", record.slurm_id)
        strangers = {row.slurm_id for row in rows if row.slurm_id != kept and live_row(row)}
        if strangers and kept is not None:
            fence[record.id] = kept
            cancel += [(record, slurm_id) for slurm_id in sorted(strangers)]
        own = [row for row in rows if row.slurm_id == kept and live_row(row)]
        ended = change.get("stage") is Stage.ENDED
        if ended or (record.cancel_sent is not None and evidence.now >= record.cancel_sent + CANCEL_SECONDS):
            again += [(record, row.slurm_id) for row in own][:1]
        if (limit := _other_limit(record, own)) is not None:
            limits.append((record, limit))
        if _is_news(record, change):
            changes.append((record, change))
            if record.id in awaited:
                after[record.id] = record._replace(**change)
    return Plan(
        changes=tuple(changes),
        submit=tuple(_with_few_retries(submit)),
        fence=fence,
        cancel=tuple(cancel),
        cancel_again=tuple(again),
        limits=tuple(limits),
        problems=tuple(problems),
        job_problems=job_problems,
    )


def _with_few_retries(claims: Sequence[Record]) -> Iterator[Record]:
    """Return these claims, without most of those that Slurm refused temporarily; see `RETRIES`."""
    retried: dict[str, set[str]] = {}
    for record in sorted(claims, key=lambda each: each.sbatch_started or 0.0):
        some = retried.setdefault(record.account, set())
        if record.postponed is not None and len(some) < RETRIES:
            some.add(record.id)
    return (record for record in claims if record.postponed is None or record.id in retried[record.account])


def _is_news(record: ActiveJob | Record, change: RecordChange) -> bool:
    return any(getattr(record, name) != value for name, value in change.items())


def _other_limit(record: Record, own: Sequence[Observation]) -> int | None:
    """Return the time limit that Slurm has for a job, if it differs from the record; Slurm counts in minutes.

    Of several tasks, the limit of those that have ended is not known: only a longer one is another.
    """
    limits = [row.time_limit for row in own]
    known = [limit for limit in limits if limit is not None]
    if record.stage is not Stage.SUBMITTED or not known or len(known) < len(limits):
        return None
    limit, before = max(known), whole_minutes(record.time_limit)
    several = record.array or len(own) > 1
    return limit if limit > before or (limit < before and not several) else None


def _judge_all(
    evidence: Evidence, after: Mapping[str, Record], problems: list[str], job_problems: dict[str, str]
) -> Iterator[tuple[Record, Decision]]:
    """Decide about each job. `after` holds what the caller made of the peers that came before.

    Claims come last, oldest first: what becomes of a peer in this sync decides about them.
    """
    dispatched = [record for record in evidence.records if record.stage is not Stage.CLAIMED]
    judged = [(record, _JUDGES[record.stage](record, evidence, job_problems)) for record in dispatched]
    held = _held_back(judged, evidence, problems, job_problems)
    for record, decision in judged:
        yield record, Decision() if record.id in held else decision
    for record in evidence.records:
        if record.stage is Stage.CLAIMED:
            yield record, _judge_claimed(record, replace(evidence, peers=after), job_problems)


def _held_back(
    judged: Iterable[tuple[Record, Decision]],
    evidence: Evidence,
    problems: list[str],
    job_problems: dict[str, str],
) -> frozenset[str]:
    """Return the jobs that would end although Slurm itself does not say so, if they are too many to be believed.

    It is the site's problem if most accounts have such jobs, or if too many are left without the accounts that have too
    many themselves. Otherwise it is the problem of these accounts.
    """
    unproven: dict[str, list[str]] = defaultdict(list)
    for record, decision in judged:
        if decision.unproven:
            unproven[record.account].append(record.id)
    every = [id_ for ids in unproven.values() for id_ in ids]
    total = len(evidence.records) + evidence.others
    if evidence.allow_mass_end or not _are_many(len(every), total):
        return frozenset()
    suspects = {user: ids for user, ids in unproven.items() if _are_many(len(ids), evidence.submitted.get(user, 0))}
    rest = len(every) - sum(map(len, suspects.values()))
    if 2 * len(unproven) <= len(evidence.submitted) and not _are_many(rest, total):
        for user, ids in suspects.items():
            why = (
                f"it would end though Slurm itself does not say that it ended, as would {len(ids)} of "
                f"{evidence.submitted.get(user, 0)} jobs of {user}; nothing was done about them. {_LOOK_FIRST}"
            )
            job_problems.update(dict.fromkeys(ids, why))
        return frozenset(id_ for ids in suspects.values() for id_ in ids)
    problems.append(
        f"{len(every)} of {total} jobs would end in this sync though Slurm itself does not say that "
        f"they ended (jobs {', '.join(every[:5])}, ...); nothing was done about them. {_LOOK_FIRST}"
    )
    return frozenset(every)


def _are_many(count: int, total: int) -> bool:
    return count > max(MANY, MANY_OF_ALL * total)


_LOOK_FIRST = (
    "`slurm-adapter sync --dry-run --allow-mass-end` shows what they would become; if that is right, "
    "`slurm-adapter sync --allow-mass-end` does it"
)


def _judge_claimed(record: Record, evidence: Evidence, problems: dict[str, str]) -> Decision:
    """Decide about a claim: it goes to Slurm once all its peers are there, and ends with the first that never will be.

    A claim that Slurm has anyway came back here after a lost answer, and its job came up late.
    """
    if (evidence.rows or {}).get(record.slurm_name):
        return _judge_submitting(record, evidence, problems)
    if record.cancel_requested is not None:
        return Decision()
    for peer in record.peers:
        known = evidence.peers.get(peer.job_id)
        if known is None or known.stage is Stage.ENDED:
            text = f"peer {peer.job_id} ({peer.hostname}) ended before this job could start"
            return Decision(end(evidence.now, JobState.FAILURE, text))
    waiting = [peer for peer in record.peers if evidence.peers[peer.job_id].slurm_id is None]
    if waiting:
        named = ", ".join(f"{peer.job_id} ({peer.hostname})" for peer in waiting)
        return Decision({"status": f"Your job waits until Slurm has its peer {named}"})
    return Decision(submit=evidence.rows is not None and evidence.now >= _next_try(record))


def _next_try(record: Record) -> float:
    """Return when a claim may be dispatched (again): the longer Slurm has refused it, the later."""
    if record.postponed is None or record.sbatch_started is None:
        return 0.0
    pause = back_off(record.sbatch_started - record.postponed, RETRY_SECONDS, MAX_RETRY_SECONDS)
    return record.sbatch_started + pause


NO_LOGIN_TEXT = (
    "Your job could not start: Slurm could not read your account's login environment on the node. "
    "Look at your start-up files there, such as ~/.bash_profile, or ask the site"
)


def submitted_text(slurm_id: int) -> str:
    """Return the status of a job that Slurm has taken."""
    return f"Your job has been submitted to the queue (Slurm ID: {slurm_id})"


def _judge_submitting(record: Record, evidence: Evidence, problems: dict[str, str]) -> Decision:
    """Decide after a lost answer: adopt the job that is found; submit again only once there can be none."""
    if evidence.rows is None:
        return Decision({"missing_since": None})
    rows = evidence.rows.get(record.slurm_name, ())
    inside = evidence.inside.get(record.id)
    found = own_slurm_id(record, rows, inside)
    if inside is not None and (inside.owner == CANCELLED or (inside.owner == CLOSED and not inside.exits)):
        return end_by_fence(record, inside.owner, evidence.now)
    if found is not None:
        return _adopt(record, found, evidence, problems)
    if record.sbatch_started is None or evidence.now < record.sbatch_started + DISPATCH_SECONDS:
        return Decision()
    if not evidence.silence_counts or record.account in evidence.unnamed or inside is None:
        return Decision({"missing_since": None})
    return _judge_unknown(record, inside, evidence)


def _adopt(record: Record, found: int, evidence: Evidence, problems: dict[str, str]) -> Decision:
    """Decide about a job that Slurm has although its answer was lost."""
    change: RecordChange = {
        "stage": Stage.SUBMITTED,
        "slurm_id": found,
        "status": submitted_text(found),
        "missing_since": None,
    }
    if not (evidence.rows or {}).get(record.slurm_name):
        return Decision(change)  # the next sync asks accounting about it: its script alone may say less
    adopted = record._replace(stage=Stage.SUBMITTED, slurm_id=found)
    return _judge_submitted(adopted, evidence, problems).on_top_of(change)


def _judge_unknown(record: Record, inside: FolderContents, evidence: Evidence) -> Decision:
    """Decide about a job that Slurm does not know, once its sbatch cannot run any more."""
    since = record.missing_since if record.missing_since is not None else evidence.now
    if not inside.exists:
        # It existed before sbatch was started, and the fence with it: nothing shows any more whether the job has run.
        # A folder that cannot be read is not gone: its problem may pass.
        if inside.trouble or evidence.now - since < evidence.lost_after:
            return Decision({"missing_since": since})
        text = "Your job was lost: Slurm does not know it, and its folder is gone"
        return Decision(end(evidence.now, JobState.FAILURE, text), unproven=True)
    if record.cancel_requested is None and evidence.now - since >= 2 * evidence.message_timeout + 120:
        if record.attempts >= evidence.attempts:
            text = f"Slurm did not confirm the job in {record.attempts} attempts, and does not have it: {record.answer}"
            return Decision(end(evidence.now, JobState.FAILURE, text))
        return Decision({"stage": Stage.CLAIMED, "missing_since": None}, submit=True)
    return Decision({"missing_since": since})


def _judge_submitted(record: Record, evidence: Evidence, problems: dict[str, str]) -> Decision:
    """Decide about a job that Slurm has."""
    if evidence.rows is None:
        return Decision({"missing_since": None})
    rows = evidence.rows.get(record.slurm_name, ())
    inside = evidence.inside.get(record.id)
    ids = {row.slurm_id for row in rows}
    if (others := ids - {record.slurm_id}) and _cannot_see_fence(record, inside, min(others), problems):
        return Decision({"missing_since": None})
    kept = own_slurm_id(record, rows, inside)
    # Only a judgement without any evidence continues a silence; any other evidence, or none at all, ends it.
    change: RecordChange = {"missing_since": None}
    if kept != record.slurm_id:
        change |= {"slurm_id": kept, "restarts": 0}
        record = record._replace(slurm_id=kept, restarts=0)
    own = tuple(row for row in rows if row.slurm_id == kept)
    if any(live_row(row) for row in own):
        return Decision(change | _alive(record, own, evidence, problems))
    if any(interpret(row, evidence.states).state is None for row in own):
        words = ", ".join(sorted({row.state for row in own}))
        problems[record.id] = f"Slurm reports the unknown state {words} of job {kept}; nothing was changed"
        return Decision(change)
    if inside is None:
        problems[record.id] = f"its folder {record.folder} could not be read"
        return Decision(change)
    return judge_over(record, own, inside, evidence, problems).on_top_of(change)


def _cannot_see_fence(record: Record, inside: FolderContents | None, other: int, problems: dict[str, str]) -> bool:
    """Return whether it is unknown which Slurm job a job's fence names."""
    if inside is None:
        problems[record.id] = (
            f"Slurm has another job for it ({other}), and its folder {record.folder} could not be read; "
            "nothing was changed"
        )
    return inside is None or inside.trouble != ""


def _alive(
    record: ActiveJob | Record, rows: tuple[Observation, ...], evidence: Evidence, problems: dict[str, str]
) -> RecordChange:
    """Return what changes of a job that waits or runs. An array runs while any of its tasks does."""
    if any(cannot_log_in(row) for row in rows):
        return end(evidence.now, JobState.FAILURE, NO_LOGIN_TEXT)
    verdicts = [(row, interpret(row, evidence.states)) for row in rows if live_row(row)]
    order = [JobState.RUNNING, JobState.SUSPENDED, JobState.IN_QUEUE]
    row, verdict = min(verdicts, key=lambda pair: order.index(pair[1].state) if pair[1].state in order else 9)
    if verdict.state is None or verdict.state.final:  # a site's table may call a state final that is not
        return {}
    change: RecordChange = {"state": verdict.state, "restarts": row.restarts}
    if verdict.state is not record.state or verdict.state is JobState.IN_QUEUE:
        change["status"] = verdict.text
    if verdict.state is JobState.IN_QUEUE:
        return change | {"nodes": (), "addresses": (), "started": None}
    if row.started is not None:
        change["started"] = float(row.started)
    if nodes := nodes_of(row, rows):
        change["nodes"] = nodes
        if nodes != record.nodes or len(record.addresses) != len(nodes):
            found = tuple(evidence.addresses.get(node, ()) for node in nodes)
            change["addresses"] = found if all(found) else ()
            if not all(found):
                lost = ", ".join(node for node, each in zip(nodes, found, strict=True) if not each)
                problems[record.id] = f"no usable address of {lost} is known; see peers.address"
    return change


_JUDGES = MappingProxyType(
    {
        Stage.SUBMITTING: _judge_submitting,
        Stage.SUBMITTED: _judge_submitted,
    }
)

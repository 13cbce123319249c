"""What a pass decides: records and evidence in, changes out. Nothing here asks, waits or writes.

The rules, each of which another program has paid for:

* Absent is not finished, and an error is not an answer: without evidence nothing changes.
* Evidence, best first: Slurm's queue, its accounting, the exit record of the job's own script for this very run.
* The Slurm job of a job is the one that its folder's `owner` names, whatever id is remembered: a second job made by a
  lost answer runs nothing, and its end says nothing.
* A final state stays.
* Many endings at once of which Slurm itself says nothing are more likely a mistake of ours, or of the site, than true:
  they are held back until somebody has looked (`Evidence.end_many`). If they are those of few accounts, only these
  accounts' jobs are held back: a user can cause that.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from slurm_adapter.core import hosts_file
from slurm_adapter.core.arrays import read_tasks
from slurm_adapter.core.durations import whole_minutes
from slurm_adapter.core.evidence import (
    ACCOUNTING_SECONDS,
    CANCELLED,
    CLOSED,
    Evidence,
    ExitRecord,
    FolderContents,
    live_row,
    own_slurm_id,
    slurm_id,
)
from slurm_adapter.core.observation import DISPATCH_SECONDS
from slurm_adapter.core.records import Record, Stage
from slurm_adapter.core.states import (
    FENCED,
    NO_FOLDER,
    NOT_OPENED_TEXT,
    JobState,
    Verdict,
    cannot_log_in,
    translate,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from slurm_adapter.core.observation import Observation
    from slurm_adapter.core.records import ActiveJob


CANCEL_SECONDS = 120
"""After this time a job whose end was asked for is cancelled again: longer than most sites' KillWait."""

RETRY_SECONDS, MAX_RETRY_SECONDS = 30, 600
"""A job that Slurm refused only for now is tried again after so long at first, and at last."""

RETRIES = 20
"""So many such jobs of an account are tried again in one sync: mostly one limit holds up all of them."""

MANY, MANY_OF_ALL = 10, 0.2
"""More endings than this, and more than this part of all jobs, are many."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done."""

    changes: tuple[tuple[ActiveJob | Record, dict[str, Any]], ...]
    submit: tuple[Record, ...]
    """Claims whose turn has come."""
    fence: Mapping[str, int]
    """The Slurm id that a job's `owner` is to name, by job id, before the others are cancelled."""
    cancel: tuple[tuple[Record, int], ...]
    """Slurm jobs to cancel: those that are not, or no longer, the job's own."""
    cancel_again: tuple[tuple[Record, int], ...]
    """Jobs whose end was requested, and which go on all the same, and jobs that end here while Slurm holds them."""
    limits: tuple[tuple[Record, int], ...]
    """Time limits in Slurm, in seconds, that are others than those remembered: whoever changed one could not say so."""
    problems: tuple[str, ...]
    """What could not be learned, for reasons that concern the whole site."""
    job_problems: Mapping[str, str]
    """What could not be learned of one job alone, by job id."""


def make_plan(evidence: Evidence) -> Plan:
    """Decide. Pure: the same evidence gives the same plan."""
    changes: list[tuple[ActiveJob | Record, dict[str, Any]]] = []
    submit: list[Record] = []
    fence: dict[str, int] = {}
    cancel: list[tuple[Record, int]] = []
    again: list[tuple[Record, int]] = []
    limits: list[tuple[Record, int]] = []
    problems: list[str] = []
    job_problems: dict[str, str] = {}
    for job in evidence.alive:
        values = _alive(job, (evidence.rows or {})[job.slurm_name], evidence, job_problems)
        if _is_news(job, values):
            changes.append((job, values))
    awaited = {peer.job_id for record in evidence.records if record.stage is Stage.CLAIMED for peer in record.peers}
    after = {**evidence.peers, **{record.id: record for record in evidence.records if record.id in awaited}}
    for record, values in _judge_all(evidence, after, problems, job_problems):
        if values.pop("submit", False):
            submit.append(record._replace(**values))
        rows = (evidence.rows or {}).get(record.slurm_name, ())
        kept = values.get("slurm_id", record.slurm_id)
        strangers = {row.slurm_id for row in rows if row.slurm_id != kept and live_row(row)}
        if strangers and kept is not None:
            fence[record.id] = kept
            cancel += [(record, slurm_id) for slurm_id in sorted(strangers)]
        own = [row for row in rows if row.slurm_id == kept and live_row(row)]
        ended = values.get("stage") is Stage.ENDED
        if ended or (record.cancel_sent is not None and evidence.now >= record.cancel_sent + CANCEL_SECONDS):
            again += [(record, row.slurm_id) for row in own][:1]
        if (limit := _other_limit(record, own)) is not None:
            limits.append((record, limit))
        if _is_news(record, values):
            changes.append((record, values))
            if record.id in awaited:
                after[record.id] = record._replace(**values)
    return Plan(
        changes=tuple(changes),
        submit=tuple(_spare(submit)),
        fence=fence,
        cancel=tuple(cancel),
        cancel_again=tuple(again),
        limits=tuple(limits),
        problems=tuple(problems),
        job_problems=job_problems,
    )


def _spare(claims: Sequence[Record]) -> Iterator[Record]:
    """Return these claims, without most of those that Slurm refused only for now; see `RETRIES`."""
    retried: dict[str, set[str]] = {}
    for record in sorted(claims, key=lambda each: each.sbatch_started or 0.0):
        some = retried.setdefault(record.account, set())
        if record.postponed is not None and len(some) < RETRIES:
            some.add(record.id)
    return (record for record in claims if record.postponed is None or record.id in retried[record.account])


def _is_news(record: ActiveJob | Record, values: Mapping[str, Any]) -> bool:
    return any(getattr(record, name) != value for name, value in values.items())


def _other_limit(record: Record, own: Sequence[Observation]) -> int | None:
    """The time limit that Slurm has for a job, where it is another than the one remembered; it counts in minutes.

    Of several tasks that of those that have ended is not known: only a longer one is another.
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
) -> Iterator[tuple[Record, dict[str, Any]]]:
    """What is decided about each job. `after` holds what the caller made of the peers that came before.

    Claims last, oldest first: what becomes of a peer in this pass decides about them.
    """
    sbatch_started = [record for record in evidence.records if record.stage is not Stage.CLAIMED]
    judged = [(record, _JUDGES[record.stage](record, evidence, job_problems)) for record in sbatch_started]
    held = _held_back(judged, evidence, problems, job_problems)
    for record, values in judged:
        values.pop("unproven", None)
        yield record, {} if record.id in held else values
    for record in evidence.records:
        if record.stage is Stage.CLAIMED:
            values = _judge_claimed(record, replace(evidence, peers=after), job_problems)
            values.pop("unproven", None)
            yield record, values


def _held_back(
    judged: Iterable[tuple[Record, dict[str, Any]]],
    evidence: Evidence,
    problems: list[str],
    job_problems: dict[str, str],
) -> frozenset[str]:
    """Return the jobs that would end without a word of Slurm's own, if they are too many to be believed.

    It is the site's problem if most accounts have such jobs, or if too many are left without the accounts of which
    alone there are too many. Otherwise it is the problem of these accounts.
    """
    unproven: dict[str, list[str]] = defaultdict(list)
    for record, values in judged:
        if values.get("unproven"):
            unproven[record.account].append(record.id)
    every = [id_ for ids in unproven.values() for id_ in ids]
    total = len(evidence.records) + evidence.others
    if evidence.end_many or not _are_many(len(every), total):
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
        f"{len(every)} of {total} jobs would end in this pass though Slurm itself does not say that "
        f"they ended (jobs {', '.join(every[:5])}, ...); nothing was done about them. {_LOOK_FIRST}"
    )
    return frozenset(every)


def _are_many(count: int, total: int) -> bool:
    return count > max(MANY, MANY_OF_ALL * total)


_LOOK_FIRST = (
    "`slurm-adapter sync --dry-run --allow-mass-end` shows what they would become; if that is right, "
    "`slurm-adapter sync --allow-mass-end` does it"
)


def make_groups(records: Mapping[str, Record]) -> tuple[hosts_file.Group, ...]:
    """The mappings of these jobs: every live job's own names, and each consumer's peers that have nodes."""
    ordered = sorted(records.values(), key=lambda record: (len(record.id), record.id))
    groups = [_group(record, record, None) for record in ordered if _reachable(record)]
    for consumer in ordered:
        if consumer.stage is not Stage.ENDED:
            groups += [
                _group(consumer, records[peer.job_id], peer.hostname)
                for peer in consumer.peers
                if peer.job_id in records and _reachable(records[peer.job_id])
            ]
    return tuple(groups)


def _reachable(record: Record) -> bool:
    # The tasks of an array have no one address.
    return record.state in {JobState.RUNNING, JobState.SUSPENDED} and bool(record.addresses) and not record.array


def _group(consumer: Record, peer: Record, hostname: str | None) -> hosts_file.Group:
    return hosts_file.Group(
        consumer=consumer.id,
        peer=peer.id,
        hostname=hostname,
        run=peer.run,
        exit_path=f"{peer.folder}/exit.json",
        addresses=peer.addresses,
    )


def _judge_claimed(record: Record, evidence: Evidence, problems: dict[str, str]) -> dict[str, Any]:
    """A claim goes to Slurm once all its peers are there, and ends with the first that will never be.

    One that Slurm has all the same came back here after a lost answer, and its job came up late.
    """
    if (evidence.rows or {}).get(record.slurm_name):
        return _judge_submitting(record, evidence, problems)
    if record.cancel_requested is not None:
        return {}
    for peer in record.peers:
        known = evidence.peers.get(peer.job_id)
        if known is None or known.stage is Stage.ENDED:
            return _end(
                evidence.now,
                JobState.FAILURE,
                f"peer {peer.job_id} ({peer.hostname}) ended before this job could start",
            )
    waiting = [peer for peer in record.peers if evidence.peers[peer.job_id].slurm_id is None]
    if waiting:
        named = ", ".join(f"{peer.job_id} ({peer.hostname})" for peer in waiting)
        return {"status": f"Your job waits until Slurm has its peer {named}"}
    return {"submit": True} if evidence.rows is not None and evidence.now >= _next_try(record) else {}


def _next_try(record: Record) -> float:
    """Return when a claim may be given to Slurm (again): the longer Slurm has refused it, the later."""
    if record.postponed is None or record.sbatch_started is None:
        return 0.0
    return record.sbatch_started + min(max(record.sbatch_started - record.postponed, RETRY_SECONDS), MAX_RETRY_SECONDS)


NO_LOGIN_TEXT = (
    "Your job could not start: Slurm could not read your account's login environment on the node. "
    "Look at your start-up files there, such as ~/.bash_profile, or ask the site"
)


def submitted_text(slurm_id: int) -> str:
    """What users are told of a job that Slurm has taken."""
    return f"Your job has been submitted to the queue (Slurm ID: {slurm_id})"


def _judge_submitting(record: Record, evidence: Evidence, problems: dict[str, str]) -> dict[str, Any]:
    """An answer was lost: adopt the job that is found, and hand it in again only once there can be none."""
    if evidence.rows is None:
        return {"missing_since": None}
    rows = evidence.rows.get(record.slurm_name, ())
    inside = evidence.inside.get(record.id)
    found = own_slurm_id(record, rows, inside)
    if inside is not None and (inside.owner == CANCELLED or (inside.owner == CLOSED and not inside.exits)):
        return _end_by_fence(record, inside.owner, evidence.now)
    if found is not None:
        adopted = record._replace(stage=Stage.SUBMITTED, slurm_id=found)
        return {
            "stage": Stage.SUBMITTED,
            "slurm_id": found,
            "status": submitted_text(found),
            "missing_since": None,
            # Accounting is asked about it in the next pass: what its script says alone may be less than Slurm knows.
            **(_judge_submitted(adopted, evidence, problems) if rows else {}),
        }
    if record.sbatch_started is None or evidence.now < record.sbatch_started + DISPATCH_SECONDS:
        return {}
    if not evidence.silence_counts or record.account in evidence.unnamed or inside is None:
        return {"missing_since": None}
    since = record.missing_since if record.missing_since is not None else evidence.now
    if not inside.exists:
        # It stood before sbatch was started, and the fence with it: nobody can tell any more whether the job has run.
        # A folder that cannot be looked into is not gone: what is wrong with it may pass.
        if inside.trouble or evidence.now - since < evidence.lost_after:
            return {"missing_since": since}
        text = "Your job was lost: Slurm knows nothing of it, and its folder is gone"
        return _end(evidence.now, JobState.FAILURE, text) | {"unproven": True}
    if record.cancel_requested is None and evidence.now - since >= 2 * evidence.message_timeout + 120:
        if record.attempts >= evidence.attempts:
            text = f"Slurm did not confirm the job in {record.attempts} attempts, and does not have it: {record.answer}"
            return _end(evidence.now, JobState.FAILURE, text)
        return {"stage": Stage.CLAIMED, "missing_since": None, "submit": True}
    return {"missing_since": since}


def _end_by_fence(record: Record, owner: str, now: float) -> dict[str, Any]:
    """Return how a job ends whose end was decided: its fence lets nothing run any more.

    Whoever closed it notes why within moments, unless he was killed.
    """
    if owner == CANCELLED:
        return _end(now, JobState.SUCCESS, "Your job was cancelled") | {"cancel_sent": now}
    if record.sbatch_started is None or now < record.sbatch_started + DISPATCH_SECONDS:
        return {}
    why = record.answer or "the adapter was stopped before it could note why"
    return _end(now, JobState.FAILURE, f"Your job was given up before Slurm confirmed it: {why}")


def _judge_submitted(record: Record, evidence: Evidence, problems: dict[str, str]) -> dict[str, Any]:
    """What became of a job that Slurm has."""
    if evidence.rows is None:
        return {"missing_since": None}
    rows = evidence.rows.get(record.slurm_name, ())
    inside = evidence.inside.get(record.id)
    ids = {row.slurm_id for row in rows}
    if (others := ids - {record.slurm_id}) and _cannot_see(record, inside, min(others), problems):
        return {"missing_since": None}
    kept = own_slurm_id(record, rows, inside)
    values: dict[str, Any] = {} if kept == record.slurm_id else {"slurm_id": kept, "restarts": 0}
    record = record._replace(**values) if values else record
    values["missing_since"] = None  # only `_missing` goes on with a silence; whatever else was learned, or not, ends it
    own = tuple(row for row in rows if row.slurm_id == kept)
    if any(live_row(row) for row in own):
        return values | _alive(record, own, evidence, problems)
    if any(translate(row, evidence.states).state is None for row in own):
        words = ", ".join(sorted({row.state for row in own}))
        problems[record.id] = f"Slurm says {words} of job {kept}, which tells nothing; nothing was changed"
        return values
    if inside is None:
        problems[record.id] = f"its folder {record.folder} could not be looked into"
        return values
    return values | _judge_over(record, own, inside, evidence, problems)


def _judge_over(
    record: Record, own: tuple[Observation, ...], inside: FolderContents, evidence: Evidence, problems: dict[str, str]
) -> dict[str, Any]:
    """Return what became of a job that Slurm no longer waits for or runs, as far as anything tells it."""
    told = _ended_rows(record, inside, evidence)
    if record.array and evidence.accounting and evidence.history is None:
        return {}  # the tasks that the queue has forgotten may have failed
    tasks = {row.task for row in own}
    ended = (*own, *(row for row in told if record.array and row.task not in tasks)) if own else told
    exits = _exits(record, inside)
    if left := _tasks_left(record, ended, exits):
        return _missing(record, inside, evidence, problems, left)
    if ended and _may_be_fenced(record, ended, inside, evidence.now - evidence.lost_after):
        return {}
    if ended and any(row.exit_code == FENCED for row in ended):  # an end came before this run
        if inside.owner == CANCELLED:
            return _end_by_fence(record, inside.owner, evidence.now)
        if inside.owner == CLOSED and exits:
            return _end_by_record(record, exits, inside, evidence)
    if ended:
        return _ended(record, ended, inside, evidence, problems)
    if exits and not (record.array and evidence.history is None):
        return _end_by_record(record, exits, inside, evidence)
    return _missing(record, inside, evidence, problems)


def _cannot_see(record: Record, inside: FolderContents | None, other: int, problems: dict[str, str]) -> bool:
    """Return whether it cannot be seen which Slurm job a job's fence names."""
    if inside is None:
        problems[record.id] = (
            f"Slurm has another job for it ({other}), and its folder {record.folder} could not be looked into; "
            "nothing was changed"
        )
    return inside is None or inside.trouble != ""


def _may_be_fenced(record: Record, rows: Sequence[Observation], inside: FolderContents, before: float) -> bool:
    """Return whether these rows may be a job that lost at the fence, while the folder that tells cannot be read.

    Another Slurm job may be the one that runs. A folder that stays closed keeps nobody waiting for more than a while,
    but it is tried once more then.
    """
    if not inside.trouble or (inside.tried and max(row.ended or 0 for row in rows) < before):
        return False
    return record.attempts > 0 or any(row.exit_code == FENCED for row in rows)


def _tasks_left(record: Record, rows: Iterable[Observation], exits: Iterable[ExitRecord]) -> int:
    """Of how many tasks of an array nothing tells how they ended, where anything tells of some of them.

    Without accounting Slurm forgets a task MinJobAge after its end, while others still run; and one that was killed
    leaves no exit record.
    """
    tasks = [*(row.task for row in rows), *(exit_.task for exit_ in exits)]
    if None in tasks:
        return 0  # it is about the whole array
    seen = _named_tasks(tasks)
    return max(0, record.tasks - len(seen)) if seen else 0


def _named_tasks(texts: Iterable[str | None]) -> frozenset[int]:
    found: set[int] = set()
    for text in texts:
        with suppress(ValueError):  # a user can write into his job's folder what he likes
            found |= read_tasks(text or "")
    return frozenset(found)


def _alive(
    record: ActiveJob | Record, rows: tuple[Observation, ...], evidence: Evidence, problems: dict[str, str]
) -> dict[str, Any]:
    """A job that waits or runs. An array runs while any of its tasks does."""
    if any(cannot_log_in(row) for row in rows):
        return _end(evidence.now, JobState.FAILURE, NO_LOGIN_TEXT)
    verdicts = [(row, translate(row, evidence.states)) for row in rows if live_row(row)]
    order = [JobState.RUNNING, JobState.SUSPENDED, JobState.IN_QUEUE]
    row, verdict = min(verdicts, key=lambda pair: order.index(pair[1].state) if pair[1].state in order else 9)
    if verdict.state is None or verdict.state.final:  # a site's table may say so of a state that lasts
        return {}
    values: dict[str, Any] = {"state": verdict.state, "restarts": row.restarts}
    if verdict.state is not record.state or verdict.state is JobState.IN_QUEUE:
        values["status"] = verdict.text
    if verdict.state is JobState.IN_QUEUE:
        return values | {"nodes": (), "addresses": (), "started": None}
    if row.started is not None:
        values["started"] = float(row.started)
    if nodes := _nodes(row, rows):
        values["nodes"] = nodes
        if nodes != record.nodes or len(record.addresses) != len(nodes):
            found = tuple(evidence.addresses.get(node, ()) for node in nodes)
            values["addresses"] = found if all(found) else ()
            if not all(found):
                lost = ", ".join(node for node, each in zip(nodes, found, strict=True) if not each)
                problems[record.id] = f"no usable address of {lost} is known; see peers.address"
    return values


def _nodes(row: Observation, rows: tuple[Observation, ...]) -> tuple[str, ...]:
    """The nodes of a row; of a heterogeneous job those of all its components, in their order."""
    parts = sorted((int(each.task), each.nodes) for each in rows if each.task and each.task.startswith("+"))
    return tuple(node for _, nodes in parts for node in nodes) if parts else row.nodes


def _own_history(record: Record, inside: FolderContents, evidence: Evidence) -> tuple[Observation, ...]:
    """Return what accounting says of this job: one row for each task.

    A controller that lost its state gives ids again, so an id alone proves nothing. The SLUID of a run does: its script
    left it in the job's folder. Without one the name decides, which is unique, but which its user can change.
    """
    told = (evidence.history or {}).get(record.slurm_id or -1, ())
    sluids = {exit_.task: exit_.sluid for exit_ in inside.exits if exit_.slurm_id == record.slurm_id}
    if slurm_id(inside.owner) == record.slurm_id and inside.sluid:
        sluids[None] = inside.sluid

    def is_own(row: Observation) -> bool:
        if row.sluids and (sluid := sluids.get(row.task)):
            return row.user == record.account and sluid in row.sluids
        return (row.name, row.user) == (record.slurm_name, record.account)

    own = {row.task: row for row in told if is_own(row)}
    if record.id in evidence.renamed:
        # What is alive under a strange name may be a later run, of which accounting has not heard yet.
        last = max((row.submitted or 0 for row in own.values()), default=0)
        others = [row for row in told if row.user == record.account and row.sluids and row not in own.values()]
        if not any((row.submitted or 0) > last for row in others):
            return ()
    return tuple(own.values())


def _ended_rows(record: Record, inside: FolderContents, evidence: Evidence) -> tuple[Observation, ...]:
    """What accounting says of a job that the queue has forgotten; nothing where it lags behind."""
    rows = _own_history(record, inside, evidence)
    verdicts = [translate(row, evidence.states).state for row in rows]
    return rows if rows and all(state is not None and state.final for state in verdicts) else ()


def _ended(
    record: Record, rows: tuple[Observation, ...], inside: FolderContents, evidence: Evidence, problems: dict[str, str]
) -> dict[str, Any]:
    """Slurm says that it ended. The exit record adds why its script gave up, where it did."""
    last = max((row.ended or 0 for row in rows), default=0)
    restarts = max(record.restarts, *(row.restarts for row in rows))
    exits = _exits(record._replace(restarts=restarts), inside)
    rows = tuple(_with_whole_code(row, exits) for row in rows)
    verdicts: list[Verdict] = []
    for row in rows:
        seen = row
        if row.state == "CANCELLED" and row.cancelled_by is None and record.cancel_sent is None and evidence.accounting:
            told = [
                other.cancelled_by
                for other in _own_history(record, inside, evidence)
                if other.task == row.task and other.cancelled_by is not None
            ]
            if not told and (evidence.history is None or evidence.now < last + ACCOUNTING_SECONDS):
                if evidence.history is None:
                    problems[record.id] = "accounting could not be asked who cancelled it"
                return {}
            seen = row._replace(cancelled_by=told[0] if told else None)
        verdicts.append(translate(seen, evidence.states, we_cancelled=record.cancel_sent is not None))
    worst = min(verdicts, key=lambda verdict: _WORST.index(verdict.state) if verdict.state in _WORST else 0)
    text = worst.text
    if worst.state is not None and not worst.state.final:  # the site's table says that it goes on
        gone = {"nodes": (), "addresses": ()} if worst.state is JobState.IN_QUEUE else {}
        return {"state": worst.state, "status": text, "missing_since": None} | gone
    if record.array and (failed := sum(verdict.state is not JobState.SUCCESS for verdict in verdicts)):
        text = f"{failed} of {len(verdicts)} tasks: {text}"
    state = worst.state or JobState.FAILURE
    reason = next((exit_.reason for exit_ in exits if exit_.reason), None)
    if reason is not None and state is JobState.FAILURE:
        text = f"Your job could not start: {reason}"
    elif state is JobState.FAILURE and _has_no_folder(rows, inside):
        text = NOT_OPENED_TEXT
    elif record.array and state is not JobState.FAILURE and record.cancel_sent is None and _failed_alone(rows, exits):
        state, text = JobState.FAILURE, "Your job failed: a task of it ended with an exit code that is not 0"
    codes = [row.exit_code for row in rows if row.exit_code is not None]
    nodes = next((found for row in rows if (found := _nodes(row, rows))), record.nodes)
    return {
        **_end(float(last) or evidence.now, state, text),
        "exit_code": max(codes, default=None),
        "restarts": restarts,
        "started": _began(record, rows, inside, exits, float(last) or evidence.now),
        "nodes": nodes,
        "addresses": record.addresses if nodes == record.nodes else (),
    }


def _has_no_folder(rows: Iterable[Observation], inside: FolderContents) -> bool:
    """Return whether the job's script did not find its folder."""
    return not inside.exists and any(row.exit_code == NO_FOLDER for row in rows)


def _began(
    record: Record, rows: Iterable[Observation], inside: FolderContents, exits: Iterable[ExitRecord], ended: float
) -> float | None:
    """Return when a job that has ended began to run; None if it never did.

    It may have begun and ended between two syncs. Slurm has a start time even for a job that was cancelled while it
    waited, and nodes for one whose script never ran: the proof is that its script passed the fence.
    """
    if record.started is not None:
        return record.started
    untouched = inside.exists and inside.owner is None
    if untouched or _has_no_folder(rows, inside) or any(exit_.reason is not None for exit_ in exits):
        return None
    starts = [float(row.started) for row in rows if row.started is not None and row.nodes]
    passed = inside.since if slurm_id(inside.owner) == record.slurm_id else None
    return min(starts, default=None if passed is None else min(max(passed, record.sbatch_started or 0.0), ended))


def _with_whole_code(row: Observation, exits: Iterable[ExitRecord]) -> Observation:
    """The same with the exit code as the script's record has it, where Slurm shows 9 for 137."""
    told = next((exit_.exit_code for exit_ in exits if exit_.task == row.task), None)
    if row.exit_code is None or row.state == "COMPLETED" or told != row.exit_code + 128:
        return row
    return row._replace(exit_code=told)


def _failed_alone(rows: Iterable[Observation], exits: Iterable[ExitRecord]) -> bool:
    """Whether a task of an array failed of which only its exit record tells, for Slurm has forgotten it."""
    known = _named_tasks(row.task for row in rows)
    failed = _named_tasks(exit_.task for exit_ in exits if exit_.exit_code != 0)
    return not failed <= known


_WORST = (JobState.RUNNING, JobState.SUSPENDED, JobState.IN_QUEUE, JobState.FAILURE, JobState.EXPIRED, JobState.SUCCESS)
"""Which of its tasks' states an array has: one that goes on, else the worst."""


def _exits(record: Record, inside: FolderContents) -> list[ExitRecord]:
    """The exit records of this job's run; those of an earlier run say nothing."""
    own = [exit_ for exit_ in inside.exits if exit_.slurm_id == record.slurm_id]
    own = [exit_ for exit_ in own if not (exit_.sluid and inside.sluid) or exit_.sluid == inside.sluid]
    if record.array:  # every task is started again by itself, and takes the record of its last run away
        return [exit_ for exit_ in own if exit_.task is not None]
    last = [exit_ for exit_ in own if exit_.task is None and exit_.restarts >= record.restarts]
    return sorted(last, key=lambda exit_: -exit_.restarts)[:1]


def _end_by_record(
    record: Record, exits: list[ExitRecord], inside: FolderContents, evidence: Evidence
) -> dict[str, Any]:
    """Slurm has forgotten the job, and its own script tells how it ended."""
    if evidence.accounting and evidence.history is None:
        return {}
    # The node's clock may be wrong, and its user can write there what he likes.
    ended = min(max(*(exit_.ended for exit_ in exits), record.sbatch_started or 0.0), evidence.now)
    worst = max(exits, key=lambda exit_: (exit_.exit_code != 0, exit_.ended))
    began = _began(record, (), inside, exits, ended)
    if worst.reason is not None:
        state, text = JobState.FAILURE, f"Your job could not start: {worst.reason}"
    elif worst.exit_code == 0:
        state, text = JobState.SUCCESS, "Your job ended with exit code 0"
    elif (
        record.cancel_sent is not None and ended + 2 > record.cancel_sent
    ):  # the script's clock knows whole seconds only
        state, text = JobState.SUCCESS, "Your job was cancelled"
    elif began is not None and ended >= began + record.time_limit:
        state, text = JobState.EXPIRED, "Your job reached its time limit"
    else:
        state, text = JobState.FAILURE, f"Your job failed with exit code {worst.exit_code}"
    return _end(ended, state, text) | {"exit_code": worst.exit_code, "started": began, "unproven": True}


def _missing(
    record: Record, inside: FolderContents, evidence: Evidence, problems: dict[str, str], left: int = 0
) -> dict[str, Any]:
    """Nobody knows anything of a job, or of `left` tasks of it. Only long and healthy silence makes it lost."""
    if record.id in evidence.renamed:
        problems[record.id] = (
            f"Slurm job {record.slurm_id} of {record.account} has another name than {record.slurm_name}; "
            "nothing was changed. If its user renamed it: scontrol update "
            f"JobId={record.slurm_id} JobName={record.slurm_name}"
        )
        return {"missing_since": None}
    silence_counts = evidence.silence_counts and record.account not in evidence.unnamed
    if not silence_counts or (evidence.accounting and evidence.history is None):
        if record.account in evidence.unnamed:
            why = f"the cluster does not know its account {record.account}"
        else:
            why = "accounting cannot be asked" if silence_counts else "this account may not see others' jobs"
        problems[record.id] = f"Slurm job {record.slurm_id} is not listed, and {why}; nothing was changed"
        return {"missing_since": None}
    since = record.missing_since if record.missing_since is not None else evidence.now
    if evidence.now - since < evidence.lost_after or not inside.tried:
        return {"missing_since": since}
    unproven = {"started": _began(record, (), inside, (), evidence.now), "unproven": True}
    if record.cancel_sent is not None:
        return _end(evidence.now, JobState.SUCCESS, "Your job was cancelled") | unproven
    if left:
        text = f"Your job failed: {left} of its {record.tasks} tasks were lost; nothing tells how they ended"
    else:
        text = f"Your job was lost: Slurm no longer knows its job {record.slurm_id}, nor how it ended"
    return _end(evidence.now, JobState.FAILURE, text) | unproven


def _end(when: float, state: JobState, text: str) -> dict[str, Any]:
    return {"stage": Stage.ENDED, "state": state, "status": text, "ended": when, "missing_since": None}


_JUDGES = MappingProxyType(
    {
        Stage.SUBMITTING: _judge_submitting,
        Stage.SUBMITTED: _judge_submitted,
    }
)

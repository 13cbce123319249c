"""How jobs end: the decision about a job that Slurm no longer holds as waiting or running.

Nothing here asks, waits or writes; see `slurm_adapter.core.plan`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from slurm_adapter.core.arrays import read_tasks
from slurm_adapter.core.evidence import ACCOUNTING_SECONDS, CANCELLED, CLOSED, slurm_id
from slurm_adapter.core.observation import DISPATCH_SECONDS
from slurm_adapter.core.records import RecordChange, Stage
from slurm_adapter.core.states import FENCED, NO_FOLDER, NOT_OPENED_TEXT, JobState, Verdict, interpret

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slurm_adapter.core.evidence import Evidence, ExitRecord, FolderContents
    from slurm_adapter.core.observation import Observation
    from slurm_adapter.core.records import Record


@dataclass(frozen=True, slots=True)
class Decision:
    """Decision about one job."""

    change: RecordChange = field(default_factory=RecordChange)
    """Fields of its record that change."""
    submit: bool = False
    """Slurm gets it now."""
    unproven: bool = False
    """It ends, and Slurm itself does not say that it ended."""

    def on_top_of(self, change: RecordChange) -> Decision:
        """Return the same decision with further changes, over which its own prevail."""
        return replace(self, change=change | self.change)


def end(when: float, state: JobState, text: str) -> RecordChange:
    """Return the change that ends a job."""
    return {"stage": Stage.ENDED, "state": state, "status": text, "ended": when, "missing_since": None}


def end_by_fence(record: Record, owner: str, now: float) -> Decision:
    """Decide about a job with a closed fence: it runs nothing any more.

    The process that closed it notes the reason within moments, unless it was killed.
    """
    if owner == CANCELLED:
        return Decision(end(now, JobState.SUCCESS, "Your job was cancelled") | {"cancel_sent": now})
    if record.sbatch_started is None or now < record.sbatch_started + DISPATCH_SECONDS:
        return Decision()
    why = record.answer or "the adapter was stopped before it could note why"
    return Decision(end(now, JobState.FAILURE, f"Your job was given up before Slurm confirmed it: {why}"))


def judge_over(
    record: Record, own: tuple[Observation, ...], inside: FolderContents, evidence: Evidence, problems: dict[str, str]
) -> Decision:
    """Decide about a job that Slurm no longer holds as waiting or running, as far as there is evidence."""
    recorded = _final_history(record, inside, evidence)
    if record.array and evidence.accounting and evidence.history is None:
        return Decision()  # the tasks that the queue has forgotten may have failed
    tasks = {row.task for row in own}
    ended = (*own, *(row for row in recorded if record.array and row.task not in tasks)) if own else recorded
    exits = _exits(record, inside)
    if left := _count_lost_tasks(record, ended, exits):
        return _missing(record, inside, evidence, problems, left)
    if ended and _may_be_fenced(record, ended, inside, evidence.now - evidence.lost_after):
        return Decision()
    if ended and any(row.exit_code == FENCED for row in ended):  # an end came before this run
        if inside.owner == CANCELLED:
            return end_by_fence(record, inside.owner, evidence.now)
        if inside.owner == CLOSED and exits:
            return _end_by_exit_record(record, exits, inside, evidence)
    if ended:
        return Decision(_end_by_slurm(record, ended, inside, evidence, problems))
    if exits and not (record.array and evidence.history is None):
        return _end_by_exit_record(record, exits, inside, evidence)
    return _missing(record, inside, evidence, problems)


def nodes_of(row: Observation, rows: tuple[Observation, ...]) -> tuple[str, ...]:
    """Return the nodes of a row; of a heterogeneous job those of all its components, in their order."""
    parts = sorted((int(each.task), each.nodes) for each in rows if each.task and each.task.startswith("+"))
    return tuple(node for _, nodes in parts for node in nodes) if parts else row.nodes


def _may_be_fenced(record: Record, rows: Sequence[Observation], inside: FolderContents, before: float) -> bool:
    """Return whether these rows may be of a job that lost at the fence, while its folder cannot be read.

    Another Slurm job may be the one that runs. An unreadable folder delays the end for a limited time only, and the
    folder is read once more at the end of it.
    """
    if not inside.trouble or (inside.tried and max(row.ended or 0 for row in rows) < before):
        return False
    return record.attempts > 0 or any(row.exit_code == FENCED for row in rows)


def _count_lost_tasks(record: Record, rows: Iterable[Observation], exits: Iterable[ExitRecord]) -> int:
    """Return how many tasks of an array ended without any evidence, if there is evidence of some of them.

    Without accounting Slurm forgets a task MinJobAge after its end, while others still run. A task that was killed
    leaves no exit record.
    """
    tasks = [*(row.task for row in rows), *(exit_.task for exit_ in exits)]
    if None in tasks:
        return 0  # it is about the whole array
    seen = _task_numbers(tasks)
    return max(0, record.tasks - len(seen)) if seen else 0


def _task_numbers(texts: Iterable[str | None]) -> frozenset[int]:
    found: set[int] = set()
    for text in texts:
        with suppress(ValueError):  # a user can write anything into the job's folder
            found |= read_tasks(text or "")
    return frozenset(found)


def _own_history(record: Record, inside: FolderContents, evidence: Evidence) -> tuple[Observation, ...]:
    """Return what accounting says of this job: one row for each task.

    A controller that lost its state gives ids again, so an id alone proves nothing. The SLUID of a run does: its script
    left it in the job's folder. Without one the name decides, which is unique, but which its user can change.
    """
    rows = (evidence.history or {}).get(record.slurm_id or -1, ())
    sluids = {exit_.task: exit_.sluid for exit_ in inside.exits if exit_.slurm_id == record.slurm_id}
    if slurm_id(inside.owner) == record.slurm_id and inside.sluid:
        sluids[None] = inside.sluid

    def is_own(row: Observation) -> bool:
        if row.sluids and (sluid := sluids.get(row.task)):
            return row.user == record.account and sluid in row.sluids
        return (row.name, row.user) == (record.slurm_name, record.account)

    own = {row.task: row for row in rows if is_own(row)}
    if record.id in evidence.renamed:
        # The live job with another name may be a later run, which accounting does not have yet.
        last = max((row.submitted or 0 for row in own.values()), default=0)
        others = [row for row in rows if row.user == record.account and row.sluids and row not in own.values()]
        if not any((row.submitted or 0) > last for row in others):
            return ()
    return tuple(own.values())


def _final_history(record: Record, inside: FolderContents, evidence: Evidence) -> tuple[Observation, ...]:
    """Return what accounting says of a job that the queue has forgotten; nothing while accounting lags behind."""
    rows = _own_history(record, inside, evidence)
    verdicts = [interpret(row, evidence.states).state for row in rows]
    return rows if rows and all(state is not None and state.final for state in verdicts) else ()


def _end_by_slurm(
    record: Record, rows: tuple[Observation, ...], inside: FolderContents, evidence: Evidence, problems: dict[str, str]
) -> RecordChange:
    """Return how a job ends that ended according to Slurm. The exit record adds why its script gave up, if it did."""
    last = max((row.ended or 0 for row in rows), default=0)
    restarts = max(record.restarts, *(row.restarts for row in rows))
    exits = _exits(record._replace(restarts=restarts), inside)
    rows = tuple(_with_whole_code(row, exits) for row in rows)
    if (seen := _with_cancellers(record, rows, inside, evidence)) is None:
        if evidence.history is None:
            problems[record.id] = "accounting could not be asked who cancelled it"
        return {}
    verdicts = [interpret(row, evidence.states, we_cancelled=record.cancel_sent is not None) for row in seen]
    worst = min(verdicts, key=lambda verdict: _WORST.index(verdict.state) if verdict.state in _WORST else 0)
    if worst.state is not None and not worst.state.final:  # the site's table of states says that it goes on
        change: RecordChange = {"state": worst.state, "status": worst.text, "missing_since": None}
        return change | {"nodes": (), "addresses": ()} if worst.state is JobState.IN_QUEUE else change
    state, text = _final_state(record, worst, verdicts, rows, exits, inside)
    codes = [row.exit_code for row in rows if row.exit_code is not None]
    nodes = next((found for row in rows if (found := nodes_of(row, rows))), record.nodes)
    when = float(last) or evidence.now
    return {
        **end(when, state, text),
        "exit_code": max(codes, default=None),
        "restarts": restarts,
        "started": _began(record, rows, inside, exits, when),
        "nodes": nodes,
        "addresses": record.addresses if nodes == record.nodes else (),
    }


def _with_cancellers(
    record: Record, rows: tuple[Observation, ...], inside: FolderContents, evidence: Evidence
) -> list[Observation] | None:
    """Return these rows, cancelled ones with the account that cancelled them if accounting knows it.

    Return None if accounting may still know it later.
    """
    last = max((row.ended or 0 for row in rows), default=0)
    found = []
    for row in rows:
        unknown = row.state == "CANCELLED" and row.cancelled_by is None and record.cancel_sent is None
        if unknown and evidence.accounting:
            history = _own_history(record, inside, evidence)
            named = [each.cancelled_by for each in history if each.task == row.task and each.cancelled_by is not None]
            if not named and (evidence.history is None or evidence.now < last + ACCOUNTING_SECONDS):
                return None
            found.append(row._replace(cancelled_by=named[0] if named else None))
        else:
            found.append(row)
    return found


def _final_state(
    record: Record,
    worst: Verdict,
    verdicts: Sequence[Verdict],
    rows: Sequence[Observation],
    exits: Sequence[ExitRecord],
    inside: FolderContents,
) -> tuple[JobState, str]:
    """Return the final state of a job, and the status for its user."""
    state, text = worst.state or JobState.FAILURE, worst.text
    if record.array and (failed := sum(verdict.state is not JobState.SUCCESS for verdict in verdicts)):
        text = f"{failed} of {len(verdicts)} tasks: {text}"
    reason = next((exit_.reason for exit_ in exits if exit_.reason), None)
    if reason is not None and state is JobState.FAILURE:
        return state, f"Your job could not start: {reason}"
    if state is JobState.FAILURE and _has_no_folder(rows, inside):
        return state, NOT_OPENED_TEXT
    if record.array and state is not JobState.FAILURE and record.cancel_sent is None and _failed_alone(rows, exits):
        return JobState.FAILURE, "Your job failed: a task of it ended with an exit code that is not 0"
    return state, text


def _has_no_folder(rows: Iterable[Observation], inside: FolderContents) -> bool:
    """Return whether the job's script did not find its folder."""
    return not inside.exists and any(row.exit_code == NO_FOLDER for row in rows)


def _began(
    record: Record, rows: Iterable[Observation], inside: FolderContents, exits: Iterable[ExitRecord], ended: float
) -> float | None:
    """Return when a job that has ended began to run; None if it never did.

    It may have begun and ended between two syncs. Slurm has a start time even for a job that was cancelled while it
    waited, and nodes for one with a script that never ran: the proof is that its script passed the fence.
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
    """Return the row with the exit code of the script's record if Slurm shows 9 for 137."""
    code = next((exit_.exit_code for exit_ in exits if exit_.task == row.task), None)
    if row.exit_code is None or row.state == "COMPLETED" or code != row.exit_code + 128:
        return row
    return row._replace(exit_code=code)


def _failed_alone(rows: Iterable[Observation], exits: Iterable[ExitRecord]) -> bool:
    """Return whether a task of an array failed that Slurm has forgotten: only its exit record shows that."""
    known = _task_numbers(row.task for row in rows)
    failed = _task_numbers(exit_.task for exit_ in exits if exit_.exit_code != 0)
    return not failed <= known


_WORST = (JobState.RUNNING, JobState.SUSPENDED, JobState.IN_QUEUE, JobState.FAILURE, JobState.EXPIRED, JobState.SUCCESS)
"""Which of its tasks' states an array has: one that goes on, else the worst."""


def _exits(record: Record, inside: FolderContents) -> list[ExitRecord]:
    """Return the exit records of this job's run; those of an earlier run prove nothing."""
    own = [exit_ for exit_ in inside.exits if exit_.slurm_id == record.slurm_id]
    own = [exit_ for exit_ in own if not (exit_.sluid and inside.sluid) or exit_.sluid == inside.sluid]
    if record.array:  # every task is started again by itself, and removes the record of its last run
        return [exit_ for exit_ in own if exit_.task is not None]
    last = [exit_ for exit_ in own if exit_.task is None and exit_.restarts >= record.restarts]
    return sorted(last, key=lambda exit_: -exit_.restarts)[:1]


def _end_by_exit_record(
    record: Record, exits: list[ExitRecord], inside: FolderContents, evidence: Evidence
) -> Decision:
    """Decide about a job that Slurm has forgotten, by the exit record of its own script."""
    if evidence.accounting and evidence.history is None:
        return Decision()
    # The node's clock may be wrong, and the job's user can write anything there.
    ended = min(max(*(exit_.ended for exit_ in exits), record.sbatch_started or 0.0), evidence.now)
    worst = max(exits, key=lambda exit_: (exit_.exit_code != 0, exit_.ended))
    began = _began(record, (), inside, exits, ended)
    if worst.reason is not None:
        state, text = JobState.FAILURE, f"Your job could not start: {worst.reason}"
    elif worst.exit_code == 0:
        state, text = JobState.SUCCESS, "Your job ended with exit code 0"
    elif record.cancel_sent is not None and ended + 2 > record.cancel_sent:  # the script's clock has whole seconds only
        state, text = JobState.SUCCESS, "Your job was cancelled"
    elif began is not None and ended >= began + record.time_limit:
        state, text = JobState.EXPIRED, "Your job reached its time limit"
    else:
        state, text = JobState.FAILURE, f"Your job failed with exit code {worst.exit_code}"
    change = end(ended, state, text) | {"exit_code": worst.exit_code, "started": began}
    return Decision(change, unproven=True)


def _missing(
    record: Record, inside: FolderContents, evidence: Evidence, problems: dict[str, str], left: int = 0
) -> Decision:
    """Decide about a job, or `left` tasks of it, without any evidence. Only long and healthy silence makes it lost."""
    if record.id in evidence.renamed:
        problems[record.id] = (
            f"Slurm job {record.slurm_id} of {record.account} has another name than {record.slurm_name}; "
            "nothing was changed. If its user renamed it: scontrol update "
            f"JobId={record.slurm_id} JobName={record.slurm_name}"
        )
        return Decision({"missing_since": None})
    silence_counts = evidence.silence_counts and record.account not in evidence.unnamed
    if not silence_counts or (evidence.accounting and evidence.history is None):
        if record.account in evidence.unnamed:
            why = f"the cluster does not know its account {record.account}"
        else:
            why = "accounting cannot be asked" if silence_counts else "this account may not see others' jobs"
        problems[record.id] = f"Slurm job {record.slurm_id} is not listed, and {why}; nothing was changed"
        return Decision({"missing_since": None})
    since = record.missing_since if record.missing_since is not None else evidence.now
    if evidence.now - since < evidence.lost_after or not inside.tried:
        return Decision({"missing_since": since})
    if record.cancel_sent is not None:
        state, text = JobState.SUCCESS, "Your job was cancelled"
    elif left:
        state = JobState.FAILURE
        text = f"Your job failed: {left} of its {record.tasks} tasks were lost; nothing shows how they ended"
    else:
        state = JobState.FAILURE
        text = f"Your job was lost: Slurm no longer knows its job {record.slurm_id}, nor how it ended"
    change = end(evidence.now, state, text) | {"started": _began(record, (), inside, (), evidence.now)}
    return Decision(change, unproven=True)

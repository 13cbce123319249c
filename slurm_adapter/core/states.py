"""Slurm's states of a job, and their meaning in UCloud.

The states are those of `src/common/slurm_protocol_defs.c` from Slurm 20.11 to 26.05: base states, and flags that are
shown instead of them. Other words are unknown, and never mean that a job ended.
`tests/cluster/schedulers/extract_states.py` extracts the states from Slurm's sources, and a test compares them with the
tables below for every version.
"""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurm_adapter.core.observation import Observation


class JobState(StrEnum):
    """UCloud's states of a job."""

    IN_QUEUE = "IN_QUEUE"
    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    EXPIRED = "EXPIRED"
    SUSPENDED = "SUSPENDED"

    @property
    def final(self) -> bool:
        """Return whether no other state follows."""
        return self in {JobState.SUCCESS, JobState.FAILURE, JobState.EXPIRED}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Meaning of one observation of a job."""

    state: JobState | None
    """None if the observation means nothing: the job's state does not change."""
    text: str
    """One sentence for the job's user."""


BASE_STATES = MappingProxyType(
    {
        "PENDING": "PD",
        "RUNNING": "R",
        "SUSPENDED": "S",
        "COMPLETED": "CD",
        "CANCELLED": "CA",
        "FAILED": "F",
        "TIMEOUT": "TO",
        "NODE_FAIL": "NF",
        "PREEMPTED": "PR",
        "BOOT_FAIL": "BF",
        "DEADLINE": "DL",
        "OUT_OF_MEMORY": "OOM",
    }
)
"""Base states with their compact codes. Every job has exactly one of them."""

FLAGS = MappingProxyType(
    {
        "COMPLETING": "CG",
        "STAGE_OUT": "SO",
        "CONFIGURING": "CF",
        "EXPEDITING": "",  # from 25.11 on
        "RESIZING": "RS",
        "REQUEUED_CRON": "RC",  # 20.11 only
        "REQUEUED": "RQ",
        "REQUEUE_FED": "RF",
        "REQUEUE_HOLD": "RH",
        "SPECIAL_EXIT": "SE",
        "STOPPED": "ST",
        "REVOKED": "RV",
        "RESV_DEL_HOLD": "RD",
        "SIGNALING": "SI",
    }
)
"""Flags that are shown instead of the base state. If several are set, the first one here is shown."""

ENDED = frozenset(BASE_STATES) - {"PENDING", "RUNNING", "SUSPENDED"}
"""States after which a job changes only if its owner requeues it."""

WAITING = frozenset(
    {
        "PENDING",
        "EXPEDITING",
        "REQUEUED",
        "REQUEUED_CRON",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "SPECIAL_EXIT",
        "RESV_DEL_HOLD",
    }
)
"""States of a job without nodes. A requeued job shows the nodes of its last run for a while, but does not have them.

EXPEDITING lasts from the end of a failed run of `--requeue=expedite` until the script starts again.
"""

LIVE = (frozenset(BASE_STATES) | frozenset(FLAGS)) - ENDED - {"REVOKED"}
"""States of a job that has not ended. A REVOKED job belongs to another cluster of a federation."""

_REMARKS = frozenset({"LAUNCH_FAILED", "RECONFIG_FAIL", "POWER_UP_NODE", "UPDATE_DB"})
"""Flags that Slurm shows in lists only, together with a base state."""

_WORDS = (*FLAGS, *BASE_STATES)
_OF_CODE = {code: word for table in (BASE_STATES, FLAGS) for word, code in table.items() if code}

_NO_LOGIN = "user env retrieval failed requeued held"
"""Reason for which Slurm 25.11 and later hold a job without login environment (`job_requeue` in job_mgr.c)."""

_NEVER = frozenset(
    {
        "AccountNotAllowed",
        "BadConstraints",
        "DependencyNeverSatisfied",
        "InvalidAccount",
        "InvalidQOS",
        "PartitionInactive",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
        "QOSNotAllowed",
    }
)
"""Reasons that keep a job pending until somebody changes the job or the cluster."""


@lru_cache(maxsize=1024)
def canonical(word: str) -> str | None:
    """Return the long form of a state in any form that Slurm prints; None for an unknown word.

    Read `cancelled`, `CANCELLED by 1000`, `CANCELLED+`, `OUT_OF_ME+` (cut), `PD`, JSON's `["RUNNING","CONFIGURING"]`,
    and the same list with commas. Of a list, return the state that squeue shows.
    """
    text = word.strip()
    if text.startswith("["):
        try:
            parts = json.loads(text)
        except (ValueError, RecursionError):
            return None
    else:
        parts = text.split(",")
    found: set[str | None] = set()
    for part in parts:
        if not isinstance(part, str):
            return None
        if part.strip().upper() not in _REMARKS:
            found.add(_canonical_word(part))
    return None if None in found else next((known for known in _WORDS if known in found), None)


def _canonical_word(text: str) -> str | None:
    upper = re.sub(r"\s+by\s+\S+$", "", text.strip(), flags=re.IGNORECASE).upper()
    plain = upper.rstrip("+")
    if plain in _WORDS:
        return plain
    if plain in _OF_CODE:
        return _OF_CODE[plain]
    if plain == upper or len(plain) < 4:
        return None
    candidates = [known for known in _WORDS if known.startswith(plain)]
    return candidates[0] if len(candidates) == 1 else None


def interpret(
    observation: Observation,
    overrides: Mapping[str, JobState] = MappingProxyType({}),
    *,
    we_cancelled: bool = False,
) -> Verdict:
    """Return the meaning of an observation in UCloud.

    SUCCESS is exit code 0, or a cancel by the job's account or by the adapter (`we_cancelled`). `overrides` is the
    site's table of Slurm's states; it changes the state, but not the text.
    """
    word = canonical(observation.state)
    if word is None:
        return Verdict(None, f"Slurm reports the unknown state {observation.state!r} for your job")
    verdict = _interpret(word, observation, we_cancelled=we_cancelled)
    for key, state in overrides.items():
        if canonical(key) == word:
            return replace(verdict, state=state)
    return verdict


def _interpret(word: str, seen: Observation, *, we_cancelled: bool) -> Verdict:
    if word in _PLAIN:
        return _PLAIN[word]
    if word in WAITING:
        return _waiting(word, seen.reason, again=seen.restarts > 0)
    if word == "CANCELLED":
        return _cancelled(seen, we_cancelled=we_cancelled)
    if word == "COMPLETED" and seen.exit_code is None and seen.signal is None:
        return Verdict(None, "Your job ended, but Slurm does not report its exit code")
    if word == "COMPLETED" and seen.exit_code == 0 and not seen.signal:
        return Verdict(JobState.SUCCESS, "Your job ended with exit code 0")
    return Verdict(JobState.FAILURE, _failed(seen))


_ENDING = Verdict(JobState.RUNNING, "Your job is ending")
_PLAIN = MappingProxyType(
    {
        # It has nodes, but they still boot, and nothing of the job runs.
        "CONFIGURING": Verdict(JobState.IN_QUEUE, "Your job has nodes, which are booting"),
        **dict.fromkeys(("RUNNING", "RESIZING", "SIGNALING"), Verdict(JobState.RUNNING, "Your job is running")),
        # The base state of these may be an end or a requeue, but squeue does not show it.
        **dict.fromkeys(("COMPLETING", "STAGE_OUT"), _ENDING),
        # STOPPED: its processes received SIGSTOP. The job keeps its processors, but does nothing.
        **dict.fromkeys(("SUSPENDED", "STOPPED"), Verdict(JobState.SUSPENDED, "Your job is suspended")),
        # A federation moved the job to another cluster, and this cluster will not know its end.
        "REVOKED": Verdict(None, "Your job was moved to another cluster of the federation"),
        "TIMEOUT": Verdict(JobState.EXPIRED, "Your job reached its time limit"),
        "DEADLINE": Verdict(JobState.EXPIRED, "Your job reached its deadline"),
        "OUT_OF_MEMORY": Verdict(JobState.FAILURE, "Your job used more memory than it asked for"),
        "NODE_FAIL": Verdict(JobState.FAILURE, "Your job lost a node, which failed"),
        "BOOT_FAIL": Verdict(JobState.FAILURE, "Your job could not start: one of its nodes did not boot"),
        # If the job will run again, squeue shows PENDING.
        "PREEMPTED": Verdict(JobState.FAILURE, "Your job was preempted by another job"),
    }
)
"""Meaning of states for which the word is enough."""


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def cannot_log_in(seen: Observation) -> bool:
    """Return whether Slurm holds a job because its account cannot log in on the node. Only the site can fix this."""
    return seen.state in WAITING and seen.reason.lower().replace("_", " ") == _NO_LOGIN


@lru_cache(maxsize=1024)
def _waiting(word: str, reason: str, *, again: bool) -> Verdict:
    if word != "PENDING":
        # These jobs keep their id and run again. Three of the states last until somebody releases the job.
        held = " and is held" if word in {"REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"} else ""
        return Verdict(JobState.IN_QUEUE, f"Your job was requeued{held}{_because(reason)}")
    once_more = " to run again" if again else ""
    never = ", and does not start until that is changed" if reason in _NEVER else ""
    return Verdict(JobState.IN_QUEUE, f"Your job waits in the queue{once_more}{_because(reason)}{never}")


def _cancelled(seen: Observation, *, we_cancelled: bool) -> Verdict:
    if we_cancelled or (seen.cancelled_by is not None and seen.cancelled_by == seen.user):
        return Verdict(JobState.SUCCESS, "Your job was cancelled")
    if seen.cancelled_by is not None:
        return Verdict(JobState.FAILURE, "Your job was cancelled by the site")
    return Verdict(JobState.SUCCESS, "Your job was cancelled; it is not known who did it")


_NOT_OPENED = 53
"""Signal that slurmstepd reports if it cannot open the job's output or change to its directory."""

NO_FOLDER = 66
"""Exit code of a job's script that does not find its folder (templates/job.sbatch.j2)."""

FENCED = 69
"""Exit code of a job's script that the fence stops (templates/job.sbatch.j2); 0 in older scripts."""

NOT_OPENED_TEXT = "Your job could not start: its folder or its output file cannot be opened on the node"


def _failed(seen: Observation) -> str:
    if seen.signal == _NOT_OPENED:
        return NOT_OPENED_TEXT
    if seen.signal:
        return f"Your job was ended by {_name_signal(seen.signal)}"
    if not seen.exit_code:
        return f"Your job failed{_because(seen.reason)}"
    if 128 < seen.exit_code < 128 + _NOT_OPENED:
        # A shell reports a program that was killed by a signal in this way.
        number = seen.exit_code - 128
        return f"Your job failed with exit code {seen.exit_code}, as after {_name_signal(number)}"
    why = "" if seen.reason == "NonZeroExitCode" else _because(seen.reason)
    return f"Your job failed with exit code {seen.exit_code}{why}"


def _name_signal(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"

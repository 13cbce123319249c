"""Slurm's words for what became of a job, and what they mean in UCloud.

Slurm's vocabulary is that of `src/common/slurm_protocol_defs.c` from 20.11 to 26.05: base states, and flags that are
shown instead of them. A word outside it is unknown, and never an ending. `tests/cluster/schedulers/extract_states.py`
reads it out of Slurm's sources, and a test holds this table against every version.
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
        """Whether nothing comes after it."""
        return self in {JobState.SUCCESS, JobState.FAILURE, JobState.EXPIRED}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one observation of a job means."""

    state: JobState | None
    """None where it means nothing: the job stays what it was."""
    text: str
    """For the job's user, one sentence."""


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
"""Each with its compact code. Exactly one of them is part of every job's state."""

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
"""Shown instead of the base state where they are set; of several the one that stands first here."""

ENDED = frozenset(BASE_STATES) - {"PENDING", "RUNNING", "SUSPENDED"}
"""Nothing comes after these, but a requeue by the job's owner."""

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
"""The job has no nodes. Those of a former run, which a requeued job shows for a while, are not its own any more.

EXPEDITING stands from the end of a failed run of `--requeue=expedite` until the script is started again.
"""

LIVE = (frozenset(BASE_STATES) | frozenset(FLAGS)) - ENDED - {"REVOKED"}
"""Slurm still has something to do with the job. One that a federation gave away is another cluster's affair."""

_REMARKS = frozenset({"LAUNCH_FAILED", "RECONFIG_FAIL", "POWER_UP_NODE", "UPDATE_DB"})
"""Flags that Slurm names in lists only, beside a base state that says what the job does."""

_WORDS = (*FLAGS, *BASE_STATES)
_OF_CODE = {code: word for table in (BASE_STATES, FLAGS) for word, code in table.items() if code}

_NO_LOGIN = "user env retrieval failed requeued held"
"""Why Slurm 25.11 and later hold a job that cannot get its login environment (`job_requeue` in job_mgr.c)."""

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
"""Reasons for which a pending job does not start until somebody changes something."""


@lru_cache(maxsize=1024)
def canonical(word: str) -> str | None:
    """Slurm's own long word for a state in any of the forms in which Slurm prints it; None for an unknown one.

    Takes `cancelled`, `CANCELLED by 1000`, `CANCELLED+`, `OUT_OF_ME+` (cut off), `PD`, and JSON's
    `["RUNNING","CONFIGURING"]` or the same with commas, of which the word is returned that squeue would show.
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


def translate(
    observation: Observation,
    overrides: Mapping[str, JobState] = MappingProxyType({}),
    *,
    we_cancelled: bool = False,
) -> Verdict:
    """What Slurm says of a job, in UCloud's terms.

    SUCCESS is exit code 0, or a cancel by the job's own account or by us (`we_cancelled`). `overrides` is the site's
    own table of Slurm's words; a word in it decides the state, and the text stays.
    """
    word = canonical(observation.state)
    if word is None:
        return Verdict(None, f"Slurm says {observation.state!r} of your job, which this program does not know")
    verdict = _translate(word, observation, we_cancelled=we_cancelled)
    for key, state in overrides.items():
        if canonical(key) == word:
            return replace(verdict, state=state)
    return verdict


def _translate(word: str, seen: Observation, *, we_cancelled: bool) -> Verdict:
    if word in _PLAIN:
        return _PLAIN[word]
    if word in WAITING:
        return _waiting(word, seen.reason, again=seen.restarts > 0)
    if word == "CANCELLED":
        return _cancelled(seen, we_cancelled=we_cancelled)
    if word == "COMPLETED" and seen.exit_code is None and seen.signal is None:
        return Verdict(None, "Your job has ended, and Slurm does not say with which exit code")
    if word == "COMPLETED" and seen.exit_code == 0 and not seen.signal:
        return Verdict(JobState.SUCCESS, "Your job ended with exit code 0")
    return Verdict(JobState.FAILURE, _failed(seen))


_ENDING = Verdict(JobState.RUNNING, "Your job is about to end")
_PLAIN = MappingProxyType(
    {
        # It has nodes, which still boot; nothing of it runs yet.
        "CONFIGURING": Verdict(JobState.IN_QUEUE, "Your job has its nodes, which are being made ready"),
        **dict.fromkeys(("RUNNING", "RESIZING", "SIGNALING"), Verdict(JobState.RUNNING, "Your job is running")),
        # The base state behind these may be an ending or a requeue, and squeue does not show which.
        **dict.fromkeys(("COMPLETING", "STAGE_OUT"), _ENDING),
        # STOPPED: its processes got SIGSTOP. It keeps its processors, but does nothing.
        **dict.fromkeys(("SUSPENDED", "STOPPED"), Verdict(JobState.SUSPENDED, "Your job is suspended")),
        # A federation gave the job to another cluster; this one will not know how it ends.
        "REVOKED": Verdict(None, "Your job was taken over by another cluster of the federation"),
        "TIMEOUT": Verdict(JobState.EXPIRED, "Your job reached its time limit"),
        "DEADLINE": Verdict(JobState.EXPIRED, "Your job reached its deadline"),
        "OUT_OF_MEMORY": Verdict(JobState.FAILURE, "Your job used more memory than it asked for"),
        "NODE_FAIL": Verdict(JobState.FAILURE, "Your job lost a node, which failed"),
        "BOOT_FAIL": Verdict(JobState.FAILURE, "Your job could not start: a node of it did not boot"),
        # Of one that will run again squeue says PENDING.
        "PREEMPTED": Verdict(JobState.FAILURE, "Your job had to give way to another job"),
    }
)
"""What needs no more than the word."""


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def cannot_log_in(seen: Observation) -> bool:
    """Return whether Slurm holds a job because its account cannot log in on the node: nobody but the site can help."""
    return seen.state in WAITING and seen.reason.lower().replace("_", " ") == _NO_LOGIN


@lru_cache(maxsize=1024)
def _waiting(word: str, reason: str, *, again: bool) -> Verdict:
    if word != "PENDING":
        # None of these has ended: each keeps its id and runs again, these three when somebody releases them.
        held = " and is held there" if word in {"REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"} else ""
        return Verdict(JobState.IN_QUEUE, f"Your job was put back into the queue{held}{_because(reason)}")
    once_more = " to run again" if again else ""
    never = ", and does not start until that is changed" if reason in _NEVER else ""
    return Verdict(JobState.IN_QUEUE, f"Your job waits in the queue{once_more}{_because(reason)}{never}")


def _cancelled(seen: Observation, *, we_cancelled: bool) -> Verdict:
    if we_cancelled or (seen.cancelled_by is not None and seen.cancelled_by == seen.user):
        return Verdict(JobState.SUCCESS, "Your job was cancelled")
    if seen.cancelled_by is not None:
        return Verdict(JobState.FAILURE, "Your job was cancelled by the site")
    return Verdict(JobState.SUCCESS, "Your job was cancelled, by whom is unknown")


_NOT_OPENED = 53
"""What slurmstepd reports as a signal where it could not open the job's output, or change to its directory."""

NO_FOLDER = 66
"""The exit code of a job's script that does not find its folder (templates/job.sbatch.j2)."""

FENCED = 69
"""The exit code of a job's script that the fence lets run nothing (templates/job.sbatch.j2); 0 in older scripts."""

NOT_OPENED_TEXT = "Your job could not start: its folder or its output file cannot be opened on the node"


def _failed(seen: Observation) -> str:
    if seen.signal == _NOT_OPENED:
        return NOT_OPENED_TEXT
    if seen.signal:
        return f"Your job was ended by {_name_signal(seen.signal)}"
    if not seen.exit_code:
        return f"Your job failed{_because(seen.reason)}"
    if 128 < seen.exit_code < 128 + _NOT_OPENED:
        # What a shell makes of a program that a signal ended.
        number = seen.exit_code - 128
        return f"Your job failed with exit code {seen.exit_code}, as after {_name_signal(number)}"
    why = "" if seen.reason == "NonZeroExitCode" else _because(seen.reason)
    return f"Your job failed with exit code {seen.exit_code}{why}"


def _name_signal(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"

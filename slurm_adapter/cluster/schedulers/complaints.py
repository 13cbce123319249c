"""The messages of Slurm's commands: which of them are failures, and what a failure means."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import AdapterError, Refused, TryAgain, Unknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slurm_adapter.cluster.transports.interface import Result

_CONTROLLER_AWAY = "Unable to contact slurm controller (connect failure)"

_COMPLAINT = re.compile(r"^(?:s\w+: (?:error|fatal): |slurm\w* error: |error: )")
_GAVE_UP = re.compile(
    r"^(?:s\w+: fatal: |slurm\w* error: )|talking to the database|persist|slurmdbd|CONN:", re.IGNORECASE
)
"""Words of fatal() and slurm_perror(), and of a connection to slurmdbd. error() is used for warnings, too."""
_PROGRAM = re.compile(r"^\w+: ")
_NOT_CANCELLED = re.compile(r"Kill job error|Bad job id format", re.IGNORECASE)
_HARMLESS = re.compile(r"RPC rate limit|obsolete|deprecated|sudo: unable to resolve host", re.IGNORECASE)
"""Complaints of commands that then did what they were asked for."""

_DONE_ALREADY = re.compile(
    r"^\d+_\S+: (?:No error|Job is pending execution|Job has already finished|Job/step already completing or completed"
    r"|Job is not suspended)$|^Job is not suspended for job \d+$"
)
"""scontrol's words about a task or job that it has changed, or that needs no change."""

_LOST = re.compile(r"timed out|Zero Bytes|connection|Unable to contact|Unexpected message", re.IGNORECASE)
"""Words for a lost answer. scontrol says the last if the controller is out of reach, or if the id is unknown."""

_NO_RIGHT = re.compile(r"sudo|denied|permitted", re.IGNORECASE)
_OF_A_JOB = re.compile(r"^(?P<array>\d+)_\S+: | for job (?P<job>\d+)(?:_\S+)?$")
"""The job that a line of scontrol is about, in a list of jobs."""

GONE = re.compile(r"Invalid job id|already (?:completing|finished|completed)", re.IGNORECASE)
"""Words about a job that the controller does not know, or that has ended."""

_log = logging.getLogger(__name__)


class Complaints:
    """Reads the messages of Slurm's commands, and remembers warnings that come with good answers."""

    def __init__(self) -> None:
        self._warned: set[str] = set()
        """Warnings that came with good answers: mistakes in slurm.conf, for example."""

    def check(self, result: Result, what: str, harmless: re.Pattern[str] | None = None) -> None:
        """Raise if a command failed: by its exit code, or by words with which Slurm's commands give up.

        Log other messages of a successful command once.
        """
        complaints = [
            line
            for line in result.complaint.splitlines()
            if _COMPLAINT.search(line) and not _HARMLESS.search(line) and not (harmless and harmless.search(line))
        ]
        if result.status == 0 and not any(_GAVE_UP.search(line) for line in complaints):
            for line in complaints:
                if (bare := _PROGRAM.sub("", line)) not in self._warned:
                    self._warned.add(bare)
                    _log.warning("%s succeeded, but warned: %s", what, line)
            return
        complaints = [line for line in complaints if _PROGRAM.sub("", line) not in self._warned]
        said = "; ".join(complaints) or result.complaint or f"exit code {result.status} without a message"
        if result.status in {126, 127}:
            raise TryAgain(
                f"{what} cannot be started on the cluster: {said}\n"
                "set clusters.NAME.path to the folder of Slurm's commands"
            )
        if not complaints and harmless is not None and harmless.search(result.complaint):
            return
        if _CONTROLLER_AWAY in said:
            raise TryAgain(f"{what}: Slurm's controller does not answer: {said}")
        raise Unknown(f"{what} failed: {said}")

    def check_cancel(self, result: Result) -> None:
        """Raise if scancel left a job that may run. It names each such job, whatever its exit code is."""
        failed = [line for line in result.complaint.splitlines() if _NOT_CANCELLED.search(line)]
        if failed and all(GONE.search(line) for line in failed):
            return
        self.check(replace(result, status=result.status or 1) if failed else result, "scancel", GONE)

    def judge_operation(self, what: str, result: Result, slurm_ids: Sequence[int]) -> Mapping[int, AdapterError]:
        """Return the errors of an operator's command, for each of these jobs that it may not have changed.

        `what` is the command, with `{}` for a job's id.
        """
        said = self._read_operation(result, slurm_ids)
        return {id_: _judge(what.format(id_), result.status, words) for id_, words in said.items()}

    def _read_operation(self, result: Result, slurm_ids: Sequence[int]) -> dict[int, str]:
        """Return scontrol's words about each job that it may not have changed; empty if it gave no message."""
        if result.status == 0:
            return {}
        asked = frozenset(slurm_ids)
        named: dict[int, list[str]] = {}
        of_all: list[str] = []
        for line in map(str.strip, f"{result.text}\n{result.complaint}".splitlines()):
            found = _OF_A_JOB.search(line)
            slurm_id = int(found["array"] or found["job"]) if found else -1
            if slurm_id in asked:
                named.setdefault(slurm_id, []).extend([] if _DONE_ALREADY.search(line) else [line])
            elif line and not _HARMLESS.search(line) and _PROGRAM.sub("", line) not in self._warned:
                of_all.append(line)
        # If scontrol named a job, it went through the whole list, unless something else failed as well.
        lost = bool(of_all) or not named or result.status != 1
        said = {id_: "; ".join(named.get(id_, of_all)) for id_ in slurm_ids}
        return {id_: words for id_, words in said.items() if words or (lost and id_ not in named)}


def _judge(what: str, status: int, said: str) -> AdapterError:
    """Return the error that these words of an operator's command mean."""
    if _CONTROLLER_AWAY in said:
        return TryAgain(f"{what}: Slurm's controller does not answer: {said}")
    if _LOST.search(said) or not said:
        return Unknown(f"{what} failed with exit code {status}: {said or 'no message'}")
    fix = (
        "; clusters.NAME.operator must let the adapter's account run this as an operator of Slurm, for one job and for "
        "a list of jobs"
        if status in {126, 127} or _NO_RIGHT.search(said)
        else ""
    )
    return Refused(f"{what}: {said}{fix}")

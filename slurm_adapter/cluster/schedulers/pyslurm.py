"""Slurm through libslurm and pyslurm, without a command for each job. `Scheduler` explains the methods.

Each request is a process (`pyslurm_worker`) that the transport runs as the account of the jobs, because libslurm acts
as the account of its process. So all jobs need the same account (docs/design.md#pyslurm). Slurm's commands do the
rest: accounting, name resolution, and jobs with directives that are not in `_FIELDS`.
"""

from __future__ import annotations

import base64
import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slurm_adapter.cluster.schedulers import pyslurm_worker, sbatch
from slurm_adapter.cluster.schedulers.hostlist import expand
from slurm_adapter.cluster.schedulers.interface import InDoubt, Listing, NotStarted
from slurm_adapter.cluster.transports.interface import Command
from slurm_adapter.core.errors import AdapterError, InvalidConfig, TryAgain, Unknown
from slurm_adapter.core.observation import DISPATCH_SECONDS, Observation
from slurm_adapter.core.states import ENDED, WAITING, canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from slurm_adapter.cluster.schedulers.command_line import CommandLineScheduler
    from slurm_adapter.cluster.schedulers.interface import Load, Outcome, Partition, Submission
    from slurm_adapter.cluster.schedulers.versions import Versions
    from slurm_adapter.cluster.transports.interface import Transport
    from slurm_adapter.core.directives import Directive

_QUERY_SECONDS = 120.0

_WORKER = Path(pyslurm_worker.__file__).read_bytes()
_BOOT = f"import sys;exec(compile(sys.stdin.buffer.read({len(_WORKER)}),'pyslurm_worker','exec'))"
"""Reads the worker's source from standard input, because this program's files may not exist on the cluster."""

_FIELDS = {
    "account": "account",
    "array": "array",
    "comment": "comment",
    "constraint": "constraints",
    "chdir": "working_directory",
    "dependency": "dependencies",
    "error": "standard_error",
    "gres": "gres_per_node",
    "job-name": "name",
    "mem": "memory_per_node",
    "nodelist": "required_nodes",
    "open-mode": "log_files_open_mode",
    "output": "standard_output",
    "partition": "partitions",
    "qos": "qos",
    "reservation": "reservations",
    "time": "time_limit",
    "wckey": "wckey",
}
_NUMBERS = {
    "cpus-per-task": "cpus_per_task",
    "nodes": "nodes",
    "ntasks": "ntasks",
    "ntasks-per-node": "ntasks_per_node",
}
"""Directives and attributes of pyslurm's JobSubmitDescription with the same meaning, each tried on a cluster."""


def describe(job: Submission) -> dict[str, Any] | None:
    """Return a job as pyslurm's attributes; None if these cannot express all of its directives.

    pyslurm reads some attributes but does not send them (`signal`, `switches`), or reads them differently than sbatch.
    """
    fields: dict[str, Any] = {"script": f"{job.folder}/job.sbatch"}
    for each in job.directives:
        value = each.value or ""
        if each.name in _FIELDS:
            if not _plain(each):
                return None
            fields[_FIELDS[each.name]] = value
        elif each.name in _NUMBERS:
            if not re.fullmatch(r"[1-9]\d{0,8}", value, re.ASCII):
                return None
            fields[_NUMBERS[each.name]] = int(value)
        elif each.name == "exclusive" and each.value is None:
            fields["resource_sharing"] = "exclusive"
        elif (each.name, each.value) == ("export", "NONE"):
            # As sbatch does: no variable of this process, but the user's login environment on the node.
            fields["environment"] = {"SLURM_GET_USER_ENV": "1"}
        elif (each.name, each.value) == ("propagate", "NONE"):
            continue  # pyslurm sends no limits of its process
        else:
            return None
    # By default pyslurm starts one task in all, and sbatch one per node.
    fields.setdefault("ntasks", fields.get("nodes", 1))
    if "environment" in fields:
        variables = {
            "SLURM_JOB_NAME": fields.get("name"),
            "SLURM_CPUS_PER_TASK": fields.get("cpus_per_task"),
            "SLURM_OPEN_MODE": {"append": "a", "truncate": "t"}.get(fields.get("log_files_open_mode", "")),
        }
        fields["environment"] |= {name: str(value) for name, value in variables.items() if value is not None}
    return fields


def _plain(directive: Directive) -> bool:
    value = directive.value or ""
    if directive.name == "gres":
        return re.fullmatch(r"\w+(:\w+)?:\d+", value, re.ASCII) is not None
    if directive.name == "mem":
        return re.fullmatch(r"[1-9]\d*[MGT]?", value, re.ASCII) is not None
    return bool(value)


class PyslurmScheduler:
    """One cluster, used as `account`. `python` has pyslurm and may be run by the account; `commands` does the rest."""

    def __init__(
        self,
        transport: Transport,
        account: str,
        commands: CommandLineScheduler,
        *,
        slurm_conf: str | None = None,
        python: str = sys.executable,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._transport = transport
        self._account = account
        self._commands = commands
        self._python = python
        self._clock = clock
        self._environment = ("LC_ALL=C.UTF-8", *([f"SLURM_CONF={slurm_conf}"] if slurm_conf else []))

    def submit(self, submissions: Sequence[Submission]) -> list[Outcome]:
        """See `Scheduler.submit`."""
        until = self._clock() + sbatch.START_SECONDS
        described = [describe(each) if each.user == self._account else None for each in submissions]
        outcomes: list[Outcome] = [InDoubt("")] * len(submissions)
        ours = [(number, fields) for number, fields in enumerate(described) if fields is not None]
        for (number, _), outcome in zip(ours, self._submit(ours, until), strict=True):
            outcomes[number] = outcome
        others = [number for number, fields in enumerate(described) if fields is None]
        for number, outcome in zip(others, self._commands.submit([submissions[n] for n in others], until), strict=True):
            outcomes[number] = outcome
        return outcomes

    def _submit(self, described: list[tuple[int, dict[str, Any]]], until: float) -> list[Outcome]:
        if not described:
            return []
        jobs = [(index, fields) for index, (_, fields) in enumerate(described)]
        seconds = sbatch.SBATCH_SECONDS - 5
        question = {"jobs": jobs, "until": until, "seconds": seconds}
        try:
            output = self._run("submit", question, ends_after=sbatch.START_SECONDS + seconds)
        except TryAgain as error:
            return [NotStarted(str(error))] * len(jobs)
        except InvalidConfig as error:
            return [NotStarted(str(error))] * len(jobs)
        except AdapterError as error:
            return [InDoubt(str(error))] * len(jobs)
        return sbatch.parse_submission(output, len(jobs))

    def cancel(self, jobs: Mapping[int, str]) -> None:
        """See `Scheduler.cancel`."""
        if others := {slurm_id: user for slurm_id, user in jobs.items() if user != self._account}:
            self._commands.cancel(others)
        ids = [slurm_id for slurm_id, user in jobs.items() if user == self._account]
        if ids and (failed := self._ask("cancel", {"ids": ids})):
            slurm_id, words = failed[0]
            raise Unknown(f"Slurm job {slurm_id} could not be cancelled: {words}")

    def queue(self, users: Sequence[str]) -> Listing:
        """See `Scheduler.queue`."""
        answer = self._ask("queue", {"users": list(users)})
        sees_all = answer["identity"] in {"root", answer["slurm_user"]} or set(users) <= {answer["identity"]}
        sees_others = not answer["unknown"] and (sees_all or not answer["hidden"])
        return Listing(tuple(_read_row(row) for row in answer["rows"]), sees_others)

    def history(self, slurm_ids: Sequence[int]) -> tuple[Observation, ...] | None:
        """See `Scheduler.history`."""
        return self._commands.history(slurm_ids)

    def longest(self, slurm_ids: Sequence[int]) -> Mapping[int, int | None]:
        """See `Scheduler.longest`."""
        return self._commands.longest(slurm_ids)

    def load(self, partitions: Sequence[str]) -> Load:
        """See `Scheduler.load`. By Slurm's commands."""
        return self._commands.load(partitions)

    def set_time_limits(self, limits: Mapping[int, int]) -> Mapping[int, AdapterError]:
        """See `Scheduler.set_time_limits`. By Slurm's command, as an operator; also the next two methods."""
        return self._commands.set_time_limits(limits)

    def suspend(self, slurm_ids: Sequence[int]) -> None:
        """See `Scheduler.suspend`."""
        self._commands.suspend(slurm_ids)

    def resume(self, slurm_ids: Sequence[int]) -> None:
        """See `Scheduler.resume`."""
        self._commands.resume(slurm_ids)

    def nodes(self) -> Mapping[str, str]:
        """See `Scheduler.nodes`."""
        return {str(name): str(address) for name, address in self._ask("nodes", {}).items()}

    def ping(self) -> None:
        """See `Scheduler.ping`."""
        self._commands.ping()

    def partitions(self) -> Mapping[str, Partition]:
        """See `Scheduler.partitions`."""
        return self._commands.partitions()

    def versions(self) -> Versions:
        """See `Scheduler.versions`. By Slurm's commands."""
        return self._commands.versions()

    def own_uids(self) -> Mapping[str, int]:
        """See `Scheduler.own_uids`. By Slurm's commands."""
        return self._commands.own_uids()

    def addresses(self, names: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """See `Scheduler.addresses`."""
        return self._commands.addresses(names)

    def binding_version(self) -> str:
        """See `Scheduler.binding_version`."""
        return str(self._ask("version", {}))

    def _ask(self, call: str, question: Mapping[str, Any]) -> Any:
        output = self._run(call, question, ends_after=int(_QUERY_SECONDS) - 10)
        words = {kind: text for kind, text in _lines(output) if kind in {"failed", "answer"}}
        if "answer" in words:
            return json.loads(words["answer"])
        why = words.get("failed", "the answer breaks off")
        if "Unable to contact slurm controller (connect failure)" in why:
            raise TryAgain(f"Slurm's controller does not answer pyslurm: {why}")
        raise Unknown(f"pyslurm's {call} failed: {why}")

    def _run(self, call: str, question: Mapping[str, Any], *, ends_after: int) -> bytes:
        program = (self._python, "-I", "-c", _BOOT, call)
        words = ("timeout", "-k", "5", str(ends_after), *program)
        stdin = _WORKER + json.dumps(question).encode()
        result = self._transport.run(
            Command(words, stdin, self._account, self._environment, float(DISPATCH_SECONDS + 30))
        )
        for kind, text in _lines(result.stdout):
            if kind == "fatal":
                raise InvalidConfig(f"pyslurm cannot be used by {self._python} as {self._account}: {text}{_FIX}")
        if result.status in {1, 126, 127} and not result.stdout:
            raise InvalidConfig(
                f"{self._python} cannot be run as {self._account} on this machine: {result.complaint}{_FIX}"
            )
        if result.status != 0 and call != "submit":
            raise Unknown(f"pyslurm's {call} ended with exit code {result.status}: {result.complaint}")
        return result.stdout


_FIX = (
    "\ninstall a pyslurm of Slurm's release (22.5 for 22.05) next to slurm-adapter or for "
    'clusters.NAME.pyslurm_python, or set clusters.NAME.scheduler = "commands"'
)


_LINE = re.compile(r"^worker ([a-z]+) ([A-Za-z0-9+/=]*)$", re.MULTILINE)


def _lines(output: bytes) -> list[tuple[str, str]]:
    found = _LINE.finditer(output.decode(errors="replace"))
    return [(match[1], base64.b64decode(match[2] + "===").decode(errors="replace")) for match in found]


def _read_row(row: Sequence[Any]) -> Observation:
    try:
        slurm_id, task, name, user, state, reason, nodes, restarts, code, signal, submitted, started, ended, limit = row
        word = canonical(str(state)) or str(state).strip().upper()
        over = word in ENDED
        return Observation(
            slurm_id=int(slurm_id),
            task=None if task is None else str(task),
            name=str(name),
            user=str(user),
            state=word,
            reason="" if reason in {None, "None", "(null)"} else " ".join(str(reason).split()),
            nodes=() if word in WAITING or word == "COMPLETING" else expand(str(nodes or "")),
            restarts=int(restarts or 0),
            exit_code=int(code) if over and not signal else None,
            signal=int(signal) if over and signal else None,
            submitted=int(submitted or 0) or None,
            started=None if word in WAITING else int(started or 0) or None,
            ended=int(ended or 0) or None,
            time_limit=None if limit is None else 60 * int(limit),
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise Unknown(f"pyslurm's row {str(row)[:400]} cannot be read: {error}") from error

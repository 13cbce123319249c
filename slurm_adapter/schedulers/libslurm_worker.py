"""Talks to libslurm through pyslurm, in a process of its own that lives for one question.

libslurm ends its process on a bad configuration, and it speaks as the account of its process. So this file is a program
that `slurm_adapter.schedulers.libslurm` has run as the account of the jobs: `python -I libslurm_worker.py MARK CALL`,
with JSON on standard input. It needs nothing but pyslurm and the standard library. Every line that it prints begins
with MARK, so that nothing that a library prints is taken for an answer:

    MARK fatal BASE64               pyslurm cannot be used; why
    MARK failed BASE64              Slurm's own words for why the question has no answer
    MARK answer BASE64              the answer, as JSON
    MARK late SECONDS, MARK N begun, MARK N STATUS BASE64
                                    of `submit`, as `slurm_adapter.schedulers.submission` reads them
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import pwd
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ENDED = frozenset(
    ["COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY"]
)


def say(mark: str, *words: object) -> None:
    """One line, at once: what has been said counts though this process may end at any moment."""
    sys.stdout.write(" ".join(map(str, (mark, *words))) + "\n")
    sys.stdout.flush()


def encode(text: str, limit: int = 0) -> str:
    """Any text as one word; of the last `limit` bytes of it, where there are more."""
    return base64.b64encode(text.encode(errors="replace")[-limit:]).decode()


WORDS = 2400
"""The most bytes of Slurm's words on one job: its line is written whole, whoever else writes to the pipe (PIPE_BUF)."""


AT_ONCE = 4
"""So many processes hand jobs in side by side, where there are that many: each waits for the controller in turn."""


def submit(slurm: Any, mark: str, question: Mapping[str, Any]) -> None:
    """Hand jobs in until `until`, a few side by side; each is told before and after, as sbatch's would be."""
    late = question["until"] - time.time()
    if late <= 0:
        say(mark, "late", int(late))
        return
    jobs = question["jobs"]
    started: list[int] = []
    try:
        for first in range(min(AT_ONCE, len(jobs))):
            # None of them in this process: libslurm may end it, and it must not end before the others are done.
            process = os.fork()
            if process == 0:
                try:
                    hand_in(slurm, mark, jobs[first::AT_ONCE], question["until"], question["seconds"])
                finally:
                    os._exit(0)
            started.append(process)
    finally:
        for process in started:
            os.waitpid(process, 0)


def hand_in(slurm: Any, mark: str, jobs: Sequence[Any], until: float, seconds: float) -> None:
    """Hand these in, one after another."""
    # Whatever libslurm waits for: what the port promises of the end of a hand-over holds.
    signal.setitimer(signal.ITIMER_REAL, until - time.time() + seconds)
    for number, job in jobs:
        if time.time() >= until:
            return
        say(mark, number, "begun")
        try:
            status, said = 0, str(slurm.JobSubmitDescription(**job).submit())
        except slurm.RPCError as error:
            status, said = 1, f"sbatch: error: Batch job submission failed: {error}"
        except OSError as error:
            status, said = 1, f"sbatch: error: Unable to open file {job['script']}: {error}"
        except (TypeError, ValueError) as error:
            # pyslurm refuses the values: nothing was sent.
            status, said = 255, f"sbatch: error: {error}: invalid, said pyslurm"
        say(mark, number, status, encode(said, WORDS))
        if "Unable to contact slurm controller" in said:
            return  # the rest would only wait, too


def cancel(slurm: Any, question: Mapping[str, Any]) -> Any:
    """Cancel jobs; words for each that goes on all the same."""
    failed: dict[int, str] = {}
    for slurm_id in question["ids"]:
        try:
            slurm.Job(slurm_id).cancel()
        except slurm.RPCError as error:
            # pyslurm takes an older error for this call's: what became of the job tells.
            failed[slurm_id] = str(error)
    if failed:
        for job in slurm.Jobs.load().values():
            if job.id in failed and job.state.split()[0] not in ENDED | {"COMPLETING"}:
                continue
            failed.pop(job.id, None)
        known = {job.id for job in slurm.Jobs.load().values()}
        failed = {slurm_id: words for slurm_id, words in failed.items() if slurm_id in known}
    return sorted(failed.items())


def queue(slurm: Any, question: Mapping[str, Any]) -> Any:
    """All jobs of these accounts, a list of values for each, and what tells whether others' are hidden."""
    names = {}
    for name in question["users"]:
        with suppress(KeyError):
            names[pwd.getpwnam(name).pw_uid] = name
    rows = [_row(job, names[job.user_id]) for job in slurm.Jobs.load().values() if job.user_id in names]
    hidden, slurm_user = _privacy(slurm)
    return {
        "rows": rows,
        "hidden": hidden,
        "slurm_user": slurm_user,
        "unknown": sorted(set(question["users"]) - set(names.values())),
        "identity": pwd.getpwuid(os.geteuid()).pw_name,
    }


def _privacy(slurm: Any) -> tuple[bool, str]:
    """Whether others' jobs may be hidden (PrivateData in slurm.conf(5)), and SlurmUser, from whom nothing is."""
    if hasattr(slurm, "config"):
        values = slurm.config().get()
        return bool(int(values["private_data"] or 0) & 1), str(values.get("slurm_user_name") or "")
    config = slurm.slurmctld.Config.load()  # from 23.11 on
    return "jobs" in config.private_data, str(config.slurm_user_name)


def _row(job: Any, user: str) -> list[Any]:
    task = None
    slurm_id = job.id
    if job.array_id:
        slurm_id, task = job.array_id, job.array_tasks_waiting
        if task is None:
            task = str(job.array_task_id or 0)  # pyslurm takes 0 for none
    elif job.heterogeneous_id:
        slurm_id, task = job.heterogeneous_id, f"+{job.heterogeneous_offset}"
    try:
        name = job.name or ""
    except UnicodeDecodeError:  # none of ours
        name = "?"
    return [
        slurm_id, task, name, user, job.state, job.state_reason, job.allocated_nodes, job.requeue_count,
        job.exit_code, job.exit_code_signal, job.submit_time, job.start_time, job.end_time, job.time_limit,
    ]  # fmt: skip


def nodes(slurm: Any, _: Mapping[str, Any]) -> Any:
    """Every node's name and NodeAddr."""
    return {node.name: node.address or node.name for node in slurm.Nodes.load().values()}


def version(slurm: Any, _: Mapping[str, Any]) -> Any:
    """Pyslurm's version."""
    return str(slurm.__version__)


CALLS: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "cancel": cancel, "queue": queue, "nodes": nodes, "version": version
}  # fmt: skip


def main(mark: str, call: str) -> None:
    """Answer one question."""
    question = json.loads(sys.stdin.buffer.read() or b"{}")
    try:
        pyslurm = importlib.import_module("pyslurm")  # it may be missing, or made for another Slurm
    except Exception as error:  # noqa: BLE001  # whatever a wrong one raises is told
        say(mark, "fatal", encode(f"{type(error).__name__}: {error}"))
        return
    try:
        if call == "submit":
            submit(pyslurm, mark, question)
        else:
            say(mark, "answer", encode(json.dumps(CALLS[call](pyslurm, question))))
    except pyslurm.RPCError as error:
        say(mark, "failed", encode(str(error)))
    except Exception as error:  # noqa: BLE001  # one that is not ours to know: it is told, and is no answer
        say(mark, "failed", encode(f"{type(error).__name__}: {error}"))


if __name__ == "__main__":
    main(*sys.argv[1:])

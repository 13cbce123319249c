"""Calls libslurm through pyslurm, in a process for one request.

libslurm ends its process on a bad configuration, and it acts as the account of its process. So
`cluster.schedulers.pyslurm` runs this program as the account of the jobs, with the argument CALL. Standard input has
this source, and then JSON. It needs only pyslurm and the standard library. Text of users is encoded, so that none of
its lines is taken for an answer:

    worker fatal BASE64             the reason why pyslurm cannot be used
    worker failed BASE64            Slurm's own words if there is no answer
    worker answer BASE64            the answer as JSON
    late SECONDS, job N begun, job N STATUS BASE64
                                    lines of `submit`, as `slurm_adapter.cluster.schedulers.sbatch` reads them
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


def say(*words: object) -> None:
    """Print one line and flush it, because this process may end at any moment."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def encode(text: str, limit: int = 0) -> str:
    """Return a text as one word; only the last `limit` bytes if the text is longer."""
    return base64.b64encode(text.encode(errors="replace")[-limit:]).decode()


WORDS = 2400
"""Maximum number of bytes of Slurm's words about one job. The pipe takes its line whole (PIPE_BUF)."""


AT_ONCE = 4
"""Maximum number of processes that dispatch jobs at once. Each waits for the controller."""


def submit(slurm: Any, question: Mapping[str, Any]) -> None:
    """Dispatch jobs until `until`, a few at once. Print a line before and after each, as the script for sbatch does."""
    late = question["until"] - time.time()
    if late <= 0:
        say("late", int(late))
        return
    launchers = _launcher_environment(slurm)
    jobs = [(number, _with_environment(job, launchers)) for number, job in question["jobs"]]
    started: list[int] = []
    try:
        for first in range(min(AT_ONCE, len(jobs))):
            # Not in this process: libslurm may end a process, and this one must not end before the others.
            process = os.fork()
            if process == 0:
                try:
                    dispatch(slurm, jobs[first::AT_ONCE], question["until"], question["seconds"])
                finally:
                    os._exit(0)
            started.append(process)
    finally:
        for process in started:
            os.waitpid(process, 0)


_EXTERNAL = "--external-launcher"
_LAUNCHERS = {
    "HYDRA_BOOTSTRAP": "slurm",
    "HYDRA_LAUNCHER_EXTRA_ARGS": _EXTERNAL,
    "I_MPI_HYDRA_BOOTSTRAP": "slurm",
    "I_MPI_HYDRA_BOOTSTRAP_EXEC_EXTRA_ARGS": _EXTERNAL,
    "OMPI_MCA_plm_slurm_args": _EXTERNAL,
    "PRTE_MCA_plm_slurm_args": _EXTERNAL,
}
"""Variables that sbatch sets from Slurm 23.11 on, so that `mpirun` starts its daemons by srun next to job steps."""


def _launcher_environment(slurm: Any) -> dict[str, str]:
    """Return the variables for MPI launchers that this Slurm's sbatch sets (measured with 24.11).

    `disable_slurm_hydra_bootstrap` in MpiParams (slurm.conf(5)) leaves those of Hydra out.
    """
    if tuple(int(part) for part in str(slurm.__version__).split(".")[:2]) < (23, 11):
        return {}
    old = hasattr(slurm, "config")  # up to 24.11
    parameters = slurm.config().get()["mpi_params"] if old else slurm.slurmctld.Config.load().mpi_parameters
    disabled = "disable_slurm_hydra_bootstrap" in str(parameters or "")
    return {name: value for name, value in _LAUNCHERS.items() if not (disabled and "HYDRA" in name)}


def _with_environment(job: dict[str, Any], launchers: Mapping[str, str]) -> dict[str, Any]:
    """Return a job with the environment that sbatch would send: this process's, unless the job has its own.

    From 24.11 on pyslurm sends an empty one by default: "I/O error writing script/environment to file".
    """
    per_task = {"SLURM_TRES_PER_TASK": f"cpu={job['cpus_per_task']}"} if launchers and "cpus_per_task" in job else {}
    return {**job, "environment": {**job.get("environment", os.environ), **launchers, **per_task}}


def dispatch(slurm: Any, jobs: Sequence[Any], until: float, seconds: float) -> None:
    """Dispatch jobs, one after another."""
    # libslurm may wait without limit; the interface promises a latest end of the dispatch.
    signal.setitimer(signal.ITIMER_REAL, until - time.time() + seconds)
    for number, job in jobs:
        if time.time() >= until:
            return
        say("job", number, "begun")
        try:
            status, said = 0, str(slurm.JobSubmitDescription(**job).submit())
        except slurm.RPCError as error:
            status, said = 1, f"sbatch: error: Batch job submission failed: {error}"
        except OSError as error:
            status, said = 1, f"sbatch: error: Unable to open file {job['script']}: {error}"
        except (TypeError, ValueError) as error:
            # pyslurm refuses the values: nothing was sent.
            status, said = 255, f"sbatch: error: {error}: invalid, said pyslurm"
        say("job", number, status, encode(said, WORDS))
        if "Unable to contact slurm controller" in said:
            return  # the other jobs would wait, too


def cancel(slurm: Any, question: Mapping[str, Any]) -> Any:
    """Cancel jobs. Return Slurm's words about each job that still runs."""
    failed: dict[int, str] = {}
    for slurm_id in question["ids"]:
        try:
            slurm.Job(slurm_id).cancel()
        except slurm.RPCError as error:
            # pyslurm may report an older error as this call's; the state of the job decides.
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
    """Return all jobs of these accounts, a list of values for each, and the settings that hide others' jobs."""
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
    """Return whether jobs of others may be hidden (PrivateData in slurm.conf(5)), and SlurmUser, who sees all jobs."""
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
    except UnicodeDecodeError:  # not a job of the adapter
        name = "?"
    return [
        slurm_id, task, name, user, job.state, job.state_reason, job.allocated_nodes, job.requeue_count,
        job.exit_code, job.exit_code_signal, job.submit_time, job.start_time, job.end_time, job.time_limit,
    ]  # fmt: skip


def nodes(slurm: Any, _: Mapping[str, Any]) -> Any:
    """Return the NodeAddr of every node by its name."""
    return {node.name: node.address or node.name for node in slurm.Nodes.load().values()}


def version(slurm: Any, _: Mapping[str, Any]) -> Any:
    """Return the version of pyslurm."""
    return str(slurm.__version__)


CALLS: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "cancel": cancel, "queue": queue, "nodes": nodes, "version": version
}  # fmt: skip


def main(call: str) -> None:
    """Answer one request."""
    question = json.loads(sys.stdin.buffer.read() or b"{}")
    try:
        pyslurm = importlib.import_module("pyslurm")  # it may be missing, or made for another Slurm
    except Exception as error:  # noqa: BLE001  # a wrong pyslurm may raise anything
        say("worker", "fatal", encode(f"{type(error).__name__}: {error}"))
        return
    try:
        if call == "submit":
            submit(pyslurm, question)
        else:
            say("worker", "answer", encode(json.dumps(CALLS[call](pyslurm, question))))
    except pyslurm.RPCError as error:
        say("worker", "failed", encode(str(error)))
    except Exception as error:  # noqa: BLE001  # pyslurm may raise anything; the caller reports it
        say("worker", "failed", encode(f"{type(error).__name__}: {error}"))


if __name__ == "__main__":
    main(*sys.argv[1:])

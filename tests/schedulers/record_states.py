"""Record what squeue and sacct say of jobs in every state that a sandbox with accounting can bring about.

    slurm-adapter sandbox up --accounting
    python -m tests.schedulers.record_states

Takes two minutes, and writes `recorded/<version>/squeue-states` and `sacct-states`. Each job is named after what
becomes of it, so that a test can tell whether its row was read rightly.
"""

from __future__ import annotations

import re

from slurm_adapter.sandbox.layout import layout_of
from slurm_adapter.schedulers.listings import sacct_argv, squeue_argv
from tests.cluster import Cluster
from tests.schedulers.extract_states import RECORDED

MARK = "0badcafe0bad"
LISTING = ("env", "TZ=UTC", "SLURM_TIME_FORMAT=%s", "SLURM_BITSTR_LEN=0", "LC_ALL=C.UTF-8")
LONG = "sleep 600"
NODE = "node003"


def start(cluster: Cluster) -> dict[str, str]:
    """Hand all of them in; their ids by their names."""

    def submit(name: str, script: str, *options: str) -> None:
        jobs[name] = cluster.submit(script, f"--job-name={name}", *options)

    jobs: dict[str, str] = {}
    submit("timeout", LONG, "--time=1")
    submit("held", LONG, "--hold")
    submit("dependency", LONG, f"--dependency=afterok:{jobs['held']}")
    submit("begin", LONG, "--begin=now+1hour")
    submit("throttled", LONG, "--array=1-1000:7%5", "--mem=1")
    submit("completed", "exit 0")
    submit("failed", "exit 3")
    submit("signalled", "kill -SEGV $$")
    for name in ("suspended", "requeued", "requeue-held", "special-exit", "cancelled", "cancelled-by-root", "x=y"):
        submit(name, LONG)
    submit("cancelled-pending", LONG, "--hold")
    submit("node-fail", LONG, f"--nodelist={NODE}", "--no-requeue")
    submit("node-fail-requeued", LONG, f"--nodelist={NODE}", "--requeue")
    jobs["het"] = cluster.ask(
        *("sbatch", "--parsable", "--job-name=het", "--output=/dev/null", "--chdir=/tmp", "--mem=1", ":", "--mem=1"),
        *(f"--nodelist={NODE[:-1]}2",),
        stdin=f"#!/bin/sh\n{LONG}\n".encode(),
    )
    return jobs


def move(cluster: Cluster, jobs: dict[str, str]) -> None:
    """Make of each what its name says."""
    for name in (
        "suspended",
        "requeued",
        "requeue-held",
        "special-exit",
        "cancelled",
        "cancelled-by-root",
        "node-fail",
    ):
        cluster.wait_state(jobs[name], "RUNNING")
    cluster.wait_state(jobs["node-fail-requeued"], "RUNNING")

    def as_root(*words: str) -> None:
        cluster.ask(*words, user="root")

    as_root("scontrol", "suspend", jobs["suspended"])
    as_root("scontrol", "requeue", jobs["requeued"])
    as_root("scontrol", "requeuehold", jobs["requeue-held"])
    as_root("scontrol", "requeuehold", "State=SpecialExit", jobs["special-exit"])
    as_root("scancel", jobs["cancelled-by-root"])
    cluster.ask("scancel", jobs["cancelled"], jobs["cancelled-pending"])
    as_root("scontrol", "update", f"NodeName={NODE}", "State=DOWN", "Reason=recording")
    cluster.wait_state(jobs["node-fail"], "NODE_FAIL")
    # Refused where the node has registered again by itself (ReturnToService).
    cluster.run("scontrol", "update", f"NodeName={NODE}", "State=RESUME", user="root")


def record(cluster: Cluster, jobs: dict[str, str]) -> None:
    """Write what is said of them, and not of other jobs; accounting lags a little."""
    version = cluster.ask("squeue", "--version").split()[1]
    ids = sorted({int(id_) for id_ in jobs.values()})
    own = re.compile(rb"^(?:%b)\D.*\n" % "|".join(map(str, ids)).encode(), re.MULTILINE)

    def ask(*argv: str) -> bytes:
        return cluster.run(*LISTING, *argv, user="ucloud").stdout

    def settled() -> bytes | None:
        told = ask(*sacct_argv(ids, MARK))
        return told if told.count(b"TIMEOUT") and told.count(b"NODE_FAIL") >= 2 else None

    for name, found in (
        ("squeue-states", ask(*squeue_argv(["alice"], MARK))),
        ("sacct-states", cluster.wait_for(settled)),
    ):
        (RECORDED / version / name).write_bytes(b"".join(own.findall(found)))


def main() -> None:
    """Make them, record them, and take them away."""
    cluster = Cluster(layout_of(), "")
    jobs = start(cluster)
    try:
        move(cluster, jobs)
        cluster.wait_state(jobs["timeout"], "TIMEOUT", timeout=150)
        record(cluster, jobs)
    finally:
        cluster.run("scancel", *jobs.values())


if __name__ == "__main__":
    main()

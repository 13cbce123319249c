"""Record what Slurm's commands say on a sandbox with accounting, of jobs in every state that it can bring about.

    slurm-adapter sandbox up --name NAME --release RELEASE --accounting
    python -m tests.cluster.schedulers.record NAME

Takes some minutes, and writes into `recorded/<version>/`:

- `squeue`, `squeue-short-arrays`, `sacct`, `sacct-names`: rows of jobs. Each job is named after what becomes of it, so
  that a test can check whether its row was read correctly; those in `HOSTILE` have names that would break a careless
  parser;
- `config`, `nodes`, `partitions`, `states-of-partition`, `partitions-of-jobs`: what else is parsed, as it was written;
- `answers.json`: exit status, stdout and stderr of commands that change something, or that fail.

It takes a sandbox of its own: other jobs of its users would be among the rows.

Release 25.11.7 is no sandbox's. Its rows and its answers of sbatch were recorded with other separators, and rewritten
by a program to the form of today. Accounting's index of a row was not recorded: there it is the number of the row.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from slurm_adapter.cluster.schedulers import load, nodes
from slurm_adapter.cluster.schedulers.listings import sacct_argv, sacct_names_argv, squeue_argv
from slurm_adapter.cluster.schedulers.sbatch import submit_argv, submit_stdin
from slurm_adapter.sandbox.layout import layout_of
from tests.cluster.schedulers.extract_states import RECORDED
from tests.sandbox_cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Sequence

LISTING = ("env", "TZ=UTC", "SLURM_TIME_FORMAT=%s", "SLURM_BITSTR_LEN=0", "LC_ALL=C.UTF-8")
LONG = "sleep 600"
NODE = "node003"
UNKNOWN_ID = "4000000"

HOSTILE = {
    "bar": b"a|b",
    "lines": b"line1\nline2",
    "controls": b"u\x1f\x1ew\x01",
    "not-utf8": b"bad\xffutf",
    "quotes": "æøå 日本 \"c'$(id)".encode(),
    "separators": b"9999\x1f0badcafe0baeRUNNING\x1f0badcafe0bae",
    "a-row": b"\n77\x1fRUNNING\x1f\x1fnode001\x1f7701\x1f1\x1f1\x1f1\x1f1:00\x1f0\x1ftoken\x1f0",
    "long": b"x" * 300,
    "fields": b"9999|RUNNING|node001|7702|",
    "a-whole-row": b"\n%160b|%96b|77|RUNNING|node001|7701|1|1|1|1:00|0|0\n" % (b"token", b"None"),
}
"""Names of held jobs."""


def start(cluster: Cluster) -> dict[str, str]:
    """Submit all of them; return their ids by their names."""

    def submit(name: str, script: str, *options: str) -> None:
        jobs[name] = cluster.submit(script, f"--job-name={name}", "--mem=1", *options)

    jobs: dict[str, str] = {}
    submit("timeout", LONG, "--time=1")
    submit("held", LONG, "--hold", "--time=2-03:05:00")
    submit("dependency", LONG, f"--dependency=afterok:{jobs['held']}")
    submit("begin", LONG, "--begin=now+1hour")
    submit("throttled", LONG, "--array=1-1000:7%5")
    submit("scattered", LONG, "--array=0,4-99:5", "--hold")
    submit("tasks", "exit $SLURM_ARRAY_TASK_ID", "--array=0-2")
    submit("completed", "exit 0")
    submit("failed", "exit 3")
    submit("exit-137", "exit 137")
    submit("signalled", "kill -SEGV $$")
    submit("no-folder", "exit 0", "--chdir=/nonexistent")
    submit("no-output", "exit 0", "--output=/nonexistent/%j")
    submit("gpus", LONG, "--gres=gpu:1")
    submit("two-nodes", LONG, "--nodes=2")
    submit("unlimited", LONG, "--time=UNLIMITED")
    for name in ("suspended", "requeued", "requeue-held", "special-exit", "cancelled", "cancelled-by-root", "x=y"):
        submit(name, LONG)
    submit("cancelled-pending", LONG, "--hold")
    submit("no-such-node", LONG, "--dependency=afternotok:" + jobs["completed"])
    submit("node-fail", LONG, f"--nodelist={NODE}", "--no-requeue")
    submit("node-fail-requeued", LONG, f"--nodelist={NODE}", "--requeue")
    jobs["het"] = cluster.ask(
        *("sbatch", "--parsable", "--job-name=het", "--output=/dev/null", "--chdir=/tmp", "--mem=1", ":", "--mem=1"),
        *(f"--nodelist={NODE[:-1]}2",),
        stdin=f"#!/bin/sh\n{LONG}\n".encode(),
    )
    for key, bytes_ in HOSTILE.items():
        # printf, because arguments of a Python program are text.
        escaped = "".join(f"\\{byte:03o}" for byte in bytes_)
        line = (
            f'exec sbatch --parsable --hold --mem=1 --output=/dev/null --chdir=/tmp --job-name="$(printf "{escaped}")"'
        )
        jobs[key] = cluster.ask("sh", "-c", line, stdin=f"#!/bin/sh\n{LONG}\n".encode())
    return jobs


def move(cluster: Cluster, jobs: dict[str, str]) -> None:
    """Make of each what its name says."""
    for name in (
        *("suspended", "requeued", "requeue-held", "special-exit", "cancelled", "cancelled-by-root", "gpus"),
        *("node-fail", "node-fail-requeued", "two-nodes"),
    ):
        cluster.wait_state(jobs[name], "RUNNING")

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
    # Refused if the node has registered again by itself (ReturnToService).
    cluster.run("scontrol", "update", f"NodeName={NODE}", "State=RESUME", user="root")


def record_rows(cluster: Cluster, jobs: dict[str, str]) -> dict[str, bytes]:
    """Return what is said of these jobs, and not of others; accounting lags a little."""
    ids = sorted({int(id_) for id_ in jobs.values()})

    def ask(*argv: str, words: Sequence[str] = LISTING) -> bytes:
        return cluster.run(*words, *argv, user="ucloud").stdout

    def settled() -> bytes | None:
        told = ask(*sacct_argv(ids))
        return told if told.count(b"TIMEOUT") and told.count(b"NODE_FAIL") >= 2 else None

    short = [word for word in LISTING if not word.startswith("SLURM_BITSTR_LEN")]
    return {
        "squeue": ask(*squeue_argv(["alice"])),
        "squeue-short-arrays": ask(*squeue_argv(["alice"]), words=short),
        "sacct": cluster.wait_for(settled),
        "sacct-names": ask(*sacct_names_argv(ids)),
    }


def record_rest(cluster: Cluster) -> dict[str, bytes]:
    """Return the other answers that are parsed."""
    asked = {
        "config": ("scontrol", "show", "config"),
        "nodes": nodes.NODES_ARGV,
        "partitions": nodes.PARTITIONS_ARGV,
        "states-of-partition": load.jobs_argv(["main"]),
        "partitions-of-jobs": ("squeue", "-h", "-a", "-o", "%F %P"),
    }
    return {name: cluster.run(*LISTING, *argv, user="ucloud").stdout for name, argv in asked.items()}


def record_answers(cluster: Cluster, jobs: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return the answers of commands that change something, or fail."""
    found: dict[str, dict[str, Any]] = {}

    def ask(key: str, *argv: str, user: str = "alice", stdin: bytes = b"") -> None:
        done = cluster.run("env", "LC_ALL=C.UTF-8", *argv, user=user, stdin=stdin, timeout=200)
        output, errors = (text.decode(errors="surrogateescape") for text in (done.stdout, done.stderr))
        found[key] = {"argv": list(argv), "status": done.returncode, "stdout": output, "stderr": errors}

    def submit(key: str, *lines: str) -> None:
        folder = f"{cluster.shared}/home/alice/record-{key}"
        script = "\n".join(("#!/bin/sh", *(f"#SBATCH {line}" for line in lines), "exit 0", ""))
        cluster.ask("sh", "-c", 'mkdir -p "$1" && cat >"$1/job.sbatch"', "sh", folder, stdin=script.encode())
        until = int(cluster.ask("date", "+%s")) + 60
        ask(f"sbatch {key}", *submit_argv(until, 1), stdin=submit_stdin([folder]))
        cluster.ask("rm", "-r", folder)

    submit("accepted", "--output=/dev/null", "--mem=1")
    submit("no-such-partition", "--partition=nowhere")
    submit("too-many-nodes", "--nodes=99")
    submit("no-such-account", "--account=nobody")
    submit("no-such-option", "--nothing")
    submit("no-such-gpu", "--gres=tpu:1")
    submit("too-long", "--time=400-00", "--partition=main")
    ended, unknown, running = jobs["completed"], UNKNOWN_ID, jobs["x=y"]
    ask("scancel ended", "scancel", ended)
    ask("scancel unknown", "scancel", unknown)
    ask("scancel both", "scancel", ended, unknown)
    ask("scancel another's", "scancel", running, user="bob")
    for verb in ("suspend", "resume"):
        for key, ids in (
            *(("running", running), ("ended", ended), ("unknown", unknown), ("pending", jobs["held"])),
            *(("several", f"{running},{ended},{unknown}"), ("array", jobs["throttled"])),
        ):
            ask(f"scontrol {verb} {key}", "scontrol", verb, ids, user="root")
        # Of their own jobs users may suspend them from 26.05 on.
        ask(f"scontrol {verb} denied", "scontrol", verb, running, user="bob")
    for key, ids in (("running", running), ("ended", ended), ("several", f"{running},{unknown}")):
        ask(f"scontrol update {key}", "scontrol", "update", f"jobid={ids}", "timelimit=700", user="root")
    ask("scontrol update denied", "scontrol", "update", f"jobid={running}", "timelimit=9999", user="alice")
    ask("sacctmgr known", "sacctmgr", "-n", "-P", "show", "user", "ucloud", "format=AdminLevel", user="ucloud")
    ask("sacctmgr unknown", "sacctmgr", "-n", "-P", "show", "user", "nobody", "format=AdminLevel", user="ucloud")
    ask("squeue unknown user", *LISTING, *squeue_argv(["alice", "no-such-user"]), user="ucloud")
    ask("squeue unknown id", "squeue", "-h", "-a", "-j", unknown, "-o", "%F %P", user="ucloud")
    ask("squeue --version", "squeue", "--version", user="ucloud")
    cluster.slurmctld.stop()
    try:
        ask("squeue without controller", *squeue_argv(["alice"]), user="ucloud")
        ask("scontrol without controller", "scontrol", "show", "config", user="ucloud")
        ask("scancel without controller", "scancel", running)
        ask("scontrol suspend without controller", "scontrol", "suspend", running, user="root")
        submit("without controller")
    finally:
        cluster.slurmctld.start()
    return found


def main() -> None:
    """Make the jobs, record what is said of them, and cancel them."""
    cluster = Cluster(layout_of(sys.argv[1]), "")
    folder = RECORDED / cluster.ask("squeue", "--version").split()[1]
    folder.mkdir(exist_ok=True)
    jobs = start(cluster)
    try:
        move(cluster, jobs)
        cluster.wait_state(jobs["timeout"], "TIMEOUT", timeout=200)
        for name, text in (record_rows(cluster, jobs) | record_rest(cluster)).items():
            (folder / name).write_bytes(text)
        answers = record_answers(cluster, jobs)
        (folder / "answers.json").write_text(json.dumps({"jobs": jobs, "answers": answers}, indent=1) + "\n")
    finally:
        cluster.run("scancel", "--user=alice")


if __name__ == "__main__":
    main()

"""A user with a shell on the login node tries to make Slurm's answers say more than her own jobs' names."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.core.errors import Refused
from slurm_adapter.jobs import cancel, control
from slurm_adapter.jobs.sync import sync
from tests.adapter import UNTIL_TOLD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.adapter import LiveSite
    from tests.sandbox_cluster import Cluster

pytestmark = pytest.mark.sandbox

ATTACK = r"""
import glob, re, subprocess, sys

job, *rows = sys.argv[1:]
KEYS = "id state reason nodes uid submitted started ended limit status name restarts".split()
rows = [dict(zip(KEYS, row.split(";"))) for row in rows]


def forge(separator):
    if separator:  # a random one, read from the arguments of the question that is being asked
        lines = [separator.join(row.values()) for row in rows]
        return "x" + separator + "0\n" + "\n".join(lines).removesuffix(separator + rows[-1]["restarts"])
    tail = "id state nodes uid submitted started ended limit status restarts".split()
    lines = [f"{row['name']:>160}|{row['reason']:>96}|" + "|".join(row[key] for key in tail) for row in rows]
    return "\n" + "\n".join(lines) + "\n"


named = None
while True:
    seen = ""
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                text = file.read()
        except OSError:
            continue
        if b"squeue" in text and (found := re.search(rb"\x1f[A-Za-z0-9]{8,}", text)):
            seen = found[0].decode()
    if (name := forge(seen)) != named:
        subprocess.run(["scontrol", "update", f"jobid={job}", f"jobname={name}"], stderr=subprocess.DEVNULL)
        named = name
"""
"""Read `/proc/*/cmdline` again and again, and rename a job so that its name holds whole rows of the next answer."""


@contextmanager
def attacked(cluster: Cluster, job: str, *rows: str) -> Iterator[None]:
    """Let the user try it meanwhile, with a job of hers; see `ATTACK` for what a row holds."""
    argv = [*cluster.enter("login", "alice"), "/usr/bin/python3", "-c", ATTACK, job, *rows]
    with subprocess.Popen(argv) as attacker:
        try:
            cluster.wait_for(lambda: cluster.show(job)["JobName"] != "mine")
            yield
            assert attacker.poll() is None
        finally:
            attacker.kill()


def row(slurm_id: str, user: str, token: str, node: str = "node001") -> str:
    """Return a row as the attacker gives it."""
    uid = {"alice": 7701, "bob": 7702}[user]
    return f"{slurm_id};RUNNING;None;{node};{uid};100;200;300;1:00:00;0;{token};0"


def test_a_name_of_a_job_says_nothing_of_others(adapter: LiveSite, cluster: Cluster) -> None:
    """No job of another is shown elsewhere, and nothing is done to jobs that the adapter did not submit."""
    site = adapter.site
    [over] = adapter.submit(adapter.shell("exit 0"), user="bob")
    adapter.until_successful(over)
    [his] = adapter.start(adapter.shell(UNTIL_TOLD, node="node002"), user="bob")
    [hers] = adapter.start(adapter.shell(UNTIL_TOLD))
    private = cluster.submit("sleep 600", "--mem=1", user="bob")
    cluster.wait_state(private, "RUNNING")
    limit = cluster.show(private)["TimeLimit"]
    mine = cluster.submit("sleep 600", "--mem=1", "--hold", "--job-name=mine")
    forged = [
        row(f"{his.slurm_id}+0", "bob", his.slurm_name),
        row(f"{private}+0", "bob", over.slurm_name),
        row(f"{private}+1", "alice", hers.slurm_name),
    ]
    with attacked(cluster, mine, *forged):
        for _ in range(100):
            report = sync(site)
            assert (report.problems, report.cancelled, report.changes) == ((), (), ())
        assert adapter.now(his).nodes == ("node002",)
        assert f"{adapter.nodes_of(his)[0].address} job-{his.id}\n" in adapter.shared_block
        # What sbatch answers, and what a fence names, is the account's own: she may say that his job is hers.
        site.store.change([(adapter.now(hers), {"slurm_id": int(private)})], site.clock())
        acts: list[Callable[[], object]] = [
            lambda: control.extend(site, [(hers.id, 3600)]),
            lambda: control.suspend(site, [hers.id]),
            lambda: control.resume(site, [hers.id]),
        ]
        for act in acts:
            with pytest.raises(Refused, match=f"no job {private} of alice"):
                act()
        cancel.cancel(site, [hers.id])
    shown = cluster.show(private)
    assert (shown["JobState"], shown["TimeLimit"]) == ("RUNNING", limit)
    assert cluster.show(str(his.slurm_id))["JobState"] == "RUNNING"
    assert cluster.wait_end(str(hers.slurm_id)) == "CANCELLED"
    cluster.ask("scancel", mine)
    cluster.ask("scancel", private, user="bob")
    site.store.change([(adapter.now(hers), {"slurm_id": hers.slurm_id})], site.clock())

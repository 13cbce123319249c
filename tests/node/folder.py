"""A job's folder made by hand, with the files that run on the nodes."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.local.template_folder import packaged_templates

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.sandbox_cluster import Cluster

VIEW = "# consumer 9 peer 4 run {run} exit {exit}\n{address} database\n{address} database-0\n"
SETTINGS = {
    "format": "1",
    "names": "yes",
    "replicate": "no",
    "cpus": "1",
    "time_limit": "600",
    "wait": "20",
    "methods": "unshare bwrap nss_wrapper",
    "allow_env": "no",
    "address": "",
}
SCRIPT = """#!/bin/bash
export SLURM_EXPORT_ENV=ALL
ucloud_folder={folder}
if [ "${{1-}}" != payload ]; then exec /bin/bash -p "$ucloud_folder/node/batch.sh" "$ucloud_folder"; fi
export UCLOUD_DIR="$ucloud_folder/ucloud/${{SLURM_NODEID:-0}}"
{payload}
"""


@dataclass(frozen=True)
class Folder:
    """A job's folder on the cluster, with what is needed to run it and to read what it wrote."""

    cluster: Cluster
    here: Path
    there: str
    job: str = ""

    def write(self, name: str, text: str) -> None:
        """Put a file of alice's in place by renaming it, as the adapter does."""
        part = self.here / f"{name}.part"
        part.write_text(text)
        os.chown(part, self.here.stat().st_uid, self.here.stat().st_gid)
        part.chmod(0o700)
        part.rename(self.here / name)

    def view(self, address: str = "10.1.2.3", run: str = "1.0", more: str = "") -> None:
        """Let the name `database` have an address."""
        self.write("hosts", VIEW.format(address=address, run=run, exit=f"{self.there}/peer exit.json") + more)

    def submit(self, *options: str) -> Folder:
        """Hand the script to sbatch."""
        files = [f"--{stream}={self.there}/{name}" for stream, name in (("output", "stdout.txt"), ("error", "log.txt"))]
        command = ["sbatch", "--parsable", "--chdir=/", "--open-mode=append", "--export=NONE", *files, *options]
        return replace(self, job=self.cluster.ask(*command, f"{self.there}/job.sbatch"))

    def read(self, name: str) -> str:
        """Return the content of a file, or nothing."""
        path = self.here / name
        return path.read_text() if path.exists() else ""

    def said(self, text: str) -> None:
        """Wait until the application has written something."""
        self.cluster.wait_for(lambda: text in self.read("stdout.txt"))

    def holds(self, name: str, text: str) -> None:
        """Wait until a file holds a text and nothing else."""
        self.cluster.wait_for(lambda: self.read(name) == text)

    def end(self) -> str:
        """Wait for the job's end; what the application wrote."""
        self.cluster.wait_end(self.job)
        return self.read("stdout.txt")

    def exit(self) -> dict[str, Any]:
        """The exit record."""
        return dict(json.loads(self.read("exit.json")))

    def processes(self) -> str:
        """The processes, on any node, that name the folder in their arguments or environment."""
        look = "grep -l -a -F -f /dev/stdin /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null"
        return "".join(
            self.cluster.run("sh", "-c", look, user="root", node=node.name, stdin=self.there.encode()).stdout.decode()
            for node in self.cluster.nodes
        )


@pytest.fixture
def make(cluster: Cluster) -> Callable[..., Folder]:
    """Make folders of alice's jobs."""

    def make(payload: str, *, peers: str = "", **settings: str) -> Folder:
        name = f'it\'s "{uuid.uuid4().hex[:8]}" $x'
        there = f"{cluster.shared}/home/alice/ucloud-jobs/{name}"
        cluster.ask("mkdir", "-m", "700", there)
        folder = Folder(cluster, cluster.shared_here / "home/alice/ucloud-jobs" / name, there)
        cluster.ask("mkdir", f"{there}/node")
        for path in (packaged_templates() / "node").iterdir():
            folder.write(f"node/{path.name}", path.read_text())
        lines = {**SETTINGS, "job_id": "9", "view": f"{there}/hosts", **settings}
        folder.write("node/settings", "".join(f"{key}={value}\n" for key, value in lines.items()))
        folder.write("node/peers", peers)
        quoted = "'" + there.replace("'", "'\\''") + "'"
        folder.write("job.sbatch", SCRIPT.format(folder=quoted, payload=payload))
        return folder

    return make

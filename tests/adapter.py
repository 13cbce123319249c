"""An adapter at work on the sandbox: a site of the test's own, with folders, ids and hosts files no other test sees.

`LiveSite` is what most end-to-end tests do with it: hand in jobs, make passes until something is true, read what the
jobs wrote.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest
from click.testing import CliRunner

from slurm_adapter.adapter import Adapter
from slurm_adapter.cli.main import cli
from slurm_adapter.cluster.schedulers.hostlist import expand
from slurm_adapter.core import hosts_file
from slurm_adapter.core.errors import AdapterError
from slurm_adapter.core.specification import Owner, parse_specifications
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs import item
from slurm_adapter.jobs import submit as jobs
from slurm_adapter.jobs.cancel import cancel as cancel_jobs
from slurm_adapter.jobs.sync import sync
from slurm_adapter.local.configuration_file import load_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result

    from slurm_adapter.core.records import Record
    from slurm_adapter.sandbox.configuration import Identity, Transport
    from slurm_adapter.sandbox.layout import Node
    from tests.sandbox_cluster import Cluster

    class LiveSiteMaker(Protocol):
        """What the fixture `make_adapter` gives."""

        def __call__(
            self,
            transport: Transport = "local",
            identity: Identity = "sudo",
            *,
            more: str = "",
            in_jobs: str = "",
            first_id: int = 1,
        ) -> LiveSite:
            """How it reaches the cluster, whom jobs run as, and more text for its configuration."""


T = TypeVar("T")

UNTIL_TOLD = 'until [ -e "$UCLOUD_DIR/../../told" ]; do sleep 0.1; done'
"""Shell text that waits until the test calls `LiveSite.tell`."""

ACCOUNTS = ("alice", "bob", "jobs")
PRODUCT = {"provider": "example", "category": "example-compute", "id": "example-compute"}

APPLICATIONS = {
    "shell": """
        application: v2
        name: shell
        version: "1"
        software: {type: Native, load: []}
        features: {multiNode: true, jobLinking: true}
        parameters:
          code: {type: TextArea, optional: false}
          node: {type: Text, optional: true}
          begin: {type: Text, optional: true}
        invocation: |
          {% if node %}{{ sbatch("nodelist", node) }}{% endif %}
          {% if begin %}{{ sbatch("begin", begin) }}{% endif %}
          bash -c {{ code }}
        """,
    # sbatch obeys lines of #PBS anywhere in a script, unless it is told not to.
    "pbs": """
        application: v2
        name: pbs
        version: "1"
        software: {type: Native, load: []}
        features: {}
        parameters: {}
        invocation: |
          #PBS -N stolen
          #PBS -l nodes=2:ppn=2
          echo "$SLURM_JOB_NAME $SLURM_JOB_NUM_NODES"
        """,
    "batch": """
        application: v2
        name: batch
        version: "1"
        software: {type: Native, load: []}
        features: {}
        parameters:
          code: {type: TextArea, optional: false}
        invocation: |
          eval {{ code }}
        """,
    "spread": """
        application: v2
        name: spread
        version: "1"
        software: {type: Native, load: []}
        features: {multiNode: true, jobLinking: true}
        parameters:
          code: {type: TextArea, optional: false}
        invocation: |
          {{ srun() }} bash -c {{ code }}
        """,
    "client": """
        application: v2
        name: client
        version: "1"
        software: {type: Native, load: []}
        features: {jobLinking: true}
        parameters:
          server: {type: Job, optional: false}
        invocation: |
          printf 'told: %s\\n' {{ server | option("--server=") }}
          getent hosts {{ server }}
        """,
    "directive": """
        application: v2
        name: directive
        version: "1"
        software: {type: Native, load: []}
        features: {}
        parameters:
          name: {type: Text, optional: false}
          value: {type: TextArea, optional: false}
        invocation: |
          {{ sbatch(name, value) }}
          sleep 60
        """,
    "array": """
        application: v2
        name: array
        version: "1"
        software: {type: Native, load: []}
        features: {}
        parameters: {}
        sbatch: {array: 0-1}
        invocation: sleep 60
        """,
    "tasks": """
        application: v2
        name: tasks
        version: "1"
        software: {type: Native, load: []}
        features: {}
        parameters:
          code: {type: TextArea, optional: false}
        sbatch: {array: 0-1}
        invocation: |
          bash -c {{ code }}
        """,
}
"""Applications of the test's site: `shell` runs its parameter once, `spread` on every node by the template's srun().

`client` takes its peer as a parameter, `directive` sets any directive, `array` is one, and `tasks` runs its parameter
in each of two tasks.
"""


def on_node(path: str, cluster: Cluster) -> Path:
    """A path of the cluster's shared file system, as this machine's root sees it."""
    return cluster.shared_here / Path(path).relative_to(cluster.shared)


@dataclass
class LiveSite:
    """A site that is configured for a test."""

    cluster: Cluster
    config_file: Path
    site: Adapter

    def specification(self, application: str, **fields: Any) -> dict[str, Any]:
        """A JobSpecification of one of `APPLICATIONS`."""
        return {"application": {"name": application, "version": "1"}, "product": PRODUCT, **fields}

    def shell(
        self,
        code: str,
        *,
        peers: dict[str, Record] | None = None,
        node: str = "",
        begin: str = "",
        application: str = "shell",
        **fields: Any,
    ) -> dict[str, Any]:
        """A job that runs a text of shell, on a certain node, not before a time, with peers by their names in it."""
        given = {"code": code, "node": node, "begin": begin}
        parameters = {name: text(value) for name, value in given.items() if value}
        return self.specification(application, parameters=parameters, resources=resources(peers or {}), **fields)

    def submit(self, *specifications: dict[str, Any], user: str = "alice", project: str | None = None) -> list[Record]:
        """Hand in jobs, each by itself, from the bytes of their JSON."""
        owner = Owner(created_by=user, project=project)
        return [
            jobs.submit(self.site, owner, [item.Item(each)])[0]
            for specification in specifications
            for each in parse_specifications(json.dumps(specification).encode())
        ]

    def start(self, *specifications: dict[str, Any], user: str = "alice", project: str | None = None) -> list[Record]:
        """Hand in jobs, and make passes until all of them run."""
        return self.until_running(*self.submit(*specifications, user=user, project=project))

    def now(self, record: Record) -> Record:
        """What is known of a job."""
        return self.site.store.get(record.id)

    def sync_until(self, condition: Callable[[], T], timeout: float = 90) -> T:
        """Pass after pass until the condition is true; what it gives then. No pass may have a problem."""
        limit = time.monotonic() + timeout
        while True:
            report = sync(self.site)
            assert report.problems == ()
            if found := condition():
                return found
            assert time.monotonic() < limit, f"waited {timeout} s in vain; jobs: {self.site.store.all(20)}"
            time.sleep(0.3)

    def until_running(self, *records: Record) -> list[Record]:
        """Pass after pass until these jobs run and their addresses are known."""

        def look() -> list[Record]:
            new = [self.now(record) for record in records]
            for record in new:
                assert not record.state.final, f"{record.status}\n{self.errors(record)}"
            return new if all(record.state is JobState.RUNNING and record.addresses for record in new) else []

        return self.sync_until(look)

    def until_ended(self, *records: Record, timeout: float = 90) -> list[Record]:
        """Pass after pass until these jobs are final."""

        def look() -> list[Record]:
            new = [self.now(record) for record in records]
            return new if all(record.state.final for record in new) else []

        return self.sync_until(look, timeout)

    def until_successful(self, *records: Record) -> list[str]:
        """Pass after pass until these jobs have ended well; what each wrote."""
        for record in self.until_ended(*records):
            assert record.state is JobState.SUCCESS, f"{record.status}\n{self.errors(record)}"
        return [self.output(record) for record in records]

    def until_said(self, record: Record, pattern: str, timeout: float = 90) -> str:
        """Pass after pass until a job has written what the pattern finds; all of its output."""

        def look() -> str:
            output = self.output(record)
            if re.search(pattern, output, re.MULTILINE):
                return output
            state = self.now(record)
            assert not state.state.final, f"ended without {pattern!r}: {state.status}\n{output}\n{self.errors(record)}"
            return ""

        return self.sync_until(look, timeout)

    def file(self, record: Record, name: str) -> Path:
        """A file of a job's folder, for this machine's root."""
        return on_node(record.folder, self.cluster) / name

    def output(self, record: Record, name: str = "stdout.txt") -> str:
        """What a job has written so far."""
        path = self.file(record, name)
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def errors(self, record: Record) -> str:
        """What a job has complained of so far, and the adapter's own lines in its log."""
        return self.output(record, "stderr.txt")

    @property
    def peers(self) -> Path:
        """The folder of the hosts files, for this machine's root."""
        return on_node(self.site.peers_folder, self.cluster)

    def view(self, record: Record) -> str:
        """A job's hosts file on the shared file system."""
        path = self.peers / record.peers_file
        return path.read_text() if path.exists() else ""

    @property
    def shared_block(self) -> str:
        """What the adapter has written into the shared hosts file."""
        return hosts_file.find_block((self.peers / "hosts").read_bytes())

    def tell(self, record: Record) -> None:
        """End the wait of a job that runs `UNTIL_TOLD`."""
        self.cluster.ask("touch", f"{record.folder}/told", user=record.account)

    def nodes_of(self, record: Record) -> list[Node]:
        """The nodes that Slurm gave a job, in the order of its ranks; of one that was too quick for a pass, too."""
        names = expand(self.cluster.show(str(record.slurm_id))["NodeList"])
        return [node for name in names for node in self.cluster.nodes if node.name == name]

    def cancel(self, *records: Record) -> None:
        """Ask for the end of jobs."""
        cancel_jobs(self.site, [record.id for record in records])

    def run(
        self, *arguments: str, stdin: bytes = b"", timeout: float = 60, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The command line, as a process of its own, to its end whatever its exit code."""
        return subprocess.run(
            [sys.executable, "-m", "slurm_adapter", "--config", self.config_file, *arguments],
            input=stdin.decode(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **(environment or {})},
        )

    def invoke(self, *arguments: str, stdin: object = None) -> Result:
        """The command line within this process, which takes less time; an object on stdin is sent as JSON."""
        given = json.dumps(stdin).encode() if stdin is not None else b""
        return CliRunner().invoke(cli, ["--config", str(self.config_file), *arguments], input=given)

    def refuse(self, specification: dict[str, Any], *words: str, user: str = "alice", project: str = "") -> str:
        """Hand in a specification that is bad input: exit code 65, these words, and no trace."""
        before = self.traces
        options = ["--user", user, *(["--project", project] if project else [])]
        result = self.invoke("submit", "-", *options, stdin=specification)
        assert result.exit_code == 65, result.output
        for word in words:
            assert word in result.output
        assert self.traces == before
        return result.output

    @property
    def traces(self) -> tuple[list[str], list[str], list[str]]:
        """All that jobs leave: their folders, their ids in the database, and what Slurm has of them."""
        folders = [on_node(self.site.config.jobs.folder.replace("{user}", user), self.cluster) for user in ACCOUNTS]
        found = [str(path) for folder in folders for path in folder.parent.iterdir()]
        listed = self.cluster.ask("squeue", "-h", "-a", "-t", "all", "-o", "%j", user="ucloud").splitlines()
        ours = [name for name in listed if name.startswith(f"{self.site.store.instance}-")]
        return sorted(found), [record.id for record in self.site.store.all(1000)], sorted(ours)


def text(value: str) -> dict[str, str]:
    """A parameter's value."""
    return {"type": "text", "value": value}


def resources(peers: dict[str, Record]) -> list[dict[str, str]]:
    """Peers, each under the name that it gets."""
    return [peer(name, record) for name, record in peers.items()]


def peer(hostname: str, record: Record | str) -> dict[str, str]:
    """A job and the name that it gets."""
    return {"type": "peer", "hostname": hostname, "jobId": record if isinstance(record, str) else record.id}


@pytest.fixture
def make_adapter(cluster: Cluster, tmp_path: Path) -> Iterator[LiveSiteMaker]:
    """Makes sites. Afterwards their jobs are ended and their folders are gone."""
    made: list[tuple[Adapter, str]] = []

    def make(
        transport: Transport = "local",
        identity: Identity = "sudo",
        *,
        more: str = "",
        in_jobs: str = "",
        first_id: int = 1,
    ) -> LiveSite:
        folder = tmp_path / f"site-{len(made)}"
        (folder / "applications").mkdir(parents=True)
        for name, content in APPLICATIONS.items():
            (folder / "applications" / f"{name}.yaml").write_text(content, encoding="utf-8")
        shared = cluster.ask("mktemp", "-d", f"{cluster.shared}/ucloud/test-XXXXXX", user="ucloud")
        cluster.ask("chmod", "755", shared, user="ucloud")
        own = shared.rsplit("/", 1)[1]
        for user in ACCOUNTS:
            cluster.ask("mkdir", "-p", "-m", "700", f"{cluster.shared}/home/{user}/{own}", user=user)
        path = cluster.config(folder, transport, identity)
        ours = f'shared_dir = "{shared}"\nfirst_id = {first_id}\napplications = "{folder}/applications"'
        theirs = re.sub(r"^(first_id|applications) = .*\n", "", path.read_text(), flags=re.MULTILINE)
        content = re.sub(r"^shared_dir = .*$", ours, theirs, flags=re.MULTILINE)
        content = content.replace("/ucloud-jobs/", f"/{own}/").replace("[jobs]\n", f"[jobs]\n{in_jobs}\n")
        path.write_text(f"{content}\n{more}", encoding="utf-8")
        site = Adapter(load_config(path))
        made.append((site, own))
        return LiveSite(cluster, path, site)

    yield make
    for site, own in made:
        with site:
            _end_jobs(site)
        for user in ACCOUNTS:
            cluster.run("rm", "-rf", f"{cluster.shared}/home/{user}/{own}", user=user)
        cluster.run("rm", "-rf", f"{cluster.shared}/ucloud/{own}", user="ucloud")


@pytest.fixture
def empty_drive(cluster: Cluster) -> str:
    """The folder of UCloud's example, on the nodes, without what earlier jobs have left in it."""
    folder = f"{cluster.shared}/drives/123/acme-database"
    cluster.ask("sh", "-c", 'rm -rf -- "$1"/*', "sh", folder)
    return folder


def _end_jobs(site: Adapter) -> None:
    """Leave nothing in Slurm: what is cancelled first ends while the others are cancelled."""
    limit = time.monotonic() + 60
    while (active := site.store.active()) and time.monotonic() < limit:
        try:
            cancel_jobs(site, [record.id for record in active if record.cancel_sent is None])
            sync(site)
        except AdapterError:
            pass
        time.sleep(0.2)
    assert not site.store.active()


@pytest.fixture
def adapter(make_adapter: LiveSiteMaker) -> LiveSite:
    """A site over the local transport, whose jobs run as their owners."""
    return make_adapter()

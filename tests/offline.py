"""A site without a cluster: Slurm is a table in memory, and the cluster's file system is a folder of the test's own.

Folders and hosts files are made for real, by the commands that a cluster would run; a stand-in for sudo runs them as
whoever runs the test.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.adapter import Adapter
from slurm_adapter.cluster.schedulers.fake import FakeScheduler
from slurm_adapter.cluster.transports.local import LocalTransport
from slurm_adapter.core.config import Config
from slurm_adapter.core.specification import Owner, parse_specifications
from slurm_adapter.jobs import submit as jobs
from slurm_adapter.jobs.item import Item
from slurm_adapter.jobs.sync import sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from slurm_adapter.cluster.transports.interface import Command, Result, Stream, Terminal, Transport
    from slurm_adapter.core.records import Record, Stage
    from slurm_adapter.jobs.report import Report
    from tests.ucloud_double import Ucloud

PRODUCT = {"provider": "example", "category": "example-compute", "id": "example-compute"}

APPLICATION = """
application: v2
name: {name}
version: "1"
software: {{type: Native, load: []}}
features: {{multiNode: true, jobLinking: true}}
parameters: {{}}
{more}
invocation: sleep 60
"""

SUDO = """#!/bin/sh
# sudo -n -u USER -- COMMAND...
shift 4
exec "$@"
"""

ID = """#!/bin/sh
# id -u -- NAME: the cluster has the accounts alice and bob, whatever this machine has
case "$1 $3" in
    "-u alice") echo 7701 ;;
    "-u bob") echo 7702 ;;
    *) exec /usr/bin/id "$@" ;;
esac
"""

SRUN = """#!/bin/sh
# srun OPTIONS... /bin/sh -c SCRIPT sh ID: a step of a job, on the only machine that there is
while [ "$1" != /bin/sh ]; do shift; done
exec "$@"
"""


@dataclass
class Tripping:
    """A transport with a tripwire: `before` sees every command, and may raise instead of letting it run."""

    inner: Transport
    before: Callable[[Command], None] = field(default=lambda _: None)
    commands: list[Command] = field(default_factory=list)

    def run(self, command: Command) -> Result:
        """Run it, unless the tripwire says otherwise."""
        self.before(command)
        self.commands.append(command)
        return self.inner.run(command)

    def open(self, command: Command, terminal: Terminal | None = None) -> Stream:
        """Start it, unless the tripwire says otherwise."""
        self.before(command)
        self.commands.append(command)
        return self.inner.open(command, terminal)

    def close(self) -> None:
        """Nothing is held."""


def sudo_environment(folder: Path) -> dict[str, str]:
    """An environment in which `sudo` is a stand-in that changes no account, and in which alice and bob exist."""
    bin_ = folder / "bin"
    bin_.mkdir(exist_ok=True)
    for name, text in (("sudo", SUDO), ("id", ID), ("srun", SRUN)):
        (bin_ / name).write_text(text)
        (bin_ / name).chmod(0o755)
    return {"PATH": f"{bin_}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8", "HOME": str(folder)}


def configuration(folder: Path, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a configuration file of the site says; its applications are written into `folder`."""
    for account in ("alice", "bob"):
        (folder / "home" / account).mkdir(parents=True, exist_ok=True)
    (folder / "shared").mkdir(exist_ok=True)
    (folder / "applications").mkdir(exist_ok=True)
    for name, text in (("sleeper", ""), ("array", "sbatch: {array: 0-1}")):
        path = folder / "applications" / f"{name}.yaml"
        path.write_text(APPLICATION.format(name=name, more=text))
    return {
        "provider": "example",
        "state_dir": str(folder / "state"),
        "shared_dir": str(folder / "shared"),
        "applications": str(folder / "applications"),
        "identity": {"users": {"alice": "alice", "bob": "bob"}},
        "command_line": {"user": "alice"},
        "clusters": {"main": {"path": f"{folder}/bin:/usr/local/bin:/usr/bin:/bin"}},
        "jobs": {"folder": f"{folder}/home/{{user}}/{{id}}"},
        "machines": {
            "example-compute": {
                "example-compute": {
                    "partition": "main", "cpus": 1, "memory": 1, "max_nodes": 4, "max_time": "1-00:00:00"
                }
            }
        },
        **(more or {}),
    }  # fmt: skip


OPENED: list[Adapter] = []
"""The sites that were opened: the fixture `sites_are_closed` closes a test's own."""


class Offline:
    """A site over `slurm`, and short ways to do things there."""

    def __init__(self, folder: Path, more: Mapping[str, Any] | None = None, *, accounting: bool = False) -> None:
        self.folder = folder
        self.config = Config.model_validate(configuration(folder, more))
        self.slurm = FakeScheduler(accounting=accounting)
        self.environment = sudo_environment(folder)
        self.site = self.open()

    def open(self) -> Adapter:
        """The site as another process sees it."""
        site = Adapter(self.config, clock=lambda: float(self.slurm.now))
        OPENED.append(site)
        site.scheduler = self.slurm
        site.transport = Tripping(LocalTransport(environment=self.environment))
        return site

    @property
    def transport(self) -> Tripping:
        """The site's transport, with its tripwire."""
        assert isinstance(self.site.transport, Tripping)
        return self.site.transport

    @property
    def peers(self) -> Path:
        """The folder of the hosts files."""
        return self.folder / "shared" / "peers"

    @property
    def shared(self) -> str:
        """The shared hosts file; empty where there is none."""
        path = self.peers / "hosts"
        return path.read_text() if path.exists() else ""

    @property
    def views(self) -> set[str]:
        """The jobs that have a view there."""
        names = {path.name for path in self.peers.iterdir()} if self.peers.exists() else set()
        return {name.partition("-")[0] for name in names - {"hosts"}}

    def view(self, id_: str) -> Path:
        """The file of a job's view there."""
        return self.peers / self.site.store.get(id_).peers_file

    def item(self, key: str | None = None, *, application: str = "sleeper", **fields: Any) -> Item:
        """One job to hand in."""
        whole = {"application": {"name": application, "version": "1"}, "product": PRODUCT, **fields}
        return Item(parse_specifications(json.dumps(whole).encode())[0], key)

    def submit(self, *items: Item, user: str = "alice", project: str | None = None) -> list[Record]:
        """Hand them in together."""
        return jobs.submit(self.site, Owner(created_by=user, project=project), items)

    def job(self, key: str | None = None, *, user: str = "alice", project: str | None = None, **fields: Any) -> Record:
        """Hand one in."""
        return self.submit(self.item(key, **fields), user=user, project=project)[0]

    def now(self, record: Record) -> Record:
        """What is known of a job."""
        return self.site.store.get(record.id)

    def now_stage(self, id_: str) -> Stage:
        """How far a job has come."""
        return self.site.store.get(id_).stage

    def sync(self, after: int = 1) -> Report:
        """A pass, some seconds later; after the one that a gateway may make just now."""
        self.slurm.now += after
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            with self.site.sync_lock() as alone:
                if alone:
                    return sync(self.site)
            time.sleep(0.01)
        raise AssertionError("another pass does not end")

    def slurm_id(self, record: Record) -> int:
        """The job's id in Slurm, which gets the jobs of a gateway behind its answers."""
        limit = time.monotonic() + 60
        while (found := self.now(record).slurm_id) is None:
            assert time.monotonic() < limit, f"Slurm does not get job {record.id}"
            time.sleep(0.01)
        return found

    def run(self, record: Record, *nodes: str) -> Record:
        """Slurm starts the job, its script passes the fence, and a pass sees it."""
        slurm_id = self.slurm_id(record)
        assert self.fence(record, slurm_id) == slurm_id
        self.slurm.start(slurm_id, nodes or ("node001",))
        assert self.sync().problems == ()
        return self.now(record)

    def fence(self, record: Record, slurm_id: int) -> int:
        """What the first lines of the job's script do: the Slurm job that may run."""
        link = Path(record.folder) / "owner"
        if not link.is_symlink():
            link.symlink_to(str(slurm_id))
        return int(link.readlink().name)

    def record_exit(self, record: Record, code: int, *, restart: int = 0, task: str | None = None, **more: Any) -> None:
        """What the job's script writes at its end."""
        content = {
            "format": 1, "job": record.id, "restart": restart, "task": task,
            "exit_code": code, "signal": None, "ended_at": self.slurm.now, "reason": None, **more,
        }  # fmt: skip
        if "slurm_id" not in content:
            content["slurm_id"] = self.slurm_id(record)
        name = "exit.json" if task is None else f"exit-{task}.json"
        (Path(record.folder) / name).write_text(json.dumps(content))

    def slurm_jobs(self, record: Record) -> list[int]:
        """The Slurm jobs that were made for a job."""
        return [
            row.slurm_id for row in self.slurm.queue([record.account]).observations if row.name == record.slurm_name
        ]


def peer(hostname: str, record: Record | str) -> dict[str, str]:
    """A job, and the name that another one gets for it."""
    return {"type": "peer", "hostname": hostname, "jobId": record if isinstance(record, str) else record.id}


@pytest.fixture
def offline(tmp_path: Path) -> Offline:
    """A site without a cluster."""
    return Offline(tmp_path)


@pytest.fixture
def site(ucloud: Ucloud, tmp_path: Path) -> Iterator[Offline]:
    """A site whose UCloud is `ucloud`; both go by the same clock."""
    made = Offline(tmp_path, ucloud.settings(tmp_path))
    ucloud.clock = made.site.clock
    yield made
    made.site.close()


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system that is full after 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "tiny"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False, timeout=10)
    if done.returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True, timeout=10)

"""Where it is measured: sites on the sandbox whose jobs wait for a partition that is down, and a delaying proxy."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any

from slurm_adapter import sandbox
from slurm_adapter.adapter import Adapter
from slurm_adapter.core.specification import Owner, parse_specifications
from slurm_adapter.jobs import item, submit
from slurm_adapter.local.configuration_file import load_config
from slurm_adapter.sandbox import cluster as whole
from slurm_adapter.sandbox.layout import SHARED_ON_NODES, Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from slurm_adapter.core.records import Record
    from slurm_adapter.sandbox.configuration import Identity, Transport

USER = Owner(created_by="alice")

WAITS = """
application: v2
name: waits
version: "1"
software: {type: Native, load: []}
features: {multiNode: true, jobLinking: true}
parameters: {}
invocation: "true"
"""
"""It is never run: what is measured is what comes before."""

SHELL = """
application: v2
name: shell
version: "1"
software: {type: Native, load: []}
features: {jobLinking: true}
parameters:
  code: {type: TextArea, optional: false}
  begin: {type: Text, optional: true}
invocation: |
  {% if begin %}{{ sbatch("begin", begin) }}{% endif %}
  bash -c {{ code }}
"""
"""What is run to be looked at, on the partition that is up."""

SCRIPT = "#!/bin/bash\n#SBATCH --partition=scavenge --time=30 --nodes=1 --mem=1024 --output=/dev/null\ntrue\n"
"""The same for a bare sbatch."""

BOX = Layout()
"""The sandbox without a name."""

DELAY = 0.010
"""Seconds each way."""


def ask(*argv: str, user: str = "alice", stdin: bytes = b"", timeout: float = 600) -> str:
    """The output of a command on the login node that must succeed."""
    done = subprocess.run(
        [*sandbox.enter(BOX.login.name, user), *argv], input=stdin, capture_output=True, timeout=timeout, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{argv[0]} as {user}: {done.returncode} {done.stderr.decode()[-300:]}")
    return done.stdout.decode()


def clear(*users: str) -> None:
    """End all jobs of these accounts, and wait until none is left."""
    for user in users:
        ask("scancel", "-u", user, user=user)
    while any(ask("squeue", "-h", "-u", user, "-o", "%i", user=user) for user in users):
        time.sleep(0.2)


def _set_partition(state: str) -> None:
    """While it is down its jobs wait."""
    ask("scontrol", "update", "PartitionName=scavenge", f"State={state}", user="root")


@dataclass
class Ground:
    """A folder for everything that a run makes."""

    folder: Path
    shared: str

    def site(
        self,
        transport: Transport = "local",
        identity: Identity = "sudo",
        *,
        port: int | None = None,
        pyslurm: bool = False,
    ) -> Adapter:
        """A new site with nothing in it; over the proxy's port where one is given."""
        own = Path(tempfile.mkdtemp(dir=self.folder))
        (own / "applications").mkdir()
        (own / "applications" / "waits.yaml").write_text(WAITS)
        (own / "applications" / "shell.yaml").write_text(SHELL)
        path = sandbox.write_config(own, transport=transport, identity=identity)
        text = path.read_text().replace('state_dir = "', f'applications = "{own}/applications"\nstate_dir = "', 1)
        text = text.replace("/ucloud-jobs/", f"/{Path(self.shared).name}/{own.name}-")
        text = re.sub(r"^shared_dir = .*$", f'shared_dir = "{self.shared}"', text, flags=re.MULTILINE)
        if port is not None:
            known = own / "known_hosts"
            keys = (
                line.split()[1:3] for line in (BOX.keys / "known_hosts").read_text().splitlines() if "ed25519" in line
            )
            known.write_text(f"[127.0.0.1]:{port} {' '.join(next(keys))}\n")
            text = text.replace(f'host = "{BOX.login.address}"', f'host = "127.0.0.1"\nport = {port}')
            text = text.replace(str(BOX.keys / "known_hosts"), str(known))
        if pyslurm:
            text = text.replace("[clusters.main]\n", '[clusters.main]\nscheduler = "pyslurm"\n')
        path.write_text(text)
        return Adapter(load_config(path))

    @staticmethod
    def config_of(site: Adapter) -> Path:
        """The file that a site was made from."""
        return site.config.state_dir.parent / "config.toml"


def _must(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def _shared_apart() -> Iterator[None]:
    """Give the shared file system a disk of its own, as at a site, and an empty one; where there are loop devices.

    It is a folder of the machine's ext4, which looks at every inode that was freed in the last five minutes before it
    gives one away (`recently_deleted` in fs/ext4/ialloc.c). Slurm frees three for each job that it forgets: after some
    thousands of jobs a new file takes a millisecond, and whoever makes files for his jobs is measured by that.
    """
    if not Path("/dev/loop-control").exists():
        yield
        return
    inside = [sandbox.enter(node.name, "root") for node in sandbox.status().nodes]
    places = [((), BOX.shared), *((words, path) for words in inside for path in (BOX.shared, SHARED_ON_NODES))]
    with tempfile.NamedTemporaryFile(prefix="slurm-adapter-bench-", suffix=".img") as image, ExitStack() as undo:
        image.truncate(4 << 30)
        _must("mkfs.ext4", "-q", "-E", "lazy_itable_init=0", image.name)
        device = _must("losetup", "--find", "--show", image.name)
        undo.callback(_must, "losetup", "--detach", device)
        with tempfile.TemporaryDirectory() as aside:
            _must("mount", device, aside)
            _must("cp", "-a", f"{BOX.shared}/.", aside)
            _must("umount", aside)
        for words, path in places:
            _must(*words, "mount", device, str(path))
            undo.callback(_must, *words, "umount", "--lazy", str(path))
        yield


@contextmanager
def ground() -> Iterator[Ground]:
    """A ground, and nothing left of it afterwards."""
    sandbox.up(accounting=False, say=lambda _: None) if sandbox.status().state != "up" else None
    with _shared_apart():
        yield from _ground()


def _ground() -> Iterator[Ground]:
    shared = ask("mktemp", "-d", f"{SHARED_ON_NODES}/ucloud/bench-XXXXXX", user="ucloud").strip()
    ask("chmod", "755", shared, user="ucloud")
    for user in ("alice", "jobs"):
        ask("mkdir", "-p", "-m", "700", f"{SHARED_ON_NODES}/home/{user}/{Path(shared).name}", user=user)
    folder = Path(tempfile.mkdtemp(prefix="slurm-adapter-bench-"))
    # What slurmctld still knows of ended jobs slows it: one round must not pay for those before.
    try:
        whole.change_min_job_age(BOX, 2)
        _set_partition("DOWN")
        yield Ground(folder, shared)
    finally:
        with suppress(RuntimeError):
            clear("alice", "jobs", "ucloud")
        _set_partition("UP")
        whole.change_min_job_age(BOX, 300)
        for user in ("alice", "jobs"):
            shutil.rmtree(BOX.shared / "home" / user / Path(shared).name, ignore_errors=True)
        shutil.rmtree(BOX.shared / "ucloud" / Path(shared).name, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


def items(count: int) -> list[item.Item]:
    """So many jobs to hand in."""
    one: dict[str, Any] = {
        "application": {"name": "waits", "version": "1"},
        "product": {"provider": "example", "category": "example-compute", "id": "example-scavenge"},
    }
    return [item.Item(each) for each in parse_specifications(json.dumps({"items": [one] * count}).encode())]


def shell(code: str, *, begin: str | None = None, peers: Mapping[str, str] | None = None) -> item.Item:
    """A job that runs this, not before a time, with peers by their names in it."""
    given = {"code": code, "begin": begin}
    one: dict[str, Any] = {
        "application": {"name": "shell", "version": "1"},
        "product": {"provider": "example", "category": "example-compute", "id": "example-compute"},
        "parameters": {name: {"type": "text", "value": value} for name, value in given.items() if value is not None},
        "resources": [{"type": "peer", "hostname": name, "jobId": id_} for name, id_ in (peers or {}).items()],
    }
    return item.Item(parse_specifications(json.dumps(one).encode())[0])


def output(record: Record) -> list[str]:
    """The whole lines that a job has written so far."""
    path = _folder(record) / "stdout.txt"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def started(record: Record) -> float:
    """When a job's script began: the first thing that it does is to make the link by which it holds its folder."""
    return (_folder(record) / "owner").lstat().st_mtime


def _folder(record: Record) -> Path:
    return BOX.shared / Path(record.folder).relative_to(SHARED_ON_NODES)


def until(look: Callable[[], object], what: str) -> None:
    """Wait until it is so."""
    limit = time.monotonic() + 120
    while not look():
        if time.monotonic() > limit:
            raise RuntimeError(f"waited in vain until {what}")
        time.sleep(0.05)


def fill(site: Adapter, count: int) -> list[Record]:
    """Hand in so many jobs, in bulks of a thousand."""
    made: list[Record] = []
    while len(made) < count:
        made += submit.submit(site, USER, items(min(1000, count - len(made))))
    return made


class DelayingProxy:
    """Passes bytes on to a server, each so many seconds later."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(self._target, timeout=10)
                server.settimeout(None)
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for source, sink in ((client, server), (server, client)):
                    waiting: Queue[tuple[float, bytes]] = Queue()
                    threading.Thread(target=self._take, args=(source, waiting), daemon=True).start()
                    threading.Thread(target=self._give, args=(waiting, sink), daemon=True).start()

    @staticmethod
    def _take(source: socket.socket, waiting: Queue[tuple[float, bytes]]) -> None:
        data = b"."
        while data:
            try:
                data = source.recv(262144)
            except OSError:
                data = b""
            waiting.put((time.monotonic() + DELAY, data))

    @staticmethod
    def _give(waiting: Queue[tuple[float, bytes]], sink: socket.socket) -> None:
        with suppress(OSError):
            while True:
                due, data = waiting.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)


@contextmanager
def delayed() -> Iterator[DelayingProxy]:
    """The proxy before the login node's sshd, for the length of the block."""
    proxy = DelayingProxy(BOX.login.address, 22)
    try:
        yield proxy
    finally:
        proxy.close()

"""Names, addresses, accounts and folders of a sandbox.

All files of a sandbox are below its `root`. All else that it makes (namespaces, one network interface, control groups)
is derived from the names here. A later run finds it again, whatever happened to the run that made it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from slurm_adapter.core.errors import Refused

CACHE = Path("/var/cache/slurm-adapter-sandbox")
"""Roots of other releases, one folder for each. Sandboxes share them; `sandbox down --purge` removes them."""
BASE = Path("/var/lib/slurm-adapter-sandbox")
"""The root of the sandbox without a name. A named one has `BASE-NAME`."""
SHARED_ON_NODES = Path("/srv")
"""Every Debian has this folder, empty: a mount there leaves nothing on the machine."""

MARK = "SLURM_ADAPTER_SANDBOX"
"""An environment variable of every daemon, with the sandbox's root: how a later run knows its own."""

CLUSTER_NAME = "sandbox"
CONTROL_GROUP = "slurm-adapter-sandbox"
HOST_NUMBER = 1
MOST_NODES = 64
MOST_SANDBOXES = 100
FIRST_NETWORK = 77
"""The sandbox without a name has the network 10.213.77.0/24, the others have those after it."""


@dataclass(frozen=True, slots=True)
class Account:
    """A Unix account of the nodes. The machine itself has none of them."""

    name: str
    uid: int
    """Also the number of the group with the same name."""
    home: str = "/nonexistent"
    shell: str = "/usr/sbin/nologin"


def _person(name: str, uid: int) -> Account:
    return Account(name, uid, f"{SHARED_ON_NODES}/home/{name}", "/bin/bash")


ADAPTER = _person("ucloud", 7700)
"""The adapter's own account: unprivileged, and not the one that jobs run as."""
ALICE = _person("alice", 7701)
BOB = _person("bob", 7702)
JOBS = _person("jobs", 7703)
"""The one account of all jobs with `identity.mode = "service"`."""
PEOPLE = (ADAPTER, ALICE, BOB, JOBS)
JOB_ACCOUNTS = (ALICE, BOB, JOBS)
SLURM_ACCOUNT = Account("slurm", 64030)
"""SlurmUser, with the number that Debian reserves for it."""
MUNGE_ACCOUNT = Account("munge", 7710)
DATABASE_ACCOUNT = Account("mysql", 7711)
SERVICES = (SLURM_ACCOUNT, MUNGE_ACCOUNT, DATABASE_ACCOUNT)
RESEARCH_GROUP = ("research", 7720, (ALICE, BOB, JOBS))
"""A group that they share besides their own: it owns the project drive."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of a sandbox: a set of namespaces with a name and an address."""

    layout: Layout
    name: str
    number: int
    """The last part of its addresses."""

    @property
    def address(self) -> str:
        """Its IPv4 address."""
        return self.layout.ipv4(self.number)

    @property
    def address6(self) -> str:
        """Its IPv6 address."""
        return self.layout.ipv6(self.number)

    @property
    def etc(self) -> Path:
        """What it sees as `/etc`: a folder of its own.

        No mounts on single files: they would keep a job from making an overlay of `/etc`.
        """
        return self.layout.nodes / self.name / "etc"

    def namespace(self, kind: str) -> Path:
        """The file that holds its namespace of a kind: `net`, `mnt`, `uts` or `ipc`."""
        return self.layout.namespaces / self.name / kind


@dataclass(frozen=True, slots=True)
class Layout:
    """Folders, addresses and marks of one sandbox."""

    name: str = ""
    """Empty for the sandbox without a name."""
    number: int = 0
    """Its network among those of all sandboxes; 0 for the sandbox without a name."""

    @property
    def root(self) -> Path:
        """All that it keeps."""
        return BASE.with_name(f"{BASE.name}-{self.name}") if self.name else BASE

    @property
    def namespaces(self) -> Path:
        """The files that hold its namespaces."""
        return self.root / "namespaces"

    @property
    def nodes(self) -> Path:
        """A folder for each node; in it the node's own `/etc`."""
        return self.root / "nodes"

    @property
    def slurm(self) -> Path:
        """`/etc/slurm` of every node."""
        return self.root / "slurm"

    @property
    def spool(self) -> Path:
        """What the daemons keep."""
        return self.root / "spool"

    @property
    def log(self) -> Path:
        """The daemons' logs."""
        return self.root / "log"

    @property
    def run(self) -> Path:
        """Sockets and pid files."""
        return self.root / "run"

    @property
    def keys(self) -> Path:
        """The adapter's SSH key pair and `known_hosts`, the login node's host key, munge's key. For root only."""
        return self.root / "keys"

    @property
    def shared(self) -> Path:
        """The shared file system. The nodes see it at `SHARED_ON_NODES`."""
        return self.root / "shared"

    @property
    def state(self) -> Path:
        """The adapter's own state, for the config that `up` writes. It belongs to the caller of `up`."""
        return self.root / "state"

    @property
    def devices(self) -> Path:
        """The GPUs."""
        return self.root / "devices"

    @property
    def record(self) -> Path:
        """What the last `up` was asked for."""
        return self.root / "sandbox.json"

    @property
    def reservation(self) -> Path:
        """The file with its number."""
        return self.root / "number"

    @property
    def config(self) -> Path:
        """The adapter's config for it."""
        return self.root / "config.toml"

    @property
    def munge_socket(self) -> Path:
        """Where munged listens."""
        return self.run / "munge" / "munge.socket.2"

    @property
    def database_socket(self) -> Path:
        """Where mariadbd listens."""
        return self.run / "mysql" / "mysqld.sock"

    @property
    def mark(self) -> str:
        """What the environment of each of its daemons holds."""
        return f"{MARK}={self.root}"

    @property
    def host_interface(self) -> str:
        """The machine's own end of its network. Interface names have at most 15 characters."""
        return f"slurmsandbox{self.number or ''}"

    @property
    def control_group(self) -> str:
        """The control group of its daemons, in every hierarchy."""
        return self.root.name

    @property
    def first_job_id(self) -> int:
        """Its first Slurm id. Ids of two sandboxes never meet: Slurm names jobs' control groups by them."""
        return 1 + self.number * 500_000

    @property
    def login(self) -> Node:
        """Runs sshd, slurmctld and munged, with accounting slurmdbd and MariaDB, and holds the network's bridge."""
        return Node(self, "login", 2)

    def compute(self, count: int) -> tuple[Node, ...]:
        """node001 and so on."""
        return tuple(Node(self, f"node{index:03}", 10 + index) for index in range(1, count + 1))

    def node(self, name: str) -> Node:
        """The node of a name, whether it is up or not."""
        return next(node for node in (self.login, *self.compute(MOST_NODES)) if node.name == name)

    def ipv4(self, number: int) -> str:
        """An address of its network, a private one (RFC 1918) that hardly anybody else uses."""
        return f"10.213.{FIRST_NETWORK + self.number}.{number}"

    def ipv6(self, number: int) -> str:
        """The same in a unique local network (RFC 4193)."""
        return f"fd5a:d213:{0x4D77 + self.number:x}::{number}"


def layout_of(name: str = "") -> Layout:
    """Return the layout of a sandbox: its own number if it is there, else the first one that is free."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?", name or "x"):
        raise Refused(f"a sandbox's name has 1 to 20 characters of a-z, 0-9 and '-', not {name!r}")
    if not name:
        return Layout()
    taken = {_number(path) for path in BASE.parent.glob(f"{BASE.name}-*/number") if path.parent != Layout(name).root}
    free = next((number for number in range(1, MOST_SANDBOXES) if number not in taken), None)
    number = _number(Layout(name).reservation) or free
    if number is None:
        raise Refused(f"this machine has {MOST_SANDBOXES} sandboxes already: take one down first")
    return Layout(name, number)


def _number(path: Path) -> int | None:
    try:
        return int(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None

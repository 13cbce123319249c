"""Names, addresses, accounts and folders of a sandbox.

All files of a sandbox are below its `root`. The names of everything else (namespaces, one network interface, control
groups) are derived from the names here. So a later run finds all of it, even if the earlier run was killed.
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
"""Mount point of the shared file system. Every Debian has this folder, empty."""

MARK = "SLURM_ADAPTER_SANDBOX"
"""Environment variable of every daemon, with the sandbox's root. It identifies the sandbox's processes."""

CLUSTER_NAME = "sandbox"
HOST_NUMBER = 1
MOST_NODES = 64
MOST_SANDBOXES = 100
FIRST_NETWORK = 77
"""The sandbox without a name uses the network 10.213.77.0/24, the others use the next ones."""


@dataclass(frozen=True, slots=True)
class Account:
    """A Unix account of the nodes. The machine itself does not have it."""

    name: str
    uid: int
    """Also the id of the group with the same name."""
    home: str = "/nonexistent"
    shell: str = "/usr/sbin/nologin"


def _person(name: str, uid: int) -> Account:
    return Account(name, uid, f"{SHARED_ON_NODES}/home/{name}", "/bin/bash")


ADAPTER = _person("ucloud", 7700)
"""The adapter's own account. It is unprivileged, and jobs do not run as it."""
ALICE = _person("alice", 7701)
BOB = _person("bob", 7702)
JOBS = _person("jobs", 7703)
"""The account of all jobs if `identity.mode = "service"`."""
PEOPLE = (ADAPTER, ALICE, BOB, JOBS)
JOB_ACCOUNTS = (ALICE, BOB, JOBS)
SLURM_ACCOUNT = Account("slurm", 64030)
"""SlurmUser, with the uid that Debian reserves for it."""
MUNGE_ACCOUNT = Account("munge", 7710)
DATABASE_ACCOUNT = Account("mysql", 7711)
SERVICES = (SLURM_ACCOUNT, MUNGE_ACCOUNT, DATABASE_ACCOUNT)
RESEARCH_GROUP = ("research", 7720, (ALICE, BOB, JOBS))
"""A shared group, which owns the project drive: name, gid, members."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a sandbox: a set of namespaces with a name and an address."""

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
        """Folder that is mounted as `/etc` of the node.

        Single files are not mounted: a job could not make an overlay of `/etc` then.
        """
        return self.layout.nodes / self.name / "etc"

    def namespace(self, kind: str) -> Path:
        """Return the file that holds a namespace of the node: `net`, `mnt`, `uts` or `ipc`."""
        return self.layout.namespaces / self.name / kind


@dataclass(frozen=True, slots=True)
class Layout:
    """Folders, addresses and names of one sandbox."""

    name: str = ""
    """Empty for the sandbox without a name."""
    number: int = 0
    """Number of its network. 0 for the sandbox without a name."""

    @property
    def root(self) -> Path:
        """Folder of all files."""
        return BASE.with_name(f"{BASE.name}-{self.name}") if self.name else BASE

    @property
    def namespaces(self) -> Path:
        """Folder of the files that hold its namespaces."""
        return self.root / "namespaces"

    @property
    def nodes(self) -> Path:
        """Folder with a subfolder for each node, which has the node's `/etc`."""
        return self.root / "nodes"

    @property
    def slurm(self) -> Path:
        """`/etc/slurm` of every node."""
        return self.root / "slurm"

    @property
    def spool(self) -> Path:
        """State of the daemons."""
        return self.root / "spool"

    @property
    def log(self) -> Path:
        """Logs of the daemons."""
        return self.root / "log"

    @property
    def run(self) -> Path:
        """Sockets and pid files."""
        return self.root / "run"

    @property
    def keys(self) -> Path:
        """The adapter's SSH key pair and `known_hosts`, the login node's host key, munge's key. Only for root."""
        return self.root / "keys"

    @property
    def shared(self) -> Path:
        """Shared file system. The nodes mount it at `SHARED_ON_NODES`."""
        return self.root / "shared"

    @property
    def state(self) -> Path:
        """The adapter's state folder in the configuration that `up` writes. The caller of `up` owns it."""
        return self.root / "state"

    @property
    def devices(self) -> Path:
        """Device files of the GPUs."""
        return self.root / "devices"

    @property
    def record(self) -> Path:
        """File with the settings of the last `up`."""
        return self.root / "sandbox.json"

    @property
    def reservation(self) -> Path:
        """File with the sandbox's number."""
        return self.root / "number"

    @property
    def config(self) -> Path:
        """The adapter's configuration file for the sandbox."""
        return self.root / "config.toml"

    @property
    def munge_socket(self) -> Path:
        """Socket of munged."""
        return self.run / "munge" / "munge.socket.2"

    @property
    def database_socket(self) -> Path:
        """Socket of mariadbd."""
        return self.run / "mysql" / "mysqld.sock"

    @property
    def mark(self) -> str:
        """Environment entry of each daemon: the variable `MARK` with the sandbox's root."""
        return f"{MARK}={self.root}"

    @property
    def host_interface(self) -> str:
        """The machine's interface in the sandbox's network. Interface names have at most 15 characters."""
        return f"slurmsandbox{self.number or ''}"

    @property
    def control_group(self) -> str:
        """Control group of its daemons, in every hierarchy."""
        return self.root.name

    @property
    def first_job_id(self) -> int:
        """First Slurm job id. Two sandboxes never use the same ids, because Slurm names control groups by them."""
        return 1 + self.number * 500_000

    @property
    def login(self) -> Node:
        """Login node: sshd, slurmctld, munged, the network's bridge, and with accounting slurmdbd and MariaDB."""
        return Node(self, "login", 2)

    def compute(self, count: int) -> tuple[Node, ...]:
        """Return the compute nodes: node001, node002, ..."""
        return tuple(Node(self, f"node{index:03}", 10 + index) for index in range(1, count + 1))

    def node(self, name: str) -> Node:
        """Return the node with a name, whether it is up or not."""
        return next(node for node in (self.login, *self.compute(MOST_NODES)) if node.name == name)

    def ipv4(self, number: int) -> str:
        """Return an IPv4 address of the sandbox's network (private, RFC 1918)."""
        return f"10.213.{FIRST_NETWORK + self.number}.{number}"

    def ipv6(self, number: int) -> str:
        """Return an IPv6 address of the sandbox's network (unique local, RFC 4193)."""
        return f"fd5a:d213:{0x4D77 + self.number:x}::{number}"


def layout_of(name: str = "") -> Layout:
    """Return the layout of a sandbox, with its own number if it exists, else with the first free number."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?", name or "x"):
        raise Refused(f"{name!r} is not a sandbox's name: use 1 to 20 characters of a-z, 0-9 and '-'")
    if not name:
        return Layout()
    taken = {_number(path) for path in BASE.parent.glob(f"{BASE.name}-*/number") if path.parent != Layout(name).root}
    free = next((number for number in range(1, MOST_SANDBOXES) if number not in taken), None)
    number = _number(Layout(name).reservation) or free
    if number is None:
        raise Refused(f"there are already {MOST_SANDBOXES} sandboxes: remove one with `sandbox down --name NAME`")
    return Layout(name, number)


def _number(path: Path) -> int | None:
    try:
        return int(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None

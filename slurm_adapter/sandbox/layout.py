"""Where everything of the sandbox is, and what it is called: names, addresses, accounts, folders.

One machine has at most one sandbox, so these are constants. All that it keeps is under `ROOT`; all else that it makes
(namespaces, one network interface, control groups) is derived from the names here, so that a later run finds it again
whatever happened to the run that made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/var/lib/slurm-adapter-sandbox")
NAMESPACES = ROOT / "namespaces"
NODES = ROOT / "nodes"
"""A folder per node; in it the node's own `/etc`."""
SLURM = ROOT / "slurm"
"""`/etc/slurm` of every node."""
SPOOL = ROOT / "spool"
LOG = ROOT / "log"
RUN = ROOT / "run"
KEYS = ROOT / "keys"
"""The adapter's SSH key pair and `known_hosts`, the login node's host key, munge's key. For root only."""
SHARED = ROOT / "shared"
"""The shared file system. The nodes see it at `SHARED_ON_NODES`."""
STATE = ROOT / "state"
"""The adapter's own state, for the config that `up` writes. It belongs to whoever called `up`."""
DEVICES = ROOT / "devices"
RECORD = ROOT / "sandbox.json"
"""What the last `up` was asked for."""
CONFIG = ROOT / "config.toml"

SHARED_ON_NODES = Path("/srv")
"""Every Debian has this folder, empty: a mount there leaves nothing on the machine."""

MUNGE_SOCKET = RUN / "munge" / "munge.socket.2"
DATABASE_SOCKET = RUN / "mysql" / "mysqld.sock"

MARK = f"SLURM_ADAPTER_SANDBOX={ROOT}"
"""In the environment of every daemon of the sandbox: how a later run knows its own."""

CLUSTER_NAME = "sandbox"
HOST_INTERFACE = "slurmsandbox"
"""The machine's own end of the sandbox's network. Interface names have at most 15 characters."""
CONTROL_GROUP = "slurm-adapter-sandbox"
HOST_NUMBER = 1
MOST_NODES = 64


def ipv4(number: int) -> str:
    """An address of the sandbox's network, a private one (RFC 1918) that hardly anybody else uses."""
    return f"10.213.77.{number}"


def ipv6(number: int) -> str:
    """The same in a unique local network (RFC 4193)."""
    return f"fd5a:d213:4d77::{number}"


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
    """A machine of the sandbox: a set of namespaces with a name and an address."""

    name: str
    number: int
    """The last part of its addresses."""

    @property
    def address(self) -> str:
        """Its IPv4 address."""
        return ipv4(self.number)

    @property
    def address6(self) -> str:
        """Its IPv6 address."""
        return ipv6(self.number)

    @property
    def etc(self) -> Path:
        """What it sees as `/etc`: a folder of its own.

        No mounts on single files: they would keep a job from making an overlay of `/etc`.
        """
        return NODES / self.name / "etc"

    def namespace(self, kind: str) -> Path:
        """The file that holds its namespace of a kind: `net`, `mnt`, `uts` or `ipc`."""
        return NAMESPACES / self.name / kind


LOGIN = Node("login", 2)
"""Runs sshd, slurmctld and munged, with accounting slurmdbd and MariaDB, and holds the network's bridge."""


def compute_nodes(count: int) -> tuple[Node, ...]:
    """node001 and so on."""
    return tuple(Node(f"node{index:03}", 10 + index) for index in range(1, count + 1))

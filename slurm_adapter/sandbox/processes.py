"""Find, start and end the sandbox's processes, without relying on pid files.

A process belongs to a sandbox if it is in the network namespace of one of its nodes (every job is), or if its
environment has the sandbox's mark (every daemon has). So files of a killed run cannot mislead. A mark counts only in
this process's own pid namespace and file system: a container may have a sandbox, too.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import Refused, TryAgain
from slurm_adapter.sandbox.layout import MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from slurm_adapter.sandbox.layout import Account, Layout, Node

SLURM_DAEMONS = ("slurmctld", "slurmd", "slurmdbd", "munged")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH on the nodes."""
DAEMONS = (*SLURM_DAEMONS, "mariadbd", "sshd")
NAMESPACE_KINDS = {"mnt": "mount", "net": "net", "uts": "uts", "ipc": "ipc"}
"""The kernel's name for each kind of namespace of a node, and nsenter's option for it."""


@dataclass(frozen=True, slots=True)
class Process:
    """A running process, not a zombie."""

    pid: int
    name: str
    """First 15 characters of the program's name, without Debian's suffix."""
    network: int
    """Inode of its network namespace."""
    stopped: bool
    """True if a signal has stopped it (SIGSTOP)."""
    mark: str
    """Mark of a sandbox of this machine in its environment. Empty if there is none."""
    foreign: bool
    """True if it is in another pid namespace: of a container, or made by a job."""


def living() -> tuple[Process, ...]:
    """Return all readable processes of the machine, without kernel threads."""
    here = Path("/proc/self/ns/pid").stat().st_ino
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            environment = Path(entry.path, "environ").read_bytes().split(b"\0")
            state = Path(entry.path, "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            if state in "ZX":
                continue
            foreign = Path(entry.path, "ns/pid").stat().st_ino != here
            mark = next((os.fsdecode(word) for word in environment if word.startswith(f"{MARK}=".encode())), "")
            found.append(
                Process(
                    pid=int(entry.name),
                    # From Slurm 23.11 daemons re-execute themselves to reconfigure, with Debian's file name.
                    name=Path(entry.path, "comm").read_text(errors="replace").strip().removesuffix("-wlm"),
                    network=Path(entry.path, "ns/net").stat().st_ino,
                    stopped=state in "Tt",
                    mark="" if foreign or not _sees_our_files(Path(entry.path), mark) else mark,
                    foreign=foreign,
                )
            )
    return tuple(found)


def _sees_our_files(process: Path, mark: str) -> bool:
    """Return whether a process sees the same folder at the mark's path as this process."""
    root = mark.partition("=")[2]
    try:
        ours = Path(root).stat()
    except OSError:
        return True  # its files were removed, so its processes must end, too
    try:
        theirs = Path(f"{process}/root{root}").stat()
    except OSError:
        return False
    return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)


def own(layout: Layout, processes: Sequence[Process] | None = None) -> tuple[Process, ...]:
    """Return the processes of a sandbox."""
    processes = living() if processes is None else processes
    machine = Path("/proc/self/ns/net").stat().st_ino
    networks = {process.network for process in processes if process.mark == layout.mark}
    for pin in layout.namespaces.glob("*/net"):
        with suppress(OSError):
            if is_namespace(pin):
                networks.add(pin.stat().st_ino)
    networks.discard(machine)
    return tuple(p for p in processes if p.mark == layout.mark or p.network in networks)


def foreign_daemons() -> tuple[str, ...]:
    """Return the daemons of Slurm and munge on this machine that belong to no sandbox, as `name (pid N)`.

    Daemons in another pid namespace are ignored: they belong to a container, which has its own files.
    """
    processes = living()
    networks = {process.network for process in processes if process.mark}
    return tuple(
        f"{process.name} (pid {process.pid})"
        for process in processes
        if process.name in SLURM_DAEMONS and not (process.foreign or process.mark or process.network in networks)
    )


def on_node(node: Node, name: str) -> tuple[int, ...]:
    """Return the process ids of a program on a node."""
    pin = node.namespace("net")
    if not is_namespace(pin):
        return ()
    inode = pin.stat().st_ino
    return tuple(process.pid for process in living() if process.network == inode and process.name == name)


def is_namespace(path: Path) -> bool:
    """Return whether this file holds a namespace. If so, a file of the kernel's nsfs is mounted on it."""
    try:
        return path.stat().st_dev == Path("/proc/self/ns/net").stat().st_dev
    except OSError:
        return False


def entry(node: Node, user: str = "root") -> tuple[str, ...]:
    """Return the prefix for a command that runs it on a node as an account, in `/`, with a clean environment.

    Each program of the prefix executes the next one, so signals and exit codes are those of the command. The account
    is looked up on the node: the machine itself does not have it.
    """
    return (
        "nsenter",
        *(f"--{option}={node.namespace(kind)}" for kind, option in NAMESPACE_KINDS.items()),
        "--",
        "setpriv",
        f"--reuid={user}",
        f"--regid={user}",
        "--init-groups",
        "--reset-env",
        "--",
        "env",
        f"PATH={PATH}",
    )


def run_on(
    node: Node, argv: Sequence[str], *, user: str = "root", stdin: bytes = b"", timeout: float = 60
) -> subprocess.CompletedProcess[bytes]:
    """Run a command on a node and wait for it. Kills it after `timeout` and raises `subprocess.TimeoutExpired`."""
    return subprocess.run([*entry(node, user), *argv], input=stdin, capture_output=True, timeout=timeout, check=False)


def control_groups(layout: Layout) -> tuple[Path, ...]:
    """Return the sandbox's control group in each mounted hierarchy that can have one."""
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split()[:3]
        if kind == "cgroup2" or (kind == "cgroup" and {"memory", "freezer"} & set(options.split(","))):
            mounts.append(Path(left.split()[4]) / layout.control_group)
    return tuple(mounts)


def start(
    node: Node, argv: Sequence[str], *, user: Account | None = None, environment: Sequence[str] = (), log: str
) -> None:
    """Start a daemon on a node, in its own session and control group, so that it outlives this process.

    The daemon does not keep this process's output or terminal open: its output goes to `<log>.out` in the log folder.
    Raises `Refused` with the end of that file if the daemon fails to start.
    """
    groups = []
    for group in control_groups(node.layout):
        with suppress(OSError):
            group.mkdir(exist_ok=True)
            groups.append(str(group / "cgroup.procs"))
    leave = 'for group; do shift; [ "$group" = -- ] && break; echo $$ >"$group" 2>/dev/null; done; exec "$@"'
    output = node.layout.log / f"{log}.out"
    name = user.name if user else "root"
    with output.open("wb") as sink:
        done = subprocess.run(
            ["sh", "-c", leave, "sh", *groups, "--", *entry(node, name), node.layout.mark, *environment, *argv],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            umask=0o022,
            timeout=60,
            check=False,
        )
    if done.returncode:
        words = output.read_text(errors="replace").strip().splitlines()[-3:]
        raise Refused(f"{log} did not start on {node.name}: {' / '.join(words) or f'exit code {done.returncode}'}")


def end(pids: Sequence[int], how: signal.Signals = signal.SIGKILL, *, patience: float = 20) -> None:
    """Send a signal to processes and wait for their end. Raises `Refused` after `patience` seconds."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, how)
            if how is not signal.SIGKILL:
                os.kill(pid, signal.SIGCONT)
    limit = time.monotonic() + patience
    while alive := {process.pid for process in living()} & set(pids):
        if time.monotonic() > limit:
            raise Refused(f"processes {sorted(alive)} did not end on {how.name}: inspect them with ps")
        time.sleep(0.02)


def end_all(layout: Layout) -> None:
    """Kill every process of a sandbox: daemons, jobs, and shells on its nodes."""
    for _ in range(20):  # a fork bomb among the jobs may need several rounds
        pids = [process.pid for process in own(layout) if process.pid != os.getpid()]
        if not pids:
            return
        end(pids)
    raise Refused("the sandbox's processes fork faster than they are killed: inspect them with `ps axf`")


@contextmanager
def locked(folder: Path, say: Callable[[str], None], patience: float = 120) -> Iterator[int]:
    """Lock a folder, and create it if it is missing. Yield its descriptor, for children that must hold the lock, too.

    Raises `TryAgain` if another command holds the lock for longer than `patience` seconds.
    """
    limit = time.monotonic() + patience
    waiting = False
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # its holder has removed it
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if _is_ours(descriptor, folder):
                break
            os.close(descriptor)
        if time.monotonic() > limit:
            raise TryAgain(f"another `sandbox` command holds the lock on {folder}: wait for it, or find it with ps")
        if not waiting:
            say("waiting for another `sandbox` command to finish")
            waiting = True
        time.sleep(0.1)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_ours(descriptor: int, folder: Path) -> bool:
    """Lock an open folder. Return whether that succeeded and the folder was not removed meanwhile."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return folder.stat().st_ino == os.fstat(descriptor).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False

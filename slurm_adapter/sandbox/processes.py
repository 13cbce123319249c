"""The sandbox's processes: finding them whatever became of their pid files, starting and ending them.

A process is a sandbox's own if it is in the network namespace of one of its nodes (every job is), or if the sandbox's
mark is in its environment (every daemon's). Neither depends on a file that a killed run may have left wrong. A mark
counts only in this process's own pid namespace and on its own file system: a container may have a sandbox, too.
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
"""On the nodes."""
DAEMONS = (*SLURM_DAEMONS, "mariadbd", "sshd")
NAMESPACE_KINDS = {"mnt": "mount", "net": "net", "uts": "uts", "ipc": "ipc"}
"""The kernel's name for each kind of namespace of a node, and nsenter's option for it."""


@dataclass(frozen=True, slots=True)
class Process:
    """A living process (a zombie is none)."""

    pid: int
    name: str
    """The first 15 characters of the program's name, without Debian's suffix."""
    network: int
    """The inode of its network namespace."""
    stopped: bool
    """Whether a signal has stalled it (SIGSTOP)."""
    mark: str
    """The mark of a sandbox of this machine that is in its environment; empty if there is none."""
    foreign: bool
    """Whether it is in another pid namespace: a container's, or one that a job has made."""


def living() -> tuple[Process, ...]:
    """All processes of the machine, as far as they can be read; kernel threads are left out."""
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
                    # From 23.11 on Slurm's daemons start anew to reconfigure, by the name of Debian's file.
                    name=Path(entry.path, "comm").read_text(errors="replace").strip().removesuffix("-wlm"),
                    network=Path(entry.path, "ns/net").stat().st_ino,
                    stopped=state in "Tt",
                    mark="" if foreign or not _sees_our_files(Path(entry.path), mark) else mark,
                    foreign=foreign,
                )
            )
    return tuple(found)


def _sees_our_files(process: Path, mark: str) -> bool:
    """Whether the sandbox of a mark is the same folder for a process as for this one."""
    root = mark.partition("=")[2]
    try:
        ours = Path(root).stat()
    except OSError:
        return True  # its files are gone, and its processes must go, too
    try:
        theirs = Path(f"{process}/root{root}").stat()
    except OSError:
        return False
    return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)


def own(layout: Layout, processes: Sequence[Process] | None = None) -> tuple[Process, ...]:
    """A sandbox's processes."""
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
    """Slurm's and munge's daemons of this machine that are no sandbox's, as `name (pid N)`.

    Those in another pid namespace are a container's: they have their own files, and are none of this machine's.
    """
    processes = living()
    networks = {process.network for process in processes if process.mark}
    return tuple(
        f"{process.name} (pid {process.pid})"
        for process in processes
        if process.name in SLURM_DAEMONS and not (process.foreign or process.mark or process.network in networks)
    )


def on_node(node: Node, name: str) -> tuple[int, ...]:
    """The pids of a program on a node."""
    pin = node.namespace("net")
    if not is_namespace(pin):
        return ()
    inode = pin.stat().st_ino
    return tuple(process.pid for process in living() if process.network == inode and process.name == name)


def is_namespace(path: Path) -> bool:
    """Whether a namespace is held by this file: then a file of the kernel's nsfs is mounted on it."""
    try:
        return path.stat().st_dev == Path("/proc/self/ns/net").stat().st_dev
    except OSError:
        return False


def entry(node: Node, user: str = "root") -> tuple[str, ...]:
    """The words before a command that run it on a node as an account, with a clean environment and `/` as folder.

    They exec into the command (no process stays between), so signals and exit codes are its own. The account is
    looked up on the node: the machine itself does not know it.
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
    """Run a command on a node to its end. Raises `subprocess.TimeoutExpired`, the command then being killed."""
    return subprocess.run([*entry(node, user), *argv], input=stdin, capture_output=True, timeout=timeout, check=False)


def control_groups(layout: Layout) -> tuple[Path, ...]:
    """A sandbox's own control group in each mounted hierarchy that it can have one in."""
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
    """Start a daemon on a node, in a session and control group of its own, so that it outlives this run.

    Neither this process's output nor its terminal is held open by it: what it says before it opens its own log goes
    to `<log>.out` among the logs. Raises `Refused` with the end of that where the daemon gives up.
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
    """Signal processes and wait until they are gone. Raises `Refused` where they outlive `patience` seconds."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, how)
            if how is not signal.SIGKILL:
                os.kill(pid, signal.SIGCONT)
    limit = time.monotonic() + patience
    while alive := {process.pid for process in living()} & set(pids):
        if time.monotonic() > limit:
            raise Refused(f"processes {sorted(alive)} do not end on {how.name}: look at them with ps")
        time.sleep(0.02)


def end_all(layout: Layout) -> None:
    """Kill every process of a sandbox: daemons, jobs, shells of people who entered a node."""
    for _ in range(20):  # a fork bomb among the jobs may need several rounds
        pids = [process.pid for process in own(layout) if process.pid != os.getpid()]
        if not pids:
            return
        end(pids)
    raise Refused("the sandbox's processes multiply as fast as they are killed: look with `ps axf`")


@contextmanager
def locked(folder: Path, say: Callable[[str], None], patience: float = 120) -> Iterator[int]:
    """Hold the lock of a folder, which is made if it is missing; its descriptor, for children that must hold it, too.

    Raises `TryAgain` if another command holds it for longer than `patience` seconds.
    """
    limit = time.monotonic() + patience
    told = False
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # its holder has removed it
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if _is_ours(descriptor, folder):
                break
            os.close(descriptor)
        if time.monotonic() > limit:
            raise TryAgain(f"another `sandbox` command is at work on {folder}: look with ps")
        if not told:
            say("waiting for another `sandbox` command to finish")
            told = True
        time.sleep(0.1)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_ours(descriptor: int, folder: Path) -> bool:
    """Lock an open folder; whether we have it and it was not removed meanwhile."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return folder.stat().st_ino == os.fstat(descriptor).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False

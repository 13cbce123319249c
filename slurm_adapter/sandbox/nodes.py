"""Build nodes from namespaces: each has its own network, hostname, mounts, `/etc`, `/run`, `/tmp` and shared memory.

Files (`namespaces/`) hold the namespaces, not processes: a killed process does not remove a node. The network's bridge
is in the login node, and the machine has one address on it. So the machine's firewall does not affect the nodes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import Refused
from slurm_adapter.sandbox import releases, settings
from slurm_adapter.sandbox.layout import HOST_NUMBER, SHARED_ON_NODES, Layout, Node
from slurm_adapter.sandbox.processes import NAMESPACE_KINDS, is_namespace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_adapter.sandbox.settings import Wishes

_FURNISH = """\
set -eu
hostname "$1"
if [ "$7" = / ]; then
    umount -l "$6"
else
    mount --bind "$7" "$7"
    cd "$7"
    mount --rbind /proc proc
    mount --rbind /sys sys
    mount --rbind /dev dev
    mkdir -p ".$8"
    mount --bind "$8" ".$8"
    mount -o remount,bind,ro .
    mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs var/tmp
    mount --bind / mnt
    mount -o remount,bind,ro mnt
    pivot_root . .
    umount -l .
    cd /
fi
mount --bind "$2" /etc
mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs /run
mkdir -p /run/sshd /run/munge
mkdir -m 1777 /run/lock
mount --bind "$3" /run/munge
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /tmp
if [ -d /dev/shm ]; then mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm; fi
mount --bind "$4" "$5"
ip link set lo up
"""
"""Script that runs in a node's new namespaces. Its own `/run` also hides the machine's name service cache and bus."""


_OWN = (
    "slurm",
    "munge",
    "sudoers",
    "resolv.conf",
    "hosts",
    "hostname",
    "nsswitch.conf",
    "shadow",
    "gshadow",
    "subuid",
    "subgid",
)
"""Prefixes of files that are not copied from the machine's `/etc`."""
_WITH_A_LARGER_NUMBER = """\
import ctypes, os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
for _ in range(4096):
    ctypes.CDLL(None).unshare(0x04000000)  # CLONE_NEWUTS: the cheapest namespace
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Program that runs a command on a processor which has used up its small namespace numbers.

A file can hold a mount namespace only if the namespace's number is larger than that of the file's own namespace
(`mnt_ns_loop` in the kernel's fs/namespace.c). From Linux 6.18 each processor takes 4096 numbers at a time. If a
container's mount namespace was made on another processor, a new namespace may get a smaller number.
"""
_PROBE = "mount -t tmpfs tmpfs /run && ip link set lo up && ip link add probe type bridge"


def obstacle() -> str:
    """Return why this kernel or container does not allow nodes. Empty if it does."""
    command = ["unshare", "--net", "--mount", "--uts", "--ipc", "--propagation=private", "sh", "-c", _PROBE]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    if not done.returncode:
        return ""
    words = done.stderr.decode(errors="replace").strip().replace("\n", " / ")
    return f"network and mount namespaces cannot be created ({words}): in a container, start it with --privileged"


def are_whole(layout: Layout, count: int) -> bool:
    """Return whether the namespaces and the network of the login node and `count` compute nodes are complete."""
    for node in (layout.login, *layout.compute(count)):
        if not all(is_namespace(node.namespace(kind)) for kind in NAMESPACE_KINDS):
            return False
        shown = _run(["nsenter", f"--net={node.namespace('net')}", "ip", "-o", "addr", "show", "dev", "eth0", "up"])
        if f" {node.address}/" not in shown:
            return False
    return f" {layout.ipv4(HOST_NUMBER)}/" in _run(["ip", "-o", "addr", "show", "up"])


def build(layout: Layout, wishes: Wishes) -> None:
    """Build all nodes. Raises `Refused` if the kernel does not allow it."""
    _check_network_is_free(layout)
    pins = layout.namespaces
    pins.mkdir(exist_ok=True)
    if not pins.is_mount():
        # A file can hold a mount namespace only if mounts do not propagate.
        _must(["mount", "--bind", str(pins), str(pins)])
    _must(["mount", "--make-private", str(pins)])
    for node in (layout.login, *layout.compute(wishes.nodes)):
        write_etc(node, wishes)
        (pins / node.name).mkdir(exist_ok=True)
        for kind in NAMESPACE_KINDS:
            node.namespace(kind).touch()
        _make_node(node, wishes)
    _connect(layout, wishes)


def _make_node(node: Node, wishes: Wishes) -> None:
    """Create a node's namespaces and its mounts."""
    layout = node.layout
    command = [
        "unshare",
        *(f"--{option}={node.namespace(kind)}" for kind, option in NAMESPACE_KINDS.items()),
        "--propagation=private",
        "sh",
        "-c",
        _FURNISH,
        "sh",
        node.name,
        str(node.etc),
        str(layout.munge_socket.parent),
        str(layout.shared),
        str(SHARED_ON_NODES),
        str(layout.namespaces),
        str(releases.tree(wishes.release)),
        str(layout.root),
    ]
    try:
        _must(command)
    except Refused as problem:
        if "Invalid argument" not in str(problem):
            raise
        for kind in NAMESPACE_KINDS:
            subprocess.run(["umount", "-l", node.namespace(kind)], capture_output=True, timeout=30, check=False)
        _must([sys.executable, "-c", _WITH_A_LARGER_NUMBER, *command])


def remove(layout: Layout) -> None:
    """Remove the namespaces and the network. Their processes must have ended. Safe to repeat."""
    subprocess.run(["ip", "link", "delete", layout.host_interface], capture_output=True, timeout=30, check=False)
    for mount in sorted(_mounts_below(layout.root), reverse=True):
        _must(["umount", "-l", mount])
    shutil.rmtree(layout.namespaces, ignore_errors=True)
    shutil.rmtree(layout.nodes, ignore_errors=True)


def write_etc(node: Node, wishes: Wishes) -> None:
    """Write a node's `/etc`: a copy of its release's, with its own names, accounts, sudo rules and keys."""
    etc, layout = node.etc, node.layout
    theirs = releases.tree(wishes.release) / "etc"
    shutil.rmtree(etc, ignore_errors=True)
    etc.parent.mkdir(parents=True, exist_ok=True)
    _must(["cp", "-a", "--reflink=auto", str(theirs), str(etc)])
    for copied in [*etc.iterdir(), *etc.glob("ssh/ssh_host_*")]:
        if copied.name.startswith((*_OWN, "ssh_host_")):
            _remove(copied)
    accounts = settings.passwd((theirs / "passwd").read_text(encoding="utf-8"))
    _write(etc / "passwd", accounts)
    _write(etc / "group", settings.group((theirs / "group").read_text(encoding="utf-8")))
    _write(etc / "shadow", settings.shadow(accounts), mode=0o600)
    _write(etc / "hostname", f"{node.name}\n")
    _write(etc / "hosts", settings.hosts((layout.login, *layout.compute(wishes.nodes))))
    _write(etc / "nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files\n")
    _write(etc / "resolv.conf", "# The sandbox has no name server.\n")
    _write(etc / "sudoers", settings.sudoers(), mode=0o440)
    (etc / "slurm").symlink_to(layout.slurm)
    if node == layout.login:
        _write(etc / "ssh" / "sshd_config", settings.sshd_config(layout))
        keys = etc / "ssh" / "authorized_keys"
        keys.mkdir()
        shutil.copyfile(layout.keys / "id_ed25519.pub", keys / "ucloud")


def refresh_etc(node: Node) -> None:
    """Copy what packages have added to the machine's `/etc` since the node was made, such as alternatives(8)."""
    there = Path("/etc")
    for source in [*there.iterdir(), *there.glob("alternatives/*")]:
        target = node.etc / source.relative_to(there)
        if not os.path.lexists(target) and not source.name.startswith(_OWN):
            _must(["cp", "-a", str(source), str(target)])
    if (cache := there / "ld.so.cache").exists():
        shutil.copy2(cache, node.etc / cache.name)


def _connect(layout: Layout, wishes: Wishes) -> None:
    """Connect the nodes by a bridge in the login node. The bridge is also that node's interface."""
    hub = layout.login.namespace("net")
    _ip(f"link add {layout.host_interface} type veth peer name to-host netns {hub}")
    _inside(
        layout.login, "link add eth0 type bridge forward_delay 0", "link set to-host master eth0", "link set to-host up"
    )
    for node in layout.compute(wishes.nodes):
        _inside(
            layout.login,
            f"link add to-{node.name} type veth peer name eth0 netns {node.namespace('net')}",
            f"link set to-{node.name} master eth0",
            f"link set to-{node.name} up",
        )
    for node in (layout.login, *layout.compute(wishes.nodes)):
        _inside(node, f"addr add {node.address}/24 dev eth0", "link set eth0 up")
        _add_ipv6(node.address6, ["nsenter", f"--net={node.namespace('net')}"], "eth0")
    _ip(f"addr add {layout.ipv4(HOST_NUMBER)}/24 dev {layout.host_interface}", f"link set {layout.host_interface} up")
    _add_ipv6(layout.ipv6(HOST_NUMBER), [], layout.host_interface)


def _check_network_is_free(layout: Layout) -> None:
    prefix = layout.ipv4(0).removesuffix("0")
    for line in _run(["ip", "-o", "-4", "addr", "show"]).splitlines():
        fields = line.split()
        if fields[3].startswith(prefix) and fields[1] != layout.host_interface:
            raise Refused(f"the sandbox's network {prefix}0/24 is in use on this machine's interface {fields[1]}")


def _add_ipv6(address: str, prefix: Sequence[str], device: str) -> None:
    """Add an IPv6 address. Failure is ignored: IPv6 may be disabled, and nothing here depends on it."""
    command = [*prefix, "ip", "addr", "add", f"{address}/64", "dev", device, "nodad"]
    subprocess.run(command, capture_output=True, timeout=30, check=False)


def _ip(*lines: str) -> None:
    _must(["ip", "-batch", "-"], stdin="\n".join(lines) + "\n")


def _inside(node: Node, *lines: str) -> None:
    _must(["nsenter", f"--net={node.namespace('net')}", "ip", "-batch", "-"], stdin="\n".join(lines) + "\n")


def _run(argv: Sequence[str]) -> str:
    return subprocess.run(argv, capture_output=True, timeout=30, check=False).stdout.decode(errors="replace")


def _must(argv: Sequence[str], stdin: str = "") -> None:
    done = subprocess.run(argv, input=stdin.encode(), capture_output=True, timeout=60, check=False)
    if done.returncode:
        words = " / ".join(done.stderr.decode(errors="replace").split("\n")).strip(" /")
        raise Refused(f"the sandbox's nodes cannot be created: `{' '.join(argv[:3])} ...` failed: {words}")


def _mounts_below(folder: Path) -> list[str]:
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    points = [line.split()[4] for line in text.splitlines()]
    return [point for point in points if point == str(folder) or point.startswith(f"{folder}/")]


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    _remove(path)
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

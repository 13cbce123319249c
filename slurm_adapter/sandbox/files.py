"""Create the sandbox's folders, keys and configuration files. Every function is safe to repeat."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
import subprocess
from dataclasses import asdict
from pathlib import Path

from slurm_adapter.core.errors import Refused
from slurm_adapter.sandbox import releases, settings
from slurm_adapter.sandbox.layout import (
    ADAPTER,
    ALICE,
    DATABASE_ACCOUNT,
    JOB_ACCOUNTS,
    MUNGE_ACCOUNT,
    RESEARCH_GROUP,
    SLURM_ACCOUNT,
    Layout,
)
from slurm_adapter.sandbox.settings import GPUS, Wishes

_SHAPE = 3
"""Version of the files and mounts. Increase it if they change."""
_NULL_DEVICE = os.makedev(1, 3)


def read_record(layout: Layout) -> Wishes | None:
    """Read the settings that the existing sandbox was made with.

    Return None if there is no sandbox, if a killed run did not finish it, or if another version of this program made
    it with other files. It is then rebuilt.
    """
    try:
        record = json.loads(layout.record.read_text(encoding="utf-8"))
        return Wishes(**record["wishes"]) if record["shape"] == _SHAPE else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_record(layout: Layout, wishes: Wishes) -> None:
    """Write the sandbox's settings atomically."""
    replace(layout.record, json.dumps({"shape": _SHAPE, "wishes": asdict(wishes)}) + "\n")


def is_outdated(layout: Layout, wishes: Wishes) -> bool:
    """Return whether packages were installed after the record was written.

    For example, a slurmd that was started before the PMIx library was installed cannot start steps: it and its
    slurmstepd then have different plugins.
    """
    try:
        return (
            releases.tree(wishes.release).joinpath("var/lib/dpkg/status").stat().st_mtime
            > layout.record.stat().st_mtime
        )
    except FileNotFoundError:
        return False


def make_folders(layout: Layout, wishes: Wishes) -> None:
    """Create all folders. Raises `Refused` if the disk is too full."""
    free = shutil.disk_usage(layout.root.parent).free
    if free < 300 * 1024 * 1024:
        raise Refused(f"{layout.root.parent} has {free >> 20} MiB free; the sandbox needs 300 MiB")
    research = RESEARCH_GROUP[1]
    _folder(layout.root)
    for plain in (
        layout.slurm,
        layout.spool,
        layout.log,
        layout.run,
        layout.shared,
        layout.shared / "home",
        layout.shared / "drives",
        layout.devices,
    ):
        _folder(plain)
    for secret in (layout.keys, layout.state):
        _folder(secret, mode=0o700, owner=None)
    layout.keys.chmod(0o711)  # munged runs as its own account and must reach its key
    for service, name in ((SLURM_ACCOUNT, "slurmctld"), (MUNGE_ACCOUNT, "munge"), (DATABASE_ACCOUNT, "mysql")):
        for parent in (layout.log, layout.run):
            _folder(parent / name, owner=service.uid)
    _folder(layout.spool / "slurmctld", mode=0o700, owner=SLURM_ACCOUNT.uid)
    _folder(layout.spool / "munge", mode=0o700, owner=MUNGE_ACCOUNT.uid)
    _folder(layout.keys / "munge", mode=0o700, owner=MUNGE_ACCOUNT.uid)
    for node in layout.compute(wishes.nodes):
        _folder(layout.spool / node.name)
    for account in (ADAPTER, *JOB_ACCOUNTS):
        home = layout.shared / "home" / account.name
        _folder(home, mode=0o700, owner=account.uid)
        if account in JOB_ACCOUNTS:
            _folder(home / "ucloud-jobs", mode=0o700, owner=account.uid)
    _folder(layout.shared / "ucloud", owner=ADAPTER.uid)
    _folder(layout.shared / "drives" / "123", mode=0o2770, owner=ALICE.uid, group=research)
    _folder(layout.shared / "drives" / "123" / "acme-database", mode=0o2770, owner=ALICE.uid, group=research)
    _make_devices(layout)


def _make_devices(layout: Layout) -> None:
    for index in range(GPUS):
        device = layout.devices / f"gpu{index}"
        if not device.exists():
            os.mknod(device, stat.S_IFCHR | 0o666, _NULL_DEVICE)
            device.chmod(0o666)


def make_keys(layout: Layout) -> None:
    """Create missing keys: munge's, the login node's host key, the adapter's key pair. Write known_hosts."""
    munge = layout.keys / "munge" / "munge.key"
    if not munge.exists() or munge.stat().st_size < 32:
        munge.touch(mode=0o600)
        munge.write_bytes(secrets.token_bytes(128))
        os.chown(munge, MUNGE_ACCOUNT.uid, MUNGE_ACCOUNT.uid)
        munge.chmod(0o400)
    for name in ("ssh_host_ed25519_key", "id_ed25519"):
        private, public = layout.keys / name, layout.keys / f"{name}.pub"
        if not (private.exists() and public.exists()):
            private.unlink(missing_ok=True)
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "slurm-adapter sandbox", "-f", str(private)]
            subprocess.run(command, check=True, capture_output=True, timeout=30)
    kind, key = (layout.keys / "ssh_host_ed25519_key.pub").read_text(encoding="utf-8").split()[:2]
    replace(layout.keys / "known_hosts", f"{layout.login.address} {kind} {key}\n{layout.login.address6} {kind} {key}\n")


def write_slurm_files(layout: Layout, wishes: Wishes) -> bool:
    """Write Slurm's configuration. Return whether it changed."""
    differing = differing_slurm_files(layout, wishes)
    for path, text in differing.items():
        replace(path, text)
    return bool(differing)


def differing_slurm_files(layout: Layout, wishes: Wishes) -> dict[Path, str]:
    """Return the missing or changed files of Slurm's configuration, with their expected text."""
    texts = {
        layout.slurm / "slurm.conf": settings.slurm_conf(
            layout, wishes, memory_limits=not memory_limits_problem(layout)
        ),
        layout.slurm / "cgroup.conf": settings.cgroup_conf(),
        layout.slurm / "gres.conf": settings.gres_conf(layout),
    }
    return {path: text for path, text in texts.items() if not path.exists() or path.read_text() != text}


def memory_limits_problem(layout: Layout) -> str:
    """Return why the memory of jobs cannot be limited on this machine. Empty if it can.

    Slurm's cgroup/v1 plugin needs the hierarchies `memory` and `freezer`, mounted writable below /sys/fs/cgroup.
    """
    for controller in ("memory", "freezer"):
        folder = Path("/sys/fs/cgroup") / controller
        if not (folder / "release_agent").exists():
            return f"the cgroup v1 hierarchy {controller} is not at {folder}: memory limits of jobs are not enforced"
        try:
            (folder / layout.control_group).mkdir(exist_ok=True)
        except OSError as error:
            return f"{folder} is not writable ({error.strerror}): memory limits of jobs are not enforced"
    return ""


def replace(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a file atomically."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.chmod(mode)
    new.replace(path)


def _folder(path: Path, mode: int = 0o755, owner: int | None = 0, group: int | None = None) -> None:
    """Create a folder, or correct the mode and owner of an existing one. Owner None keeps the owner."""
    path.mkdir(parents=True, exist_ok=True)
    if owner is not None:
        os.chown(path, owner, owner if group is None else group)
    path.chmod(mode)

"""Root file systems of other releases of Debian or Ubuntu, made by debootstrap and kept in `CACHE`.

A node of another release has such a root, read-only. The adapter runs outside, with the machine's own Python.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import Refused, TryAgain
from slurm_adapter.sandbox.layout import BASE, CACHE
from slurm_adapter.sandbox.packages import ACCOUNTING_PACKAGES, PACKAGES
from slurm_adapter.sandbox.processes import locked

if TYPE_CHECKING:
    from collections.abc import Callable

_SCRIPTS = Path("/usr/share/debootstrap/scripts")
_ROOM = 3 * 1024**3
"""Free bytes that a new root needs."""
_DAYS = 7
"""Days after which an unused root is rebuilt. sid changes every day, and other releases get updates."""
_APT_OPTIONS = "etc/apt/apt.conf.d/00machine"
_TOOLS = ("procps", "curl", "python3", "perl")
"""Packages for jobs of the tests."""
_QUICK = """\
force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/info/*
"""
"""Options of dpkg. An incomplete root is deleted after a crash, so syncing to disk is not needed."""
_INSTALL = """\
set -eu
root=$1
shift
mount -t proc proc "$root/proc"
chroot "$root" apt-get -q update
chroot "$root" apt-get -q -o Dpkg::Use-Pty=0 install -y --no-install-recommends "$@"
rm -rf "$root"/var/cache/apt/archives "$root"/var/lib/apt/lists
"""


def own_release() -> str:
    """Return the code name of the machine's own release."""
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "")


def tree(release: str) -> Path:
    """Return the root folder of a release (empty: the machine's own). It exists only if it is complete."""
    return CACHE / release if release else Path("/")


def canonical(release: str) -> str:
    """Return the release, or an empty string if it is the machine's own. Raises `Refused`."""
    if not re.fullmatch(r"[a-z]*", release):
        raise Refused(f"{release!r} is not a release: give a code name like trixie or sid")
    return "" if release == own_release() else release


def make(release: str, say: Callable[[str], None]) -> None:
    """Build the root of a release, if it is missing or old. Takes minutes.

    If a new root cannot be built, the old one is kept, with a note. Raises `Refused` if the disk is too full, and
    `TryAgain` if there is no such release or its packages cannot be downloaded.
    """
    if _is_good(release):
        return
    with locked(CACHE, say, patience=1800) as lock:
        if _is_good(release):
            return
        root, new = tree(release), CACHE / f".{release}.new"
        free = shutil.disk_usage(CACHE).free
        if free < _ROOM:
            raise Refused(f"{CACHE} has {free >> 20} MiB free; a root of {release} needs {_ROOM >> 20} MiB")
        say(f"building a root of {release} in {root}; this takes minutes, once")
        shutil.rmtree(new, ignore_errors=True)  # left by a killed run; its mounts ended with its processes
        try:
            _build(release, new, lock, say)
        except TryAgain as problem:
            if not root.exists():
                raise
            say(f"note: {problem}. The root of {_made_on(root):%Y-%m-%d} is used instead")
        else:
            shutil.rmtree(root, ignore_errors=True)
            new.rename(root)
            say(f"the root of {release} is complete")
        finally:
            shutil.rmtree(new, ignore_errors=True)


def purge(say: Callable[[str], None]) -> None:
    """Remove the roots of all releases. Raises `Refused` if a sandbox uses one of them."""
    if not CACHE.exists():
        return
    with locked(CACHE, say):
        # Rename first: a concurrent `up` has recorded by now that it uses a root, or will not find it.
        away = [(root, root.rename(root.with_name(f".{root.name}.old"))) for root in CACHE.glob("[!.]*")]
        if users := [path for root, _ in away for path in _users(root.name)]:
            for root, moved in away:
                moved.rename(root)
            raise Refused(f"{CACHE} is in use by {', '.join(map(str, users))}: remove these sandboxes first")
        say(f"removing {CACHE}")
        shutil.rmtree(CACHE)


def must_be_there(release: str) -> None:
    """Raise `TryAgain` if a root was removed before a sandbox's record showed that it is in use."""
    if not tree(release).exists():
        raise TryAgain(f"the root of {release} was removed at the same time: run `sandbox down`, then `sandbox up`")


def _is_good(release: str) -> bool:
    """Return whether a release's root exists, and is in use or not old."""
    root = tree(release)
    if not root.exists():
        return False
    return bool(_users(release)) or datetime.now(UTC) - _made_on(root) < timedelta(days=_DAYS)


def _users(release: str) -> list[Path]:
    """Return the folders of the sandboxes that use a release."""
    records = BASE.parent.glob(f"{BASE.name}*/sandbox.json")
    return [path.parent for path in records if f'"release": "{release}"' in path.read_text(encoding="utf-8")]


def _made_on(root: Path) -> datetime:
    return datetime.fromtimestamp((root / _APT_OPTIONS).stat().st_mtime, UTC)


def _build(release: str, root: Path, lock: int, say: Callable[[str], None]) -> None:
    _debootstrap(release, root, lock, say)
    (root / "etc/dpkg/dpkg.cfg.d/sandbox").write_text(_QUICK, encoding="utf-8")
    (root / _APT_OPTIONS).write_text(_apt_options(), encoding="utf-8")
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    policy.chmod(0o755)
    _run(release, ["sh", "-c", _INSTALL, "sh", str(root), *PACKAGES, *ACCOUNTING_PACKAGES, *_TOOLS], lock, say)


def _debootstrap(release: str, root: Path, lock: int, say: Callable[[str], None]) -> None:
    """Build a minimal system. For a release newer than debootstrap, use the script of Debian's newest release."""
    script = _SCRIPTS / release
    if not script.exists():
        script = _SCRIPTS / "sid"
    ubuntu = script.resolve().name == "gutsy"
    words = ["--variant=minbase", "--force-check-gpg", f"--components=main{',universe' if ubuntu else ''}"]
    command = ["debootstrap", *words, release, str(root)]
    own = _SCRIPTS / own_release()
    if own.exists() and own.resolve() == script.resolve() and (mirror := _mirror()):
        command += [mirror, str(script)]
    _run(release, command, lock, say)


def _mirror() -> str:
    """Return the package mirror of this machine's own release. Empty if it is not clear."""
    words = ["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    rows = [line.split() for line in done.stdout.splitlines()]
    return next((row[2] for row in rows if row[:2] == [own_release(), "main"] and row[2].startswith("http")), "")


def _apt_options() -> str:
    """Return this machine's apt options for downloads, such as proxies and certificates."""
    done = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, timeout=60, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("Acquire::") and not line.endswith('"";')]
    return "\n".join([*lines, 'Acquire::Languages "none";', 'APT::Install-Recommends "false";', ""])


def _run(release: str, argv: list[str], lock: int, say: Callable[[str], None]) -> None:
    """Run a step in its own namespaces. It ends if this process ends. Raises `TryAgain` with its last error message."""
    alone = [
        "setpriv",
        "--pdeathsig=KILL",
        "unshare",
        "--mount",
        "--propagation=private",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    last, shown = "", ""
    with subprocess.Popen(
        [*alone, *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=[lock],
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            words = line.strip()
            if words.startswith(("E:", "Err:", "W: Failure")) or "No space left" in words:
                last = words.removeprefix("E: ")
            phase = words.split()[1] if words.startswith("I: ") else words if words.startswith("Need to get") else ""
            if phase and phase != shown and phase not in {"Validating", "Valid"}:
                shown = phase
                say(words.removeprefix("I: "))
    if process.returncode:
        raise TryAgain(
            f"the root of {release} could not be built ({last or f'exit code {process.returncode}'}): check that "
            f"{release} is the code name of a release, that this machine reaches its package mirror and has 3 GB free"
        )

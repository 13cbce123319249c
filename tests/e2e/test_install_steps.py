"""README's steps of the installation, run on a bare Debian as a new user runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
STEPS = README.partition("## Install at a site")[2].partition("## Connect UCloud")[0]

FILES = {
    4: "/etc/sudoers.d/slurm-adapter",
    6: "/etc/slurm-adapter/config.toml",
    9: "/etc/systemd/system/slurm-adapter-gateway.service",
}
"""Where a step says to write its block that is no command."""

CERTIFICATES = "/machine-certificates.pem"
"""Certificates of this machine, if pip uses others than its own here."""

IN_ROOT = """
mount --bind /proc "$1/proc" && mount --bind /dev "$1/dev"
[ ! -d "$PIP_FIND_LINKS" ] || { mkdir -p "$1/$PIP_FIND_LINKS" && mount --bind "$PIP_FIND_LINKS" "$1/$PIP_FIND_LINKS"; }
exec chroot "$1" /bin/bash -e
"""


def blocks(step: int) -> list[tuple[str, str]]:
    """Return the language and the text of each block of a step."""
    text = re.split(r"^\d+\. ", STEPS, flags=re.MULTILINE)[step]
    found = re.findall(r"^   ```(\w*)\n(.*?)^   ```$", text, re.MULTILINE | re.DOTALL)
    return [(language, re.sub("^   ", "", body, flags=re.MULTILINE)) for language, body in found]


def script(step: int) -> str:
    """Return what a user types in a step, on Debian."""
    lines = []
    for language, body in blocks(step):
        if language != "sh":
            lines.append(f"mkdir -p {Path(FILES[step]).parent} && cat >{FILES[step]} <<'END'\n{body}END")
        else:
            lines += [line for line in body.splitlines() if not line.startswith("dnf ")]
    return "\n".join(lines) + "\n"


class BareDebian:
    """The root folder of a release, with nothing but its essential packages."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, commands: str) -> subprocess.CompletedProcess[str]:
        """Run commands as root there."""
        environment = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        environment |= {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
        environment |= {"DEBIAN_FRONTEND": "noninteractive", "PIP_FIND_LINKS": environment.get("PIP_FIND_LINKS", "")}
        if "PIP_CERT" in environment:
            environment["PIP_CERT"] = CERTIFICATES
        return subprocess.run(
            ["unshare", "-m", "bash", "-c", IN_ROOT, "bash", str(self.root)],
            input=commands, env=environment, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip


@pytest.fixture(params=["bookworm", "trixie"])
def debian(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BareDebian]:
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("a bare Debian takes root and debootstrap")
    root = tmp_path / "root"
    subprocess.run(["debootstrap", "--variant=minbase", request.param, root], check=True, capture_output=True)
    for path, copy in (("/etc/resolv.conf",) * 2, ("/etc/hosts",) * 2, (os.environ.get("PIP_CERT"), CERTIFICATES)):
        if path is not None:
            shutil.copyfile(path, root / copy.lstrip("/"))
    source = subprocess.run(["git", "-C", ROOT, "archive", "HEAD"], check=True, capture_output=True).stdout
    (root / "source").mkdir()
    subprocess.run(["tar", "-x", "-C", root / "source"], input=source, check=True)
    yield BareDebian(root)
    shutil.rmtree(root)


@pytest.mark.long
def test_a_new_user_installs_it_on_a_bare_debian(debian: BareDebian) -> None:
    """Up to `check`, which finds no Slurm there and says so."""
    done = debian.run("groupadd hpc && useradd -m -G hpc alice && mkdir /shared")
    assert done.returncode == 0, done.stderr
    for step in (1, 2, 3, 4, 5, 6, 9):
        done = debian.run(f"cd /source\n{script(step)}")
        assert done.returncode == 0, f"step {step}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    checked = debian.run(script(7).splitlines()[0])
    assert checked.returncode == 1
    assert "problem  the cluster cannot be reached" in checked.stdout
    assert checked.stdout.count("problem  ") == 1

"""The wheel, installed into an environment of its own that has the dependencies and nothing of this checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest


def install_wheel(folder: Path) -> Path:
    """Build the wheel, install it below a folder without an index, and return the environment's prefix."""
    pytest.importorskip("hatchling", reason="a wheel is built by hatchling: pip install hatchling")
    wheels, prefix = folder / "wheels", folder / "venv"
    pip = (sys.executable, "-m", "pip")
    _run(*pip, "wheel", ".", "-q", "--no-deps", "--no-build-isolation", "-w", wheels)
    _run(sys.executable, "-m", "venv", "--without-pip", prefix)
    [wheel] = wheels.iterdir()
    _run(*pip, "--python", prefix, "install", "-q", "--no-deps", "--no-index", wheel)
    # Folders named in a .pth file are searched, and their own .pth files (the checkout's among them) are not read.
    [packages] = prefix.glob("lib/python3*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return prefix


def _run(*words: str | Path) -> None:
    checkout = Path(__file__).parent.parent
    done = subprocess.run(words, capture_output=True, text=True, timeout=180, check=False, cwd=checkout)
    assert done.returncode == 0, done.stdout + done.stderr

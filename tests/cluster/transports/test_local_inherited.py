"""An adapter that cron, nohup or a service manager started with signals ignored and blocked, and descriptors open."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LOOK = 'grep -E "^Sig(Blk|Ign)" /proc/self/status; umask; for one in /proc/self/fd/*; do echo "${one##*/}"; done'
PROGRAM = f"""
import json, sys, threading
from slurm_adapter.cli.inherited import reset_signals
from slurm_adapter.cluster.transports.interface import Command, Terminal
from slurm_adapter.cluster.transports.local import LocalTransport

reset_signals()
transport = LocalTransport()
command = Command(("sh", "-c", {LOOK!r}))
found = []
def look():
    found.append(transport.run(command).text)
    for terminal in (None, Terminal()):
        stream = transport.open(command, terminal)
        found.append(b"".join(iter(stream.read, b"")).decode())
        stream.close()
    found.append(str(transport.run(Command(("sh", "-c", "exit 3"))).status))
for each in (threading.Thread(target=look), None):
    each.start() or each.join() if each else look()
print(json.dumps(found))
"""


def start(*starter: str) -> list[str]:
    """Run the program above, and return what its commands have seen."""
    done = subprocess.run([*starter, sys.executable, "-c", PROGRAM], capture_output=True, check=True, timeout=60)
    return [text.replace("\r", "") for text in json.loads(done.stdout)]


def test_no_command_inherits_what_the_adapter_did() -> None:
    hostile = str(Path(__file__).parents[2] / "hostile.py")
    found = start(sys.executable, hostile)
    assert found == start()
    looks = [text for text in found if text != "3"]
    assert len(looks) == 6
    for text in looks:
        assert "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n0022\n0\n1\n2\n" in text
        assert "77" not in text.split()
    assert found.count("3") == 2  # an ignored SIGCHLD hides it


@pytest.mark.parametrize("arguments", [["--version"], ["applications", "--help"]])
def test_the_command_line_works_under_such_a_starter(arguments: list[str]) -> None:
    hostile = str(Path(__file__).parents[2] / "hostile.py")
    command = [sys.executable, hostile, sys.executable, "-m", "slurm_adapter", *arguments]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0

"""`slurm-adapter serve` as a process of its own, as a site runs it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx

from tests.gateway.tls import TLS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def free_port() -> int:
    """A port of the loopback interface on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextmanager
def serving(config: Path, port: int, *, killed: bool = False) -> Iterator[str]:
    """Serve within the block, by a configuration that names this port; gives the URL.

    Ends gently, with code 0, unless it is to be `killed`. What it logs is beside the configuration.
    """
    command = [sys.executable, "-m", "slurm_adapter", "--config", str(config), "serve"]
    log = config.with_suffix(".log")
    with log.open("a") as stderr, subprocess.Popen(command, stderr=stderr, env=dict(os.environ)) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(600):
                assert process.poll() is None, log.read_text()
                try:
                    httpx.get(f"{url}/healthz", timeout=10, verify=TLS)
                    break
                except httpx.ConnectError:
                    time.sleep(0.05)
            yield url
            if killed:
                return
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text()
        finally:
            process.kill()

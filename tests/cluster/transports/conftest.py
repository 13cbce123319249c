"""A real sshd on a loopback port, a fake `sudo` on PATH, and a home directory of the test's own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from slurm_adapter.cluster.transports.local import LocalTransport
from slurm_adapter.cluster.transports.ssh import SshTransport
from slurm_adapter.cluster.transports.ssh_config import SshSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slurm_adapter.cluster.transports.interface import Transport

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")


@dataclass(frozen=True)
class Sshd:
    """A running server, and how to log in to it."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    host_key: str
    """Algorithm and key, as in a file of known hosts."""
    settings: SshSettings

    def connections(self) -> list[int]:
        """The process ids that serve a connection each."""
        return _children(self.process.pid)

    def kill_connections(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to each of them, and to those who serve for them (sshd is two processes for other users)."""
        for pid in self.connections():
            for one in (pid, *(child for child in _children(pid) if "sshd" in _program(child))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, number)


class StartSshd(Protocol):
    """The fixture `start_sshd`."""

    def __call__(self, *extra: str) -> Sshd:
        """Start a server with more lines in its sshd_config."""


def _children(pid: int) -> list[int]:
    """Return the child processes; none if the process has just ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return []


def _program(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8")
    return ""


def make_key(file: Path) -> Path:
    """Make a key pair and return the private key's file."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file], check=True, timeout=30)
    return file


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    """Fail a test that leaves a thread behind."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(15)  # a process that does not end has ten seconds until it is killed
        assert not thread.is_alive(), thread


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """The first folder of PATH on the cluster, here or there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Return the folder with the keys of the first, second, ... server of a test. They are made once for all tests."""

    @cache
    def made(number: int) -> Path:
        folder = tmp_path_factory.mktemp(f"keys{number}")
        make_key(folder / "host_key")
        make_key(folder / "user_key")
        return folder

    return made


@pytest.fixture
def start_sshd(tmp_path: Path, bin_folder: Path, keys: Callable[[int], Path]) -> Iterator[StartSshd]:
    """Start servers, each in a folder of its own; they are stopped afterwards."""
    if SSHD is None:
        pytest.skip("sshd is not installed (Debian: openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    running: list[Sshd] = []

    def start(*extra: str) -> Sshd:
        folder = tmp_path / f"sshd{len(running)}"
        shutil.copytree(keys(len(running)), folder)
        host_key, user_key = folder / "host_key", folder / "user_key"
        port = free_port()
        lines = [
            *extra,
            f"Port {port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {host_key}",
            f"AuthorizedKeysFile {user_key}.pub",
            # One directive: sshd takes the first only. HOME, so that no start-up file of this account is read.
            f"SetEnv PATH={bin_folder}:/usr/bin:/bin HOME={folder}",
            "PidFile none",
            "UsePAM no",
            "StrictModes no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin yes",
        ]
        (folder / "sshd_config").write_text("\n".join(lines) + "\n", encoding="utf-8")
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
        public = " ".join((folder / "host_key.pub").read_text(encoding="ascii").split()[:2])
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}\n", encoding="ascii")
        settings = SshSettings(
            host="127.0.0.1",
            port=port,
            user=getpass.getuser(),
            key_files=(user_key,),
            known_hosts=folder / "known_hosts",
        )
        server = Sshd(process, port, folder, public, settings)
        running.append(server)
        _wait_for(server)
        return server

    yield start
    for server in running:
        server.kill_connections()
        server.process.terminate()
        server.process.wait(10)


def _wait_for(server: Sshd) -> None:
    for _ in range(200):
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", server.port)):
            return
        assert server.process.poll() is None, (server.folder / "log").read_text(encoding="utf-8")
        time.sleep(0.05)
    pytest.fail(f"sshd does not listen: {(server.folder / 'log').read_text(encoding='utf-8')}")


@pytest.fixture
def sshd(start_sshd: StartSshd) -> Sshd:
    """One server."""
    return start_sshd()


@pytest.fixture
def ssh(sshd: Sshd) -> Iterator[SshTransport]:
    """A transport to that server."""
    transport = SshTransport(replace(sshd.settings))
    yield transport
    transport.close()


@pytest.fixture(params=["local", "ssh"])
def transport(request: pytest.FixtureRequest, bin_folder: Path) -> Iterator[Transport]:
    """Every transport that really runs commands."""
    if request.param == "ssh":
        yield request.getfixturevalue("ssh")
    else:
        yield LocalTransport(environment={"PATH": f"{bin_folder}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"})

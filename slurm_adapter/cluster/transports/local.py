"""Runs commands on this machine, if the adapter runs on a login node or next to a cluster in a container."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import selectors
import shutil
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

from slurm_adapter.cluster.transports.deadline import Deadline
from slurm_adapter.cluster.transports.frame import ROOM, Frame
from slurm_adapter.cluster.transports.interface import Command, CommandTimeout, NotConnected, Result, TooMuchOutput
from slurm_adapter.cluster.transports.local_stream import UMASK, start

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import IO

    from slurm_adapter.cluster.transports.interface import Stream, Terminal

_CHUNK = 1024 * 1024
_REAP_SECONDS = 2.0
"""Seconds to wait for a killed command."""


def clean_environment() -> dict[str, str]:
    """Return the environment for commands: none of the adapter's secrets, and a fixed locale."""
    own = pwd.getpwuid(os.geteuid())
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": own.pw_dir,
        "USER": own.pw_name,
        "LOGNAME": own.pw_name,
        "SHELL": own.pw_shell or "/bin/sh",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
    }


class LocalTransport:
    """Runs each command as a child process, in `/`, in its own session.

    `prefix` precedes every command, to enter a container or a namespace. `environment` is the whole environment of the
    commands, by default `clean_environment()`.
    """

    def __init__(self, prefix: tuple[str, ...] = (), environment: Mapping[str, str] | None = None) -> None:
        self._prefix = prefix
        self._environment = clean_environment() if environment is None else dict(environment)

    def run(self, command: Command) -> Result:
        """Run a command to its end; see `Transport.run`."""
        deadline = Deadline(command.timeout)
        frame = Frame(command)
        process = self._start(command, frame)
        try:
            stdout, stderr, ended = _exchange(process, command, frame, deadline)
            status = None
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(min(_REAP_SECONDS, deadline.left) if ended else deadline.left)
            if status is None and not ended:
                raise _late(command)
        finally:
            _end(process)
        if status is not None and status < 0:
            status = 128 - status
        place = f"It must be installed on this machine; looked in {self._environment.get('PATH', os.defpath)}"
        return frame.read(status, stdout, stderr, place)

    def open(self, command: Command, terminal: Terminal | None = None) -> Stream:
        """Start a command as a stream; see `Transport.open`."""
        words = (*self._prefix, *command.words)
        path = self._environment.get("PATH", os.defpath)
        if shutil.which(words[0], path=path) is None:
            raise _missing(words[0], "no such program", path)
        try:
            return start(words, self._environment, terminal)
        except OSError as error:
            raise _missing(words[0], error.strerror, path) from error

    def close(self) -> None:
        """See `Transport.close`."""

    def _start(self, command: Command, frame: Frame) -> subprocess.Popen[bytes]:
        words = (*self._prefix, *frame.words)
        try:
            # Not `with Popen(...)`, which waits without limit for a command that we may not be allowed to kill.
            return subprocess.Popen(
                words,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment,
                cwd="/",
                start_new_session=True,
                umask=UMASK,
            )
        except OSError as error:
            program = words[0] if error.errno == errno.ENOENT else command.argv[0]
            raise _missing(program, error.strerror, self._environment.get("PATH", os.defpath)) from error


def _missing(program: str, why: str | None, path: str) -> NotConnected:
    return NotConnected(f"cannot start {program}: {why}\nIt must be installed on this machine; looked in {path}")


def _exchange(
    process: subprocess.Popen[bytes], command: Command, frame: Frame, deadline: Deadline
) -> tuple[bytes, bytes, bool]:
    """Write stdin and read stdout and stderr at the same time, until both end or are complete.

    Return both, and whether both are complete.
    """
    stdin, stdout, stderr = _pipes(process)
    outputs: dict[object, bytearray] = {stdout: bytearray(), stderr: bytearray()}
    open_, ended = {stdout, stderr}, set()
    unsent = memoryview(frame.stdin)
    os.set_blocking(stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        for pipe in open_:
            selector.register(pipe, selectors.EVENT_READ)
        selector.register(stdin, selectors.EVENT_WRITE)
        while open_:
            ready = selector.select(deadline.left)
            if deadline.passed:
                raise _late(command)
            for key, _ in ready:
                if key.fileobj is stdin:
                    unsent = unsent[_write(stdin, unsent) :]
                    if not unsent:
                        selector.unregister(stdin)
                        stdin.close()
                    continue
                pipe = stdout if key.fileobj is stdout else stderr
                chunk = os.read(key.fd, _CHUNK)
                outputs[pipe].extend(chunk)
                if sum(map(len, outputs.values())) > command.output_limit + ROOM:
                    raise TooMuchOutput(f"{command} wrote more than {command.output_limit} bytes and was stopped")
                if frame.ended(outputs[pipe], len(chunk)):
                    ended.add(pipe)
                if not chunk or pipe in ended:
                    selector.unregister(pipe)
                    open_.remove(pipe)
    return bytes(outputs[stdout]), bytes(outputs[stderr]), len(ended) == len(outputs)


def _write(stdin: IO[bytes], unsent: memoryview) -> int:
    """Write as much as the pipe takes; all of it if the command has ended without reading."""
    try:
        return os.write(stdin.fileno(), unsent[:_CHUNK])
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        return len(unsent)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the command's pipes, and kill its whole process group if it still runs."""
    for pipe in _pipes(process):
        pipe.close()
    if process.poll() is not None:
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(_REAP_SECONDS)
    except (PermissionError, subprocess.TimeoutExpired):
        # Another account's process (sudo runs as root), or stuck in the kernel: it may still run, and is reaped later.
        threading.Thread(target=process.wait, name=f"reap {process.pid}", daemon=True).start()


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise ValueError("a command is started with three pipes")
    return process.stdin, process.stdout, process.stderr


def _late(command: Command) -> CommandTimeout:
    return CommandTimeout(f"{command} did not end within {command.timeout:g} s and was stopped")

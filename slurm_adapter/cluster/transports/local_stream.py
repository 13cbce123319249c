"""An interactive command on this machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slurm_adapter.cluster.transports.interface import Terminal

UMASK = 0o022
"""The umask of every command, whatever that of this process is. sbatch passes it on to the job."""

_CHUNK = 64 * 1024
_GRACE = 10.0
"""Seconds that a command may take to end after its stream was closed, before it is killed."""
_TAKE_TERMINAL = 'exec <"$0" >"$0" 2>&1; exec "$@"'
"""The first terminal that a session leader opens becomes its controlling terminal (setsid(2))."""


def start(words: Sequence[str], environment: Mapping[str, str], terminal: Terminal | None) -> LocalStream:
    """Start a command, in `/`, in its own session. Raises `OSError`."""
    if terminal is None:
        process = subprocess.Popen(
            words,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,
            umask=UMASK,
        )
        if process.stdin is None or process.stdout is None:
            raise ValueError("a command without a terminal is started with two pipes")
        with process.stdin, process.stdout:
            return LocalStream(process, os.dup(process.stdin.fileno()), os.dup(process.stdout.fileno()))
    ours, theirs = os.openpty()
    try:
        _set_size(theirs, terminal.columns, terminal.rows)
        process = subprocess.Popen(
            ["/bin/sh", "-c", _TAKE_TERMINAL, os.ttyname(theirs), *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**environment, "TERM": terminal.kind},
            cwd="/",
            start_new_session=True,
            umask=UMASK,
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return LocalStream(process, os.dup(ours), ours, terminal=True)


class LocalStream:
    """See `Stream`. It owns the process and both descriptors."""

    def __init__(self, process: subprocess.Popen[bytes], into: int, out_of: int, *, terminal: bool = False) -> None:
        self._process = process
        self._into = into
        self._out_of = out_of
        self._terminal = terminal
        self._closed = os.eventfd(0, os.EFD_CLOEXEC)
        """Readable after `close`: a descriptor must not be closed while a thread waits for it."""
        self._closing = threading.Lock()
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._hung_up = False
        os.set_blocking(into, False)
        os.set_blocking(out_of, False)

    def read(self) -> bytes:
        """See `Stream.read`."""
        with self._reading:
            while not self._hung_up and self._wait(self._out_of, select.POLLIN):
                try:
                    return os.read(self._out_of, _CHUNK)
                except BlockingIOError:
                    continue
                except OSError:  # EIO: no process has the terminal open any more
                    break
            return b""

    def write(self, data: bytes) -> None:
        """See `Stream.write`."""
        unsent = memoryview(data)
        with self._writing:
            while unsent and not self._hung_up and self._wait(self._into, select.POLLOUT):
                try:
                    unsent = unsent[os.write(self._into, unsent[:_CHUNK]) :]
                except BlockingIOError:
                    continue
                except OSError:  # EPIPE, EIO
                    return

    def resize(self, columns: int, rows: int) -> None:
        """See `Stream.resize`."""
        with self._writing:
            if self._terminal and not self._hung_up:
                _set_size(self._into, columns, rows)

    def close(self) -> None:
        """See `Stream.close`."""
        with self._closing:
            if self._hung_up:
                return
            self._hung_up = True
            os.eventfd_write(self._closed, 1)
            with self._reading, self._writing:
                for descriptor in (self._into, self._out_of, self._closed):
                    os.close(descriptor)
        if self._process.poll() is None:
            threading.Thread(target=self._reap, name=f"reap {self._process.pid}", daemon=True).start()

    def _wait(self, descriptor: int, event: int) -> bool:
        """Wait until the descriptor is ready or at its end. Return false if this stream is closed."""
        poll = select.poll()
        poll.register(descriptor, event)
        poll.register(self._closed, select.POLLIN)
        return all(ready != self._closed for ready, _ in poll.poll())

    def _reap(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
            return
        with contextlib.suppress(PermissionError, ProcessLookupError):  # the former: sudo runs as root
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _set_size(descriptor: int, columns: int, rows: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

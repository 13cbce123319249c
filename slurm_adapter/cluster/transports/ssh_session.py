"""Commands on one SSH session: a command that runs to its end, and a stream."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import paramiko

from slurm_adapter.cluster.transports.frame import ROOM
from slurm_adapter.cluster.transports.interface import Command, CommandTimeout, ConnectionLost, TooMuchOutput
from slurm_adapter.cluster.transports.shell_line import NO_PROGRAM
from slurm_adapter.cluster.transports.ssh_connection import translated

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.cluster.transports.deadline import Deadline
    from slurm_adapter.cluster.transports.frame import Frame

BROKEN = (OSError, EOFError, paramiko.SSHException)
"""Errors of a read or write if the session ends meanwhile. A TimeoutError is an OSError."""

_CHUNK = 64 * 1024
_LAST_WORDS = 2.0
"""Maximum delay in seconds of stderr after stdout that was written later."""
_BANNER = 1024 * 1024
"""Maximum number of bytes that start-up files may print before a command starts."""


def read_until(session: paramiko.Channel, mark: bytes) -> bytes | None:
    """Return the output after the mark, which precedes the command; None if there is no such program.

    The output of the account's start-up files comes before the mark. Raises `EOFError` if there is no mark.
    """
    said = b""
    while len(said) < _BANNER:
        chunk = session.recv(_CHUNK)
        said += chunk
        _, found, rest = said.partition(mark)
        if found:
            return rest
        if not chunk:
            if NO_PROGRAM.strip() in said:
                return None
            break
    raise EOFError


class SshStream:
    """See `Stream`."""

    def __init__(self, session: paramiko.Channel, first: bytes, hang_up: Callable[[], None], *, terminal: bool) -> None:
        self._session = session
        self._first = first
        self._hang_up = hang_up
        self._terminal = terminal
        self._lock = threading.Lock()
        self._closed = False

    def read(self) -> bytes:
        """See `Stream.read`."""
        first, self._first = self._first, b""
        if first:
            return first
        with contextlib.suppress(*BROKEN):
            return self._session.recv(_CHUNK)
        return b""

    def write(self, data: bytes) -> None:
        """See `Stream.write`."""
        with contextlib.suppress(*BROKEN):
            self._session.sendall(data)

    def resize(self, columns: int, rows: int) -> None:
        """See `Stream.resize`."""
        if self._terminal:
            with contextlib.suppress(*BROKEN):
                self._session.resize_pty(columns, rows)

    def close(self) -> None:
        """See `Stream.close`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._hang_up()


class Conversation:
    """One command on one session: stdin, stdout and stderr flow at once, so that none blocks another.

    Errors of the flows are ignored, because the session itself shows at the end whether the answer is complete.
    """

    def __init__(self, session: paramiko.Channel, command: Command, frame: Frame, deadline: Deadline) -> None:
        self._session = session
        self._command = command
        self._frame = frame
        self._deadline = deadline
        self._stdout = bytearray()
        self._stderr = bytearray()

    def run(self, line: bytes) -> tuple[int | None, bytes, bytes]:
        """Start the command line and return its exit code and outputs. Closes the session.

        If stdout is complete, it waits only for the last of stderr, and there may be no exit code.
        """
        feeder = threading.Thread(target=self._feed, daemon=True)
        errors = threading.Thread(target=self._drain, args=(self._stderr, self._session.recv_stderr), daemon=True)
        try:
            with translated(f"the connection broke when {self._command} was sent", sent=True):
                self._session.exec_command(line)  # nosec B601 # each word is quoted by `shell_line`
            self._session.settimeout(self._deadline.left)
            feeder.start()
            errors.start()
            self._drain(self._stdout, self._session.recv)
            # If start-up files closed stderr, its mark never comes, nor its end while one of their processes runs.
            errors.join(min(_LAST_WORDS, self._deadline.left) if self._complete else self._deadline.left)
            if not self._complete:
                self._session.status_event.wait(self._deadline.left)
            lost = self._session.closed and not self._deadline.passed
        except ConnectionLost as error:
            if self._deadline.passed:
                raise self._late() from error
            raise
        finally:
            with contextlib.suppress(*BROKEN):
                self._session.close()
            for helper in (feeder, errors):
                if helper.is_alive():
                    helper.join()
        if self._too_much:
            raise TooMuchOutput(
                f"{self._command} wrote more than {self._command.output_limit} bytes; it may still run on the cluster"
            )
        status = self._session.exit_status if self._session.exit_status >= 0 else None
        if self._complete or (self._session.eof_received and status is not None):
            return status, bytes(self._stdout), bytes(self._stderr)
        if lost:
            raise ConnectionLost(f"the connection broke while {self._command} ran: it may have done all, or nothing")
        raise self._late()

    def _feed(self) -> None:
        """Write the standard input, and close it if all of it was written."""
        unsent = memoryview(self._frame.stdin)
        with contextlib.suppress(*BROKEN):
            for start in range(0, len(unsent), _CHUNK):
                self._session.sendall(bytes(unsent[start : start + _CHUNK]))
            self._session.shutdown_write()

    def _drain(self, into: bytearray, read: Callable[[int], bytes]) -> None:
        """Read one output until it ends or is complete."""
        with contextlib.suppress(*BROKEN):
            while chunk := read(_CHUNK):
                into.extend(chunk)
                if self._frame.ended(into, len(chunk)):
                    return
                if self._too_much:
                    self._session.close()  # ends the other flows
                self._session.settimeout(self._deadline.left)

    @property
    def _complete(self) -> bool:
        """Return whether the mark at the end of stdout has come, which is written last."""
        return self._frame.ended(self._stdout, len(self._stdout))

    @property
    def _too_much(self) -> bool:
        return len(self._stdout) + len(self._stderr) > self._command.output_limit + ROOM

    def _late(self) -> CommandTimeout:
        return CommandTimeout(
            f"{self._command} did not end within {self._command.timeout:g} s; it may still run on the cluster"
        )

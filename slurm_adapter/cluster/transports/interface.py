"""The interface of transports: run one command on the cluster, with bytes in and bytes out.

A transport runs commands with standard input, and does not copy files, because most files belong to a job's user. They
are written through `sudo -n -u USER`, which SFTP cannot do. The transport determines the machine on which a command
runs; the account is part of the command. See docs/design.md#transports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from slurm_adapter.core.errors import AdapterError, TryAgain, Unknown

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Command:
    """One program to run on the cluster."""

    argv: tuple[str, ...]
    """The program and its arguments; never shell text."""
    stdin: bytes = b""
    """The program's standard input."""
    user: str | None = None
    """The account that runs it, by `sudo -n -u`; None for the adapter's own account on the cluster."""
    environment: tuple[str, ...] | None = None
    """The whole environment as words NAME=VALUE, in addition to HOME, USER, LOGNAME and SHELL of the account.

    None for the account's own environment. For `Transport.run` only.
    """
    timeout: float = 60.0
    """Seconds until the caller stops waiting. The command may live longer on the cluster; see `CommandTimeout`."""
    waits: float | None = None
    """Maximum of these seconds in which it waits for a slot, if the transport limits commands; None for all."""
    first: bool = False
    """True if it needs no slot, for a health check. One at a time."""
    output_limit: int = 256 * MEBIBYTE
    """Maximum number of bytes of stdout and stderr together."""
    helper: str | None = None
    """The program that sudo starts, with `argv` as its arguments; None for `argv` itself. See `sudo_helper`."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a NUL byte, which ends an argument (execve(2))."""
        for word in (*self.argv, self.user or ""):
            if "\0" in word:
                raise ValueError(f"an argument of {self.argv[0]!r} contains a NUL byte")

    @property
    def words(self) -> tuple[str, ...]:
        """Return the whole command line, with the change of account."""
        if self.user is None:
            return self.argv
        return ("sudo", "-n", "-u", self.user, "--", *([self.helper] if self.helper else []), *self.argv)

    def __str__(self) -> str:
        """Return the command for a log: program and account, without arguments, which may contain a user's data."""
        return self.argv[0] + (f" as {self.user}" if self.user else "")


@dataclass(frozen=True, slots=True)
class Result:
    """The exit code and the output of a command that ended."""

    status: int
    """The exit code; 128 + N if signal N ended it."""
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Return stdout as text. Bytes that are not UTF-8 are replaced, because job names may contain any bytes."""
        return self.stdout.decode(errors="replace")

    @property
    def complaint(self) -> str:
        """Return stderr as text, without surrounding white space."""
        return self.stderr.decode(errors="replace").strip()


@dataclass(frozen=True, slots=True)
class Terminal:
    """The terminal that a command gets."""

    columns: int = 80
    rows: int = 24
    kind: str = "xterm-256color"
    """The command's TERM."""


class TransportError(AdapterError):
    """The base of a transport's own errors."""


class NotConnected(TransportError, TryAgain):
    """The command was certainly not started: no connection, a refused key, or a missing program."""


class Busy(NotConnected):
    """Other commands used all slots until the timeout."""


class ConnectionLost(TransportError, Unknown):
    """The connection broke after the command was sent: it may have run, wholly or in part."""


class CommandTimeout(TransportError, Unknown):
    """The command did not end in time. It may still run, or may have ended."""


class TooMuchOutput(TransportError, Unknown):
    """The command wrote more than its limit, and was abandoned."""


class Stream(Protocol):
    """A running command with bytes in both directions. Its methods may be called from several threads."""

    def read(self) -> bytes:
        """Wait for output and return it; `b""` at its end, or after `close`.

        With a terminal it is all output of the command. Without one it is standard output only; stderr is dropped.
        """
        ...

    def write(self, data: bytes) -> None:
        """Write input; wait while the command does not read. Input of a command that has ended is ignored."""
        ...

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal, if there is one."""
        ...

    def close(self) -> None:
        """End the connection to the command. May be repeated.

        With a terminal the command gets SIGHUP, as if somebody had closed the window. Without one its input ends, and
        its output is not read any more; the command has to end by itself.
        """
        ...


class Transport(Protocol):
    """Runs commands on the cluster."""

    def run(self, command: Command) -> Result:
        """Run a command to its end, in the directory `/`, in the locale C.UTF-8 and without the adapter's environment.

        HOME, USER, LOGNAME and SHELL are those of the command's account, whatever sudo and sshd set. Safe to call from
        several threads. Raises `NotConnected` if the command certainly did not start, and `ConnectionLost`,
        `CommandTimeout` or `TooMuchOutput` if it may have run.
        """
        ...

    def open(self, command: Command, terminal: Terminal | None = None) -> Stream:
        """Start an interactive command, in the same directory and environment as `run` does.

        A terminal becomes its controlling terminal. The command's `timeout` is for its start; its `stdin` and
        `output_limit` are not used. Raises `NotConnected` if it certainly did not start, and `ConnectionLost` if it may
        have started. sudo's messages come as the command's own output.
        """
        ...

    def close(self) -> None:
        """Close connections and the streams on them. A later `run` connects again."""
        ...

"""The transport's port: run one command on the cluster, with bytes in and bytes out.

It is a command with standard input, and not a file copy protocol, because most files belong to a job's user: they are
written through `sudo -n -u USER`, which SFTP cannot do. A transport decides *where* a command runs; as *whom* is part
of the command.
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
    """Written to the program, then its standard input is closed."""
    user: str | None = None
    """The account it runs as, by `sudo -n -u`; None is the adapter's own account on the cluster."""
    environment: tuple[str, ...] | None = None
    """Words NAME=VALUE: all that it has in its environment, beside HOME, USER, LOGNAME and SHELL of its account.

    None: what the account has there by itself. For `Transport.run` only.
    """
    timeout: float = 60.0
    """Seconds until the caller stops waiting. What runs on the cluster may outlive it: see `CommandTimeout`."""
    waits: float | None = None
    """The most seconds of these that it waits for others to make room, where only so many run at once; None for all."""
    first: bool = False
    """It waits for no others: for a sign of life. One at a time."""
    output_limit: int = 256 * MEBIBYTE
    """The most bytes that stdout and stderr together may have."""
    helper: str | None = None
    """The program that sudo starts, with `argv` as its arguments; None: `argv` itself. See `sudo_helper`."""

    def __post_init__(self) -> None:
        """Refuse what no command line can carry (execve(2): a NUL byte ends an argument)."""
        for word in (*self.argv, self.user or ""):
            if "\0" in word:
                raise ValueError(f"an argument of {self.argv[0]!r} holds a NUL byte")

    @property
    def words(self) -> tuple[str, ...]:
        """The whole command line, the change of account included."""
        if self.user is None:
            return self.argv
        return ("sudo", "-n", "-u", self.user, "--", *([self.helper] if self.helper else []), *self.argv)

    def __str__(self) -> str:
        """The command as a log shows it: program and account, no arguments (they may hold a user's data)."""
        return self.argv[0] + (f" as {self.user}" if self.user else "")


@dataclass(frozen=True, slots=True)
class Result:
    """What a command that ran to its end left behind."""

    status: int
    """The exit status; 128 + N where signal N ended it."""
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Stdout as text; bytes that are no UTF-8 are replaced, never an error (job names may hold anything)."""
        return self.stdout.decode(errors="replace")

    @property
    def complaint(self) -> str:
        """Stderr as text, without surrounding white space."""
        return self.stderr.decode(errors="replace").strip()


@dataclass(frozen=True, slots=True)
class Terminal:
    """The terminal that a command gets."""

    columns: int = 80
    rows: int = 24
    kind: str = "xterm-256color"
    """The command's TERM."""


class TransportError(AdapterError):
    """The base of a transport's own failures."""


class NotConnected(TransportError, TryAgain):
    """The command was certainly not started: no connection, a refused key, no such program to start it with."""


class Busy(NotConnected):
    """Other commands left no room for this one in time."""


class ConnectionLost(TransportError, Unknown):
    """The connection broke after the command was handed over: it may have run, wholly or in part."""


class CommandTimeout(TransportError, Unknown):
    """The command did not end in time: it may still run, or have run."""


class TooMuchOutput(TransportError, Unknown):
    """The command wrote more than its limit, and was given up."""


class Stream(Protocol):
    """A command that runs, with bytes both ways. Its methods may be called from several threads."""

    def read(self) -> bytes:
        """What it writes next, as soon as there is some; `b""` once there is nothing more, or after `close`.

        With a terminal that is all it writes, without one its standard output alone: its complaints go nowhere.
        """
        ...

    def write(self, data: bytes) -> None:
        """Give it all of this as input; waits while it does not read. What has ended takes anything."""
        ...

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of its terminal; without one nothing happens."""
        ...

    def close(self) -> None:
        """Hang up; may be repeated.

        With a terminal the command gets SIGHUP as if somebody had closed the window. Without one its input ends and
        nobody reads its output any more, at which it has to end itself.
        """
        ...


class Transport(Protocol):
    """Runs commands on the cluster."""

    def run(self, command: Command) -> Result:
        """Run a command to its end, in the directory `/`, in the locale C.UTF-8 and without the adapter's environment.

        HOME, USER, LOGNAME and SHELL are those of the account that it runs as, whatever sudo and sshd make of them.
        Safe to call from several threads. Raises `NotConnected` where the command certainly did not start, and
        `ConnectionLost`, `CommandTimeout` or `TooMuchOutput` where it may have run.
        """
        ...

    def open(self, command: Command, terminal: Terminal | None = None) -> Stream:
        """Start a command that is talked to while it runs, in the same place and environment as `run` does.

        With a terminal, that is its controlling one. The command's `timeout` is how long it may take to start; its
        `stdin` and `output_limit` are not used. Raises `NotConnected` where it certainly did not start, and
        `ConnectionLost` where it may have. What sudo says comes as the command's own output.
        """
        ...

    def close(self) -> None:
        """Give back what is held (connections, and the streams on them); a later `run` opens anew."""
        ...

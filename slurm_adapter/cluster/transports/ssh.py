"""Runs commands on the cluster's login node over SSH, through connections that are kept.

Each command gets a channel of its own (a *session*), at most five at once on a connection. A second connection is made
when the first is full. Commands of one account get two sessions at most, and those of all accounts leave some to the
adapter's own account: so an account whose commands hang keeps no other's waiting. The journey of one:

    run ─ wait for a slot
        ├ take the connection, or open it: `ssh_connection`         until here a failure is NotConnected,
        ├ open a session; where the connection has died, anew       and nothing has run
        ├ hand over the line that the remote shell reads            from here on it is Unknown: ConnectionLost,
        └ feed stdin and drain stdout and stderr, all at once       CommandTimeout or TooMuchOutput

The limits of time hold in all of this, although paramiko waits without limit in places (for the answer to a request,
for the network to take bytes): a watchdog closes the connection under a command that is stuck in one of them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from typing import TYPE_CHECKING

import paramiko

from slurm_adapter.cluster.transports.deadline import Deadline
from slurm_adapter.cluster.transports.frame import ROOM, Frame
from slurm_adapter.cluster.transports.interface import (
    Busy,
    Command,
    CommandTimeout,
    ConnectionLost,
    NotConnected,
    Result,
    TooMuchOutput,
)
from slurm_adapter.cluster.transports.ssh_config import resolve
from slurm_adapter.cluster.transports.ssh_connection import Connection, translated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from slurm_adapter.cluster.transports.interface import Stream, Terminal
    from slurm_adapter.cluster.transports.ssh_config import SshSettings

STREAM_WINDOW = 256 * 1024
"""Bytes of a stream that wait here for one who does not read: there are hundreds of streams."""
SESSIONS = 5
"""Commands at once. sshd allows ten sessions (MaxSessions) and frees them late: eight at once were refused at times."""

CONNECTIONS = 4
"""Connections for commands, at most."""

OF_ACCOUNT = 2
"""Sessions of one account, at most, by which jobs run."""

_OWN = SESSIONS
"""Sessions that are kept for commands as the adapter's own account, such as questions to Slurm."""

_CHUNK = 64 * 1024
_LAST_WORDS = 2.0
"""Seconds that what was written to stderr may come later than what was written to stdout after it."""
_GRACE = 2.0
"""Seconds after a command's limit at which the watchdog strikes."""
_BROKEN = (OSError, EOFError, paramiko.SSHException)
"""What a read or write raises when the session ends under it; a TimeoutError is an OSError."""
_LONGEST_LINE = 128 * 1024 - 1
"""Linux takes no longer single argument (MAX_ARG_STRLEN), and the line is one to the login shell."""
_BANNER = 1024 * 1024
"""The most bytes that start-up files may say before a command starts."""
_NO_PROGRAM = b"slurm-adapter: no such program\n"
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 _@%+=:,./;-")
"""Characters without a meaning inside double inside single quotes, whatever the shell."""


def shell_line(words: Sequence[str], before: bytes = b"", after: bytes = b"; exit $?") -> bytes:
    r"""One line that runs a program with exactly these arguments, whatever login shell reads it.

    SSH hands over a text, not arguments, and the account's login shell reads it. Shells quote differently: csh acts on
    `!` and newlines within single quotes, fish on backslashes. So that shell is told only to start /bin/sh, and what
    /bin/sh has to do is spelt in characters that no shell touches, the others as octal escapes. There every argument
    stands in single quotes, in which POSIX knows no special character but the quote itself.

    The program starts in `/` (our home may be closed to the account that sudo changes to) with a fixed locale; nothing
    else of its environment is set. The shell stays its parent, to report death by signal N as 128 + N. `before` and
    `after` are text for /bin/sh around the command.
    """
    quoted = [b"'" + os.fsencode(word).replace(b"'", rb"'\''") + b"'" for word in words]
    script = (
        b"cd /; export LANG=C.UTF-8 LC_ALL=C.UTF-8; "
        b"command -v -- %s >/dev/null || { printf '%s' >&2; exit 127; }; %s%s%s"
        % (quoted[0], _NO_PROGRAM.replace(b"\n", rb"\n"), before, b" ".join(quoted), after)
    )
    spelt = b"".join(b"%c" % byte if byte in _PLAIN else rb"\0%03o" % byte for byte in script)
    return b"""exec /bin/sh -c 'eval "$(printf %%b "%s")"'""" % spelt


class SshTransport:
    """Runs each command in a session of its own on one kept connection, in `/`.

    Nothing is connected before the first `run`. Raises `InvalidConfig` for an SSH configuration file that cannot be
    read.
    """

    def __init__(self, settings: SshSettings) -> None:
        self._target = resolve(settings)
        self._connect_timeout = settings.connect_timeout
        self._slots = threading.BoundedSemaphore(CONNECTIONS * SESSIONS)
        self._for_accounts = threading.BoundedSemaphore(CONNECTIONS * SESSIONS - _OWN)
        self._of_account: dict[str, threading.BoundedSemaphore] = {}
        self._connecting = threading.Lock()
        self._connecting_streams = threading.Lock()
        self._lock = threading.Lock()  # for what follows, and the connections' users; never held while waiting
        self._kept: list[Connection] = []
        self._for_streams: list[Connection] = []

    def run(self, command: Command) -> Result:
        """Run a command to its end; see `Transport.run`."""
        deadline = Deadline(command.timeout)
        frame = Frame(command)
        line = shell_line(frame.words, before=b"exec ", after=b"")
        _check_length(command, line)
        with self._slot(command, deadline), self._session(deadline) as (connection, session):
            try:
                answer = _Conversation(session, command, frame, deadline).hold(line)
            except (CommandTimeout, TooMuchOutput):
                # The program may live on, and its session counts for sshd until it ends.
                self._retire(connection)
                raise
            except ConnectionLost as error:
                self._retire(connection)
                raise ConnectionLost(f"{error} (on {self._target})") from error
        return frame.read(*answer, self._place)

    def open(self, command: Command, terminal: Terminal | None = None) -> Stream:
        """Start a command that is talked to; see `Transport.open`. Streams have connections of their own."""
        deadline = Deadline(command.timeout)
        mark = f"started-{secrets.token_hex(8)}".encode()
        line = shell_line(
            command.words,
            before=b"printf %s; exec " % mark,
            after=b"" if terminal is not None else b" 2>/dev/null",
        )
        _check_length(command, line)
        connection = self._take_for_stream(deadline)
        session: paramiko.Channel | None = None
        try:
            seconds = min(self._connect_timeout, deadline.left)
            with _watched(connection, seconds):
                session = connection.open_session(seconds, STREAM_WINDOW)
            with _watched(connection, deadline.left):
                session.settimeout(deadline.left)
                with translated(
                    f"the connection to {self._target} broke when {command} was started", sent=True
                ):
                    if terminal is not None:
                        session.get_pty(terminal.kind, terminal.columns, terminal.rows)
                    session.set_combine_stderr(combine=True)
                    session.exec_command(line)  # nosec B601 # each word is quoted by `shell_line`
                    said = _read_until(session, mark)
            session.settimeout(None)
        except BaseException:
            if session is not None:  # what was started late must not live on with the connection's other streams
                with _watched(connection, _GRACE), contextlib.suppress(*_BROKEN):
                    session.close()
            self._give_back_stream(connection, broken=True)
            raise
        if said is None:
            self._hang_up(connection, session)
            raise self._missing(command)
        return _SshStream(session, said, lambda: self._hang_up(connection, session), terminal=terminal is not None)

    def _take_for_stream(self, deadline: Deadline) -> Connection:
        """A connection with room for one more stream; a new one where the others are full.

        One is opened at a time: of many that log in at once sshd turns some away (MaxStartups in sshd_config(5)).
        """
        if not self._connecting_streams.acquire(timeout=max(0.0, deadline.left)):
            raise NotConnected(f"no connection to {self._target} was free in time for one more stream")
        try:
            with self._lock:
                for connection in self._for_streams:
                    if connection.alive and connection.users < SESSIONS:
                        connection.users += 1
                        return connection
            new = Connection(self._target, min(self._connect_timeout, deadline.left))
            with self._lock:
                new.users += 1
                self._for_streams.append(new)
            return new
        finally:
            self._connecting_streams.release()

    def _hang_up(self, connection: Connection, session: paramiko.Channel) -> None:
        with _watched(connection, _GRACE), contextlib.suppress(*_BROKEN):
            session.close()
        self._give_back_stream(connection)

    def _give_back_stream(self, connection: Connection, *, broken: bool = False) -> None:
        """A stream has ended. The last one closes its connection; a broken one takes no further streams."""
        with self._lock:
            connection.users -= 1
            last = connection.users == 0
            if (last or broken) and connection in self._for_streams:
                self._for_streams.remove(connection)
        if last:
            connection.close()

    @property
    def _place(self) -> str:
        return f"It must be installed on {self._target.host}, on the PATH of {self._target.user}"

    def _missing(self, command: Command) -> NotConnected:
        return NotConnected(f"cannot start {command.words[0]}: no such program\n{self._place}")

    def close(self) -> None:
        """Close the connections. What still runs on them ends with `ConnectionLost`; a later `run` opens anew."""
        with self._lock:
            kept, self._kept = self._kept, []
            others, self._for_streams = self._for_streams, []
        for connection in (*others, *kept):
            connection.close()

    @contextlib.contextmanager
    def _slot(self, command: Command, deadline: Deadline) -> Iterator[None]:
        """Wait until a command has its turn. One that is `first` always has."""
        patience = Deadline(deadline.left if command.waits is None else min(command.waits, deadline.left))
        with contextlib.ExitStack() as held:
            for slots, limit in self._shares(command):
                if not slots.acquire(timeout=patience.left):
                    raise Busy(f"cannot start {command}: other commands kept {self._target} busy; {limit}")
                held.callback(slots.release)
            yield

    def _shares(self, command: Command) -> list[tuple[threading.BoundedSemaphore, str]]:
        """Return what a command needs one of each of, with the limit as it is told."""
        whole = (self._slots, f"at most {CONNECTIONS * SESSIONS} run at once")
        if command.first:
            return []
        if command.user is None:
            return [whole]
        with self._lock:
            own = self._of_account.setdefault(command.user, threading.BoundedSemaphore(OF_ACCOUNT))
        of_all = (self._for_accounts, f"at most {CONNECTIONS * SESSIONS - _OWN} of all accounts run at once")
        return [(own, f"at most {OF_ACCOUNT} of {command.user} run at once"), of_all, whole]

    @contextlib.contextmanager
    def _session(self, deadline: Deadline) -> Iterator[tuple[Connection, paramiko.Channel]]:
        connection, session = self._open_session(deadline)
        try:
            with _watched(connection, deadline.left):
                yield connection, session
        finally:
            self._give_back(connection)

    def _open_session(self, deadline: Deadline) -> tuple[Connection, paramiko.Channel]:
        """A session on the kept connection; on a new one where the kept one turns out to be dead or used up."""
        while True:
            connection, made = self._take(deadline)
            seconds = min(self._connect_timeout, deadline.left)
            try:
                with _watched(connection, seconds):
                    return connection, connection.open_session(seconds)
            except BaseException as error:
                self._retire(connection)
                self._give_back(connection)
                if made or deadline.passed or not isinstance(error, NotConnected):
                    raise

    def _take(self, deadline: Deadline) -> tuple[Connection, bool]:
        """Return a connection with room, and whether it was made now. Others that need a new one wait for the first."""
        if (found := self._with_room()) is not None:
            return found, False
        if not self._connecting.acquire(timeout=deadline.left):
            raise NotConnected(f"cannot connect to {self._target}: no answer in time")
        try:
            if (found := self._with_room()) is not None:
                return found, False
            new = Connection(self._target, min(self._connect_timeout, deadline.left))
            with self._lock:
                new.users += 1
                self._kept.append(new)
            return new, True
        finally:
            self._connecting.release()

    def _with_room(self) -> Connection | None:
        """Take the first connection that has room, and drop those that have died."""
        with self._lock:
            dead = [connection for connection in self._kept if not connection.alive]
            self._kept = [connection for connection in self._kept if connection.alive]
            unused = [connection for connection in dead if connection.users == 0]
            found = next((connection for connection in self._kept if connection.users < SESSIONS), None)
            if found is not None:
                found.users += 1
        for connection in unused:
            connection.close()
        return found

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            connection.users -= 1
            last = connection.users == 0 and connection not in self._kept
        if last:
            connection.close()

    def _retire(self, connection: Connection) -> None:
        """Keep it no longer; whoever uses it last closes it."""
        with self._lock:
            if connection in self._kept:
                self._kept.remove(connection)


@contextlib.contextmanager
def _watched(connection: Connection, seconds: float) -> Iterator[None]:
    """The watchdog: close the connection where paramiko is still waiting some time after it should have stopped."""
    watchdog = threading.Timer(seconds + _GRACE, connection.close)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def _check_length(command: Command, line: bytes) -> None:
    if len(line) > _LONGEST_LINE:
        raise NotConnected(
            f"cannot start {command}: its command line takes {len(line)} bytes for the remote shell, "
            f"and at most {_LONGEST_LINE} are possible; data belong into standard input"
        )


def _read_until(session: paramiko.Channel, mark: bytes) -> bytes | None:
    """What comes after the mark that the command is about to start; None where it ended without.

    Before it comes what the account's start-up files say. Raises `EOFError` where there is neither.
    """
    said = b""
    while len(said) < _BANNER:
        chunk = session.recv(_CHUNK)
        said += chunk
        _, found, rest = said.partition(mark)
        if found:
            return rest
        if not chunk:
            if _NO_PROGRAM.strip() in said:
                return None
            break
    raise EOFError


class _SshStream:
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
        with contextlib.suppress(*_BROKEN):
            return self._session.recv(_CHUNK)
        return b""

    def write(self, data: bytes) -> None:
        """See `Stream.write`."""
        with contextlib.suppress(*_BROKEN):
            self._session.sendall(data)

    def resize(self, columns: int, rows: int) -> None:
        """See `Stream.resize`."""
        if self._terminal:
            with contextlib.suppress(*_BROKEN):
                self._session.resize_pty(columns, rows)

    def close(self) -> None:
        """See `Stream.close`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._hang_up()


class _Conversation:
    """One command on one session: stdin, stdout and stderr flow at once, so that none blocks another.

    What breaks a flow is not looked at there: in the end the session itself tells whether it was complete.
    """

    def __init__(self, session: paramiko.Channel, command: Command, frame: Frame, deadline: Deadline) -> None:
        self._session = session
        self._command = command
        self._frame = frame
        self._deadline = deadline
        self._stdout = bytearray()
        self._stderr = bytearray()

    def hold(self, line: bytes) -> tuple[int | None, bytes, bytes]:
        """Start the command line and return its exit status and outputs. Closes the session.

        If the output is complete, nothing else is waited for but its last complaints, and there may be no status.
        """
        feeder = threading.Thread(target=self._feed, daemon=True)
        errors = threading.Thread(target=self._drain, args=(self._stderr, self._session.recv_stderr), daemon=True)
        try:
            with translated(f"the connection broke when {self._command} was handed over", sent=True):
                self._session.exec_command(line)  # nosec B601 # each word is quoted by `shell_line`
            self._session.settimeout(self._deadline.left)
            feeder.start()
            errors.start()
            self._drain(self._stdout, self._session.recv)
            # Start-up files may have closed stderr: its mark never comes, nor its end while a process of theirs runs.
            errors.join(min(_LAST_WORDS, self._deadline.left) if self._complete else self._deadline.left)
            if not self._complete:
                self._session.status_event.wait(self._deadline.left)
            lost = self._session.closed and not self._deadline.passed
        except ConnectionLost as error:
            if self._deadline.passed:
                raise self._late() from error
            raise
        finally:
            with contextlib.suppress(*_BROKEN):
                self._session.close()
            for helper in (feeder, errors):
                if helper.is_alive():
                    helper.join()
        if self._too_much:
            raise TooMuchOutput(
                f"{self._command} wrote more than {self._command.output_limit} bytes and was given up: it may still run"
            )
        status = self._session.exit_status if self._session.exit_status >= 0 else None
        if self._complete or (self._session.eof_received and status is not None):
            return status, bytes(self._stdout), bytes(self._stderr)
        if lost:
            raise ConnectionLost(f"the connection broke while {self._command} ran: it may have done all, or nothing")
        raise self._late()

    def _feed(self) -> None:
        """Write the standard input, and then close it only if all of it was taken."""
        unsent = memoryview(self._frame.stdin)
        with contextlib.suppress(*_BROKEN):
            for start in range(0, len(unsent), _CHUNK):
                self._session.sendall(bytes(unsent[start : start + _CHUNK]))
            self._session.shutdown_write()

    def _drain(self, into: bytearray, read: Callable[[int], bytes]) -> None:
        """Read one output until it ends or is complete."""
        with contextlib.suppress(*_BROKEN):
            while chunk := read(_CHUNK):
                into.extend(chunk)
                if self._frame.ended(into, len(chunk)):
                    return
                if self._too_much:
                    self._session.close()  # ends the other flows
                self._session.settimeout(self._deadline.left)

    @property
    def _complete(self) -> bool:
        """Whether the mark at the end of stdout has come, which is written last."""
        return self._frame.ended(self._stdout, len(self._stdout))

    @property
    def _too_much(self) -> bool:
        return len(self._stdout) + len(self._stderr) > self._command.output_limit + ROOM

    def _late(self) -> CommandTimeout:
        return CommandTimeout(
            f"{self._command} did not end within {self._command.timeout:g} s and was given up: it may still run"
        )

"""Runs commands on the cluster's login node over SSH, through kept connections.

Each command gets its own channel (a *session*), at most five at once on a connection. A further connection is made when
the others are full. Commands of one account get at most two sessions, and those of all accounts leave some to the
adapter's own account. So an account with hanging commands does not delay others. The steps of a command:

    run ─ wait for a slot
        ├ take a connection, or open one: `ssh_connection`          until here an error is NotConnected,
        ├ open a session; on a new connection if this one died      and nothing has run
        ├ send the line that the remote shell reads                 from here on it is Unknown: ConnectionLost,
        └ write stdin and read stdout and stderr, all at once       CommandTimeout or TooMuchOutput

All timeouts hold, although paramiko sometimes waits without limit (for the answer to a request, for the network to take
bytes): a watchdog then closes the connection.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from typing import TYPE_CHECKING

from slurm_adapter.cluster.transports.deadline import Deadline
from slurm_adapter.cluster.transports.frame import Frame
from slurm_adapter.cluster.transports.interface import (
    Busy,
    Command,
    CommandTimeout,
    ConnectionLost,
    NotConnected,
    Result,
    TooMuchOutput,
)
from slurm_adapter.cluster.transports.shell_line import check_length, shell_line
from slurm_adapter.cluster.transports.ssh_config import resolve
from slurm_adapter.cluster.transports.ssh_connection import Connection, translated
from slurm_adapter.cluster.transports.ssh_session import BROKEN, Conversation, SshStream, read_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import paramiko

    from slurm_adapter.cluster.transports.interface import Stream, Terminal
    from slurm_adapter.cluster.transports.ssh_config import SshSettings

STREAM_WINDOW = 256 * 1024
"""Maximum number of unread bytes of a stream. There are hundreds of streams."""
SESSIONS = 5
"""Sessions at once on a connection. sshd allows ten (MaxSessions) and frees them late: it sometimes refused eight."""

CONNECTIONS = 4
"""Maximum number of connections for commands."""

OF_ACCOUNT = 2
"""Maximum number of sessions of one account of jobs."""

_OWN = SESSIONS
"""Sessions that are reserved for commands as the adapter's own account, such as requests to Slurm."""

_GRACE = 2.0
"""Seconds after a command's timeout at which the watchdog closes the connection."""


class SshTransport:
    """Runs each command in its own session on a kept connection, in `/`.

    Connects at the first `run`. Raises `InvalidConfig` if an SSH configuration file cannot be read.
    """

    def __init__(self, settings: SshSettings) -> None:
        self._target = resolve(settings)
        self._connect_timeout = settings.connect_timeout
        self._slots = threading.BoundedSemaphore(CONNECTIONS * SESSIONS)
        self._for_accounts = threading.BoundedSemaphore(CONNECTIONS * SESSIONS - _OWN)
        self._of_account: dict[str, threading.BoundedSemaphore] = {}
        self._connecting = threading.Lock()
        self._connecting_streams = threading.Lock()
        self._lock = threading.Lock()  # for the following lists and the connections' users; never held while waiting
        self._kept: list[Connection] = []
        self._for_streams: list[Connection] = []

    def run(self, command: Command) -> Result:
        """Run a command to its end; see `Transport.run`."""
        deadline = Deadline(command.timeout)
        frame = Frame(command)
        line = shell_line(frame.words, before=b"exec ", after=b"")
        check_length(command, line)
        with self._slot(command, deadline), self._session(deadline) as (connection, session):
            try:
                answer = Conversation(session, command, frame, deadline).run(line)
            except (CommandTimeout, TooMuchOutput):
                # The program may still run, and sshd counts its session until it ends.
                self._retire(connection)
                raise
            except ConnectionLost as error:
                self._retire(connection)
                raise ConnectionLost(f"{error} (on {self._target})") from error
        return frame.read(*answer, self._place)

    def open(self, command: Command, terminal: Terminal | None = None) -> Stream:
        """Start a command as a stream; see `Transport.open`. Streams have their own connections."""
        deadline = Deadline(command.timeout)
        mark = f"started-{secrets.token_hex(8)}".encode()
        line = shell_line(
            command.words,
            before=b"printf %s; exec " % mark,
            after=b"" if terminal is not None else b" 2>/dev/null",
        )
        check_length(command, line)
        connection = self._take_for_stream(deadline)
        session: paramiko.Channel | None = None
        try:
            seconds = min(self._connect_timeout, deadline.left)
            with _watched(connection, seconds):
                session = connection.open_session(seconds, STREAM_WINDOW)
            with _watched(connection, deadline.left):
                session.settimeout(deadline.left)
                with translated(f"the connection to {self._target} broke when {command} was started", sent=True):
                    if terminal is not None:
                        session.get_pty(terminal.kind, terminal.columns, terminal.rows)
                    session.set_combine_stderr(combine=True)
                    session.exec_command(line)  # nosec B601 # each word is quoted by `shell_line`
                    said = read_until(session, mark)
            session.settimeout(None)
        except BaseException:
            if session is not None:  # a command that started late must not live as long as the connection
                with _watched(connection, _GRACE), contextlib.suppress(*BROKEN):
                    session.close()
            self._give_back_stream(connection, broken=True)
            raise
        if said is None:
            self._hang_up(connection, session)
            raise self._missing(command)
        return SshStream(session, said, lambda: self._hang_up(connection, session), terminal=terminal is not None)

    def _take_for_stream(self, deadline: Deadline) -> Connection:
        """Return a connection with room for one more stream; a new one if the others are full.

        Only one is opened at a time, because sshd refuses some of many logins at once (MaxStartups in sshd_config(5)).
        """
        if not self._connecting_streams.acquire(timeout=max(0.0, deadline.left)):
            raise NotConnected(f"cannot connect to {self._target} for one more stream: other logins took too long")
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
        with _watched(connection, _GRACE), contextlib.suppress(*BROKEN):
            session.close()
        self._give_back_stream(connection)

    def _give_back_stream(self, connection: Connection, *, broken: bool = False) -> None:
        """Give a connection back after a stream. The last stream closes it; a broken one gets no further streams."""
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
        """Close the connections. Running commands end with `ConnectionLost`; a later `run` connects again."""
        with self._lock:
            kept, self._kept = self._kept, []
            others, self._for_streams = self._for_streams, []
        for connection in (*others, *kept):
            connection.close()

    @contextlib.contextmanager
    def _slot(self, command: Command, deadline: Deadline) -> Iterator[None]:
        """Wait for a free slot. A command that is `first` needs none."""
        patience = Deadline(deadline.left if command.waits is None else min(command.waits, deadline.left))
        with contextlib.ExitStack() as held:
            for slots, limit in self._shares(command):
                if not slots.acquire(timeout=patience.left):
                    raise Busy(f"cannot start {command}: other commands kept {self._target} busy; {limit}")
                held.callback(slots.release)
            yield

    def _shares(self, command: Command) -> list[tuple[threading.BoundedSemaphore, str]]:
        """Return the semaphores that a command must acquire, each with its limit for a message."""
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
        """Open a session on a kept connection, or on a new one if the kept one is dead or has no session left."""
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
        """Return a connection with room, and whether it is new. Only one is made at a time."""
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
        """Take the first connection that has room, and remove dead ones."""
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
        """Stop keeping a connection. Its last user closes it."""
        with self._lock:
            if connection in self._kept:
                self._kept.remove(connection)


@contextlib.contextmanager
def _watched(connection: Connection, seconds: float) -> Iterator[None]:
    """Close the connection if paramiko still waits some time after the timeout."""
    watchdog = threading.Timer(seconds + _GRACE, connection.close)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()

"""One authenticated SSH connection to the cluster: through hops, with known host keys only.

It uses paramiko's `Transport` and not its `SSHClient`, which may ask for a password on the terminal, hides the reason
why a key was refused, and reads known hosts less strictly than OpenSSH.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING

import paramiko
from paramiko.common import MSG_KEXINIT
from paramiko.packet import Packetizer

from slurm_adapter.cluster.transports.deadline import Deadline
from slurm_adapter.cluster.transports.interface import ConnectionLost, NotConnected
from slurm_adapter.cluster.transports.known_hosts import check_host_key, known_keys
from slurm_adapter.cluster.transports.local import clean_environment
from slurm_adapter.cluster.transports.ssh_login import log_in
from slurm_adapter.core.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.cluster.transports.known_hosts import KnownKey
    from slurm_adapter.cluster.transports.ssh_config import Target

_KEEPALIVE_SECONDS = 30
"""Interval of keepalive messages on an idle connection, so that no firewall drops it."""
_DEAD_MILLISECONDS = 60_000
"""Time without an acknowledgement of sent bytes after which the kernel closes the connection (tcp(7))."""
_REFUSED_PAUSE = 0.05
"""Seconds between two attempts to open a session that the server refuses."""

# paramiko logs every error with a traceback, and raises it. To see the log, add a handler to this logger.
_log = logging.getLogger("paramiko")
_log.addHandler(logging.NullHandler())
_log.propagate = False


@contextlib.contextmanager
def translated(doing: str, *, sent: bool = False) -> Iterator[None]:
    """Turn any error of paramiko or the network into `NotConnected`, or `ConnectionLost` if a command was sent."""
    try:
        yield
    except AdapterError:
        raise
    except Exception as error:  # paramiko raises the error that ended its reader thread, of any class
        kind = ConnectionLost if sent else NotConnected
        raise kind(f"{doing}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    match error:
        case socket.gaierror():
            return f"the name does not resolve ({error.strerror})"
        case TimeoutError():
            return "no answer in time"
        case ConnectionRefusedError() | paramiko.ssh_exception.NoValidConnectionsError():
            return "connection refused; is sshd listening there?"
        case EOFError() | ConnectionResetError() | BrokenPipeError():
            return "the server closed the connection"
        case paramiko.SSHException() if "protocol banner" in str(error):
            return "no SSH server answered in time"
        case paramiko.ChannelException():
            return f"the server refused it: {error.text}"
        case _:
            return str(error) or type(error).__name__


class Connection:
    """An open connection. `open_session` may be called from several threads."""

    def __init__(self, target: Target, timeout: float) -> None:
        """Connect and log in, within `timeout` seconds in all. Raises `NotConnected`."""
        deadline = Deadline(timeout)
        self._target = target
        self._layers: list[paramiko.Transport] = []
        self._proxy: _ProxyProcess | None = None
        self.users = 0
        """Number of commands that use it now, as counted by `SshTransport`."""
        try:
            for hop in (*target.jumps, target):
                self._add_layer(hop, deadline)
        except BaseException:
            self.close()
            raise
        self._session_maker.set_keepalive(_KEEPALIVE_SECONDS)

    @property
    def alive(self) -> bool:
        """Return whether the connection is not known to have ended."""
        return self._session_maker.is_active()

    def open_session(self, timeout: float, window: int | None = None) -> paramiko.Channel:
        """Open a channel for one command. Raises `NotConnected`.

        `window` is the maximum of unread bytes of its output; None for paramiko's 2 MiB. A refusal is retried until
        `timeout`, because sshd frees a finished session a little late, and may allow fewer sessions at once than we use
        (MaxSessions).
        """
        deadline = Deadline(timeout)
        with translated(f"cannot open a session on {self._target}"):
            while True:
                try:
                    return self._session_maker.open_session(window_size=window, timeout=deadline.left)
                except paramiko.SSHException as error:
                    # A refusal, if the connection is alive. (paramiko keeps the reason for one of several threads.)
                    if not self.alive:
                        raise
                    if deadline.left < _REFUSED_PAUSE:
                        raise NotConnected(
                            f"{self._target} opened no further session within {timeout:.0f} s: {_explain(error)}\n"
                            "Other sessions of this account hang there, or MaxSessions in its sshd_config is too low"
                        ) from error
                    time.sleep(_REFUSED_PAUSE)

    def close(self) -> None:
        """Close it, the outermost layer first, so that nothing waits for a dead network. May be repeated."""
        for layer in self._layers:
            layer.close()
            layer.packetizer.complete_handshake()  # stops a timer that paramiko leaves after a failed handshake
        for layer in self._layers:
            if layer.is_alive():
                layer.join(2.0)
        if self._proxy is not None:
            self._proxy.close()

    @property
    def _session_maker(self) -> paramiko.Transport:
        return self._layers[-1]

    def _add_layer(self, hop: Target, deadline: Deadline) -> None:
        """Connect to the next server, through the existing layers, and log in to it."""
        with translated(f"cannot connect to {hop}{self._through()}"):
            layer = paramiko.Transport(self._reach(hop, deadline), packetizer_class=_Packets)
            self._layers.append(layer)
            self._shake_hands(layer, hop, deadline)
            log_in(layer, hop, deadline)

    def _reach(self, hop: Target, deadline: Deadline) -> socket.socket | paramiko.Channel:
        if self._layers:
            return self._session_maker.open_channel(
                "direct-tcpip", (hop.host, hop.port), ("127.0.0.1", 0), timeout=deadline.left
            )
        if hop.proxy_command is not None:
            self._proxy = _ProxyProcess(hop.proxy_command)
            return self._proxy.socket
        tcp = socket.create_connection((hop.host, hop.port), timeout=deadline.left)
        # Otherwise each small message waits for the former's acknowledgement: 11 instead of 161 jobs per second.
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_MILLISECONDS)
        return tcp

    def _shake_hands(self, layer: paramiko.Transport, hop: Target, deadline: Deadline) -> None:
        known = known_keys(hop.known_hosts, hop.host_key_name)
        _prefer(layer, known)
        layer.banner_timeout = layer.handshake_timeout = deadline.left
        try:
            layer.start_client(timeout=deadline.left)
        except paramiko.ssh_exception.IncompatiblePeer as error:
            raise NotConnected(f"cannot connect to {hop}{self._through()}: {_nothing_in_common(layer)}") from error
        except (paramiko.SSHException, EOFError) as error:
            if self._proxy is not None and (complaint := self._proxy.complaint()):
                raise NotConnected(f"cannot connect to {hop} by its ProxyCommand: {complaint}") from error
            raise
        if deadline.passed:
            raise TimeoutError
        check_host_key(hop, layer.get_remote_server_key(), known)

    def _through(self) -> str:
        """Return the hops so far, for a message."""
        hops = self._target.jumps[: len(self._layers)]
        return f" through {', '.join(map(str, hops))}" if hops else ""


class _Packets(Packetizer):
    """Packets of a connection. Keeps the server's list of algorithms for a message."""

    offered = b""

    def read_message(self) -> tuple[int, paramiko.Message]:
        """See `Packetizer.read_message`."""
        kind, message = super().read_message()
        if kind == MSG_KEXINIT and not self.offered:
            self.offered = message.asbytes()
        return kind, message


def _nothing_in_common(layer: paramiko.Transport) -> str:
    """List the algorithms of the server and of this program, for each kind without a common algorithm."""
    options = layer.get_security_options()
    # RFC 4253, 7.1: after a cookie come lists of names, most of them one for each direction.
    kinds = (
        ("key exchange", "KexAlgorithms", 1, options.kex),
        ("host key", "HostKeyAlgorithms and HostKey", 1, options.key_types),
        ("cipher", "Ciphers", 2, options.ciphers),
        ("MAC", "MACs", 2, options.digests),
        ("compression", "Compression", 2, options.compression),
    )
    packets = layer.packetizer
    message = paramiko.Message(packets.offered[16:] if isinstance(packets, _Packets) else b"")
    lines = []
    for kind, option, directions, ours in kinds:
        lists = [message.get_list() for _ in range(directions)]
        if all(set(each) & set(ours) for each in lists):
            continue
        theirs = [name for name in dict.fromkeys(name for each in lists for name in each) if not _MARK.match(name)]
        lines.append(
            f"  {kind}: the server has only {', '.join(theirs)}\n"
            f"    this program has only {', '.join(ours)}\n"
            f"    Allow one of these by {option} in the server's sshd_config"
        )
    return "\n".join(["the server shares no algorithm with this program", *lines])


_MARK = re.compile(r"ext-info-|kex-strict-")
"""Names in the list of key exchanges that are not key exchanges (RFC 8308, OpenSSH's PROTOCOL)."""


def _prefer(layer: paramiko.Transport, known: list[KnownKey]) -> None:
    """Prefer host keys of a kind that is known, if the server has several."""
    algorithms = {key.algorithm for key in known if not key.revoked}
    if "ssh-rsa" in algorithms:  # the key's name; its signatures are made with SHA-2
        algorithms |= {"rsa-sha2-512", "rsa-sha2-256"}
    options = layer.get_security_options()
    options.key_types = sorted(options.key_types, key=lambda name: name not in algorithms)


class _ProxyProcess:
    """A `ProxyCommand`, with a socket to its standard input and output.

    paramiko's own `ProxyCommand` does not notice when the process ends.
    """

    def __init__(self, command: str) -> None:
        self.socket, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process; see close
        agent = os.environ.get("SSH_AUTH_SOCK")
        with theirs:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],  # as ssh_config(5) says of ProxyCommand
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._errors,
                env=clean_environment() | ({"SSH_AUTH_SOCK": agent} if agent else {}),
                start_new_session=True,
            )

    def complaint(self) -> str:
        """Return the last line of its stderr."""
        if self._errors.closed:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        return lines[-1].strip() if lines else ""

    def close(self) -> None:
        """Kill it with its process group."""
        self.socket.close()
        self._errors.close()
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

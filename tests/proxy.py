"""A TCP proxy before the login node's sshd that cuts a connection at a chosen byte."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Side = Literal["client", "server"]
"""Whose bytes are counted."""


class Proxy:
    """Passes connections on to a server, and counts what each side has sent."""

    def __init__(self, host: str, port: int) -> None:
        """Listen on a loopback port."""
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._side: Side = "client"
        self._left: int | None = None
        self._first = 0
        """The number of the first connection whose bytes count."""
        self.port: int = self._listener.getsockname()[1]
        self.sent: Counter[Side] = Counter()
        self.connections = 0
        self._threads[0].start()

    def cut_after(self, side: Side, count: int, *, of_the_next: bool = False) -> None:
        """Pass so many further bytes of one side on, and then drop the connection, once; later ones are passed on.

        `of_the_next`: the last bytes of connections that stand, and may be about to end, do not count.
        """
        with self._lock:
            self._side, self._left = side, count
            self._first = self.connections + 1 if of_the_next else 0

    def leave_alone(self) -> None:
        """Cut nothing more."""
        with self._lock:
            self._left = None

    @property
    def has_cut(self) -> bool:
        """Whether what was asked for has happened."""
        return self._left is None

    def close(self) -> None:
        """Drop everything."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in list(self._sockets):
            self._drop(each)
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            server = socket.create_connection(self._target, timeout=10)
            server.settimeout(None)
            self.connections += 1
            self._sockets |= {client, server}
            for side, source, sink in (("client", client, server), ("server", server, client)):
                thread = threading.Thread(target=self._pass_on, args=(self.connections, side, source, sink))
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, number: int, side: Side, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                passed = self._allowed(number, side, len(data))
                sink.sendall(data[:passed])
                self.sent[side] += passed
                if passed < len(data):
                    break
        self._drop(source)
        self._drop(sink)

    def _allowed(self, number: int, side: Side, count: int) -> int:
        """How many of so many bytes may pass; fewer than all of them where the cut is due."""
        with self._lock:
            if self._left is None or side != self._side or number < self._first:
                return count
            if count <= self._left:
                self._left -= count
                return count
            passed, self._left = self._left, None
            return passed

    @staticmethod
    def _drop(each: socket.socket) -> None:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@contextlib.contextmanager
def proxy_to(host: str, port: int) -> Iterator[Proxy]:
    """A proxy for the length of the block."""
    proxy = Proxy(host, port)
    try:
        yield proxy
    finally:
        proxy.close()

"""Where frames end in bytes that pass, and connections whose other side reads nothing."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from slurm_adapter.gateway.http import server
from slurm_adapter.gateway.http.browser_sockets import Boundaries, close_frame, ping_frame
from slurm_adapter.gateway.sessions import proxy
from slurm_adapter.gateway.sessions.revocation import Permission

SIZES = st.sampled_from([0, 1, 125, 126, 127, 65535, 65536])


@given(st.lists(st.tuples(SIZES, st.booleans()), max_size=4), st.integers(1, 70_000))
def test_frames_end_where_they_end(sizes: list[tuple[int, bool]], step: int) -> None:
    frames = [Frame(Opcode.BINARY, b"x" * size, fin).serialize(mask=False) for size, fin in sizes]
    ends, whole = {0}, b""
    for frame in frames:
        whole += frame
        ends.add(len(whole))
    seen, at = Boundaries(), 0
    while at < len(whole):
        seen.feed(whole[at : at + step])
        at = min(at + step, len(whole))
        assert seen.between is (at in ends)


def test_nothing_is_said_after_the_last_frame() -> None:
    seen = Boundaries()
    seen.feed(ping_frame())
    assert seen.between
    seen.feed(close_frame(1008, "over"))
    assert not seen.between


def test_the_kernel_ends_a_connection_that_nobody_reads() -> None:
    [listener] = server._listen("127.0.0.1", 0)  # noqa: SLF001  # what `serve` listens on
    with listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


class _Slow:
    """An application whose frame takes many pings' time to come."""

    def __init__(self, *pieces: bytes) -> None:
        self.connection = self
        self.switched, *self._rest = pieces

    async def read(self) -> bytes:
        await asyncio.sleep(0.2)
        return self._rest.pop(0) if self._rest else b""

    async def write(self, _: bytes) -> None:
        """Take it."""


def test_a_frame_that_takes_long_is_not_taken_for_a_dead_browser() -> None:
    """A notebook's plot of 20 MB takes a slow line six minutes; no ping can be put into it."""
    whole = Frame(Opcode.BINARY, b"x" * 1000).serialize(mask=False)

    async def carry() -> bytes:
        here, there = socket.socketpair()
        streams = await asyncio.open_connection(sock=here)
        reader, writer = await asyncio.open_connection(sock=there)
        slow: Any = _Slow(whole[:500], whole[500:])
        permission = Permission(lambda: asyncio.sleep(0), 30)
        await proxy._Socket(streams, slow, 0.001).carry(permission)  # noqa: SLF001  # it is all that passes bytes
        got = await reader.read()
        writer.close()
        return got

    assert asyncio.run(carry()).startswith(whole)

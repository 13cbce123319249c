"""Nothing is sent to a port before the node says that it is the job's."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.core.errors import TryAgain
from slurm_adapter.gateway.sessions import listeners
from slurm_adapter.gateway.sessions.listeners import Listeners, NotTheJobs, Socket, judge, read_row
from slurm_adapter.gateway.sessions.proxy import JobPort
from slurm_adapter.gateway.thread_pools import ThreadPools
from tests.offline import Offline, Tripping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slurm_adapter.core.records import Record

HEAD = "/proc/net/tcp:   0: "
HEAD6 = "/proc/net/tcp6:   0: "
REST = "00000000:00000000 00:00000000 00000000"
OWN, OTHER = 7701, 7702
NODE = "10.213.83.11"
HERE, HERE6 = "0B53D50A:1F90", "0000000000000000FFFF00000B53D50A:1F90"
ANY, ANY6 = "00000000:1F90", f"{32 * '0'}:1F90"
LOOPBACK = "0100007F:1F90"
PEER = "0153D50A:9C40"
LISTENING, ESTABLISHED = "0A", "01"


def row(local: str, state: str, uid: int, inode: int = 5) -> str:
    """A line of a table of sockets."""
    head = HEAD6 if len(local) > 20 else HEAD
    return f"{head}{local} {PEER} {state} {REST} {uid:5} 0 {inode} 1 0000000000000000 100 0 0 10 0"


def decide(*lines: str, host: str = NODE) -> list[int]:
    """What is decided for a job of `OWN`, whose connection is to port 8080 of the node."""
    rows = [found for line in lines if (found := read_row(line)) is not None]
    return judge(rows, host, OWN, "port 8080 on node001")


@pytest.mark.parametrize("local", [ANY, ANY6, HERE, HERE6])
def test_a_listener_of_the_job_is_good(local: str) -> None:
    assert decide(row(local, LISTENING, OWN, 17)) == [17]
    assert decide(row(local, LISTENING, OWN, 17), row(HERE, ESTABLISHED, OWN, 18)) == [17]
    # One that nobody has accepted yet has no inode, and no owner.
    assert decide(row(local, LISTENING, OWN, 17), row(HERE, ESTABLISHED, 0, 0)) == [17]


@pytest.mark.parametrize("local", [ANY, ANY6, HERE, HERE6])
@pytest.mark.parametrize("uid", [OTHER, 0, 65534])
def test_a_listener_of_another_account_is_refused(local: str, uid: int) -> None:
    with pytest.raises(NotTheJobs, match="port 8080 on node001 is held by another account"):
        decide(row(local, LISTENING, uid))


def test_a_connection_that_another_account_has_accepted_is_refused_whoever_listens_now() -> None:
    with pytest.raises(NotTheJobs):
        decide(row(ANY, LISTENING, OWN), row(HERE, ESTABLISHED, OTHER, 6))
    with pytest.raises(NotTheJobs):
        decide(row(ANY6, LISTENING, OWN), row(HERE6, ESTABLISHED, OTHER, 6))


def test_a_listener_on_another_address_is_none_of_the_connection() -> None:
    assert decide(row(LOOPBACK, LISTENING, OTHER, 9), row(HERE, LISTENING, OWN, 17)) == [17]
    assert decide(row(LOOPBACK, LISTENING, OWN, 9), row(HERE, LISTENING, OWN, 17)) == [17]
    with pytest.raises(NotTheJobs):
        decide(row(LOOPBACK, LISTENING, OWN, 9), row(HERE, LISTENING, OTHER, 17))


def test_of_two_families_that_of_the_connection_counts() -> None:
    assert decide(row(ANY6, LISTENING, OTHER, 9), row(ANY, LISTENING, OWN, 17)) == [17]
    with pytest.raises(NotTheJobs):
        decide(row(ANY6, LISTENING, OWN, 9), row(ANY, LISTENING, OTHER, 17))


def test_an_address_that_the_node_does_not_know_by_itself() -> None:
    assert decide(row(HERE, LISTENING, OWN, 17), host="192.0.2.1") == [17]
    with pytest.raises(NotTheJobs):
        decide(row(HERE, LISTENING, OTHER, 17), host="192.0.2.1")
    with pytest.raises(NotTheJobs):
        decide(row(ANY, LISTENING, OWN, 17), row(HERE, ESTABLISHED, OTHER, 6), host="192.0.2.1")


def test_a_port_that_no_process_of_the_node_holds_is_refused() -> None:
    with pytest.raises(NotTheJobs, match="container"):
        decide()
    with pytest.raises(NotTheJobs, match="container"):
        decide(row(HERE, ESTABLISHED, 0, 0))


@pytest.mark.parametrize("line", ["", "watch", HEAD, f"{HEAD}xyz", row("0B53D50A1F:1F90", LISTENING, OWN)])
def test_what_is_no_row_is_none(line: str) -> None:
    assert read_row(line) is None


@pytest.fixture
def here(tmp_path: Path) -> Iterator[tuple[Offline, Record, int]]:
    """A job that runs on this machine, and a port on which this process listens."""
    site = Offline(tmp_path)
    record = site.run(site.job())
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield site, record, server.getsockname()[1]


def ask(site: Offline, act: Callable[[Listeners], object]) -> int:
    """Do something with the steps that look at nodes; return how many were started."""
    opened = site.open()
    assert isinstance(opened.transport, Tripping)

    async def work() -> None:
        pools = ThreadPools(opened)
        listeners = Listeners(pools)
        try:
            await act(listeners)  # type: ignore[misc]
        finally:
            listeners.close()
            pools.close()

    asyncio.run(work())
    return len(opened.transport.commands)


def test_a_step_looks_at_the_real_table(here: tuple[Offline, Record, int]) -> None:
    site, record, port = here

    async def look(listeners: Listeners) -> None:
        way = JobPort("127.0.0.1", port, record, 0)
        await asyncio.gather(*(listeners.check(way) for _ in range(20)))
        await listeners.check(way)
        with pytest.raises(NotTheJobs):
            await listeners.check(JobPort("127.0.0.1", 1, record, 0))

    assert ask(site, look) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a socket of another account")
def test_a_step_sees_another_accounts_socket(here: tuple[Offline, Record, int]) -> None:
    site, record, port = here
    os.seteuid(OTHER)
    try:
        other = socket.create_server(("127.0.0.1", 0))
    finally:
        os.seteuid(0)

    async def look(listeners: Listeners) -> None:
        await listeners.check(JobPort("127.0.0.1", port, record, 0))
        with pytest.raises(NotTheJobs, match="another account"):
            await listeners.check(JobPort("127.0.0.1", other.getsockname()[1], record, 0))

    with other:
        ask(site, look)


def test_without_a_step_nothing_is_sent(here: tuple[Offline, Record, int]) -> None:
    site, record, port = here
    (site.folder / "bin" / "srun").write_text("#!/bin/sh\nexit 1\n")

    async def look(listeners: Listeners) -> None:
        for _ in range(2):
            with pytest.raises(TryAgain, match="SrunPortRange"):
                await listeners.check(JobPort("127.0.0.1", port, record, 0))

    ask(site, look)


@pytest.mark.parametrize("flood", ["yes ''", "yes watch job 1", "tr '\\0' x </dev/zero"])
def test_a_step_that_says_too_much_is_given_up(here: tuple[Offline, Record, int], flood: str) -> None:
    """A user's processes can write to the outputs of the user's steps."""
    site, record, port = here
    (site.folder / "bin" / "srun").write_text(f"#!/bin/sh\necho watch uid 7701 1\nread -r _\nexec {flood}\n")

    async def look(listeners: Listeners) -> None:
        with pytest.raises(TryAgain, match="has more than"):
            await listeners.check(JobPort("127.0.0.1", port, record, 0))

    ask(site, look)


def test_a_row_tells_its_family() -> None:
    found = read_row(row(HERE6, LISTENING, OWN))
    assert found is not None
    assert (found.six, str(found.address), found.uid) == (True, NODE, OWN)
    assert isinstance(found, Socket)


def test_the_steps_of_one_user_are_not_another_ones(
    here: tuple[Offline, Record, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One user has many jobs; the steps for others go on meanwhile."""
    monkeypatch.setattr(listeners, "MOST", 3)
    monkeypatch.setattr(listeners, "MOST_OF_ONE", 2)
    site, _, port = here
    first = site.run(site.job(user="bob"))
    mine = [site.run(site.job()) for _ in range(4)]

    async def look(steps: Listeners) -> None:
        for record in (first, *mine, first):
            await steps.check(JobPort("127.0.0.1", port, record, 0))

    assert ask(site, look) == 1 + len(mine)

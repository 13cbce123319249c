"""Shells inside jobs on the sandbox, over both transports."""

from __future__ import annotations

import contextlib
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.cluster.transports.interface import Terminal
from slurm_adapter.core.errors import InvalidInput, Refused
from slurm_adapter.jobs import shells
from tests.adapter import UNTIL_TOLD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.cluster.transports.interface import Stream
    from slurm_adapter.core.records import Record
    from tests.adapter import LiveSite, LiveSiteMaker

pytestmark = pytest.mark.sandbox

PATIENCE = 90.0
"""Seconds after which a shell that does not answer is closed, so that the test fails."""


@pytest.fixture(params=["local", pytest.param("ssh", marks=pytest.mark.long)])
def adapter(request: pytest.FixtureRequest, make_adapter: LiveSiteMaker) -> LiveSite:
    """A site over each transport."""
    return make_adapter(request.param)


@contextlib.contextmanager
def shell(adapter: LiveSite, record: Record, rank: int = 0, *, columns: int = 80, rows: int = 24) -> Iterator[Stream]:
    """Sit before a shell within the block."""
    stream = shells.open_shell(adapter.site, adapter.now(record), rank, Terminal(columns, rows))
    watchdog = threading.Timer(PATIENCE, stream.close)
    watchdog.start()
    try:
        yield stream
    finally:
        watchdog.cancel()
        stream.close()


def ask(stream: Stream, command: str) -> str:
    """What a command writes in a shell. The words that mark its beginning and end are not in its echo."""
    stream.write(f"echo 'beg''in'; {command}\necho 'en''d'\n".encode())
    said = ""
    while not (found := re.search(r"begin\r\n(.*)end\r\n", said, re.DOTALL)):
        piece = stream.read()
        assert piece, repr(said)
        said += piece.decode(errors="replace")
    shown = re.sub(r"\x1b\[\?2004[hl]\r?", "", found[1]).replace("\r", "")
    return shown.split("\n")[0].strip()


def sleepers(seconds: int) -> list[int]:
    """The processes, on whatever node, that sleep for so long."""
    words = f"sleep\0{seconds}\0".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if path.read_bytes() == words:
                found.append(int(path.parent.name))
    return found


@pytest.mark.long
def test_a_shell_is_on_the_node_of_its_rank_inside_the_job(adapter: LiveSite) -> None:
    [server] = adapter.start(adapter.shell(UNTIL_TOLD))
    [consumer] = adapter.start(adapter.shell(UNTIL_TOLD, peers={"database": server}, replicas=2))
    address = adapter.now(server).addresses[0][0]
    with shell(adapter, consumer, 1, columns=101, rows=31) as stream:
        assert ask(stream, "hostname") == adapter.now(consumer).nodes[1]
        assert address in ask(stream, "getent ahosts database | tr '\\n' ' '")
        assert ask(stream, "id -un") == consumer.account
        assert ask(stream, "pwd") == consumer.folder
        assert ask(stream, 'echo "$SLURM_JOB_ID $TERM $HOME"').split()[:2] == [str(consumer.slurm_id), "xterm-256color"]
        assert ask(stream, "shopt -q login_shell && echo login") == "login"
        assert ask(stream, "env | grep -c SUDO") == "0"
        assert ask(stream, "stty size") == "31 101"
        stream.resize(120, 40)
        adapter.cluster.wait_for(lambda: ask(stream, "stty size") == "40 120")


def test_a_job_without_names_has_a_plain_shell_even_if_it_uses_all_its_node(adapter: LiveSite) -> None:
    [record] = adapter.start(adapter.shell(f"while :; do :; done & {UNTIL_TOLD}; kill $!"))
    assert not record.has_hosts_file
    with shell(adapter, record) as one, shell(adapter, record) as other:
        assert ask(one, "hostname") == ask(other, "hostname") == adapter.now(record).nodes[0]


def test_closing_a_shell_leaves_nothing_of_it_on_the_node(adapter: LiveSite) -> None:
    [record] = adapter.start(adapter.shell(UNTIL_TOLD, replicas=2))
    with shell(adapter, record, 1) as stream:
        ask(stream, "sleep 4711 &")
        ask(stream, "trap '' HUP; nohup sleep 4711 >/dev/null 2>&1 &")
        stream.write(b"sleep 4711\n")
        adapter.cluster.wait_for(lambda: len(sleepers(4711)) == 3)
    adapter.cluster.wait_for(lambda: not sleepers(4711))
    steps = ("squeue", "-h", "-s", "-j", str(record.slurm_id))
    adapter.cluster.wait_for(lambda: "bash" not in adapter.cluster.ask(*steps))
    adapter.tell(record)
    adapter.until_successful(record)


def test_the_end_of_the_job_is_the_end_of_its_shells(adapter: LiveSite) -> None:
    [record] = adapter.start(adapter.shell(UNTIL_TOLD))
    with shell(adapter, record) as stream:
        assert ask(stream, "echo here") == "here"
        adapter.tell(record)
        while stream.read():
            pass


@pytest.mark.parametrize("adapter", ["local"], indirect=True)
def test_only_a_job_that_runs_has_shells_and_only_on_its_ranks(adapter: LiveSite) -> None:
    [waiting] = adapter.submit(adapter.shell("true", begin="now+1hour"))
    with pytest.raises(Refused, match="IN_QUEUE"):
        shells.open_shell(adapter.site, adapter.now(waiting), 0, Terminal())
    [running] = adapter.start(adapter.shell(UNTIL_TOLD))
    with pytest.raises(InvalidInput, match="ranks 0 to 0"):
        shells.open_shell(adapter.site, adapter.now(running), 1, Terminal())

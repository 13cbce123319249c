"""The contract of all transports for interactive commands, with real processes on this machine and through sshd."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.cluster.transports.interface import Command, NotConnected, Terminal
from slurm_adapter.cluster.transports.ssh import SshTransport
from tests.cluster.transports.conftest import free_port
from tests.cluster.transports.test_transport_contract import EVERY_BYTE, WEIRD, write_sudo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slurm_adapter.cluster.transports.interface import Stream, Transport
    from tests.cluster.transports.conftest import Sshd, StartSshd

MEGABYTE = EVERY_BYTE * 4096


@contextlib.contextmanager
def opened(transport: Transport, *argv: str, terminal: Terminal | None = None) -> Iterator[Stream]:
    """Talk to a command within the block."""
    with contextlib.closing(transport.open(Command(argv), terminal)) as stream:
        yield stream


def read_until(stream: Stream, text: bytes) -> bytes:
    """Everything up to the piece that completes this text."""
    said = b""
    while text not in said:
        piece = stream.read()
        assert piece, said
        said += piece
    return said


def read_all(stream: Stream) -> bytes:
    """Everything to the end."""
    return b"".join(iter(stream.read, b""))


def wait_for(condition: Callable[[], object]) -> None:
    """Wait for what soon becomes true."""
    pause = threading.Event()
    for _ in range(300):
        if condition():
            return
        pause.wait(0.1)
    pytest.fail("waited 30 s without success")


def runs(pid: int) -> bool:
    """Return whether such a process is still running."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("terminal", [None, Terminal()])
def test_what_is_written_is_read_while_the_command_runs(transport: Transport, terminal: Terminal | None) -> None:
    with opened(transport, "sh", "-c", 'while read -r line; do echo "<$line>"; done', terminal=terminal) as stream:
        for word in (b"one", b"two"):
            stream.write(word + b"\n")
            read_until(stream, b"<" + word + b">")


def test_a_megabyte_of_any_bytes_flows_in_both_directions_at_once(transport: Transport) -> None:
    with opened(transport, "cat") as stream, ThreadPoolExecutor(1) as threads:
        writing = threads.submit(stream.write, MEGABYTE)
        said = b""
        while len(said) < len(MEGABYTE):
            piece = stream.read()
            assert piece
            said += piece
        writing.result()
    assert said == MEGABYTE


def test_the_output_ends_with_the_command(transport: Transport) -> None:
    with opened(transport, "sh", "-c", "echo out; echo lost >&2") as stream:
        assert read_all(stream) == b"out\n"
        assert stream.read() == b""
        stream.write(b"to nobody")
    with opened(transport, "sh", "-c", "echo out; echo err >&2", terminal=Terminal()) as stream:
        assert read_all(stream) == b"out\r\nerr\r\n"


def test_arguments_arrive_byte_for_byte_in_a_stream(transport: Transport) -> None:
    with opened(transport, "printf", "%s\\0", *WEIRD) as stream:
        assert read_all(stream).split(b"\0")[:-1] == [os.fsencode(word) for word in WEIRD]


def test_the_place_and_the_environment_are_those_of_run(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTER_SECRET", "hush")
    for terminal in (None, Terminal()):
        with opened(transport, "sh", "-c", "pwd; echo $LC_ALL; env", terminal=terminal) as stream:
            said = read_all(stream)
        assert said.split()[:2] == [b"/", b"C.UTF-8"]
        assert b"hush" not in said


def test_a_terminal_is_the_controlling_one_and_its_size_changes(transport: Transport) -> None:
    script = 'stty size; echo "$TERM"; trap "stty size" WINCH; echo ready >/dev/tty; while :; do sleep 0.1; done'
    with opened(transport, "sh", "-c", script, terminal=Terminal(columns=101, rows=31, kind="vt100")) as stream:
        assert read_until(stream, b"ready").split()[:2] == [b"31", b"101"]
        stream.resize(columns=120, rows=40)
        read_until(stream, b"40 120")


def test_control_c_interrupts_what_runs_in_a_terminal(transport: Transport) -> None:
    script = "trap 'echo caught; exit' INT; echo ready; while :; do sleep 0.1; done"
    with opened(transport, "sh", "-c", script, terminal=Terminal()) as stream:
        read_until(stream, b"ready")
        stream.write(b"\x03")
        read_until(stream, b"caught")


def test_a_command_without_a_terminal_has_no_size(transport: Transport) -> None:
    with opened(transport, "sh", "-c", "test -t 0 || echo none; cat") as stream:
        stream.resize(120, 40)
        read_until(stream, b"none")


@pytest.mark.parametrize("terminal", [None, Terminal()])
def test_closing_ends_the_command_and_a_waiting_reader(transport: Transport, terminal: Terminal | None) -> None:
    stream = transport.open(Command(("sh", "-c", "echo $$.; cat; exit")), terminal)
    pid = int(read_until(stream, b".").split(b".")[0])
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(read_all, stream)
        stream.close()
        assert reading.result(30).strip() == b""
    stream.close()
    stream.write(b"to nobody")
    stream.resize(10, 10)
    assert stream.read() == b""
    wait_for(lambda: not runs(pid))


def test_closing_hangs_up_on_a_command_that_does_not_read(transport: Transport) -> None:
    with opened(transport, "sh", "-c", "echo $$.; sleep 600", terminal=Terminal()) as stream:
        pid = int(read_until(stream, b".").split(b".")[0])
    wait_for(lambda: not runs(pid))


def test_closing_ends_a_blocked_write(transport: Transport) -> None:
    with opened(transport, "sh", "-c", "echo ready; exec sleep 600", terminal=Terminal()) as stream:
        read_until(stream, b"ready")
        writer = threading.Thread(target=stream.write, args=(b"\n".join([bytes(60)] * 200_000),))
        writer.start()
        writer.join(0.5)
    writer.join(30)
    assert not writer.is_alive()


def test_a_missing_program_is_named_and_was_not_opened(transport: Transport) -> None:
    for terminal in (None, Terminal()):
        with pytest.raises(NotConnected, match="cannot start no-such-program"):
            transport.open(Command(("no-such-program",)), terminal)


def test_another_account_is_asked_of_sudo_in_a_stream(transport: Transport, bin_folder: Path) -> None:
    write_sudo(bin_folder, 'printf "%s|" "$@"')
    with contextlib.closing(transport.open(Command(("echo", "x"), user="alice"))) as stream:
        assert read_all(stream) == b"-n|-u|alice|--|echo|x|"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("sudo"), reason="needs root and sudo")
@pytest.mark.parametrize("terminal", [None, Terminal()])
def test_the_real_sudo_opens_as_another_account(transport: Transport, terminal: Terminal | None) -> None:
    with contextlib.closing(transport.open(Command(("id", "-un"), user="nobody"), terminal)) as stream:
        assert read_all(stream).strip() == b"nobody"


def test_many_streams_at_once_starve_no_command(transport: Transport) -> None:
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(opened(transport, "cat", terminal=Terminal())) for _ in range(12)]
        for number, stream in enumerate(streams):
            stream.write(b"number %d.\n" % number)
        for number, stream in enumerate(streams):
            read_until(stream, b"number %d." % number)
        with ThreadPoolExecutor(5) as threads:
            echoes = threads.map(lambda n: transport.run(Command(("echo", str(n)))).text, range(5))
            assert list(echoes) == [f"{n}\n" for n in range(5)]


def test_a_connection_ends_with_its_last_stream(ssh: SshTransport, sshd: Sshd) -> None:
    with opened(ssh, "cat"), opened(ssh, "cat", terminal=Terminal()):
        assert len(sshd.connections()) == 1
    wait_for(lambda: not sshd.connections())
    with opened(ssh, "echo", "next") as stream:
        assert read_all(stream) == b"next\n"


def test_a_broken_connection_ends_its_streams(ssh: SshTransport, sshd: Sshd) -> None:
    with opened(ssh, "cat", terminal=Terminal()) as stream:
        sshd.kill_connections()
        assert read_all(stream) == b""
        stream.write(b"to nobody")


def test_no_server_means_that_nothing_was_opened(start_sshd: StartSshd) -> None:
    transport = SshTransport(replace(start_sshd().settings, port=free_port()))
    with pytest.raises(NotConnected, match="connection refused"):
        transport.open(Command(("cat",)), Terminal())


def test_a_banner_of_the_account_is_not_taken_for_output(sshd: Sshd, ssh: SshTransport) -> None:
    (sshd.folder / ".bashrc").write_text("echo Welcome\n", encoding="utf-8")
    with opened(ssh, "echo", "out") as stream:
        assert read_all(stream) == b"out\n"

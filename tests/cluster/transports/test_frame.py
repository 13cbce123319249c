"""Text of others around a command's answer: start-up files, forced commands, entry programs, PAM modules of sudo.

"Start-up files of the adapter's SSH account that print text."
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.cluster.transports.frame import Frame
from slurm_adapter.cluster.transports.interface import Command, ConnectionLost, NotConnected, Result
from slurm_adapter.cluster.transports.local import LocalTransport
from slurm_adapter.cluster.transports.ssh import SshTransport
from tests.cluster.transports.test_transport_contract import EVERY_BYTE, write_sudo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slurm_adapter.cluster.transports.interface import Transport
    from tests.cluster.transports.conftest import StartSshd

NOISE = 'echo "Welcome to  node<001>"; echo "0:0"; printf "no line break" >&2; printf "\\0\\377"'

WRAPPER = f"""#!/bin/sh
[ -z "$SSH_ORIGINAL_COMMAND" ] || set -- sh -c "$SSH_ORIGINAL_COMMAND"
{NOISE}
"$@"
{NOISE}
echo goodbye >&2
exit 3
"""


@pytest.fixture(params=["prefix", "start-up file", "forced command", "background", "sudo"])
def noisy(
    request: pytest.FixtureRequest, tmp_path: Path, bin_folder: Path, start_sshd: StartSshd
) -> Iterator[Callable[[Command], Result]]:
    """Return a function that runs a command on a noisy way."""
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(WRAPPER)
    wrapper.chmod(0o755)
    local: Transport = LocalTransport((str(wrapper),), {"PATH": f"{bin_folder}:/usr/bin:/bin"})
    if request.param == "prefix":
        yield local.run
    elif request.param == "sudo":
        write_sudo(bin_folder, f'shift 4; {NOISE}; "$@"; {NOISE}')
        yield lambda command: local.run(Command(command.argv, command.stdin, "alice"))
    else:
        server = start_sshd(*([f"ForceCommand {wrapper}"] if request.param == "forced command" else []))
        lingering = "sleep 300 & echo $! >~/lingering\n" if request.param == "background" else ""
        (server.folder / ".bashrc").write_text(f"{NOISE}\n{lingering}trap '{NOISE}' EXIT\n")
        transport = SshTransport(server.settings)
        yield transport.run
        transport.close()
        if lingering:
            local.run(Command(("sh", "-c", f"kill $(cat {server.folder}/lingering)")))


def test_text_around_the_answer_is_dropped(noisy: Callable[[Command], Result]) -> None:
    assert noisy(Command(("cat",), stdin=EVERY_BYTE)) == Result(0, EVERY_BYTE, b"")
    script = "printf out; printf error >&2; exit 7"
    assert noisy(Command(("sh", "-c", script))) == Result(7, b"out", b"error")
    assert noisy(Command(("true",))) == Result(0, b"", b"")


def test_a_missing_program_is_reported_despite_other_output(noisy: Callable[[Command], Result]) -> None:
    with pytest.raises(NotConnected, match="no-such-program"):
        noisy(Command(("no-such-program",)))


def test_an_answer_that_breaks_off_raises_connection_lost(tmp_path: Path) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\n"$@" | head -c 30\n')
    wrapper.chmod(0o755)
    with pytest.raises(ConnectionLost, match="broke off"):
        LocalTransport((str(wrapper),)).run(Command(("seq", "100")))


def test_outputs_that_come_as_one_are_not_read(tmp_path: Path) -> None:
    """Warnings would stand within the answer."""
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\nexec "$@" 2>&1\n')
    wrapper.chmod(0o755)
    transport = LocalTransport((str(wrapper),))
    for script in ("true", "echo out", "echo out; echo warning >&2"):
        with pytest.raises(ConnectionLost, match="stdout and stderr are mixed"):
            transport.run(Command(("sh", "-c", script)))


def test_a_killed_shell_of_the_frame_is_reported_without_its_mark() -> None:
    script = "echo out of memory >&2; kill -s KILL $PPID"
    with pytest.raises(ConnectionLost, match=r"broke off: exit code 137: out of memory$"):
        LocalTransport().run(Command(("sh", "-c", script)))


@pytest.mark.parametrize("reads", ["read -r line", "dd bs=1 count=5 of=/dev/null 2>/dev/null", "cat >/dev/null"])
def test_a_start_up_file_that_reads_keeps_a_command_from_running_without_its_input(tmp_path: Path, reads: str) -> None:
    """Such as one with an `ssh` to another host: the command would run with what was left."""
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\n{reads}\nexec "$@"\n')
    wrapper.chmod(0o755)
    command = Command(("tee", str(tmp_path / "written")), stdin=b"first\nsecond\n")
    with pytest.raises(NotConnected, match="a start-up file reads standard input"):
        LocalTransport((str(wrapper),)).run(command)
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("script", ["echo This account is not available.; exit 1", "exec true", "kill -9 $$"])
def test_a_login_shell_that_runs_nothing_is_reported_with_its_message(tmp_path: Path, script: str) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f"#!/bin/sh\n{script}\n")
    wrapper.chmod(0o755)
    said = "This account is not available" if "echo" in script else "no message"
    with pytest.raises(ConnectionLost, match=f"exit code .*{said}"):
        LocalTransport((str(wrapper),)).run(Command(("true",)))


def test_the_mark_is_in_no_arguments_and_no_environment(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = "f00dfeedf00dfeed"
    monkeypatch.setattr(secrets, "token_hex", lambda _: mark)
    shown = transport.run(Command(("sh", "-c", "cat /proc/[0-9]*/cmdline /proc/self/environ 2>/dev/null")))
    assert b"/proc/[0-9]*/cmdline" in shown.stdout
    assert mark.encode() not in shown.stdout


@pytest.mark.parametrize("cut", range(1, 16))
def test_a_mark_is_found_however_the_output_is_cut(monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda _: "feed")
    frame = Frame(Command(("true",)))
    whole, seen = b"frame-feed<x>0.frame-feed>12.", bytearray()
    states = []
    for start in range(0, len(whole), cut):
        chunk = whole[start : start + cut]
        seen.extend(chunk)
        states.append(frame.ended(seen, len(chunk)))
    assert states == [False] * (len(states) - 1) + [True]


def test_a_command_ends_though_a_start_up_file_has_closed_stderr(start_sshd: StartSshd) -> None:
    """`exec 2>/dev/null` and a background process in .bashrc: the mark on stderr never came, nor stderr's end."""
    server = start_sshd()
    (server.folder / ".bashrc").write_text("exec 2>/dev/null\nsleep 300 & echo $! >~/lingering\n")
    transport = SshTransport(server.settings)
    try:
        # Waiting for its limit is an error: the command may not have ended.
        result = transport.run(Command(("sh", "-c", "echo out; echo lost >&2; exit 3"), timeout=30))
        assert (result.status, result.stdout) == (3, b"out\n")
    finally:
        transport.close()
        LocalTransport().run(Command(("sh", "-c", f"kill $(cat {server.folder}/lingering)")))

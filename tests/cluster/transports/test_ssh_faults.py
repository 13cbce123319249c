"""Commands during failures of the connection, the server or the network, with real processes."""

from __future__ import annotations

import inspect
import socket
import subprocess
import threading
from dataclasses import replace
from signal import SIGCONT, SIGSTOP
from typing import TYPE_CHECKING

import paramiko
import pytest
from paramiko import ssh_exception

from slurm_adapter.cluster.transports import ssh as ssh_module
from slurm_adapter.cluster.transports.interface import (
    Command,
    CommandTimeout,
    ConnectionLost,
    NotConnected,
    TransportError,
)
from slurm_adapter.cluster.transports.shell_line import shell_line
from slurm_adapter.cluster.transports.ssh import OF_ACCOUNT, SESSIONS, SshTransport
from slurm_adapter.cluster.transports.ssh_connection import translated
from tests.cluster.transports.test_transport_contract import write_sudo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cluster.transports.conftest import Sshd, StartSshd

ECHO = Command(("echo", "here"))


@pytest.mark.scenario(86)
@pytest.mark.edge_case(21)
def test_one_connection_serves_many_commands(ssh: SshTransport, sshd: Sshd) -> None:
    ssh.run(ECHO)
    before = sshd.connections()
    for _ in range(20):
        ssh.run(ECHO)
    assert sshd.connections() == before
    assert len(before) == 1


def test_threads_that_start_together_share_one_connection(ssh: SshTransport, sshd: Sshd) -> None:
    together = threading.Barrier(5, timeout=30)

    def run() -> None:
        together.wait()
        ssh.run(Command(("sleep", "0.2")))

    threads = [threading.Thread(target=run) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sshd.connections()) == 1


def test_a_connection_that_broke_between_commands_is_replaced(ssh: SshTransport, sshd: Sshd) -> None:
    for _ in range(5):
        assert ssh.run(ECHO).text == "here\n"
        sshd.kill_connections()


def test_a_connection_that_died_unnoticed_is_replaced(sshd: Sshd) -> None:
    ssh = SshTransport(replace(sshd.settings, connect_timeout=1.0))
    ssh.run(ECHO)
    sshd.kill_connections(SIGSTOP)
    try:
        assert ssh.run(ECHO).text == "here\n"
    finally:
        sshd.kill_connections(SIGCONT)
        ssh.close()


def test_a_connection_that_breaks_under_a_command_is_lost(ssh: SshTransport, sshd: Sshd, tmp_path: Path) -> None:
    started = tmp_path / "started"
    killer = _once(started.exists, sshd.kill_connections)
    with pytest.raises(ConnectionLost, match="sh ran"):
        ssh.run(Command(("sh", "-c", f"echo partly; touch {started}; exec sleep 5")))
    killer.join()
    assert ssh.run(ECHO).text == "here\n"


def test_a_server_that_stops_answering_does_not_hang_a_command_with_input(
    ssh: SshTransport, sshd: Sshd, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    assert ssh.run(ECHO).text == "here\n"  # connected
    stopper = _once(started.exists, lambda: sshd.kill_connections(SIGSTOP))
    with pytest.raises(CommandTimeout):
        ssh.run(Command(("sh", "-c", f"touch {started}; sleep 0.3; exec cat"), stdin=bytes(50_000_000), timeout=4))
    stopper.join()
    assert ssh.run(ECHO).text == "here\n"
    sshd.kill_connections(SIGCONT)


def test_a_stuck_command_does_not_hold_up_the_others(sshd: Sshd, tmp_path: Path) -> None:
    """The one is stuck in writing to a server that no longer reads; the other must not wait for its time limit."""
    ssh = SshTransport(replace(sshd.settings, connect_timeout=5))
    started = tmp_path / "started"
    stopper = _once(started.exists, lambda: sshd.kill_connections(SIGSTOP))
    failures: list[TransportError] = []

    def be_stuck() -> None:
        try:
            ssh.run(
                Command(("sh", "-c", f"touch {started}; sleep 0.3; exec cat"), stdin=bytes(50_000_000), timeout=600)
            )
        except TransportError as error:
            failures.append(error)

    stuck = threading.Thread(target=be_stuck)
    stuck.start()
    stopper.join()
    assert ssh.run(Command(ECHO.argv, timeout=30)).text == "here\n"
    assert failures == []
    sshd.kill_connections()
    stuck.join()
    assert [type(error) for error in failures] == [ConnectionLost]
    ssh.close()


@pytest.mark.edge_case(21)
def test_hung_commands_do_not_use_up_the_sessions_of_the_server(start_sshd: StartSshd) -> None:
    ssh = SshTransport(start_sshd("MaxSessions 2").settings)
    for _ in range(4):
        assert ssh.run(ECHO).text == "here\n"  # connected
        with pytest.raises(CommandTimeout):
            ssh.run(Command(("sleep", "20"), timeout=0.5))
    assert ssh.run(ECHO).text == "here\n"
    ssh.close()


def _hang(ssh: SshTransport, folder: Path, user: str | None, count: int) -> tuple[list[threading.Thread], Path]:
    """Start commands that end once a file is there."""
    go_on = folder / f"go on {user}"
    script = 'echo >"$1.$$"; until [ -e "$1" ]; do sleep 0.1; done'
    command = Command(("sh", "-c", script, "sh", str(go_on)), user=user, timeout=120)
    threads = [threading.Thread(target=ssh.run, args=(command,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    _wait_for(lambda: len(list(folder.glob(f"{go_on.name}.*"))) == count)
    return threads, go_on


@pytest.mark.edge_case(21)
def test_one_accounts_hanging_commands_leave_the_others_theirs(
    ssh: SshTransport, bin_folder: Path, tmp_path: Path
) -> None:
    """Five commands at once were allowed, of any account."""
    write_sudo(bin_folder, 'shift 4; exec "$@"')
    threads, go_on = _hang(ssh, tmp_path, "alice", OF_ACCOUNT)
    try:
        with pytest.raises(NotConnected, match=f"at most {OF_ACCOUNT} of alice run at once"):
            ssh.run(replace(ECHO, user="alice", waits=0.1))
        for user in ("bob", "carol", "dora", "eve", None):
            assert ssh.run(replace(ECHO, user=user)).text == "here\n"
    finally:
        go_on.touch()
        for thread in threads:
            thread.join()


@pytest.mark.edge_case(21)
def test_a_sign_of_life_waits_for_no_other_command(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five long commands made the controller "away"."""
    monkeypatch.setattr(ssh_module, "CONNECTIONS", 2)
    ssh = SshTransport(sshd.settings)
    threads, go_on = _hang(ssh, tmp_path, None, 2 * SESSIONS)
    try:
        with pytest.raises(NotConnected, match=r"other commands kept .* busy"):
            ssh.run(replace(ECHO, waits=0.1))
        assert ssh.run(replace(ECHO, first=True)).text == "here\n"
    finally:
        go_on.touch()
        for thread in threads:
            thread.join()
        ssh.close()


@pytest.mark.edge_case(21)
def test_a_server_that_allows_one_session_serves_many_threads(start_sshd: StartSshd) -> None:
    ssh = SshTransport(start_sshd("MaxSessions 1").settings)
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(ssh.run(ECHO).text)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["here\n"] * 20
    ssh.close()


def test_a_server_without_sessions_is_reported(start_sshd: StartSshd) -> None:
    ssh = SshTransport(replace(start_sshd("MaxSessions 0").settings, connect_timeout=5))
    with pytest.raises(NotConnected, match="MaxSessions"):
        ssh.run(ECHO)
    ssh.close()


def test_closing_under_a_command_loses_it(ssh: SshTransport, tmp_path: Path) -> None:
    started = tmp_path / "started"
    closer = _once(started.exists, ssh.close)
    with pytest.raises(ConnectionLost):
        ssh.run(Command(("sh", "-c", f"touch {started}; exec sleep 5")))
    closer.join()


def test_a_new_connection_survives_the_end_of_the_old_ones_commands(ssh: SshTransport, sshd: Sshd) -> None:
    """A command that was given up retires the connection, but does not cut off the others on it."""
    answers: list[bytes] = []
    assert ssh.run(ECHO).text == "here\n"  # connected
    slow = threading.Thread(target=lambda: answers.append(ssh.run(Command(("sh", "-c", "sleep 3; echo slow"))).stdout))
    slow.start()
    with pytest.raises(CommandTimeout):
        ssh.run(Command(("sleep", "20"), timeout=1))
    assert ssh.run(ECHO).text == "here\n"
    slow.join()
    assert answers == [b"slow\n"]
    _wait_for(lambda: len(sshd.connections()) == 1)


def test_no_listener(sshd: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NotConnected, match=f"127.0.0.1:{port}: connection refused"):
        SshTransport(replace(sshd.settings, port=port)).run(ECHO)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "KexAlgorithms sntrup761x25519-sha512@openssh.com",
            ["key exchange: the server has only sntrup761x25519-sha512@openssh.com\n", "mlkem768x25519-sha256, curve"],
        ),
        (
            "Ciphers chacha20-poly1305@openssh.com",
            ["cipher: the server has only chacha20-poly1305@openssh.com\n", "aes256-gcm@openssh.com", "by Ciphers in"],
        ),
        ("MACs umac-128-etm@openssh.com", ["MAC: the server has only umac-128-etm@openssh.com\n", "hmac-sha2-512"]),
        (
            "Ciphers chacha20-poly1305@openssh.com\nKexAlgorithms sntrup761x25519-sha512@openssh.com",
            ["key exchange: the server has only sntrup761", "cipher: the server has only chacha20"],
        ),
    ],
)
def test_a_server_without_a_common_algorithm_is_reported_with_both_lists(
    start_sshd: StartSshd, line: str, words: list[str]
) -> None:
    """Sites with servers that offer only post-quantum key exchange, or only chacha20-poly1305."""
    server = start_sshd(line)
    with pytest.raises(NotConnected) as caught:
        SshTransport(server.settings).run(ECHO)
    assert f"127.0.0.1:{server.port}: the server shares no algorithm with this program\n" in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert "kex-strict" not in str(caught.value)


def test_a_server_that_refuses_the_kinds_of_host_key(start_sshd: StartSshd, tmp_path: Path) -> None:
    key = tmp_path / "dss"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", key], check=True, timeout=60)
    server = start_sshd(f"HostKey {key}", "HostKeyAlgorithms ssh-rsa")
    with pytest.raises(NotConnected, match=r"host key: the server has only ssh-rsa\n.*rsa-sha2-512"):
        SshTransport(server.settings).run(ECHO)


@pytest.mark.parametrize(
    "line",
    [
        "KexAlgorithms mlkem768x25519-sha256",
        "KexAlgorithms curve25519-sha256@libssh.org",
        "Ciphers aes256-gcm@openssh.com",
        "MACs hmac-sha2-512-etm@openssh.com",
        "HostKeyAlgorithms ssh-ed25519",
    ],
)
def test_a_server_with_one_algorithm_of_each_kind(start_sshd: StartSshd, line: str) -> None:
    if "mlkem" in line and "mlkem" not in _run_text("ssh", "-Q", "kex"):
        pytest.skip("this OpenSSH has no mlkem768x25519-sha256: 9.9 and later have")
    ssh = SshTransport(start_sshd(line).settings)
    assert ssh.run(ECHO).text == "here\n"
    ssh.close()


def _run_text(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout


def test_a_name_that_does_not_resolve(sshd: Sshd) -> None:
    with pytest.raises(NotConnected, match=r"nowhere\.invalid:\d+: the name does not resolve"):
        SshTransport(replace(sshd.settings, host="nowhere.invalid")).run(ECHO)


@pytest.mark.parametrize("words", [b"", b"SSH-2.0-silent\r\n", b"HTTP/1.0 400 Bad Request\r\n\r\n"])
def test_a_server_that_is_silent_or_something_else(sshd: Sshd, words: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted: list[socket.socket] = []

        def answer() -> None:
            accepted.append(listener.accept()[0])
            accepted[0].sendall(words)

        server = threading.Thread(target=answer)
        server.start()
        settings = replace(sshd.settings, port=listener.getsockname()[1], connect_timeout=1.0)
        with pytest.raises(NotConnected, match="cannot connect to"):
            SshTransport(settings).run(ECHO)
        server.join()
        accepted[0].close()


def test_a_commands_timeout_includes_the_connection(sshd: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = replace(sshd.settings, port=listener.getsockname()[1], connect_timeout=600)
        with pytest.raises(NotConnected):
            SshTransport(settings).run(Command(("true",), timeout=0.5))


def test_paramiko_stays_silent(sshd: Sshd, capfd: pytest.CaptureFixture[str]) -> None:
    sshd.settings.known_hosts.write_text("")  # type: ignore[union-attr]  # the fixture sets it
    with pytest.raises(NotConnected):
        SshTransport(sshd.settings).run(ECHO)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(NotConnected):
        SshTransport(replace(sshd.settings, port=listener.getsockname()[1], connect_timeout=0.5)).run(ECHO)
    assert capfd.readouterr() == ("", "")


@pytest.mark.scenario(86)
def test_the_line_for_the_remote_shell_holds_nothing_that_a_shell_acts_on() -> None:
    line = shell_line(["printf", "it's $x `y` !! \n \\ \" æ"])
    start, _, rest = line.partition(b'"$(printf %b "')
    assert start == b"exec /bin/sh -c 'eval "
    spelt, _, end = rest.partition(b'"')
    assert end == b")\"'"
    assert not set(spelt) & set(b"'\"$`!\n*?~#&|<>(){}[]")
    assert max(spelt) < 128


FOREIGN = [
    ssh_exception.SSHException("x"),
    ssh_exception.AuthenticationException("x"),
    ssh_exception.PasswordRequiredException("x"),
    ssh_exception.BadAuthenticationType("x", ["password"]),
    ssh_exception.PartialAuthentication(["password"]),
    ssh_exception.UnableToAuthenticate("x"),
    ssh_exception.ChannelException(2, "x"),
    ssh_exception.BadHostKeyException("host", paramiko.RSAKey.generate(1024), paramiko.RSAKey.generate(1024)),
    ssh_exception.IncompatiblePeer("x"),
    ssh_exception.ProxyCommandFailure("nc", "x"),
    ssh_exception.NoValidConnectionsError({("127.0.0.1", 22): ConnectionRefusedError()}),
    ssh_exception.CouldNotCanonicalize("x"),
    ssh_exception.ConfigParseError("x"),
    ssh_exception.MessageOrderError("x"),
]


def test_every_exception_of_paramiko_is_in_the_list() -> None:
    classes = {
        value
        for _, value in inspect.getmembers(ssh_exception, inspect.isclass)
        if issubclass(value, Exception) and value.__module__ == ssh_exception.__name__
    }
    assert {type(error) for error in FOREIGN} == classes


@pytest.mark.parametrize(
    "error",
    [
        *FOREIGN,
        EOFError(),
        OSError(113, "No route to host"),
        TimeoutError(),
        socket.gaierror(-2, "Name or service not known"),
        ValueError("a malformed packet"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(("sent", "expected"), [(False, NotConnected), (True, ConnectionLost)])
def test_every_foreign_exception_is_translated(error: Exception, *, sent: bool, expected: type[TransportError]) -> None:
    with pytest.raises(expected, match=r"doing: .") as caught, translated("doing", sent=sent):
        raise error
    assert caught.value.__cause__ is error


def _once(happened: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """Start a thread that acts as soon as something has happened."""

    def watch() -> None:
        _wait_for(happened)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def _wait_for(happened: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(2000):
        if happened():
            return
        pause.wait(0.01)
    raise AssertionError(happened)

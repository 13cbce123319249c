"""Host keys, user keys, the agent, and the ways through other hosts: against real servers."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.transports.interface import Command, NotConnected
from slurm_adapter.transports.ssh import SshTransport
from slurm_adapter.transports.ssh_config import SshSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.transports.interface import Result
    from tests.transports.conftest import Sshd, StartSshd

ECHO = Command(("echo", "here"))
RELAY = """
import socket, sys, threading
server = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := sys.stdin.buffer.raw.read(65536):
        server.sendall(data)
    server.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := server.recv(65536):
    sys.stdout.buffer.raw.write(data)
"""
"""A ProxyCommand: what `nc HOST PORT` does."""


def run(settings: SshSettings, command: Command = ECHO) -> Result:
    """Run one command on a connection of its own."""
    transport = SshTransport(settings)
    try:
        return transport.run(command)
    finally:
        transport.close()


def make_key(file: Path, passphrase: str = "") -> Path:
    """Make a key pair and return the private key's file."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", file], check=True, timeout=30)
    return file


def config(text: str) -> Path:
    """Write `~/.ssh/config`."""
    file = Path("~/.ssh/config").expanduser()
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A running agent without keys."""
    path = tmp_path / "agent.sock"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    while subprocess.run(["ssh-add", "-l"], capture_output=True, check=False, timeout=10).returncode == 2:
        assert process.poll() is None
    yield
    process.terminate()
    process.wait(10)


@pytest.mark.scenario(86)
@pytest.mark.edge_case(21)
def test_an_unknown_host_key_is_refused_with_the_files_and_the_mend(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.write_text("# nobody\n", encoding="ascii")
    fingerprint = subprocess.run(
        ["ssh-keygen", "-l", "-f", sshd.folder / "host_key.pub"], capture_output=True, text=True, check=True, timeout=10
    ).stdout.split()[1]
    with pytest.raises(NotConnected) as caught:
        run(replace(sshd.settings, known_hosts=file))
    message = str(caught.value)
    for word in (str(file), f"[127.0.0.1]:{sshd.port}", fingerprint, f"ssh-keyscan -p {sshd.port} 127.0.0.1 >> {file}"):
        assert word in message


def test_the_mend_of_an_unknown_host_key_works(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "new"
    with pytest.raises(NotConnected, match="does not exist") as caught:
        run(replace(sshd.settings, known_hosts=file))
    mend = str(caught.value).rpartition("then add the key: ")[2]
    subprocess.run(mend, shell=True, check=True, capture_output=True, timeout=30)  # noqa: S602 - as a person would
    assert run(replace(sshd.settings, known_hosts=file)).text == "here\n"


def test_without_settings_the_users_and_the_systems_files_are_looked_in(sshd: Sshd) -> None:
    with pytest.raises(NotConnected) as caught:
        run(replace(sshd.settings, known_hosts=None))
    assert str(Path("~/.ssh/known_hosts").expanduser()) in str(caught.value)
    assert "/etc/ssh/ssh_known_hosts" in str(caught.value)


@pytest.mark.scenario(86)
def test_a_changed_host_key_is_refused(start_sshd: StartSshd) -> None:
    server, other = start_sshd(), start_sshd()
    known = server.folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{server.port} {other.host_key}\n", encoding="ascii")
    with pytest.raises(NotConnected, match=r"is not the known one.*\n.*ssh-keygen -R") as caught:
        run(server.settings)
    assert f"{known}:1" in str(caught.value)


def test_a_revoked_host_key_is_refused(sshd: Sshd) -> None:
    known = sshd.folder / "known_hosts"
    name = f"[127.0.0.1]:{sshd.port}"
    known.write_text(f"{name} {sshd.host_key}\n@revoked * {sshd.host_key}\n", encoding="ascii")
    with pytest.raises(NotConnected, match=f"{known}:2 marks as revoked"):
        run(sshd.settings)


def test_a_known_key_is_found_among_those_of_a_server_with_several(start_sshd: StartSshd, tmp_path: Path) -> None:
    rsa = tmp_path / "rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", rsa], check=True, timeout=60)
    server = start_sshd(f"HostKey {rsa}")
    public = " ".join(Path(f"{rsa}.pub").read_text(encoding="ascii").split()[:2])
    for line in (public, server.host_key):
        (server.folder / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {line}\n", encoding="ascii")
        assert run(server.settings).text == "here\n"


def test_a_hashed_file_as_ssh_keygen_makes_it(sshd: Sshd) -> None:
    known = sshd.folder / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, capture_output=True, timeout=10)
    assert known.read_text(encoding="ascii").startswith("|1|")
    assert run(sshd.settings).text == "here\n"


def test_a_host_key_alias(sshd: Sshd) -> None:
    known = sshd.folder / "known_hosts"
    known.write_text(f"Cluster-Login {sshd.host_key}\n", encoding="ascii")
    config("Host login\n  HostName 127.0.0.1\n  HostKeyAlias cluster-login\n")
    assert run(replace(sshd.settings, host="login")).text == "here\n"
    known.write_text("", encoding="ascii")
    with pytest.raises(NotConnected, match="cluster-login is not in"):
        run(replace(sshd.settings, host="login"))


def test_all_of_it_from_the_configuration_file(sshd: Sshd) -> None:
    config(
        f"Host login\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {sshd.folder}/user_key\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile /nowhere {sshd.folder}/known_hosts\n"
    )
    assert run(SshSettings(host="login")).text == "here\n"


def test_a_refused_key_is_told(sshd: Sshd, tmp_path: Path) -> None:
    key = make_key(tmp_path / "other")
    with pytest.raises(NotConnected, match=r"let none of our keys in:\n  .*other: refused\n.*authorized_keys"):
        run(replace(sshd.settings, key_files=(key,)))


def test_without_any_key(sshd: Sshd) -> None:
    with pytest.raises(NotConnected, match="there is no key"):
        run(replace(sshd.settings, key_files=()))


def test_a_key_file_that_is_missing_or_no_key(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no key", encoding="ascii")
    (tmp_path / "text").chmod(0o600)
    with pytest.raises(NotConnected, match=r"missing: No such file.*\n.*text: not a key"):
        run(replace(sshd.settings, key_files=(tmp_path / "missing", tmp_path / "text")))


def test_a_key_that_others_can_read_is_not_used(sshd: Sshd) -> None:
    key = sshd.folder / "user_key"
    key.chmod(0o644)
    with pytest.raises(NotConnected, match=f"chmod 600 {key}"):
        run(sshd.settings)


def test_the_next_key_is_tried_after_a_refused_one(sshd: Sshd, tmp_path: Path) -> None:
    key = make_key(tmp_path / "other")
    assert run(replace(sshd.settings, key_files=(key, *sshd.settings.key_files))).text == "here\n"


def test_too_many_keys_for_the_server_are_told(start_sshd: StartSshd, tmp_path: Path) -> None:
    server = start_sshd("MaxAuthTries 2")
    keys = tuple(make_key(tmp_path / f"key{number}") for number in range(4))
    with pytest.raises(NotConnected, match="key0: refused"):
        run(replace(server.settings, key_files=keys))


def test_an_encrypted_key_without_agent_is_told_with_the_mend(sshd: Sshd, tmp_path: Path) -> None:
    key = make_key(tmp_path / "locked", passphrase="secret")
    with pytest.raises(NotConnected, match=f"locked: encrypted, and no agent holds it; `ssh-add {key}`"):
        run(replace(sshd.settings, key_files=(key,)))


@pytest.mark.usefixtures("agent")
def test_an_encrypted_key_that_the_agent_holds(sshd: Sshd) -> None:
    key = sshd.folder / "user_key"
    subprocess.run(["ssh-add", "-q", key], check=True, timeout=10)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", key], check=True, capture_output=True, timeout=30)
    assert run(sshd.settings).text == "here\n"


@pytest.mark.usefixtures("agent")
def test_the_agent_alone(sshd: Sshd) -> None:
    subprocess.run(["ssh-add", "-q", sshd.folder / "user_key"], check=True, timeout=10)
    assert run(replace(sshd.settings, key_files=())).text == "here\n"


@pytest.mark.usefixtures("agent")
def test_the_agents_other_keys_are_not_offered_with_identities_only(sshd: Sshd, tmp_path: Path) -> None:
    subprocess.run(["ssh-add", "-q", sshd.folder / "user_key"], check=True, timeout=10)
    other = make_key(tmp_path / "other")
    with pytest.raises(NotConnected, match="other: refused"):
        run(replace(sshd.settings, key_files=(other,)))
    config(f"Host *\n  IdentityFile {other}\n  IdentitiesOnly yes\n")
    with pytest.raises(NotConnected, match="other: refused"):
        run(replace(sshd.settings, key_files=()))
    config(f"Host *\n  IdentityFile {other}\n")
    assert run(replace(sshd.settings, key_files=())).text == "here\n"


def test_a_server_that_takes_no_keys(start_sshd: StartSshd) -> None:
    server = start_sshd("PubkeyAuthentication no", "PasswordAuthentication yes")
    with pytest.raises(NotConnected, match="takes no keys, only password"):
        run(server.settings)


def _several(*servers: Sshd) -> SshSettings:
    """Settings for the host `last`, with hosts `host0`, `host1`... in the configuration file."""
    blocks = [
        f"Host host{number}\n  HostName 127.0.0.1\n  Port {server.port}\n  IdentityFile {server.folder}/user_key\n"
        f"  UserKnownHostsFile {server.folder}/known_hosts\n"
        for number, server in enumerate(servers)
    ]
    config("".join(blocks))
    return SshSettings(host="last")


def _add(text: str) -> None:
    with Path("~/.ssh/config").expanduser().open("a", encoding="utf-8") as file:
        file.write(text)


def _last(server: Sshd, *lines: str) -> None:
    _add(
        f"Host last\n  HostName 127.0.0.1\n  Port {server.port}\n  IdentityFile {server.folder}/user_key\n"
        f"  UserKnownHostsFile {server.folder}/known_hosts\n" + "".join(f"  {line}\n" for line in lines)
    )


def test_a_jump_host(start_sshd: StartSshd) -> None:
    hop, last = start_sshd(), start_sshd()
    settings = _several(hop)
    _last(last, "ProxyJump host0")
    transport = SshTransport(settings)
    data = os.urandom(5_000_000)
    assert transport.run(Command(("cat",), stdin=data)).stdout == data
    assert len(hop.connections()) == len(last.connections()) == 1
    hop.kill_connections()
    assert transport.run(ECHO).text == "here\n"
    transport.close()


@pytest.mark.parametrize("how", ["listed", "nested"])
def test_two_jump_hosts(start_sshd: StartSshd, how: str) -> None:
    first, second, last = start_sshd(), start_sshd(), start_sshd()
    settings = _several(first, second)
    if how == "nested":
        _last(last, "ProxyJump host1")
        _add("Host host1\n  ProxyJump host0\n")
    else:
        _last(last, f"ProxyJump {getpass.getuser()}@host0:{first.port},host1")
    assert run(settings).text == "here\n"
    for server in (first, second, last):
        assert "Accepted publickey" in (server.folder / "log").read_text(encoding="utf-8")


def test_the_host_key_of_a_hop_is_checked(start_sshd: StartSshd) -> None:
    hop, last = start_sshd(), start_sshd()
    settings = _several(hop)
    _last(last, "ProxyJump host0")
    (hop.folder / "known_hosts").write_text("", encoding="ascii")
    with pytest.raises(NotConnected, match=f"host key of .*:{hop.port} is unknown"):
        run(settings)


def test_the_host_key_behind_a_hop_is_checked(start_sshd: StartSshd) -> None:
    hop, last = start_sshd(), start_sshd()
    settings = _several(hop)
    _last(last, "ProxyJump host0")
    (last.folder / "known_hosts").write_text("", encoding="ascii")
    with pytest.raises(NotConnected, match=f"host key of .*:{last.port} is unknown"):
        run(settings)


def test_a_hop_that_does_not_forward_is_named(start_sshd: StartSshd) -> None:
    hop, last = start_sshd("AllowTcpForwarding no"), start_sshd()
    settings = _several(hop)
    _last(last, "ProxyJump host0")
    with pytest.raises(NotConnected, match=f":{last.port} through .*:{hop.port}: the server refused it"):
        run(settings)


def test_a_proxy_command(start_sshd: StartSshd, tmp_path: Path) -> None:
    last = start_sshd()
    relay = tmp_path / "relay.py"
    relay.write_text(RELAY, encoding="utf-8")
    settings = _several()
    _last(last, f"ProxyCommand {sys.executable} {relay} %h %p")
    transport = SshTransport(settings)
    data = os.urandom(2_000_000)
    assert transport.run(Command(("cat",), stdin=data)).stdout == data
    last.kill_connections()
    assert transport.run(ECHO).text == "here\n"
    transport.close()
    assert not _running(relay)


def test_a_proxy_command_over_a_second_server(start_sshd: StartSshd) -> None:
    if not shutil.which("ssh"):
        pytest.skip("ssh is not installed (Debian: openssh-client)")
    hop, last = start_sshd(), start_sshd()
    settings = _several(hop)
    file = Path("~/.ssh/config").expanduser()
    _last(last, f"ProxyCommand ssh -F {file} -W %h:%p host0")
    assert run(settings).text == "here\n"


def test_a_proxy_command_that_fails_is_quoted(start_sshd: StartSshd) -> None:
    settings = _several()
    _last(start_sshd(), "ProxyCommand sh -c 'echo the bastion is down >&2; exit 1'")
    with pytest.raises(NotConnected, match="ProxyCommand: the bastion is down"):
        run(settings)


def test_a_proxy_command_that_ends_under_way_is_noticed(start_sshd: StartSshd, tmp_path: Path) -> None:
    relay = tmp_path / "relay.py"
    relay.write_text(RELAY, encoding="utf-8")
    settings = _several()
    _last(start_sshd(), f"ProxyCommand {sys.executable} {relay} %h %p")
    transport = SshTransport(settings)
    for _ in range(2):
        assert transport.run(ECHO).text == "here\n"
        for pid in _running(relay):
            os.kill(pid, signal.SIGKILL)
    transport.close()


def test_a_proxy_command_gets_no_secret_of_ours(
    start_sshd: StartSshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTER_SECRET", "hush")
    settings = _several()
    _last(start_sshd(), f"ProxyCommand env > {tmp_path}/seen")
    with pytest.raises(NotConnected):
        run(settings)
    assert "hush" not in (tmp_path / "seen").read_text(encoding="utf-8")


def _running(script: Path) -> list[int]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(script).encode() in words:
            found.append(int(file.parent.name))
    return found

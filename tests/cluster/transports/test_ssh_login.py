"""Host keys, user keys, the agent, and the ways through other hosts: against real servers."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import sys
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.cluster.transports.interface import Command, NotConnected
from slurm_adapter.cluster.transports.ssh import SshTransport
from slurm_adapter.cluster.transports.ssh_config import SshSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slurm_adapter.cluster.transports.interface import Result
    from tests.cluster.transports.conftest import Sshd, StartSshd

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


def test_the_suggested_fix_of_an_unknown_host_key_works(sshd: Sshd, tmp_path: Path) -> None:
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


def test_a_refused_key_is_reported(sshd: Sshd, tmp_path: Path) -> None:
    key = make_key(tmp_path / "other")
    with pytest.raises(NotConnected, match=r"(?s)accepted none of our keys:\n  .*other: refused\n.*authorized_keys"):
        run(replace(sshd.settings, key_files=(key,)))


def test_without_any_key(sshd: Sshd) -> None:
    with pytest.raises(NotConnected, match="there is no key"):
        run(replace(sshd.settings, key_files=()))


def test_a_key_file_that_is_missing_or_no_key(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no key", encoding="ascii")
    (tmp_path / "text").chmod(0o600)
    with pytest.raises(NotConnected, match=r"missing: No such file.*\n.*text: not a usable key"):
        run(replace(sshd.settings, key_files=(tmp_path / "missing", tmp_path / "text")))


def test_a_key_that_others_can_read_is_not_used(sshd: Sshd) -> None:
    key = sshd.folder / "user_key"
    key.chmod(0o644)
    with pytest.raises(NotConnected, match=f"chmod 600 {key}"):
        run(sshd.settings)


def test_the_next_key_is_tried_after_a_refused_one(sshd: Sshd, tmp_path: Path) -> None:
    key = make_key(tmp_path / "other")
    assert run(replace(sshd.settings, key_files=(key, *sshd.settings.key_files))).text == "here\n"


def test_too_many_keys_for_the_server_are_reported(start_sshd: StartSshd, tmp_path: Path) -> None:
    server = start_sshd("MaxAuthTries 2")
    keys = tuple(make_key(tmp_path / f"key{number}") for number in range(4))
    with pytest.raises(NotConnected, match="key0: refused"):
        run(replace(server.settings, key_files=keys))


def test_an_encrypted_key_without_agent_is_reported_with_the_fix(sshd: Sshd, tmp_path: Path) -> None:
    key = make_key(tmp_path / "locked", passphrase="secret")
    with pytest.raises(NotConnected, match=f"locked: encrypted, and no agent has it; `ssh-add {key}`"):
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


def make_rsa_key(file: Path) -> Path:
    """Make an RSA key pair and return the private key's file."""
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", file], check=True, timeout=60)
    return file


def certify(key: Path, authority: Path, *, valid: str = "-1h:+1h", whom: str = "", more: tuple[str, ...] = ()) -> Path:
    """Make the certificate beside a key, and return its file."""
    subprocess.run(
        [
            "ssh-keygen",
            "-q",
            "-s",
            authority,
            "-I",
            "id",
            "-n",
            whom or getpass.getuser(),
            "-V",
            valid,
            *more,
            f"{key}.pub",
        ],
        check=True,
        timeout=30,
    )
    return key.with_name(f"{key.name}-cert.pub")


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A key that signs certificates."""
    return make_key(tmp_path / "authority")


@pytest.fixture
def trusting(start_sshd: StartSshd, authority: Path) -> Sshd:
    """A server that accepts the authority's certificates, and no plain keys."""
    return start_sshd(f"TrustedUserCAKeys {authority}.pub", "AuthorizedKeysFile none")


def test_an_expired_certificate_next_to_a_valid_key(start_sshd: StartSshd, authority: Path) -> None:
    """A site with an expired OpenSSH certificate beside a valid key."""
    server = start_sshd(f"TrustedUserCAKeys {authority}.pub")
    [key] = server.settings.key_files
    certify(key, authority, valid="20200101Z:20200201Z")
    assert run(server.settings).text == "here\n"


@pytest.mark.parametrize(
    ("valid", "whom", "words"),
    [
        ("20200101Z:20200201Z", "", "valid from 2020-01-01T00:00:00Z until 2020-02-01T00:00:00Z: expired"),
        ("20990101Z:20990201Z", "", "2099-01-01T00:00:00Z until 2099-02-01T00:00:00Z: not valid yet"),
        ("always:forever", "somebody,else", "a certificate for somebody, else, valid for ever"),
    ],
)
def test_a_refused_certificate_is_reported_with_its_content(
    trusting: Sshd, authority: Path, valid: str, whom: str, words: str
) -> None:
    [key] = trusting.settings.key_files
    file = certify(key, authority, valid=valid, whom=whom)
    with pytest.raises(NotConnected) as caught:
        run(trusting.settings)
    lines = str(caught.value).splitlines()
    assert lines[1].startswith(f"  {file} (a certificate for ")
    assert lines[1].endswith(f"{words}): refused")
    assert lines[2:4] == [f"  {key}: refused", "  no agent: SSH_AUTH_SOCK is not set"]
    assert lines[4] == "The server allows these ways to log in: publickey"


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_a_certificate_next_to_its_key(trusting: Sshd, authority: Path, tmp_path: Path, kind: str) -> None:
    key = make_rsa_key(tmp_path / "key") if kind == "rsa" else make_key(tmp_path / "key")
    certify(key, authority)
    assert run(replace(trusting.settings, key_files=(key,))).text == "here\n"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda beside, _, __: beside.write_text("ssh-ed25519-cert-v01@openssh.com nonsense\n"),
            "not a usable certificate",
        ),
        (lambda beside, _, other: certify(other, _).replace(beside), "it is for another key than"),
        (lambda beside, _, other: Path(f"{other}.pub").replace(beside), "it is a plain key"),
        (
            lambda beside, authority, _: certify(Path(str(beside).removesuffix("-cert.pub")), authority, more=("-h",)),
            "host's",
        ),
    ],
)
def test_a_bad_certificate_does_not_spoil_its_key(
    sshd: Sshd, authority: Path, tmp_path: Path, spoil: Callable[[Path, Path, Path], object], words: str
) -> None:
    [key] = sshd.settings.key_files
    beside = key.with_name(f"{key.name}-cert.pub")
    spoil(beside, authority, make_key(tmp_path / "other"))
    assert run(sshd.settings).text == "here\n"
    (sshd.folder / "user_key.pub").write_text("", encoding="ascii")
    with pytest.raises(NotConnected, match=words):
        run(sshd.settings)


def test_a_named_certificate(trusting: Sshd, authority: Path, tmp_path: Path) -> None:
    """A site with `CertificateFile`: no other certificate is used, and one without its key is reported."""
    key, other = make_key(tmp_path / "key"), make_key(tmp_path / "other")
    certificate = certify(key, authority).replace(tmp_path / "of-mine")
    settings = replace(trusting.settings, key_files=())
    config(f"IdentityFile {other}\nIdentityFile {key}\nCertificateFile {certificate}\n")
    assert run(settings).text == "here\n"
    config(f"IdentityFile {other}\nCertificateFile {certificate}\nCertificateFile {tmp_path}/missing\n")
    with pytest.raises(
        NotConnected, match=r"of-mine \(a certificate for .*: neither a key file nor the agent has its key"
    ) as caught:
        run(settings)
    assert "missing: No such file" in str(caught.value)
    assert "other: refused" in str(caught.value)


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
@pytest.mark.parametrize("where", ["agent", "file"])
def test_a_certificate_for_a_key_in_the_agent(
    trusting: Sshd, authority: Path, tmp_path: Path, kind: str, where: str
) -> None:
    key = make_rsa_key(tmp_path / "key") if kind == "rsa" else make_key(tmp_path / "key")
    if where == "agent":
        certify(key, authority)
    subprocess.run(["ssh-add", "-q", key], check=True, timeout=10)
    if where == "file":
        config(f"CertificateFile {certify(key, authority)}\n")
    key.unlink()
    assert run(replace(trusting.settings, key_files=())).text == "here\n"


@pytest.mark.usefixtures("agent")
def test_a_refused_certificate_of_the_agent_is_reported(trusting: Sshd, authority: Path, tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    certify(key, authority, valid="20990101Z:20990201Z")
    subprocess.run(["ssh-add", "-q", key], check=True, timeout=10)
    with pytest.raises(
        NotConnected, match=r"by the agent, a certificate for .* until 2099-02-01T00:00:00Z: not valid yet"
    ):
        run(replace(trusting.settings, key_files=()))


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("only", ["the public key", "the encrypted key"])
def test_an_agents_key_that_a_file_points_to(sshd: Sshd, only: str) -> None:
    """With IdentitiesOnly: the file is the public key itself, or an encrypted key without a public file."""
    key = sshd.folder / "user_key"
    subprocess.run(["ssh-add", "-q", key], check=True, timeout=10)
    public = sshd.folder / "user_key.pub"
    if only == "the public key":
        key.unlink()
        config(f"IdentityFile {public}\nIdentitiesOnly yes\n")
        assert run(replace(sshd.settings, key_files=())).text == "here\n"
    else:
        subprocess.run(
            ["ssh-keygen", "-q", "-p", "-N", "secret", "-f", key], check=True, capture_output=True, timeout=30
        )
        key.rename(sshd.folder / "locked")
        assert run(replace(sshd.settings, key_files=(sshd.folder / "locked",))).text == "here\n"


@pytest.mark.usefixtures("agent")
def test_an_agent_that_will_not_sign_keeps_no_other_key_from_being_tried(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key(tmp_path / "guarded")
    subprocess.run(["ssh-add", "-q", "-c", key], check=True, timeout=10)  # asks before each use, and nobody answers
    key.unlink()
    assert run(replace(sshd.settings, key_files=(Path(f"{key}.pub"), *sshd.settings.key_files))).text == "here\n"
    with pytest.raises(NotConnected, match=r"guarded.pub \(by the agent\): it could not sign"):
        run(replace(sshd.settings, key_files=(Path(f"{key}.pub"),)))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "gone"))
    with pytest.raises(NotConnected, match="gone: it is not there"):
        run(replace(sshd.settings, key_files=()))


def test_a_security_keys_file_is_reported(sshd: Sshd, tmp_path: Path) -> None:
    """The file of an ed25519-sk key, which is a handle only."""
    kind = b"sk-ssh-ed25519@openssh.com"
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (kind, bytes(32), b"ssh:"))
    file = tmp_path / "id_ed25519_sk"
    file.write_text("whatever\n", encoding="ascii")
    Path(f"{file}.pub").write_text(f"{kind.decode()} {b64encode(blob).decode()} me\n", encoding="ascii")
    assert run(replace(sshd.settings, key_files=(file, *sshd.settings.key_files))).text == "here\n"
    with pytest.raises(NotConnected, match=r"id_ed25519_sk: for a security key \(FIDO\), which only an agent can use"):
        run(replace(sshd.settings, key_files=(file,)))


@pytest.mark.parametrize("accepted", ["rsa-sha2-512", "rsa-sha2-512,rsa-sha2-256"])
def test_an_rsa_key_with_a_server_that_refuses_sha1(start_sshd: StartSshd, accepted: str) -> None:
    server = start_sshd(f"PubkeyAcceptedAlgorithms {accepted}")
    [key] = server.settings.key_files
    key.unlink()
    Path(f"{key}.pub").unlink()
    make_rsa_key(key)
    assert run(server.settings).text == "here\n"


def test_after_an_rsa_key_that_the_server_does_not_support_other_keys_are_tried(
    start_sshd: StartSshd, tmp_path: Path
) -> None:
    server = start_sshd("PubkeyAcceptedAlgorithms ssh-ed25519")
    key = make_rsa_key(tmp_path / "key")
    assert run(replace(server.settings, key_files=(key, *server.settings.key_files))).text == "here\n"
    with pytest.raises(NotConnected, match=r"key: (not tried|refused)"):
        run(replace(server.settings, key_files=(key,)))


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


def test_the_host_key_of_a_server_after_a_hop_is_checked(start_sshd: StartSshd) -> None:
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

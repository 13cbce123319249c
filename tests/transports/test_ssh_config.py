"""What of `~/.ssh/config` is honoured, what is told to be ignored, and what is refused."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from slurm_adapter.errors import InvalidConfig
from slurm_adapter.transports.known_hosts import known_keys
from slurm_adapter.transports.ssh_config import SshSettings, ignored_options, resolve


def config(text: str) -> Path:
    """Write `~/.ssh/config`."""
    file = Path("~/.ssh/config").expanduser()
    file.write_text(text, encoding="utf-8")
    return file


def home(name: str) -> Path:
    """A path below the home folder."""
    return Path.home() / name


def test_without_a_file_the_usual_things_hold() -> None:
    home(".ssh/id_rsa").touch()
    target = resolve(SshSettings(host="login.example.org"))
    assert (target.host, target.port, target.user) == ("login.example.org", 22, getpass.getuser())
    assert target.key_files == (home(".ssh/id_rsa"),)
    assert target.known_hosts == (home(".ssh/known_hosts"), Path("/etc/ssh/ssh_known_hosts"))
    assert target.host_key_name == "login.example.org"
    assert (target.jumps, target.proxy_command, target.only_key_files) == ((), None, False)


def test_every_honoured_option() -> None:
    config(
        "Host login\n  HostName %h.example.org\n  User smith\n  Port 2222\n  IdentityFile ~/keys/one\n"
        "  IdentityFile ~/keys/%r\n  IdentitiesOnly yes\n  ProxyCommand relay %h %p %r\n"
        '  UserKnownHostsFile ~/known "%d/with space"\n'
    )
    target = resolve(SshSettings(host="login"))
    assert (target.host, target.user, target.port) == ("login.example.org", "smith", 2222)
    assert target.key_files == (home("keys/one"), home("keys/smith"))
    assert target.only_key_files
    assert target.proxy_command == "relay login.example.org 2222 smith"
    assert target.known_hosts[:2] == (home("known"), home("with space"))
    assert target.host_key_name == "[login.example.org]:2222"
    assert str(target) == "smith@login.example.org:2222"


def test_settings_win_over_the_file_in_tokens_and_matches_too() -> None:
    config(
        "Host login\n  User smith\n  Port 2222\n  IdentityFile ~/a\n  UserKnownHostsFile ~/b\n  ProxyCommand p %r %p\n"
        "Match user jones\n  HostKeyAlias For-Jones\n"
    )
    target = resolve(SshSettings("login", user="jones", port=2200, key_files=(Path("/k"),), known_hosts=Path("/h")))
    assert (target.user, target.port, target.key_files, target.known_hosts) == (
        "jones",
        2200,
        (Path("/k"),),
        (Path("/h"),),
    )
    assert target.proxy_command == "p jones 2200"
    assert target.host_key_name == "for-jones"


def test_another_file_than_the_usual_one(tmp_path: Path) -> None:
    config("Host *\n  Port 1\n")
    other = tmp_path / "other"
    other.write_text("Host *\n  Port 2\n", encoding="utf-8")
    assert resolve(SshSettings("login", config_file=other)).port == 2


def test_jumps_in_their_order() -> None:
    config(
        "Host login\n  ProxyJump smith@first:2201,second,ssh://[fd00::1]:2203\n"
        "Host first\n  ProxyJump outer\nHost outer\n  HostName outer.example.org\n"
        "Host second\n  Port 2202\n  ProxyCommand never\n  ProxyJump never\n"
    )
    target = resolve(SshSettings("login", user="jones", port=2200, key_files=(Path("/k"),)))
    me = getpass.getuser()
    assert [str(hop) for hop in target.jumps] == [
        f"{me}@outer.example.org:22",
        "smith@first:2201",
        f"{me}@second:2202",
        f"{me}@fd00::1:2203",
    ]
    assert all(hop.jumps == () and hop.proxy_command is None for hop in target.jumps)
    assert {hop.key_files for hop in target.jumps} == {(Path("/k"),)}


def test_none_switches_a_proxy_off() -> None:
    config("Host login\n  ProxyJump none\n  ProxyCommand none\nHost *\n  ProxyJump bastion\n  ProxyCommand relay\n")
    target = resolve(SshSettings("login"))
    assert (target.jumps, target.proxy_command) == ((), None)


def test_a_jump_wins_over_a_command() -> None:
    config("Host login\n  ProxyJump bastion\n  ProxyCommand relay\n")
    target = resolve(SshSettings("login"))
    assert [hop.name for hop in target.jumps] == ["bastion"]
    assert target.proxy_command is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Host login\n  ProxyJump login\n", "circle"),
        ("Host login\n  ProxyJump a:b:c\n", "is not \\[user@\\]host\\[:port\\]"),
        ("Host login\n  Port many\n", "many"),
        ('Host "login\n', "Unparsable host"),
        ('Host login\n  UserKnownHostsFile "a b\n', "No closing quotation"),
        ("???\n", "Unparsable line"),
        ("Host *\n  CanonicalizeHostname yes\n", "canonicaldomains"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(text: str, why: str) -> None:
    file = config(text)
    with pytest.raises(InvalidConfig, match=why) as caught:
        resolve(SshSettings("login"))
    assert str(file) in str(caught.value)


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="nowhere"):
        resolve(SshSettings("login", config_file=tmp_path / "nowhere"))


def test_a_user_cannot_bring_options_in() -> None:
    with pytest.raises(InvalidConfig, match="no account name"):
        resolve(SshSettings("login", user="x\nProxyCommand evil"))


def test_ignored_options_are_told_as_the_file_spells_them() -> None:
    config(
        "Include more\nHost login\n  ForwardAgent yes\n  hostname x\n  StrictHostKeyChecking no\n  IdentityFile ~/a\n"
        "Host other\n  Compression yes\n"
    )
    assert ignored_options(SshSettings("login")) == ["ForwardAgent", "Include", "StrictHostKeyChecking"]
    assert ignored_options(SshSettings("third")) == ["Include"]


def test_nothing_is_ignored_without_a_file() -> None:
    assert ignored_options(SshSettings("login", user="smith", port=22)) == []


BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAIJZ9"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (f"login ssh-ed25519 {BLOB}", "login"),
        (f"a,LOGIN,b ssh-ed25519 {BLOB} a comment", "login"),
        (f"*.example.org\tssh-ed25519\t{BLOB}", "login.example.org"),
        (f"login? ssh-ed25519 {BLOB}", "login7"),
        (f"[login]:2222 ssh-ed25519 {BLOB}", "[login]:2222"),
        (f"@revoked * ssh-ed25519 {BLOB}", "login"),
    ],
)
def test_lines_of_known_hosts_that_match(tmp_path: Path, line: str, name: str) -> None:
    file = tmp_path / "known"
    file.write_text(f"# comment\n\n{line}\n", encoding="ascii")
    found = known_keys((tmp_path / "missing", file), name)
    assert [(key.algorithm, key.place, key.revoked) for key in found] == [
        ("ssh-ed25519", f"{file}:3", line.startswith("@"))
    ]


@pytest.mark.parametrize(
    "line",
    [
        f"other ssh-ed25519 {BLOB}",
        f"*,!login ssh-ed25519 {BLOB}",
        f"[login]:2222 ssh-ed25519 {BLOB}",
        f"@cert-authority * ssh-ed25519 {BLOB}",
        f"|1|broken ssh-ed25519 {BLOB}",
        "login ssh-ed25519 not-base64!",
        "login ssh-ed25519",
        f"#login ssh-ed25519 {BLOB}",
    ],
)
def test_lines_of_known_hosts_that_do_not_match(tmp_path: Path, line: str) -> None:
    file = tmp_path / "known"
    file.write_text(f"{line}\n", encoding="ascii")
    assert known_keys((file,), "login") == []

"""The options of `~/.ssh/config` that have an effect, that are reported as ignored, and that are refused.

The home folder here is not the account's own, so that nobody's own configuration has a part in this.
"""

from __future__ import annotations

import getpass
import os
import pwd
import re
import socket
from pathlib import Path

import pytest

from slurm_adapter.cluster.transports import ssh_config
from slurm_adapter.cluster.transports.known_hosts import known_keys
from slurm_adapter.cluster.transports.ssh_config import SshSettings, ignored_options, resolve
from slurm_adapter.core.errors import InvalidConfig


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
        "Host login\n  ProxyJump smith@first:2201,second,[fd00::1]:2203\n"
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


def test_the_word_none_disables_a_proxy() -> None:
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
        ("Host login\n  ProxyJump a\nHost a\n  ProxyJump login\n", "circular"),
        ("Host login\n  ProxyJump a:b:c\n", "line 2: Invalid ProxyJump"),
        ("Host login\n  Port many\n", "line 2: Bad port"),
        ('Host "login\n', "line 1: invalid quotes"),
        ('Host login\n  UserKnownHostsFile "a b\n', "line 2: invalid quotes"),
        ("??? x\n", "line 1: Bad configuration option"),
        ("Host login\n  IdentityFile ~/%z\n", "%z is not known here"),
        ("Host login\n  IdentityFile ~/${NO_SUCH_VARIABLE}\n", "NO_SUCH_VARIABLE. is not known here"),
        ("Host login\n  IdentityFile ~nosuchaccount/x\n", "nosuchaccount"),
        ("Match moonphase full\n  Port 1\n", "line 1: Bad Match condition"),
        ("Host login\n\nMatch host other moonphase full\n  Port 1\n", "line 3: Bad Match condition"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(text: str, why: str) -> None:
    file = config(text)
    with pytest.raises(InvalidConfig, match=why) as caught:
        resolve(SshSettings("login"))
    assert str(file) in str(caught.value)


def included(name: str, text: str) -> Path:
    """Write a file to include, beside `~/.ssh/config`."""
    file = home(f".ssh/{name}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


ME = getpass.getuser()
MACHINE = socket.gethostname()


@pytest.mark.parametrize(
    ("text", "user", "port"),
    [
        ("Match host login\n User smith\n", "smith", 22),
        ("Match host log*,!login\n User smith\n", ME, 22),
        ("Match !host other\n User smith\n", "smith", 22),
        ("Host *.example.org\n User smith\nHost login\n HostName login.example.org\n Port 9\n", ME, 9),
        ("Host * !login\n User smith\nHost l?gin\n Port 9\n", ME, 9),
        (
            "Host login\n HostName x.org\nMatch originalhost login\n User smith\nMatch host login\n Port 9\n",
            "smith",
            22,
        ),
        (f"Match localuser {ME}\n User smith\nMatch localuser nobody-else\n Port 9\n", "smith", 22),
        ("Match exec true\n User smith\nMatch exec false\n Port 9\n", "smith", 22),
        ('Match !exec "test %h = login"\n User smith\nMatch exec "test %n = login"\n Port 9\n', ME, 9),
        ("Match final\n User smith\nHost login\n Port 9\n", "smith", 9),
        ("Match !final host login\n Port 9\nMatch final host login\n Port 10\n", ME, 9),
        ("Match canonical\n User smith\n", ME, 22),
        ("Match all\n User smith\n", "smith", 22),
        ("Host login # the new one\n  User smith # of physics\n  Port 9# not a comment\n", None, None),
        ("Host login\n  User smith # of physics\n  Port 9 # as well\n", "smith", 9),
        ('Host "login"\n  User="smith"\n  Port = 9\n', "smith", 9),
        ("host=login\n\tUSER  smith\r\n\tport\t9\r\n", "smith", 9),
        ("User smith\nUser jones\nPort 9\nHost login\n Port 10\n", "smith", 9),
        ("Host other\n  Include {whole}\nHost login\n  Include {port}\n", ME, 9),
        ("Match host other\n  Include {port}\nMatch host login\n  Include {whole}\n", "smith", 9),
        ("Include {folder}/conf.d/*.conf\n", "smith", 9),
        ("Include {folder}/nowhere/*.conf {port}\n", ME, 9),
        ("Include {nested}\n", "smith", 9),
    ],
)
def test_the_files_mean_what_they_mean_to_openssh(text: str, user: str | None, port: int | None) -> None:
    """Sites with an ssh_config that uses criteria, comments, Include, quotes; None: this OpenSSH refuses it, or may."""
    places = {
        "whole": included("whole", "Host login\n  User smith\n  Port 9\n"),
        "port": included("port", "Port 9\n"),
        "folder": home(".ssh"),
        "nested": included("nested", f"Include {home('.ssh/conf.d')}/*.conf\n"),
    }
    included("conf.d/1.conf", "Host login\n  User smith\nHost other\n  Port 1\n")
    included("conf.d/2.conf", "Port 9\n")
    for name, file in places.items():
        text = text.replace(f"{{{name}}}", str(file))
    config(text)
    if user is None:
        try:
            target = resolve(SshSettings("login"))
        except InvalidConfig as error:
            assert re.search(r"line \d+", str(error))  # noqa: PT017 - one of the two answers that are right
            return
        assert target.port == (port or 22)
        return
    target = resolve(SshSettings("login"))
    assert (target.user, target.port) == (user, port)


def test_every_token_in_the_name_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A site with an IdentityFile that contains tokens and `${HOME}`."""
    monkeypatch.setenv("KEYS", "/keys/of mine")
    config(
        "Host login\n  HostName %h.example.org\n  User smith\n  Port 9\n"
        '  IdentityFile "${HOME}/.ssh/a key" # mine\n  IdentityFile ${KEYS}/x\n'
        "  IdentityFile /k/%h_%r_%u_%p_%n_%i_%L_%l_%%\n  IdentityFile %d/b\n  CertificateFile ~/c-%n.pub\n"
        "  ProxyCommand relay %% %h %n %p %r ${HOME}\n"
    )
    target = resolve(SshSettings("login"))
    assert target.key_files == (
        home(".ssh/a key"),
        Path("/keys/of mine/x"),
        Path(f"/k/login.example.org_smith_{ME}_9_login_{os.getuid()}_{MACHINE.partition('.')[0]}_{MACHINE}_%"),
        home("b"),
    )
    assert target.certificate_files == (home("c-login.pub"),)
    assert target.proxy_command == "relay % login.example.org login 9 smith ${HOME}"


@pytest.mark.parametrize(
    "criterion", ["localnetwork 203.0.113.0/24", "tagged x", "version nothing*", "sessiontype shell"]
)
def test_a_criterion_of_a_newer_openssh_counts_as_true_only_if_it_is(criterion: str) -> None:
    """A site with `Match localnetwork` and others: false here, or refused with file and line by an older OpenSSH."""
    file = config(f"Host login\n  Port 9\nMatch {criterion}\n  User smith\n")
    try:
        assert resolve(SshSettings("login")).user == ME
    except InvalidConfig as error:
        assert f"{file} line 3: Bad Match condition" in str(error)  # noqa: PT017 - the other answer that is right


def pretend_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Put another client before OpenSSH's."""
    folder = tmp_path / "other-client"
    folder.mkdir()
    (folder / "ssh").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("lines", "refused"),
    [
        (["/c line 3: matched 'command \"true\"' "], True),
        (["/c line 3: not matched '!Command \"true\"' "], True),
        (["/c line 3: not matched 'host \"login\"' ", "/c line 3: matched 'command \"true\"' "], False),
        (["/c line 3: matched 'sessiontype \"exec\"' "], False),
    ],
)
def test_a_match_by_command_is_refused_with_its_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: list[str], *, refused: bool
) -> None:
    """OpenSSH 10 knows `Match command`: said as that client says it, for machines with an older one."""
    said = "".join(f"debug3: {line}\\r\\n" for line in lines).replace("'", "'\\''")
    pretend_ssh(
        monkeypatch, tmp_path, f"printf '{said}' >&2; printf 'hostname login\\nuser x\\nport 22\\nidentityfile ~/k\\n'"
    )
    if refused:
        with pytest.raises(InvalidConfig, match="/c line 3: `Match command` cannot be evaluated"):
            resolve(SshSettings("login"))
    else:
        assert resolve(SshSettings("login")).user == "x"


def test_a_client_that_hangs_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ssh_config, "_ANSWER_SECONDS", 0.1)
    pretend_ssh(monkeypatch, tmp_path, "exec sleep 5")
    with pytest.raises(InvalidConfig, match="does a `Match exec` in it hang"):
        resolve(SshSettings("login"))


def test_without_a_client_a_configuration_is_refused_and_none_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A machine without OpenSSH's client: nothing of a file is guessed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    home(".ssh/id_ed25519").touch()
    target = resolve(SshSettings("Login", user="smith", port=9))
    assert (str(target), target.host_key_name, target.key_files) == (
        "smith@login:9",
        "[login]:9",
        (home(".ssh/id_ed25519"),),
    )
    assert target.known_hosts == (home(".ssh/known_hosts"), Path("/etc/ssh/ssh_known_hosts"))
    config("# nothing\n\n")
    assert ignored_options(SshSettings("login")) == []
    file = config("Match localnetwork 10.0.0.0/8\n  User smith\n")
    with pytest.raises(InvalidConfig, match=r"there is no `ssh` in PATH\nInstall it") as caught:
        resolve(SshSettings("login"))
    assert str(file) in str(caught.value)
    assert resolve(SshSettings("login", config_file=Path("/dev/null"))).host == "login"


def test_the_accounts_own_files_are_read_with_the_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home folder that is the account's own: ssh chooses the files itself."""
    monkeypatch.setenv("HOME", pwd.getpwuid(os.getuid()).pw_dir)
    pretend_ssh(
        monkeypatch,
        tmp_path,
        f'echo "$@" >{tmp_path}/asked; printf "hostname h\\nuser x\\nport 1\\nidentityfile ~/k\\n"',
    )
    resolve(SshSettings("login", user="smith", port=9))
    asked = (tmp_path / "asked").read_text(encoding="utf-8")
    assert "-F" not in asked
    assert asked.startswith("-l smith -p 9 ")
    assert asked.endswith(" -G -- login true\n")


@pytest.mark.parametrize("host", ["-oProxyCommand=evil", "a\nb"])
def test_a_host_cannot_bring_options_in(host: str) -> None:
    with pytest.raises(InvalidConfig, match="is not a host name"):
        resolve(SshSettings(host))


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="nowhere"):
        resolve(SshSettings("login", config_file=tmp_path / "nowhere"))


def test_a_user_cannot_bring_options_in() -> None:
    with pytest.raises(InvalidConfig, match="is not an account name"):
        resolve(SshSettings("login", user="x\nProxyCommand evil"))


def test_ignored_options_are_listed_with_the_files_spelling() -> None:
    config(
        "Host login\n  ForwardAgent yes\n  hostname x\n  StrictHostKeyChecking no\n  IdentityFile ~/a\n"
        "Host other\n  Compression yes\n"
    )
    assert ignored_options(SshSettings("login")) == ["ForwardAgent", "StrictHostKeyChecking"]
    assert ignored_options(SshSettings("third")) == []


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

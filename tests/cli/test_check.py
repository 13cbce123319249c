"""`check` finds the problems of a site: exit code, key or file, and the fix."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.core.config import FIRST_ID_BESIDE_UCLOUD
from tests.ucloud_double import Ucloud

if TYPE_CHECKING:
    from pathlib import Path

    from slurm_adapter.sandbox.configuration import Identity, Transport
    from tests.adapter import LiveSite, LiveSiteMaker
    from tests.sandbox_cluster import Cluster

pytestmark = pytest.mark.sandbox


def change(adapter: LiveSite, pattern: str, replacement: str) -> None:
    """Change the configuration."""
    text, changes = re.subn(
        pattern, lambda _: replacement, adapter.config_file.read_text(), count=1, flags=re.MULTILINE
    )
    assert changes == 1
    adapter.config_file.write_text(text)


def problems(adapter: LiveSite) -> list[str]:
    """Return the problems that `check` finds. It exits with 1, without a traceback."""
    result = adapter.invoke("check", "--json")
    assert result.exit_code == 1, result.output
    found = [each["text"] for each in json.loads(result.stdout) if each["level"] == "problem"]
    assert found
    return found


@pytest.mark.parametrize("identity", ["sudo", "service"])
@pytest.mark.parametrize("transport", ["local", "ssh"])
def test_a_good_site(make_adapter: LiveSiteMaker, transport: Transport, identity: Identity) -> None:
    more = '[gateway]\nurl = "https://gateway.example.org"\nfolder_shells = true\n'
    adapter = make_adapter(transport, identity, more=more)
    done = adapter.run("check")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    levels = {line.split()[0] for line in done.stdout.splitlines()}
    assert levels <= {"ok", "note", "warning"}
    assert ("single tenant" in done.stdout) == (identity == "service")
    assert ("over SSH as ucloud" in done.stdout) == (transport == "ssh")
    assert " can have a terminal on login\n" in done.stdout
    assert "the adapter sets no firewall between jobs" in done.stdout
    assert not adapter.site.store.all(1)


@pytest.mark.scenario(90)
@pytest.mark.parametrize(
    ("pattern", "replacement", "words"),
    [
        (
            r'^folder = ".*"',
            'folder = "/srv/home/{user}/never-made/{id}"',
            ("jobs.folder", "mkdir -m 700 /srv/home/alice/never-made"),
        ),
        (r'^folder = ".*"', 'folder = "/tmp/{id}"', ("jobs.folder", "/tmp", "alice")),
        (r'alice = "alice"', 'alice = "ucloud"', ("identity.users.alice", "the adapter's own account")),
        (r'alice = "alice"', 'alice = "alyce"', ("identity.users.alice", "the cluster has no account 'alyce'")),
        (r'alice = "alice"', 'alice = "nobody"', ("identity.users.alice", "nobody")),
        (
            r'^users = \{ alice = "alice", bob = "bob" \}',
            'users = { alice = "games", bob = "bob" }\nlowest_uid = 1',
            ("identity.users.alice", "commands cannot be run as games", "sudo"),
        ),
        (
            r'^shared_dir = ".*"',
            'shared_dir = "/srv/never-made"',
            ("shared_dir", "does not exist", "install -d -o ucloud -m 755"),
        ),
        (r'^shared_dir = ".*"', 'shared_dir = "/srv/home/bob"', ("shared_dir", "cannot be entered")),
        (
            r'^shared_dir = ".*"',
            'shared_dir = "/srv/drives"',
            ("shared_dir", "belongs to root", "chown ucloud /srv/drives"),
        ),
        (r'^user = "alice"', 'user = "alcie"', ("command_line.user", "has no account here", "alice, bob")),
        (
            r"^\[clusters\.main\]",
            '[gateway]\nlisten = "192.0.2.1"\n[clusters.main]',
            ("gateway.listen", "an address of this machine"),
        ),
        (r"^prefix = .*", 'prefix = ["/nonexistent"]', ("the cluster cannot be reached", "/nonexistent")),
        (r"^operator = .*", 'operator = ["sudo", "-n", "-u", "root"]', ("clusters.main.operator", "sudo")),
        (r"^operator = .*", 'operator = ["/nonexistent"]', ("clusters.main.operator", "/nonexistent")),
        (
            r"^\[clusters\.main\]",
            '[clusters.main]\nslurm_conf = "/nonexistent"',
            ("clusters.main.slurm_conf", "cannot read /nonexistent"),
        ),
        (
            r"^\[clusters\.main\]",
            '[clusters.main]\npath = "/nonexistent"',
            ("the cluster cannot be reached", "clusters.NAME.path"),
        ),
    ],
)
def test_what_is_wrong_is_named(adapter: LiveSite, pattern: str, replacement: str, words: tuple[str, ...]) -> None:
    change(adapter, pattern, replacement)
    found, *others = problems(adapter)
    for word in words:
        assert word in found
    assert others == [found.replace("alice", "bob")] * len(others)  # one cause, one problem for each account
    if re.match(r"(shared|(cluster|identity|command_line|jobs|gateway)\.[a-z_.]+)$", words[0]):
        changed = next(line for line in replacement.splitlines() if " = " in line)
        line = next(n for n, text in enumerate(adapter.config_file.read_text().splitlines(), 1) if changed in text)
        assert found.startswith(f"{adapter.config_file}:{line}: {words[0]}"), found


@pytest.mark.scenario(90)
@pytest.mark.parametrize(
    ("file", "content", "key", "words"),
    [
        ("ucloud.pem", "no key\n", "ucloud.key", "is not a key"),
        ("ucloud.pem", None, "ucloud.key", "No such file"),
        ("refresh-token", "", "ucloud.refresh_token", "holds no token"),
        ("refresh-token", None, "ucloud.refresh_token", "cannot be read"),
    ],
)
def test_unusable_keys_and_tokens_of_ucloud(
    make_adapter: LiveSiteMaker, tmp_path: Path, file: str, content: str | None, key: str, words: str
) -> None:
    """The output of a real process names the file and the line of the key."""
    with Ucloud() as ucloud:
        own = (
            f'[ucloud]\nurl = "{ucloud.url}"\nkey = "{ucloud.write_key(tmp_path / "ucloud.pem")}"\n'
            f'refresh_token = "{ucloud.write_refresh_token(tmp_path / "refresh-token")}"\n'
        )
        adapter = make_adapter("ssh", more=own, first_id=FIRST_ID_BESIDE_UCLOUD)  # whose table has a `key` too
        if content is None:
            (tmp_path / file).unlink()
        else:
            (tmp_path / file).write_text(content)
        done = adapter.run("check")
    assert done.returncode == 1, done.stdout
    lines = adapter.config_file.read_text().splitlines()
    table = lines.index("[ucloud]")
    number = next(n for n in range(table, len(lines)) if lines[n].startswith(f"{key.partition('.')[2]} =")) + 1
    [found] = [line for line in done.stdout.splitlines() if f"{adapter.config_file}:{number}: {key}: " in line]
    assert words in found


def test_the_wrong_sudo_rule(adapter: LiveSite, cluster: Cluster) -> None:
    """If the adapter may not become an account, the message names the account and the missing rule."""
    change(adapter, r'bob = "bob"', 'bob = "slurm"')
    [found] = problems(adapter)
    assert "slurm" in found
    assert "sudo" in found
    assert cluster.run("true", user="bob").returncode == 0


@pytest.fixture
def ssh_adapter(make_adapter: LiveSiteMaker) -> LiveSite:
    """A site over SSH."""
    return make_adapter("ssh")


def test_an_unknown_host_key(ssh_adapter: LiveSite, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text("")
    change(ssh_adapter, r"^known_hosts = .*", f'known_hosts = "{known}"')
    [found] = problems(ssh_adapter)
    assert str(known) in found
    assert "host key" in found


def test_a_key_that_cannot_be_used(ssh_adapter: LiveSite, tmp_path: Path) -> None:
    missing, broken = tmp_path / "id_missing", tmp_path / "id_broken"
    broken.write_text("no key\n")
    broken.chmod(0o600)
    change(ssh_adapter, r"^key = .*", f'key = "{missing}"')
    assert str(missing) in problems(ssh_adapter)[0]
    change(ssh_adapter, r"^key = .*", f'key = "{broken}"')
    assert str(broken) in problems(ssh_adapter)[0]


def test_a_login_node_that_does_not_answer(ssh_adapter: LiveSite) -> None:
    change(ssh_adapter, r"^host = .*", f'host = "{ssh_adapter.cluster.login.address}"\nport = 9')
    [found] = problems(ssh_adapter)
    assert ssh_adapter.cluster.login.address in found


def test_options_that_have_no_effect(ssh_adapter: LiveSite, tmp_path: Path) -> None:
    config = tmp_path / "ssh_config"
    config.write_text("Host *\n  ForwardAgent yes\n  Compression yes\n")
    change(ssh_adapter, r"^\[clusters\.main\.ssh\]", f'[clusters.main.ssh]\nconfig = "{config}"')
    result = ssh_adapter.invoke("check")
    assert result.exit_code == 0, result.output
    assert re.search(r"warning +.*forwardagent.* has no effect", result.output, re.IGNORECASE)


@pytest.mark.scenario(90)
def test_a_file_that_is_no_configuration(adapter: LiveSite) -> None:
    """Exit code 78, and the file, the line and the key."""
    for pattern, replacement, word in (
        (r"^cpus = 1", 'cpus = "many"', "cpus"),
        (r"^cpus = 1", "cpu = 1", "cpu"),
        (r"^provider = .*", "", "provider"),
    ):
        before = adapter.config_file.read_text()
        change(adapter, pattern, replacement)
        result = adapter.invoke("check")
        assert result.exit_code == 78, result.output
        assert f"{adapter.config_file}:" in result.output
        assert word in result.output
        adapter.config_file.write_text(before)
    adapter.config_file.write_text("= no TOML")
    result = adapter.invoke("check")
    assert (result.exit_code, str(adapter.config_file) in result.output) == (78, True)


def test_a_broken_application_file(adapter: LiveSite) -> None:
    path = adapter.config_file.parent / "applications" / "broken.yaml"
    path.write_text("application: v2\nname: broken\n")
    assert any(str(path) in each for each in problems(adapter))
    result = adapter.invoke("applications")
    assert (result.exit_code, str(path) in result.output) == (65, True)

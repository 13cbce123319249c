"""The configuration: the example shows every key, every key is checked, and an error names its line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
from pydantic import BaseModel

from slurm_adapter.core.config import Config
from slurm_adapter.core.durations import parse_duration
from slurm_adapter.core.errors import InvalidConfig
from slurm_adapter.core.states import JobState
from slurm_adapter.local.configuration_file import find_config, load_config, locate

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"

MACHINE = """partition = "main"
cpus = 1
memory = 1
max_nodes = 1
max_time = "01:00:00"
"""
SMALL = f"""provider = "example"
state_dir = "/var/lib/x"
shared_dir = "/shared/x"
[machines.c.m]
{MACHINE}"""


def load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return load_config(path)


def models(kind: Any) -> Iterator[type[BaseModel]]:
    """Yield the tables inside a type."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for inner in get_args(kind):
        yield from models(inner)


def keys(model: type[BaseModel]) -> Iterator[str]:
    """Yield every key of a table and of the tables in it."""
    for name, field in model.model_fields.items():
        yield name
        for inner in models(field.annotation):
            yield from keys(inner)


def test_the_example_is_a_configuration_and_shows_every_key() -> None:
    config = load_config(EXAMPLE)
    text = EXAMPLE.read_text(encoding="utf-8")
    for key in keys(Config):
        assert re.search(rf"^(# )?(\[+)?([\w.-]+\.)?{key}( = |[.\]])", text, re.MULTILINE), f"{key} is not shown"
    assert config.machines["example-compute"]["example-compute"].max_time == 2 * 86400


def test_what_the_example_shows_as_a_default_is_the_default() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    # Lines that are commented out and consist of `key = value` are put back.
    whole = re.sub(r"^# (\[clusters\.main\.ssh\]\n|(\w+) = )", r"\1", text, flags=re.MULTILINE)
    shown, config = tomllib.loads(whole), load_config(EXAMPLE)
    without = {
        "first_id", "scheduler", "transport", "prefix", "path", "message_timeout", "mode", "default_time", "lost_after",
        "srun", "system_load", "system_unload", "wait", "reserved", "private", "always", "allow_env", "methods",
    }  # fmt: skip
    tables = {"": config, "identity": config.identity, "jobs": config.jobs}
    tables["peers"] = config.peers
    shown["clusters"], tables["clusters"] = shown["clusters"]["main"], config.cluster
    compared = set()
    for name, table in tables.items():
        for key, value in (shown[name] if name else shown).items():
            if key in without:
                real = getattr(table, key)
                seen = parse_duration(value) if isinstance(real, int) and isinstance(value, str) else value
                assert real == (tuple(seen) if isinstance(seen, list) else seen), f"{name}.{key}"
                compared.add(key)
    assert compared == without


def test_the_smallest_configuration(tmp_path: Path) -> None:
    config = load(tmp_path, SMALL)
    assert (config.first_id, config.jobs.default_time, config.peers.wait) == (1, 3600, 600)
    with pytest.raises(ValueError, match="frozen"):
        config.provider = "x"  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize("line", SMALL.splitlines())
def test_none_of_its_lines_may_be_missing(tmp_path: Path, line: str) -> None:
    with pytest.raises(InvalidConfig, match=r"config\.toml:"):
        load(tmp_path, SMALL.replace(f"{line}\n", "", 1))


SSH = '[clusters.a]\ntransport = "ssh"\n'
# Added text, line and key in the message, words of the message.
WRONG = [
    ("nonsense = 1", "1: nonsense", "not a key of the configuration; allowed here are provider, state_dir,"),
    ('provider = "a b"', "1: provider", "allowed is 1 to 64 letters, digits, - and _"),
    ("provider = 5", "1: provider = 5", "must be text in quotes"),
    ("first_id = 0", "1: first_id = 0", "at least 1"),
    ('first_id = "1"', '1: first_id = "1"', "must be a whole number, without quotes"),
    ('shared_dir = "relative"', "1: shared_dir", "an absolute path on the cluster"),
    ('shared_dir = "/ends/"', "1: shared_dir", "without a slash at its end"),
    ('state_dir = "~/state"', "1: state_dir", "must be an absolute path: ~"),
    ('applications = "applications"', "1: applications", "must be an absolute path"),
    ('[clusters.a]\ntransport = "pigeon"', "11: clusters.a.transport", "'local' or 'ssh'"),
    ('[clusters.a]\ntransport = "ssh"', "11: clusters.a.transport", "add the table, with host"),
    ('[clusters.a.ssh]\nhost = "h"', "10: clusters.a.ssh", "or remove the table"),
    (SSH + 'prefix = ["x"]\n[clusters.a.ssh]\nhost = "h"', "12: clusters.a.prefix", "remove it"),
    (SSH + '[clusters.a.ssh]\nhost = ""', "13: clusters.a.ssh.host", "a hostname or an address"),
    (SSH + '[clusters.a.ssh]\nhost = "h"\nport = 70000', "14: clusters.a.ssh.port", "at most 65535"),
    (SSH + '[clusters.a.ssh]\nhost = "h"\nport = "22"', "14: clusters.a.ssh.port", "without quotes"),
    ('[clusters.a]\nprefix = "sudo"', "11: clusters.a.prefix", "must be a list"),
    ("[clusters.a]\nprefix = [\n  'a',\n  1,\n]", "13: clusters.a.prefix.1 = 1", "must be text in quotes"),
    ("[clusters.a]\nmessage_timeout = 0", "11: clusters.a.message_timeout = 0", "at least 1"),
    ("[clusters.a]\nmessage_timeout = 1.5", "11: clusters.a.message_timeout = 1.5", "must be a whole number"),
    ('[clusters.a]\nscheduler = "pyslurm"', "11: clusters.a.scheduler", 'use "commands"'),
    ('[identity]\nmode = "service"', "11: identity.mode", "service_user go together; add it"),
    ('[identity]\nservice_user = "jobs"', "11: identity.service_user", "go together; set mode"),
    ('[identity]\nmode = "service"\nservice_user = "root"', "12: identity.service_user", "'root' is not an account"),
    ('[identity]\nusers = { a = "../x" }', "11: identity.users.a", "'../x' is not an account"),
    ('[identity.users]\na = "b"\n"D#1" = "../x"', "12: identity.users.D#1", "'../x' is not an account"),
    ('[identity]\npattern = "donald"', "11: identity.pattern", "must contain {user}"),
    ('[identity]\npattern = "{name}"', "11: identity.pattern", "may contain in braces: {user}"),
    ('[jobs]\ndefault_time = "90"', "11: jobs.default_time", "write HH:MM:SS"),
    ("[jobs]\ndefault_time = 90", "11: jobs.default_time = 90", "has no units"),
    ('[jobs]\ndefault_time = "00:00:00"', "11: jobs.default_time", "more than 0"),
    ('[jobs]\nlost_after = "1:60:00"', "11: jobs.lost_after", "is not a duration"),
    ('[jobs]\nfolder = "relative/{id}"', "11: jobs.folder", "absolute path with {id} in its last component"),
    ('[jobs]\nfolder = "/home/{id}/x"', "11: jobs.folder", "{id} in its last component"),
    ('[jobs]\nfolder = "/home/../{id}"', "11: jobs.folder", "absolute path"),
    ('[jobs]\nfolder = "/home/{name}/{id}"', "11: jobs.folder", "may contain in braces: {user}, {id}"),
    ('[jobs]\nfolder = "/home/a\\nb/{id}"', "11: jobs.folder", "no control characters"),
    ("[jobs]\nsrun = []", "11: jobs.srun = []", 'words such as ["srun"]'),
    ('[peers]\nwait = "x"', "11: peers.wait", "is not a duration"),
    ('[peers]\nmethods = ["magic"]', "11: peers.methods.0", "'unshare', 'bwrap' or 'nss_wrapper'"),
    ("[peers]\nmethods = []", "11: peers.methods = []", "one or more of"),
    ('[peers]\nalways = "yes"', "11: peers.always", "true or false"),
    ('[peers]\naddress = "node-ib0"', "11: peers.address", "must contain {node}"),
    ('[drive_pattern]\nuser = "/work/{usr}/{drive}"', "11: drive_pattern.user", "may contain in braces: {user},"),
    ('[drive_pattern]\nuser = "/work/{drive}"', "11: drive_pattern.user", "must contain {user} or {account}"),
    ('[drive_pattern]\nproject = "/work/{project}"', "11: drive_pattern.project", "must contain {drive}"),
    ('[[drives]]\nid = "a/b"\npath = "/x"', "11: drives.0.id", "without a slash"),
    *(
        (f'[[drives]]\nid = "{id_}"\npath = "/x"', "11: drives.0.id", "neither . nor ..")
        for id_ in (".", "..", "../a", "", "a\\nb")
    ),
    *(
        (f'[machines.c.p]\npartition = "x"\n{key} = "{value}"', f"12: machines.c.p.{key}", "leave it out")
        for key in ("qos", "account", "constraint", "gpu_type")
        for value in ("", " ", " a", "a\\nb")
    ),
    ('[machines.c.p]\npartition = " "', "11: machines.c.p.partition", "the name of a partition"),
    ('[[drives]]\nid = "a"\npath = "x"', "12: drives.0.path", "an absolute path"),
    ('[[drives]]\nid = "a"\npath = "/x"\n[[drives]]\nid = "b"', "13: drives.1.path", "is missing"),
    ('[[drives]]\nid = "a"\npath = "/x"\n[[drives]]\nid = "a"\npath = "/y"', "14: drives.1.id", "/x and /y; keep one"),
    ('[drives]\nid = "a"', "10: drives", "must be a list"),
    ('[states]\nFAILED = "BROKEN"', "11: states.FAILED", "'IN_QUEUE'"),
    ('[states]\nPREMPTED = "FAILURE"', "11: states.PREMPTED", "not a state of Slurm; its states are PENDING"),
    ('[retention]\nlogs = "500-00:00:00"', "11: retention.logs", "raise records"),
    ('[retention]\nrecords = "00:30:00"', "11: retention.records", "at least 3600"),
    ('[machines.c.other]\npartition = "x"', "10: machines.c.other.cpus", "is missing"),
    (f'[machines.c.p]\ncluster = "other"\n{MACHINE}', "11: machines.c.p.cluster", "no table [clusters.other]"),
    ('[machines.c.other]\npartion = "x"', "11: machines.c.other.partion", "did you mean partition?"),
    ('[clusters.a]\npartition = "x"', "11: clusters.a.partition", "belongs in [machines.CATEGORY.ID]"),
    ('[clusters]\ntransport = "ssh"', '11: clusters.transport = "ssh"', "must be a table"),
    ("[clusters]", "10: clusters = {}", "a table [clusters.NAME], or no table"),
    ("[clusters.a]\n[clusters.b]", "11: clusters.b", "one cluster is supported for now; keep this table or"),
    ('[clusters."a b"]', "10: clusters.a b", "'a b' is not allowed as a cluster's name; use 1 to 64 letters"),
    ("[clusters.a]\nfirst_id = 7", "11: clusters.a.first_id", "belongs above the first table"),
    ('[gateway]\nurl = "https://x/y"', "11: gateway.url", "without a path"),
    ("[gateway]\nport = 99999", "11: gateway.port = 99999", "at most 65535"),
    ('[gateway]\nweb_domain = "app.example.org"', "11: gateway.web_domain", "with {job}-{rank}"),
    ('[ucloud]\nurl = "https://x"\nkey = "/k"\nrefresh_token = "/r"', "first_id", "is too small"),
]  # fmt: skip


@pytest.mark.scenario(90)
@pytest.mark.parametrize(("text", "where", "words"), WRONG)
def test_an_error_names_the_file_the_line_and_the_key(tmp_path: Path, text: str, where: str, words: str) -> None:
    key = text.split(" = ", maxsplit=1)[0]
    if text.startswith("["):
        whole = SMALL + text + "\n"
    else:
        whole = text + "\n" + re.sub(rf"^{key} = .*\n", "", SMALL, flags=re.MULTILINE)
    with pytest.raises(InvalidConfig) as caught:
        load(tmp_path, whole)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/config.toml:")
    assert where in message
    assert words in message


NEW_TABLE = (
    "4: cluster: [cluster] and [cluster.ssh] are now [clusters.NAME] and [clusters.NAME.ssh]; "
    "choose a name, such as main"
)
OLD = [
    ("state_dir", "state", "2: state: this key is now state_dir"),
    ("shared_dir", "shared", "3: shared: this key is now shared_dir"),
    ("[machines", "[cluster]\ntransport = 'ssh'\n[machines", NEW_TABLE),
    ("[machines", "[cluster.ssh]\nhost = 'h'\n[machines", NEW_TABLE),
]


@pytest.mark.parametrize(("new", "old", "said"), OLD)
def test_an_old_key_gives_one_error_that_names_the_new_key(tmp_path: Path, new: str, old: str, said: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(tmp_path, SMALL.replace(new, old, 1))
    assert str(caught.value) == f"{tmp_path}/config.toml:{said}"


def test_the_name_of_the_cluster(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL).cluster_name == "main"
    named = load(tmp_path, SMALL + "cluster = 'alpha'\n[clusters.alpha]\nmessage_timeout = 30\n")
    assert (named.cluster_name, named.cluster.message_timeout) == ("alpha", 30)


def test_all_errors_are_shown_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(tmp_path, SMALL.replace("cpus = 1", "cpus = 0").replace("memory = 1", 'memory = "much"'))
    assert [line.split(":")[1] for line in str(caught.value).splitlines()] == ["6", "7"]


NO_TOML = [
    (b"a = 1\n# \xff\n", "2: is not UTF-8 (byte 0xff); save the file as UTF-8"),
    ("\ufeffprovider = 1\n".encode(), "1: begins with a byte order mark"),
    ("provider = 1\n".encode("utf-16"), "1: is not UTF-8"),
    (b"x = ", "1: not TOML: Invalid value"),
    (b"x = 1\npartition = main\n", "2: not TOML: Invalid value: 'partition = main'; a value is text in double quotes"),
    (b"a = 1\na = 2\n", "2: not TOML: Cannot overwrite a value: 'a = 2'; this key stands in the file twice"),
    (b"[a]\nx = 1\n[b]\n[a]\n", "4: not TOML: Cannot declare ('a',) twice: '[a]'; this table stands in the file twice"),
    (b"[a\n", "1: not TOML: "),
    (b"a\n", "1: not TOML: "),
    (b'a = """\nx\n', ": not TOML: "),
]


@pytest.mark.parametrize(("content", "said"), NO_TOML)
def test_what_is_not_toml(tmp_path: Path, content: bytes, said: str) -> None:
    """A file in another encoding, with a byte order mark, with a key or a table twice, with a text without quotes."""
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(InvalidConfig) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}:")
    assert said in str(caught.value)
    with pytest.raises(InvalidConfig, match="No such file"):
        load_config(tmp_path / "none")


def test_lines_may_end_as_on_windows(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(SMALL.replace("\n", "\r\n").encode())
    assert load_config(path).provider == load(tmp_path, SMALL).provider


@pytest.mark.parametrize(
    ("text", "seconds"), [("00:00:01", 1), ("01:30:00", 5400), ("100:00:00", 360_000), ("2-03:04:05", 183_845)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "90", "1:2:3", "00:60:00", "00:00:60", "-1:00:00", "1-2", "1:00", "\u0660\u0661:00:00"]
)
def test_texts_that_are_not_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


def test_the_sites_own_states(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL + '[states]\nPREEMPTED = "IN_QUEUE"\n').states == {"PREEMPTED": JobState.IN_QUEUE}


def test_places_of_the_configuration_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    environment = {"HOME": str(home)}
    assert find_config(Path("x"), {"SLURM_ADAPTER_CONFIG": "y"}) == Path("x")
    assert find_config(None, environment | {"SLURM_ADAPTER_CONFIG": "y"}) == Path("y")
    own = home / ".config/slurm-adapter/config.toml"
    own.parent.mkdir(parents=True)
    own.touch()
    assert find_config(None, environment) == own
    Path("config.toml").touch()
    assert find_config(None, environment) == Path("config.toml")


def test_a_closed_folder_has_no_configuration_unless_it_is_the_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError

    monkeypatch.setattr(Path, "is_file", refuse)
    assert find_config(None, {"HOME": "/root"}) == Path("/etc/slurm-adapter/config.toml")


def test_a_message_gets_the_line_of_its_key(tmp_path: Path) -> None:
    """It is found in its own table. A text that does not begin with a key is not changed."""
    path = tmp_path / "config.toml"
    path.write_text(
        '[clusters.main.ssh]\nkey = "a"\n\n[ucloud]\nurl = "u"\nkey = "b"\n\n[machines.a-b."c"]\ncpus = 1\n'
        '[identity]\nusers = { a = "x", "D#1" = "y" }\n[[drives]]\nid = "1"\n[[drives]]\nid = "2"\n'
    )
    for text, line in (
        ("clusters.main.ssh.key: no", 2),
        ("ucloud.key: no", 6),
        ("machines.a-b.c: no", 8),
        ("machines.a-b.c.cpus: no", 9),
        ("machines.a-b.c.cpus = 1: no", 9),
        ("ucloud.none: no", 4),
        ("identity.users.D#1: no", 11),
        ("drives.1.id: no", 15),
    ):
        assert locate(path, text) == f"{path}:{line}: {text}"
    assert locate(path, "no", ("drives", 1, "path")) == f"{path}:14: no"
    assert locate(path, "no", ("peers", "wait")) == f"{path}: no"
    for text in ("the cluster cannot be reached: no", "no", "/srv/x: no", "peers.wait: no", "drives go: no"):
        assert locate(path, text) == text

"""The command line for people and cron: data, messages and exit codes, and never a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from slurm_adapter.cli import job_output
from slurm_adapter.cli import main as module
from slurm_adapter.cli.check import Finding, Level
from slurm_adapter.cli.formatting import labelled
from slurm_adapter.cluster.transports.local import clean_environment
from slurm_adapter.core.states import JobState
from slurm_adapter.gateway import background_sync
from slurm_adapter.jobs.report import MOST_LINES, Report, outage_lines
from tests.offline import PRODUCT, Offline, Tripping, offline, peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.cluster.transports.interface import Command

__all__ = ["offline"]

SPECIFICATION = {"application": {"name": "sleeper", "version": "1"}, "product": PRODUCT}

CONFIG = """
provider = "example"
state_dir = "{folder}/state"
shared_dir = "{folder}/shared"
[identity]
users = {{ alice = "alice" }}
[machines.example-compute.example-compute]
partition = "main"
cpus = 1
memory = 1
max_nodes = 4
max_time = "01:00:00"
"""


@pytest.fixture
def run(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs a command on the site without a cluster."""
    path = offline.folder / "config.toml"
    path.write_text(CONFIG.format(folder=offline.folder))
    monkeypatch.setenv("SLURM_ADAPTER_CONFIG", str(path))
    monkeypatch.setattr("slurm_adapter.adapter.Adapter", lambda _: offline.open())
    # A mistake of the program must not look like one of its messages.
    monkeypatch.setenv("SLURM_ADAPTER_TRACEBACK", "1")

    def invoke(*arguments: str, stdin: bytes | dict[str, Any] = b"") -> Result:
        given = json.dumps(stdin).encode() if isinstance(stdin, dict) else stdin
        result = CliRunner().invoke(module.cli, arguments, input=given)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    return invoke


def test_a_cancel_that_fails_says_what_to_do(run: Callable[..., Result], offline: Offline) -> None:
    run("submit", "-", stdin=SPECIFICATION)
    offline.slurm.down = True
    result = run("cancel", "1")
    assert (result.exit_code, result.stdout) == (75, "")
    assert "run the same command again: " in result.stderr
    offline.slurm.down = False
    assert run("cancel", "1").stderr == "job 1: is being cancelled\n"


def test_a_job_in_json_has_the_specification_of_ucloud(run: Callable[..., Result]) -> None:
    run("submit", "-", stdin={**SPECIFICATION, "timeAllocation": {"hours": 1}, "allowDuplicateJob": True})
    shown = json.loads(run("show", "1", "--json").stdout)["specification"]
    assert shown["timeAllocation"] == {"hours": 1, "minutes": 0, "seconds": 0}
    assert shown["allowDuplicateJob"] is True
    assert run("submit", "-", stdin=shown).exit_code == 0


@pytest.mark.parametrize(("name", "value", "colours"), [("NO_COLOR", "1", 0), ("TERM", "dumb", 0), ("NO_COLOR", "", 1)])
def test_no_color_and_a_dumb_terminal_disable_colours(
    run: Callable[..., Result], name: str, value: str, colours: int
) -> None:
    run("submit", "-", stdin=SPECIFICATION)
    environment = {"NO_COLOR": None, "TERM": None, name: value}
    shown = CliRunner().invoke(module.cli, ["jobs"], env=environment, color=True)
    assert ("\x1b" in shown.stdout) == bool(colours)


def test_submit_prints_the_bulk_response(run: Callable[..., Result], offline: Offline) -> None:
    result = run("submit", "-", stdin=SPECIFICATION)
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"responses": [{"id": "1"}]})
    result = run("submit", "-", "--key", "k", stdin={"items": [SPECIFICATION, SPECIFICATION]})
    assert json.loads(result.stdout) == {"responses": [{"id": "2"}, {"id": "3"}]}
    again = run("submit", "-", "--key", "k", stdin={"items": [SPECIFICATION, SPECIFICATION]})
    assert json.loads(again.stdout) == json.loads(result.stdout)
    assert len(offline.slurm.submissions) == 3


@pytest.mark.parametrize(
    "stdin",
    [
        b"", b"\xff", b"{", b"[]", b"null", b"{}", b'{"items": []}', b'{"items": 3}', b"[" * 100_000,
        b'{"a": 1, "a": 2}', b'{"replicas": 1e999}', b'{"replicas": NaN}', b'{"items": [1]}', b"9" * 5000,
        json.dumps(SPECIFICATION | {"name": "\ud800"}).encode(), json.dumps(SPECIFICATION | {"replicas": 99}).encode(),
        json.dumps(SPECIFICATION | {"labels": {"\ud800": "x"}}).encode(),
        json.dumps(SPECIFICATION | {"parameters": {"x": {"type": "text", "value": "\udfff"}}}).encode(),
    ],
)  # fmt: skip
def test_bad_input_is_65_and_leaves_nothing(run: Callable[..., Result], offline: Offline, stdin: bytes) -> None:
    for command in ("submit", "render"):
        result = run(command, "-", stdin=stdin)
        assert (result.exit_code, result.stdout) == (65, ""), result.stderr
        assert result.stderr.startswith("error: ")
    assert offline.slurm.submissions == []
    assert offline.site.store.all(9) == []


@pytest.mark.scenario(91)
def test_secrets_reach_no_output_no_file_and_no_command(
    run: Callable[..., Result], offline: Offline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Secrets of the adapter's environment, and secrets in a job."""
    secret = "hunter2-8c1f"
    monkeypatch.setenv("UCLOUD_REFRESH_TOKEN", secret)
    commands: list[Command] = []

    def opened(_: object) -> Adapter:
        site = offline.open()
        site.transport = Tripping(site.transport, commands.append)
        return site

    monkeypatch.setattr("slurm_adapter.adapter.Adapter", opened)
    access = {"type": "api_server", "token": secret, "api": secret}
    said = [
        run("submit", "-", stdin=SPECIFICATION | {"resources": [access]}),
        run("submit", "-", stdin=SPECIFICATION | {"parameters": {"x": access}}),
        run("submit", "-", stdin=SPECIFICATION),
        run("render", "-", stdin=SPECIFICATION),
    ]
    [response] = json.loads(said[2].stdout)["responses"]
    id_ = response["id"]
    said += [run(*words) for words in (["sync"], ["show", id_], ["jobs", "--json"], ["cancel", id_], ["sync"])]
    assert [result.exit_code for result in said] == [65, 65, 0, 0, 0, 0, 0, 0, 0]
    files = [path for path in offline.folder.rglob("*") if path.is_file()]
    told = [result.output.encode() for result in said] + [path.read_bytes() for path in files] + [caplog.text.encode()]
    told += ["\0".join(command.argv).encode() + command.stdin for command in commands]
    assert any(b"job.sbatch" in text for text in told)
    assert not [text for text in told if secret.encode() in text]
    assert secret not in clean_environment().values()
    state = [path for path in files if offline.folder / "state" in path.parents]
    assert state
    assert not [path for path in state if path.stat().st_mode & 0o077], "others could read it"


def test_exit_codes(run: Callable[..., Result], offline: Offline, tmp_path: Path) -> None:
    assert run("submit", "-", "--user", "mallory", stdin=SPECIFICATION).exit_code == 65
    assert run("submit", str(tmp_path / "none")).exit_code == 65
    assert run("submit").exit_code == 2
    assert run("jobs", "--limit", "0").exit_code == 2
    assert run("nonsense").exit_code == 2
    for command in (("show", "99"), ("logs", "99"), ("hosts", "99"), ("cancel", "99"), ("show", "\udcff")):
        result = run(*command)
        assert result.exit_code in {1, 65}
        assert result.stderr.startswith("error: ")
    offline.slurm.refuse_next("Invalid qos specification")
    result = run("submit", "-", stdin=SPECIFICATION)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Invalid qos specification" in result.stderr
    offline.slurm.down = True
    assert run("submit", "-", stdin=SPECIFICATION).exit_code == 75
    assert run("render", "-", stdin=SPECIFICATION).exit_code == 0
    with offline.site.sync_lock():
        result = run("sync")
        assert (result.exit_code, result.output) == (75, "")


def test_configuration_that_is_wrong_is_78(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("SLURM_ADAPTER_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if not Path("/etc/slurm-adapter/config.toml").exists():
        result = CliRunner().invoke(module.cli, ["jobs"])
        assert (result.exit_code, "no configuration found" in result.stderr) == (78, True)
    (tmp_path / "config.toml").write_text("provider = 3\n")
    result = CliRunner().invoke(module.cli, ["jobs"])
    assert result.exit_code == 78
    assert all(line.startswith("error: config.toml:") for line in result.stderr.splitlines())
    (tmp_path / "config.toml").write_text(CONFIG.format(folder=tmp_path / "none"))
    assert CliRunner().invoke(module.cli, ["jobs"]).exit_code == 78


def test_every_command_explains_itself(run: Callable[..., Result]) -> None:
    names = list(module.cli.commands)
    for name in names:
        result = run(name, "--help")
        assert result.exit_code == 0
        assert "Usage: " in result.output
    assert run("--version").exit_code == 0


@pytest.mark.scenario(68)
def test_cron_and_the_gateway_come_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_cron(site: Offline) -> None:
        monkeypatch.setattr("slurm_adapter.adapter.Adapter", lambda _: site.open())
        (site.folder / "config.toml").write_text(CONFIG.format(folder=site.folder))
        done = CliRunner().invoke(module.cli, ["--config", str(site.folder / "config.toml"), "sync"])
        assert (done.exit_code, done.output) == (0, "")

    def by_the_gateway(site: Offline) -> None:
        assert background_sync.sync_once(site.site)[0] == ()

    def outcome(name: str, make_pass: Callable[[Offline], None]) -> list[Any]:
        (tmp_path / name).mkdir()
        site = Offline(tmp_path / name)
        database = site.job()
        client = site.job(resources=[peer("database", database)])
        seen: list[Any] = []

        def look() -> None:
            site.slurm.now += 1
            make_pass(site)
            jobs = [site.now(each) for each in (database, client)]
            seen.append([(each.stage, each.state, each.status, each.addresses, each.ended) for each in jobs])
            seen.append(
                [site.shared.replace(str(site.folder), ""), *(site.site.store.updates(each.id) for each in jobs)]
            )

        look()
        for each in (database, client):
            site.fence(each, site.slurm_id(each))
            site.slurm.start(site.slurm_id(each), ("node001",))
            look()
        site.slurm.finish(site.slurm_id(client))
        site.slurm.finish(site.slurm_id(database), 3)
        look()
        assert [state for _, state, *_ in seen[-2]] == [JobState.FAILURE, JobState.SUCCESS]
        return seen

    assert outcome("cron", by_cron) == outcome("gateway", by_the_gateway)


def test_lists_and_pages(run: Callable[..., Result], offline: Offline) -> None:
    assert (run("jobs").exit_code, run("jobs").stdout) == (0, "")
    assert json.loads(run("jobs", "--json").stdout) == []
    database = offline.run(offline.job(name="my database"), "node002")
    consumer = offline.job(resources=[peer("db", database)])
    lines = run("jobs").stdout.splitlines()
    assert lines[0].split() == ["ID", "STATE", "AGE", "SLURM", "USER", "APPLICATION", "NODES", "STATUS"]
    assert lines[1].split()[:4] == ["1", "RUNNING", "1s", "1"]
    assert [each["id"] for each in json.loads(run("jobs", "--json", "--limit", "1").stdout)] == ["2"]
    page = run("show", consumer.id).stdout
    assert "db is job 1 (RUNNING)" in page
    assert "\x1b" not in run("show", database.id).stdout
    shown = json.loads(run("show", database.id, "--json").stdout)
    assert (shown["slurmId"], shown["slurmName"]) == (1, offline.now(database).slurm_name)
    assert (shown["nodes"], shown["addresses"]) == (["node002"], [["192.0.2.2"]])
    assert [update["state"] for update in shown["updates"]] == [None, "RUNNING"]
    assert run("hosts").stdout == offline.shared
    assert run("hosts", consumer.id).stdout == (offline.peers / consumer.peers_file).read_text()
    result = run("cancel", consumer.id, database.id)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "job 2: is being cancelled\njob 1: is being cancelled\n"
    assert run("sync").exit_code == 0
    assert run("jobs").stdout == ""
    assert len(run("jobs", "--all").stdout.splitlines()) == 3
    assert "has ended" in run("hosts", consumer.id).stderr


def test_an_outage_is_reported_when_it_begins_and_when_it_ends(run: Callable[..., Result], offline: Offline) -> None:
    offline.job()
    assert run("sync").output == ""
    offline.slurm.down = True
    first = run("sync")
    assert (first.exit_code, first.stdout) == (1, "")
    assert "this sync is incomplete; no job was changed without evidence" in first.stderr
    assert "Unable to contact slurm controller" in first.stderr
    for _ in range(3):
        assert (run("sync").exit_code, run("sync").output) == (1, "")
    offline.slurm.down = False
    assert run("sync").stderr == "slurm-adapter: syncs are complete again\n"
    assert (run("sync").exit_code, run("sync").output) == (0, "")


def test_a_second_outage_during_the_first_is_reported_too(run: Callable[..., Result], offline: Offline) -> None:
    record = offline.run(offline.job())
    broken = offline.peers / "hosts"
    broken.write_text("# BEGIN slurm-adapter\n")  # somebody has edited it: the mark of its end is gone
    offline.slurm.requeue(offline.slurm_id(record))
    first = run("sync")
    assert "could not write the hosts files" in first.stderr
    assert run("sync").output == ""
    offline.slurm.down = True
    second = run("sync")
    assert "this sync has more problems" in second.stderr
    assert "Unable to contact slurm controller" in second.stderr
    assert "hosts files" not in second.stderr
    offline.slurm.down = False
    assert (run("sync").exit_code, run("sync").output) == (1, ""), "the first goes on"
    broken.unlink()
    assert run("sync").stderr == "slurm-adapter: syncs are complete again\n"


def test_a_thousand_problems_make_no_mail_of_a_thousand_lines(offline: Offline) -> None:
    problems = tuple(f"job {number}: trouble" for number in range(1000))
    lines = outage_lines(offline.site.store, Report(problems=problems))
    assert len(lines) == 2 + MOST_LINES
    assert lines[-1] == "and 960 more"
    assert lines[1:4] == ["job 0: trouble", "job 1: trouble", "job 2: trouble"]
    assert outage_lines(offline.site.store, Report(problems=problems)) == []


def test_a_mass_end_needs_permission(run: Callable[..., Result], offline: Offline) -> None:
    records = offline.submit(*(offline.item() for _ in range(11)))
    offline.sync()
    for record in records:
        offline.slurm.forget(offline.slurm_id(record))
    offline.sync()
    offline.slurm.now += 3600
    refused = run("sync")
    assert refused.exit_code == 1
    assert "11 of 11 jobs would end in this sync though Slurm itself does not say" in refused.stderr
    assert "`slurm-adapter sync --allow-mass-end` does it" in refused.stderr
    looked = run("sync", "--dry-run", "--allow-mass-end")
    assert looked.stdout.count("IN_QUEUE -> FAILURE: Your job was lost") == 11
    assert not any(offline.now(record).state.final for record in records)
    assert run("sync", "--allow-mass-end").exit_code == 0
    assert all(offline.now(record).state.final for record in records)


def test_the_old_name_of_the_permission_is_refused_with_the_new_one(run: Callable[..., Result]) -> None:
    refused = run("sync", "--end-many")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--end-many is now --allow-mass-end" in refused.stderr
    assert "--end-many" not in run("sync", "--help").stdout


def test_a_dry_run_prints_what_would_be_done_and_reports_no_outage(
    run: Callable[..., Result], offline: Offline
) -> None:
    assert run("sync", "--dry-run").stdout == "nothing to do\n"
    record = offline.job()
    offline.fence(record, 1)
    offline.slurm.start(1)
    before = offline.now(record)
    assert run("sync", "--dry-run").stdout == "job 1: IN_QUEUE -> RUNNING: Your job is running\n"
    assert offline.now(record) == before
    offline.slurm.down = True
    assert run("sync", "--dry-run").exit_code == 1
    assert "incomplete" in run("sync").stderr, "a dry run has told nobody"


# Terminals


def test_a_table_fits_the_terminal_and_piped_output_is_never_cut(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline.slurm.refuse_next("x" * 300)
    records = offline.submit(offline.item(), offline.item())
    now = offline.site.clock()
    piped = job_output.job_table(records, now)
    assert "x" * 300 in piped
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    for columns in (110, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        plain = re.sub(r"\x1b\[[0-9;]*m", "", job_output.job_table(records, now))
        assert max(map(len, plain.splitlines())) <= columns
        assert "…" in plain
    monkeypatch.setenv("COLUMNS", "20")
    assert len(job_output.job_table(records, now).splitlines()) == 3


def test_a_finding_is_wrapped_beside_its_label_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "the cluster cannot be reached: /" + "x" * 90 + " and more words " * 9
    assert labelled("problem", "red", text).count("\n") == 0
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", labelled("problem", "red", text)).splitlines()
    assert plain[0] == "problem  the cluster cannot be reached:"
    assert plain[1] == " " * 9 + "/" + "x" * 90, "a path is not cut, so that it can be copied"
    assert all(line.startswith(" " * 9) and len(line) <= 80 for line in plain[2:])
    assert " ".join(" ".join(plain).split()).removeprefix("problem ") == " ".join(text.split())


def test_colours_are_for_terminals(offline: Offline) -> None:
    record = offline.job()
    table, page = job_output.job_table([record], 0.0), job_output.job_page(record, [], {})
    assert "\x1b[33mIN_QUEUE" in table
    assert "\x1b[33mIN_QUEUE" in page
    code = f"import click; click.echo({table!r})"
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "\x1b" not in piped.stdout


def test_a_full_disk_is_reported_as_such(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(folder=tmp_path))
    command = [sys.executable, "-m", "slurm_adapter", "--config", str(config), "applications"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    said = "error: standard output: No space left on device: the output is incomplete\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_users_text_does_not_reach_the_terminal_raw(offline: Offline) -> None:
    record = offline.job()
    evil = "\x1b[2J\r\x9b\x07\u202e"  # Slurm's words may hold the user's
    changed = offline.site.store.change([(record, {"status": evil})], 1.0)
    text = job_output.job_table(changed, 0.0) + job_output.job_page(
        changed[0], offline.site.store.updates(record.id), {}
    )
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert not set(plain) & {"\x1b", "\r", "\x07", "\u202e", "\x9b"}


def test_a_finding_of_several_lines_is_one(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    found = Finding(Level.PROBLEM, "it cannot be used\ninstall \x1b another")
    monkeypatch.setattr("slurm_adapter.cli.check.check_site", lambda _: [found])
    result = run("check")
    assert (result.exit_code, result.stdout) == (1, "problem  it cannot be used; install \\x1b another\n")


def test_check_finds_clocks_that_do_not_agree(run: Callable[..., Result], offline: Offline) -> None:
    far = run("check")  # the site's clock is that of its Slurm in memory, long ago
    assert re.search(r"problem +the clocks of this machine and the cluster differ by \d+ s", far.stdout)
    offline.slurm.now = int(time.time())
    assert "the clocks of this machine and the cluster agree" in run("check").stdout


LOADED = """
import sys
from slurm_adapter.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end
print(*(name for name in sys.modules if name.split(".")[0] in {"slurm_adapter", "pydantic", "jinja2", "paramiko"}))
"""


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        (["--help"], {"pydantic", "slurm_adapter.core.config", "slurm_adapter.state.store", "slurm_adapter.jobs.sync"}),
        (
            ["sync"],
            {
                "jinja2",
                "paramiko",
                "slurm_adapter.core.plan",
                "slurm_adapter.cluster.job_folders",
                "slurm_adapter.jobs.submit",
            },
        ),
    ],
)
def test_a_quick_command_loads_only_what_it_uses(tmp_path: Path, arguments: list[str], unused: set[str]) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(folder=tmp_path))
    command = [sys.executable, "-c", LOADED, "--config", str(config), *arguments]
    (tmp_path / "shared").mkdir()
    for _ in range(2):  # the first pass of all writes the hosts file
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "slurm_adapter.cli.main" in loaded
    assert loaded & unused == set()


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("command", ["applications", "--help", "--version", "jobs --help"])
@pytest.mark.parametrize(
    ("to", "code", "words"),
    [
        (">/dev/full", 1, "error: standard output: No space left on device: the output is incomplete\n"),
        (">&-", 1, "error: standard output: Bad file descriptor: the output is incomplete\n"),
        ("| true", 0, ""),
    ],
)
def test_output_that_cannot_be_written_is_one_message(
    tmp_path: Path, to: str, code: int, words: str, command: str, *, buffered: bool
) -> None:
    """`slurm-adapter applications >/dev/full`."""
    program = f"{sys.executable} -m slurm_adapter {command}"
    text = f"set -o pipefail; {{ {program}; }} {to}" if to.startswith("|") else f"{program} {to}"
    environment = {"PATH": os.environ["PATH"]} | ({} if buffered else {"PYTHONUNBUFFERED": "1"})
    if command == "applications":
        environment["SLURM_ADAPTER_CONFIG"] = str(_plain_config(tmp_path))
    done = subprocess.run(
        ["bash", "-c", text], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (code, words)


def _plain_config(folder: Path) -> Path:
    path = folder / "plain.toml"
    path.write_text(
        f'provider = "example"\nstate_dir = "{folder}/state"\nshared_dir = "{folder}"\n'
        "[machines.example-compute.example-compute]\n"
        'partition = "main"\ncpus = 1\nmemory = 1\nmax_nodes = 1\nmax_time = "01:00:00"\n'
    )
    return path


APPLICATION = """application: v2
name: {name}
version: "1"
titel: A spelling mistake
software: {{type: Native}}
invocation: "true"
"""


def test_lint_shows_warnings_that_refuse_nothing_and_errors_that_do(tmp_path: Path) -> None:
    folder = tmp_path / "applications"
    folder.mkdir()
    good, broken = folder / "good.yaml", folder / "broken.yaml"
    good.write_text(APPLICATION.format(name="good"))
    config = _plain_config(tmp_path)
    config.write_text(f'applications = "{folder}"\n' + config.read_text())

    def lint(*options: str) -> Result:
        return CliRunner().invoke(module.cli, ["--config", str(config), "applications", "lint", *options])

    result = lint()
    assert (result.exit_code, result.stderr) == (0, "errors: 0, warnings: 1\n")
    assert result.stdout.startswith(f"warning  {good}:4: titel: is ignored")
    broken.write_text("application: v2\nname: broken\n")
    result = lint()
    assert result.exit_code == 65
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["error"] * (len(lines) - 1) + ["warning"]
    assert all(line.startswith(f"error    {broken}:") for line in lines[:-1])
    shown = json.loads(lint("--json").stdout)
    assert [each["level"] for each in shown] == [line.split()[0] for line in lines]
    listed = CliRunner().invoke(module.cli, ["--config", str(config), "applications"])
    assert (listed.exit_code, "good" in listed.stdout, str(broken) in listed.stderr) == (65, True, True)
    assert "titel" not in listed.output

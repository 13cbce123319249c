"""What one job comes to on a real cluster: created, refused, run, watched, read and cancelled.

Names that jobs have for each other are in `test_peers_e2e.py`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.core.errors import Refused
from slurm_adapter.core.states import JobState
from slurm_adapter.local.application_folder import Catalogue
from slurm_adapter.translation.application import Application, Parameter, Variable, Word
from tests.adapter import PRODUCT, text

if TYPE_CHECKING:
    from pathlib import Path

    from slurm_adapter.sandbox.configuration import Identity, Transport
    from tests.adapter import LiveSite, LiveSiteMaker
    from tests.sandbox_cluster import Cluster

pytestmark = pytest.mark.sandbox

HOSTILE = (
    "'; touch /tmp/pwn; '",
    "$(id) `id` ${HOME} $HOME \\$(id)",
    'say "hello" \\" \\\\',
    "two\nlines\n\nand more\n",
    "\ttab \r return \x1b[31m bell \a",
    "æøå 漢字 🜁 \u202e",
    "",
    "-n",
    "--help",
    " spaces  around ",
    "* ? [a-z] {a,b} ~ ! # ; & | < > ( )",
    "{{ 7 * 7 }} {% if %} {# #} {- systemLoad -}",
    "%s %d %%",
    "#SBATCH --account=root\n#SBATCH --wrap=id",
    "x" * 100_000,
)
"""Texts that a shell, a template or a directive would like to take for its own."""


class OneApplication(Catalogue):
    """A catalogue of an application that no file can describe: word and variable parts come from UCloud alone."""

    def __init__(self, application: Application) -> None:
        super().__init__([])
        self.application = application

    def find(self, name: str, version: str) -> Application:
        """Whatever is asked for."""
        del name, version
        return self.application


def slurm_fields(adapter: LiveSite, slurm_id: int | None) -> dict[str, str]:
    return adapter.cluster.show(str(slurm_id))


# Created


@pytest.mark.scenario(16)
def test_time_allocations(adapter: LiveSite) -> None:
    wanted = {
        "00:30:00": None,  # the site's default
        "01:31:00": {"hours": 0, "minutes": 90, "seconds": 30},  # Slurm counts minutes, and a job gets all its seconds
        "00:01:00": {"hours": 0, "minutes": 0, "seconds": 1},
        "1-01:00:00": {"hours": 25, "minutes": 0, "seconds": 0},
    }
    records = adapter.submit(*(adapter.shell("sleep 60", timeAllocation=each) for each in wanted.values()))
    assert [slurm_fields(adapter, record.slurm_id)["TimeLimit"] for record in records] == list(wanted)


@pytest.mark.scenario(17, 54)
def test_replicas_are_distinct_nodes_with_rank_files(adapter: LiveSite) -> None:
    show = 'printf "%s " "$(basename "$UCLOUD_DIR")" "$(hostname)"; cd "$UCLOUD_DIR" && head -n 1 *.txt | paste -sd " "'
    [record] = adapter.submit(
        adapter.shell(show, application="spread", replicas=2, product=PRODUCT | {"id": "example-compute-4"})
    )
    [output] = adapter.until_successful(record)
    nodes = [node.name for node in adapter.nodes_of(record)]
    assert len(set(nodes)) == 2
    files = f"==> cores.txt <== 4  ==> job_id.txt <== {record.id}  "
    names = f"==> node-0.txt <== {nodes[0]}  ==> node-1.txt <== {nodes[1]}  ==> number_of_nodes.txt <== 2  "
    assert sorted(output.splitlines()) == [
        f"{rank} {node} {files}{names}==> rank.txt <== {rank}" for rank, node in enumerate(nodes)
    ]


@pytest.mark.scenario(21)
def test_unknown_keys_are_ignored(adapter: LiveSite) -> None:
    [record] = adapter.submit(adapter.shell("echo well", parameters_of_tomorrow={"a": [1]}, labels=None))
    assert adapter.until_successful(record) == ["well\n"]


@pytest.mark.parametrize("identity", ["sudo", "service"])
@pytest.mark.parametrize("transport", ["local", "ssh"])
def test_an_application_runs_as_its_account_without_capabilities(
    make_adapter: LiveSiteMaker, transport: Transport, identity: Identity
) -> None:
    """With names and without: what makes them must leave nothing behind."""
    adapter = make_adapter(transport, identity)
    account = {"sudo": "alice", "service": "jobs"}[identity]
    show = "id -un; id -u; umask; grep -E '^(Cap(Inh|Prm|Eff|Amb)|NoNewPrivs)' /proc/self/status"
    [server] = adapter.start(adapter.shell("sleep 60"))
    alone, named = adapter.until_successful(
        *adapter.submit(adapter.shell(show), adapter.shell(show, peers={"database": server}))
    )
    for output in (alone, named):
        lines = output.splitlines()
        assert lines[:2] == [account, {"alice": "7701", "jobs": "7703"}[account]]
        assert {line.split()[1] for line in lines[3:]} == {"0000000000000000", "0"}
    assert alone == named
    folder = adapter.file(server, "")
    assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == ({"alice": 7701, "jobs": 7703}[account], 0o700)


# Refused: exit code 65, the field's name, and no trace in the file system, the database or Slurm


def refusals(adapter: LiveSite) -> dict[str, tuple[dict[str, Any], tuple[str, ...]]]:
    """What is refused, and words of the message."""
    shell = adapter.shell("true")

    def file(path: str, **fields: object) -> dict[str, Any]:
        value = {"type": "file", "path": path, "readOnly": False, **fields}
        return adapter.specification("acme-database", parameters={"dataStore": value}) | {
            "application": {"name": "acme-database", "version": "1.0.0"}
        }

    return {
        "no time": (shell | {"timeAllocation": {"hours": 0, "minutes": 0, "seconds": 0}}, ("timeAllocation", "0")),
        "too much time": (shell | {"timeAllocation": {"hours": 49, "minutes": 0, "seconds": 0}}, ("timeAllocation",)),
        "no replicas": (shell | {"replicas": 0}, ("replicas", "0")),
        "fewer replicas": (shell | {"replicas": -1}, ("replicas", "-1")),
        "more nodes than there are": (shell | {"replicas": 99}, ("replicas", "99", "3")),
        "an unknown type": (shell | {"resources": [{"type": "teapot"}]}, ("resources[0]", "teapot")),
        "an unknown product": (shell | {"product": PRODUCT | {"id": "big"}}, ("product", "big", "example-fast")),
        "an unknown application": (adapter.specification("tetris"), ("application", "tetris")),
        "two lines of name": (shell | {"name": "x\n#SBATCH --account=root"}, ("name", "one line")),
        "a path out of its drive": (file("/123/../../etc/passwd"), ("dataStore", "..")),
        "an unknown drive": (file("/999/x"), ("dataStore", "999")),
        "a link out of its drive": (file("/123/acme-database/way-out"), ("dataStore", "symbolic link")),
        "a path that is not there": (file("/123/nothing"), ("dataStore", "does not exist")),
        "read only, where it cannot be": (file("/123/acme-database", readOnly=True), ("dataStore.readOnly",)),
        "a reserved mount": (file("/123/acme-database", mountPath="/etc/ucloud"), ("mountPath", "reserved")),
        "another reserved mount": (file("/123/acme-database", mountPath="/work"), ("mountPath", "reserved")),
        "no parameter": (adapter.specification("shell"), ("parameters.code", "Missing")),
    }


@pytest.mark.scenario(38)
def test_bad_input_leaves_no_trace(adapter: LiveSite, cluster: Cluster, empty_drive: str) -> None:
    cluster.ask("ln", "-s", "/etc", f"{empty_drive}/way-out")
    for name, (specification, words) in refusals(adapter).items():
        output = adapter.refuse(specification, *words)
        assert output.startswith("error: "), name
    adapter.refuse(adapter.shell("true"), "carol", "no account", user="carol")
    adapter.refuse(adapter.shell("true"), "owner.createdBy", user="x\ny")


@pytest.mark.scenario(34)
def test_protected_directives_are_refused(adapter: LiveSite) -> None:
    protected = "account partition qos comment job-name uid gid wrap dependency chdir output export nodes time"
    for name in protected.split():
        value = {"name": text(name), "value": text("root")}
        adapter.refuse(adapter.specification("directive", parameters=value), name)


def test_what_slurm_refuses_leaves_no_trace(adapter: LiveSite) -> None:
    """Exit code 1, and Slurm's own words."""
    before = adapter.traces
    values = {"name": text("reservation"), "value": text("never-made")}
    result = adapter.invoke("submit", "-", stdin=adapter.specification("directive", parameters=values))
    assert result.exit_code == 1
    assert re.search(r"Slurm refused .*[Rr]eservation", result.output)
    assert adapter.traces == before
    with pytest.raises(Refused, match="reservation"):
        adapter.submit(adapter.specification("directive", parameters=values))


# Rendered


@pytest.mark.scenario(31)
@pytest.mark.parametrize("transport", ["local", "ssh"])
def test_hostile_texts_arrive_byte_for_byte(make_adapter: LiveSiteMaker, transport: Transport) -> None:
    """Through Jinja, and as word and variable parts on two nodes with names; they are arguments and nothing else."""
    adapter = make_adapter(transport)
    names = [f"p{number}" for number in range(len(HOSTILE))]
    values = {name: text(value) for name, value in zip(names, HOSTILE, strict=True)}
    parameters = "\n".join(f"  {name}: {{type: TextArea, optional: false}}" for name in names)
    words = " ".join(f"{{{{ {name} }}}}" for name in names)
    application = f"""
application: v2
name: hostile
version: "1"
software: {{type: Native, load: []}}
features: {{}}
parameters:
{parameters}
invocation: |
  env printf '%s\\0' {words}
"""
    (adapter.config_file.parent / "applications" / "hostile.yaml").write_text(application)
    [by_template] = adapter.submit(adapter.specification("hostile", parameters=values))
    vars(adapter.site)["catalogue"] = OneApplication(
        Application(
            name="words",
            version="1",
            title="",
            source="the test",
            trusted=True,
            backend="NATIVE",
            parameters=tuple(Parameter(name, "text") for name in names),
            invocation=(Word("env"), Word("printf"), Word("%s\\0"), Variable(tuple(names))),
            multi_node=True,
        )
    )
    [by_words] = adapter.submit(adapter.specification("words", parameters=values, replicas=2))
    adapter.until_successful(by_template, by_words)
    expected = "".join(f"{value}\0" for value in HOSTILE).encode()
    assert adapter.file(by_template, "stdout.txt").read_bytes() == expected
    assert [adapter.file(by_words, f"stdout-{rank}.txt").read_bytes() for rank in (0, 1)] == [expected, expected]


@pytest.mark.scenario(32)
def test_a_name_of_a_job_reaches_no_directive(adapter: LiveSite) -> None:
    [record] = adapter.submit(adapter.shell("sleep 60", name="x #SBATCH --account=root $(id) `id`"))
    assert "root" not in adapter.output(record, "job.sbatch")
    assert "root" not in " ".join(slurm_fields(adapter, record.slurm_id).values())


@pytest.mark.scenario(33)
def test_a_directive_is_one_directive(adapter: LiveSite) -> None:
    value = 'it\'s "x" #SBATCH --account=root \\ $HOME'
    values = {"name": text("network"), "value": text(value)}
    [record] = adapter.submit(adapter.specification("directive", parameters=values))
    shown = adapter.cluster.ask("scontrol", "-o", "show", "job", str(record.slurm_id))
    assert re.search(rf" Account=\(null\) .* Network={re.escape(value)}(?: |$)", shown)
    values["value"] = text("a\n#SBATCH --account=root")
    adapter.refuse(adapter.specification("directive", parameters=values), "network")


@pytest.mark.scenario(36, 89)
def test_a_job_renders_the_same_every_time_and_without_a_cluster(tmp_path: Path, adapter: LiveSite) -> None:
    """No Slurm, no way to the cluster, no state: `render` needs the configuration alone."""
    config = tmp_path / "config.toml"
    content = re.sub(r"^prefix = .*$", 'prefix = ["/nonexistent"]', adapter.config_file.read_text(), flags=re.MULTILINE)
    config.write_text(re.sub(r"^state_dir = .*$", f'state_dir = "{tmp_path}/state"', content, flags=re.MULTILINE))
    specification = adapter.shell("echo $HOME 'and more'", replicas=2) | {
        "resources": [{"type": "peer", "hostname": "database", "jobId": "4101"}]
    }
    scripts = [
        subprocess.run(
            [sys.executable, "-m", "slurm_adapter", "--config", config, "render", "-"],
            input=json.dumps(specification).encode(),
            capture_output=True,
            env={"PATH": "/nonexistent", "LC_ALL": "C"},
            timeout=60,
            check=True,
        )
        for _ in range(2)
    ]
    assert scripts[0].stdout == scripts[1].stdout
    assert scripts[0].stdout.startswith(b"#!/bin/bash\n#SBATCH ")
    assert b"\r" not in scripts[0].stdout
    assert scripts[0].stderr == b""
    assert not (tmp_path / "state").exists()


@pytest.mark.scenario(37)
def test_a_drive_that_is_read_only_is_honoured(make_adapter: LiveSiteMaker, empty_drive: str) -> None:
    adapter = make_adapter(more=f'[[drives]]\nid = "library"\npath = "{empty_drive}"\nread_only = true\n')
    links = [{"type": "file", "path": "/library", "readOnly": True}]
    [record] = adapter.submit(adapter.shell("readlink $UCLOUD_DIR/../../mounts/library") | {"resources": links})
    assert adapter.until_successful(record) == [f"{empty_drive}\n"]


# Watched, read and cancelled


@pytest.mark.parametrize("identity", ["sudo", "service"])
def test_a_user_who_spoils_his_jobs_folder_harms_nobody(make_adapter: LiveSiteMaker, identity: Identity) -> None:
    """Everything in it belongs to him: links, pipes, odd names and long files are data, and say nothing of others."""
    adapter = make_adapter(identity=identity)
    spoil = r"""
        cd "$UCLOUD_DIR/../.."
        rm owner && ln -s "$(printf '1\n0 exit {}\n1 owner 1')" owner
        mkfifo exit-1.json
        head -c 5000000 /dev/zero | tr '\0' '[' >exit-2.json
        printf '{"slurm_id":1e999,"restart":0,"task":null,"exit_code":-1,"ended_at":"NaN","reason":["x"]}' >exit-3.json
        echo x >"$(printf 'stdout-1\n2 3.txt')"
        mkdir stderr-7.txt .closed
        rm -rf node ucloud hosts
        exit 3
    """
    spoiled, removed = adapter.submit(adapter.shell(spoil), adapter.shell('cd /; rm -rf "$UCLOUD_DIR/../.."; exit 0'))
    [same_user] = adapter.submit(adapter.shell("sleep 1; echo well"))
    [other_user] = adapter.submit(adapter.shell("sleep 1; echo well"), user="alice" if identity == "service" else "bob")
    ended = adapter.until_ended(spoiled, removed, same_user, other_user)
    assert [record.state for record in ended[2:]] == [JobState.SUCCESS] * 2
    assert (ended[0].state, ended[0].exit_code) == (JobState.FAILURE, 3)
    assert adapter.invoke("logs", same_user.id).stdout == "well\n"
    for record in ended[:2]:
        result = adapter.invoke("logs", record.id)
        assert result.exit_code == 0, result.output


@pytest.mark.scenario(55)
@pytest.mark.edge_case(14)
def test_how_jobs_end(adapter: LiveSite) -> None:
    wanted = {
        "exit 0": (JobState.SUCCESS, 0, "exit code 0"),
        "exit 3": (JobState.FAILURE, 3, "exit code 3"),
        "kill -9 $$": (JobState.FAILURE, 137, ""),
        "no-such-program": (JobState.FAILURE, 127, "exit code 127"),
    }
    records = adapter.until_ended(*adapter.submit(*map(adapter.shell, wanted)))
    for record, (state, code, words) in zip(records, wanted.values(), strict=True):
        assert (record.state, record.exit_code) == (state, code), record
        assert words in record.status
        told = json.loads(adapter.output(record, "exit.json"))
        assert (told["slurm_id"], told["exit_code"]) == (record.slurm_id, code)


@pytest.mark.scenario(70)
@pytest.mark.parametrize("transport", ["local", "ssh"])
def test_cancel(make_adapter: LiveSiteMaker, transport: Transport) -> None:
    """A job that waits, one that runs with names and cleans up, and one that does not want to end."""
    adapter = make_adapter(transport)
    cleans_up = (
        "trap 'sleep 0.5; getent hosts database && echo cleaned; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    )
    [waits] = adapter.submit(adapter.shell("sleep 60", begin="now+1hour"))
    [server] = adapter.start(adapter.shell("sleep 60"))
    [runs, stays] = adapter.start(
        adapter.shell(cleans_up, peers={"database": server}),
        adapter.shell("trap '' TERM; echo up; while :; do sleep 0.1; done"),
    )
    adapter.until_said(runs, "^up$")
    adapter.until_said(stays, "^up$")
    result = adapter.invoke("cancel", waits.id, runs.id, stays.id)
    assert result.exit_code == 0, result.output
    for record in adapter.until_ended(waits, runs, stays):
        assert (record.state, record.status) == (JobState.SUCCESS, "Your job was cancelled")
    assert "cleaned" in adapter.output(runs)
    assert adapter.invoke("cancel", waits.id).exit_code == 0  # it has ended: that is no error
    unknown = adapter.invoke("cancel", "999999", server.id)
    assert (unknown.exit_code, "999999" in unknown.output) == (1, True)
    assert adapter.now(server).cancel_sent is None  # one is unknown: nothing was done


@pytest.mark.parametrize("transport", ["local", "ssh"])
def test_logs_are_followed_to_their_end(make_adapter: LiveSiteMaker, transport: Transport) -> None:
    """Both streams, what comes late, a last line without its end, bytes that are no text; and then the job's end."""
    adapter = make_adapter(transport)
    script = (
        r"for i in 1 2 3; do echo line $i; sleep 0.7; done; echo oops >&2; head -c 3000000 /dev/zero; printf '\377end'"
    )
    [record] = adapter.submit(adapter.shell(script))
    command = [sys.executable, "-m", "slurm_adapter", "--config", str(adapter.config_file), "logs", "-f", record.id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as follower:
        adapter.until_ended(record)
        stdout, stderr = follower.communicate(timeout=60)
    assert stdout == b"line 1\nline 2\nline 3\n" + bytes(3_000_000) + b"\xffend"
    assert stderr == b"oops\n"
    assert follower.returncode == 0
    assert adapter.run("logs", "77").returncode == 1


def test_logs_of_replicas_bear_their_ranks(adapter: LiveSite) -> None:
    vars(adapter.site)["catalogue"] = OneApplication(
        Application(
            name="words",
            version="1",
            title="",
            source="the test",
            trusted=True,
            backend="NATIVE",
            invocation=(Word("hostname"),),
        )
    )
    [record] = adapter.submit(adapter.specification("words", replicas=2))
    [record] = adapter.until_ended(record)
    assert sorted(adapter.invoke("logs", record.id).stdout.splitlines()) == [
        f"[{rank}] {node.name}" for rank, node in enumerate(adapter.nodes_of(record))
    ]


def test_what_the_command_line_shows(adapter: LiveSite) -> None:
    [record] = adapter.start(adapter.shell("sleep 60", name="my job"))
    [line] = adapter.invoke("jobs").stdout.splitlines()[1:]
    assert re.match(rf"{record.id}\s+RUNNING\s+\d+s\s+{record.slurm_id}\s+alice\s+shell 1\s+{record.nodes[0]}\s", line)
    page = adapter.invoke("show", record.id).stdout
    for words in ("my job", "RUNNING", record.folder, record.slurm_name, record.addresses[0][0], "Your job is running"):
        assert words in page
    shown = json.loads(adapter.invoke("show", record.id, "--json").stdout)
    assert (shown["slurmId"], shown["state"], shown["updates"][-1]["state"]) == (record.slurm_id, "RUNNING", "RUNNING")
    assert [each["id"] for each in json.loads(adapter.invoke("jobs", "--json").stdout)] == [record.id]
    # Another command's pass is under way: silence, and 75.
    with adapter.site.sync_lock() as ours:
        assert ours
        told = adapter.run("sync")
    assert (told.returncode, told.stdout, told.stderr) == (75, "", "")
    told = adapter.run("sync")
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


def test_the_same_key_is_the_same_job(adapter: LiveSite) -> None:
    specification = adapter.shell("sleep 60")
    answers = [adapter.invoke("submit", "-", "--key", "k", stdin=specification) for _ in range(3)]
    assert len({answer.stdout for answer in answers}) == 1
    assert len(adapter.traces[2]) == 1
    other = adapter.invoke("submit", "-", "--key", "k", stdin=adapter.shell("sleep 61"))
    assert (other.exit_code, "another specification" in other.output) == (65, True)
    # A variable that was not set in somebody's script: neither a key that all share nor none.
    assert adapter.invoke("submit", "-", "--key", "", stdin=specification).exit_code == 2

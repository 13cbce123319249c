"""The scheduler with failed and forged answers, and with sites that hide jobs."""

from __future__ import annotations

import gc
import os
import pwd
import re
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.cluster.schedulers.accounts import guarded, read_uids
from slurm_adapter.cluster.schedulers.command_line import CommandLineScheduler
from slurm_adapter.cluster.schedulers.interface import Submission
from slurm_adapter.cluster.transports.fake import FakeTransport
from slurm_adapter.cluster.transports.interface import Result
from slurm_adapter.cluster.transports.local import LocalTransport
from slurm_adapter.core.errors import InvalidConfig, Refused, TryAgain, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.cluster.transports.interface import Command

CONFIG = (Path(__file__).parent / "recorded/22.05.8/scontrol-show-config").read_text()
ROW = f"{'tok-1':>160}|{'None':>96}|17|RUNNING|node001|7701|100|200|300|1:00:00|0|0\n"
HEADER = f"{'NAME':>160}|{'REASON':>96}|JOBID|STATE|...\n"
DOWN = "Unable to contact slurm controller (connect failure)"


PASSWD = {"alice": "alice:x:7701:7701:\xe6:/home/alice:/bin/sh\n", "bob": "bob:x:7702:7702::/:/bin/sh\n"}
ROOT = "root:x:0:0:root:/root:/bin/bash\n"
UIDS = {"ucloud": 7700, "root": 0, "slurm": 64030, "alice": 7701}


def queue_answer(
    mark: str,
    rows: str,
    config: str = CONFIG,
    identity: str = "ucloud",
    status: int = 0,
    stderr: str = "",
    passwd: str = "",
) -> Result:
    parts = [(f"{identity}\n", 0), (f"{UIDS[identity]}\n", 0), (passwd, 0), (rows, status)]
    if config:
        parts = [(config, 0)]
    text = "".join(f"{mark} begin\n{output}\n{mark} end {code}\n" for output, code in parts)
    return Result(0, f"motd\n{text}".encode(), stderr.encode())


def listing(**values: object) -> Callable[[Command], Result]:
    def answer(command: Command) -> Result:
        if "sacctmgr" in command.argv:
            return Result(0, str(values.get("level", "None")).encode() + b"\n", b"")
        if any("id -u --" in word for word in command.argv):
            return Result(0, str(values.get("ids", "")).encode(), b"")
        given = {key: value for key, value in values.items() if key not in {"rows", "level", "ids"}}
        given["config"] = given.get("config", CONFIG) if "part config" in command.argv[-1] else ""
        if given["config"]:
            return queue_answer(command.stdin.decode().strip(), "", **given)  # type: ignore[arg-type]  # the keywords
        told = values.get("rows", True)
        rows = told if isinstance(told, str) else HEADER + (ROW if told else "")
        known = PASSWD | dict(given.get("passwd") or {})  # type: ignore[call-overload]  # a table
        asked = re.search("^part names (.*)$", command.argv[-1], re.MULTILINE)
        names = asked[1].split() if asked else []
        given["passwd"] = "".join(ROOT if name == "root" else known.get(name, "") for name in names)
        return queue_answer(command.stdin.decode().strip(), rows, **given)  # type: ignore[arg-type]  # the keywords

    return answer


def answering(stdout: str, stderr: str) -> CommandLineScheduler:
    """Every command ends well, says this, and complains of that."""
    return CommandLineScheduler(FakeTransport(lambda _: Result(0, stdout.encode(), stderr.encode())))


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let schedulers know Slurm's configuration."""
    monkeypatch.setattr(CommandLineScheduler, "_settings", lambda _: CONFIG)


def queue(*users: str, **values: object) -> tuple[int, bool]:
    found = CommandLineScheduler(FakeTransport(listing(**values))).queue(users or ("alice",))
    return len(found.observations), found.sees_others


def hiding(what: str) -> str:
    return re.sub(r"(?m)^(PrivateData +=).*", rf"\1 {what}", CONFIG)


def test_a_healthy_answer() -> None:
    assert queue() == (1, True)
    assert queue(rows=False) == (0, True)


def test_a_process_that_asks_again_and_again_holds_on_to_nothing() -> None:
    """A pattern with a question's own mark would stay, of some hundreds of bytes each."""
    queue()
    tracemalloc.start()
    try:
        for _ in range(50):
            queue()
        gc.collect()
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 50 * 200


@pytest.mark.edge_case(6)
@pytest.mark.parametrize(
    ("values", "proven"),
    [
        ({}, False),
        ({"identity": "root"}, True),
        ({"identity": "slurm"}, True),
        ({"identity": "alice"}, True),  # one's own jobs are never hidden
        ({"level": "Operator"}, True),
        ({"level": "Administrator"}, True),
        ({"level": "None"}, False),
    ],
)
def test_hidden_jobs(values: dict[str, object], proven: bool) -> None:  # noqa: FBT001  # a row of the table
    assert queue(config=hiding("accounts,jobs,usage"), **values) == (1, proven)


def test_other_secrets_hide_no_jobs() -> None:
    assert queue(config=hiding("accounts,usage")) == (1, True)


def test_multi_category_security_hides_jobs() -> None:
    config = re.sub(r"(?m)^(MCSParameters +=).*", r"\1 ondemand,privatedata", CONFIG)
    assert queue(config=config) == (1, False)


def test_an_answer_without_the_setting_proves_nothing() -> None:
    assert queue(config="SLURM_VERSION = 22.05.8\n") == (1, False)


@pytest.mark.parametrize("version", ["20.11.4", "21.08.8-2"])
def test_a_slurm_that_is_too_old_is_refused(version: str) -> None:
    config = f"SLURM_VERSION = {version}\n"
    with pytest.raises(InvalidConfig, match=rf"Slurm {version} is too old: .* needs Slurm 22\.05 or later"):
        queue(config=config)


def test_slurms_configuration_is_asked_for_once_a_minute() -> None:
    """The rate limiter counts it as two requests."""
    now = [1000.0]
    transport = FakeTransport(listing())
    scheduler = CommandLineScheduler(transport, clock=lambda: now[0])
    for seconds in (0, 59, 2, -100):
        now[0] += seconds
        scheduler.queue(["alice"])
    asked = ["part config" in command.argv[-1] for command in transport.commands]
    assert asked == [True, False, False, True, False, True, False]


def test_an_answer_without_a_version_is_none() -> None:
    with pytest.raises(Unknown, match="SLURM_VERSION"):
        queue(config="ClusterName = x\n")


def seen(*users: str, **values: object) -> tuple[set[str], bool]:
    """Return the accounts in the rows, and whether other users' jobs are visible."""
    found = CommandLineScheduler(FakeTransport(listing(**values))).queue(users)
    return {row.user for row in found.observations}, found.sees_others


def test_accounts_are_compared_by_uid() -> None:
    """Two passwd lines with one uid: a directory service returns another name for the account."""
    assert seen("alice") == ({"alice"}, True)
    both = {"alia": "alia:x:7701:7701::/:/bin/sh\n"}
    assert seen("alia", "alice", passwd=both) == ({"alia", "alice"}, True)
    # The directory answers under another spelling.
    assert seen("ALICE", passwd={"ALICE": PASSWD["alice"]}) == ({"ALICE"}, True)
    assert seen("ALICE", ids="7701\n") == ({"ALICE"}, True)
    answer = seen("nobody", "alice", ids="\n")
    assert answer == ({"alice"}, True), "silence about an unknown account says nothing of others'"
    assert seen("bob") == ({"7701"}, True), "a row of a uid that was not asked for is nobody's"
    assert seen("alice", identity="alice", config=hiding("jobs")) == ({"alice"}, True)


SACCT_NAMES = b"%-160b %-20b \n" % (b"-" * 160, b"-" * 20) + b"%-160b %-20b \n" % (b"tok-1", b"5")


@pytest.mark.parametrize(
    ("comment", "known"),
    [
        ("\nbob:x:7701:7701::/:/bin/sh", {"bob": "7702", "carol": "7703"}),
        (f"\n{ROOT}bob:x:7701:7701::/:/bin/sh", {}),
        (f"\n{ROOT}bob:x:7701:7701::/:/bin/sh\n{ROOT}", {}),
        (f"\n{ROOT}", {}),
        (f"\n{ROOT}" * 3, {}),
        ("\n", {"bob": "7702", "carol": "7703"}),
    ],
)
def test_an_entry_of_a_directory_says_nothing_of_another_account(comment: str, known: dict[str, str]) -> None:
    """If users may edit their own entry, a comment may contain lines. Unproven accounts are asked for one by one."""
    names = ["alice", "bob", "nobody", "carol"]
    passwd = {name: f"{name}:x:770{number}:7700:,,,:/:/bin/sh\n" for number, name in enumerate(names, start=1)}
    passwd |= {"alice": f"alice:x:7701:7701:{comment}:/:/bin/sh\n", "nobody": "", "root": ROOT}
    passwd["carol"] = "carol:x:7703:7700:,,,:/:/bin/sh\n"
    told = "".join(passwd[word] for word in guarded(names))
    assert read_uids(told.encode(), names) == known


@given(st.text("\n:rotx0bcaeli17", max_size=60) | st.lists(st.sampled_from([ROOT, "\n", "bob:x:7701:1:"])).map("".join))
def test_no_comment_gives_an_account_another_uid(comment: str) -> None:
    passwd = {"root": ROOT, "alice": f"alice:x:7701:1:{comment}:/:/bin/sh\n", "bob": "bob:x:7702:1::/:/bin/sh\n"}
    for names in (["alice", "bob"], ["bob", "alice"], ["alice", "gone", "bob"], ["gone", "alice"]):
        uids = read_uids("".join(passwd.get(word, "") for word in guarded(names)).encode(), names)
        assert uids.items() <= {("alice", "7701"), ("bob", "7702")}


def test_accounting_has_the_accounts_names_too() -> None:
    def answer(command: Command) -> Result:
        if "sacct" not in command.argv:
            return listing()(command)
        row = b"17|CANCELLED by 7701|0:0|node001|alice-corp|7701|100|200|300|60|5\n"
        return Result(0, row if "-P" in command.argv else SACCT_NAMES, b"")

    scheduler = CommandLineScheduler(FakeTransport(answer))
    [before] = scheduler.history([17]) or ()
    scheduler.queue(["alice"])
    [after] = scheduler.history([17]) or ()
    scheduler.queue(["bob"])  # by another thread of `serve`
    [later] = scheduler.history([17]) or ()
    told = [(row.user, row.cancelled_by) for row in (before, after, later)]
    assert told == [("alice-corp",) * 2, ("alice",) * 2, ("alice",) * 2]


def test_an_account_that_the_cluster_does_not_know_proves_nothing_of_its_own_jobs_alone() -> None:
    """An account that was deleted from the directory made all jobs' silence count for nothing."""

    def unnamed(*users: str, **values: object) -> set[str]:
        found = CommandLineScheduler(FakeTransport(listing(**values))).queue(users)
        assert (len(found.observations), found.sees_others) == (1, True)
        return set(found.unnamed)

    assert unnamed("alice") == set()
    assert unnamed("alice", "gone", ids="\n") == {"gone"}
    for status in (0, 1):
        stderr = "squeue: error: Invalid user: bob\n"
        assert unnamed("alice", "bob", stderr=stderr, status=status) == {"bob"}
    assert unnamed("alice", stderr="squeue: error: Invalid user: strange words\n") == {"alice"}


@pytest.mark.edge_case(5)
@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"stderr": "slurm_load_jobs error: Socket timed out on send/recv operation"}, Unknown),
        ({"stderr": "squeue: error: something odd", "rows": ""}, Unknown),
        ({"rows": "CLUSTER: x\n", "stderr": "slurm_load_jobs error: Socket timed out on send/recv operation"}, Unknown),
        ({"rows": "CLUSTER: x\n"}, Unknown),
        ({"stderr": "squeue: fatal: Unable to process configuration file"}, Unknown),
        ({"status": 1}, Unknown),
        ({"status": 1, "stderr": f"slurm_load_jobs error: {DOWN}"}, TryAgain),
        ({"status": 127, "stderr": "sh: 4: squeue: not found"}, TryAgain),
        (
            {"rows": False, "stderr": "slurm_load_jobs error: Unable to contact slurm controller (recv failure)"},
            Unknown,
        ),
    ],
)
def test_an_unreadable_answer_raises_unknown(values: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        queue(**values)


@pytest.mark.edge_case(5)
@pytest.mark.parametrize("stdout", ["", "CLUSTER: x\n", "NodeName=n1 NodeAddr=10.0.0.1\n"])
@pytest.mark.parametrize(
    "stderr",
    [
        "slurm_load_jobs error: Socket timed out on send/recv operation",
        "sacct: fatal: x",
        "slurm_x error: x",
        "sacct: error: Problem talking to the database: Connection refused",
    ],
)
def test_words_with_which_slurm_gives_up_are_a_failure_whatever_the_exit_code(stdout: str, stderr: str) -> None:
    scheduler = answering(stdout, stderr)
    for ask in (lambda: scheduler.history([1]), scheduler.nodes, lambda: scheduler.cancel({1: "alice"})):
        with pytest.raises(Unknown):
            ask()


WARNING = "error: NodeNames=node001 Sockets=2 CoresPerSocket=3 CPUs=64: CPUs do not match. Resetting CPUs."


def test_warnings_of_commands_about_slurm_conf(caplog: pytest.LogCaptureFixture) -> None:
    """Warnings on stderr beside exit code 0 and a complete answer."""

    def answer(command: Command) -> Result:
        if "scancel" in command.argv:
            gone = f"scancel: {WARNING}\nscancel: error: Kill job error on job id 1: Invalid job id specified\n"
            return Result(1, b"", gone.encode())
        if "suspend" in command.argv:
            return Result(1, b"", f"scontrol: {WARNING}\nAccess/permission denied for job 2\n".encode())
        if "sacct" in command.argv:
            return Result(0, b"", f"sacct: {WARNING}\n".encode())
        return listing(stderr=f"scontrol: {WARNING}\nsqueue: {WARNING}\n")(command)

    scheduler = CommandLineScheduler(FakeTransport(answer))
    for _ in range(2):
        assert len(scheduler.queue(["alice"]).observations) == 1
        assert scheduler.history([17]) == ()
    assert [record.getMessage() for record in caplog.records] == [
        f"scontrol show config succeeded, but warned: scontrol: {WARNING}"
    ], "once, whichever command says it"
    scheduler.cancel({1: "alice"})
    # Only the job that scontrol names is in trouble.
    with pytest.raises(Refused, match="suspend 2"):
        scheduler.suspend([1, 2])


@pytest.mark.parametrize("status", [0, 1])
def test_a_job_that_is_not_cancelled_is_reported_for_any_exit_code(status: int) -> None:
    said = f"scancel: {WARNING}\nscancel: error: Kill job error on job id 1: Access/permission denied"
    scheduler = CommandLineScheduler(FakeTransport(lambda _: Result(status, b"", said.encode())))
    with pytest.raises(Unknown, match="denied"):
        scheduler.cancel({1: "alice"})


@pytest.mark.parametrize(
    "stderr",
    [
        "squeue: RPC rate limit exceeded 3 time(s), sleeping then retrying",
        "squeue: error: Ignoring obsolete FastSchedule=1 option. Please remove from your configuration.",
        "bash: warning: setlocale: LC_ALL: cannot change locale (xx)",
        "sudo: unable to resolve host login: Name or service not known",
    ],
)
def test_harmless_messages_are_not_errors(stderr: str) -> None:
    assert queue(stderr=stderr) == (1, True)


def test_an_answer_that_breaks_off() -> None:
    def answer(command: Command) -> Result:
        whole = listing()(command)
        return Result(0, whole.stdout[:-20], b"")

    with pytest.raises(Unknown, match="breaks off"):
        CommandLineScheduler(FakeTransport(answer)).queue(["alice"])


_texts = st.sampled_from(
    [b"17", b"|", b"\n", b"n1 NodeAddr=1.2.3.4", b"NodeName=n1", b"job 0 begun\n", b"job 0 0 MTcK\n", HEADER.encode()]
)
_stdouts = st.binary(max_size=120) | st.lists(_texts, max_size=12).map(b"".join)
_stderrs = st.sampled_from([b"", b"x", b"sacct: error: x", b"Slurm accounting storage is disabled", b"\xff"])


@given(_stdouts, _stderrs, st.integers(0, 255))
def test_no_answer_is_an_error_of_another_kind(stdout: bytes, stderr: bytes, status: int) -> None:
    def answer(command: Command) -> Result:
        # Half an answer about the queue.
        begun = command.stdin.strip() + b" begin\n" if "part()" in command.argv[-1] else b""
        return Result(status, begun + stdout, stderr)

    scheduler = CommandLineScheduler(FakeTransport(answer))
    for ask in (
        lambda: scheduler.queue(["alice"]),
        lambda: scheduler.history([17]),
        scheduler.nodes,
        lambda: scheduler.addresses(["n1"]),
        lambda: scheduler.cancel({17: "alice"}),
    ):
        with suppress(TryAgain, Unknown):
            ask()
    assert len(scheduler.submit([Submission("t", "alice", "/f", ())])) == 1


def test_no_argument_is_a_secret() -> None:
    """Every user can read the arguments of every process. What differs from question to question is not among them."""
    transport = FakeTransport(lambda _: Result(0, b"", b""))
    scheduler = CommandLineScheduler(transport, clock=lambda: 1000.0)
    for _ in range(2):
        for ask in (
            lambda: scheduler.queue(["alice"]),
            lambda: scheduler.history([17]),
            scheduler.nodes,
            scheduler.partitions,
            lambda: scheduler.addresses(["n1"]),
            lambda: scheduler.submit([Submission("t", "alice", "/f", ())]),
        ):
            with suppress(TryAgain, Unknown):
                ask()
    half = len(transport.commands) // 2
    assert half >= 6
    assert [each.words for each in transport.commands[:half]] == [each.words for each in transport.commands[half:]]


@pytest.mark.usefixtures("configured")
@pytest.mark.edge_case(9, 22)
def test_every_command_has_a_whole_environment_of_its_own() -> None:
    transport = FakeTransport(lambda _: Result(1, b"", b"slurm_x error: no"))
    scheduler = CommandLineScheduler(transport, "/opt/bin", "/etc/s.conf")
    for ask in (
        lambda: scheduler.queue(["alice"]),
        lambda: scheduler.history([1]),
        scheduler.nodes,
        lambda: scheduler.cancel({1: "alice"}),
        lambda: scheduler.addresses(["n1"]),
    ):
        with pytest.raises(Unknown):
            ask()
    for command in transport.commands:
        assert {"PATH=/opt/bin", "LC_ALL=C.UTF-8", "SLURM_CONF=/etc/s.conf"} <= set(command.environment or ())
    for command in transport.commands[:2]:  # the commands that print times
        assert {"TZ=UTC", "SLURM_TIME_FORMAT=%s"} <= set(command.environment or ())
    assert "1970-01-01" in transport.commands[1].argv  # else sacct begins at midnight


@pytest.mark.usefixtures("configured")
def test_the_error_of_a_command_names_it_without_its_options() -> None:
    def fail(command: Command) -> Result:
        mark = command.stdin.decode().strip()
        return Result(0, f"{mark} begin\n\n{mark} end 1\n".encode(), b"scontrol: error: no")

    with pytest.raises(Unknown, match=r"^scontrol show partition failed: scontrol: error: no$"):
        CommandLineScheduler(FakeTransport(fail)).partitions()


@pytest.mark.usefixtures("configured")
def test_history() -> None:
    def tell(status: int, stdout: str, stderr: str) -> CommandLineScheduler:
        return CommandLineScheduler(FakeTransport(lambda _: Result(status, stdout.encode(), stderr.encode())))

    assert tell(1, "", "Slurm accounting storage is disabled").history([1]) is None
    assert tell(0, "", "").history([1]) == ()
    with pytest.raises(Unknown):
        tell(1, "", "sacct: error: slurm_persist_conn_open_without_init: failed to open").history([1])
    with pytest.raises(Unknown):
        tell(0, "", "sacct: error: Problem talking to the database: Connection refused").history([1])


@pytest.mark.usefixtures("configured")
@pytest.mark.edge_case(24)
@pytest.mark.parametrize("program", ["sacct", "scancel"])
def test_five_thousand_ids_reach_a_real_command(tmp_path: Path, program: str) -> None:
    (tmp_path / program).write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" | tail -n 5000 >"{tmp_path}/told"\n')
    (tmp_path / program).chmod(0o755)
    scheduler = CommandLineScheduler(LocalTransport(), f"{tmp_path}:/usr/bin:/bin")
    ids = list(range(67_000_000, 67_005_000))
    if program == "sacct":
        assert scheduler.history(ids) == ()
        assert (tmp_path / "told").read_text().split()[-1] == ",".join(map(str, ids))
    else:
        me = pwd.getpwuid(os.geteuid()).pw_name
        CommandLineScheduler(AsMyself(), f"{tmp_path}:/usr/bin:/bin").cancel(dict.fromkeys(ids, me))
        assert (tmp_path / "told").read_text().split() == list(map(str, ids))


class AsMyself(LocalTransport):
    """Runs all commands as the account that runs the tests."""

    def run(self, command: Command) -> Result:
        """Run it without sudo."""
        return super().run(replace(command, user=None))


@pytest.mark.usefixtures("configured")
@pytest.mark.edge_case(24)
def test_many_ids_fit_in_an_argument() -> None:
    transport = FakeTransport(lambda _: Result(0, b"", b""))
    assert CommandLineScheduler(transport).history(range(67_000_000, 67_012_000)) == ()
    assert len(transport.commands) == 3
    assert all(len(word) < 128 * 1024 for command in transport.commands for word in command.argv)
    assert transport.commands[0].argv[-1].startswith("67000000,67000001,")


@pytest.mark.parametrize("version", ["24.11.5", "25.11.7"])
def test_history_asks_for_sluids_without_a_former_call_of_queue(version: str) -> None:
    """Jobs that pyslurm lists are looked up by sacct."""
    config = f"slurm {version}\nSLURM_VERSION           = {version}\n"

    def answer(command: Command) -> Result:
        if "sacct" in command.argv:
            return Result(0, b"", b"")
        return listing(config=config)(command)

    transport = FakeTransport(answer)
    assert CommandLineScheduler(transport).history([1]) == ()
    assert any("SLUID" in word for word in transport.commands[-1].argv) is (version > "25")


def test_cancel_runs_as_each_owner_and_tries_all() -> None:
    def answer(command: Command) -> Result:
        if command.user == "alice":
            return Result(1, b"", b"scancel: error: Kill job error on job id 1: Access/permission denied")
        return Result(0, b"", b"")

    transport = FakeTransport(answer)
    with pytest.raises(Unknown, match="Access/permission denied"):
        CommandLineScheduler(transport).cancel({1: "alice", 2: "bob", 3: "alice"})
    assert [(command.user, command.argv[-2:]) for command in transport.commands] == [
        ("alice", ("1", "3")),
        ("bob", ("scancel", "2")),
    ]


@pytest.mark.edge_case(6)
@pytest.mark.parametrize("words", ["Invalid job id specified", "Job/step already completing or completed"])
def test_cancel_of_what_is_gone(words: str) -> None:
    said = f"scancel: error: Kill job error on job id 1: {words}".encode()
    transport = FakeTransport(lambda _: Result(1, b"", said))
    CommandLineScheduler(transport).cancel({1: "alice"})
    assert [command.user for command in transport.commands] == ["alice"], "asked once, and taken for done"


def test_cancel_while_the_controller_is_down() -> None:
    said = f"scancel: error: Kill job error on job id 1: {DOWN}".encode()
    with pytest.raises(TryAgain):
        CommandLineScheduler(FakeTransport(lambda _: Result(8, b"", said))).cancel({1: "alice"})


GONE = "Job/step already completing or completed for job 2"
DENIED = "Access/permission denied for job {}"
OLD_RULE = "Sorry, user a is not allowed to execute '/usr/bin/scontrol suspend 1,2' as slurm on login."


@pytest.mark.parametrize(
    ("status", "stdout", "stderr", "failed"),
    [
        (0, "", "", {}),
        (1, "", f"{GONE}\n", {2: Refused}),
        (1, "", "Unexpected message received for job 1\n", {1: Unknown}),
        (1, "", f"Unexpected message received for job 1\n{GONE}\n", {1: Unknown, 2: Refused}),
        (1, "2_0: No error\n2_1: Job is pending execution\n", f"{DENIED.format(1)}\n", {1: Refused}),
        (1, "2_0: No error\n2_1: Access/permission denied\n", "", {2: Refused}),
        (1, "", f"sudo: unable to resolve host login: Name or service not known\n{GONE}\n", {2: Refused}),
        (1, "", "Job is not suspended for job 1\n", {}),
        (1, "", f"Access/permission denied for job 12\n{GONE}\n", {1: Refused, 2: Refused, 3: Refused}),
        (1, "", f"{OLD_RULE}\n", {1: Refused, 2: Refused, 3: Refused}),
        (1, "", f"slurm_suspend error: {DOWN}\n", {1: TryAgain, 2: TryAgain, 3: TryAgain}),
        (1, "", "", {1: Unknown, 2: Unknown, 3: Unknown}),
        (137, "", f"{GONE}\n", {1: Unknown, 2: Refused, 3: Unknown}),
        (127, "", "env: 'scontrol': No such file or directory\n", {1: Refused, 2: Refused, 3: Refused}),
    ],
)
def test_the_result_of_each_job_in_a_list(
    status: int, stdout: str, stderr: str, failed: dict[int, type[Exception]]
) -> None:
    transport = FakeTransport(lambda _: Result(status, stdout.encode(), stderr.encode()))
    scheduler = CommandLineScheduler(transport, operator=("sudo", "-u", "slurm"))
    failures = scheduler.set_time_limits({1: 3600, 2: 3600, 3: 3599})
    assert {id_: type(failure) for id_, failure in failures.items()} == failed
    assert [command.argv[-3:] for command in transport.commands] == [("update", "jobid=1,2,3", "timelimit=60")]
    assert all(f"jobid={id_} " in str(failure) for id_, failure in failures.items())


def test_a_thousand_jobs_are_suspended_by_one_command() -> None:
    transport = FakeTransport(lambda _: Result(0, b"", b""))
    ids = list(range(67_000_000, 67_001_000))
    scheduler = CommandLineScheduler(transport, operator=("sudo", "-n"))
    scheduler.suspend(ids)
    scheduler.resume(ids[:1])
    assert [command.argv[-4:] for command in transport.commands] == [
        ("-n", "scontrol", "suspend", ",".join(map(str, ids))),
        ("-n", "scontrol", "resume", "67000000"),
    ]


SLURMS_OWN = "SlurmUser               = slurm(64030)\nSlurmdUser              = root(0)\n"


@pytest.mark.parametrize("release", ["22.05.8", "24.11.5", "25.11.7", "26.05.5"])
def test_each_release_shows_slurms_own_accounts(release: str) -> None:
    config = (Path(__file__).parent / "recorded" / release / "config").read_text()
    assert CommandLineScheduler(FakeTransport(lambda _: Result(0, config.encode(), b""))).own_uids() == {
        "SlurmUser": 64030,
        "SlurmdUser": 0,
    }


def test_slurms_own_accounts_are_read_although_the_ping_after_them_failed() -> None:
    ping = "Slurmctld(primary) at login is DOWN\n"
    scheduler = CommandLineScheduler(FakeTransport(lambda _: Result(1, (SLURMS_OWN + ping).encode(), b"")))
    assert scheduler.own_uids() == {"SlurmUser": 64030, "SlurmdUser": 0}


@pytest.mark.parametrize(("status", "said"), [(1, ""), (0, ""), (0, SLURMS_OWN.splitlines()[0]), (0, SLURMS_OWN * 2)])
def test_slurms_own_accounts_are_not_guessed(status: int, said: str) -> None:
    with pytest.raises(Unknown):
        CommandLineScheduler(FakeTransport(lambda _: Result(status, said.encode(), b""))).own_uids()

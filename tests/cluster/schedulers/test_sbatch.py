"""The meaning of sbatch's words, and the command that runs sbatch many times, with a real shell and a fake sbatch."""

from __future__ import annotations

import base64
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.cluster.schedulers import sbatch
from slurm_adapter.cluster.schedulers.command_line import CommandLineScheduler
from slurm_adapter.cluster.schedulers.interface import Accepted, InDoubt, NotStarted, Postponed, Rejected, Submission
from slurm_adapter.cluster.schedulers.sbatch import judge_answer, parse_submission
from slurm_adapter.cluster.transports.fake import FakeTransport
from slurm_adapter.cluster.transports.interface import CommandTimeout, ConnectionLost, NotConnected, Result
from slurm_adapter.cluster.transports.local import LocalTransport
from slurm_adapter.core.directives import PROTECTED

if TYPE_CHECKING:
    from pathlib import Path

    from slurm_adapter.cluster.schedulers.interface import Outcome
    from slurm_adapter.cluster.transports.interface import Command, Stream, Terminal

FAILED = "sbatch: error: Batch job submission failed: "
RETRYING = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying"
QUEUE_FULL = "sbatch: error: Slurm job queue full, sleeping and retrying"
SBATCH = """\
for script; do :; done
case " $* " in *' --ignore-pbs '*) ;; *) exit 1 ;; esac
case $(cat "$script") in
good) echo 'banner 12'; echo 'sbatch: a message of the site' >&2; echo '17;cluster' ;;
bare) echo 18 ;;
mute) ;;
two) echo 19; echo 20 ;;
noisy) head -c 300000 /dev/zero | tr '\\0' x >&2; echo >&2; echo 21; head -c 3000 /dev/zero | tr '\\0' y >&2 ;;
late) echo 22; exit 1 ;;
refuse) echo 'sbatch: error: invalid partition specified: nosuch' >&2
    echo 'sbatch: error: Batch job submission failed: Invalid partition name specified' >&2; exit 1 ;;
killed) kill -9 $$ ;;
forge) echo "m 0 0 MTI="; echo 23 ;;
down) echo 'sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)' >&2
    sleep 0.5; exit 1 ;;
env) env | cut -d= -f1 | grep -v -e '^_$' -e PWD -e SHLVL | sort | tr '\\n' ' ' >"$(dirname "$script")/env"; echo 24 ;;
slow) sleep 2.5; echo 26 ;;
stdin) test -z "$(cat)" && echo 25 ;;
esac
"""


class _Here:
    """Runs all commands on this machine as the account that runs the tests."""

    def __init__(self) -> None:
        self._local = LocalTransport(environment={"PATH": "/usr/bin:/bin", "SBATCH_PARTITION": "x", "SECRET": "x"})
        self.commands: list[Command] = []

    def run(self, command: Command) -> Result:
        self.commands.append(command)
        return self._local.run(replace(command, user=None))

    def open(self, command: Command, terminal: Terminal | None = None) -> Stream:
        return self._local.open(replace(command, user=None), terminal)

    def close(self) -> None:
        pass


@pytest.fixture
def here() -> _Here:
    return _Here()


@pytest.fixture
def scheduler(tmp_path: Path, here: _Here) -> CommandLineScheduler:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "sbatch"
    program.write_text(f"#!/bin/sh\n{SBATCH}")
    program.chmod(0o755)
    return CommandLineScheduler(here, f"{folder}:/usr/bin:/bin", "/etc/elsewhere.conf")


def make(tmp_path: Path, what: str, user: str = "alice", number: int = 0) -> Submission:
    folder = tmp_path / f"{what} '{number}\" $(id)"
    folder.mkdir(exist_ok=True)
    (folder / "job.sbatch").write_text(what)
    return Submission(f"tok-{what}", user, str(folder), ())


@pytest.mark.edge_case(4)
@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("good", Accepted(17)),
        ("bare", Accepted(18)),
        ("noisy", Accepted(21)),
        ("mute", InDoubt("sbatch ended with exit code 0 without a message")),
        ("two", InDoubt("19; 20")),
        ("late", InDoubt("22")),
        ("killed", InDoubt("sbatch ended with exit code 137 without a message")),
        ("forge", Accepted(23)),
        ("stdin", Accepted(25)),
        (
            "refuse",
            Rejected(
                "invalid partition specified: nosuch; Batch job submission failed: Invalid partition name specified"
            ),
        ),
        ("down", NotStarted("Batch job submission failed: Unable to contact slurm controller (connect failure)")),
    ],
)
def test_one_job(tmp_path: Path, scheduler: CommandLineScheduler, what: str, expected: Outcome) -> None:
    (outcome,) = scheduler.submit([make(tmp_path, what)])
    if what == "noisy":  # its last words alone are more than what is kept
        assert isinstance(outcome, Accepted | InDoubt)
    else:
        assert outcome == expected


def test_many_jobs_keep_their_order_in_one_command_for_each_user(
    tmp_path: Path, scheduler: CommandLineScheduler, here: _Here
) -> None:
    jobs = ["good", "refuse", "bare", "mute", "good", "bare", "refuse", "good"] * 5
    users = ["alice", "bob"] * 20
    submissions = [make(tmp_path, what, user, n) for n, (what, user) in enumerate(zip(jobs, users, strict=True))]
    outcomes = scheduler.submit(submissions)
    kinds = {"good": Accepted, "bare": Accepted, "refuse": Rejected, "mute": InDoubt}
    assert [type(outcome) for outcome in outcomes] == [kinds[what] for what in jobs]
    assert [command.user for command in here.commands] == ["alice", "bob"]


def test_a_controller_that_is_gone_is_not_asked_for_every_job(tmp_path: Path, scheduler: CommandLineScheduler) -> None:
    outcomes = scheduler.submit([make(tmp_path, "down", number=number) for number in range(12)])
    assert {type(outcome) for outcome in outcomes} <= {NotStarted, InDoubt}
    assert sum("sbatch was not started" in outcome.why for outcome in outcomes if isinstance(outcome, NotStarted)) >= 4


def test_no_sbatch_is_started_once_the_time_for_it_is_over(tmp_path: Path, here: _Here) -> None:
    # As for a command that the network held up: by the cluster's clock its time is over when it arrives.
    scheduler = CommandLineScheduler(here, f"{tmp_path}:/usr/bin:/bin", clock=lambda: time.time() - 100)
    (tmp_path / "sbatch").write_text("#!/bin/sh\ntouch $(dirname $0)/started\n")
    (tmp_path / "sbatch").chmod(0o755)
    [outcome] = scheduler.submit([make(tmp_path, "good")])
    assert isinstance(outcome, NotStarted)
    assert re.search(r"came 10\d seconds late; do the clocks of this machine and the cluster agree", outcome.why)
    assert not (tmp_path / "started").exists()


def test_what_does_not_fit_into_the_time_is_left_for_another(
    tmp_path: Path, scheduler: CommandLineScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first sbatch of each shell lasts longer than the time for all of them.
    monkeypatch.setattr(sbatch, "START_SECONDS", 2)
    outcomes = scheduler.submit([make(tmp_path, "slow", number=number) for number in range(24)])
    taken = [outcome for outcome in outcomes if isinstance(outcome, Accepted)]
    left = [outcome for outcome in outcomes if isinstance(outcome, NotStarted)]
    assert len(taken) + len(left) == 24
    assert left
    assert all(outcome.slow for outcome in left)


def test_at_a_site_that_limits_requests_half_of_them_are_left_for_questions(
    tmp_path: Path, scheduler: CommandLineScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sbatch.find_pause("SlurmctldParameters = enable_configless") == 0
    assert sbatch.find_pause("SlurmctldParameters = rl_enable") == 1
    assert sbatch.find_pause("SlurmctldParameters = rl_enable,rl_refill_rate=10,rl_refill_period=2") == 0.4
    assert sbatch.submit_argv(0, 1, 0.05)[-1] == ""  # nothing comes after it
    monkeypatch.setattr(scheduler, "_config", ("SlurmctldParameters = rl_enable,rl_refill_rate=100", 0.0))
    outcomes = scheduler.submit([make(tmp_path, what, number=number) for number, what in enumerate(("good", "refuse"))])
    assert [type(outcome) for outcome in outcomes] == [Accepted, Rejected]


def test_answers_that_come_after_others_found_no_controller_count(
    tmp_path: Path, scheduler: CommandLineScheduler
) -> None:
    """Two shells stop xargs; it then ends before the other shells that it has started."""
    names = ("slow", "down", "down", "slow")
    slow, down, also_down, also_slow = scheduler.submit(
        [make(tmp_path, name, number=number) for number, name in enumerate(names)]
    )
    assert (slow, also_slow) == (Accepted(26), Accepted(26))
    assert isinstance(down, NotStarted)
    assert isinstance(also_down, NotStarted)


def test_the_time_is_one_for_all_accounts(tmp_path: Path) -> None:
    times = iter([0.0, 0.0, 61.0])
    scheduler = CommandLineScheduler(FakeTransport(lambda _: Result(0, b"", b"")), clock=lambda: next(times))
    outcomes = scheduler.submit([make(tmp_path, "good", "alice"), make(tmp_path, "good", "bob", 1)])
    assert outcomes[1] == NotStarted("Slurm is slow: there was no time left to start sbatch")


def test_the_account_with_the_fewest_jobs_is_first(
    tmp_path: Path, scheduler: CommandLineScheduler, here: _Here
) -> None:
    """Its jobs do not wait for another account's bulk."""
    users = ("alice", "alice", "alice", "bob", "carol", "alice", "bob")
    outcomes = scheduler.submit([make(tmp_path, "good", user, number) for number, user in enumerate(users)])
    assert outcomes == [Accepted(17)] * len(users)
    assert [command.user for command in here.commands] == ["carol", "bob", "alice"]


@pytest.mark.edge_case(22)
def test_sbatch_gets_an_environment_of_its_own(tmp_path: Path, scheduler: CommandLineScheduler) -> None:
    job = make(tmp_path, "env")
    assert scheduler.submit([job]) == [Accepted(24)]
    names = (tmp_path / job.folder / "env").read_text().split()
    assert names == ["HOME", "LC_ALL", "LOGNAME", "PATH", "SHELL", "SLURM_CONF", "USER"]


def test_no_sbatch_on_the_path(tmp_path: Path, here: _Here) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("date", "xargs", "sh", "timeout", "cat", "tail", "base64", "tr"):
        (folder / name).symlink_to(f"/usr/bin/{name}")
    (outcome,) = CommandLineScheduler(here, str(folder)).submit([make(tmp_path, "good")])
    assert isinstance(outcome, NotStarted)
    assert "clusters.NAME.path" in outcome.why


def test_no_folders(scheduler: CommandLineScheduler, here: _Here) -> None:
    assert scheduler.submit([]) == []
    assert here.commands == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [(NotConnected("no"), NotStarted), (ConnectionLost("gone"), InDoubt), (CommandTimeout("late"), InDoubt)],
)
def test_a_transport_that_fails_for_one_user(error: Exception, kind: type) -> None:
    def answer(command: Command) -> Result:
        if command.user == "bob":
            raise error
        return Result(0, b"job 0 begun\njob 0 0 MTcK\n", b"")

    submissions = [Submission(f"t{user}", user, "/f", ()) for user in ("bob", "alice", "bob")]
    outcomes = CommandLineScheduler(FakeTransport(answer)).submit(submissions)
    assert [type(outcome) for outcome in outcomes] == [kind, Accepted, kind]


@pytest.mark.edge_case(1, 4)
@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (0, "17", Accepted),
        (0, "17;cluster\n", Accepted),
        (0, "4294967292", Accepted),
        # The account itself may shape its sbatch's answer; sacct answers no question with such an id in it.
        (0, "4294967293", InDoubt),
        (0, f"Submitted batch job {'9' * 40}", InDoubt),
        (0, "0", InDoubt),
        (0, "Welcome to 42\n17\nBye", Accepted),
        (0, "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n17", Accepted),
        (0, "17\n17", Accepted),
        (0, "Submitted batch job 17\n", Accepted),
        (0, "Submitted batch job 17 on cluster A\n", Accepted),
        (0, "Submitted batch job 17 on cluster A\nSubmitted batch job 18 on cluster A\n", InDoubt),
        (0, "", InDoubt),
        (0, "Submitted", InDoubt),
        (0, "17\n18", InDoubt),
        (1, "", Rejected),
        (1, "17", InDoubt),
        (1, f"{FAILED}Invalid partition name specified", Rejected),
        (1, f"{FAILED}Requested node configuration is not available", Rejected),
        (1, f"{FAILED}Invalid feature specification", Rejected),
        (1, f"{FAILED}Job dependency problem", Rejected),
        (1, f"{FAILED}Invalid account or account/partition combination specified", Rejected),
        (1, f"{FAILED}Access/permission denied", Rejected),
        (1, f"{FAILED}Invalid job array specification", Rejected),
        (1, "sbatch: error: Memory specification can not be satisfied\n" + FAILED + "Requested node ...", Rejected),
        (255, "sbatch: error: Invalid --time specification", Rejected),
        (255, "sbatch: unrecognized option '--bogus'\nTry \"sbatch --help\" for more information", Rejected),
        (255, "sbatch: error: --uid only permitted by root user", Rejected),
        (1, "sbatch: error: Batch script is empty!", Rejected),
        (1, "sbatch: error: This does not look like a batch script.  The first", Rejected),
        (1, "sbatch: error: Batch script contains DOS line breaks (\\r\\n)", Rejected),
        (1, "sbatch: fatal: job.sbatch: line 3: Unmatched `'` in [ ' x]", Rejected),
        (1, f"{FAILED}Unable to contact slurm controller (connect failure)", NotStarted),
        (1, f"{FAILED}MaxJobCount limit reached", Postponed),
        (
            1,
            f"{QUEUE_FULL}\n{FAILED}Unable to create job record, try again",
            Postponed,
        ),
        (1, f"{FAILED}Rate limit exceeded, please retry later", NotStarted),
        (1, "sbatch: error: Unable to open file /f/job.sbatch", NotStarted),
        (
            1,
            "sbatch: error: s_p_parse_file: cannot stat file\nsbatch: fatal: Unable to process configuration file",
            NotStarted,
        ),
        (127, "timeout: failed to run command 'sbatch': No such file or directory", NotStarted),
        (127, "sh: 1: timeout: not found", NotStarted),
        (1, f"{FAILED}Socket timed out on send/recv operation", InDoubt),
        (1, f"{FAILED}Zero Bytes were transmitted or received", InDoubt),
        (1, f"{FAILED}Unable to contact slurm controller (send failure)", InDoubt),
        (1, f"{FAILED}Unable to contact slurm controller (receive failure)", InDoubt),
        (1, f"{FAILED}Unexpected message received", InDoubt),
        (1, f"{FAILED}Message receive failure", InDoubt),
        (1, f"{FAILED}Protocol authentication error", InDoubt),
        (1, f"{RETRYING}\n{FAILED}Resource temporarily unavailable", Postponed),
        (1, f"{FAILED}Connection timed out reading", InDoubt),
        (1, f"{FAILED}Connection reset by peer", InDoubt),
        (1, f"{FAILED}Unspecified error", Rejected),
        (
            1,
            f"{RETRYING}\n{FAILED}Unable to contact slurm controller (connect failure)",
            InDoubt,
        ),
        (1, "sbatch: error: something new", Rejected),
        (1, "Killed", Rejected),
        (124, "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", InDoubt),
        (137, "", InDoubt),
        (143, f"{FAILED}Invalid partition name specified", InDoubt),
        (2, "17", InDoubt),
    ],
)
def test_judgements(status: int, said: str, kind: type) -> None:
    assert type(judge_answer(status, said)) is kind


@pytest.mark.edge_case(4)
@pytest.mark.parametrize(
    "said",
    [
        "123;clusterA",
        "Submitted batch job 123 on cluster A",
        "Submitted batch job 123",
        "CLUSTER: A\n123;A",
        "Welcome to login1, 2 users\n\n123;A\n",
        "sbatch: lua: your job will wait for 45 minutes\nsbatch: 99 jobs are before it\n123\n",
        "123;A\nsbatch: info: see https://example.org/7\nBye",
        "\n  \n123 \n",
    ],
)
def test_the_id_among_banners_messages_and_names_of_clusters(said: str) -> None:
    """The cluster is always the configured one: SLURM_CLUSTERS does not reach sbatch, and `clusters` is protected."""
    assert judge_answer(0, said) == Accepted(123)
    line = f"job 0 0 {base64.b64encode(said.encode()).decode()}"
    assert parse_submission(f"motd 7\njob 0 begun\n{line}\nbye 8\n".encode(), 1) == [Accepted(123)]
    assert "clusters" in PROTECTED


def test_a_refusal_carries_slurms_own_words() -> None:
    said = f"sbatch: error: invalid partition specified: nosuch\n{FAILED}Invalid partition name specified"
    expected = "invalid partition specified: nosuch; Batch job submission failed: Invalid partition name specified"
    assert judge_answer(1, said) == Rejected(expected)


@pytest.mark.parametrize(
    "last", ["0 be", "0 begun", "0 begun\njob 0 0 =1234", "0 begun\njob 0 0 MTIzN", "0 begun\njob 0 1 c2JhdG"]
)
def test_an_answer_that_breaks_off_within_a_line_is_lost(last: str) -> None:
    """Its last line may end in half an id, or in base64 that nobody can read."""
    [outcome] = parse_submission(f"job {last}".encode(), 1)
    assert isinstance(outcome, InDoubt)


def test_answers_that_are_missing_or_come_twice() -> None:
    lines = [
        *("job 0 begun", "job 0 0 MTcK", "job 1 begun", "x 1 0 MTcK"),
        *("job 3 begun", "job 3 0 MTcK", "job 3 0 MTcK"),
    ]
    outcomes = parse_submission("".join(f"{line}\n" for line in lines).encode(), 4)
    assert [type(outcome) for outcome in outcomes] == [Accepted, InDoubt, NotStarted, InDoubt]
    none_begun = parse_submission(b"", 1, "sudo: warning\nenv: 'xargs': No such file or directory")
    assert none_begun == [NotStarted("env: 'xargs': No such file or directory")]


@given(st.binary(max_size=200), st.integers(-1, 300), st.text(max_size=80))
def test_no_answer_is_an_error(data: bytes, status: int, said: str) -> None:
    assert len(parse_submission(data, 3)) == 3
    outcome = judge_answer(status, said)
    if isinstance(outcome, Accepted):
        assert status == 0
        assert str(outcome.slurm_id) in said

"""A connection that breaks, anywhere: the application starts once, no state is made up, and the next pass goes on.

Between the adapter and the cluster's sshd is a proxy that drops the connection after so many bytes of one side. What a
transport itself makes of a broken connection is in `tests/cluster/transports`.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.cluster.transports.interface import Command
from slurm_adapter.core.errors import TryAgain
from slurm_adapter.core.records import Stage
from slurm_adapter.core.states import JobState
from tests.adapter import UNTIL_TOLD
from tests.faults import COUNT, Faulty, is_sbatch
from tests.proxy import Proxy, proxy_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slurm_adapter.core.records import Record
    from tests.adapter import LiveSiteMaker
    from tests.proxy import Side
    from tests.sandbox_cluster import Cluster

pytestmark = pytest.mark.sandbox

SIDES: tuple[Side, ...] = ("client", "server")


@pytest.fixture
def proxy(cluster: Cluster) -> Iterator[Proxy]:
    """A proxy before the login node's sshd."""
    with proxy_to(cluster.login.address, 22) as made:
        yield made


@pytest.fixture
def faulty(make_adapter: LiveSiteMaker, proxy: Proxy, tmp_path: Path) -> Iterator[Faulty]:
    """A site that goes through it."""
    plain = make_adapter("ssh")
    known = tmp_path / "known_hosts"
    key = next(
        line.split()[1:3] for line in (plain.cluster.keys / "known_hosts").read_text().splitlines() if "ed25519" in line
    )
    known.write_text(f"[127.0.0.1]:{proxy.port} {' '.join(key)}\n")
    content = plain.config_file.read_text().replace(
        f'host = "{plain.cluster.login.address}"', f'host = "127.0.0.1"\nport = {proxy.port}'
    )
    plain.config_file.write_text(content.replace(str(plain.cluster.keys / "known_hosts"), str(known)))
    made = Faulty(plain.cluster, plain.config_file, plain.site)
    yield made
    made.site.close()


def runs(part: str) -> Callable[[Command], bool]:
    """Whether a command is the one that has these words in it."""
    return lambda command: any(part in word for word in command.argv)


def cut_in(faulty: Faulty, proxy: Proxy, which: Callable[[Command], bool], side: Side, count: int) -> None:
    """Drop the connection so many bytes after a command was begun; once."""

    def before(command: Command) -> None:
        if which(command):
            faulty.tripping.before = lambda _: None
            proxy.cut_after(side, count)

    faulty.tripping.before = before


def measure(
    faulty: Faulty, proxy: Proxy, which: Callable[[Command], bool], act: Callable[[], object]
) -> dict[Side, int]:
    """How many bytes each side sends for a command."""
    marks: list[dict[Side, int]] = []

    def before(command: Command) -> None:
        if marks or which(command):
            marks.append({side: proxy.sent[side] for side in SIDES})

    faulty.tripping.before = before
    act()
    faulty.tripping.before = lambda _: None
    marks.append({side: proxy.sent[side] for side in SIDES})
    return {side: marks[1][side] - marks[0][side] for side in SIDES}


def measure_little(faulty: Faulty, proxy: Proxy) -> int:
    """How many bytes the server sends for a command that answers with a line, on a connection that stands."""

    def ask() -> object:
        return faulty.site.transport.run(Command(("echo", "x")))

    ask()
    return measure(faulty, proxy, lambda _: True, ask)["server"]


def leave_alone(faulty: Faulty, proxy: Proxy) -> None:
    """Let everything pass again."""
    faulty.tripping.before = lambda _: None
    proxy.leave_alone()


def run_once(faulty: Faulty, *records: Record) -> None:
    """The jobs come to their ends, and the application of each has started once."""
    for record in faulty.until_ended(*records):
        assert (record.state, record.exit_code) == (JobState.SUCCESS, 0), record
        faulty.until_slurm_is_done(record)
        assert faulty.starts(record) == 1
        assert len(faulty.slurm_jobs(record)) == 1


@pytest.mark.scenario(86)
@pytest.mark.edge_case(21)
def test_many_commands_go_through_one_connection(faulty: Faulty, proxy: Proxy) -> None:
    records = faulty.submit(*[faulty.shell(COUNT)] * 3)
    run_once(faulty, *records)
    assert len(faulty.tripping.commands) > 15
    assert proxy.connections == 1


@pytest.mark.scenario(86)
def test_a_connection_that_breaks_before_sbatch_leaves_no_claim(faulty: Faulty, proxy: Proxy) -> None:
    """While connecting, in the exchange of keys, while logging in, and in the first question."""
    whole = measure(faulty, proxy, lambda _: True, lambda: faulty.site.transport.run(Command(("true",))))
    for side in SIDES:
        for tenth in (0, 1, 3, 5, 7):
            faulty.site.transport.close()
            faulty.open()
            proxy.cut_after(side, whole[side] * tenth // 10, of_the_next=True)
            with pytest.raises(TryAgain):
                faulty.hand_in(faulty.shell(COUNT), "key")
            assert proxy.has_cut
            assert faulty.site.store.all(9) == []
    assert faulty.traces == ([], [], [])
    run_once(faulty, faulty.hand_in(faulty.shell(COUNT), "key"))


@pytest.mark.scenario(86)
def test_a_connection_that_breaks_while_folders_are_made_leaves_no_claim(faulty: Faulty, proxy: Proxy) -> None:
    """In the middle of what is sent on standard input, and in the answer."""
    making = runs(".ucloud-new.")
    cuts: tuple[tuple[Side, int], ...] = (("client", 20_000), ("server", measure_little(faulty, proxy) * 2 // 3))
    for side, count in cuts:
        cut_in(faulty, proxy, making, side, count)
        with pytest.raises(TryAgain, match="was not given to Slurm"):
            faulty.hand_in(faulty.shell(COUNT), "key")
        assert proxy.has_cut
        assert faulty.site.store.all(9) == []
    leave_alone(faulty, proxy)
    record = faulty.hand_in(faulty.shell(COUNT), "key")
    run_once(faulty, record)


@pytest.mark.scenario(86)
@pytest.mark.edge_case(1, 21)
@pytest.mark.parametrize("places", [4, pytest.param(20, marks=pytest.mark.long)])
def test_a_connection_that_breaks_under_sbatch_submits_once(faulty: Faulty, proxy: Proxy, places: int) -> None:
    """A channel is opened, the command is sent, its input, its answer comes, the channel is closed: cut everywhere."""
    first = faulty.shell(COUNT)
    records: list[Record] = []
    whole = measure(faulty, proxy, is_sbatch, lambda: records.append(faulty.hand_in(first, "first")))
    stages: list[Stage] = []
    for side in SIDES:
        for place in range(places):
            key = f"{side} {place}"
            cut_in(faulty, proxy, is_sbatch, side, whole[side] * place // places)
            stages.append(faulty.hand_in(faulty.shell(COUNT), key).stage)
            leave_alone(faulty, proxy)
            records.append(faulty.hand_in(faulty.shell(COUNT), key))
    assert {Stage.SUBMITTING, Stage.SUBMITTED} == set(stages)
    assert len({record.id for record in records}) == len(records) == 1 + 2 * places
    # Those that arrived are found; those that did not are handed in again.
    faulty.pass_until_handed_in_again()
    run_once(faulty, *records)


@pytest.mark.scenario(86)
@pytest.mark.edge_case(1, 21)
def test_a_connection_that_breaks_when_sbatch_has_ended_submits_once(faulty: Faulty, proxy: Proxy) -> None:
    """Slurm has the job, and only the answer is missing: it is cut off on its way."""
    faulty.put(sbatch='/usr/bin/sbatch "$@"; sleep 1.5')
    cut_in(faulty, proxy, is_sbatch, "server", 400)
    record = faulty.hand_in(faulty.shell(COUNT), "key")
    assert proxy.has_cut
    assert record.stage is Stage.SUBMITTING
    leave_alone(faulty, proxy)
    assert faulty.hand_in(faulty.shell(COUNT), "key").id == record.id
    faulty.heal()
    faulty.until_slurm_has(record, 1)
    run_once(faulty, record)


@pytest.mark.scenario(86)
@pytest.mark.edge_case(21)
def test_a_connection_that_breaks_in_a_pass_changes_nothing(faulty: Faulty, proxy: Proxy) -> None:
    """In the question to the queue, in the look into folders, and where a folder is closed; the next pass goes on."""
    [server] = faulty.start(faulty.shell(f"{COUNT}; {UNTIL_TOLD}"))
    question = measure(faulty, proxy, runs("scontrol show config"), faulty.pass_after)
    for side in SIDES:
        for tenth in (1, 5, 8):
            cut_in(faulty, proxy, runs("scontrol show config"), side, question[side] * tenth // 10)
            report = faulty.pass_after(130)
            assert proxy.has_cut
            assert report.changed == ()
            assert faulty.now(server).state is JobState.RUNNING
            # One that was cut before its command was handed over is repeated on a new connection, unseen.
            assert all("could not list Slurm's jobs" in problem for problem in report.problems)
            leave_alone(faulty, proxy)
    cut_in(faulty, proxy, runs("scontrol show config"), "server", question["server"] // 2)
    assert faulty.pass_after(130).problems != ()
    faulty.tell(server)
    faulty.cluster.wait_end(str(server.slurm_id))
    little = measure_little(faulty, proxy)
    for part, problem in (
        ("head -v -c", "could not look into job folders"),
        (".closed", "could not close the folders"),
    ):
        cut_in(faulty, proxy, runs(part), "server", little * 2 // 3)
        report = faulty.pass_after(130)
        assert proxy.has_cut
        assert all(problem in each for each in report.problems), (part, report)
        leave_alone(faulty, proxy)
        if not report.problems:  # repeated on a new connection, unseen: so the pass has done all that there was to do
            assert faulty.now(server).state is JobState.SUCCESS
            break
    run_once(faulty, server)


@pytest.mark.scenario(86)
def test_a_server_with_another_key_is_told_and_gets_nothing(faulty: Faulty, proxy: Proxy, tmp_path: Path) -> None:
    """Whoever it is: the message names the file and the mend, and a pass changes nothing."""
    [record] = faulty.start(faulty.shell(f"{COUNT}; {UNTIL_TOLD}"))
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True, timeout=30)
    known = tmp_path / "known_hosts"
    right = known.read_text()
    known.write_text(f"[127.0.0.1]:{proxy.port} {' '.join((tmp_path / 'other.pub').read_text().split()[:2])}\n")
    before = faulty.traces
    result = faulty.invoke("submit", "-", stdin=faulty.shell(COUNT))
    assert (result.exit_code, result.stdout) == (75, "")
    for word in ("is not the known one", f"{known}:1", "ssh-keygen -R"):
        assert word in result.stderr
    assert faulty.traces == before
    told = faulty.invoke("sync")
    assert (told.exit_code, "is not the known one" in told.stderr) == (1, True)
    assert faulty.now(record) == record
    known.write_text(right)
    faulty.tell(record)
    run_once(faulty, record)


@pytest.mark.scenario(86)
def test_no_field_of_a_job_reaches_a_shell(faulty: Faulty) -> None:
    """Those that travel in commands, folders, directives and scripts; of a user who wants to run one of his own."""
    mark = f"{faulty.site.config.shared_dir}-was-here"
    hostile = f"x'; touch {mark}; '$(touch {mark})`touch {mark}`\"; touch {mark} #"
    job = faulty.shell(COUNT, name=hostile, labels={hostile: hostile})
    record = faulty.hand_in(job, hostile)
    assert faulty.hand_in(job, hostile).id == record.id
    run_once(faulty, record)
    for word in (hostile, f"{hostile} {hostile}"):
        assert faulty.invoke("submit", "-", "--user", word, stdin=job).exit_code == 65
        assert faulty.invoke("logs", "--", word).exit_code == 1
    peers = {"resources": [{"type": "peer", "hostname": hostile, "jobId": hostile}]}
    assert faulty.invoke("submit", "-", stdin=job | peers).exit_code == 65
    assert faulty.cluster.run("ls", mark, user="ucloud").returncode != 0


@pytest.mark.long
@pytest.mark.edge_case(21)
def test_two_hundred_jobs_take_one_connection(faulty: Faulty, proxy: Proxy) -> None:
    """And one command each for their folders, their submission and their states, and one for their account's uid."""
    result = faulty.invoke("submit", "-", stdin={"items": [faulty.shell(COUNT, begin="now+1hour")] * 200})
    assert result.exit_code == 0, result.output
    before = len(faulty.tripping.commands)
    assert faulty.pass_after().problems == ()
    asked = [command.argv for command in faulty.tripping.commands[before:]]
    assert len(asked) <= 4, asked
    assert proxy.connections == 2  # the command's own, and the pass's
    assert {record.stage for record in faulty.site.store.active()} == {Stage.SUBMITTED}
    assert len(faulty.site.store.active()) == 200

"""Jobs that name each other, on a real cluster. What the shell files on the nodes do is in `test_names.py`."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.core import hosts_file
from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs.sync import sync
from tests.adapter import UNTIL_TOLD, peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.core.records import Record
    from slurm_adapter.sandbox.configuration import Identity, Transport
    from tests.adapter import LiveSite, LiveSiteMaker
    from tests.sandbox_cluster import Cluster

pytestmark = [pytest.mark.sandbox, pytest.mark.releases]

SERVER = "sleep 300"


def until(condition: Callable[[], bool], timeout: float = 60) -> None:
    """Wait without a pass of the adapter's."""
    limit = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < limit, f"waited {timeout} s in vain"
        time.sleep(0.1)


def address(record: Record, rank: int = 0) -> str:
    return record.addresses[rank][0]


def hurry(adapter: LiveSite, record: Record, away_from: str) -> None:
    """Start a requeued job at once, on another node: on the same one Slurm refuses its credential within a second."""
    job = f"job={record.slurm_id}"
    adapter.cluster.ask("scontrol", "update", job, f"ExcNodeList={away_from}", "StartTime=now", user=record.account)


# Which names resolve, and to what


@pytest.mark.scenario(40, 41, 42, 43)
@pytest.mark.parametrize("identity", ["sudo", "service"])
@pytest.mark.parametrize("transport", ["local", "ssh"])
def test_the_same_name_means_another_job_for_another_job(
    make_adapter: LiveSiteMaker, transport: Transport, identity: Identity
) -> None:
    """And none for a job without peers; two names in one job; a peer as a parameter. All at the same time."""
    adapter = make_adapter(transport, identity)
    first, second = adapter.start(adapter.shell(SERVER, node="node001"), adapter.shell(SERVER, node="node002"))
    assert address(first) != address(second)
    ask = "for name in database database-0 cache; do getent hosts $name || echo no $name; done"
    submitted = adapter.submit(
        adapter.shell(ask, peers={"database": first}),
        adapter.shell(ask, peers={"database": second}),
        adapter.shell(ask, peers={"DataBase": first, "cache": second}),
        adapter.shell(ask),
        adapter.specification("client", parameters={"server": peer("database", second)}),
    )
    of_first, of_second, of_both, of_none, told = adapter.until_successful(*submitted)
    assert of_first.split() == [address(first), "database", address(first), "database-0", "no", "cache"]
    assert of_second.split() == [address(second), "database", address(second), "database-0", "no", "cache"]
    assert of_both.split()[4:] == [address(second), "cache"]
    assert of_both.split()[:2] == [address(first), "database"]
    assert of_none.splitlines() == ["no database", "no database-0", "no cache"]
    assert told.split() == ["told:", "--server=database", address(second), "database"]


@pytest.mark.usefixtures("empty_drive")
def test_without_its_peer_the_web_application_fails(adapter: LiveSite) -> None:
    example = adapter.specification("acme-web-app") | {"application": {"name": "acme-web-app", "version": "1.0.0"}}
    [record] = adapter.until_ended(*adapter.submit(example))
    assert (record.state, record.exit_code) == (JobState.FAILURE, 1)
    assert "cannot find database" in adapter.errors(record)


@pytest.mark.scenario(47)
def test_every_rank_and_step_resolves_every_rank(adapter: LiveSite) -> None:
    """Two replicas each; steps by the template's srun(), by srun from PATH, and the script itself."""
    [server] = adapter.start(adapter.shell(SERVER, replicas=2))
    assert len(set(server.nodes)) == 2
    names = ["database", "database-0", "database-1", *(f"job-$UCLOUD_JOB_ID{rank}" for rank in ("", "-0", "-1"))]
    look = f'for name in {" ".join(names)}; do echo "$0 $(hostname) $name $(getent hosts $name)"; done'
    steps = f"srun -N 2 -n 2 bash -c '{look}' two; srun -N 1 -n 1 -w $SLURMD_NODENAME bash -c '{look}' one"
    by_template, by_path = adapter.submit(
        adapter.shell(look, peers={"database": server}, application="spread", replicas=2),
        adapter.shell(f"{look}; {steps}", peers={"database": server}, replicas=2),
    )
    outputs = adapter.until_successful(by_template, by_path)
    of_server = [address(server), address(server), address(server, 1)]
    for record, output in zip((by_template, by_path), outputs, strict=True):
        first, second = adapter.nodes_of(record)
        own = [first.address, first.address, second.address]
        lines = [
            f"{node.name} {name} {found} {name}"
            for node in (first, second)
            for name, found in zip(names, [*of_server, *own], strict=True)
        ]
        expected = [line.replace("$UCLOUD_JOB_ID", record.id) for line in lines]
        on_first = expected[: len(names)]
        said: dict[str, list[str]] = {kind: [] for kind in ("bash", "one", "two")}
        for line in output.splitlines():
            kind, *words = line.split()
            said[kind].append(" ".join(words))
        if record is by_template:
            assert sorted(said["bash"]) == sorted(expected)
        else:
            assert (said["bash"], said["one"]) == (on_first, on_first)
            assert sorted(said["two"]) == sorted(expected)


def test_both_families_of_addresses(make_adapter: LiveSiteMaker) -> None:
    adapter = make_adapter(more='[peers]\naddress = "{node}"\n')
    [server] = adapter.start(adapter.shell(SERVER))
    assert sorted(":" in each for each in server.addresses[0]) == [False, True]
    [record] = adapter.submit(adapter.shell("getent ahosts database", peers={"database": server}))
    assert set(adapter.view(record).splitlines()[1:]) == {
        f"{each} {name}" for each in server.addresses[0] for name in ("database", "database-0")
    }
    [output] = adapter.until_successful(record)
    assert {line.split()[0] for line in output.splitlines()} == set(server.addresses[0])


def test_the_name_is_nowhere_but_in_the_hosts_file(adapter: LiveSite) -> None:
    """Not in an argument, an environment or a script of any process of the job."""
    show = r"""
        for process in /proc/[0-9]*; do
            grep -qz "^SLURM_JOB_ID=$SLURM_JOB_ID$" $process/environ 2>/dev/null || continue
            echo "process $(tr '\0' ' ' <$process/cmdline) $(tr '\0' ' ' <$process/environ)"
        done
        cat /etc/hosts
    """
    [server] = adapter.start(adapter.shell(SERVER))
    [record] = adapter.submit(adapter.shell(show, peers={"database": server}))
    [output] = adapter.until_successful(record)
    processes, _, file = output.partition("127.0.0.1")
    assert processes.count("process ") >= 3
    assert f"SLURM_JOB_ID={record.slurm_id}" in processes
    assert "database" not in processes
    assert "database" not in adapter.output(record, "job.sbatch")
    assert "database" not in adapter.cluster.ask("scontrol", "-o", "show", "job", str(record.slurm_id))
    assert f"\n{address(server)} database\n" in file


# Which names may be declared

BAD_NAMES = (
    "-bad",
    "bad-",
    "a b",
    "a_b",
    "a..b",
    "",
    "a" * 64,
    ".".join(["a" * 49] * 5) + ".aaaaa",
    "1.2.3.4",
    "::1",
    "localhost",
    "LocalHost",
    "node001",
    "login",
    "host#x",
    "h\n10.0.0.1 evil",
    "h\t10.0.0.1",
    "bücher",
    "job-1-0",
    "printer",
)
GOOD_NAMES = ("a", "a.b.c", "a" * 63, "3com", "x-1")


@pytest.mark.scenario(43, 44)
def test_host_names(make_adapter: LiveSiteMaker) -> None:
    adapter = make_adapter(more='[peers]\nreserved = ["printer"]\n')
    [server] = adapter.submit(adapter.shell(SERVER))
    specification = adapter.shell("true")
    for name in BAD_NAMES:
        output = adapter.refuse(specification | {"resources": [peer(name, server)]}, "resources[0]")
        assert "Invalid hostname" in output, name
    for other in ("DATABASE", "database-0"):
        both = [peer("database", server), peer(other, server)]
        adapter.refuse(specification | {"resources": both}, "Duplicate hostname detected")
    twice = adapter.specification("client", parameters={"server": peer("database", server)})
    adapter.refuse(
        twice | {"resources": [peer("Database", server)]}, "Duplicate hostname detected", "parameters.server"
    )
    [record] = adapter.submit(adapter.shell("true", peers=dict.fromkeys(GOOD_NAMES, server)))
    assert [each.hostname for each in record.peers] == list(GOOD_NAMES)


@pytest.mark.scenario(45, 46)
def test_whom_one_may_name(adapter: LiveSite) -> None:
    own, array = adapter.submit(adapter.shell(SERVER), adapter.specification("array"))
    [of_bob] = adapter.submit(adapter.shell(SERVER), user="bob")
    [of_project] = adapter.submit(adapter.shell(SERVER), project="p")
    ended = adapter.submit(adapter.shell("true"))[0]
    adapter.until_ended(ended)
    itself = str(int(ended.id) + 1)

    def naming(id_: str) -> dict[str, object]:
        return adapter.shell("true") | {"resources": [peer("database", id_)]}

    for id_ in ("999999", of_bob.id, of_project.id, itself):
        adapter.refuse(naming(id_), "resources[0].jobId", id_, "no such job in this workspace")
    adapter.refuse(naming(ended.id), "resources[0].jobId", "has ended", "SUCCESS")
    adapter.refuse(naming(array.id), "resources[0].jobId", "is an array")
    adapter.refuse(naming(own.id), "no such job", project="p")
    adapter.refuse(naming(own.id), "no such job", user="bob")
    for id_ in ("", "1; rm", "../1", own.id + "\n"):
        adapter.refuse(naming(id_), "resources[0].jobId")
    with pytest.raises(InvalidInput, match="no such job"):
        adapter.submit(naming(of_bob.id))


def test_members_of_a_project_may_name_each_others_jobs(adapter: LiveSite) -> None:
    """The peer's exit record cannot be read by another account: its end is told by a pass."""
    [server] = adapter.start(adapter.shell(SERVER), project="p")
    wait = "getent hosts database; while getent hosts database >/dev/null; do sleep 0.1; done; echo gone"
    [record] = adapter.submit(adapter.shell(wait, peers={"database": server}), user="bob", project="p")
    adapter.until_said(record, f"^{address(server)} +database$")
    adapter.cancel(server)
    [output] = adapter.until_successful(record)
    assert output.splitlines()[-1] == "gone"


# Waiting for each other


@pytest.mark.scenario(45)
def test_a_consumer_waits_for_a_pending_peer(adapter: LiveSite) -> None:
    [server] = adapter.submit(adapter.shell(SERVER, begin="now+1hour"))
    [record] = adapter.submit(adapter.shell("echo started; getent hosts database", peers={"database": server}))
    for _ in range(4):
        sync(adapter.site)
        assert not adapter.now(record).state.final
        assert adapter.output(record) == ""
        time.sleep(0.3)
    adapter.cluster.ask("scontrol", "update", f"job={server.slurm_id}", "StartTime=now")
    [output] = adapter.until_successful(record)
    assert output.split() == ["started", address(adapter.now(server)), "database"]


def test_a_peer_that_never_starts_is_named(make_adapter: LiveSiteMaker) -> None:
    adapter = make_adapter(more='[peers]\nwait = "00:00:05"\n')
    [server] = adapter.submit(adapter.shell(SERVER, begin="now+1hour"))
    [record] = adapter.submit(adapter.shell("echo ran", peers={"database": server}))
    # Nothing waits in the queue: the consumer runs, and gives up by itself. (Slurm starts it once the peer has begun.)
    adapter.cluster.ask("scontrol", "update", f"job={record.slurm_id}", "Dependency=")
    [record] = adapter.until_ended(record)
    assert record.state is JobState.FAILURE
    assert f"peer {server.id} (database) never started" in record.status
    assert "ran" not in adapter.output(record)
    shown = adapter.invoke("show", record.id).stdout
    assert f"peer {server.id} (database) never started" in shown
    assert f"database is job {server.id} (IN_QUEUE)" in shown


def test_a_peer_that_is_cancelled_while_pending_ends_the_wait(make_adapter: LiveSiteMaker) -> None:
    adapter = make_adapter(more='[peers]\nwait = "00:00:02"\n')
    [server] = adapter.submit(adapter.shell(SERVER, begin="now+1hour"))
    [record] = adapter.submit(adapter.shell("echo ran", peers={"database": server}))
    adapter.cancel(server)
    [record] = adapter.until_ended(record)
    assert (record.state, adapter.output(record)) == (JobState.FAILURE, "")
    assert f"peer {server.id} (database)" in record.status


# Changes while a job runs


@pytest.mark.scenario(48)
@pytest.mark.edge_case(11)
def test_a_peer_that_moves_to_another_node(adapter: LiveSite) -> None:
    """Its consumer asks for it all the time: the old address, none for a while, the new one, and nothing else."""
    [server] = adapter.start(adapter.shell(SERVER))
    ask = 'while :; do echo "$(getent hosts database || echo none)"; sleep 0.03; done'
    [record] = adapter.start(adapter.shell(ask, peers={"database": server}))
    adapter.until_said(record, f"^{address(server)} ")
    adapter.cluster.ask("scontrol", "requeue", str(server.slurm_id))
    adapter.sync_until(lambda: adapter.now(server).state is JobState.IN_QUEUE)
    assert adapter.view(record) == ""
    hurry(adapter, server, away_from=server.nodes[0])
    [moved] = adapter.until_running(server)
    assert (moved.nodes != server.nodes, moved.restarts, moved.slurm_id) == (True, 1, server.slurm_id)
    new = re.escape(address(moved))
    adapter.until_said(record, rf"(^{new} +database\n){{30}}")
    answers = [" ".join(line.split()) for line in adapter.output(record).splitlines()]
    seen = [each for number, each in enumerate(answers) if number == 0 or each != answers[number - 1]]
    before, after = f"{address(server)} database", f"{address(moved)} database"
    assert seen in ([before, "none", after], [before, after])


def test_a_consumer_that_is_requeued_has_its_names_again(adapter: LiveSite) -> None:
    [server] = adapter.start(adapter.shell(SERVER))
    ask = f"echo run ${{SLURM_RESTART_COUNT:-0}} $(getent hosts database); {UNTIL_TOLD}"
    [record] = adapter.start(adapter.shell(ask, peers={"database": server}))
    adapter.until_said(record, f"^run 0 {address(server)} database$")
    adapter.cluster.ask("scontrol", "requeue", str(record.slurm_id))
    adapter.sync_until(lambda: adapter.now(record).state is JobState.IN_QUEUE)
    hurry(adapter, record, away_from=record.nodes[0])
    adapter.until_said(record, f"^run 1 {address(server)} database$")
    adapter.tell(record)
    [record] = adapter.until_ended(record)
    assert (record.state, record.restarts) == (JobState.SUCCESS, 1)


@pytest.mark.scenario(49)
def test_a_peer_that_ends_disappears_without_a_pass(adapter: LiveSite) -> None:
    """Both jobs have the same user: the nodes read the exit record. The consumer runs on."""
    [server] = adapter.start(adapter.shell(f"{UNTIL_TOLD}; exit 1"))
    ask = "getent hosts database; while getent hosts database >/dev/null; do sleep 0.1; done; echo gone; sleep 300"
    [record] = adapter.submit(adapter.shell(ask, peers={"database": server}))
    until(lambda: adapter.output(record).endswith("database\n"))
    adapter.tell(server)
    until(lambda: adapter.output(record).endswith("gone\n"))
    assert adapter.output(record).split() == [address(server), "database", "gone"]
    assert adapter.now(server).state is JobState.RUNNING  # nobody has told the adapter yet
    assert "database" in adapter.view(record)
    adapter.until_ended(server)
    assert adapter.view(record) == ""
    assert adapter.now(record).state is not JobState.FAILURE


# The files


def test_the_shared_file_and_the_views(adapter: LiveSite, cluster: Cluster) -> None:
    """The site's own lines stay as they are; every view is a projection; nobody else can write; all ends empty."""
    foreign = b"# the site's own\r\n10.9.9.9\tprinter  lp # \xff\n\n10.9.9.8 no-newline-at-its-end"
    path = f"{adapter.site.peers_folder}/hosts"
    cluster.ask(
        "sh",
        "-c",
        'mkdir -m 755 "$1" && cat >"$1/hosts"',
        "sh",
        adapter.site.peers_folder,
        user="ucloud",
        stdin=foreign,
    )
    one, two = adapter.start(adapter.shell(SERVER), adapter.shell(SERVER, replicas=2))
    consumers = adapter.start(
        adapter.shell(SERVER, peers={"database": one}), adapter.shell(SERVER, peers={"database": two, "cache": one})
    )
    shared = (adapter.peers / "hosts").read_bytes()
    assert shared.endswith(foreign)
    for record in consumers:
        assert hosts_file.project(adapter.shared_block, record.id) == adapter.view(record)
        assert adapter.invoke("hosts", record.id).stdout == adapter.view(record)
        view = (adapter.peers / record.peers_file).stat()
        assert (view.st_mode & 0o777, view.st_uid) == (0o644, 7700)
    assert f"{address(two, 1)} database-1.{consumers[1].id}.peers\n" in adapter.shared_block
    assert f"{address(two, 1)} job-{two.id}-1\n" in adapter.shared_block
    assert adapter.invoke("hosts").stdout_bytes == shared.replace(b"\xff", "\ufffd".encode())
    for user in ("alice", "jobs"):
        assert cluster.run("cat", path, user=user).stdout == shared
        assert cluster.run("sh", "-c", f"echo >>{path}", user=user).returncode != 0
        assert cluster.run("touch", f"{path}.mine", user=user).returncode != 0
    adapter.cancel(one, two, *consumers)
    adapter.until_ended(one, two, *consumers)
    assert (adapter.peers / "hosts").read_bytes() == b"# BEGIN slurm-adapter\n# END slurm-adapter\n" + foreign
    assert [path.name for path in adapter.peers.iterdir()] == ["hosts"]
    refused = adapter.invoke("hosts", one.id)
    assert (refused.exit_code, "has ended" in refused.output) == (1, True)


@pytest.mark.parametrize("transport", ["local", "ssh"])
def test_private_views(make_adapter: LiveSiteMaker, transport: Transport) -> None:
    """No shared file; a view in the job's folder that its user alone can read; names that follow it all the same."""
    adapter = make_adapter(transport, more="[peers]\nprivate = true\n")
    [server] = adapter.start(adapter.shell(UNTIL_TOLD))
    ask = "getent hosts database; while getent hosts database >/dev/null; do sleep 0.1; done; echo gone"
    [record] = adapter.submit(adapter.shell(ask, peers={"database": server}))
    view = adapter.file(record, "hosts")
    assert (view.stat().st_mode & 0o777, view.stat().st_uid) == (0o600, 7701)
    assert f"{address(server)} database\n" in view.read_text()
    assert not adapter.peers.exists()
    assert adapter.invoke("hosts", record.id).stdout == view.read_text()
    assert f"database.{record.id}.peers" in adapter.invoke("hosts").stdout
    adapter.until_said(record, "database$")
    adapter.tell(server)
    [output] = adapter.until_successful(record)
    assert output.split() == [address(server), "database", "gone"]
    assert not adapter.peers.exists()


def test_a_namespace_only_where_it_is_needed(make_adapter: LiveSiteMaker, cluster: Cluster) -> None:
    show = "readlink /proc/self/ns/mnt /proc/self/ns/user; grep -c job- /etc/hosts; hostname"
    plain, always = make_adapter(), make_adapter(more="[peers]\nalways = true\n")
    [without] = plain.until_successful(*plain.submit(plain.shell(show)))
    [with_names] = always.until_successful(*always.submit(always.shell(show)))
    *spaces, count, node = without.split()
    assert spaces == cluster.ask("readlink", "/proc/self/ns/mnt", "/proc/self/ns/user", node=node).split()
    assert count == "0"
    *others, count, node = with_names.split()
    own = cluster.ask("readlink", "/proc/self/ns/mnt", "/proc/self/ns/user", node=node).split()
    assert (others[0] != own[0], others[1] != own[1], count) == (True, True, "2")


def test_the_record_of_a_job_tells_its_peers(adapter: LiveSite) -> None:
    [server] = adapter.start(adapter.shell(SERVER))
    [record] = adapter.submit(adapter.shell(SERVER, peers={"database": server}))
    told = json.loads(adapter.invoke("show", record.id, "--json").stdout)
    assert told["peers"] == [{"hostname": "database", "jobId": server.id}]

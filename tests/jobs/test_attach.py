"""Peers that a job gets or loses once it is handed in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.core.errors import AdapterError, InvalidInput, NotFound, NotOffered, Refused, TryAgain
from slurm_adapter.core.records import Peer
from slurm_adapter.core.specification import PeerValue, ReferenceValue
from slurm_adapter.jobs import attach, item
from tests.offline import Offline, offline, peer

if TYPE_CHECKING:
    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import Record
    from tests.adapter import LiveSite

__all__ = ["offline"]


def value(hostname: str, record: Record | str) -> PeerValue:
    return PeerValue.model_validate(peer(hostname, record))


def told(site: Adapter, record: Record) -> list[Any]:
    """The lists of resources that UCloud is told."""
    updates = site.store.updates(record.id)
    return [each.more["resourceList"] for each in updates if "resourceList" in each.more]


def pair(offline: Offline) -> tuple[Record, Record, Record]:
    """A consumer of the first of two jobs, all running."""
    first, second = offline.run(offline.job(), "node001"), offline.run(offline.job(), "node002")
    return offline.run(offline.job("key", resources=[peer("database", first)]), "node003"), first, second


def test_a_peer_comes_and_goes(offline: Offline) -> None:
    consumer, first, second = pair(offline)
    attached = attach.attach(offline.site, consumer.id, value("Cache", second))
    assert attached == offline.now(consumer)
    assert attached.peers == (Peer("database", first.id), Peer("cache", second.id))
    view = offline.view(consumer.id)
    assert "192.0.2.2 cache\n192.0.2.2 cache-0\n" in view.read_text()
    assert f"192.0.2.2 cache.{consumer.id}.peers" in offline.shared
    both = [peer("database", first), peer("cache", second)]
    assert told(offline.site, consumer) == [both]
    assert [each.model_dump(by_alias=True) for each in item.specification_of(attached).resources] == both
    assert attach.attach(offline.site, consumer.id, value("cache", second)) == attached  # twice is no error
    attach.detach(offline.site, consumer.id, value("CACHE", second))
    assert "cache" not in view.read_text()
    assert told(offline.site, consumer) == [both, both[:1]]
    assert offline.now(consumer).status == consumer.status


def test_what_was_handed_in_is_still_the_same_job(offline: Offline) -> None:
    consumer, first, second = pair(offline)
    attach.attach(offline.site, consumer.id, value("cache", second))
    assert offline.job("key", resources=[peer("database", first)]).id == consumer.id
    with pytest.raises(InvalidInput, match="has another specification"):
        offline.job("key", resources=[peer("database", first), peer("cache", second)])


def test_the_last_peer_goes_and_its_names_with_it(offline: Offline) -> None:
    """The view stays, empty: the nodes keep what they have read of one that is gone."""
    consumer, first, _ = pair(offline)
    waits = Path(consumer.folder, "node", "peers")
    assert waits.read_text() == f"{first.id} database {first.slurm_name}\n"
    attach.detach(offline.site, consumer.id, value("database", first))
    assert offline.view(consumer.id).read_text() == ""
    assert waits.read_text() == ""  # nor does it wait for it when Slurm starts it again
    assert told(offline.site, consumer) == [[]]
    offline.slurm.cancel({offline.slurm_id(consumer): "alice"})
    offline.sync()
    assert consumer.id not in offline.views


def test_an_attached_peer_is_not_waited_for(offline: Offline) -> None:
    first, second = offline.job(), offline.job()
    consumer = offline.job(resources=[peer("database", first)])
    attach.attach(offline.site, consumer.id, value("cache", second))
    assert Path(consumer.folder, "node", "peers").read_text() == f"{first.id} database {first.slurm_name}\n"
    attach.detach(offline.site, consumer.id, value("database", first))
    assert Path(consumer.folder, "node", "peers").read_text() == ""


def test_a_job_with_replicas_may_get_its_first_peer(offline: Offline) -> None:
    first = offline.run(offline.job(), "node001")
    consumer = offline.run(offline.job(replicas=2), "node002", "node003")
    attach.attach(offline.site, consumer.id, value("database", first))
    assert "192.0.2.1 database\n" in offline.view(consumer.id).read_text()


@pytest.mark.parametrize("hostname", ["database", "database-0", "node002", "localhost", "job-1", "a_b", ""])
def test_names_that_it_may_not_have(offline: Offline, hostname: str) -> None:
    consumer, _, second = pair(offline)
    refuse(offline, consumer, value(hostname, second), InvalidInput, "hostname")


def test_jobs_that_it_may_not_name(offline: Offline) -> None:
    consumer, first, second = pair(offline)
    array, theirs = offline.job(application="array"), offline.job(user="bob")
    project = offline.job(project="physics")
    offline.slurm.finish(offline.slurm_id(second))
    offline.sync()
    for wanted, words in (
        (second.id, "has ended"),
        (array.id, "is an array"),
        (theirs.id, "no such job in this workspace"),
        (project.id, "no such job in this workspace"),
        ("999", "no such job in this workspace"),
        (consumer.id, "no peer of itself"),
    ):
        refuse(offline, consumer, value("other", wanted), InvalidInput, words)
    refuse(offline, first, value("other", consumer), NotOffered, "started without peers")
    refuse(offline, second, value("other", consumer), Refused, "has ended")
    refuse(offline, consumer, ReferenceValue(type="network", id="9"), NotOffered, "only peers")
    offline.slurm.down = True
    refuse(offline, consumer, value("other", first), TryAgain, "Slurm")


def test_a_job_that_slurm_does_not_have_yet(offline: Offline) -> None:
    first = offline.job()
    offline.slurm.lose_next("never")
    consumer = offline.job(resources=[peer("database", first)])
    refuse(offline, consumer, value("cache", first), Refused, "does not have")
    with pytest.raises(NotFound):
        attach.attach(offline.site, "999", value("cache", first))


def refuse(offline: Offline, record: Record, wanted: Any, kind: type[AdapterError], words: str) -> None:
    before = offline.now(record)
    with pytest.raises(kind, match=words):
        attach.attach(offline.site, record.id, wanted)
    assert offline.now(record) == before
    assert told(offline.site, record) == []


def test_what_cannot_be_detached(offline: Offline) -> None:
    consumer, first, second = pair(offline)
    for wanted in (value("cache", second), value("database", second), value("other", first)):
        with pytest.raises(InvalidInput, match=rf"its peers are: database \(job {first.id}\)"):
            attach.detach(offline.site, consumer.id, wanted)


def test_a_hosts_file_that_cannot_be_written_is_written_by_the_next_pass(offline: Offline) -> None:
    consumer, _, second = pair(offline)
    offline.peers.rename(offline.folder / "away")
    offline.peers.write_text("")
    attach.attach(offline.site, consumer.id, value("cache", second))
    offline.peers.unlink()
    (offline.folder / "away").rename(offline.peers)
    assert "cache" not in offline.view(consumer.id).read_text()
    offline.sync()
    assert "192.0.2.2 cache\n" in offline.view(consumer.id).read_text()


# On a real cluster


@pytest.mark.sandbox
def test_a_running_job_sees_its_peers_come_and_go(adapter: LiveSite) -> None:
    first, second = adapter.start(
        adapter.shell("sleep 120", node="node001"), adapter.shell("sleep 120", node="node002")
    )
    code = """
        ask() { getent hosts "$1" || echo "no $1"; }
        await() { until [ "$(ask "$1" | cut -d" " -f1)" "$2" no ]; do sleep 0.2; done; ask "$1"; }
        ask database; ask cache
        await cache != && await cache = && await database =
        """
    [consumer] = adapter.submit(adapter.shell(code, peers={"database": first}))
    adapter.until_said(consumer, "^no cache$")
    attach.attach(adapter.site, consumer.id, value("cache", second))
    adapter.until_said(consumer, r"^[0-9.]+ +cache$")
    assert f" cache.{consumer.id}.peers\n" in adapter.shared_block
    attach.detach(adapter.site, consumer.id, value("cache", second))
    adapter.until_said(consumer, "(?s)no cache.*no cache")
    attach.detach(adapter.site, consumer.id, value("database", first))
    [said] = adapter.until_successful(consumer)
    assert [line.split() for line in said.splitlines()] == [
        [first.addresses[0][0], "database"],
        ["no", "cache"],
        [second.addresses[0][0], "cache"],
        ["no", "cache"],
        ["no", "database"],
    ]
    assert [len(each) for each in told(adapter.site, consumer)] == [2, 1, 0]


@pytest.mark.sandbox
def test_a_peer_that_is_a_parameter_stays(adapter: LiveSite) -> None:
    [server] = adapter.start(adapter.shell("sleep 120"))
    [client] = adapter.submit(adapter.specification("client", parameters={"server": peer("database", server)}))
    with pytest.raises(Refused, match=r"is the value of its parameters\.server"):
        attach.detach(adapter.site, client.id, value("database", server))
    adapter.until_successful(client)


@pytest.mark.sandbox
def test_a_job_that_waits_for_a_peer_is_let_go(adapter: LiveSite) -> None:
    [server] = adapter.submit(adapter.shell("sleep 120", begin="now+1hour"))
    [client] = adapter.submit(adapter.shell("getent hosts database || echo alone", peers={"database": server}))
    adapter.cluster.ask("scontrol", "update", f"job={client.slurm_id}", "Dependency=", user="alice")
    adapter.cluster.wait_state(str(client.slurm_id), "RUNNING")
    adapter.cluster.wait_for(lambda: "waiting for peer" in adapter.errors(client))
    attach.detach(adapter.site, client.id, value("database", server))
    assert adapter.until_successful(client) == ["alone\n"]

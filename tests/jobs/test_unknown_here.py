"""UCloud asks after jobs that are not known here: none that may still run is told to be gone."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.cli.check import Level, check_site
from slurm_adapter.core.errors import TryAgain
from slurm_adapter.core.specification import Job, Owner
from slurm_adapter.jobs import unknown_here
from slurm_adapter.jobs.sync import sync
from slurm_adapter.ucloud.receiver import UcloudReceiver
from tests.offline import Offline, site
from tests.ucloud_double import Ucloud, ucloud

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.messages import Message
    from slurm_adapter.core.records import Record
    from slurm_adapter.ucloud.interface import Delivery

__all__ = ["site", "ucloud"]


def running(site: Offline, ucloud: Ucloud, *ids: str) -> list[Record]:
    """Jobs of UCloud's that run."""
    ucloud.know(*ids)
    records = site.submit(*(replace(site.item(), id=id_) for id_ in ids))
    return [site.run(record) for record in records]


def asked(site: Offline, id_: str, name: str = "", *, age: float = 86400) -> Job:
    """A job as UCloud asks after it, made so many seconds ago."""
    return Job(
        id=id_,
        owner=Owner(created_by="alice"),
        created_at=int((site.slurm.now - age) * 1000),
        provider_generated_id=name,
        specification=site.item().specification,
    )


def lose_database(site: Offline, backup: bytes | None = None) -> None:
    """It is gone, and what a backup has, or nothing, is in its place."""
    site.site.close()
    for path in site.config.state_dir.iterdir():
        path.unlink()
    if backup is not None:
        (site.config.state_dir / "jobs.sqlite").write_bytes(backup)
    site.site = site.open()


def copied(site: Offline) -> bytes:
    """A backup of the database."""
    with closing(sqlite3.connect(site.config.state_dir / "jobs.sqlite")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return connection.serialize()


def test_running_jobs_of_a_database_that_was_lost_are_not_given_up(site: Offline, ucloud: Ucloud) -> None:
    jobs = running(site, ucloud, "4101", "4102")
    lose_database(site)
    wanted = [asked(site, job.id, job.slurm_name) for job in jobs]
    [said] = unknown_here.verify(site.site, wanted)
    assert "4101, 4102" in said
    assert [ucloud.state(job.id) for job in jobs] == ["RUNNING", "RUNNING"]
    assert site.sync().problems == (said,)
    assert [each.level for each in check_site(site.site) if each.text == said] == [Level.WARNING]


def test_jobs_that_are_newer_than_a_restored_database_are_not_given_up(site: Offline, ucloud: Ucloud) -> None:
    [old] = running(site, ucloud, "4101")
    backup = copied(site)
    [new] = running(site, ucloud, "4102")
    lose_database(site, backup)
    site.slurm.finish(site.slurm_id(old) + 1)
    assert "(4102)" in unknown_here.verify(site.site, [asked(site, job.id, job.slurm_name) for job in (old, new)])[0]
    assert ucloud.state(new.id) == "RUNNING"


def test_somebody_who_has_looked_ends_those_that_slurm_does_not_have(site: Offline, ucloud: Ucloud) -> None:
    runs, ended = running(site, ucloud, "4101", "4102")
    slurm_id = site.slurm_id(ended)
    lose_database(site)
    unknown_here.verify(site.site, [asked(site, job.id, job.slurm_name) for job in (runs, ended)])
    site.slurm.finish(slurm_id)
    [problem] = sync(site.site, allow_mass_end=True).problems
    assert "(4101)" in problem
    assert (ucloud.state("4101"), ucloud.state("4102")) == ("RUNNING", "FAILURE")
    site.slurm.finish(slurm_id - 1)
    assert sync(site.site, allow_mass_end=True).problems == ()
    assert ucloud.updates("4101")[-1]["status"] == unknown_here.NO_LONGER_AVAILABLE
    assert unknown_here.doubts(site.site) is None


@pytest.mark.scenario(69)
def test_one_that_was_never_taken_here_is_gone(site: Offline, ucloud: Ucloud) -> None:
    ucloud.know("4101", "4102", "4103")
    assert unknown_here.verify(site.site, [asked(site, "4101"), asked(site, "4102", "account/17/9")]) == []
    for age in (30, -30):  # UCloud's clock may be ahead
        assert unknown_here.verify(site.site, [asked(site, "4103", age=age)]) == []
    assert [ucloud.state(id_) for id_ in ("4101", "4102", "4103")] == ["FAILURE", "FAILURE", "IN_QUEUE"]


def test_nothing_is_told_unless_slurm_says_that_it_has_no_such_job(site: Offline, ucloud: Ucloud) -> None:
    [job] = running(site, ucloud, "4101")
    ucloud.know("4102")
    lose_database(site)
    assert unknown_here.verify(site.site, [asked(site, job.id)]) != []
    site.slurm.sees_others = False
    assert unknown_here.verify(site.site, [asked(site, "4102")]) != []
    site.slurm.down = True
    with pytest.raises(TryAgain):
        unknown_here.verify(site.site, [asked(site, "4102")])
    assert (ucloud.state("4101"), ucloud.state("4102")) == ("RUNNING", "IN_QUEUE")


def test_many_at_once_wait_for_somebody_to_look(site: Offline, ucloud: Ucloud) -> None:
    ids = [str(4101 + number) for number in range(12)]
    ucloud.know(*ids)
    assert "12 jobs" in unknown_here.verify(site.site, [asked(site, id_) for id_ in ids])[0]
    assert {ucloud.state(id_) for id_ in ids} == {"IN_QUEUE"}
    assert sync(site.site, allow_mass_end=True).problems == ()
    assert {ucloud.state(id_) for id_ in ids} == {"FAILURE"}


def test_what_two_have_noted_at_once_is_kept_of_both(site: Offline) -> None:
    token = f"{site.site.store.instance}-example"
    ids = [str(4101 + number) for number in range(40)]

    def ask(own: Adapter, id_: str) -> list[str]:
        with closing(own.store):
            return unknown_here.verify(own, [asked(site, id_, f"{token}-{id_}")])

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, [site.site.for_thread() for _ in ids], ids))
    said = unknown_here.doubts(site.site)
    assert said is not None
    assert f"has {len(ids)} jobs" in said, "some were lost"


def test_what_is_noted_while_others_are_settled_is_kept(
    site: Offline, ucloud: Ucloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = f"{site.site.store.instance}-example"
    ucloud.know("4101", "4102")
    assert unknown_here.verify(site.site, [asked(site, "4101", f"{token}-4101")]) != []
    inner = UcloudReceiver.deliver

    def deliver(self: UcloudReceiver, messages: Sequence[Message]) -> Delivery:
        assert unknown_here.verify(site.site, [asked(site, "4102", f"{token}-4102")]) != []
        return inner(self, messages)

    with monkeypatch.context() as patch:
        patch.setattr(UcloudReceiver, "deliver", deliver)
        sync(site.site, allow_mass_end=True)
    assert "(4102)" in str(unknown_here.doubts(site.site))


def test_one_that_is_known_again_is_in_doubt_no_longer(site: Offline, ucloud: Ucloud) -> None:
    ucloud.know("4101")
    token = f"{site.site.store.instance}-example-4101"
    assert unknown_here.verify(site.site, [asked(site, "4101", token)]) != []
    running(site, ucloud, "4101")
    assert unknown_here.doubts(site.site) is None

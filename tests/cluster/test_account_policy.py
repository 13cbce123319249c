"""Accounts are judged by their uids on the cluster: no name makes an account of the system a user's."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.adapter import StoredFacts
from slurm_adapter.cli.check.accounts import find_accounts
from slurm_adapter.cluster.account_policy import FRESH_SECONDS, SLURM_SECONDS, AccountPolicy, GuardedTransport
from slurm_adapter.cluster.transports.fake import FakeTransport
from slurm_adapter.cluster.transports.interface import Command, NotConnected, Result
from slurm_adapter.core.errors import InvalidInput, TryAgain
from tests.offline import Offline

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UIDS = {
    "alice": 7701, "root": 0, "toor": 0, "admin": 0, "daemon": 1, "backup": 999, "first": 1000, "munge": 7710,
    "munged": 7710, "slurm": 64030, "controller": 64030, "node": 4000, "nobody": 65534, "ucloud": 7700, "ucloud2": 7700,
}  # fmt: skip
REFUSED = {
    "root": "root", "toor": "it is root", "admin": "it is root", "daemon": "uid is 1,", "backup": "uid is 999,",
    "munge": "munge", "munged": "munge", "slurm": "SlurmUser", "controller": "SlurmUser", "node": "SlurmdUser",
    "nobody": "nobody", "ucloud": "adapter's own", "ucloud2": "adapter's own",
}  # fmt: skip


class Cluster:
    """Accounts of a cluster, which tests change."""

    def __init__(self, site: Offline) -> None:
        self.uids = dict(UIDS)
        self.site = site
        self.now = 0.0
        self.transport = FakeTransport(self._answer)
        site.slurm.own = {"SlurmUser": 64030, "SlurmdUser": 4000}
        self.policy = self.new_policy(lambda: self.now)
        site.site.account_policy = self.policy
        site.site.transport = GuardedTransport(self.transport, self.policy)

    def new_policy(self, clock: Callable[[], float] = time.monotonic) -> AccountPolicy:
        """A policy that knows only what the database keeps."""
        site = self.site.site
        return AccountPolicy(site.config.identity, lambda: site.scheduler.own_uids(), StoredFacts(site), clock)  # noqa: PLW0108  # tests replace it

    def _answer(self, command: Command) -> Result:
        if command.user is not None:
            return Result(0, command.user.encode() + b"\n", b"")
        names = command.argv[4:]
        lines = ["7700", *(str(self.uids.get(name, "")) for name in names)]
        return Result(0, "".join(f"{line}\n" for line in lines).encode(), b"")

    def run_as(self, user: str) -> None:
        """Run something as an account."""
        self.site.site.transport.run(Command(("true",), user=user))


def site_with(tmp_path: Path, **identity: object) -> Cluster:
    """A site with such a table [identity]."""
    return Cluster(Offline(tmp_path, {"identity": identity}))


@pytest.mark.parametrize(("account", "why"), REFUSED.items())
def test_an_account_of_the_system_runs_nothing(tmp_path: Path, account: str, why: str) -> None:
    cluster = site_with(tmp_path, pattern="{user}")
    item = cluster.site.item()
    with pytest.raises(InvalidInput, match=why):
        cluster.site.submit(item, user=account)
    with pytest.raises(InvalidInput, match=why):
        cluster.site.submit(item, user=account, project="physics")
    with pytest.raises(NotConnected, match=why):
        cluster.run_as(account)
    with pytest.raises(NotConnected, match=why):
        cluster.site.site.transport.open(Command(("true",), user=account))
    assert not [command for command in cluster.transport.commands if command.user is not None]


@pytest.mark.parametrize(("account", "why"), [pair for pair in REFUSED.items() if pair[0] != "root"])
def test_check_names_a_mapped_account_that_is_refused(tmp_path: Path, account: str, why: str) -> None:
    cluster = site_with(tmp_path, users={"alice": "alice", "Eve#1": account})
    usable: dict[str, str] = {}
    [problem] = find_accounts(cluster.site.site, usable)
    assert (problem.key, set(usable)) == (("identity", "users", "Eve#1"), {"alice"})
    assert why in problem.text
    with pytest.raises(InvalidInput, match=why):
        cluster.site.submit(cluster.site.item(), user="Eve#1")


def test_the_account_of_all_jobs_is_judged_too(tmp_path: Path) -> None:
    cluster = site_with(tmp_path, mode="service", service_user="backup")
    [problem] = find_accounts(cluster.site.site, {})
    assert "identity.lowest_uid" in problem.text
    with pytest.raises(NotConnected, match="999"):
        cluster.run_as("backup")


def test_a_site_sets_the_lowest_uid(tmp_path: Path) -> None:
    cluster = site_with(tmp_path, pattern="{user}", lowest_uid=999)
    cluster.run_as("backup")
    with pytest.raises(NotConnected, match=r"below 999 .* set identity.lowest_uid"):
        cluster.run_as("daemon")


def test_users_run_commands_and_the_cluster_is_seldom_asked(tmp_path: Path) -> None:
    cluster = site_with(tmp_path, pattern="{user}")
    for _ in range(3):
        cluster.run_as("first")
    assert len(cluster.transport.commands) == 4


def test_an_account_that_changes_is_noticed(tmp_path: Path) -> None:
    cluster = site_with(tmp_path, pattern="{user}")
    cluster.run_as("alice")
    cluster.uids["alice"] = 64030
    cluster.now = FRESH_SECONDS
    with pytest.raises(NotConnected, match="SlurmUser"):
        cluster.run_as("alice")
    cluster.uids["alice"] = 7701
    cluster.now *= 2
    cluster.run_as("alice")


def test_an_unknown_account_runs_nothing_and_is_asked_for_again(tmp_path: Path) -> None:
    cluster = site_with(tmp_path, pattern="{user}")
    del cluster.uids["alice"]
    with pytest.raises(NotConnected, match="no account alice"):
        cluster.run_as("alice")
    cluster.uids["alice"] = 7701
    cluster.run_as("alice")


def test_while_slurm_is_down_its_last_answer_about_its_accounts_is_used(tmp_path: Path) -> None:
    cluster = site_with(tmp_path, pattern="{user}")
    cluster.site.slurm.down = True
    with pytest.raises(TryAgain, match="its own"):
        cluster.run_as("alice")
    cluster.site.slurm.down = False
    cluster.run_as("alice")
    cluster.site.slurm.down = True
    cluster.now = SLURM_SECONDS
    cluster.run_as("alice")
    later = cluster.new_policy()
    assert later.refusal("alice", cluster.transport) is None
    assert "SlurmUser" in (later.refusal("controller", cluster.transport) or "")


def test_while_slurm_is_down_it_is_not_asked_for_each_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = site_with(tmp_path, pattern="{user}")
    cluster.run_as("alice")
    cluster.now = SLURM_SECONDS
    asked: list[bool] = []

    def own_uids() -> dict[str, int]:
        asked.append(True)
        raise TryAgain("away")

    monkeypatch.setattr(cluster.site.site.scheduler, "own_uids", own_uids)
    for account in ("alice", "first"):
        cluster.run_as(account)
    assert len(asked) == 1
    cluster.now += FRESH_SECONDS
    cluster.run_as("alice")
    assert len(asked) == 2


def test_accounts_that_begin_together_ask_slurm_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = site_with(tmp_path, pattern="{user}")
    asked: list[bool] = []

    def own_uids() -> dict[str, int]:
        asked.append(True)
        time.sleep(0.3)  # the others come meanwhile
        return {"SlurmUser": 64030, "SlurmdUser": 4000}

    monkeypatch.setattr(cluster.site.site.scheduler, "own_uids", own_uids)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(cluster.run_as, ["alice", "first"] * 4))
    assert len(asked) == 1

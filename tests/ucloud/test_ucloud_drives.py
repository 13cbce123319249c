"""UCloud's drives over HTTP: answers are cached for a while, and a request takes no longer than a job can wait."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.core.errors import TryAgain, Unknown
from slurm_adapter.ucloud import drives as module
from slurm_adapter.ucloud.client import Client
from slurm_adapter.ucloud.drives import KEPT_SECONDS, MOST, UcloudDrives
from tests.ucloud_double import Clock, Ucloud, clock, ucloud

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["clock", "ucloud"]

RETRIEVE = "/api/files/collections/control/retrieve"


@pytest.fixture
def drives(ucloud: Ucloud, clock: Clock, tmp_path: Path) -> Iterator[UcloudDrives]:
    made = UcloudDrives(Client(ucloud.url, ucloud.write_refresh_token(tmp_path / "refresh"), clock), clock)
    yield made
    made.close()


def test_answers_are_cached_for_a_while(ucloud: Ucloud, clock: Clock, drives: UcloudDrives) -> None:
    ucloud.have_drive("77", "alice", folder="/work/old")
    first = drives.find("77")
    assert first is not None
    ucloud.have_drive("77", "alice", folder="/work/new")
    clock.now += KEPT_SECONDS - 1
    assert drives.find("77") == first
    clock.now += 1
    found = drives.find("77")
    assert found is not None
    assert found.folder == "/work/new"
    assert len(ucloud.calls_to(RETRIEVE)) == 2
    clock.now -= 3600
    assert drives.find("77") == found
    assert len(ucloud.calls_to(RETRIEVE)) == 3, "a clock that was set back keeps nothing for longer"


def test_a_drive_that_is_made_later_is_found(ucloud: Ucloud, drives: UcloudDrives) -> None:
    assert drives.find("77") is None
    ucloud.have_drive("77", "alice", folder="/work/alice")
    assert drives.find("77") is not None


def test_an_older_ucloud_answers_404(ucloud: Ucloud, drives: UcloudDrives) -> None:
    ucloud.have_drive("77", "alice", folder="/work/alice")
    ucloud.fail(404, path=RETRIEVE)
    assert drives.find("77") is None


def test_only_so_many_are_kept(ucloud: Ucloud, drives: UcloudDrives, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST >= 100
    monkeypatch.setattr(module, "MOST", 3)
    for number in range(70, 75):
        ucloud.have_drive(str(number), "alice", folder="/work/alice")
        drives.find(str(number))
    asked = len(ucloud.calls_to(RETRIEVE))
    drives.find("74")
    drives.find("72")
    assert len(ucloud.calls_to(RETRIEVE)) == asked
    drives.find("71")
    assert len(ucloud.calls_to(RETRIEVE)) == asked + 1


class Stuck:
    """A client that does not answer a request until the test allows it."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.told = threading.Event()

    def get(self, path: str, query: Mapping[str, str]) -> None:
        """Wait."""
        self.asked.set()
        assert self.told.wait(60)
        raise Unknown(f"there was no answer to {path} for {query}")

    def close(self) -> None:
        """Nothing is held."""


def test_a_question_does_not_wait_for_ever_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUESTION_SECONDS", 0.05)
    client = Stuck()
    drives = UcloudDrives(client, Clock())  # type: ignore[arg-type]  # it asks in the same way
    with ThreadPoolExecutor() as threads:
        first = threads.submit(drives.find, "77")
        assert client.asked.wait(60)
        with pytest.raises(TryAgain, match="drive 78"):
            drives.find("78")
        client.told.set()
        with pytest.raises(TryAgain, match="drive 77"):
            first.result(60)


def test_many_threads_ask_once(ucloud: Ucloud, drives: UcloudDrives, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUESTION_SECONDS", 60)
    ucloud.have_drive("77", "alice", folder="/work/alice")
    ucloud.slow = 0.1
    with ThreadPoolExecutor(8) as threads:
        assert {drive.folder for drive in threads.map(drives.find, ["77"] * 8) if drive} == {"/work/alice"}
    assert len(ucloud.calls_to(RETRIEVE)) == 1


def test_all_that_there_are(ucloud: Ucloud, drives: UcloudDrives) -> None:
    assert drives.some() == ([], False)
    for number in range(1, 252):
        ucloud.have_drive(str(number), "alice", folder="/work/alice")
    ucloud.have_drive("900", "alice", folder="/work/alice", provider="another")
    found, more = drives.some()
    assert (len(found), more) == (250, True)
    assert found[0].id == "251"

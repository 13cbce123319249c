"""UCloud over HTTP: who is let in and with what, what is sent in how many requests, and what goes wrong on the way."""

from __future__ import annotations

import logging
import re
import sys
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.adapter import Adapter
from slurm_adapter.core.config import FIRST_ID_BESIDE_UCLOUD, Config
from slurm_adapter.core.errors import AdapterError, InvalidConfig, Refused, TryAgain, Unknown
from slurm_adapter.core.messages import Message
from slurm_adapter.core.states import JobState
from slurm_adapter.ucloud import client
from slurm_adapter.ucloud import receiver as module
from slurm_adapter.ucloud.client import Client, read_refresh_token
from slurm_adapter.ucloud.receiver import UcloudReceiver
from tests.offline import configuration
from tests.ucloud_double import Clock, Ucloud, clock, ucloud

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["clock", "ucloud"]

REFRESH = "/auth/providers/refresh"
UPDATE = "/api/jobs/control/update"
EXISTS = "/api/providers/resources/checkExistence"
RETRIEVE = "/api/jobs/control/retrieve"


@pytest.fixture
def token_file(ucloud: Ucloud, tmp_path: Path) -> Path:
    return ucloud.write_refresh_token(tmp_path / "refresh")


@pytest.fixture
def receiver(ucloud: Ucloud, clock: Clock, token_file: Path) -> Iterator[UcloudReceiver]:
    made = UcloudReceiver(Client(ucloud.url, token_file, clock))
    yield made
    made.close()


def runs(number: int, job_id: str | None = None, **more: Any) -> Message:
    id_ = str(number) if job_id is None else job_id
    return Message(number, id_, 0.0, JobState.RUNNING, f"text {number}", JobState.IN_QUEUE, more, fresh=True)


def says(number: int, job_id: str, text: str) -> Message:
    return Message(number, job_id, 0.0, None, text, JobState.IN_QUEUE, fresh=True)


@pytest.mark.scenario(8)
def test_a_token_is_used_until_less_than_three_minutes_of_it_are_left(
    ucloud: Ucloud, clock: Clock, receiver: UcloudReceiver
) -> None:
    ucloud.know("1")
    receiver.exists(["1"])
    assert [call.path for call in ucloud.calls] == [REFRESH, EXISTS]
    assert "authorization" not in ucloud.calls[0].headers
    clock.now += 419
    receiver.exists(["1"])
    assert len(ucloud.issued) == 1
    clock.now += 2
    receiver.exists(["1"])
    assert len(ucloud.issued) == 2
    assert ucloud.calls[-1].headers["authorization"] == f"Bearer {ucloud.issued[1]}"


@pytest.mark.scenario(8)
def test_a_401_costs_one_refresh_and_one_more_try(ucloud: Ucloud, receiver: UcloudReceiver) -> None:
    ucloud.know("1")
    ucloud.fail(401, path=UPDATE)
    assert receiver.deliver([runs(1)]).taken == {1}
    assert [call.path for call in ucloud.calls] == [REFRESH, UPDATE, REFRESH, UPDATE]
    ucloud.calls.clear()
    ucloud.fail(401, times=9, path=UPDATE)
    with pytest.raises(Refused, match="refuses this provider"):
        receiver.deliver([runs(1)])
    assert [call.path for call in ucloud.calls] == [UPDATE, REFRESH, UPDATE]


@pytest.mark.scenario(8)
def test_a_refresh_token_that_is_refused_is_shown_again_after_a_while(
    ucloud: Ucloud, clock: Clock, receiver: UcloudReceiver
) -> None:
    ucloud.fail(401, times=3, path=REFRESH)
    for asked, wait in ((1, 10), (2, 20), (3, 40)):
        with pytest.raises(Refused, match="refused the refresh token"):
            receiver.exists(["1"])
        clock.now += wait - 1
        with pytest.raises(TryAgain, match="next attempt in 1 s"):
            receiver.exists(["1"])
        assert len(ucloud.calls_to(REFRESH)) == asked
        clock.now += 1
    assert receiver.exists(["1"]) == frozenset()


def test_a_refresh_token_that_was_renewed_is_taken_up_at_once(
    ucloud: Ucloud, token_file: Path, receiver: UcloudReceiver
) -> None:
    ucloud.refresh_token = "renewed"
    with pytest.raises(Refused):
        receiver.exists(["1"])
    ucloud.write_refresh_token(token_file)
    assert receiver.exists(["1"]) == frozenset()


@pytest.mark.scenario(8, 91)
def test_no_word_that_comes_out_holds_a_token(
    ucloud: Ucloud, token_file: Path, receiver: UcloudReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ucloud.know("1")
    said: list[str] = []
    for status in (401, 403, 400, 404, 429, 500, 503):
        for path in (REFRESH, UPDATE):
            ucloud.fail(status, times=2, path=path)
            client = Client(ucloud.url, token_file)
            try:
                said += UcloudReceiver(client).deliver([says(1, "1", "text")]).problems
            except AdapterError as error:
                said += traceback.format_exception(error)
            finally:
                client.close()
    receiver.exists(["1"])
    said.append(repr(vars(receiver.client)) + repr(receiver))
    assert ucloud.issued
    for secret in (ucloud.refresh_token, *ucloud.issued):
        assert secret not in "".join(said) + caplog.text


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_refresh_token_that_others_can_read_is_not_used(
    ucloud: Ucloud, token_file: Path, receiver: UcloudReceiver, mode: int
) -> None:
    token_file.chmod(mode)
    with pytest.raises(InvalidConfig, match=re.escape(f"chmod 600 {token_file}")):
        receiver.exists(["1"])
    assert ucloud.calls == []


@pytest.mark.parametrize("content", ["", "\n", "two words\n"])
def test_a_file_without_a_token(token_file: Path, content: str) -> None:
    token_file.write_text(content)
    with pytest.raises(InvalidConfig, match="holds no token"):
        read_refresh_token(token_file)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="mode 600"):
        read_refresh_token(tmp_path / "none")


def test_the_fields_of_an_update(ucloud: Ucloud, receiver: UcloudReceiver) -> None:
    ucloud.know("1")
    more: dict[str, Any] = {"newTimeAllocation": 5_400_000, "outputFolder": "/4101"}
    receiver.deliver([runs(1, **more), says(2, "1", "a note")])
    [call] = ucloud.calls_to(UPDATE)
    state = {"timestamp": 0, "state": "RUNNING", "expectedDifferentState": True, "status": "text 1", **more}
    assert call.body["items"] == [
        {"id": "1", "update": state},
        {"id": "1", "update": {"timestamp": 0, "status": "a note"}},
    ]
    assert ucloud.job("1")["specification"]["timeAllocation"] == {"hours": 1, "minutes": 30, "seconds": 0}
    assert ucloud.job("1")["output"] == {"outputFolder": "/4101"}


def test_a_state_that_ucloud_has_lost_is_delivered(ucloud: Ucloud, receiver: UcloudReceiver) -> None:
    """It was restored from a backup, say, and thinks that the job still waits."""
    ucloud.know("1", state="IN_QUEUE")
    done = Message(2, "1", 0.0, JobState.SUCCESS, "done", JobState.RUNNING, fresh=True)
    assert receiver.deliver([done]).taken == {2}
    assert ucloud.state("1") == "SUCCESS"


def test_many_unknown_jobs_cost_few_requests(ucloud: Ucloud, receiver: UcloudReceiver) -> None:
    ucloud.know(*map(str, range(100)))
    gone = {str(number) for number in range(0, 100, 3)}
    ucloud.forget(*gone)
    told = receiver.deliver([runs(number) for number in range(100)])
    assert told.unknown == gone
    assert len(told.taken) == 100 - len(gone)
    assert [call.path for call in ucloud.calls] == [REFRESH, UPDATE, EXISTS, UPDATE]


def test_a_ucloud_that_does_not_list_its_jobs(ucloud: Ucloud, receiver: UcloudReceiver) -> None:
    """An older one, for example: each unknown id costs a request."""
    ucloud.know("1", "2", "3", "4")
    ucloud.forget("2", "3")
    ucloud.fail(404, times=9, path=EXISTS)
    told = receiver.deliver([runs(number) for number in (1, 2, 3, 4)])
    assert (told.taken, told.unknown) == (frozenset({1, 4}), frozenset({"2", "3"}))


@pytest.mark.parametrize("refusal", [403, 404])
def test_a_lost_message_of_a_deleted_job_does_not_hold_back_others(
    ucloud: Ucloud, receiver: UcloudReceiver, refusal: int
) -> None:
    """UCloud's older core answers the question for such a job with 404, the newer with 403."""
    ucloud.know("2")
    if refusal == 404:
        ucloud.fail(404, path=RETRIEVE)
    told = receiver.deliver([replace(runs(1), fresh=False), runs(2)])
    assert (told.taken, told.unknown) == (frozenset({2}), frozenset({"1"}))
    assert ucloud.state("2") == "RUNNING"


def test_an_update_that_ucloud_refuses_does_not_keep_others_from_arriving(
    ucloud: Ucloud, receiver: UcloudReceiver
) -> None:
    ids = [str(number) for number in range(20)]
    ucloud.know(*ids)
    bad: dict[str, Any] = {"newTimeAllocation": 1.5}
    messages = [runs(number, **(bad if number == 7 else {})) for number in range(20)]
    told = receiver.deliver(messages)
    assert told.taken == set(range(20))
    assert all(ucloud.state(id_) == "RUNNING" for id_ in ids), "the state arrives, without what was refused"
    [problem] = told.problems
    assert "job 7" in problem
    assert "Invalid request supplied" in problem


def test_a_ucloud_that_refuses_everything_is_not_asked_for_each_update(
    ucloud: Ucloud, receiver: UcloudReceiver
) -> None:
    ucloud.know(*map(str, range(64)))
    ucloud.fail(400, times=1000, path=UPDATE)
    with pytest.raises(Unknown, match="one update after another"):
        receiver.deliver([runs(number) for number in range(64)])
    assert len(ucloud.calls_to(UPDATE)) < 24
    assert all(ucloud.state(str(number)) == "IN_QUEUE" for number in range(64))


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_ucloud(ucloud: Ucloud, receiver: UcloudReceiver, status: int) -> None:
    ucloud.know("1")
    ucloud.fail(status, path=UPDATE)
    with pytest.raises(TryAgain, match=str(status)):
        receiver.deliver([runs(1)])


@pytest.mark.parametrize("status", [500, 502, 504])
def test_an_answer_without_results(ucloud: Ucloud, receiver: UcloudReceiver, status: int) -> None:
    """A proxy may answer so although UCloud has taken all updates."""
    ucloud.know("1")
    ucloud.fail(status, path=UPDATE)
    with pytest.raises(Unknown, match=str(status)):
        receiver.deliver([runs(1)])


def test_a_ucloud_that_does_not_answer_is_not_waited_for(ucloud: Ucloud, clock: Clock, token_file: Path) -> None:
    ucloud.slow = 2.0
    client = Client(ucloud.url, token_file, clock, seconds=0.2)
    with pytest.raises(Unknown, match="lost"):
        UcloudReceiver(client).exists(["1"])
    client.close()


def test_thousands_of_jobs_are_asked_for_in_thousands(ucloud: Ucloud, receiver: UcloudReceiver) -> None:
    ids = [str(number) for number in range(2001)]
    ucloud.know(*ids[1:])
    assert receiver.exists(ids) == set(ids[1:])
    assert [len(call.body["items"]) for call in ucloud.calls_to(EXISTS)] == [1000, 1000, 1]


def test_a_missing_package_is_reported(
    ucloud: Ucloud, token_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"url": ucloud.url, "key": str(tmp_path / "key"), "refresh_token": str(token_file)}
    config = Config.model_validate(configuration(tmp_path, {"ucloud": table, "first_id": FIRST_ID_BESIDE_UCLOUD}))
    with Adapter(config) as site:
        assert isinstance(site.receiver, UcloudReceiver)
        assert site.ucloud_drives is None
    monkeypatch.setitem(sys.modules, "httpx", None)
    for each in (module, client):
        monkeypatch.delitem(sys.modules, each.__name__)
    with Adapter(config) as site, pytest.raises(InvalidConfig, match=r"pip install 'slurm-adapter\[serve\]'"):
        _ = site.receiver

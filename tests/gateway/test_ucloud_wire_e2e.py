"""What UCloud and `serve` say to each other over HTTP, scenario by scenario and word for word, with a real cluster."""

from __future__ import annotations

import gzip
import http.client
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.sync.client import connect

from slurm_adapter.ucloud.client import BACK_OFF, RENEW_SECONDS
from tests.adapter import UNTIL_TOLD
from tests.gateway.process import serving
from tests.gateway.test_ucloud_e2e import Served, prepared, served, site, until
from tests.ucloud_double import FINAL, LIFETIME

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

    from tests.adapter import LiveSiteMaker
    from tests.sandbox_cluster import Cluster
    from tests.ucloud_double import Call

__all__ = ["site"]

pytestmark = pytest.mark.sandbox

JOBS = "/ucloud/example/jobs"
REFRESH = "/auth/providers/refresh"
UPDATE = "/api/jobs/control/update"
MINUTE = {"hours": 0, "minutes": 1, "seconds": 0}


def waiting(site: Served, id_: str) -> dict[str, Any]:
    """A job that waits in Slurm for an hour."""
    job = site.job("4101", id_, "true")
    job["specification"]["parameters"]["begin"] = {"type": "text", "value": "now+1hour"}
    return job


class Dance:
    """What passes between the two for each update of one job."""

    def __init__(self, site: Served) -> None:
        self.site = site
        self.ucloud = site.ucloud
        self.token = self.ucloud.token()  # lasts, whatever UCloud's clock says later
        site.create(waiting(site, "4101"))
        until(lambda: bool(self.ucloud.updates("4101")), "UCloud was not told that it was submitted")

    def extend(self) -> None:
        """The job is given a minute, of which UCloud is to be told."""
        body = {"items": [{"job": self.ucloud.job("4101"), "requestedTime": MINUTE}]}
        assert self.ucloud.call(f"{JOBS}/extend", body, token=self.token).status == 200

    def steps(self) -> list[tuple[str, int]]:
        """What is asked, and answered, until UCloud has been told of one more minute."""
        known, told = len(self.ucloud.calls), len(self.ucloud.updates("4101"))
        self.extend()
        until(lambda: len(self.ucloud.updates("4101")) > told, "UCloud was not told of the extension")
        return [(call.path, call.status) for call in self.ucloud.calls[known:] if call.path in {REFRESH, UPDATE}]

    def expire(self) -> None:
        """All access tokens have expired, by UCloud's clock."""
        ahead = self.ucloud.clock() - time.time() + LIFETIME
        self.ucloud.clock = lambda: time.time() + ahead


@pytest.mark.scenario(8, 91)
def test_the_tokens_of_calls_to_ucloud(make_adapter: LiveSiteMaker, tmp_path: Path) -> None:
    with served(make_adapter, tmp_path) as site:
        ucloud, dance = site.ucloud, Dance(site)
        first = ucloud.calls[0]
        assert (first.path, first.body) == (REFRESH, {"items": [{"refreshToken": ucloud.refresh_token}]})
        assert "authorization" not in first.headers
        # It is used again.
        assert [dance.steps(), dance.steps()] == [[(UPDATE, 200)]] * 2
        assert {call.headers["authorization"] for call in ucloud.calls[1:]} == {f"Bearer {ucloud.issued[0]}"}
        # A 401: one refresh, one retry.
        dance.expire()
        assert dance.steps() == [(UPDATE, 401), (REFRESH, 200), (UPDATE, 200)]
        assert dance.steps() == [(UPDATE, 200)]
        # With less than three minutes left it is not used any more.
        dance.expire()
        ucloud.lifetime = RENEW_SECONDS
        assert dance.steps() == [(UPDATE, 401), (REFRESH, 200), (UPDATE, 200)]
        assert dance.steps() == [(REFRESH, 200), (UPDATE, 200)]
        assert ucloud.calls[-1].headers["authorization"] == f"Bearer {ucloud.issued[-1]}"
        # A refresh token that is refused is shown again after a while.
        secrets = [ucloud.refresh_token]
        ucloud.refresh_token = "renewed-and-not-told-yet"
        secrets.append(ucloud.refresh_token)
        told = len(ucloud.updates("4101"))
        dance.extend()

        def refused() -> list[Call]:
            return [call for call in ucloud.calls_to(REFRESH) if call.status == 401]

        until(lambda: len(refused()) > 1, "the refresh token was not shown again")
        once, again = refused()[:2]
        assert again.at - once.at >= BACK_OFF[0] - 0.5
        assert len(ucloud.updates("4101")) == told
        # The renewed one is taken up, and nothing was lost.
        ucloud.write_refresh_token(tmp_path / "refresh-token")
        until(lambda: len(ucloud.updates("4101")) > told, "UCloud was not told after all", 180)
        log = site.adapter.config_file.with_suffix(".log").read_text()
    assert "refused the refresh token" in log
    assert [secret for secret in (*secrets, *ucloud.issued) if secret in log] == []


def ask(site: Served, method: str, path: str, body: Any, **headers: str | None) -> tuple[int, Any, str | None]:
    """A request with these headers and no others that say what it is: the status, the JSON, how it was encoded."""
    content = b"" if body is None else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        told = {"Authorization": f"Bearer {site.ucloud.token()}", "Content-Length": str(len(content)), **headers}
        for name, value in told.items():
            if value is not None:
                connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(content)
        response = connection.getresponse()
        encoding, data = response.getheader("Content-Encoding"), response.read()
    finally:
        connection.close()
    return response.status, json.loads(gzip.decompress(data) if encoding == "gzip" else data), encoding


@pytest.mark.scenario(9)
def test_whatever_content_type_and_with_and_without_gzip(site: Served) -> None:
    kinds = ("content-type: application/json; charset=utf-8", None, "text/plain")
    ids = iter(range(1, 100))
    for kind in kinds:
        for accepted in ("gzip", None, "identity", "gzip, deflate, br"):
            allowed = {None, "identity", "gzip"} if accepted and "gzip" in accepted else {None, "identity"}
            job = waiting(site, str(next(ids)))
            site.ucloud.know(job["id"])
            of_both: dict[str, str | None] = {"Content_Type": kind, "Accept_Encoding": accepted}
            made = ask(site, "POST", JOBS, {"items": [job]}, **of_both)
            token = site.adapter.site.store.get(job["id"]).slurm_name
            assert made[:2] == (200, {"responses": [{"id": token}]}), kind
            until(
                lambda: all(job.slurm_id is not None for job in site.adapter.site.store.active_jobs()), "not in Slurm"
            )
            named = {"items": [{"job": job, "requestedTime": MINUTE}]}
            extended = ask(site, "POST", f"{JOBS}/extend", named, **of_both)
            assert extended[:2] == (200, {"responses": [{}]}), kind
            products = ask(site, "GET", f"{JOBS}/retrieveProducts", None, **of_both)
            assert (products[0], len(products[1]["responses"]) > 1) == (200, True)
            refused = ask(site, "POST", f"{JOBS}/extend", {"items": []}, **of_both)
            assert (refused[0], set(refused[1])) == (400, {"why", "errorCode"})
            assert {answer[2] for answer in (made, extended, products, refused)} <= allowed


@pytest.mark.scenario(64)
def test_a_hundred_and_twenty_changes_at_once_and_one_unknown_job(site: Served, cluster: Cluster) -> None:
    jobs = [waiting(site, str(4000 + number)) for number in range(120)]
    ids = [job["id"] for job in jobs]
    site.ucloud.know(*ids)
    assert site.ucloud.call(JOBS, {"items": jobs}).status == 200
    until(lambda: all(site.ucloud.updates(id_) for id_ in ids), "not all are in Slurm", 180)
    store = site.adapter.site.store
    numbers = [str(record.slurm_id) for record in store.find(ids).values()]
    mine = False
    while not mine:  # the gateway makes no pass meanwhile, so that the next one sees all changes
        with site.adapter.site.sync_lock() as mine:
            if mine:
                until(lambda: not store.due(after=0, limit=1), "UCloud was not told all that was before")
                before = {id_: len(site.ucloud.updates(id_)) for id_ in ids}
                calls = len(site.ucloud.calls)
                site.ucloud.forget("4070")
                cluster.ask("scancel", *numbers)
        time.sleep(0.05)
    others = [id_ for id_ in ids if id_ != "4070"]
    until(lambda: all(site.ucloud.state(id_) in FINAL for id_ in others), "the others were not told")
    for id_ in others:
        assert [state for state, _ in site.told(id_)[before[id_] :]] == ["SUCCESS"]
    asked = [call.path for call in site.ucloud.calls[calls:]]
    assert asked.count(UPDATE) <= 4  # two bulks, of which one is refused and sent again, and what it held back
    assert len(asked) <= 6
    # It has the rest of what it is owed once it is known again.
    site.ucloud.know("4070")
    until(lambda: site.ucloud.state("4070") in FINAL, "what was held back was not told")


@pytest.mark.scenario(65)
def test_what_happens_while_ucloud_is_away_is_told_in_order_and_once(
    make_adapter: LiveSiteMaker, tmp_path: Path, cluster: Cluster
) -> None:
    """The gateway is killed meanwhile, and UCloud's first answer after it is lost; `test_orphans` has ten minutes."""
    with prepared(make_adapter, tmp_path) as site:
        config, ucloud, store = site.adapter.config_file, site.ucloud, site.adapter.site.store

        def until_now(state: str) -> None:
            until(lambda: store.get("4101").state == state, f"it is not {state}")

        def untold(url: str) -> bool:
            return "UCloud" in str(httpx.get(f"{url}/healthz", timeout=30).json()["why"])

        with serving(config, site.port, killed=True) as url:
            ucloud.provider = url
            record = site.create(site.job("4101", "4101", f"echo begun; {UNTIL_TOLD}"))
            site.until_state("4101", "RUNNING")
            ucloud.down()
            for word, state in (("suspend", "SUSPENDED"), ("resume", "RUNNING")):
                cluster.ask("scontrol", word, str(record.slurm_id), user="slurm")
                until_now(state)
            site.adapter.tell(record)
            until_now("SUCCESS")
            until(lambda: untold(url), "it is not said that UCloud is away")
        ucloud.lose_next(after=2)
        ucloud.up()
        with serving(config, site.port) as url:
            site.until_state("4101", "SUCCESS")
            until(lambda: not untold(url), "it is said still that UCloud is away", 180)
        known = [(update.state, update.status) for update in store.updates("4101")]
    assert site.told("4101") == known
    assert [state for state, _ in known if state] == ["RUNNING", "SUSPENDED", "RUNNING", "SUCCESS"]
    sent = [item["update"] for call in ucloud.calls_to(UPDATE) for item in call.body["items"]]
    assert all(update["expectedDifferentState"] for update in sent if update.get("state"))


def runs(mark: str) -> bool:
    """Whether there is a process, on whatever node, with this word in its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                return True
        except (FileNotFoundError, ProcessLookupError):
            continue
    return False


@pytest.mark.scenario(70)
def test_jobs_that_wait_run_ended_or_never_were_are_terminated(site: Served, cluster: Cluster) -> None:
    mark = f"stubborn-{time.time_ns()}"
    go_on = "echo up; while :; do sleep 0.1; done"
    codes = {
        "1": "true",
        "2": f"trap 'echo cleaned; exit 0' TERM; {go_on}",
        "3": f": {mark}; trap 'echo told to end' TERM; {go_on}",
    }
    for id_, code in codes.items():
        site.create(site.job("4101", id_, code))
    site.create(waiting(site, "4"))
    site.until_state("1", "SUCCESS")
    records = site.adapter.site.store.find(["1", "2", "3", "4"])
    for id_ in ("2", "3"):
        site.until_state(id_, "RUNNING")
        until(lambda id_=id_: "up" in site.adapter.output(records[id_]), "it did not come up")  # type: ignore[misc]
    assert runs(mark)
    told = {id_: site.told(id_) for id_ in ("1", "4")}
    never = site.job("4101", "5", "true")
    wanted = [*(site.ucloud.job(id_) for id_ in ("4", "2", "3", "1")), never]
    answer = site.ucloud.call(f"{JOBS}/terminate", {"items": wanted}, user="alice")
    assert (answer.status, answer.json) == (200, {"responses": [{}] * 5})
    for id_ in ("2", "3", "4"):
        site.until_state(id_, "SUCCESS")
        cluster.wait_state(str(records[id_].slurm_id), "CANCELLED")
    until(lambda: not runs(mark), "it goes on: no SIGKILL has come")
    assert site.adapter.output(records["2"]) == "up\ncleaned\n"
    assert "up\ntold to end\n" in site.adapter.output(records["3"])
    assert [state for state, _ in site.told("2") if state] == ["RUNNING", "SUCCESS"]
    assert [state for state, _ in site.told("3") if state] == ["RUNNING", "SUCCESS"]
    assert [state for state, _ in site.told("4")[len(told["4"]) :]] == ["SUCCESS"]
    # Once more, all of them, now that they have ended.
    again = site.ucloud.call(f"{JOBS}/terminate", {"items": wanted}, user="alice")
    assert (again.status, again.json) == (200, {"responses": [{}] * 5})
    assert site.told("1") == told["1"]


@pytest.mark.scenario(81)
def test_a_peer_comes_and_goes_while_a_job_runs(site: Served) -> None:
    """Its name with it, and UCloud is told of all resources that the job then has."""
    watch = "for name in database cache; do getent hosts $name && echo $name; done | sort -u | paste -sd ' '"
    site.create(site.job("4101", "4101", UNTIL_TOLD))
    site.create(site.job("4101", "4102", UNTIL_TOLD))
    for id_ in ("4101", "4102"):
        site.until_state(id_, "RUNNING")
    job = site.job("4150", "4150", f"while :; do {watch}; sleep 0.5; done")
    consumer = site.create(job)
    [database] = job["specification"]["resources"]
    cache = database | {"hostname": "cache", "jobId": "4102"}

    def names() -> set[str]:
        last = site.adapter.output(consumer).splitlines()[-1:]
        return set(" ".join(last).split()) & {"database", "cache"}

    def told() -> list[tuple[str, str]]:
        lists = [each["resourceList"] for each in site.ucloud.updates("4150") if each["resourceList"]]
        return [(each["hostname"], each["jobId"]) for each in (lists or [[]])[-1] if each["type"] == "peer"]

    until(lambda: names() == {"database"}, "the first peer has no name")
    for path, wanted in (("attachResource", [database, cache]), ("detachResource", [database])):
        body = {"job": site.ucloud.job("4150"), "resource": cache}
        answer = site.ucloud.call(f"{JOBS}/{path}", body, user="alice")
        assert (answer.status, answer.json) == (200, {})
        hosts = {each["hostname"] for each in wanted}
        until(lambda hosts=hosts: names() == hosts, f"it has not these names: {hosts}")  # type: ignore[misc]
        until(lambda wanted=wanted: told() == [(each["hostname"], each["jobId"]) for each in wanted], "not told")  # type: ignore[misc]


@pytest.mark.long
@pytest.mark.scenario(79, 80)
def test_a_user_who_was_deleted_loses_his_shell_and_nobody_else_does(
    make_adapter: LiveSiteMaker, tmp_path: Path
) -> None:
    settings = 'url = "https://gateway.example.org"\nproject_sessions = true\n'
    with served(make_adapter, tmp_path, gateway=settings) as site:
        record = site.create(site.job("4101", "4101", UNTIL_TOLD))
        site.create(waiting(site, "4102"))
        site.until_state("4101", "RUNNING")
        until(lambda: bool(site.adapter.now(record).addresses), "its node has no address")

        def session(user: str) -> str:
            body = {"items": [{"job": site.ucloud.job("4101"), "rank": 0, "sessionType": "SHELL"}]}
            answer = site.ucloud.call(f"{JOBS}/interactiveSession", body, user=user)
            assert answer.status == 200, answer.text
            [made] = answer.json["responses"]
            assert (made["type"], made["jobId"], made["rank"], made["domainOverride"]) == ("shell", "4101", 0, None)
            return str(made["sessionIdentifier"])

        url = f"ws://127.0.0.1:{site.port}/ucloud/example/websocket"
        with connect(url, compression=None) as owner, connect(url, compression=None) as bob:
            for browser, user in ((owner, "alice"), (bob, "bob")):
                say(browser, type="initialize", sessionIdentifier=session(user), cols=80, rows=24)
                say(browser, type="input", data="echo 'be''gun'\n")
                assert hear(browser, "begun\r\n")
            late = session("bob")
            entity = {"type": "user", "projectId": None, "group": None, "username": "bob"}
            items = [
                {"resource": site.ucloud.job(id_), "added": None, "deleted": deleted}
                for id_, deleted in (("4102", None), ("4101", [entity]))
            ]
            answer = site.ucloud.call(f"{JOBS}/updateAcl", {"items": items}, user="alice")
            assert (answer.status, answer.json) == (200, {"responses": [{}, {}]})
            with connect(url, compression=None) as thief:
                say(thief, type="initialize", sessionIdentifier=late)
                assert hear(thief, "what is not said") == 401
            assert hear(bob, "what is not said") == 401
            say(owner, type="input", data="echo 'still ''here'\n")
            assert hear(owner, "still here\r\n") is True
        shown = site.adapter.site.store.get("4101")
        assert not shown.state.final


def say(browser: ClientConnection, **payload: Any) -> None:
    """Say something to a shell."""
    call = {"call": "jobs.compute.example.shell.open", "streamId": "shell", "payload": payload}
    browser.send(json.dumps({**call, "streamId": call["streamId"] if payload["type"] == "initialize" else "1"}))


def hear(browser: ClientConnection, text: str) -> bool | int:
    """Listen until the shell has said this: True; or has ended: the status."""
    said, limit = "", time.monotonic() + 120
    while text not in said:
        frame: dict[str, Any] = json.loads(browser.recv(timeout=max(0, limit - time.monotonic())))
        if frame["type"] == "response" and frame["streamId"] == "shell":
            return int(frame["status"])
        said += frame["payload"].get("data") or ""
    return True

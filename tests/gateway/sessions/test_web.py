"""Web and VNC sessions: who gets one, what the job's application sees, and what it never sees."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from slurm_adapter.core.errors import InvalidInput, NotOffered, Refused
from slurm_adapter.core.interfaces import Interface
from slurm_adapter.core.states import JobState
from slurm_adapter.gateway.api import job_json
from slurm_adapter.gateway.limits import Limits
from slurm_adapter.gateway.sessions import web
from slurm_adapter.gateway.sessions.one_time_secrets import SecretStore
from slurm_adapter.gateway.sessions.web import Domains, Place, Web
from slurm_adapter.gateway.shares import Shares, TooMany
from slurm_adapter.gateway.thread_pools import ThreadPools
from slurm_adapter.jobs import user_tokens
from tests.gateway import api_site
from tests.gateway.api_site import within
from tests.gateway.process import free_port
from tests.gateway.sessions.web_ground import SETTINGS, Ground, application, ground, opened
from tests.offline import Offline

if TYPE_CHECKING:
    from pathlib import Path

    from slurm_adapter.core.records import Record, RecordChange

__all__ = ["application", "ground"]


def test_a_session_is_a_link_that_is_good_once(ground: Ground) -> None:
    session = ground.web.open(ground.record, 0, "WEB")
    assert (session.type, session.job_id, session.rank) == ("web", ground.record.id, 0)
    assert session.redirect_client_to is not None
    link = urlsplit(session.redirect_client_to)
    assert (link.scheme, link.netloc, link.path) == ("http", ground.host(), "/ucloud/example/authorize-app")
    path = f"{link.path}?{link.query}"
    first = ground.ask("GET", path)
    assert (first.status_code, first.headers["Location"]) == (302, "/")
    cookie = first.headers["Set-Cookie"]
    assert re.match(rf"ucloud-compute-session-{ground.record.id}-0-example=[\w-]{{43}}; ", cookie)
    assert {"HttpOnly", "Path=/", "SameSite=lax", "Max-Age=28800"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert "Domain" not in cookie
    again = ground.ask("GET", path)
    assert again.status_code == 401
    assert "Set-Cookie" not in again.headers


def test_over_https_the_cookie_is_for_https_alone(tmp_path: Path, application: int) -> None:
    with opened(tmp_path, application, url="https://gateway.localhost") as ground:
        assert "Secure" in ground.authorize().headers["Set-Cookie"].split("; ")
        session = ground.web.open(ground.record, 0, "WEB")
        assert session.redirect_client_to is not None
        assert session.redirect_client_to.startswith(f"https://{ground.host()}/")


def test_a_link_opens_its_own_rank_alone(ground: Ground) -> None:
    other = ground.start()
    for host in (ground.host(other), ground.host(rank=1), "app-77-0.localhost"):
        session = ground.web.open(ground.record, 0, "WEB")
        assert session.redirect_client_to is not None
        link = urlsplit(session.redirect_client_to)
        assert ground.ask("GET", f"{link.path}?{link.query}", host=host).status_code == 401
    assert ground.ask("GET", "/ucloud/example/authorize-app").status_code == 401
    desktop = ground.web.open(ground.record, 0, "VNC")
    assert desktop.url is not None
    query = urlsplit(desktop.url).query
    assert ground.ask("GET", f"/ucloud/example/authorize-app?{query}").status_code == 401


def test_nobody_sees_an_application_without_its_cookie(ground: Ground) -> None:
    other = ground.start()
    value = ground.cookie(other)["Cookie"].partition("=")[2]
    name = f"ucloud-compute-session-{ground.record.id}-0-example"
    for headers in ({}, {"Cookie": f"{name}=wrong"}, {"Cookie": f"{name}={value}"}, ground.cookie(other)):
        answer = ground.ask("GET", "/", headers=headers)
        assert (answer.status_code, "Open its interface" in answer.text) == (401, True)
        with pytest.raises(InvalidStatus) as refused, ground.socket("/talk", headers):
            pass
        assert refused.value.response.status_code == 401


def test_pages_of_other_jobs_can_do_nothing_here(ground: Ground) -> None:
    strange = {**ground.cookie(), "Origin": f"http://{ground.host(ground.start())}"}
    assert ground.ask("POST", "/", headers=strange).status_code == 403
    with pytest.raises(InvalidStatus) as refused, ground.socket("/talk", strange):
        pass
    assert refused.value.response.status_code == 403
    assert ground.ask("GET", "/", headers=strange).status_code == 403


@pytest.mark.parametrize("origin", ["null", "http://[", "http://a]b", "http://[::1"])
def test_what_is_no_origin_is_none_of_its_own(ground: Ground, origin: str) -> None:
    strange = {**ground.cookie(), "Origin": origin}
    assert ground.ask("POST", "/", headers=strange).status_code == 403
    with pytest.raises(InvalidStatus) as refused, ground.socket("/talk", strange):
        pass
    assert refused.value.response.status_code == 403


def test_with_the_job_its_session_ends(ground: Ground) -> None:
    cookie = ground.cookie()
    ground.keep(ground.record, state=JobState.SUSPENDED)
    assert ground.ask("GET", "/", headers=cookie).status_code == 503
    ground.keep(ground.record, state=JobState.SUCCESS)
    ended = ground.ask("GET", "/", headers=cookie)
    assert (ended.status_code, "has ended" in ended.text) == (410, True)
    assert ground.ask("GET", "/", headers=cookie).status_code == 401


def test_other_domains_are_the_gateways_own(ground: Ground) -> None:
    for host in ("gateway.localhost", "127.0.0.1", f"x{ground.host()}", f"{ground.host()}.evil.example"):
        assert ground.ask("GET", "/healthz", host=host, headers=ground.cookie()).json()["live"] is True


@within(permission_check=0.1)
def test_a_session_is_over_with_the_token_that_asked_for_it(ground: Ground) -> None:
    site = ground.offline.site
    token = user_tokens.create(site, "mine", "alice")
    session = ground.web.open(ground.record, 0, "WEB", grant=user_tokens.digest(token))
    link = urlsplit(session.redirect_client_to or "")
    answer = ground.ask("GET", f"{link.path}?{link.query}", host=link.netloc)
    cookie = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}
    assert ground.ask("GET", "/", headers=cookie).status_code == 207
    with ground.socket("/talk", cookie) as client:
        client.recv(timeout=30)
        site.store.revoke_token("mine")
        with pytest.raises(ConnectionClosed, match="this session has ended"):
            client.recv(timeout=30)
    assert ground.ask("GET", "/", headers=cookie).status_code == 401


@pytest.mark.scenario(79)
@pytest.mark.parametrize("kind", ["WEB", "VNC"])
def test_sessions_are_refused_with_their_reason(ground: Ground, kind: Any) -> None:
    two = ground.start(replicas=2)
    assert ground.web.open(two, 1, kind).rank == 1
    for rank in (2, -1):
        with pytest.raises(InvalidInput, match="ranks 0 to 1"):
            ground.web.open(two, rank, kind)
    for state in (JobState.IN_QUEUE, JobState.SUSPENDED, JobState.SUCCESS):
        with pytest.raises(Refused, match=state):
            ground.web.open(ground.keep(ground.start(), state=state), 0, kind)
    with pytest.raises(NotOffered, match="an array"):
        ground.web.open(ground.keep(ground.start(), array=True), 0, kind)
    with pytest.raises(NotOffered, match="declares no port"):
        ground.web.open(ground.keep(two, web_port=None, vnc_port=None), 0, kind)


@pytest.mark.scenario(79)
@pytest.mark.parametrize(("key", "value"), [("web_domain", None), ("url", None)])
def test_a_site_without_them_says_what_is_not_set(tmp_path: Path, key: str, value: object) -> None:
    offline = Offline(tmp_path, {"gateway": {**SETTINGS, key: value}})
    record = offline.run(offline.job())
    web = Web(offline.config, ThreadPools(offline.site), Limits())
    with pytest.raises(NotOffered, match=f"supported.*gateway.{key}"):
        web.open(record, 0, "WEB")
    [support] = job_json.support(offline.config, peers=False)
    assert (support.native.web, support.native.vnc) == (False, False)


def test_what_works_is_told(ground: Ground) -> None:
    [support] = job_json.support(ground.offline.config, peers=False)
    assert (support.native.web, support.native.vnc) == (True, True)


def test_secrets_end_by_themselves() -> None:
    now = 0.0
    shares = Shares(10, 10, "secrets")
    known: SecretStore[str] = SecretStore(10, shares, lambda: now)
    first = known.issue("first", "alice")
    now = 5
    second = known.issue("second", "alice")
    now = 10
    assert (known.find(first), known.redeem(first), known.find(second)) == (None, None, "second")
    assert (known.redeem(second), known.redeem(second)) == ("second", None)
    assert shares.used == 0


def test_who_has_too_many_secrets_is_refused_or_loses_the_oldest() -> None:
    links: SecretStore[str] = SecretStore(10, Shares(4, 4, "links"))
    assert links.find(links.issue("1", "alice")) == "1"
    links.issue("2", "alice")
    with pytest.raises(TooMany, match="alice has 2 links, and only 2 of 4 are free"):
        links.issue("3", "alice")
    links.issue("4", "bob")
    cookies: SecretStore[str] = SecretStore(10, Shares(4, 2, "sessions"), replaces=True)
    theirs = cookies.issue("bob's", "bob")
    mine = [cookies.issue(str(number), "alice") for number in range(4)]
    assert [cookies.find(each) for each in (*mine, theirs)] == [None, None, "2", "3", "bob's"]


def test_one_users_links_and_cookies_are_one_users(
    tmp_path: Path, application: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "MOST_OF_ONE", 2)
    with opened(tmp_path, application) as ground:
        cookies = [ground.cookie() for _ in range(3)]
        assert (len(ground.web.tokens), len(ground.web.cookies)) == (0, 2)
        assert [ground.ask("GET", "/", headers=each).status_code for each in cookies] == [401, 207, 207]
        for _ in range(2):
            ground.web.open(ground.record, 0, "WEB")
        with pytest.raises(TooMany, match="alice has 2 links to applications that wait for their use, the most"):
            ground.web.open(ground.record, 0, "WEB")
        ground.web.open(ground.record, 0, "WEB", user="bob")


def test_domains_are_read_as_they_are_written() -> None:
    domains = Domains("app-{job}-{rank}.example.org:8443")
    place = Place("1000000000001", 12)
    further = Place("1000000000001", 12, 3)
    assert domains.domain(place) == "app-1000000000001-12.example.org:8443"
    assert domains.domain(further) == "app-1000000000001-12-3.example.org:8443"
    assert domains.find(domains.domain(further)) == further
    for host in (domains.domain(place), "APP-1000000000001-12.example.org.", "app-1000000000001-12.example.org:1"):
        assert domains.find(host) == place
    for other in (
        "app-1-0-0.example.org",
        "app-1-0-1-1.example.org",
        "app-1-02.example.org",
        "app-01-0.example.org",
        "app-1-0.exampleXorg",
        "app--1-0.example.org",
        "",
    ):
        assert domains.find(other) is None


def test_domains_whose_pattern_ends_in_a_number() -> None:
    domains = Domains("{job}-{rank}-1.example.org")
    for place in (Place("5", 0), Place("5", 0, 1), Place("5", 1, 2)):
        assert domains.find(domains.domain(place)) == place


def own_host(record: Record, name: str) -> str:
    """The domain of an interface, by the end of its name."""
    return f"app-{record.id}-{name}.localhost"


@pytest.mark.scenario(79)
def test_a_further_interface_has_a_domain_a_cookie_and_a_port_of_its_own(ground: Ground) -> None:
    free = free_port()
    further = (Interface(0, "WEB", "Notes æ", ground.port), Interface(1, "WEB", "silent", free))
    record = ground.keep(ground.start(replicas=2), interfaces=further, web_port=free)
    assert ground.offline.now(record).interfaces == further
    cookies = {}
    for name, rank, target in (("0", 0, ""), ("0-1", 0, "Notes æ"), ("1-2", 1, "silent")):
        session = ground.web.open(record, rank, "WEB", target)
        link = urlsplit(session.redirect_client_to or "")
        assert link.netloc == own_host(record, name)
        answer = ground.ask("GET", f"{link.path}?{link.query}", host=link.netloc)
        cookies[name] = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}
        assert cookies[name]["Cookie"].startswith(f"ucloud-compute-session-{record.id}-{name}-example=")
    statuses = {
        name: ground.ask("GET", "/x", host=own_host(record, name), headers=cookie).status_code
        for name, cookie in cookies.items()
    }
    assert statuses == {"0": 502, "0-1": 207, "1-2": 502}, "nobody listens at the two others' port"
    secret = cookies["0-1"]["Cookie"].partition("=")[2]
    for name in ("0", "1-2", "0-3", "0-2"):
        forged = {"Cookie": f"ucloud-compute-session-{record.id}-{name}-example={secret}"}
        assert ground.ask("GET", "/x", host=own_host(record, name), headers=forged).status_code == 401, name


def test_a_further_desktop(ground: Ground) -> None:
    record = ground.keep(ground.record, interfaces=(Interface(0, "VNC", "desk", ground.port),), vnc_port=None)
    session = ground.web.open(record, 0, "VNC", "desk")
    assert session.url is not None
    query = urlsplit(session.url).query
    with connect(f"ws://{ground.address}/ucloud/example/vnc?{query}", proxy=None) as client:
        client.send(b"GET /x HTTP/1.0\r\n\r\n")  # whatever is said goes through, and here an application listens
        assert client.recv(timeout=30)[:5] == b"HTTP/"
    with pytest.raises(NotOffered, match="declares no port"):
        ground.web.open(record, 0, "VNC")


@pytest.mark.parametrize(
    ("rank", "kind", "name"), [(0, "WEB", "none"), (0, "VNC", "a"), (1, "WEB", "a"), (0, "WEB", "A")]
)
def test_a_further_interface_that_is_not_there(ground: Ground, rank: int, kind: Any, name: str) -> None:
    record = ground.keep(
        ground.start(replicas=2), interfaces=(Interface(0, "WEB", "a", 80), Interface(1, "WEB", "b", 80))
    )
    with pytest.raises(
        InvalidInput, match=f"target: '{name}'.*no such {kind} interface on rank {rank}: (a|b|'a'|'b'|none)"
    ):
        ground.web.open(record, rank, kind, name)


@pytest.mark.scenario(79)
def test_both_apis_open_sessions(tmp_path: Path, application: int) -> None:
    with api_site.opened(tmp_path, {"gateway": SETTINGS}) as both:
        answer = both.ask("POST", "/api/jobs", {"items": [both.item()]}, **both.token())
        taken = both.ask("POST", "/ucloud/example/jobs", {"items": [both.job("54112")]}, **both.as_ucloud())
        assert (answer.status_code, taken.status_code) == (200, 200)
        own = answer.json()["responses"][0]["id"]
        for id_ in (own, "54112"):
            record = both.offline.run(both.offline.site.store.get(id_))
            change: RecordChange = {"addresses": (("127.0.0.1",),), "web_port": application}
            both.offline.site.store.change([(record, change)], both.offline.slurm.now)
        item = {"rank": 0, "sessionType": "WEB"}
        path = "interactiveSession"
        users = both.ask("POST", f"/api/jobs/{path}", {"items": [{**item, "id": own}]}, **both.token())
        [opened_] = users.json()["responses"]
        assert (opened_["providerDomain"], opened_["providerId"]) == (SETTINGS["url"], "example")
        known = both.as_ucloud("alice")
        whole = {**item, "job": both.job("54112")}
        core = both.ask("POST", f"/ucloud/example/jobs/{path}", {"items": [whole]}, **known)
        for session, id_ in ((opened_["session"], own), (core.json()["responses"][0], "54112")):
            assert (session["type"], session["jobId"], session["rank"]) == ("web", id_, 0)
            assert session["redirectClientTo"].startswith(f"http://app-{id_}-0.localhost/ucloud/example/authorize-app?")
        stranger = both.ask("POST", f"/api/jobs/{path}", {"items": [{**item, "id": own}]}, **both.token("bob"))
        assert stranger.status_code == 404
        wrong = {"items": [whole, {**whole, "rank": 1}]}
        assert both.ask("POST", f"/ucloud/example/jobs/{path}", wrong, **known).status_code == 400
        vnc = both.ask("POST", f"/api/jobs/{path}", {"items": [{"id": own, "sessionType": "VNC"}]}, **both.token())
        assert (vnc.status_code, vnc.json()["errorCode"]) == (400, "FEATURE_NOT_SUPPORTED_BY_PROVIDER")

"""Health, numbers, documents and logs of a served gateway."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from slurm_adapter.adapter import Adapter
from slurm_adapter.cluster.schedulers.command_line import CommandLineScheduler
from slurm_adapter.cluster.schedulers.pyslurm import PyslurmScheduler
from slurm_adapter.cluster.schedulers.versions import Versions
from slurm_adapter.core.config import Config
from slurm_adapter.core.errors import InvalidConfig, TryAgain
from slurm_adapter.gateway import background_sync
from slurm_adapter.gateway.http import server
from slurm_adapter.gateway.http.server import serve
from slurm_adapter.gateway.limits import Limits
from slurm_adapter.jobs import user_tokens
from slurm_adapter.state.store import Store
from tests.gateway.api_site import ApiSite, opened, wait_until, within
from tests.gateway.process import free_port, serving
from tests.offline import Offline, configuration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def api(tmp_path: Path, limits: Limits) -> Iterator[ApiSite]:
    with opened(tmp_path, ucloud=False, limits=limits) as api:
        yield api


def until_ready(api: ApiSite, *, ready: bool) -> dict[str, object]:
    """Wait until the gateway says so."""
    for _ in range(300):
        told: dict[str, object] = api.ask("GET", "/healthz").json()
        if told["ready"] is ready:
            return told
        time.sleep(0.1)
    raise AssertionError(told)


def test_live_is_told_from_ready(api: ApiSite) -> None:
    assert until_ready(api, ready=True) == {"live": True, "ready": True, "why": None}
    assert api.ask("GET", "/healthz/ready").status_code == 200
    alice = api.token()
    assert api.ask("POST", "/api/jobs", {"items": [api.item()]}, **alice).status_code == 200
    api.slurm.down = True
    told = until_ready(api, ready=False)
    assert told["live"] is True
    wait_until(lambda: "Slurm does not answer" in api.ask("GET", "/healthz").json()["why"], "it is not said")
    assert api.ask("GET", "/healthz/ready").status_code == 503


def test_why_it_is_not_ready_names_nothing_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    why = "job 17 of alice: /srv/home/alice/ucloud-jobs/17 is gone"
    monkeypatch.setattr(background_sync, "sync_once", lambda _: ((why,), (), frozenset()))
    with opened(tmp_path, ucloud=False) as api:
        wait_until(lambda: "sync" in api.ask("GET", "/healthz").json()["why"], "it is not said")
        for path in ("/healthz", "/healthz/ready"):
            for token in ({}, api.token("bob"), api.token()):
                told = api.ask("GET", path, **token)
                assert (
                    told.json()["why"]
                    == "the last sync was incomplete; the log of slurm-adapter serve names the reason"
                )
                assert "alice" not in told.text
                assert "/srv" not in told.text


@pytest.mark.parametrize("path", ["/api/jobs/browse", "/openapi.json", "/metrics"])
def test_no_file_of_the_gateway_is_named(
    api: ApiSite, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    def fail(*_: object) -> None:
        raise TryAgain("/var/lib/slurm-adapter/jobs.sqlite: the disk is full")

    known = api.token()
    monkeypatch.setattr(Store, "token_of", fail)
    answer = api.ask("GET", path, **known)
    assert answer.status_code == 503
    assert answer.json()["why"] == "(a path; see the log): the disk is full"
    assert "jobs.sqlite" in caplog.text


def test_passes_go_on_where_it_cannot_be_seen_whether_names_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where the account that is tried is not there, or sudo runs nothing as it."""
    tried = []

    def fail(_: Adapter) -> list[str]:
        tried.append(1)
        raise TryAgain("the cluster has no account alice")

    monkeypatch.setattr(background_sync, "methods_that_work", fail)
    with opened(tmp_path, ucloud=False, limits=Limits(sync_interval=0.1, sync_share=1)) as api:
        assert until_ready(api, ready=True)["why"] is None
        wait_until(lambda: len(tried) > 3, "it is not tried again")
    assert caplog.text.count("the cluster has no account alice") == 1


@within(sync_interval=0.1, sync_share=1)
def test_a_reason_is_logged_once(
    api: ApiSite, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    until_ready(api, ready=True)
    made = []

    def fail(_: Adapter) -> tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]:
        made.append(1)
        raise TryAgain("the database is held")

    monkeypatch.setattr(background_sync, "sync_once", fail)
    wait_until(lambda: len(made) > 3, "no passes are made")
    assert caplog.text.count("the sync failed: the database is held") == 1


@within(sync_interval=0.1, sync_share=1)
def test_new_trouble_of_accounts_is_logged_once_and_in_few_lines(
    api: ApiSite, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = []

    def one(_: Adapter) -> tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]:
        made.append(1)
        return (), tuple(f"job {number}: renamed" for number in range(100, 120)), frozenset()

    monkeypatch.setattr(background_sync, "sync_once", one)
    api.gateway.changed.set()
    wait_until(lambda: len(made) > 3, "no passes are made")
    assert caplog.text.count(": renamed") == background_sync.ACCOUNT_LINES


def test_numbers(api: ApiSite) -> None:
    alice = api.token()
    api.ask("POST", "/api/jobs", {"items": [api.item()] * 3}, **alice)
    api.slurm.down = True
    assert api.ask("POST", "/api/jobs", {"items": [api.item()]}, **alice).status_code == 503
    text = api.ask("GET", "/metrics", **alice).text
    assert 'slurm_adapter_jobs{state="IN_QUEUE"} 3.0' in text
    assert 'slurm_adapter_slurm_failures_total{question="' in text
    assert "slurm_adapter_outbox 0.0" in text
    assert "slurm_adapter_troubled_accounts 0.0" in text
    assert "slurm_adapter_syncs_total" in text


def test_documents_are_for_those_with_a_token(api: ApiSite) -> None:
    alice = api.token()
    for path in ("/docs", "/openapi.json", "/metrics", "/static-offline-docs/swagger-ui.css"):
        refused = api.ask("GET", path)
        assert refused.status_code == 401, path
        assert refused.headers["www-authenticate"].startswith("Basic")
        assert api.ask("GET", path, **alice).status_code == 200, path


def test_the_documents_page_loads_nothing_from_elsewhere(api: ApiSite) -> None:
    page = api.ask("GET", "/docs", **api.token()).text
    assert "/static-offline-docs/swagger-ui-bundle.js" in page
    assert "https://" not in page


def test_a_served_process_logs_no_secrets_and_ends_gently(tmp_path: Path) -> None:
    """Its cluster is not there, which makes it unready and not silent."""
    port = free_port()
    offline = Offline(tmp_path, {"gateway": {"port": port}})
    token = user_tokens.create(offline.site, "alice", "alice")
    config = tmp_path / "config.toml"
    config.write_text(toml(offline.config))
    with serving(config, port) as url:
        headers = {"Authorization": f"Bearer {token}", "X-Request-Id": "mine-17"}
        answer = httpx.get(f"{url}/api/jobs/browse?next=hush", headers=headers, timeout=30)
        assert answer.status_code == 400
        assert answer.headers["x-request-id"] == "mine-17"
        socket = f"ws{url.removeprefix('http')}/api/jobs"
        with connect(socket, additional_headers=headers | {"X-Request-Id": "mine-18"}):
            pass
        with pytest.raises(InvalidStatus), connect(socket, additional_headers={"Authorization": "Bearer hush"}):
            pass
    stderr = config.with_suffix(".log").read_text()
    lines = [json.loads(line) for line in stderr.splitlines()]
    [asked] = [line for line in lines if line.get("path") == "/api/jobs/browse"]
    assert (asked["status"], asked["request"], asked["method"]) == (400, "mine-17", "GET")
    sockets = {line["status"]: line for line in lines if line.get("path") == "/api/jobs"}
    assert set(sockets) == {101, 401}
    assert (sockets[101]["request"], sockets[101]["method"]) == ("mine-18", "WebSocket")
    assert [line for line in lines if line["level"] == "ERROR"] == []
    assert token not in stderr
    assert "hush" not in stderr


def test_what_cannot_be_served_is_told_at_the_start(tmp_path: Path) -> None:
    offline = Offline(tmp_path, {"gateway": {"port": free_port()}})
    port = offline.config.gateway.port
    config = tmp_path / "config.toml"
    config.write_text(toml(offline.config).replace(str(offline.config.state_dir), "/nowhere/state"))
    assert_refused(config, "state_dir = /nowhere/state: No such file or directory")
    for listen, why in (("127.0.0.1", "Address already in use"), ("192.0.2.1", "Cannot assign requested address")):
        other = Config.model_validate(configuration(tmp_path, {"gateway": {"port": port, "listen": listen}}))
        expected = re.escape(f"gateway.listen = '{listen}', gateway.port = {port}: {why}")
        with (
            socket.create_server(("127.0.0.1", port)),
            closing(Adapter(other)) as adapter,
            pytest.raises(InvalidConfig, match=expected),
        ):
            serve(adapter)


def test_a_pyslurm_that_is_missing_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"clusters": {"main": {"scheduler": "pyslurm"}}, "identity": {"mode": "service", "service_user": "jobs"}}
    config = Config.model_validate(configuration(tmp_path, more))

    def fail(_: PyslurmScheduler) -> str:
        raise InvalidConfig("pyslurm cannot be used")

    monkeypatch.setattr(PyslurmScheduler, "binding_version", fail)
    with closing(Adapter(config)) as site, pytest.raises(InvalidConfig, match="pyslurm cannot be used"):
        serve(site)


@pytest.mark.parametrize("old", ["client", "controller"])
def test_a_slurm_that_is_too_old_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str
) -> None:
    versions = {"client": "24.11.5", "controller": "24.11.5"} | {old: "21.08.8"}
    monkeypatch.setattr(CommandLineScheduler, "ping", lambda _: None)
    monkeypatch.setattr(CommandLineScheduler, "versions", lambda _: Versions(**versions))
    with (
        closing(Adapter(Config.model_validate(configuration(tmp_path)))) as site,
        pytest.raises(InvalidConfig, match=r"Slurm 21\.08\.8 is too old: slurm-adapter needs Slurm 22\.05"),
    ):
        serve(site)


def test_an_answer_is_sent_at_once() -> None:
    """Row f: without TCP_NODELAY each answer came 40 ms late."""
    [listener] = server._listen("127.0.0.1", 0)  # noqa: SLF001  # what `serve` listens on
    with listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def assert_refused(config: Path, why: str) -> None:
    """`serve` cannot begin, and says why, and nothing else."""
    command = [sys.executable, "-m", "slurm_adapter", "--config", str(config), "serve"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.startswith(f"error: {why}"), done.stderr.count("\n")) == (78, True, 1), done


def toml(config: Config) -> str:
    """The configuration of an offline site as a file: its plain values, and its machine."""
    machine = config.machines["example-compute"]["example-compute"]
    return f"""
        provider = "example"
        state_dir = "{config.state_dir}"
        shared_dir = "{config.shared_dir}"
        applications = "{config.applications}"
        [identity]
        users = {{ alice = "alice" }}
        [jobs]
        folder = "{config.jobs.folder}"
        [gateway]
        port = {config.gateway.port}
        [machines.example-compute.example-compute]
        partition = "{machine.partition}"
        cpus = {machine.cpus}
        memory = {machine.memory}
        max_nodes = {machine.max_nodes}
        max_time = "1-00:00:00"
        """

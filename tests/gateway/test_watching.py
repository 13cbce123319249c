"""Health, numbers, documents and logs of a served gateway."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from slurm_adapter import tokens
from tests.gateway.doors import Doors, opened
from tests.gateway.process import free_port, serving
from tests.offline import Offline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slurm_adapter.config import Config


@pytest.fixture
def doors(tmp_path: Path) -> Iterator[Doors]:
    with opened(tmp_path, ucloud=False) as doors:
        yield doors


def until_ready(doors: Doors, *, ready: bool) -> dict[str, object]:
    """Wait until the gateway says so."""
    for _ in range(300):
        told: dict[str, object] = doors.ask("GET", "/healthz").json()
        if told["ready"] is ready:
            return told
        time.sleep(0.1)
    raise AssertionError(told)


def test_live_is_told_from_ready(doors: Doors) -> None:
    assert until_ready(doors, ready=True) == {"live": True, "ready": True, "why": None}
    assert doors.ask("GET", "/healthz/ready").status_code == 200
    alice = doors.token()
    assert doors.ask("POST", "/api/jobs", {"items": [doors.item()]}, **alice).status_code == 200
    doors.slurm.down = True
    told = until_ready(doors, ready=False)
    assert told["live"] is True
    assert "Slurm" in str(told["why"])
    assert doors.ask("GET", "/healthz/ready").status_code == 503


def test_numbers(doors: Doors) -> None:
    alice = doors.token()
    doors.ask("POST", "/api/jobs", {"items": [doors.item()] * 3}, **alice)
    doors.slurm.down = True
    assert doors.ask("POST", "/api/jobs", {"items": [doors.item()]}, **alice).status_code == 503
    text = doors.ask("GET", "/metrics", **alice).text
    assert 'slurm_adapter_jobs{state="IN_QUEUE"} 3.0' in text
    assert 'slurm_adapter_slurm_failures_total{question="nodes"} 1.0' in text
    assert "slurm_adapter_outbox 0.0" in text
    assert "slurm_adapter_passes_total" in text


def test_documents_are_for_those_with_a_token(doors: Doors) -> None:
    alice = doors.token()
    for path in ("/docs", "/openapi.json", "/metrics", "/static-offline-docs/swagger-ui.css"):
        refused = doors.ask("GET", path)
        assert refused.status_code == 401, path
        assert refused.headers["www-authenticate"].startswith("Basic")
        assert doors.ask("GET", path, **alice).status_code == 200, path


def test_the_documents_page_loads_nothing_from_elsewhere(doors: Doors) -> None:
    page = doors.ask("GET", "/docs", **doors.token()).text
    assert "/static-offline-docs/swagger-ui-bundle.js" in page
    assert "https://" not in page


def test_a_served_process_logs_no_secrets_and_ends_gently(tmp_path: Path) -> None:
    """Its cluster is not there, which makes it unready and not silent."""
    port = free_port()
    offline = Offline(tmp_path, {"gateway": {"port": port}})
    token = tokens.create(offline.site, "alice", "alice")
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


def toml(config: Config) -> str:
    """The configuration of an offline site as a file: its plain values, and its machine."""
    machine = config.machines["example-compute"]["example-compute"]
    return f"""
        provider = "example"
        state = "{config.state}"
        shared = "{config.shared}"
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

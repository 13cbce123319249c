"""The seed's curl commands, as the document prints them, against a served gateway over a real cluster.

They end with the web application talking to the database by name, and the ids are those that the document shows where
the store is new and its first id is 4101.
"""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from slurm_adapter import tokens
from tests.gateway.process import free_port, serving
from tests.test_journey import DATABASE, WEB_APP

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.adapter import AdapterMaker

pytestmark = [pytest.mark.sandbox]

CURL = """
curl -XPOST -H "Authorization: Bearer $accessToken" -H "Content-Type: content-type: application/json; charset=utf-8" \\
 "$host/api/jobs" -d '{body}'
"""
"""As it is printed, on one line; its bodies are those of the journey."""


def run_curl(body: bytes, url: str, token: str) -> Any:
    """What a shell says to the command with this body."""
    done = subprocess.run(
        ["/bin/sh", "-ec", CURL.replace("{body}", body.decode())],
        env={"PATH": "/usr/bin:/bin", "accessToken": token, "host": url},
        capture_output=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def until(look: Callable[[], bool], what: str) -> None:
    """Wait until it is so; the gateway makes the passes."""
    limit = time.monotonic() + 90
    while not look():
        assert time.monotonic() < limit, what
        time.sleep(0.2)


@pytest.mark.scenario(18, 39)
@pytest.mark.usefixtures("empty_drive")
def test_the_seed_by_curl(make_adapter: AdapterMaker, demo_programs: str) -> None:
    port = free_port()
    adapter = make_adapter(
        in_jobs=f"system_load = 'export PATH={demo_programs}:$PATH'", first_id=4101, more=f"[gateway]\nport = {port}\n"
    )
    token = tokens.create(adapter.site, "alice", "alice")

    def job(url: str, id_: str) -> Any:
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.get(f"{url}/api/jobs/retrieve?id={id_}&includeUpdates=true", headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    with serving(adapter.config_file, port) as url:
        assert run_curl(DATABASE, url, token) == {"responses": [{"id": "4101"}]}
        until(lambda: job(url, "4101")["status"]["state"] == "RUNNING", "the database runs")
        [web_app] = [each["id"] for each in run_curl(WEB_APP, url, token)["responses"]]
        until(lambda: job(url, web_app)["status"]["state"] in {"SUCCESS", "FAILURE"}, "the web application ended")
        ended = job(url, web_app)
        record = adapter.site.store.get(web_app)
        assert ended["status"]["state"] == "SUCCESS", (ended["updates"], adapter.errors(record))
        address = adapter.site.store.get("4101").addresses[0][0]
        assert f"database is {address}, and answers: you are visitor 1" in adapter.output(record)
        states = [each["state"] for each in ended["updates"] if each["state"]]
        assert states in (["RUNNING", "SUCCESS"], ["SUCCESS"])
        body = {"items": [{"id": "4101"}]}
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.post(f"{url}/api/jobs/terminate", json=body, headers=headers, timeout=30).status_code == 200
        until(lambda: job(url, "4101")["status"]["state"] == "SUCCESS", "the database ended")
        assert job(url, "4101")["status"]["expiresAt"] is None

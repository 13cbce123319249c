"""UCloud's example of two jobs, by its curl, JavaScript and Kotlin clients, against a gateway and a real cluster.

In each the web application reaches the database by name. Ids are those of UCloud's documentation if the database is new
and its first id is 4101.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from slurm_adapter.jobs import user_tokens
from tests.gateway.process import free_port, serving
from tests.jobs.test_journey import DATABASE, WEB_APP

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.adapter import LiveSiteMaker

pytestmark = [pytest.mark.sandbox]

CURL = """
curl -XPOST -H "Authorization: Bearer $accessToken" -H "Content-Type: content-type: application/json; charset=utf-8" \\
 "$host/api/jobs" -d '{body}'
"""
"""As it is printed, on one line; its bodies are those of the journey."""

FETCH = Path(__file__).with_name("two_jobs.mjs")

KOTLIN = {"Content-Type": "application/json", "User-Agent": "UCloud-Integration-Module", "Accept": "*/*"}
"""What UCloud's Kotlin client sends besides the token; its JSON holds every field, nulls too, in the order in which the
classes declare them, which is that of the other clients, and no spaces."""


@dataclass(frozen=True)
class User:
    """Somebody with a token at a gateway."""

    url: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        """That say who asks."""
        return {"Authorization": f"Bearer {self.token}"}

    def run(self, *command: str) -> str:
        """What a program says that finds gateway and token in its environment."""
        environment = {"PATH": "/usr/bin:/bin", "accessToken": self.token, "host": self.url}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def job(self, id_: str) -> Any:
        """A job as the gateway tells it."""
        path = f"/api/jobs/retrieve?id={id_}&includeUpdates=true"
        answer = httpx.get(f"{self.url}{path}", headers=self.headers, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def until_state(self, id_: str, *states: str) -> None:
        """Wait until the gateway tells one of these of a job."""
        until(lambda: self.job(id_)["status"]["state"] in states, f"job {id_} is none of {states}")


def by_curl(user: User) -> list[Any]:
    """In a shell."""

    def create(body: bytes) -> Any:
        return json.loads(user.run("/bin/sh", "-ec", CURL.replace("{body}", body.decode())))

    database = create(DATABASE)
    user.until_state("4101", "RUNNING")
    return [database, create(WEB_APP)]


def by_fetch(user: User) -> list[Any]:
    """In JavaScript, which waits by itself."""
    node = shutil.which("node")
    if node is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have Node.js")
        pytest.skip("there is no Node.js here: apt-get install nodejs")
    return [json.loads(line) for line in user.run(node, str(FETCH)).splitlines()]


def as_kotlin(user: User) -> list[Any]:
    """With the bytes that UCloud's Kotlin client sends."""

    def create(body: bytes) -> Any:
        content = json.dumps(json.loads(body), separators=(",", ":"), ensure_ascii=False).encode()
        answer = httpx.post(f"{user.url}/api/jobs", content=content, headers=user.headers | KOTLIN, timeout=30)
        assert answer.status_code == 200, answer.text
        assert int(answer.headers["Content-Length"]) == len(answer.content), "it reads answers by their length alone"
        return answer.json()

    database = create(DATABASE)
    user.until_state("4101", "RUNNING")
    return [database, create(WEB_APP)]


def until(look: Callable[[], bool], what: str) -> None:
    """Wait until it is so; the gateway makes the passes."""
    limit = time.monotonic() + 90
    while not look():
        assert time.monotonic() < limit, what
        time.sleep(0.2)


@pytest.mark.scenario(18, 39)
@pytest.mark.parametrize("create_both", [by_curl, by_fetch, as_kotlin])
@pytest.mark.usefixtures("empty_drive")
def test_the_example_of_uclouds_documentation(
    make_adapter: LiveSiteMaker, create_both: Callable[[User], list[Any]]
) -> None:
    port = free_port()
    adapter = make_adapter(first_id=4101, more=f"[gateway]\nport = {port}\n")
    with serving(adapter.config_file, port) as url:
        user = User(url, user_tokens.create(adapter.site, "alice", "alice"))
        database, web_app = create_both(user)
        assert database == {"responses": [{"id": "4101"}]}
        [id_] = [each["id"] for each in web_app["responses"]]
        user.until_state(id_, "SUCCESS", "FAILURE")
        ended = user.job(id_)
        record = adapter.site.store.get(id_)
        assert ended["status"]["state"] == "SUCCESS", (ended["updates"], adapter.errors(record))
        address = adapter.site.store.get("4101").addresses[0][0]
        assert f"database is {address}, and answers: you are visitor 1" in adapter.output(record)
        states = [each["state"] for each in ended["updates"] if each["state"]]
        assert states in (["RUNNING", "SUCCESS"], ["SUCCESS"])

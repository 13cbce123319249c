"""A shell in a browser, on the sandbox and over both transports."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.sync.client import connect

from slurm_adapter.adapter import Adapter
from slurm_adapter.gateway.http.app import make_app
from slurm_adapter.gateway.limits import Limits
from slurm_adapter.jobs import user_tokens
from slurm_adapter.local.configuration_file import load_config
from tests.adapter import UNTIL_TOLD
from tests.gateway.serving import served
from tests.jobs.test_shells import sleepers

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

    from slurm_adapter.sandbox.configuration import Transport
    from tests.adapter import LiveSiteMaker

pytestmark = pytest.mark.sandbox

SECONDS = "4712"
"""How long something sleeps that no other test lets sleep for so long."""
IN_A_FOLDER = "4713"
"""The same."""


def until(client: ClientConnection, text: str) -> str:
    """All that the shell says until it has said this, or the end."""
    said = ""
    limit = time.monotonic() + 60
    while text not in said:
        frame: dict[str, Any] = json.loads(client.recv(timeout=max(0, limit - time.monotonic())))
        if frame["type"] == "response" and frame["streamId"] == "shell":
            return said
        said += frame["payload"].get("data") or ""
    return said


@pytest.mark.scenario(79)
@pytest.mark.parametrize("transport", [pytest.param("local", marks=pytest.mark.long), "ssh"])
def test_a_session_opens_one_shell_on_the_node_of_its_rank(
    transport: Transport, make_adapter: LiveSiteMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = make_adapter(transport, more='[gateway]\nurl = "https://gateway.example.org"\n')
    [server] = adapter.start(adapter.shell(UNTIL_TOLD))
    [consumer] = adapter.start(adapter.shell(UNTIL_TOLD, peers={"database": server}, replicas=2))
    token = {"Authorization": f"Bearer {user_tokens.create(adapter.site, 'laptop', 'alice')}"}
    address, node = adapter.now(server).addresses[0][0], adapter.now(consumer).nodes[1]
    call = {"call": "jobs.compute.example.shell.open", "streamId": "shell"}

    def say(client: ClientConnection, **payload: Any) -> None:
        client.send(
            json.dumps({**call, "streamId": "shell" if payload["type"] == "initialize" else "1", "payload": payload})
        )

    def new_session(rank: int) -> str:
        body = {"items": [{"id": consumer.id, "rank": rank, "sessionType": "SHELL"}]}
        answer = httpx.post(f"http://{host}/api/jobs/interactiveSession", headers=token, json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        identifier: str = answer.json()["responses"][0]["session"]["sessionIdentifier"]
        return identifier

    def enter(client: ClientConnection, rank: int) -> str:
        identifier = new_session(rank)
        say(client, type="initialize", sessionIdentifier=identifier, cols=101, rows=31)
        return identifier

    app = make_app(Adapter(load_config(adapter.config_file)), Limits(sync_interval=0.5))
    with served(app) as host:
        url = f"ws://{host}/ucloud/example/websocket"
        with connect(url, compression=None) as client:
            identifier = enter(client, 1)
            ask = "echo $(hostname) $(getent ahosts database | head -1) $(stty size) 'do''ne'\n"
            say(client, type="input", data=ask)
            said = until(client, " done\r\n")
            assert f"{node} {address} " in said
            assert "31 101 done" in said
            say(client, type="resize", cols=120, rows=40)
            resized = "until stty size | grep 120; do sleep 0.1; done"
            say(client, type="input", data=f"{resized}; nohup sleep {SECONDS} & sleep {SECONDS}\n")
            assert "40 120" in until(client, "40 120")
            adapter.cluster.wait_for(lambda: len(sleepers(int(SECONDS))) == 2)
            late = new_session(1)
            waiting = app.state.gateway.sessions._waiting  # noqa: SLF001  # its clock is put forward
            monkeypatch.setattr(waiting, "_clock", lambda: time.monotonic() + Limits().session_start)
            for opens_nothing in (identifier, late):
                with connect(url, compression=None) as thief:
                    say(thief, type="initialize", sessionIdentifier=opens_nothing)
                    assert json.loads(thief.recv(timeout=30))["status"] == 401
        adapter.cluster.wait_for(lambda: not sleepers(int(SECONDS)))
        with connect(url, compression=None) as client:
            enter(client, 0)
            say(client, type="input", data="echo $(hostname) 'he''re'\n")
            assert f"{adapter.now(consumer).nodes[0]} here" in until(client, " here\r\n")
            adapter.tell(consumer)
            until(client, "what a shell whose job has ended does not say")
    assert not sleepers(int(SECONDS))


@pytest.mark.parametrize("transport", [pytest.param("local", marks=pytest.mark.long), "ssh"])
def test_a_session_in_a_folder_opens_a_shell_of_the_user_on_the_login_node(
    transport: Transport, make_adapter: LiveSiteMaker, empty_drive: str
) -> None:
    more = '[gateway]\nurl = "https://gateway.example.org"\nfolder_shells = true\n'
    adapter = make_adapter(transport, more=more)
    adapter.cluster.ask("mkdir", f"{empty_drive}/a 'b' $(c)")
    folder = "/123/acme-database/a 'b' $(c)"
    token = {"Authorization": f"Bearer {user_tokens.create(adapter.site, 'laptop', 'alice')}"}

    def say(client: ClientConnection, **payload: Any) -> None:
        stream = "shell" if payload["type"] == "initialize" else "1"
        client.send(json.dumps({"call": "jobs.compute.example.shell.open", "streamId": stream, "payload": payload}))

    with served(make_app(Adapter(load_config(adapter.config_file)))) as host:
        body = {"items": [{"folder": folder}]}
        answer = httpx.post(f"http://{host}/api/jobs/openTerminalInFolder", headers=token, json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        [told] = answer.json()["responses"]
        assert told["session"]["jobId"] == folder
        with connect(f"ws://{host}/ucloud/example/websocket", compression=None) as client:
            identifier = told["session"]["sessionIdentifier"]
            say(client, type="initialize", sessionIdentifier=identifier, cols=101, rows=31)
            ask = "echo $(hostname) $(id -un) $(stty size) $(squeue -h >/dev/null; echo $?) $(env | grep -c SUDO)"
            say(client, type="input", data=f"{ask} 'do''ne'; pwd\n")
            assert f"login alice 31 101 0 0 done\r\n{empty_drive}/a 'b' $(c)\r\n" in until(client, " $(c)\r\n")
            say(client, type="input", data=f"sleep {IN_A_FOLDER}\n")
            adapter.cluster.wait_for(lambda: len(sleepers(int(IN_A_FOLDER))) == 1)
        adapter.cluster.wait_for(lambda: not sleepers(int(IN_A_FOLDER)))

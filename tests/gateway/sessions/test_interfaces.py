"""Further interfaces, from a template's words to UCloud's updates and a session by both APIs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.core.interfaces import Interface
from tests.gateway.api_site import ApiSite, opened, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slurm_adapter.core.records import Record

APPLICATION = """
application: v2
name: tools
version: "1"
software: {type: Native, load: []}
features: {multiNode: true}
parameters:
  count: {type: Integer, title: How many, description: "", optional: true, defaultValue: 2}
invocation: |
  {% for i in range(count) %}{{ dynamicInterface(0, "WEB", "Tool " ~ i, 7681 + i) }}{% endfor %}
  sleep 60
"""
NAMED: dict[str, Any] = {"application": {"name": "tools", "version": "1"}}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiSite]:
    """Both APIs of a site that has web sessions and such an application."""
    (tmp_path / "applications").mkdir()
    (tmp_path / "applications" / "tools.yaml").write_text(APPLICATION)
    gateway = {"url": "http://gateway.localhost", "web_domain": "app-{job}-{rank}.localhost"}
    with opened(tmp_path, {"gateway": gateway}) as both:
        yield both


def running(api: ApiSite, id_: str) -> Record:
    """The job, which runs now."""
    record = api.offline.site.store.get(id_)
    api.offline.sync()
    return api.offline.run(api.offline.now(record))


def test_ucloud_is_told_of_them_and_opens_one(api: ApiSite) -> None:
    assert api.ucloud.create(api.job("4101", **NAMED)).status == 200
    record = api.offline.site.store.get("4101")
    assert record.interfaces == (Interface(0, "WEB", "Tool 0", 7681), Interface(0, "WEB", "Tool 1", 7682))

    def told() -> list[Any]:
        words = [update["status"] or "" for update in api.ucloud.updates("4101")]
        return [json.loads(each.removeprefix("Target: ")) for each in words if each.startswith("Target: ")]

    wait_until(lambda: len(told()) == 2, "UCloud was not told of both")
    assert told()[1] == {"rank": 0, "type": "WEB", "target": "Tool 1", "port": 7682, "defaultName": None}
    record = running(api, "4101")
    whole = api.job("4101", **NAMED) | {"providerGeneratedId": record.slurm_name}
    items = [{"job": whole, "rank": 0, "sessionType": "WEB", "target": each["target"]} for each in told()]
    answer = api.ask("POST", "/ucloud/example/jobs/interactiveSession", {"items": items}, **api.as_ucloud("alice"))
    assert answer.status_code == 200, answer.text
    links = [each["redirectClientTo"] for each in answer.json()["responses"]]
    assert [link.partition("/ucloud")[0] for link in links] == [
        "http://app-4101-0-1.localhost", "http://app-4101-0-2.localhost",
    ]  # fmt: skip
    items[1]["target"] = "Tool 2"
    refused = api.ask("POST", "/ucloud/example/jobs/interactiveSession", {"items": items}, **api.as_ucloud("alice"))
    assert (refused.status_code, "Tool 2" in refused.json()["why"]) == (400, True)


def test_users_are_told_of_them_and_open_one(api: ApiSite) -> None:
    one = {"count": {"type": "integer", "value": 1}}
    alice = api.token()
    answer = api.ask("POST", "/api/jobs", {"items": [api.item(**NAMED, parameters=one)]}, **alice)
    assert answer.status_code == 200, answer.text
    id_ = answer.json()["responses"][0]["id"]
    shown = api.ask("GET", f"/api/jobs/retrieve?id={id_}&includeUpdates=true", **alice).json()["updates"]
    assert [each["status"] for each in shown if (each["status"] or "").startswith("Target: ")] == [
        'Target: {"rank":0,"type":"WEB","target":"Tool 0","port":7681,"defaultName":null}'
    ]
    running(api, id_)
    for target, status in (("Tool 0", 200), ("Tool 1", 400), (None, 400)):
        item = {"id": id_, "rank": 0, "sessionType": "WEB", "target": target}
        answer = api.ask("POST", "/api/jobs/interactiveSession", {"items": [item]}, **alice)
        assert answer.status_code == status, (target, answer.text)


def test_too_many_are_refused(api: ApiSite) -> None:
    many = {"count": {"type": "integer", "value": 101}}
    answer = api.ask("POST", "/api/jobs", {"items": [api.item(**NAMED, parameters=many)]}, **api.token())
    assert (answer.status_code, "at most 100" in answer.json()["why"]) == (400, True)

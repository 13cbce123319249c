"""Input of users and UCloud, and messages about invalid input."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.problems import for_message
from slurm_adapter.core.specification import (
    FileValue,
    IntegerValue,
    Job,
    JobSpecification,
    PeerValue,
    TextValue,
    UnknownValue,
    parse_specifications,
)

if TYPE_CHECKING:
    from collections.abc import Callable

APPLICATION = {"name": "acme", "version": "1"}
PRODUCT = {"id": "m", "category": "c", "provider": "example"}
MINIMAL = {"application": APPLICATION, "product": PRODUCT}
ZERO_VALUES = {
    "path": "", "mountPath": "", "readOnly": False, "value": None, "hostname": "", "jobId": "", "id": "",
    "specification": {"applicationName": "", "language": "", "init": None, "job": None, "readme": None, "inputs": None},
    "modules": None, "port": 0, "tls": False, "server": "", "token": "", "tokenType": "",
}  # fmt: skip


def parse(document: Any) -> list[JobSpecification]:
    return parse_specifications(json.dumps(document).encode())


def refuse(data: bytes) -> str:
    with pytest.raises(InvalidInput) as error:
        parse_specifications(data)
    return str(error.value)


@pytest.mark.scenario(21)
def test_both_generations_read_the_same() -> None:
    nulls = dict.fromkeys(("name", "parameters", "resources", "timeAllocation", "openedFile", "labels", "hostname"))
    [old] = parse({**MINIMAL, **nulls, "restartOnExit": None, "sshEnabled": None, "replicas": 1})
    [new] = parse({**MINIMAL, "replicas": 1, "somethingNew": {"deep": [1]}})
    assert old == new


@pytest.mark.parametrize(
    ("minimal", "expected"),
    [
        ({"type": "file", "path": "/123/a"}, FileValue(type="file", path="/123/a")),
        ({"type": "text", "value": ""}, TextValue(type="text", value="")),
        ({"type": "integer", "value": 2**53 + 1}, IntegerValue(type="integer", value=2**53 + 1)),
        ({"type": "peer", "hostname": "d", "jobId": "1"}, PeerValue(type="peer", hostname="d", job_id="1")),
        ({"type": "hologram", "depth": 3}, UnknownValue(type="hologram")),
    ],
)
def test_a_value_means_the_same_with_every_key_and_without(minimal: dict[str, Any], expected: object) -> None:
    for form in (minimal, {**ZERO_VALUES, **minimal}):
        [specification] = parse({**MINIMAL, "parameters": {"p": form}, "resources": [form]})
        assert specification.parameters["p"] == expected
        assert specification.resources == (expected,)


@pytest.mark.parametrize("name", ["create-4101.json", "create-4150.json"])
def test_jobs_as_ucloud_sends_them(name: str, wire: Callable[[str], bytes]) -> None:
    job = Job.model_validate(json.loads(wire(name))["items"][0])
    assert name == f"create-{job.id}.json"
    assert job.owner.created_by == "user"
    assert job.owner.project is None
    assert job.specification.parameters["ucMetricSampleRate"] == TextValue(type="text", value="0ms")


def test_an_older_job_with_nulls_everywhere() -> None:
    job = {
        "id": "54112", "owner": {"createdBy": "user", "project": None}, "updates": [], "createdAt": -62135596800000,
        "specification": MINIMAL, "output": None, "permissions": None,
        "status": {"state": "IN_QUEUE", "resolvedApplication": None, "resolvedProduct": None},
    }  # fmt: skip
    found = Job.model_validate(job)
    assert found.created_at < 0


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not JSON: line 1"),
        (b"{", "not JSON"),
        (b"\xff{}", "not UTF-8: byte 0"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"{}", "Request must not be empty"),
        (b'{"items": []}', "Request must not be empty"),
        (b'{"items": null}', "Request must not be empty"),
        (b'{"items": {}}', "must be a JSON object"),
        (b'{"items": [' + b"0," * 1000 + b"0]}", "Request cannot exceed 1000 items"),
        (b'{"replicas": NaN}', "NaN is not JSON"),
        (b'{"replicas": -Infinity}', "-Infinity is not JSON"),
        (b'{"replicas": 1e999}', "too large"),
        (b'{"replicas": ' + b"9" * 5000 + b"}", "too long"),
        (b'{"replicas": 1, "replicas": 2}', "'replicas' stands twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_request(data: bytes, said: str) -> None:
    assert said in refuse(data)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"application": None}, "application: is missing; it is required"),
        ({"product": 7}, "product: 7: must be an object"),
        ({"replicas": "2"}, "replicas: '2': must be an integer"),
        ({"replicas": True}, "replicas: true: must be an integer"),
        ({"replicas": 1.0}, "replicas: 1.0: must be an integer"),
        ({"name": "x\n#SBATCH --account=root"}, "name: 'x\\n#SBATCH --account=root': must be one line"),
        ({"name": "\x1b[31mred"}, "must be one line without control characters"),
        ({"name": "x" * 1025}, "1024"),
        ({"timeAllocation": {"hours": 1.5}}, "timeAllocation.hours: 1.5"),
        ({"timeAllocation": 3600}, "timeAllocation: 3600: must be an object"),
        ({"openedFile": "/123/\0"}, "openedFile: '/123/\\x00': must not contain a NUL"),
        ({"parameters": {"a b": {"type": "text", "value": "\0"}}}, "parameters['a b'].value"),
        ({"parameters": {"a": {"type": "integer", "value": 2**63}}}, "parameters.a.value: 9223372036854775808"),
        ({"parameters": {"a": {"type": "integer", "value": True}}}, "parameters.a.value: true: must be an integer"),
        ({"parameters": {"a": {"type": "boolean", "value": 1}}}, "parameters.a.value: 1: must be true or false"),
        ({"parameters": {"a": {"type": "text", "value": None}}}, "parameters.a.value: is missing"),
        ({"parameters": {"a": {"type": "text", "value": "\ud800"}}}, "parameters.a.value: '\\ud800'"),
        ({"parameters": {"a": {"value": 1}}}, "parameters.a.type: is missing"),
        ({"parameters": {"a": 5}}, "parameters.a: 5: must be an object"),
        ({"resources": {"a": 5}}, 'resources: {"a": 5}: must be a list'),
        ({"resources": [{"type": "peer", "jobId": 4}]}, "resources[0].jobId: 4: must be a text"),
        ({"resources": [{"type": "ingress", "id": "1", "port": 65536}]}, "resources[0].port: 65536"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_value_and_what_is_allowed(fields: dict[str, Any], said: str) -> None:
    assert said in refuse(json.dumps({**MINIMAL, **fields}).encode())


def test_every_wrong_field_of_a_bulk_is_named() -> None:
    bad = {**MINIMAL, "replicas": "many", "resources": [{"type": "peer", "hostname": 1}]}
    lines = refuse(json.dumps({"items": [MINIMAL, bad, {}]}).encode()).splitlines()
    assert lines == [
        "items[1].replicas: 'many': must be an integer",
        "items[1].resources[0].hostname: 1: must be a text",
        "items[1].resources[0].jobId: is missing; it is required",
        "items[2].application: is missing; it is required",
        "items[2].product: is missing; it is required",
    ]


def test_a_bulk_of_the_most_items() -> None:
    assert len(parse({"items": [MINIMAL] * 1000})) == 1000


@given(st.text())
def test_a_shown_value_is_one_short_line_that_no_terminal_obeys(text: str) -> None:
    assert for_message(text).isprintable()
    assert len(for_message(text * 50)) < 700


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
KEYS = (
    *JobSpecification.model_fields,
    "timeAllocation",
    "openedFile",
    "restartOnExit",
    "allowDuplicateJob",
)


@given(st.dictionaries(st.sampled_from(KEYS), JSON), st.booleans())
def test_no_json_gives_anything_but_a_message(fields: dict[str, Any], bulk: bool) -> None:  # noqa: FBT001 - drawn
    whole = {**MINIMAL, **fields}
    with suppress(InvalidInput):
        parse({"items": [whole]} if bulk else whole)


@given(st.binary())
def test_no_bytes_give_anything_but_a_message(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_specifications(data)

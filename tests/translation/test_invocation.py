"""Values and parameters: which are accepted or refused, and the resulting command."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.core.bash import plain, quote
from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.specification import parse_specifications
from slurm_adapter.translation.application import BoolFlag, EnvironmentVariable, Parameter, Template, Variable, Word
from slurm_adapter.translation.invocation import ARGUMENT_LIMIT, default_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.translation.cases import Case


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "value": value}


def number(value: float) -> dict[str, Any]:
    return {"type": "integer" if isinstance(value, int) else "floating_point", "value": value}


def file(path: str, **more: Any) -> dict[str, Any]:
    return {"type": "file", "path": path, **more}


def payload(script: str) -> str:
    return script.split("names resolve.\n", 1)[1].rstrip("\n")


def command(case: Case, **parameters: Any) -> str:
    return payload(case.translate(parameters=parameters).script)


def run(script: str, *words: str) -> list[str]:
    """Return the arguments of a program if bash runs a text."""
    whole = f"acme-batch() {{ printf '%s\\0' \"$@\"; }}\n{script}\n".encode()
    done = subprocess.run(["bash", "-s", *words], input=whole, capture_output=True, check=True, env={})
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, ""),
        ({"debug": {"type": "boolean", "value": True}}, "--debug yes"),
        ({"debug": {"type": "boolean", "value": False}}, "--debug no"),
        ({"value": text("Hello, World!")}, "--value 'Hello, World!'"),
        ({"value": {"type": "textarea", "value": "a\nb"}}, "--value 'a\nb'"),
        ({"count": number(4)}, "--count 4"),
        ({"ratio": number(0.3)}, "--ratio 0.3"),
        ({"ratio": {"type": "floating_point", "value": 1}}, "--ratio 1"),
        ({"mode": text("Fast mode")}, "--mode fast"),
        ({"mode": text("slow")}, "--mode slow"),
        ({"input": file("/123/a b")}, "--input '/shared/data/123/a b'"),
        ({"folder": file("/archive/x", readOnly=True)}, "--folder /archive/x"),
        ({"db": {"type": "peer", "hostname": "database", "jobId": "4101"}}, "--db database"),
        ({"ucMetricSampleRate": text("0ms"), "_injected_x": number(3)}, ""),
        ({"count": number(2), "value": text("")}, "--value '' --count 2"),
    ],
)  # fmt: skip
def test_parameters_become_arguments(case: Case, parameters: dict[str, Any], expected: str) -> None:
    assert command(case, **parameters) == f"acme-batch {expected}".rstrip(" ")


def test_every_text_arrives_byte_for_byte(case: Case, weird: str) -> None:
    assert run(command(case, value=text(weird))) == ["--value", weird]


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_quoting_is_undone_by_bash(value: str) -> None:
    assert run(f"acme-batch {quote(value)}") == [value]


def test_affixes(case: Case) -> None:
    parts = (
        Word("acme-batch"),
        Variable(("value", "mode", "count"), "<", ">", "-p", "-s"),
        Variable(("value",), "", "", "--v=", ";", prefix_joined=True, suffix_joined=True),
        Variable(("count", "ratio"), "never"),
        BoolFlag("debug", "--debug"),
        EnvironmentVariable("HOME"),
        Word("a b"),
    )
    found = command(
        case.with_application(invocation=parts),
        value=text("x y"),
        mode=text("slow"),
        debug={"type": "boolean", "value": True},
    )
    assert found == ("acme-batch '<' -p 'x y' -s -p slow -s '>' '--v=x y;' --debug \"${HOME-}\" 'a b'")
    assert command(case.with_application(invocation=(Word("if"), Word("then")))) == "'if' then"
    assert command(case.with_application(invocation=(Word("A=b"),))) == "'A=b'"


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"nope": text("x")}, "parameters.nope: Unknown parameter supplied: 'nope'; this application has: debug,"),
        ({"value": number(1)}, "parameters.value: Incorrect parameter type for 'value': integer; must be text"),
        ({"count": number(4.5)}, "Incorrect parameter type for 'count': floating_point; must be integer"),
        ({"value": {"type": "hologram"}}, "parameters.value: unknown type of value: 'hologram'"),
        ({"count": number(1)}, "parameters.count: 1: must be at least 2"),
        ({"count": number(12)}, "parameters.count: 12: must be at most 10"),
        ({"count": number(5)}, "parameters.count: 5: must be 2 and a multiple of 2"),
        ({"ratio": number(0.35)}, "parameters.ratio: 0.35: must be 0 and a multiple of 0.1"),
        ({"mode": text("medium")}, "parameters.mode: 'medium': must be one of 'Fast mode', 'Slow'"),
        ({"input": file("/999/x")}, "parameters.input.path: '/999/x': drive '999' is not known here"),
        ({"input": file("/123/../x")}, "parameters.input.path: '/123/../x': must not contain"),
        ({"input": file("/123/x", readOnly=True)}, "parameters.input.readOnly: true: users can write to drive '123'"),
        ({"input": file("/123/x", mountPath="/work/x")}, "parameters.input.mountPath: '/work/x': is reserved; files"),
        ({"input": file("/123/x", mountPath="/mnt")}, "parameters.input.mountPath: '/mnt': files are not mounted"),
        ({"db": {"type": "peer", "hostname": "a b", "jobId": "1"}}, "parameters.db.hostname: Invalid hostname: 'a b'"),
        ({"db": {"type": "peer", "hostname": "h\n10.0.0.1 x", "jobId": "1"}}, "Invalid hostname"),
        ({"db": {"type": "peer", "hostname": "", "jobId": "1"}}, "Invalid hostname: ''"),
        ({"db": {"type": "peer", "hostname": "a", "jobId": "1 2"}}, "parameters.db.jobId: '1 2'"),
        ({"modules": {"type": "modules", "modules": ["gcc/11"]}}, "parameters.modules: 'gcc/11': must be one of"),
        ({"modules": {"type": "modules", "modules": ["--force"]}}, "'--force' is not a name of an environment module"),
    ],
)  # fmt: skip
def test_values_that_are_refused(case: Case, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as error:
        command(case, **parameters)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("license_server", {"type": "license_server", "id": "5"}),
        ("network_ip", {"type": "network", "id": "5"}),
        ("ingress", {"type": "ingress", "id": "5"}),
        ("private_network", {"type": "private_network", "id": "5"}),
    ],
)
def test_values_that_a_slurm_cluster_does_not_support(case: Case, kind: Any, value: dict[str, Any]) -> None:
    optional = case.with_application(parameters=(Parameter("p", kind, optional=True),))
    assert command(optional) == "acme-batch"
    with pytest.raises(InvalidInput, match=f"parameters.p: a value of type {value['type']}: this site has no"):
        command(optional, p=value)


def test_all_wrong_parameters_are_named_at_once(case: Case) -> None:
    strict = case.with_application(parameters=(Parameter("a", "text"), Parameter("b", "integer")))
    with pytest.raises(InvalidInput) as error:
        command(strict, c=text("x"), b=text("x"))
    assert str(error.value).splitlines() == [
        "parameters.c: Unknown parameter supplied: 'c'; this application has: a, b",
        "parameters.a: Missing value for 'a'",
        "parameters.b: Incorrect parameter type for 'b': text; must be integer",
    ]


@pytest.mark.parametrize(
    ("kind", "default", "expected"),
    [
        ("text", "x", "-p x"),
        ("text", {"type": "text", "value": "x"}, "-p x"),
        ("textarea", "x", "-p x"),
        ("text", "null", ""),
        ("text", None, ""),
        ("integer", 0, "-p 0"),
        ("integer", {"type": "integer", "value": 5}, "-p 5"),
        ("boolean", False, "-p false"),
        ("floating_point", 2.5, "-p 2.5"),
        ("input_file", {"type": "file", "path": "/123/x"}, "-p /shared/data/123/x"),
    ],
)
def test_defaults(case: Case, kind: Any, default: Any, expected: str) -> None:
    parameters = (Parameter("p", kind, optional=True, default=default),)
    found = command(case.with_application(parameters=parameters, invocation=(Word("x"), Variable(("p",), "-p"))))
    assert found == f"x {expected}".rstrip()


def test_files_that_the_application_names_itself(case: Case) -> None:
    inputs = [{"type": "input_file", "name": "more", "optional": True, "defaultValue": file("/4/x")}]
    parameters = (
        Parameter("own", "input_file", default=file("/1/x")),
        Parameter("folder", "input_directory", default={"path": "/2"}),
        Parameter("given", "input_file", default=file("/3/x")),
        Parameter("text", "text", default="/5/x"),
        Parameter("wrong", "input_file", default={"path": 6}),
        Parameter("none", "input_file", optional=True),
        Parameter("flow", "workflow", optional=True),
        Parameter("bad", "workflow", optional=True),
    )
    values = {"given": file("/7/x"), "flow": workflow("x", inputs=inputs), "bad": workflow("x", init="x")}
    [job] = parse_specifications(case.specification(parameters=values))
    found = default_files(job.parameters, replace(case.application, parameters=parameters))
    assert {name: value.path for name, value in found.items()} == {"own": "/1/x", "folder": "/2", "more": "/4/x"}


def test_a_default_of_the_wrong_type_names_the_application(case: Case) -> None:
    with pytest.raises(InvalidInput, match=r"parameters\.p: the application's default is invalid"):
        command(case.with_application(parameters=(Parameter("p", "integer", default="four"),)))


def test_large_arguments(case: Case) -> None:
    assert command(case, value=text("x" * (ARGUMENT_LIMIT)))
    with pytest.raises(InvalidInput, match=f"an argument has {ARGUMENT_LIMIT + 1} bytes; the limit is"):
        command(case, value=text("é" * (ARGUMENT_LIMIT // 2 + 1)))
    many = case.with_application(invocation=(Word("x"), *[Variable(("value",))] * 9))
    with pytest.raises(InvalidInput, match="bytes or more; the limit is"):
        command(many, value=text("x" * ARGUMENT_LIMIT))


@pytest.mark.parametrize("parts", [(), (Variable(("value",)),)])
def test_an_application_without_a_command(case: Case, parts: Sequence[Any]) -> None:
    with pytest.raises(InvalidInput, match=r"the application acme-batch 1\.0\.0 has no command"):
        command(case.with_application(invocation=tuple(parts)))


def test_jinja_among_words(case: Case) -> None:
    with pytest.raises(InvalidInput, match="mixes Jinja"):
        command(case.with_application(invocation=(Word("x"), Template("y"))))


def workflow(job: str | None, **more: Any) -> dict[str, Any]:
    return {"type": "workflow", "specification": {"language": "JINJA2", "job": job, **more}}


def test_a_users_workflow_is_appended(case: Case) -> None:
    inputs = [{"type": "text", "name": "extra", "optional": False}]
    flow = workflow("echo {{ extra }} {{ value }}", inputs=inputs)
    found = command(case.with_template("first\n"), flow=flow, extra=text("a b"), value=text("$(id)"))
    assert found == "first\n\necho 'a b' '$(id)'"
    assert command(case.with_template(""), flow=workflow("run")) == "run"


@pytest.mark.parametrize(
    ("flow", "said"),
    [
        (
            workflow("x", init="apt install"),
            "parameters.flow.specification.init: a workflow's init text is not supported",
        ),
        ({"type": "workflow", "specification": {"language": "BASH"}}, "language: 'BASH': must be JINJA2"),
        (workflow("x", inputs=[{"type": "text"}]), "parameters.flow.specification.inputs[0].name: is missing"),
        (
            workflow("x", inputs=[{"type": "text", "name": "value"}]),
            "the application already has its parameter 'value'",
        ),
        (workflow("x", inputs=[{"type": "workflow", "name": "f"}]), "a workflow cannot contain a workflow"),
        (workflow("{{ script('x') }}"), "script() is not available here"),
        (workflow("\n{{ nope }}"), "parameters.flow.specification.job, line 2: 'nope' is undefined"),
        (workflow("{{ 'a' | center(10 ** 10) }}"), "MemoryError"),
        (workflow(None), "has no command"),
        (text("x"), "Incorrect parameter type for 'flow': text; must be workflow"),
    ],
)
def test_a_workflow_that_is_refused(case: Case, flow: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as error:
        command(case.with_template(""), flow=flow)
    assert said in str(error.value)


def test_a_workflow_needs_a_jinja_application(case: Case) -> None:
    with pytest.raises(InvalidInput, match="needs an application with an invocation in Jinja"):
        command(case, flow=workflow("x"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""),
        (True, "true"),
        (False, "false"),
        (5, "5"),
        (2**63, str(2**63)),
        (1.0, "1"),
        (-0.5, "-0.5"),
        (1e21, "1e+21"),
        ("x", "x"),
    ],
)
def test_values_as_text(value: object, expected: str) -> None:
    assert plain(value) == expected

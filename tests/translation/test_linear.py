"""Time and memory for users' input grow linearly: no input of a megabyte delays other work."""

from __future__ import annotations

import json
import signal
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.cluster.schedulers.hostlist import expand
from slurm_adapter.core.directives import lint_script, quote
from slurm_adapter.core.errors import AdapterError, InvalidConfig, InvalidInput
from slurm_adapter.core.hosts_file import check_hostnames
from slurm_adapter.core.json_bounds import MOST_ENTRIES
from slurm_adapter.core.problems import PROBLEMS_LIMIT, for_message
from slurm_adapter.core.specification import JOB_LIMIT, JobSpecification, parse_specifications
from slurm_adapter.local.configuration_file import load_config
from slurm_adapter.translation.application import Application, Parameter, Template, Variable, resolve_application
from slurm_adapter.translation.application_file import lint_application_file
from slurm_adapter.translation.invocation import ARGUMENTS_LIMIT, bind, command_line
from slurm_adapter.translation.preprocessor import preprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

COUNT = 400_000
"""Size of the input. Quadratic time would be minutes, linear time is a fraction of a second."""

SECONDS = 60
"""Limit of processor time, so that a failing test ends, even on a busy machine."""


@pytest.fixture(autouse=True)
def _guard() -> Iterator[None]:
    def give_up(_signal: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"took more than {SECONDS} seconds of processor time")

    before = signal.signal(signal.SIGVTALRM, give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


@pytest.fixture
def application() -> Application:
    return Application(name="a", version="1", title="a", source="a.yaml", trusted=False, backend="NATIVE")


@pytest.mark.parametrize(
    "text",
    [
        "{- " + " " * COUNT,
        "{- " * COUNT,
        "{- " * COUNT + "x- -}",
        "{- a(" * COUNT,
        "{- a(" * COUNT + ")) -}",
        "{- " + "a " * COUNT + " -}",
        "{-  -" * COUNT,
        " -}" * COUNT,
        "{- (" + ")" * COUNT + " -}",
        ("{- " + " " * 900 + "- -}") * (COUNT // 900),
    ],
    ids=lambda text: f"{text[:12]}...{text[-5:]}",
)
def test_the_preprocessor(application: Application, text: str) -> None:
    assert preprocess(Template(text), application, "app").text == text


def test_the_preprocessor_replaces_many_lines(application: Application) -> None:
    found = preprocess(Template("{- systemLoad -}\n" * (COUNT // 10)), application, "app")
    assert found.text == "{{ _systemLoad }}\n" * (COUNT // 10)
    with pytest.raises(InvalidInput, match=f"app, line {COUNT + 1}: '{{- x -}}' is unknown"):
        preprocess(Template("\n" * COUNT + "{- x -}"), application, "app")


@pytest.mark.parametrize(
    "payload",
    [
        "cat " + "<<a" * COUNT + "\n" + "a\n" * COUNT,
        "cat " + "<< " * COUNT + "\n#SBATCH",
        "cat <<" + " " * COUNT,
        "\t" * COUNT,
        " " * COUNT + "#" + " " * COUNT + "SBATC",
        "#SBATCH " * COUNT,
        "'" * COUNT,
        "\n" * COUNT,
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_the_lint_of_scripts(payload: str) -> None:
    for script in (f"#!/bin/bash\nrun\n{payload}\n", f'#!/bin/bash\n#SBATCH --comment="{payload}"\nrun\n'):
        try:
            lint_script(script)
        except InvalidInput as error:
            assert len(str(error)) < 300  # noqa: PT017  # either is right


def _hostname(text: str) -> object:
    return check_hostnames([(text, 1, "resources[0]")], nodes=(), reserved=())


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (expand, "n1," * COUNT + "n1["),
        (expand, "[" * COUNT),
        (expand, "n[1" * COUNT),
        (expand, "n[1-2]," * (COUNT // 10) + "]"),
        (expand, ",]" * COUNT),
        (_hostname, "a" + "-" * COUNT),
        (_hostname, "a." * COUNT),
        (_hostname, "1" * COUNT),
        (_hostname, ":" * COUNT),
        (quote, "\\" * COUNT + "\n"),
    ],
    ids=lambda value: ascii(value[:8]) if isinstance(value, str) else value.__name__,
)
def test_names(read: Callable[[str], object], text: str) -> None:
    with pytest.raises(AdapterError) as error:
        read(text)
    assert len(str(error.value)) < 1000


BASE: dict[str, Any] = {
    "application": {"name": "a", "version": "1"},
    "product": {"id": "x", "category": "x", "provider": "x"},
}


def spec(**fields: Any) -> bytes:
    return json.dumps(BASE | fields).encode()


def bulk(**fields: Any) -> bytes:
    return json.dumps({"items": [BASE | fields] * 50}).encode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (bulk(resources=[1] * 900), "items[0].resources[0]: 1: must be an object\n"),
        (spec(resources=[1] * (JOB_LIMIT + 1)), f"must have at most {JOB_LIMIT} entries"),
        (bulk(labels={str(n): 1 for n in range(900)}), "items[0].labels.0: 1: must be a text\n"),
        (spec(labels={str(n): "" for n in range(2000)}), f"must have at most {JOB_LIMIT} entries"),
        (bulk(parameters={str(n): 1 for n in range(900)}), "items[0].parameters.0: 1: must be an object\n"),
        (spec(parameters={str(n): {} for n in range(2000)}), f"must have at most {JOB_LIMIT} entries"),
        (spec(application=["x" * 1000] * 5000), 'application: ["xxxxxxx'),
        (b'"' * (10 * COUNT), "the input is not JSON"),
        (b'"' + b"\\" * (10 * COUNT), "the input is not JSON"),
    ],
    ids=lambda value: value[:40].decode() if isinstance(value, bytes) else "",
)
def test_a_small_input_with_many_errors_needs_little_memory(data: bytes, said: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput) as error:
            parse_specifications(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) <= PROBLEMS_LIMIT + 1
    assert peak < 30 * len(data) + 5_000_000


def test_a_value_is_shown_without_being_written_whole() -> None:
    assert for_message([["x" * 10**6] * 10] * 10**6)[:6] == '[["xxx'
    assert len(for_message({"a" * 10**6: 1})) == len(for_message("a" * 10**6)) - 2 == 60


def _bind(given: dict[str, Any], parameters: tuple[Parameter, ...], application: Application) -> None:
    specification = JobSpecification.model_validate(BASE | {"parameters": given})
    bind(specification.parameters, replace(application, parameters=parameters), lambda *_: pytest.fail("no file"))


def test_a_message_about_many_unknown_parameters_is_short(application: Application) -> None:
    known = tuple(Parameter("k" * 10_000 + str(n), "text", optional=True) for n in range(1000))
    given = {f"u{n}": {"type": "text", "value": ""} for n in range(1000)}
    with pytest.raises(InvalidInput) as error:
        _bind(given, known, application)
    assert len(str(error.value)) < 1_000_000
    assert str(error.value).endswith("\n... and more")


def test_modules_are_looked_up_and_not_searched(application: Application) -> None:
    names = tuple(f"m{n}" for n in range(MOST_ENTRIES))
    parameters = (Parameter("modules", "modules", modules=names),)
    with pytest.raises(InvalidInput, match=r"'x': must be one of m0, m1, .*, \.\.\.$"):
        _bind({"modules": {"type": "modules", "modules": [*names[:-1], "x"]}}, parameters, application)


def test_one_long_value_is_not_repeated_without_an_end(application: Application) -> None:
    names = ("p",) * MOST_ENTRIES
    parts = (Variable(names, prefix_variable="-", prefix_joined=True),) * MOST_ENTRIES
    found = replace(application, parameters=(Parameter("p", "text"),), invocation=parts)
    value = {"p": {"type": "text", "value": "x" * 100_000}}
    bound = bind(
        JobSpecification.model_validate(BASE | {"parameters": value}).parameters,
        found,
        lambda *_: pytest.fail("no file"),
    )
    with pytest.raises(InvalidInput, match=f"longer than {ARGUMENTS_LIMIT} bytes"):
        command_line(found, bound)


def test_an_application_of_many_errors(application: Application) -> None:
    invocation = {"parameters": [{"type": 1}] * 4000, "environment": {str(n): 1 for n in range(4000)}}
    with pytest.raises(InvalidInput) as error:
        resolve_application({"metadata": {"name": "a", "version": "1"}, "invocation": invocation})
    assert len(str(error.value).splitlines()) == PROBLEMS_LIMIT + 1
    assert application.name == "a"


@pytest.mark.parametrize(
    "text",
    [
        "parameters: &p\n  w: {type: Workflow, parameters: *p}\n",
        "a: " + "[" * 3000 + "]" * 3000,
        "a: " + "{b: " * 3000 + "}" * 3000,
        "a: &a [x, x]\n"
        + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(24)),
    ],
    ids=["itself", "lists", "mappings", "laughs"],
)
def test_application_files_that_nest(text: str) -> None:
    application, problems = lint_application_file(text, "app.yaml")
    assert application is None or any(problem.error for problem in problems)


@pytest.mark.parametrize("value", ["[" * 3000 + "]" * 3000, "{a=" * 3000 + "1" + "}" * 3000])
def test_a_configuration_that_nests(tmp_path: Path, value: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"provider = {value}\n")
    with pytest.raises(InvalidConfig, match=r"config\.toml: lists or tables are nested too deeply"):
        load_config(path)

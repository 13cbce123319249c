"""Bind a job's values to its application's parameters, and make command lines.

Every value is used, or refused with the reason. Values for unknown parameters are refused, except for
`ucMetricSampleRate` and names that begin with `_injected_`: UCloud adds these by itself, and they are ignored.
"""

from __future__ import annotations

import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from slurm_adapter.core import bash
from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.problems import field_path, for_message, join_problems, list_problems
from slurm_adapter.core.specification import (
    AppParameterValue,
    BooleanValue,
    FileValue,
    FloatingPointValue,
    IntegerValue,
    ModulesValue,
    PeerValue,
    TextValue,
    UnknownValue,
    WorkflowValue,
)
from slurm_adapter.translation.application import (
    BoolFlag,
    EnvironmentVariable,
    Template,
    Variable,
    WireParameter,
    Word,
    Workflow,
    freeze_parameters,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from slurm_adapter.translation.application import Application, Parameter, Part
    from slurm_adapter.translation.drives import DrivePath, Kind

    Resolve = Callable[[FileValue, str, Kind], DrivePath]

ARGUMENT_LIMIT = 128 * 1024 - 1
"""Most bytes of one argument (MAX_ARG_STRLEN of Linux without the terminator)."""
ARGUMENTS_LIMIT = 1024 * 1024
"""Most bytes of all arguments of a command: half of Linux's limit with the usual stack."""

_NAMES_SHOWN = 50
"""Most names in a message."""

UNSUPPORTED_VALUES = {
    "license_server": "this site has no licence servers",
    "network": "this site has no public IP addresses",
    "ingress": "this site has no public links",
    "block_storage": "this site has no block storage",
    "private_network": "this site has no private networks; connect to a job with a resource of type peer",
    "api_server": "this site gives jobs no access to API servers",
}
"""Types of values that are not supported, with the reason."""

_VALUE_OF = {
    "input_file": "file",
    "input_directory": "file",
    "enumeration": "text",
    "network_ip": "network",
}
"""Types of values, for parameters of another type name."""

_ALLOWED_MODULE = re.compile(r"[\w.+/][\w.+/:@-]*", re.ASCII)
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VALUES: TypeAdapter[AppParameterValue] = TypeAdapter(AppParameterValue)


@dataclass(frozen=True, slots=True)
class DeclaredPeer:
    """Another job and its hostname for this job. Neither is checked yet."""

    hostname: str
    job_id: str
    field: str
    """Its field in the specification."""


def read_peer(value: PeerValue, place: str) -> DeclaredPeer:
    """Return a declared peer. Raise `InvalidInput` if the hostname or the id is not one word.

    `slurm_adapter.core.hosts_file` checks the hostname later, and the caller checks whether the job exists.
    """
    if not re.fullmatch(r"[!-~]+", value.hostname):
        raise InvalidInput(f"{place}.hostname: Invalid hostname: {for_message(value.hostname)}")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", value.job_id):
        raise InvalidInput(f"{place}.jobId: {for_message(value.job_id)}: must be the id of a job")
    return DeclaredPeer(value.hostname, value.job_id, place)


@dataclass(slots=True)
class Bound:
    """Parameters of one job, with their values."""

    values: dict[str, Any] = field(default_factory=dict)
    """Values for templates; None for an optional parameter without a value."""
    arguments: dict[str, str] = field(default_factory=dict)
    """Values as text for arguments, of parameters that have a value."""
    true: set[str] = field(default_factory=set)
    """Boolean parameters that are true."""
    peers: list[DeclaredPeer] = field(default_factory=list)
    paths: list[DrivePath] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    workflows: list[tuple[str, Template, bool]] = field(default_factory=list)
    """Job texts to append to the invocation: source, text, and whether the user wrote it."""


def is_injected(name: str) -> bool:
    """Return whether UCloud adds a parameter of this name by itself; see the module."""
    return name == "ucMetricSampleRate" or name.startswith("_injected_")


def bind(
    given: Mapping[str, AppParameterValue],
    application: Application,
    resolve: Resolve,
) -> Bound:
    """Return each parameter's value.

    `resolve` returns the path of a file value, with its field and kind. Raise `InvalidInput` that names every parameter
    that is unknown, missing, of the wrong type, or out of its limits.
    """
    bound = Bound()
    problems: list[str] = []
    parameters = _with_workflows(bound, application, given, problems)
    known = _listed(for_message(name)[1:-1] for name in parameters)
    problems += [
        f"{_field(name)}: Unknown parameter supplied: {for_message(name)}; this application has: {known}"
        for name in given
        if name not in parameters and not is_injected(name)
    ]
    for name, parameter in parameters.items():
        if parameter.type != "workflow":
            with _noting(problems):
                _bind_one(bound, parameter, given.get(name) or _default(parameter), resolve)
    if problems:
        raise InvalidInput(join_problems(problems))
    return bound


def _listed(names: Iterable[str]) -> str:
    """Return names for a message, at most `_NAMES_SHOWN`."""
    found = list(islice(names, _NAMES_SHOWN + 1))
    return ", ".join(found[:_NAMES_SHOWN]) + (", ..." if len(found) > _NAMES_SHOWN else "") or "none"


def default_files(given: Mapping[str, AppParameterValue], application: Application) -> dict[str, FileValue]:
    """Return the application's default files of parameters without a value in the job, by parameter.

    Problems with defaults and workflows are left to `bind`.
    """
    found = {}
    for name, parameter in _with_workflows(Bound(), application, given, []).items():
        if name not in given and parameter.type in {"input_file", "input_directory"}:
            with suppress(InvalidInput):
                value = _default(parameter)
                if isinstance(value, FileValue):
                    found[name] = value
    return found


def _with_workflows(
    bound: Bound, application: Application, given: Mapping[str, AppParameterValue], problems: list[str]
) -> dict[str, Parameter]:
    """Return the application's parameters and those of its workflows."""
    parameters = {parameter.name: parameter for parameter in application.parameters}
    for workflow in [parameter for parameter in application.parameters if parameter.type == "workflow"]:
        with _noting(problems):
            for extra in _bind_workflow(bound, workflow, given.get(workflow.name)):
                if extra.name in parameters:
                    raise InvalidInput(
                        f"{_field(workflow.name)}: the application already has its parameter {for_message(extra.name)}"
                    )
                parameters[extra.name] = extra
    return parameters


@contextmanager
def _noting(problems: list[str]) -> Iterator[None]:
    """Collect an `InvalidInput` instead of raising it."""
    try:
        yield
    except InvalidInput as error:
        problems.append(str(error))


def _field(name: str) -> str:
    return field_path(("parameters", name))


def _default(parameter: Parameter) -> AppParameterValue | None:
    raw = parameter.default
    if raw is None or raw == "null":
        return None
    kind = _VALUE_OF.get(parameter.type, parameter.type)
    if isinstance(raw, dict):
        raw = raw["value"] if "value" in raw and kind != "file" else {**raw, "type": kind}
    try:
        return _VALUES.validate_python(raw if isinstance(raw, dict) else {"type": kind, "value": raw})
    except ValidationError as error:
        problems = "\n".join(list_problems(error, ()))
        raise InvalidInput(f"{_field(parameter.name)}: the application's default is invalid: {problems}") from error


def _bind_workflow(bound: Bound, parameter: Parameter, value: AppParameterValue | None) -> tuple[Parameter, ...]:
    place = _field(parameter.name)
    bound.values[parameter.name] = None
    if value is None and isinstance(parameter.default, Workflow):
        workflow, source, by_user = parameter.default, "the application's workflow", False
    elif isinstance(value, WorkflowValue):
        workflow, source, by_user = _read_workflow(value, parameter.name), f"{place}.specification.job", True
    elif value is not None:
        raise InvalidInput(_wrong_type(parameter, value))
    elif parameter.optional:
        return ()
    else:
        raise InvalidInput(f"{place}: Missing value for {for_message(parameter.name)}")
    if workflow.init.strip():
        raise InvalidInput(f"{place}.specification.init: a workflow's init text is not supported; put it into job")
    if workflow.job is not None:
        bound.workflows.append((source, workflow.job, by_user))
    return workflow.parameters


def _read_workflow(value: WorkflowValue, name: str) -> Workflow:
    place = _field(name)
    found = value.specification
    if found.language not in {"", "JINJA2"}:
        raise InvalidInput(f"{place}.specification.language: {for_message(found.language)}: must be JINJA2")
    inputs = []
    for number, item in enumerate(found.inputs):
        try:
            inputs.append(WireParameter.model_validate(item))
        except ValidationError as error:
            raise InvalidInput(
                "\n".join(list_problems(error, ("parameters", name, "specification", "inputs", number)))
            ) from error
    if any(item.type == "workflow" for item in inputs):
        raise InvalidInput(f"{place}.specification.inputs: a workflow cannot contain a workflow")
    return Workflow(
        job=None if found.job is None else Template(found.job),
        init=found.init or "",
        parameters=freeze_parameters(inputs),
    )


def _wrong_type(parameter: Parameter, value: AppParameterValue) -> str:
    expected = _VALUE_OF.get(parameter.type, parameter.type)
    if isinstance(value, UnknownValue):
        return f"{_field(parameter.name)}: unknown type of value: {for_message(value.type)}; must be {expected}"
    return f"{_field(parameter.name)}: Incorrect parameter type for {for_message(parameter.name)}: {value.type}; " + (
        "it has no value" if expected == "readme" else f"must be {expected}"
    )


def _bind_one(bound: Bound, parameter: Parameter, value: AppParameterValue | None, resolve: Resolve) -> None:
    name, place = parameter.name, _field(parameter.name)
    if value is None:
        if not parameter.optional:
            raise InvalidInput(f"{place}: Missing value for {for_message(name)}")
        bound.values[name] = None
        return
    expected = _VALUE_OF.get(parameter.type, parameter.type)
    if value.type != expected and not (expected in {"text", "textarea"} and isinstance(value, TextValue)):
        raise InvalidInput(_wrong_type(parameter, value))
    if reason := UNSUPPORTED_VALUES.get(value.type):
        raise InvalidInput(f"{place}: a value of type {value.type}: {reason}")
    bound.values[name] = plain = _plain_value(bound, parameter, value, resolve)
    if isinstance(value, BooleanValue):
        bound.arguments[name] = parameter.true_value if value.value else parameter.false_value
    elif isinstance(plain, list):
        bound.arguments[name] = " ".join(plain)
    else:
        bound.arguments[name] = bash.plain(plain)


def _plain_value(bound: Bound, parameter: Parameter, value: AppParameterValue, resolve: Resolve) -> Any:
    """Return the value for templates. Add its peer, path or modules to `bound`."""
    place = _field(parameter.name)
    match value:
        case BooleanValue():
            if value.value:
                bound.true.add(parameter.name)
            return value.value
        case IntegerValue() | FloatingPointValue():
            _check_number(parameter, value.value, place)
            return value.value
        case TextValue():
            return _choose(parameter, value.value, place) if parameter.type == "enumeration" else value.value
        case FileValue():
            path = resolve(value, place, "directory" if parameter.type == "input_directory" else "file")
            bound.paths.append(path)
            return path.cluster
        case PeerValue():
            bound.peers.append(read_peer(value, place))
            return value.hostname
        case ModulesValue():
            bound.modules += check_modules(value.modules, place, parameter.modules)
            return list(value.modules)
        case _:
            raise InvalidInput(_wrong_type(parameter, value))


def check_modules(names: Iterable[str], place: str, choice: tuple[str, ...] = ()) -> list[str]:
    """Return names of environment modules that are safe for `module load`. Raise `InvalidInput`."""
    found = list(names)
    allowed = frozenset(choice)
    for name in found:
        if not _ALLOWED_MODULE.fullmatch(name):
            raise InvalidInput(f"{place}: {for_message(name)} is not a name of an environment module")
        if allowed and name not in allowed:
            raise InvalidInput(f"{place}: {for_message(name)}: must be one of {_listed(choice)}")
    return found


def _check_number(parameter: Parameter, value: float, place: str) -> None:
    low, high, step = parameter.minimum, parameter.maximum, parameter.step
    if low is not None and value < low:
        raise InvalidInput(f"{place}: {for_message(value)}: must be at least {low}")
    if high is not None and value > high:
        raise InvalidInput(f"{place}: {for_message(value)}: must be at most {high}")
    if step and (Fraction(str(value)) - Fraction(str(low or 0))) % Fraction(str(step)):
        raise InvalidInput(f"{place}: {for_message(value)}: must be {low or 0} and a multiple of {step}")


def _choose(parameter: Parameter, value: str, place: str) -> str:
    """Return the value of an option, which is given by its name or its value."""
    for option in parameter.options:
        if option.name == value:
            return option.value
    if not parameter.options or any(option.value == value for option in parameter.options):
        return value
    names = _listed(for_message(option.name) for option in parameter.options)
    raise InvalidInput(f"{place}: {for_message(value)}: must be one of {names}")


def shell_words(part: Part, bound: Bound) -> list[str]:
    """Return the arguments of one part of an invocation, each as a word of bash. Raise `InvalidInput`."""
    match part:
        case EnvironmentVariable(name):
            if not _VARIABLE_NAME.fullmatch(name):
                raise InvalidInput(f"the application's invocation: {for_message(name)} is not a name of a variable")
            return [f'"${{{name}-}}"']
        case _:
            return [bash.quote(argument) for argument in arguments(part, bound)]


def arguments(part: Part, bound: Bound) -> list[str]:
    """Return the arguments of one part as plain text. Raise `InvalidInput` if only the running job knows them."""
    match part:
        case Word(text):
            return [text]
        case BoolFlag(name, flag):
            return [flag] if name in bound.true else []
        case Variable():
            return _variable(part, bound)
        case _:
            raise InvalidInput(
                "the application mixes Jinja or environment variables with words, which is not supported"
            )


def _variable(part: Variable, bound: Bound) -> list[str]:
    middle: list[str] = []
    size = 0
    for name in part.names:
        if (text := bound.arguments.get(name)) is None:
            continue
        size += len(text)  # one part may repeat a long text thousands of times
        if size > ARGUMENTS_LIMIT:
            raise InvalidInput(f"the arguments of one part are longer than {ARGUMENTS_LIMIT} bytes")
        if part.prefix_variable and not part.prefix_joined:
            middle.append(part.prefix_variable)
        argument = (part.prefix_variable if part.prefix_joined else "") + text
        middle.append(argument + (part.suffix_variable if part.suffix_joined else ""))
        if part.suffix_variable and not part.suffix_joined:
            middle.append(part.suffix_variable)
    if not middle:
        return []
    return [word for word in (part.prefix_global,) if word] + middle + [word for word in (part.suffix_global,) if word]


_KEYWORDS = frozenset(
    [
        *("if", "then", "else", "elif", "fi", "case", "esac", "for", "select", "while", "until", "do", "done", "in"),
        *("function", "time", "coproc", "{", "}", "!", "[[", "]]"),
    ]
)
"""Reserved words of bash."""


def command_line(application: Application, bound: Bound) -> str:
    """Return the command of an invocation without Jinja, quoted for bash.

    Raise `InvalidInput` if there is no command, or if its arguments are longer than Linux allows.
    """
    words: list[str] = []
    total = 0
    for part in application.invocation:
        for argument in () if isinstance(part, EnvironmentVariable) else arguments(part, bound):
            size = len(argument.encode())
            total += size
            if size > ARGUMENT_LIMIT:
                raise InvalidInput(f"an argument has {size} bytes; the limit is {ARGUMENT_LIMIT}")
        if total > ARGUMENTS_LIMIT:
            raise InvalidInput(f"the arguments have {total} bytes or more; the limit is {ARGUMENTS_LIMIT}")
        words += shell_words(part, bound)
    if not words:
        raise InvalidInput(f"the application {application} has no command")
    first, *rest = words
    if first in _KEYWORDS or "=" in first:
        first = f"'{first}'" if not first.startswith(("'", '"')) else first  # a program, not a keyword
    return " ".join([first, *rest])

"""A job's values and its application's parameters come together: what templates can name, and what a command line is.

Every value is honoured or refused with the reason. The only parameters that an application need not have are
`ucMetricSampleRate`, which UCloud adds to every job (there is no sampling here), and those whose names begin with
`_injected_`, which are UCloud's own as well.
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
"""The most bytes of one argument (MAX_ARG_STRLEN of Linux less its terminator)."""
ARGUMENTS_LIMIT = 1024 * 1024
"""The most bytes of all arguments of a command (half of what Linux allows with the usual stack)."""

_NAMES_SHOWN = 50
"""Names that a message lists."""

NOT_HERE = {
    "license_server": "there are no licence servers here",
    "network": "there are no public IP addresses here",
    "ingress": "there are no public links here",
    "block_storage": "there is no block storage here",
    "private_network": "there are no private networks here; connect to a job with a resource of type peer",
    "api_server": "jobs here are given no access to API servers",
}
"""Values that a Slurm cluster has nothing for, and why they are refused."""

_VALUE_OF = {
    "input_file": "file",
    "input_directory": "file",
    "enumeration": "text",
    "network_ip": "network",
}
"""What type a parameter's value has, where it is not called the same."""

_ALLOWED_MODULE = re.compile(r"[\w.+/][\w.+/:@-]*", re.ASCII)
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VALUES: TypeAdapter[AppParameterValue] = TypeAdapter(AppParameterValue)


@dataclass(frozen=True, slots=True)
class DeclaredPeer:
    """A job that this one is to find by a name. Neither is checked here."""

    hostname: str
    job_id: str
    field: str
    """Where it stands in the specification."""


def read_peer(value: PeerValue, where: str) -> DeclaredPeer:
    """A peer as it was declared. Raises `InvalidInput` for what could not be one word of a line.

    Whether the hostname may be used and the job is there, `slurm_adapter.core.hosts_file` and the caller find out.
    """
    if not re.fullmatch(r"[!-~]+", value.hostname):
        raise InvalidInput(f"{where}.hostname: Invalid hostname: {for_message(value.hostname)}")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", value.job_id):
        raise InvalidInput(f"{where}.jobId: {for_message(value.job_id)}: must be the id of a job")
    return DeclaredPeer(value.hostname, value.job_id, where)


@dataclass(slots=True)
class Bound:
    """The parameters of one job, with their values."""

    values: dict[str, Any] = field(default_factory=dict)
    """What templates name; None where an optional parameter has no value."""
    arguments: dict[str, str] = field(default_factory=dict)
    """As an argument's text; only parameters that have a value."""
    true: set[str] = field(default_factory=set)
    """Boolean parameters that are true."""
    peers: list[DeclaredPeer] = field(default_factory=list)
    paths: list[DrivePath] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    workflows: list[tuple[str, Template, bool]] = field(default_factory=list)
    """Job texts to append to the invocation, where they come from, and whether the user wrote them."""


def is_injected(name: str) -> bool:
    """Whether UCloud adds a parameter of this name by itself; see the module."""
    return name == "ucMetricSampleRate" or name.startswith("_injected_")


def bind(
    given: Mapping[str, AppParameterValue],
    application: Application,
    resolve: Resolve,
) -> Bound:
    """Give each parameter its value.

    `resolve` makes a path of a file value, its field and its kind. Raises `InvalidInput` that names every parameter
    that is unknown, missing, of the wrong type, or out of its bounds.
    """
    bound = Bound()
    problems: list[str] = []
    parameters = _with_workflows(bound, application, given, problems)
    known = _listed(for_message(name)[1:-1] for name in parameters)
    problems += [
        f"{_where(name)}: Unknown parameter supplied: {for_message(name)}; this application has: {known}"
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
    """Return names as a message lists them: not more than a reader wants to see."""
    found = list(islice(names, _NAMES_SHOWN + 1))
    return ", ".join(found[:_NAMES_SHOWN]) + (", ..." if len(found) > _NAMES_SHOWN else "") or "none"


def default_files(given: Mapping[str, AppParameterValue], application: Application) -> dict[str, FileValue]:
    """The files that the application itself names for parameters to which the job gives nothing, by parameter.

    What is wrong with a default or a workflow is left to `bind`.
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
    """The application's parameters, and those that its workflows bring along."""
    parameters = {parameter.name: parameter for parameter in application.parameters}
    for workflow in [parameter for parameter in application.parameters if parameter.type == "workflow"]:
        with _noting(problems):
            for extra in _bind_workflow(bound, workflow, given.get(workflow.name)):
                if extra.name in parameters:
                    raise InvalidInput(
                        f"{_where(workflow.name)}: its parameter {for_message(extra.name)} is the application's already"
                    )
                parameters[extra.name] = extra
    return parameters


@contextmanager
def _noting(problems: list[str]) -> Iterator[None]:
    """Collects an `InvalidInput` instead of raising it."""
    try:
        yield
    except InvalidInput as error:
        problems.append(str(error))


def _where(name: str) -> str:
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
        raise InvalidInput(f"{_where(parameter.name)}: the application's default is wrong: {problems}") from error


def _bind_workflow(bound: Bound, parameter: Parameter, value: AppParameterValue | None) -> tuple[Parameter, ...]:
    where = _where(parameter.name)
    bound.values[parameter.name] = None
    if value is None and isinstance(parameter.default, Workflow):
        workflow, source, by_user = parameter.default, "the application's workflow", False
    elif isinstance(value, WorkflowValue):
        workflow, source, by_user = _read_workflow(value, parameter.name), f"{where}.specification.job", True
    elif value is not None:
        raise InvalidInput(_wrong_type(parameter, value))
    elif parameter.optional:
        return ()
    else:
        raise InvalidInput(f"{where}: Missing value for {for_message(parameter.name)}")
    if workflow.init.strip():
        raise InvalidInput(f"{where}.specification.init: a workflow's init text is not run here; put it into job")
    if workflow.job is not None:
        bound.workflows.append((source, workflow.job, by_user))
    return workflow.parameters


def _read_workflow(value: WorkflowValue, name: str) -> Workflow:
    where = _where(name)
    found = value.specification
    if found.language not in {"", "JINJA2"}:
        raise InvalidInput(f"{where}.specification.language: {for_message(found.language)}: must be JINJA2")
    inputs = []
    for number, item in enumerate(found.inputs):
        try:
            inputs.append(WireParameter.model_validate(item))
        except ValidationError as error:
            raise InvalidInput(
                "\n".join(list_problems(error, ("parameters", name, "specification", "inputs", number)))
            ) from error
    if any(item.type == "workflow" for item in inputs):
        raise InvalidInput(f"{where}.specification.inputs: a workflow within a workflow")
    return Workflow(
        job=None if found.job is None else Template(found.job),
        init=found.init or "",
        parameters=freeze_parameters(inputs),
    )


def _wrong_type(parameter: Parameter, value: AppParameterValue) -> str:
    expected = _VALUE_OF.get(parameter.type, parameter.type)
    if isinstance(value, UnknownValue):
        return f"{_where(parameter.name)}: values of type {for_message(value.type)} are not known; it takes {expected}"
    return f"{_where(parameter.name)}: Incorrect parameter type for {for_message(parameter.name)}: {value.type}; " + (
        "it takes no value" if expected == "readme" else f"it takes {expected}"
    )


def _bind_one(bound: Bound, parameter: Parameter, value: AppParameterValue | None, resolve: Resolve) -> None:
    name, where = parameter.name, _where(parameter.name)
    if value is None:
        if not parameter.optional:
            raise InvalidInput(f"{where}: Missing value for {for_message(name)}")
        bound.values[name] = None
        return
    expected = _VALUE_OF.get(parameter.type, parameter.type)
    if value.type != expected and not (expected in {"text", "textarea"} and isinstance(value, TextValue)):
        raise InvalidInput(_wrong_type(parameter, value))
    if reason := NOT_HERE.get(value.type):
        raise InvalidInput(f"{where}: a value of type {value.type}: {reason}")
    bound.values[name] = plain = _plain_value(bound, parameter, value, resolve)
    if isinstance(value, BooleanValue):
        bound.arguments[name] = parameter.true_value if value.value else parameter.false_value
    elif isinstance(plain, list):
        bound.arguments[name] = " ".join(plain)
    else:
        bound.arguments[name] = bash.plain(plain)


def _plain_value(bound: Bound, parameter: Parameter, value: AppParameterValue, resolve: Resolve) -> Any:
    """The value as templates see it; what else comes with it goes to `bound`."""
    where = _where(parameter.name)
    match value:
        case BooleanValue():
            if value.value:
                bound.true.add(parameter.name)
            return value.value
        case IntegerValue() | FloatingPointValue():
            _check_number(parameter, value.value, where)
            return value.value
        case TextValue():
            return _choose(parameter, value.value, where) if parameter.type == "enumeration" else value.value
        case FileValue():
            path = resolve(value, where, "directory" if parameter.type == "input_directory" else "file")
            bound.paths.append(path)
            return path.cluster
        case PeerValue():
            bound.peers.append(read_peer(value, where))
            return value.hostname
        case ModulesValue():
            bound.modules += check_modules(value.modules, where, parameter.modules)
            return list(value.modules)
        case _:
            raise InvalidInput(_wrong_type(parameter, value))


def check_modules(names: Iterable[str], where: str, choice: tuple[str, ...] = ()) -> list[str]:
    """Environment modules as `module load` may be given them. Raises `InvalidInput`."""
    found = list(names)
    allowed = frozenset(choice)
    for name in found:
        if not _ALLOWED_MODULE.fullmatch(name):
            raise InvalidInput(f"{where}: {for_message(name)} is no name of an environment module")
        if allowed and name not in allowed:
            raise InvalidInput(f"{where}: {for_message(name)}: must be one of {_listed(choice)}")
    return found


def _check_number(parameter: Parameter, value: float, where: str) -> None:
    low, high, step = parameter.minimum, parameter.maximum, parameter.step
    if low is not None and value < low:
        raise InvalidInput(f"{where}: {for_message(value)}: must be at least {low}")
    if high is not None and value > high:
        raise InvalidInput(f"{where}: {for_message(value)}: must be at most {high}")
    if step and (Fraction(str(value)) - Fraction(str(low or 0))) % Fraction(str(step)):
        raise InvalidInput(f"{where}: {for_message(value)}: must be {low or 0} and a multiple of {step}")


def _choose(parameter: Parameter, value: str, where: str) -> str:
    """Users choose by an option's name; its value is taken as well."""
    for option in parameter.options:
        if option.name == value:
            return option.value
    if not parameter.options or any(option.value == value for option in parameter.options):
        return value
    names = _listed(for_message(option.name) for option in parameter.options)
    raise InvalidInput(f"{where}: {for_message(value)}: must be one of {names}")


def shell_words(part: Part, bound: Bound) -> list[str]:
    """The arguments that one part of an invocation gives, each as a word of bash. Raises `InvalidInput`."""
    match part:
        case EnvironmentVariable(name):
            if not _VARIABLE_NAME.fullmatch(name):
                raise InvalidInput(f"the application's invocation: {for_message(name)} is no name of a variable")
            return [f'"${{{name}-}}"']
        case _:
            return [bash.quote(argument) for argument in arguments(part, bound)]


def arguments(part: Part, bound: Bound) -> list[str]:
    """The arguments that one part gives, as plain text. Raises `InvalidInput` for one that only a job can know."""
    match part:
        case Word(text):
            return [text]
        case BoolFlag(name, flag):
            return [flag] if name in bound.true else []
        case Variable():
            return _variable(part, bound)
        case _:
            raise InvalidInput(
                "the application mixes Jinja or a job's own variables with words, which is not supported"
            )


def _variable(part: Variable, bound: Bound) -> list[str]:
    middle: list[str] = []
    size = 0
    for name in part.names:
        if (text := bound.arguments.get(name)) is None:
            continue
        size += len(text)  # one part may name a long text thousands of times
        if size > ARGUMENTS_LIMIT:
            raise InvalidInput(f"the arguments of one part are longer than {ARGUMENTS_LIMIT} bytes")
        if part.prefix_variable and not part.prefix_joined:
            middle.append(part.prefix_variable)
        joined = (part.prefix_variable if part.prefix_joined else "") + text
        middle.append(joined + (part.suffix_variable if part.suffix_joined else ""))
        if part.suffix_variable and not part.suffix_joined:
            middle.append(part.suffix_variable)
    if not middle:
        return []
    return [word for word in (part.prefix_global,) if word] + middle + [word for word in (part.suffix_global,) if word]


_KEYWORDS = frozenset(
    [
        "if",
        "then",
        "else",
        "elif",
        "fi",
        "case",
        "esac",
        "for",
        "select",
        "while",
        "until",
        "do",
        "done",
        "in",
        "function",
        "time",
        "coproc",
        "{",
        "}",
        "!",
        "[[",
        "]]",
    ]
)


def command_line(application: Application, bound: Bound) -> str:
    """The one command of an invocation without Jinja, quoted for bash.

    Raises `InvalidInput` where there is none, or its arguments are longer than Linux lets a program have.
    """
    words: list[str] = []
    total = 0
    for part in application.invocation:
        for argument in () if isinstance(part, EnvironmentVariable) else arguments(part, bound):
            size = len(argument.encode())
            total += size
            if size > ARGUMENT_LIMIT:
                raise InvalidInput(f"an argument has {size} bytes; one may have at most {ARGUMENT_LIMIT}")
        if total > ARGUMENTS_LIMIT:
            raise InvalidInput(f"the arguments have {total} bytes or more; together they may have {ARGUMENTS_LIMIT}")
        words += shell_words(part, bound)
    if not words:
        raise InvalidInput(f"the application {application} has no command")
    first, *rest = words
    if first in _KEYWORDS or "=" in first:
        first = f"'{first}'" if not first.startswith(("'", '"')) else first  # the name of a program, not bash's own
    return " ".join([first, *rest])

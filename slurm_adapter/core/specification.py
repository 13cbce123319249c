"""What users and UCloud send, read at the untrusted edge.

Two generations of UCloud are read alike (contract of `JobSpecification` and `Job`): the older sends only the keys that
it means and `null` for the rest, the newer sends every key of every value with its zero value. So a key that is absent
and one that is `null` are the same here, unknown keys are ignored, and a value's `type` decides which of its keys
count.

Decisions at this edge:

* Numbers are what JSON says: `1.0` is no integer, `true` is no number, `NaN` and numbers beyond 64 bits are refused.
  UCloud writes integers without a point or exponent wherever they fit 64 bits.
* A key given twice is refused: readers differ in which one they take, and UCloud never sends one.
* NUL and lone surrogates are refused in every text that is used: neither a file name nor an argument can hold them.
* Everything is counted before it costs something: see `slurm_adapter.core.json_bounds`, `BULK_LIMIT` and `JOB_LIMIT`. A
  list is read up to its first wrong element, and a message names at most `PROBLEMS_LIMIT` wrong fields: a small input
  with many errors needs no more memory than a good one.
"""

from __future__ import annotations

import json
import math
import re
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    FailFast,
    Field,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.json_bounds import check_bounds, read_integer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

BULK_LIMIT = 1000
"""The most items of one request; the limit of UCloud's documentation."""

YEARS = 62_135_596_800_000
"""Milliseconds by which a time may differ from 1970: until the year 1, UCloud's zero time, and as far ahead."""

JOB_LIMIT = 1000
"""The most labels, the most parameters and the most resources of a job."""

PROBLEMS_LIMIT = 100
"""The most wrong fields that a message names."""

_SHOWN = 60
"""Characters of a refused value that a message shows."""


def for_message(value: object) -> str:
    """A value as a message shows it: shortened, and safe for a terminal (no control characters)."""
    text = value[: _SHOWN + 1] if isinstance(value, str) else _as_json(value)
    shortened = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    return repr(shortened) if isinstance(value, str) else repr(shortened)[1:-1]


def _as_json(value: object) -> str:
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return f"an integer of {value.bit_length()} bits"  # its decimal digits may be more than Python prints
    text = ""
    for piece in json.JSONEncoder(default=str).iterencode(value):  # no further than is shown
        text += piece[: _SHOWN + 1]
        if len(text) > _SHOWN:
            break
    return text


_HALF = re.compile("[\ud800-\udfff]")


def _check_text(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not hold a NUL character")
    if _HALF.search(value):
        raise ValueError("must not hold half of a surrogate pair")
    return value


def _check_line(value: str) -> str:
    _check_text(value)
    if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", value):
        raise ValueError("must be one line without control characters")
    return value


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


T = TypeVar("T")
Text = Annotated[str, AfterValidator(_check_text)]
"""Any text that may become an argument."""
Line = Annotated[str, AfterValidator(_check_line)]
"""Text that is shown in lists and messages."""
Listed = Annotated[tuple[T, ...], FailFast(), BeforeValidator(_as_tuple)]
"""A JSON array. Its first wrong entry is told of: a message for each of thousands would take gigabytes."""
Integer = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]


def _check_count(value: object) -> object:
    """Refuse more labels, parameters or resources than a job may have, before each is looked at."""
    if isinstance(value, dict | list) and len(value) > JOB_LIMIT:
        raise ValueError(f"must have at most {JOB_LIMIT} entries")
    return value


class Wire(BaseModel):
    """A JSON object of UCloud: camelCase keys, unknown ones ignored, `null` the same as absent, nothing converted."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(validation_alias=to_camel, serialization_alias=to_camel),
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        strict=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _absent_is_null(cls, data: object) -> object:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


class NameAndVersion(Wire):
    """An application's identity."""

    name: Annotated[Line, Field(min_length=1, max_length=256)]
    version: Annotated[Line, Field(min_length=1, max_length=256)]


class ProductReference(Wire):
    """A machine type: `id` within `category` of `provider`."""

    id: Line
    category: Line
    provider: Line


class SimpleDuration(Wire):
    """A time allocation. Its parts have no bounds: 90 minutes are one hour and a half."""

    hours: Integer = 0
    minutes: Integer = 0
    seconds: Integer = 0

    @property
    def in_seconds(self) -> int:
        """The whole duration in seconds; may be zero or negative."""
        return (self.hours * 60 + self.minutes) * 60 + self.seconds


class FileValue(Wire):
    """A file or folder of a UCloud drive."""

    type: Literal["file"]
    path: Text
    read_only: bool = False
    mount_path: Text = ""


class BooleanValue(Wire):
    """A yes or no."""

    type: Literal["boolean"]
    value: bool


class TextValue(Wire):
    """A text; the newer generation sends it for text areas and enumerations too."""

    type: Literal["text", "textarea"]
    value: Text


class IntegerValue(Wire):
    """A 64-bit integer. UCloud has already rounded what is beyond 2^53."""

    type: Literal["integer"]
    value: Integer


class FloatingPointValue(Wire):
    """A finite number."""

    type: Literal["floating_point"]
    value: Annotated[float, Field(allow_inf_nan=False)]


class PeerValue(Wire):
    """Another job and the name that it is to have here. `slurm_adapter.core.hosts_file` checks the name."""

    type: Literal["peer"]
    hostname: Text
    job_id: Line


class ReferenceValue(Wire):
    """A UCloud resource that is named by its id alone."""

    type: Literal["license_server", "block_storage", "network", "private_network"]
    id: Text


class IngressValue(Wire):
    """A public link."""

    type: Literal["ingress"]
    id: Text
    port: Annotated[int, Field(ge=0, le=65535)] = 0


class WorkflowSpecification(Wire):
    """A user's own job text."""

    application_name: Text = ""
    language: Text = ""
    init: Text | None = None
    job: Text | None = None
    readme: Text | None = None
    inputs: Listed[dict[str, Any]] = ()
    """Parameters that it brings along; `slurm_adapter.translation.application.WireParameter` reads them."""


class WorkflowValue(Wire):
    """A job text in place of, or after, the application's own."""

    type: Literal["workflow"]
    specification: WorkflowSpecification


class ModulesValue(Wire):
    """Environment modules to load."""

    type: Literal["modules"]
    modules: Listed[Text] = ()


class ApiServerValue(Wire):
    """Access to an API server. Of its secrets nothing is kept."""

    type: Literal["api_server"]


class UnknownValue(Wire):
    """A value of a type that is not known here: read, so that the rest can be, and refused where it is used."""

    type: Line


_VALUE_TYPES: dict[str, type[Wire]] = {
    "file": FileValue,
    "boolean": BooleanValue,
    "text": TextValue,
    "textarea": TextValue,
    "integer": IntegerValue,
    "floating_point": FloatingPointValue,
    "peer": PeerValue,
    "license_server": ReferenceValue,
    "block_storage": ReferenceValue,
    "network": ReferenceValue,
    "private_network": ReferenceValue,
    "ingress": IngressValue,
    "workflow": WorkflowValue,
    "modules": ModulesValue,
    "api_server": ApiServerValue,
}


def _tag(value: object) -> str:
    name = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"<{_VALUE_TYPES.get(name, UnknownValue).__name__}>" if isinstance(name, str) else "<UnknownValue>"


AppParameterValue = Annotated[
    Annotated[FileValue, Tag("<FileValue>")]
    | Annotated[BooleanValue, Tag("<BooleanValue>")]
    | Annotated[TextValue, Tag("<TextValue>")]
    | Annotated[IntegerValue, Tag("<IntegerValue>")]
    | Annotated[FloatingPointValue, Tag("<FloatingPointValue>")]
    | Annotated[PeerValue, Tag("<PeerValue>")]
    | Annotated[ReferenceValue, Tag("<ReferenceValue>")]
    | Annotated[IngressValue, Tag("<IngressValue>")]
    | Annotated[WorkflowValue, Tag("<WorkflowValue>")]
    | Annotated[ModulesValue, Tag("<ModulesValue>")]
    | Annotated[ApiServerValue, Tag("<ApiServerValue>")]
    | Annotated[UnknownValue, Tag("<UnknownValue>")],
    Discriminator(_tag),
]
"""One value of a parameter or one resource; `type` tells which. (Tags in angle brackets never reach a message.)"""


class JobSpecification(Wire):
    """What a user asks for. `slurm_adapter.translation.invocation` says field by field what becomes of it."""

    application: NameAndVersion
    product: ProductReference
    labels: Annotated[dict[Line, Text], BeforeValidator(_check_count)] = Field(default_factory=dict)
    name: Annotated[Line, Field(max_length=1024)] = ""
    hostname: Text = ""
    replicas: Integer = 1
    allow_duplicate_job: bool = False
    parameters: Annotated[dict[Text, AppParameterValue], BeforeValidator(_check_count)] = Field(default_factory=dict)
    resources: Annotated[tuple[AppParameterValue, ...], BeforeValidator(_as_tuple), BeforeValidator(_check_count)] = ()
    time_allocation: SimpleDuration | None = None
    opened_file: Text = ""
    restart_on_exit: bool = False
    ssh_enabled: bool = False


class Owner(Wire):
    """Who a job belongs to: a user, in a project or in the personal workspace."""

    created_by: Annotated[Line, Field(min_length=1)]
    project: Line | None = None


class ResolvedProduct(Wire):
    """What UCloud sells under a product's name, per node. Both of its generations have these keys; 0 says nothing."""

    cpu: Annotated[int, Field(ge=0, lt=2**63)] = 0
    memory_in_gigs: Annotated[int, Field(ge=0, lt=2**63)] = 0
    gpu: Annotated[int, Field(ge=0, lt=2**63)] = 0


class JobStatus(Wire):
    """What UCloud has resolved for a job. Read further by `slurm_adapter.translation.application`."""

    state: Line = "IN_QUEUE"
    resolved_application: dict[str, Any] | None = None
    resolved_product: ResolvedProduct | None = None


class Job(Wire):
    """A job as UCloud hands it to a provider."""

    id: Annotated[Line, Field(min_length=1, max_length=64)]
    owner: Owner
    created_at: Annotated[int, Field(ge=-YEARS, le=YEARS)] = 0
    """Milliseconds since 1970; UCloud may send its zero time, which is negative."""
    provider_generated_id: Text = ""
    specification: JobSpecification
    status: JobStatus = JobStatus()


def parse_specifications(data: bytes) -> list[JobSpecification]:
    """One JobSpecification, or a bulk `{"items": [...]}` of 1 to 1000.

    Raises `InvalidInput` that names every wrong field, its value, and what is allowed.
    """
    document = decode_json(data)
    if isinstance(document, dict) and document and "items" not in document:
        return [_validate(document, ())]
    return _validate_all(document)


def decode_json(data: bytes) -> Any:
    """JSON as bytes, strictly: UTF-8, no key twice, finite numbers, within bounds. Raises `InvalidInput`."""
    check_bounds(data)
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_number,
            parse_float=_finite,
            parse_int=read_integer,
        )
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the input is not UTF-8: byte {error.start} cannot be read") from error
    except json.JSONDecodeError as error:
        raise InvalidInput(f"the input is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # add returns None on purpose
        raise InvalidInput(f"the key {for_message(twice)} stands twice in one object; write it once")
    return result


def _no_number(word: str) -> float:
    raise InvalidInput(f"{word} is not JSON; numbers are finite")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise InvalidInput(f"the number {for_message(text)} is too large")
    return value


def _validate_all(document: object) -> list[JobSpecification]:
    items = document.get("items") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not (items is None or isinstance(items, list)):
        raise InvalidInput('the input must be a JSON object: a JobSpecification, or {"items": [...]}')
    if not items:
        raise InvalidInput("Request must not be empty")
    if len(items) > BULK_LIMIT:
        raise InvalidInput(f"Request cannot exceed {BULK_LIMIT} items")
    problems: list[str] = []
    found: list[JobSpecification] = []
    for number, item in enumerate(items):
        try:
            found.append(_validate(item, ("items", number)))
        except InvalidInput as error:
            problems += str(error).splitlines()
        if len(problems) > PROBLEMS_LIMIT:
            break
    if problems:
        raise InvalidInput(joined(problems))
    return found


def joined(problems: Iterable[str]) -> str:
    """Return the first lines of a message, of as many as a reader may want to see."""
    lines = iter(problems)
    shortened = list(islice(lines, PROBLEMS_LIMIT))
    return "\n".join([*shortened, "... and more"] if next(lines, None) is not None else shortened)


def _validate(item: object, prefix: tuple[str | int, ...]) -> JobSpecification:
    try:
        return JobSpecification.model_validate(item)
    except ValidationError as error:
        raise InvalidInput(joined(describe(error, prefix))) from error
    except RecursionError as error:
        raise InvalidInput(f"{field_path(prefix)}: nested too deeply") from error


_SAID_SHORTER = {
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "tuple_type": "must be a list",
    "string_type": "must be a text",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
}


def describe(error: ValidationError, prefix: tuple[str | int, ...]) -> Iterable[str]:
    """One line per wrong field: where it stands, its value, and what is allowed."""
    return describe_all(error.errors(include_url=False), prefix)


def describe_all(problems: Iterable[Mapping[str, Any]], prefix: tuple[str | int, ...] = ()) -> Iterable[str]:
    """The same, of pydantic's list of errors."""
    for problem in problems:
        path = field_path((*prefix, *(part for part in problem["loc"] if not str(part).startswith("<"))))
        if problem["type"] == "missing":
            yield f"{path}: is missing; it is required"
        else:
            yield f"{path}: {for_message(problem['input'])}: {_allowed(problem)}"


def _allowed(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "too_short" and problem["input"] == "":
        return "must not be empty"
    if problem["type"] == "too_long" and isinstance(problem["input"], str):
        return f"must have at most {problem['ctx']['max_length']} characters"
    message: str = problem["msg"]
    return _SAID_SHORTER.get(problem["type"]) or message.removeprefix("Value error, ").removeprefix("Input ")


def field_path(parts: Iterable[str | int]) -> str:
    """Where a value stands, as `items[1].resources[0].hostname`."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"\w+", part, re.ASCII):
            text += f".{part}" if text else part
        else:
            text += f"[{for_message(part)}]"
    return text or "the input"

"""Models of what users and UCloud send. All of it is untrusted.

Two generations of UCloud are supported. The older one sends only the keys that it uses, and `null` for the others. The
newer one sends every key of every value, with its zero value. So absent keys and `null` mean the same, unknown keys are
ignored, and the `type` of a value decides which of its keys are read.

Rules for input:

* Numbers are read strictly: `1.0` is not an integer, `true` is not a number, `NaN` and numbers over 64 bits are
  refused. UCloud writes integers without point and exponent if they fit 64 bits.
* Duplicate keys are refused, because readers differ in which one they use. UCloud never sends them.
* NUL and lone surrogates are refused in all texts that are used, because file names and arguments cannot hold them.
* Sizes are checked first: see `slurm_adapter.core.json_bounds`, `BULK_LIMIT` and `JOB_LIMIT`. A list is read up to its
  first wrong element, and a message has at most `PROBLEMS_LIMIT` problems. So an input with many errors needs as much
  memory as a valid one.
"""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, Literal, TypeVar

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
from slurm_adapter.core.problems import PROBLEMS_LIMIT, field_path, for_message, join_problems, list_problems

BULK_LIMIT = 1000
"""Most items of one request, as in UCloud's documentation."""

YEARS = 62_135_596_800_000
"""Limit of times, in milliseconds before and after 1970. The year 1 is UCloud's zero time."""

JOB_LIMIT = 1000
"""Most labels, parameters and resources of a job, each."""

_HALF = re.compile("[\ud800-\udfff]")


def _check_text(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain a NUL character")
    if _HALF.search(value):
        raise ValueError("must not contain half of a surrogate pair")
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
"""Text that may become an argument."""
Line = Annotated[str, AfterValidator(_check_line)]
"""Text for lists and messages."""
Listed = Annotated[tuple[T, ...], FailFast(), BeforeValidator(_as_tuple)]
"""JSON array. Only its first wrong element is reported: messages about thousands would need gigabytes."""
Integer = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]


def _check_count(value: object) -> object:
    """Raise `ValueError` for too many labels, parameters or resources, before their elements are read."""
    if isinstance(value, dict | list) and len(value) > JOB_LIMIT:
        raise ValueError(f"must have at most {JOB_LIMIT} entries")
    return value


class Wire(BaseModel):
    """JSON object of UCloud: camelCase keys, unknown keys ignored, `null` as absent, no conversions."""

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
    """Identity of an application."""

    name: Annotated[Line, Field(min_length=1, max_length=256)]
    version: Annotated[Line, Field(min_length=1, max_length=256)]


class ProductReference(Wire):
    """Machine type: `id` in `category` of `provider`."""

    id: Line
    category: Line
    provider: Line


class SimpleDuration(Wire):
    """Time allocation. Its parts have no bounds: 90 minutes are one and a half hours."""

    hours: Integer = 0
    minutes: Integer = 0
    seconds: Integer = 0

    @property
    def in_seconds(self) -> int:
        """Return the duration in seconds. It may be zero or negative."""
        return (self.hours * 60 + self.minutes) * 60 + self.seconds


class FileValue(Wire):
    """File or folder of a UCloud drive."""

    type: Literal["file"]
    path: Text
    read_only: bool = False
    mount_path: Text = ""


class BooleanValue(Wire):
    """Boolean."""

    type: Literal["boolean"]
    value: bool


class TextValue(Wire):
    """Text. The newer generation of UCloud sends it for text areas and enumerations, too."""

    type: Literal["text", "textarea"]
    value: Text


class IntegerValue(Wire):
    """64-bit integer. UCloud has already rounded values over 2^53."""

    type: Literal["integer"]
    value: Integer


class FloatingPointValue(Wire):
    """Finite number."""

    type: Literal["floating_point"]
    value: Annotated[float, Field(allow_inf_nan=False)]


class PeerValue(Wire):
    """Another job, and its hostname for this job. `slurm_adapter.core.hosts_file` checks the hostname."""

    type: Literal["peer"]
    hostname: Text
    job_id: Line


class ReferenceValue(Wire):
    """UCloud resource that consists of its id."""

    type: Literal["license_server", "block_storage", "network", "private_network"]
    id: Text


class IngressValue(Wire):
    """Public link."""

    type: Literal["ingress"]
    id: Text
    port: Annotated[int, Field(ge=0, le=65535)] = 0


class WorkflowSpecification(Wire):
    """Job text of a user."""

    application_name: Text = ""
    language: Text = ""
    init: Text | None = None
    job: Text | None = None
    readme: Text | None = None
    inputs: Listed[dict[str, Any]] = ()
    """Its own parameters; `slurm_adapter.translation.application.WireParameter` reads them."""


class WorkflowValue(Wire):
    """Job text that replaces or follows that of the application."""

    type: Literal["workflow"]
    specification: WorkflowSpecification


class ModulesValue(Wire):
    """Environment modules to load."""

    type: Literal["modules"]
    modules: Listed[Text] = ()


class ApiServerValue(Wire):
    """Access to an API server. Its secrets are not kept."""

    type: Literal["api_server"]


class UnknownValue(Wire):
    """Value of an unknown type. It is refused only if it is used."""

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
"""Value of a parameter, or a resource; see its `type`. Tags in angle brackets are removed from messages."""


class JobSpecification(Wire):
    """Job that a user requests. `slurm_adapter.translation.translate` explains each field."""

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
    """Owner of a job: a user, in a project or in the personal workspace."""

    created_by: Annotated[Line, Field(min_length=1)]
    project: Line | None = None


class ResolvedProduct(Wire):
    """Size of a node of a product in UCloud. Both generations send these keys; 0 means unknown."""

    cpu: Annotated[int, Field(ge=0, lt=2**63)] = 0
    memory_in_gigs: Annotated[int, Field(ge=0, lt=2**63)] = 0
    gpu: Annotated[int, Field(ge=0, lt=2**63)] = 0


class JobStatus(Wire):
    """Objects that UCloud resolved for a job. `slurm_adapter.translation.application` reads the application."""

    state: Line = "IN_QUEUE"
    resolved_application: dict[str, Any] | None = None
    resolved_product: ResolvedProduct | None = None


class Job(Wire):
    """Job that UCloud submits to a provider."""

    id: Annotated[Line, Field(min_length=1, max_length=64)]
    owner: Owner
    created_at: Annotated[int, Field(ge=-YEARS, le=YEARS)] = 0
    """Milliseconds since 1970. UCloud's zero time is negative."""
    provider_generated_id: Text = ""
    specification: JobSpecification
    status: JobStatus = JobStatus()


def parse_specifications(data: bytes) -> list[JobSpecification]:
    """Return one JobSpecification, or those of a bulk `{"items": [...]}` with 1 to 1000 items.

    Raise `InvalidInput` that names each wrong field, its value, and what is allowed.
    """
    document = decode_json(data)
    if isinstance(document, dict) and document and "items" not in document:
        return [_validate(document, ())]
    return _validate_all(document)


def decode_json(data: bytes) -> Any:
    """Return the value of JSON: UTF-8, no duplicate keys, finite numbers, limited size. Raise `InvalidInput`."""
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
        raise InvalidInput(f"the input is not UTF-8: byte {error.start} is invalid") from error
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
    raise InvalidInput(f"{word} is not JSON; numbers must be finite")


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
        raise InvalidInput(join_problems(problems))
    return found


def _validate(item: object, prefix: tuple[str | int, ...]) -> JobSpecification:
    try:
        return JobSpecification.model_validate(item)
    except ValidationError as error:
        raise InvalidInput(join_problems(list_problems(error, prefix))) from error
    except RecursionError as error:
        raise InvalidInput(f"{field_path(prefix)}: nested too deeply") from error

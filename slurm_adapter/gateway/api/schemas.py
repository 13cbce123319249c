"""Models of requests by UCloud and by users, and of answers.

The requests contain models of `slurm_adapter.core.specification`; the forms of both generations of UCloud's core are
read. Answers hold every key, and integers in all places in which UCloud's newer core insists on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AliasGenerator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from slurm_adapter.core.specification import (
    BULK_LIMIT,
    AppParameterValue,
    Integer,
    Job,
    JobSpecification,
    Line,
    Listed,
    Owner,
    ProductReference,
    SimpleDuration,
    Text,
    Wire,
)
from slurm_adapter.core.states import JobState

T = TypeVar("T")


def _check_size(items: object) -> object:
    """Check the number of items before the items themselves, because there may be millions."""
    if items in ([], ()):
        raise ValueError("Request must not be empty")
    if isinstance(items, list) and len(items) > BULK_LIMIT:
        raise ValueError(f"Request cannot exceed {BULK_LIMIT} items")
    return items


class BulkRequest(Wire, Generic[T]):
    """A request about 1 to 1000 items: all are done, or none."""

    items: Annotated[Listed[T], BeforeValidator(_check_size)] = Field(default=(), validate_default=True)


class FindById(Wire):
    """A job, by its id."""

    id: Line


class Extension(Wire):
    """More time for a job."""

    job_id: Line
    requested_time: SimpleDuration


class SessionRequest(Wire):
    """A session with a rank of a job."""

    id: Line
    rank: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    session_type: Literal["WEB", "VNC", "SHELL"]
    target: Text = ""


class Search(Wire):
    """A search for jobs by application, name or id."""

    query: Text = ""
    items_per_page: Integer = 50
    next: Text | None = None
    include_updates: bool = False
    include_product: bool = False
    include_support: bool = False


class JobExtension(Wire):
    """More time for a job, as UCloud asks a provider."""

    job: Job
    requested_time: SimpleDuration


class JobItem(Wire):
    """A job to suspend or to resume."""

    job: Job


class JobSessionRequest(Wire):
    """A session with a rank of a job, as UCloud asks a provider."""

    job: Job
    rank: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    session_type: Literal["WEB", "VNC", "SHELL"]
    target: Text = ""


class FolderTerminal(Wire):
    """A shell in a folder of a drive."""

    folder: Text


class AclEntity(Wire):
    """A user or a group of a project."""

    type: Text
    username: Text | None = None


class AclUpdate(Wire):
    """Changed permissions of a job. UCloud itself checks them before it sends other requests."""

    resource: Job
    added: Listed[dict[str, Any]] = ()
    deleted: Listed[AclEntity] = ()


class ResourceChange(Wire):
    """A resource to attach to a job, or to detach from it."""

    job: Job
    resource: AppParameterValue


class ParametersRequest(Wire):
    """The application for which further parameters are requested."""

    owner: Owner | None = None
    application: dict[str, Any] = Field(default_factory=dict)


class Init(Wire):
    """The user to prepare."""

    principal: dict[str, Any] | None = None
    username: Text = ""


class FollowRequest(Wire):
    """A request of UCloud to follow a job, or to stop."""

    type: Literal["init", "cancel"]
    job: Job | None = None
    stream_id: Text = ""


class Answer(BaseModel):
    """An answer: all keys, in camelCase, null if there is no value."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(serialization_alias=to_camel), frozen=True, populate_by_name=True
    )


class Empty(Answer):
    """An answer without content."""


class Bulk(Answer, Generic[T]):
    """One answer for each item, in order."""

    responses: tuple[T, ...]


def done(items: Sequence[object]) -> Bulk[Empty]:
    """Return one empty answer for each item."""
    return Bulk(responses=tuple(Empty() for _ in items))


class Error(Answer):
    """An error: a text for people, and a code for programs if UCloud has one."""

    why: str
    error_code: str | None = None


class Id(Answer):
    """The id of something new."""

    id: str


class Features(Answer):
    """Features of a product. UCloud reads an absent one as false."""

    enabled: bool = False
    logs: bool = False
    web: bool = False
    vnc: bool = False
    terminal: bool = False
    peers: bool = False
    time_extension: bool = False
    utilization: bool = False
    suspension: bool = False


class Support(Answer):
    """The features of one product."""

    product: ProductReference
    docker: Features = Features()
    virtual_machine: Features = Features()
    native: Features = Features()
    queue_status: Literal["AVAILABLE", "BUSY", "FULL"] | None = None
    maintenance: None = None


class Category(Answer):
    """A product's category."""

    name: str
    provider: str


class Product(Answer):
    """A machine type, in the keys that both generations of UCloud have."""

    name: str
    category: Category
    description: str
    product_type: Literal["COMPUTE"] = "COMPUTE"
    cpu: int
    memory_in_gigs: int
    gpu: int
    cpu_model: str | None
    memory_model: str | None
    gpu_model: str | None


class ProductAndSupport(Answer):
    """A machine type and its features."""

    product: Product
    support: Support


class Products(Answer):
    """The machine types of each provider."""

    products_by_provider: dict[str, tuple[ProductAndSupport, ...]]


class Parameters(Answer):
    """Further parameters of an application; there are none."""

    parameters: tuple[dict[str, Any], ...] = ()


class Manifest(Answer):
    """A statement that users do not have to connect to the provider."""

    enabled: bool = False
    expire_after_ms: int | None = None


class Session(Answer):
    """An open session. `type` decides which keys have values."""

    type: Literal["shell", "web", "vnc"]
    job_id: str
    rank: int
    domain_override: str | None = None
    session_identifier: str | None = None
    redirect_client_to: str | None = None
    url: str | None = None
    password: str | None = None


class ShellMessage(Answer):
    """A message to a browser from its shell."""

    type: Literal["initialize", "data", "ack"]
    data: str | None = None


class UserSession(Answer):
    """An open session and its provider."""

    provider_domain: str
    provider_id: str
    session: Session


class Permissions(Answer):
    """Permissions of the caller and of others."""

    myself: tuple[str, ...] = ("READ", "EDIT", "ADMIN")
    others: tuple[dict[str, Any], ...] = ()


class UpdateView(Answer):
    """An update of a job."""

    state: JobState | None
    status: str | None
    output_folder: str | None = None
    expected_state: JobState | None = None
    expected_different_state: bool | None = None
    new_time_allocation: int | None = None
    allow_restart: bool | None = None
    timestamp: int


class StatusView(Answer):
    """The state of a job."""

    state: JobState
    started_at: int | None
    expires_at: int | None
    job_parameters_json: None = None
    resolved_application: dict[str, Any] | None = None
    resolved_product: Product | None = None
    resolved_support: ProductAndSupport | None = None
    allow_restart: bool = False


class Output(Answer):
    """The folder of a job's output."""

    output_folder: str | None


class JobView(Answer):
    """A job as a user reads it."""

    id: str
    created_at: int
    owner: Owner
    permissions: Permissions = Permissions()
    provider_generated_id: str
    updates: tuple[UpdateView, ...]
    specification: JobSpecification
    status: StatusView
    output: Output


class LogView(Answer):
    """Some output of a job, on one of its two streams."""

    rank: int
    stdout: str | None = None
    stderr: str | None = None
    channel: str | None = None


class StreamedLog(LogView):
    """Some output, as a provider sends it to UCloud."""

    stream_id: str
    """Identifier to cancel the stream by."""


class Followed(Answer):
    """News of a job that a user follows."""

    updates: tuple[UpdateView, ...] = ()
    log: tuple[LogView, ...] = ()
    new_status: StatusView | None = None
    initial_job: JobView | None = None


class Page(Answer, Generic[T]):
    """A page of a list; `next` asks for the following one."""

    items_per_page: int
    items: tuple[T, ...]
    next: str | None


class Health(Answer):
    """The health of the gateway."""

    live: bool = True
    ready: bool
    why: str | None
    """Why it is not ready or, if it is ready, why updates to UCloud are delayed."""


class Capacity(Answer):
    """Processors, and bytes of memory."""

    cpu: float
    memory: int


class Queue(Answer):
    """Numbers of running and of pending jobs."""

    running: int
    pending: int


class Utilization(Answer):
    """How full the cluster is."""

    capacity: Capacity
    used_capacity: Capacity
    queue_status: Queue

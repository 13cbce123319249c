"""What is sent over the wire: the requests of UCloud and of users, and the answers that both cores of UCloud read.

The requests are `slurm_adapter.core.specification`'s models and a few around them; both generations' forms of them are
read (contract 1.16). Answers hold every key, and integers where UCloud's newer core insists on them (contract 1.2b).
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
    """Before the items themselves are looked at, of which there may be millions."""
    if items in ([], ()):
        raise ValueError("Request must not be empty")
    if isinstance(items, list) and len(items) > BULK_LIMIT:
        raise ValueError(f"Request cannot exceed {BULK_LIMIT} items")
    return items


class BulkRequest(Wire, Generic[T]):
    """1 to 1000 items, done all or none."""

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
    """As UCloud asks a provider."""

    job: Job
    requested_time: SimpleDuration


class JobItem(Wire):
    """A job to suspend or to resume."""

    job: Job


class JobSessionRequest(Wire):
    """As UCloud asks a provider."""

    job: Job
    rank: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    session_type: Literal["WEB", "VNC", "SHELL"]
    target: Text = ""


class FolderTerminal(Wire):
    """A shell in a folder of a drive."""

    folder: Text


class AclEntity(Wire):
    """A user or a group of a project (contract 1.12)."""

    type: Text
    username: Text | None = None


class AclUpdate(Wire):
    """Who else may use a job. UCloud itself asks whether somebody may before it asks the provider for anything."""

    resource: Job
    added: Listed[dict[str, Any]] = ()
    deleted: Listed[AclEntity] = ()


class ResourceChange(Wire):
    """A resource to attach to a job, or to detach from it."""

    job: Job
    resource: AppParameterValue


class ParametersRequest(Wire):
    """For which application more parameters are asked."""

    owner: Owner | None = None
    application: dict[str, Any] = Field(default_factory=dict)


class Init(Wire):
    """Whoever is to be made ready."""

    principal: dict[str, Any] | None = None
    username: Text = ""


class FollowRequest(Wire):
    """UCloud wants to follow a job, or no longer (contract 3.7)."""

    type: Literal["init", "cancel"]
    job: Job | None = None
    stream_id: Text = ""


class Answer(BaseModel):
    """An answer: camelCase keys, all of them, null for what is not there."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(serialization_alias=to_camel), frozen=True, populate_by_name=True
    )


class Empty(Answer):
    """Done."""


class Bulk(Answer, Generic[T]):
    """One answer for each item, in order."""

    responses: tuple[T, ...]


def done(items: Sequence[object]) -> Bulk[Empty]:
    """Each of them is done."""
    return Bulk(responses=tuple(Empty() for _ in items))


class Error(Answer):
    """What was wrong, for people, and for programs where UCloud has a word for it."""

    why: str
    error_code: str | None = None


class Id(Answer):
    """The id of something new."""

    id: str


class Features(Answer):
    """What a kind of machine can do. Absent is false to UCloud."""

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
    """What a product can do here (contract 1.15)."""

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
    """A machine type and what it can do."""

    product: Product
    support: Support


class Products(Answer):
    """The machine types of each provider."""

    products_by_provider: dict[str, tuple[ProductAndSupport, ...]]


class Parameters(Answer):
    """More parameters of an application; there are none here."""

    parameters: tuple[dict[str, Any], ...] = ()


class Manifest(Answer):
    """Whether users have to connect themselves with the provider: they have not."""

    enabled: bool = False
    expire_after_ms: int | None = None


class Session(Answer):
    """An open session (contract 1.15); which keys count is told by `type`."""

    type: Literal["shell", "web", "vnc"]
    job_id: str
    rank: int
    domain_override: str | None = None
    session_identifier: str | None = None
    redirect_client_to: str | None = None
    url: str | None = None
    password: str | None = None


class ShellMessage(Answer):
    """What a browser is told of its shell (contract 3.7)."""

    type: Literal["initialize", "data", "ack"]
    data: str | None = None


class UserSession(Answer):
    """An open session, and whose it is."""

    provider_domain: str
    provider_id: str
    session: Session


class Permissions(Answer):
    """Who may do what."""

    myself: tuple[str, ...] = ("READ", "EDIT", "ADMIN")
    others: tuple[dict[str, Any], ...] = ()


class UpdateView(Answer):
    """One thing that a user was told (contract 1.14)."""

    state: JobState | None
    status: str | None
    output_folder: str | None = None
    expected_state: JobState | None = None
    expected_different_state: bool | None = None
    new_time_allocation: int | None = None
    allow_restart: bool | None = None
    timestamp: int


class StatusView(Answer):
    """Where a job stands."""

    state: JobState
    started_at: int | None
    expires_at: int | None
    job_parameters_json: None = None
    resolved_application: dict[str, Any] | None = None
    resolved_product: Product | None = None
    resolved_support: ProductAndSupport | None = None
    allow_restart: bool = False


class Output(Answer):
    """Where its output is."""

    output_folder: str | None


class JobView(Answer):
    """A job as a user reads it (contract 1.12)."""

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
    """Some output of a job: of one of the two."""

    rank: int
    stdout: str | None = None
    stderr: str | None = None
    channel: str | None = None


class StreamedLog(LogView):
    """The same, as UCloud gets it from a provider."""

    stream_id: str
    """By which the stream is cancelled."""


class Followed(Answer):
    """What is new of a job that a user follows (contract 2)."""

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
    """How the gateway is."""

    live: bool = True
    ready: bool
    why: str | None
    """Why it is not ready; where it is, why UCloud is not told all that it should be."""


class Capacity(Answer):
    """Processors, and bytes of memory."""

    cpu: float
    memory: int


class Queue(Answer):
    """How many jobs run and wait."""

    running: int
    pending: int


class Utilization(Answer):
    """How full the cluster is (contract 1.15)."""

    capacity: Capacity
    used_capacity: Capacity
    queue_status: Queue

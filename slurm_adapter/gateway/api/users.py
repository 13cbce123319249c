"""The user API: the same `/api/jobs` as UCloud's own, for a site without UCloud.

An access token identifies the user. The header `Project` selects one of the user's workspaces. Jobs of other workspaces
can be neither seen nor changed.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request

from slurm_adapter.core.errors import InvalidInput, NotFound
from slurm_adapter.core.specification import JobSpecification, Owner
from slurm_adapter.core.states import JobState
from slurm_adapter.gateway import authentication
from slurm_adapter.gateway.api import job_json
from slurm_adapter.gateway.api.schemas import (
    Bulk,
    BulkRequest,
    Empty,
    Extension,
    FindById,
    Id,
    JobView,
    Page,
    Products,
    Search,
    Utilization,
    done,
)
from slurm_adapter.gateway.gateway import Shared
from slurm_adapter.gateway.http.strict_route import Came, StrictRoute
from slurm_adapter.gateway.thread_pools import counting
from slurm_adapter.jobs import control, peers
from slurm_adapter.jobs.item import Item, specification_of
from slurm_adapter.state.job_filter import Selection, SortBy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import Record
    from slurm_adapter.gateway.gateway import Gateway

MOST_ON_A_PAGE = 1000


class Flags:
    """Optional parts of a job in an answer; the names are UCloud's."""

    def __init__(
        self,
        *,
        include_others: Annotated[bool, Query(alias="includeOthers")] = False,
        include_updates: Annotated[bool, Query(alias="includeUpdates")] = False,
        include_support: Annotated[bool, Query(alias="includeSupport")] = False,
        include_product: Annotated[bool, Query(alias="includeProduct")] = False,
        include_parameters: Annotated[bool, Query(alias="includeParameters")] = False,
        include_application: Annotated[bool, Query(alias="includeApplication")] = False,
    ) -> None:
        # A job has no other users, parameters are in the specification, and applications are files of the site.
        del include_others, include_parameters, include_application
        self.updates = include_updates
        self.support = include_support
        self.product = include_product or include_support


class UserRoute(StrictRoute):
    """A route for users with access tokens."""

    async def admit(self, request: Request) -> AbstractContextManager[str]:
        """See `StrictRoute.admit`. Keep the owner with the request. Raise `TooMany`, too."""
        gateway: Gateway = request.app.state.gateway
        authorization, project = request.headers.get("authorization"), request.headers.get("project")
        owner = request.state.owner = await gateway.admit(authorization, project, request.scope["state"])
        return _held(gateway, owner.created_by)


@contextmanager
def _held(gateway: Gateway, user: str) -> Iterator[str]:
    with gateway.turns.counted(user), gateway.requests.hold(user), counting() as spent:
        try:
            yield user
        finally:
            gateway.turns.spend(user, spent.seconds)


async def _requester(
    request: Request,
    _: Annotated[str | None, Header(alias="project", description="The project, if any.")] = None,
) -> Owner:
    owner: Owner = request.state.owner
    return owner


Requester = Annotated[Owner, Depends(_requester)]
"""The user and workspace of a request."""


async def _grant(authorization: Annotated[str | None, Header(include_in_schema=False)] = None) -> str:
    return authentication.token_digest(authorization)


Grant = Annotated[str, Depends(_grant)]
"""Digest of the caller's access token, for sessions that outlast the request."""

api = APIRouter(prefix="/api/jobs", route_class=UserRoute, tags=["jobs"])


_LABEL = "filterLabels."


def _selection(
    request: Request,
    items_per_page: Annotated[int, Query(alias="itemsPerPage", ge=-(2**63), lt=2**63)] = 50,
    following: Annotated[str | None, Query(alias="next", description="The value of next in the page before.")] = None,
    sort_by: Annotated[SortBy, Query(alias="sortBy")] = "createdAt",
    sort_direction: Annotated[Literal["ascending", "descending"], Query(alias="sortDirection")] = "descending",
    state: Annotated[JobState | None, Query(alias="filterState")] = None,
    application: Annotated[str | None, Query(alias="filterApplication")] = None,
    created_by: Annotated[str | None, Query(alias="filterCreatedBy")] = None,
    created_after: Annotated[int | None, Query(alias="filterCreatedAfter", ge=-(2**63), lt=2**63)] = None,
    created_before: Annotated[int | None, Query(alias="filterCreatedBefore", ge=-(2**63), lt=2**63)] = None,
    provider: Annotated[str | None, Query(alias="filterProvider")] = None,
    product: Annotated[str | None, Query(alias="filterProductId")] = None,
    category: Annotated[str | None, Query(alias="filterProductCategory")] = None,
    provider_ids: Annotated[str | None, Query(alias="filterProviderIds", description="Separated by commas.")] = None,
    ids: Annotated[str | None, Query(alias="filterIds", description="Separated by commas.")] = None,
    hide_provider: Annotated[str | None, Query(alias="hideProvider")] = None,
    hide_product: Annotated[str | None, Query(alias="hideProductId")] = None,
    hide_category: Annotated[str | None, Query(alias="hideProductCategory")] = None,
    kind: Annotated[Literal["JOBS_ONLY", "VMS_ONLY"] | None, Query(alias="filterType")] = None,
) -> Selection:
    if kind == "VMS_ONLY":
        ids = ""  # there are no virtual machines here, and no job has this id
    given = request.query_params.multi_items()  # a map is written as `filterLabels.KEY=VALUE`
    return Selection(
        owner="",
        project=None,
        ids=None if ids is None else tuple(ids.split(",")),
        slurm_names=None if provider_ids is None else tuple(provider_ids.split(",")),
        state=state,
        application=application,
        created_by=created_by,
        created_after=None if created_after is None else created_after / 1000,
        created_before=None if created_before is None else created_before / 1000,
        provider=provider,
        product=product,
        category=category,
        without_provider=hide_provider,
        without_product=hide_product,
        without_category=hide_category,
        labels=tuple((name.removeprefix(_LABEL), value) for name, value in given if name.startswith(_LABEL)),
        sort_by=sort_by,
        ascending=sort_direction == "ascending",
        limit=_page_size(items_per_page),
        after=following,
    )


@api.post("")
async def create(
    gateway: Shared,
    came: Came,
    owner: Requester,
    request: BulkRequest[JobSpecification],
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=200, description="The same key returns the same jobs.")
    ] = None,
) -> Bulk[Id]:
    """Submit jobs; none of them if one cannot be submitted."""
    wanted = request.items
    key = idempotency_key
    keys = [key] if len(wanted) == 1 else [f"{key}/{n}" if key else None for n in range(len(wanted))]
    items = [Item(each, own) for each, own in zip(wanted, keys, strict=True)]
    records = await gateway.submitter.submit(owner, items, came)
    return Bulk(responses=tuple(Id(id=record.id) for record in records))


@api.get("/retrieve")
async def retrieve(gateway: Shared, owner: Requester, flags: Annotated[Flags, Depends()], id: str) -> JobView:  # noqa: A002  # UCloud's
    """Return one job."""
    return await gateway.pools.database.run(_retrieve, owner, id, flags, names_work=gateway.names_work)


@api.get("/browse")
async def browse(
    gateway: Shared,
    owner: Requester,
    flags: Annotated[Flags, Depends()],
    selection: Annotated[Selection, Depends(_selection)],
) -> Page[JobView]:
    """List jobs of this workspace, by default the newest first."""
    return await gateway.pools.database.run(_browse, owner, selection, flags, names_work=gateway.names_work)


@api.post("/search")
async def search(gateway: Shared, owner: Requester, request: Search) -> Page[JobView]:
    """Search jobs of this workspace by application, name or id."""
    flags = Flags(
        include_updates=request.include_updates,
        include_product=request.include_product,
        include_support=request.include_support,
    )
    selection = Selection(
        owner="", project=None, query=request.query, limit=_page_size(request.items_per_page), after=request.next
    )
    return await gateway.pools.database.run(_browse, owner, selection, flags, names_work=gateway.names_work)


@api.post("/terminate")
async def terminate(gateway: Shared, owner: Requester, request: BulkRequest[FindById]) -> Bulk[Empty]:
    """Cancel jobs. Jobs that ended are ignored."""
    await gateway.terminator.terminate(owner.created_by, find_owned, owner, [item.id for item in request.items])
    return done(request.items)


@api.post("/extend")
async def extend(gateway: Shared, owner: Requester, request: BulkRequest[Extension]) -> Bulk[Empty]:
    """Extend the time limits of jobs."""
    wanted = [(item.job_id, item.requested_time.in_seconds) for item in request.items]
    await gateway.pools.database.run(find_owned, owner, [id_ for id_, _ in wanted])
    await gateway.extender.extend(owner.created_by, wanted)
    return done(request.items)


@api.post("/suspend")
async def suspend(gateway: Shared, owner: Requester, request: BulkRequest[FindById]) -> Bulk[Empty]:
    """Suspend running jobs; they keep their nodes."""
    await gateway.pools.changes.run_for(owner.created_by, _suspend, owner, [item.id for item in request.items])
    return done(request.items)


@api.post("/unsuspend")
async def unsuspend(gateway: Shared, owner: Requester, request: BulkRequest[FindById]) -> Bulk[Empty]:
    """Resume suspended jobs."""
    await gateway.pools.changes.run_for(owner.created_by, _resume, owner, [item.id for item in request.items])
    return done(request.items)


@api.get("/retrieveProducts")
async def retrieve_products(gateway: Shared, _: Requester) -> Products:
    """List the machine types, and what each supports."""
    return job_json.products(gateway.config, peers=gateway.names_work)


@api.get("/retrieveUtilization")
async def retrieve_utilization(
    gateway: Shared,
    owner: Requester,
    job: Annotated[str | None, Query(alias="jobId", description="A job, for the category of its product.")] = None,
    category: Annotated[str | None, Query(description="A product category, instead.")] = None,
) -> Utilization:
    """Return how full the partitions of a product category are."""
    if (job is None) == (category is None):
        raise InvalidInput("give either jobId or category")
    if job is not None:
        category = await gateway.pools.database.run(_category_of, owner, job)
    return await gateway.utilizations.of(category or "")


def _category_of(adapter: Adapter, owner: Owner, id_: str) -> str:
    return specification_of(find_owned(adapter, owner, [id_])[0]).product.category


def _retrieve(adapter: Adapter, owner: Owner, id_: str, flags: Flags, *, names_work: bool) -> JobView:
    return view(adapter, find_owned(adapter, owner, [id_])[0], flags, names_work=names_work)


def _browse(adapter: Adapter, owner: Owner, selection: Selection, flags: Flags, *, names_work: bool) -> Page[JobView]:
    own = replace(selection, owner=owner.created_by, project=owner.project)
    records, following = adapter.store.select(own)
    return Page(
        items_per_page=selection.limit,
        items=tuple(view(adapter, r, flags, names_work=names_work) for r in records),
        next=following,
    )


def view(adapter: Adapter, record: Record, flags: Flags, *, names_work: bool) -> JobView:
    """Return a job with the requested optional parts."""
    reference = specification_of(record).product
    product = job_json.product(adapter.config, reference) if flags.product else None
    support = job_json.support_of(adapter.config, reference, peers=names_work) if flags.support else None
    updates = adapter.store.updates(record.id) if flags.updates else ()
    return job_json.job(record, updates, product=product, support=support)


def _page_size(wanted: int) -> int:
    """Return the page size as UCloud reads it: 0 or less means 50."""
    return 50 if wanted <= 0 else min(wanted, MOST_ON_A_PAGE)


def find_owned(adapter: Adapter, owner: Owner, ids: Sequence[str]) -> list[Record]:
    """Return these jobs, in order. Raise `NotFound` for the first that is not in this workspace."""
    known = adapter.store.find(ids)
    for id_ in ids:
        record = known.get(id_)
        if record is None or not peers.same_workspace(record, owner):
            raise NotFound(f"Permission denied or job not found ({id_})")
    return [known[id_] for id_ in ids]


def _suspend(adapter: Adapter, owner: Owner, ids: Sequence[str]) -> None:
    control.suspend(adapter, [record.id for record in find_owned(adapter, owner, ids)])


def _resume(adapter: Adapter, owner: Owner, ids: Sequence[str]) -> None:
    control.resume(adapter, [record.id for record in find_owned(adapter, owner, ids)])

"""The provider API: the requests that UCloud's core sends to a provider.

UCloud authenticates each request with its own token. A job is identified by UCloud's id. `providerGeneratedId`, which
UCloud sends with it, is the job's Slurm name, and a job with another one is unknown here.
"""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool

from slurm_adapter.core.errors import AdapterError, InvalidInput, NotFound, NotOffered, Refused, TryAgain, Unknown
from slurm_adapter.core.problems import for_message
from slurm_adapter.core.specification import Job, Owner
from slurm_adapter.gateway.api import job_json
from slurm_adapter.gateway.api.schemas import (
    AclUpdate,
    Bulk,
    BulkRequest,
    Empty,
    Id,
    Init,
    JobExtension,
    JobItem,
    Manifest,
    Parameters,
    ParametersRequest,
    ResourceChange,
    Support,
    Utilization,
    done,
)
from slurm_adapter.gateway.background import StillRunning
from slurm_adapter.gateway.gateway import Shared
from slurm_adapter.gateway.http.strict_route import Came, StrictRoute
from slurm_adapter.gateway.shares import TooMany
from slurm_adapter.jobs import attach, control, unknown_here
from slurm_adapter.jobs.item import Item
from slurm_adapter.translation.application import resolve_application

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence
    from contextlib import AbstractContextManager

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import Record
    from slurm_adapter.gateway.gateway import Gateway

NOT_SERVED = ("files/collections", "ingresses", "networkips", "licenses", "private-networks")
"""Kinds of resource that UCloud asks every provider for, every ten seconds."""

KINDS = {
    "files/collections": "drives",
    "files": "files",
    "shares": "shares of folders",
    "syncthing": "synchronization of folders",
    "ingresses": "public links",
    "networkips": "public IP addresses",
    "licenses": "software licenses",
    "private-networks": "private networks",
    "integration": "connections of users' accounts",
    "ssh": "SSH servers in jobs",
    "jobs": "this operation on jobs",
}
"""User-facing names of the parts of UCloud's provider API, by the beginnings of their paths."""

log = logging.getLogger(__name__)


class ProviderRoute(StrictRoute):
    """A route for UCloud alone."""

    async def admit(self, request: Request) -> AbstractContextManager[str]:
        """See `StrictRoute.admit`."""
        gateway: Gateway = request.app.state.gateway
        if gateway.key is None:
            raise NotFound("this gateway serves no provider API; it needs the table [ucloud] in the configuration")
        await run_in_threadpool(gateway.key.verify, request.headers.get("authorization"), time.time())
        return nullcontext("UCloud")


api = APIRouter(route_class=ProviderRoute, tags=["provider"])


@api.post("/jobs")
async def create(gateway: Shared, came: Came, request: BulkRequest[Job]) -> Bulk[Id]:
    """Accept jobs; none of them if one cannot be accepted."""
    owner, items = _read_items(request.items)
    records = await gateway.submitter.claim(owner, items, came)
    return Bulk(responses=tuple(Id(id=record.slurm_name) for record in records))


@api.post("/jobs/terminate")
async def terminate(gateway: Shared, request: BulkRequest[Job]) -> Bulk[Empty]:
    """Cancel jobs. Jobs that ended, and unknown jobs, are ignored."""
    await gateway.terminator.terminate(_owner(request.items), find_own, request.items)
    return done(request.items)


def _controller_answers(gateway: Shared) -> None:
    """Raise `TryAgain` before anything is done if slurmctld is known to be down."""
    gateway.controller.must_answer()


NEEDS_SLURM = [Depends(_controller_answers)]


@api.post("/jobs/extend", dependencies=NEEDS_SLURM)
async def extend(gateway: Shared, request: BulkRequest[JobExtension]) -> Bulk[Empty]:
    """Extend the time limits of jobs."""
    await _change(gateway, "extend jobs", _extend(gateway, request.items))
    return done(request.items)


@api.post("/jobs/suspend", dependencies=NEEDS_SLURM)
async def suspend(gateway: Shared, request: BulkRequest[JobItem]) -> Bulk[Empty]:
    """Suspend running jobs; they keep their nodes."""
    jobs_ = [item.job for item in request.items]
    await _change(gateway, "suspend jobs", gateway.pools.changes.run_for(_owner(jobs_), _suspend, jobs_))
    return done(request.items)


@api.post("/jobs/unsuspend", dependencies=NEEDS_SLURM)
async def unsuspend(gateway: Shared, request: BulkRequest[JobItem]) -> Bulk[Empty]:
    """Resume suspended jobs."""
    jobs_ = [item.job for item in request.items]
    await _change(gateway, "resume jobs", gateway.pools.changes.run_for(_owner(jobs_), _resume, jobs_))
    return done(request.items)


@api.post("/jobs/attachResource", dependencies=NEEDS_SLURM)
async def attach_resource(gateway: Shared, request: ResourceChange) -> Empty:
    """Give a running job one more peer."""
    await _change(gateway, "attach a peer", gateway.pools.changes.run_for(_owner([request.job]), _attach, request))
    return Empty()


@api.post("/jobs/detachResource", dependencies=NEEDS_SLURM)
async def detach_resource(gateway: Shared, request: ResourceChange) -> Empty:
    """Take a peer from a running job."""
    await _change(gateway, "detach a peer", gateway.pools.changes.run_for(_owner([request.job]), _detach, request))
    return Empty()


@api.get("/jobs/retrieveProducts")
async def retrieve_products(gateway: Shared) -> Bulk[Support]:
    """List what each product supports."""
    return Bulk(responses=job_json.support(gateway.config, peers=gateway.names_work))


@api.post("/jobs/requestDynamicParameters")
async def request_dynamic_parameters(_: ParametersRequest) -> Parameters:
    """List further parameters of an application: none."""
    return Parameters()


@api.post("/jobs/updateAcl")
async def update_acl(gateway: Shared, request: BulkRequest[AclUpdate]) -> Bulk[Empty]:
    """End the sessions of users who may not use a job any more. UCloud itself checks all other permissions."""
    for item in request.items:
        gateway.access_grants.withdraw(item.resource, item.deleted)
    return done(request.items)


@api.post("/jobs/onUpdatedLabels")
async def on_updated_labels(gateway: Shared, request: BulkRequest[Job]) -> Empty:
    """Store the labels of jobs."""
    storing = gateway.pools.database.run(_store_labels, request.items)
    try:
        await gateway.background.in_time(storing, gateway.limits.answer, "storing labels")
    except StillRunning:
        raise TryAgain("the database is busy, and it is not known whether the labels are stored; try again") from None
    return Empty()


@api.post("/jobs/verify")
async def verify(gateway: Shared, request: BulkRequest[Job]) -> Empty:
    """Report each job that is unknown here, and certainly gone, as no longer available."""
    verifying = gateway.pools.questions.run(_verify, request.items)
    with suppress(StillRunning):
        await gateway.background.in_time(verifying, gateway.limits.verify_answer, "verifying jobs")
    return Empty()


@api.post("/jobs/init")
@api.post("/integration/init")
async def init(_: Init) -> Empty:
    """Prepare a user: there is nothing to do."""
    return Empty()


@api.post("/integration/unlinked")
async def unlinked(_: Init) -> Empty:
    """Note that a user was unlinked: there is nothing to do."""
    return Empty()


@api.get("/jobs/retrieveUtilization")
async def retrieve_utilization(gateway: Shared, category: Annotated[str, Query(alias="categoryId")]) -> Utilization:
    """Return how full the partitions of a product category are."""
    return await gateway.utilizations.of(category)


@api.post("/integration/connect")
@api.post("/ssh/keyUploaded")
async def not_offered() -> Empty:
    """Refuse: users do not connect here, and jobs have no SSH servers."""
    raise NotOffered("this provider does not offer that: users do not have to connect, and jobs have no SSH server")


@api.get("/integration/retrieveManifest")
async def retrieve_manifest() -> Manifest:
    """Return that users do not have to connect."""
    return Manifest()


@api.get("/provider/branding/retrieveInfo")
async def retrieve_branding() -> Empty:
    """Return no branding; without an answer UCloud would ask forever."""
    return Empty()


async def retrieve_nothing() -> Bulk[Empty]:
    """Return no products of this kind."""
    return Bulk(responses=())


for kind in NOT_SERVED:
    api.add_api_route(f"/{kind}/retrieveProducts", retrieve_nothing, name=f"retrieve_products_of_{kind}")


def not_offered_at(path: str, provider: str) -> AdapterError:
    """Return the error for a path that is not served. Users read what is not offered, not the path."""
    _, _, asked_for, *rest = path.split("/", 3)
    if asked_for != provider:
        return NotFound(f"there is no provider {for_message(asked_for)} here, but {for_message(provider)}")
    asked = "".join(rest) + "/"
    what = next((name for start, name in KINDS.items() if asked.startswith(f"{start}/")), "this")
    return NotOffered(f"this provider does not offer {what}: it runs jobs")


def _read_items(wanted: Sequence[Job]) -> tuple[Owner, list[Item]]:
    """Return the owner of these jobs, and what to submit. Raise `InvalidInput`."""
    problems = []
    for number, job in enumerate(wanted):
        if not (job.id.isascii() and job.id.isdecimal()):
            problems.append(f"items[{number}].id: {for_message(job.id)}: must be a decimal number, as in UCloud")
        if job.owner != wanted[0].owner:
            problems.append(f"items[{number}].owner: must be the owner of items[0]: a request has one owner")
    if len({job.id for job in wanted}) < len(wanted):
        problems.append("items: two jobs have the same id")
    if problems:
        raise InvalidInput("\n".join(problems))
    return wanted[0].owner, [
        Item(
            job.specification,
            id=job.id,
            created_at=job.created_at if job.created_at > 0 else None,  # UCloud may send its zero time
            application=resolve_application(job.status.resolved_application)
            if job.status.resolved_application is not None
            else None,
            product=job.status.resolved_product,
        )
        for job in wanted
    ]


def find_own(adapter: Adapter, wanted: Iterable[Job]) -> list[Record]:
    """Return those of these jobs that are known here as UCloud's, with the Slurm name that UCloud sends."""
    wanted = list(wanted)
    known = adapter.store.find(job.id for job in wanted)
    found = []
    for job in wanted:
        record = known.get(job.id)
        if record is None or record.origin != adapter.config.provider:
            continue
        if job.provider_generated_id in {"", record.slurm_name}:
            found.append(record)
    return found


def get_own(adapter: Adapter, job: Job) -> Record:
    """Return this job. Raise `NotFound`."""
    found = find_own(adapter, [job])
    if not found:
        raise NotFound(f"Permission denied or job not found ({job.id})")
    return found[0]


def get_all(adapter: Adapter, wanted: Iterable[Job]) -> list[Record]:
    """Return these jobs, in order. Raise `NotFound` for the first unknown one."""
    return [get_own(adapter, job) for job in wanted]


async def _change(gateway: Gateway, what: str, changing: Coroutine[Any, Any, None]) -> None:
    """Change jobs in Slurm. Raise what the work raises, and `Refused` if it continues in the background.

    `TryAgain` would mean that nothing was done, and a repetition would do it twice.
    """
    try:
        await gateway.background.in_time(changing, gateway.limits.answer, what)
    except StillRunning:
        raise Refused(
            f"Slurm has not confirmed the request to {what}, and it continues in the background; check the state of "
            "the job before you try again"
        ) from None


async def _extend(gateway: Gateway, wanted: Sequence[JobExtension]) -> None:
    records = await gateway.pools.database.run(get_all, [item.job for item in wanted])
    seconds = [item.requested_time.in_seconds for item in wanted]
    try:
        await gateway.extender.extend(
            _owner([item.job for item in wanted]), list(zip([record.id for record in records], seconds, strict=True))
        )
    except TooMany:
        raise  # before anything was done
    except (TryAgain, Unknown) as error:
        # A repetition would do twice what was done before the failure.
        raise Refused(f"some jobs may not have been extended; check their time limits: {error}") from error


def _owner(wanted: Sequence[Job]) -> str:
    """Return the user of a request of UCloud; a request has one user."""
    return wanted[0].owner.created_by


def _suspend(adapter: Adapter, wanted: Sequence[Job]) -> None:
    control.suspend(adapter, [record.id for record in get_all(adapter, wanted)])


def _resume(adapter: Adapter, wanted: Sequence[Job]) -> None:
    control.resume(adapter, [record.id for record in get_all(adapter, wanted)])


def _attach(adapter: Adapter, change: ResourceChange) -> None:
    attach.attach(adapter, get_own(adapter, change.job).id, change.resource)


def _detach(adapter: Adapter, change: ResourceChange) -> None:
    attach.detach(adapter, get_own(adapter, change.job).id, change.resource)


def _store_labels(adapter: Adapter, wanted: Sequence[Job]) -> None:
    labels = {job.id: job.specification.labels for job in wanted}
    adapter.store.keep_labels({record.id: labels[record.id] for record in find_own(adapter, wanted)})


def _verify(adapter: Adapter, wanted: Sequence[Job]) -> None:
    for line in unknown_here.verify(adapter, wanted):
        log.warning("%s", line)

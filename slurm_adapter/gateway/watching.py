"""What an operator watches: whether the gateway lives and is ready, and numbers for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from slurm_adapter.gateway.gateway import Shared
from slurm_adapter.gateway.schemas import Health
from slurm_adapter.states import JobState

if TYPE_CHECKING:
    from slurm_adapter.gateway.metrics import Metrics
    from slurm_adapter.site import Site

api = APIRouter(tags=["operation"])


@api.get("/healthz")
async def healthz(gateway: Shared) -> Health:
    """Live: this answer. Ready: Slurm answers, and the last pass learned all that it had to; UCloud may be away."""
    return Health(ready=gateway.why_not_ready is None, why=gateway.why_not_ready or gateway.untold)


@api.get("/healthz/ready", responses={503: {"model": Health}})
async def ready(gateway: Shared, response: Response) -> Health:
    """The same, with 503 where it is not ready."""
    health = await healthz(gateway)
    if not health.ready:
        response.status_code = 503
    return health


@api.get("/metrics", include_in_schema=False)
async def metrics(gateway: Shared) -> Response:
    """For Prometheus."""
    content = await gateway.workers.call(_collect, gateway.metrics)
    return Response(content, media_type=CONTENT_TYPE_LATEST)


def _collect(site: Site, numbers: Metrics) -> bytes:
    counted = site.store.count_states()
    for state in JobState:
        numbers.jobs.labels(state.value).set(counted.get(state, 0))
    length, oldest = site.store.outbox()
    numbers.outbox.set(length)
    numbers.outbox_age.set(0 if oldest is None else max(0, site.clock() - oldest))
    return generate_latest(numbers.registry)

"""Health checks for operators, and metrics for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from slurm_adapter.core.states import JobState
from slurm_adapter.gateway.api.schemas import Health
from slurm_adapter.gateway.gateway import Shared

if TYPE_CHECKING:
    from slurm_adapter.adapter import Adapter
    from slurm_adapter.gateway.http.metrics import Metrics

api = APIRouter(tags=["operation"])


@api.get("/healthz")
async def healthz(gateway: Shared) -> Health:
    """Return whether the gateway is live and ready. It is ready if Slurm answers and the last sync was complete.

    UCloud may be down. The full reason may name accounts and paths, which no user may see, so it is only in the log.
    """
    reasons = (
        (gateway.controller.away, "Slurm does not answer"),
        (gateway.not_ready, "the last sync was incomplete"),
        (gateway.delivery_problem, "updates to UCloud are delayed"),
    )
    in_short = next((in_short for why, in_short in reasons if why is not None), None)
    why = None if in_short is None else f"{in_short}; the log of slurm-adapter serve names the reason"
    return Health(ready=gateway.why_not_ready is None, why=why)


@api.get("/healthz/ready", responses={503: {"model": Health}})
async def ready(gateway: Shared, response: Response) -> Health:
    """Return the same, with 503 if the gateway is not ready."""
    health = await healthz(gateway)
    if not health.ready:
        response.status_code = 503
    return health


@api.get("/metrics", include_in_schema=False)
async def metrics(gateway: Shared) -> Response:
    """Return the metrics."""
    content = await gateway.pools.database.run(_collect, gateway.metrics)
    return Response(content, media_type=CONTENT_TYPE_LATEST)


def _collect(adapter: Adapter, numbers: Metrics) -> bytes:
    counted = adapter.store.count_states()
    for state in JobState:
        numbers.jobs.labels(state.value).set(counted.get(state, 0))
    numbers.troubled.set(len({account for _, account, _ in adapter.store.troubled()}))
    length, oldest = adapter.store.outbox()
    numbers.outbox.set(length)
    numbers.outbox_age.set(0 if oldest is None else max(0, adapter.clock() - oldest))
    return generate_latest(numbers.registry)

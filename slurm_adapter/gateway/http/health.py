"""What an operator watches: whether the gateway lives and is ready, and numbers for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Header, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from slurm_adapter.core.states import JobState
from slurm_adapter.gateway.api.schemas import Health
from slurm_adapter.gateway.authentication import person
from slurm_adapter.gateway.gateway import Shared

if TYPE_CHECKING:
    from slurm_adapter.adapter import Adapter
    from slurm_adapter.gateway.http.metrics import Metrics

api = APIRouter(tags=["operation"])


Authorization = Annotated[str | None, Header(include_in_schema=False)]


@api.get("/healthz")
async def healthz(gateway: Shared, authorization: Authorization = None) -> Health:
    """Live: this answer. Ready: Slurm answers, and the last pass learned all that it had to; UCloud may be away.

    The reason may name accounts and paths, so that only a user's token gets the whole of it.
    """
    if authorization is not None:
        await gateway.workers.call(_authenticate, authorization)
    reasons = (
        (gateway.controller.away, "Slurm does not answer"),
        (gateway.not_ready, "the last sync was incomplete"),
        (gateway.untold, "updates to UCloud are delayed"),
    )
    why, in_short = next(((why, in_short) for why, in_short in reasons if why is not None), (None, None))
    if authorization is None and in_short is not None:
        why = f"{in_short}; a request with a user's token is told more"
    return Health(ready=gateway.why_not_ready is None, why=why)


@api.get("/healthz/ready", responses={503: {"model": Health}})
async def ready(gateway: Shared, response: Response, authorization: Authorization = None) -> Health:
    """The same, with 503 where it is not ready."""
    health = await healthz(gateway, authorization)
    if not health.ready:
        response.status_code = 503
    return health


@api.get("/metrics", include_in_schema=False)
async def metrics(gateway: Shared) -> Response:
    """For Prometheus."""
    content = await gateway.workers.call(_collect, gateway.metrics)
    return Response(content, media_type=CONTENT_TYPE_LATEST)


def _authenticate(adapter: Adapter, authorization: str) -> None:
    person(adapter.store, authorization, adapter.clock())


def _collect(adapter: Adapter, numbers: Metrics) -> bytes:
    counted = adapter.store.count_states()
    for state in JobState:
        numbers.jobs.labels(state.value).set(counted.get(state, 0))
    numbers.troubled.set(len({account for _, account, _ in adapter.store.troubled()}))
    length, oldest = adapter.store.outbox()
    numbers.outbox.set(length)
    numbers.outbox_age.set(0 if oldest is None else max(0, adapter.clock() - oldest))
    return generate_latest(numbers.registry)

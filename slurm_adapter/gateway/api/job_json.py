"""Jobs, products and their support, in the JSON that UCloud's users read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.core.specification import Owner, ProductReference
from slurm_adapter.gateway.api import schemas
from slurm_adapter.gateway.sessions.web import lacks
from slurm_adapter.jobs.item import specification_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slurm_adapter.core.config import Config
    from slurm_adapter.core.config_tables import Machine
    from slurm_adapter.core.records import Record, Update


def job(
    record: Record,
    updates: Iterable[Update] = (),
    *,
    product: schemas.Product | None = None,
    support: schemas.Support | None = None,
) -> schemas.JobView:
    """Return a job. `product` and `support` are given if the request asked for them."""
    started = _milliseconds(record.started)
    final = record.state.final
    return schemas.JobView(
        id=record.id,
        created_at=_milliseconds(record.created) or 0,
        owner=Owner(created_by=record.owner, project=record.project),
        provider_generated_id=record.slurm_name,
        updates=tuple(map(update, updates)),
        specification=specification_of(record),
        status=schemas.StatusView(
            state=record.state,
            started_at=started,
            expires_at=started + record.time_limit * 1000 if started is not None and not final else None,
            resolved_product=product,
            resolved_support=schemas.ProductAndSupport(product=product, support=support)
            if product is not None and support is not None
            else None,
        ),
        output=schemas.Output(output_folder=record.output_folder),
    )


def update(each: Update) -> schemas.UpdateView:
    """Return an update of a job."""
    return schemas.UpdateView(
        state=each.state,
        status=each.status,
        output_folder=each.more.get("outputFolder"),
        new_time_allocation=each.more.get("newTimeAllocation"),
        timestamp=_milliseconds(each.time) or 0,
    )


def product(config: Config, reference: ProductReference) -> schemas.Product | None:
    """Return the machine type of this name; None if there is none any more."""
    machine = config.machines.get(reference.category, {}).get(reference.id)
    return None if machine is None else _product(config, reference.category, reference.id, machine)


def _product(config: Config, category: str, name: str, machine: Machine) -> schemas.Product:
    return schemas.Product(
        name=name,
        category=schemas.Category(name=category, provider=config.provider),
        description=f"{machine.cpus} processors, {machine.memory} GiB a node",
        cpu=machine.cpus,
        memory_in_gigs=machine.memory,
        gpu=machine.gpus,
        cpu_model=machine.cpu_model,
        memory_model=machine.memory_model,
        gpu_model=machine.gpu_model,
    )


def support(config: Config, *, peers: bool) -> tuple[schemas.Support, ...]:
    """Return what each machine type supports. `peers`: names of jobs were seen to resolve on this cluster.

    A test on a cluster, under `tests/`, covers each flag that may be true: logs by `gateway/streams/test_logs_e2e.py`,
    terminal by `gateway/sessions/test_shell_e2e.py`, web and vnc by `gateway/sessions/test_web_e2e.py`, peers,
    timeExtension and suspension by `gateway/test_ucloud_e2e.py`, and utilization by
    `cluster/schedulers/test_contract.py`.
    """
    features = schemas.Features(
        enabled=True,
        logs=True,
        terminal=config.gateway.url is not None,
        web=lacks(config) is None,
        vnc=lacks(config) is None,
        peers=peers,
        time_extension=bool(config.cluster.operator),
        suspension=bool(config.cluster.operator),
        utilization=True,
    )
    return tuple(
        schemas.Support(product=ProductReference(id=name, category=category, provider=config.provider), native=features)
        for category, machines in config.machines.items()
        for name in machines
    )


def support_of(config: Config, reference: ProductReference, *, peers: bool) -> schemas.Support | None:
    """Return what this machine type supports; None if there is no such type any more."""
    return next((each for each in support(config, peers=peers) if each.product == reference), None)


def products(config: Config, *, peers: bool) -> schemas.Products:
    """Return every machine type with what it supports."""
    found = []
    for each in support(config, peers=peers):
        known = product(config, each.product)
        if known is not None:
            found.append(schemas.ProductAndSupport(product=known, support=each))
    return schemas.Products(products_by_provider={config.provider: tuple(found)})


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)

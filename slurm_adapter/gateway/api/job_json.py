"""What is remembered, as UCloud's users read it."""

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
    """A job. `product` and `support` are given where they were asked for."""
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


def update(told: Update) -> schemas.UpdateView:
    """One thing that a user was told."""
    return schemas.UpdateView(
        state=told.state,
        status=told.status,
        output_folder=told.more.get("outputFolder"),
        new_time_allocation=told.more.get("newTimeAllocation"),
        timestamp=_milliseconds(told.time) or 0,
    )


def product(config: Config, reference: ProductReference) -> schemas.Product | None:
    """The machine type of this name, where there still is one."""
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
    """What each machine type can do; `peers`: names were seen to work on this cluster.

    Each flag that may be true here is shown on a cluster, under `tests/`: logs by `gateway/streams/test_logs_e2e.py`,
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
    """What this machine type can do, where there still is one."""
    return next((each for each in support(config, peers=peers) if each.product == reference), None)


def products(config: Config, *, peers: bool) -> schemas.Products:
    """Every machine type with what it can do."""
    found = []
    for each in support(config, peers=peers):
        known = product(config, each.product)
        if known is not None:
            found.append(schemas.ProductAndSupport(product=known, support=each))
    return schemas.Products(products_by_provider={config.provider: tuple(found)})


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)

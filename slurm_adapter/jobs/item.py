"""One job of a request."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.specification import JobSpecification

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from slurm_adapter.core.records import Record
    from slurm_adapter.core.specification import ResolvedProduct
    from slurm_adapter.translation.application import Application


@dataclass(frozen=True, slots=True)
class Item:
    """One job to submit."""

    specification: JobSpecification
    key: str | None = None
    """Idempotency key: it is recognised by it when it is submitted again. Without one, twice is two jobs."""
    id: str | None = None
    """UCloud's id of a job that comes from there, which is its key too."""
    created_at: int | None = None
    """UCloud's `createdAt` of such a job, in milliseconds; see `records.has_new_id`."""
    application: Application | None = None
    """The application in the request; without one it is looked up in the site's catalogue."""
    product: ResolvedProduct | None = None
    """UCloud's resolved product, if the request has it."""


@dataclass(frozen=True, slots=True)
class Names:
    """Names of a job, its folder and its files."""

    id: str
    slurm_name: str
    folder: str
    peers_file: str
    """Its hosts view in the shared folder `peers`."""


def specification_of(record: Record) -> JobSpecification:
    """Return the specification of a job, with its present peers."""
    return JobSpecification.model_validate_json(record.specification)


def original_of(record: Record) -> JobSpecification:
    """Return the specification that a job was submitted with."""
    return JobSpecification.model_validate_json(record.original or record.specification)


def as_stored(item: Item) -> str:
    """Return a specification as the database stores and compares it."""
    return item.specification.model_dump_json(by_alias=False)


@contextmanager
def naming(number: int, items: Sequence[object]) -> Iterator[None]:
    """Add the number of the item in a bulk to errors."""
    try:
        yield
    except InvalidInput as error:
        if len(items) == 1:
            raise
        raise InvalidInput("\n".join(f"items[{number}].{line}" for line in str(error).splitlines())) from error

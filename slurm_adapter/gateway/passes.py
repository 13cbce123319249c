"""The gateway's own passes: what cron's `sync` does, more often while a job waits for a peer.

A pass costs Slurm one question, so the time between two grows with what a pass takes. Beside cron's `sync` it does no
harm: one of the two holds the lock, and the other lets it be.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from slurm_adapter.errors import AdapterError
from slurm_adapter.reporting import outage_lines
from slurm_adapter.states import JobState
from slurm_adapter.sync import sync

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slurm_adapter.gateway.gateway import Gateway
    from slurm_adapter.site import Site
    from slurm_adapter.store import Record

SECONDS = 5.0
"""Between two passes, where nothing tells otherwise."""

PEER_SECONDS = 0.5
"""While a job waits for a peer: its name is to be there within two seconds of the peer's start."""

SHARE = 10
"""A pass takes at most one part in so many of the time."""

log = logging.getLogger(__name__)


async def reconcile(gateway: Gateway) -> None:
    """Make passes for ever."""
    while True:
        gateway.changed.clear()
        began = time.monotonic()
        try:
            hurry = await gateway.workers.call(one_pass)
        except AdapterError as error:
            log.warning("a pass was not made: %s", error)
            hurry = False
        took = time.monotonic() - began
        if hurry:
            await asyncio.sleep(max(PEER_SECONDS, took))
            continue
        await asyncio.sleep(min(1.0, SHARE * took))
        try:
            await asyncio.wait_for(gateway.changed.wait(), max(SECONDS, SHARE * took))
        except TimeoutError:
            continue


def one_pass(site: Site) -> bool:
    """Make one pass, unless another process makes one; whether a job waits for a peer."""
    with site.only_one_pass() as mine:
        if mine:
            report = sync(site)
            for line in outage_lines(site.store, report):
                log.warning("%s", line)
    return waits_for_peer(site.store.active())


def waits_for_peer(active: Iterable[Record]) -> bool:
    """Whether some job waits, or will wait, for the name of one that has not started."""
    records = {record.id: record for record in active}
    return any(
        records[peer.job_id].state is JobState.IN_QUEUE
        for record in records.values()
        for peer in record.peers
        if peer.job_id in records
    )

"""Metrics of the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from slurm_adapter.cluster.schedulers.interface import InDoubt, NotStarted
from slurm_adapter.core.errors import AdapterError

if TYPE_CHECKING:
    from slurm_adapter.cluster.schedulers.interface import Scheduler


class Metrics:
    """The metrics of one gateway."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.syncs = Counter(
            "slurm_adapter_syncs",
            "Syncs, by whether they were complete.",
            ["complete"],
            registry=self.registry,
        )
        self.sync_seconds = Histogram("slurm_adapter_sync_seconds", "Seconds that a sync took.", registry=self.registry)
        self.failures = Counter(
            "slurm_adapter_slurm_failures",
            "Failed questions to Slurm.",
            ["question"],
            registry=self.registry,
        )
        self.jobs = Gauge("slurm_adapter_jobs", "Jobs in the database, by state.", ["state"], registry=self.registry)
        self.troubled = Gauge(
            "slurm_adapter_troubled_accounts",
            "Accounts with a job that cannot continue; `slurm-adapter check` names them.",
            registry=self.registry,
        )
        self.outbox = Gauge("slurm_adapter_outbox", "Updates that are queued for UCloud.", registry=self.registry)
        self.outbox_age = Gauge(
            "slurm_adapter_outbox_age_seconds",
            "Age of the oldest update that is queued for UCloud.",
            registry=self.registry,
        )


class Counted:
    """A scheduler that counts failures, by the kind of question."""

    def __init__(self, scheduler: Scheduler, failures: Counter) -> None:
        self._scheduler = scheduler
        self._failures = failures

    def __getattr__(self, name: str) -> Any:
        """Return a method of the scheduler that counts failures."""
        method = getattr(self._scheduler, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            try:
                answer = method(*args, **kwargs)
            except AdapterError:
                self._failures.labels(name).inc()
                raise
            if name == "submit":
                self._failures.labels(name).inc(sum(isinstance(each, InDoubt | NotStarted) for each in answer))
            if name == "set_time_limits":
                self._failures.labels(name).inc(len(answer))
            return answer

        return counted

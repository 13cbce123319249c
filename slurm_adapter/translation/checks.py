"""Check the parts of a specification that need no rendering: product, application and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.problems import for_message

if TYPE_CHECKING:
    from slurm_adapter.core.config import Config
    from slurm_adapter.core.config_tables import Machine
    from slurm_adapter.core.specification import JobSpecification, ResolvedProduct
    from slurm_adapter.translation.application import Application

REFUSED_LABELS = frozenset(
    f"ucloud.dk/{name}" for name in ("init-script", "service-ip-address", "service-forward-tcp", "stack-state-folder")
)
"""Labels that request something from UCloud, which is not supported here."""


def find_machine(specification: JobSpecification, config: Config, product: ResolvedProduct | None) -> Machine:
    """Return the machine of a job's product, with the sizes of the product in UCloud if they are known.

    Raise `InvalidInput` with the known machines.
    """
    wanted = specification.product
    if wanted.provider != config.provider:
        raise InvalidInput(f"product.provider: {for_message(wanted.provider)}: must be {config.provider}")
    machine = config.machines.get(wanted.category, {}).get(wanted.id)
    if machine is None:
        known = ", ".join(f"{category}/{name}" for category, names in config.machines.items() for name in names)
        name = for_message(f"{wanted.category}/{wanted.id}")
        raise InvalidInput(f"product: {name}: is not a machine of this site; its machines are (category/id): {known}")
    if product is None:
        return machine
    sizes = {"cpus": product.cpu, "memory": product.memory_in_gigs, "gpus": product.gpu}
    return machine.model_copy(update={name: size for name, size in sizes.items() if size})


def check_application(specification: JobSpecification, application: Application) -> None:
    """Raise `InvalidInput` if the application, or the job's use of it, is not supported."""
    wanted = specification.application
    field = f"application: {for_message(f'{wanted.name} {wanted.version}')}"
    if (wanted.name, wanted.version) != (application.name, application.version):
        raise InvalidInput(f"{field}: but the job comes with {for_message(str(application))}")
    if application.backend != "NATIVE":
        raise InvalidInput(
            f"{field}: The application is not supported on this machine type: it has the type "
            f"{for_message(application.backend)}, and only NATIVE is supported"
        )
    if specification.hostname:
        raise InvalidInput(
            f"hostname: {for_message(specification.hostname)}: must be empty: it is a name in a private network, which "
            "this site does not have; other jobs name this job with a resource of type peer"
        )
    if specification.restart_on_exit:
        raise InvalidInput("restartOnExit: true: must be false: this site does not restart jobs")
    if specification.ssh_enabled or application.ssh == "MANDATORY":
        raise InvalidInput("sshEnabled: true: must be false: jobs of this site have no SSH server")
    if application.inference == "MANDATORY":
        raise InvalidInput(f"{field}: needs an inference service, which this site does not have")
    if application.job_audit_log:
        raise InvalidInput(f"{field}: needs an audit log of its jobs, which is not supported")


def read_labels(specification: JobSpecification) -> dict[str, str]:
    """Return the labels, with names in lower case. Raise `InvalidInput` for invalid and unsupported labels."""
    labels: dict[str, str] = {}
    for name, value in specification.labels.items():
        key = name.lower()
        field = f"labels[{for_message(name)}]"
        if not key or len(key.encode()) > 256:
            raise InvalidInput(f"{field}: a label's name must have 1 to 256 bytes")
        if key in labels:
            raise InvalidInput(f"{field}: stands twice; upper and lower case are the same")
        if key in REFUSED_LABELS:
            raise InvalidInput(f"{field}: this label is not supported")
        labels[key] = value
    return labels

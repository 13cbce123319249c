"""Translate a job's specification into the directives, script and files that sbatch needs.

Each field of a specification is used, or refused with the reason:

| field | use |
|---|---|
| `application` | must be the application that is translated |
| `product` | entry of the machine table; the provider must be this one |
| `labels` | kept with the job; labels that request something from UCloud are refused |
| `name` | kept with the job and shown; Slurm does not get it |
| `hostname` | refused: it is a name in a private network, which this site does not have |
| `replicas` | number of nodes, up to the machine's limit |
| `allowDuplicateJob` | kept with the job |
| `parameters` | values for the application's command; see `slurm_adapter.translation.invocation` |
| `resources` | peers: names in the job; files: links in the job's folder `mounts/`; others are refused |
| `timeAllocation` | time limit; without it the configured default |
| `openedFile` | `UCLOUD_OPEN_WITH_FILE`, the path on the cluster |
| `restartOnExit`, `sshEnabled` | refused if true |

A file with `readOnly` is refused unless its drive is read-only in the site's configuration: a job runs as its user, and
can write whatever the file system lets this user write.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from slurm_adapter.core import bash
from slurm_adapter.core.directives import Directive, build_directives, check_replicas, time_limit
from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.interfaces import LOWEST_PORT
from slurm_adapter.translation.checks import check_application, find_machine, read_labels
from slurm_adapter.translation.files import find_drive_path, read_resources, resolve_file
from slurm_adapter.translation.invocation import DeclaredPeer, bind
from slurm_adapter.translation.script import (
    EXECUTABLE,
    PRIVATE,
    SCRIPT_LIMIT,
    SCRIPT_NAME,
    NodeSettings,
    ScriptInputs,
    node_files,
    render_script,
)
from slurm_adapter.translation.texts import read_directives, read_environment, render_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from slurm_adapter.core.config import Config
    from slurm_adapter.core.config_tables import Drive, Machine
    from slurm_adapter.core.interfaces import Interface
    from slurm_adapter.core.specification import JobSpecification, Owner, ResolvedProduct
    from slurm_adapter.translation.application import Application
    from slurm_adapter.translation.drives import DrivePath
    from slurm_adapter.translation.files import Resources
    from slurm_adapter.translation.invocation import Bound
    from slurm_adapter.translation.rendering import Rendered, Task
    from slurm_adapter.translation.script import Templates
    from slurm_adapter.translation.texts import Texts


@dataclass(frozen=True, slots=True)
class JobContext:
    """Values for the translation of a job, in addition to its specification and application."""

    config: Config
    owner: Owner
    job_id: str
    slurm_name: str
    folder: str
    """The job's folder on the cluster."""
    peers_file: str
    """Name of the job's hosts view in the shared folder `peers/`."""
    account: str | None = None
    """Account of the owner on the cluster."""
    product: ResolvedProduct | None = None
    """The product in UCloud. Its sizes replace those of the machine table."""
    drives: Sequence[Drive] = ()
    """Drives in addition to those of the configuration."""
    after: Sequence[int] = ()
    """Slurm ids of the peers."""
    slurm_names: Mapping[str, str] = field(default_factory=dict)
    """Slurm names of the peers, by id."""


@dataclass(frozen=True, slots=True)
class File:
    """File of a job's folder."""

    content: bytes
    mode: int
    shared: bool = False
    """True for a file that is the same for all jobs of this program. It is stored and sent once for many jobs."""


@dataclass(frozen=True, slots=True)
class Translation:
    """Result for one job."""

    directives: tuple[Directive, ...]
    script: str
    files: dict[str, File]
    """By name in the job's folder, with `job.sbatch`."""
    peers: tuple[DeclaredPeer, ...]
    """Their hostnames and ids are not checked yet."""
    paths: tuple[DrivePath, ...]
    """Paths to check on the cluster before the job is submitted; see `slurm_adapter.cluster.path_check`."""
    labels: dict[str, str]
    seconds: int
    """Time limit."""
    replicas: int
    names: bool
    """The job gets a hosts file of its own on its nodes."""
    web_port: int | None
    """Port of the application's web interface, if any."""
    vnc_port: int | None
    vnc_password: str | None
    interfaces: tuple[Interface, ...]
    """Interfaces that the application's template declares."""
    notes: tuple[str, ...]
    """Information for the user about how the job was understood."""


@dataclass(frozen=True, slots=True)
class _Resolved:
    """Values of a specification at this site, before texts are rendered."""

    machine: Machine
    labels: dict[str, str]
    seconds: int
    bound: Bound
    resources: Resources
    opened: DrivePath | None

    @property
    def peers(self) -> tuple[DeclaredPeer, ...]:
        return (*self.bound.peers, *self.resources.peers)

    @property
    def paths(self) -> tuple[DrivePath, ...]:
        opened = () if self.opened is None else (self.opened,)
        return (*self.bound.paths, *self.resources.links.values(), *opened)


def translate(
    specification: JobSpecification,
    application: Application,
    context: JobContext,
    *,
    render_confined: Callable[[Task], Rendered],
    templates: Templates,
) -> Translation:
    """Translate one job.

    `render_confined` renders untrusted text, and `templates` make the files of the job's folder. Raise `InvalidInput`
    that names the field, its value, and what is allowed.
    """
    config, replicas = context.config, specification.replicas
    resolved = _resolve(specification, application, context)
    variables = _variables(specification, application, resolved.machine, context.job_id)
    texts = render_texts(application, resolved.bound, variables, config, render_confined)
    directives = _directives(application, context, resolved, texts, replicas)
    inputs = ScriptInputs(
        directives=directives,
        folder=context.folder,
        exports=_exports(variables, config, resolved.opened),
        environment=read_environment(application, resolved.bound, texts),
        links=tuple((name, path.cluster) for name, path in resolved.resources.links.items()),
        modules=(*application.required_modules, *texts.modules),
        purge=bool(application.required_modules),
        payload=texts.body.strip("\n"),
    )
    settings = NodeSettings(
        job_id=context.job_id,
        names=bool(resolved.peers) or replicas > 1 or config.peers.always,
        view=_view(context),
        replicate=replicas > 1 and not application.template,
        cpus=_cpus(directives, resolved.machine),
        seconds=resolved.seconds,
        peers=resolved.peers,
        slurm_names=context.slurm_names,
    )
    script = render_script(inputs, templates)
    return Translation(
        directives=directives,
        script=script,
        files=_files(script, settings, config, templates),
        peers=resolved.peers,
        paths=resolved.paths,
        labels=resolved.labels,
        seconds=resolved.seconds,
        replicas=replicas,
        names=settings.names,
        web_port=_reachable(application.web_port),
        vnc_port=_reachable(application.vnc_port),
        vnc_password=application.vnc_password,
        interfaces=_interfaces(texts, replicas, application),
        notes=_notes(application, resolved.resources, texts, context.folder),
    )


def _resolve(specification: JobSpecification, application: Application, context: JobContext) -> _Resolved:
    config = context.config
    machine = find_machine(specification, config, context.product)
    check_application(specification, application)
    labels = read_labels(specification)
    check_replicas(specification.replicas, machine, multi_node=application.multi_node)
    seconds = time_limit(specification.time_allocation, machine, config.jobs.default_time)
    find = find_drive_path(config, context.owner, context.account, context.drives)
    resolve = partial(resolve_file, find)
    bound = bind(specification.parameters, application, resolve)
    resources = read_resources(specification, application, resolve)
    opened = find(specification.opened_file, field="openedFile") if specification.opened_file else None
    return _Resolved(machine, labels, seconds, bound, resources, opened)


def _variables(
    specification: JobSpecification, application: Application, machine: Machine, job_id: str
) -> dict[str, Any]:
    """Return the variables `ucloud` of templates, which are also `UCLOUD_*` in the environment."""
    return {
        "jobId": job_id,
        "machine": {
            "name": specification.product.id,
            "category": specification.product.category,
            "cpu": machine.cpus,
            "cpuModel": machine.cpu_model,
            "memoryInGigs": machine.memory,
            "memoryModel": machine.memory_model,
            "gpu": machine.gpus,
            "gpuModel": machine.gpu_model,
        },
        "nodes": specification.replicas,
        "partition": machine.partition,
        "qos": machine.qos,
        "application": {"name": application.name, "version": application.version},
        "webPort": application.web_port,
        "vncPort": application.vnc_port,
    }


def _directives(
    application: Application, context: JobContext, resolved: _Resolved, texts: Texts, replicas: int
) -> tuple[Directive, ...]:
    trusted, untrusted = read_directives(application, resolved.bound, texts)
    return build_directives(
        resolved.machine,
        slurm_name=context.slurm_name,
        folder=context.folder,
        replicas=replicas,
        seconds=resolved.seconds,
        after=context.after,
        trusted=trusted,
        untrusted=untrusted,
    )


def _exports(variables: dict[str, Any], config: Config, opened: DrivePath | None) -> tuple[tuple[str, str], ...]:
    """Return name and value of the variables that the script exports."""
    found = [("SLURM_CONF", config.cluster.slurm_conf)] if config.cluster.slurm_conf else []
    for name, value in variables.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for key, item in inner:
            if item is not None:
                found.append((_export_name(name, key), bash.plain(item)))
    if opened is not None:
        found.append(("UCLOUD_OPEN_WITH_FILE", opened.cluster))
    return tuple(found)


@lru_cache(maxsize=1024)
def _export_name(name: str, key: str) -> str:
    words = re.sub(r"([A-Z])", r"_\1", f"{name}_{key}".strip("_")).upper()
    return f"UCLOUD_{words}"


def _view(context: JobContext) -> str:
    """Return the path of the job's hosts view."""
    if context.config.peers.private:
        return f"{context.folder}/hosts"
    return f"{context.config.shared_dir}/peers/{context.peers_file}"


def _cpus(directives: Sequence[Directive], machine: Machine) -> int:
    """Return the processors per task, which the application may have changed."""
    for directive in directives:
        if directive.name == "cpus-per-task" and (directive.value or "").isdecimal():
            return int(directive.value or 0)
    return machine.cpus


def _files(script: str, settings: NodeSettings, config: Config, templates: Templates) -> dict[str, File]:
    content = script.encode()
    if len(content) > SCRIPT_LIMIT:
        raise InvalidInput(f"the job's script has {len(content)} bytes; Slurm accepts {SCRIPT_LIMIT}")
    return {
        SCRIPT_NAME: File(content, EXECUTABLE),
        **{name: File(content, EXECUTABLE, shared=True) for name, content in templates.node_files.items()},
        **{name: File(content, PRIVATE) for name, content in node_files(settings, config).items()},
    }


def _reachable(port: int | None) -> int | None:
    """Return the port of an interface, if a job can listen there."""
    return port if port is not None and port >= LOWEST_PORT else None


def _interfaces(texts: Texts, replicas: int, application: Application) -> tuple[Interface, ...]:
    for interface in texts.interfaces:
        if interface.rank >= replicas:
            raise InvalidInput(
                f"{application.source}: the application {application}: dynamicInterface(): rank: {interface.rank}: "
                f"the job has the ranks 0 to {replicas - 1}"
            )
    return texts.interfaces


def _notes(application: Application, resources: Resources, texts: Texts, folder: str) -> tuple[str, ...]:
    notes = [f"{path.ucloud} is at {folder}/mounts/{name}" for name, path in resources.links.items()]
    for kind, port in (("web", application.web_port), ("VNC", application.vnc_port)):
        if port is not None:
            use = (
                "other jobs reach it with a resource of type peer, and users with a session, if the site's gateway "
                "offers sessions"
                if _reachable(port)
                else f"there are no sessions with it, because jobs cannot listen on ports below {LOWEST_PORT}"
            )
            notes.append(f"{application} has a {kind} interface on port {port}: {use}")
    return (*notes, *(interface.status for interface in texts.interfaces))

"""A job's specification becomes what sbatch is given: the whole pure half of a submission.

Every field of a specification is honoured or refused with the reason:

| field | what becomes of it |
|---|---|
| `application` | must be the application that is translated |
| `product` | the machine table's entry; the provider must be this one |
| `labels` | kept with the job; those that ask UCloud for behaviour that is not here are refused |
| `name` | kept with the job, and shown; it never reaches Slurm |
| `hostname` | refused: it is a name on a private network, and there is none here |
| `replicas` | nodes, within the machine's limit |
| `allowDuplicateJob` | kept with the job |
| `parameters` | the application's command; see `slurm_adapter.translation.invocation` |
| `resources` | peers: names in the job; files: links in the job's folder `mounts/`; all others are refused |
| `timeAllocation` | Slurm's time limit; none means the configured default |
| `openedFile` | `UCLOUD_OPEN_WITH_FILE`, its path on the cluster |
| `restartOnExit`, `sshEnabled` | refused where true |

A file with `readOnly` is refused unless its drive is read-only by the site's configuration: a job runs as its user, who
may write what the file system lets him write.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from slurm_adapter.core import bash
from slurm_adapter.core.directives import Directive, build_directives, check_replicas, read_value, time_limit
from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.interfaces import LOWEST_PORT, check_interfaces
from slurm_adapter.core.problems import for_message
from slurm_adapter.core.specification import FileValue, PeerValue, UnknownValue
from slurm_adapter.translation.application import EnvironmentVariable, Template
from slurm_adapter.translation.drives import DrivePath, resolve_path
from slurm_adapter.translation.invocation import (
    ARGUMENT_LIMIT,
    NOT_HERE,
    DeclaredPeer,
    arguments,
    bind,
    check_modules,
    command_line,
    read_peer,
)
from slurm_adapter.translation.preprocessor import preprocess
from slurm_adapter.translation.rendering import Rendered, Source, Task, render
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

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from slurm_adapter.core.config import Config, Drive, Machine
    from slurm_adapter.core.interfaces import Interface
    from slurm_adapter.core.specification import JobSpecification, Owner, ResolvedProduct
    from slurm_adapter.translation.application import Application
    from slurm_adapter.translation.drives import Kind
    from slurm_adapter.translation.invocation import Bound, Resolve
    from slurm_adapter.translation.script import Templates

REFUSED_LABELS = frozenset(
    f"ucloud.dk/{name}" for name in ("init-script", "service-ip-address", "service-forward-tcp", "stack-state-folder")
)
"""Labels that ask UCloud for more than to be remembered."""

_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OWN_NAMES = frozenset(
    ["SLURM_EXPORT_ENV", "SLURM_CONF", "ucloud_folder", "UID", "EUID", "PPID", "BASHOPTS", "SHELLOPTS"]
)
_RESERVED_MOUNTS = ("/work", "/etc/ucloud", "/opt/ucloud")


@dataclass(frozen=True, slots=True)
class File:
    """A file of a job's folder."""

    content: bytes
    mode: int
    shared: bool = False
    """The same for every job that this program hands in: kept, and sent to the cluster, once for many."""


@dataclass(frozen=True, slots=True)
class Translation:
    """All that a specification comes to."""

    directives: tuple[Directive, ...]
    script: str
    files: dict[str, File]
    """By name in the job's folder, `job.sbatch` among them."""
    peers: tuple[DeclaredPeer, ...]
    """Their names and ids are not checked yet."""
    paths: tuple[DrivePath, ...]
    """To be looked at on the cluster before the job is submitted; see `check_paths_command`."""
    labels: dict[str, str]
    seconds: int
    """The time limit."""
    replicas: int
    names: bool
    """It gets a hosts file of its own on its nodes."""
    web_port: int | None
    """Where its application's web interface listens, if it has one."""
    vnc_port: int | None
    vnc_password: str | None
    interfaces: tuple[Interface, ...]
    """Its further interfaces."""
    notes: tuple[str, ...]
    """What a user should know of how the job was understood."""


@dataclass(frozen=True, slots=True)
class _Resources:
    peers: list[DeclaredPeer]
    links: dict[str, DrivePath]


def translate(
    specification: JobSpecification,
    application: Application,
    config: Config,
    owner: Owner,
    *,
    job_id: str,
    token: str,
    folder: str,
    peers_file: str,
    after: Sequence[int] = (),
    slurm_names: Mapping[str, str] = MappingProxyType({}),
    product: ResolvedProduct | None = None,
    account: str | None = None,
    drives: Sequence[Drive] = (),
    apart: Callable[[Task], Rendered],
    templates: Templates,
) -> Translation:
    """Translate one job.

    `token` is the job's name in Slurm, `folder` its folder on the cluster, `peers_file` the name of its hosts view.
    `after` holds the Slurm ids of its peers, `slurm_names` their names in Slurm by their ids. `account` is that of its
    user there, and `drives` are known besides those of the configuration. `product` is what UCloud sells by the
    product's name, which goes before the machine table's sizes. `apart` renders what the site has not written itself,
    and `templates` make the files of its folder.
    Raises `InvalidInput` that names the field, its value, and what is allowed.
    """
    machine = find_machine(specification, config)
    if product is not None:
        sizes = {"cpus": product.cpu, "memory": product.memory_in_gigs, "gpus": product.gpu}
        machine = machine.model_copy(update={name: size for name, size in sizes.items() if size})
    _refuse_application(specification, application)
    labels = _check_labels(specification)
    check_replicas(specification.replicas, machine, multi_node=application.multi_node)
    seconds = time_limit(specification.time_allocation, machine, config.jobs.default_time)

    find = partial(
        resolve_path,
        drives=(*config.drives, *drives),
        user=owner.created_by,
        project=owner.project,
        pattern=config.drive_pattern,
        account=account,
    )
    resolve = partial(_resolve_file, find)
    bound = bind(specification.parameters, application, resolve)
    resources = _read_resources(specification, application, resolve)
    peers = (*bound.peers, *resources.peers)
    opened = None
    if specification.opened_file:
        opened = find(specification.opened_file, field="openedFile")
    context = _context(specification, application, machine, job_id)
    texts = _render(application, bound, context, config, apart)
    own, foreign = _extra_directives(application, bound, texts)
    directives = build_directives(
        machine,
        slurm_name=token,
        folder=folder,
        replicas=specification.replicas,
        seconds=seconds,
        after=after,
        extra=own,
        foreign=foreign,
    )
    inputs = ScriptInputs(
        directives=directives,
        folder=folder,
        exports=_exports(context, config, opened),
        environment=_environment(application, bound, texts),
        links=tuple((name, path.cluster) for name, path in resources.links.items()),
        modules=(*application.required_modules, *texts.modules),
        purge=bool(application.required_modules),
        payload=texts.body.strip("\n"),
    )
    script = render_script(inputs, templates)
    if len(script.encode()) > SCRIPT_LIMIT:
        raise InvalidInput(f"the job's script has {len(script.encode())} bytes; Slurm takes {SCRIPT_LIMIT}")
    names = bool(peers) or specification.replicas > 1 or config.peers.always
    settings = NodeSettings(
        job_id=job_id,
        names=names,
        view=f"{folder}/hosts" if config.peers.private else f"{config.shared_dir}/peers/{peers_file}",
        replicate=specification.replicas > 1 and not application.template,
        cpus=_cpus(directives, machine),
        seconds=seconds,
        peers=peers,
        slurm_names=slurm_names,
    )
    return Translation(
        directives=directives,
        script=script,
        files={
            SCRIPT_NAME: File(script.encode(), EXECUTABLE),
            **{name: File(content, EXECUTABLE, shared=True) for name, content in templates.node_files.items()},
            **{name: File(content, PRIVATE) for name, content in node_files(settings, config).items()},
        },
        peers=peers,
        paths=(*bound.paths, *resources.links.values(), *([opened] if opened else [])),
        labels=labels,
        seconds=seconds,
        replicas=specification.replicas,
        names=names,
        web_port=_reachable(application.web_port),
        vnc_port=_reachable(application.vnc_port),
        vnc_password=application.vnc_password,
        interfaces=_interfaces(texts, specification.replicas, application),
        notes=(*_notes(application, resources, folder), *(interface.status for interface in texts.interfaces)),
    )


def find_machine(specification: JobSpecification, config: Config) -> Machine:
    """The machine table's entry for a job's product. Raises `InvalidInput` that names those there are."""
    product = specification.product
    if product.provider != config.provider:
        raise InvalidInput(f"product.provider: {for_message(product.provider)}: this is {config.provider}")
    machine = config.machines.get(product.category, {}).get(product.id)
    if machine is None:
        known = ", ".join(f"{category}/{name}" for category, names in config.machines.items() for name in names)
        asked = for_message(f"{product.category}/{product.id}")
        raise InvalidInput(f"product: {asked}: no such machine here; there are (category/id): {known}")
    return machine


def _refuse_application(specification: JobSpecification, application: Application) -> None:
    wanted = specification.application
    said = f"application: {for_message(f'{wanted.name} {wanted.version}')}"
    if (wanted.name, wanted.version) != (application.name, application.version):
        raise InvalidInput(f"{said}: but the job comes with {for_message(str(application))}")
    if application.backend != "NATIVE":
        raise InvalidInput(
            f"{said}: The application is not supported on this machine type: it is of type "
            f"{for_message(application.backend)}, and only NATIVE runs here"
        )
    if specification.hostname:
        raise InvalidInput(
            f"hostname: {for_message(specification.hostname)}: must be empty: it is a name on a private "
            "network, and there is none here; other jobs name this one by a resource of type peer"
        )
    if specification.restart_on_exit:
        raise InvalidInput("restartOnExit: true: must be false: jobs are not restarted here")
    if specification.ssh_enabled or application.ssh == "MANDATORY":
        raise InvalidInput("sshEnabled: true: must be false: jobs have no SSH server here")
    if application.inference == "MANDATORY":
        raise InvalidInput(f"{said}: needs an inference service, and there is none here")
    if application.job_audit_log:
        raise InvalidInput(f"{said}: needs an audit log of its jobs, which is not kept here")


def _check_labels(specification: JobSpecification) -> dict[str, str]:
    labels: dict[str, str] = {}
    for name, value in specification.labels.items():
        key = name.lower()
        said = f"labels[{for_message(name)}]"
        if not key or len(key.encode()) > 256:
            raise InvalidInput(f"{said}: a label's name has 1 to 256 bytes")
        if key in labels:
            raise InvalidInput(f"{said}: stands twice; upper and lower case are the same here")
        if key in REFUSED_LABELS:
            raise InvalidInput(f"{said}: what this label asks for is not supported here")
        labels[key] = value
    return labels


def _resolve_file(find: Callable[..., DrivePath], value: FileValue, field: str, kind: Kind) -> DrivePath:
    path = find(value.path, field=f"{field}.path", kind=kind)
    if value.read_only and not path.read_only:
        raise InvalidInput(
            f"{field}.readOnly: true: drive {for_message(path.ucloud.split('/')[1])} can be written by its users, "
            "and that cannot be taken from a job here; ask for a drive that the site configures as read_only"
        )
    if value.mount_path and value.mount_path != path.cluster:
        reserved = any(f"{value.mount_path}/".startswith(f"{name}/") for name in _RESERVED_MOUNTS)
        raise InvalidInput(
            f"{field}.mountPath: {for_message(value.mount_path)}: "
            + ("is reserved; " if reserved else "")
            + f"nothing is mounted here; leave it empty, or give the path on the cluster, {for_message(path.cluster)}"
        )
    return path


def _read_resources(specification: JobSpecification, application: Application, resolve: Resolve) -> _Resources:
    found = _Resources([], {})
    for number, value in enumerate(specification.resources):
        field = f"resources[{number}]"
        match value:
            case PeerValue():
                if application.job_linking is False:
                    raise InvalidInput(f"{field}: peer: the application {application} takes no further peers")
                found.peers.append(read_peer(value, field))
            case FileValue():
                if application.folders is False:
                    raise InvalidInput(f"{field}: file: the application {application} takes no further files")
                path = resolve(value, field, "any")
                if path.name in found.links:
                    raise InvalidInput(
                        f"{field}.path: {for_message(value.path)}: two files are named {for_message(path.name)}"
                    )
                found.links[path.name] = path
            case UnknownValue():
                raise InvalidInput(f"{field}: resources of type {for_message(value.type)} are not known here")
            case _:
                reason = NOT_HERE.get(value.type, "a value of this type belongs to parameters")
                raise InvalidInput(f"{field}: {value.type}: {reason}")
    return found


def _context(
    specification: JobSpecification, application: Application, machine: Machine, job_id: str
) -> dict[str, Any]:
    """What templates know as `ucloud`, and the environment as `UCLOUD_*`."""
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


def _exports(context: dict[str, Any], config: Config, opened: DrivePath | None) -> tuple[tuple[str, str], ...]:
    found = [("SLURM_CONF", config.cluster.slurm_conf)] if config.cluster.slurm_conf else []
    for name, value in context.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for key, item in inner:
            if item is not None:
                found.append((_variable(name, key), bash.plain(item)))
    if opened is not None:
        found.append(("UCLOUD_OPEN_WITH_FILE", opened.cluster))
    return tuple(found)


@lru_cache(maxsize=1024)
def _variable(name: str, key: str) -> str:
    words = re.sub(r"([A-Z])", r"_\1", f"{name}_{key}".strip("_")).upper()
    return f"UCLOUD_{words}"


@dataclass(slots=True)
class _Texts:
    """What the texts of a job come to: the site's own, and others."""

    body: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    sbatch: dict[str, str] = field(default_factory=dict)
    """Values of the application's own map of directives."""
    own: list[tuple[str, Any]] = field(default_factory=list)
    """Name and value of each call of `sbatch()` in the site's text."""
    foreign: list[tuple[str, Any]] = field(default_factory=list)
    """The same, in text that the site did not write."""
    interfaces: tuple[Interface, ...] = ()
    modules: tuple[str, ...] = ()
    """What is left to load before the text."""


def _render(
    application: Application,
    bound: Bound,
    context: dict[str, Any],
    config: Config,
    apart: Callable[[Task], Rendered],
) -> _Texts:
    where = f"{application.source}: the application {application}"
    check_modules(application.required_modules, where)
    reserved = {"ucloud", "cfg", "sbatch", "srun", "script", "ternary", "dynamicInterface"} & set(bound.values)
    if reserved:
        raise InvalidInput(f"{where}: a parameter cannot be named {', '.join(sorted(reserved))}")
    sources, loads = _sources(application, bound, where)
    modules = "".join(f"\nmodule load {bash.quote(name)} || exit 1" for name in bound.modules)
    task = Task(
        variables={
            **bound.values,
            "ucloud": {**context, "machine": {**context["machine"], "nodes": context["nodes"]}},
        },
        safe={
            "_systemLoad": config.jobs.system_load.rstrip("\n") + modules,
            "_systemUnload": config.jobs.system_unload,
        },
        srun=srun_words(config),
    )
    environment = _map_sources(application.environment, f"{where}: environment")
    sbatch = _map_sources(application.sbatch, f"{where}: sbatch")
    texts = _Texts(modules=() if loads else tuple(bound.modules))
    if environment or sbatch:
        found = (render if application.trusted else apart)(replace(task, environment=environment, sbatch=sbatch))
        texts.environment, texts.sbatch = found.environment, found.sbatch
    bodies = []
    for own, source in sources:
        found = (render if own else apart)(replace(task, body=(source,)))
        bodies.append(found.body)
        (texts.own if own else texts.foreign).extend(found.calls)
        texts.interfaces += found.interfaces
    try:
        texts.interfaces = check_interfaces(texts.interfaces)
    except ValueError as error:
        raise InvalidInput(f"{where}: {error}") from error
    texts.body = "\n".join(bodies) if application.template else command_line(application, bound)
    return texts


def _sources(application: Application, bound: Bound, where: str) -> tuple[list[tuple[bool, Source]], bool]:
    """Return the texts of a job in their order, each with whether the site wrote it, and whether one loads modules."""
    if not application.template:
        if bound.workflows:
            raise InvalidInput(f"{where}: a workflow needs an application whose invocation is Jinja")
        return [], False
    if len(application.invocation) > 1:
        raise InvalidInput(f"{where}: its invocation mixes Jinja with other parts, which is not supported")
    texts = [(f"{where}: invocation", part, False) for part in application.invocation if isinstance(part, Template)]
    found = []
    loads = False
    for name, template, by_user in [*texts, *bound.workflows]:
        prepared = preprocess(template, application, name)
        loads = loads or prepared.uses_system_load
        found.append((application.trusted and not by_user, Source(prepared.text, name, template.line)))
    if not any(source.text.strip() for _, source in found):
        raise InvalidInput(f"the application {application} has no command")
    return found, loads


def _reachable(port: int | None) -> int | None:
    """Return the port of an interface, if a job can listen there."""
    return port if port is not None and port >= LOWEST_PORT else None


def _interfaces(texts: _Texts, replicas: int, application: Application) -> tuple[Interface, ...]:
    for interface in texts.interfaces:
        if interface.rank >= replicas:
            raise InvalidInput(
                f"{application.source}: the application {application}: dynamicInterface(): rank: {interface.rank}: "
                f"the job has the ranks 0 to {replicas - 1}"
            )
    return texts.interfaces


def srun_words(config: Config) -> str:
    """What `srun()` expands to: the site's command, then how many nodes, tasks and processors it is for.

    One task per node, unless the application has asked Slurm for another number of tasks.
    """
    command, *flags = config.jobs.srun
    count = '-N "$SLURM_NNODES" -n "${SLURM_NTASKS:-$SLURM_NNODES}" --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}"'
    return " ".join([bash.quote(command), count, *map(bash.quote, flags)])


def _map_sources(parts: Sequence[tuple[str, Any]], where: str) -> dict[str, Source]:
    return {name: Source(part.text, f"{where}.{name}", part.line) for name, part in parts if isinstance(part, Template)}


def _environment(application: Application, bound: Bound, texts: _Texts) -> tuple[tuple[str, str], ...]:
    found = []
    for name, part in application.environment:
        said = f"the application {application} sets the environment variable {for_message(name)}"
        if not _ENVIRONMENT_NAME.fullmatch(name) or name in _OWN_NAMES or name.startswith("UCLOUD_"):
            raise InvalidInput(f"{said}, which is not its to set")
        if isinstance(part, EnvironmentVariable):
            if not _ENVIRONMENT_NAME.fullmatch(part.name):
                raise InvalidInput(f"{said} to that of {for_message(part.name)}, which is no name of a variable")
            found.append((name, f'"${{{part.name}-}}"'))
            continue
        value = texts.environment[name] if isinstance(part, Template) else " ".join(arguments(part, bound))
        if len(f"{name}={value}".encode()) > ARGUMENT_LIMIT:
            raise InvalidInput(f"{said} to more than {ARGUMENT_LIMIT} bytes")
        if "\0" in value:
            raise InvalidInput(f"{said} to a text that holds a NUL character")
        found.append((name, bash.quote(value)))
    return tuple(found)


def _extra_directives(application: Application, bound: Bound, texts: _Texts) -> tuple[list[Directive], list[Directive]]:
    """Return the directives that the site's text sets, and those of other text."""
    values: list[tuple[str, Any]] = []
    for name, part in application.sbatch:
        text = texts.sbatch[name] if isinstance(part, Template) else " ".join(arguments(part, bound))
        written = part.text if isinstance(part, Template) else text
        if text.strip() or not written.strip():  # a template that came to nothing sets nothing
            values.append((name, text.strip()))
    own = [*(values if application.trusted else ()), *texts.own]
    foreign = [*(() if application.trusted else values), *texts.foreign]
    return _as_directives(own), _as_directives(foreign)


def _as_directives(values: Sequence[tuple[str, Any]]) -> list[Directive]:
    return [directive for name, value in values if (directive := read_value(name, value)) is not None]


def _cpus(directives: Sequence[Directive], machine: Machine) -> int:
    """Processors per task, as the application may have changed them."""
    for directive in directives:
        if directive.name == "cpus-per-task" and (directive.value or "").isdecimal():
            return int(directive.value or 0)
    return machine.cpus


def _notes(application: Application, resources: _Resources, folder: str) -> list[str]:
    notes = [f"{path.ucloud} is at {folder}/mounts/{name}" for name, path in resources.links.items()]
    notes += [
        f"{application} has a {kind} interface on port {port}: "
        + (
            "other jobs reach it by a resource of type peer, and people by a session, where the site's gateway offers "
            "those"
            if _reachable(port)
            else f"there are no sessions with it, for no job can listen on a port below {LOWEST_PORT}"
        )
        for kind, port in (("web", application.web_port), ("VNC", application.vnc_port))
        if port is not None
    ]
    return notes

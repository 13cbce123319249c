"""Render the texts of a job: its command or script, its environment, and the directives that it sets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from slurm_adapter.core import bash
from slurm_adapter.core.directives import Directive, read_value
from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.interfaces import Interface, check_interfaces
from slurm_adapter.core.problems import for_message
from slurm_adapter.translation.application import EnvironmentVariable, Template
from slurm_adapter.translation.invocation import ARGUMENT_LIMIT, arguments, check_modules, command_line
from slurm_adapter.translation.preprocessor import preprocess
from slurm_adapter.translation.rendering import TEMPLATE_NAMES, Source, Task, render

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slurm_adapter.core.config import Config
    from slurm_adapter.translation.application import Application
    from slurm_adapter.translation.invocation import Bound
    from slurm_adapter.translation.rendering import Rendered

_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED_VARIABLES = frozenset(
    ["SLURM_EXPORT_ENV", "SLURM_CONF", "ucloud_folder", "UID", "EUID", "PPID", "BASHOPTS", "SHELLOPTS"]
)


@dataclass(slots=True)
class Texts:
    """Rendered texts of a job. Trusted text is the site's own; see `slurm_adapter.core.allowance`."""

    body: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    sbatch: dict[str, str] = field(default_factory=dict)
    """Values of the application's map of directives."""
    trusted_calls: list[tuple[str, Any]] = field(default_factory=list)
    """Name and value of each call of `sbatch()` in trusted text."""
    untrusted_calls: list[tuple[str, Any]] = field(default_factory=list)
    """The same for other text."""
    interfaces: tuple[Interface, ...] = ()
    modules: tuple[str, ...] = ()
    """Modules that the script loads, because no text does."""


def render_texts(
    application: Application,
    bound: Bound,
    variables: dict[str, Any],
    config: Config,
    render_confined: Callable[[Task], Rendered],
) -> Texts:
    """Render trusted text in this process, and other text with `render_confined`.

    `variables` is `ucloud` in templates. Raise `InvalidInput` that names the text and the line.
    """
    place = f"{application.source}: the application {application}"
    check_modules(application.required_modules, place)
    reserved = TEMPLATE_NAMES & set(bound.values)
    if reserved:
        raise InvalidInput(f"{place}: a parameter must not have the name {', '.join(sorted(reserved))}")
    sources, loads_modules = _sources(application, bound, place)
    task = _task(bound, variables, config)
    environment = _map_sources(application.environment, f"{place}: environment")
    sbatch = _map_sources(application.sbatch, f"{place}: sbatch")
    texts = Texts(modules=() if loads_modules else tuple(bound.modules))
    if environment or sbatch:
        run = render if application.trusted else render_confined
        rendered = run(replace(task, environment=environment, sbatch=sbatch))
        texts.environment, texts.sbatch = rendered.environment, rendered.sbatch
    bodies = []
    for trusted, source in sources:
        rendered = (render if trusted else render_confined)(replace(task, body=(source,)))
        bodies.append(rendered.body)
        (texts.trusted_calls if trusted else texts.untrusted_calls).extend(rendered.calls)
        texts.interfaces += rendered.interfaces
    try:
        texts.interfaces = check_interfaces(texts.interfaces)
    except ValueError as error:
        raise InvalidInput(f"{place}: {error}") from error
    texts.body = "\n".join(bodies) if application.template else command_line(application, bound)
    return texts


def _task(bound: Bound, variables: dict[str, Any], config: Config) -> Task:
    """Return a task without texts."""
    modules = "".join(f"\nmodule load {bash.quote(name)} || exit 1" for name in bound.modules)
    return Task(
        variables={
            **bound.values,
            "ucloud": {**variables, "machine": {**variables["machine"], "nodes": variables["nodes"]}},
        },
        safe={
            "_systemLoad": config.jobs.system_load.rstrip("\n") + modules,
            "_systemUnload": config.jobs.system_unload,
        },
        srun=srun_words(config),
    )


def _sources(application: Application, bound: Bound, place: str) -> tuple[list[tuple[bool, Source]], bool]:
    """Return the texts of a job in order, each with whether it is trusted; and whether one of them loads modules."""
    if not application.template:
        if bound.workflows:
            raise InvalidInput(f"{place}: a workflow needs an application with an invocation in Jinja")
        return [], False
    if len(application.invocation) > 1:
        raise InvalidInput(f"{place}: its invocation mixes Jinja with other parts, which is not supported")
    texts = [(f"{place}: invocation", part, False) for part in application.invocation if isinstance(part, Template)]
    found = []
    loads_modules = False
    for name, template, by_user in [*texts, *bound.workflows]:
        prepared = preprocess(template, application, name)
        loads_modules = loads_modules or prepared.uses_system_load
        found.append((application.trusted and not by_user, Source(prepared.text, name, template.line)))
    if not any(source.text.strip() for _, source in found):
        raise InvalidInput(f"the application {application} has no command")
    return found, loads_modules


def srun_words(config: Config) -> str:
    """Return what `srun()` expands to: the site's command, the numbers of nodes, tasks and processors, and its flags.

    There is one task per node, unless the application requested another number of tasks from Slurm.
    """
    command, *flags = config.jobs.srun
    count = '-N "$SLURM_NNODES" -n "${SLURM_NTASKS:-$SLURM_NNODES}" --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}"'
    return " ".join([bash.quote(command), count, *map(bash.quote, flags)])


def _map_sources(parts: Sequence[tuple[str, Any]], place: str) -> dict[str, Source]:
    return {name: Source(part.text, f"{place}.{name}", part.line) for name, part in parts if isinstance(part, Template)}


def read_environment(application: Application, bound: Bound, texts: Texts) -> tuple[tuple[str, str], ...]:
    """Return name and value, quoted for bash, of the application's environment. Raise `InvalidInput`."""
    found = []
    for name, part in application.environment:
        subject = f"the application {application} sets the environment variable {for_message(name)}"
        if not _ENVIRONMENT_NAME.fullmatch(name) or name in _RESERVED_VARIABLES or name.startswith("UCLOUD_"):
            raise InvalidInput(f"{subject}, which is reserved or not a name of a variable")
        if isinstance(part, EnvironmentVariable):
            if not _ENVIRONMENT_NAME.fullmatch(part.name):
                raise InvalidInput(f"{subject} to that of {for_message(part.name)}, which is not a name of a variable")
            found.append((name, f'"${{{part.name}-}}"'))
            continue
        value = texts.environment[name] if isinstance(part, Template) else " ".join(arguments(part, bound))
        if len(f"{name}={value}".encode()) > ARGUMENT_LIMIT:
            raise InvalidInput(f"{subject} to more than {ARGUMENT_LIMIT} bytes")
        if "\0" in value:
            raise InvalidInput(f"{subject} to a text with a NUL character")
        found.append((name, bash.quote(value)))
    return tuple(found)


def read_directives(application: Application, bound: Bound, texts: Texts) -> tuple[list[Directive], list[Directive]]:
    """Return the directives of trusted text, and those of other text."""
    values: list[tuple[str, Any]] = []
    for name, part in application.sbatch:
        text = texts.sbatch[name] if isinstance(part, Template) else " ".join(arguments(part, bound))
        written = part.text if isinstance(part, Template) else text
        if text.strip() or not written.strip():  # a template with an empty result sets nothing
            values.append((name, text.strip()))
    trusted = [*(values if application.trusted else ()), *texts.trusted_calls]
    untrusted = [*(() if application.trusted else values), *texts.untrusted_calls]
    return _as_directives(trusted), _as_directives(untrusted)


def _as_directives(values: Sequence[tuple[str, Any]]) -> list[Directive]:
    return [directive for name, value in values if (directive := read_value(name, value)) is not None]

"""Make the files of a job: the script for sbatch, and the files that the job needs on its nodes.

The script has two entries. Slurm runs it without arguments: it passes the fence (docs/design.md#fence) and becomes
`node/batch.sh`. That prepares the job's names, and runs the script again as `job.sbatch payload`: the application.

The template is `job.sbatch.j2`, of the site if it has one. The same inputs give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from slurm_adapter.core import bash
from slurm_adapter.core.directives import Directive, lint_script
from slurm_adapter.core.errors import InvalidConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jinja2 import BaseLoader

    from slurm_adapter.core.config import Config
    from slurm_adapter.translation.invocation import DeclaredPeer

SCRIPT_NAME = "job.sbatch"
SCRIPT_LIMIT = 4 * 1024 * 1024
"""Most bytes of a script: the default of max_script_size in slurm.conf(5)."""
EXECUTABLE = 0o700
PRIVATE = 0o600

NODE_FILES = ("batch.sh", "join.sh", "holder.sh", "srun")
"""Shell files of every job, in `templates/node/`."""


@dataclass(frozen=True, slots=True)
class ScriptInputs:
    """Values in a job's script."""

    directives: tuple[Directive, ...]
    folder: str
    exports: tuple[tuple[str, str], ...]
    """`UCLOUD_*` and `SLURM_CONF`. The batch script has them, too."""
    environment: tuple[tuple[str, str], ...]
    """Variables of the application: name, and value quoted for bash."""
    links: tuple[tuple[str, str], ...]
    """Links in the job's folder `mounts/`: name and path."""
    modules: tuple[str, ...]
    """Modules to load before the application starts."""
    purge: bool
    """Unload the modules of the user's login first."""
    payload: str
    """The application, as shell text."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Settings that the shell files on the nodes read."""

    job_id: str
    names: bool
    """The job gets names, because it has peers or several nodes, or because of `peers.always`."""
    view: str
    replicate: bool
    """The payload runs on every node, not only on the first."""
    cpus: int
    """Processors per task."""
    seconds: int
    """Time limit of the job."""
    peers: tuple[DeclaredPeer, ...]
    slurm_names: Mapping[str, str]
    """Slurm names of the peers, by id."""


def peer_line(job_id: str, hostname: str, slurm_name: str) -> str:
    """Return a line of the file `node/peers`."""
    return f"{job_id} {hostname.lower()} {slurm_name}".rstrip() + "\n"


@dataclass(frozen=True, slots=True)
class Templates:
    """Templates for the files of a job's folder."""

    source: str
    """Path of the templates, for messages."""
    environment: ImmutableSandboxedEnvironment
    """See `script_environment`."""
    node_files: Mapping[str, bytes]
    """Shell files of every job, by name in its folder."""


def render_script(inputs: ScriptInputs, templates: Templates) -> str:
    """Return the script.

    Raise `InvalidConfig` for an error in the template, and `InvalidInput` if sbatch would refuse the result.
    """
    try:
        text = templates.environment.get_template(f"{SCRIPT_NAME}.j2").render(
            directives=tuple(f"{directive}" for directive in inputs.directives),
            folder=inputs.folder,
            exports=inputs.exports,
            environment=inputs.environment,
            links=inputs.links,
            modules=inputs.modules,
            purge=inputs.purge,
            payload=inputs.payload,
        )
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        at_line = f", line {line}" if line else ""
        raise InvalidConfig(f"{templates.source}: {SCRIPT_NAME}.j2{at_line}: {error}") from error
    text = text.rstrip("\n") + "\n"
    lint_script(text)
    return text


def script_environment(loader: BaseLoader) -> ImmutableSandboxedEnvironment:
    """Return the Jinja environment for the templates of `loader`."""
    environment = ImmutableSandboxedEnvironment(
        loader=loader,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # values of the shell script are quoted by `bash`
    )
    environment.filters["bash"] = bash.quote
    return environment


def node_files(settings: NodeSettings, config: Config) -> dict[str, bytes]:
    """Return the files of settings for the nodes. They are read, not sourced, so values are not quoted."""
    lines = {
        "format": "1",
        "job_id": settings.job_id,
        "names": _yes(settings.names),
        "view": settings.view,
        "replicate": _yes(settings.replicate),
        "cpus": str(settings.cpus),
        "time_limit": str(settings.seconds),
        "wait": str(config.peers.wait),
        "methods": " ".join(config.peers.methods),
        "allow_env": _yes(config.peers.allow_env),
        "address": config.peers.address or "",
        "path": config.cluster.path,
    }
    files = {"node/settings": "".join(f"{name}={value}\n" for name, value in lines.items()).encode()}
    if settings.peers:
        lines_of_peers = (
            peer_line(peer.job_id, peer.hostname, settings.slurm_names.get(peer.job_id, "")) for peer in settings.peers
        )
        files["node/peers"] = "".join(lines_of_peers).encode()
    return files


def _yes(value: object) -> str:
    return "yes" if value else "no"

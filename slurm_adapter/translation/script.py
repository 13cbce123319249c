"""The files of a job: the script that sbatch is given, and what travels with it to the nodes.

The script has two entries. sbatch runs it without arguments: it passes the fence, and becomes `node/batch.sh`, which
prepares the job's names and runs the script again as `job.sbatch payload`: the application.

Its text comes from the template `job.sbatch.j2`, the site's own where it has one. The same inputs give the same bytes.
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
"""The most bytes of a script (max_script_size of Slurm, unless the site says otherwise)."""
EXECUTABLE = 0o700
PRIVATE = 0o600

NODE_FILES = ("batch.sh", "join.sh", "holder.sh", "srun")
"""The shell files that travel with every job, in `templates/node/`."""


@dataclass(frozen=True, slots=True)
class ScriptInputs:
    """All that a job's script is made of."""

    directives: tuple[Directive, ...]
    folder: str
    exports: tuple[tuple[str, str], ...]
    """The job's context, `UCLOUD_*`, and `SLURM_CONF`; there for the batch script too."""
    environment: tuple[tuple[str, str], ...]
    """The application's own variables: name and value, quoted for bash."""
    links: tuple[tuple[str, str], ...]
    """Names in the job's folder `mounts/`, and where they point to."""
    modules: tuple[str, ...]
    """To load before the application starts."""
    purge: bool
    """Unload what the user's login loads, first."""
    payload: str
    """The application, as shell text."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What the shell files on the nodes have to know."""

    job_id: str
    names: bool
    """The job gets names: it has peers, or several nodes, or the site wants it for every job."""
    view: str
    replicate: bool
    """The payload runs on every node, not on the first alone."""
    cpus: int
    """Per task."""
    seconds: int
    """The job's time limit."""
    peers: tuple[DeclaredPeer, ...]
    slurm_names: Mapping[str, str]
    """The Slurm names of the peers, by their ids."""


def peer_line(job_id: str, hostname: str, slurm_name: str) -> str:
    """Return a line of the file `node/peers`."""
    return f"{job_id} {hostname.lower()} {slurm_name}".rstrip() + "\n"


@dataclass(frozen=True, slots=True)
class Templates:
    """What the files of a job's folder are made from."""

    source: str
    """Their folder, for messages."""
    environment: ImmutableSandboxedEnvironment
    """See `script_environment`."""
    node_files: Mapping[str, bytes]
    """The shell files that travel with every job, by their name in its folder."""


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
        where = f", line {line}" if line else ""
        raise InvalidConfig(f"{templates.source}: {SCRIPT_NAME}.j2{where}: {error}") from error
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
        autoescape=False,  # it is a shell script, and `bash` quotes its values
    )
    environment.filters["bash"] = bash.quote
    return environment


def node_files(settings: NodeSettings, config: Config) -> dict[str, bytes]:
    """The files that hold what the shell files on the nodes read; never sourced, so values need no quoting."""
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

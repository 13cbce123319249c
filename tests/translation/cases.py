"""A site, a user, and short ways to translate a job."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.core.config import Config
from slurm_adapter.core.specification import Owner, parse_specifications
from slurm_adapter.local.application_folder import Catalogue, open_catalogue
from slurm_adapter.local.render_process import render_confined
from slurm_adapter.local.template_folder import open_templates
from slurm_adapter.translation.application import Application, Option, Parameter, Template, Variable, Word
from slurm_adapter.translation.translate import JobContext, Translation, translate

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.translation.rendering import Rendered, Task

FOLDER = "/home/alice/ucloud-jobs/4150"


@pytest.fixture
def config() -> Config:
    """A site with one machine of each kind."""
    return Config.model_validate(
        {
            "provider": "example",
            "state_dir": "/var/lib/slurm-adapter",
            "shared_dir": "/shared/ucloud",
            "machines": {
                "example-compute": {
                    "example-compute": {
                        "partition": "normal", "cpus": 1, "memory": 2, "max_nodes": 4, "max_time": "1-00:00:00"
                    },
                    "gpu": {
                        "partition": "gpu", "qos": "fast", "account": "site", "constraint": "a100", "cpus": 16,
                        "memory": 64, "gpus": 2, "gpu_type": "a100", "gpu_model": "NVIDIA A100", "exclusive": True,
                        "max_nodes": 2, "max_time": "04:00:00",
                    },
                }
            },
            "drives": [
                {"id": "123", "path": "/shared/data/123"},
                {"id": "hers", "path": "/shared/data/hers", "users": ["alice"], "projects": ["p1"]},
                {"id": "archive", "path": "/archive/", "read_only": True},
            ],
            "jobs": {"system_load": "PATH=/opt/acme/bin:$PATH\n", "system_unload": "unload"},
        }
    )  # fmt: skip


@pytest.fixture
def catalogue(config: Config) -> Catalogue:
    return open_catalogue(config)


@dataclass(frozen=True)
class Case:
    """Job for this site, changed key by key."""

    config: Config
    application: Application
    folder: str = FOLDER
    render_confined: Callable[[Task], Rendered] = render_confined

    def translate(self, **fields: Any) -> Translation:
        """Translate a specification with these fields in addition to the required ones."""
        context = JobContext(
            config=self.config,
            owner=Owner(created_by="alice", project="p1"),
            job_id="4150",
            slurm_name="i1-ucloud-4150",
            folder=self.folder,
            peers_file="4150",
        )
        [specification] = parse_specifications(self.specification(**fields))
        return translate(
            specification,
            self.application,
            context,
            render_confined=self.render_confined,
            templates=open_templates(self.config.templates),
        )

    def specification(self, **fields: Any) -> bytes:
        """Return the specification as JSON."""
        whole = {
            "application": {"name": self.application.name, "version": self.application.version},
            "product": {"id": "example-compute", "category": "example-compute", "provider": "example"},
            **fields,
        }
        return json.dumps(whole).encode()

    def with_application(self, **fields: Any) -> Case:
        """Return the same case with another application."""
        return replace(self, application=replace(self.application, **fields))

    def with_template(self, text: str, **fields: Any) -> Case:
        """Return the same case with an application of this Jinja text."""
        return self.with_application(invocation=(Template(text),), **fields)


PARAMETERS = (
    Parameter("debug", "boolean", optional=True, true_value="yes", false_value="no"),
    Parameter("value", "text", optional=True),
    Parameter("count", "integer", optional=True, minimum=2, maximum=10, step=2),
    Parameter("ratio", "floating_point", optional=True, minimum=0, maximum=1, step=0.1),
    Parameter("mode", "enumeration", optional=True, options=(Option("Fast mode", "fast"), Option("Slow", "slow"))),
    Parameter("input", "input_file", optional=True),
    Parameter("folder", "input_directory", optional=True),
    Parameter("db", "peer", optional=True),
    Parameter("modules", "modules", optional=True, modules=("gcc/12", "mpi")),
    Parameter("flow", "workflow", optional=True),
)


@pytest.fixture
def case(config: Config) -> Case:
    """An application of words and variables with a parameter of each type, all of them optional."""
    names = ("debug", "value", "count", "ratio", "mode", "input", "folder", "db")
    application = Application(
        name="acme-batch",
        version="1.0.0",
        title="Acme batch",
        source="acme-batch.yaml",
        trusted=True,
        backend="NATIVE",
        parameters=PARAMETERS,
        invocation=(
            Word("acme-batch"),
            *(Variable((name,), prefix_global=f"--{name}") for name in names),
        ),
        multi_node=True,
    )
    return Case(config, application)


@pytest.fixture
def wire() -> Callable[[str], bytes]:
    """A request as UCloud sends it, by the name of its file."""
    return lambda name: (Path(__file__).parent / "wire" / name).read_bytes()


WEIRD = (
    "", " ", "'; touch pwned; '", "$(touch pwned)", "`touch pwned`", '"', "\\", "\n", "a\r\nb", "\r", "\t", "-leading",
    "--flag=value", "~", "*", "a b", "#SBATCH --uid=0", "x\n#SBATCH --account=root", "${HOME}", "!!", "{{ 7 * 7 }}",
    "{% raw %}", "{- systemLoad -}", "grün 🧬 \u202e", "=", "A=b", "a,b=c d,e", "%j %%",
    "\x01\x1b[31m", "'\"'\"'", "\\n",
    "é" * 2000, "x" * 100_000,
)  # fmt: skip
"""Texts that must arrive unchanged."""


@pytest.fixture(params=WEIRD, ids=lambda text: ascii(text[:20]))
def weird(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def weird_texts() -> tuple[str, ...]:
    """Return all of them."""
    return WEIRD

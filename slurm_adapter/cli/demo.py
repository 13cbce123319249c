"""The demo: a database job, and a web application that finds it by the name `database`.

The two specifications are examples of UCloud's documentation. They run two small C programs, which are compiled
statically on the cluster. The source of the web application has the name, its job does not. Each job gets its own node,
so that the connection goes over the network.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from slurm_adapter.adapter import Adapter
from slurm_adapter.cli import job_output
from slurm_adapter.cli.formatting import safe, state
from slurm_adapter.cluster.archive import archive
from slurm_adapter.cluster.transports.interface import Command
from slurm_adapter.core import bash
from slurm_adapter.core.config_tables import Drive
from slurm_adapter.core.errors import InvalidConfig, Refused
from slurm_adapter.core.specification import Owner, parse_specifications
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs import cancel, item, logs, submit
from slurm_adapter.jobs.sync import sync
from slurm_adapter.local.configuration_file import load_config
from slurm_adapter.local.template_folder import packaged_templates

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slurm_adapter.core.config import Config
    from slurm_adapter.core.records import Record

PROGRAMS = ("acme-database", "acme-web-app")

DATABASE = {
    "application": {"name": "acme-database", "version": "1.0.0"},
    "name": "my-database",
    "replicas": 1,
    "allowDuplicateJob": False,
    "parameters": {"dataStore": {"type": "file", "path": "/123/acme-database", "readOnly": False}},
    "resources": None,
    "timeAllocation": {"hours": 0, "minutes": 5, "seconds": 0},
    "openedFile": None,
    "restartOnExit": None,
    "sshEnabled": None,
}
"""The first example. `product` and a time limit are added; the limit ends a forgotten demo."""

WEB_APP = {
    "application": {"name": "acme-web-app", "version": "1.0.0"},
    "name": "my-web-app",
    "replicas": 1,
    "allowDuplicateJob": False,
    "parameters": None,
    "timeAllocation": {"hours": 0, "minutes": 5, "seconds": 0},
    "openedFile": None,
    "restartOnExit": None,
    "sshEnabled": None,
}
"""The second example. `resources` with the database's id is added."""

PATIENCE = 300.0
"""Limit of each step in seconds. A busy cluster needs a long one."""

_BUILD = r"""
umask 077
mkdir -p -- "$1/data/acme-database" && cd -P -- "$1" && tar -x -f - || exit 1
for name in acme-database acme-web-app; do
    ${CC:-cc} -static -O1 -w -o "$name.new" "$name.c" && mv -f -- "$name.new" "$name" || exit 1
done
"""


@dataclass(slots=True)
class _Stage:
    """The site as the demo uses it, and what was said so far."""

    adapter: Adapter
    owner: Owner
    began: float = field(default_factory=time.monotonic)

    def say(self, who: str, text: str) -> None:
        """Print one line about an event."""
        clock = click.style(f"{time.monotonic() - self.began:5.1f}s", dim=True)
        click.echo(f"{clock}  {who:<8}  {text}")
        sys.stdout.flush()


def run_demo(config_path: Path | None, say: Callable[[str], None]) -> None:
    """Run the demo, and print its events to stdout. Without a configuration, install and start a sandbox.

    Raises `Refused` if the web application did not reach the database by its name on another node, and `InvalidConfig`
    if this cluster cannot run the demo.
    """
    if config_path is None:
        from slurm_adapter import sandbox  # noqa: PLC0415  # needed only without a cluster

        config_path = sandbox.up(say=say)
    config = load_config(config_path)
    if not config.command_line.user:
        raise InvalidConfig(f"{config_path}: the demo needs command_line.user, the owner of its jobs")
    owner = Owner(created_by=config.command_line.user, project=config.command_line.project)
    with Adapter(config) as known:
        account = known.account_of(owner)
        folder = config.jobs.folder.replace("{user}", account).rsplit("/", 1)[0] + "/.demo"
        with Adapter(_demo_config(config, folder)) as adapter:
            stage = _Stage(adapter, owner)
            _build(stage, account, folder)
            _play(stage)


def _demo_config(config: Config, folder: str) -> Config:
    """The site's configuration with a drive and a PATH for the demo, and whole nodes."""
    machines = {
        category: {name: machine.model_copy(update={"exclusive": True}) for name, machine in products.items()}
        for category, products in config.machines.items()
    }
    drives = [drive for drive in config.drives if drive.id != "123"]
    load = f"{config.jobs.system_load}\nexport PATH={bash.quote(folder)}:$PATH"
    return config.model_copy(
        update={
            "machines": machines,
            "drives": (*drives, Drive(id="123", path=f"{folder}/data")),
            "jobs": config.jobs.model_copy(update={"system_load": load}),
        }
    )


def _build(stage: _Stage, account: str, folder: str) -> None:
    sources = packaged_templates() / "demo"
    content = archive({f"{name}.c": ((sources / f"{name}.c").read_bytes(), 0o600) for name in PROGRAMS})
    result = stage.adapter.transport.run(
        Command(("/bin/sh", "-c", _BUILD, "sh", folder), stdin=content, user=account, timeout=120)
    )
    if result.status != 0:
        raise InvalidConfig(
            f"the demo's programs could not be compiled on the cluster as {account}: {result.complaint}; "
            "install a C compiler (cc) with a static C library there"
        )
    stage.say("cluster", f"compiled {' and '.join(PROGRAMS)} as {account}, statically linked")


def _play(stage: _Stage) -> None:
    database = _submit(stage, "database", DATABASE)
    try:
        database = _until(stage, "database", database, JobState.RUNNING)
        web_app = _submit(
            stage, "web app", WEB_APP | {"resources": [{"type": "peer", "hostname": "database", "jobId": database.id}]}
        )
        try:
            stage.say(
                "web app", f"its specification names job {database.id} as its peer {click.style('database', bold=True)}"
            )
            web_app = _until(stage, "web app", web_app, JobState.RUNNING)
            _show_hosts(stage)
            web_app = _until(stage, "web app", web_app, JobState.SUCCESS)
        finally:
            cancel.cancel(stage.adapter, [web_app.id])
        answer = b"".join(piece.data for piece in logs.read(stage.adapter, web_app) if not piece.is_error)
        for line in answer.decode(errors="replace").splitlines():
            stage.say("web app", click.style(safe(line), fg="green", bold=True))
        nodes = _check(stage.adapter.store.get(database.id), web_app, answer)
    finally:
        cancel.cancel(stage.adapter, [database.id])
    _until(stage, "database", database, JobState.SUCCESS)
    stage.say("demo", f"done: a job on {nodes[0]} reached a job on {nodes[1]} by the name database")


def _submit(stage: _Stage, who: str, specification: dict[str, object]) -> Record:
    config = stage.adapter.config
    category, products = next(iter(config.machines.items()))
    if "example-compute" in config.machines:
        category, products = "example-compute", config.machines["example-compute"]
    product = {"id": next(iter(products)), "category": category, "provider": config.provider}
    items = [
        item.Item(each) for each in parse_specifications(json.dumps(specification | {"product": product}).encode())
    ]
    record = submit.submit(stage.adapter, stage.owner, items)[0]
    stage.say(who, f"submitted: job {record.id}, Slurm job {record.slurm_id}")
    return record


def _until(stage: _Stage, who: str, record: Record, wanted: JobState) -> Record:
    """Sync until the job has a state, and print its changes. Raises `Refused` if it cannot reach the state."""
    limit = time.monotonic() + PATIENCE
    while True:
        with stage.adapter.sync_lock() as ours:
            report = sync(stage.adapter) if ours else None
        new = stage.adapter.store.get(record.id)
        if (new.state, new.status) != (record.state, record.status):
            place = f" on {', '.join(new.nodes)} ({new.addresses[0][0]})" if new.addresses else ""
            stage.say(who, f"{state(new.state)}{place if new.state is JobState.RUNNING else ''}  {safe(new.status)}")
        record = new
        if record.state is wanted or (record.state.final and wanted is JobState.RUNNING and not _failed(record)):
            return record
        if record.state.final or time.monotonic() > limit:
            errors = b"".join(piece.data for piece in logs.read(stage.adapter, record))
            problems = "; ".join(report.problems) if report else ""
            raise Refused(
                f"job {record.id} is {record.state} instead of {wanted}: {record.status} {problems}\n"
                + safe(errors.decode(errors="replace")[-2000:].strip().replace("\n", " | "))
            )
        time.sleep(0.3)


def _failed(record: Record) -> bool:
    return record.state in {JobState.FAILURE, JobState.EXPIRED}


def _show_hosts(stage: _Stage) -> None:
    stage.say("hosts", "the cluster's shared hosts file:")
    for line in job_output.hosts_text(stage.adapter, None).splitlines():
        click.echo(f"                    {safe(line)}")


def _check(database: Record, web_app: Record, answer: bytes) -> tuple[str, str]:
    """Return the two nodes. Raises `Refused` unless the answer came from the database's address on another node."""
    if not web_app.nodes or not database.nodes or set(web_app.nodes) & set(database.nodes):
        raise Refused(f"both jobs ran on {', '.join(database.nodes) or '?'}; the demo needs two nodes")
    addresses = database.addresses[0] if database.addresses else ()
    if not any(f"database is {address}, and answers: you are visitor ".encode() in answer for address in addresses):
        raise Refused(f"the web application got no answer from {', '.join(addresses)}; its output: {answer!r}")
    return web_app.nodes[0], database.nodes[0]

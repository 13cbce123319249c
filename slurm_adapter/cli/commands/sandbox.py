"""Commands to try the adapter out: the demo, and a real Slurm cluster on this machine."""

from __future__ import annotations

import json

import click

from slurm_adapter.cli.context import as_json_option, talk


@click.command()
@click.option("--sandbox", "in_sandbox", is_flag=True, help="Use a sandbox even if a cluster is configured.")
@click.pass_context
def demo(ctx: click.Context, in_sandbox: bool) -> None:
    """Run two example jobs; the second finds the first by name.

    Uses the configured cluster, or a sandbox if there is no configuration (Debian or Ubuntu, as root).
    """
    from slurm_adapter.cli.demo import run_demo
    from slurm_adapter.local.configuration_file import find_config

    run_demo(None if in_sandbox else find_config(ctx.find_root().obj), say=talk)


@click.group()
def sandbox() -> None:
    """Run a real Slurm cluster on this machine, to try it out.

    Needs Debian or Ubuntu, and root.
    """


_name = click.option("--name", metavar="NAME", default="", help="Name of the sandbox. Several sandboxes can be up.")
_release = click.option("--release", metavar="NAME", help="Code name of the nodes' release, such as trixie or sid.")


@sandbox.command("install")
@click.option("--accounting", is_flag=True, help="Also install slurmdbd and MariaDB.")
@_release
def sandbox_install(accounting: bool, release: str | None) -> None:
    """Install the packages that a sandbox needs."""
    from slurm_adapter import sandbox as box

    box.install(talk, accounting=accounting, release=release or "")


@sandbox.command("up")
@click.option(
    "--nodes", metavar="N", type=click.IntRange(1, 64), default=3, show_default=True, help="Number of compute nodes."
)
@click.option("--accounting", is_flag=True, help="Run slurmdbd with MariaDB.")
@_release
@_name
def sandbox_up(nodes: int, accounting: bool, release: str | None, name: str) -> None:
    """Start or repair the cluster.

    Prints the path of a configuration for it.
    """
    from slurm_adapter import sandbox as box

    path = box.up(nodes, accounting=accounting, release=release, name=name, say=talk)
    click.echo(f"config: {path}")
    talk("to try it:")
    for line in box.advice(name):
        talk(f"  {line}")


@sandbox.command("status")
@_name
@as_json_option
def sandbox_status(name: str, as_json: bool) -> None:
    """Show whether the cluster is up, and its problems."""
    from dataclasses import asdict

    from slurm_adapter import sandbox as box
    from slurm_adapter.cli.formatting import table

    status = box.status(name)
    if as_json:
        click.echo(json.dumps(asdict(status), indent=2, default=str))
        return
    traits = [f"release {status.release}"] * bool(status.release) + ["with accounting"] * status.accounting
    click.echo(", ".join([f"the sandbox is {status.state}", *traits]))
    for reason in (*status.reasons, *status.notes):
        click.echo(f"  {reason}")
    if status.nodes:
        click.echo(table(("NODE", "ADDRESS", "STATE"), [(n.name, n.address, n.state) for n in status.nodes]))
    if status.config is not None:
        click.echo(f"config: {status.config}")


@sandbox.command("down")
@_name
@click.option("--purge", is_flag=True, help="Also remove the roots of other releases.")
def sandbox_down(name: str, purge: bool) -> None:
    """Stop the cluster and its jobs, and remove all its files."""
    from slurm_adapter import sandbox as box

    box.down(talk, name=name, purge=purge)

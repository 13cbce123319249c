"""Commands for the operation of the adapter."""

from __future__ import annotations

import sys
from contextlib import closing, nullcontext
from itertools import chain
from pathlib import Path

import click

from slurm_adapter.cli.context import FAILED, TRY_AGAIN, as_json_option, open_site, print_json, talk
from slurm_adapter.core.errors import InvalidConfig


def _refuse_old_name(_: click.Context, option: click.Parameter, given: bool) -> None:
    if given:
        raise click.UsageError(f"{option.opts[0]} is now --allow-mass-end; use it for one sync, not in a timer")


@click.command()
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.option("--end-many", is_flag=True, hidden=True, expose_value=False, callback=_refuse_old_name)
@click.option(
    "--allow-mass-end",
    is_flag=True,
    help="Allow ending many jobs that Slurm does not confirm as ended.",
)
@click.pass_context
def sync(ctx: click.Context, dry_run: bool, allow_mass_end: bool) -> None:
    """Poll Slurm once: update job states, hosts files and UCloud.

    Made for cron: prints nothing if all is well. Reports an outage when it begins and when it ends, and exits with 1
    while it lasts. If another sync is running, exits with 75 and prints nothing.
    """
    from slurm_adapter.jobs import report as reporting
    from slurm_adapter.jobs.sync import deliver_updates
    from slurm_adapter.jobs.sync import sync as run_sync

    adapter = open_site(ctx)
    with adapter.sync_lock() as ours:
        if not ours:
            sys.exit(TRY_AGAIN)
        report = run_sync(adapter, dry_run=dry_run, allow_mass_end=allow_mass_end, delivering=False)
        lines = reporting.plan_lines(report) if dry_run else reporting.outage_lines(adapter.store, report)
    delivered = None if dry_run else deliver_updates(adapter, allow_mass_end=allow_mass_end)
    if delivered is not None:
        lines += reporting.delivery_lines(adapter.store, delivered.problems)
    for line in lines:
        (click.echo if dry_run else talk)(line)
    if report.problems or (delivered is not None and delivered.problems):
        sys.exit(FAILED)


@click.command()
@click.pass_context
def serve(ctx: click.Context) -> None:
    """Run the HTTP gateway and sync jobs periodically."""
    try:
        from slurm_adapter.gateway.http.server import serve as run
    except ModuleNotFoundError as error:
        raise InvalidConfig(
            f"serve needs the module {error.name}, which is not installed: pip install 'slurm-adapter[serve]'"
        ) from error
    run(open_site(ctx))


@click.command()
@click.option("--job", "with_jobs", is_flag=True, help="Also submit a small probe job to each partition.")
@click.option("--user", metavar="NAME", help="UCloud user who owns the probe jobs.")
@as_json_option
@click.pass_context
def check(ctx: click.Context, with_jobs: bool, user: str | None, as_json: bool) -> None:
    """Check the configuration and the cluster, and suggest fixes.

    With --job it takes a few minutes. Probe jobs and their folders are removed afterwards.
    """
    from slurm_adapter.cli.check import Level, check_jobs, check_site
    from slurm_adapter.cli.formatting import labelled
    from slurm_adapter.local.configuration_file import find_config, locate

    if user is not None and not with_jobs:
        raise click.UsageError("--user needs --job")
    path, adapter = find_config(ctx.find_root().obj), open_site(ctx)
    colours = {Level.GOOD: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.PROBLEM: "red"}
    findings = []
    with closing(check_jobs(adapter, user)) if with_jobs else nullcontext(()) as of_jobs:
        for finding in chain(check_site(adapter), of_jobs):
            bad = finding.level in {Level.WARNING, Level.PROBLEM}
            text = locate(path, finding.text, finding.key) if bad else finding.text
            findings.append((finding.level, text))
            if not as_json:
                click.echo(labelled(finding.level.value, colours[finding.level], "; ".join(text.splitlines())))
    if as_json:
        print_json([{"level": level.value, "text": text} for level, text in findings])
    if any(level is Level.PROBLEM for level, _ in findings):
        sys.exit(FAILED)


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@click.pass_context
def backup(ctx: click.Context, file: Path, overwrite: bool) -> None:
    """Write a verified backup of the database.

    Jobs may be served meanwhile. FILE has mode 600, because job specifications may contain secrets.
    """
    from slurm_adapter.state import backup as backups

    talk(f"{file}: {backups.make(open_site(ctx).config.state_dir, file, overwrite=overwrite)}")


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.pass_context
def restore(ctx: click.Context, file: Path) -> None:
    """Replace the database by a backup.

    First stop `serve` and the timer of `sync`. The replaced database is kept next to the new one. No job runs twice:
    the next `sync` finds out what happened since the backup.
    """
    from slurm_adapter.state import backup as backups

    adapter = open_site(ctx)
    for line in backups.explain(backups.restore(adapter.config.state_dir, file, adapter.clock())):
        talk(line)


@click.command("sudo-helper")
@click.pass_context
def print_sudo_helper(ctx: click.Context) -> None:
    """Print a helper script that narrows the adapter's sudo rule.

    An administrator of the cluster installs it for root; see `slurm-adapter docs security`. Needs no cluster.
    """
    from slurm_adapter.cli import sudo_helper

    click.echo(sudo_helper.render(open_site(ctx).config), nl=False)

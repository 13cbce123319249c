"""Commands for jobs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from slurm_adapter.cli.completion import complete_job
from slurm_adapter.cli.context import as_json_option, open_site, owner_of, print_json, read_input, talk
from slurm_adapter.core.errors import TryAgain

if TYPE_CHECKING:
    from collections.abc import Sequence

_job = click.argument("id", metavar="ID", shell_complete=complete_job)
_jobs = click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_job)
_user = click.option("--user", metavar="NAME", help="UCloud user who owns the job.")
_project = click.option("--project", metavar="ID", help="UCloud project of the job.")


@click.command()
@click.argument("file", metavar="FILE|-", type=click.Path())
@click.option("--key", metavar="KEY", help="Idempotency key: the same key returns the same job.")
@_user
@_project
@click.pass_context
def submit(ctx: click.Context, file: str, key: str | None, user: str | None, project: str | None) -> None:
    """Submit jobs.

    FILE has a JobSpecification in JSON, or a bulk request {"items": [...]}. Prints the response with the jobs' ids.
    With --key, the items of a bulk request get the keys KEY/0, KEY/1, and so on.
    """
    from slurm_adapter.core.specification import parse_specifications
    from slurm_adapter.jobs import submit as jobs
    from slurm_adapter.jobs.item import Item

    if key == "":
        raise click.BadParameter("must not be empty; leave the option out to submit without a key", param_hint="--key")
    adapter = open_site(ctx)
    specifications = parse_specifications(read_input(file))
    keys = [key] if len(specifications) == 1 else [f"{key}/{n}" if key else None for n in range(len(specifications))]
    items = [Item(each, each_key) for each, each_key in zip(specifications, keys, strict=True)]
    records = jobs.submit(adapter, owner_of(adapter, user, project), items, say=talk)
    print_json({"responses": [{"id": record.id} for record in records]})


@click.command()
@click.argument("file", metavar="FILE|-", type=click.Path())
@_user
@_project
@click.pass_context
def render(ctx: click.Context, file: str, user: str | None, project: str | None) -> None:
    """Print a job's batch script without submitting it.

    Changes nothing and needs no cluster. The job's id is shown as 0.
    """
    from slurm_adapter.core.specification import parse_specifications
    from slurm_adapter.jobs import submit as jobs

    adapter = open_site(ctx)
    owner = owner_of(adapter, user, project)
    for specification in parse_specifications(read_input(file)):
        click.echo(jobs.render(adapter, owner, specification), nl=False)


@click.command("jobs")
@click.option("--all", "everything", is_flag=True, help="Include jobs that ended.")
@click.option(
    "--limit", metavar="N", type=click.IntRange(1), default=100, show_default=True, help="List the newest N jobs."
)
@as_json_option
@click.pass_context
def list_jobs(ctx: click.Context, everything: bool, limit: int, as_json: bool) -> None:
    """List waiting and running jobs."""
    from slurm_adapter.cli import job_output

    adapter = open_site(ctx)
    records = adapter.store.all(limit) if everything else adapter.store.active()[-limit:]
    if as_json:
        print_json([job_output.as_json(record) for record in records])
    elif records:
        click.echo(job_output.job_table(records, adapter.clock()))
    else:
        talk("no jobs" if everything else "no waiting or running jobs; --all includes jobs that ended")


@click.command()
@_job
@as_json_option
@click.pass_context
def show(ctx: click.Context, id: str, as_json: bool) -> None:
    """Show the details of a job."""
    from slurm_adapter.cli import job_output

    adapter = open_site(ctx)
    record, updates = adapter.store.get(id), adapter.store.updates(id)
    if as_json:
        print_json(job_output.as_json(record) | {"updates": job_output.updates_as_json(updates)})
    else:
        click.echo(job_output.job_page(record, updates, adapter.store.find(peer.job_id for peer in record.peers)))


@click.command()
@_job
@click.option("-f", "--follow", is_flag=True, help="Continue until the job ends.")
@click.pass_context
def logs(ctx: click.Context, id: str, follow: bool) -> None:
    """Print a job's output: stdout to stdout, stderr to stderr.

    If each replica writes its own files, every line begins with the rank.
    """
    from slurm_adapter.jobs import logs as job_logs

    adapter = open_site(ctx)
    record = adapter.store.get(id)
    if (gone := record.logs_gone or record.folder_gone) is not None:
        from slurm_adapter.cli.formatting import moment

        talk(f"the output of job {id} was removed at {moment(gone)}: the site keeps output for a limited time")
    for piece in job_logs.labelled(job_logs.read(adapter, record, follow=follow)):
        stream = sys.stderr.buffer if piece.is_error else sys.stdout.buffer
        stream.write(piece.data)
        stream.flush()


@click.command()
@click.argument("id", metavar="[ID]", required=False, shell_complete=complete_job)
@click.pass_context
def hosts(ctx: click.Context, id: str | None) -> None:
    """Print the shared hosts file, or that of one job."""
    from slurm_adapter.cli import job_output

    adapter = open_site(ctx)
    click.echo(job_output.hosts_text(adapter, id), nl=False)


@click.command()
@_jobs
@click.pass_context
def cancel(ctx: click.Context, ids: Sequence[str]) -> None:
    """Cancel jobs. Jobs that ended already are ignored."""
    from slurm_adapter.jobs.cancel import cancel as cancel_jobs

    try:
        records = cancel_jobs(open_site(ctx), ids)
    except TryAgain as error:
        raise TryAgain(f"some jobs may not be cancelled; run the same command again: {error}") from error
    for record in records:
        talk(f"job {record.id}: " + (record.status if record.state.final else "is being cancelled"))


@click.command()
@_job
@click.argument("time", metavar="[D-]HH:MM:SS")
@click.pass_context
def extend(ctx: click.Context, id: str, time: str) -> None:
    """Extend a job's time limit, and print the new limit."""
    from slurm_adapter.core.durations import duration, parse_duration
    from slurm_adapter.jobs import control

    try:
        seconds = parse_duration(time)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="[D-]HH:MM:SS") from error
    [record] = control.extend(open_site(ctx), [(id, seconds)])
    click.echo(duration(record.time_limit))


@click.command()
@_jobs
@click.pass_context
def suspend(ctx: click.Context, ids: Sequence[str]) -> None:
    """Suspend running jobs. Jobs already suspended are ignored."""
    from slurm_adapter.jobs import control

    for record in control.suspend(open_site(ctx), ids):
        talk(f"job {record.id}: is being suspended")


@click.command()
@_jobs
@click.pass_context
def resume(ctx: click.Context, ids: Sequence[str]) -> None:
    """Resume suspended jobs. Running jobs are ignored."""
    from slurm_adapter.jobs import control

    for record in control.resume(open_site(ctx), ids):
        talk(f"job {record.id}: is being resumed")

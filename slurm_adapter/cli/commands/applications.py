"""Commands for the site's applications."""

from __future__ import annotations

import sys

import click

from slurm_adapter.cli.context import BAD_INPUT, as_json_option, open_site, print_json, talk


@click.group(invoke_without_command=True)
@as_json_option
@click.pass_context
def applications(ctx: click.Context, as_json: bool) -> None:
    """List the applications of this site.

    Files that cannot be used are reported, too.
    """
    if ctx.invoked_subcommand is not None:
        return
    from slurm_adapter.cli.formatting import table

    catalogue = open_site(ctx).catalogue
    if as_json:
        print_json([{"name": a.name, "version": a.version, "title": a.title} for a in catalogue.applications])
    else:
        rows = [(a.name, a.version, a.title) for a in catalogue.applications]
        click.echo(table(("NAME", "VERSION", "TITLE"), rows))
    for problem in catalogue.problems.values():
        talk(problem)
    if catalogue.problems:
        sys.exit(BAD_INPUT)

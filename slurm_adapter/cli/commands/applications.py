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


@applications.command("lint")
@as_json_option
@click.pass_context
def lint(ctx: click.Context, as_json: bool) -> None:
    """Show errors and warnings of application files.

    Exits with 65 if a file has an error: it cannot be used. Warnings name lines that are ignored, or that UCloud may
    understand differently.
    """
    from slurm_adapter.cli.formatting import labelled

    catalogue = open_site(ctx).catalogue
    errors = [line for problem in catalogue.problems.values() for line in problem.splitlines()]
    found = [("error", line) for line in errors] + [("warning", line) for line in catalogue.warnings]
    if as_json:
        print_json([{"level": level, "text": text} for level, text in found])
    else:
        for level, text in found:
            click.echo(labelled(level, "red" if level == "error" else "yellow", text))
        talk(f"errors: {len(errors)}, warnings: {len(catalogue.warnings)}")
    if errors:
        sys.exit(BAD_INPUT)

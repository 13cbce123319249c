"""Commands for access tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from slurm_adapter.cli.context import as_json_option, open_site, print_json, talk

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.group()
def token() -> None:
    """Manage access tokens of users for the API /api/jobs."""


@token.command("create")
@click.argument("name", metavar="NAME")
@click.option("--user", metavar="USER", required=True, help="UCloud user who owns the jobs that it submits.")
@click.option("--project", "projects", metavar="ID", multiple=True, help="Project in which it is valid; repeatable.")
@click.option("--expires", metavar="[D-]HH:MM:SS", help="Lifetime. Without it the token is valid until it is revoked.")
@click.pass_context
def token_create(ctx: click.Context, name: str, user: str, projects: Sequence[str], expires: str | None) -> None:
    """Create an access token for a user, and print it once.

    NAME identifies it in `token list` and `token revoke`. Without --project it is valid in the user's personal
    workspace only.
    """
    from slurm_adapter.core.durations import parse_duration
    from slurm_adapter.jobs import user_tokens

    try:
        lifetime = None if expires is None else parse_duration(expires)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--expires") from error
    adapter = open_site(ctx)
    click.echo(user_tokens.create(adapter, name, user, projects, lifetime))
    talk("store it now: it is not shown again, and the adapter keeps only its digest")
    if not adapter.config.gateway.stand_alone:
        talk("it is valid for /docs and /metrics only, because gateway.stand_alone is false in the configuration")


@token.command("list")
@as_json_option
@click.pass_context
def token_list(ctx: click.Context, as_json: bool) -> None:
    """List access tokens by name and user, without secrets."""
    from dataclasses import asdict

    from slurm_adapter.cli.formatting import moment, table

    adapter = open_site(ctx)
    found, now = adapter.store.tokens(), adapter.clock()
    if as_json:
        print_json([asdict(each) for each in found])
    elif found:
        rows = [
            (
                each.name,
                each.user,
                ", ".join(each.projects) or "-",
                moment(each.created),
                "never" if each.expires is None else moment(each.expires) + (" (expired)" if each.expired(now) else ""),
            )
            for each in found
        ]
        click.echo(table(("NAME", "USER", "PROJECTS", "CREATED", "EXPIRES"), rows, wide=2))
    else:
        talk("no access tokens")


@token.command("revoke")
@click.argument("name", metavar="NAME")
@click.pass_context
def token_revoke(ctx: click.Context, name: str) -> None:
    """Revoke an access token: requests with it are refused."""
    revoked = open_site(ctx).store.revoke_token(name)
    talk(f"access token {revoked.name} of {revoked.user} is revoked")

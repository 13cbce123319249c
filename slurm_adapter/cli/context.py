"""Helpers that commands share: exit codes, input and output, the configured site."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slurm_adapter.core.errors import InvalidConfig, InvalidInput

if TYPE_CHECKING:
    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.specification import Owner

OK, FAILED, BAD_INPUT, TRY_AGAIN, BAD_CONFIG = 0, 1, 65, 75, 78
"""Exit codes (sysexits.h)."""

_INPUT_LIMIT = 32 * 1024 * 1024
"""Bytes, as in the default of `gateway.body_limit`."""

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def talk(text: str) -> None:
    """Print a message to stderr. Data goes to stdout."""
    click.echo(text, err=True)


def print_json(value: object) -> None:
    """Print indented JSON to stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def open_site(ctx: click.Context) -> Adapter:
    """Open the configured site, and close it when the command ends. Raises `InvalidConfig`."""
    from slurm_adapter.adapter import Adapter
    from slurm_adapter.local.configuration_file import find_config, load_config

    path = find_config(ctx.find_root().obj)
    if path is None:
        raise InvalidConfig(
            "no configuration found: write config.toml (`slurm-adapter config example` prints an annotated one), "
            "give --config FILE, or try `slurm-adapter demo` on your own machine"
        )
    adapter = Adapter(load_config(path))
    ctx.call_on_close(adapter.close)
    return adapter


def owner_of(adapter: Adapter, user: str | None, project: str | None) -> Owner:
    """Return the owner of a job that is submitted by a command. Raises `InvalidInput`."""
    from pydantic import ValidationError

    from slurm_adapter.core.problems import list_problems
    from slurm_adapter.core.specification import Owner

    name = user or adapter.config.command_line.user
    if name is None:
        raise InvalidInput("the job needs an owner: give --user, or set command_line.user in the configuration")
    try:
        return Owner.model_validate({"createdBy": name, "project": project or adapter.config.command_line.project})
    except ValidationError as error:
        raise InvalidInput("\n".join(list_problems(error, ("owner",)))) from error


def read_input(file: str) -> bytes:
    """Read a file, or standard input for `-`, of at most `_INPUT_LIMIT` bytes. Raises `InvalidInput`."""
    try:
        with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as opened:
            content = opened.read(_INPUT_LIMIT + 1)
    except OSError as error:
        raise InvalidInput(f"{file}: {error.strerror}") from error
    if len(content) > _INPUT_LIMIT:
        raise InvalidInput(f"{file}: is larger than {_INPUT_LIMIT} bytes; submit it in parts")
    return content

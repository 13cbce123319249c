"""Commands for documentation: its pages, the annotated configuration, shell completion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from slurm_adapter.cli.completion import Topic, topics

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command()
@click.argument("topic", metavar="[TOPIC]", required=False, type=Topic())
def docs(topic: str | None) -> None:
    """Show a page of the documentation, or list the topics.

    On a terminal the page is shown by $PAGER.
    """
    if topic is not None:
        click.echo_via_pager(topics()[topic].read_text(encoding="utf-8").rstrip("\n"))
        return
    from slurm_adapter.cli.formatting import table

    click.echo(table(("TOPIC", "TITLE"), [(name, _title(page)) for name, page in topics().items()]))


def _title(page: Traversable) -> str:
    """Return the first heading of a page."""
    return page.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


@click.group()
def config() -> None:
    """Print an example of the configuration."""


@config.command("example")
def config_example() -> None:
    """Print an annotated example configuration with all keys."""
    from importlib.resources import files

    package = files("slurm_adapter")
    installed = package / "config.example.toml"
    # In a checkout, the file is next to the package.
    example = installed if installed.is_file() else package / ".." / "config.example.toml"
    click.echo(example.read_text(encoding="utf-8"), nl=False)


@click.command()
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that completes commands in a shell.

    \b
    Write it to this file:
      bash  ~/.local/share/bash-completion/completions/slurm-adapter
      zsh   _slurm-adapter, in a folder of $fpath
      fish  ~/.config/fish/completions/slurm-adapter.fish
    """  # noqa: D301  # click wants the character \b before lines that it must not wrap
    click.echo(_SHELLS[shell](ctx.find_root().command, {}, "slurm-adapter", "_SLURM_ADAPTER_COMPLETE").source())

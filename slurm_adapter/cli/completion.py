"""Completion of arguments in a shell. It reads only what is cheap, changes nothing, and prints no errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from slurm_adapter.core.errors import AdapterError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


def topics() -> dict[str, Traversable]:
    """Return the pages of the documentation by topic."""
    from importlib.resources import files

    pages = (page for page in (files("slurm_adapter") / "docs").iterdir() if page.name.endswith(".md"))
    return {page.name.removesuffix(".md"): page for page in sorted(pages, key=lambda page: page.name)}


class Topic(click.ParamType[str]):
    """A topic of `slurm-adapter docs`."""

    name = "topic"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return a known topic, or fail with the list of topics."""
        if value not in topics():
            self.fail(f"there is no topic {value!r}; the topics are {', '.join(topics())}", param, ctx)
        return value

    def shell_complete(self, _ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the topics that begin with what was typed."""
        return [CompletionItem(name) for name in topics() if name.startswith(incomplete)]


def complete_job(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the ids of waiting and running jobs, without those that are on the line already."""
    from slurm_adapter.local.configuration_file import find_config, load_config
    from slurm_adapter.state.peek import active_jobs

    given = ctx.params.get("ids") or ()
    try:
        path = find_config(ctx.find_root().params.get("config_path"))
        jobs = active_jobs(load_config(path).state_dir) if path is not None else {}
    except (AdapterError, OSError):
        return []
    return [
        CompletionItem(id_, help=application)
        for id_, application in jobs.items()
        if id_.startswith(incomplete) and id_ not in given
    ]

"""Run the benchmark; see the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from slurm_adapter import sandbox
from tests.benchmarks import attack, figures, report
from tests.benchmarks.ground import ask, delayed, ground

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.benchmarks.ground import DelayingProxy, Ground
    from tests.benchmarks.report import Figure

SIZES = (100, 1000, 10000)
SIMULATED = (1000, 10000, 100000)

ROWS: dict[str, Callable[[Ground, int, DelayingProxy], Iterator[Figure]]] = {
    "start": lambda ground, _, __: figures.start(ground),
    "one": lambda ground, _, __: figures.single(ground),
    "bulk": lambda ground, count, _: figures.bulk(ground, count),
    "pyslurm": lambda ground, count, _: figures.pyslurm(ground, count),
    "ssh": figures.ssh,
    "sync": lambda ground, count, proxy: figures.passes(ground, scaled(SIZES, count), proxy),
    "peer": lambda ground, _, __: figures.peer(ground),
    "create": lambda ground, _, __: figures.create(ground),
    "hostile": lambda _, count, __: attack.hostile(count),
    "simulated": lambda ground, count, _: figures.simulated(ground, scaled(SIMULATED, count)),
}


def scaled(sizes: Sequence[int], count: int) -> tuple[int, ...]:
    """The sizes of a run with so many jobs in a bulk instead of a thousand."""
    return tuple(dict.fromkeys(max(1, size * count // 1000) for size in sizes))


@click.command()
@click.argument("rows", nargs=-1, type=click.Choice(list(ROWS)))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="How often each side is run.")
@click.option("--jobs", default=1000, show_default=True, type=click.IntRange(1), help="Jobs of a bulk; sizes follow.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write everything there.")
@click.option("--markdown", is_flag=True, help="Print a table in Markdown.")
def main(rows: tuple[str, ...], rounds: int, jobs: int, json_file: Path | None, markdown: bool) -> None:
    """Measure ROWS, or everything, on the sandbox, which is brought up where it is not."""
    if problem := sandbox.obstacle():
        raise click.ClickException(problem)
    results = []
    with ground() as place, delayed() as proxy:
        slurm = ask("sbatch", "--version").strip()
        for row in rows or ROWS:
            for figure in ROWS[row](place, jobs, proxy):
                results.append(report.measure(figure, rounds, lambda text: click.echo(text, err=True)))
                if json_file is not None:
                    report.write_json(json_file, results, slurm)
    click.echo(report.markdown(results) if markdown else "\n".join(report.lines(results)))


if __name__ == "__main__":
    main()

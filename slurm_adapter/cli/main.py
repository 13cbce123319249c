"""The command line: thin commands over the functions that do the work.

Data goes to stdout and talk to stderr. This is the one place that knows exit codes (sysexits.h), and that turns an
error of this program into its message.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from contextlib import closing, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slurm_adapter import __version__
from slurm_adapter.cli.inherited import reset_signals
from slurm_adapter.core.errors import AdapterError, InvalidConfig, InvalidInput, TryAgain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from slurm_adapter.adapter import Site
    from slurm_adapter.core.specification import Owner

OK, FAILED, BAD_INPUT, TRY_AGAIN, BAD_CONFIG = 0, 1, 65, 75, 78

_CODES: tuple[tuple[type[AdapterError], int], ...] = (
    (InvalidInput, BAD_INPUT),
    (InvalidConfig, BAD_CONFIG),
    (TryAgain, TRY_AGAIN),
    (AdapterError, FAILED),
)


def talk(text: str) -> None:
    """Say something that is not data."""
    click.echo(text, err=True)


class _Group(click.Group):
    """Turns errors into messages and exit codes, for all commands at once."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        with _told():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _told():
            return super().invoke(ctx)


@contextmanager
def _told() -> Iterator[None]:
    """Turn an error into its message and exit code."""
    try:
        yield
    except AdapterError as error:
        from slurm_adapter.cli.formatting import safe

        for line in str(error).splitlines() or [type(error).__name__]:
            talk(f"{click.style('error:', fg='red')} {safe(line)}")
        sys.exit(next(code for kind, code in _CODES if isinstance(error, kind)))
    except (click.ClickException, click.Abort, click.exceptions.Exit):
        raise
    except BrokenPipeError:
        # The reader has gone (`| head`): that is no error, and nothing more is written.
        _drop_output()
        sys.exit(OK)
    except Exception as error:  # nobody is helped by a traceback at three in the morning
        if isinstance(error, OSError) and (error.errno == errno.ENOSPC or _output_is_lost()):
            _drop_output()
            talk(f"{click.style('error:', fg='red')} standard output: {error.strerror}: not all could be written")
            sys.exit(FAILED)
        if os.environ.get("SLURM_ADAPTER_TRACEBACK"):
            raise
        talk(
            f"{click.style('error:', fg='red')} a mistake in slurm-adapter: {type(error).__name__}: {error}; "
            "please report it, with what SLURM_ADAPTER_TRACEBACK=1 shows"
        )
        sys.exit(FAILED)


def _output_is_lost() -> bool:
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def _drop_output() -> None:
    """Write nothing more: Python tries again what it could not write when it ends, and fails by an exit code of 120."""
    sys.stdout = open("/dev/null", "w", encoding="utf-8")  # noqa: PTH123, SIM115  # until the process ends


def _open_closed_streams() -> None:
    """Have three standard streams, if a caller has closed some (`>&-`): files opened later would take their places.

    What is written to such a stdout is lost, and is an error as any other output that cannot be written.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR if name == "stderr" else os.O_RDONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: PTH123, SIM115


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "config_path", type=click.Path(path_type=Path), metavar="FILE", help="Configuration to use.")
@click.version_option(__version__, prog_name="slurm-adapter")
@click.pass_context
def cli(ctx: click.Context, config_path: Path | None) -> None:
    """Runs UCloud jobs on a Slurm cluster, once each, and lets them find each other by name.

    The configuration is FILE, else $SLURM_ADAPTER_CONFIG, else ./config.toml, else
    ~/.config/slurm-adapter/config.toml, else /etc/slurm-adapter/config.toml.
    """
    ctx.obj = config_path
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":  # https://no-color.org
        ctx.color = False


def open_site(ctx: click.Context) -> Site:
    """The configured site, closed when the command ends. Raises `InvalidConfig` where there is no configuration."""
    from slurm_adapter.adapter import Site
    from slurm_adapter.core.config import find_config, load_config

    path = find_config(ctx.find_root().obj)
    if path is None:
        raise InvalidConfig(
            "there is no configuration: write config.toml (config.example.toml shows every key), name one by --config, "
            "or try `slurm-adapter demo` on a machine of your own"
        )
    site = Site(load_config(path))
    ctx.call_on_close(site.close)
    return site


def owner_of(site: Site, user: str | None, project: str | None) -> Owner:
    """Whom a job handed in here belongs to. Raises `InvalidInput`."""
    from pydantic import ValidationError

    from slurm_adapter.core.specification import Owner, describe

    name = user or site.config.command_line.user
    if name is None:
        raise InvalidInput("whose job is this? Give --user, or set command_line.user in the configuration")
    try:
        return Owner.model_validate({"createdBy": name, "project": project or site.config.command_line.project})
    except ValidationError as error:
        raise InvalidInput("\n".join(describe(error, ("owner",)))) from error


_INPUT_LIMIT = 32 * 1024 * 1024
"""Bytes: as many as `gateway.body_limit` allows by default."""


def read_input(file: str) -> bytes:
    """Read a file, or standard input for `-`, of at most `_INPUT_LIMIT` bytes."""
    try:
        with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as opened:
            content = opened.read(_INPUT_LIMIT + 1)
    except OSError as error:
        raise InvalidInput(f"{file}: {error.strerror}") from error
    if len(content) > _INPUT_LIMIT:
        raise InvalidInput(f"{file}: has more than {_INPUT_LIMIT} bytes; submit it in parts")
    return content


def print_json(value: object) -> None:
    """JSON on stdout, readable."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_user = click.option("--user", metavar="NAME", help="The UCloud user whose job it is.")
_project = click.option("--project", metavar="ID", help="The UCloud project that it belongs to.")


@cli.command()
@click.argument("file", metavar="FILE|-")
@click.option("--key", metavar="KEY", help="Recognise this submission when it comes again: same key, same job.")
@_user
@_project
@click.pass_context
def submit(ctx: click.Context, file: str, key: str | None, user: str | None, project: str | None) -> None:
    """Submit a JobSpecification, or a bulk {"items": [...]}.

    Prints the bulk response with the jobs' ids. With a key, the items of a bulk are KEY/0, KEY/1, and so on.
    """
    from slurm_adapter.core.specification import parse_submission
    from slurm_adapter.jobs import submit as jobs

    if key == "":
        raise click.BadParameter("must not be empty; leave it out for a job of its own", param_hint="--key")
    site = open_site(ctx)
    specifications = parse_submission(read_input(file))
    keys = [key] if len(specifications) == 1 else [f"{key}/{n}" if key else None for n in range(len(specifications))]
    items = [jobs.Item(each, each_key) for each, each_key in zip(specifications, keys, strict=True)]
    records = jobs.submit(site, owner_of(site, user, project), items, say=talk)
    print_json({"responses": [{"id": record.id} for record in records]})


@cli.command()
@click.argument("file", metavar="FILE|-")
@_user
@_project
@click.pass_context
def render(ctx: click.Context, file: str, user: str | None, project: str | None) -> None:
    """Print the script that would be submitted.

    Touches nothing and needs no cluster. The job's id is shown as 0.
    """
    from slurm_adapter.core.specification import parse_submission
    from slurm_adapter.jobs import submit as jobs

    site = open_site(ctx)
    owner = owner_of(site, user, project)
    for specification in parse_submission(read_input(file)):
        click.echo(jobs.render(site, owner, specification), nl=False)


@cli.command("sudo-helper")
@click.pass_context
def print_sudo_helper(ctx: click.Context) -> None:
    """Print the helper that the rule for sudo may name instead of ALL.

    An administrator of the cluster installs it for root (README, Security). Needs no cluster.
    """
    from slurm_adapter.cli import sudo_helper

    click.echo(sudo_helper.render(open_site(ctx).config), nl=False)


@cli.command("jobs")
@click.option("--all", "everything", is_flag=True, help="Those that have ended, too.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many, the newest.")
@_as_json
@click.pass_context
def list_jobs(ctx: click.Context, everything: bool, limit: int, as_json: bool) -> None:
    """List the jobs that wait or run."""
    from slurm_adapter.cli import job_output

    site = open_site(ctx)
    records = site.store.all(limit) if everything else site.store.active()[-limit:]
    if as_json:
        print_json([job_output.as_json(record) for record in records])
    elif records:
        click.echo(job_output.job_table(records, site.clock()))
    else:
        talk("no jobs" if everything else "no jobs wait or run; --all lists those that have ended")


@cli.command()
@click.argument("id", metavar="ID")
@_as_json
@click.pass_context
def show(ctx: click.Context, id: str, as_json: bool) -> None:
    """Show all that is known of a job."""
    from slurm_adapter.cli import job_output

    site = open_site(ctx)
    record, updates = site.store.get(id), site.store.updates(id)
    if as_json:
        print_json(job_output.as_json(record) | {"updates": job_output.updates_as_json(updates)})
    else:
        click.echo(job_output.job_page(record, updates, site.store.find(peer.job_id for peer in record.peers)))


@cli.command()
@click.argument("id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.pass_context
def logs(ctx: click.Context, id: str, follow: bool) -> None:
    """Print a job's output: stdout to stdout, stderr to stderr.

    Of a job whose replicas write their own files, each line comes after its rank.
    """
    from slurm_adapter.jobs import logs as joblogs

    site = open_site(ctx)
    record = site.store.get(id)
    if (gone := record.logs_gone or record.folder_gone) is not None:
        from slurm_adapter.cli.formatting import moment

        talk(f"the output of job {id} was removed {moment(gone)}: the site keeps it for a time only")
    for piece in joblogs.labelled(joblogs.read(site, record, follow=follow)):
        stream = sys.stderr.buffer if piece.is_error else sys.stdout.buffer
        stream.write(piece.data)
        stream.flush()


@cli.command()
@click.argument("id", metavar="[ID]", required=False)
@click.pass_context
def hosts(ctx: click.Context, id: str | None) -> None:
    """Print the shared hosts file, or the view of one job."""
    from slurm_adapter.cli import job_output

    site = open_site(ctx)
    click.echo(job_output.hosts_text(site, id), nl=False)


@cli.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.pass_context
def cancel(ctx: click.Context, ids: Sequence[str]) -> None:
    """Cancel jobs. One that has ended is no error."""
    from slurm_adapter.jobs import submit as jobs

    try:
        records = jobs.cancel(open_site(ctx), ids)
    except TryAgain as error:
        raise TryAgain(f"it is not sure that all are cancelled; give the same command again: {error}") from error
    for record in records:
        talk(f"job {record.id}: " + (record.status if record.state.final else "is being cancelled"))


@cli.command()
@click.argument("id", metavar="ID")
@click.argument("time", metavar="[D-]HH:MM:SS")
@click.pass_context
def extend(ctx: click.Context, id: str, time: str) -> None:
    """Add to a job's time limit. Prints the new one."""
    from slurm_adapter.cli.formatting import duration
    from slurm_adapter.core.config import parse_duration
    from slurm_adapter.jobs import control

    try:
        seconds = parse_duration(time)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="[D-]HH:MM:SS") from error
    [record] = control.extend(open_site(ctx), [(id, seconds)])
    click.echo(duration(record.time_limit))


@cli.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.pass_context
def suspend(ctx: click.Context, ids: Sequence[str]) -> None:
    """Suspend jobs that run. One that is suspended is no error."""
    from slurm_adapter.jobs import control

    for record in control.suspend(open_site(ctx), ids):
        talk(f"job {record.id}: is being suspended")


@cli.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.pass_context
def resume(ctx: click.Context, ids: Sequence[str]) -> None:
    """Let suspended jobs run on. One that runs is no error."""
    from slurm_adapter.jobs import control

    for record in control.resume(open_site(ctx), ids):
        talk(f"job {record.id}: runs on")


@cli.command()
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--end-many", is_flag=True, help="End however many jobs, though Slurm itself does not say they ended.")
@click.pass_context
def sync(ctx: click.Context, dry_run: bool, end_many: bool) -> None:
    """Bring jobs, hosts files and Slurm together: one pass.

    Made for cron: it is silent when all is well, tells of an outage when it begins and when it is over, and exits with
    1 while it lasts. Where another pass is under way it exits with 75, in silence.
    """
    from slurm_adapter.jobs import report as reporting
    from slurm_adapter.jobs.sync import sync as run_pass
    from slurm_adapter.jobs.sync import tell_ucloud

    site = open_site(ctx)
    with site.only_one_pass() as ours:
        if not ours:
            sys.exit(TRY_AGAIN)
        report = run_pass(site, dry_run=dry_run, end_many=end_many, telling=False)
        lines = reporting.plan_lines(report) if dry_run else reporting.outage_lines(site.store, report)
    told = None if dry_run else tell_ucloud(site, end_many=end_many)
    if told is not None:
        lines += reporting.telling_lines(site.store, told.problems)
    for line in lines:
        (click.echo if dry_run else talk)(line)
    if report.problems or (told is not None and told.problems):
        sys.exit(FAILED)


@cli.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@click.pass_context
def backup(ctx: click.Context, file: Path, overwrite: bool) -> None:
    """Write a verified backup of the database to FILE, also while jobs are served.

    The file has mode 600: specifications may contain secrets.
    """
    from slurm_adapter.state import backup as backups

    talk(f"{file}: {backups.make(open_site(ctx).config.state, file, overwrite=overwrite)}")


@cli.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.pass_context
def restore(ctx: click.Context, file: Path) -> None:
    """Put a backup in the place of the database, which is kept beside it.

    Stop `serve` and the timer of `sync` first. No job runs twice: what happened since the backup was made is found out
    by `sync`.
    """
    from slurm_adapter.state import backup as backups

    site = open_site(ctx)
    for line in backups.explain(backups.restore(site.config.state, file, site.clock())):
        talk(line)


@cli.command()
@click.pass_context
def serve(ctx: click.Context) -> None:
    """Serve UCloud, and users with tokens, over HTTP, and make passes, until told to stop."""
    try:
        from slurm_adapter.gateway.http.server import serve as run
    except ModuleNotFoundError as error:
        raise InvalidConfig(
            f"serve needs the module {error.name}, which is not installed: pip install 'slurm-adapter[serve]'"
        ) from error
    run(open_site(ctx))


@cli.command()
@click.option("--job", "with_jobs", is_flag=True, help="Submit a small probe job to each partition, too.")
@click.option("--user", metavar="NAME", help="The UCloud user as whom the probe jobs run.")
@_as_json
@click.pass_context
def check(ctx: click.Context, with_jobs: bool, user: str | None, as_json: bool) -> None:
    """Look for everything between this configuration and a working site, and say how to mend it.

    With --job it takes a few minutes, and leaves nothing behind.
    """
    from slurm_adapter.cli.check import Level, check_jobs, check_site
    from slurm_adapter.cli.formatting import safe
    from slurm_adapter.core.config import find_config, locate

    if user is not None and not with_jobs:
        raise click.UsageError("--user goes with --job")
    path, site = find_config(ctx.find_root().obj), open_site(ctx)
    colours = {Level.GOOD: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.PROBLEM: "red"}
    findings = []
    with closing(check_jobs(site, user)) if with_jobs else nullcontext(()) as of_jobs:
        for finding in chain(check_site(site), of_jobs):
            bad = finding.level in {Level.WARNING, Level.PROBLEM}
            text = locate(path, finding.text, finding.key) if bad else finding.text
            findings.append((finding.level, text))
            if not as_json:
                line = safe("; ".join(text.splitlines()))
                click.echo(f"{click.style(finding.level.value.ljust(7), fg=colours[finding.level])}  {line}")
    if as_json:
        print_json([{"level": level.value, "text": text} for level, text in findings])
    if any(level is Level.PROBLEM for level, _ in findings):
        sys.exit(FAILED)


@cli.command()
@_as_json
@click.pass_context
def applications(ctx: click.Context, as_json: bool) -> None:
    """List the applications of this site, and files that cannot be used."""
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


@cli.command()
@click.option("--sandbox", "in_sandbox", is_flag=True, help="Use a sandbox even where a cluster is configured.")
@click.pass_context
def demo(ctx: click.Context, in_sandbox: bool) -> None:
    """Run two jobs, of which one finds the other by name.

    On the configured cluster, or in a sandbox where there is none (Debian or Ubuntu, as root).
    """
    from slurm_adapter.cli.demo import run_demo
    from slurm_adapter.core.config import find_config

    run_demo(None if in_sandbox else find_config(ctx.find_root().obj), say=talk)


@cli.group()
def token() -> None:
    """Tokens by which users hand in jobs at `serve`'s own door, /api/jobs."""


@token.command("create")
@click.argument("name", metavar="NAME")
@click.option("--user", metavar="USER", required=True, help="The UCloud user whom it stands for.")
@click.option(
    "--project", "projects", metavar="ID", multiple=True, help="A project that it may be used in; repeatable."
)
@click.option("--expires", metavar="[D-]HH:MM:SS", help="How long it is good for; without it until it is revoked.")
@click.pass_context
def token_create(ctx: click.Context, name: str, user: str, projects: Sequence[str], expires: str | None) -> None:
    """Make a token for a user, and print it, this once.

    NAME is for `token list` and `token revoke`. Without --project it is for the user's personal workspace alone.
    """
    from slurm_adapter.core.config import parse_duration
    from slurm_adapter.jobs import user_tokens

    try:
        lifetime = None if expires is None else parse_duration(expires)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--expires") from error
    site = open_site(ctx)
    click.echo(user_tokens.create(site, name, user, projects, lifetime))
    talk("keep it: it is not shown again, and only its digest is kept here")
    if not site.config.gateway.stand_alone:
        talk("it opens nothing but /docs and /metrics while the configuration says gateway.stand_alone = false")


@token.command("list")
@_as_json
@click.pass_context
def token_list(ctx: click.Context, as_json: bool) -> None:
    """List tokens by name, with whom they stand for; never the tokens."""
    from dataclasses import asdict

    from slurm_adapter.cli.formatting import moment, table

    site = open_site(ctx)
    found, now = site.store.tokens(), site.clock()
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
        talk("no tokens")


@token.command("revoke")
@click.argument("name", metavar="NAME")
@click.pass_context
def token_revoke(ctx: click.Context, name: str) -> None:
    """Revoke a token: from now on it opens nothing."""
    revoked = open_site(ctx).store.revoke_token(name)
    talk(f"token {revoked.name} of {revoked.user} is revoked")


@cli.group()
def sandbox() -> None:
    """A real Slurm cluster on this machine, to try and to test with (Debian or Ubuntu, as root)."""


_name = click.option("--name", default="", help="Another sandbox than the one without a name; several may be up.")
_release = click.option("--release", help="Code name of the release that the nodes run, such as trixie or sid.")


@sandbox.command("install")
@click.option("--accounting", is_flag=True, help="What slurmdbd needs, too.")
@_release
def sandbox_install(accounting: bool, release: str | None) -> None:
    """Install the packages that a sandbox needs."""
    from slurm_adapter import sandbox as box

    box.install(talk, accounting=accounting, release=release or "")


@sandbox.command("up")
@click.option("--nodes", type=click.IntRange(1, 64), default=3, show_default=True, help="Compute nodes.")
@click.option("--accounting", is_flag=True, help="With slurmdbd over MariaDB.")
@_release
@_name
def sandbox_up(nodes: int, accounting: bool, release: str | None, name: str) -> None:
    """Bring the cluster up, or repair it. Prints where a configuration for it is."""
    from slurm_adapter import sandbox as box

    path = box.up(nodes, accounting=accounting, release=release, name=name, say=talk)
    click.echo(f"config: {path}")
    talk("to try it:")
    for line in box.advice(name):
        talk(f"  {line}")


@sandbox.command("status")
@_name
@_as_json
def sandbox_status(name: str, as_json: bool) -> None:
    """Say whether the cluster is up, and what is wrong with it."""
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
@click.option("--purge", is_flag=True, help="Remove the roots of other releases, too.")
def sandbox_down(name: str, purge: bool) -> None:
    """Stop the cluster and its jobs, and remove all that it made."""
    from slurm_adapter import sandbox as box

    box.down(talk, name=name, purge=purge)


def main() -> None:
    """Run the command line."""
    reset_signals()
    _open_closed_streams()
    cli(prog_name="slurm-adapter")

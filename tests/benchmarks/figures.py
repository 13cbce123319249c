"""The figures: what is measured, and what it is measured against."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import httpx

from slurm_adapter.adapter import Adapter
from slurm_adapter.cluster.schedulers import listings
from slurm_adapter.cluster.schedulers.fake import FakeScheduler
from slurm_adapter.cluster.schedulers.interface import Submission
from slurm_adapter.core.config import FIRST_ID_BESIDE_UCLOUD, Config
from slurm_adapter.core.records import Record, Stage
from slurm_adapter.core.specification import PeerValue
from slurm_adapter.jobs import attach, cancel, submit, user_tokens
from slurm_adapter.jobs.sync import sync
from slurm_adapter.sandbox.layout import SHARED_ON_NODES
from tests.benchmarks import others
from tests.benchmarks.ground import BOX, SCRIPT, USER, Ground, ask, clear, fill, items, output, shell, started, until
from tests.benchmarks.report import Figure
from tests.gateway.process import free_port, serving
from tests.offline import configuration
from tests.ucloud_double import Ucloud

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.benchmarks.ground import DelayingProxy

PARALLEL = (2, 4, 8, 16)
CREATES = 100
CREATE = Path(__file__).parent.parent / "translation" / "wire" / "create-4101.json"
FEW = 50
"""Number of jobs that are measured if one takes long; their time is scaled to all."""


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _run(command: Sequence[str]) -> None:
    # With its output in pipes, for `subprocess` sees their end at once; else it looks every 50 ms.
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def _bulk(site: Adapter, count: int, user: str = "alice") -> float:
    """A bulk through the adapter, from specifications to ids; the connection is open, and the store is new."""
    wanted = items(count)
    with site:
        site.scheduler.nodes()
        began = time.monotonic()
        made = submit.submit(site, USER, wanted)
        took = time.monotonic() - began
        if any(record.slurm_id is None for record in made):
            raise RuntimeError("a job has no Slurm id")
    clear(user)
    return took


def _xargs(ground: Ground, count: int, parallel: int) -> float:
    script = _script(ground)
    line = 'seq "$1" | xargs -P "$2" -I{} sbatch --parsable "$3" | wc -l'
    began = time.monotonic()
    done = ask("sh", "-c", line, "sh", str(count), str(parallel), script)
    took = time.monotonic() - began
    if int(done) != count:
        raise RuntimeError(f"{done} of {count} were taken")
    clear("alice")
    return took


def _loop(ground: Ground, count: int) -> float:
    line = 'i=0; while [ $i -lt "$1" ]; do sbatch --parsable "$2"; i=$((i+1)); done'
    took = _timed(lambda: ask("sh", "-c", line, "sh", str(count), _script(ground)))
    clear("alice")
    return took


def _script(ground: Ground) -> str:
    name = f"home/alice/{Path(ground.shared).name}/bare.sbatch"
    if not (BOX.shared / name).exists():
        ask("sh", "-c", 'cat > "$1"; chmod 700 "$1"', "sh", f"{SHARED_ON_NODES}/{name}", stdin=SCRIPT.encode())
    return f"{SHARED_ON_NODES}/{name}"


def _other(run: Callable[[Path, int], float], ground: Ground, count: int) -> float:
    folder = Path(tempfile.mkdtemp(dir=BOX.shared))
    folder.chmod(0o777)
    others.enter_sandbox(ground.folder)
    few = min(FEW, count)
    try:
        return run(folder, few) * count / few
    finally:
        clear("alice")
        subprocess.run(["rm", "-rf", str(folder)], check=False)


def bulk(ground: Ground, count: int) -> Iterator[Figure]:
    """A bulk, against the best of sbatch in parallel, a shell loop, and other libraries."""

    def met(medians: Mapping[str, float]) -> tuple[bool, str]:
        best = min(medians[f"xargs -P{parallel} sbatch"] for parallel in PARALLEL)
        return best / medians["adapter"] >= 0.85, f"{best / medians['adapter']:.2f} of it"

    left_out = {name: "not installed" for name in others.ALL if find_spec(_MODULES[name]) is None}
    yield Figure(
        f"{count} jobs in bulk, local",
        {
            "adapter": lambda: _bulk(ground.site(), count),
            **{f"xargs -P{n} sbatch": partial(_xargs, ground, count, n) for n in PARALLEL},
            "shell loop": partial(_loop, ground, count),
            **{
                f"{name} ({min(FEW, count)} jobs, scaled to all)": partial(_other, run, ground, count)
                for name, run in others.ALL.items()
                if name not in left_out
            },
        },
        target="at least 0.85 of the best parallel sbatch",
        met=met,
        left_out=left_out,
    )


_MODULES = {"submitit": "submitit", "PSI/J": "psij", "parsl": "parsl"}

_BARE = r"""
import pyslurm, sys, time
began = time.monotonic()
for _ in range(int(sys.argv[1])):
    pyslurm.JobSubmitDescription(
        name="bare", script="#!/bin/bash\ntrue\n", partitions="scavenge", time_limit="00:30:00", nodes=1, ntasks=1,
        memory_per_node="1G", working_directory="/tmp", standard_output="/dev/null",
    ).submit()
print(time.monotonic() - began)
"""


def pyslurm(ground: Ground, count: int) -> Iterator[Figure]:
    """The same by libslurm, against a bare loop."""

    def bare() -> float:
        took = float(ask(sys.executable, "-c", _BARE, str(count), user="jobs").split()[-1])
        clear("jobs")
        return took

    sides = {
        "adapter": lambda: _bulk(ground.site("local", "service", pyslurm=True), count, "jobs"),
        "pyslurm loop": bare,
    }
    missing = {} if find_spec("pyslurm") else dict.fromkeys(sides, "pyslurm is not installed")
    yield Figure(
        f"{count} jobs in bulk, pyslurm",
        sides,
        target="at least 0.85 of a bare pyslurm loop",
        met=lambda m: (m["pyslurm loop"] / m["adapter"] >= 0.85, f"{m['pyslurm loop'] / m['adapter']:.2f} of it"),
        left_out=missing,
    )


def ssh(ground: Ground, count: int, proxy: DelayingProxy) -> Iterator[Figure]:
    """The same over SSH with a round trip of 20 ms, against the local bulk and one `ssh` a job."""
    one = "one ssh sbatch a job (20, scaled to all)"

    def each() -> float:
        known = ground.site("ssh", port=proxy.port).config.cluster.ssh
        if known is None:
            raise RuntimeError("no SSH")
        words = ["ssh", "-p", str(proxy.port), "-i", str(BOX.keys / "id_ed25519"), "-o", "BatchMode=yes", "-o"]
        words += [
            f"UserKnownHostsFile={known.known_hosts}",
            "ucloud@127.0.0.1",
            "sbatch",
            "--parsable",
            "--partition=scavenge",
        ]
        words += ["--output=/dev/null", "--wrap=true"]

        def twenty() -> None:
            for _ in range(20):
                subprocess.run(words, check=True, capture_output=True, timeout=60)

        took = _timed(twenty) * count / 20
        clear("ucloud")
        return took

    def met(medians: Mapping[str, float]) -> tuple[bool, str]:
        slower, faster = medians["over SSH"] / medians["local"], medians[one] / medians["over SSH"]
        return slower <= 1.5 and faster >= 50, f"{slower:.2f}x the local time, {faster:.0f}x faster than one a job"

    yield Figure(
        f"{count} jobs in bulk over SSH, 20 ms",
        {
            "local": lambda: _bulk(ground.site(), count),
            "over SSH": lambda: _bulk(ground.site("ssh", port=proxy.port), count),
            one: each,
        },
        target="at most 1.5x the local time, at least 50x faster than one a job",
        met=met,
    )


def single(ground: Ground) -> Iterator[Figure]:
    """One job, from call to id, store included."""

    def bare() -> float:
        return _timed(lambda: ask("sbatch", "--parsable", _script(ground)))

    def fsync() -> float:
        path = ground.folder / "fsync"

        def write() -> None:
            with path.open("ab") as file:
                file.write(b"x" * 4096)
                file.flush()
                os.fsync(file.fileno())

        return _timed(write)

    def met(medians: Mapping[str, float]) -> tuple[bool, str]:
        over = 1000 * (medians["adapter"] - medians["sbatch"] - medians["fsync"])
        return over <= 10, f"the sum plus {over:.0f} ms"

    yield Figure(
        "one job, from call to id",
        {"adapter": lambda: _bulk(ground.site(), 1), "sbatch": bare, "fsync": fsync},
        target="bare sbatch, an fsync, and 10 ms",
        met=met,
    )
    clear("alice")


def _rewind(site: Adapter) -> None:
    """Make the store believe that every job runs, so that a pass finds all of them changed."""
    with closing(sqlite3.connect(site.config.state_dir / "jobs.sqlite", isolation_level=None)) as connection:
        connection.execute("UPDATE jobs SET state = 'RUNNING', status = 'rewound' WHERE stage = 'submitted'")


def _pass(site: Adapter, *, changed: bool) -> float:
    if changed:
        _rewind(site)
    began = time.monotonic()
    report = sync(site)
    took = time.monotonic() - began
    if report.problems or bool(report.changed) != changed:
        raise RuntimeError(f"not the pass that was meant: {len(report.changed)} changed; {report.problems[:1]}")
    return took


def _squeue() -> float:
    argv = listings.squeue_argv(["alice"])
    return _timed(lambda: ask(*argv, user="ucloud"))


def passes(ground: Ground, sizes: tuple[int, ...], proxy: DelayingProxy) -> Iterator[Figure]:
    """A pass over active jobs, in one process, local and over SSH; and cron's whole cold run; and its memory."""
    site = ground.site()
    with site:
        for size in sizes:
            fill(site, size - len(site.store.active()))
            sync(site)
            far = _over_ssh(ground, site, proxy)
            with far:
                far.scheduler.nodes()
                far_pass = partial(_pass, far, changed=False)
                yield Figure(
                    f"sync, {size} active jobs",
                    {
                        "unchanged": partial(_pass, site, changed=False),
                        "all changed": partial(_pass, site, changed=True),
                        "squeue": _squeue,
                        "unchanged over SSH, 20 ms": far_pass,
                        "cold run": partial(_cold, ground, site),
                        "cold run over SSH, 20 ms": partial(_cold, ground, far),
                    },
                    target="at most 2x / 4x of squeue; over SSH three round trips more",
                    met=_judge_passes,
                )
            if size == sizes[-1]:
                yield Figure(
                    f"memory of sync, {size} active jobs",
                    {"peak": partial(_memory, ground, site)},
                    unit="MB",
                    target="under 120 MB",
                    met=lambda m: (m["peak"] < 120, f"{m['peak']:.0f} MB"),
                )
    clear("alice")


def _judge_passes(medians: Mapping[str, float]) -> tuple[bool, str]:
    squeue = medians["squeue"]
    factors = medians["unchanged"] / squeue, medians["all changed"] / squeue
    more = 1000 * (medians["unchanged over SSH, 20 ms"] - medians["unchanged"])
    met = factors[0] <= 2 and factors[1] <= 4 and more <= 60
    return met, f"{factors[0]:.2f}x / {factors[1]:.2f}x; over SSH {more:.0f} ms more"


def _over_ssh(ground: Ground, site: Adapter, proxy: DelayingProxy) -> Adapter:
    """The same site, store included, over SSH."""
    far = ground.site("ssh", port=proxy.port)
    path = ground.config_of(far)
    text = re.sub(r'^state_dir = ".*"$', f'state_dir = "{site.config.state_dir}"', path.read_text(), flags=re.MULTILINE)
    path.write_text(text)
    other = Adapter(far.config.model_copy(update={"state_dir": site.config.state_dir}))
    other.__dict__["config_file"] = path
    return other


def _config_file(ground: Ground, site: Adapter) -> Path:
    found = site.__dict__.get("config_file")
    return found if isinstance(found, Path) else ground.config_of(site)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "slurm_adapter", *arguments]


def _cold(ground: Ground, site: Adapter) -> float:
    command = _command("--config", str(_config_file(ground, site)), "sync")
    return _timed(lambda: _run(command))


_PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Linux counts what a process was before it became another program, so it is started by a small one."""


def _memory(ground: Ground, site: Adapter) -> float:
    command = _command("--config", str(_config_file(ground, site)), "sync")
    done = subprocess.run(
        [sys.executable, "-S", "-c", _PEAK, *command], check=True, capture_output=True, text=True, timeout=120
    )
    return int(done.stdout.split()[-1]) * 1024 / 1e6


def start(ground: Ground) -> Iterator[Figure]:
    """How long it takes to begin."""
    site = ground.site()
    with site:
        site.store.active()
    config = str(ground.config_of(site))

    def run(*command: str) -> Callable[[], float]:
        return lambda: _timed(lambda: _run(command))

    def met(medians: Mapping[str, float]) -> tuple[bool, str]:
        help_, empty = (1000 * (medians[side] - medians["python -c pass"]) for side in ("--help", "empty sync"))
        return help_ <= 120 and empty <= 250, f"plus {help_:.0f} ms; plus {empty:.0f} ms"

    yield Figure(
        "start",
        {
            "python -c pass": run(sys.executable, "-c", "pass"),
            "--help": run(*_command("--help")),
            "empty sync": run(*_command("--config", config, "sync")),
        },
        target="--help plus 120 ms, an empty sync plus 250 ms",
        met=met,
    )


_LOOKS = "echo looks; until getent hosts database; do sleep 0.02; done; date +%s.%N"


def peer(ground: Ground) -> Iterator[Figure]:
    """From a peer's start until its name resolves in a job that runs and looks for it."""
    site = ground.site()
    config, port = ground.config_of(site), free_port()
    with config.open("a") as file:
        file.write(f"[gateway]\nport = {port}\n")
    with site, serving(config, port) as url:
        token = user_tokens.create(site, "benchmark", "alice")
        [other] = submit.submit(site, USER, [shell("sleep 3600")])
        yield Figure(
            "a peer's name, from its start",
            {"serve": partial(_peer, site, other.id, partial(_passes_of, url, token))},
            target="within two seconds",
            met=lambda medians: (medians["serve"] <= 2, f"{medians['serve']:.2f} s"),
        )
        cancel.cancel(site, [other.id])
    clear("alice")


def _peer(site: Adapter, other: str, passes_made: Callable[[], int]) -> float:
    """A job has names where it was handed in with a peer, so it has another one besides."""
    [consumer] = submit.submit(site, USER, [shell(_LOOKS, peers={"other": other})])
    [database] = submit.submit(site, USER, [shell("sleep 600", begin="now+1hour")])
    until(lambda: output(consumer), "the job looks for its peer")
    attach.attach(site, consumer.id, PeerValue(type="peer", hostname="database", job_id=database.id))
    made = passes_made()
    until(lambda: passes_made() >= made + 2, "passes know that a job waits for a peer")
    ask("scontrol", "update", f"JobId={database.slurm_id}", "StartTime=now")
    until(lambda: len(output(consumer)) > 2, "the name resolves")
    took = float(output(consumer)[-1]) - started(database)
    cancel.cancel(site, [consumer.id, database.id])
    return took


def _passes_of(url: str, token: str) -> int:
    """How many `serve` has made."""
    answer = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {token}"}, timeout=30).raise_for_status()
    lines = answer.text.splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if re.match(r"\w+_passes_total\{", line))


def create(ground: Ground) -> Iterator[Figure]:
    """Jobs that UCloud sends one after the other, each with a folder in a drive of the sandbox."""
    site = ground.site()
    config, port = ground.config_of(site), free_port()
    numbers = count(1)
    with Ucloud() as ucloud, httpx.Client(timeout=30, headers={"Authorization": f"Bearer {ucloud.token()}"}) as client:
        text = re.sub(r"(?m)^first_id = .*$", f"first_id = {FIRST_ID_BESIDE_UCLOUD}", config.read_text())
        with config.open("w") as file:
            file.write(
                f'{text}\n[gateway]\nport = {port}\n[ucloud]\nurl = "{ucloud.url}"\n'
                f'key = "{ucloud.write_key(config.parent / "ucloud.pem")}"\n'
                f'refresh_token = "{ucloud.write_refresh_token(config.parent / "refresh-token")}"\n'
            )
        job = json.loads(CREATE.read_bytes())["items"][0]
        job["owner"] = {"createdBy": "alice", "project": None}
        job["specification"]["product"]["id"] = "example-scavenge"
        with site, serving(config, port) as url:
            until(lambda: httpx.get(f"{url}/healthz/ready", timeout=30).is_success, "the gateway is ready")
            each = partial(_create, site, client, f"{url}/ucloud/example/jobs", job, numbers)
            yield Figure(
                f"{CREATES} creates of UCloud in a row, each",
                {"median of a round": lambda: median(each()), "worst of a round": lambda: max(each())},
                unit="ms",
                target="below 30 ms",
                met=lambda m: (m["median of a round"] < 30, f"{m['median of a round']:.1f} ms"),
            )
    clear("alice")


def _create(
    site: Adapter, client: httpx.Client, url: str, job: Mapping[str, Any], numbers: Iterator[int]
) -> list[float]:
    """Return how long each create took, in milliseconds, and wait until Slurm has all of them."""
    took = []
    for _ in range(CREATES):
        body = json.dumps({"items": [{**job, "id": str(next(numbers))}]}).encode()
        began = time.monotonic()
        client.post(url, content=body).raise_for_status()
        took.append(1000 * (time.monotonic() - began))
    until(lambda: all(job.slurm_id is not None for job in site.store.active_jobs()), "Slurm has all jobs")
    clear("alice")
    return took


def simulated(ground: Ground, sizes: tuple[int, ...]) -> Iterator[Figure]:
    """A pass over the fake scheduler: the adapter's own share, and the shape of its curve."""
    sides: dict[str, Callable[[], float]] = {}
    for size in sizes:
        folder = Path(tempfile.mkdtemp(dir=ground.folder))
        site = Adapter(Config.model_validate(configuration(folder)), clock=lambda: 1_000_000_000.0)
        site.scheduler = _fill_fake(site, size)
        sync(site)
        sides[f"{size} unchanged"] = partial(_pass, site, changed=False)
        sides[f"{size} all changed"] = partial(_pass, site, changed=True)

    def met(medians: Mapping[str, float]) -> tuple[bool, str]:
        few, many = (
            {side: 1e6 * medians[f"{size} {side}"] / size for side in ("unchanged", "all changed")}
            for size in (sizes[0], sizes[-1])
        )
        met = all(many[side] <= 2 * few[side] for side in few)
        told = (f"{side} {few[side]:.0f} and {many[side]:.0f}" for side in few)
        return met, f"{', '.join(told)} microseconds a job"

    yield Figure(
        "sync, simulated", sides, target="linear: a job of the most costs at most twice one of the fewest", met=met
    )


def _fill_fake(site: Adapter, size: int) -> FakeScheduler:
    slurm = FakeScheduler()
    claims = []
    for number in range(1, size + 1):
        token = f"{site.store.instance}-local-{number}"
        slurm.make(number, Submission(token, "alice", "/none", ()))
        record = Record(
            id=str(number),
            origin="local",
            key=None,
            slurm_name=token,
            owner="alice",
            project=None,
            account="alice",
            folder=f"/none/{number}",
            application="sleeper 1",
            specification="{}",
            labels="{}",
            replicas=1,
            time_limit=3600,
            array=False,
            created=1_000_000_000.0,
            stage=Stage.SUBMITTED,
            slurm_id=number,
        )
        claims.append((record, b""))
    site.store.claim(claims)
    return slurm

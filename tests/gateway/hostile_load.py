"""Honest clients before and during an attack, and what the gateway takes meanwhile.

python -m tests.gateway.hostile_load --hostile 200 --honest 20 --seconds 30 [KIND...]

What is measured is the gateway, not what else the machine has to do meanwhile. So the attackers and their application
have one core for themselves, and the gateway, the honest clients and their application have the other ones, with and
without an attack. On a machine with one core the attackers' own work counts as harm.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import httpx

from tests.gateway.hostile_clients import KINDS, SLEEPER, Attacker
from tests.gateway.process import free_port
from tests.gateway.tls import TLS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TIMEOUT_SECONDS = 60.0
"""After so long a request counts as one that nobody answered."""


@dataclass(slots=True)
class Outcome:
    """What honest clients saw."""

    seconds: list[float]
    """How long each answer took."""
    failed: list[str]
    """Requests without the answer that is due."""
    megabytes: float = 0.0
    """The most memory that `serve` and its children held together."""

    @property
    def p95(self) -> float:
        """Seconds within which 95 of 100 were answered."""
        return quantiles(self.seconds, n=20)[-1] if len(self.seconds) > 1 else TIMEOUT_SECONDS

    def __str__(self) -> str:
        """Return it in words."""
        if not self.seconds:
            return f"no answer, {len(self.failed)} failed"
        took = f"{len(self.seconds)} answers, median {median(self.seconds) * 1e3:.0f} ms, p95 {self.p95 * 1e3:.0f} ms"
        return f"{took}, worst {max(self.seconds) * 1e3:.0f} ms, {len(self.failed)} failed"


@dataclass(frozen=True, slots=True)
class Measured:
    """What an attack made of the gateway."""

    before: Outcome
    under: Outcome
    sent: dict[str, int]
    """Hostile requests, by kind."""

    def __str__(self) -> str:
        """Return it in words."""
        ratio = self.under.p95 / self.before.p95
        sent = ", ".join(f"{number} {kind}" for kind, number in self.sent.items())
        figures = f"p95 {ratio:.1f}x, memory {self.before.megabytes:.0f} and {self.under.megabytes:.0f} MB"
        return f"before: {self.before}\nunder attack: {self.under}\n{figures}\nsent: {sent}"


def measure(folder: Path, kinds: Sequence[str] = (), *, hostile: int, honest: int, seconds: float) -> Measured:
    """Serve a site of its own, and attack it with so many clients of these kinds."""
    port, good, bad = free_port(), free_port(), free_port()
    with ExitStack() as stack:
        theirs = stack.enter_context(_cores_apart())
        for application, cores in ((good, None), (bad, theirs)):
            stack.enter_context(_running([_module("hostile_application"), str(application)], cores))
        site = stack.enter_context(
            _running(
                [_module("hostile_site"), str(folder), *map(str, (port, honest, good, bad))],
                stdout=subprocess.PIPE,
                stderr=stack.enter_context((folder / "serve.log").open("wb")),
            )
        )
        assert site.stdout is not None
        said = site.stdout.readline()
        assert said, (folder / "serve.log").read_text(encoding="utf-8")
        users = json.loads(said)
        _await(site, port)
        before = asyncio.run(_all(port, users["honest"], seconds, site.pid))
        words = [_module("hostile_clients"), str(port), str(hostile), *kinds]
        with _running(words, theirs, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as attack:
            assert attack.stdin is not None
            assert attack.stdout is not None
            attack.stdin.write(json.dumps(users["hostile"]).encode())
            attack.stdin.close()
            limit = time.monotonic() + 120
            while missing := set(kinds or KINDS) - (sent := json.loads(attack.stdout.readline())).keys():
                assert time.monotonic() < limit, f"these attacks did not begin: {missing}"
            under = asyncio.run(_all(port, users["honest"], seconds, site.pid))
            attack.terminate()
            for line in attack.stdout:
                sent = json.loads(line)
        assert site.poll() is None, (folder / "serve.log").read_text(encoding="utf-8")
    return Measured(before, under, sent)


def _module(name: str) -> str:
    return f"tests.gateway.{name}"


@contextmanager
def _cores_apart() -> Iterator[set[int]]:
    """Give the cores of the attackers. Within the block this process, and what it starts, has the other ones."""
    every = os.sched_getaffinity(0)
    theirs = {max(every)}
    os.sched_setaffinity(0, every - theirs or every)
    try:
        yield theirs
    finally:
        os.sched_setaffinity(0, every)


@contextmanager
def _running(words: Sequence[str], cores: set[int] | None = None, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module, on these cores or on those of this process."""
    with subprocess.Popen([sys.executable, "-m", *words], **more) as process:
        try:
            if cores is not None:
                os.sched_setaffinity(process.pid, cores)
            yield process
        finally:
            process.kill()


def _await(site: subprocess.Popen[bytes], port: int) -> None:
    limit = time.monotonic() + 60
    while True:
        assert site.poll() is None, "serve ended"
        with suppress(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=10, verify=TLS)
            return
        assert time.monotonic() < limit, "serve does not listen"
        time.sleep(0.05)


async def _all(port: int, users: Sequence[dict[str, str]], seconds: float, watched: int) -> Outcome:
    outcome = Outcome([], [])
    until = time.monotonic() + seconds
    watching = asyncio.create_task(_watch(watched, outcome))
    await asyncio.gather(*(_honest(Attacker(port, **user), until, outcome) for user in users))
    watching.cancel()
    return outcome


async def _honest(user: Attacker, until: float, outcome: Outcome) -> None:
    """Do what people do: look at jobs, at one's own application, and now and then submit one."""
    limits = httpx.Limits(max_connections=4)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{user.port}", timeout=TIMEOUT_SECONDS, limits=limits
    ) as client:
        browser, number, began = {"Host": user.domain}, 0, time.monotonic()
        try:
            browser = await user.cookie()
            outcome.seconds.append(time.monotonic() - began)
        except (OSError, TimeoutError) as error:
            outcome.failed.append(f"no session: {type(error).__name__}: {error}")
        while number == 0 or time.monotonic() < until:
            number += 1
            await _ask(client, outcome, "GET", f"/api/jobs/retrieve?id={user.job}", headers=user.bearer)
            await _ask(client, outcome, "GET", "/api/jobs/browse?itemsPerPage=10", headers=user.bearer)
            await _ask(client, outcome, "GET", "/", headers=browser)
            if number % 10 == 1:
                await _ask(client, outcome, "POST", "/api/jobs", headers=user.bearer, json={"items": [SLEEPER]})
            await asyncio.sleep(0.2)


async def _ask(client: httpx.AsyncClient, outcome: Outcome, method: str, path: str, **more: Any) -> None:
    began = time.monotonic()
    try:
        answer = await client.request(method, path, **more)
    except httpx.HTTPError as error:
        outcome.failed.append(f"{method} {path}: {type(error).__name__}: {error}")
    else:
        outcome.seconds.append(time.monotonic() - began)
        if answer.status_code != 200:
            outcome.failed.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")


async def _watch(pid: int, outcome: Outcome) -> None:
    while True:
        outcome.megabytes = max(outcome.megabytes, _megabytes(pid))
        await asyncio.sleep(0.2)


def _megabytes(pid: int) -> float:
    """Return the largest resident size of a process (VmHWM in proc(5)), and what all below it have for themselves.

    A child between vfork and exec has the memory of its parent, and the same command line: it does not count.
    """
    own = _command(pid)
    return _kibibytes(f"/proc/{pid}/status", "VmHWM") / 1024 + sum(
        _kibibytes(f"/proc/{child}/smaps_rollup", "Private_") / 1024 for child in _below(pid) if _command(child) != own
    )


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _kibibytes(file: str, key: str) -> int:
    with suppress(OSError):
        lines = Path(file).read_text(encoding="utf-8").splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(key))
    return 0


def _below(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text(encoding="utf-8").split()):
                found += [child, *_below(child)]
    return found


def main() -> None:
    """Measure, and print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--hostile", type=int, default=200)
    parser.add_argument("--honest", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = {"hostile": given.hostile, "honest": given.honest}
        measured = measure(Path(folder), given.kinds, **counts, seconds=given.seconds)
        sys.stdout.write("\n".join([str(measured), *measured.under.failed[:10], ""]))


if __name__ == "__main__":
    main()

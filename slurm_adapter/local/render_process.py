"""Render templates in a confined child process."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from slurm_adapter.core.errors import InvalidConfig, InvalidInput
from slurm_adapter.core.interfaces import check_interfaces, declare
from slurm_adapter.local.confinement import SECCOMP, confine
from slurm_adapter.translation.rendering import CALLS, OUTPUT_LIMIT, Rendered, Source, Task, render

if TYPE_CHECKING:
    from collections.abc import Mapping

CPU_SECONDS = 2
"""What the child may use; a large application takes a few milliseconds."""


WALL_SECONDS = 30
"""When the child is ended: a machine may be busy, but no template waits for anything."""


START_SECONDS = 60
"""How long the child may take to start."""


MEMORY = 512 * 1024 * 1024
"""The child's address space, in bytes."""


ANSWER_LIMIT = 8 * OUTPUT_LIMIT
"""The most bytes of the child's answer."""


_WARM_UP = "{{ 'a b' | pprint | wordwrap(2) }}{{ nothing }}"
"""Makes Jinja import what it imports late: for literals, these filters, and errors. Then no file need be read."""


def render_apart(task: Task) -> Rendered:
    """Render in a child process. Raise as `Apart.render`."""
    with Apart() as apart:
        return apart.render(task)


class Apart:
    """Renders in a confined child process, which serves until the block's end: starting one takes longer than a job.

    Each task has the whole of the limits. One that goes beyond them takes the child with it, and the next has another.
    A child serves one owner's jobs only: one that was taken over could answer for the next job.
    """

    def __init__(self, *, allow_unconfined: bool = False) -> None:
        """Nothing is started until it is needed. `allow_unconfined`: render though the machine lacks seccomp."""
        self._allow_unconfined = allow_unconfined
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Serve."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the child."""
        self._end()

    def walls(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return what confines the child, and what this machine lacks for that; see `confinement.confine`."""
        self._end()
        self._child = _start()
        said = _exchange(self._child, None, START_SECONDS)
        if said is None:
            raise InvalidConfig(f"the renderer of templates does not start: {self._end()}")
        stand, lacking = json.loads(said)
        return stand, lacking

    def render(self, task: Task) -> Rendered:
        """Raise as `render` does, and for a template that goes beyond the limits.

        Raise `InvalidConfig` if the child cannot be confined, or does not start.
        """
        if self._child is None:
            stand, lacking = self.walls()
            if SECCOMP not in stand and not self._allow_unconfined:
                self._end()
                raise InvalidConfig(unconfined(lacking))
        said = _exchange(self._child, json.dumps(vars(task), default=vars), WALL_SECONDS)
        try:
            if said is not None:
                return _read_answer(json.loads(said), task)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            self._end()
            raise InvalidInput(f"{_names(task)}: the renderer's answer makes no sense") from error
        self._end()
        raise InvalidInput(f"{_names(task)}: takes more than {CPU_SECONDS} seconds, or too much memory, to render")

    def _end(self) -> str:
        """End the child, if there is one. Return what it said on stderr."""
        child, self._child = self._child, None
        if child is None:
            return ""
        child.kill()
        return child.communicate()[1].decode(errors="replace")


def unconfined(lacking: Mapping[str, str]) -> str:
    """Return what is wrong with a machine that lacks seccomp, and the fix."""
    return (
        "templates that the site did not write are not rendered: this machine cannot confine their renderer "
        f"({lacking.get(SECCOMP)}). Install libseccomp 2 (Debian: libseccomp2, RHEL: libseccomp); "
        "jobs.allow_unconfined = true renders them with less protection"
    )


def _start() -> subprocess.Popen[bytes]:
    start = "import sys; sys.path[:] = sys.argv[1:]; from slurm_adapter.local.render_process import main; main()"
    return subprocess.Popen(
        [sys.executable, "-I", "-c", start, *(str(Path(place).resolve()) for place in sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={},
    )


def _exchange(child: subprocess.Popen[bytes] | None, line: str | None, seconds: float) -> bytes | None:
    """Give the child a line, if there is one, and return its next; None if it ended, or took too long or too much."""
    if child is None or child.stdin is None or child.stdout is None:
        return None
    watch = threading.Timer(seconds, child.kill)  # a child that was taken over may have set its own timers to none
    watch.start()
    try:
        with suppress(BrokenPipeError):
            if line is not None:
                child.stdin.write(line.encode() + b"\n")
                child.stdin.flush()
            said = child.stdout.readline(ANSWER_LIMIT)
            return said if said.endswith(b"\n") else None
    finally:
        watch.cancel()
    return None


def _read_answer(answer: dict[str, Any], task: Task) -> Rendered:
    """Take nothing from the child but what a template may give. Raise `ValueError` or its like, and `InvalidInput`."""
    json.dumps(answer, ensure_ascii=False).encode()  # refuses half of a surrogate pair
    if "problem" in answer:
        problem = answer["problem"]
        if not isinstance(problem, str) or not problem.isprintable():
            raise ValueError
        raise InvalidInput(problem)
    texts = [answer["body"], *(name for name, _ in answer["calls"])]
    for found, asked in ((answer["environment"], task.environment), (answer["sbatch"], task.sbatch)):
        if not isinstance(found, dict) or found.keys() != asked.keys():
            raise ValueError
        texts += found.values()
    if not all(isinstance(text, str) for text in texts):
        raise ValueError
    if len(answer["calls"]) > CALLS or not all(
        value is None or isinstance(value, str | int | float) for _, value in answer["calls"]
    ):
        raise ValueError
    return Rendered(
        body=answer["body"],
        environment=answer["environment"],
        sbatch=answer["sbatch"],
        calls=tuple((name, value) for name, value in answer["calls"]),
        interfaces=check_interfaces(declare(*each) for each in answer["interfaces"]),
    )


def _names(task: Task) -> str:
    return ", ".join(
        sorted({source.name for source in (*task.body, *task.environment.values(), *task.sbatch.values())})
    )


def main() -> None:
    """The child: says what confines it, then answers tasks on stdin, each a line of JSON, on stdout."""
    with suppress(InvalidInput):
        render(Task(variables={}, body=(Source(_WARM_UP, "warm-up"),)))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    _say(json.dumps(confine()))
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # what its signal does is to end the process
        answer = _answer(json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)  # the next task may be long in coming
        _say(answer)


def _say(text: str) -> None:
    sys.stdout.buffer.write(text.encode() + b"\n")
    sys.stdout.buffer.flush()


def _answer(task: dict[str, Any]) -> str:
    try:
        rendered = render(
            Task(
                variables=task["variables"],
                safe=task["safe"],
                srun=task["srun"],
                body=tuple(Source(**source) for source in task["body"]),
                environment={name: Source(**source) for name, source in task["environment"].items()},
                sbatch={name: Source(**source) for name, source in task["sbatch"].items()},
            )
        )
    except InvalidInput as error:
        return json.dumps({"problem": str(error)})
    answer = json.dumps(asdict(rendered))
    if len(answer) >= ANSWER_LIMIT:
        return json.dumps({"problem": "the application's templates give too much text"})
    return answer

"""Render untrusted templates in a confined child process."""

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
"""Processor time of the child for one task. A large application needs a few milliseconds."""

WALL_SECONDS = 30
"""Time after which the child is killed. The machine may be busy, but no template waits for anything."""

START_SECONDS = 60
"""Time in which the child must start."""

MEMORY = 512 * 1024 * 1024
"""Address space of the child, in bytes."""

ANSWER_LIMIT = 8 * OUTPUT_LIMIT
"""Most bytes of the child's answer."""

_WARM_UP = "{{ 'a b' | pprint | wordwrap(2) }}{{ nothing }}"
"""Template that makes Jinja import what it imports late, so that no file is read after the start."""


def render_confined(task: Task) -> Rendered:
    """Render in a child process. Raise the errors of `ConfinedRenderer.render`."""
    with ConfinedRenderer() as renderer:
        return renderer.render(task)


class ConfinedRenderer:
    """Renderer in a confined child process, which is kept until the end of the `with` block, because it starts slowly.

    The limits apply to each task. If a task exceeds them, the child is killed, and the next task gets another child.
    Use a renderer for the jobs of one owner only: a malicious template could take over the child, and answer for later
    jobs.
    """

    def __init__(self, *, allow_unconfined: bool = False) -> None:
        """Start nothing yet. `allow_unconfined`: render even if this machine lacks seccomp."""
        self._allow_unconfined = allow_unconfined
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Return the renderer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the child."""
        self._end()

    def restrictions(self) -> tuple[dict[str, str], dict[str, str]]:
        """Start a child. Return its active and its lacking restrictions; see `confinement.confine`."""
        self._end()
        self._child = _start()
        answer = _exchange(self._child, None, START_SECONDS)
        if answer is None:
            raise InvalidConfig(f"the process that renders templates does not start: {self._end()}")
        active, lacking = json.loads(answer)
        return active, lacking

    def render(self, task: Task) -> Rendered:
        """Render in the child. Raise `InvalidInput` as `render` does, and for tasks that exceed the limits.

        Raise `InvalidConfig` if the child does not start, or cannot be confined.
        """
        if self._child is None:
            active, lacking = self.restrictions()
            if SECCOMP not in active and not self._allow_unconfined:
                self._end()
                raise InvalidConfig(explain_unconfined(lacking))
        answer = _exchange(self._child, json.dumps(vars(task), default=vars), WALL_SECONDS)
        try:
            if answer is not None:
                return _read_answer(json.loads(answer), task)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            self._end()
            raise InvalidInput(f"{_names(task)}: the answer of the process that renders it is invalid") from error
        self._end()
        raise InvalidInput(f"{_names(task)}: rendering takes more than {CPU_SECONDS} seconds, or too much memory")

    def _end(self) -> str:
        """Kill the child, if there is one. Return its stderr."""
        child, self._child = self._child, None
        if child is None:
            return ""
        child.kill()
        return child.communicate()[1].decode(errors="replace")


def explain_unconfined(lacking: Mapping[str, str]) -> str:
    """Return the message for a machine without seccomp, with the fix."""
    return (
        "templates that the site did not write are not rendered: this machine cannot confine the process that renders "
        f"them ({lacking.get(SECCOMP)}). Install libseccomp 2 (Debian: libseccomp2, RHEL: libseccomp); "
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
    """Send the child a line, if any. Return its next line; None if it ended, or exceeded the time or the size."""
    if child is None or child.stdin is None or child.stdout is None:
        return None
    watch = threading.Timer(seconds, child.kill)  # a malicious child may have disabled its own timers
    watch.start()
    try:
        with suppress(BrokenPipeError):
            if line is not None:
                child.stdin.write(line.encode() + b"\n")
                child.stdin.flush()
            answer = child.stdout.readline(ANSWER_LIMIT)
            return answer if answer.endswith(b"\n") else None
    finally:
        watch.cancel()
    return None


def _read_answer(answer: dict[str, Any], task: Task) -> Rendered:
    """Check the form of the child's answer, and return it. Raise `InvalidInput`, `ValueError` and similar errors."""
    json.dumps(answer, ensure_ascii=False).encode()  # refuses half of a surrogate pair
    if "problem" in answer:
        problem = answer["problem"]
        if not isinstance(problem, str) or not problem.isprintable():
            raise ValueError
        raise InvalidInput(problem)
    texts = [answer["body"], *(name for name, _ in answer["calls"])]
    for found, wanted in ((answer["environment"], task.environment), (answer["sbatch"], task.sbatch)):
        if not isinstance(found, dict) or found.keys() != wanted.keys():
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
    """Run the child: print its restrictions, then read tasks from stdin and print answers, each one line of JSON."""
    with suppress(InvalidInput):
        render(Task(variables={}, body=(Source(_WARM_UP, "warm-up"),)))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    _print(json.dumps(confine()))
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its signal kills the process
        answer = _answer(json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)  # the next task may come much later
        _print(answer)


def _print(text: str) -> None:
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
        return json.dumps({"problem": "the text of the application's templates is too long"})
    return answer

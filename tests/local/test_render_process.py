"""The confined renderer: what a template reaches that escapes from Jinja's sandbox."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.core.errors import InvalidConfig, InvalidInput
from slurm_adapter.local import render_process
from slurm_adapter.local.confinement import LANDLOCK, SECCOMP
from slurm_adapter.local.render_process import ConfinedRenderer
from slurm_adapter.translation.rendering import CALLS, Source, Task, render
from tests.translation.escapes import ESCAPES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "adapter-secret"

ATTACK = """
import ctypes, json, os, socket, subprocess, sys
from slurm_adapter.local import confinement
from slurm_adapter.local import render_process

C = ctypes.CDLL(None, use_errno=True)

def refused(call):
    "Call the C library. Raise an error if Linux refuses."
    if call < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return call

def attack(task):
    it = task["variables"]
    parent, file, folder = it["parent"], it["file"], it["folder"]
    connect = lambda family, address: socket.socket(family).connect(address)
    ways = {
        "read a file": lambda: open(file).read(),
        "write a file": lambda: open(file, "a").write("x"),
        "make a file": lambda: open(folder + "/new", "x"),
        "list a folder": lambda: os.listdir(folder),
        "remove a file": lambda: os.unlink(file),
        "rename a file": lambda: os.rename(file, file + "2"),
        "link a file": lambda: os.symlink(file, file + "3"),
        "make a folder": lambda: os.mkdir(folder + "/sub"),
        "read the environment": lambda: open(f"/proc/{parent}/environ").read(),
        "read the memory": lambda: open(f"/proc/{parent}/mem", "rb").read(1),
        "connect by TCP": lambda: connect(socket.AF_INET, ("127.0.0.1", it["port"])),
        "connect by a path": lambda: connect(socket.AF_UNIX, it["path"]),
        "connect by a name": lambda: connect(socket.AF_UNIX, "\\0" + it["name"]),
        "start a program": lambda: subprocess.run(["/bin/true"]),
        "import": lambda: __import__("tarfile"),
    }
    system_calls = {
        "become a program": lambda: os.execv("/bin/true", ["true"]),
        "fork": lambda: os.fork() or os._exit(0),
        "signal": lambda: os.kill(parent, 0),
        "trace": lambda: refused(C.ptrace(16, parent, 0, 0)),
        "change a mode": lambda: os.chmod(file, 0o777),
        "change an owner": lambda: os.chown(file, os.getuid(), -1),
        "change a time": lambda: os.utime(file),
        "empty a file": lambda: os.truncate(file, 0),
        "stat a file": lambda: os.stat(file),
        "pair of sockets": socket.socketpair,
        "pipe": os.pipe,
        "another name for stdout": lambda: os.dup(1),
        "file in memory": lambda: os.memfd_create("x"),
        "io_uring": lambda: refused(C.syscall(425, 1, ctypes.create_string_buffer(256))),
        "a process's handle": lambda: os.pidfd_open(parent),
        "a process's memory": lambda: refused(C.process_vm_readv(parent, None, 0, None, 0, 0)),
        "namespace": lambda: refused(C.unshare(0x10000000)),
        "change the root": lambda: os.chroot("/"),
        "limits": lambda: __import__("resource").setrlimit(7, (0, 0)),
        "priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, 5),
    }
    done = []
    for name, way in (ways | (system_calls if it["whole"] else {})).items():
        try:
            way()
        except (OSError, ImportError, ValueError):
            continue
        done.append(name)
    return json.dumps({"body": ", ".join(done), "environment": {}, "sbatch": {}, "calls": [], "interfaces": []})

render_process._answer = attack
render_process.main()
"""
NO_SECCOMP = "from slurm_adapter.local import confinement\nconfinement._LIBSECCOMP = 'libnone.so'\n"


def attack(wall: str) -> str:
    """Return a child that attacks, confined by this restriction only."""
    return ATTACK if wall == SECCOMP else NO_SECCOMP + ATTACK


def child_of(code: str) -> subprocess.Popen[bytes]:
    """Start the renderer's child with other code."""
    return subprocess.Popen(
        [sys.executable, "-I", "-c", f"import sys; sys.path[:] = {sys.path}\n{code}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={},
    )


def task(text: str = "x", **variables: Any) -> Task:
    return Task(variables=variables, body=(Source(text, "app"),))


@pytest.fixture
def prey(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Targets of an attacker: a file, sockets, and this process."""
    file = tmp_path / "config.toml"
    file.write_text(SECRET)
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as path, socket.socket(socket.AF_UNIX) as name:
        tcp.bind(("127.0.0.1", 0))
        path.bind(str(tmp_path / "socket"))
        name.bind(f"\0prey-{os.getpid()}")
        for each in (tcp, path, name):
            each.listen()
        yield {
            "parent": os.getpid(),
            "file": str(file),
            "folder": str(tmp_path),
            "port": tcp.getsockname()[1],
            "path": str(tmp_path / "socket"),
            "name": f"prey-{os.getpid()}",
        }
    assert file.read_text() == SECRET
    assert sorted(each.name for each in tmp_path.iterdir()) == ["config.toml", "socket"]


@pytest.mark.parametrize("wall", [SECCOMP, LANDLOCK])
def test_python_itself_reaches_nothing(monkeypatch: pytest.MonkeyPatch, prey: dict[str, Any], wall: str) -> None:
    """The attack has all of Python. Each restriction alone forbids what it is for."""
    monkeypatch.setattr(render_process, "_start", lambda: child_of(attack(wall)))
    with ConfinedRenderer(allow_unconfined=True) as renderer:
        stand, _ = renderer.restrictions()
        if wall not in stand:
            pytest.skip(f"this machine has no {wall}")
        assert renderer.render(task(**prey, whole=wall == SECCOMP)).body == ""


def test_without_restrictions_the_attack_succeeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The attack works without restrictions, so its failure in a confined child proves something."""
    code = attack(SECCOMP).replace(
        "render_process.main()", "render_process.confine = lambda: ({}, {})\nrender_process.main()"
    )
    monkeypatch.setattr(render_process, "_start", lambda: child_of(code))
    file = tmp_path / "config.toml"
    file.write_text(SECRET)
    with ConfinedRenderer(allow_unconfined=True) as renderer:
        found = renderer.render(
            task(parent=os.getpid(), file=str(file), folder=str(tmp_path), port=1, path="", name="", whole=False)
        )
    assert {"write a file", "list a folder", "read the environment", "import"} <= {*found.body.split(", ")}


@pytest.mark.parametrize("text", ESCAPES)
def test_no_template_gets_out_of_the_sandbox(text: str, escapes_child: ConfinedRenderer) -> None:
    try:
        printed = escapes_child.render(task(text)).body
    except InvalidInput as error:
        printed = str(error)
    assert not any(word in printed for word in ("<class", "<function", "<module", "root:", "uid=", "<built-in"))


@pytest.fixture(scope="module")
def escapes_child() -> Iterator[ConfinedRenderer]:
    with ConfinedRenderer() as renderer:
        yield renderer


def test_a_machine_that_cannot_confine_renders_only_if_the_site_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"{NO_SECCOMP}from slurm_adapter.local import render_process\nrender_process.main()"
    monkeypatch.setattr(render_process, "_start", lambda: child_of(code))
    with ConfinedRenderer() as renderer, pytest.raises(InvalidConfig) as error:
        renderer.render(task())
    assert "libnone.so" in str(error.value)
    assert "jobs.allow_unconfined" in str(error.value)
    with ConfinedRenderer(allow_unconfined=True) as renderer:
        assert renderer.render(task()).body == "x"


def test_a_renderer_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render_process, "_start", lambda: child_of("sys.exit('no such module')"))
    with ConfinedRenderer() as renderer, pytest.raises(InvalidConfig, match="no such module"):
        renderer.render(task())


ANSWER: dict[str, Any] = {"body": "x", "environment": {}, "sbatch": {}, "calls": [], "interfaces": []}
WRONG: tuple[dict[str, Any], ...] = (
    {"body": 5},
    {"body": "\ud800"},
    {"environment": {"LD_PRELOAD": "x"}},
    {"sbatch": {"mem": "0"}},
    {"sbatch": []},
    {"calls": [["mem"]]},
    {"calls": [[{}, "x"]]},
    {"calls": [["mem", ["x"]]]},
    {"calls": 5},
    {"calls": [["mem", "1M"]] * (CALLS + 1)},
    {"interfaces": [[0, "WEB", "x", "22; id"]]},
    {"interfaces": [["0", "WEB", "x", 8080]]},
    {"interfaces": [[0, "WEB", "x", 8080], [0, "WEB", "x", 8081]]},
    {"interfaces": [[0, "WEB"]]},
    {"interfaces": None},
)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "no JSON",
        "null",
        "[]",
        "[" * 100_000,
        "9" * 10_000,
        '{"problem": 5}',
        '{"problem": "\\u001b[31m"}',
        "{}",
        *(json.dumps(ANSWER | change) for change in WRONG),
    ],
    ids=lambda text: text[:30],
)
def test_the_answer_of_a_malicious_child_is_not_trusted(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    code = f'print(\'[{{"seccomp": "x"}}, {{}}]\', flush=True); input(); print({said!a})'
    monkeypatch.setattr(render_process, "_start", lambda: child_of(code))
    with ConfinedRenderer() as renderer, pytest.raises(InvalidInput) as error:
        renderer.render(task())
    assert str(error.value) == "app: the answer of the process that renders it is invalid"


@pytest.mark.parametrize(
    "rest",
    [
        "print('x' * (20 * 1024 * 1024))",
        "while True: sys.stdout.write('x' * 65536)",
        "import os, time; os.close(1); time.sleep(600)",
        "import time; time.sleep(600)",
        "import signal, time; signal.signal(signal.SIGPROF, signal.SIG_IGN); sys.stderr.write('x' * 10**6)",
        "sys.exit(1)",
    ],
)
def test_a_malicious_child_delays_nobody(monkeypatch: pytest.MonkeyPatch, rest: str) -> None:
    code = f'print(\'[{{"seccomp": "x"}}, {{}}]\', flush=True); input()\n{rest}'
    monkeypatch.setattr(render_process, "_start", lambda: child_of(code))
    monkeypatch.setattr(render_process, "WALL_SECONDS", 0.5)
    with ConfinedRenderer() as renderer, pytest.raises(InvalidInput, match="app: rendering takes more than"):
        renderer.render(task())


def test_a_child_that_does_not_read_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    code = 'import time; print(\'[{"seccomp": "x"}, {}]\', flush=True); time.sleep(600)'
    monkeypatch.setattr(render_process, "_start", lambda: child_of(code))
    monkeypatch.setattr(render_process, "WALL_SECONDS", 0.5)
    with ConfinedRenderer() as renderer, pytest.raises(InvalidInput, match="app: rendering takes more than"):
        renderer.render(task(x="x" * 10**6))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{% do sbatch('mem', " + " * ".join(["10 ** 1000"] * 5) + ") %}", "4300 digits"),
        ("{{ " + " * ".join(["10 ** 1000"] * 5) + " }}", "4300 digits"),
        ("{{ '\\ud800' }}", "half of a surrogate pair"),
        ("{% do sbatch('mem', '\\ud800') %}", "half of a surrogate pair"),
        ("{% do sbatch('\\ud800', 'x') %}", "half of a surrogate pair"),
        ("{% do sbatch({1: 2}, 'x') %}", "sbatch(): name: must be a text"),
        ("{% do sbatch(none, 'x') %}", "sbatch(): name: must be a text"),
        ("{{ " + "[" * 3000 + "]" * 3000 + " }}", "recursion"),
        ("{{ 1" + " + 1" * 20_000 + " }}", "recursion"),
    ],
    ids=lambda text: text[:30],
)
def test_templates_that_cannot_be_sent_to_a_child(text: str, said: str) -> None:
    for run in (render, render_process.render_confined):
        with pytest.raises(InvalidInput) as error:
            run(task(text))
        assert said in str(error.value)

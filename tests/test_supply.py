"""Dependencies: the locks fit pyproject.toml, hold hashes alone, and are asked after by pip-audit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parent.parent
LOCK, TEST_LOCK = ROOT / ".ci" / "requirements.lock", ROOT / ".ci" / "requirements-test.lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def entries(lock: Path) -> dict[str, tuple[Requirement, list[str]]]:
    """Return each locked package with its hashes."""
    found: dict[str, tuple[Requirement, list[str]]] = {}
    for text in re.sub(r"\\\n", "", lock.read_text(encoding="utf-8")).splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", text)
        parsed = Requirement(requirement)
        found[canonicalize_name(parsed.name)] = (parsed, hashes)
    return found


def version(requirement: Requirement) -> str:
    """Return the one version that a lock names."""
    [pin] = requirement.specifier
    assert pin.operator == "=="
    return pin.version


def wanted(*extras: str) -> list[Requirement]:
    """Return what pyproject.toml asks for."""
    texts = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"]]
    for extra in extras:
        texts += PROJECT["project"]["optional-dependencies"][extra]
    return [each for each in map(Requirement, texts) if each.name != PROJECT["project"]["name"]]


LOCKS = [(LOCK, ("serve",)), (TEST_LOCK, ("serve", "test", "supply"))]


@pytest.mark.parametrize(("lock", "extras"), LOCKS, ids=lambda value: getattr(value, "name", ""))
def test_a_lock_fits_what_is_asked_for(lock: Path, extras: tuple[str, ...]) -> None:
    locked = entries(lock)
    for requirement in wanted(*extras):
        assert canonicalize_name(requirement.name) in locked, f"{requirement}: run `bash .ci/lock`"
        pinned = version(locked[canonicalize_name(requirement.name)][0])
        assert requirement.specifier.contains(pinned), f"{requirement}: locked is {pinned}; run `bash .ci/lock`"


@pytest.mark.parametrize(("lock", "extras"), LOCKS, ids=lambda value: getattr(value, "name", ""))
def test_a_lock_holds_nothing_that_nobody_asks_for(lock: Path, extras: tuple[str, ...]) -> None:
    locked = entries(lock)
    try:
        needed = closure(wanted(*extras))
    except PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed here")
    # What is needed by another version of Python alone is locked too.
    assert {name for name in locked.keys() - needed if " python_" not in str(locked[name][0].marker)} == set()


def closure(requirements: Iterable[Requirement]) -> set[str]:
    """Return the names of these and of everything that they need here."""
    seen: dict[str, set[str]] = {}
    left = [(each, set(each.extras)) for each in requirements]
    while left:
        requirement, extras = left.pop()
        name = canonicalize_name(requirement.name)
        new = {"", *extras} - seen.setdefault(name, set())
        seen[name] |= new
        for text in requires(name) or () if new else ():
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in new):
                left.append((inner, set(inner.extras)))
    return set(seen)


@pytest.mark.parametrize("lock", [LOCK, TEST_LOCK], ids=lambda lock: lock.name)
def test_a_lock_names_versions_and_hashes_and_no_index(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert "://" not in text
    assert set(re.findall(r"--[a-z-]+", text)) == {"--hash"}
    for requirement, hashes in entries(lock).values():
        assert version(requirement)
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), requirement.name


def test_what_is_tested_is_what_a_site_installs() -> None:
    tested = entries(TEST_LOCK)
    assert {name: tested[name] for name in entries(LOCK)} == entries(LOCK)


class _Advisories(BaseHTTPRequestHandler):
    """An OSV service that knows of one vulnerability, in jinja2."""

    def do_POST(self) -> None:
        """Answer a question about one package."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found: dict[str, Any] = {}
        if asked["package"]["name"] == "jinja2":
            about = {"package": {"name": "jinja2", "ecosystem": "PyPI"}, "versions": [asked["version"]]}
            ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}]
            one = {"id": "GHSA-test", "modified": "2026-01-01T00:00:00Z", "affected": [about | {"ranges": ranges}]}
            found = {"vulns": [one]}
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def advisories() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Advisories) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def audit(lock: Path, url: str) -> subprocess.CompletedProcess[str]:
    """Audit a lock by an OSV service."""
    pytest.importorskip("pip_audit", reason="pip-audit is in the extra `supply`")
    command = [
        sys.executable,
        str(ROOT / ".ci" / "audit.py"),
        str(lock),
        "--vulnerability-service=osv",
        f"--osv-url={url}",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_known_vulnerability_fails_the_audit(advisories: str) -> None:
    done = audit(LOCK, advisories)
    assert done.returncode == 1, done.stderr
    assert re.search(r"jinja2 \S+: GHSA-test, fixed in 99\.1", done.stderr)


def test_an_audit_that_finds_nothing_says_how_many_packages_it_asked_after(advisories: str, tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("click==8.0 --hash=sha256:" + "0" * 64 + "\n")
    done = audit(lock, advisories)
    assert (done.returncode, done.stdout) == (
        0, "pip-audit: no known vulnerability in the 1 packages of requirements.lock\n"
    )  # fmt: skip


def test_an_audit_without_data_is_loud_and_fails_nothing() -> None:
    done = audit(LOCK, "http://127.0.0.1:9/v1/query")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("NOT AUDITED: requirements.lock. No data on vulnerabilities can be had from here:")

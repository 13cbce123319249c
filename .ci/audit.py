#!/usr/bin/env python3
"""Ask pip-audit for known vulnerabilities of the locked dependencies: `.ci/audit.py [LOCK [OPTION OF pip-audit...]]`.

Fails on a known vulnerability. Without data, as on a machine without the internet, it says so loudly and fails nothing:
what was not audited here must be audited elsewhere.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

SERVICES = ("pypi", "osv")
"""Asked in turn until one knows the packages: the advisories that the package index has, then https://osv.dev."""


def ask(lock: Path, *options: str) -> tuple[list[dict[str, Any]], str]:
    """Return the answer for each package of the lock, or none and why."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes", "--disable-pip"]
    command += ["--format=json", "--progress-spinner=off", "--timeout=10", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return [], "no answer within 120 seconds"
    try:
        answer: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return [], (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return answer, ""


def main(arguments: list[str]) -> int:
    """Print what was found, and return the exit code."""
    given, *options = arguments or [""]
    lock = Path(given or HERE / "requirements-test.lock")
    notes: list[str] = []
    for services in [options] if options else [[f"--vulnerability-service={name}"] for name in SERVICES]:
        answers, why = ask(lock, *services)
        bad = [(each, found) for each in answers for found in each.get("vulns", ())]
        for package, found in bad:
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}", file=sys.stderr)
        if bad:
            print(f"{lock.name} holds known vulnerabilities: run `bash .ci/lock --upgrade`", file=sys.stderr)
            return 1
        skipped = [each for each in answers if "skip_reason" in each]
        if answers and not skipped:
            print(f"pip-audit: no known vulnerability in the {len(answers)} packages of {lock.name}")
            return 0
        named = f"{len(skipped)} of {len(answers)} packages: {skipped[0]['skip_reason']}" if skipped else why
        notes.append(f"{' '.join(services)}: {named}"[:300])
    title = f"NOT AUDITED: {lock.name}. No data on vulnerabilities can be had from here:"
    print(title, *notes, sep="\n  ", file=sys.stderr)
    print(
        "  Run `.ci/audit.py` before a release, on a machine that reaches osv.dev or an index with advisories.",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Extract Slurm's errors, with their numbers and words, from a git copy of its sources.

    python -m tests.cluster.schedulers.extract_errors REPOSITORY

REPOSITORY is a git directory, bare or not, with Slurm's release tags. Of each release since 20.11 the newest tag is
read, and `recorded/<version>/errors.json` is written beside this file: the numbers of `slurm/slurm_errno.h` and
the words of `src/common/slurm_errno.c`, by the errors' names in C; and the words of the reasons of a pending job that
count jobs in the queue (`WAIT_..._SUB_JOB...`). Errors that no controller sends about a job are left out.

`tests/cluster/schedulers/test_refusals.py` holds this program's table against these files, which are never written
from it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.cluster.schedulers.extract_states import RECORDED, newest_tags

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')


def read_numbers(header: str) -> dict[str, int]:
    """Return the number of each error of `slurm_errno.h`, by its name."""
    numbers: dict[str, int] = {}
    header = _COMMENT.sub("", header)
    for body in re.findall(r"enum(?:\s+\w+)?\s*\{(.*?)\}", header, re.DOTALL) or [header]:
        last = -1
        for match in re.finditer(r"(\w+)(?:\s*=\s*(\w+|-\d+))?\s*(?:,|$)", body.strip()):
            told = match[2]
            last = last + 1 if told is None else int(told) if re.fullmatch(r"-?\d+", told) else numbers[told]
            numbers[match[1]] = last
    return numbers | {name: int(value) for name, value in re.findall(r"#define\s+(E?SLURM\w+)\s+\(?(-?\d+)", header)}


def read_words(code: str) -> dict[str, str]:
    """Return the words of each error of `slurm_errno.c`, by its name."""
    entry = r"(?:ERRTAB_ENTRY\((\w+)\)|\{\s*(\w+))\s*,\s*((?:" + _TEXT.pattern + r"\s*)+)"
    found = re.finditer(entry, _COMMENT.sub("", code))
    return {match[1] or match[2]: "".join(_TEXT.findall(match[3])) for match in found}


def read_reasons(code: str) -> list[str]:
    """Return the words of the reasons that count the jobs in the queue."""
    table = r"\[WAIT_\w+_SUB_JOB\w*\] = \{[^}]*?\.str = \"(\w+)\""
    cases = r"case WAIT_\w+_SUB_JOB\w*:\s*return \"(\w+)\""
    return sorted(re.findall(table, code) + re.findall(cases, code))


def main() -> None:
    """Write all of them."""
    repository = Path(sys.argv[1])
    for version, tag in newest_tags(repository).items():
        numbers = read_numbers(_show(repository, tag, "slurm/slurm_errno.h"))
        words = read_words(_show(repository, tag, "src/common/slurm_errno.c"))
        reasons = read_reasons(
            _show(repository, tag, "src/common/slurm_protocol_defs.c")
            + _show(repository, tag, "src/common/job_state_reason.c")
        )
        errors = {
            name: f"{numbers[name]} {text}" for name, text in words.items() if 1000 <= numbers.get(name, 0) < 3000
        }
        told = {"tag": tag, "errors": errors, "reasons": reasons}
        (RECORDED / version / "errors.json").write_text(json.dumps(told, indent=1) + "\n")


def _show(repository: Path, tag: str, name: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(repository), "show", f"{tag}:{name}"], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout


if __name__ == "__main__":
    main()

"""Extract Slurm's words for the states of a job from a git copy of its sources.

    python tests/cluster/schedulers/extract_states.py REPOSITORY

REPOSITORY is a git directory, bare or not, with Slurm's release tags. For each release since 20.11 its newest tag is
read, and the words are written beside this file, as `recorded/<version>/states.json`:

- `base` and `flags`: what squeue, sacct and scontrol print, and the compact code of each if it has one. Flags are
  in the order in which Slurm looks at them: of several that are set, the first is shown, and the base state is not.
- `lists`: the words of each form that names the base state and all flags together: JSON by the version of its
  parser, and the list that Slurm's own code joins with commas.
- `silent`: bits of the state that have no word in any form.
- `no_state`: words for a number that is no state at all.

`tests/cluster/schedulers/test_vocabulary.py` holds this program's table against these files, which are never written
from it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

RELEASES = ("20.11", "21.08", "22.05", "23.02", "23.11", "24.05", "24.11", "25.05", "25.11", "26.05")
RECORDED = Path(__file__).parent / "recorded"

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def newest_tags(repository: Path) -> dict[str, str]:
    """The tag of the newest version of each release, by version (`22.05.11`)."""
    tags = re.findall(r"^slurm-(\d\d)-(\d\d)-(\d+)-(\d+)$", _git(repository, "tag"), re.MULTILINE)
    newest: dict[str, tuple[int, int]] = {}
    for year, month, patch, build in tags:
        release = f"{year}.{month}"
        newest[release] = max(newest.get(release, (0, 0)), (int(patch), int(build)))
    found = {}
    for release in RELEASES:
        patch, build = newest[release]
        found[f"{release}.{patch}"] = f"slurm-{release.replace('.', '-')}-{patch}-{build}"
    return found


def extract(repository: Path, tag: str) -> dict[str, Any]:
    """The words of one version. Raises `ValueError` for sources that are written in another way than expected."""
    names = _git(repository, "ls-tree", "-r", "--name-only", tag).splitlines()

    def source(name: str) -> str:
        return _COMMENT.sub("", _git(repository, "show", f"{tag}:{name}"))

    base, bits = _read_numbers(source(next(name for name in names if re.fullmatch(r"slurm/slurm\.h(\.in)?", name))))
    code = source("src/common/slurm_protocol_defs.c")
    words = _read_function(code, "job_state_string")
    codes = _read_function(code, "job_state_string_compact")
    joined = _read_function(code, "job_state_string_complete")
    parsers = {
        name.split("/")[3]: listed
        for name in names
        if re.fullmatch(r"src/plugins/data_parser/[^/]+/parsers\.c", name) and (listed := _read_parser(source(name)))
    }
    lists = {"joined": joined, **parsers}
    flags = [macro for macro in words if macro in bits]
    asked = set(re.findall(r"\b_job_name_test\((JOB_\w+),", code))
    named = {macro for form in lists.values() for macro in form}
    if set(words) - {"", *bits} != set(base) or set(flags) != asked or named - {"", *base, *bits, "JOB_END"}:
        raise ValueError(f"{tag}: the forms do not agree on what states there are")
    no_state = {form.get("") for form in (words, codes, joined)} | {form.get("JOB_END") for form in lists.values()}
    if "UNINITIALISED" in code:
        no_state.add("UNINITIALISED")
    return {
        "tag": tag,
        "base": {words[macro]: codes[macro] for macro in base},
        "flags": {words[macro]: codes.get(macro) for macro in flags},
        "lists": {
            form: [word for macro, word in found.items() if macro not in {"", "JOB_END"}]
            for form, found in lists.items()
        },
        "silent": [macro for macro in bits if macro not in words and macro not in named],
        "no_state": sorted(no_state - {None}),
    }


def _read_numbers(header: str) -> tuple[list[str], list[str]]:
    """The base states, and the bits of the flags, by their names in C."""
    enum = re.search(r"^enum job_states \{(.*?)\};", header, re.DOTALL | re.MULTILINE)
    if enum is None:
        raise ValueError("there is no enum job_states")
    base = re.findall(r"\bJOB_\w+", enum[1])
    if base.pop() != "JOB_END":
        raise ValueError("enum job_states does not end in JOB_END")
    # They stand between these two.
    between = header.split("JOB_STATE_FLAGS", 1)[1].split("READY_JOB_FATAL", 1)[0]
    return base, re.findall(r"^#define\s+(JOB_\w+)", between, re.MULTILINE)


def _read_function(code: str, name: str) -> dict[str, str]:
    """The word for each state in a function's own order; that for none of them under the empty name."""
    body = re.search(rf"^extern (?:const )?char \*{name}\(.*?^}}", code, re.DOTALL | re.MULTILINE)
    if body is None:
        raise ValueError(f"there is no function {name}")
    says = r'(?:return|xstrcat\(\w+,)\s*",?([A-Z_?]+)"'
    found = re.findall(rf"(?:\w+ & (JOB_\w+)\)|case (JOB_\w+):|default:)\s*{says}", body[0])
    if len(found) != len(re.findall(r'"[^"]+"', body[0])) - body[0].count("UNINITIALISED"):
        raise ValueError(f"{name} has words that this program does not see")
    return {flag or state: word for flag, state, word in found}


def _read_parser(code: str) -> dict[str, str]:
    """The words of JSON's lists; none if a parser has no list yet."""
    table = re.search(r"PARSER_FLAG_ARRAY\(JOB_STATE\)\[\] = \{(.*?)^\};", code, re.DOTALL | re.MULTILINE)
    rows = re.findall(r'^\s*add_flag\w*\((JOB_\w+),[^"]*"([^"]+)"', table[1], re.MULTILINE) if table else []
    if table is not None and len(rows) != table[1].count("add_flag"):
        raise ValueError("the parser's table has rows that this program does not see")
    return dict(rows)


def _git(repository: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(repository), *words], check=True, capture_output=True, text=True, errors="replace", timeout=60
    )
    return done.stdout


def main() -> None:
    """Write all of them."""
    repository = Path(sys.argv[1])
    for version, tag in newest_tags(repository).items():
        path = RECORDED / version / "states.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(extract(repository, tag), indent=1) + "\n")


if __name__ == "__main__":
    main()

"""This program's words for states against those of Slurm's own sources, version by version.

The words come from `extract_states.py`, which reads them out of Slurm's git repository, and never from `states.py`.
"""

from __future__ import annotations

import json
import subprocess
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

from slurm_adapter.core.observation import Observation
from slurm_adapter.core.states import BASE_STATES, ENDED, FLAGS, WAITING, JobState, canonical, interpret
from tests.cluster.schedulers.extract_states import RECORDED, RELEASES, extract, newest_tags

if TYPE_CHECKING:
    from pathlib import Path

VERSIONS = {path.parent.name: json.loads(path.read_text()) for path in sorted(RECORDED.glob("*/states.json"))}
LISTS = [(version, form) for version, told in VERSIONS.items() for form in told["lists"]]


def meaning(text: str, **values: Any) -> JobState | None:
    fields: dict[str, Any] = {"slurm_id": 1, "task": None, "name": "t", "user": "alice", "exit_code": 0}
    return interpret(Observation(state=text, **(fields | values))).state


def written(words: tuple[str, ...], form: str) -> str:
    return ",".join(words) if form == "joined" else json.dumps(words)


def test_every_release_was_read() -> None:
    assert [version.rpartition(".")[0] for version in VERSIONS] == list(RELEASES)
    assert all(len(told["base"]) >= 12 and len(told["flags"]) >= 12 for told in VERSIONS.values())


@pytest.mark.edge_case(13)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_word_in_every_form(version: str) -> None:
    told = VERSIONS[version]
    for word, code in (told["base"] | told["flags"]).items():
        lists = [f'["{word}"]', json.dumps(["PENDING", word])] if word in told["flags"] else [f'["{word}"]']
        forms = [word, word.lower(), f"{word}+", f"{word} by 1000", *lists, *([code, code.lower()] if code else [])]
        assert {form: canonical(form) for form in forms} == dict.fromkeys(forms, word)
        if code:
            assert meaning(code) is meaning(word)


@pytest.mark.parametrize("version", VERSIONS)
def test_base_states_flags_and_codes_are_slurms(version: str) -> None:
    told = VERSIONS[version]
    assert dict(BASE_STATES) == told["base"]
    # In Slurm's order too, which decides what is shown of several flags. One without a code is never shown by one.
    assert [word for word in FLAGS if word in told["flags"]] == list(told["flags"])
    assert {word: FLAGS[word] or None for word in told["flags"]} == told["flags"]


def test_the_table_has_no_word_of_its_own_and_no_code_means_two_things() -> None:
    assert set(FLAGS) == {word for told in VERSIONS.values() for word in told["flags"]}
    codes = [code for table in (BASE_STATES, FLAGS) for code in table.values() if code]
    assert len(codes) == len(set(codes))
    assert not set(codes) & {*BASE_STATES, *FLAGS}


@pytest.mark.edge_case(13)
@pytest.mark.parametrize(("version", "form"), LISTS)
def test_every_list_of_a_base_state_and_two_flags(version: str, form: str) -> None:
    told = VERSIONS[version]
    shown, listed = told["flags"], told["lists"][form]
    flags = [word for word in listed if word not in told["base"]]
    sets = [(), *((flag,) for flag in flags), *combinations(flags, 2)]
    for base in told["base"]:
        for words in sets:
            text = written((base, *words), form)
            # What squeue prints of the same job: the first flag that it looks at, and without one the base state.
            expected = next((flag for flag in shown if flag in words), base)
            assert canonical(text) == expected, text
            state = meaning(text)
            if state is not None and state.final:
                assert expected == base, text
                assert base in ENDED
            if state is JobState.SUCCESS:
                assert base in {"COMPLETED", "CANCELLED"}, text


@pytest.mark.parametrize(
    ("text", "word", "state"),
    [
        ('["COMPLETED","COMPLETING"]', "COMPLETING", JobState.RUNNING),
        ('["COMPLETED","STAGE_OUT"]', "STAGE_OUT", JobState.RUNNING),
        ('["COMPLETED","REQUEUED"]', "REQUEUED", JobState.IN_QUEUE),
        ('["FAILED","REQUEUED","COMPLETING"]', "COMPLETING", JobState.RUNNING),
        ('["FAILED","REQUEUED","EXPEDITING"]', "EXPEDITING", JobState.IN_QUEUE),
        ('["PENDING","EXPEDITING"]', "EXPEDITING", JobState.IN_QUEUE),
        ('["PENDING","REQUEUED"]', "REQUEUED", JobState.IN_QUEUE),
        ('["PENDING","SPECIAL_EXIT"]', "SPECIAL_EXIT", JobState.IN_QUEUE),
        ('["PENDING","LAUNCH_FAILED"]', "PENDING", JobState.IN_QUEUE),
        ('["PENDING","UPDATE_DB"]', "PENDING", JobState.IN_QUEUE),
        ('["PENDING","RECONFIG_FAIL"]', "PENDING", JobState.IN_QUEUE),
        ('["RUNNING","CONFIGURING","POWER_UP_NODE"]', "CONFIGURING", JobState.IN_QUEUE),
        ('["RUNNING","POWER_UP_NODE"]', "RUNNING", JobState.RUNNING),
        ('["RUNNING","SIGNALING"]', "SIGNALING", JobState.RUNNING),
        ('["RUNNING","STOPPED"]', "STOPPED", JobState.SUSPENDED),
        ('["CANCELLED","REVOKED"]', "REVOKED", None),
        ('["NODE_FAIL","UPDATE_DB"]', "NODE_FAIL", JobState.FAILURE),
        ("NODE_FAIL,COMPLETING,REQUEUED", "COMPLETING", JobState.RUNNING),
        ("PREEMPTED,COMPLETING", "COMPLETING", JobState.RUNNING),
    ],
)
def test_shapes_that_slurm_makes(text: str, word: str, state: JobState | None) -> None:
    assert (canonical(text), meaning(text)) == (word, state)


@pytest.mark.parametrize("word", sorted({word for told in VERSIONS.values() for word in told["no_state"]}))
def test_words_for_no_state_are_no_evidence(word: str) -> None:
    for text in (word, f'["{word}"]', f'["COMPLETED","{word}"]', f"{word},COMPLETING"):
        assert canonical(text) is None
        assert meaning(text) is None


def test_a_requeued_job_waits_under_every_word_that_slurm_has_for_it() -> None:
    flags = {word for told in VERSIONS.values() for word in told["flags"]}
    assert {word for word in flags if word.startswith("REQUEUE")} < WAITING
    assert {meaning(word) for word in WAITING} == {JobState.IN_QUEUE}


HEADER = """
enum job_states {
	JOB_PENDING,		/* a JOB_COMMENT */
	JOB_RUNNING,
	JOB_END			/* not a real state */
};
#define	JOB_STATE_FLAGS	  0xffffff00
#define JOB_QUIET         SLURM_BIT(8)
#define JOB_STOPPED       SLURM_BIT(9)
/* was JOB_OLD            SLURM_BIT(10) */
#define READY_JOB_FATAL	   -2
"""
CODE = """
extern char *job_state_string(uint32_t inx)
{
	if (inx & JOB_STOPPED)
		return "STOPPED";
	switch (inx & JOB_STATE_BASE) {
	case JOB_PENDING:
		return "PENDING";
	case JOB_RUNNING:
		return "RUNNING";
	default:
		return "?";
	}
}
extern char *job_state_string_compact(uint32_t inx)
{
	switch (inx & JOB_STATE_BASE) {
	case JOB_PENDING:
		return "PD";
	case JOB_RUNNING:
		return "R";
	default:
		return "?";
	}
}
extern char *job_state_string_complete(uint32_t state)
{
	switch (state & JOB_STATE_BASE) {
	case JOB_PENDING:
		xstrcat(state_str, "PENDING");
		break;
	case JOB_RUNNING:
		xstrcat(state_str, "RUNNING");
		break;
	}
	if (state & JOB_STOPPED)
		xstrcat(state_str, ",STOPPED");
}
extern uint32_t job_state_num(const char *state_name)
{
	if (_job_name_test(JOB_STOPPED, state_name))
		return JOB_STOPPED;
}
"""


def repository(folder: Path, code: str) -> Path:
    for name, text in (("slurm/slurm.h", HEADER), ("src/common/slurm_protocol_defs.c", code)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    author = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True, timeout=30)
    for release in RELEASES:
        for patch in ("9-1", "10-1", "10-2", "11-0rc1"):
            tag = f"slurm-{release.replace('.', '-')}-{patch}"
            subprocess.run(["git", "-C", str(folder), "tag", tag], check=True, timeout=30)
    return folder


def test_what_is_extracted(tmp_path: Path) -> None:
    folder = repository(tmp_path, CODE)
    assert newest_tags(folder)["26.05.10"] == "slurm-26-05-10-2"
    assert extract(folder, "slurm-26-05-10-2") == {
        "tag": "slurm-26-05-10-2",
        "base": {"PENDING": "PD", "RUNNING": "R"},
        "flags": {"STOPPED": None},
        "lists": {"joined": ["PENDING", "RUNNING", "STOPPED"]},
        "silent": ["JOB_QUIET"],
        "no_state": ["?"],
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('return "RUNNING";', 'return running ? "RUNNING" : "WALKING";'),
        ('return "RUNNING";', "return RUNNING;"),
        ("_job_name_test(JOB_STOPPED", "_job_name_test(JOB_QUIET"),
        ("job_state_string_compact", "job_state_short"),
    ],
)
def test_sources_that_are_written_in_another_way_are_refused(tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        extract(repository(tmp_path, CODE.replace(old, new)), "slurm-26-05-9-1")

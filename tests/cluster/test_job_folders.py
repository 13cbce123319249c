"""Job folders, made and read by the very commands that a cluster runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_adapter.cluster import job_folders
from slurm_adapter.cluster.job_folders import NewFolder
from slurm_adapter.cluster.transports.fake import FakeTransport
from slurm_adapter.cluster.transports.interface import Command, Result
from slurm_adapter.cluster.transports.local import LocalTransport
from slurm_adapter.core.errors import Unknown
from slurm_adapter.core.evidence import ExitRecord, FolderContents, read_exit, slurm_id
from slurm_adapter.translation.translate import File
from tests.offline import sudo_environment, tiny

__all__ = ["tiny"]

FILES = {
    "job.sbatch": File(b"#!/bin/bash\n\xff\n", 0o700),
    "node/peers": File(b"1 db\n", 0o600),
    "node/a name": File(b"", 0o600),
}
RECORD = {
    "format": 1, "job": "1", "slurm_id": 17, "restart": 0, "task": None, "exit_code": 3, "signal": None,
    "ended_at": 1790000000, "reason": None,
}  # fmt: skip


@pytest.fixture
def local(tmp_path: Path) -> LocalTransport:
    return LocalTransport(environment=sudo_environment(tmp_path))


TOKEN = "i-local-1"


def new(path: Path, token: str = TOKEN) -> NewFolder:
    return NewFolder(str(path), token, FILES)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


WHOLE = {name: (file.content, file.mode) for name, file in FILES.items()}


@pytest.mark.scenario(36)
def test_a_folder_is_made_whole_and_is_its_users_alone(local: LocalTransport, tmp_path: Path) -> None:
    names = ["1", "a b", "$(touch x)`'\"", "ü", "-x", "*"]
    assert job_folders.make(local, "alice", [new(tmp_path / name) for name in names]) == [None] * len(names)
    for name in names:
        assert contents(tmp_path / name) == WHOLE
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_made_is_reported_and_the_others_are_made(
    local: LocalTransport, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "full")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    paths = [tmp_path / name for name in ("none/1", "file", "full", "link", "dangling", "good")]
    answers = job_folders.make(local, "alice", [new(path) for path in paths])
    assert [answer is None for answer in answers] == [False] * 5 + [True]
    assert "No such file or directory" in (answers[0] or "")
    assert all("File exists" in (answer or "") for answer in answers[1:5])
    assert contents(tmp_path / "full") == {"x": (b"mine", 0o644)}
    assert not (tmp_path / "nowhere").exists()


def test_another_jobs_folder_is_refused_and_ones_own_is_made_again(local: LocalTransport, tmp_path: Path) -> None:
    folder = tmp_path / "1"
    assert job_folders.make(local, "alice", [new(folder)]) == [None]
    [answer] = job_folders.make(local, "alice", [new(folder, "other-local-1")])
    assert "File exists" in (answer or "")
    (folder / "job.sbatch").write_text("half")
    (folder / "owner").symlink_to("17")
    assert job_folders.make(local, "alice", [new(folder)]) == [None]
    assert contents(folder) == WHOLE
    assert (folder / "owner").readlink() == Path("17")


def test_an_attempt_interrupted_at_any_point_is_completed(local: LocalTransport, tmp_path: Path) -> None:
    # Everything that the attempt does to the folder, cut off after each step.
    steps = ("mkdir -m 700 1", "ln -s i-local-1 1/.token", "mkdir 1/node", "echo x >1/node/peers", "echo >1/job.sbatch")
    for count in range(len(steps) + 1):
        here = tmp_path / f"after-{count}"
        here.mkdir()
        for step in steps[:count]:
            subprocess.run(["sh", "-c", step], cwd=here, check=True, timeout=10)
        assert job_folders.make(local, "alice", [new(here / "1")]) == [None], f"after {steps[:count]}"
        assert contents(here / "1") == WHOLE


def test_nothing_is_left_in_the_temporary_folder(local: LocalTransport, tmp_path: Path) -> None:
    before = set(Path("/tmp").glob("ucloud.*"))
    job_folders.make(local, "alice", [new(tmp_path / "1")])
    job_folders.write_views(local, "alice", {str(tmp_path / "1"): "x"})
    assert set(Path("/tmp").glob("ucloud.*")) <= before


def test_after_a_full_disk_the_folder_can_be_made(local: LocalTransport, tiny: Path) -> None:
    (tiny / "ballast").write_bytes(b"x" * 200_000)
    big = NewFolder(str(tiny / "1"), "t", {"job.sbatch": File(b"x" * 150_000, 0o700)})
    [answer] = job_folders.make(local, "alice", [big])
    assert re.search(r"Wrote only .* \(\d+ KiB are free in ", answer or "")
    (tiny / "ballast").unlink()
    assert job_folders.make(local, "alice", [big]) == [None]
    assert contents(tiny / "1") == {"job.sbatch": (b"x" * 150_000, 0o700)}


def test_look(local: LocalTransport, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("whole", "none", "empty", "array", "bro ken")]
    for path in (paths[0], *paths[2:]):
        path.mkdir()
    (paths[0] / "owner").symlink_to("17")
    (paths[0] / ".sluid").symlink_to("sBAXM8PZHC9N00")
    (paths[0] / "exit.json").write_text(json.dumps(RECORD) + "\nmore")
    (paths[0] / "exit-0.json").symlink_to("nowhere")  # the first by name
    for task in ("1", "10"):
        (paths[3] / f"exit-{task}.json").write_text(json.dumps(RECORD | {"task": int(task)}))
    (paths[4] / "exit.json").write_bytes(b"\xff{")
    (paths[4] / "exit-1.json").mkdir()
    os.mkfifo(paths[4] / "exit-2.json")  # a process that opens it waits forever
    (paths[4] / "exit-3.json").symlink_to(paths[0] / "exit.json")
    os.mkfifo(paths[2] / "exit.json")
    (paths[4] / "owner").write_text("17")  # no link
    record = ExitRecord(slurm_id=17, restarts=0, task=None, exit_code=3, ended=1790000000.0, reason=None)
    tasks = {str(paths[3]): 2, str(paths[4]): 2}
    found = [each or FolderContents(False) for each in job_folders.look(local, "alice", list(map(str, paths)), tasks)]
    assert found[:3] == [
        FolderContents(True, "17", (record,), "sBAXM8PZHC9N00"),
        FolderContents(False),
        FolderContents(True),
    ]
    assert {each.task for each in found[3].exits} == {"1", "10"}
    assert found[4] == FolderContents(True)
    assert job_folders.look(local, "alice", []) == []


def test_what_a_look_reads_is_bounded_whatever_a_folder_holds(local: LocalTransport, tmp_path: Path) -> None:
    """20 000 hard links of one exit record took 38 s and 1.9 GB."""
    for name in ("single", "array", "lines", "other"):
        (tmp_path / name).mkdir()
    bomb = tmp_path / "bomb"
    bomb.write_text(json.dumps(RECORD | {"task": 1}) + "\n" * 10_000)
    for name in ("single", "array"):
        for number in range(2000):
            (tmp_path / name / f"exit-{number}.json").hardlink_to(bomb)
    (tmp_path / "lines" / "exit.json").write_text("{\n" * 10_000)
    with (tmp_path / "other" / "exit-1.json").open("wb") as sparse:
        sparse.truncate(2**40)
    (tmp_path / "other" / "exit-2.json").write_text(json.dumps(RECORD | {"task": 2}))
    os.mkfifo(tmp_path / "other" / "exit-4.json")
    (tmp_path / "other" / "exit-x\nexit-4.json").write_text("")
    paths = [str(tmp_path / name) for name in ("single", "array", "lines", "other")]
    sizes: list[int] = []

    def run(command: Command) -> Result:
        result = local.run(command)
        sizes.append(len(result.stdout))
        return result

    single, array, lines, other = job_folders.look(FakeTransport(run), "alice", paths, {paths[1]: 100, paths[3]: 9})
    assert (single, lines) == (FolderContents(True), FolderContents(True))
    assert array is not None
    assert (array.more, len(array.exits) <= 1) == (True, True)
    assert other is not None
    assert ([each.task for each in other.exits], other.more) == (["2"], False)
    assert sizes[0] < 101 * 1100


def test_the_total_of_a_look_is_bounded(local: LocalTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_folders, "MOST_EXITS", 3)
    for name in ("1", "2", "3"):
        (tmp_path / name).mkdir()
        for task in (1, 2):
            (tmp_path / name / f"exit-{task}.json").write_text(json.dumps(RECORD | {"task": task}))
    paths = [str(tmp_path / name) for name in ("1", "2", "3")]
    looked = job_folders.look(local, "alice", paths, dict.fromkeys(paths, 2))
    assert [(len(each.exits), each.more) for each in looked if each] == [(2, False), (1, True), (0, True)]


def test_a_removal_that_was_cut_short_is_finished(local: LocalTransport, tmp_path: Path) -> None:
    """Of a large folder the token may go first."""
    path = tmp_path / "1"
    assert job_folders.make(local, "alice", [new(path)]) == [None]
    path.rename(tmp_path / f".ucloud-gone.{new(path).slurm_name}")
    (tmp_path / f".ucloud-gone.{new(path).slurm_name}" / ".token").unlink()
    assert job_folders.make(local, "alice", [new(path)]) == [None]
    assert job_folders.remove(local, "alice", {str(path): new(path).slurm_name}) == frozenset()
    assert list(tmp_path.glob("*1*")) == []
    assert list(tmp_path.glob(".ucloud-gone*")) == []


@pytest.mark.parametrize(
    "forged",
    [
        "17\n1 owner 99",
        "17\n999 folder",
        "17\nend",
        "x\r1 owner 99",
        "x\x0b\x1c\x851 owner 9\u20281 exit {}",
        "é\n" * 9,
    ],
)
def test_a_user_cannot_speak_for_another_job_nor_break_the_answer(
    local: LocalTransport, tmp_path: Path, forged: str
) -> None:
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    (tmp_path / "1" / "owner").symlink_to(forged)
    (tmp_path / "1" / ".sluid").symlink_to(forged)
    (tmp_path / "1" / "exit.json").write_text(f"{{}}\n{forged}")
    (tmp_path / "2" / "owner").symlink_to("18")
    looked = job_folders.look(local, "alice", [str(tmp_path / name) for name in ("1", "2")])
    first, second = (each or FolderContents(False) for each in looked)
    assert slurm_id(first.owner) is None
    assert (first.exits, first.sluid, second) == ((), "", FolderContents(True, "18"))
    answers = job_folders.fence(local, "alice", {str(tmp_path / name): "19" for name in ("1", "2")})
    assert [slurm_id(answer) for answer in answers] == [None, 18]


_LINES = ["\n", "0 owner 9", "1 owner 9 7", "1 folder", "end", "1 exit {}", "==> ./exit-3.json <==", json.dumps(RECORD)]
_hostile = st.lists(st.sampled_from(_LINES) | st.text(max_size=6), max_size=6).map("".join)


@settings(max_examples=40, deadline=None)
@given(st.lists(_hostile, min_size=4, max_size=4))
def test_nothing_in_a_folder_says_anything_of_another(texts: list[str]) -> None:
    """Its user writes there what is wanted: links, names of files, and what is in them."""
    owner, sluid, name, content = (text.replace("\0", "").encode(errors="replace") for text in texts)
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder, "1"), Path(folder, "2")
        for path in (first, second):
            path.mkdir()
        (first / "owner").symlink_to(os.fsdecode(owner[:200] or b"x"))
        (first / ".sluid").symlink_to(os.fsdecode(sluid[:200] or b"x"))
        file = b"exit%b.json" % name.replace(b"/", b"_")[:200]
        (first / os.fsdecode(file)).write_bytes(content)
        (second / "owner").symlink_to("18")
        local = LocalTransport(environment=sudo_environment(Path(folder)))
        looked = job_folders.look(local, "alice", [str(first), str(second)])
        assert looked[1] == FolderContents(True, "18")
        assert looked[0] is not None
        assert looked[0].exists
        assert all(record.slurm_id == RECORD["slurm_id"] for record in looked[0].exits)


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        ("17", 17), ("4294967292", 4294967292), (None, None), ("", None), ("closed", None), ("cancelled", None),
        ("4294967293", None), ("0", None), ("-1", None), ("017", None), ("1" * 11, None), ("9" * 4000, None),
        ("\u0661\u0667", None),
        ("17 ", None),
    ],
)  # fmt: skip
def test_which_owners_are_slurm_ids(owner: str | None, expected: int | None) -> None:
    assert slurm_id(owner) == expected


def test_an_incomplete_answer_raises_unknown() -> None:
    for stdout in (b"", b"0 folder\n", b"0 folder\nen", b"0 folder\nend"):
        transport = FakeTransport(lambda _, stdout=stdout: Result(0, stdout, b""))  # type: ignore[misc]  # bound for this round
        with pytest.raises(Unknown, match="could not look into 1 job folders as alice: the answer breaks off"):
            job_folders.look(transport, "alice", ["/1"])
    with pytest.raises(Unknown, match="could not look into 1 job folders as alice: exit 3: why"):
        job_folders.look(FakeTransport(lambda _: Result(3, b"end\n", b"why\n")), "alice", ["/1"])
    with pytest.raises(Unknown, match="could not fence 1 jobs as alice: the answer has 0 lines"):
        job_folders.fence(FakeTransport(lambda _: Result(0, b"", b"")), "alice", {"/1": "1"})
    answers = job_folders.make(FakeTransport(lambda _: Result(0, b"0\tmade\n", b"")), "alice", [new(Path("/1"))] * 2)
    assert answers == [None, "no answer"]


def _say(stdout: bytes, status: int = 0) -> FakeTransport:
    return FakeTransport(lambda _: Result(status, stdout, b""))


_words = st.sampled_from(
    [
        b"0 folder\n",
        b"1 owner 17\n",
        b"0 exit {}\n",
        b"1 missing\n",
        b"end\n",
        b"9 folder\n",
        b"x owner\n",
        b"0\n",
        b"\n",
    ]
)
_answers = st.binary(max_size=80) | st.lists(_words | st.binary(max_size=8), max_size=8).map(b"".join)


@given(_answers)
def test_any_answer_of_a_look_gives_contents_or_unknown(answer: bytes) -> None:
    for stdout in (answer, answer + b"end\n"):
        try:
            found = job_folders.look(_say(stdout), "alice", ["/1", "/2"])
        except Unknown:
            continue
        assert len(found) == 2


@given(_answers)
def test_any_answer_of_a_fence_or_of_make_gives_a_result_or_unknown(answer: bytes) -> None:
    try:
        assert len(job_folders.fence(_say(answer), "alice", {"/1": "17", "/2": "18"})) == 2
    except Unknown:
        assert answer.count(b"\n") != 2
    assert len(job_folders.make(_say(answer), "alice", [new(Path("/1")), new(Path("/2"))])) == 2
    assert job_folders.write_views(_say(answer), "alice", {"/1": "x"}) <= {"/1"}


def test_a_line_about_another_folder_raises_unknown() -> None:
    for line in (b"2 folder\n", b"-1 folder\n", b"x folder\n", b"0\n", b"\n", b"0 owner\n", b"0 folder\n"):
        with pytest.raises(Unknown):
            job_folders.look(_say(b"0 folder\n" + line + b"end\n"), "alice", ["/1", "/2"])


def test_a_banner_before_the_answer_is_skipped() -> None:
    told = b"Welcome!\n\n7 users\n0 folder\n0 owner 17\n1 missing\nend\n"
    assert job_folders.look(_say(told), "alice", ["/1", "/2"]) == [FolderContents(True, "17"), FolderContents(False)]


@pytest.mark.edge_case(24)
def test_five_thousand_folders_are_looked_into_by_one_command(local: LocalTransport, tmp_path: Path) -> None:
    (tmp_path / "4999").mkdir()
    (tmp_path / "4999" / "owner").symlink_to("17")
    found = job_folders.look(local, "alice", [str(tmp_path / str(number)) for number in range(5000)])
    assert found == [FolderContents(False)] * 4999 + [FolderContents(True, "17")]


def test_what_has_not_begun_is_looked_into_and_closed_without_many_programs(
    local: LocalTransport, tmp_path: Path
) -> None:
    """A thousand jobs are on their way to Slurm, or end there before they began, and each program takes its time."""
    started = tmp_path / "started"
    for program in ("find", "head", "ln", "mv", "readlink", "rm", "sed", "tr"):
        wrapper = tmp_path / "bin" / program
        wrapper.write_text(f'#!/bin/sh\necho {program} >>{started}\nPATH=/usr/bin:/bin exec {program} "$@"\n')
        wrapper.chmod(0o755)
    for name in ("1", "2", "3"):
        (tmp_path / name).mkdir()
    paths = [str(tmp_path / name) for name in ("1", "2", "3")]
    assert job_folders.look(local, "alice", paths) == [FolderContents(True)] * 3
    assert not started.exists()
    job_folders.close(local, "alice", paths)
    assert started.read_text().split() == ["ln"] * 3
    started.unlink()
    assert job_folders.look(local, "alice", paths) == [FolderContents(True, "closed")] * 3
    assert started.read_text().split() == ["find"] * 3


def test_a_folder_named_like_the_fence_is_not_a_fence(local: LocalTransport, tmp_path: Path) -> None:
    (tmp_path / "1" / "owner").mkdir(parents=True)
    assert job_folders.fence(local, "alice", {str(tmp_path / "1"): "17"}) == [""]
    assert list((tmp_path / "1" / "owner").iterdir()) == []


def test_the_first_to_fence_wins(local: LocalTransport, tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    one, two, none = (str(tmp_path / name) for name in ("1", "2", "none"))
    assert job_folders.fence(local, "alice", {one: "17"}) == ["17"]
    (tmp_path / "1" / "17").mkdir()  # the link's target may be a folder by now
    assert job_folders.fence(local, "alice", {none: "9", one: "18", two: "cancelled"}) == ["", "17", "cancelled"]


def test_many_fence_at_once_and_one_wins(local: LocalTransport, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    script = 'ln -sn "$1" owner 2>/dev/null; readlink owner'
    racers = [
        subprocess.Popen(["sh", "-c", script, "sh", str(number)], cwd=tmp_path / "1", stdout=subprocess.PIPE)
        for number in range(1, 30)
    ]
    ours = job_folders.fence(local, "alice", {str(tmp_path / "1"): "99"})
    assert {process.communicate(timeout=30)[0].decode().strip() for process in racers} == set(ours)


def test_close_replaces_what_the_fence_named(local: LocalTransport, tmp_path: Path) -> None:
    for name in ("1", "2", "3"):
        (tmp_path / name).mkdir()
    (tmp_path / "1" / "owner").symlink_to("17")
    (tmp_path / "1" / ".closed").symlink_to("left by a sync that was killed")
    (tmp_path / "2" / ".closed").mkdir()
    job_folders.close(local, "alice", [str(tmp_path / name) for name in ("1", "none", "2", "3")])
    for name in ("1", "2", "3"):
        assert (tmp_path / name / "owner").readlink() == Path("closed")
        assert [path.name for path in (tmp_path / name).iterdir()] == ["owner"]


def test_a_folder_that_cannot_be_closed_is_reported_and_the_others_are_closed(
    local: LocalTransport, tmp_path: Path
) -> None:
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    (tmp_path / "1" / "owner").mkdir()
    left = job_folders.close(local, "alice", [str(tmp_path / name) for name in ("1", "2")])
    assert list(left) == [str(tmp_path / "1")]
    assert "directory" in left[str(tmp_path / "1")].lower()
    assert (tmp_path / "2" / "owner").readlink() == Path("closed")


def test_only_a_jobs_own_folder_is_removed(local: LocalTransport, tmp_path: Path) -> None:
    job_folders.make(local, "alice", [new(tmp_path / "1"), new(tmp_path / "2", "other"), new(tmp_path / "3")])
    job_folders.remove(local, "alice", {str(tmp_path / name): "i-local-1" for name in ("1", "2", "none")})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3", "bin"]


def test_views_are_renamed_into_their_folders(local: LocalTransport, tmp_path: Path) -> None:
    for name in ("1", "2", "3"):
        (tmp_path / name).mkdir()
    (tmp_path / "3" / "hosts").mkdir()
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "1" / ".hosts").symlink_to(tmp_path / "elsewhere")
    before = None
    for text in ("first\n", "second\n"):
        written = job_folders.write_views(
            local, "alice", {str(tmp_path / n): f"{text}{n}" for n in ("1", "none", "3", "2")}
        )
        assert written == {str(tmp_path / "1"), str(tmp_path / "2")}, "the folders that have it now"
        for name in ("1", "2"):
            path = tmp_path / name / "hosts"
            assert path.read_text() == f"{text}{name}"
            assert path.stat().st_mode & 0o777 == 0o600
        assert path.stat().st_ino != before, "a new file, renamed over the old"
        before = path.stat().st_ino
    assert (tmp_path / "elsewhere").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ExitRecord(17, 0, None, 3, 1790000000.0, None)),
        ({"task": 4, "restart": 2}, ExitRecord(17, 2, "4", 3, 1790000000.0, None)),
        ({"reason": " peer 1\n never\tstarted "}, ExitRecord(17, 0, None, 3, 1790000000.0, "peer 1 never started")),
        ({"sluid": "sB1"}, ExitRecord(17, 0, None, 3, 1790000000.0, None, "sB1")),
        ({"sluid": None}, ExitRecord(17, 0, None, 3, 1790000000.0, None)),
        ({"exit_code": 256 + 7}, ExitRecord(17, 0, None, 7, 1790000000.0, None)),
        ({"slurm_id": "x"}, None), ({"slurm_id": None}, None), ({"exit_code": []}, None), ({"ended_at": None}, None),
        ({"ended_at": 1e300}, None), ({"ended_at": -1}, None), ({"ended_at": float("nan")}, None),
        ({"ended_at": float("inf")}, None), ({"exit_code": float("inf")}, None),
    ],
)  # fmt: skip
def test_exit_records(change: dict[str, object], expected: ExitRecord | None) -> None:
    assert read_exit(json.dumps(RECORD | change)) == expected


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "3", '"x"', "{", "[" * 5000, "1" * 5000])
def test_files_that_are_not_exit_records(text: str) -> None:
    assert read_exit(text) is None


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=2)
)


@given(st.fixed_dictionaries(dict.fromkeys(RECORD, _json)))
def test_whatever_a_user_writes_there_is_a_record_or_none(content: dict[str, object]) -> None:
    record = read_exit(json.dumps(content))
    assert record is None or (0 <= record.exit_code <= 255 and 0 <= record.ended < 1e11)


SHARED = {"node/all.sh": File(b"#!/bin/sh\n", 0o700, shared=True), "job.sbatch": File(b"own", 0o700)}


def test_what_jobs_share_is_one_file_and_a_job_that_removes_it_takes_it_from_no_other(
    local: LocalTransport, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("1", "2", "3")]
    wanted = [NewFolder(str(path), path.name, SHARED) for path in paths]
    assert job_folders.make(local, "alice", wanted) == [None] * 3
    assert len({(path / "node/all.sh").stat().st_ino for path in paths}) == 1
    assert len({(path / "job.sbatch").stat().st_ino for path in paths}) == 3
    assert job_folders.remove(local, "alice", {str(paths[0]): "1"}) == frozenset()
    for path in paths[1:]:
        assert contents(path) == {name: (file.content, file.mode) for name, file in SHARED.items()}


def test_no_file_gets_more_names_than_file_systems_allow(
    local: LocalTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_folders, "_LINKS", 2)
    paths = [tmp_path / str(number) for number in range(5)]
    assert job_folders.make(local, "alice", [NewFolder(str(path), "t", SHARED) for path in paths]) == [None] * 5
    assert [(path / "node/all.sh").stat().st_nlink for path in paths] == [2, 2, 2, 2, 1]


def test_a_bulk_is_packed_and_arrives_as_it_was(tmp_path: Path) -> None:
    text = b"".join(b"%d\n" % number for number in range(100_000))
    wanted = [NewFolder(str(tmp_path / name), "t", {"job.sbatch": File(text, 0o700)}) for name in ("1", "2")]
    sent: list[int] = []

    class Counting(LocalTransport):
        def run(self, command: Command) -> Result:
            sent.append(len(command.stdin))
            return super().run(command)

    assert job_folders.make(Counting(environment=sudo_environment(tmp_path)), "alice", wanted) == [None] * 2
    assert all(contents(tmp_path / name) == {"job.sbatch": (text, 0o700)} for name in ("1", "2"))
    assert sum(sent) < len(text)


def test_on_a_file_system_without_hard_links_every_job_gets_files_of_its_own(tmp_path: Path) -> None:
    environment = sudo_environment(tmp_path)
    tar = tmp_path / "bin" / "tar"
    tar.write_text(
        '#!/bin/sh\ncat >"$0.data"\n'
        'if PATH=/usr/bin:/bin tar -t -v -f "$0.data" | grep -q "^h"; then\n'
        '    echo "tar: jobs/2/node/all.sh: Cannot hard link to jobs/1/node/all.sh: Operation not permitted" >&2\n'
        '    exit 2\nfi\nPATH=/usr/bin:/bin exec tar "$@" <"$0.data"\n'
    )
    tar.chmod(0o755)
    local = LocalTransport(environment=environment)
    paths = [tmp_path / name for name in ("1", "2", "3")]
    wanted = [NewFolder(str(path), path.name, SHARED) for path in paths]
    assert job_folders.make(local, "alice", wanted) == [None] * 3
    for path in paths:
        assert contents(path) == {name: (file.content, file.mode) for name, file in SHARED.items()}
        assert (path / "node/all.sh").stat().st_nlink == 1

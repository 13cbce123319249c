"""A job's output: byte for byte, in pieces, as it comes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.cluster.transports.fake import FakeTransport
from slurm_adapter.cluster.transports.interface import MEBIBYTE, ConnectionLost, Result
from slurm_adapter.core.errors import Unknown
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs import logs
from slurm_adapter.jobs.logs import Piece, labelled
from tests.offline import Offline, offline

if TYPE_CHECKING:
    from slurm_adapter.cluster.transports.interface import Command
    from slurm_adapter.core.records import Record

__all__ = ["offline"]


def write(record: Record, **files: bytes) -> None:
    for name, content in files.items():
        Path(record.folder, f"{name.replace('_', '-')}.txt").write_bytes(content)


def texts(site: Offline, record: Record) -> dict[tuple[int | None, bool], bytes]:
    """All output so far, put together."""
    found: dict[tuple[int | None, bool], bytes] = {}
    for piece in logs.read(site.site, record):
        found[piece.rank, piece.is_error] = found.get((piece.rank, piece.is_error), b"") + piece.data
    return found


@given(
    st.binary(max_size=80)
    | st.lists(st.sampled_from([b"stdout.txt 0 9 ", b"stderr-1.txt 5 6 ", b"eHg=", b"eA==", b"\n", b"x", b"="])).map(
        b"".join
    )
)
def test_no_answer_is_an_error_of_another_kind(stdout: bytes) -> None:
    record = SimpleNamespace(id="1", folder="/f", account="alice")
    site = SimpleNamespace(
        store=SimpleNamespace(get=lambda _: SimpleNamespace(state=JobState.SUCCESS)),
        transport=FakeTransport(lambda command: Result(0, stdout if len(command.argv) == 6 else b"", b"")),
    )
    with suppress(Unknown):
        found = list(logs.read(site, record))  # type: ignore[arg-type]  # all that it looks at
        assert sum(len(piece.data) for piece in found) <= len(stdout)


def test_a_banner_is_no_output_and_half_a_line_no_answer(offline: Offline) -> None:
    record = offline.job()
    write(record, stdout=b"hello")
    whole = offline.site.transport

    def told(before: bytes, cut: int) -> dict[tuple[int | None, bool], bytes]:
        def answer(command: Command) -> Result:
            result = whole.run(command)
            return replace(result, stdout=before + result.stdout[: len(result.stdout) - cut] if result.stdout else b"")

        offline.site.transport = FakeTransport(answer)
        return texts(offline, record)

    assert told(b"Welcome to login1\n7 users\n", 0) == {(None, False): b"hello"}
    with pytest.raises(Unknown, match="garbled"):
        told(b"", 2)


def test_output_is_read_byte_for_byte(offline: Offline) -> None:
    record = offline.job()
    assert texts(offline, record) == {}
    everything = bytes(range(256)) + b"stdout.txt 5\nno newline at the end"
    write(record, stdout=everything, stderr=b"\n\n", stdout_0=b"", stdout_1=b"one\n", stderr_12=b"\xff\n")
    assert texts(offline, record) == {
        (None, False): everything, (None, True): b"\n\n", (1, False): b"one\n", (12, True): b"\xff\n"
    }  # fmt: skip


def test_much_output_comes_in_pieces_and_none_is_lost(offline: Offline) -> None:
    record = offline.job()
    much = b"".join(b"%09d\n" % number for number in range(330_000))
    write(record, stdout=much, stderr=b"x" * (MEBIBYTE + 1))
    pieces = list(logs.read(offline.site, record))
    assert max(len(piece.data) for piece in pieces) == MEBIBYTE
    assert b"".join(piece.data for piece in pieces if not piece.is_error) == much
    assert sum(len(piece.data) for piece in pieces if piece.is_error) == MEBIBYTE + 1


def test_a_round_is_shared_by_all_files_that_have_news(offline: Offline) -> None:
    record = offline.job()
    for rank in range(20):
        write(record, **{f"stdout_{rank}": bytes([rank]) * 60_000})
    pieces = logs.read_round(offline.site, record, {})
    assert [len(piece.data) for piece in pieces] == [MEBIBYTE // 20] * 20
    assert all(piece.more for piece in pieces)
    assert texts(offline, record) == {(rank, False): bytes([rank]) * 60_000 for rank in range(20)}


def test_a_file_that_became_shorter_is_read_from_its_beginning(offline: Offline) -> None:
    record = offline.job()
    write(record, stdout=b"short\n")
    assert logs.read_round(offline.site, record, {"stdout.txt": 6}) == []
    assert logs.read_round(offline.site, record, {"stdout.txt": 7}) == [Piece(b"short\n", False, None, "stdout.txt")]
    write(record, stdout=b"")
    assert logs.read_round(offline.site, record, {"stdout.txt": 6}) == [Piece(b"", False, None, "stdout.txt")]
    assert texts(offline, record) == {}


def test_a_link_is_read_to_the_end_of_what_it_points_at(offline: Offline) -> None:
    record = offline.job()
    write(record, target=b"much longer than the name of the link\n")
    Path(record.folder, "stdout.txt").symlink_to("target.txt")
    assert texts(offline, record) == {(None, False): b"much longer than the name of the link\n"}
    Path(record.folder, "stderr.txt").symlink_to("nowhere")
    assert set(texts(offline, record)) == {(None, False)}


def test_files_that_a_job_has_named_so_are_its_own_affair(offline: Offline) -> None:
    record = offline.job()
    for name in ("stdout-x.txt", "stdout-1 2.txt", "stderr-\n3 4.txt", "stdout-é.txt", "stdout-1.txt.txt"):
        Path(record.folder, name).write_text("x")
    Path(record.folder, "stdout-5.txt").mkdir()
    write(record, stdout=b"good\n")
    assert texts(offline, record) == {(None, False): b"good\n"}


def test_following_ends_with_the_job_and_misses_nothing(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    record = offline.run(offline.job())
    write(record, stdout=b"one\n")
    steps = iter([b"two\n", b"three\n", b"last\n"])

    def meanwhile(_: float) -> None:
        text = next(steps)
        with Path(record.folder, "stdout.txt").open("ab") as file:
            file.write(text)
        if text == b"two\n":
            write(record, stdout_1=b"late\n")
        if text == b"last\n":
            offline.slurm.finish(1)
            offline.sync()

    monkeypatch.setattr(logs, "time", SimpleNamespace(sleep=meanwhile))
    pieces = list(logs.read(offline.site, record, follow=True))
    assert b"".join(piece.data for piece in pieces if piece.rank is None) == b"one\ntwo\nthree\nlast\n"
    assert [piece.data for piece in pieces if piece.rank == 1] == [b"late\n"]


def test_a_failure_is_told(offline: Offline) -> None:
    record = offline.job()

    def before(_: Command) -> None:
        raise ConnectionLost("gone")

    offline.transport.before = before
    with pytest.raises(Unknown, match="gone"):
        list(logs.read(offline.site, record))


def test_labels_stand_before_each_line_of_a_rank_whole_or_in_pieces() -> None:
    pieces = [
        Piece(b"plain\nplain", False, None), Piece(b"a\nb", False, 0), Piece(b"x\n", False, 1), Piece(b"c\n", False, 0),
        Piece(b"\nd\n", False, 0), Piece(b"e", True, 0), Piece(b"f\n", False, 0),
    ]  # fmt: skip
    assert [piece.data for piece in labelled(pieces)] == [
        b"plain\nplain", b"[0] a\n[0] b", b"[1] x\n", b"c\n", b"[0] \n[0] d\n", b"[0] e", b"[0] f\n"
    ]  # fmt: skip

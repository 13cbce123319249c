"""Archives are the same every time, and tar reads what was put into them."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.cluster.archive import SameAs, archive

if TYPE_CHECKING:
    from slurm_adapter.cluster.archive import Content


def test_an_archive_is_the_same_every_time() -> None:
    assert archive({"a": (b"x", 0o600)}) == archive({"a": (b"x", 0o600)})


@pytest.mark.parametrize("name", ["a", "ü" * 50, "ü" * 51, "x" * 99, "x" * 100, "x" * 101, f"{'d/' * 60}x", "\udcff"])
def test_an_archive_reads_as_it_was_meant(name: str) -> None:
    entries: dict[str, tuple[Content, int]] = {
        "first": (b"y" * 513, 0o700),
        f"{name}1": (b"", 0o600),
        f"{name}2": (b"z" * 512, 0o600),
        f"{name}3": (name, 0o777),
        f"{name}4": (None, 0o700),
        f"{name}5": (SameAs("first"), 0o700),
    }
    with tarfile.open(fileobj=io.BytesIO(archive(entries)), errors="surrogateescape") as tar:
        found = {info.name: (info, tar.extractfile(info) if info.isreg() else None) for info in tar}
        assert list(found) == list(entries)
        for key, (content, mode) in entries.items():
            info, file = found[key]
            read = {
                tarfile.REGTYPE: file and file.read(),
                tarfile.SYMTYPE: info.linkname,
                tarfile.DIRTYPE: None,
                tarfile.LNKTYPE: SameAs(info.linkname),
            }
            assert (read[info.type], info.mode) == (content, mode)

"""What all tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.offline import OPENED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# How long an example takes is the machine's affair.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

pytest_plugins = [
    "tests.adapter",
    "tests.crash.ground",
    "tests.node.folder",
    "tests.sandbox_cluster",
    "tests.translation.cases",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files instead of comparing")


@pytest.fixture(autouse=True)
def sites_are_closed() -> Iterator[None]:
    """Close the sites that a test opened: a database that is left open is a warning from Python 3.13 on."""
    before = len(OPENED)
    yield
    while len(OPENED) > before:
        OPENED.pop().close()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with the whole of a file in the folder `golden` beside the test."""

    def compare(name: str, text: str) -> None:
        path = request.path.parent / "golden" / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text.encode())
        assert path.is_file(), f"there is no {path}; look at the text, then write it with --update-golden"
        assert text == path.read_bytes().decode()

    return compare

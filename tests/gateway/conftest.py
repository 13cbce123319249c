"""What the tests of the gateway share."""

from __future__ import annotations

import pytest

from slurm_adapter.gateway.limits import Limits


@pytest.fixture
def limits() -> Limits:
    """The time limits of the served gateway. A test changes them with `tests.gateway.api_site.within`."""
    return Limits()

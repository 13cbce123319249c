"""Shares of a pool: no owner holds more than is fair, and what is given back can be had again."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.gateway.http.error_responses import headers_of, status_of
from slurm_adapter.gateway.shares import Shares, TooMany


def fill(shares: Shares, owner: str) -> int:
    """Take all that this owner gets; return how many."""
    while True:
        try:
            shares.acquire(owner)
        except TooMany:
            return shares.held(owner)


def test_one_owner_gets_half_of_it_and_no_more_than_the_limit() -> None:
    assert fill(Shares(100, 100, "shells"), "alice") == 50
    assert fill(Shares(100, 8, "shells"), "alice") == 8


def test_others_still_get_something() -> None:
    shares = Shares(100, 100, "shells")
    assert [fill(shares, user) for user in ("alice", "bob", "carol")] == [50, 25, 13]


def test_what_is_given_back_can_be_had_again() -> None:
    shares = Shares(2, 1, "shells")
    with shares.hold("alice"), pytest.raises(TooMany, match="alice has 1 shells, the most that one user may have"):
        shares.acquire("alice")
    with shares.hold("alice"), shares.hold("bob"), pytest.raises(TooMany, match="all 2 shells are in use"):
        shares.acquire("carol")
    assert shares.used == 0


def test_a_share_comes_back_from_a_block_that_fails() -> None:
    shares = Shares(2, 1, "shells")
    with pytest.raises(RuntimeError), shares.hold("alice"):
        raise RuntimeError
    assert (shares.used, shares.held("alice")) == (0, 0)


def test_a_name_cannot_shape_the_message() -> None:
    with pytest.raises(TooMany) as refused:
        Shares(0, 1, "shells").acquire("a\nb" * 1000)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200


def test_users_are_answered_429_and_ucloud_503_which_it_repeats() -> None:
    error = TooMany("x")
    assert status_of(error, "/api/jobs") is HTTPStatus.TOO_MANY_REQUESTS
    assert status_of(error, "/ucloud/example/jobs") is HTTPStatus.SERVICE_UNAVAILABLE
    assert headers_of(error) == {"Retry-After": "5"}


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans())))
def test_nobody_holds_more_than_is_there(steps: list[tuple[str, bool]]) -> None:
    shares = Shares(6, 4, "threads")
    for owner, more in steps:
        if not more and shares.held(owner):
            shares.release(owner)
        elif more:
            free = shares.total - shares.used
            try:
                shares.acquire(owner)
            except TooMany:
                assert shares.held(owner) >= min(free, shares.per_owner)
    assert 0 <= shares.used == sum(map(shares.held, "abcdefgh")) <= shares.total

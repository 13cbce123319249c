"""Users' own tokens: shown once, kept as digests, good for one user and his workspaces until they end."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_adapter.core.errors import Forbidden, InvalidInput, NotAuthenticated, NotFound
from slurm_adapter.core.records import Token
from slurm_adapter.core.specification import Owner
from slurm_adapter.gateway.authentication import Person, authenticate, person
from slurm_adapter.jobs import user_tokens
from slurm_adapter.state.store import Store
from tests.cli.test_cli import run
from tests.offline import Offline, offline

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

__all__ = ["offline", "run"]


def ask(offline: Offline, text: str | None, project: str | None = None) -> Owner:
    """Whom a request with this token is taken for."""
    header = None if text is None else f"Bearer {text}"
    return authenticate(offline.site.store, header, project, offline.site.clock())


def test_a_token_stands_for_its_user_in_its_workspaces(offline: Offline) -> None:
    text = user_tokens.create(offline.site, "laptop", "alice", ["p1", "p2", "p1"])
    assert ask(offline, text) == Owner(created_by="alice", project=None)
    assert ask(offline, text, "") == Owner(created_by="alice", project=None)
    assert ask(offline, text, "p2") == Owner(created_by="alice", project="p2")
    for other in ("p3", "p", "P1", "p1,p2", " p1", "None"):
        with pytest.raises(Forbidden, match="not for this project"):
            ask(offline, text, other)
    found = person(offline.site.store, f"Bearer {text}", 0.0)
    assert found == Person("alice", ("p1", "p2"))
    assert text not in repr(found)


def test_two_tokens_are_never_the_same_and_look_like_what_scanners_know(offline: Offline) -> None:
    made = {user_tokens.create(offline.site, f"t{number}", "alice") for number in range(20)}
    assert len(made) == 20
    assert all(re.fullmatch(r"sla_[A-Za-z0-9_-]{43}", text) for text in made)


def test_a_token_ends_at_its_time(offline: Offline) -> None:
    text = user_tokens.create(offline.site, "short", "alice", lifetime=60)
    offline.slurm.now += 59
    assert ask(offline, text).created_by == "alice"
    offline.slurm.now += 1
    with pytest.raises(NotAuthenticated, match="'short' has expired"):
        ask(offline, text)


def test_a_revoked_token_opens_nothing_and_its_name_is_free(offline: Offline) -> None:
    text = user_tokens.create(offline.site, "laptop", "alice")
    with Store(offline.config.state_dir) as elsewhere:  # as another process has it, while `serve` runs
        assert elsewhere.revoke_token("laptop").user == "alice"
        with pytest.raises(NotFound, match="no token 'laptop'"):
            elsewhere.revoke_token("laptop")
    with pytest.raises(NotAuthenticated, match="unknown or revoked"):
        ask(offline, text)
    again = user_tokens.create(offline.site, "laptop", "bob")
    assert ask(offline, again).created_by == "bob"
    with pytest.raises(NotAuthenticated):
        ask(offline, text)


@pytest.mark.parametrize("text", [None, "", "sla_", "Basic x", "laptop", user_tokens.digest("sla_x")])
def test_nothing_else_opens_the_door(offline: Offline, text: str | None) -> None:
    made = user_tokens.create(offline.site, "laptop", "alice")
    with pytest.raises(NotAuthenticated):
        ask(offline, text)
    for near in (
        made[:-1],
        made + "A",
        made.swapcase(),
        made.removeprefix("sla_"),
        user_tokens.digest(made),
        f"{made} x",
    ):
        with pytest.raises(NotAuthenticated):
            ask(offline, near)
    with pytest.raises(NotAuthenticated):
        authenticate(offline.site.store, made, None, 0.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Store(tmp_path_factory.mktemp("tokens") / "state") as opened:
        opened.add_token(Token("one", "alice", (), 0.0, None), user_tokens.digest("sla_one"))
        yield opened


@given(st.text())
def test_garbage_never_does_anything_but_stay_outside(store: Store, header: str) -> None:
    for each in (header, f"Bearer {header}"):
        with pytest.raises(NotAuthenticated):
            authenticate(store, each, None, 0.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"user": "mallory"}, r"'mallory' has no account on this cluster; the site lists users in \[identity\.users\]"),
        ({"user": ""}, r"owner\.createdBy"),
        ({"user": "a\nb"}, r"owner\.createdBy"),
        ({"projects": [""]}, "--project: is empty"),
        ({"projects": ["p", "a\0b"]}, r"owner\.project"),
        ({"lifetime": 0}, "expire at once"),
        ({"lifetime": -5}, "expire at once"),
        ({"name": ""}, "its name is"),
        ({"name": "a b"}, "its name is"),
        ({"name": "x" * 65}, "its name is"),
        ({"name": "taken"}, "slurm-adapter token revoke taken"),
    ],
)
def test_what_no_token_is_made_for(offline: Offline, given: dict[str, Any], said: str) -> None:
    user_tokens.create(offline.site, "taken", "bob")
    with pytest.raises(InvalidInput, match=said):
        user_tokens.create(offline.site, **({"name": "laptop", "user": "alice"} | given))
    assert [token.name for token in offline.site.store.tokens()] == ["taken"]


def made(result: Result) -> str:
    """The token of `token create`: all of stdout, and in no other place."""
    assert result.exit_code == 0
    [text] = result.stdout.splitlines()
    assert text.startswith("sla_")
    assert text not in result.stderr
    return text


def test_the_life_of_a_token_on_the_command_line(run: Callable[..., Result], offline: Offline) -> None:
    assert (run("token", "list").stderr, run("token", "list", "--json").stdout) == ("no access tokens\n", "[]\n")
    first = made(run("token", "create", "b", "--user", "alice", "--project", "p1", "--project", "p2"))
    second = made(run("token", "create", "a", "--user", "bob", "--expires", "30-00:00:00"))
    assert ask(offline, first, "p2").project == "p2"
    assert ask(offline, second).created_by == "bob"
    now = offline.site.clock()
    assert json.loads(run("token", "list", "--json").stdout) == [
        {"name": "a", "user": "bob", "projects": [], "created": now, "expires": now + 30 * 86400},
        {"name": "b", "user": "alice", "projects": ["p1", "p2"], "created": now, "expires": None},
    ]
    header, *rows = run("token", "list").stdout.splitlines()
    assert header.split() == ["NAME", "USER", "PROJECTS", "CREATED", "EXPIRES"]
    assert [row.split()[:2] for row in rows] == [["a", "bob"], ["b", "alice"]]
    assert rows[1].endswith("  never")
    offline.slurm.now += 30 * 86400
    assert run("token", "list").stdout.splitlines()[1].endswith("(expired)")
    result = run("token", "revoke", "b")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "access token b of alice is revoked\n")
    with pytest.raises(NotAuthenticated):
        ask(offline, first)
    assert run("token", "revoke", "b").exit_code == 1
    assert run("token", "create", "a", "--user", "bob").exit_code == 65
    assert run("token", "create", "c", "--user", "mallory").exit_code == 65
    assert run("token", "create", "c", "--user", "bob", "--expires", "90").exit_code == 2
    assert run("token", "create", "c").exit_code == 2


def test_it_says_so_where_the_door_is_shut(run: Callable[..., Result], offline: Offline, tmp_path: Path) -> None:
    assert "stand_alone" not in run("token", "create", "a", "--user", "alice").stderr
    shut = Offline(tmp_path, {"gateway": {"stand_alone": False}})
    offline.config = shut.config
    result = run("token", "create", "b", "--user", "alice")
    assert "valid for /docs and /metrics only, because gateway.stand_alone is false" in result.stderr
    made(result)


@pytest.mark.scenario(91)
def test_a_token_is_kept_nowhere_in_clear(
    run: Callable[..., Result], offline: Offline, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    text = made(run("token", "create", "a", "--user", "alice"))
    ask(offline, text)
    said = [run(*words).output for words in (["token", "list"], ["token", "list", "--json"], ["check"], ["sync"])]
    files = [path for path in offline.folder.rglob("*") if path.is_file()]
    assert any(user_tokens.digest(text).encode() in path.read_bytes() for path in files)
    said += [
        run("token", "revoke", "a").output,
        caplog.text,
        repr(offline.site.store.token_of(user_tokens.digest(text))),
    ]
    for secret in (text, text.removeprefix("sla_")):
        assert not [each for each in said if secret in each]
        assert not [
            path for path in offline.folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()
        ]

"""Access tokens of users."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import InvalidInput, NotFound
from slurm_adapter.core.records import Token
from slurm_adapter.state.database import Database, translate_errors

if TYPE_CHECKING:
    import sqlite3


class Tokens(Database):
    """The access tokens in the database: digests, never the tokens themselves."""

    def add_token(self, token: Token, digest: str) -> None:
        """Store a token by its digest. Raises `InvalidInput` if its name is taken."""
        with self._transaction() as connection:
            if connection.execute("SELECT 1 FROM tokens WHERE name = ?", (token.name,)).fetchone():
                raise InvalidInput(
                    f"there is a token {token.name} already; take another name, or revoke that one first "
                    f"(`slurm-adapter token revoke {token.name}`)"
                )
            projects = json.dumps(token.projects)
            connection.execute(
                "INSERT INTO tokens (name, digest, user, projects, created, expires) VALUES (?, ?, ?, ?, ?, ?)",
                (token.name, digest, token.user, projects, token.created, token.expires),
            )

    def tokens(self) -> list[Token]:
        """Return all tokens, by name, including expired ones."""
        with translate_errors(self._path):
            rows = self._connection.execute("SELECT * FROM tokens ORDER BY name").fetchall()
        return [_token(row) for row in rows]

    def token_of(self, digest: str) -> Token | None:
        """Return the token with this digest, expired or not; None if it is unknown or was revoked."""
        with translate_errors(self._path):
            row = self._connection.execute("SELECT * FROM tokens WHERE digest = ?", (digest,)).fetchone()
        return _token(row) if row else None

    def revoke_token(self, name: str) -> Token:
        """Remove a token: it opens nothing from now on. Raises `NotFound`."""
        with self._transaction() as connection:
            rows = connection.execute("DELETE FROM tokens WHERE name = ? RETURNING *", (name,)).fetchall()
        if not rows:
            raise NotFound(f"there is no token {name!r}; `slurm-adapter token list` shows those that there are")
        return _token(rows[0])


def _token(row: sqlite3.Row) -> Token:
    return Token(row["name"], row["user"], tuple(json.loads(row["projects"])), row["created"], row["expires"])

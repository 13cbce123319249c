"""Version of the hosts files' contents: whether they must be written again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.state.database import Database

if TYPE_CHECKING:
    import sqlite3

_CHANGED, _WRITTEN = "hosts changed", "hosts written"
"""Facts: the version that the hosts files must have, and the version that they have."""


class HostsVersion(Database):
    """The versions in the database."""

    def hosts_version(self) -> str:
        """Return the version of the contents that the hosts files must have."""
        return self.fact(_CHANGED) or "0"

    def hosts_are_written(self) -> bool:
        """Return whether the hosts files have these contents; if not, the next sync writes them."""
        return self.fact(_WRITTEN) == self.hosts_version()

    def note_hosts_written(self, version: str) -> None:
        """Note that the hosts files have the contents of this version, which was read before they were made."""
        self.set_fact(_WRITTEN, version)


def note_hosts_change(connection: sqlite3.Connection) -> None:
    """Count the version up, in the transaction of the change, so that no crash can come between."""
    connection.execute(
        "INSERT INTO facts VALUES (?, '1') ON CONFLICT (name) DO UPDATE SET value = CAST(value AS INTEGER) + 1",
        (_CHANGED,),
    )

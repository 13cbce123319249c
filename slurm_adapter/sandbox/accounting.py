"""slurmdbd and MariaDB on the login node, connected by a Unix socket."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import Refused
from slurm_adapter.sandbox import settings
from slurm_adapter.sandbox.layout import CLUSTER_NAME, DATABASE_ACCOUNT, JOB_ACCOUNTS, SLURM_ACCOUNT
from slurm_adapter.sandbox.processes import end, on_node, run_on, start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slurm_adapter.sandbox.layout import Layout


def start_accounting(layout: Layout, say: Callable[[str], None]) -> None:
    """Start MariaDB and slurmdbd if they are not running. Create the database if it is missing. Raises `Refused`."""
    login = layout.login
    if not on_node(login, "mariadbd"):
        options = layout.slurm / "mariadb.cnf"
        options.write_text(settings.mariadb_cnf(layout), encoding="utf-8")
        data = layout.spool / "mysql"
        made = data / "made"
        if not made.exists():
            say("creating the accounting database")
            _make_database(layout, options, data)
            made.touch()
        layout.database_socket.unlink(missing_ok=True)
        command = ["setsid", "--fork", "mariadbd", f"--defaults-file={options}"]
        start(login, command, user=DATABASE_ACCOUNT, log="mariadbd")
    # slurmdbd would make the database, but libmariadb 3.4.10 breaks a connection on which it was unknown.
    database = "CREATE DATABASE IF NOT EXISTS slurm_acct_db"
    _wait("mariadbd", lambda: _sql(layout, database))
    _sql(layout, f"CREATE USER IF NOT EXISTS '{SLURM_ACCOUNT.name}'@'localhost' IDENTIFIED VIA unix_socket")
    _sql(layout, f"GRANT ALL ON slurm_acct_db.* TO '{SLURM_ACCOUNT.name}'@'localhost'")
    if not on_node(login, "slurmdbd"):
        say("starting slurmdbd")
        conf = layout.slurm / "slurmdbd.conf"
        conf.touch(mode=0o600)
        os.chown(conf, SLURM_ACCOUNT.uid, SLURM_ACCOUNT.uid)
        conf.chmod(0o600)
        conf.write_text(settings.slurmdbd_conf(layout), encoding="utf-8")
        socket = f"MYSQL_UNIX_PORT={layout.database_socket}"
        start(login, ["slurmdbd"], user=SLURM_ACCOUNT, environment=[socket], log="slurmdbd")
    _wait("slurmdbd", lambda: _sacctmgr(layout, "show", "cluster") is not None)


def stop_accounting(layout: Layout) -> None:
    """Stop slurmdbd and MariaDB. The database is shut down cleanly, so that it needs no recovery."""
    end(on_node(layout.login, "slurmdbd"))
    server = on_node(layout.login, "mariadbd")
    if server:
        _admin_shutdown(layout)
        end(server)


def register(layout: Layout) -> None:
    """Add the cluster and its users to slurmdbd. Safe to repeat."""
    account = "research"
    if CLUSTER_NAME not in (_sacctmgr(layout, "show", "cluster", "format=Cluster") or ""):
        _sacctmgr(layout, "add", "cluster", CLUSTER_NAME)
    _sacctmgr(
        layout, "add", "account", account, f"cluster={CLUSTER_NAME}", "description=sandbox", "organization=sandbox"
    )
    names = ",".join(user.name for user in JOB_ACCOUNTS)
    _sacctmgr(layout, "add", "user", names, f"account={account}", f"cluster={CLUSTER_NAME}")
    known = _sacctmgr(layout, "show", "user", "format=User") or ""
    if missing := {user.name for user in JOB_ACCOUNTS} - set(known.split()):
        raise Refused(f"slurmdbd did not add the users {', '.join(sorted(missing))}: see slurmdbd's log")


def _make_database(layout: Layout, options: Path, data: Path) -> None:
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    os.chown(data, DATABASE_ACCOUNT.uid, DATABASE_ACCOUNT.uid)
    done = run_on(
        layout.login,
        [
            "mariadb-install-db",
            f"--defaults-file={options}",
            f"--datadir={data}",
            "--skip-test-db",
            "--auth-root-authentication-method=socket",
            "--skip-name-resolve",
        ],
        user=DATABASE_ACCOUNT.name,
        timeout=120,
    )
    if done.returncode:
        words = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-2:]
        raise Refused(f"mariadb-install-db failed: {' / '.join(words)}")


def _sql(layout: Layout, statement: str) -> bool:
    client = ["mariadb", "--no-defaults", f"--socket={layout.database_socket}", "-e", statement]
    return run_on(layout.login, client, timeout=20).returncode == 0


def _admin_shutdown(layout: Layout) -> None:
    run_on(
        layout.login, ["mariadb-admin", "--no-defaults", f"--socket={layout.database_socket}", "shutdown"], timeout=30
    )


def _sacctmgr(layout: Layout, *words: str) -> str | None:
    """Return the output of sacctmgr, or None if it fails. Adding what exists already fails, too."""
    done = run_on(layout.login, ["sacctmgr", "-i", "-n", *words], timeout=30)
    return None if done.returncode else done.stdout.decode(errors="replace")


def _wait(name: str, ready: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not ready():
        if time.monotonic() > limit:
            raise Refused(f"{name} did not answer within 30 s: see its log")
        time.sleep(0.1)

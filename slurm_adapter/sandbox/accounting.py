"""slurmdbd over MariaDB on the login node, on a socket of their own."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

from slurm_adapter.errors import Refused
from slurm_adapter.sandbox import settings
from slurm_adapter.sandbox.layout import (
    CLUSTER_NAME,
    DATABASE_ACCOUNT,
    DATABASE_SOCKET,
    JOB_ACCOUNTS,
    LOGIN,
    SLURM,
    SLURM_ACCOUNT,
    SPOOL,
)
from slurm_adapter.sandbox.processes import end, on_node, run_on, start

if TYPE_CHECKING:
    from collections.abc import Callable

_OPTIONS = SLURM / "mariadb.cnf"
_DATA = SPOOL / "mysql"


def start_accounting(say: Callable[[str], None]) -> None:
    """Start what is not running, the database made first where there is none. Raises `Refused`."""
    if not on_node(LOGIN, "mariadbd"):
        _OPTIONS.write_text(settings.mariadb_cnf(), encoding="utf-8")
        made = _DATA / "made"
        if not made.exists():
            say("making the accounting database")
            _make_database()
            made.touch()
        DATABASE_SOCKET.unlink(missing_ok=True)
        start(
            LOGIN,
            ["setsid", "--fork", "mariadbd", f"--defaults-file={_OPTIONS}"],
            user=DATABASE_ACCOUNT,
            log="mariadbd",
        )
    _wait("mariadbd", lambda: _sql("SELECT 1"))
    _sql(f"CREATE USER IF NOT EXISTS '{SLURM_ACCOUNT.name}'@'localhost' IDENTIFIED VIA unix_socket")
    _sql(f"GRANT ALL ON slurm_acct_db.* TO '{SLURM_ACCOUNT.name}'@'localhost'")
    if not on_node(LOGIN, "slurmdbd"):
        say("starting slurmdbd")
        conf = SLURM / "slurmdbd.conf"
        conf.touch(mode=0o600)
        os.chown(conf, SLURM_ACCOUNT.uid, SLURM_ACCOUNT.uid)
        conf.chmod(0o600)
        conf.write_text(settings.slurmdbd_conf(), encoding="utf-8")
        start(
            LOGIN, ["slurmdbd"], user=SLURM_ACCOUNT, environment=[f"MYSQL_UNIX_PORT={DATABASE_SOCKET}"], log="slurmdbd"
        )
    _wait("slurmdbd", lambda: _sacctmgr("show", "cluster") is not None)


def stop_accounting() -> None:
    """Stop both, the database so that it need not repair itself."""
    end(on_node(LOGIN, "slurmdbd"))
    server = on_node(LOGIN, "mariadbd")
    if server:
        _admin_shutdown()
        end(server)


def register() -> None:
    """Make the cluster and its users known to slurmdbd. Safe to repeat."""
    account = "research"
    if CLUSTER_NAME not in (_sacctmgr("show", "cluster", "format=Cluster") or ""):
        _sacctmgr("add", "cluster", CLUSTER_NAME)
    _sacctmgr("add", "account", account, f"cluster={CLUSTER_NAME}", "description=sandbox", "organization=sandbox")
    names = ",".join(user.name for user in JOB_ACCOUNTS)
    _sacctmgr("add", "user", names, f"account={account}", f"cluster={CLUSTER_NAME}")
    known = _sacctmgr("show", "user", "format=User") or ""
    if missing := {user.name for user in JOB_ACCOUNTS} - set(known.split()):
        raise Refused(f"slurmdbd did not take the users {', '.join(sorted(missing))}: see slurmdbd's log")


def _make_database() -> None:
    shutil.rmtree(_DATA, ignore_errors=True)
    _DATA.mkdir(mode=0o700)
    os.chown(_DATA, DATABASE_ACCOUNT.uid, DATABASE_ACCOUNT.uid)
    done = run_on(
        LOGIN,
        [
            "mariadb-install-db",
            f"--defaults-file={_OPTIONS}",
            f"--datadir={_DATA}",
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


def _sql(statement: str) -> bool:
    client = ["mariadb", "--no-defaults", f"--socket={DATABASE_SOCKET}", "-e", statement]
    return run_on(LOGIN, client, timeout=20).returncode == 0


def _admin_shutdown() -> None:
    run_on(LOGIN, ["mariadb-admin", "--no-defaults", f"--socket={DATABASE_SOCKET}", "shutdown"], timeout=30)


def _sacctmgr(*words: str) -> str | None:
    """What sacctmgr prints, or None where it fails. An addition of what is there already fails too."""
    done = run_on(LOGIN, ["sacctmgr", "-i", "-n", *words], timeout=30)
    return None if done.returncode else done.stdout.decode(errors="replace")


def _wait(name: str, ready: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not ready():
        if time.monotonic() > limit:
            raise Refused(f"{name} does not answer after 30 s: see its log")
        time.sleep(0.1)

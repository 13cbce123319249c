"""Check the accounts that run jobs, and the folders for jobs and hosts files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.cli.check.findings import Finding, Level, reached
from slurm_adapter.cluster import peer_files
from slurm_adapter.cluster.account_policy import MUNGE, ask_uids
from slurm_adapter.cluster.transports.interface import Command
from slurm_adapter.core.errors import AdapterError, InvalidInput
from slurm_adapter.core.specification import Owner

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from slurm_adapter.adapter import Adapter


_FOLDER = r"""
parent=$1
[ -d "$parent/" ] || { echo "does not exist"; exit; }
cd -P -- "$parent" 2>/dev/null || { echo "cannot be entered"; exit; }
[ -O . ] || { echo "belongs to $(stat -c %U .)"; exit; }
[ -w . ] || { echo "cannot be written"; exit; }
case $(stat -c %A .) in ????????w?) echo "can be written by everybody"; exit ;; esac
echo good
"""

_SHARED = r"""
[ -d "$1/" ] || { echo "does not exist"; exit; }
cd -P -- "$1" 2>/dev/null || { echo "cannot be entered"; exit; }
[ -O . ] || { echo "belongs to $(stat -c %U .)"; exit; }
case $(stat -c %A .) in ???????r?x*) ;; *) echo "has the mode $(stat -c %a .)"; exit ;; esac
echo good
"""


USER_SCRIPTS = {"check_folder": _FOLDER}
"""Scripts that run as the account of a user, by name; see `slurm_adapter.cli.sudo_helper`."""


def find_accounts(adapter: Adapter, usable: dict[str, str]) -> Iterator[Finding]:
    """Add the accounts that can run jobs to `usable`, sorted, each with Slurm's name for it. Report all others."""
    keys = _keys(adapter)
    own, uids = ask_uids(adapter.transport, [MUNGE, *keys])
    uid_of = dict(zip((MUNGE, *keys), uids, strict=True))
    for account, key in sorted(keys.items()):
        named = f'{".".join(key)} = "{account}"'
        uid = uid_of[account]
        if uid is None:
            yield Finding(
                Level.PROBLEM,
                f"{named}: the cluster has no account {account!r} (`getent passwd {account}`); write the account of "
                "this user on the cluster",
                key,
            )
        elif why := adapter.account_policy.judge(uid, own, uid_of[MUNGE]):
            yield Finding(Level.PROBLEM, f"{named}: this account may not run jobs: {why}; or use another account", key)
        else:
            try:
                name = adapter.transport.run(Command(("id", "-un"), user=account)).text.strip()
            except AdapterError as error:
                yield Finding(Level.PROBLEM, f"{named}: commands cannot be run as {account}: {error}", key)
                continue
            usable[account] = name
            if name != account:
                yield Finding(
                    Level.NOTE,
                    f"{named}: `id -un` and Slurm call this account {name!r}; accounts are compared by uid ({uid})",
                    key,
                )


def _keys(adapter: Adapter) -> Mapping[str, tuple[str, ...]]:
    """Return the first configuration key that names each account."""
    identity = adapter.config.identity
    if identity.service_user is not None:
        return {identity.service_user: ("identity", "service_user")}
    return {account: ("identity", "users", user) for user, account in reversed(identity.users.items())}


def check_accounts(adapter: Adapter, accounts: list[str]) -> Iterator[Finding]:
    """Check that job folders can be created, and report users who share an account."""
    identity = adapter.config.identity
    if identity.mode == "service":
        yield Finding(
            Level.NOTE,
            f"single tenant: every job runs as {identity.service_user}, and can read and cancel all other jobs",
        )
    elif not identity.users:
        yield Finding(Level.NOTE, "[identity.users] lists no accounts; identity.pattern cannot be checked in advance")
    for account in accounts:
        if len(owners := [user for user, own in identity.users.items() if own == account]) > 1:
            yield Finding(
                Level.NOTE,
                f"{' and '.join(owners)} run jobs as the same account {account}, and can read and cancel each other's",
                ("identity", "users", owners[1]),
            )
        parent = adapter.config.jobs.folder.replace("{user}", account).replace("{id}", "0").rsplit("/", 1)[0]
        result = adapter.transport.run(Command(("/bin/sh", "-c", _FOLDER, "sh", parent), user=account))
        said = result.text.strip()
        if said == "good":
            yield Finding(Level.GOOD, f"jobs can run as {account}, in {parent}")
            continue
        fixes = {
            "does not exist": f"create it as {account}: mkdir -m 700 {parent}",
            "cannot be entered": f"give {account} access to it and to the folders above it (chmod)",
            "cannot be written": f"chmod u+w {parent}",
            "can be written by everybody": f"chmod o-w {parent}",
        }
        fix = fixes.get(said, f"chown {account} {parent}, or use another folder")
        yield Finding(Level.PROBLEM, f"jobs.folder: {parent}, for jobs of {account}, {said or result.complaint}; {fix}")


def check_command_line(adapter: Adapter) -> Iterator[Finding]:
    """Check that users named in the configuration have accounts."""
    config = adapter.config
    named = {("drives", number, "users"): drive.users for number, drive in enumerate(config.drives)}
    for key, users in named.items():
        for user in users:
            if not _has_account(adapter, user):
                yield Finding(
                    Level.WARNING,
                    f"drives.{key[1]}.users: {user!r} has no account here and cannot use the drive; see [identity]",
                    key,
                )
    if config.command_line.user is not None and not _has_account(adapter, config.command_line.user):
        yield Finding(
            Level.PROBLEM,
            f'command_line.user = "{config.command_line.user}": this user has no account here; use one of '
            f"identity.users ({', '.join(config.identity.users) or 'now empty'}), or add the user there",
        )


def _has_account(adapter: Adapter, user: str) -> bool:
    try:
        adapter.account_of(Owner(created_by=user))
    except InvalidInput:
        return False
    return True


def check_shared(adapter: Adapter, own_account: str, accounts: list[str]) -> Iterator[Finding]:
    """Check the folder of the hosts files: the adapter can write it, and jobs can read it."""
    if adapter.config.peers.private:
        yield Finding(Level.NOTE, "peers.private: there is no shared hosts file")
        return
    shared = adapter.config.shared_dir
    said = adapter.transport.run(Command(("/bin/sh", "-c", _SHARED, "sh", shared))).text.strip()
    if said != "good":
        fixes = {
            "does not exist": f"as root on the cluster: install -d -o {own_account} -m 755 {shared}",
            "cannot be entered": f"give {own_account} access to it and to the folders above it (chmod)",
        }
        own = f"it must belong to the adapter's account: chown {own_account} {shared}, or use another folder"
        fix = f"jobs must read it: chmod 755 {shared}" if said.startswith("has the mode") else own
        what = said or "cannot be checked"
        yield Finding(Level.PROBLEM, f'shared_dir = "{shared}": {what}; {fixes.get(said, fix)}')
        return
    seen = peer_files.read(adapter.transport, adapter.peers_folder)
    peer_files.plan_change(seen, {}, "")
    if accounts and not reached(adapter, [adapter.peers_folder], accounts):
        yield Finding(
            Level.PROBLEM,
            f'shared_dir = "{shared}": jobs of {accounts[0]} cannot read {adapter.peers_folder}; give all accounts '
            "access to the folders above it (chmod o+x)",
        )
        return
    yield Finding(Level.GOOD, f"{adapter.peers_folder} can be read and written")

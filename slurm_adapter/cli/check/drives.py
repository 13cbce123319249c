"""Check the folders of drives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.cli.check.findings import Finding, Level, reached, some
from slurm_adapter.cluster.transports.interface import Command
from slurm_adapter.core.specification import Owner
from slurm_adapter.translation.drives import by_pattern

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.config_tables import DrivePattern
    from slurm_adapter.translation.drives import UcloudDrive


def check_drives(adapter: Adapter, accounts: list[str]) -> Iterator[Finding]:
    """Check that the folder of each drive in [[drives]] exists, and that an account can reach it."""
    for drive in adapter.config.drives:
        if not accounts:
            return
        for account in accounts:
            found = adapter.transport.run(Command(("test", "-d", drive.path), user=account)).status == 0
            if found:
                yield Finding(Level.GOOD, f"drive {drive.id} is {drive.path}")
                break
        else:
            yield Finding(
                Level.WARNING,
                f"drive {drive.id}: {drive.path} is not a folder that any of {', '.join(accounts)} can reach",
            )


def check_pattern(adapter: Adapter, accounts: list[str]) -> Iterator[Finding]:
    """Check the folders in which [drive_pattern] has drives, and show an example."""
    pattern = adapter.config.drive_pattern
    user = adapter.config.command_line.user or next(iter(adapter.config.identity.users), None)
    for name, form, project in (("user", pattern.user, None), ("project", pattern.project, "PROJECT")):
        if form is None:
            continue
        fixed = form.split("{", 1)[0].rsplit("/", 1)[0] or "/"
        if not reached(adapter, [fixed], accounts):
            limits = f"that any of {', '.join(accounts)} can reach" if accounts else "on the cluster"
            yield Finding(Level.WARNING, f"drive_pattern.{name}: {fixed} is not a folder {limits}")
        elif user is None:
            yield Finding(Level.GOOD, f"drive_pattern.{name}: {fixed} exists")
        else:
            drive = by_pattern("DRIVE", pattern, user, project, adapter.account_of(Owner(created_by=user)))
            path = "is refused: it is outside the pattern's folders" if drive is None else f"is {drive.path}"
            owner = user if project is None else f"{project}, for {user},"
            yield Finding(Level.GOOD, f"drive_pattern.{name}: {fixed} exists; drive DRIVE of {owner} {path}")


def check_ucloud_drives(adapter: Adapter, accounts: list[str]) -> Iterator[Finding]:
    """Check that UCloud's drives have folders here."""
    if adapter.ucloud_drives is None:
        return
    pattern = adapter.config.drive_pattern
    if pattern.user is not None and pattern.project is not None:
        yield Finding(Level.NOTE, "ucloud.ask_for_drives has no effect: [drive_pattern] has a folder for every drive")
        return
    drives, more = adapter.ucloud_drives.some()
    if not drives:
        yield Finding(
            Level.NOTE,
            f"ucloud.ask_for_drives: UCloud has no drives of provider {adapter.config.provider}; jobs that name a "
            "drive are refused, unless it is in [[drives]] or [drive_pattern] has a folder for it",
        )
        return
    # For the other drives, jobs use [[drives]] or [drive_pattern], not UCloud's answer.
    known = {drive.id for drive in adapter.config.drives}
    drives = [each for each in drives if each.id not in known and _form(pattern, each) is None]
    folders = {drive.id: drive.folder for drive in drives if drive.folder is not None}
    there = reached(adapter, list(folders.values()), accounts)
    good = [f"{id_} is {folder}" for id_, folder in folders.items() if folder in there]
    if good:
        count = f"{len(good)} of {len(drives)}{' and more' if more else ''}"
        yield Finding(Level.GOOD, f"UCloud's drives have folders here ({count}): {some(good)}")
    if away := [f"{id_} is {folder}" for id_, folder in folders.items() if folder not in there]:
        account = f"any of {', '.join(accounts)}" if accounts else "the adapter's account"
        yield Finding(Level.WARNING, f"UCloud's drives with folders that {account} cannot reach: {some(away)}")
    if nameless := [drive.id for drive in drives if drive.folder is None]:
        yield Finding(
            Level.WARNING,
            f"UCloud's drives with no folder in their provider id: {some(nameless)}; add them to [[drives]], or jobs "
            "that name them are refused",
        )


def _form(pattern: DrivePattern, drive: UcloudDrive) -> str | None:
    """Return the pattern for a drive of this kind of workspace; None if there is none."""
    return pattern.user if drive.owner.project is None else pattern.project

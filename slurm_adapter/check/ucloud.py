"""Check that UCloud and the adapter know each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter import verifying
from slurm_adapter.check.findings import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.site import Site


def check_key(site: Site) -> Iterator[Finding]:
    """Whether UCloud's tokens can be told from others'."""
    if (settings := site.config.ucloud) is None:
        return
    try:
        from slurm_adapter.gateway.authentication import UcloudKey  # noqa: PLC0415  # the extra `serve`
    except ImportError:
        return  # the receiver needs it, too, and says so
    UcloudKey(settings)
    yield Finding(Level.GOOD, f"ucloud.key: {settings.key} holds the key by which UCloud is known")


def check_provider(site: Site) -> Iterator[Finding]:
    """Whether UCloud lets the adapter in."""
    if (settings := site.config.ucloud) is None:
        return
    if (doubt := verifying.doubts(site)) is not None:
        yield Finding(Level.WARNING, doubt)
    receiver = site.receiver
    from slurm_adapter.receivers.ucloud import is_loopback  # noqa: PLC0415  # the extra `serve`

    if receiver is not None:
        receiver.check()
        yield Finding(Level.GOOD, f"UCloud at {settings.url} takes the refresh token")
    if settings.url.startswith("http://") and not is_loopback(settings.url):
        yield Finding(
            Level.WARNING, f"ucloud.url: {settings.url} is not encrypted: who listens may act as this provider"
        )

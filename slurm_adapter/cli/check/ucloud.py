"""Check that UCloud and the adapter know each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.cli.check.findings import Finding, Level
from slurm_adapter.core.errors import InvalidConfig
from slurm_adapter.jobs import unknown_here

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.config import Ucloud


def check_key(adapter: Adapter) -> Iterator[Finding]:
    """Whether UCloud's tokens can be told from others'."""
    if (settings := adapter.config.ucloud) is None:
        return
    try:
        from slurm_adapter.ucloud.key import UcloudKey  # noqa: PLC0415  # the extra `serve`
    except ImportError:
        return  # the receiver needs it, too, and says so
    UcloudKey(settings)
    yield Finding(Level.GOOD, f"ucloud.key: {settings.key} holds the key by which UCloud is known")


def check_provider(adapter: Adapter) -> Iterator[Finding]:
    """Whether UCloud lets the adapter in."""
    if (settings := adapter.config.ucloud) is None:
        return
    if (doubt := unknown_here.doubts(adapter)) is not None:
        yield Finding(Level.WARNING, doubt)
    receiver = adapter.receiver
    from slurm_adapter.ucloud.client import is_loopback  # noqa: PLC0415  # the extra `serve`

    if receiver is not None:
        token = receiver.check()
        yield Finding(Level.GOOD, f"UCloud at {settings.url} takes the refresh token")
        yield from _check_token(adapter.config.provider, settings, token)
    if settings.url.startswith("http://") and not is_loopback(settings.url):
        yield Finding(
            Level.WARNING, f"ucloud.url: {settings.url} is not encrypted: who listens may act as this provider"
        )


def _check_token(provider: str, settings: Ucloud, token: str) -> Iterator[Finding]:
    """Check whom UCloud takes this program for, and that `ucloud.key` is the key by which it signs."""
    from slurm_adapter.core.errors import Forbidden, NotAuthenticated  # noqa: PLC0415
    from slurm_adapter.ucloud.key import UcloudKey, read_claims  # noqa: PLC0415

    claims = read_claims(token)
    if claims is None:
        yield Finding(
            Level.WARNING,
            f"ucloud.url: UCloud at {settings.url} gives access tokens that are no JWT; whose they are is not known",
        )
        return
    subject, issuer = f"#P_{provider}", claims.get("iss")
    if claims.get("sub") != subject:
        other = str(claims.get("sub")).removeprefix("#P_")
        yield Finding(
            Level.PROBLEM,
            f'provider = "{provider}", but the refresh token is that of provider "{other}": write that, or the refresh '
            f"token that UCloud shows for {provider} into {settings.refresh_token}",
            ("provider",),
        )
    if issuer != settings.issuer:
        yield Finding(
            Level.PROBLEM,
            f'issuer = "{settings.issuer}", but tokens of UCloud at {settings.url} say "{issuer}": all its calls would '
            "be refused; write that",
            ("ucloud", "issuer"),
        )
        return
    try:
        UcloudKey(settings).claims(token)
    except InvalidConfig:
        return  # `check_key` says so
    except (NotAuthenticated, Forbidden) as error:
        yield Finding(
            Level.PROBLEM,
            f'key = "{settings.key}", but the access token that UCloud gives does not fit: {error}; write the '
            "public key that UCloud shows for this provider there",
            ("ucloud", "key"),
        )
        return
    if claims.get("sub") == subject:
        yield Finding(
            Level.GOOD, f"UCloud knows this program as provider {provider}, and signs by the key in ucloud.key"
        )

"""Check the connection between UCloud and the adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.cli.check.findings import Finding, Level
from slurm_adapter.core.errors import InvalidConfig
from slurm_adapter.jobs import unknown_here

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.config_tables import Ucloud


def check_key(adapter: Adapter) -> Iterator[Finding]:
    """Check that the key which verifies UCloud's tokens can be read."""
    if (settings := adapter.config.ucloud) is None:
        return
    try:
        from slurm_adapter.ucloud.key import UcloudKey  # noqa: PLC0415  # the extra `serve`
    except ImportError:
        return  # the receiver reports it
    UcloudKey(settings)
    yield Finding(Level.GOOD, f"ucloud.key: {settings.key} has the key that verifies UCloud's requests")


def check_provider(adapter: Adapter) -> Iterator[Finding]:
    """Check that UCloud accepts the adapter as a provider."""
    if (settings := adapter.config.ucloud) is None:
        return
    if (doubt := unknown_here.doubts(adapter)) is not None:
        yield Finding(Level.WARNING, doubt)
    receiver = adapter.receiver
    from slurm_adapter.ucloud.client import is_loopback  # noqa: PLC0415  # the extra `serve`

    if receiver is not None:
        token = receiver.check()
        yield Finding(Level.GOOD, f"UCloud at {settings.url} accepts the refresh token")
        yield from _check_token(adapter.config.provider, settings, token)
    if settings.url.startswith("http://") and not is_loopback(settings.url):
        yield Finding(
            Level.WARNING, f"ucloud.url: {settings.url} is not encrypted: an eavesdropper can act as this provider"
        )


def _check_token(provider: str, settings: Ucloud, token: str) -> Iterator[Finding]:
    """Check that the token names this provider, and that `ucloud.key` verifies UCloud's signature."""
    from slurm_adapter.core.errors import Forbidden, NotAuthenticated  # noqa: PLC0415
    from slurm_adapter.ucloud.key import UcloudKey, read_claims  # noqa: PLC0415

    claims = read_claims(token)
    if claims is None:
        yield Finding(
            Level.WARNING,
            f"ucloud.url: the access tokens of UCloud at {settings.url} are not JWTs, so their provider is unknown",
        )
        return
    subject, issuer = f"#P_{provider}", claims.get("iss")
    if claims.get("sub") != subject:
        other = str(claims.get("sub")).removeprefix("#P_")
        yield Finding(
            Level.PROBLEM,
            f'provider = "{provider}", but the refresh token belongs to provider "{other}": write "{other}", or put '
            f"the refresh token that UCloud shows for {provider} into {settings.refresh_token}",
            ("provider",),
        )
    if issuer != settings.issuer:
        yield Finding(
            Level.PROBLEM,
            f'issuer = "{settings.issuer}", but tokens of UCloud at {settings.url} have "{issuer}": all its requests '
            f'would be refused; write "{issuer}"',
            ("ucloud", "issuer"),
        )
        return
    try:
        UcloudKey(settings).claims(token)
    except InvalidConfig:
        return  # `check_key` reports it
    except (NotAuthenticated, Forbidden) as error:
        yield Finding(
            Level.PROBLEM,
            f'key = "{settings.key}", but it does not verify UCloud\'s access token: {error}; put the public key that '
            "UCloud shows for this provider there",
            ("ucloud", "key"),
        )
        return
    if claims.get("sub") == subject:
        yield Finding(
            Level.GOOD, f"UCloud accepts the adapter as provider {provider}, and ucloud.key verifies its signature"
        )

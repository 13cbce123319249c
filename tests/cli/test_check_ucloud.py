"""`check` compares the refresh token, `ucloud.key` and `ucloud.issuer` with UCloud."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization

from slurm_adapter.cli.check import Level
from slurm_adapter.cli.check.ucloud import check_provider
from tests.offline import Offline
from tests.ucloud_double import Ucloud, key_pair, ucloud

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ucloud"]


def found(ucloud: Ucloud, tmp_path: Path, more: dict[str, Any]) -> list[tuple[Level, str, tuple[str | int, ...]]]:
    settings = ucloud.settings(tmp_path)
    site = Offline(tmp_path, settings | {"ucloud": settings["ucloud"] | more.pop("ucloud", {})} | more)
    with site.site:
        return [(each.level, each.text, each.key) for each in check_provider(site.site)]


def test_the_right_ucloud(ucloud: Ucloud, tmp_path: Path) -> None:
    *_, (level, text, _) = found(ucloud, tmp_path, {})
    assert (level, text) == (
        Level.GOOD,
        "UCloud accepts the adapter as provider example, and ucloud.key verifies its signature",
    )


@pytest.mark.parametrize(
    ("more", "key", "says"),
    [
        (
            {"provider": "exmaple"},
            ("provider",),
            'provider = "exmaple", but the refresh token belongs to provider "example"',
        ),
        (
            {"ucloud": {"issuer": "cloud.sdu.kd"}},
            ("ucloud", "issuer"),
            'issuer = "cloud.sdu.kd", but tokens of UCloud',
        ),
    ],
)
def test_another_provider_or_issuer(
    ucloud: Ucloud, tmp_path: Path, more: dict[str, Any], key: tuple[str, ...], says: str
) -> None:
    [(text, about)] = [(text, about) for level, text, about in found(ucloud, tmp_path, more) if level is Level.PROBLEM]
    assert (about, text[: len(says)]) == (key, says)


def test_the_key_of_another_provider(ucloud: Ucloud, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(
        key_pair("another provider")
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    said = found(ucloud, tmp_path, {"ucloud": {"key": str(other)}})
    [(text, about)] = [(text, about) for level, text, about in said if level is Level.PROBLEM]
    assert about == ("ucloud", "key")
    assert f"key = \"{other}\", but it does not verify UCloud's access token: the token's signature is not by" in text

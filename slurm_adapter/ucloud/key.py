"""Verify the tokens that UCloud signs."""

from __future__ import annotations

import base64
import logging
import math
import re
from threading import Lock
from typing import TYPE_CHECKING, Any

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from slurm_adapter.core.errors import Forbidden, InvalidConfig, NotAuthenticated

if TYPE_CHECKING:
    from pathlib import Path

    from slurm_adapter.core.config_tables import Ucloud


CLOCK_SKEW = 30
"""Maximum difference in seconds between UCloud's clock and this one."""


LEAST_KEY = 2048
"""Minimum size in bits of an RSA key; UCloud makes keys of this size."""


TOKEN_LIMIT = 16 * 1024
"""Maximum length of a token. UCloud's tokens have fewer than a thousand characters."""


_KEY_LIMIT = 64 * 1024
"""Maximum number of bytes that are read of a key file."""


_JWT = re.compile(r"[\w-]+\.[\w-]*\.[\w-]*", re.ASCII)
"""Compact serialisation (RFC 7515, section 7.1)."""


_ALLOWED_KEYS = (
    f"the file holds an RSA public key of at least {LEAST_KEY} bits: PEM, a PEM certificate, or base64 of the DER, as "
    "UCloud shows it for the provider"
)


_log = logging.getLogger(__name__)


class UcloudKey:
    """The public key by which tokens of UCloud are verified.

    The file is read for every request, so that a renewed key is used at once. If a new content is unusable, that is
    logged once, and the last good key remains in use.
    """

    def __init__(self, settings: Ucloud) -> None:
        """Read the key. Raise `InvalidConfig` if the file has no usable key."""
        self._path = settings.key
        self._issuer = settings.issuer
        self._lock = Lock()
        try:
            content = _read(self._path)
        except OSError as error:
            raise InvalidConfig(f"ucloud.key: {self._path}: {error.strerror}; {_ALLOWED_KEYS}") from error
        self._key = read_key(content, self._path)
        self._seen: bytes | str = content
        """The last content of the file, or the reason why it could not be read."""

    def verify(self, authorization: str | None, now: float) -> None:
        """Return if a request comes from UCloud. `authorization` is the header; `now` is in seconds since the epoch.

        Raises `NotAuthenticated` if there is no valid token of this UCloud, and `Forbidden` for a valid token of
        another caller: UCloud signs the provider's own access token with the same key.
        """
        token = _bearer(authorization)
        if len(token) > TOKEN_LIMIT or not _JWT.fullmatch(token):
            raise NotAuthenticated("the bearer token is not a JWT; UCloud signs one for every request")
        claims = self.claims(token)
        _check_times(claims, now)
        _check_caller(claims)

    def claims(self, token: str) -> dict[str, Any]:
        """Return a token's claims if its signature is by this key. Raises as `verify`; does not check times."""
        # `_check_times` checks them by the caller's clock, not by the library's.
        options: Any = {"require": ["exp", "iat", "iss", "sub", "aud"]}
        options |= {"verify_exp": False, "verify_iat": False, "verify_nbf": False}
        try:
            return jwt.decode(
                token, self._current(), algorithms=["RS256"], issuer=self._issuer, audience="all:write", options=options
            )
        except jwt.InvalidAudienceError as error:
            raise Forbidden("the token is not for all:write, as UCloud's tokens for providers are") from error
        except jwt.InvalidIssuerError as error:
            raise NotAuthenticated(f"the token was not issued by {self._issuer!r}; see ucloud.issuer") from error
        except jwt.InvalidAlgorithmError as error:
            raise NotAuthenticated("the token is not signed with RS256, the only accepted algorithm") from error
        except jwt.InvalidSignatureError as error:
            raise NotAuthenticated(
                "the token's signature is not by the key in ucloud.key; was the provider's key renewed in UCloud?"
            ) from error
        except jwt.MissingRequiredClaimError as error:
            raise NotAuthenticated(f"the token has no claim {error.claim}") from error
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise NotAuthenticated("the bearer token cannot be read as a JWT") from error

    def _current(self) -> RSAPublicKey:
        with self._lock:
            try:
                content: bytes | str = _read(self._path)
            except OSError as error:
                content = str(error.strerror)
            if content != self._seen:
                self._seen = content
                self._take(content)
            return self._key

    def _take(self, content: bytes | str) -> None:
        if isinstance(content, str):
            _log.error("ucloud.key: %s: %s; the last good key remains in use", self._path, content)
            return
        try:
            self._key = read_key(content, self._path)
        except InvalidConfig as error:
            _log.error("%s; the last good key remains in use", error)
        else:
            _log.info("ucloud.key: %s: a new key was read", self._path)


def read_claims(token: str) -> dict[str, Any] | None:
    """Return a token's claims without checking its signature; None if it is not a JWT."""
    try:
        return jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        return None


def read_key(content: bytes, path: Path) -> RSAPublicKey:
    """Return the key in a file. Raises `InvalidConfig` with the file's name.

    Only the key of a certificate is used. Its signature and dates are not checked, because the site itself vouches for
    the file.
    """
    try:
        if b"-----BEGIN CERTIFICATE-----" in content:
            key: object = x509.load_pem_x509_certificate(content).public_key()
        elif b"PRIVATE KEY-----" in content:
            raise InvalidConfig(f"ucloud.key: {path}: is a private key, which only UCloud may have; {_ALLOWED_KEYS}")
        elif b"-----BEGIN " in content:
            key = load_pem_public_key(content)
        else:
            key = load_der_public_key(base64.b64decode(b"".join(content.split()), validate=True))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidConfig(f"ucloud.key: {path}: is not a key; {_ALLOWED_KEYS}") from error
    if not isinstance(key, RSAPublicKey):
        raise InvalidConfig(f"ucloud.key: {path}: is not an RSA key; {_ALLOWED_KEYS}")
    if key.key_size < LEAST_KEY:
        raise InvalidConfig(f"ucloud.key: {path}: has {key.key_size} bits; {_ALLOWED_KEYS}")
    return key


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_KEY_LIMIT)


def _bearer(authorization: str | None) -> str:
    """Return the token in a header (RFC 6750, section 2.1)."""
    if authorization is None:
        raise NotAuthenticated("the request has no Authorization header; add `Authorization: Bearer TOKEN`")
    scheme, _, token = authorization.strip(" \t").partition(" ")
    if scheme.lower() != "bearer":
        raise NotAuthenticated("the Authorization header is not `Bearer TOKEN`")
    token = token.strip(" \t")
    if not token:
        raise NotAuthenticated("the bearer token is empty")
    return token


def _check_times(claims: dict[str, Any], now: float) -> None:
    """Check that every time is a number (RFC 7519, section 2), and that the token is valid now."""
    for name in ("iat", "nbf", "exp"):
        if name not in claims:
            continue  # `exp` and `iat` were required
        value = claims[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            raise NotAuthenticated(f"the token's {name} is not a time")
        if name == "exp" and value + CLOCK_SKEW <= now:
            raise NotAuthenticated("the token has expired; do the clocks of UCloud and of this machine agree?")
        if name != "exp" and value - CLOCK_SKEW > now:
            raise NotAuthenticated("the token is not valid yet; do the clocks of UCloud and of this machine agree?")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floating-point numbers
        return False


def _check_caller(claims: dict[str, Any]) -> None:
    """Check that the token is of UCloud itself, and not of another party for which it signs tokens."""
    for name, allowed in (("sub", ("_UCloud",)), ("role", ("SERVICE", "ADMIN")), ("principalType", ("service",))):
        if claims.get(name) not in allowed:
            raise Forbidden(f"the token is not UCloud's own: its {name} is not {' or '.join(allowed)}")

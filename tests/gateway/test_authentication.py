"""Who is let in, and who is not: every token that is not UCloud's own, of now, by its key, stays outside."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import traceback
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st

from slurm_adapter.core.config_tables import Ucloud
from slurm_adapter.core.errors import Forbidden, InvalidConfig, NotAuthenticated
from slurm_adapter.ucloud.key import TOKEN_LIMIT, UcloudKey

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = 1_700_000_100

CLAIMS: dict[str, Any] = {
    "sub": "_UCloud", "role": "SERVICE", "principalType": "service", "aud": ["all:write"], "iss": "cloud.sdu.dk",
    "iat": 1_700_000_000, "exp": 1_700_000_600,
}  # fmt: skip
"""Claims of UCloud's own tokens."""


@cache
def private(name: str = "UCloud", bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key pair, made once for all tests; the name tells one from another."""
    assert name
    return rsa.generate_private_key(65537, bits)


def public(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, encoding: Encoding = Encoding.PEM) -> bytes:
    return key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


def certificate(key: rsa.RSAPrivateKey) -> bytes:
    """One that expired long ago: the site's own word is the file, not its dates."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "UCloud")])
    before = datetime(2001, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(before).not_valid_after(before + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def token(key: rsa.RSAPrivateKey | None = None, /, **claims: Any) -> str:
    """UCloud's, but for these claims; one that is `...` is left out."""
    whole = {name: value for name, value in (CLAIMS | claims).items() if value is not ...}
    return by_hand({"alg": "RS256", "typ": "JWT"}, whole, lambda text: signed(text, key or private()))


def signed(text: bytes, key: rsa.RSAPrivateKey) -> bytes:
    return jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256).sign(text, key)


def by_hand(header: object, claims: object, sign: Callable[[bytes], bytes]) -> str:
    """A token as no library would write it."""
    parts = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in (header, claims)]
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    return (text + b"." + base64.urlsafe_b64encode(sign(text)).rstrip(b"=")).decode()


def settings(path: Path, content: bytes | None = None) -> Ucloud:
    path.write_bytes(public(private()) if content is None else content)
    return Ucloud(url="https://cloud.sdu.dk", key=path, refresh_token=path.parent / "refresh")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> UcloudKey:
    """Knows the key by which `token` signs; no test here changes the file."""
    return UcloudKey(settings(tmp_path_factory.mktemp("key") / "ucloud.pem"))


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"role": "ADMIN"},
        {"aud": "all:write"},
        {"aud": ["files:read", "all:write"]},
        {"iat": NOW + 29},
        {"nbf": NOW + 29},
        {"exp": NOW - 29},
        {"exp": NOW + 0.5},
        {"uid": 0, "extendedBy": None},
    ],
)
def test_ucloud_is_let_in(key: UcloudKey, claims: dict[str, Any]) -> None:
    key.verify(f"Bearer {token(**claims)}", NOW)
    key.verify(f"bearer   {token(**claims)} ", NOW)


WRONG_CLAIMS: list[tuple[type[Exception], dict[str, Any], str]] = [
    (NotAuthenticated, {"exp": NOW - 30}, "expired"),
    (NotAuthenticated, {"exp": 0}, "expired"),
    (NotAuthenticated, {"exp": ...}, "has no claim exp"),
    (NotAuthenticated, {"exp": None}, "has no claim exp"),
    (NotAuthenticated, {"exp": str(NOW + 100)}, "exp is not a time"),
    (NotAuthenticated, {"exp": True}, "exp is not a time"),
    (NotAuthenticated, {"exp": float("inf")}, "exp is not a time"),
    (NotAuthenticated, {"exp": float("nan")}, "exp is not a time"),
    (NotAuthenticated, {"exp": 10**400}, "exp is not a time"),
    (NotAuthenticated, {"exp": [NOW + 100]}, "exp is not a time"),
    (NotAuthenticated, {"iat": NOW + 31}, "not valid yet"),
    (NotAuthenticated, {"iat": ...}, "has no claim iat"),
    (NotAuthenticated, {"iat": {}}, "iat is not a time"),
    (NotAuthenticated, {"nbf": NOW + 31}, "not valid yet"),
    (NotAuthenticated, {"nbf": "soon"}, "nbf is not a time"),
    (NotAuthenticated, {"iss": "cloud.example.org"}, "not issued by 'cloud.sdu.dk'"),
    (NotAuthenticated, {"iss": ["cloud.sdu.dk"]}, "not issued by"),
    (NotAuthenticated, {"iss": "cloud.sdu"}, "not issued by"),
    (NotAuthenticated, {"iss": ...}, "has no claim iss"),
    (NotAuthenticated, {"sub": ...}, "has no claim sub"),
    (NotAuthenticated, {"sub": 7}, "cannot be read"),
    (NotAuthenticated, {"aud": ...}, "has no claim aud"),
    (Forbidden, {"aud": ["all:read"]}, "all:write"),
    (Forbidden, {"aud": "all:writers"}, "all:write"),
    (NotAuthenticated, {"aud": []}, "has no claim aud"),
    (Forbidden, {"aud": {"all:write": 1}}, "all:write"),
    (Forbidden, {"sub": "user"}, "its sub is not _UCloud"),
    (Forbidden, {"sub": "_ucloud"}, "its sub is not _UCloud"),
    (Forbidden, {"sub": "admin", "role": "ADMIN"}, "its sub is not _UCloud"),
    (Forbidden, {"role": "USER"}, "its role is not SERVICE or ADMIN"),
    (Forbidden, {"role": ["SERVICE"]}, "its role is not"),
    (Forbidden, {"role": ...}, "its role is not"),
    (Forbidden, {"principalType": "person"}, "its principalType is not service"),
    (Forbidden, {"principalType": ...}, "its principalType is not service"),
    # The provider's own access token.
    (Forbidden, {"sub": "#P_example", "role": "PROVIDER", "principalType": "provider"}, "its sub is not _UCloud"),
]


@pytest.mark.parametrize(("kind", "claims", "said"), WRONG_CLAIMS)
def test_a_token_that_says_something_else_stays_outside(
    key: UcloudKey, kind: type[Exception], claims: dict[str, Any], said: str
) -> None:
    with pytest.raises(kind, match=said) as caught:
        key.verify(f"Bearer {token(**claims)}", NOW)
    assert "#P_example" not in str(caught.value)


def hmac_by(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda text: hmac.new(secret, text, hashlib.sha256).digest()


def rightly(text: bytes) -> bytes:
    return signed(text, private())


def changed() -> str:
    """A good token but for one letter of its signature."""
    start, end = token().rsplit(".", 1)
    return f"{start}.{'A' if end[0] != 'A' else 'B'}{end[1:]}"


def exchanged() -> str:
    """The signature of one token under the claims of another."""
    return f"{token(x=1).rsplit('.', 1)[0]}.{token().rsplit('.', 1)[1]}"


def bringing_its_key() -> str:
    own = private("another")
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(own.public_key()))
    return jwt.encode(CLAIMS, own, algorithm="RS256", headers={"jwk": jwk})


RS256 = {"alg": "RS256", "typ": "JWT"}

WRONG_SIGNATURES: dict[str, Callable[[], str]] = {
    "none": lambda: by_hand({"alg": "none"}, CLAIMS, lambda _: b""),
    "None": lambda: by_hand({"alg": "None"}, CLAIMS, lambda _: b""),
    "none, rightly signed": lambda: by_hand({"alg": "none"}, CLAIMS, rightly),
    "no algorithm": lambda: by_hand({}, CLAIMS, rightly),
    "a list of algorithms": lambda: by_hand({"alg": ["RS256"]}, CLAIMS, rightly),
    "HS256 by the PEM": lambda: by_hand({"alg": "HS256"}, CLAIMS, hmac_by(public(private()))),
    "HS256 by the DER": lambda: by_hand({"alg": "HS256"}, CLAIMS, hmac_by(public(private(), Encoding.DER))),
    "HS256 that says RS256": lambda: by_hand(RS256, CLAIMS, hmac_by(public(private()))),
    "RS256 by another key": lambda: token(private("another")),
    "RS512": lambda: jwt.encode(CLAIMS, private(), algorithm="RS512"),
    "PS256": lambda: jwt.encode(CLAIMS, private(), algorithm="PS256"),
    "ES256": lambda: jwt.encode(CLAIMS, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256"),
    "a key that comes with it": bringing_its_key,
    "other claims": exchanged,
    "another letter": changed,
    "a short signature": lambda: token()[:-4],
    "no signature": lambda: by_hand(RS256, CLAIMS, lambda _: b""),
    "an unknown critical extension": lambda: by_hand(RS256 | {"crit": ["exp"]}, CLAIMS, rightly),
    "claims that are a list": lambda: by_hand(RS256, [CLAIMS], rightly),
    "claims that are no JSON": lambda: by_hand(RS256, b"{", rightly),
    "claims without end": lambda: by_hand(RS256, b"[" * 5000, rightly),
    "a number without end": lambda: by_hand(RS256, b'{"exp": ' + b"9" * 5000 + b"}", rightly),
    "a header without end": lambda: by_hand(b"[" * 5000, CLAIMS, rightly),
    "a header that is a number": lambda: by_hand(b"9" * 5000, CLAIMS, rightly),
}


@pytest.mark.parametrize("name", WRONG_SIGNATURES)
def test_a_token_that_is_not_signed_by_ucloud_stays_outside(key: UcloudKey, name: str) -> None:
    with pytest.raises(NotAuthenticated):
        key.verify(f"Bearer {WRONG_SIGNATURES[name]()}", NOW)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (None, "no Authorization header"),
        ("", "not `Bearer TOKEN`"),
        ("Bearer", "empty"),
        ("Bearer ", "empty"),
        ("Bearer \t ", "empty"),
        ("Basic dXNlcjpwYXNz", "not `Bearer TOKEN`"),
        ("Bearer x", "not a JWT"),
        ("Bearer a.b.c", "cannot be read"),
        ("Bearer ..", "not a JWT"),
        (f"Bearer {'a' * TOKEN_LIMIT}.b.c", "not a JWT"),
        ("Bearer \ud800.b.c", "not a JWT"),
        ("Bearer sla_abcdefghijklmnopqrstuvwxyz", "not a JWT"),
    ],
)
def test_no_token_at_all(key: UcloudKey, header: str | None, said: str) -> None:
    with pytest.raises(NotAuthenticated, match=said):
        key.verify(header, NOW)


def test_a_good_token_without_its_scheme_or_with_another_one_stays_outside(key: UcloudKey) -> None:
    for header in (token(), f"Basic {token()}", f"Bearer {token()}, Bearer {token()}", f"Bearer,{token()}"):
        with pytest.raises(NotAuthenticated):
            key.verify(header, NOW)


def encoded(part: bytes | dict[str, Any]) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["RS256", "none"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
PART = st.binary(max_size=40) | st.dictionaries(st.sampled_from(["alg", "crit", "b64", "kid", "exp"]), VALUE)
HEADER = st.text() | st.tuples(*[PART.map(encoded)] * 3).map(".".join)


@given(HEADER)
@example(".\udcff.")
def test_garbage_never_does_anything_but_stay_outside(key: UcloudKey, header: str) -> None:
    for each in (header, f"Bearer {header}"):
        with pytest.raises(NotAuthenticated):
            key.verify(each, NOW)


@given(st.sampled_from(sorted(CLAIMS)), VALUE)
def test_whatever_a_signed_token_says_it_is_let_in_or_not(key: UcloudKey, name: str, value: Any) -> None:
    """UCloud signs tokens for others, too: nothing that they say breaks anything."""
    try:
        key.verify(f"Bearer {token(**{name: value})}", NOW)
    except (NotAuthenticated, Forbidden):
        return
    assert name in {"exp", "iat"}  # of the others there is one right value, which VALUE does not make


KEY_FILES: dict[str, Callable[[], bytes]] = {
    "PEM": lambda: public(private()),
    "PEM with words before it": lambda: b"UCloud's key\n" + public(private()),
    "certificate": lambda: certificate(private()),
    "base64": lambda: base64.b64encode(public(private(), Encoding.DER)),
    "base64 in lines": lambda: base64.encodebytes(public(private(), Encoding.DER)),
}


@pytest.mark.parametrize("name", KEY_FILES)
def test_the_key_is_read_as_ucloud_and_sites_write_it(tmp_path: Path, name: str) -> None:
    key = UcloudKey(settings(tmp_path / "k", KEY_FILES[name]()))
    key.verify(f"Bearer {token()}", NOW)
    with pytest.raises(NotAuthenticated, match=r"signature is not by the key in ucloud\.key"):
        key.verify(f"Bearer {token(private('another'))}", NOW)


WRONG_FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is not a key"),
    "words": (lambda: b"see the wiki", "is not a key"),
    "base64 of words": (lambda: base64.b64encode(b"see the wiki"), "is not a key"),
    "half": (lambda: public(private())[:200], "is not a key"),
    "half a certificate": (lambda: certificate(private())[:200], "is not a key"),
    "short": (lambda: public(private("short", 1024)), "has 1024 bits"),
    "short in a certificate": (lambda: certificate(private("short", 1024)), "has 1024 bits"),
    "elliptic": (lambda: public(ec.generate_private_key(ec.SECP256R1())), "is not an RSA key"),
    "private": (
        lambda: private().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "is a private key",
    ),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_file_without_a_good_key_is_refused_by_name(tmp_path: Path, name: str) -> None:
    content, said = WRONG_FILES[name]
    with pytest.raises(InvalidConfig, match=said) as caught:
        UcloudKey(settings(tmp_path / "k", content()))
    assert f"ucloud.key: {tmp_path / 'k'}: " in str(caught.value)
    assert "RSA public key of at least 2048 bits: PEM, a PEM certificate, or base64" in str(caught.value)
    assert "BEGIN" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"ucloud\.key: .*/none: No such file"):
        UcloudKey(Ucloud(url="https://u", key=tmp_path / "none", refresh_token=tmp_path))


def test_a_renewed_key_counts_at_once_and_the_old_one_no_more(tmp_path: Path) -> None:
    path = tmp_path / "k"
    key = UcloudKey(settings(path))
    settings(path, public(private("another")))  # of the same size, perhaps within the same tick of the clock
    key.verify(f"Bearer {token(private('another'))}", NOW)
    with pytest.raises(NotAuthenticated):
        key.verify(f"Bearer {token()}", NOW)


@pytest.mark.parametrize("broken", [b"", b"half a key", None])
def test_a_broken_new_key_is_told_once_and_the_old_one_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: bytes | None
) -> None:
    path = tmp_path / "k"
    key = UcloudKey(settings(path))
    if broken is None:
        path.unlink()
    else:
        path.write_bytes(broken)
    for _ in range(3):
        key.verify(f"Bearer {token()}", NOW)
    [told] = caplog.records
    assert told.levelno == logging.ERROR
    assert str(path) in told.getMessage()
    assert told.getMessage().endswith("; the last good key remains in use")
    settings(path, public(private("another")))
    key.verify(f"Bearer {token(private('another'))}", NOW)


def test_no_token_is_in_what_is_said_of_it(key: UcloudKey, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = [token(**claims) for _, claims, _ in WRONG_CLAIMS] + [make() for make in WRONG_SIGNATURES.values()]
    for each in (*wrong, token()):
        said = ""
        try:
            key.verify(f"Bearer {each}", NOW)
        except (NotAuthenticated, Forbidden) as error:
            said = "".join(traceback.format_exception(error))
        for part in each.split(".")[1:]:
            assert len(part) < 20 or part not in said + caplog.text + repr(key)

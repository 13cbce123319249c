"""Headers and cookies between browsers and applications of jobs, and which of them are removed.

Neither side is trusted. An application must not set headers that affect other jobs' domains or a reverse proxy. A
client must not send headers that only a proxy sends, and the application must not see the session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Scope

Pairs = list[tuple[bytes, bytes]]

COOKIE = "ucloud-compute-session-"
"""Beginning of the names of our cookies, after `HOST_PREFIX`."""

HOST_PREFIX = "__Host-"
"""Browsers accept a cookie of such a name only from the host itself, over HTTPS (RFC 6265bis, section 4.1.3)."""

_PREFIXES = (b"__host-http-", b"__host-", b"__http-", b"__secure-")
"""Prefixes of cookie names. Browsers ignore their case."""

_COOKIE_SIZE = 4096
"""Bytes of name and value of a cookie; browsers reject longer ones."""

_HOP_BY_HOP = {
    b"connection", b"expect", b"http2-settings", b"keep-alive", b"proxy-authenticate", b"proxy-authorization",
    b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
}  # fmt: skip
"""Headers about one connection only (RFC 9110, section 7.6.1)."""

_KEPT = {b"content-length", b"cookie", b"host", b"set-cookie"}
"""Headers that `Connection` must not remove: an answer without its length is another answer."""

_PROXYS_OWN = {b"forwarded", b"x-real-ip"}
"""Headers about the client that this gateway sets itself, in addition to `X-Forwarded-...`."""

_NOT_THE_APPLICATIONS = {
    # They affect more than the application's own domain, or longer than the job.
    b"alt-svc", b"clear-site-data", b"expect-ct", b"public-key-pins", b"public-key-pins-report-only", b"set-cookie2",
    b"strict-transport-security",
    # Reverse proxies act on them: they send a file of their own, or ask another server.
    b"x-litespeed-location", b"x-lighttpd-send-file", b"x-reproxy-url", b"x-sendfile", b"x-sendfile2",
    # The gateway's server dates its answers itself.
    b"date",
}  # fmt: skip

_SAFE_METHODS = {"GET", "HEAD"}


def to_application(scope: Scope, scheme: str) -> Pairs:
    """Return the headers of a request for its application. `scheme` is that of the browser's address bar."""
    found: Pairs = []
    for name, value in _end_to_end(scope["headers"]):
        # CGI and WSGI do not distinguish `X_Real_Ip` from `X-Real-Ip`.
        plain = name.replace(b"_", b"-")
        if plain != name and plain in _KEPT | _HOP_BY_HOP | {b"authorization"}:
            continue
        if plain in _PROXYS_OWN or plain.startswith(b"x-forwarded-"):
            continue
        if name != b"cookie":
            found.append((name, value))
        elif kept := _others_cookies(value):
            found.append((name, kept))
    client = scope.get("client")
    if client is not None:
        found.append((b"x-forwarded-for", client[0].encode()))
    found.append((b"x-forwarded-host", Headers(scope=scope).get("host", "").encode("latin-1")))
    found.append((b"x-forwarded-proto", scheme.encode()))
    return found


def to_browser(headers: Iterable[tuple[bytes, bytes]]) -> Pairs:
    """Return the headers of an application's answer for the browser."""
    pairs = [(name.lower(), value) for name, value in headers]
    # RFC 9112, section 6.3: the length is ignored if both are present.
    chunked = any(name == b"transfer-encoding" for name, _ in pairs)
    found: Pairs = []
    for name, value in _end_to_end(pairs):
        plain = name.replace(b"_", b"-")
        if plain in _NOT_THE_APPLICATIONS or plain.startswith(b"x-accel-") or (chunked and name == b"content-length"):
            continue
        if name != b"set-cookie":
            found.append((name, value))
        elif cookie := host_cookie(value):
            found.append((name, cookie))
    return found


def host_cookie(value: bytes) -> bytes | None:
    """Return a `Set-Cookie` restricted to its own host; None if it may not be set at all.

    A cookie for a parent domain would reach every job's domain, and one with our name would select a session.
    """
    if any((byte < 0x20 and byte != 0x09) or byte == 0x7F for byte in value):
        return None
    pair, *attributes = value.split(b";")
    name, equals, content = pair.partition(b"=")
    # Browsers send a cookie without a name as its value, which reads as the name and value of another cookie.
    if not equals or not name.strip() or _is_ours(name) or len(name) + len(content) > _COOKIE_SIZE:
        return None
    kept = [each for each in attributes if each.partition(b"=")[0].strip().lower() != b"domain"]
    return b";".join([pair, *kept])


def cookie_values(scope: Scope, name: str) -> list[str]:
    """Return the values of the request's cookies of this name."""
    pairs = (each.strip().partition("=") for line in Headers(scope=scope).getlist("cookie") for each in line.split(";"))
    return [value for own, _, value in pairs if own == name]


def from_its_own_page(scope: Scope, scheme: str) -> bool:
    """Return whether a request comes from a page of the same domain, or from a user who opens a page of it.

    SameSite=Lax does not separate the domains of one site. So a page of one job could use the session of another job by
    frames, images, forms, fetch and WebSockets. Browsers without Fetch Metadata send an Origin for the dangerous
    requests.
    """
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if origin is not None and not _same_origin(origin, scheme, headers.get("host", "")):
        return False
    site = headers.get("sec-fetch-site")
    if site is None or site in {"same-origin", "none"}:
        return True
    return scope["type"] == "http" and scope["method"] in _SAFE_METHODS and opens_a_page(scope)


def opens_a_page(scope: Scope) -> bool:
    """Return whether a browser opens a page in a window of its own, as far as its headers show."""
    headers = Headers(scope=scope)
    return headers.get("sec-fetch-mode", "navigate") == "navigate" and (
        headers.get("sec-fetch-dest", "document") == "document"
    )


def has_two_lengths(scope: Scope) -> bool:
    """Return whether a request has two lengths of its body (RFC 9112, section 6.1: smuggling)."""
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers and "content-length" in headers


def _same_origin(origin: str, scheme: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:  # it is not a URL
        return False
    return (parts.scheme.lower(), parts.netloc.lower()) == (scheme, host.lower())


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Pairs:
    pairs = [(name.lower(), value) for name, value in headers]
    named = {each.strip().lower() for name, value in pairs if name == b"connection" for each in value.split(b",")}
    dropped = _HOP_BY_HOP | (named - _KEPT)
    return [(name, value) for name, value in pairs if name not in dropped]


def _others_cookies(value: bytes) -> bytes:
    pairs = [each.strip() for each in value.split(b";")]
    return b"; ".join(each for each in pairs if each and not _is_ours(each))


def _is_ours(name: bytes) -> bool:
    """Return whether a cookie has a name like those of sessions, of any job."""
    bare = name.strip().lower()
    for prefix in _PREFIXES:
        bare = bare.removeprefix(prefix)
    return bare.startswith(COOKIE.encode())

"""An HTTP client for UCloud's API."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import json
import os
import re
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from slurm_adapter import __version__
from slurm_adapter.core.durations import back_off
from slurm_adapter.core.errors import InvalidConfig, Refused, TryAgain, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


RENEW_SECONDS = 180
"""An access token is renewed if it expires within so many seconds."""


LIFETIME = 600
"""Lifetime in seconds of an access token that does not contain its own."""


BACK_OFF = (10, 320)
"""Seconds before a refused refresh token is used again: after the first refusal, and at most."""


CALL_SECONDS = 10
"""Timeout in seconds of a whole call, during which no jobs are synced. A connection has five of these seconds."""


MOST_BYTES = 64 * 1024 * 1024
"""Maximum size of an answer."""


_REFRESH = "/auth/providers/refresh"


def is_loopback(url: str) -> bool:
    """Return whether this URL leads to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_refresh_token(path: Path) -> str:
    """Return the token in this file. Raises `InvalidConfig` if it cannot be read, or if others can read it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            mode = os.fstat(descriptor).st_mode
            content = os.read(descriptor, 65536)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InvalidConfig(
            f"ucloud.refresh_token: {path} cannot be read: {error.strerror}; write the refresh token that UCloud "
            "showed into this file, readable by the adapter's account only (mode 600)"
        ) from error
    if not stat.S_ISREG(mode) or mode & 0o077:
        raise InvalidConfig(
            f"ucloud.refresh_token: {path} can be read by others (mode {stat.S_IMODE(mode):o}); chmod 600 {path}, and "
            "renew the token in UCloud if somebody may have read it"
        )
    token = content.strip()
    if not re.fullmatch(rb"[\x21-\x7e]+", token):
        raise InvalidConfig(
            f"ucloud.refresh_token: {path} holds no token; write the token as one line, as UCloud showed it"
        )
    return token.decode()


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: Any
    """The decoded JSON; None if the answer was not JSON."""

    @property
    def why(self) -> str:
        """Return UCloud's own explanation."""
        why = self.body.get("why") if isinstance(self.body, dict) else None
        return why[:500] if isinstance(why, str) and why else "no reason given"

    @property
    def missing(self) -> bool:
        """Return whether the resource does not exist, or belongs to another provider.

        For such a resource the newer core answers 403 with a text of its own. If it refuses this program, its 403 says
        `Forbidden`.
        """
        return self.status == 404 or (self.status == 403 and self.why.lower() == "write permission is required")


@dataclass(frozen=True, slots=True, repr=False)
class _Access:
    token: str
    since: float
    until: float


class Client:
    """An HTTP client that calls UCloud as the provider, with a timeout on every call. For one thread at a time.

    It reads the refresh token from its file at each use, so that a renewed token is used at once.
    """

    def __init__(
        self,
        url: str,
        refresh_token: Path,
        clock: Callable[[], float] = time.time,
        *,
        seconds: float = CALL_SECONDS,
    ) -> None:
        """Make a client; `seconds` is the timeout of a whole call."""
        self._seconds = seconds
        self.url = url.rstrip("/")
        self._file = refresh_token
        self._clock = clock
        self._access: _Access | None = None
        self._rejection: _Rejection | None = None
        self._http = httpx.Client(
            base_url=self.url,
            headers={"User-Agent": f"slurm-adapter/{__version__}"},
            timeout=httpx.Timeout(seconds, connect=min(seconds, 5)),
            trust_env=not is_loopback(url),  # a proxy cannot lead to this machine
        )

    def post(self, path: str, body: Mapping[str, Any]) -> _Answer:
        """Send a request and return the answer: any 2xx, 400, 404, 413 or 422.

        Raises as `Receiver.deliver` does. The error contains no secret.
        """
        return self._ask("POST", path, body, {})

    def get(self, path: str, query: Mapping[str, str]) -> _Answer:
        """Send a request as `post` does; an answer that is `missing` is returned, too."""
        return self._ask("GET", path, None, query)

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def refresh(self) -> str:
        """Return a new access token. Raises `Refused` if UCloud does not accept the refresh token."""
        refresh = read_refresh_token(self._file)
        digest = hashlib.sha256(refresh.encode()).digest()
        now, before = self._clock(), self._rejection
        if before is not None and before.digest != digest:
            before = None
        if before is not None and before.since <= now < before.since + before.wait:
            raise TryAgain(
                f"UCloud at {self.url} refused the refresh token in {self._file}; next attempt in "
                f"{before.since + before.wait - now:.0f} s"
            )
        answer = self._call("POST", _REFRESH, {"items": [{"refreshToken": refresh}]}, {}, secret=refresh)
        if answer.status in {400, 401, 403, 404}:
            wait = back_off(0 if before is None else 2 * before.wait, *BACK_OFF)
            self._rejection = _Rejection(digest, now, wait)
            raise Refused(
                f"UCloud at {self.url} refused the refresh token in {self._file} ({answer.status}); write the token "
                "that UCloud shows for this provider into this file, and check ucloud.url"
            )
        self._judge("POST", _REFRESH, answer)
        try:
            token = answer.body["responses"][0]["accessToken"]
        except (LookupError, TypeError):
            token = None
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise Unknown(f"UCloud at {self.url} gave no access token for the refresh token; is ucloud.url right?")
        self._rejection = None
        self._access = _Access(token, now, now + _lifetime(token) - RENEW_SECONDS)
        return token

    def _token(self) -> str:
        access = self._access
        if access is not None and access.since <= self._clock() < access.until:
            return access.token
        return self.refresh()

    def _ask(self, method: str, path: str, body: Any, query: Mapping[str, str]) -> _Answer:
        token = self._token()
        answer = self._call(method, path, body, query, secret=token, authorize=True)
        if answer.status == 401:
            self._access = None
            token = self.refresh()
            answer = self._call(method, path, body, query, secret=token, authorize=True)
        return self._judge(method, path, answer)

    def _judge(self, method: str, path: str, answer: _Answer) -> _Answer:
        """Return an answer to the request itself; raise for all others."""
        request, said = f"{method} {self.url}{path}", f"{answer.status}: {answer.why}"
        if method == "GET" and answer.missing and isinstance(answer.body, dict):
            return answer
        if answer.status in {429, 503}:
            raise TryAgain(f"UCloud is busy or out of service: {request} was answered with {said}")
        if answer.status in {401, 403}:
            raise Refused(f"UCloud refuses this provider: {request} was answered with {said}")
        if 200 <= answer.status < 300 and isinstance(answer.body, dict):
            return answer
        if answer.status in {400, 404, 413, 422} and isinstance(answer.body, dict):
            return answer
        raise Unknown(f"{request} was answered with {said}, which is not an answer of UCloud; is ucloud.url right?")

    def _call(
        self, method: str, path: str, body: Any, query: Mapping[str, str], *, secret: str, authorize: bool = False
    ) -> _Answer:
        """Send one request and read the whole answer within the timeout. No error contains the secret."""
        request = f"{method} {self.url}{path}"
        headers = {"Authorization": f"Bearer {secret}"} if authorize else {}
        deadline = time.monotonic() + self._seconds
        content = bytearray()
        try:
            with self._http.stream(method, path, json=body, params=query, headers=headers) as response:
                for piece in response.iter_bytes():
                    content += piece
                    if time.monotonic() > deadline or len(content) > MOST_BYTES:
                        raise Unknown(
                            f"the answer to {request} is larger than {MOST_BYTES // 1024**2} MiB, or took longer than "
                            f"{self._seconds} s"
                        )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            raise TryAgain(f"UCloud is out of reach: {request}: {error}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unknown(f"UCloud's answer was lost: {request}: {type(error).__name__} {error}") from error
        if not response.is_success:
            content = content.replace(secret.encode(), b"***")
        try:
            return _Answer(response.status_code, json.loads(content))
        except ValueError:
            return _Answer(response.status_code, None)


def _lifetime(token: str) -> float:
    """Return the seconds from `iat` to `exp`, because the clocks of UCloud and of this machine may differ."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"] - claims["iat"])
    except (LookupError, TypeError, ValueError, binascii.Error):
        return LIFETIME


@dataclass(frozen=True, slots=True)
class _Rejection:
    digest: bytes
    """SHA-256 of the refresh token."""
    since: float
    wait: float

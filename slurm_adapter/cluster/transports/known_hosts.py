"""Checks a server's host key against files of known hosts (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT).

paramiko reads such files too, but stops at lines that many sites have (`@cert-authority`), does not support patterns
and `@revoked`, and does not report which file it read. A host is always refused unless its key is in a file.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm_adapter.cluster.transports.interface import NotConnected

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import paramiko

    from slurm_adapter.cluster.transports.ssh_config import Target


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A host's key in a file."""

    algorithm: str
    blob: bytes
    revoked: bool
    place: str
    """File and line."""


def known_keys(files: tuple[Path, ...], name: str) -> list[KnownKey]:
    """Return the keys of a host in these files, in order. A missing file has no keys."""
    return [key for file in files if file.exists() for key in _read(file, name)]


def check_host_key(target: Target, offered: paramiko.PKey, known: list[KnownKey]) -> None:
    """Raise `NotConnected` unless the server's key is known and not revoked."""
    blob = offered.asbytes()
    for key in known:
        if key.revoked and key.blob == blob:
            raise NotConnected(f"{target} offers a host key that {key.place} marks as revoked")
    good = [key for key in known if not key.revoked]
    if any(key.blob == blob for key in good):
        return
    fingerprint = f"{offered.get_name()} {offered.fingerprint}"
    if good:
        raise NotConnected(
            f"the host key of {target} is not the known one: it offers {fingerprint}, "
            f"but {', '.join(key.place for key in good)} has another key of {target.host_key_name}\n"
            f"Another machine may impersonate it. If its administrator confirms the new key, remove the old one: "
            f"ssh-keygen -R '{target.host_key_name}' -f {good[0].place.rpartition(':')[0]}"
        )
    files = ", ".join(f"{file}{'' if file.exists() else ' (does not exist)'}" for file in target.known_hosts)
    raise NotConnected(
        f"the host key of {target} is unknown: it offers {fingerprint}, "
        f"and {target.host_key_name} is not in {files or 'any file: none is configured'}\n"
        f"Compare the fingerprint with its administrator's, then add the key: "
        f"ssh-keyscan -p {target.port} {target.host} >> {target.known_hosts[0] if target.known_hosts else 'FILE'}"
    )


def _read(file: Path, name: str) -> Iterator[KnownKey]:
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        # paramiko does not support host certificates, so the keys of authorities are of no use.
        if len(fields) < 3 or fields[0].startswith("#") or marker not in {"", "@revoked"}:
            continue
        if not _matches(name, fields[0]):
            continue
        try:
            blob = base64.b64decode(fields[2], validate=True)
        except binascii.Error:
            continue
        yield KnownKey(fields[1], blob, revoked=marker == "@revoked", place=f"{file}:{number}")


def _matches(name: str, patterns: str) -> bool:
    """Return whether a line is about this host. It is not if a negated pattern matches."""
    found = False
    for pattern in patterns.split(","):
        if pattern.startswith("|1|"):
            found |= _is_hash_of(name, pattern)
        elif pattern.startswith("!"):
            if _fits(name, pattern[1:]):
                return False
        else:
            found |= _fits(name, pattern)
    return found


def _fits(name: str, pattern: str) -> bool:
    # In these files `[` is not a wildcard, but the start of `[host]:port`.
    return fnmatch.fnmatchcase(name, pattern.lower().replace("[", "[[]"))


def _is_hash_of(name: str, pattern: str) -> bool:
    """Return whether `pattern` is `|1|salt|digest` of the name (HMAC-SHA1; `HashKnownHosts yes`)."""
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in pattern.removeprefix("|1|").split("|"))
    except ValueError:
        return False
    return hmac.digest(salt, name.encode(), "sha1") == digest

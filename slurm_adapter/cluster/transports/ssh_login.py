"""Logs in to an SSH server with keys and certificates, as OpenSSH's client does, and reports all attempts.

The order: configured certificates, then each key file (after the certificate next to it), then the agent's other keys.
If a certificate is refused, its key is still tried.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    SSHCertificateType,
    load_ssh_public_identity,
)
from paramiko.pkey import PublicBlob

from slurm_adapter.cluster.transports.interface import NotConnected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_adapter.cluster.transports.deadline import Deadline
    from slurm_adapter.cluster.transports.ssh_config import Target

_KINDS: tuple[type[paramiko.PKey], ...] = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
_OPENSSH_KEY = re.compile(rb"-----BEGIN OPENSSH PRIVATE KEY-----(.+?)-----END", re.DOTALL)
_OPENSSH_MAGIC = b"openssh-key-v1\0"
_FOR_EVER = 2**64 - 1


@dataclass(frozen=True, slots=True)
class _Certificate:
    """A user's certificate: an authority's signature that a key may log in."""

    public: bytes
    """The public key in the certificate."""
    blob: PublicBlob
    words: str
    """Its content, for a message."""


class _Offer(paramiko.PKey):
    """A key, or a certificate for it, as it is offered to a server.

    If a signature fails (a locked agent, a security key that nobody touches), nothing is raised. An exception would end
    the connection, and the other keys could not be tried.
    """

    def __init__(self, name: str, key: paramiko.PKey, certificate: _Certificate | None = None) -> None:
        self.name = name
        self.failure: Exception | None = None
        self.public_blob = None if certificate is None else certificate.blob
        if isinstance(key, paramiko.AgentKey) and "-cert-" in key.name:  # otherwise the plain key is offered
            self.public_blob = PublicBlob(key.name, key.blob)
        self._key = key

    def get_name(self) -> str:
        """See `PKey.get_name`."""
        return self._key.get_name()

    def asbytes(self) -> bytes:
        """See `PKey.asbytes`."""
        return self._key.asbytes()

    def sign_ssh_data(self, data: bytes, algorithm: str | None = None) -> paramiko.Message | bytes:  # type: ignore[override]  # as AgentKey
        """Sign; after an error return nothing, so that the server refuses, and keep the error."""
        try:
            return self._key.sign_ssh_data(data, algorithm)
        except Exception as error:  # noqa: BLE001 - errors of the agent's socket, or of the library
            self.failure = error
            return b""


def log_in(layer: paramiko.Transport, hop: Target, deadline: Deadline) -> None:
    """Offer keys and certificates one by one. Raises `NotConnected` with the result of each."""
    attempts: list[str] = []
    methods = _ask_for_methods(layer, hop, deadline)
    if methods is None:
        return
    if methods and "publickey" not in methods:
        attempts.append(f"it takes no keys, only {', '.join(methods)}")
    else:
        with _agent() as (agent, held):
            for offer in _Keys(hop, held, attempts).offers():
                if _let_in(layer, hop, offer, deadline, attempts):
                    return
                if not layer.is_active():
                    attempts.append(
                        "no further key was tried, because the server closed the connection (MaxAuthTries?): "
                        "set `key` in [clusters.NAME.ssh], or IdentitiesOnly, to offer fewer keys"
                    )
                    break
            attempts += agent
    raise NotConnected(
        f"{hop} accepted none of our keys:\n"
        + "".join(f"  {attempt}\n" for attempt in attempts)
        + (f"The server allows these ways to log in: {', '.join(methods)}\n" if methods else "")
        + f"Add the public key to ~{hop.user}/.ssh/authorized_keys there; the account must not be locked"
    )


def _ask_for_methods(layer: paramiko.Transport, hop: Target, deadline: Deadline) -> list[str] | None:
    """Return the server's login methods for this user; None if the user is logged in without any."""
    layer.auth_timeout = deadline.left
    try:
        layer.auth_none(hop.user)
    except paramiko.BadAuthenticationType as error:
        return list(error.allowed_types)
    except paramiko.AuthenticationException as error:
        if deadline.passed:
            raise TimeoutError from error
        return []
    return None


def _let_in(layer: paramiko.Transport, hop: Target, offer: _Offer, deadline: Deadline, attempts: list[str]) -> bool:
    """Return whether the server accepts this key; if not, add the reason to `attempts`."""
    extensions: dict[str, bytes] = layer.server_extensions  # type: ignore[attr-defined]  # the stubs lack it
    accepted = extensions.get("server-sig-algs", b"").decode(errors="replace").split(",")
    if "rsa" in offer.get_name() and accepted != [""] and not {"rsa-sha2-512", "rsa-sha2-256"} & set(accepted):
        # Neither OpenSSH nor paramiko supports ssh-rsa alone, which is SHA-1, any longer.
        attempts.append(f"{offer.name}: not tried; for RSA the server takes neither rsa-sha2-512 nor rsa-sha2-256")
        return False
    layer.auth_timeout = deadline.left
    try:
        further = layer.auth_publickey(hop.user, offer)
    except paramiko.AuthenticationException as error:
        # A timeout, or too many attempts (MaxAuthTries), looks like a refusal.
        if deadline.passed:
            raise TimeoutError from error
        attempts.append(f"{offer.name}: {f'it could not sign ({offer.failure})' if offer.failure else 'refused'}")
        return False
    if further:
        attempts.append(f"{offer.name}: accepted, but the server also wants {' or '.join(further)}")
    return not further


@contextlib.contextmanager
def _agent() -> Iterator[tuple[list[str], dict[bytes, paramiko.AgentKey]]]:
    """Yield the reason why the agent has no keys, if so; and its keys and certificates by their public parts."""
    place = os.environ.get("SSH_AUTH_SOCK")
    if place is None:
        yield ["no agent: SSH_AUTH_SOCK is not set"], {}
        return
    if not Path(place).is_socket():
        yield [f"the agent {place}: it is not there"], {}
        return
    try:
        agent = paramiko.Agent()
    except (paramiko.SSHException, OSError) as error:
        yield [f"the agent {place}: {error}"], {}
        return
    with contextlib.closing(agent):
        held = {key.blob: key for key in agent.get_keys()}
        yield [] if held else [f"the agent {place}: it does not answer, or has no keys"], held


class _Keys:
    """Keys and certificates to offer to a server. Unusable ones are listed in `attempts`."""

    def __init__(self, hop: Target, agent_keys: dict[bytes, paramiko.AgentKey], attempts: list[str]) -> None:
        self._hop = hop
        self._agent_keys = agent_keys
        self._attempts = attempts
        self._signers: dict[bytes, tuple[str, paramiko.PKey]] = {}
        """Name and key, by the public part."""

    def offers(self) -> Iterator[_Offer]:
        """Yield all of them, in order."""
        of_files = [(file, public) for file in self._hop.key_files if (public := self._load(file)) is not None]
        if not of_files and not self._hop.key_files:
            self._attempts.append("there is no key: no usual file in ~/.ssh")
        others = [key for blob, key in self._agent_keys.items() if blob not in self._signers]
        if not self._hop.only_key_files:
            self._signers |= {key.blob: (_name_of(key), key) for key in others}
        yield from self._certificates()
        for file, public in of_files:
            yield from self._next_to(file, public)
            yield _Offer(*self._signers[public])
        if not self._hop.only_key_files:
            yield from (_Offer(_name_of(key), key) for key in others)
        elif others:
            self._attempts.append(f"{len(others)} other keys of the agent: not tried, only the key files are used")

    def _load(self, file: Path) -> bytes | None:
        """Find the key of a file, in the agent or in the file itself, and return its public part."""
        public = _public_key(file)
        if public is not None and public in self._agent_keys:
            self._signers[public] = f"{file} (by the agent)", self._agent_keys[public]
            return public
        key = _private_key(file, public, self._attempts)
        if key is None:
            return None
        self._signers[key.asbytes()] = str(file), key
        return key.asbytes()

    def _certificates(self) -> Iterator[_Offer]:
        """Yield the configured certificates."""
        for file in self._hop.certificate_files or ():
            certificate = _certificate(file, self._attempts)
            if certificate is not None and certificate.public in self._signers:
                yield _Offer(f"{file} ({certificate.words})", self._signers[certificate.public][1], certificate)
            elif certificate is not None:
                self._attempts.append(f"{file} ({certificate.words}): neither a key file nor the agent has its key")

    def _next_to(self, file: Path, public: bytes) -> Iterator[_Offer]:
        """Yield the certificate next to a key file."""
        of_key = file.with_name(f"{file.name.removesuffix('.pub')}-cert.pub")
        if self._hop.certificate_files is not None or not of_key.exists():
            return
        certificate = _certificate(of_key, self._attempts)
        if certificate is not None and certificate.public == public:
            yield _Offer(f"{of_key} ({certificate.words})", self._signers[public][1], certificate)
        elif certificate is not None:
            self._attempts.append(f"{of_key} ({certificate.words}): it is for another key than {file}")


def _name_of(key: paramiko.AgentKey) -> str:
    """Return the name of a key of the agent for a message."""
    words = ""
    if "-cert-" in key.name:
        with contextlib.suppress(ValueError, UnsupportedAlgorithm):
            words = f", {_parse(f'{key.name} {base64.b64encode(key.blob).decode()}'.encode()).words}"
    return f"{key.comment or key.name} (by the agent{words})"


def _private_key(file: Path, public: bytes | None, attempts: list[str]) -> paramiko.PKey | None:
    """Return the key in a file; None if it is unusable, with the reason in `attempts`.

    Not `PKey.from_path`, which fails for a good key with a bad certificate next to it.
    """
    if public is not None and b"sk-" in public[4:7]:
        attempts.append(f"{file}: for a security key (FIDO), which only an agent can use; `ssh-add {file}`")
        return None
    try:
        status = file.stat()
        if status.st_uid == os.geteuid() and status.st_mode & 0o077:
            attempts.append(f"{file}: not used because others can read it; `chmod 600 {file}`")
            return None
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        attempts.append(f"{file}: not a usable key (it is not a text)")
        return None
    except OSError as error:
        attempts.append(f"{file}: {error.strerror}")
        return None
    why: Exception | None = None
    for kind in _KINDS:
        try:
            return kind.from_private_key(io.StringIO(text))
        except paramiko.PasswordRequiredException:
            attempts.append(
                f"{file}: encrypted, and no agent has it; `ssh-add {file}`, or make a key without passphrase"
            )
            return None
        except (paramiko.SSHException, UnsupportedAlgorithm, ValueError, TypeError) as error:
            why = error
    if public is not None and public == _public_of_line(text):
        attempts.append(f"{file}: only the public key, and no agent has the private one")
    else:
        attempts.append(f"{file}: not a usable key ({why})")
    return None


def _public_key(file: Path) -> bytes | None:
    """Return the public part of a key, to find it in the agent: from `FILE.pub`, or from the file itself."""
    for each in (file.with_name(f"{file.name}.pub"), file):
        with contextlib.suppress(OSError, ValueError):
            data = each.read_bytes()
            if public := _public_of_line(data.decode()) or _public_of_private(data):
                return public
    return None


def _public_of_line(text: str) -> bytes | None:
    with contextlib.suppress(ValueError, UnicodeError):
        return PublicBlob.from_string(text).key_blob
    return None


def _public_of_private(data: bytes) -> bytes | None:
    """Return the public part of a private key in OpenSSH's format, which is not encrypted (PROTOCOL.key)."""
    match = _OPENSSH_KEY.search(data)
    blob = base64.b64decode(match[1]) if match else b""
    if not blob.startswith(_OPENSSH_MAGIC):
        return None
    message = paramiko.Message(blob[len(_OPENSSH_MAGIC) :])
    for _ in range(3):  # cipher, key derivation, its options
        message.get_binary()
    message.get_int()
    return message.get_binary()


def _certificate(file: Path, attempts: list[str]) -> _Certificate | None:
    """Return the certificate in a file; None if it is unusable, with the reason in `attempts`."""
    try:
        return _parse(file.read_bytes())
    except OSError as error:
        attempts.append(f"{file}: {error.strerror}")
    except (ValueError, UnsupportedAlgorithm) as error:
        attempts.append(f"{file}: not a usable certificate ({error})")
    return None


def _parse(data: bytes) -> _Certificate:
    identity = load_ssh_public_identity(data)
    if not isinstance(identity, SSHCertificate):
        raise ValueError("it is a plain key")  # noqa: TRY004 - an error of the file's content
    if identity.type is not SSHCertificateType.USER:
        raise ValueError("it is a host's certificate")
    public = identity.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    users = ", ".join(name.decode(errors="replace") for name in identity.valid_principals) or "everybody"
    start, end = identity.valid_after, identity.valid_before
    valid = [f"from {_day(start)}"] if start else []
    valid += [f"until {_day(end)}"] if end != _FOR_EVER else []
    state = "not valid yet" if time.time() < start else "expired" if time.time() >= end else ""
    words = f"a certificate for {users}, valid {' '.join(valid) or 'for ever'}" + (f": {state}" if state else "")
    return _Certificate(base64.b64decode(public.split()[1]), PublicBlob.from_string(data.decode()), words)


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(min(seconds, 253402300799)))  # 9999-12-31

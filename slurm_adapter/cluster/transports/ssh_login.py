"""Logs in to an SSH server with keys and certificates, as OpenSSH's client does, and says what was tried.

The order: certificates that were named, then each key file (with the certificate beside it first), then the agent's
other keys. A refused certificate does not keep its key from being tried.
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
    """A user's certificate: an authority's word that a key may log in."""

    public: bytes
    """The public key that it is for."""
    blob: PublicBlob
    words: str
    """What it says, for a message."""


class _Offer(paramiko.PKey):
    """A key, or a certificate for it, as it is offered to a server.

    Of a signature that fails (an agent that is locked, a security key that nobody touches) nothing is raised: that
    would end the connection, and the other keys could not be tried.
    """

    def __init__(self, name: str, key: paramiko.PKey, certificate: _Certificate | None = None) -> None:
        self.name = name
        self.failure: Exception | None = None
        self.public_blob = None if certificate is None else certificate.blob
        if isinstance(key, paramiko.AgentKey) and "-cert-" in key.name:  # of which it would offer the plain key
            self.public_blob = PublicBlob(key.name, key.blob)
        self._key = key

    def get_name(self) -> str:
        """See `PKey.get_name`."""
        return self._key.get_name()

    def asbytes(self) -> bytes:
        """See `PKey.asbytes`."""
        return self._key.asbytes()

    def sign_ssh_data(self, data: bytes, algorithm: str | None = None) -> paramiko.Message | bytes:  # type: ignore[override]  # as AgentKey
        """Sign, or answer nothing and remember why: the server then refuses."""
        try:
            return self._key.sign_ssh_data(data, algorithm)
        except Exception as error:  # noqa: BLE001 - of the agent's socket, or of the library below
            self.failure = error
            return b""


def log_in(layer: paramiko.Transport, hop: Target, deadline: Deadline) -> None:
    """Offer keys and certificates one by one. Raises `NotConnected` with the fate of each."""
    fates: list[str] = []
    methods = _ask_for_methods(layer, hop, deadline)
    if methods is None:
        return
    if methods and "publickey" not in methods:
        fates.append(f"it takes no keys, only {', '.join(methods)}")
    else:
        with _agent() as (agent, held):
            for offer in _Keys(hop, held, fates).offers():
                if _let_in(layer, hop, offer, deadline, fates):
                    return
                if not layer.is_active():
                    fates.append(
                        "no further key was tried, because the server closed the connection (MaxAuthTries?): "
                        "`key` in [clusters.NAME.ssh], or IdentitiesOnly, makes it fewer"
                    )
                    break
            fates += agent
    raise NotConnected(
        f"{hop} let none of our keys in:\n"
        + "".join(f"  {fate}\n" for fate in fates)
        + (f"The server allows these ways to log in: {', '.join(methods)}\n" if methods else "")
        + f"The public key belongs into ~{hop.user}/.ssh/authorized_keys there, and the account must not be locked"
    )


def _ask_for_methods(layer: paramiko.Transport, hop: Target, deadline: Deadline) -> list[str] | None:
    """Return the ways in which the server lets this user log in; None if it did without any."""
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


def _let_in(layer: paramiko.Transport, hop: Target, offer: _Offer, deadline: Deadline, fates: list[str]) -> bool:
    """Return whether the server lets this one in; if not, say why in `fates`."""
    extensions: dict[str, bytes] = layer.server_extensions  # type: ignore[attr-defined]  # the stubs lack it
    accepted = extensions.get("server-sig-algs", b"").decode(errors="replace").split(",")
    if "rsa" in offer.get_name() and accepted != [""] and not {"rsa-sha2-512", "rsa-sha2-256"} & set(accepted):
        # ssh-rsa alone, which is SHA-1, is neither OpenSSH's nor paramiko's any longer.
        fates.append(f"{offer.name}: not tried; for RSA the server takes neither rsa-sha2-512 nor rsa-sha2-256")
        return False
    layer.auth_timeout = deadline.left
    try:
        further = layer.auth_publickey(hop.user, offer)
    except paramiko.AuthenticationException as error:
        # A timeout, or the end of the server's patience (MaxAuthTries), looks like a refusal.
        if deadline.passed:
            raise TimeoutError from error
        fates.append(f"{offer.name}: {f'it could not sign ({offer.failure})' if offer.failure else 'refused'}")
        return False
    if further:
        fates.append(f"{offer.name}: accepted, but the server also wants {' or '.join(further)}")
    return not further


@contextlib.contextmanager
def _agent() -> Iterator[tuple[list[str], dict[bytes, paramiko.AgentKey]]]:
    """Yield the agent's keys and certificates, by what is public of them; before them, why there are none."""
    where = os.environ.get("SSH_AUTH_SOCK")
    if where is None:
        yield ["no agent: SSH_AUTH_SOCK is not set"], {}
        return
    if not Path(where).is_socket():
        yield [f"the agent {where}: it is not there"], {}
        return
    try:
        agent = paramiko.Agent()
    except (paramiko.SSHException, OSError) as error:
        yield [f"the agent {where}: {error}"], {}
        return
    with contextlib.closing(agent):
        held = {key.blob: key for key in agent.get_keys()}
        yield [] if held else [f"the agent {where}: it does not answer, or holds no keys"], held


class _Keys:
    """What there is to offer to a server. What cannot be used is named in `fates`."""

    def __init__(self, hop: Target, held: dict[bytes, paramiko.AgentKey], fates: list[str]) -> None:
        self._hop = hop
        self._held = held
        self._fates = fates
        self._signers: dict[bytes, tuple[str, paramiko.PKey]] = {}
        """Name and key, by what is public of it."""

    def offers(self) -> Iterator[_Offer]:
        """Yield all of them, in order."""
        of_files = [(file, public) for file in self._hop.key_files if (public := self._load(file)) is not None]
        if not of_files and not self._hop.key_files:
            self._fates.append("there is no key: no usual file in ~/.ssh")
        others = [key for blob, key in self._held.items() if blob not in self._signers]
        if not self._hop.only_key_files:
            self._signers |= {key.blob: (_name_of(key), key) for key in others}
        yield from self._certificates()
        for file, public in of_files:
            yield from self._beside(file, public)
            yield _Offer(*self._signers[public])
        if not self._hop.only_key_files:
            yield from (_Offer(_name_of(key), key) for key in others)
        elif others:
            self._fates.append(f"{len(others)} other keys of the agent: not tried, only the key files are to be used")

    def _load(self, file: Path) -> bytes | None:
        """Find the key of a file, in the agent or in the file itself, and return what is public of it."""
        public = _public_key(file)
        if public is not None and public in self._held:
            self._signers[public] = f"{file} (by the agent)", self._held[public]
            return public
        key = _private_key(file, public, self._fates)
        if key is None:
            return None
        self._signers[key.asbytes()] = str(file), key
        return key.asbytes()

    def _certificates(self) -> Iterator[_Offer]:
        """Yield the certificates that were named."""
        for file in self._hop.certificate_files or ():
            certificate = _certificate(file, self._fates)
            if certificate is not None and certificate.public in self._signers:
                yield _Offer(f"{file} ({certificate.words})", self._signers[certificate.public][1], certificate)
            elif certificate is not None:
                self._fates.append(
                    f"{file} ({certificate.words}): no key file holds the key that it is for, and no agent"
                )

    def _beside(self, file: Path, public: bytes) -> Iterator[_Offer]:
        """Yield the certificate beside a key file."""
        beside = file.with_name(f"{file.name.removesuffix('.pub')}-cert.pub")
        if self._hop.certificate_files is not None or not beside.exists():
            return
        certificate = _certificate(beside, self._fates)
        if certificate is not None and certificate.public == public:
            yield _Offer(f"{beside} ({certificate.words})", self._signers[public][1], certificate)
        elif certificate is not None:
            self._fates.append(f"{beside} ({certificate.words}): it is for another key than {file}")


def _name_of(key: paramiko.AgentKey) -> str:
    """Return how a message calls a key of the agent."""
    words = ""
    if "-cert-" in key.name:
        with contextlib.suppress(ValueError, UnsupportedAlgorithm):
            words = f", {_parse(f'{key.name} {base64.b64encode(key.blob).decode()}'.encode()).words}"
    return f"{key.comment or key.name} (by the agent{words})"


def _private_key(file: Path, public: bytes | None, fates: list[str]) -> paramiko.PKey | None:
    """Return the key in a file; None, and why in `fates`, if it cannot be used.

    Not `PKey.from_path`, which fails for a good key with a bad certificate beside it.
    """
    if public is not None and b"sk-" in public[4:7]:
        fates.append(f"{file}: for a security key (FIDO), which only an agent can use; `ssh-add {file}`")
        return None
    try:
        status = file.stat()
        if status.st_uid == os.geteuid() and status.st_mode & 0o077:
            fates.append(f"{file}: not used because others can read it; `chmod 600 {file}`")
            return None
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        fates.append(f"{file}: not a key that can be used (it is no text)")
        return None
    except OSError as error:
        fates.append(f"{file}: {error.strerror}")
        return None
    why: Exception | None = None
    for kind in _KINDS:
        try:
            return kind.from_private_key(io.StringIO(text))
        except paramiko.PasswordRequiredException:
            fates.append(
                f"{file}: encrypted, and no agent holds it; `ssh-add {file}`, or make a key without passphrase"
            )
            return None
        except (paramiko.SSHException, UnsupportedAlgorithm, ValueError, TypeError) as error:
            why = error
    if public is not None and public == _public_of_line(text):
        fates.append(f"{file}: only the public key, and no agent holds the private one")
    else:
        fates.append(f"{file}: not a key that can be used ({why})")
    return None


def _public_key(file: Path) -> bytes | None:
    """Return what is public of a key, to find it in the agent: from `FILE.pub`, or from the file itself."""
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
    """Return the public part of a private key in OpenSSH's format, where it is not encrypted (PROTOCOL.key)."""
    match = _OPENSSH_KEY.search(data)
    blob = base64.b64decode(match[1]) if match else b""
    if not blob.startswith(_OPENSSH_MAGIC):
        return None
    message = paramiko.Message(blob[len(_OPENSSH_MAGIC) :])
    for _ in range(3):  # cipher, key derivation, its options
        message.get_binary()
    message.get_int()
    return message.get_binary()


def _certificate(file: Path, fates: list[str]) -> _Certificate | None:
    """Return the certificate in a file; None, and why in `fates`, if it cannot be used."""
    try:
        return _parse(file.read_bytes())
    except OSError as error:
        fates.append(f"{file}: {error.strerror}")
    except (ValueError, UnsupportedAlgorithm) as error:
        fates.append(f"{file}: not a certificate that can be used ({error})")
    return None


def _parse(data: bytes) -> _Certificate:
    identity = load_ssh_public_identity(data)
    if not isinstance(identity, SSHCertificate):
        raise ValueError("it is a plain key")  # noqa: TRY004 - of the file's content
    if identity.type is not SSHCertificateType.USER:
        raise ValueError("it is a host's certificate")
    public = identity.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    whom = ", ".join(name.decode(errors="replace") for name in identity.valid_principals) or "everybody"
    start, end = identity.valid_after, identity.valid_before
    valid = [f"from {_day(start)}"] if start else []
    valid += [f"until {_day(end)}"] if end != _FOR_EVER else []
    state = "not valid yet" if time.time() < start else "expired" if time.time() >= end else ""
    words = f"a certificate for {whom}, valid {' '.join(valid) or 'for ever'}" + (f": {state}" if state else "")
    return _Certificate(base64.b64decode(public.split()[1]), PublicBlob.from_string(data.decode()), words)


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(min(seconds, 253402300799)))  # 9999-12-31

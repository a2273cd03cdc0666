"""The certificate that a server shows, and the one that it may demand.

The files are read when the server starts, and again when a connection comes in and one of them has changed,
so a renewed certificate is served without a restart; connections that are open stay as they are. Files that
do not fit together, as while they are being replaced, are passed over until they change again: the server
goes on with what it has.

Standard library only: the command line checks the files before it starts anything.
"""

from __future__ import annotations

import ssl
import stat
import threading
from dataclasses import dataclass
from pathlib import Path

from agentchat_server.settings import ServerSettings


class CertificateError(Exception):
    """The files cannot be used; the message says which, and why."""


@dataclass(frozen=True)
class Certificate:
    """The contents of the files (PEM), which fit together."""

    chain: bytes
    key: bytes
    # Whose certificates clients must show; None: they need none.
    client_ca: bytes | None


# What tells a changed file: inode, size and time of change.
_Signature = tuple[tuple[int, int, int], ...]


class CertificateFiles:
    """The files of a certificate. May be asked by several threads at once."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._cert = cert
        self._key = key
        self._client_ca = client_ca
        self._signature: _Signature | None = None
        self._lock = threading.Lock()

    @classmethod
    def of_settings(cls, settings: ServerSettings) -> CertificateFiles | None:
        """The files that the settings name; None when the server speaks plain text.

        Raises:
            CertificateError: when one is named without the other that it needs.
        """
        cert, key, client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
        if cert and key:
            return cls(Path(cert), Path(key), Path(client_ca) if client_ca else None)
        if cert:
            raise CertificateError("a certificate needs its private key: state --tls-key")
        if key:
            raise CertificateError("a private key needs its certificate: state --tls-cert")
        if client_ca:
            raise CertificateError("a client CA needs TLS: state --tls-cert and --tls-key")
        return None

    @property
    def demands_client_certificates(self) -> bool:
        """Whether clients must show a certificate."""
        return self._client_ca is not None

    def read(self) -> Certificate:
        """Reads and checks the files.

        Raises:
            CertificateError: when one is missing or unreadable, or they do not fit together.
        """
        signature = self._sign()
        certificate = Certificate(
            chain=_read(self._cert),
            key=_read(self._key),
            client_ca=_read(self._client_ca) if self._client_ca is not None else None,
        )
        self._check()
        if self._sign() != signature:
            raise CertificateError("the files of the certificate are being replaced")
        self._signature = signature
        return certificate

    def read_if_changed(self) -> Certificate | None:
        """The contents when the files have changed since they were last read, and None when not.

        Raises:
            CertificateError: as `read`, once for each change.
        """
        with self._lock:
            signature = self._sign()
            if signature == self._signature:
                return None
            # Also when they turn out to be unusable: then the next change is waited for.
            self._signature = signature
            return self.read()

    def key_is_exposed(self) -> bool:
        """Whether every user of the machine may read the key."""
        return bool(stat.S_IMODE(self._key.stat().st_mode) & stat.S_IROTH)

    def is_for(self, host: str) -> bool:
        """Whether a client that calls the server by this name would accept the certificate's names."""
        return _handshake(self._context(), self._cert, host)

    def _sign(self) -> _Signature:
        files = (self._cert, self._key, *([self._client_ca] if self._client_ca is not None else []))
        return tuple(_sign(file) for file in files)

    def _check(self) -> None:
        self._context()
        if self._client_ca is not None:
            try:
                ssl.create_default_context(cafile=self._client_ca)
            except OSError as error:
                raise CertificateError(f"{self._client_ca} holds no certificate in PEM format") from error

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # An encrypted key would ask the terminal for its password; no password fits any.
            context.load_cert_chain(self._cert, self._key, password="")
        except ssl.SSLError as error:
            raise CertificateError(self._explain(error)) from error
        except OSError as error:  # taken away since it was read
            raise CertificateError(f"cannot read {self._cert} and {self._key}: {error.strerror}") from error
        return context

    def _explain(self, error: ssl.SSLError) -> str:
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"the private key in {self._key} does not belong to the certificate in {self._cert}"
        text = self._key.read_text("latin-1")
        if "ENCRYPTED" in text:
            return f"the private key in {self._key} is encrypted; store it without a password"
        if "PRIVATE KEY-----" not in text:
            return f"{self._key} holds no private key in PEM format"
        return f"{self._cert} and {self._key} are no certificate and private key in PEM format"


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot read {file}: {error.strerror}") from error


def _sign(file: Path) -> tuple[int, int, int]:
    try:
        status = file.stat()
    except OSError as error:
        raise CertificateError(f"cannot read {file}: {error.strerror}") from error
    return status.st_ino, status.st_size, status.st_mtime_ns


def _handshake(server: ssl.SSLContext, trusted: Path, host: str) -> bool:
    """Whether a client that trusts the certificate itself would take it for the host's. In memory only."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(trusted)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):
        done = 0
        for end in ends:
            try:
                end.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return False
        if done == len(ends):
            return True
    return False

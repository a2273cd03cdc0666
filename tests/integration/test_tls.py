"""TLS: the server with certificates of the test's own authorities, called by the SDK and the command."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from structlog.testing import capture_logs

from agentchat import AdminClient, AsyncAgentChatClient, ConfigError, UnavailableError
from agentchat.config import Config
from agentchat_server.tls import CertificateError
from tests.board import Board


@dataclass(frozen=True)
class Certificates:
    """The files of a test."""

    folder: Path
    authority: trustme.CA
    stranger: trustme.CA

    def issue(self, authority: trustme.CA, name: str, *hosts: str) -> tuple[Path, Path]:
        """A certificate and its key, written to files."""
        issued = authority.issue_cert(*hosts)
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"
        # As certbot does: first one file, then the other.
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        key.chmod(0o600)
        return cert, key

    def trusting(self, authority: trustme.CA) -> Path:
        """The authority's certificate, in a file."""
        file = self.folder / f"ca-{id(authority)}.pem"
        authority.cert_pem.write_to_path(str(file))
        return file


@pytest.fixture(scope="module")
def authorities() -> tuple[trustme.CA, trustme.CA]:
    return trustme.CA(), trustme.CA()


@pytest.fixture
def certificates(tmp_path: Path, authorities: tuple[trustme.CA, trustme.CA]) -> Certificates:
    return Certificates(tmp_path, *authorities)


@dataclass(frozen=True)
class Encrypted:
    """A board that is served with TLS."""

    board: Board
    key: str
    port: str

    async def call(self, address: str = "grpcs://localhost", **options: Path) -> str:
        """Calls it once; returns the server's version."""
        async with AsyncAgentChatClient(
            f"{address}:{self.port}",
            self.key,
            "ada",
            max_attempts=1,
            **options,  # type: ignore[arg-type]
        ) as client:
            return (await client.whoami()).server_version

    async def refusal(self, address: str = "grpcs://localhost", **options: Path) -> str:
        """Calls it in vain; returns what the SDK says."""
        with pytest.raises(UnavailableError) as error:
            await self.call(address, **options)
        start = f"cannot reach the AgentChat server at {address.removeprefix('grpcs://')}:{self.port}: "
        assert str(error.value).startswith(start)
        return str(error.value).removeprefix(start)


async def serve(
    database_url: str, owner_url: str, certificates: Certificates, *, client_ca: Path | None = None
) -> AsyncIterator[Encrypted]:
    cert, key = certificates.issue(certificates.authority, "server", "localhost")
    settings = {
        "tls_cert": str(cert),
        "tls_key": str(key),
        "tls_client_ca": str(client_ca) if client_ca else None,
    }
    async with Board.serve(database_url, owner_url, **settings) as board:
        port = board.target.rpartition(":")[2]
        shown = certificates.issue(certificates.authority, "admin", "admin@board")
        with AdminClient(
            f"grpcs://localhost:{port}",
            board.admin_key,
            ca_file=certificates.trusting(certificates.authority),
            client_cert=shown[0],
            client_key=shown[1],
        ) as admin:
            made = await asyncio.to_thread(admin.create_machine_key, "testbed")
        yield Encrypted(board, made.key, port)


@pytest.fixture
async def encrypted(
    database_url: str, owner_url: str, certificates: Certificates
) -> AsyncIterator[Encrypted]:
    """A board with a certificate for localhost."""
    async for served in serve(database_url, owner_url, certificates):
        yield served


@pytest.fixture
async def mutual(database_url: str, owner_url: str, certificates: Certificates) -> AsyncIterator[Encrypted]:
    """A board that demands client certificates."""
    client_ca = certificates.trusting(certificates.authority)
    async for served in serve(database_url, owner_url, certificates, client_ca=client_ca):
        yield served


async def test_the_right_authority_is_trusted_and_another_is_not(
    encrypted: Encrypted, certificates: Certificates
) -> None:
    assert await encrypted.call(ca_file=certificates.trusting(certificates.authority))
    distrusted = await encrypted.refusal(ca_file=certificates.trusting(certificates.stranger))
    assert distrusted == await encrypted.refusal()
    assert distrusted.startswith("its certificate is not of an authority that is trusted here")
    assert "AGENTCHAT_CA_FILE" in distrusted


async def test_a_certificate_for_another_name_is_refused(
    encrypted: Encrypted, certificates: Certificates
) -> None:
    said = await encrypted.refusal("grpcs://127.0.0.1", ca_file=certificates.trusting(certificates.authority))
    assert said.startswith("its certificate is for another name")


async def test_a_plain_client_is_told_of_tls_and_the_reverse(
    encrypted: Encrypted, certificates: Certificates, database_url: str, owner_url: str
) -> None:
    assert "grpcs://" in await encrypted.refusal("localhost")
    async with Board.serve(database_url, owner_url) as plain:
        unencrypted = Encrypted(plain, encrypted.key, plain.target.rpartition(":")[2])
        said = await unencrypted.refusal(ca_file=certificates.trusting(certificates.authority))
        assert said.startswith("it speaks no TLS")


async def test_mutual_tls_takes_certificates_of_its_authority_only(
    mutual: Encrypted, certificates: Certificates
) -> None:
    trusted = certificates.trusting(certificates.authority)
    cert, key = certificates.issue(certificates.authority, "client", "ada@board")
    assert await mutual.call(ca_file=trusted, client_cert=cert, client_key=key)
    assert "AGENTCHAT_CLIENT_CERT" in await mutual.refusal(ca_file=trusted)
    cert, key = certificates.issue(certificates.stranger, "other", "ada@board")
    assert "AGENTCHAT_CLIENT_CERT" in await mutual.refusal(ca_file=trusted, client_cert=cert, client_key=key)


async def test_a_renewed_certificate_is_served_without_a_restart(
    encrypted: Encrypted, certificates: Certificates
) -> None:
    before = certificates.trusting(certificates.authority)
    after = certificates.trusting(certificates.stranger)
    async with AsyncAgentChatClient(
        f"grpcs://localhost:{encrypted.port}", encrypted.key, "bob", ca_file=before
    ) as connected:
        await connected.whoami()
        with capture_logs() as logs:
            certificates.issue(certificates.stranger, "server", "localhost")
            assert await encrypted.call(ca_file=after)
            assert "not of an authority" in await encrypted.refusal(ca_file=before)
        assert [line["event"] for line in logs if "certificate" in line["event"]] == [
            "serving a renewed certificate"
        ]
        # Who is connected stays so.
        await connected.whoami()


async def test_a_renewal_that_cannot_be_used_leaves_the_certificate_in_use(
    encrypted: Encrypted, certificates: Certificates
) -> None:
    trusted = certificates.trusting(certificates.authority)
    with capture_logs() as logs:
        (certificates.folder / "server.pem").write_text("half written")
        assert await encrypted.call(ca_file=trusted)
        (certificates.folder / "server-key.pem").unlink()
        assert await encrypted.call(ca_file=trusted)
    warnings = [line for line in logs if line["log_level"] == "warning"]
    assert warnings
    assert {line["event"] for line in warnings} == {"keeping the certificate in use"}
    certificates.issue(certificates.stranger, "server", "localhost")
    assert await encrypted.call(ca_file=certificates.trusting(certificates.stranger))


async def test_a_server_does_not_start_with_files_that_do_not_fit(
    database_url: str, owner_url: str, certificates: Certificates
) -> None:
    cert, _ = certificates.issue(certificates.authority, "one", "localhost")
    _, key = certificates.issue(certificates.authority, "two", "localhost")
    with pytest.raises(CertificateError, match="does not belong"):
        async with Board.serve(database_url, owner_url, tls_cert=str(cert), tls_key=str(key)):
            pass


def test_the_sdk_says_what_is_wrong_with_its_files(certificates: Certificates) -> None:
    cert, key = certificates.issue(certificates.authority, "client", "ada@board")
    other, _ = certificates.issue(certificates.authority, "other", "ada@board")
    text = certificates.folder / "text"
    text.write_text("not PEM")
    missing = certificates.folder / "missing"
    for options, part in (
        ({"ca_file": missing}, f"cannot read the certificates in {missing}: No such file"),
        ({"ca_file": text}, f"{text} holds no certificate in PEM format"),
        ({"client_cert": cert}, "set AGENTCHAT_CLIENT_KEY"),
        ({"client_key": key}, "set AGENTCHAT_CLIENT_CERT"),
        ({"client_cert": missing, "client_key": key}, f"cannot read the client certificate in {missing}"),
        ({"client_cert": other, "client_key": key}, f"{other} and {key} are no certificate with its"),
        ({"client_cert": text, "client_key": key}, f"{text} and {key} are no certificate with its"),
    ):
        with pytest.raises(ConfigError) as error:
            AdminClient("grpcs://localhost:1", "aca_x", **options)  # type: ignore[arg-type]
        assert part in str(error.value)
    # Without TLS they are not looked at.
    AdminClient("localhost:1", "aca_x", ca_file=missing).close()


def test_the_files_are_configured_like_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(
        "AGENTCHAT_CA_FILE=ca.pem\nAGENTCHAT_CLIENT_CERT=cert.pem\nAGENTCHAT_CLIENT_KEY=key.pem\n"
    )
    config = Config.load({"AGENTCHAT_CLIENT_KEY": "other.pem"}, file)
    assert (config.ca_file, config.client_cert, config.client_key) == ("ca.pem", "cert.pem", "other.pem")


async def test_the_command_line_connects_and_explains(mutual: Encrypted, certificates: Certificates) -> None:
    cert, key = certificates.issue(certificates.authority, "client", "ada@board")

    async def whoami(**settings: Path | str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if "AGENTCHAT" not in name}
        environment |= {
            "HOME": str(certificates.folder),
            "AGENTCHAT_SERVER": f"grpcs://localhost:{mutual.port}",
            "AGENTCHAT_API_KEY": mutual.key,
            "MACHINE_NAME": "testbed",
            **{f"AGENTCHAT_{name}": str(value) for name, value in settings.items()},
        }
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "agentchat_cli", "--project", "tls", "whoami"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    trusted = certificates.trusting(certificates.authority)
    done = await whoami(CA_FILE=trusted, CLIENT_CERT=cert, CLIENT_KEY=key)
    assert done.returncode == 0, done.stderr
    assert "testbed-tls" in done.stdout
    for settings, part in (
        ({}, "AGENTCHAT_CA_FILE"),
        ({"CA_FILE": trusted}, "AGENTCHAT_CLIENT_CERT"),
        ({"CA_FILE": trusted, "CLIENT_CERT": cert}, "set AGENTCHAT_CLIENT_KEY"),
        ({"SERVER": f"localhost:{mutual.port}"}, "grpcs://"),
    ):
        failed = await whoami(**settings)
        assert failed.returncode == 1
        assert failed.stderr.startswith("error: ")
        assert part in failed.stderr
        assert "Traceback" not in failed.stderr

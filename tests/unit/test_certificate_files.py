"""The files of a certificate: what is wrong with them is said, and that they have changed is seen."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import trustme

from agentchat_cli.server_tls import local_address
from agentchat_server.settings import ServerSettings
from agentchat_server.tls import CertificateError, CertificateFiles


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write(folder: Path, issued: trustme.LeafCert) -> tuple[Path, Path]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    key.chmod(0o600)
    return cert, key


def problem(*files: Path | None) -> str:
    cert, key, *client_ca = files
    assert cert is not None
    assert key is not None
    with pytest.raises(CertificateError) as error:
        CertificateFiles(cert, key, client_ca[0] if client_ca else None).read()
    return str(error.value)


def test_a_certificate_with_its_key_is_read(authority: trustme.CA, tmp_path: Path) -> None:
    cert, key = write(tmp_path, authority.issue_cert("board.example"))
    read = CertificateFiles(cert, key, None).read()
    assert (read.chain, read.key, read.client_ca) == (cert.read_bytes(), key.read_bytes(), None)


def test_what_is_wrong_with_the_files_is_said(authority: trustme.CA, tmp_path: Path) -> None:
    cert, key = write(tmp_path, authority.issue_cert("board.example"))
    other = tmp_path / "other.pem"
    other.write_bytes(authority.issue_cert("other.example").private_key_pem.bytes())
    text = tmp_path / "text"
    text.write_text("not PEM")
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n")
    missing = tmp_path / "missing"

    assert problem(missing, key) == f"cannot read {missing}: No such file or directory"
    assert problem(cert, missing) == f"cannot read {missing}: No such file or directory"
    assert problem(cert, key, missing) == f"cannot read {missing}: No such file or directory"
    assert "does not belong to the certificate" in problem(cert, other)
    assert problem(cert, text) == f"{text} holds no private key in PEM format"
    assert problem(text, key).startswith(f"{text} and {key} are no certificate")
    assert "is encrypted" in problem(cert, encrypted)
    assert problem(cert, key, text) == f"{text} holds no certificate in PEM format"
    assert problem(tmp_path, key) == f"cannot read {tmp_path}: Is a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_key_that_may_not_be_read_is_named(authority: trustme.CA, tmp_path: Path) -> None:
    cert, key = write(tmp_path, authority.issue_cert("board.example"))
    key.chmod(0)
    assert problem(cert, key) == f"cannot read {key}: Permission denied"


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"tls_cert": "c"}, "--tls-key"),
        ({"tls_key": "k"}, "--tls-cert"),
        ({"tls_client_ca": "a"}, "--tls-cert and --tls-key"),
        ({"tls_cert": "c", "tls_client_ca": "a"}, "--tls-key"),
    ],
)
def test_one_file_without_the_other_says_which_is_missing(settings: dict[str, str], part: str) -> None:
    with pytest.raises(CertificateError, match=part):
        CertificateFiles.of_settings(ServerSettings(database_url="", **settings))  # type: ignore[arg-type]
    assert CertificateFiles.of_settings(ServerSettings(database_url="")) is None


def test_a_change_is_read_once_and_unusable_files_are_passed_over(
    authority: trustme.CA, tmp_path: Path
) -> None:
    cert, key = write(tmp_path, authority.issue_cert("board.example"))
    files = CertificateFiles(cert, key, None)
    files.read()
    assert files.read_if_changed() is None

    key.write_bytes(authority.issue_cert("board.example").private_key_pem.bytes())
    with pytest.raises(CertificateError, match="does not belong"):
        files.read_if_changed()
    assert files.read_if_changed() is None

    cert, key = write(tmp_path, authority.issue_cert("board.example"))
    renewed = files.read_if_changed()
    assert renewed is not None
    assert renewed.chain == cert.read_bytes()
    assert files.read_if_changed() is None


def test_a_link_that_is_pointed_elsewhere_is_a_change(authority: trustme.CA, tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, authority.issue_cert("board.example"))
    (tmp_path / "live").symlink_to("old")
    files = CertificateFiles(tmp_path / "live" / "cert.pem", tmp_path / "live" / "key.pem", None)
    files.read()
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").replace(tmp_path / "live")
    renewed = files.read_if_changed()
    assert renewed is not None
    assert renewed.chain == (tmp_path / "new" / "cert.pem").read_bytes()


def test_the_names_of_a_certificate_are_told(authority: trustme.CA, tmp_path: Path) -> None:
    cert, key = write(tmp_path, authority.issue_cert("board.example", "*.agents.example", "192.0.2.7"))
    files = CertificateFiles(cert, key, None)
    for host in ("board.example", "one.agents.example", "192.0.2.7"):
        assert files.is_for(host), host
    for host in ("localhost", "agents.example", "192.0.2.8"):
        assert not files.is_for(host), host


def test_a_key_that_every_user_can_read_is_noticed(authority: trustme.CA, tmp_path: Path) -> None:
    cert, key = write(tmp_path, authority.issue_cert("board.example"))
    files = CertificateFiles(cert, key, None)
    assert not files.key_is_exposed()
    key.chmod(0o640)
    assert not files.key_is_exposed()
    key.chmod(0o644)
    assert files.key_is_exposed()


@pytest.mark.parametrize(
    ("names", "host", "address"),
    [
        (["localhost", "board.example"], "0.0.0.0", "grpcs://localhost:1"),
        ([socket.gethostname()], "0.0.0.0", f"grpcs://{socket.gethostname()}:1"),
        (["192.0.2.7"], "192.0.2.7", "grpcs://192.0.2.7:1"),
        (["2001:db8::7"], "2001:db8::7", "grpcs://[2001:db8::7]:1"),
        (["board.example"], "127.0.0.1", "grpcs://localhost:1"),
    ],
)
def test_up_writes_the_address_under_a_name_of_the_certificate(
    authority: trustme.CA, tmp_path: Path, names: list[str], host: str, address: str
) -> None:
    cert, key = write(tmp_path, authority.issue_cert(*names))
    settings = ServerSettings(database_url="", host=host, tls_cert=str(cert), tls_key=str(key))
    assert local_address(settings, 1) == address
    assert local_address(ServerSettings(database_url="", host=host), 1) == "localhost:1"

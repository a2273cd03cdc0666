"""The options of a server that encrypt its connections."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from agentchat_server.settings import ServerSettings


def _file(name: str, what: str) -> Any:
    return click.option(
        f"--{name}",
        envvar=f"AGENTCHAT_{name.replace('-', '_').upper()}",
        type=click.Path(dir_okay=False, path_type=str),
        metavar="FILE",
        help=what,
    )


TLS_OPTIONS = (
    _file("tls-cert", "Serve TLS with this certificate (PEM), followed by those of its issuers if any."),
    _file("tls-key", "Private key of the certificate (PEM, without a password)."),
    _file("tls-client-ca", "Demand client certificates, issued by these authorities (PEM)."),
)
"""Their names are those of the fields of `ServerSettings`."""


def check_tls(settings: ServerSettings) -> bool:
    """Whether the server is to speak TLS; warns of a private key that anybody can read.

    Raises `click.UsageError` when one of the files is missing or they do not fit together.
    """
    from agentchat_server.tls import CertificateError, CertificateFiles

    try:
        files = CertificateFiles.of_settings(settings)
        if files is None:
            return False
        files.read()
    except CertificateError as error:
        raise click.UsageError(str(error)) from error
    if files.key_is_exposed():
        key = settings.tls_key
        click.echo(f"warning: every user can read {key}; run: chmod go= {key}", err=True)
    return True


def local_address(settings: ServerSettings, port: int) -> str:
    """What `AGENTCHAT_SERVER` is on this machine; with TLS, under a name that the certificate holds.

    That is `localhost` if the certificate says so, or else this machine's name, or the address that is
    listened on. A certificate for none of them leaves `localhost`, and the owner has to state its name.
    """
    from agentchat_server.tls import CertificateFiles

    files = CertificateFiles.of_settings(settings)
    if files is None:
        return f"localhost:{port}"
    names = ("localhost", socket.getfqdn(), socket.gethostname(), settings.host)
    name = next((name for name in names if files.is_for(name)), "localhost")
    return f"grpcs://[{name}]:{port}" if ":" in name else f"grpcs://{name}:{port}"

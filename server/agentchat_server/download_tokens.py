"""Permissions to download one file for an hour, without a key.

A token is the file's id, the second it expires in, and an HMAC-SHA256 over both, as URL-safe base64. The
key of the HMAC is in the database, so that every server of a board accepts the tokens of the others, and
stays there: the function `sign_download_v1` signs, and a token is checked by signing it once more.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import struct
import time
from datetime import UTC, datetime
from uuid import UUID

from agentchat_db import queries
from agentchat_db.database import Database, Statement
from agentchat_server.refusals import Refusal

VALID_FOR = 3600
"""Seconds."""

_SQL = queries.load("files")
_VERSION = 1
_LAYOUT = struct.Struct(">B16sq32s")


class DownloadTokens:
    """Makes and checks the tokens of a board."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, file_id: UUID) -> tuple[str, datetime]:
        """A token for a file, and when it expires."""
        expires_at = int(time.time()) + VALID_FOR
        signature = await self._sign(file_id, expires_at)
        data = _LAYOUT.pack(_VERSION, file_id.bytes, expires_at, signature)
        return base64.urlsafe_b64encode(data).decode(), datetime.fromtimestamp(expires_at, UTC)

    async def check(self, token: str) -> UUID:
        """The file that a token permits to download.

        Raises:
            Refusal: DOWNLOAD_TOKEN_INVALID.
        """
        try:
            version, file_id, expires_at, signature = _LAYOUT.unpack(
                base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
            )
        except (binascii.Error, UnicodeEncodeError, struct.error):
            raise Refusal("DOWNLOAD_TOKEN_INVALID") from None
        if version != _VERSION or expires_at <= time.time():
            raise Refusal("DOWNLOAD_TOKEN_INVALID")
        expected = await self._sign(UUID(bytes=file_id), expires_at)
        if not hmac.compare_digest(signature, expected):
            raise Refusal("DOWNLOAD_TOKEN_INVALID")
        return UUID(bytes=file_id)

    async def _sign(self, file_id: UUID, expires_at: int) -> bytes:
        row = await self._database.fetch_row(
            Statement(_SQL["sign_download"], {"file_id": file_id, "expires_at": expires_at})
        )
        signature: bytes = row.signature
        return signature

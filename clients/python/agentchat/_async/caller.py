"""What the clients have in common: a transport, and an end."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from agentchat._async.transport import AsyncTransport


class AsyncCaller:
    """Something that calls a server."""

    _transport: AsyncTransport

    @property
    def server(self) -> str:
        """The address that is called, for example `localhost:50051`."""
        return str(self._transport.address)

    async def close(self) -> None:
        """Ends the watches and the connection. Closing again does nothing."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

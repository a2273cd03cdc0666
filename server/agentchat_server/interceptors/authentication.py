"""Finds out who calls before a service sees the call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from structlog.contextvars import bind_contextvars

from agentchat_server.identity import (
    Authenticator,
    hash_key,
    set_current_admin_key_hash,
    set_current_caller,
)
from agentchat_server.interceptors import Context, Interceptor, Stream, Unary
from agentchat_server.refusals import Refusal

KEY_HEADER = "x-agent-api-key"
NAME_HEADER = "x-agent-name"
ADMIN_KEY_HEADER = "x-admin-key"

_ADMIN_SERVICE = "/agentchat.v1.AdminService/"
_DOWNLOAD_FILE = "/agentchat.v1.FileService/DownloadFile"


class AuthenticationInterceptor(Interceptor):
    """Sets the caller of AgentChat's own services, from the metadata of the call."""

    def __init__(self, authenticator: Authenticator) -> None:
        super().__init__()
        self._authenticator = authenticator

    def wrap_unary(self, method: str, handler: Unary) -> Unary:
        async def authenticated(request: Any, context: Context) -> Any:
            await self._identify(method, context)
            return await handler(request, context)

        return authenticated

    def wrap_stream(self, method: str, handler: Stream) -> Stream:
        async def authenticated(request: Any, context: Context) -> AsyncIterator[Any]:
            if not _permits_itself(method, request):
                await self._identify(method, context)
            async for response in handler(request, context):
                yield response

        return authenticated

    async def _identify(self, method: str, context: Context) -> None:
        stated = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        if method.startswith(_ADMIN_SERVICE):
            admin_key = stated.get(ADMIN_KEY_HEADER)
            if not admin_key:
                raise Refusal("ADMIN_KEY_MISSING")
            set_current_admin_key_hash(hash_key(admin_key))
        else:
            caller = await self._authenticator.authenticate(stated.get(KEY_HEADER), stated.get(NAME_HEADER))
            set_current_caller(caller)
            bind_contextvars(agent=caller.name)


def _permits_itself(method: str, request: Any) -> bool:
    """Whether a request carries its own permission: a download token, which the service checks."""
    return method == _DOWNLOAD_FILE and request.WhichOneof("source") == "download_token"

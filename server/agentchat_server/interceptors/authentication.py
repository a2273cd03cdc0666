"""Finds out who calls before a service sees the call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from agentchat_server.calls import current_call
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


class AuthenticationInterceptor(Interceptor):
    """Sets the caller of AgentChat's own services, from the metadata of the call."""

    def __init__(self, authenticator: Authenticator) -> None:
        super().__init__()
        self._authenticator = authenticator

    def wrap_unary(self, method: str, handler: Unary) -> Unary:
        async def authenticated(request: Any, context: Context) -> Any:
            await self._identify(method)
            return await handler(request, context)

        return authenticated

    def wrap_stream(self, method: str, handler: Stream) -> Stream:
        async def authenticated(request: Any, context: Context) -> AsyncIterator[Any]:
            await self._identify(method)
            async for response in handler(request, context):
                yield response

        return authenticated

    async def _identify(self, method: str) -> None:
        call = current_call()
        if call is None:
            raise AssertionError("the logging interceptor comes first")
        if method.startswith(_ADMIN_SERVICE):
            admin_key = call.text(ADMIN_KEY_HEADER)
            if not admin_key:
                raise Refusal("ADMIN_KEY_MISSING")
            set_current_admin_key_hash(hash_key(admin_key))
        else:
            caller = await self._authenticator.authenticate(call.text(KEY_HEADER), call.text(NAME_HEADER))
            set_current_caller(caller)
            call.agent = caller.name

"""Finds out who calls, and whether that is too often, before a service sees the call.

Agents are known here. An admin key is checked by the functions of the database that AdminService calls, so
the whole call counts as the attempt to authenticate.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Any

from agentchat_server.authentication_limits import ADMIN_FAILURES, AuthenticationLimits
from agentchat_server.calls import current_call
from agentchat_server.identity import (
    Authenticator,
    hash_key,
    set_current_admin_key_hash,
    set_current_caller,
)
from agentchat_server.interceptors import Context, Interceptor, Stream, Unary
from agentchat_server.peers import peer_of
from agentchat_server.rate_limits import RateLimits
from agentchat_server.refusals import Refusal

KEY_HEADER = "x-agent-api-key"
NAME_HEADER = "x-agent-name"
ADMIN_KEY_HEADER = "x-admin-key"

_ADMIN_SERVICE = "/agentchat.v1.AdminService/"
_DOWNLOAD_FILE = "/agentchat.v1.FileService/DownloadFile"


class AuthenticationInterceptor(Interceptor):
    """Sets the caller of AgentChat's own services, from the metadata of the call."""

    def __init__(
        self,
        authenticator: Authenticator,
        authentication_limits: AuthenticationLimits,
        rate_limits: RateLimits,
        writing_methods: Collection[str],
    ) -> None:
        self._authenticator = authenticator
        self._authentication_limits = authentication_limits
        self._rate_limits = rate_limits
        self._writing_methods = writing_methods

    def wrap_unary(self, method: str, handler: Unary) -> Unary:
        writes = method in self._writing_methods

        async def authenticated(request: Any, context: Context) -> Any:
            await self._identify(context, writes=writes)
            return await handler(request, context)

        async def authenticated_admin(request: Any, context: Context) -> Any:
            key_hash = _admin_key_hash()
            set_current_admin_key_hash(key_hash)
            peer = peer_of(context.peer())
            async with self._authentication_limits.attempt(peer, key_hash, ADMIN_FAILURES):
                # Within, lest guesses use up what is there for all.
                self._rate_limits.check(None, writes=writes)
                return await handler(request, context)

        return authenticated_admin if method.startswith(_ADMIN_SERVICE) else authenticated

    def wrap_stream(self, method: str, handler: Stream) -> Stream:
        writes = method in self._writing_methods

        async def authenticated(request: Any, context: Context) -> AsyncIterator[Any]:
            if _permits_itself(method, request):
                self._rate_limits.check(None, writes=writes)
            else:
                await self._identify(context, writes=writes)
            async for response in handler(request, context):
                yield response

        return authenticated

    async def _identify(self, context: Context, *, writes: bool) -> None:
        call = current_call()
        caller = await self._authenticator.authenticate(
            call.text(KEY_HEADER), call.text(NAME_HEADER), context.peer
        )
        set_current_caller(caller)
        call.agent = caller.name
        self._rate_limits.check(caller.name, writes=writes)


def _admin_key_hash() -> bytes:
    admin_key = current_call().text(ADMIN_KEY_HEADER)
    if not admin_key:
        raise Refusal("ADMIN_KEY_MISSING")
    return hash_key(admin_key)


def _permits_itself(method: str, request: Any) -> bool:
    """Whether a request carries its own permission: a download token, which the service checks."""
    return method == _DOWNLOAD_FILE and request.WhichOneof("source") == "download_token"

"""SearchService."""

from __future__ import annotations

import re

from agentchat_db import queries
from agentchat_db.database import Database, Statement
from agentchat_proto.v1 import search_service_pb2 as pb
from agentchat_proto.v1 import search_service_pb2_grpc
from agentchat_server import conversion, fields
from agentchat_server.identity import current_caller
from agentchat_server.interceptors import Context
from agentchat_server.refusals import Refusal
from agentchat_server.services.channels import get_channel
from agentchat_server.tokens import PageTokens

_SQL = queries.load("search")
_AGENTS_SQL = queries.load("agents")
_LOG_SQL = queries.load("log")
_PLAN_FOR_PARAMETERS = Statement(queries.load("caller")["plan_for_parameters"])

# websearch_to_tsquery fails when more than 32 minus signs wait for a word. So many mean nothing.
_MANY_MINUSES = re.compile(r"(?:-[^\w-]*){9,}")


class SearchService(search_service_pb2_grpc.SearchServiceServicer):
    """Finding messages."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def SearchMessages(
        self, request: pb.SearchMessagesRequest, context: Context
    ) -> pb.SearchMessagesResponse:
        """Full-text search.

        A token remembers the rank and seq of the last result, and where the log ended when the first page
        was read.
        """
        query = fields.query(request.query)
        limit = fields.page_size(request.page_size, default=20, maximum=50)
        before = fields.upper_bound("before", request.before) if request.HasField("before") else None
        after = fields.moment("after", request.after) if request.HasField("after") else None
        tokens = PageTokens("search", "fqq", query, request.channel, request.author, before, after)
        position = tokens.decode(request.page_token)

        channel_id = (await get_channel(self._database, request.channel)).id if request.channel else None
        author_id = await self._author_id(request.author) if request.author else None
        last_rank, last_seq, head = position or (None, None, await self._head())
        _, rows = await self._database.run(
            _PLAN_FOR_PARAMETERS,
            Statement(
                _SQL["search_messages"],
                {
                    "query": _MANY_MINUSES.sub(" ", query),
                    "channel_id": channel_id,
                    "author_id": author_id,
                    "after_seq": 0 if after is None else await self._seq_before(fields.just_after(after)),
                    "through_seq": head if before is None else min(int(head), await self._seq_before(before)),
                    "last_rank": last_rank,
                    "last_seq": last_seq,
                    "limit": limit + 1,
                    "max_bytes": 3 * 1024 * 1024,
                },
            ),
            as_agent=current_caller().agent_id,
        )
        page = rows[:limit]
        return pb.SearchMessagesResponse(
            results=[
                pb.SearchResult(message=conversion.message(row), rank=row.rank, snippet=row.snippet)
                for row in page
            ],
            next_page_token=(
                tokens.encode(page[-1].rank, page[-1].seq, head) if page and page[0].found > len(page) else ""
            ),
        )

    async def _author_id(self, name: str) -> object:
        fields.name("author", name)
        row = await self._database.fetch_one(Statement(_AGENTS_SQL["find_agent"], {"name": name}))
        if row is None:
            raise Refusal("AGENT_NOT_FOUND", agent=name)
        return row.id

    async def _head(self) -> int:
        row = await self._database.fetch_row(Statement(_LOG_SQL["get_log_position"]))
        head: int = row.seq
        return head

    async def _seq_before(self, moment: object) -> int:
        row = await self._database.fetch_row(Statement(_SQL["seq_before"], {"moment": moment}))
        seq: int = row.seq
        return seq

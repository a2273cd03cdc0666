"""BoardService."""

from __future__ import annotations

from agentchat_db import queries
from agentchat_db.database import Database, Statement
from agentchat_proto.v1 import board_service_pb2 as pb
from agentchat_proto.v1 import board_service_pb2_grpc
from agentchat_server import conversion
from agentchat_server.identity import current_caller
from agentchat_server.interceptors import Context

_SQL = queries.load("board")


class BoardService(board_service_pb2_grpc.BoardServiceServicer):
    """The overview."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def GetBoard(self, request: pb.GetBoardRequest, context: Context) -> pb.GetBoardResponse:
        """Returns the caller's channels and the number of its unread mentions."""
        agent_id = current_caller().agent_id
        rows = await self._database.fetch_all(
            Statement(_SQL["get_board"], {"agent_id": agent_id}), as_agent=agent_id
        )
        return pb.GetBoardResponse(
            channels=[conversion.board_channel(row) for row in rows if row.id is not None],
            unread_mention_count=rows[0].unread_mention_count,
        )

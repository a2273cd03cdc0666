"""Structured logs: a JSON object a line, on stderr. Keys, contents and metadata are never logged."""

from __future__ import annotations

import logging
import sys

import structlog

from agentchat_server.calls import add_call


def configure_logs(level: str) -> None:
    """Sends the logs of this process to stderr, from a level on: debug, info, warning or error."""
    structlog.configure(
        processors=[
            add_call,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # What libraries log, which is little, and only when it is a warning.
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )

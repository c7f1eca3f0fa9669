"""structlog as JSON lines on stderr, with the bound context: trace, request id, deployment, stage, worker."""

from __future__ import annotations

import logging
import sys

import structlog

from shared.tracing import current_trace_id


def configure_logging(role: str, level: str = "info") -> None:
    """Configures structlog and the standard library's logging. Call it once, at the start of a process."""

    def say_role(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        # Not bound to the context, because threads start with an empty one.
        event.setdefault("role", role)
        return event

    def say_trace(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        trace_id = current_trace_id()
        if trace_id is not None:
            event.setdefault("trace_id", trace_id)
        return event

    shared_processors: list[structlog.typing.Processor] = [
        say_role,
        say_trace,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared_processors, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared_processors,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("httpx", "httpcore", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)

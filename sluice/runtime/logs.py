"""Structured logs: one line with fields per change of state."""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from functools import partial
from types import MappingProxyType
from typing import Any

import structlog

from sluice.runtime.outages import Server
from sluice.runtime.repeat_filter import FIELDS, RepeatFilter
from sluice.runtime.terminal_text import shown


def show_values(_logger: object, _name: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escapes characters that a terminal would interpret. The line breaks of a traceback are kept."""
    for name, value in fields.items():
        if isinstance(value, str):
            lines = value.split("\n") if name in ("exception", "stack") else [value]
            fields[name] = "\n".join(map(shown, lines))
    return fields


def configure_logs(
    *, log_format: str, level: str, process: str, addresses: Mapping[Server, str] = MappingProxyType({})
) -> None:
    """Writes the lines of structlog and of the standard library's loggers to stderr in one format.

    Idempotent. A line about an outage contains the address of the server from `addresses`.
    """
    logging.captureWarnings(True)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        # No colours in a file or in the log of a container.
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RepeatFilter(addresses))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=FIELDS)],
            processors=[
                partial(_complete, process),
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                show_values,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Only warnings are logged: with level INFO, these loggers write a line per reconnect and per cancelled
    # queue, and two lines per batch.
    for noisy in (
        "kafka",
        "kombu",
        "amqp",
        "celery.app.trace",
        "celery.worker.strategy",
        "celery.worker.consumer",
    ):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    # This logger warns whenever a step takes 0.1 s, which happens often on a busy machine.
    logging.getLogger("kafka.net.selector").setLevel(max(logging.ERROR, root.level))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _complete(process: str, _logger: object, _method: str, line: dict[str, Any]) -> dict[str, Any]:
    """Adds the name of the process, in every thread, and formats an error as one line."""
    error = line.get("error")
    if isinstance(error, BaseException):
        line["error"] = " ".join(str(error).split()) or type(error).__name__
    return {**line, "process": process}

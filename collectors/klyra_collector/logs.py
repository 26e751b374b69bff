"""Structured logs on standard error: lines of JSON, or readable text on a terminal."""

from __future__ import annotations

import contextlib
import logging
import sys

import structlog


class StandardError:
    """Writes each line to the standard error of the moment; a line that cannot be written is given up.

    A log whose reader died must not stop what it speaks of: sealing would end with the first warning.
    """

    def msg(self, line: str) -> None:
        """Write one line."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    debug = info = warning = error = critical = exception = msg


def log_to_standard_error(*_: object) -> StandardError:
    """Return where log lines go: a logger factory of structlog."""
    return StandardError()


def configure_logs(role: str) -> None:
    """Set up logging for this process, what libraries log included; called once by its main."""
    render: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        render = structlog.dev.ConsoleRenderer(pad_event_to=24)
    common: list[structlog.typing.Processor] = [
        _naming(role),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    finish: list[structlog.typing.Processor] = [structlog.processors.format_exc_info, render]
    structlog.configure(
        processors=[*common, *finish],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=log_to_standard_error,
        cache_logger_on_first_use=True,
    )
    of_libraries = logging.StreamHandler(sys.stderr)
    of_libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *common],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[of_libraries])
    # A server that does not answer is told of by whoever asked it, once and with a remedy.
    logging.getLogger("elastic_transport").setLevel(logging.ERROR)


def _naming(role: str) -> structlog.typing.Processor:
    def name(
        _logger: structlog.typing.WrappedLogger, _method: str, line: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        return {"role": role, **line}

    return name

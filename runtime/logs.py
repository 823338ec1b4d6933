"""Log lines as text or JSON, on standard error and in a file; never a traceback.

A traceback may quote a record. Nothing that is logged depends on one: not its text, nor how many
there are, nor a loss. What another party wrote cannot begin a line of its own, nor command the terminal
that shows the log: every message is cleaned here, so that no caller has to.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO

from hortus.runtime.errors import in_one_line

_MESSAGE_CHARACTERS = 2000
_FILE_BYTES = 10 * 2**20
_FILES_KEPT = 5
_ROOT = "hortus"


class Form(StrEnum):
    """How a log line is written."""

    TEXT = "text"
    JSON = "json"


class _Formatter(logging.Formatter):
    """One line a record: time in UTC, level, logger and message."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        message = in_one_line(record.getMessage(), _MESSAGE_CHARACTERS)
        if record.exc_info and record.exc_info[0]:
            message += f" ({record.exc_info[0].__name__})"
        if self._form is Form.TEXT:
            return f"{time} {record.levelname} {message}"
        fields = {"time": time, "level": record.levelname, "logger": record.name, "event": message}
        return json.dumps(fields, ensure_ascii=False)


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is now: a display that redraws itself stands in for it meanwhile."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def clean_early_logging() -> None:
    """Gives the same form to warnings of a command that keeps no log; Python prints them as they are.

    That Matplotlib cannot keep its list of fonts is no one's concern where a home cannot be written.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Formatter(Form.TEXT))


def configure_logging(path: Path, form: Form) -> None:
    """Sends what Hortus logs to standard error and to a file, which is rotated at 10 MiB.

    Args:
        path: The file; its folder is made if need be.
        form: Text, or one JSON object a line.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    logger = logging.getLogger(_ROOT)
    logger.setLevel(logging.INFO)
    # A library that logs to the root logger would write each line once more, in its own form.
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    for handler in (
        _StandardError(),
        RotatingFileHandler(
            path, maxBytes=_FILE_BYTES, backupCount=_FILES_KEPT, encoding="utf-8", delay=True
        ),
    ):
        handler.setFormatter(_Formatter(form))
        logger.addHandler(handler)

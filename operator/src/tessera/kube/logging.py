"""One line of JSON for each log record of a process, plain text for a person at a terminal.

Log about an object with `extra=about(obj)`: the keys kind, namespace, name and uid then stand beside the
message, and all lines of one object can be found by them.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

OBJECT_KEYS = ("kind", "namespace", "object_name", "uid")
LEVEL_VARIABLE = "TESSERA_LOG_LEVEL"


def setup_logging(process: str, *, stream: TextIO | None = None, level: str | None = None) -> None:
    """Make all logging of this process go to `stream` (stderr): JSON lines, or plain text on a terminal.

    The level is `level`, else `$TESSERA_LOG_LEVEL`, else INFO. Raises ValueError for a level that does not
    exist.
    """
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    if target.isatty():
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")
        )
    else:
        handler.setFormatter(JsonFormatter(process))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel((level or os.environ.get(LEVEL_VARIABLE) or "INFO").upper())
    # These two tell of every request; ours are counted in tessera_api_requests_total.
    for noisy in ("aiohttp.access", "kopf._cogs.clients"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def about(obj: Mapping[str, Any]) -> dict[str, str]:
    """The `extra=` of a log call that names an object."""
    metadata = obj.get("metadata") or {}
    found = {
        "kind": obj.get("kind"),
        "namespace": metadata.get("namespace"),
        # "name" itself is taken: it is the logger's name in a log record.
        "object_name": metadata.get("name"),
        "uid": metadata.get("uid"),
    }
    return {key: str(value) for key, value in found.items() if value}


class JsonFormatter(logging.Formatter):
    """A record as one line: time, level, process, logger, message, the object's keys, and the traceback if
    any.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key in OBJECT_KEYS:
            value = getattr(record, key, None)
            if value is not None:
                line["name" if key == "object_name" else key] = value
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)

"""One-line logs: text for a terminal, JSON for machines.

    log = logs.get("hosts")
    log.info("host connected", host="example.com", cursor=12)

Promises: one event is one line and one `write`, whatever thread it comes from; values are escaped, so a peer cannot
forge a line; `warn_rate` prints a key at most once a minute (R8) and keeps a bounded number of keys.
Any thread may call anything here. `configure` belongs to start-up, before other threads run.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Literal

from zlay.shared import look_up

__all__ = ["LEVELS", "Format", "Logger", "configure", "for_terminal", "get"]

Format = Literal["text", "json"]
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

MAX_VALUE_CHARS = 2_000  # of one value: peers' texts are bounded before they reach a log
RATE_SECONDS = 60.0  # R8: one warning per host and reason per minute
MAX_RATE_KEYS = 20_000  # about 3,000 hosts times the few reasons each of them shows; then the memory starts anew


@dataclass(slots=True)
class _Sink:
    """Where lines go. Replaced as a whole by `configure`."""

    form: Format = "text"
    level: int = LEVELS["info"]
    fd: int = 2


@dataclass(slots=True)
class _Rates:
    """When each key was last printed, and how often it was kept back since. Guarded by `lock`."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    last: dict[str, tuple[float, int]] = field(default_factory=dict)

    def admit(self, key: str, now: float) -> int | None:
        """The number of times kept back since the last line, or None when this one is kept back too."""
        with self.lock:
            seen = look_up(self.last, key)
            if seen is not None and now - seen[0] < RATE_SECONDS:
                self.last[key] = (seen[0], seen[1] + 1)
                return None
            if len(self.last) >= MAX_RATE_KEYS:
                self.last.clear()
            self.last[key] = (now, 0)
            return 0 if seen is None else seen[1]


_sink = _Sink()
_rates = _Rates()


def configure(form: Format = "text", level: str = "info", fd: int = 2) -> None:
    """Chooses form, least level and file descriptor of all loggers. Raises KeyError on an unknown level."""
    global _sink
    _sink = _Sink(form, LEVELS[level], fd)


def get(name: str) -> Logger:
    """A logger that names its part of the program in each line."""
    return Logger(name)


@dataclass(frozen=True, slots=True)
class Logger:
    """Writes lines for one part of the program. Any thread."""

    name: str

    def debug(self, event: str, **values: object) -> None:
        """What only a developer wants to know."""
        self._write("debug", event, values)

    def info(self, event: str, **values: object) -> None:
        """What an operator may want to know."""
        self._write("info", event, values)

    def warning(self, event: str, **values: object) -> None:
        """What an operator should look at, some time."""
        self._write("warning", event, values)

    def error(self, event: str, **values: object) -> None:
        """What an operator should look at now."""
        self._write("error", event, values)

    def warn_rate(self, key: str, event: str, **values: object) -> None:
        """A warning, at most once a minute for each `key`; the next line says how many were kept back."""
        kept_back = _rates.admit(f"{self.name}:{key}", time.monotonic())
        if kept_back is None:
            return
        if kept_back:
            values["kept_back"] = kept_back
        self._write("warning", event, values)

    def _write(self, level: str, event: str, values: dict[str, object]) -> None:
        sink = _sink
        if LEVELS[level] < sink.level:
            return
        line = _json_line if sink.form == "json" else _text_line
        try:
            os.write(sink.fd, line(time.time(), level, self.name, event, values).encode("utf-8", "replace"))
        except OSError:
            pass  # a log that cannot be written must not stop a relay


def _plain(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    text = str(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "..."


def _stamp(now: float) -> str:
    seconds = time.gmtime(now)
    return time.strftime("%Y-%m-%dT%H:%M:%S", seconds) + f".{int(now * 1000) % 1000:03d}Z"


def _json_line(now: float, level: str, name: str, event: str, values: dict[str, object]) -> str:
    fields: dict[str, object] = {"time": _stamp(now), "level": level, "part": name, "event": event}
    for key, value in values.items():
        fields[key if key not in fields else key + "_"] = _plain(value)
    return json.dumps(fields, separators=(",", ":")) + "\n"


def _text_line(now: float, level: str, name: str, event: str, values: dict[str, object]) -> str:
    parts = [f"{_stamp(now)[11:]} {level:<7} {name:<9} {event}"]
    parts += [f"{key}={_text_value(_plain(value))}" for key, value in values.items()]
    return " ".join(parts) + "\n"


def _text_value(value: str | int | float | bool | None) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if not isinstance(value, str):
        return str(value)
    if value and value.isprintable() and " " not in value and '"' not in value:
        return value
    return json.dumps(value)  # all but ASCII escaped: no terminal takes a part of it for a command


def for_terminal() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()

"""Follows a relay's firehose and says how it goes. Main thread; with directories, checks in threads of their own.

Promises: an error of the stream is said by its name; after any end of a connection that may pass it comes back with the
cursor of the last event, so that nothing is missed and nothing comes twice; a stream that goes back in its numbers or
cannot be decoded is dropped whole (A5, A19). Standard output is for events alone, but for the last cursor where there
are none.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zlay._fast import message
from zlay.consume.stream import Refused, Stream, StreamBroken, StreamEnded
from zlay.consume.verify import Verifier
from zlay.firehose.dag_json import Unreadable, event_json
from zlay.hosts.addresses import is_public
from zlay.terminal import size_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zlay.consume.stream import Target
    from zlay.consume.verify import Bad

__all__ = ["Follower"]

LOOK_S = 0.25  # how soon Ctrl-C is seen
LIVE_EVERY_S, LINE_EVERY_S = 1.0, 10.0
PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # before coming back; the last one for ever
DRAIN_S = 15.0  # for what is not checked yet at the end
BAD_SHOWN = 100  # events named one by one; all are counted
SAME_PLACE = 3  # times in a row that the stream may break at one message before that is the end
FUTURE_CURSOR = "FutureCursor"  # A13: the same cursor would be refused again


@dataclass(slots=True)
class _Figures:
    """What has come, and what had come when a line was last drawn."""

    events: int = 0
    bytes: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    drawn_events: int = 0
    drawn_bytes: int = 0
    drawn_s: float = field(default_factory=time.monotonic)


class Follower:
    """One run of the command. `cursor`: the last seq that came, or where it began; None = none yet, live."""

    def __init__(
        self,
        target: Target,
        *,
        cursor: int | None = None,
        as_json: bool = False,
        plc_urls: Sequence[str] = (),
        limit: int | None = None,
        once: bool = False,
    ) -> None:
        """`plc_urls`: directories to check events by; none = no event is checked. `limit`: of events.

        `once`: the end of the connection is the end.
        """
        self._target = target
        self._json = as_json
        self._once = once
        self._left = limit
        self._plc_urls = plc_urls
        self._verifier: Verifier | None = None
        self._stopping = False
        self.cursor = cursor if cursor is not None else target.cursor
        self._figures = _Figures()
        self._status = 0
        self._live = sys.stderr.isatty()
        self._print_lock = threading.Lock()  # guards standard error: a line is drawn, or something is said above it
        self._named_bad = 0
        self._is_first = True  # no event has come on this connection

    def stop(self) -> None:
        """Asks `run` to end; from a signal handler, too."""
        self._stopping = True

    # --- the stream ---

    def run(self) -> None:
        """Reads, and comes back, until told to stop."""
        failures = same_place = 0
        while not self._stopping:
            before = self.cursor
            try:
                self._connect_and_read()
            except Refused as exc:
                self._give_up(exc)
            except StreamEnded as exc:
                came = self.cursor != before
                broken = isinstance(exc, StreamBroken)
                same_place = same_place + 1 if broken and not came else 0
                if self._once or same_place >= SAME_PLACE or (isinstance(exc, StreamBroken) and exc.is_final):
                    self._give_up(exc)
                    return
                failures = 0 if came else failures + 1
                pause_s = PAUSES_S[min(failures, len(PAUSES_S) - 1)] * random.uniform(0.5, 1)
                self._say(f"{exc}; coming back with {self._place()} in {pause_s:.1f} s")
                self._pause(pause_s)

    def _give_up(self, exc: Exception) -> None:
        self._say(str(exc))
        self._status = 1
        self._stopping = True

    def _place(self) -> str:
        return "no cursor" if self.cursor is None else f"cursor {self.cursor}"

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < until:
            time.sleep(min(LOOK_S, max(0.0, until - time.monotonic())))

    def _connect_and_read(self) -> None:
        """Until told to stop. Raises Refused, StreamEnded."""
        stream = Stream(self._target, self.cursor)
        self._is_first = True
        try:
            self._say(f"connected to {self._target}, {self._place()}")
            if self._plc_urls and self._verifier is None:
                # A relay on a private network serves one; a public one must not send us to private addresses (E17).
                private = not is_public(stream.peer)
                self._verifier = Verifier(self._plc_urls, allow_private=private, on_bad=self._on_bad)
            while not self._stopping:
                for data in stream.receive(LOOK_S):
                    self._take(data)
                    if self._left == 0:
                        self._stopping = True
                        return
                self._draw()
        finally:
            stream.close()

    def _take(self, data: bytes) -> None:
        """One message. Raises StreamBroken."""
        seen = message.peek(data)
        if isinstance(seen, str):
            raise StreamBroken(f"a frame that cannot be read ({seen}) after {self._place()}")
        kind, seq = seen["kind"], seen["seq"]
        name, text = (_text(seen[field]) for field in ("error_name", "error_message"))
        if seen["is_error"]:
            raise StreamBroken(f"error {name}{f': {text}' if text else ''}", is_final=name == FUTURE_CURSOR)
        if kind == "info":
            self._say(f"#info {name}: {text}")
        elif seq and self.cursor is not None and seq <= self.cursor:
            if seq == self.cursor and self._is_first:
                return  # a relay that takes a cursor for the first event wanted (A14); we have it
            raise StreamBroken(f"seq {seq} came after seq {self.cursor}")
        if self._json:
            self._print_json(data)
        if kind != "info":
            self._count(kind, seq, data, seen["did"])

    def _count(self, kind: str, seq: int, data: bytes, did: str) -> None:
        self._is_first = False
        self.cursor = seq or self.cursor
        figures = self._figures
        figures.events += 1
        figures.bytes += len(data)
        figures.kinds[kind] += 1
        if self._left is not None:
            self._left -= 1
        while self._verifier is not None and not self._verifier.put(data, did, LOOK_S) and not self._stopping:
            self._draw()

    def _print_json(self, data: bytes) -> None:
        try:
            told: dict[str, Any] = event_json(data)
        except Unreadable as exc:
            raise StreamBroken(f"a frame that is not strictly encoded after {self._place()}: {exc}") from exc
        sys.stdout.write(json.dumps(told, separators=(",", ":")) + "\n")

    def _on_bad(self, bad: Bad) -> None:
        self._named_bad += 1
        if self._named_bad <= BAD_SHOWN:
            self._say(f"BAD seq {bad.seq} #{bad.kind} of {bad.did}: {bad.reason}")

    # --- what people see ---

    def _say(self, text: str) -> None:
        """A line above the one that redraws itself."""
        with self._print_lock:
            sys.stderr.write(("\r\x1b[K" if self._live else "") + f"zlay: {_printable(text)}\n")
            sys.stderr.flush()

    def _draw(self) -> None:
        figures, now = self._figures, time.monotonic()
        span = now - figures.drawn_s
        if self._json:
            sys.stdout.flush()
        if span < (LIVE_EVERY_S if self._live else LINE_EVERY_S) or (self._json and not self._live):
            return
        line = (
            f"seq {self.cursor or '-':>12}  {(figures.events - figures.drawn_events) / span:>8,.0f} events/s  "
            f"{size_text((figures.bytes - figures.drawn_bytes) / span):>10}/s  {figures.events:,} in all"
        )
        if self._verifier is not None:
            verifier = self._verifier
            line += f"  good {verifier.good:,} bad {verifier.bad_total:,} unresolved {verifier.unresolved:,}"
            line += f" waiting {verifier.waiting:,}" if verifier.waiting else ""
        figures.drawn_s, figures.drawn_events, figures.drawn_bytes = now, figures.events, figures.bytes
        with self._print_lock:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\x1b[K{line[:width]}" if self._live else line + "\n")
            sys.stderr.flush()

    def finish(self) -> int:
        """Says what there was; the exit status."""
        verifier = self._verifier
        checked = ""
        if verifier is not None:
            if not verifier.drain(DRAIN_S):
                self._say(f"{verifier.waiting} events have not been checked: the directory is too slow")
            verifier.close()
            checked = f"; {verifier.good:,} good, {verifier.bad_total:,} bad, {verifier.unresolved:,} unresolved"
            for reason, n in verifier.bad.most_common():
                self._say(f"bad: {n:,} {reason}")
            if verifier.bad_total:
                self._status = 1
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in self._figures.kinds.most_common())
        self._say(f"{self._figures.events:,} events{f' ({kinds})' if kinds else ''}{checked}")
        out = sys.stderr if self._json else sys.stdout
        print(f"last cursor: {'none' if self.cursor is None else self.cursor}", file=out, flush=True)
        return self._status


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)

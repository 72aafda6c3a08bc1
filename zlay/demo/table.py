"""The demo's figures as a table that redraws itself on a terminal, or as a line now and then. One thread."""

from __future__ import annotations

import sys
from dataclasses import dataclass

__all__ = ["Figures", "Table"]

LINES_EVERY = 5  # seconds between lines where there is no terminal
CLEAR = "\x1b[J"


@dataclass(frozen=True, slots=True)
class Figures:
    """One second of the demo."""

    seconds: float
    events_in: float  # per second
    events_out: float  # per second
    published: int
    verified: int
    wrong: int
    dropped: dict[str, int]
    held: int
    hosts: int
    consumers: int
    p50_ms: float
    p99_ms: float
    rss_bytes: int
    cpu_percent: float


def _rows(figures: Figures) -> list[str]:
    dropped = ", ".join(f"{reason} {n}" for reason, n in sorted(figures.dropped.items(), key=lambda kv: -kv[1]))
    return [
        f"  time               {figures.seconds:>10.0f} s",
        f"  events in          {figures.events_in:>10,.0f} /s",
        f"  events out         {figures.events_out:>10,.0f} /s",
        f"  published          {figures.published:>10,}",
        f"  checked, as sent   {figures.verified:>10,}   wrong {figures.wrong}",
        f"  held now           {figures.held:>10,}",
        f"  hosts, consumers   {figures.hosts:>10,}   {figures.consumers}",
        f"  latency p50, p99   {figures.p50_ms:>10.1f} ms {figures.p99_ms:.1f} ms",
        f"  relay memory, CPU  {figures.rss_bytes / 2**20:>10.1f} MiB {figures.cpu_percent:.0f} %",
        f"  dropped            {sum(figures.dropped.values()):>10,}   {dropped}",
    ]


class Table:
    """Draws on standard output."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._drawn = 0
        self._said = 0.0

    def draw(self, figures: Figures) -> None:
        """The newest figures in the place of the last ones."""
        if self._live:
            rows = [row[:118] for row in _rows(figures)]
            up = f"\x1b[{self._drawn}A" if self._drawn else ""
            sys.stdout.write(up + CLEAR + "\n".join(rows) + "\n")
            self._drawn = len(rows)
        elif figures.seconds - self._said >= LINES_EVERY:
            self._said = figures.seconds
            sys.stdout.write(
                f"{figures.seconds:4.0f} s  in {figures.events_in:,.0f}/s  out {figures.events_out:,.0f}/s  "
                f"checked {figures.verified:,}  dropped {sum(figures.dropped.values()):,}  held {figures.held}  "
                f"p50 {figures.p50_ms:.1f} ms  p99 {figures.p99_ms:.1f} ms  rss {figures.rss_bytes / 2**20:.0f} MiB\n"
            )
        sys.stdout.flush()

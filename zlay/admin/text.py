"""Answers of the admin endpoints for people, but for those about hosts. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zlay.terminal import plain, size_text, time_text

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["consumer_lines", "growth_lines", "memory_lines"]

PART_NAMES = {
    "python": "Python's objects",
    "files": "code and data of files",
    "main_stack": "stack of the main thread",
    "thread_stacks": "stacks of threads",
    "libc_arenas": "malloc, small blocks",
    "malloc_pieces": "malloc, large blocks",
    "frame_pool": "frames",
    "remainder": "nobody's",
}
AGENT_SHOWN = 40  # characters


def consumer_lines(said: dict[str, Any]) -> Iterator[str]:
    """All consumers, a line each."""
    yield (
        f"{'id':>6} {'address':<39} {'since':<24} {'cursor':>12} {'lag':>9} {'behind':>8} {'blocked':>8} "
        f"{'events':>11} {'sent':>10}  user agent"
    )
    for one in said["consumers"]:
        cursor = "live" if one["cursor"] is None else one["cursor"]
        behind = "-" if one["lag_s"] is None else f"{one['lag_s']:.1f}s"
        state = "" if one["state"] == "streaming" else f" ({one['state']})"
        agent = "" if one["user_agent"] is None else plain(one["user_agent"])[:AGENT_SHOWN]
        yield (
            f"{one['id']:>6} {plain(one['peer']):<39} {time_text(one['since_us']):<24} {cursor:>12} {one['lag']:>9}"
            f" {behind:>8} {one['blocked_s']:>7.1f}s {one['events']:>11} {size_text(one['bytes']):>10}  {agent}{state}"
        ).rstrip()
    yield f"{said['connected']} connected"


def memory_lines(said: dict[str, Any]) -> Iterator[str]:
    """Where the memory is: parts that add up, then what C has asked for."""
    rss = said["rss"]
    yield f"{'resident memory':<28} {size_text(rss):>12}  malloc by {said['allocator']}"
    for name, n in [*sorted(said["parts"].items(), key=lambda part: -part[1]), ("remainder", said["remainder"])]:
        yield f"  {PART_NAMES.get(name, name):<26} {size_text(n):>12} {100 * n / max(rss, 1):>5.1f} %"
    yield ""
    yield f"{'asked for by the core':<28} {'now':>12} {'at most':>12} {'pieces':>10} {'ever':>14}"
    for one in sorted(said["core"], key=lambda one: -one["live_bytes"]):
        yield (
            f"  {one['tag']:<26} {size_text(one['live_bytes']):>12} {size_text(one['peak_bytes']):>12}"
            f" {one['live_count']:>10} {one['total_count']:>14}"
        )


def growth_lines(said: dict[str, Any]) -> Iterator[str]:
    """What has grown, most first."""
    yield (
        f"{_signed(said['grown_bytes'])} more than at {time_text(said['since_us'])}; {size_text(said['traced_bytes'])}"
        f" traced, {size_text(said['tracing_bytes'])} for the tracing"
    )
    for site in said["sites"]:
        yield f"{_signed(site['bytes']):>12} {site['count']:>+9} pieces  {plain(site['stack'][-1])}"
        for frame in reversed(site["stack"][:-1]):
            yield f"{'':>32}from {plain(frame)}"


def _signed(n: int) -> str:
    return f"-{size_text(-n)}" if n < 0 else size_text(n)

"""Hosts for people: a table of all, and all that is known of one. Pure functions.

What hosts have said themselves is shown without its control characters.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from zlay.terminal import plain, size_text, time_text

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["host_lines", "table_lines"]

REASONS_SHOWN = 12


def table_lines(said: dict[str, Any]) -> Iterator[str]:
    """All hosts, a line each, then those that were held back longest."""
    yield f"{'host':<44} {'status':<9} {'tier':<9} {'accounts':>9} {'frames':>10} {'throttled':>9}  last failure"
    for host in said["hosts"]:
        failure = "" if host["failure_kind"] is None else f"{host['failure_kind']}: {plain(host['failure_text'])}"
        yield (
            f"{host['hostname']:<44} {host['status']:<9} {host['tier']:<9} {host['account_count']:>9}"
            f" {host['frames']:>10} {host['throttled_s']:>8.0f}s  {failure[:80]}"
        ).rstrip()
    yield f"{len(said['hosts'])} hosts, {said['active_workers']} streaming"
    for host in said["most_throttled"]:
        yield f"throttled for {host['throttled_s']:.0f} s: {host['hostname']}{' (now)' if host['throttled'] else ''}"


def host_lines(host: dict[str, Any], now_s: float) -> Iterator[str]:
    """All that is known of one host."""
    allowed = "any number" if host["accounts_allowed"] is None else host["accounts_allowed"]
    yield f"{host['hostname']}  (id {host['id']}, from {host['source']}, since {time_text(host['created_us'])})"
    yield f"  status      {host['status']}{', streaming' if host['connected'] else ''}"
    dials, failures = host["attempts"], host["failed_attempts"]
    yield f"  dials       {dials}, {host['connects']} of them became streams; {failures} failures in a row"
    if host["next_dial_us"] is not None:
        yield f"  next dial   in {max(0.0, host['next_dial_us'] / 1e6 - now_s):.0f} s"
    if host["failure_kind"] is not None:
        told = f"{host['failure_kind']}: {plain(host['failure_text'])}"
        yield f"  last fault  {told}, at {time_text(host['failure_us'])}"
    lag = "-" if host["lag_s"] is None else f"{host['lag_s']:.1f} s"
    yield f"  cursor      {host['cursor']}, last seq {host['last_seq']}, {host['pending']} frames on their way"
    yield f"  last frame  {time_text(host['last_frame_us'])}, lag {lag}"
    if host["old_cursor_us"] is not None:
        yield f"  old cursor  the last dial asked for events since {time_text(host['old_cursor_us'])}"
    yield f"  gaps        {host['outdated_cursors']} times OutdatedCursor, {host['numbering_resets']} cursors given up"
    yield f"  accounts    {host['account_count']} of {allowed}"
    given = f", given: {json.dumps(host['limits_given'])}" if host["limits_given"] else ""
    yield f"  tier        {host['tier']}{given}"
    yield f"  limits      {_limits_text(host['limits'])}"
    yield (
        f"  throttled   {host['throttled_s']:.1f} s of {host['waited_s']:.1f} s waited"
        + (f", waits for {host['waits_for']} now" if host["waits_for"] != "nothing" else "")
    )
    yield f"  received    {host['frames']} frames, {size_text(host['bytes'])}; {host['published']} passed on"
    dropped = sorted(host["reasons"].items(), key=lambda item: -item[1])
    for reason, n in dropped[:REASONS_SHOWN]:
        yield f"    {reason:<24} {n}"
    if len(dropped) > REASONS_SHOWN:
        yield f"    and {len(dropped) - REASONS_SHOWN} other reasons"


def _limits_text(limits: dict[str, int]) -> str:
    """Events and bytes a second, hour, day; - = no limit."""
    windows = ("per_second", "per_hour", "per_day")
    events = "/".join(str(limits[name] or "-") for name in windows)
    sizes = "/".join(size_text(limits["bytes_" + name]) if limits["bytes_" + name] else "-" for name in windows)
    return f"{events} events, {sizes} a second/hour/day"

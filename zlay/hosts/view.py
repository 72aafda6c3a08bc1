"""What is known of one host, put together: from the registry, the dialer and the core. Any thread."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from zlay._fast import host as chost
from zlay._fast import verdicts
from zlay.api.interface import HostView

if TYPE_CHECKING:
    from zlay.hosts.dialer import HostReport
    from zlay.hosts.registry import HostEntry

__all__ = ["view_of"]

_LABELS = {info.code: info.label for info in verdicts.REASONS}


def view_of(entry: HostEntry, report: HostReport | None) -> HostView:
    """`report` None = the dialer does not know the host: it is banned, or beyond RELAY_MAX_HOSTS."""
    stats = chost.stats(entry.index)
    failure = entry.failure if report is None else report.last_failure
    next_dial_s = None if report is None else report.next_dial_unix_s
    return HostView(
        id=entry.id,
        hostname=entry.hostname,
        no_tls=entry.no_tls,
        status=entry.shown_status,
        source=entry.source,
        created_us=entry.created_us,
        connected=report is not None and report.stage == "streaming",
        attempts=report.attempts if report is not None else 0,
        connects=report.connects if report is not None else 0,
        failed_attempts=report.failures if report is not None else 0,
        failure_kind=failure.kind if failure is not None else None,
        failure_text=failure.text if failure is not None else None,
        failure_us=failure.at_us if failure is not None else None,
        next_dial_us=None if next_dial_s is None else int(next_dial_s * 1e6),
        last_seq=stats["last_seq"] or stats["cursor"] or None,
        cursor=stats["cursor"],
        pending=stats["pending"],
        lag_s=stats["lag_s"] if stats["published"] else None,
        last_frame_us=stats["last_frame_us"],
        old_cursor_us=entry.old_cursor_us,
        outdated_cursors=stats["outdated_cursors"],
        numbering_resets=report.epochs_begun if report is not None else 0,
        account_count=entry.account_count,
        account_limit=entry.account_limit,
        accounts_allowed=entry.accounts_allowed,
        tier=entry.tier.name,
        limits=asdict(entry.limits),
        limits_given={name: value for name, value in asdict(entry.given).items() if value is not None},
        throttled=stats["waits_for"] == "limit",
        throttled_s=stats["throttled_s"],
        waits_for=stats["waits_for"],
        waited_s=stats["waited_s"],
        credit_used_bytes=stats["credit_used_bytes"],
        frames=stats["frames"],
        bytes=stats["bytes"],
        published=stats["published"],
        reasons={_LABELS[code]: n for code, n in stats["by_reason"].items()},
    )

"""`zlay log`: what is in an event log, whether it is whole, its events. Beside a running relay or on a stopped one.

Nothing is written or locked, see zlay.eventlog.view. Exit status: 0; 1 when something is wrong with the log, or it
cannot be read. Main thread only.
"""

from __future__ import annotations

import contextlib
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zlay.errors import LogError
from zlay.terminal import reader_may_leave, size_text, time_text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from zlay._fast.examine import Result
    from zlay.eventlog.check import Findings
    from zlay.eventlog.entries import LogEntry
    from zlay.eventlog.view import LogView

__all__ = ["add_parser"]

FAULTS_SHOWN = 50  # for people; --json has all that were noted


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Mounts `log`."""
    log = commands.add_parser(
        "log",
        help="look into an event log",
        description="Look into the event log of a relay, running or stopped. Reads only; shows what consumers may see.",
    )
    kinds = log.add_subparsers(dest="what", required=True, metavar="COMMAND")
    folder = {"type": Path, "metavar": "DIR", "help": "a RELAY_DATA_DIR, or its events/"}
    for name, text, run in (
        ("ls", "list the segments", _ls),
        ("verify", "read every byte: is the log whole? Exit status 1 when it is not", _verify),
        ("stats", "count events, bytes and kinds", _stats),
    ):
        parser = kinds.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        parser.add_argument("dir", **folder)  # type: ignore[arg-type]
        parser.add_argument("--json", action="store_true", help="as one JSON object")
        parser.set_defaults(run=partial(_guarded, run))
    cat = kinds.add_parser(
        "cat",
        help="print events",
        description="Print events: a line each, or as JSON lines, or as bytes.",
        epilog="Takedowns do not hide anything here: these are the operator's own files.",
    )
    cat.add_argument("dir", **folder)  # type: ignore[arg-type]
    cat.add_argument("--cursor", type=int, default=0, metavar="N", help="events above seq N (default: all)")
    cat.add_argument("--limit", type=int, metavar="N", help="at most N events")
    cat.add_argument("--did", metavar="DID", help="only events of this account")
    form = cat.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="JSON lines, messages decoded, records included")
    form.add_argument(
        "--raw", action="store_true", help="WebSocket frames back to back, byte for byte as consumers get"
    )
    cat.set_defaults(run=partial(_guarded, _cat))


def _guarded(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Runs a command; what the disk refuses is an error in words. Raises LogError."""
    try:
        return run(arguments)
    except OSError as exc:
        raise LogError(f"{arguments.dir} cannot be read: {exc.strerror}") from exc


def _open(arguments: argparse.Namespace) -> LogView:
    from zlay.eventlog.view import LogView

    return LogView.of(arguments.dir)


def _print_json(value: object) -> None:
    print(json.dumps(value, separators=(",", ":")))


# --- ls ---


def _ls(arguments: argparse.Namespace) -> int:
    from zlay.eventlog.check import edge_times

    with reader_may_leave(), _open(arguments) as view:
        rows: list[dict[str, Any]] = []
        for segment in view.segments:
            begins, ends = edge_times(view, segment)
            rows.append(
                {
                    "first_seq": segment.first_seq,
                    "last_seq": segment.last_seq if segment.entries else None,
                    "events": segment.entries,
                    "frames_bytes": segment.frames_bytes,
                    "index_bytes": segment.index_bytes,
                    "created_us": segment.created_us,
                    "first_us": begins,
                    "last_us": ends,
                    "previous_last": segment.previous_last,
                    "faults": segment.faults,
                }
            )
        if arguments.json:
            _print_json({**_about(view), "segments": rows})
            return 0
        print(f"{'first seq':>16} {'events':>9} {'frames':>10} {'index':>10}  {'first event':<24}  last event")
        for row in rows:
            print(
                f"{row['first_seq']:>16,} {row['events']:>9,} {size_text(row['frames_bytes']):>10} "
                f"{size_text(row['index_bytes']):>10}  {time_text(row['first_us']):<24}  {time_text(row['last_us'])}"
            )
            for text in row["faults"]:
                print(f"{'':>16} {text}")
        for text in (*view.faults, *view.notes):
            print(text)
        print(_summary(view))
    return 0


def _about(view: LogView) -> dict[str, Any]:
    return {
        "store_id": view.store.store_id.hex(),
        "durability": view.run.durability if view.run else None,
        "published_end": view.published_end,
        "first_seq": view.first_seq or None,
        "last_seq": view.last_seq or None,
        "faults": view.faults,
        "notes": view.notes,
    }


def _summary(view: LogView) -> str:
    total = sum(segment.frames_bytes + segment.index_bytes for segment in view.segments)
    span = f"seq {view.first_seq:,} to {view.last_seq:,}" if view.segments else "empty"
    state = "closed in order" if view.published_end is None else f"published up to seq {view.published_end:,}"
    return f"{len(view.segments)} segments, {span}, {size_text(total)}; {state}; store {view.store.store_id.hex()}"


# --- verify ---


def _verify(arguments: argparse.Namespace) -> int:
    from zlay.eventlog.check import check

    def on_segment(done: int, of: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done} of {of} segments", end="", file=sys.stderr, flush=True)

    with _open(arguments) as view:
        found = check(view, on_segment)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    with reader_may_leave():
        if arguments.json:
            _print_json(_findings_json(found))
        else:
            _print_findings(found)
    return 0 if found.is_whole else 1


def _findings_json(found: Findings) -> dict[str, Any]:
    return {
        "whole": found.is_whole,
        "first_seq": found.first_seq or None,
        "last_seq": found.last_seq or None,
        "segments": found.segments,
        "events": found.events,
        "bytes": found.bytes,
        "damaged": found.damaged,
        "missing": found.missing,
        "faults": [
            {"kind": fault.kind, "from_seq": fault.from_seq, "to_seq": fault.to_seq, "what": fault.what}
            for fault in found.faults
        ],
        "left_out": found.left_out,
        "notes": found.notes,
    }


def _print_findings(found: Findings) -> None:
    for fault in found.faults[:FAULTS_SHOWN]:
        where = "" if fault.from_seq is None else f" seq {fault.from_seq:,} to {fault.to_seq:,}"
        print(f"{fault.kind}{where}: {fault.what}")
    if len(found.faults) > FAULTS_SHOWN:
        print(f"... and {len(found.faults) - FAULTS_SHOWN} more: see --json")
    for first, last in found.left_out:
        print(f"left out on purpose: seq {first:,} to {last:,}")
    for text in found.notes:
        print(f"note: {text}")
    span = f"seq {found.first_seq:,} to {found.last_seq:,}" if found.segments else "empty"
    verdict = "whole" if found.is_whole else f"NOT whole: {found.damaged:,} damaged, {found.missing:,} missing"
    print(f"{found.segments} segments, {span}, {found.events:,} good events, {size_text(found.bytes)}: {verdict}")


# --- stats ---


def _stats(arguments: argparse.Namespace) -> int:
    from zlay._fast.verdicts import KINDS
    from zlay.eventlog.check import examine

    with reader_may_leave(), _open(arguments) as view:
        rows: list[dict[str, Any]] = []
        for segment in view.segments:
            result = None if segment.is_foreign else examine(view, segment, frames=False)
            if result is not None:
                rows.append(_stats_row(segment.first_seq, segment.last_seq, result, KINDS))
        total = _stats_total(rows)
        if arguments.json:
            _print_json({**_about(view), "segments": rows, "total": total})
            return 0
        kinds = list(total["kinds"])
        print(f"{'first seq':>16} {'events':>11} {'bytes':>10}  {'from':<24}  {'to':<24} {_columns(kinds)}")
        for row in [*rows, total]:
            print(
                f"{(row['first_seq'] or 0) if row is not total else 'total':>16} {row['events']:>11} "
                f"{size_text(row['bytes']):>10}  {time_text(row['first_us']):<24}  {time_text(row['last_us']):<24} "
                f"{_columns(row['kinds'].values())}"
            )
        if total["unreadable"]:
            print(f"{total['unreadable']:,} events cannot be read: see zlay log verify")
    return 0


def _columns(cells: Any) -> str:
    return " ".join(f"{cell!s:>10}" for cell in cells)


def _stats_row(first_seq: int, last_seq: int, result: Result, kinds: tuple[str, ...]) -> dict[str, Any]:
    return {
        "first_seq": first_seq,
        "last_seq": last_seq,
        "events": result["events"],
        "bytes": result["bytes"],
        "local": result["local"],
        "unreadable": result["bad"],
        "first_us": result["oldest_us"] or None,
        "last_us": result["newest_us"] or None,
        "kinds": dict(zip(kinds, result["kinds"], strict=False)),
    }


def _stats_total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {
        "first_seq": rows[0]["first_seq"] if rows else None,
        "last_seq": rows[-1]["last_seq"] if rows else None,
    }
    for name in ("events", "bytes", "local", "unreadable"):
        total[name] = sum(row[name] for row in rows)
    total["first_us"] = min((row["first_us"] for row in rows if row["first_us"]), default=None)
    total["last_us"] = max((row["last_us"] for row in rows if row["last_us"]), default=None)
    total["kinds"] = {kind: sum(row["kinds"][kind] for row in rows) for kind in (rows[0]["kinds"] if rows else ())}
    return total


# --- cat ---


def _cat(arguments: argparse.Namespace) -> int:
    from zlay.firehose.dag_json import Unreadable

    write = _write_raw if arguments.raw else _write_json if arguments.json else _write_line
    left: int = sys.maxsize if arguments.limit is None else arguments.limit
    strange = 0
    with reader_may_leave(), _open(arguments) as view:
        wanted = None if arguments.did is None else view.hash_did(arguments.did)
        with contextlib.closing(view.scan(max(arguments.cursor, 0) + 1)) as entries:
            for entry in entries:
                if left <= 0:
                    break
                if wanted not in (None, entry.did_hash):
                    continue
                left -= 1
                try:
                    write(entry)
                except Unreadable:
                    strange += 1
        sys.stdout.flush()
        if view.retired:
            print("zlay: retention has taken the oldest events away meanwhile", file=sys.stderr)
        if view.unreadable + strange:
            print(f"zlay: {view.unreadable + strange} events cannot be read: see zlay log verify", file=sys.stderr)
            return 1
    return 0


def _write_raw(entry: LogEntry) -> None:
    from zlay.firehose.frames import websocket_message

    assert entry.frame is not None
    sys.stdout.buffer.write(websocket_message(entry.frame))


def _write_json(entry: LogEntry) -> None:
    from zlay._fast.verdicts import STATUSES
    from zlay.eventlog.entries import LOCAL
    from zlay.firehose.dag_json import event_json

    assert entry.frame is not None
    _print_json(
        {
            "seq": entry.seq,
            "received": time_text(entry.recv_us),
            "local": bool(entry.flags & LOCAL),
            "host_id": entry.host_id,
            "host_epoch": entry.host_epoch,
            "upstream_seq": entry.upstream_seq,
            "upstream_status": STATUSES[entry.upstream_status],
            "effective_status": STATUSES[entry.effective_status],
            **event_json(entry.frame),
        }
    )


def _write_line(entry: LogEntry) -> None:
    from zlay.firehose.dag_json import event_line

    assert entry.frame is not None
    print(f"{entry.seq:>12} {time_text(entry.recv_us)} {entry.length:>7} {event_line(entry.frame)}")

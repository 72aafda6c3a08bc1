"""What follows an upgrade: which reader takes the open socket over, and what its end means for the host.

`start_native` and `start_wsproto` have one shape, so that HOST_READER is one choice in one place. Any thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zlay._fast import reader
from zlay.hosts.wsproto_reader import WsprotoReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from zlay.hosts.dial import OpenStream
    from zlay.hosts.interface import FailureKind

    StartReader = Callable[[int, OpenStream], None]

__all__ = ["failure_of", "numbering_restarted", "start_native", "start_wsproto", "starter"]

FUTURE_CURSOR = "FutureCursor"  # A13


def start_native(host_index: int, stream: OpenStream) -> None:
    """Hands the stream to a plain OS thread. Raises OSError; the stream then is still the caller's."""
    reader.start(host_index, stream.sock.fileno(), stream.leftover, stream.cursor, stream.session)
    stream.sock.detach()


def start_wsproto(host_index: int, stream: OpenStream) -> None:
    """Hands the stream to a Python thread that runs wsproto. Raises OSError; the stream then is still the caller's."""
    WsprotoReader(host_index, stream.sock, stream.leftover, stream.cursor, stream.session)


def starter(host_reader: str) -> StartReader:
    """What HOST_READER names: `native` or `wsproto`."""
    return {"native": start_native, "wsproto": start_wsproto}[host_reader]


def numbering_restarted(end: reader.ConnectionEnd) -> bool:
    """Whether the host says, by word or by deed, that the cursor lies ahead of its numbering (A13)."""
    return end.cause == "seq_reset" or (end.cause == "error_frame" and end.error == FUTURE_CURSOR)


def failure_of(end: reader.ConnectionEnd) -> tuple[FailureKind, str]:
    """The end of a connection as a kind and a line for people."""
    if end.cause == "error_frame":
        return "error_frame", f"{end.error}: {end.text}" if end.text else end.error
    if end.cause == "decode":
        return "decode", end.text
    if end.cause == "tls":
        return "tls", end.text
    if end.cause == "closed":
        return "websocket", f"closed by the host with {end.code}" + (f" {end.text}" if end.text else "")
    if end.cause == "protocol":
        return "websocket", f"protocol error {end.code}: {end.text}"
    return "websocket", end.text or end.cause

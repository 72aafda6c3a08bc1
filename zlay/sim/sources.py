"""The live source of a simulated host's frames: cursor rules over its window, and its orders to misbehave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zlay.sim.messages import error_frame, info_frame
from zlay.sim.subscriber import SEND_BYTES, Subscriber

if TYPE_CHECKING:
    import socket

    from zlay.sim.actors import Host
    from zlay.sim.network import Network
    from zlay.sim.tls import TlsSocket

__all__ = ["LiveSource"]


class LiveSource:
    """Serves one host's window to its subscribers. One thread.

    `replay`: so many old events are sent again to whoever subscribes next. `subscribed` is the simulation's note.
    """

    def __init__(self, network: Network, host: Host) -> None:
        self.network = network
        self.host = host
        self.subscribers: list[Subscriber] = []
        self.subscribed = False
        self.replay = 0
        self._renumber = False

    def begin(self, cursor: int | None) -> tuple[int, bytes, bool]:
        """Cursor rules A12 to A16."""
        window = self.host.window
        first = b""
        if cursor is not None and cursor > window.last_seq:
            return window.end, error_frame(b"FutureCursor", b"Cursor in the future."), True
        if cursor is None:
            position = window.end
        elif cursor and cursor < window.lost_seq:
            first = info_frame(b"OutdatedCursor", b"Requested cursor exceeded limit. Possibly missing events")
            position = window.first
        else:
            position = max(window.first, window.position_after(cursor) - self.replay)
            self.replay = 0
        self.host.silent = False
        self._note(True, cursor, position)
        return position, first, False

    def _note(self, opened: bool, cursor: int | None, position: int) -> None:
        window = self.host.window
        seq = window.seq_at(position - 1) if position > 0 else 0
        self.network.ledger.append_link(self.host.index, opened, cursor, seq, self.network.voice.now_us(self.host))

    def pending(self, position: int) -> bool:
        """Whether the window has something after the position."""
        return position < self.host.window.end

    def peek(self, position: int) -> bytes:
        """The frame at the position."""
        return self.host.window.read(position, 1, self.network.ledger.fd)[0]

    def send(self, sock: socket.socket | TlsSocket, position: int) -> tuple[int, bytes | memoryview]:
        """One stretch of frames in one call of send."""
        frames = self.host.window.read(position, SEND_BYTES, self.network.ledger.fd)
        position = max(position, self.host.window.first) + len(frames)
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        try:
            sent = sock.send(data)
        except BlockingIOError:
            sent = 0
        return position, memoryview(data)[sent:] if sent < len(data) else b""

    def left(self, position: int, cursor: int | None) -> None:
        """Notes the end; a renumbering that waited for the last subscriber happens now."""
        self._note(False, cursor, min(position, self.host.window.end))
        if self._renumber and not self.subscribers:
            self._renumber = False
            self.network.renumber(self.host)

    def misbehave(self, kind: str, count: int, seconds: float) -> int:
        """An order to the stream (faults.STREAM_FAULTS); how many subscribers or events it touches.

        stall: rest in the middle of the next frame. disconnect: end without a close frame, between two frames.
        disconnect_mid: end in the middle of the next frame. replay: close, and send `count` old events again after
        the next subscription. resend: send them again on this connection. renumber: close when everything is sent,
        forget everything, start again from seq 1. flood: say `count` good commits at once.
        """
        if kind == "flood":
            self.network.flood(self.host, count)
            return count
        if kind == "renumber":
            self.host.silent = True
            self._renumber = bool(self.subscribers)
            if not self._renumber:
                self.network.renumber(self.host)
        elif kind == "replay":
            self.replay = count
        for subscriber in self.subscribers:
            if kind == "stall":
                subscriber.stall_mid_s = seconds
            elif kind == "disconnect":
                subscriber.closing = True
            elif kind == "disconnect_mid":
                subscriber.cut = True
            elif kind == "resend":
                subscriber.position = max(self.host.window.first, subscriber.position - count)
            else:
                subscriber.leaving = True
        self.network.changed.add(self.host)
        return len(self.subscribers)

"""A relay that takes another one's place, as the other one's consumers meet it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.eventlog.support import WAIT_S, append
from tests.live import LiveRelay
from tests.reference.consumer import StrictConsumer

if TYPE_CHECKING:
    from pathlib import Path


def test_a_relay_that_replaces_another(tmp_path: Path) -> None:
    """With RELAY_INITIAL_SEQ above another relay's last seq, its consumers come with their cursors and get what is new:
    after OutdatedCursor, unless they have all; and RELAY_DURABILITY is obeyed."""
    with LiveRelay(tmp_path / "relay", RELAY_INITIAL_SEQ="1000000", RELAY_DURABILITY="os") as live:
        port = live.relay.http.addresses[0][1]
        assert live.relay.log.status()["durability"] == "os"
        with StrictConsumer(port, 5_000, contiguous=False) as theirs, StrictConsumer(port, 999_999) as have_all:
            info = theirs.next(WAIT_S)
            assert (info.kind, info.payload["name"]) == ("#info", "OutdatedCursor")
            append(live.relay.log, "new")
            assert theirs.next(WAIT_S).seq == have_all.next(WAIT_S).seq == 1_000_000

"""zlay.net.h11_tables: what it is for."""

from __future__ import annotations

import re
import threading
import time

import h11
import h11._readers
import pytest
from h11._abnf import header_field
from h11._readers import READERS
from hypothesis import given, settings
from hypothesis import strategies as st

import zlay.net.h11_tables  # noqa: F401

LOOKUPS = 2000
LIMIT_S = 5e-6  # a look-up; some 0.15 us with the remedy, 20 us without


@pytest.mark.measures
def test_a_thread_that_did_not_import_h11_reads_its_tables_without_a_lock() -> None:
    """A look-up of a state's reader from another thread takes no 20 us."""
    best = [1.0]

    def look_up() -> None:
        for _ in range(5):
            started = time.thread_time()
            for _ in range(LOOKUPS):
                assert READERS.get((h11.CLIENT, h11.IDLE)) is not None
            best[0] = min(best[0], (time.thread_time() - started) / LOOKUPS)

    thread = threading.Thread(target=look_up)
    thread.start()
    thread.join()
    assert best[0] < LIMIT_S


ORIGINAL = re.compile(header_field.encode("ascii"))
LINES = st.lists(st.sampled_from([b"a", b"X", b":", b" ", b"  ", b"\t", b"\0", b"\r", b"\f", b"\xff", b"\x7f", b"y z"]))


@settings(max_examples=1000)
@given(LINES)
def test_header_lines_mean_what_h11_says(parts: list[bytes]) -> None:
    """The expression used matches the lines that h11's own does, with the same name and value."""
    line = b"".join(parts)
    own, new = ORIGINAL.fullmatch(line), h11._readers.header_field_re.fullmatch(line)
    assert (own is None) == (new is None)
    assert own is None or new is None or own.groupdict() == new.groupdict()


@pytest.mark.measures
@pytest.mark.parametrize("line", [b" " * 60_000 + b"\0", b"a" + b" " * 60_000 + b"\0", b"\t " * 30_000 + b"\f"])
@pytest.mark.parametrize("role", [h11.CLIENT, h11.SERVER])
def test_no_header_takes_the_square_of_its_length(role: type, line: bytes) -> None:
    """Blanks before a byte that is refused, as a hostile client or server may send them, take milliseconds."""
    peer = h11.Connection(role, max_incomplete_event_size=1 << 20)
    first = b"GET / HTTP/1.1\r\n" if role is h11.SERVER else b"HTTP/1.1 200 OK\r\n"
    if role is h11.CLIENT:
        peer.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    peer.receive_data(first + b"X:" + line + b"\r\n\r\n")
    began = time.thread_time()
    with pytest.raises(h11.RemoteProtocolError):
        peer.next_event()
    assert time.thread_time() - began < 0.1  # 10 s and more without the remedy

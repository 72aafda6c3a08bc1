"""What is passed on can be read: no frame that we accept ends the connection of a typed consumer (design 14)."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests._fast import wild
from tests._fast.test_message import ACCEPTED
from tests.reference import go_ref
from tests.reference.frame_ref import decode_frame
from zlay._fast import message

FRAMES = 600


@pytest.mark.parametrize("name", ACCEPTED)
def test_typed_consumers_read_what_is_accepted(name: str) -> None:
    """Every legal shape of a message is read by a typed Go consumer."""
    go_ref.read_frame(ACCEPTED[name])


@pytest.mark.parametrize("seed", [1, 2])
def test_typed_consumers_read_whatever_passes(seed: int) -> None:
    """Whatever stands in fields that nobody knows: what we accept, typed Go consumers and strict readers read, too."""
    rng = random.Random(seed)
    verdicts: Counter[str] = Counter()
    stopped = 0
    for _ in range(FRAMES):
        raw = wild.frame(rng)
        got = message.decode(raw)
        verdicts[got if isinstance(got, str) else "ok"] += 1
        if isinstance(got, dict):
            go_ref.read_frame(raw)
            assert decode_frame(raw).seq == got["seq"]
            continue
        try:
            go_ref.read_frame(raw)
        except go_ref.GoError:
            stopped += 1
    assert verdicts["ok"] > FRAMES / 4
    assert set(verdicts) == {"ok", "cbor_float", "cbor_limit", "cbor_depth", "cbor_int_range", "cbor_cid"}
    assert stopped > FRAMES / 50, "some of what is refused would have ended their connection"

"""What the simulation can do wrong on purpose, and which drop reason a strict relay gives for it.

Promises: every fault of an event leaves the account as if the event had not been sent, so that the next good event is
good for a relay that dropped the bad one. Names are used on the command line, by the control endpoint and, by their
number, in the ledger: new ones are added at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zlay.sim.repo import Spoil

__all__ = ["EVENT_FAULTS", "FAULTS", "FAULT_NUMBER", "GROUPS", "STREAM_FAULTS", "Fault", "choices"]

Mangle = Callable[[bytes, int], bytes]


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of misbehaviour of an event.

    `reason` is the label of `relay_events_total{verdict="drop"}` that must count it. `spoil` says what the builder of
    commits does; `mangle(message, seq_offset)` spoils the finished message; neither: mischief.py knows it by name.
    `creates` is the least number of creates that the spoilt commit needs; `known` says that the relay must hold the
    account's state already, or the event would be taken for a first sight.
    """

    name: str
    reason: str
    spoil: Spoil = Spoil.SPOIL_NOTHING
    mangle: Mangle | None = None
    creates: int = 1
    known: bool = False


_HEADER_END = len(b"\xa2atg#commitbop\x01")  # offset of the payload's map head in a #commit


def _trailing(message: bytes, seq_offset: int) -> bytes:
    return message + b"\x00"


def _truncated(message: bytes, seq_offset: int) -> bytes:
    return message[:-1]


def _long_int(message: bytes, seq_offset: int) -> bytes:
    """Writes seq with a longer argument than it needs."""
    head = message[seq_offset]
    size = {24: 1, 25: 2, 26: 4, 27: 8}.get(head & 0x1F, 0)
    value = int.from_bytes(message[seq_offset + 1 : seq_offset + 1 + size], "big") if size else head & 0x1F
    return message[:seq_offset] + b"\x1b" + value.to_bytes(8, "big") + message[seq_offset + 1 + size :]


def _indefinite(message: bytes, seq_offset: int) -> bytes:
    return message[:_HEADER_END] + b"\xbf" + message[_HEADER_END + 1 :] + b"\xff"


def _key_order(message: bytes, seq_offset: int) -> bytes:
    """Turns rebase and tooBig round; both are false and of the same length."""
    at = message.rindex(b"frebase\xf4ftooBig\xf4")
    return message[:at] + b"ftooBig\xf4frebase\xf4" + message[at + 16 :]


def _duplicate_key(message: bytes, seq_offset: int) -> bytes:
    at = message.rindex(b"ftooBig\xf4")
    return message[:at] + b"frebase\xf4" + message[at + 8 :]


def _replaced_bool(item: bytes) -> Mangle:
    def mangle(message: bytes, seq_offset: int) -> bytes:
        at = message.rindex(b"frebase\xf4") + 7
        return message[:at] + item + message[at + 1 :]

    return mangle


def _utf8(message: bytes, seq_offset: int) -> bytes:
    """A byte that begins no character, inside the time field."""
    at = message.index(b"dtime\x78\x18", seq_offset) + 7
    return message[:at] + b"\xff" + message[at + 1 :]


def _int_key(message: bytes, seq_offset: int) -> bytes:
    """The first key of the payload (ops) becomes an integer."""
    return message[: _HEADER_END + 1] + b"\x03" + message[_HEADER_END + 5 :]


FAULTS: tuple[Fault, ...] = (
    Fault("none", "ok"),
    Fault("bad_signature", "sig_invalid", Spoil.SPOIL_SIGNATURE),
    Fault("other_key", "sig_invalid", Spoil.SPOIL_OTHER_KEY),
    Fault("high_s", "sig_high_s", Spoil.SPOIL_HIGH_S),
    Fault("bad_tree", "prev_data_mismatch", Spoil.SPOIL_PREV_DATA),
    Fault("op_left_out", "prev_data_mismatch", Spoil.SPOIL_OP_LEFT_OUT, creates=2),
    Fault("bad_op", "mst_op", Spoil.SPOIL_OP_VALUE),
    Fault("missing_record", "record_missing", Spoil.SPOIL_MISSING_RECORD),
    Fault("missing_block", "mst_missing_node", Spoil.SPOIL_MISSING_NODE),
    Fault("block_hash", "block_hash", Spoil.SPOIL_BLOCK_HASH),
    Fault("no_prev_data", "missing_prev_data", Spoil.SPOIL_NO_PREV_DATA, known=True),
    Fault("op_shape", "op_shape", Spoil.SPOIL_OP_SHAPE),
    Fault("stale_rev", "rev_stale", known=True),
    Fault("future_rev", "rev_future"),
    Fault("wrong_host", "wrong_host"),
    Fault("unknown_did", "did_not_found"),
    Fault("big_unknown", "did_not_found", creates=2),
    Fault("inactive_commit", "account_inactive"),
    Fault("enc_trailing", "cbor_trailing", mangle=_trailing),
    Fault("enc_truncated", "cbor_truncated", mangle=_truncated),
    Fault("enc_long_int", "cbor_not_shortest", mangle=_long_int),
    Fault("enc_indefinite", "cbor_indefinite", mangle=_indefinite),
    Fault("enc_key_order", "cbor_key_order", mangle=_key_order),
    Fault("enc_duplicate_key", "cbor_key_order", mangle=_duplicate_key),
    Fault("enc_float", "cbor_float", mangle=_replaced_bool(b"\xf9\x3c\x00")),
    Fault("enc_simple", "cbor_simple", mangle=_replaced_bool(b"\xf7")),
    Fault("enc_tag", "cbor_tag", mangle=_replaced_bool(b"\xc1\x01")),
    Fault("enc_utf8", "cbor_utf8", mangle=_utf8),
    Fault("enc_int_key", "cbor_key_type", mangle=_int_key),
)

FAULT_NUMBER = {fault.name: number for number, fault in enumerate(FAULTS)}
EVENT_FAULTS = tuple(fault.name for fault in FAULTS[1:])
GROUPS = {
    "broken_encoding": tuple(name for name in EVENT_FAULTS if name.startswith("enc_")),
    "any": EVENT_FAULTS,
}

# Misbehaviour of a host's stream rather than of one event; see LiveSource.misbehave in sources.py for each.
STREAM_FAULTS = ("stall", "disconnect", "disconnect_mid", "replay", "resend", "renumber", "flood")


def choices(name: str) -> tuple[str, ...]:
    """The faults that a name on the command line means: itself, or the members of a group. KeyError if unknown."""
    if name in GROUPS:
        return GROUPS[name]
    if name not in FAULT_NUMBER or name == "none":
        raise KeyError(name)
    return (name,)

"""A relay's judgement of single events, slow and obvious, on the references: what the ledger is held against.

It gives the labels of the relay's drop reasons where it can tell them apart, `cbor` for all that is not canonical.
One thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.reference import mst_ref
from tests.reference.car_ref import CarError, read_car
from tests.reference.drisl_ref import Cid, decode, encode
from tests.reference.ecdsa_ref import verify
from tests.reference.frame_ref import FrameError, decode_frame
from tests.reference.mst_ref import MissingBlockError, MstError, Op

if TYPE_CHECKING:
    from zlay.sim.ledger import Event
    from zlay.sim.network import Network

FUTURE_LIMIT = 300_000_000 << 10  # 5 minutes, in a TID's unit
ALPHABET = "234567abcdefghijklmnopqrstuvwxyz"
SHAPES = {("create", True, False), ("update", True, True), ("delete", False, True)}


class Dropped(Exception):
    """The event must not come out; the text is the reason."""


@dataclass(slots=True)
class State:
    """What a relay holds of an account."""

    rev: str | None = None
    data: Cid | None = None
    active: bool = True


def tid_value(text: str) -> int:
    """A TID's number."""
    number = 0
    for char in text:
        number = number * 32 + ALPHABET.index(char)
    return number


class SlowRelay:
    """Judges the events of a network, one after the other, as they are said."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.states: dict[str, State] = {}

    def judge(self, event: Event) -> str:
        """`ok`, or the reason to drop it."""
        try:
            self._judge(event)
        except Dropped as dropped:
            return str(dropped)
        except FrameError:
            return "cbor"
        return "ok"

    def _judge(self, event: Event) -> None:
        frame = decode_frame(event.message)
        assert frame.seq == event.seq
        assert frame.seq_start == event.seq_offset
        did = frame.did
        assert did is not None
        profile = self.network.directory.profiles.get(did)
        if profile is None:
            raise Dropped("did_not_found")
        if profile.pds != self.network.hosts[event.host].url:
            raise Dropped("wrong_host")
        state = self.states.setdefault(did, State())
        if frame.kind == "#account":
            state.active = frame.payload["active"]
        elif frame.kind in ("#commit", "#sync"):
            self._judge_repo(frame.kind, frame.payload, profile.key, state, event)

    def _judge_repo(self, kind: str, message: dict[str, Any], key: str, state: State, event: Event) -> None:
        if not state.active:
            raise Dropped("account_inactive")
        ops = self._ops(message) if kind == "#commit" else []
        try:
            roots, blocks = read_car(message["blocks"])
        except CarError:
            raise Dropped("block_hash") from None
        assert kind == "#sync" or roots[0] == message["commit"]
        commit = decode(blocks[roots[0]])
        assert isinstance(commit, dict)
        assert commit["did"] == event.did or kind == "#commit"
        assert commit["rev"] == message["rev"]
        assert (commit["version"], commit["prev"]) == (3, None)
        signature = commit.pop("sig")
        assert isinstance(signature, bytes)
        verdict = verify(key, encode(commit), signature)
        if verdict != "ok":
            raise Dropped(f"sig_{verdict}")
        data = commit["data"]
        assert isinstance(data, Cid)
        if kind == "#commit":
            self._check_tree(message, data, blocks, ops)
        self._check_order(kind, message, data, state, event)
        state.rev, state.data = message["rev"], data

    def _ops(self, message: dict[str, Any]) -> list[Op]:
        for op in message["ops"]:
            if (op["action"], op["cid"] is not None, "prev" in op) not in SHAPES:
                raise Dropped("op_shape")
        if message["since"] is not None and "prevData" not in message:
            raise Dropped("missing_prev_data")
        return [Op(op["action"], op["path"].encode(), op["cid"], op.get("prev")) for op in message["ops"]]

    def _check_tree(self, message: dict[str, Any], data: Cid, blocks: dict[Cid, bytes], ops: list[Op]) -> None:
        if ops and data not in blocks:
            raise Dropped("mst_missing_node")
        try:
            for op in ops:
                if op.cid is not None and op.cid not in blocks:
                    raise Dropped(
                        "mst_op" if mst_ref.get(mst_ref.load(data, blocks), op.key) != op.cid else "record_missing"
                    )
            before = mst_ref.invert(data, blocks, ops)
        except MissingBlockError:
            raise Dropped("mst_invert") from None
        except MstError:
            raise Dropped("mst_op") from None
        if before != message.get("prevData", mst_ref.EMPTY_ROOT):
            raise Dropped("prev_data_mismatch")

    def _check_order(self, kind: str, message: dict[str, Any], data: Cid, state: State, event: Event) -> None:
        rev = message["rev"]
        if tid_value(rev) > (event.time_us << 10) + FUTURE_LIMIT:
            raise Dropped("rev_future")
        if kind == "#sync" and (rev, data) == (state.rev, state.data):
            raise Dropped("sync_noop")
        if state.rev is not None and rev <= state.rev:
            raise Dropped("rev_stale")
        if kind == "#commit" and state.rev is not None:
            assert message["since"] == state.rev, "a chain break"
            assert message.get("prevData") == state.data, "a chain break"

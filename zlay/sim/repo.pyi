from enum import IntFlag

from zlay.sim.keys import SigningKey
from zlay.sim.rng import Rng

class Spoil(IntFlag):
    SPOIL_NOTHING = 0
    SPOIL_SIGNATURE = 1
    SPOIL_OTHER_KEY = 2
    SPOIL_HIGH_S = 3
    SPOIL_PREV_DATA = 4
    SPOIL_OP_LEFT_OUT = 5
    SPOIL_OP_VALUE = 6
    SPOIL_MISSING_RECORD = 7
    SPOIL_MISSING_NODE = 8
    SPOIL_BLOCK_HASH = 9
    SPOIL_NO_PREV_DATA = 10
    SPOIL_OP_SHAPE = 11

class Repo:
    did: str
    key: SigningKey
    rev: int
    @property
    def size(self) -> int: ...
    @property
    def rev_text(self) -> str | None: ...
    @property
    def head_digest(self) -> bytes: ...
    @property
    def data_digest(self) -> bytes: ...
    def __init__(self, did: str, key: SigningKey, clock_id: int) -> None: ...
    def next_rev(self, now_us: int) -> int: ...
    def commit(
        self,
        rng: Rng,
        seq: int,
        rev: int,
        time: bytes,
        creates: int,
        updates: int,
        deletes: int,
        spoil: Spoil = ...,
        keep: bool = True,
        text_n: int = 0,
        other_key: SigningKey | None = None,
    ) -> bytes: ...
    def sync(self, seq: int, time: bytes) -> bytes: ...
    def resign(self, rev: int) -> None: ...
    def car(self) -> bytes: ...

"""The account table in the plainest terms: an ordered dict, oldest first, and a list of key slots with a clock's hand.

Written from docs/design.md ("Account table"), not from the code.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

SCAN = 4096  # entries looked at before an insert gives up for now


@dataclass
class Entry:
    last_seq: int = 0
    dirty: bool = False
    slot: int | None = None


@dataclass
class Slot:
    owner: bytes | None = None
    key: bytes = b""
    used: bool = False


class AccountsRef:
    """What tests/_fast/test_accounts.py holds TestTable to."""

    def __init__(self, capacity: int, keys: int) -> None:
        self.capacity = capacity
        self.key_capacity = keys
        self.entries: OrderedDict[bytes, Entry] = OrderedDict()
        self.dirty: list[bytes] = []
        self.slots: list[Slot] = []
        self.hand = 0

    def find(self, did: bytes) -> bytes | None:
        """The DID when it is there; it is the newest now."""
        if did not in self.entries:
            return None
        self.entries.move_to_end(did)
        return did

    def insert(self, did: bytes, applied: int) -> bool:
        """Whether there was room, after evicting the oldest that nothing pins; what is pinned is newest then."""
        if len(self.entries) == self.capacity and not self._make_room(applied):
            return False
        self.entries[did] = Entry()
        return True

    def _make_room(self, applied: int) -> bool:
        for _ in range(min(SCAN, self.capacity)):
            did, entry = next(iter(self.entries.items()))
            if not entry.dirty and entry.last_seq <= applied:
                self._drop_key(entry)
                del self.entries[did]
                return True
            self.entries.move_to_end(did)
        return False

    def set_last_seq(self, did: bytes, seq: int) -> None:
        """The newest event that changed it."""
        self.find(did)
        self.entries[did].last_seq = seq

    def touch_dirty(self, did: bytes) -> None:
        """Changed since last collected; once."""
        self.find(did)
        if not self.entries[did].dirty:
            self.entries[did].dirty = True
            self.dirty.append(did)

    def pop_dirty(self) -> bytes | None:
        """The one that became dirty last."""
        if not self.dirty:
            return None
        did = self.dirty.pop()
        self.entries[did].dirty = False
        return did

    def _drop_key(self, entry: Entry) -> None:
        if entry.slot is not None:
            self.slots[entry.slot].owner = None
            self.slots[entry.slot].used = False
            entry.slot = None

    def set_key(self, did: bytes, key: bytes) -> None:
        """Keeps a key, in a slot that nobody has used since the clock's hand passed."""
        self.find(did)
        entry = self.entries[did]
        if entry.slot is None:
            entry.slot = self._take_slot()
        slot = self.slots[entry.slot]
        slot.owner, slot.key, slot.used = did, key, True

    def _take_slot(self) -> int:
        if len(self.slots) < self.key_capacity:
            self.slots.append(Slot())
            return len(self.slots) - 1
        while True:
            at, self.hand = self.hand, (self.hand + 1) % self.key_capacity
            slot = self.slots[at]
            if slot.used:
                slot.used = False
                continue
            if slot.owner is not None:
                self.entries[slot.owner].slot = None
            return at

    def key(self, did: bytes) -> bytes | None:
        """The key, which counts as used."""
        self.find(did)
        number = self.entries[did].slot
        if number is None:
            return None
        self.slots[number].used = True
        return self.slots[number].key

    def keys_live(self) -> int:
        """Entries with a key."""
        return sum(entry.slot is not None for entry in self.entries.values())

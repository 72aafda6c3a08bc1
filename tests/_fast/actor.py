"""An account as its PDS has it: frames that follow from each other, with one thing changed where a test wants it.

Built on the slow references (commits.py); one thread each.
"""

from __future__ import annotations

import base64
import hashlib
import time
from typing import TYPE_CHECKING, Any

from tests._fast import frames
from tests._fast.commits import KEY_TYPES, Draft, Records, apply, draft, sync, value
from tests.reference.mst_ref import build, encode_tree
from zlay._fast.syntax import tid_text
from zlay.pipeline.types import Identity
from zlay.sim.keys import SigningKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests._fast.commits import RawOp
    from tests._fast.pipe import Pipe

TIME = "2026-07-04T12:00:00.000Z"


def now_us() -> int:
    """Unix microseconds."""
    return time.time_ns() // 1000


class Actor:
    """One account. `rev` (a TID's number, 0 = no repository yet) and `records` are its newest state."""

    def __init__(self, name: str, curve: str = "k256", *, seed: str = "") -> None:
        digest = hashlib.sha256(f"{seed}{name}".encode()).digest()
        self.did = "did:plc:" + base64.b32encode(digest).decode().lower()[:24]
        self.key = SigningKey(curve, name.encode())
        self.records: Records = {}
        self.rev = 0
        self._made = 0

    # --- what the directory says ---

    def identity(self, host: str | None, *, resolved_us: int | None = None, key: SigningKey | None = None) -> Identity:
        """The answer of a resolver asked now: this account at this host."""
        key = key or self.key
        when = now_us() if resolved_us is None else resolved_us
        return Identity(self.did, "ok", host, KEY_TYPES[key.curve], key.point, when)

    def document(self, host: str) -> dict[str, Any]:
        """The DID document."""
        return {
            "id": self.did,
            "verificationMethod": [
                {
                    "id": f"{self.did}#atproto",
                    "type": "Multikey",
                    "controller": self.did,
                    "publicKeyMultibase": self.key.multikey,
                }
            ],
            "service": [
                {"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": f"http://{host}"}
            ],
        }

    # --- commits ---

    def draft(self, seq: int, ops: list[RawOp] | None = None, *, rev: int | None = None) -> Draft:
        """The next commit, one create unless told otherwise. The account does not move on: see `take`."""
        self._made += 1
        if ops is None:
            ops = [
                ("create", f"app.bsky.feed.post/{self._made:013d}".encode(), value(f"{self.did} {self._made}"), None)
            ]
        made = draft(self.records, ops, self.key, first=self.rev == 0)
        rev = self.next_rev() if rev is None else rev
        made.message |= {"seq": seq, "repo": self.did, "rev": tid_text(rev)}
        made.commit |= {"did": self.did, "rev": tid_text(rev)}
        if self.rev:
            made.message["since"] = tid_text(self.rev)
        made.after = (rev, apply(self.records, ops))
        return made

    def take(self, made: Draft) -> bytes:
        """The account moves on to the draft's state; its frame."""
        assert made.after is not None
        self.rev, self.records = made.after
        return made.frame()

    def commit(self, seq: int, ops: list[RawOp] | None = None) -> bytes:
        """The next commit, taken."""
        return self.take(self.draft(seq, ops))

    def sync(self, seq: int, *, rev: int | None = None) -> Draft:
        """A #sync at the newest tree, under a newer rev unless told otherwise; not taken."""
        made = sync(self.key, encode_tree(build(self.records)))
        rev = self.next_rev() if rev is None else rev
        made.message |= {"seq": seq, "did": self.did, "rev": tid_text(rev)}
        made.commit |= {"did": self.did, "rev": tid_text(rev)}
        made.after = (rev, self.records)
        return made

    def next_rev(self) -> int:
        """A rev above the newest one."""
        return max(self.rev + (1 << 10), (now_us() - 60_000_000) << 10)

    # --- the others ---

    def account(self, seq: int, **changes: Any) -> bytes:
        """An #account."""
        return frames.frame(frames.account(seq=seq, did=self.did, **changes), "#account")

    def identity_event(self, seq: int, **changes: Any) -> bytes:
        """An #identity."""
        return frames.frame(frames.identity(seq=seq, did=self.did, **changes), "#identity")

    def unknown(self, seq: int, **changes: Any) -> bytes:
        """A message of a type that zlay does not know."""
        return frames.frame({"seq": seq, "did": self.did, **changes}, "#novelty")


def changed(made: Draft, change: Callable[[Draft], object]) -> bytes:
    """The frame of a copy of the draft with one change."""
    copy = made.copy()
    change(copy)
    return copy.frame()


def published_actor(pipe: Pipe) -> Actor:
    """Alice at a new host `a` of the pipe, with one commit published."""
    actor = Actor("alice")
    feed = pipe.feed("a")
    pipe.identities[actor.did] = lambda: actor.identity("a")
    feed.send(actor.commit(feed.next_seq()))
    pipe.settle()
    return actor

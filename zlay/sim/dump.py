"""Frames, keys and repositories as lines of JSON, for checks by programs in other languages.

One object a line. First the events in order: {"type": "event", "host", "seq", "did", "kind" ("commit", "sync",
"identity", "account"), "rev", "expect" ("pass", "drop", "noop"), "fault", "reason", "didKey" (of the account when the
event was said; of a rotated key, too), "frame" (base64 of the message: header and payload, no WebSocket head)}. Then
the repositories as they are at the end: {"type": "repo", "did", "didKey", "status" (null = active), "rev", "head",
"data" (CIDs), "records", "car" (base64, what getRepo answers)}.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, TextIO

from zlay.sim.endpoints import cid_text
from zlay.sim.ledger import Expect, Kind, Ledger
from zlay.sim.messages import tid

if TYPE_CHECKING:
    from zlay.sim.network import Network

__all__ = ["dump"]


def dump(network: Network, events: int, out: TextIO) -> None:
    """Generates `events` events and writes them, then all repositories."""
    with Ledger(network.ledger.path) as ledger:
        while network.generated < events:
            network.step()
            network.ledger.flush()
            for event in ledger.poll():
                account = network.by_did.get(event.did)
                line = {
                    "type": "event",
                    "host": network.hosts[event.host].name,
                    "seq": event.seq,
                    "did": event.did,
                    "kind": Kind(event.kind).name.lower(),
                    "rev": tid(event.rev) if event.rev else None,
                    "expect": Expect(event.expect).name.lower(),
                    "fault": event.fault,
                    "reason": event.reason,
                    "didKey": account.repo.key.did_key if account else None,
                    "frame": base64.b64encode(event.message).decode("ascii"),
                }
                out.write(json.dumps(line) + "\n")
    for account in network.accounts:
        repo = account.repo
        if account.status == "deleted":
            continue
        line = {
            "type": "repo",
            "did": account.did,
            "didKey": repo.key.did_key,
            "status": account.status,
            "rev": repo.rev_text,
            "head": cid_text(repo.head_digest),
            "data": cid_text(repo.data_digest),
            "records": repo.size,
            "car": base64.b64encode(repo.car()).decode("ascii"),
        }
        out.write(json.dumps(line) + "\n")

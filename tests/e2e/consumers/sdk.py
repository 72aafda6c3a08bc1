"""A third party's consumer: the Python SDK (PyPI `atproto`), run by the oracle venv's ordinary interpreter.

    python sdk.py WS_URL PLC_URL [CURSOR]

Prints one JSON line per event, {"seq","kind","did","rev","ops",...}, or {"error",...}. The SDK parses frames and models
strictly; on top of that each commit's and sync's CAR root, block CIDs and signature are checked with the SDK's own CAR
reader, identity resolver and crypto. One thread.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from typing import Any

import libipld
from atproto import CAR, FirehoseSubscribeReposClient, IdResolver, models, parse_subscribe_repos_message
from atproto_crypto.verify import verify_signature

CID_DAG_CBOR_SHA256 = b"\x01\x71\x12\x20"


def emit(line: dict[str, Any]) -> None:
    """One JSON object per line on stdout, at once."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class Checker:
    """Holds commits against the signing keys that the PLC directory names; one thread."""

    def __init__(self, plc_url: str) -> None:
        self._resolver = IdResolver(plc_url=plc_url)
        self._keys: dict[str, str] = {}

    def check(self, did: str, rev: str, blocks: bytes, commit: str | None) -> None:
        """Raise ValueError unless `blocks` is a CAR whose root is a commit of `did` with a valid signature."""
        car = CAR.from_bytes(blocks)
        root = str(car.root)
        if commit is not None and root != commit:
            raise ValueError(f"commit {commit} is not the CAR's root {root}")
        signed = car.blocks.get(car.root)
        if not isinstance(signed, dict):
            raise ValueError("the commit block is missing")
        if signed["did"] != did or signed["rev"] != rev:
            raise ValueError("the commit names another did or rev than the message")
        digest = hashlib.sha256(libipld.encode_dag_cbor(signed)).digest()
        if libipld.encode_multibase("b", CID_DAG_CBOR_SHA256 + digest) != root:
            raise ValueError("the commit block is not canonical or not what its CID says")
        unsigned = {key: value for key, value in signed.items() if key != "sig"}
        if not verify_signature(self._key(did), libipld.encode_dag_cbor(unsigned), signed["sig"]):
            raise ValueError("bad signature")

    def _key(self, did: str) -> str:
        if did not in self._keys:
            data = self._resolver.did.resolve_atproto_data(did)
            if not data.signing_key:
                raise ValueError(f"no signing key for {did}")
            self._keys[did] = data.signing_key
        return self._keys[did]


def describe(message: Any, checker: Checker) -> dict[str, Any]:
    """The line for one parsed message; ValueError where a check fails."""
    kinds = models.ComAtprotoSyncSubscribeRepos
    if isinstance(message, kinds.Commit):
        checker.check(message.repo, message.rev, bytes(message.blocks), str(message.commit))
        ops = [{"action": op.action, "path": op.path, "cid": str(op.cid) if op.cid else None} for op in message.ops]
        line = {"kind": "commit", "did": message.repo, "rev": message.rev, "commit": str(message.commit)}
        return {**line, "ops": ops, "verified": True}
    if isinstance(message, kinds.Sync):
        checker.check(message.did, message.rev, bytes(message.blocks), None)
        return {"kind": "sync", "did": message.did, "rev": message.rev, "verified": True}
    if isinstance(message, kinds.Identity):
        return {"kind": "identity", "did": message.did, "handle": message.handle}
    if isinstance(message, kinds.Account):
        return {"kind": "account", "did": message.did, "active": message.active, "status": message.status}
    return {"kind": "info", "name": message.name}


def main() -> None:
    """Subscribe and print until the parent closes stdin."""
    ws_url, plc_url, *rest = sys.argv[1:]
    checker = Checker(plc_url)
    params = {"cursor": int(rest[0])} if rest else None
    client = FirehoseSubscribeReposClient(params, base_uri=f"{ws_url}/xrpc")

    def on_message(frame: Any) -> None:
        seq = frame.body.get("seq")
        try:
            message = parse_subscribe_repos_message(frame)
            emit({"seq": seq, **describe(message, checker)})
        except Exception as exc:  # noqa: BLE001 - every failure of a third party's parser is a finding
            emit({"error": type(exc).__name__, "message": str(exc)[:500], "seq": seq})
        if seq is not None:
            client.update_params({"cursor": seq})

    def exit_with_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=exit_with_parent, name="parent-watch", daemon=True).start()
    emit({"ready": True})
    client.start(on_message, lambda exc: emit({"error": type(exc).__name__, "message": str(exc)[:500]}))


if __name__ == "__main__":
    main()

"""The simulated network, which is the truth for other tests, against npm @atproto/repo and against the references."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.deps import npm_environment
from tests.fixtures import ROOT
from tests.reference import mst_ref
from tests.reference.car_ref import CarError, read_car
from tests.reference.drisl_ref import Cid, DrislError, decode
from tests.reference.frame_ref import FrameError, decode_frame

pytestmark = pytest.mark.timeout(300)

EVENTS = 600
# What npm's library checks, too. The rest (encoding, rev rules, authority, op shapes) it takes or cannot know.
REFUSED_BY_NPM = {"sig_invalid", "sig_high_s", "prev_data_mismatch", "mst_op", "record_missing", "block_hash"}
REFUSED_BY_REFERENCE = {"prev_data_mismatch", "mst_op", "mst_missing_node", "block_hash"}


def dump(*flags: str, seed: int = 7) -> list[dict[str, Any]]:
    """What `zlay sim --dump-json` prints with these flags."""
    argv = [sys.executable, "-m", "zlay.sim", "--seed", str(seed), "--hosts", "3", "--accounts", "24", *flags]
    done = subprocess.run([*argv, "--dump-json", str(EVENTS)], capture_output=True, check=True, timeout=120, cwd=ROOT)
    return [json.loads(line) for line in done.stdout.splitlines()]


def ask_npm(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """npm @atproto/repo's opinion on each line (verify_dump.mjs)."""
    done = subprocess.run(
        ["node", str(ROOT / "tests" / "oracle" / "verify_dump.mjs")],
        input=b"".join(json.dumps(line).encode() + b"\n" for line in lines),
        capture_output=True,
        check=True,
        timeout=240,
        env=npm_environment(),
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(lines)
    return answers


def reference_refuses(line: dict[str, Any]) -> str | None:
    """Why the references refuse an event, None where they take it. Signatures are not theirs to check."""
    try:
        message = decode_frame(base64.b64decode(line["frame"])).payload
        if line["kind"] != "commit":
            return None
        roots, blocks = read_car(message["blocks"])
        assert roots[0] == message["commit"]
        commit = decode(blocks[roots[0]])
        assert isinstance(commit, dict)
        assert isinstance(commit["data"], Cid)
        assert (commit["did"], commit["rev"], commit["version"]) == (message["repo"], message["rev"], 3)
        ops = [mst_ref.Op(op["action"], op["path"].encode(), op["cid"], op.get("prev")) for op in message["ops"]]
        before = mst_ref.invert(commit["data"], blocks, ops)
        return None if before == message.get("prevData", mst_ref.EMPTY_ROOT) else "prevData"
    except (FrameError, CarError, DrislError, mst_ref.MstError) as exc:
        return f"{type(exc).__name__}: {exc}"


def test_what_the_simulation_makes_is_valid_to_others() -> None:
    """Every event and repository of an honest simulation verifies with npm @atproto/repo and with the references."""
    lines = dump("--multi-max", "60", "--mix", "multi=2500", "--mix", "birth=100", "--mix", "empty=200")
    events = [line for line in lines if line["type"] == "event"]
    assert {line["kind"] for line in events} == {"commit", "sync", "identity", "account"}
    assert {line["expect"] for line in events} <= {"pass", "noop"}
    assert {line["didKey"][8:12] for line in events} == {"zQ3s", "zDna"}, "keys of both curves"
    refused = [answer for answer in ask_npm(lines) if not answer["ok"]]
    assert refused == []
    assert [(line["seq"], why) for line in events if (why := reference_refuses(line))] == []


def test_what_the_simulation_breaks_is_broken_to_others() -> None:
    """Events that are bad on purpose are refused by npm and the references wherever these check; the good ones pass."""
    lines = dump("--fault", "any=4000", seed=8)
    events = [line for line in lines if line["type"] == "event"]
    bad = [line for line in events if line["expect"] == "drop"]
    reasons = {line["reason"] for line in bad}
    assert reasons >= REFUSED_BY_NPM | REFUSED_BY_REFERENCE
    for line, answer in zip(lines, ask_npm(lines), strict=True):
        if line["type"] == "repo" or line["expect"] != "drop":
            assert answer["ok"], answer
        elif line["reason"] in REFUSED_BY_NPM:
            assert not answer["ok"], answer
    for line in events:
        why = reference_refuses(line)
        if line["expect"] != "drop":
            assert why is None, (line["seq"], why)
        elif line["reason"] in REFUSED_BY_REFERENCE or line["reason"].startswith("cbor_"):
            assert why is not None, (line["fault"], line["reason"])


def test_the_same_seed_gives_the_same_bytes() -> None:
    """Two runs with one seed say the same, byte for byte; another seed says something else."""
    assert dump(seed=9) == dump(seed=9)
    assert dump(seed=9) != dump(seed=10)

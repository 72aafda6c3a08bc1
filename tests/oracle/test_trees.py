"""Trees: npm @atproto/repo grows them, changes them and chooses what a commit carries; the core undoes it all."""

from __future__ import annotations

import base64
import json
import random
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests._fast.commits import RawOp, Records, apply, value
from tests._fast.test_mst import POOL, invert
from tests.e2e.deps import npm_environment
from tests.fixtures import ROOT
from tests.reference.drisl_ref import Cid
from tests.reference.mst_ref import build, encode_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMITS = 200

pytestmark = pytest.mark.timeout(300)


def commits(seed: int) -> Iterator[tuple[Records, list[RawOp]]]:
    """Records of an account and ops on them."""
    rng = random.Random(seed)
    for number in range(COMMITS):
        records = {key: value(f"old {key!r}") for key in rng.sample(POOL, rng.choice((0, 1, 3, 20, 60)))}
        touched = rng.sample(POOL, rng.choice((1, 1, 2, 5, 12)))
        touched += rng.sample(sorted(records), min(len(records), rng.choice((0, 1, 4))))
        ops: list[RawOp] = []
        for key in dict.fromkeys(touched):
            new = value(f"new {number} {key!r}")
            if key not in records:
                ops.append(("create", key, new, None))
            else:
                ops.append(rng.choice([("update", key, new, records[key]), ("delete", key, None, records[key])]))
        yield records, ops


def ask_npm(cases: list[tuple[Records, list[RawOp]]]) -> list[dict[str, Any]]:
    """What npm's trees come to (commit_trees.mjs)."""
    lines = [
        {
            "records": {key.decode(): str(cid) for key, cid in records.items()},
            "ops": [[action, key.decode(), cid and str(cid)] for action, key, cid, _ in ops],
        }
        for records, ops in cases
    ]
    done = subprocess.run(
        ["node", str(ROOT / "tests" / "oracle" / "commit_trees.mjs")],
        input=b"".join(json.dumps(line).encode() + b"\n" for line in lines),
        capture_output=True,
        check=True,
        timeout=240,
        env=npm_environment(),
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("seed", [1, 2])
def test_trees_of_npm_are_undone(seed: int) -> None:
    """Roots before and after are the reference's; from the blocks that npm would send, the core undoes the ops."""
    cases = list(commits(seed))
    for (records, ops), answer in zip(cases, ask_npm(cases), strict=True):
        before, after = encode_tree(build(records)), encode_tree(build(apply(records, ops)))
        assert (answer["before"], answer["after"]) == (str(before), str(after))
        blocks = {Cid.of(block): block for block in map(base64.b64decode, answer["blocks"])}
        assert invert(blocks, after, ops) == ("ok", before)

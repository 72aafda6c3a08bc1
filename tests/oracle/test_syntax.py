"""String syntaxes: npm @atproto/syntax and ours say the same of thousands of strings near valid ones."""

from __future__ import annotations

import json
import random
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests import fixtures
from tests.e2e.deps import npm_environment
from tests.fixtures import ROOT
from zlay._fast import syntax

if TYPE_CHECKING:
    from collections.abc import Callable

STRINGS = 4000
CHECKS: dict[str, Callable[[str], bool]] = {
    "did": syntax.is_did,
    "handle": syntax.is_handle,
    "nsid": syntax.is_nsid,
    "recordkey": syntax.is_record_key,
    "tid": lambda text: syntax.tid_number(text) is not None,
    "datetime": syntax.is_datetime,
    "mstkey": lambda text: len(text) <= 1024 and syntax.is_mst_key(text.encode()),
}
MST_KEYS = ["com.example.record/3jqfcqzm3fo2j", "a/b", "x" * 500 + "/" + "y" * 523, "self:~/_.-"]


def mutated(rng: random.Random, text: str) -> str:
    """A string near a valid one: characters changed, left out, doubled or moved, once or twice."""
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(text) + 1)
        middle = rng.choice(["", text[at : at + 1] * 2, rng.choice("aZ09-._:%~/+TtZz é\0 "), text[: rng.randrange(9)]])
        text = text[:at] + middle + text[at + rng.randrange(3) :]
    return text


def strings(kind: str) -> list[str]:
    """Valid examples, and what becomes of them."""
    rng = random.Random(kind)
    valid = MST_KEYS if kind == "mstkey" else fixtures.interop(f"syntax/{kind}_syntax_valid.txt")
    return [*valid, *(mutated(rng, rng.choice(valid)) for _ in range(STRINGS))]


@pytest.mark.parametrize("kind", CHECKS)
def test_strings_are_judged_alike(kind: str) -> None:
    """Both take the same strings; of dates we refuse days that no calendar has, which JavaScript moves on."""
    texts = strings(kind)
    done = subprocess.run(
        ["node", str(ROOT / "tests" / "oracle" / "check_syntax.mjs")],
        input=b"".join(json.dumps([kind, text]).encode() + b"\n" for text in texts),
        capture_output=True,
        check=True,
        timeout=240,
        env=npm_environment(),
    )
    theirs = [json.loads(line) for line in done.stdout.splitlines()]
    ours = [CHECKS[kind](text) for text in texts]
    differ = [(text, us) for text, us, them in zip(texts, ours, theirs, strict=True) if us != them]
    if kind == "datetime":
        differ = [(text, us) for text, us in differ if us or text[8:10] not in ("29", "30", "31")]
    assert differ == []
    assert STRINGS / 20 < sum(ours) < STRINGS * 19 / 20, "the strings must hit both sides"

"""Tables that are made from code stand in the documents as the code makes them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, get_args

import pytest

from tests.docs import tables
from zlay._fast import consumer, reader
from zlay.demo.table import Figures, _rows
from zlay.hosts.interface import FailureKind, HostStatus

if TYPE_CHECKING:
    from collections.abc import Iterable

README = tables.ROOT / "README.md"
OPERATIONS = tables.ROOT / "docs" / "operations.md"
DESIGN = tables.ROOT / "docs" / "design.md"
REMEDY = "run `.venv/bin/python -m tests.docs.tables`"


def column(heading: str, text: str) -> list[str]:
    """The names in backticks of the first column of the table headed `heading`, `meaning`."""
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {heading} | meaning"))
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("| `"):
            break
        found.append(line.split("`")[1])
    return found


def test_settings() -> None:
    """The README lists every setting with its default and meaning as the code has them."""
    assert tables.table_in(README, "settings") == tables.settings(), REMEDY


@pytest.mark.parametrize(("name", "verdict"), [("drops", "drop"), ("holds", "hold")])
def test_reasons(name: str, verdict: str) -> None:
    """The operations page lists every reason to drop or hold as the table of verdicts has it."""
    assert tables.table_in(OPERATIONS, name) == tables.reasons(verdict), REMEDY


def test_refusals() -> None:
    """The operations page lists every reason for which the HTTP server ends connections and refuses requests."""
    assert tables.table_in(OPERATIONS, "refusals") == tables.refusals(), REMEDY


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("failure kind", get_args(FailureKind)),
        ("status", get_args(HostStatus)),
        ("`relay_consumer_disconnects_total{reason}`", consumer.REASONS),
        ("`relay_host_disconnects_total{cause}`", reader.CAUSES),
    ],
)
def test_closed_sets(heading: str, names: Iterable[str]) -> None:
    """What may stand in a status, a failure or a label is explained, all of it and nothing else."""
    assert sorted(column(heading, OPERATIONS.read_text())) == sorted(names)


def test_constants() -> None:
    """A limit that the design page quotes stands so in the code."""
    rows = re.findall(r"^\| `(\w+ = [^`]+)` \| `([^`]+)` \|", DESIGN.read_text(), re.MULTILINE)
    assert len(rows) > 20
    for constant, path in rows:
        line = re.compile(rf"^\s*{re.escape(constant)}\s*(#.*)?$", re.MULTILINE)
        assert line.search((tables.ROOT / path).read_text()), f"{path} does not say {constant}"


def test_readiness_reasons() -> None:
    """Every reason for which a relay is not ready is explained."""
    source = (tables.ROOT / "zlay" / "relay.py").read_text()
    body = source[source.index("def readiness") : source.index("def stats")]
    said = re.findall(r'reasons\.append\(\s*f?"([^"{]+)', body) + re.findall(r'^\s+\("(\w+)",', body, re.MULTILINE)
    assert len(said) >= 6
    explained = OPERATIONS.read_text()
    for words in said:
        assert f"| `{words.strip().removesuffix(':')}" in explained, words


def test_transcript() -> None:
    """The run shown in the README has the lines that the demo draws today."""
    shown = README.read_text()
    figures = Figures(1, 1, 1, 1, 1, 0, {}, 0, 1, 1, 1, 1, 1, 1)
    at = shown.index("$ scripts/zlay demo --seconds")
    for row in _rows(figures):
        label = row[:20].rstrip()
        at = shown.index(f"\n{label}", at)

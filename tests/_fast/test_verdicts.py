"""zlay._fast.verdicts: the table of reasons and the counters over it."""

from __future__ import annotations

import re
import threading

import pytest

from zlay._fast import verdicts

THREADS = 6
ROUNDS = 5000


def test_every_reason_has_label_class_clause_and_sentence() -> None:
    """Each reason has a unique snake_case label, a class, the clause it enforces, and one sentence."""
    labels = [reason.label for reason in verdicts.REASONS]
    assert len(set(labels)) == len(labels)
    for reason in verdicts.REASONS:
        assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", reason.label)
        assert reason.verdict in verdicts.VERDICTS
        assert re.search(r"\b[A-G]\d|design \d", reason.clause), reason
        assert re.fullmatch(r"[A-Za-z#].*\.", reason.text), reason


def test_codes_are_positions() -> None:
    """A reason's code is its position in the table, and holds are told by their label."""
    for position, reason in enumerate(verdicts.REASONS):
        assert reason.code == position
        assert (reason.verdict == "hold") == reason.label.startswith("hold_") or reason.label == "hold_expired"
    assert verdicts.REASONS[0].verdict == "pass"


def test_names_of_kinds_and_statuses() -> None:
    """The names follow the numbers stored in the log and the database, which never change."""
    assert verdicts.KINDS[1:5] == ("commit", "sync", "identity", "account")
    assert verdicts.STATUSES.index("active") == 0
    assert verdicts.STATUSES.index("unknown") == len(verdicts.STATUSES) - 1


def test_counts_lose_nothing_between_threads() -> None:
    """Verdicts counted by many threads at once all show in the sum, under their own reason only."""
    before = verdicts.counts()
    barrier = threading.Barrier(THREADS)

    def run() -> None:
        barrier.wait(30)
        for _ in range(ROUNDS):
            verdicts.count("drop", "mst_node")
            verdicts.count("pass", "ok")

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    after = verdicts.counts()
    changed = {key: after[key] - before[key] for key in after if after[key] != before[key]}
    assert changed == {("drop", "mst_node"): THREADS * ROUNDS, ("pass", "ok"): THREADS * ROUNDS}


@pytest.mark.parametrize("reason", verdicts.REASONS, ids=lambda reason: reason.label)
def test_every_reason_is_counted_under_its_verdict(reason: verdicts.ReasonInfo) -> None:
    """Every reason has a counter under its own verdict class, present before it is first used."""
    key = (reason.verdict, reason.label)
    before = verdicts.counts()[key]
    verdicts.count(*key)
    assert verdicts.counts()[key] == before + 1

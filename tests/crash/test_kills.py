"""SIGKILL at named points and random moments: exactly once over the whole history, whatever the moment.

`scripts/crash` does the same for hours; this is a sample. That the checks can fail stands in test_checks.py.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.crash.build import crash_points, crash_tree
from tests.crash.harness import History, Settings
from tests.crash.plan import FIRST_START, Kill, Plan
from tests.fixtures import ROOT

if TYPE_CHECKING:
    from pathlib import Path

KILLS = 15
SEED = 20261121
# About 3 seconds a kill; the build with crash points, when it has to be made anew, takes a minute or two.
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]


def test_fifteen_kills(tmp_path: Path) -> None:
    """Fifteen SIGKILLs under load, with held frames, a slow state, takedowns and a host that numbers anew: every valid
    event comes out once, seq + 1; consumers miss nothing and see nothing twice; log, state and cursors agree after each
    kill."""
    rng = random.Random(SEED)
    done: Counter[str | None] = Counter()
    chosen = rng.sample(sorted(crash_points().keys() - set(FIRST_START) - {"epoch.before", "epoch.after"}), KILLS // 2)
    kills = [Kill(point) for point in (*FIRST_START[1:3], *chosen, rng.choice(("epoch.before", "epoch.after")))]
    while len(kills) < KILLS:
        kills.insert(rng.randrange(len(FIRST_START), len(kills)), Kill(None))
    history = History(tmp_path, crash_tree(), Settings(SEED, rate=80, moment_s=1.0, quiet_s=1.5), done)
    history.run(kills)
    assert done.total() == KILLS
    assert sum(n for point, n in done.items() if point is not None) >= KILLS // 2, history.missed


@pytest.mark.ordinary_build
def test_crash_points_are_in_test_builds_only() -> None:
    """No crash point of the compiled core is in an ordinary build, not even by name; each stands in one place."""
    names = [name.encode() for name, path in crash_points().items() if path.endswith(".pyx")]
    assert len(names) > 20
    built = list((ROOT / "zlay" / "_fast").glob("*.so"))
    assert built
    for library in built:
        code = library.read_bytes()
        assert not [name for name in names if name + b"\0" in code], library.name


def test_a_plan_reaches_every_point() -> None:
    """A plan goes on until each point was hit so often, comes back to what was missed, and is the same for its seed."""
    points = sorted(crash_points())
    plans = [Plan(points, 200, 2, random.Random(7)) for _ in range(2)]
    histories = 0
    while not plans[0].finished():
        kills = plans[0].history()
        assert kills == plans[1].history()
        for i, kill in enumerate(kills):
            hit = kill.point if (i + histories) % 5 else None  # every fifth is not reached
            for plan in plans:
                plan.done[hit] += 1
        histories += 1
        assert histories < 20
        assert not plans[0].unreachable()
    assert plans[0].done.total() >= 200
    assert all(plans[0].done[point] >= 2 for point in points)


def test_a_point_that_is_never_reached_is_told() -> None:
    """A plan does not go on for ever where the code no longer comes by a point, and does not call that finished."""
    points = sorted(crash_points())
    plan = Plan(points, 200, 2, random.Random(7))
    while not plan.unreachable():
        plan.done.update(kill.point for kill in plan.history() if kill.point != points[0])
        assert not plan.finished()
    assert plan.unreachable() == [points[0]]

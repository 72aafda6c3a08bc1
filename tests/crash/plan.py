"""Which kill comes when: every crash point in turn, random moments in between, all from one seed. Pure.

What a point needs before it can be reached is said here: a store's first start, a torn end of the log, a half-made
segment from the kill before, a host whose numbering starts again, an orderly stop.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

__all__ = ["FIRST_START", "Kill", "Plan", "needs_renumbering", "needs_stop", "needs_torn_end"]

# Reached in the first start of a store alone, in this order; `replace.*` there is store.json, later run.json.
FIRST_START = ("start.agreed", "start.store_id", "hosts.before", "hosts.after")
# The kill before leaves what is needed: a half-made segment, a state that is behind the log.
_BEFORE = {"remove.before": "birth.between", "remove.after": "birth.frames", "replay.group": "apply.collected"}
_OFTEN = 40  # a point of the path of events is let pass up to so often
_SOMETIMES = {"commit": 12, "apply": 8, "cursors": 2, "rotate": 2, "birth": 2, "retire": 3, "unlink": 3, "takedown": 3}
_TRIES = 4  # for each hit that is wanted; then a point is not reachable any more, and that is a failure
_ONCE = ("open", "start", "recover", "remove", "replace", "replay", "hosts", "epoch", "stop")


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL: the `count`-th time that `point` is reached; at a random moment where that is None."""

    point: str | None
    count: int = 1


def needs_stop(point: str) -> bool:
    """Whether the relay has to be asked to stop first."""
    return point.startswith("stop.")


def needs_renumbering(point: str) -> bool:
    """Whether a host's numbering has to start again."""
    return point.startswith("epoch.")


def needs_torn_end(point: str) -> bool:
    """Whether the end of the log has to be torn, as by a power loss."""
    return point == "recover.cut"


@dataclass(slots=True)
class Plan:
    """At least `kills` kills in all, and every point hit `hits` times, in histories of at most `per_history`.

    `done` counts hits by point, None for random moments; `tried` kills that were planned, by point.
    """

    points: Iterable[str]
    kills: int
    hits: int
    rng: random.Random
    per_history: int = 60
    done: Counter[str | None] = field(default_factory=Counter)
    tried: Counter[str] = field(default_factory=Counter)

    def missing(self) -> list[str]:
        """Points that have not been hit often enough, as often as they still have to be."""
        return [point for point in sorted(self.points) for _ in range(self.hits - self.done[point])]

    def unreachable(self) -> list[str]:
        """Points that were not hit often enough, however often it was tried."""
        return [point for point in sorted(set(self.missing())) if self.tried[point] >= self.hits * _TRIES]

    def finished(self) -> bool:
        """Whether there were enough kills of each kind."""
        return self.done.total() >= self.kills and not self.missing()

    def history(self) -> list[Kill]:
        """The kills of the next history."""
        missing = self.missing()
        first = [point for point in FIRST_START if point in missing]
        others = [point for point in missing if point not in FIRST_START]
        self.rng.shuffle(others)
        room = min(self.per_history, max(self.kills - self.done.total(), len(missing)))
        if not self.hits:
            others = self.rng.sample(sorted(set(self.points) - set(FIRST_START)), min(room * 2 // 3, 40))
        plan: list[Kill] = []
        for point in others:
            if len(first) + len(plan) >= room:
                break
            if point in _BEFORE:
                plan.append(self._kill(_BEFORE[point]))
            plan.append(self._kill(point))
        for _ in range(max(room - len(first) - len(plan), (room - len(first)) // 8)):
            at = self.rng.randrange(len(plan) + 1)
            if not (at and plan[at - 1].point in _BEFORE.values()):  # what was prepared is used at once
                plan.insert(at, Kill(None))
        whole = [Kill(point) for point in first] + plan
        self.tried.update(kill.point for kill in whole if kill.point is not None)
        return whole

    def _kill(self, point: str) -> Kill:
        kind = point.split(".", maxsplit=1)[0]
        if kind in _ONCE:
            return Kill(point)
        return Kill(point, self.rng.randint(1, _SOMETIMES.get(kind, _OFTEN)))

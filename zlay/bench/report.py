"""What every benchmark shares: runs taken in turn, figures beside bounds, one object of JSON (design 16).

Plain data and pure functions; one thread.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["MIN_RUNS", "Figure", "Report", "cost", "excess", "has_sha_instructions", "in_turn", "rate"]

MIN_RUNS = 5  # design 16: values are medians of at least so many
DIGITS = 6  # significant ones in the output: far below the noise
_LEAST_COST = 1e-6  # a cost that is measured as nothing, or less, counts as this


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. `ratio`: the bigger the better, 1 = as good as the bound; `target`: what it must reach."""

    name: str
    value: float
    unit: str
    bound: float
    ratio: float
    target: float
    is_rate: bool  # of which more is better; else a cost

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.ratio >= self.target


def rate(name: str, value: float, unit: str, bound: float, target: float) -> Figure:
    """A figure of which more is better."""
    return Figure(name, value, unit, bound, value / bound, target, is_rate=True)


def cost(name: str, value: float, unit: str, bound: float, target: float) -> Figure:
    """A figure of which less is better."""
    return Figure(name, value, unit, bound, bound / max(value, _LEAST_COST), target, is_rate=False)


def excess(figure: Figure, unit: str, most_us: float | None = None) -> Figure:
    """By how many microseconds an event (frame, op) takes longer than its bound, beside the most that it may.

    `most_us` None: what the target of `figure` allows, and no more is asked.
    """
    own_us, bound_us = figure.value, figure.bound
    if figure.is_rate:
        own_us, bound_us = 1e6 / own_us, 1e6 / bound_us
    if most_us is None:
        most_us = bound_us * (1 / figure.target - 1)
    return cost(f"{figure.name}.excess", own_us - bound_us, unit, most_us, 1.0)


def in_turn(runs: int, sides: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """The median of each side over `runs` rounds in which they take turns, so that noise meets all alike.

    Every other round goes backwards: what one side leaves in the caches helps no side more than another.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(runs):
        names = list(sides) if number % 2 == 0 else list(sides)[::-1]
        for name in names:
            taken[name].append(sides[name]())
    return {name: statistics.median(values) for name, values in taken.items()}


@dataclass(frozen=True, slots=True)
class Report:
    """What a benchmark found. `params` says on what; `seeds` are those of the simulation."""

    benchmark: str
    params: dict[str, Any]
    figures: list[Figure]
    runs: int
    seeds: list[int] = field(default_factory=lambda: [1])

    def as_json(self) -> str:
        """One object on one line, in the form of design 16."""
        figures = [
            {
                "name": figure.name,
                "value": _rounded(figure.value),
                "unit": figure.unit,
                "bound": _rounded(figure.bound),
                "ratio": _rounded(figure.ratio),
                "target": _rounded(figure.target),
                "met": figure.met,
            }
            for figure in self.figures
        ]
        whole = {
            "benchmark": self.benchmark,
            "params": self.params,
            "figures": figures,
            "machine": _machine(),
            "python": sys.version.split()[0] + ("" if sys._is_gil_enabled() else "t"),
            "seeds": self.seeds,
            "runs": self.runs,
        }
        return json.dumps(whole)

    def as_text(self) -> str:
        """A table for people."""
        lines = [f"{self.benchmark}  {self.params}  {_machine()}, median of {self.runs} runs"]
        lines += [
            f"  {figure.name:<22}{_rounded(figure.value):>14,} {figure.unit:<10} bound {_rounded(figure.bound):>12,}"
            f"   ratio {figure.ratio:6.3f}, target {figure.target:.3f}  {'met' if figure.met else 'MISSED'}"
            for figure in self.figures
        ]
        return "\n".join(lines)


def has_sha_instructions() -> bool:
    """Whether the processor hashes SHA-256 in hardware."""
    flags = _cpuinfo("flags") + _cpuinfo("Features")
    return "sha_ni" in flags.split() or "sha2" in flags.split()


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _cpuinfo(name: str) -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _machine() -> str:
    model = _cpuinfo("model name") or platform.machine()
    sha = "with" if has_sha_instructions() else "without"
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {sha} SHA instructions, {platform.release()}"

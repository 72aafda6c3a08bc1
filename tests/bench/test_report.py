"""zlay.bench.report: what a figure says, and how runs are taken."""

from __future__ import annotations

import json

import pytest

from zlay.bench.report import Report, cost, excess, in_turn, rate


def test_a_ratio_is_the_bigger_the_better() -> None:
    """A rate's ratio is value by bound, a cost's bound by value, and a target is met from it on."""
    assert rate("a", 50.0, "1/s", 100.0, 0.5).ratio == 0.5
    assert rate("a", 50.0, "1/s", 100.0, 0.5).met
    assert cost("a", 50.0, "us", 100.0, 1.0).ratio == 2.0
    assert not cost("a", 201.0, "us", 100.0, 0.5).met
    assert cost("a", -0.1, "us", 8.0, 1.0).met


def test_an_excess_is_told_beside_the_most_that_it_may_be() -> None:
    """In microseconds for rates and costs alike; without a limit of its own, what the target of the figure leaves."""
    slow = excess(rate("a", 20_000.0, "1/s", 25_000.0, 0.75), "us", 12.0)
    assert (slow.name, slow.unit, slow.value, slow.bound) == ("a.excess", "us", pytest.approx(10.0), 12.0)
    assert slow.met
    assert not excess(rate("a", 20_000.0, "1/s", 25_000.0, 0.75), "us", 9.9).met
    left = excess(cost("b", 50.0, "us", 40.0, 2 / 3), "us")
    assert (left.value, left.bound) == (pytest.approx(10.0), pytest.approx(20.0))


def test_sides_take_turns_and_medians_count() -> None:
    """Each round asks every side once, every other round backwards; one slow run does not move the figure."""
    calls: list[str] = []
    slow = iter([1.0, 90.0, 1.0, 2.0, 1.0])

    def side(name: str, value: float) -> float:
        calls.append(name)
        return value

    taken = in_turn(5, {"own": lambda: side("own", next(slow)), "bound": lambda: side("bound", 4.0)})
    assert taken == {"own": 1.0, "bound": 4.0}
    assert calls[:6] == ["own", "bound", "bound", "own", "own", "bound"]


def test_the_json_has_the_form_that_scripts_read() -> None:
    """One object on one line with exactly the keys of design 16."""
    text = Report("x", {"n": 1}, [rate("x", 1.0, "1/s", 3.0, 0.1)], 5).as_json()
    assert "\n" not in text
    whole = json.loads(text)
    assert list(whole) == ["benchmark", "params", "figures", "machine", "python", "seeds", "runs"]
    assert list(whole["figures"][0]) == ["name", "value", "unit", "bound", "ratio", "target", "met"]
    assert whole["figures"][0]["ratio"] == 0.333333
    assert whole["figures"][0]["met"] is True

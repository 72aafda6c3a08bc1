"""What is said when the GIL is on, in this process. That a whole zlay refuses: tests/e2e/test_gil.py."""

from __future__ import annotations

import sys
import warnings

import pytest

from zlay import gil
from zlay.errors import StartError

MESSAGE = (
    "The global interpreter lock (GIL) has been enabled to load module '{}', which has not declared that it can run "
    "safely without the GIL."
)  # CPython 3.13, Python/import.c


@pytest.fixture(autouse=True)
def _nobody_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of this module's tests are not kept."""
    monkeypatch.setattr(gil, "_culprits", [])


def test_it_is_off_here() -> None:
    """The tests themselves run without the GIL, and `check` is content."""
    assert gil.is_off()
    gil.check()


def test_the_culprits_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that turned the GIL on inside `watch` stand in the refusal, others do not."""
    with gil.watch():
        warnings.warn(MESSAGE.format("culprit.one"), RuntimeWarning, stacklevel=1)
        warnings.warn(MESSAGE.format("two"), RuntimeWarning, stacklevel=1)
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True)
    assert not gil.is_off()
    with pytest.raises(StartError, match=r"importing culprit\.one, two"):
        gil.check()


def test_other_warnings_pass() -> None:
    """`watch` swallows nothing else: other warnings are given on, and an exception passes."""
    with pytest.warns(RuntimeWarning, match="something else"), gil.watch():
        warnings.warn("something else", RuntimeWarning, stacklevel=1)
    with pytest.warns(UserWarning, match="of another kind"), gil.watch():
        warnings.warn("of another kind", UserWarning, stacklevel=1)
    with pytest.raises(ImportError, match="broken"), gil.watch():
        raise ImportError("broken")
    assert gil._culprits == []


def test_a_gil_that_was_on_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the GIL on from elsewhere, or in an ordinary interpreter, the refusal says what that is."""
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True)
    with pytest.raises(StartError, match="PYTHON_GIL=1"):
        gil.check()
    monkeypatch.delattr(sys, "_is_gil_enabled")
    assert not gil.is_off()
    with pytest.raises(StartError, match="free-threaded CPython"):
        gil.check()

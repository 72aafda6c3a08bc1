"""Scripts as modules: their names are no identifiers."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from typing import TYPE_CHECKING

import pytest

from tests.fixtures import ROOT

if TYPE_CHECKING:
    from types import ModuleType


def _load(name: str) -> ModuleType:
    loader = SourceFileLoader(name.replace("-", "_"), str(ROOT / "scripts" / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # where dataclasses look for their annotations
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def check_alloc() -> ModuleType:
    """scripts/check-alloc."""
    return _load("check-alloc")


@pytest.fixture(scope="module")
def check_nogil() -> ModuleType:
    """scripts/check-nogil."""
    return _load("check-nogil")

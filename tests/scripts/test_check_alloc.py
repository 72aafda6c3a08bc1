"""scripts/check-alloc: which text counts as a bare allocation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.pyx", "    p = <char *> malloc(10)"),
        ("a.pyx", "from libc.stdlib cimport free"),
        ("a.pyx", "    free (p)"),
        ("a.pxd", "cdef inline void f() noexcept nogil: PyMem_RawFree(p)"),
        ("a.pyx", "    p = PyMem_Malloc(3)"),
        ("a.h", "static inline void *f(void) { return calloc(1, 2); }"),
        ("a.h", "/* a\n comment */ char *p = strdup(q);"),
    ],
)
def test_names_a_bare_allocation(check_alloc: ModuleType, tmp_path, monkeypatch, name: str, line: str) -> None:
    """A use of libc's or Python's allocator is reported with its line."""
    monkeypatch.setattr(check_alloc, "ROOT", tmp_path)
    (tmp_path / name).write_text(f"\n{line}\n", encoding="utf-8")
    (report,) = check_alloc.bare_allocations(tmp_path / name)
    assert report.startswith(f"{name}:{2 + line.count(chr(10))}: ")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.pyx", "    p = zl_malloc(MEM_LOG, 10)  # not malloc(10)"),
        ("a.pyx", '    """Unlike malloc(3), this\n    never calls free(p)."""'),
        ("a.pyx", "    EC_KEY_free(key); BN_free(n)"),
        ("a.pyx", "    pool.free(p)"),
        ("a.h", "/* malloc(3)\n * free(p) */ // calloc(1, 1)"),
    ],
)
def test_leaves_other_names_alone(check_alloc: ModuleType, tmp_path, monkeypatch, name: str, line: str) -> None:
    """Counted allocation, other libraries' own functions, comments and docstrings are no bare allocations."""
    monkeypatch.setattr(check_alloc, "ROOT", tmp_path)
    (tmp_path / name).write_text(f"\n{line}\n", encoding="utf-8")
    assert check_alloc.bare_allocations(tmp_path / name) == []

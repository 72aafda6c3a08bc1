"""scripts/check-nogil: no way from a native loop to the interpreter stays unseen."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

LOOP = "cdef void _main() noexcept nogil:\n    {}\n"
OTHER = """
cdef int quiet(int i) noexcept nogil:
    return i + 1

cdef void loud() noexcept nogil:
    with gil:
        print("heard")
"""
# Sources of modules with a loop `_main` each; `other` is there for all of them.
SOURCES = {
    "other.pxd": "cdef int quiet(int i) noexcept nogil\ncdef void loud() noexcept nogil\n",
    "other.pyx": OTHER,
    "clean.pyx": "from other cimport quiet\n" + LOOP.format("quiet(1)"),
    "direct.pyx": LOOP.format("with gil: print('heard')"),
    "literal.pyx": "cdef int c = 0\n" + LOOP.format("global c; c = b'abcd'[c & 3]"),
    "raising.pyx": "cdef int f() except? -1 nogil:\n    return 1\n" + LOOP.format("f()"),
    "imported.pyx": "from other cimport loud\n" + LOOP.format("loud()"),
    "hook.pyx": "cdef void (*hook)() noexcept nogil\n"
    + LOOP.format("hook()")
    + "cdef void _hidden() noexcept nogil:\n    with gil: print('heard')\n"
    + "def start():\n    global hook\n    hook = _hidden\n",
    "imported_hook.pyx": "from other cimport loud\n"
    "cdef struct Table:\n    void (*call)() noexcept nogil\n"
    "cdef Table table\n" + LOOP.format("table.call()") + "def start():\n    table.call = loud\n",
    "macro.pyx": 'cdef extern from *:\n    """\n    #define SWAP(x) \\\n        _PyErr_Clear(x)\n    """\n'
    "    void SWAP(void *x) noexcept nogil\n" + LOOP.format("SWAP(NULL)"),
    "inline.pyx": 'cdef extern from *:\n    """\n    static inline void wait_for(void)\n    {\n'
    '        PyMutex_Lock(0);\n    }\n    """\n    void wait_for() noexcept nogil\n' + LOOP.format("wait_for()"),
    "loaded.pyx": 'cdef extern from "dlfcn.h" nogil:\n    void *dlsym(void *handle, const char *name)\n'
    + LOOP.format('(<void (*)() noexcept nogil>dlsym(NULL, b"PyErr_Clear"))()'),
}
FAULTS = {
    "direct": "direct._main (",
    "literal": "literal._main (",
    "raising": "raising._main (",
    "imported": "imported._main -> other.loud (",
    "hook": "through a pointer: hook._hidden (",
    "imported_hook": "through a pointer: other.loud (",
    "macro": "macro._main -> SWAP (",
    "inline": "inline._main -> wait_for (",
    "loaded": "loaded._main (",
}
# Functions far down each loop of the relay, as it runs through them for every frame.
DEEP = {
    "zlay._fast.reader._run": ("ws.ws_step", "message.message_peek", "pool.pool_grow", "host.host_push_slot"),
    "zlay._fast.worker._main": ("crypto.signature_verify", "mst.tree_check", "sequencer.log_append", "mem.zl_malloc"),
    "zlay._fast.log._writer_main": ("segments.write_all", "sequencer.sequencer_release", "host.host_give_credit"),
    "zlay._fast.consumer._consumer_main": ("ranges.range_next", "segments.entry_valid", "client_frames.client_feed"),
    None: ("queue.pipeline_submit", "reader._plain_read", "log.did_hash", "log.log_synced_end"),
}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the C of all SOURCES."""
    folder = tmp_path_factory.mktemp("nogil")
    for name, text in SOURCES.items():
        (folder / name).write_text(text, encoding="utf-8")
    sources = [name for name in SOURCES if name.endswith(".pyx")]
    subprocess.run([sys.executable, "-m", "cython", "-3", *sources], cwd=folder, check=True, timeout=120)
    return folder


def _checked(check_nogil: ModuleType, generated: Path, folder: Path, name: str, loop: str) -> int:
    for module in (name, "other"):
        shutil.copy(generated / f"{module}.c", folder)
    status: int = check_nogil.main(["--c", str(folder), "--loop", loop])
    return status


@pytest.mark.parametrize("name", FAULTS)
def test_a_call_to_the_interpreter_is_found(
    check_nogil: ModuleType, generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """A Python call in a loop fails the check, also in another module, behind a pointer or in C of our own."""
    assert _checked(check_nogil, generated, tmp_path, name, f"{name}._main") == 1
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if line.startswith(FAULTS[name])], told
    assert all(line.removeprefix("through a pointer: ").startswith((f"{name}.", "other.")) for line in told), told


def test_a_clean_loop_passes(check_nogil: ModuleType, generated: Path, tmp_path: Path) -> None:
    """A loop that stays in C passes, although its modules have Python functions beside it."""
    assert _checked(check_nogil, generated, tmp_path, "clean", "clean._main") == 0


def test_a_loop_that_is_not_there_fails(check_nogil: ModuleType, generated: Path, tmp_path: Path) -> None:
    """A loop that was renamed is an error, not a pass."""
    assert _checked(check_nogil, generated, tmp_path, "clean", "clean._loop") == 2


def test_what_cannot_be_followed_fails(
    check_nogil: ModuleType, generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A function of a module whose C is not there counts as forbidden."""
    shutil.copy(generated / "clean.c", tmp_path)
    assert check_nogil.main(["--c", str(tmp_path), "--loop", "clean._main"]) == 1
    assert "__pyx_f_5other_quiet" in capsys.readouterr().out


def test_stale_or_missing_c_fails(
    check_nogil: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the C of the newest sources the check says so instead of passing."""
    monkeypatch.setattr(check_nogil, "ROOT", tmp_path)
    assert check_nogil.main([]) == 2
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "flags").write_text("({}, [], [])")
    core = tmp_path / check_nogil.CORE
    core.mkdir(parents=True)
    (core / "reader.pyx").touch()
    assert check_nogil.main([]) == 2
    assert "No such file" in capsys.readouterr().out


# --- the relay's own loops ---


@pytest.fixture(scope="module")
def units(check_nogil: ModuleType) -> list[Any]:
    """The relay's C, read once."""
    read: list[Any] = check_nogil.read_all()
    return read


def test_the_relays_loops_are_clean_and_walked(check_nogil: ModuleType, units: list[Any]) -> None:
    """No loop of the relay reaches the interpreter; what it runs for every frame has been walked."""
    program = check_nogil.Program(units)
    for loop, deep in DEEP.items():
        reached = program.walk([program.root(loop)] if loop else program.by_pointer)
        assert reached.problems == {}
        assert set(deep) <= {check_nogil.short(name) for _, name in reached.names}, loop
    assert check_nogil.check(program, check_nogil.LOOPS) == 0


def test_account_lookups_take_no_lock(check_nogil: ModuleType, units: list[Any]) -> None:
    """What a worker does with its account table reaches no mutex, no futex and no system call but for memory."""
    program = check_nogil.Program(units)
    functions = ("find", "insert", "key", "set_key", "touch_dirty", "pop_dirty", "did")
    reached = program.walk(program.root(f"zlay._fast.accounts.account_{name}") for name in functions)
    names = {name for _, name in reached.names}
    assert {"zl_bump64", *map(program.root, ["zlay._fast.mem.zl_malloc", "zlay._fast.accounts._make_room"])} <= names
    assert not names & {"zl_lock", "zl_unlock", "zl_futex_wait", "zl_futex_wake", "zl_fence", "zl_cas64"}


@pytest.mark.parametrize(
    ("file", "function", "loop"),
    [
        ("ws.c", "ws_step", "zlay._fast.reader._run"),
        ("mst.c", "tree_check", "zlay._fast.worker._main"),
        ("sequencer.c", "log_append", "zlay._fast.worker._main"),
        ("segments.c", "write_all", "zlay._fast.log._writer_main"),
        ("ranges.c", "range_next", "zlay._fast.consumer._consumer_main"),
        ("queue.c", "pipeline_submit", None),
        ("zl_atomics.h", "zl_load32", "zlay._fast.waker._main"),
    ],
)
def test_a_call_put_into_the_relay_is_found(
    check_nogil: ModuleType, units: list[Any], tmp_path: Path, file: str, function: str, loop: str | None
) -> None:
    """One call to the interpreter anywhere below a loop of the relay fails the check."""
    (unit,) = [unit for unit in units if unit.path.name == file]
    ((name, bodies),) = [
        (name, bodies) for name, bodies in unit.bodies.items() if check_nogil.short(name).endswith(function)
    ]
    offset, body = bodies[0]
    at = offset + body.index("{") + 1
    (tmp_path / file).write_text(unit.source[:at] + " PyErr_Clear(); " + unit.source[at:], encoding="utf-8")
    changed = check_nogil.read_unit(tmp_path / file)
    program = check_nogil.Program([changed if other is unit else other for other in units])
    reached = program.walk([program.root(loop)] if loop else program.by_pointer)
    assert reached.problems[tmp_path / file, name].endswith("PyErr_Clear")

"""ZLAY_ALLOCATOR in processes of their own: the library is there, or the start is refused in words."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.relay import RelayProcess, request
from tests.fixtures import ROOT
from zlay.config import ALLOCATORS, from_environment
from zlay.errors import ConfigError, StartError
from zlay.memory import allocator

# What the process is before `ensure`, is told, and finds out after it; and a word on the interpreter's own options.
PROGRAM = """
import os, sys
from pathlib import Path
print("start", os.getpid(), flush=True)
from zlay.memory import allocator
allocator.ensure(sys.argv[1])
print("on", os.getpid(), allocator.running_on(), sys.flags.utf8_mode, sys.argv[2:], flush=True)
maps = Path("/proc/self/maps").read_text()
print("maps", " ".join(sorted({line.rpartition("/")[2] for line in maps.splitlines() if "malloc" in line})))
import zlay.logs
buffers = [bytearray(n * 1000) for n in range(100)]
"""


def run(name: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """PROGRAM under `ensure(name)`."""
    base = {key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", allocator.MARK)}
    return subprocess.run(
        [sys.executable, "-X", "utf8=1", "-c", PROGRAM, name, *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={**base, "PYTHONPATH": str(ROOT), **env},
    )


def library(name: str) -> Path:
    """The installed library of an allocator; skips where there is none."""
    try:
        return allocator._library(name)
    except StartError as exc:
        pytest.skip(str(exc))


@pytest.mark.parametrize("name", allocator.PACKAGES)
def test_an_allocator_by_name(name: str) -> None:
    """The process becomes a new one of the same id, options and arguments, with the library in its memory."""
    file = library(name)
    done = run(name, "a b", "--c=d")
    assert done.returncode == 0, done.stderr
    starts, on, maps = done.stdout.splitlines()[:-2], done.stdout.splitlines()[-2], done.stdout.splitlines()[-1]
    pid = starts[0].split()[1]
    assert starts == [f"start {pid}"] * 2
    assert on == f"on {pid} {name} 1 ['a b', '--c=d']"
    assert file.name.partition(".so")[0] in maps
    assert f"name={name}" in done.stderr


@pytest.mark.ordinary_build
@pytest.mark.e2e
@pytest.mark.parametrize("name", allocator.PACKAGES)
def test_a_relay_on_another_allocator(name: str, tmp_path: Path) -> None:
    """A whole relay starts on each allocator, says so in its metrics, and stops in order."""
    file = library(name)
    with RelayProcess(tmp_path / "data", plc_url="http://127.0.0.1:9", env={"ZLAY_ALLOCATOR": name}) as relay:
        status, body = request(relay.metrics_port, "GET", "/metrics")
        assert status == 200
        assert f'allocator="{name}"' in body.decode()
        assert relay.process is not None
        maps = Path(f"/proc/{relay.process.pid}/maps").read_text()
        assert str(file.resolve()) in maps
        assert relay.terminate() == 0


def test_glibc_is_no_other_process() -> None:
    """The default starts nothing anew, and says what it runs on."""
    done = run("glibc")
    assert done.stdout.count("start") == 1
    assert " glibc " in done.stdout
    assert "name=glibc" in done.stderr
    assert from_environment({"ZLAY_ALLOCATOR": ""})[0].zlay_allocator == "glibc"


def test_what_the_caller_has_preloaded_is_told() -> None:
    """Where the caller's own LD_PRELOAD brings an allocator, that one is told."""
    done = run("glibc", LD_PRELOAD=str(library("jemalloc")))
    assert done.stdout.count("start") == 1
    assert " jemalloc " in done.stdout


def test_other_preloads_stay(tmp_path: Path) -> None:
    """A library that the caller preloads stays beside the allocator."""
    other = tmp_path / "libother.so"
    source = tmp_path / "other.c"
    source.write_text("int zlay_test_other(void) { return 1; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(other)], check=True, timeout=60)
    done = run("jemalloc", LD_PRELOAD=str(other)) if library("jemalloc") else None
    assert done is not None
    assert " jemalloc " in done.stdout
    assert "cannot be preloaded" not in done.stderr


def test_a_library_by_path_and_by_link(tmp_path: Path) -> None:
    """A path counts as loaded when the file behind it is, whatever its name; the given path is used as it is."""
    copied = tmp_path / "my-own.so"
    shutil.copy(library("jemalloc").resolve(), copied)
    link = tmp_path / "current"
    link.symlink_to(copied)
    for path in (copied, link):
        done = run(str(path))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("start") == 2
        assert f"library={path}" in done.stderr


def test_what_does_not_load_is_refused_once(tmp_path: Path) -> None:
    """A file that is no library is refused after one try, in words, and does not loop."""
    nonsense = tmp_path / "libnonsense.so"
    nonsense.write_bytes(b"no ELF")
    done = run(str(nonsense))
    assert done.returncode == 1
    assert done.stdout.count("start") == 2
    assert f"ZLAY_ALLOCATOR={nonsense}" in done.stderr.splitlines()[-1]
    assert "did not load" in done.stderr.splitlines()[-1]


def test_what_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A missing file, a missing package and an unknown name each say what to do."""
    with pytest.raises(StartError, match="no such file"):
        allocator.ensure(str(tmp_path / "none.so"))
    with pytest.raises(StartError, match="no such file"):
        allocator.ensure(f"{tmp_path}/")
    with pytest.raises(ConfigError, match="expected one of glibc, mimalloc, jemalloc, tcmalloc, or a library's path"):
        from_environment({"ZLAY_ALLOCATOR": "dlmalloc"})
    assert ("glibc", *allocator.PACKAGES) == ALLOCATORS
    monkeypatch.setattr(allocator, "_FOLDERS", ())
    monkeypatch.setitem(allocator.PACKAGES, "jemalloc", ("libzlaynothing.so.2", "libjemalloc2"))
    with pytest.raises(StartError, match="apt-get install libjemalloc2"):
        allocator.ensure("jemalloc")


def test_what_is_mapped_is_seen() -> None:
    """A library of this process counts as loaded by its path, by a link to it and by its name alone; others do not."""
    libc = next(Path(path) for path in allocator._mapped() if Path(path).name.startswith("libc.so"))
    assert allocator.loaded(libc)
    assert allocator.loaded(Path("libc.so.6"))
    assert not allocator.loaded(Path("libnothing.so.6"))
    assert not allocator.loaded(Path("/nowhere") / libc.name)

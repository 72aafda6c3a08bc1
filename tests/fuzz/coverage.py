"""Which lines of the compiled core the inputs of fuzzing have run: llvm-cov's count of C, told of Cython's source.

Cython's C says before each statement which line it comes from; so a line of the source was run when any C that came
from it was. Counted are the functions of the core without Python (`cdef`), above a topic's functions for tests and
tools. One thread.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzz.build import OUT, ROOT, program
from tests.fuzz.llvm import tool

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["SUBJECTS", "Lines", "add_record", "collect", "measure", "report"]

# What issue and docs/testing.md ask to be covered: at least LEAST of its lines.
SUBJECTS = {
    "CBOR": ("drisl.pyx", "drisl.pxd", "message.pyx", "fields.pxd", "ops.pyx"),
    "CAR": ("car.pyx", "commit.pyx"),
    "MST": ("node.pyx", "node.pxd", "mst.pyx"),
}
LEAST = 0.9
RUN_S = 3600.0
_MARK = re.compile(r'^\s*/\* "(zlay/_fast/\w+\.p[yx][xd])":(\d+)$')
_TOOLS = "# --- for tests and tools"


@dataclass(slots=True)
class Lines:
    """Lines of one source file: number -> whether it was run."""

    run: dict[int, bool] = field(default_factory=dict)

    def see(self, line: int, was_run: bool) -> None:
        """One more piece of C that comes from a line."""
        self.run[line] = self.run.get(line, False) or was_run

    @property
    def missed(self) -> list[int]:
        """Numbers of the lines that were not run."""
        return sorted(line for line, was_run in self.run.items() if not was_run)


def measure(target: str, folders: Iterable[Path]) -> Path:
    """Runs all inputs of the folders through a target built for it; the profile's path. BuildError."""
    binary = program(target, "coverage")
    raw, profile = OUT / f"{target}.profraw", OUT / f"{target}.profdata"
    command = [str(binary), "-runs=0", *(str(folder) for folder in folders if folder.is_dir())]
    environment = {"LLVM_PROFILE_FILE": str(raw)}
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, timeout=RUN_S)
    subprocess.run([tool("llvm-profdata"), "merge", "-sparse", str(raw), "-o", str(profile)], check=True)
    raw.unlink()
    return profile


def collect(profiles: dict[str, Path]) -> dict[str, Lines]:
    """Source file's name -> its lines, over the profiles of all targets."""
    found: dict[str, Lines] = {}
    for target, profile in profiles.items():
        command = [tool("llvm-cov"), "export", "-format=lcov", str(OUT / "coverage" / target)]
        command += [f"-instr-profile={profile}", "-ignore-filename-regex=/include/|/tests/fuzz/"]
        text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=RUN_S).stdout
        for record in text.split("end_of_record\n"):
            add_record(record, found)
    return found


def add_record(record: str, found: dict[str, Lines]) -> None:
    """One C file of lcov's output."""
    path, starts, counts = None, [], []
    for line in record.splitlines():
        kind, _, rest = line.partition(":")
        if kind == "SF":
            path = Path(rest)
        elif kind == "FN":
            number, _, name = rest.partition(",")
            starts.append((int(number), "__pyx_f_" in name))
        elif kind == "DA":
            number, _, count = rest.partition(",")
            counts.append((int(number), int(count.partition(",")[0]) > 0))
    if path is None or path.suffix != ".c" or not starts:
        return
    origins = _origins(path)
    starts.sort()
    at, wanted = 0, False
    for number, was_run in sorted(counts):
        while at < len(starts) and starts[at][0] <= number:
            wanted = starts[at][1]
            at += 1
        origin = origins.get(number) if wanted else None
        if origin is not None and origin[1] < _tools_begin(origin[0]):
            found.setdefault(Path(origin[0]).name, Lines()).see(origin[1], was_run)


def _origins(path: Path) -> dict[int, tuple[str, int]]:
    """Line of C -> (source, line) that it comes from."""
    origin: tuple[str, int] | None = None
    origins = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        mark = _MARK.match(line)
        if mark:
            origin = (mark[1], int(mark[2]))
        elif line.startswith("}"):
            origin = None
        elif origin is not None:
            origins[number] = origin
    return origins


_begins: dict[str, int] = {}


def _tools_begin(source: str) -> int:
    """The line from which a topic's functions are for tests and tools."""
    if source not in _begins:
        lines = (ROOT / source).read_text(encoding="utf-8").splitlines()
        _begins[source] = next((n for n, line in enumerate(lines, 1) if line.startswith(_TOOLS)), len(lines) + 1)
    return _begins[source]


def report(found: dict[str, Lines]) -> tuple[str, bool]:
    """A table, each subject's sources first, with the lines missed; and whether every subject has its LEAST."""
    rows, good = [f"{'':18}{'lines':>7}{'run':>7}{'':>9}  not run"], True
    listed: set[str] = set()
    for subject, names in SUBJECTS.items():
        present = [name for name in names if name in found]
        listed.update(present)
        total = sum(len(found[name].run) for name in present)
        run = total - sum(len(found[name].missed) for name in present)
        good = good and total > 0 and run >= LEAST * total
        rows.append(_row(subject, total, run, f"at least {LEAST:.0%} asked for"))
        rows += [_file_row(name, found[name]) for name in present]
    rows.append("others")
    rows += [_file_row(name, found[name]) for name in sorted(found) if name not in listed]
    return "\n".join(rows), good


def _file_row(name: str, lines: Lines) -> str:
    return _row(f"  {name}", len(lines.run), len(lines.run) - len(lines.missed), _ranges(lines.missed))


def _row(name: str, total: int, run: int, text: str) -> str:
    return f"{name:18}{total:7}{run:7}{run / max(1, total):9.1%}  {text}"


def _ranges(numbers: list[int]) -> str:
    """1-3 7, of sorted numbers."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return " ".join(f"{a}-{b}" if a != b else str(a) for a, b in spans)

"""`scripts/fuzz`: builds the targets, runs them, and says what their inputs have run of the compiled core.

Inputs worth keeping stay in build/fuzz/corpus/TARGET from one run to the next, what stopped the process in
build/fuzz/found/TARGET, the words of libFuzzer in build/fuzz/log. One process at a time for each target.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.build import OUT, PLANTED, ROOT, TARGETS, BuildError, describe, program, sources_digest, targets_of
from tests.fuzz.coverage import collect, measure, report
from tests.fuzz.llvm import ToolsMissing
from tests.fuzz.seeds import write_seeds

EXIT_FOUND = 1
EXIT_CANNOT = 2
INTERRUPTED = 72  # libFuzzer's status after Ctrl-C
HANG_S = 10  # per input; the slowest honest one takes milliseconds
MEMORY_MB = 2048
MAIN_TARGET = "frame"
MAIN_SHARE = 0.5  # of --minutes, when all targets run
DEFAULT_MINUTES = 5.0
STOP_S = 60.0
SELF_TEST_S = 120
PLANTS = {
    "overflow": "AddressSanitizer: heap-buffer-overflow",
    "undefined": "UndefinedBehaviorSanitizer",
    "leak": "LeakSanitizer: detected memory leaks",
    "hang": "libFuzzer: timeout",
    "promise": "libFuzzer: deadly signal",
}
_RAN = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of one target came to. `sources`: their digest; `found`: new files of inputs that stopped it."""

    target: str
    sources: str
    executions: int
    seconds: float
    status: int
    found: list[Path]
    log: Path

    @property
    def good(self) -> bool:
        """Whether nothing was found."""
        return self.status in (0, INTERRUPTED) and not self.found


def _folder(kind: str, target: str) -> Path:
    folder = OUT / kind / target
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _libfuzzer(target: str, log: Path, flags: list[str], folders: list[Path], **environment: str) -> int:
    """Runs a target to its end, its words to the log; the exit status. Ctrl-C ends it and is not an error."""
    command = [
        str(program(target)),
        f"-max_len={describe(target).max_bytes}",
        f"-timeout={HANG_S}",
    ]
    command += [
        f"-rss_limit_mb={MEMORY_MB}",
        "-print_final_stats=1",
        *describe(target).flags,
        *flags,
        *map(str, folders),
    ]
    with open(log, "wb") as out:
        child = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, env={**os.environ, **environment})
        try:
            return child.wait()
        except KeyboardInterrupt:
            return child.wait(STOP_S)  # the terminal has told it as well
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()


def _fuzz(target: str, seconds: float | None, runs: int | None) -> Run:
    """One target for so long, or so many inputs, from its corpus and its seeds."""
    corpus, found, seeds = _folder("corpus", target), _folder("found", target), _folder("seeds", target)
    if not any(seeds.iterdir()):
        write_seeds(target, seeds, TARGETS[target].max_bytes)
    log = _folder("log", target) / time.strftime("%Y%m%d-%H%M%S.txt", time.gmtime())
    before = set(found.iterdir())
    flags = [f"-artifact_prefix={found}/"]
    flags += [f"-max_total_time={max(1, round(seconds))}"] if seconds is not None else []
    flags += [f"-runs={runs}"] if runs is not None else []
    program(target)
    sources = sources_digest(target)
    started = time.monotonic()
    status = _libfuzzer(target, log, flags, [corpus, seeds])
    ran = _RAN.search(log.read_text(encoding="utf-8", errors="replace"))
    executions = int(ran[1]) if ran else 0
    new = sorted(set(found.iterdir()) - before)
    run = Run(target, sources, executions, time.monotonic() - started, status, new, log)
    _note(run)
    return run


def _note(run: Run) -> None:
    """Adds a run to build/fuzz/executions.jsonl: how many inputs which sources have seen."""
    line = {
        "target": run.target,
        "sources": run.sources,
        "executions": run.executions,
        "seconds": round(run.seconds),
        "found": len(run.found),
    }
    with open(OUT / "executions.jsonl", "a", encoding="utf-8") as ledger:
        ledger.write(json.dumps(line) + "\n")


def _totals() -> dict[str, int]:
    """Executions of each target on the sources as they are now."""
    totals = dict.fromkeys(TARGETS, 0)
    ledger = OUT / "executions.jsonl"
    for line in ledger.read_text(encoding="utf-8").splitlines() if ledger.exists() else ():
        run = json.loads(line)
        if run["target"] in totals and run["sources"] == sources_digest(run["target"]):
            totals[run["target"]] += run["executions"]
    return totals


def _say(run: Run) -> None:
    rate = run.executions / max(run.seconds, 0.001)
    kept = len(list(_folder("corpus", run.target).iterdir()))
    what = "nothing found" if run.good else f"FOUND (status {run.status}): {', '.join(map(str, run.found)) or run.log}"
    print(f"{run.target:12}{run.executions:14,} inputs {run.seconds:7.0f} s {rate:9,.0f}/s {kept:6} kept  {what}")
    if not run.good:
        print("\n".join(run.log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:]))
    sys.stdout.flush()


def _shares(targets: list[str], minutes: float) -> dict[str, float]:
    """Seconds of each target: the whole frame has half when all run."""
    if len(targets) == 1 or MAIN_TARGET not in targets:
        return dict.fromkeys(targets, minutes * 60 / len(targets))
    others = minutes * 60 * (1 - MAIN_SHARE) / (len(targets) - 1)
    return {target: minutes * 60 * MAIN_SHARE if target == MAIN_TARGET else others for target in targets}


def _coverage() -> bool:
    """Prints what all corpora together have run. Whether it is as much as asked for."""
    profiles = {}
    for target in TARGETS:
        if any(_folder("corpus", target).iterdir()):
            profiles[target] = measure(target, [OUT / "corpus" / target, OUT / "seeds" / target])
    text, enough = report(collect(profiles))
    print(text)
    return enough


def _reproduce(target: str, path: Path) -> int:
    """One input, everything said."""
    command = [str(program(target)), f"-timeout={HANG_S}", str(path.resolve())]
    return EXIT_FOUND if subprocess.run(command, cwd=ROOT).returncode else 0


def _self_test(plants: list[str]) -> int:
    """A planted fault of each of these kinds is found, past hashes that only the mutator makes hold."""
    seeds = _folder("seeds", PLANTED)
    block = b"\xa1\x61a\x00"
    section = b"\x01\x71\x12\x20" + hashlib.sha256(b"another").digest() + block
    car = b"\x01\xa0" + bytes([len(section)]) + section
    (seeds / "car").write_bytes(b"\xa1\x66blocks\x58" + bytes([len(car)]) + car)
    (seeds / "word").write_bytes(b"bug!")
    good = True
    for plant in plants:
        log = _folder("log", PLANTED) / f"{plant}.txt"
        found = _folder("found", PLANTED)
        flags = [f"-max_total_time={SELF_TEST_S}", f"-artifact_prefix={found}/", "-seed=1", "-timeout=2"]
        started = time.monotonic()
        status = _libfuzzer(PLANTED, log, flags, [seeds], ZLAY_FUZZ_PLANT=plant)
        seen = status != 0 and PLANTS[plant] in log.read_text(encoding="utf-8", errors="replace")
        print(f"{plant:12}{'found' if seen else f'NOT FOUND, see {log}'} ({time.monotonic() - started:.0f} s)")
        good = good and seen
    return 0 if good else EXIT_FOUND


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz",
        description="Fuzz the C entry points of the compiled core.",
        epilog="targets: " + "; ".join(f"{name}: {target.about}" for name, target in TARGETS.items() if target.about),
    )
    add = parser.add_argument
    add("target", nargs="?", help="one target; all of them otherwise")
    add("input", nargs="?", type=Path, help="run only this input, as found before")
    add("--minutes", type=float, help=f"how long, all targets together (default: {DEFAULT_MINUTES:g})")
    add("--runs", type=int, help="how many inputs for each target, in place of --minutes")
    add("--coverage", action="store_true", help="only say what the kept inputs run")
    add("--no-coverage", action="store_true", help="do not say it after fuzzing")
    add("--self-test", nargs="?", const="all", choices=["all", *PLANTS], help="show that planted faults are found")
    return parser.parse_args()


def main() -> int:
    """0: nothing found and enough covered (of the latter only where all targets ran); 1; 2: cannot run."""
    arguments = _arguments()
    if arguments.self_test:
        return _self_test([*PLANTS] if arguments.self_test == "all" else [arguments.self_test])
    targets = targets_of(arguments.target)
    if arguments.input is not None:
        return _reproduce(targets[0], arguments.input)
    good = True
    if not arguments.coverage:
        minutes = DEFAULT_MINUTES if arguments.minutes is None else arguments.minutes
        for target, seconds in _shares(targets, minutes).items():
            run = _fuzz(target, None if arguments.runs is not None else seconds, arguments.runs)
            _say(run)
            good = good and run.good
            if run.status == INTERRUPTED:
                break
        totals = _totals()
        print("on these sources so far: " + ", ".join(f"{name} {totals[name]:,}" for name in targets))
    if not arguments.no_coverage:
        enough = _coverage()
        good = good and (enough or arguments.target is not None)
    return 0 if good else EXIT_FOUND


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BuildError, ToolsMissing) as exc:
        print(f"fuzz: {exc}", file=sys.stderr)
        sys.exit(EXIT_CANNOT)

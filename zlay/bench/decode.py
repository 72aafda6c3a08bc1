"""`decode`: strict decoding of frames, CAR and all CIDs included; and without hashing, beside libipld.

Bound: SHA-256 of the blocks of the same frames. With --no-hash: what PyPI's libipld takes for `decode_dag_cbor_multi`
and `decode_car` on the same frames, in the ordinary interpreter that scripts/test-deps installs.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from zlay._fast import car
from zlay.bench.inputs import PROJECT, add_corpus_arguments, corpus, fixture_frames
from zlay.bench.report import Figure, Report, excess, has_sha_instructions, in_turn, rate
from zlay.errors import LocalFault

if TYPE_CHECKING:
    import argparse

__all__ = ["DESCRIPTION", "add_arguments", "measure"]

DESCRIPTION = "strict frame decode, CAR and all CIDs, one thread"

TARGET_WITH_SHA = 0.5  # of the bound, where the processor has SHA instructions
TARGET_WITHOUT_SHA = 0.75
EXCESS_US = 8.0  # over the bound, at most, for a frame
TARGET_LIBIPLD = 5.0
SAMPLE_S = 0.1  # one side of one run, at least
PEER_S = 120.0
INSTALL_S = 900.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--no-hash, --events, --accounts."""
    parser.add_argument("--no-hash", action="store_true", help="leave the hashes out and compare with libipld")
    add_corpus_arguments(parser, 4000, 400)


def measure(arguments: argparse.Namespace) -> Report:
    """Frames per second on the fixtures, where they are, and on a recording."""
    inputs = {}
    if fixtures := fixture_frames():
        inputs["decode"] = fixtures
    recorded = corpus(events=arguments.events, accounts=arguments.accounts, p256_share=0.2, only_commits=False)
    inputs["decode.sim" if inputs else "decode"] = recorded.frames
    figures = []
    for name, frames in inputs.items():
        figures += (_without_hashes if arguments.no_hash else _with_hashes)(name, frames, arguments.runs)
    params = {"hash": not arguments.no_hash, "fixtures": len(fixtures), "events": arguments.events}
    return Report("decode", params, figures, arguments.runs)


def _rounds(frames: list[bytes]) -> int:
    """Passes over the frames that take SAMPLE_S."""
    return max(1, round(SAMPLE_S / max(car.measure(frames, 1), 1e-6)))


def _with_hashes(name: str, frames: list[bytes], runs: int) -> list[Figure]:
    rounds = _rounds(frames)
    count = rounds * len(frames)
    taken = in_turn(
        runs,
        {
            "own": lambda: car.measure(frames, rounds, "checked"),
            "bound": lambda: car.measure(frames, rounds, "only"),
        },
    )
    target = TARGET_WITH_SHA if has_sha_instructions() else TARGET_WITHOUT_SHA
    figure = rate(name, count / taken["own"], "frames/s", count / taken["bound"], target)
    return [figure, excess(figure, "us/frame", EXCESS_US)]


def _without_hashes(name: str, frames: list[bytes], runs: int) -> list[Figure]:
    rounds = 10 * _rounds(frames)
    with _Libipld(frames) as peer:
        peer_rounds = max(1, round(SAMPLE_S / peer.seconds(1)))
        taken = in_turn(
            runs,
            {
                "own": lambda: car.measure(frames, rounds, "skipped") / rounds,
                "bound": lambda: peer.seconds(peer_rounds) / peer_rounds,
            },
        )
    return [rate(name, len(frames) / taken["own"], "frames/s", len(frames) / taken["bound"], TARGET_LIBIPLD)]


class _Libipld:
    """The peer in its own interpreter. A context manager; one thread."""

    def __init__(self, frames: list[bytes]) -> None:
        """LocalFault where its interpreter cannot be had."""
        self._frames = tempfile.NamedTemporaryFile(prefix="zlay-bench-")  # noqa: SIM115 - closed by __exit__
        for frame in frames:
            self._frames.write(len(frame).to_bytes(4, "little") + frame)
        self._frames.flush()
        program = Path(__file__).with_name("libipld_peer.py")
        self._process = subprocess.Popen(
            [_oracle_python(), "-I", program, self._frames.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, rounds: int) -> float:
        """Processor seconds of so many passes over the frames."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{rounds}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise LocalFault("libipld's process ended; its words stand above")
        return float(json.loads(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PEER_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._frames.close()


def _oracle_python() -> str:
    """The ordinary interpreter that has libipld; installed when it is not there yet."""
    script = PROJECT / "scripts" / "test-deps"
    subprocess.run([script, "--oracle"], check=True, timeout=INSTALL_S, stdout=subprocess.DEVNULL)
    done = subprocess.run([script, "--paths"], capture_output=True, text=True, check=True, timeout=PEER_S)
    for line in done.stdout.splitlines():
        name, _, value = line.partition("=")
        if name == "oracle":
            return f"{value}/bin/python"
    raise LocalFault("scripts/test-deps has not made the oracle's environment, which holds libipld")

"""What is measured on: recordings of the simulation, and the recorded frames of a production relay where they are.

Recordings are made anew by a child process, from a seed, into a folder of the caller's. One thread.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zlay.errors import LocalFault
from zlay.identity.multibase import decode_multikey
from zlay.sim.recording import Recording
from zlay.sim.settings import DEFAULT_MIX

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

__all__ = ["Corpus", "add_corpus_arguments", "corpus", "fixture_frames", "recording"]

PROJECT = Path(__file__).resolve().parent.parent.parent
RECORD_S = 600.0
ZSTD_S = 60.0
# Kinds of events that make commits, each following from the one before: a stream that is chained throughout.
COMMITS = {"update", "delete", "multi", "empty"}


@dataclass(frozen=True, slots=True)
class Corpus:
    """A recording in memory: frames in each host's order, one host after the other, and (key type, point) by DID."""

    frames: list[bytes]
    keys: dict[bytes, tuple[int, bytes]]


def add_corpus_arguments(parser: argparse.ArgumentParser, events: int, accounts: int) -> None:
    """--events and --accounts of the recording that is measured on."""
    parser.add_argument("--events", type=int, default=events, help=f"events of the recording (default: {events})")
    parser.add_argument("--accounts", type=int, default=accounts, help=f"accounts in it (default: {accounts})")


def recording(
    path: Path,
    *,
    events: int,
    hosts: int,
    accounts: int,
    p256_share: float,
    only_commits: bool,
    skew: float = 1.0,
    seed: int = 1,
) -> None:
    """Records a simulation. LocalFault with its words when it fails."""
    command = [sys.executable, "-m", "zlay.sim", "--record", str(path), "--events", str(events), "--seed", str(seed)]
    command += ["--hosts", str(hosts), "--accounts", str(max(accounts, hosts)), "--p256-share", str(p256_share)]
    command += ["--skew", str(skew)]
    for kind in DEFAULT_MIX if only_commits else ():
        if kind not in COMMITS:
            command += ["--mix", f"{kind}=0"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=RECORD_S)
    if done.returncode != 0:
        raise LocalFault(f"the simulation did not record: {done.stderr.strip()[-500:]}")


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="zlay-bench-") as name:
        yield Path(name)


def corpus(*, events: int, accounts: int, p256_share: float, only_commits: bool) -> Corpus:
    """A recording of four hosts as a Corpus; nothing of it is left on disk."""
    with _folder() as folder:
        path = folder / "recording"
        recording(path, events=events, hosts=4, accounts=accounts, p256_share=p256_share, only_commits=only_commits)
        return read_corpus(path)


def read_corpus(path: Path) -> Corpus:
    """A recording's frames and keys. OSError, ValueError."""
    opened = Recording(path)
    try:
        hosts = range(len(opened.segments))
        frames = [frame for host in hosts for frame in opened.frames(host)]
        profiles = opened.directory([""] * len(opened.segments)).profiles.values()
    finally:
        opened.close()
    keys = {}
    for profile in profiles:
        key = decode_multikey(profile.key)
        assert key is not None
        keys[profile.did.encode()] = key
    return Corpus(frames, keys)


def fixture_frames() -> list[bytes]:
    """The frames of a production relay under $ZLAY_FIXTURES, else ../shared/fixtures; none where there is no folder.

    LocalFault when they are there and cannot be read.
    """
    folder = Path(os.environ.get("ZLAY_FIXTURES") or PROJECT.parent / "shared" / "fixtures")
    path = folder / "firehose" / "frames.bin.zst"
    if not path.exists():
        return []
    try:
        raw = subprocess.run(["zstd", "-dc", path], capture_output=True, check=True, timeout=ZSTD_S).stdout
    except (OSError, subprocess.SubprocessError) as exc:
        raise LocalFault(f"{path} cannot be unpacked: {exc}") from exc
    frames, at = [], 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        frames.append(raw[at + 4 : end])
        at = end
    return frames

"""Decodes frames with libipld and says how long it took. Run by an ordinary interpreter; imports nothing of zlay.

Each line of stdin is a number of passes over the frames of the file that it is given (4 bytes of length, little endian,
before each); each line of stdout the processor seconds they took. Ends with its stdin.
"""

from __future__ import annotations

import sys
import time
from typing import Any


def decode(libipld: Any, frames: list[bytes]) -> None:
    """One pass."""
    for frame in frames:
        payload = libipld.decode_dag_cbor_multi(frame)[1]
        blocks = payload.get("blocks")
        if blocks:
            libipld.decode_car(blocks)


def main() -> None:
    """Answer until stdin ends."""
    import libipld  # type: ignore[import-not-found, unused-ignore]  # is there in that other interpreter only

    with open(sys.argv[1], "rb") as file:
        raw = file.read()
    frames, at = [], 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        frames.append(raw[at + 4 : end])
        at = end
    for line in sys.stdin:
        started = time.thread_time()
        for _ in range(int(line)):
            decode(libipld, frames)
        print(time.thread_time() - started, flush=True)


if __name__ == "__main__":
    main()

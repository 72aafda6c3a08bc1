"""The child of the tests of memory on the frame path, under malloc_calls.so: FOLDER P256_SHARE.

Plays a recording through readers, workers, log and a consumer, the first part to warm up; prints as JSON how many
frames the second part had and what each of our threads has called of malloc meanwhile.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import socket
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests._fast.pipe import Pipe
from tests._fast.replay import Replay, record
from zlay._fast import consumer

WARM = 0.5  # of each host's bytes
WAIT_S = 60.0


def calls() -> dict[str, int]:
    """Calls so far, by thread."""
    library = ctypes.CDLL(None)
    library.malloc_caller.restype = ctypes.c_char_p
    library.malloc_calls.restype = ctypes.c_ulong
    found = itertools.takewhile(lambda name: name is not None, map(library.malloc_caller, itertools.count()))
    return {name.decode(): library.malloc_calls(name) for name in found if name.startswith(b"zlay-")}


def main() -> None:
    """One recording."""
    folder, p256_share = Path(sys.argv[1]), float(sys.argv[2])
    record(folder / "recording", events=4000, hosts=4, accounts=80, p256_share=p256_share)
    consumer.start(b"\x88\x00", b"\x89\x00", tick_us=-1)
    ours, theirs = socket.socketpair()
    read = [0]

    def consume() -> None:
        while data := ours.recv(1 << 20):
            read[0] += len(data)

    with Pipe(folder / "log", workers=2) as pipe:
        replay = Replay(pipe, folder / "recording")
        consumer.accept(theirs.detach(), "reader", 1)
        threading.Thread(target=consume, daemon=True).start()

        def over() -> bool:
            senders = [wire.sender for wire in replay.wires]
            return not any(sender and sender.is_alive() for sender in senders) and pipe.settled()

        replay.play(WARM)
        pipe.until(over, "the first part", WAIT_S)
        pipe.until(lambda: read[0] > 0, "a consumer that reads", WAIT_S)
        before, received, published, delivered = calls(), replay.received(), pipe.log.published_end, read[0]
        replay.play(1.0, WARM)
        pipe.until(lambda: over() and replay.received() == replay.events, "the second part", WAIT_S)
        pipe.events()
        pipe.until(lambda: read[0] > delivered, "a consumer that reads on", WAIT_S)
        after = calls()
        result = {
            "frames": replay.received() - received,
            "published": pipe.log.published_end - published,
            "calls": {name: n - before.get(name, 0) for name, n in after.items()},
        }
        for wire in replay.wires:
            wire.close()
        ours.shutdown(socket.SHUT_RDWR)
        consumer.stop(1001, 3.0)
    replay.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main()

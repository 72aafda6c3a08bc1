"""What each stage of verifying a commit costs, on the recorded frames: the table of docs/design.md, "Measured".

.venv/bin/python -m tests.docs.stages     microseconds per frame, median of RUNS runs
"""

from __future__ import annotations

import statistics

from tests.fixtures import recorded_did_docs, recorded_frames
from zlay._fast import message, stages
from zlay.identity.document import read_document

RUNS = 5
ROUNDS = 20
US = 1e6


def measure() -> dict[str, float]:
    """Microseconds per frame by stage and bound; `ops` per frame."""
    documents = recorded_did_docs()
    frames, keys = [], []
    for frame in recorded_frames():
        said = message.decode(frame)
        if isinstance(said, dict) and said["kind"] == "commit":
            identity = read_document(said["did"], documents[said["did"]], 0)
            frames.append(frame)
            keys.append((identity.key_type, identity.key))
    runs = [stages.times(frames, keys, ROUNDS) for _ in range(RUNS)]
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    return {name: value if name == "ops" else value * US for name, value in medians.items()}


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:12} {value:8.2f}")

from typing import TypedDict

FAULTS: tuple[str, ...]

class Result(TypedDict):
    bad: int
    faults: list[tuple[int, int, str]]
    events: int
    bytes: int
    local: int
    kinds: list[int]
    oldest_us: int
    newest_us: int

class Examiner:
    def __init__(self, index_fd: int, frames_fd: int, first_seq: int, from_seq: int, frames: bool) -> None: ...
    def run(self, to_seq: int) -> None: ...
    def result(self) -> Result: ...

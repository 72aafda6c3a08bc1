from typing import TypedDict

class Tail(TypedDict):
    floor: int
    last_seq: int
    frames_end: int
    frames_bytes: int
    entries: int
    damaged: int
    newest_us: int
    rewritten: int
    damage: list[tuple[int, int]]

def repair_tail(dir_fd: int, first_seq: int, floor: int, repair: bool) -> Tail: ...

from typing import TypedDict

class Status(TypedDict):
    open: bool
    durability: str
    appended_end: int
    synced_end: int
    published_end: int
    oldest_seq: int
    newest_us: int
    keep_from: int
    fault: str
    fault_errno: int
    fault_s: float
    faults: int
    buffered_bytes: int
    buffer_limit: int
    waited: int
    groups: int
    events: int
    bytes: int
    syncs: int
    sync_s: float
    sync_worst_s: float
    sync_histogram: list[int]

FAULTS: tuple[str, ...]

def set_did_key(key: bytes) -> None: ...
def hash_did(did: bytes) -> int: ...
def start(
    next_seq: int,
    previous_last: int,
    continue_last: bool,
    *,
    os_durability: bool = False,
    segment_bytes: int = ...,
    segment_entries: int = ...,
    segment_span_us: int = ...,
    newest_us: int = 0,
    buffer_chunks: int = 8,
) -> None: ...
def seal() -> None: ...
def stop(deadline_s: float = 10.0) -> bool: ...
def append(
    frame: bytes,
    seq_off: int,
    seq_len: int,
    *,
    kind: int = 0,
    flags: int = 0,
    upstream_status: int = 0,
    effective_status: int = 0,
    host_id: int = 0,
    host_epoch: int = 0,
    upstream_seq: int = 0,
    recv_us: int = 0,
    did_hash: int = 0,
) -> int: ...
def ends() -> tuple[int, int, int]: ...
def wait_synced(seq: int, timeout_s: float) -> bool: ...
def wait_published(seq: int, timeout_s: float) -> bool: ...
def set_keep_from(seq: int) -> None: ...
def set_retention(max_age_us: int, max_bytes: int, free_percent: int) -> None: ...
def retain() -> int: ...
def status() -> Status: ...

REASONS: tuple[str, ...]
STATES: tuple[str, ...]

Row = tuple[int, str, int, int, int, int, int, float, str]

def start(
    too_slow: bytes,
    outdated: bytes,
    *,
    tick_us: int = -1,
    slow_us: int = 60_000_000,
    ping_us: int = 30_000_000,
    error_us: int = 5_000_000,
    dead_us: int = 75_000_000,
    grace_us: int = 600_000_000,
) -> None: ...
def accept(
    fd: int,
    peer: str,
    next_seq: int,
    *,
    lead: bytes = b"",
    received: bytes = b"",
    future_cursor: bool = False,
    any_start: bool = False,
) -> int: ...
def take_ends() -> list[tuple[Row, str]]: ...
def stats() -> list[Row]: ...
def count() -> tuple[int, int, int, int]: ...
def disconnect(ident: int) -> bool: ...
def disconnects() -> dict[str, int]: ...
def close_all(code: int, deadline_s: float) -> bool: ...
def stop(code: int = 1001, deadline_s: float = 3.0) -> None: ...

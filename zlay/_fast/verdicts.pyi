from typing import NamedTuple

class ReasonInfo(NamedTuple):
    code: int
    label: str
    verdict: str
    clause: str
    text: str

VERDICTS: tuple[str, ...]
KINDS: tuple[str, ...]
STATUSES: tuple[str, ...]
REASONS: tuple[ReasonInfo, ...]
REASON_BY_LABEL: dict[str, ReasonInfo]

def counts() -> dict[tuple[str, str], int]: ...
def count(verdict: str, label: str) -> None: ...

"""Libraries put before others in child processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def preload(library: Path) -> str:
    """LD_PRELOAD for a child. What is preloaded here comes first: the runtime of a sanitizer has to."""
    return f"{os.environ.get('LD_PRELOAD', '')} {library}".strip()

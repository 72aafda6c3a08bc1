"""`python -m zlay`: the `zlay` command."""

from __future__ import annotations

import sys

from zlay.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m zlay.bench`."""

from __future__ import annotations

import sys

from zlay.bench.cli import main

sys.exit(main())

"""`python -m zlay.sim`: the simulated network by itself."""

from __future__ import annotations

import sys

from zlay.sim.cli import main

sys.exit(main())

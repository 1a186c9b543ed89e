"""How often a test that tries many cases tries one: all of them with FUSIONBENCH_THOROUGH=1, as
`make thorough` does, and a share of them otherwise."""

from __future__ import annotations

import os

THOROUGH = os.environ.get("FUSIONBENCH_THOROUGH") == "1"


def times(full: int, quick: int = 0) -> int:
    """`full`, or a quick run's `quick` (a sixth of `full` where that is 0)."""
    return full if THOROUGH else quick or -(-full // 6)

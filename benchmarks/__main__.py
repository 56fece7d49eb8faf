"""``python -m fastclr.bench``."""

from __future__ import annotations

import sys

from fastclr.bench.suite import main

if __name__ == "__main__":  # the processes that a suite spawns import this module again
    sys.exit(main())

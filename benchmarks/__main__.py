"""``python -m fastclr.bench``."""

from __future__ import annotations

import sys

from fastclr.bench.suite import main

if __name__ == "__main__":  # processes that a suite starts import this module again
    sys.exit(main())

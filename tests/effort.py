"""How long tests search: `make test-long` sets FASTCLR_TEST_EFFORT to as many times the kills and random examples."""

from __future__ import annotations

import os

EFFORT = int(os.environ.get("FASTCLR_TEST_EFFORT", "1"))

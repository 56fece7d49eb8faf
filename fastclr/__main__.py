"""`python -m fastclr` is the `fastclr` command."""

import sys

from fastclr.cli import main

sys.exit(main())

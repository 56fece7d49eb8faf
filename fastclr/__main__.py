"""``python -m fastclr``."""

from __future__ import annotations

import os
import sys

from fastclr.cli import main

if __name__ == "__main__":
    status = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # at the end of the interpreter the threads of a process group can abort the process, whose work is done
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)

"""Runs an example as a script, and ends before the interpreter does: threads of torch may outlive it and abort it."""

from __future__ import annotations

import os
import runpy
import sys

runpy.run_path(sys.argv[1], run_name="__main__")
sys.stdout.flush()
os._exit(0)

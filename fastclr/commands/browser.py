"""Opens a page for the person at this terminal, and nobody else's."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path


def open_page(page: Path) -> bool:
    """Open a file in the browser of a desktop and return whether that was done.

    Not where output goes to a file or a pipe, over SSH, or without a display, where a browser of the terminal might
    start and wait.
    """
    desktop = sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    if not (desktop and sys.stdout.isatty()) or os.environ.get("SSH_CONNECTION"):
        return False
    return webbrowser.open(page.resolve().as_uri())

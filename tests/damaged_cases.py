"""Runs whose files were changed by someone who knows their format."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch

from fastclr.training.checkpoint import END_RECORD, FORMAT

STORED = Path(__file__).parent / "training" / "stored_run"
CHECKPOINT = Path("checkpoints") / "step-00000006.pt"


def seal(path: Path, contents: object, number: int = FORMAT) -> None:
    """Write a checkpoint with a digest that fits, whatever is in it."""
    file = io.BytesIO()
    torch.save(contents, file)
    data = file.getvalue()
    end = END_RECORD.format(format=number, digest=hashlib.sha256(data).hexdigest())
    path.write_bytes(data + end.encode())


def contents_of(path: Path) -> dict[str, Any]:
    """Return what is in a checkpoint."""
    contents: dict[str, Any] = torch.load(path, weights_only=True)
    return contents


def change_json(path: Path, change: object) -> None:
    """Put other fields into a JSON object, or another value in its place."""
    stored = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**stored, **change} if isinstance(change, dict) else change))

"""Images and words on real pictures: emoji of one vendor teach the captions of another's.

Set FASTCLR_TEST_DATA to a folder with emoji-google.tar and emoji-twitter.tar, WebDatasets of 1,911 captioned pictures.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import fastclr

FOLDER = os.environ.get("FASTCLR_TEST_DATA")
TIMES_CHANCE = 10


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "micro_batch", "epochs"), [(256, None, 30), (1024, 128, 80)])
def test_pictures_of_another_vendor_are_found(
    batch_size: int, micro_batch: int | None, epochs: int, tmp_path: Path
) -> None:
    if FOLDER is None:
        pytest.skip("set FASTCLR_TEST_DATA to a folder with emoji-google.tar and emoji-twitter.tar")
    pytest.importorskip("tokenizers")
    pytest.importorskip("transformers")
    run = fastclr.pretrain(
        Path(FOLDER) / "emoji-google.tar",
        preset="shapes-clip",
        epochs=epochs,
        batch_size=batch_size,
        micro_batch=micro_batch,
        lr=2e-3,
        crop_scale=(0.6, 1.0),
        device="cpu",
        out=tmp_path / "emoji",
    )
    for found in run.retrieve(data=Path(FOLDER) / "emoji-twitter.tar").values():
        assert found["recall_at_10"] > TIMES_CHANCE * found["chance_at_10"], found

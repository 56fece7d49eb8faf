"""What Hugging Face's `datasets` writes and holds is read as the arrays of its pixels; needs `pip install datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastclr.data import ImageDataset, load_splits

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 10, 12, 3), dtype=np.uint8)
LABELS = np.arange(60) % 2


@pytest.fixture(scope="module")
def things() -> Any:
    datasets: Any = pytest.importorskip("datasets", reason="datasets brings pandas and is in no extra")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    columns = {"image": [Image.fromarray(array) for array in PIXELS], "label": LABELS.tolist()}
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.mark.parametrize("kind", ["object", "object, workers", "save_to_disk", "parquet", "streamed"])
def test_every_form_gives_the_same_images(kind: str, things: Any, tmp_path: Path) -> None:
    source, options = things, dict[str, Any]()
    if kind == "object, workers":
        options = {"workers": 2}
    elif kind in ("save_to_disk", "streamed"):
        things.save_to_disk(str(tmp_path / "saved"))
        source, options = tmp_path / "saved", {"loader": "torch"} if kind == "streamed" else {}
    elif kind == "parquet":
        things.to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
        source = tmp_path
    splits, arrays = load_splits(source, **options), load_splits((PIXELS, LABELS))
    assert splits.train.classes == ("cat", "dog") and torch.equal(splits.train.ids, arrays.train.ids)
    assert torch.equal(splits.train.labels, arrays.train.labels)
    if kind != "streamed":
        assert isinstance(splits.train, ImageDataset) and isinstance(arrays.train, ImageDataset)
        assert torch.equal(splits.train.images, arrays.train.images)  # type: ignore[arg-type]

"""Pretrain on a folder without labels, and fine-tune when labels have arrived, in a CSV file.

    python examples/labels_later.py

A tenth of the labelled images is held out to test on; the encoder has seen them, though not their labels, and says so.
Both scores are far above chance, a third, although a tenth of the labels is used; on two cores it takes half a minute.
"""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import fastclr

KINDS = ("stripes", "checks", "dots")


def draw(kind: str, generator: np.random.Generator) -> Image.Image:
    """Return a pattern of random scale, direction and colours, 32 x 32."""
    angle, period = generator.uniform(0, np.pi), generator.uniform(5, 9)
    rows, columns = np.mgrid[:32, :32] * (2 * np.pi / period)
    first = np.sin(np.cos(angle) * columns + np.sin(angle) * rows)
    second = np.sin(np.cos(angle) * rows - np.sin(angle) * columns)
    mask = {"stripes": first > 0, "checks": first * second > 0, "dots": np.minimum(first, second) > 0.3}[kind]
    dark, light = generator.uniform(0, 100, 3), generator.uniform(155, 255, 3)
    return Image.fromarray(np.where(mask[..., None], light, dark).astype(np.uint8))


def write_images(folder: Path, count: int) -> list[tuple[str, str]]:
    """Write patterns into one flat folder and return the name and the label of each, as somebody has looked them up."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for index in range(count):
        name, kind = f"{index:04d}.png", KINDS[index % len(KINDS)]
        draw(kind, generator).save(folder / name)
        rows.append((name, kind))
    return rows


def main() -> None:
    """Pretrain, then fine-tune on a tenth of the labels."""
    with tempfile.TemporaryDirectory() as work:
        rows = write_images(Path(work) / "images", 510)
        options = {"width": 0.25, "batch_size": 64, "lr": 0.3, "temperature": 0.2, "log_every": 7}
        run = fastclr.pretrain(Path(work) / "images", epochs=4, out=Path(work) / "run", **options)
        for record in run.metrics:
            print(f"step {record['step']:3d}  loss {record['train/loss']:.4f}")
        labels = Path(work) / "labels.csv"
        with labels.open("w", newline="") as file:
            csv.writer(file).writerows([("name", "label"), *rows])
        tuned = run.finetune(labels=labels, share="10%", epochs=20, batch_size=16, lr=0.4)
        print(f"kNN accuracy {run.knn(labels=labels)['accuracy']:.3f}")
        print(f"fine-tuned accuracy {tuned.result['accuracy']:.3f} of {tuned.result['test_images']} images")


if __name__ == "__main__":
    main()

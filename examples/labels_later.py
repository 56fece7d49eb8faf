"""Pretrain on a folder without labels, and fine-tune when labels have arrived, in a CSV file.

    python examples/labels_later.py

A tenth of the labelled images is held out to test on; the encoder has seen them, though not their labels, and says so.
On two cores it takes less than a minute.
"""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

from PIL import Image

import fastclr
from fastclr.data import make_shapes


def write_images(folder: Path, count: int) -> list[tuple[str, str]]:
    """Write shapes into one flat folder and return the name and the label of each, as somebody has looked them up."""
    shapes = make_shapes(train=count, test=8).train
    folder.mkdir()
    rows = []
    for index, label in enumerate(shapes.labels.tolist()):
        name = f"{index:04d}.png"
        Image.fromarray(shapes.images[index].numpy()).save(folder / name)
        rows.append((name, shapes.classes[label]))
    return rows


def main() -> None:
    """Pretrain, then fine-tune on half of the labels."""
    with tempfile.TemporaryDirectory() as work:
        rows = write_images(Path(work) / "images", 512)
        options = {"width": 0.25, "batch_size": 64, "lr": 0.3, "temperature": 0.2, "log_every": 8}
        run = fastclr.pretrain(Path(work) / "images", epochs=4, out=Path(work) / "run", **options)
        for record in run.metrics:
            print(f"step {record['step']:3d}  loss {record['loss']:.4f}")
        labels = Path(work) / "labels.csv"
        with labels.open("w", newline="") as file:
            csv.writer(file).writerows([("name", "label"), *rows])
        tuned = run.finetune(labels=labels, share="50%", epochs=4, batch_size=32, lr=0.4)  # longer for a real one
        print(f"kNN accuracy {run.knn(labels=labels)['accuracy']:.3f}")
        print(f"fine-tuned accuracy {tuned.result['accuracy']:.3f} of {tuned.result['test_images']} images")


if __name__ == "__main__":
    main()

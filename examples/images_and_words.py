"""Train CLIP on pictures with captions, then name classes and find pictures by words; no label is used.

    pip install 'fastclr[text]'
    python examples/images_and_words.py [EPOCHS] [clip|siglip|blip-itc|coca]

The pictures are the built-in shapes, "small red star, top left"; give `fastclr.pretrain` shards, a folder, a CSV or a
Dataset of your own. The default of 20 epochs takes a few minutes on two cores.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastclr
from fastclr.data import load_splits
from fastclr.evaluate import class_embeddings, retrieve, zero_shot_scores
from fastclr.training.run import Run

PROMPTS = ["small red {}, top", "large blue {}, centre", "medium green {}, left", "large grey {}, bottom right"]


def main(epochs: int, name: str, folder: Path) -> None:
    """Train, and print how often the first answer is right."""
    fastclr.pretrain("shapes", preset=f"shapes-{name}", out=folder, epochs=epochs, device="cpu", knn_every=0)
    run = Run.open(folder)
    tokenize, towers = run.load_tokenizer(), run.load_method()  # any other process finds them in the folder too
    method: Any = towers
    test: Any = load_splits("shapes", captions="auto").test
    texts = [captions[0] for captions in test.captions]
    numbers = {text: number for number, text in enumerate(texts)}

    def embed(words: Sequence[str]) -> Tensor:
        embedded: Tensor = method.encode_text(tokenize(words))
        return embedded

    with torch.no_grad():
        pixels = test.images.permute(0, 3, 1, 2).float() / 255
        images = torch.cat([method.encode_image(part) for part in pixels.split(250)])
        words = embed(texts)
    named = zero_shot_scores(images, class_embeddings(test.classes, PROMPTS, embed), test.labels)
    by_image, by_text = retrieve(
        images, words, torch.arange(len(texts)), text_ids=torch.tensor([numbers[text] for text in texts])
    )
    print(f"zero-shot accuracy {named.top1:.3f} of {len(test.classes)} classes (chance {1 / len(test.classes):.3f})")
    for title, found in (("texts for an image", by_image), ("images for a text", by_text)):
        recalls = ", ".join(f"recall@{k} {found.recall[k]:.3f} (chance {found.chance[k]:.3f})" for k in (1, 10))
        print(f"{title}: {recalls}")


if __name__ == "__main__":
    asked = dict(enumerate(sys.argv))
    with tempfile.TemporaryDirectory() as work:
        main(int(asked.get(1, 20)), asked.get(2, "clip"), Path(work) / "run")

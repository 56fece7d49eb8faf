"""Zero-shot classification against NumPy in float64 and open_clip's own code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from fastclr.evaluate.zero_shot import class_embeddings, embed_texts, zero_shot_scores

NAMES = ("star", "disc", "cross", "ring", "ell", "square", "star fish")
PROMPTS = ("a photo of a {}", "{}", "many {}s, small")


def embed(texts: Sequence[str]) -> Tensor:
    """Return some embedding of each text that depends on nothing else."""
    rows = [np.random.default_rng(list(text.encode())).normal(size=6) * len(text) for text in texts]
    return torch.from_numpy(np.array(rows))


def test_classes_are_renormalised_means() -> None:
    """By the formula in float64, with prompts of very different lengths."""
    found = class_embeddings(NAMES, PROMPTS, embed)
    for row, name in zip(found.double().numpy(), NAMES, strict=True):
        units = [embed([p.format(name)])[0].numpy() for p in PROMPTS]
        mean = np.mean([unit / np.linalg.norm(unit) for unit in units], axis=0)
        assert np.abs(row - mean / np.linalg.norm(mean)).max() < 1e-6


def test_against_open_clip() -> None:
    """`build_zero_shot_classifier` with the same embeddings."""
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install 'fastclr[text]'")

    class Model(torch.nn.Module):
        def encode_text(self, texts: list[str], normalize: bool) -> Tensor:
            found = embed(texts).float()
            return torch.nn.functional.normalize(found, dim=-1) if normalize else found

    class Texts(list[str]):
        def to(self, device: object) -> Texts:
            return self

    expected = open_clip.build_zero_shot_classifier(
        Model(), tokenizer=Texts, classnames=NAMES, templates=[p.format for p in PROMPTS], num_classes_per_batch=None
    )
    torch.testing.assert_close(class_embeddings(NAMES, PROMPTS, embed), expected.T, atol=1e-6, rtol=0)


def test_scores() -> None:
    """Top-1 and top-5 of the cosines in float64; lengths of embeddings do not matter."""
    classes = class_embeddings(NAMES, PROMPTS, embed)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, len(NAMES), (300,), generator=generator)
    images = classes[labels] + 0.6 * torch.randn(300, 6, generator=generator)
    images *= torch.rand(300, 1, generator=generator) + 0.1
    x, c = images.double().numpy(), classes.double().numpy()
    order = np.argsort(-(x / np.linalg.norm(x, axis=1, keepdims=True)) @ c.T, axis=1)
    hits = order == labels.numpy()[:, None]
    found = zero_shot_scores(images, 5 * classes, labels, block=64)
    assert found.top1 == pytest.approx(hits[:, 0].mean()) and 0.4 < found.top1 < 1
    assert found.top5 == pytest.approx(hits[:, :5].any(axis=1).mean())


def test_equal_texts_are_embedded_once() -> None:
    """In batches, and put back in place."""
    calls: list[int] = []

    def counted(texts: Sequence[str]) -> Tensor:
        calls.append(len(texts))
        return embed(texts)

    texts = ["a", "b", "a", "c", "b"]
    found = embed_texts(texts, counted, at_a_time=2)
    assert calls == [2, 1] and torch.equal(found, embed(texts).float())


def test_refusals() -> None:
    """What does not fit is named."""
    with pytest.raises(ValueError, match=r"a prompt must have one {} for the name of the class, got 'a photo'"):
        class_embeddings(NAMES, ("a {}", "a photo"), embed)
    with pytest.raises(ValueError, match="names and prompts must not be empty, got 0 and 1"):
        class_embeddings((), ("{}",), embed)
    with pytest.raises(ValueError, match=r"embed must return \[7, D\], got \[1, 6\]"):
        class_embeddings(NAMES, ("{}",), lambda texts: embed(texts)[:1])
    with pytest.raises(ValueError, match="embeddings of texts must be finite"):
        class_embeddings(NAMES, ("{}",), lambda texts: embed(texts) / 0)
    with pytest.raises(ValueError, match=r"labels must be in 0 .. 1, got 0 .. 2"):
        zero_shot_scores(torch.randn(3, 4), torch.randn(2, 4), torch.arange(3))
    with pytest.raises(ValueError, match=r"must be \[N, D\], \[C, D\], got \(3, 4\), \(2, 5\)"):
        zero_shot_scores(torch.randn(3, 4), torch.randn(2, 5), torch.zeros(3, dtype=torch.int64))

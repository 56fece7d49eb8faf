"""Zero-shot classification: each class is the mean of what a text tower says of its name in several prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fastclr.device import full_float32
from fastclr.evaluate.scores import Scores, score

PROMPTS = ("a photo of a {}",)
TEXTS = 256  # embedded at a time

# from n texts to their embeddings, float [n, D]
Embed = Callable[[Sequence[str]], Tensor]


def class_embeddings(names: Sequence[str], prompts: Sequence[str], embed: Embed) -> Tensor:
    """Return an embedding of each class, of unit length, float32 ``[C, D]``.

        e_c = unit(mean over the prompts p of unit(embed(p with the name of c in place of {})))

    Args:
        names: of the classes.
        prompts: texts with one ``{}`` each.
        embed: from texts to embeddings.

    Raises:
        ValueError: there are no classes or no prompts, a prompt has no ``{}``, or ``embed`` returns another shape or
            numbers that are not finite.

    Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, section 3.1.4.
    """
    if not names or not prompts:
        raise ValueError(f"names and prompts must not be empty, got {len(names)} and {len(prompts)}")
    if odd := [prompt for prompt in prompts if prompt.count("{}") != 1]:
        raise ValueError(f"a prompt must have one {{}} for the name of the class, got {odd[0]!r}")
    texts = [prompt.replace("{}", name) for name in names for prompt in prompts]
    embedded = embed_texts(texts, embed)
    return F.normalize(F.normalize(embedded, dim=1).view(len(names), len(prompts), -1).mean(dim=1), dim=1)


def embed_texts(texts: Sequence[str], embed: Embed, at_a_time: int = TEXTS) -> Tensor:
    """Return the embeddings of texts, float32 ``[n, D]``; equal texts are embedded once.

    Raises:
        ValueError: ``embed`` returns another shape, or numbers that are not finite.
    """
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    different = list(places)
    parts = []
    with torch.no_grad():
        for start in range(0, len(different), at_a_time):
            chosen = different[start : start + at_a_time]
            found = embed(chosen).float()
            if found.dim() != 2 or len(found) != len(chosen):
                raise ValueError(f"embed must return [{len(chosen)}, D], got {list(found.shape)}")
            parts.append(found)
    rows = torch.cat(parts)
    if not bool(rows.isfinite().all()):
        raise ValueError("embeddings of texts must be finite, but some are NaN or infinite")
    return rows[torch.tensor([places[text] for text in texts], device=rows.device)]


def zero_shot_scores(images: Tensor, classes: Tensor, labels: Tensor, *, block: int = 4096) -> Scores:
    """Return the scores of classifying each image as the class of highest cosine, in blocks of images.

    Args:
        images: embeddings, float ``[N, D]``.
        classes: embeddings of the classes, float ``[C, D]``.
        labels: int64 ``[N]``, from 0.

    Raises:
        ValueError: shapes do not match, a label has no class, or an embedding is not finite.
    """
    if images.dim() != 2 or classes.dim() != 2 or images.shape[1] != classes.shape[1]:
        raise ValueError(
            f"images and classes must be [N, D], [C, D], got {tuple(images.shape)}, {tuple(classes.shape)}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
        raise ValueError(f"labels must be in 0 .. {len(classes) - 1}, got {int(labels.min())} .. {int(labels.max())}")
    if not bool(images.isfinite().all()) or not bool(classes.isfinite().all()):
        raise ValueError("embeddings must be finite, but some are NaN or infinite")
    unit = F.normalize(classes.float(), dim=1)
    with full_float32():
        rows = [F.normalize(part.float(), dim=1) @ unit.T.to(part.device) for part in images.split(block)]
    return score(torch.cat(rows), labels)

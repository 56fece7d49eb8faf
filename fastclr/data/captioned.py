"""Captions in the batches of any loader: which one of an image is drawn, and its tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fastclr.data.batch import Batch
from fastclr.data.content_ids import image_ids, text_ids
from fastclr.data.decoded_set import ImageDataset
from fastclr.data.indexed_set import ImageIndex
from fastclr.data.order import Order, raw_bits

if TYPE_CHECKING:
    from fastclr.data.loader import Loader

# from n texts to tokens, int64 [n, L] on the CPU, padded to the same L in every call
Tokenize = Callable[[Sequence[str]], Tensor]
"""Makes tokens of n texts: int64 ``[n, L]``, padded to one L."""

FIRST_STREAM = 2**63  # Philox stream of the draws of epoch 0; the order of images has the streams from 0 on


class CaptionDraw:
    """Which caption of an image is shown in an epoch: a function of (seed, epoch, id) and of its captions alone.

        number = word[id] mod n      of n captions; word: Philox4x64-10 with the key (seed, 2^63 + epoch)

    Args:
        images: a set with captions.
        seed: as for the order of the images.

    Raises:
        ValueError: the set has no captions.
    """

    def __init__(self, images: ImageDataset | ImageIndex, seed: int) -> None:
        """Remember where the captions of each image begin."""
        if images.captions is None:
            raise ValueError(
                f"{images.source} was loaded without captions: load it with captions='auto' (--captions auto)"
            )
        self._captions, self._seed = images.captions, seed
        ids = images.ids.cpu().numpy()
        order = np.argsort(ids, kind="stable")
        self._ids, self._order = ids[order], order
        self._several = any(len(captions) > 1 for captions in images.captions)
        self._words: tuple[int, np.ndarray[tuple[int], np.dtype[np.uint64]]] | None = None

    def texts(self, ids: Tensor, epoch: int) -> list[str]:
        """Return a caption for each image of int64 ``ids`` ``[n]``, which belong to the set."""
        wanted = ids.cpu().numpy()
        rows = self._order[np.searchsorted(self._ids, wanted)].tolist()
        if not self._several:
            return [self._captions[row][0] for row in rows]
        if self._words is None or self._words[0] != epoch:
            self._words = epoch, raw_bits(int(self._ids[-1]) + 1, self._seed, FIRST_STREAM + epoch)
        words = self._words[1][wanted].tolist()
        return [self._captions[row][word % len(self._captions[row])] for row, word in zip(rows, words, strict=True)]


class CaptionedLoader:
    """The batches of a loader, with the tokens of one caption of each image; see :class:`CaptionDraw`.

    Captions are drawn and tokenised in this process when a batch is taken, so that all loaders give an image the same
    text, and none of it is held twice.

    Args:
        loader: any loader of these images.
        images: the set with the captions.
        tokenize: from texts to tokens.

    Raises:
        ValueError: the set has no captions; while iterating: ``tokenize`` returns other shapes.
        TypeError: while iterating: ``tokenize`` returns no int64 tensor.
    """

    def __init__(self, loader: Loader, images: ImageDataset | ImageIndex, tokenize: Tokenize) -> None:
        """Check that there are captions."""
        self.order: Order = loader.order
        self._loader, self._tokenize = loader, tokenize
        self._draw = CaptionDraw(images, loader.order.seed)
        self._length: int | None = None

    @property
    def skipped(self) -> Mapping[str, str]:
        """Images that turned out to be unreadable since the loader was made: name to reason."""
        return self._loader.skipped

    def __len__(self) -> int:
        """Return the number of steps of an epoch, the same on every rank."""
        return len(self._loader)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Return the batches of ``epoch`` from ``start_step`` on; arguments and errors are those of the loader."""
        return self._batches(self._loader.epoch(epoch, start_step), epoch)

    def _batches(self, batches: Iterator[Batch], epoch: int) -> Iterator[Batch]:
        """Yield the batches with their texts."""
        for batch in batches:
            tokens = self._tokens(self._draw.texts(batch.ids, epoch))
            yield replace(
                batch,
                texts=moved(tokens, batch.ids.device),
                text_ids=moved(text_ids(tokens), batch.ids.device),
                image_ids=image_ids(batch.images),
            )

    def _tokens(self, texts: list[str]) -> Tensor:
        """Return the tokens of some texts, int64 ``[n, L]``."""
        tokens = self._tokenize(texts)
        if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64:
            what = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
            raise TypeError(f"tokenize must return an int64 tensor, got {what}")
        self._length = tokens.shape[-1] if self._length is None else self._length
        if tokens.shape != (len(texts), self._length):
            raise ValueError(f"tokenize must return [{len(texts)}, {self._length}], got {list(tokens.shape)}")
        return tokens

    def close(self) -> None:
        """Close the loader."""
        self._loader.close()


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on ``device``; a copy to a GPU is not awaited."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

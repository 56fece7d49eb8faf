"""The interface of a method: networks and a loss that turn the views of a batch into a differentiable scalar.

The training loop uses methods only through this class. A step of the loop is

    views = augment(batch.images, batch.ids, epoch)             as specified by the method's ``views``
    h, embeddings = method(views)                               wrapped by DDP, repeated by cached gradients; where
                                                                the method uses texts: method(views, batch.texts)
    loss, sums = method.loss(embeddings, batch, step, total)    outside DDP; gathers over the ranks itself
    loss.backward(), method.before_step(step, total), optimizer.step(), method.after_step(step, total)
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastclr.augment import AugmentConfig, SimCLRAugment
from fastclr.augment.recipes import MultiCropAugment
from fastclr.data.batch import Batch
from fastclr.methods.groups import Group, parameter_groups
from fastclr.methods.options import MethodOptions, ModelOptions
from fastclr.methods.tokenizers import Vocabulary

Views = Tensor | Sequence[Tensor]
"""V views of N images: ``[V, N, 3, S, S]``, or V tensors ``[n, 3, S, S]`` of some images, or of several sizes."""


@dataclass(frozen=True)
class Facts:
    """What a method may know about the run it is built for.

    Args:
        images: number of training images.
        labelled: how many of them have a label.
        classes: number of their classes; 0 where they are unknown.
        world_size: number of processes.
        batch_size: images per step over all processes.
        optimizer: its name.
        lr: the peak of its rate.
        vocabulary: the tokens of the captions; None without captions.
        ids: int64 ``[images]``, of the training images; None for ``0 .. images - 1``.
    """

    images: int
    labelled: int
    classes: int
    world_size: int
    batch_size: int = 256
    optimizer: str = "sgd"
    lr: float = 0.06
    vocabulary: Vocabulary | None = None
    ids: Tensor | None = field(default=None, repr=False, compare=False)

    def image_ids(self) -> Tensor:
        """Return the ids of the training images."""
        return torch.arange(self.images) if self.ids is None else self.ids


class KeptEqual(nn.Module):
    """State that training changes without gradients, in the same way on every process."""


@dataclass(frozen=True)
class ViewPlan:
    """What the augmenter makes of each image: ``count`` random views, drawn according to ``config``, or to one each.

    Views may differ in size: the method then gets a tensor for each. Those of one size should follow each other.
    """

    config: AugmentConfig | tuple[AugmentConfig, ...]
    count: int

    @property
    def each(self) -> tuple[AugmentConfig, ...]:
        """The configuration of every view."""
        return self.config if isinstance(self.config, tuple) else (self.config,) * self.count

    @property
    def nbytes(self) -> int:
        """Number of bytes of all views of an image, in float32."""
        return sum(4 * view.channels * view.size**2 for view in self.each)

    def augmenter(self, seed: int, *, channels_last: bool) -> SimCLRAugment | MultiCropAugment:
        """Return what makes the views; what happens to one is a function of (seed, epoch, id, number of the view)."""
        groups = [list(group) for _, group in itertools.groupby(self.each, key=lambda view: view.size)]
        if len(groups) == 1:
            return SimCLRAugment(self.config, self.count, seed=seed, channels_last=channels_last)
        return MultiCropAugment(groups, seed, channels_last=channels_last)


class Method(nn.Module, ABC):
    """Networks and a loss. All state that training changes is in the state dict, so that a run resumes bit for bit.

    Attributes:
        title: human-readable name of the method.
        uses_labels: whether the loss depends on labels, so that a run must keep them.
        uses_texts: whether forward takes the captions of the images too, as token ids.
        Options: the method's own options.
        recipe: values of the run's configuration that suit the method better than the defaults; under ``augment`` a
            dictionary of fields of the augmentation.
        flags: prefix of the options' flags on the command line; empty: the method's name.
        cause: the usual cause of collapsed embeddings; empty: collapse is no concern, the embeddings are not watched.
        tune: what to tune first.
        evaluated: which of its encoders is evaluated and exported.
        when: when to take the method.
        views: what the augmenter makes for it.
        started: lines on what beside the encoder took starting weights.
        encoder: from images ``[n, 3, S, S]`` to features ``[n, F]``; evaluated and exported.
        criterion: the loss. Its parameters, such as a temperature, are not used in forward, so
            DistributedDataParallel must not handle them: the loop averages their gradients.
    """

    title: ClassVar[str]
    uses_labels: ClassVar[bool] = False
    uses_texts: ClassVar[bool] = False
    Options: ClassVar[type[MethodOptions]]
    recipe: ClassVar[Mapping[str, Any]] = {}
    flags: ClassVar[str] = ""
    cause: ClassVar[str] = ""
    tune: ClassVar[str] = ""
    evaluated: ClassVar[str] = "the encoder that was trained"
    when: ClassVar[str] = ""
    started: tuple[str, ...] = ()
    views: ViewPlan
    encoder: nn.Module
    criterion: nn.Module

    @classmethod
    def plan(cls, config: ModelOptions) -> ViewPlan:
        """Return what the augmenter makes for the method."""
        return ViewPlan(config.options.pair(config.augment), config.options.view_count)

    @classmethod
    @abstractmethod
    def build(cls, config: ModelOptions, facts: Facts) -> Method:
        """Build the method, initialised from torch's global generator.

        Raises:
            ValueError: the configuration does not fit the method or the data.
        """

    @classmethod
    def prepare(cls, config: ModelOptions) -> None:
        """Raise what can be known to be wrong before images are read, such as a package that is missing."""
        return

    @abstractmethod
    def forward(self, views: Views) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the features h of all views, ``[V n, F]``, and the embeddings that the loss takes, each ``[n, ...]``.

        Each embedding row may depend only on its own image (and, through batch norm, on the rest of the batch), so
        that the gradient of a large batch can be computed a few images at a time.
        """

    @abstractmethod
    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the global batch for the rows of this process, and named numbers to log.

        Args:
            embeddings: of all images of this process.
            batch: the batch as it came from the loader.
            step: index of this step, from 0.
            total: number of steps of the whole training.

        Returns:
            the loss, 0-dim with gradient, whose gradients DistributedDataParallel averages over the processes; and
            0-dim tensors without gradient, which the loop averages over steps and processes.
        """

    def groups(self, optimizer: str) -> list[Group]:
        """Return all trainable parameters, grouped by how the optimiser treats them."""
        return parameter_groups(self, optimizer, self.criterion)

    def before_step(self, step: int, total: int) -> None:
        """Run before each update, when the gradients are there, for example to drop some; does nothing by default."""
        return

    def after_step(self, step: int, total: int) -> None:
        """Run after each update, for example to move a momentum encoder; does nothing by default."""
        return

    def scalars(self) -> dict[str, float]:
        """Return current values to log, such as a temperature; none by default."""
        return {}

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that the encoder exempts from weight decay, such as a ViT's position embedding."""
        names: set[str] = getattr(self.encoder, "no_weight_decay", set)()
        return {f"encoder.{name}" for name in names}

    def criterion_names(self) -> list[str]:
        """Return the names under which the method holds the criterion's parameters."""
        return [f"criterion.{name}" for name, _ in self.criterion.named_parameters()]

    def names_apart(self) -> list[str]:
        """Return the names of what DistributedDataParallel must leave alone.

        These are the criterion's parameters, and twins and rings, which every process keeps equal by itself: their
        buffers would be broadcast in every forward.
        """
        own = {name: module for name, module in self.named_modules() if isinstance(module, KeptEqual)}
        apart = [
            f"{name}.{inner}"
            for name, module in own.items()
            for inner, _ in (*module.named_parameters(), *module.named_buffers())
        ]
        return [*self.criterion_names(), *apart]

    def network_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of everything but the criterion."""
        own = set(self.criterion_names())
        return [parameter for name, parameter in self.named_parameters() if name not in own]


def by_size(views: Views) -> list[Views]:
    """Divide views into runs of one size, which a network can take in one pass."""
    if isinstance(views, Tensor):
        return [views]
    return [list(run) for _, run in itertools.groupby(views, key=lambda view: view.shape[-2:])]


def rows_of(views: Views) -> Tensor:
    """Concatenate all views to ``[V n, 3, S, S]``, keeping channels_last; a single tensor is not copied."""
    return views.flatten(0, 1) if isinstance(views, Tensor) else torch.cat(list(views))

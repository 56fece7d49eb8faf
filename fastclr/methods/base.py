"""What a method is: networks and a loss, from the views of a batch to a number with a gradient.

The training loop knows methods through this class only. A step of the loop is

    views = augment(batch.images, batch.ids, epoch)             as the method's ``views`` say
    h, embeddings = method(views)                               what DDP wraps, and what cached gradients repeat
    loss, sums = method.loss(embeddings, batch, step, total)    outside of DDP; gathers over the ranks inside
    loss.backward(), optimizer.step(), method.after_step(step, total)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastclr.augment import AugmentConfig
from fastclr.data.batch import Batch
from fastclr.methods.groups import Group, parameter_groups
from fastclr.methods.options import MethodOptions, ModelOptions

# V views of N images: one tensor [V, N, 3, S, S], or V tensors [n, 3, S, S] of some of the images
Views = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class Facts:
    """What a method may ask about the run that it is built for.

    Args:
        images: number of training images.
        labelled: how many of them have a label.
        classes: number of their classes; 0 where they are unknown.
        world_size: number of processes.
    """

    images: int
    labelled: int
    classes: int
    world_size: int


@dataclass(frozen=True)
class ViewPlan:
    """What the augmenter makes of every image: ``count`` random views, drawn as ``config`` says."""

    config: AugmentConfig
    count: int


class Method(nn.Module, ABC):
    """Networks and a loss. All that moves during training is in the state dict, so that a run resumes bit for bit.

    Attributes:
        title: name of the method for people.
        Options: its own options.
        views: what the augmenter makes for it.
        encoder: from images ``[n, 3, S, S]`` to features ``[n, F]``; what is evaluated and exported.
        criterion: the loss. Its parameters, such as a temperature, are not used in the forward, and so are no business
            of DistributedDataParallel: the loop averages their gradients.
    """

    title: ClassVar[str]
    Options: ClassVar[type[MethodOptions]]
    views: ViewPlan
    encoder: nn.Module
    criterion: nn.Module

    @classmethod
    @abstractmethod
    def build(cls, config: ModelOptions, facts: Facts) -> Method:
        """Build the method, freshly initialised from torch's global generator.

        Raises:
            ValueError: the configuration does not fit the method or the data.
        """

    @abstractmethod
    def forward(self, views: Views) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the features h of all views, ``[V n, F]``, and the embeddings that the loss takes, each ``[n, ...]``.

        An embedding depends on the images of its own rows (and through batch norm on the rest of the batch), so that
        the gradient of a large batch can be computed a few images at a time.
        """

    @abstractmethod
    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the global batch, for the rows of this process, and numbers to log under their names.

        Args:
            embeddings: of all images of this process.
            batch: the images, as they came from the loader.
            step: number of this step, from 0.
            total: number of steps of the whole training.

        Returns:
            the loss, 0-dim with gradient, whose gradients DistributedDataParallel averages over the processes; and
            0-dim tensors without gradient, which the loop averages over steps and processes.
        """

    def groups(self, optimizer: str) -> list[Group]:
        """Return all trainable parameters, with what the optimiser does to them."""
        return parameter_groups(self, optimizer, self.criterion)

    def after_step(self, step: int, total: int) -> None:
        """Do what follows an update, such as moving a momentum twin; nothing by default."""
        return

    def scalars(self) -> dict[str, float]:
        """Return numbers to log as they are now, such as a temperature; none by default."""
        return {}

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that the encoder wants undecayed, such as a ViT's position embedding."""
        names: set[str] = getattr(self.encoder, "no_weight_decay", set)()
        return {f"encoder.{name}" for name in names}

    def criterion_names(self) -> list[str]:
        """Return the names of the criterion's parameters within the method."""
        return [f"criterion.{name}" for name, _ in self.criterion.named_parameters()]

    def network_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of everything but the criterion."""
        own = set(self.criterion_names())
        return [parameter for name, parameter in self.named_parameters() if name not in own]


def rows_of(views: Views) -> Tensor:
    """Return all views behind one another, ``[V n, 3, S, S]``; channels_last stays, and a whole batch is not copied."""
    return views.flatten(0, 1) if isinstance(views, Tensor) else torch.cat(list(views))

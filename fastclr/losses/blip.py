"""BLIP's image-text contrast: keys and soft targets from momentum features, more keys from queues."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from fastclr.losses.class_sums import class_sizes, class_sums, number_classes
from fastclr.losses.lse_op import soft_means
from fastclr.losses.options import RowOptions
from fastclr.losses.row_dots import own_first, share_gradient
from fastclr.losses.row_inputs import check_ids, check_same_rows, log_add, softplus
from fastclr.losses.row_loss import Comparison, RowLoss
from fastclr.losses.scalars import as_number
from fastclr.losses.tiles import vector_dtype

if TYPE_CHECKING:
    from typing_extensions import Unpack


class BLIPLoss(RowLoss):
    """``loss_i = log sum_j exp(s_ij) - sum_j t_ij s_ij``, the mean of image to text and text to image.

    ``s_ij = <q_i, k_j> / tau`` with the keys k: the momentum features of the other modality, then its queue.
    ``t_i = alpha softmax_j(<m_i, k_j> / tau) + (1 - alpha) h_i`` with the momentum feature m_i of row i, and h_i 1 at
    its own key or, with ids, 1/|P| at each of the keys P of its id. Keys and targets have no gradient. O((N + K) D)
    memory: the soft part is ``<q_i, c_i> / tau`` with the mean c_i of the keys under the softmax of m_i.

    Source: Li et al., BLIP: Bootstrapping Language-Image Pre-training, 2022, after Li et al., Align before Fuse, 2021,
    equations 1 to 7. There tau is a parameter itself, clamped to [0.001, 0.5]: pass it as the temperature.
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.07,
        gather_distributed: bool = False,
        *,
        alpha: float = 0.4,
        **options: Unpack[RowOptions],
    ) -> None:
        """Check and store the options.

        Args:
            alpha: weight of the soft targets, in [0, 1].
            temperature: as in :class:`fastclr.losses.row_loss.RowLoss`.
            gather_distributed: the momentum features of all ranks are keys. Queues must be the same on every rank.
            **options: the other options of :class:`fastclr.losses.row_loss.RowLoss`.

        Raises:
            TypeError, ValueError: as there, or alpha is out of range.
        """
        super().__init__(temperature, gather_distributed, **options)
        self.alpha = _share(alpha)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        momentum_image: Tensor,
        momentum_text: Tensor,
        image_queue: Tensor | None = None,
        text_queue: Tensor | None = None,
        *,
        ids: Tensor | None = None,
        queue_ids: Tensor | None = None,
        alpha: float | None = None,
    ) -> Tensor:
        """Loss of N pairs.

        Args:
            image: ``[N, D]``: float32, float64, float16 or bfloat16, any strides, any device.
            text: ``[N, D]``, same dtype and device; row i belongs to image i.
            momentum_image: ``[N, D]``, of the momentum encoder.
            momentum_text: ``[N, D]``.
            image_queue: ``[K, D]`` past momentum features of images, or None.
            text_queue: ``[K, D]`` of texts.
            ids: ``[N]`` integers, for retrieval: all keys with the id of a row are its positives. -1 equals no other.
            queue_ids: ``[K]``, those of both queues; needed where there are ids and queues.
            alpha: in place of the module's, for a ramp.

        Returns:
            0-dim, or ``[N]`` for reduction "none"; float64 for float64 inputs and float32 otherwise.

        Raises:
            TypeError, ValueError: as :meth:`fastclr.losses.row_loss.RowLoss.compare`, or shapes or ids do not fit.
        """
        inputs = {"image": image, "text": text, "momentum_image": momentum_image, "momentum_text": momentum_text}
        check_same_rows(inputs)
        queues = {"image_queue": image_queue, "text_queue": text_queue}
        inputs |= {name: queue for name, queue in queues.items() if queue is not None}
        self._check_ids(inputs, ids, queue_ids)
        share = self.alpha if alpha is None else _share(alpha)
        comparison = self.compare(inputs)
        group = comparison.options.group
        # keys have no gradient: the rows of a rank need nothing from the others but these
        comparison = replace(comparison, options=comparison.options._replace(group=None))
        classes = None if ids is None else self._classes(ids, queue_ids, group)
        with torch.autocast(image.device.type, enabled=False):
            sides = (
                (image, momentum_image, momentum_text, text_queue),
                (text, momentum_text, momentum_image, image_queue),
            )
            total = sum(self._direction(comparison, *side, classes, share, group) for side in sides)
            loss = comparison.reduce(torch.as_tensor(total) / 2)
        if group is not None and self.reduction == "sum":
            # the mean over the ranks, which DistributedDataParallel takes, becomes the sum
            return share_gradient(loss, distributed.get_world_size(group))
        return loss

    @staticmethod
    def _check_ids(inputs: dict[str, Tensor], ids: Tensor | None, queue_ids: Tensor | None) -> None:
        queues = [name for name in ("image_queue", "text_queue") if name in inputs]
        if ids is not None:
            check_ids("ids", ids, inputs["image"], len(inputs["image"]))
        if (queue_ids is not None) != (ids is not None and bool(queues)):
            raise ValueError("queue_ids are needed with ids and queues, and only then")
        for name in queues if queue_ids is not None else ():
            check_ids("queue_ids", queue_ids, inputs["image"], len(inputs[name]))

    @staticmethod
    def _classes(ids: Tensor, queue_ids: Tensor | None, group: distributed.ProcessGroup | None) -> Tensor:
        """The class of every key, numbered from 0; those of this rank's rows come first."""
        own = own_first(ids.long(), group)
        return number_classes(own if queue_ids is None else torch.cat([own, queue_ids.long()]))

    @staticmethod
    def _direction(
        comparison: Comparison,
        rows: Tensor,
        teacher: Tensor,
        own: Tensor,
        queue: Tensor | None,
        classes: Tensor | None,
        alpha: float,
        group: distributed.ProcessGroup | None,
    ) -> Tensor:
        """The loss of every row against the keys of one modality."""
        q, count = comparison.rows(rows), len(rows)
        with torch.no_grad():
            keys = [own_first(comparison.rows(own), group)]
            keys += [] if queue is None else [comparison.rows(queue)]
            if classes is None:
                target = keys[0][:count]
            else:
                target = _class_means(torch.cat(keys), classes, count, comparison.options.deterministic)
            softened = None
            if alpha > 0:
                means = soft_means(comparison.rows(teacher), keys, comparison.scale, comparison.options)
                softened = alpha * (target - means)
        positive = comparison.dots(q, target) * comparison.scale
        if classes is None:
            # the row's own key is not in the tiles, which keeps small losses exact
            rest = log_add(*(comparison.lse(q, k, "self" if k is keys[0] else "nothing") for k in keys))
            loss = softplus(rest - positive)
        else:
            loss = log_add(*(comparison.lse(q, k) for k in keys)) - positive
        return loss if softened is None else loss + comparison.dots(q, softened) * comparison.scale


def _share(alpha: float) -> float:
    number = as_number("alpha", alpha)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    return number


def _class_means(keys: Tensor, classes: Tensor, count: int, deterministic: bool) -> Tensor:
    """The mean key of the class of each of the first `count` keys."""
    wide = keys.to(vector_dtype(keys.device))
    sums = class_sums(wide, classes, deterministic)
    sizes = class_sizes(classes).to(wide.dtype)
    own = classes[:count]
    return (sums[own] / sizes[own, None]).to(keys.dtype)

"""Parameter groups: which parameters get weight decay, LARS adaptation, or their own learning rate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Group:
    """Parameters that are updated alike.

    Args:
        parameters: the parameters in the group.
        decay: whether weight decay applies.
        adapt: whether LARS adapts their rate.
        rate: multiplies the learning rate throughout the schedule.
        constant: whether the rate stays at its peak throughout.
    """

    parameters: list[Tensor]
    decay: bool
    adapt: bool
    rate: float = 1.0
    constant: bool = False


def parameter_groups(model: nn.Module, optimizer: str, criterion: nn.Module | None = None) -> list[Group]:
    """Divide the trainable parameters of a model into groups, as in the papers.

    SGD decays every parameter of the networks. AdamW does not decay biases, norms or the parameters that the model
    names in ``no_weight_decay`` (a ViT's position embedding); LARS neither decays nor adapts these, and does not adapt
    those that the model names in ``no_adaptation`` (a classifier). Parameters of the loss, such as a temperature, are
    never decayed or adapted.

    Args:
        model: the networks; the criterion may be part of it.
        optimizer: ``sgd``, ``adamw`` or ``lars``.
        criterion: the loss, whose parameters form a separate group.
    """
    from timm.optim import param_groups_weight_decay

    own = [] if criterion is None else list(criterion.parameters())
    names: set[str] = getattr(model, "no_weight_decay", set)()
    bare, weights = param_groups_weight_decay(
        model, 1.0, no_weight_decay_list=names
    )  # returns the undecayed group first
    if optimizer == "sgd":
        everything = [p for p in model.parameters() if p.requires_grad]
        return [Group(exclude(everything, own), decay=True, adapt=True), *criterion_group(own)]
    kept: set[str] = getattr(model, "no_adaptation", set)()
    apart = [p for name, p in model.named_parameters() if name in kept] if optimizer == "lars" else []
    groups = [
        Group(exclude(bare["params"], own), decay=False, adapt=False),
        Group(exclude(weights["params"], apart), decay=True, adapt=True),
        *criterion_group(own),
    ]
    unadapted = [p for p in weights["params"] if any(p is other for other in apart)]
    return [*groups, Group(unadapted, decay=True, adapt=False)] if unadapted else groups


def criterion_group(parameters: list[nn.Parameter]) -> list[Group]:
    """Return the group of the loss's parameters, or nothing if it has none."""
    return [Group(list(parameters), decay=False, adapt=False)] if parameters else []


def exclude(parameters: Iterable[Tensor], others: Iterable[Tensor]) -> list[Tensor]:
    """Return `parameters` without `others`, compared by identity, in order."""
    excluded = {id(p) for p in others}
    return [p for p in parameters if id(p) not in excluded]

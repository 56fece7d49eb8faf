"""A classifier trained on labels: fine-tuning of a pretrained network, its controls, and the supervised baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.data.batch import Batch
from fastclr.device import vector_dtype
from fastclr.methods.base import Facts, Method, ViewPlan, Views, rows_of
from fastclr.methods.encoders import feature_dim
from fastclr.methods.heads import first_layers, output_width
from fastclr.methods.model import EncoderHead, build_model
from fastclr.methods.one_branch import widened
from fastclr.methods.options import Check, MethodOptions, ModelOptions


@dataclass(frozen=True, kw_only=True)
class SupervisedOptions(MethodOptions):
    """The options of supervised training."""

    layer: int = 0
    """Layers of the projection head between the encoder and the classifier."""

    def checks(self) -> list[Check]:
        """Return what must hold of the values."""
        return [("layer", self.layer >= 0, "at least 0")]


class Classifier(nn.Module):
    """Logits of an image: a linear map of the encoder's features, or of a layer of the projection head.

    Args:
        encoder: module from images ``[N, 3, S, S]`` to features ``[N, F]``.
        layers: the first layers of the projection head, with their batch norms and ReLUs; may be empty.
        linear: from what the layers return to the classes.
    """

    def __init__(self, encoder: nn.Module, layers: nn.Sequential, linear: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.layers = layers
        self.linear = linear

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``[N, C]``."""
        logits: Tensor = self.linear(self.layers(self.encoder(images)))
        return logits


def build_classifier(model: EncoderHead, layer: int, classes: int, size: int) -> Classifier:
    """Put a linear classifier on the first `layer` layers of the head of `model`, whose modules it takes over.

    Weights and bias start at zero, so that the first prediction is uniform (``zero_init_logits_layer`` of
    google-research/simclr).

    Args:
        model: encoder and projection head.
        layer: 0 for the encoder's features h; 1 is the choice of SimCLR v2 for few labels.
        classes: number of classes.
        size: side of the images in pixels.

    Raises:
        ValueError: the head has no such layer.
    """
    layers = first_layers(model.head, layer)
    linear = nn.Linear(output_width(layers) or feature_dim(model.encoder, size), classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return Classifier(model.encoder, layers, linear)


class Supervised(Method):
    """Cross-entropy of the logits of one random view of every image: ``mean_i -log softmax(f(x_i))[y_i]``.

    Args:
        classifier: the network, whose modules it takes over.
        views: what the augmenter makes.
    """

    title = "supervised training"
    uses_labels = True
    Options = SupervisedOptions
    tune = "--lr, --epochs, the augmentation."
    when = "The upper bound to compare with: every image needs a label."

    def __init__(self, classifier: Classifier, views: ViewPlan) -> None:
        super().__init__()
        self.encoder, self.layers, self.linear = classifier.encoder, classifier.layers, classifier.linear
        self.criterion, self.views = nn.Identity(), views

    @classmethod
    def build(cls, config: ModelOptions, facts: Facts) -> Supervised:
        """Build the method, freshly initialised from torch's global generator.

        Raises:
            ValueError: a training image has no label, there are fewer than two classes, or the head is too short.
        """
        check_labels(facts)
        if not isinstance(config.options, SupervisedOptions):
            raise TypeError(f"options must be SupervisedOptions, got {type(config.options).__name__}")
        classifier = build_classifier(build_model(config), config.options.layer, facts.classes, config.augment.size)
        return cls(classifier, cls.plan(config))

    @classmethod
    def plan(cls, config: ModelOptions) -> ViewPlan:
        """Return one view of an image."""
        return ViewPlan(config.augment, 1)

    @property
    def classifier(self) -> Classifier:
        """The network that is trained."""
        return Classifier(self.encoder, self.layers, self.linear)

    def forward(self, views: Views) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the features h ``[n, F]`` and the logits ``[n, C]``."""
        h = self.encoder(rows_of(views))
        return h, (self.linear(self.layers(h)),)

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the cross-entropy, and the share of views that are classified right."""
        logits = widened(embeddings[0])
        labels = batch.labels.to(logits.device)
        right = (logits.detach().argmax(dim=1) == labels).to(vector_dtype(logits.device)).mean()
        return F.cross_entropy(logits, labels), {"training_accuracy": right}

    def no_adaptation(self) -> set[str]:
        """Return what LARS leaves at the plain rate: a rate in proportion to weights that start at zero is zero."""
        return {"linear.weight"}


def check_labels(facts: Facts) -> None:
    """Raise a ValueError unless every training image has a label and there are at least two classes."""
    if facts.labelled < facts.images:
        raise ValueError(
            f"all images to train on must have labels, but {facts.images - facts.labelled} of {facts.images} have none"
        )
    if facts.classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got {facts.classes}")

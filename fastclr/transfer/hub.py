"""Encoders in the layout of `PyTorchModelHubMixin`: those that timm cannot name too, by their width and their stem."""

from __future__ import annotations

from typing import Any

from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from fastclr.methods.encoders import build_encoder
from fastclr.methods.own_encoder import is_own
from fastclr.training.config import PretrainConfig


class HubEncoder(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="fastclr",
    pipeline_tag="image-feature-extraction",
    tags=["self-supervised"],
):
    """An encoder without its classifier, images ``[N, C, S, S]`` to features ``[N, F]``.

    ``HubEncoder.from_pretrained(FOLDER)`` loads what `fastclr export --format hub` wrote; of a repository on a hub it
    takes the name instead of the folder. ``save_pretrained`` and ``push_to_hub`` are those of huggingface_hub. The
    weights are named ``backbone.`` and as in timm.
    """

    def __init__(
        self,
        *,
        encoder: str,
        width: float = 1.0,
        stem: str = "auto",
        size: int = 224,
        patch_size: int | None = None,
        norm: str = "batch",
        channels: int = 3,
        preprocessing: dict[str, Any] | None = None,
    ) -> None:
        """Build the encoder with random weights.

        Args:
            encoder: the name of a timm model, or of a selective-kernel ResNet of SimCLR v2.
            width, stem, size, patch_size, norm, channels: as in `fastclr.methods.encoders.build_encoder`.
            preprocessing: what the images are expected to be, for who reads it; the forward pass changes nothing.

        Raises:
            ValueError: there is no such encoder, or not with these options.
        """
        super().__init__()
        if is_own(encoder):
            raise ValueError(f"encoder must be the name of a model, got {encoder!r}: nobody else can build that one")
        options: dict[str, Any] = {"width": width, "stem": stem, "size": size, "patch_size": patch_size, "norm": norm}
        self.backbone = build_encoder(encoder, channels=channels, **options)
        self.preprocessing = preprocessing

    def forward(self, images: Tensor) -> Tensor:
        """Return the features."""
        features: Tensor = self.backbone(images)
        return features

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        """Load the weights, all of them: an encoder with some random layers is of no use."""
        return super()._load_as_safetensor(model, model_file, map_location, True)


def hub_config(config: PretrainConfig, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `HubEncoder` for the encoder of a run, as values of JSON.

    Args:
        config: of the run.
        inputs: the preprocessing, see `fastclr.transfer.export.preprocessing`.

    Raises:
        ValueError: the encoder is one of the user's own.
    """
    if is_own(config.encoder):
        raise ValueError(
            f"format hub is for encoders that have a name, got {config.encoder!r}: use the format pt2 or onnx"
        )
    shape = {name: getattr(config, name) for name in ("encoder", "width", "stem", "patch_size", "norm")}
    return shape | {"size": config.augment.size, "channels": config.augment.channels, "preprocessing": inputs}

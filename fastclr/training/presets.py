"""Known-good starting configurations: `fastclr pretrain --preset NAME`. See docs/recipes.md."""

from __future__ import annotations

import dataclasses

from fastclr.augment import AugmentConfig
from fastclr.augment.images import MAX_CHANNELS
from fastclr.methods import SimCLROptions
from fastclr.methods.own_encoder import is_own
from fastclr.training.config import PretrainConfig
from fastclr.training.method_presets import method_presets

# Tuned by trial on `shapes`, for two CPU cores and less than three minutes, evaluations and baselines included.
_DEMO = PretrainConfig(
    data="shapes",
    width=0.25,
    stem="imagenet",
    head_dim=64,
    head_bn=False,
    augment=AugmentConfig(32, crop_scale=(0.5, 1.0), blur_p=0.0),
    options=SimCLROptions(temperature=0.2),
    epochs=30,
    lr=0.5,
    weight_decay=1e-4,
    warmup_epochs=2,
    knn_every=10,
)


# dkobak/simclr-cifar10, README and simclr-cifar10.py: 90.3 +- 0.3 kNN after 500 epochs, 91.9 linear after 1000.
_CIFAR10 = PretrainConfig(
    encoder="resnet18",  # the source has ResNet-18, -34 and -50
    stem="cifar",  # first convolution and pooling replaced, as in Chen et al. 2020, B.9
    head_layers=2,  # 512 -> 1024 -> ReLU -> 128, without batch norm
    head_hidden=1024,
    head_dim=128,
    head_bn=False,
    # random crop 0.2-1, colour jitter 0.4/0.4/0.4/0.1 with p 0.8, grey 0.1, no blur, no normalisation
    augment=AugmentConfig(32, crop_scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), gray_p=0.1, blur_p=0.0),
    options=SimCLROptions(temperature=0.5),
    epochs=500,
    batch_size=512,
    optimizer="sgd",
    lr=0.03,  # 0.03 B / 256, as in SimSiam (Chen and He 2021, appendix D); cosine, no warm-up
    lr_scaling="linear",
    momentum=0.9,
    weight_decay=5e-4,  # applied to every parameter
    warmup_epochs=0.0,
    knn_every=25,
    knn_k=10,  # the source's kNN: k 10, cosine, unweighted votes
    knn_temperature=None,
)


# Chen et al. 2020, section 2.3 (default setting) and appendix B.1; the rest are google-research/simclr's defaults.
_IMAGENET = PretrainConfig(
    encoder="resnet50",
    stem="imagenet",
    head_layers=2,  # 2048 -> 2048 -> ReLU -> 128, batch norm after both (model_util.projection_head)
    head_hidden=None,
    head_dim=128,
    head_bn=True,
    augment=AugmentConfig.imagenet(224),  # appendix A: crop 0.08-1, colour strength 1, grey 0.2, blur with p 0.5
    options=SimCLROptions(temperature=0.1),
    epochs=100,
    batch_size=4096,
    optimizer="lars",
    # Table B.1: on a par with 0.3 B / 256 at 4096 (64.5 and 64.6%), and far better below (62.8 and 57.5% at 256)
    lr=0.075,
    lr_scaling="sqrt",
    momentum=0.9,
    weight_decay=1e-6,
    warmup_epochs=10.0,
    knn_every=10,
    knn_k=200,  # the paper reports no kNN: these are lightly's values, close to Wu et al. 2018 (200 and 0.07)
    knn_temperature=0.1,
)


# Chen et al. 2020b (SimCLR v2), section 3.1, without its momentum memory: with ResNet-50 the authors got 71.1% linear
# without and 71.7% with the memory (google-research/simclr, issue 77). The paper's largest model is
# --encoder simclr_skresnet152 --width 3.
_SIMCLR_V2 = dataclasses.replace(
    _IMAGENET,
    head_layers=3,
    epochs=800,
    lr=0.1,  # 0.1 sqrt(B)
    weight_decay=1e-4,
    warmup_epochs=0.0,
    warmup_share=0.05,
)
PRESETS: dict[str, PretrainConfig] = {
    "demo": _DEMO,
    "cifar10": _CIFAR10,
    # the same source: 83.2 kNN, 85.6 linear; short runs do better at twice the rate
    "cifar10-short": dataclasses.replace(_CIFAR10, epochs=100, lr=0.06),
    "imagenet-100ep": _IMAGENET,  # 64.5% linear
    "imagenet-1000ep": dataclasses.replace(_IMAGENET, epochs=1000),  # 69.3% linear
    "imagenet": _IMAGENET,
    "simclr-v2": _SIMCLR_V2,
    **method_presets(_DEMO, _CIFAR10, _IMAGENET),
}


def for_channels(base: PretrainConfig, channels: object) -> PretrainConfig:
    """Return `base` for images of so many channels, without what needs colours unless there are three.

    What is no number of channels changes nothing: it will be named with all that is wrong.
    """
    text = str(channels)
    if not text.isdecimal() or not 1 <= int(text) <= MAX_CHANNELS:
        return base
    return dataclasses.replace(base, augment=base.augment.with_channels(int(text)))


def for_encoder(base: PretrainConfig, encoder: str) -> PretrainConfig:
    """Return `base` without the width, stem, norm and patches of its encoder if `encoder` is the user's own."""
    return dataclasses.replace(base, width=1.0, stem="auto", patch_size=None, norm="batch") if is_own(encoder) else base

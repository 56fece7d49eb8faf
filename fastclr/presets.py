"""Configurations that start from somewhere known: `fastclr pretrain --preset NAME`."""

from __future__ import annotations

from fastclr.augment import AugmentConfig
from fastclr.config import PretrainConfig

# Sources. demo: found by trial on `shapes`, for two CPU cores and a few minutes.
# cifar10: the recipe of dkobak/simclr-cifar10 (ResNet-18, 90.3 kNN after 500 epochs at batch 512).
# imagenet: augmentation, tau, batch and epochs of Chen et al. 2020 (Table B.1, batch 256);
# SGD with lr 0.03 * B / 256 as in MoCo stands where the paper uses LARS.
PRESETS: dict[str, PretrainConfig] = {
    "demo": PretrainConfig(
        data="shapes",
        width=0.25,
        stem="imagenet",
        head_dim=64,
        head_bn=False,
        augment=AugmentConfig(32, crop_scale=(0.5, 1.0), blur_p=0.0),
        temperature=0.2,
        epochs=80,
        lr=0.5,
        weight_decay=1e-4,
        warmup_epochs=2,
        knn_every=10,
    ),
    "cifar10": PretrainConfig(
        augment=AugmentConfig(32, crop_scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), gray_p=0.1, blur_p=0.0),
        head_hidden=1024,
        head_bn=False,
        batch_size=512,
        epochs=500,
        lr=0.06,
        knn_every=25,
        knn_k=10,
        knn_temperature=None,
    ),
    "imagenet": PretrainConfig(
        resize_shorter=256,
        encoder="resnet50",
        augment=AugmentConfig.imagenet(224),
        temperature=0.1,
        batch_size=256,
        epochs=100,
        lr=0.03,
        weight_decay=1e-4,
        warmup_epochs=10,
        knn_every=10,
        knn_k=200,
    ),
}

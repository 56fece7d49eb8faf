"""Presets of the methods beside SimCLR: the values of their papers and reproductions. See docs/methods.md."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastclr.augment import AugmentConfig
from fastclr.augment.recipes import moco_v2
from fastclr.methods import (
    METHODS,
    AutoencoderOptions,
    BarlowTwinsOptions,
    BLIPOptions,
    BYOLOptions,
    CLIPOptions,
    CoCaOptions,
    ContextOptions,
    CPCOptions,
    DCLOptions,
    DINOOptions,
    GANOptions,
    JigsawOptions,
    LeJEPAOptions,
    MethodOptions,
    MoCoOptions,
    MoCoV1Options,
    MoCoV3Options,
    PIRLOptions,
    SigLIPOptions,
    SimSiamOptions,
    SupConOptions,
    VICRegOptions,
)
from fastclr.training.config import PretrainConfig


def with_method(config: PretrainConfig, method: str, **changes: Any) -> PretrainConfig:
    """Return `config` with another method: its default options, the values that its recipe has, and `changes`.

    Raises:
        ValueError: there is no such method, or a value is out of range.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    recipe = dict(METHODS[method].recipe)
    if "augment" in recipe:
        recipe["augment"] = dataclasses.replace(config.augment, **recipe["augment"])
    values = {"method": method, "options": MethodOptions(), **recipe, **changes}
    return dataclasses.replace(config, **values)


# Tuned by trial on `shapes`: small heads, with batch norm where a few epochs are too few to leave the first state, in
# which all embeddings are alike; a fast twin, and no solarisation.
_WORDS: dict[str, Any] = {"text_width": 64, "text_layers": 2}
SHAPES: dict[str, dict[str, Any]] = {
    "dcl": {"options": DCLOptions(temperature=0.2), "lr": 0.2},
    "supcon": {"options": SupConOptions(temperature=0.2), "head_bn": True, "lr": 0.3},
    "moco-v2": {
        "options": MoCoOptions(queue=1024, momentum=0.9, temperature=0.2, bn_splits=4),
        "head_bn": True,
        "lr": 0.1,
    },
    "moco-v3": {
        "options": MoCoV3Options(momentum=0.9, predictor_hidden=128, second_solarize_p=0.0),
        "head_hidden": 128,
        "lr": 0.3,
    },
    "cpc": {
        # with colours or small crops, the patches are told apart by what tells nothing of their shapes
        "augment": AugmentConfig(32, crop_scale=(0.8, 1.0), jitter_p=0.0, gray_p=1.0, blur_p=0.0),
        "options": CPCOptions(grid=3, steps=1, context=64, depth=1, temperature=0.1, normalize=True),
        "lr": 5e-3,
        "weight_decay": 0.01,
    },
    # the softmax: in so few epochs noise-contrastive estimation still follows the bank, which fills with similar rows
    "pirl": {"options": PIRLOptions(loss="info-nce", negatives=512, temperature=0.2, grid=2), "lr": 0.3},
    "byol": {
        "options": BYOLOptions(momentum=0.9, predictor_hidden=128, second_solarize_p=0.0),
        "head_hidden": 128,
        "lr": 0.3,
    },
    "simsiam": {"options": SimSiamOptions(predictor_hidden=32), "head_hidden": 128, "head_dim": 128, "lr": 0.2},
    "barlow": {
        "options": BarlowTwinsOptions(redundancy=1 / 64, second_solarize_p=0.0),
        "head_hidden": 128,
        "lr": 0.3,
    },
    "vicreg": {"options": VICRegOptions(second_solarize_p=0.0), "head_hidden": 128, "lr": 0.1},
    "lejepa": {"options": LeJEPAOptions(views=4), "head_hidden": 128, "head_dim": 16, "weight_decay": 0.05},
    "dino": {
        "options": DINOOptions(
            prototypes=128, momentum=0.95, local_views=2, crop_split=0.5, local_least=0.2, second_solarize_p=0.0
        ),
        "head_hidden": 128,
        "head_last_bn": "plain",
        "lr": 0.3,
    },
    # no rotation: the shapes have no up
    "jigsaw": {"options": JigsawOptions(grid=2, permutations=24), "lr": 0.125},
    "context": {"options": ContextOptions(hidden=256), "lr": 0.1},
    "autoencoder": {"options": AutoencoderOptions(decoder_width=8), "lr": 2e-3, "weight_decay": 0.01},
    "gan": {"options": GANOptions(generator_width=8, discriminator_width=8, hidden=64), "lr": 1e-3},
    "clip": {"options": CLIPOptions(**_WORDS), "lr": 2e-3, "weight_decay": 0.1},
    "siglip": {"options": SigLIPOptions(bias=-5.5, **_WORDS), "lr": 2e-3, "weight_decay": 0.1},
    "blip-itc": {
        "options": BLIPOptions(queue=1024, momentum=0.95, alpha=0.2, **_WORDS),
        "lr": 2e-3,
        "weight_decay": 0.1,
    },
    "coca": {"options": CoCaOptions(decoder_layers=1, caption=0.5, **_WORDS), "lr": 2e-3, "weight_decay": 0.1},
}

# lightly's benchmarks on CIFAR-10 (docs, cifar10_benchmark.py): SGD 0.06 B/128, decay 5e-4, no blur, kNN with 200
# neighbours at 0.1; 800 epochs at 512 images. Where it has none, what is noted.
_LIGHTLY: dict[str, Any] = {
    "augment": AugmentConfig.cifar(32),
    "epochs": 800,
    "batch_size": 512,
    "lr": 0.12,
    "lr_scaling": "linear",
    "knn_k": 200,
    "knn_temperature": 0.1,
}
CIFAR10: dict[str, dict[str, Any]] = {
    "dcl": {**_LIGHTLY, "head_hidden": 512, "head_bn": True, "options": DCLOptions(temperature=0.1)},  # 87.4 kNN
    # SupContrast, README: 0.5 at 1024 images, warm-up of 10 epochs, decay 1e-4, its ResNet-50 96.0 linear; 0.18 as its
    # code multiplies the loss by 0.1 / 0.07; the decay is not divided by that
    "supcon": {
        **_LIGHTLY,
        "augment": AugmentConfig(32, crop_scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), blur_p=0.0),
        "epochs": 1000,
        "batch_size": 1024,
        "lr": 0.18,
        "warmup_epochs": 10.0,
    },
    # facebookresearch/moco, notebook for CIFAR-10: 0.06 at 512 images, batch norm in 8 parts; 82.6 kNN after 200 epochs
    "moco-v1": {
        **_LIGHTLY,
        "epochs": 200,
        "lr": 0.03,
        "options": MoCoV1Options(temperature=0.1, bn_splits=8),
    },
    # the same, with the head of v2 and both views as queries, with which the notebook has 85.3 kNN after 200 epochs. It
    # adds the losses of both, of which the mean is taken here: twice the rate and half the decay are the same step
    "moco-v2": {
        **_LIGHTLY,
        "epochs": 200,
        "lr": 0.06,
        "weight_decay": 2.5e-4,
        "options": MoCoOptions(symmetric=True, bn_splits=8),
    },
    "moco-v3": {**_LIGHTLY, "options": MoCoV3Options(second_solarize_p=0.0)},  # networks and rate of BYOL: unpublished
    # Lightning Bolts, cpc_module.py: 100 epochs, 2e-4 at 128 images, with a ResNet-101; no score is published
    "cpc": {**_LIGHTLY, "epochs": 100, "batch_size": 128, "lr": 2e-4, "lr_scaling": "none", "weight_decay": 1e-6},
    # constants and rate of ImageNet with patches of 12 px: unpublished
    "pirl": {**_LIGHTLY, "lr": 0.03, "weight_decay": 1e-4, "options": PIRLOptions(negatives=8192, grid=2)},
    # 91.0 kNN, with a constant momentum; its loss is a quarter of ours: a quarter of the rate and four times the decay
    "byol": {**_LIGHTLY, "lr": 0.03, "weight_decay": 2e-3, "options": BYOLOptions(second_solarize_p=0.0)},
    # Chen and He 2021, appendix D: 0.03 B/256, decay 5e-4, 800 epochs: 91.8 linear; lightly: 90.4 kNN
    "simsiam": {
        **_LIGHTLY,
        "augment": AugmentConfig(32, crop_scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), blur_p=0.0),
        "lr": 0.03,
    },
    "barlow": {**_LIGHTLY, "options": BarlowTwinsOptions(second_solarize_p=0.0)},  # 85.9 kNN
    # views of solo-learn's (crops of at least a fifth, solarisation 0.1), rate of Barlow Twins: unpublished
    "vicreg": {
        **_LIGHTLY,
        "augment": AugmentConfig(32, crop_scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), blur_p=0.0),
        "options": VICRegOptions(second_solarize_p=0.1),
    },
}

# RotNet (gidariss/FeatureLearningRotNet, CIFAR10_RotNet_NIN4blocks): 200 epochs, SGD 0.1 at 128 images with Nesterov,
# decay 5e-4; its rate falls in steps, its network is a NIN, and it shifts images by up to 4 px, here crops of 0.6 to 1
CIFAR10["rotation"] = {
    "augment": AugmentConfig(32, crop_scale=(0.6, 1.0), jitter_p=0.0, gray_p=0.0, blur_p=0.0),
    "epochs": 200,
    "batch_size": 128,
    "nesterov": True,
}
# lightly, cifar10_benchmark.py: 2048 prototypes, momentum 0.99, two views of crops of 0.4 to 1 and no small ones: 88.4
# kNN, with a constant momentum
CIFAR10["dino"] = {
    **_LIGHTLY,
    "augment": AugmentConfig(32, crop_scale=(0.4, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), blur_p=0.0),
    "options": DINOOptions(prototypes=2048, momentum=0.99, local_views=0, temperature_epochs=0),
}
# Unpublished: the tasks with RotNet's crops and epochs and the rates of their recipes, a puzzle of 2 x 2 patches of 12
# px; the autoencoder and the GAN with the usual rates of AdamW; LeJEPA with 4 views and lightly's epochs
_TASK: dict[str, Any] = {"augment": CIFAR10["rotation"]["augment"], "epochs": 200, "batch_size": 256}
CIFAR10 |= {
    "jigsaw": {**_TASK, "options": JigsawOptions(grid=2, permutations=24)},
    "context": _TASK,
    "autoencoder": _TASK,
    "gan": _TASK,
    "lejepa": {"augment": AugmentConfig.cifar(32), "epochs": 800, "batch_size": 256, "options": LeJEPAOptions(views=4)},
}

# vissl's ResNet-50 for the pretext tasks: 105 epochs at 256 images, a rate in steps, here a cosine
_PRETEXT: dict[str, Any] = {"epochs": 105, "batch_size": 256, "warmup_epochs": 0.0, "weight_decay": 1e-4}
_PLAIN: dict[str, Any] = {"jitter_p": 0.0, "gray_p": 0.0, "blur_p": 0.0}

# BYOL's pair (appendix B): the first view is always blurred, the second rarely, and sometimes solarised
_BYOL_VIEW = AugmentConfig(224, jitter=(0.4, 0.4, 0.2, 0.1), blur_p=1.0)
_MOCO = {"augment": moco_v2(224), "epochs": 200, "batch_size": 256, "lr": 0.03, "weight_decay": 1e-4}
_LARS: dict[str, Any] = {"optimizer": "lars", "lr_scaling": "linear", "weight_decay": 1e-6, "warmup_epochs": 10.0}
IMAGENET: dict[str, dict[str, Any]] = {
    # lightly, benchmarks/imagenet/resnet50: SimCLR's recipe at 256 images: 65.1 linear
    "dcl": {"options": DCLOptions(temperature=0.1), "batch_size": 256},
    "rotation": {"augment": AugmentConfig(224, **_PLAIN), **_PRETEXT, "lr": 0.1},  # vissl: 48.2 linear
    # vissl, 100 permutations: 48.57 linear; patches of 64 px from cells of 85. It crops 255 px of a shorter side of
    # 256, here about the same of photographs of 4 to 3
    "jigsaw": {
        "augment": AugmentConfig(255, crop_scale=(0.66, 0.75), crop_ratio=(1.0, 1.0), **_PLAIN),
        "options": JigsawOptions(permutations=100, patch=64 / 85),
        "head_dim": 1000,
        **_PRETEXT,
        "warmup_epochs": 5.0,
    },
    # mmselfsup, relative-loc_resnet50_8xb64-steplr-70e: 39.7 linear; without batch norm and dropout in the classifier,
    # and its decay of 5e-4. It crops 255 px of a shorter side of 292, here as much of photographs of 4 to 3
    "context": {
        "augment": AugmentConfig(255, crop_scale=(0.57, 0.57), crop_ratio=(1.0, 1.0), flip_p=0.0, **_PLAIN),
        "options": ContextOptions(hidden=4096),
        **_PRETEXT,
        "epochs": 70,
        "batch_size": 512,
        "warmup_epochs": 5.0,
    },
    # facebookresearch/moco, README: 60.6 and 67.5 linear. Cosine for both; the code of v1 divides by 10 at 120 and 160
    "moco-v1": {
        **_MOCO,
        "augment": AugmentConfig(224, crop_scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.4), jitter_p=1.0, blur_p=0.0),
        "options": MoCoV1Options(momentum=0.999, queue=65536),
        "sync_bn": False,  # batch norm of each process alone, keys shuffled among them
        "warmup_epochs": 0.0,
    },
    "moco-v2": {
        **_MOCO,
        "options": MoCoOptions(temperature=0.2, momentum=0.999, queue=65536),
        "sync_bn": False,
        "warmup_epochs": 0.0,
    },
    # facebookresearch/moco-v3, ResNet-50, 100 epochs: 68.9 linear
    "moco-v3": {
        **_LARS,
        "augment": dataclasses.replace(_BYOL_VIEW, crop_scale=(0.2, 1.0)),
        "options": MoCoV3Options(temperature=1.0, momentum=0.99, predictor_hidden=4096, second_blur_p=0.1),
        "head_hidden": 4096,
        "epochs": 100,
        "batch_size": 4096,
        "lr": 0.6,
    },
    # facebookresearch/vissl, pirl_jigsaw_4node_resnet50.yaml without its photometric step: 64.3 linear (paper: 63.6)
    "pirl": {
        "augment": AugmentConfig(224, jitter=(0.4, 0.4, 0.4, 0.2), jitter_p=1.0, blur_p=0.0),
        "options": PIRLOptions(negatives=32000),
        "epochs": 800,
        "batch_size": 1024,
        "lr": 0.03,
        "warmup_epochs": 0.0,
    },
    # deepmind-research/byol, 1000 epochs: 74.4 linear
    "byol": {
        **_LARS,
        "augment": _BYOL_VIEW,
        "options": BYOLOptions(momentum=0.996, predictor_hidden=4096, second_blur_p=0.1),
        "head_hidden": 4096,
        "epochs": 1000,
        "batch_size": 4096,
        "lr": 0.2,
        "weight_decay": 1.5e-6,
    },
    # facebookresearch/simsiam, README: 68.1 linear
    "simsiam": {
        "augment": moco_v2(224),
        "options": SimSiamOptions(predictor_hidden=512),
        "head_layers": 3,
        "epochs": 100,
        "batch_size": 512,
        "lr": 0.05,
        "weight_decay": 1e-4,
        "warmup_epochs": 0.0,
    },
    # facebookresearch/barlowtwins, README and main.py: 73.5 linear. Its rate of biases is 0.024 of the weights', on 16
    # GPUs by which its all_reduce divides the gradient
    "barlow": {
        **_LARS,
        "augment": _BYOL_VIEW,
        "options": BarlowTwinsOptions(redundancy=0.0051, bias_rate=0.024 / 16, second_blur_p=0.1),
        "head_layers": 3,
        "head_hidden": 8192,
        "head_dim": 8192,
        "epochs": 1000,
        "batch_size": 2048,
        "lr": 0.2,
    },
    # facebookresearch/dino, README and the defaults of main_dino.py, ViT-S/16: 69.3 kNN, 73.8 linear. It clips the
    # gradient of each parameter to 3, here that of all; no stochastic depth
    "dino": {
        "encoder": "vit_small_patch16_224",
        "augment": _BYOL_VIEW,
        "options": DINOOptions(prototypes=65536, momentum=0.996, second_blur_p=0.1, local_blur_p=0.5),
        "head_layers": 3,
        "head_bn": False,
        "epochs": 100,
        "batch_size": 512,
        "optimizer": "adamw",
        "lr": 5e-4,
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "clip_grad": 3.0,
        "warmup_epochs": 10.0,
    },
    # facebookresearch/vicreg, README: 73.2 linear
    "vicreg": {
        **_LARS,
        "augment": _BYOL_VIEW,
        "options": VICRegOptions(second_blur_p=0.1),
        "head_hidden": 8192,
        "head_dim": 8192,
        "epochs": 1000,
        "batch_size": 2048,
        "lr": 0.2,
    },
}


# Huang et al., PLIP, 2023: CLIP ViT-B/32 of OpenAI fine-tuned on pairs of pathology, from photos of 512 px. Its code
# has AdamW at 5e-5 with decay 0.2 and fp16 weights; 1e-5, the advice for fine-tuning CLIP (openai/CLIP, issues 83 and
# 150), keeps more of it. Flips, since tissue has no up. --init names the weights, of open_clip or of transformers.
PLIP: dict[str, Any] = {
    "encoder": "vit_base_patch32_clip_quickgelu_224",
    "options": CLIPOptions(
        tokenizer="open_clip", text_width=512, text_layers=12, text_heads=8, quick_gelu=True, temperature=0.01
    ),
    "augment": AugmentConfig(
        224,
        crop_scale=(0.2, 1.0),
        jitter_p=0.0,
        gray_p=0.0,
        blur_p=0.0,
        mean=(0.48145466, 0.4578275, 0.40821073),  # CLIP's
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
    "head_dim": 512,
    "resize_shorter": 512,
    "epochs": 5,
    "batch_size": 128,
    "lr": 1e-5,
    "lr_scaling": "none",
    "weight_decay": 0.1,
    "warmup_epochs": 0.0,
    "warmup_share": 0.05,
}


def method_presets(
    shapes: PretrainConfig, cifar10: PretrainConfig, imagenet: PretrainConfig
) -> dict[str, PretrainConfig]:
    """Return the presets of all methods, called after images and method, such as ``cifar10-byol``.

    Args:
        shapes: SimCLR's preset for the built-in shapes; the methods share its encoder, images and evaluation.
        cifar10: likewise for CIFAR-10.
        imagenet: likewise for ImageNet.
    """
    tables: dict[str, tuple[PretrainConfig, dict[str, Any], dict[str, dict[str, Any]]]] = {
        "shapes": (shapes, {"head_dim": 64, "lr_scaling": "none", "weight_decay": 1e-4}, SHAPES),
        "cifar10": (cifar10, {}, CIFAR10),
        "imagenet": (imagenet, {}, IMAGENET),
    }
    found = {
        f"{images}-{method}": with_method(base, method, **{**shared, **values})
        for images, (base, shared, table) in tables.items()
        for method, values in table.items()
    }
    return {**found, "plip": with_method(imagenet, "clip", **PLIP)}

"""The sampler: identical bits everywhere, and torchvision's distributions."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision import transforms

from fastclr.augment import AugmentConfig, AugmentParams, SimCLRAugment

CONFIG = AugmentConfig(64, solarize_p=0.2)
DRAWS = 100_000


def draw(
    config: AugmentConfig, ids: Tensor, sizes: Tensor | tuple[int, int], epoch: int = 0, **kwargs: object
) -> Tensor:
    """Packed parameters of a fresh module."""
    return SimCLRAugment(config, **kwargs).params(ids, epoch, sizes).packed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        AugmentConfig.cifar(),
        AugmentConfig(8, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), jitter=(0, 0, 0, 0)),
        AugmentConfig(100, crop_ratio=(1e-3, 1e3), jitter=(3.0, 0.0, 1.5, 0.5), flip_p=1.0, gray_p=0.0),
        AugmentConfig(40, crop_ratio=(3.0, 4.0), jitter_p=1.0, blur_p=1.0, blur_sigma=(0.5, 0.5)),
        AugmentConfig(40, style="simclr_tf"),
        AugmentConfig(40, style="simclr_tf", brightness="additive", blur_sigma_per_batch=True, crop_scale=(0.3, 0.31)),
    ],
)
def test_three_samplers_agree(config: AugmentConfig) -> None:
    """C++ operator, pybind11 module and NumPy agree bitwise for large ids, seeds, epochs and odd sizes."""
    host = pytest.importorskip("fastclr._host", reason="the pybind11 module is not built")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 2**63 - 1, (3000,), generator=generator)
    sizes = torch.cat([torch.randint(1, 600, (2900, 2), generator=generator), torch.randint(1, 2**24, (100, 2))])
    for seed, epoch in ((0, 0), (2**63 - 1, 2**32 - 1), (2**40 + 17, 5)):
        native = draw(config, ids, sizes, epoch, views=3, seed=seed, impl="native")
        reference = draw(config, ids, sizes, epoch, views=3, seed=seed, impl="reference")
        bound = host.augment_params(ids.numpy(), sizes.numpy(), seed, epoch, 0, 3, config.size, **config.sampler())
        assert torch.equal(native, reference)
        assert np.array_equal(native.numpy(), bound)


def test_a_function_of_id_alone() -> None:
    """Batch, order, number of views and threads change nothing; seed, epoch, id and view change everything."""
    ids, sizes = torch.arange(500) * 7, torch.randint(20, 300, (500, 2))
    whole = draw(CONFIG, ids, sizes, 3, seed=5)
    shuffled = torch.randperm(500)
    assert torch.equal(draw(CONFIG, ids[shuffled], sizes[shuffled], 3, seed=5), whole[:, shuffled])
    assert torch.equal(draw(CONFIG, ids[41:42], sizes[41:42], 3, seed=5), whole[:, 41:42])
    assert torch.equal(draw(CONFIG, ids, sizes, 3, seed=5, views=4)[:2], whole)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert torch.equal(draw(CONFIG, ids, sizes, 3, seed=5), whole)
    torch.set_num_threads(threads)
    for other in (draw(CONFIG, ids, sizes, 4, seed=5), draw(CONFIG, ids, sizes, 3, seed=6), whole.flip(0)):
        for columns in (slice(0, 4), slice(5, 9), slice(9, 10), slice(11, 12)):
            # these are sometimes equal by chance: the crop of a narrow image, no jitter, no blur
            assert float((other[..., columns] == whole[..., columns]).all(-1).float().mean()) < 0.4


@pytest.mark.parametrize("size", [(375, 500), (400, 20), (32, 32)])
def test_boxes_follow_torchvision(size: tuple[int, int]) -> None:
    """Kolmogorov-Smirnov against RandomResizedCrop.get_params, including the fallback for narrow images."""
    boxes = draw(CONFIG, torch.arange(DRAWS), size, seed=1, views=1)[0, :, :4].double().numpy()
    torch.manual_seed(1)
    image = torch.empty(3, *size)
    scale, ratio = list(CONFIG.crop_scale), list(CONFIG.crop_ratio)
    theirs = np.array([transforms.RandomResizedCrop.get_params(image, scale, ratio) for _ in range(DRAWS // 4)])
    for ours, other in ((boxes, theirs), (boxes[:, 2:3] * boxes[:, 3:4], theirs[:, 2:3] * theirs[:, 3:4])):
        for column in range(ours.shape[1]):
            assert stats.ks_2samp(ours[:, column], other[:, column]).pvalue > 1e-3
    ratio_test = stats.ks_2samp(boxes[:, 3] / boxes[:, 2], theirs[:, 3] / theirs[:, 2])
    assert ratio_test.pvalue > 1e-3
    assert abs(boxes[:, 2:4].prod(1).mean() / theirs[:, 2:4].prod(1).mean() - 1) < 0.02


def test_colour_follows_torchvision() -> None:
    """Factors against ColorJitter.get_params, orders and coins against their probabilities."""
    params = SimCLRAugment(dataclasses.replace(CONFIG, blur_p=0.4), views=1, seed=3).params(
        torch.arange(DRAWS), 9, (64, 64)
    )
    jitter = params.order[0, :, 0] >= 0
    torch.manual_seed(2)
    ranges = ([0.2, 1.8], [0.2, 1.8], [0.2, 1.8], [-0.2, 0.2])
    theirs = np.array([transforms.ColorJitter.get_params(*ranges)[1:] for _ in range(DRAWS // 4)])
    for column, ours in enumerate((params.brightness, params.contrast, params.saturation, params.hue)):
        assert stats.ks_2samp(ours[0, jitter].numpy(), theirs[:, column]).pvalue > 1e-3
    counts = np.bincount(params.packed[0, jitter, 9].long().numpy(), minlength=24)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3
    coins = (
        (params.flip, 0.5),
        (jitter, 0.8),
        (params.gray, 0.2),
        (params.blur_sigma > 0, 0.4),
        (params.solarize, 0.2),
    )
    for coin, p in coins:
        assert stats.binomtest(int(coin.sum()), DRAWS, p).pvalue > 1e-3
    sigma = params.blur_sigma[params.blur_sigma > 0].numpy()
    assert stats.kstest(sigma, stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3


def test_draws_are_independent() -> None:
    """No correlation between columns, between views, between neighbouring ids or between epochs."""
    augment = SimCLRAugment(dataclasses.replace(CONFIG, jitter_p=1.0, blur_p=1.0), views=2)
    first, second = (augment.params(torch.arange(20_000), epoch, (400, 400)).packed.double() for epoch in (0, 1))
    columns = [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    everything = torch.cat([first[0], first[1], first[0].roll(1, 0), second[0]], 1)
    keep = [16 * block + column for block in range(4) for column in columns]
    correlation = torch.corrcoef(everything[:, keep].T).fill_diagonal_(0.0)
    for block in range(4):  # top, left, height share the size of one box
        correlation[12 * block : 12 * block + 3, 12 * block : 12 * block + 3] = 0.0
    assert float(correlation.abs().max()) < 5 / math.sqrt(20_000)


def test_small_views_have_no_blur() -> None:
    assert not draw(AugmentConfig(19, blur_p=1.0), torch.arange(50), (40, 40))[..., 11].any()
    assert (draw(AugmentConfig(20, blur_p=1.0), torch.arange(50), (40, 40))[..., 11] >= 0.1).all()


def test_params_print_save_and_load(tmp_path: Path) -> None:
    params = SimCLRAugment(CONFIG).params(torch.arange(12), 0, (80, 90))
    params.save(tmp_path / "params.pt")
    assert torch.equal(AugmentParams.load(tmp_path / "params.pt").packed, params.packed)
    assert repr(params) == "AugmentParams(views=2, images=12, device='cpu')"
    table = str(params).splitlines()
    assert len(table) == 2 + 2 * 8 + 1
    assert "4 more images" in table[-1]
    order = params.order[0, 0].tolist()
    assert ("".join("bcsh"[op] for op in order) if order[0] >= 0 else "-") == table[2].split()[11]
    torch.save({"other": 1}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="does not contain augmentation parameters"):
        AugmentParams.load(tmp_path / "other.pt")
    for content in (b"", b"no parameters", (tmp_path / "params.pt").read_bytes()[:-50]):
        (tmp_path / "other.pt").write_bytes(content)
        with pytest.raises(ValueError, match="does not contain augmentation parameters"):
            AugmentParams.load(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size must be an integer from 1 to 16384, got 0"),
        ({"size": 32.0}, "size must be an integer"),
        ({"crop_scale": (0.5, 0.1)}, r"crop_scale must be lo <= hi in \[1e-06, 1\], got \(0.5, 0.1\)"),
        ({"crop_scale": (0.5, 1.1)}, "crop_scale must be"),
        ({"crop_ratio": (0.0, 1.0)}, "crop_ratio must be"),
        ({"crop_ratio": [0.5, 1.0]}, "crop_ratio must be a tuple of 2 finite numbers"),
        ({"blur_sigma": (0.1, math.nan)}, "blur_sigma must be a tuple of 2 finite numbers"),
        ({"flip_p": 1.5}, "flip_p must be a probability from 0 to 1, got 1.5"),
        ({"gray_p": math.nan}, "gray_p must be a probability"),
        ({"jitter": (0.1, 0.1, 0.1, 0.6)}, "hue"),
        ({"jitter": (-0.1, 0.1, 0.1, 0.1)}, "jitter must be strengths from 0 to 100"),
        ({"jitter": (0.1, 0.1, 0.1)}, "jitter must be a tuple of 4 finite numbers"),
        ({"mean": (0.5, 0.5, 0.5)}, "mean and std must be given together"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.0, 0.5)}, "std must be positive"),
        ({"style": "pil"}, "style must be 'torchvision' or 'simclr_tf', got 'pil'"),
        ({"brightness": "additive"}, "brightness must be 'multiplicative' in style 'torchvision'"),
        ({"style": "simclr_tf", "brightness": "v1"}, "brightness must be 'multiplicative' or 'additive' in style"),
        ({"style": "simclr_tf", "jitter": (2.0, 1.5, 1.0, 0.1)}, "contrast and saturation must be at most 1 in style"),
        ({"min_object_covered": 1.5}, "min_object_covered must be a probability from 0 to 1, got 1.5"),
        ({"blur_sigma_per_batch": 1}, "blur_sigma_per_batch must be True or False, got 1"),
    ],
)
def test_config_refuses(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ids", "epoch", "sizes", "error", "message"),
    [
        (torch.arange(3.0), 0, (8, 8), TypeError, "ids must be an int64 tensor, got torch.float32"),
        (torch.arange(4).view(2, 2), 0, (8, 8), ValueError, r"ids must be \[N\], got shape \(2, 2\)"),
        (torch.arange(0), 0, torch.ones(0, 2).long(), ValueError, "ids is empty"),
        (torch.tensor([1, -2]), 0, (8, 8), ValueError, "ids must not be negative, got -2"),
        (torch.arange(3), -1, (8, 8), ValueError, "epoch must be 0 to 2.32 - 1, got -1"),
        (torch.arange(3), 2**32, (8, 8), ValueError, "epoch must be 0 to 2.32 - 1"),
        (torch.arange(3), 0, torch.ones(2, 2).long(), ValueError, "3 ids for 2 images"),
        (torch.arange(3), 0, torch.ones(3, 3).long(), ValueError, r"sizes must be \[N, 2\]"),
        (torch.arange(3), 0, torch.ones(3, 2), TypeError, "sizes must be int64, got torch.float32"),
        (torch.arange(3), 0, (0, 8), ValueError, "sizes must be 1 to 2.24 pixels, got 0 to 8"),
        (torch.arange(3), 0, torch.ones(3, 2, device="meta").long(), ValueError, "ids is on cpu, expected meta"),
    ],
)
def test_params_refuses(
    ids: Tensor, epoch: int, sizes: Tensor | tuple[int, int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        SimCLRAugment(CONFIG).params(ids, epoch, sizes)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"config": "cifar"}, TypeError, "config must be an AugmentConfig, a size, or one .* per view, got 'cifar'"),
        ({"config": []}, TypeError, r"config must be .* got \[\]"),
        ({"config": [CONFIG, 32]}, TypeError, "config must have an AugmentConfig per view, got int"),
        (
            {"config": [CONFIG, AugmentConfig(32)]},
            ValueError,
            "all views must have the same size, got 64 and 32",
        ),
        ({"config": [CONFIG] * 3, "views": 2}, ValueError, "views must equal the number of configurations, 3, got 2"),
        ({"views": 3, "first_view": 65534}, ValueError, "first_view must be 0 to 65533 for 3 views, got 65534"),
        ({"views": 0}, ValueError, "views must be 1 to 65536, got 0"),
        ({"seed": -1}, ValueError, "seed must be 0 to 2.63 - 1, got -1"),
        ({"dtype": torch.float64}, TypeError, "dtype must be one of torch.float32, .* got torch.float64"),
        ({"impl": "cuda"}, ValueError, "impl must be one of auto, native, reference, got 'cuda'"),
    ],
)
def test_module_refuses(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SimCLRAugment(**({"config": CONFIG} | arguments))  # type: ignore[arg-type]

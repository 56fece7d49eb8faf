"""CPC: patches that overlap, contexts that see the rows before alone, every direction by hand, and layer norm."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from method_cases import config_of, make_tiny
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.augment import AugmentConfig
from fastclr.data import Batch
from fastclr.methods import METHODS, CPCOptions, Facts
from fastclr.methods.cpc import RowsBefore
from fastclr.methods.encoders import build_encoder
from fastclr.methods.patches import overlapping_patches
from fastclr.transfer.loading_code import fill_path, timm_lines

N, D, G = 3, 8, 5
FACTS = Facts(images=64, labelled=64, classes=4, world_size=1, batch_size=N)
BATCH = Batch(torch.zeros(N, 4, 4, 3, dtype=torch.uint8), torch.arange(N), torch.zeros(N, dtype=torch.long))


def build(**changes: Any) -> Any:
    torch.manual_seed(0)
    return make_tiny(config_of("cpc", **changes), FACTS).double()


def test_patches_overlap_by_half() -> None:
    images = torch.rand(2, 3, 33, 33)
    patches = overlapping_patches(images, 7, 8)
    assert patches.shape == (2, 7, 7, 3, 8, 8)
    for u, v in ((0, 0), (3, 5), (6, 6)):
        assert torch.equal(patches[:, u, v], images[:, :, 4 * u : 4 * u + 8, 4 * v : 4 * v + 8])


def test_a_context_sees_the_rows_before_alone() -> None:
    torch.manual_seed(0)
    network = RowsBefore(D, 16, 2).double()
    z = torch.randn(1, D, G, G, dtype=torch.float64)
    other = z.clone()
    other[:, :, 3] += 1
    change = (network(z) - network(other)).detach().abs().amax(dim=(0, 1, 3))
    assert float(change[:3].max()) == 0.0 and float(change[3:].min()) > 1e-6


# where a direction leads, and where a position lies in the grid that is turned so that it leads downwards
DIRECTIONS = {
    "down": ((1, 0), lambda r, c: (r, c)),
    "up": ((-1, 0), lambda r, c: (G - 1 - r, G - 1 - c)),
    "left": ((0, -1), lambda r, c: (G - 1 - c, r)),
    "right": ((0, 1), lambda r, c: (c, G - 1 - r)),
}


def by_hand(told: Tensor, z: Tensor, options: CPCOptions) -> float:
    """The mean over directions and steps of the mean cross-entropy over every position that leads somewhere."""
    means = []
    for d, ((down, right), turned) in list(enumerate(DIRECTIONS.values()))[: options.directions]:
        for s in range(options.steps):
            k = options.skip + 1 + s
            pairs = [(r, c, r + k * down, c + k * right) for r in range(G) for c in range(G)]
            pairs = [pair for pair in pairs if 0 <= pair[2] < G and 0 <= pair[3] < G]
            keys = torch.stack([z[n, r, c] for n in range(N) for *_, r, c in pairs])
            costs = []
            for n in range(N):
                for index, (r, c, _, _) in enumerate(pairs):
                    query = told[(n, d, s, *turned(r, c))]
                    if options.normalize:
                        query, keys = F.normalize(query, dim=0), F.normalize(keys, dim=1)
                    logits = keys @ query / options.temperature
                    costs.append(float(logits.logsumexp(0) - logits[n * len(pairs) + index]))
            means.append(sum(costs) / len(costs))
    return sum(means) / len(means)


@pytest.mark.parametrize(
    "options",
    [
        CPCOptions(grid=G, steps=2, context=6, depth=1, temperature=2.0),
        CPCOptions(grid=G, steps=3, skip=0, directions=2, context=6, depth=1, normalize=True, temperature=0.1),
        CPCOptions(grid=G, steps=1, skip=3, directions=1, context=6, depth=2),
    ],
)
def test_the_loss_is_cross_entropy_over_the_patches_that_a_step_can_reach(options: CPCOptions) -> None:
    method = build(options=options)
    generator = torch.Generator().manual_seed(1)
    told = torch.randn(N, options.directions, options.steps, G, G, D, generator=generator)
    z = torch.randn(N, G, G, D, generator=generator)
    exact = by_hand(told.double(), z.double(), options)
    loss, sums = method.loss([told, z, z], BATCH, 0, 1)
    assert loss.dtype == torch.float32 and float(loss) == pytest.approx(exact, rel=1e-6)
    assert all(value.dim() == 0 for value in sums.values())
    half, _ = method.loss([told.bfloat16(), z.bfloat16(), z], BATCH, 0, 1)
    assert half.dtype == torch.float32 and float(half) == pytest.approx(exact, rel=2e-2)


def test_predictions_are_those_of_every_direction_and_every_embedding_is_of_its_own_image() -> None:
    method = build(options=CPCOptions(grid=G, steps=2, context=6, depth=1)).eval()
    views = torch.rand(1, N, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        h, (told, z, mean) = method(views)
        apart = [method(views[:, i : i + 1]) for i in range(N)]
        for k, whole in enumerate((told, z, mean)):
            torch.testing.assert_close(whole, torch.cat([each[1][k] for each in apart]))
        patch = views[0, 1:2, :, 10:20, 15:25]  # 32 px, 5 patches: of 10 px, every 5
        torch.testing.assert_close(z[1:2, 2, 3], method.head(method.encoder(patch)))
        assert h.shape == (N, 8) and told.shape == (N, 4, 2, G, G, D)
        for d, (_, turned) in enumerate(DIRECTIONS.values()):
            grid = torch.zeros(N, D, G, G, dtype=torch.float64)
            for r in range(G):
                for c in range(G):
                    grid[(slice(None), slice(None), *turned(r, c))] = z[:, r, c]
            found = method.predictors[d](method.contexts[d](grid)).unflatten(1, (2, D))
            torch.testing.assert_close(told[:, d].permute(0, 1, 4, 2, 3), found)


def test_a_nonlinear_head_sees_every_patch_as_a_row_and_its_batch_norm_is_warned_of() -> None:
    config = config_of("cpc", norm="layer", head="mlp", head_layers=2, head_bn=True, encoder="resnet18", width=0.125)
    with pytest.warns(UserWarning, match="batch norm can leak"):
        method: Any = METHODS["cpc"].build(config, FACTS)
    views = torch.rand(1, N, 3, 32, 32)
    _, (_, z, _) = method.eval()(views)
    grid = method.options.grid
    assert z.shape[:3] == (N, grid, grid)
    patch = overlapping_patches(views[0], grid, method.side)[1, 2, 3][None]
    torch.testing.assert_close(z[1, 2, 3][None], method.head(method.encoder(patch)), rtol=1e-4, atol=1e-5)


def test_layer_norm_takes_the_place_of_batch_norm_and_the_export_says_how(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder: Any = build_encoder("resnet18", width=0.25, size=32, norm="layer").eval()
    assert not [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    x = torch.randn(2, 3, 32, 32)
    first = encoder.conv1(x)
    torch.testing.assert_close(encoder.bn1(first), layer(first))
    for name, stem, size in (("resnet18", "imagenet", 64), ("resnet50", "auto", 32)):
        made = build_encoder(name, width=0.125, stem=stem, size=size, norm="layer")
        lines = timm_lines(made, name, size, width=0.125, norm="layer")
        assert lines is not None and "norm_layer=timm.layers.GroupNorm1" in lines
        assert timm_lines(made, name, size, width=0.125) is None
        save_file(made.state_dict(), tmp_path / name)
        found: dict[str, Any] = {}
        exec(fill_path(lines, tmp_path / name), found)
        x = torch.randn(2, 3, size, size)
        torch.testing.assert_close(found["encoder"](x), made.eval()(x))
    plain = build_encoder("vit_tiny_patch16_224", size=32, patch_size=8)
    assert repr(build_encoder("vit_tiny_patch16_224", size=32, patch_size=8, norm="layer")) == repr(plain)
    for name in ("simclr_skresnet50", "skresnet18", "mobilenetv3_small_050"):
        with pytest.raises(ValueError, match=f"norm must be batch for '{name}', .* got 'layer': pass --norm batch"):
            build_encoder(name, norm="layer")
    with pytest.raises(ValueError, match="norm must be one of"):
        config_of("cpc", norm="group")


def layer(x: Tensor) -> Tensor:
    return (x - x.mean((1, 2, 3), keepdim=True)) / (x.var((1, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()


def test_what_does_not_suit_is_refused_and_batch_norm_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="batch norm can leak: it sees the patches .* Take --norm layer"):
        METHODS["cpc"].build(config_of("cpc", norm="batch"), FACTS)
    with pytest.raises(ValueError, match="CPC needs views of at least 16 px, for patches of 4 px, got 15"):
        build(options=CPCOptions(), augment=AugmentConfig.cifar(15))
    for options in (
        CPCOptions(grid=5, steps=4),
        CPCOptions(directions=3),
        CPCOptions(skip=-1),
        CPCOptions(temperature=math.inf),
    ):
        with pytest.raises(ValueError, match="must be"):
            config_of("cpc", options=options)

"""One configuration per view, and views of several sizes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from scipy import stats

from fastclr.augment import AugmentConfig, SimCLRAugment
from fastclr.augment.recipes import MultiCropAugment, byol, moco_v2, swav

IMAGES = torch.randint(0, 256, (3, 40, 50, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([4, 9, 2**33])


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_a_configuration_per_view(impl: str) -> None:
    """View v of a sequence equals view v of a module that uses that configuration for all views."""
    configs = (*byol(32), AugmentConfig(32, flip_p=1.0, gray_p=1.0))
    augment = SimCLRAugment(configs, seed=3, impl=impl)
    views = augment(IMAGES, IDS, 2)
    assert (augment.views, views.shape) == (3, (3, 3, 3, 32, 32))
    for v, config in enumerate(configs):
        whole = SimCLRAugment(config, views=3, seed=3, impl=impl)(IMAGES, IDS, 2)
        single = SimCLRAugment(config, views=1, seed=3, impl=impl, first_view=v)(IMAGES, IDS, 2)
        assert torch.equal(views[v], whole[v])
        assert torch.equal(views[v], single[0])
    assert torch.equal(augment.apply(IMAGES, augment.params(IDS, 2, (40, 50))), views)
    for clone in (copy.deepcopy(augment), pickle.loads(pickle.dumps(augment))):
        assert torch.equal(clone(IMAGES, IDS, 2), views)
    assert repr(augment).count("AugmentConfig") == 3


def test_byol_views_differ() -> None:
    """The first view is always blurred; the second is blurred in a tenth of the cases and solarised in a fifth."""
    params = SimCLRAugment(byol(32), impl="native").params(torch.arange(5000), 0, (40, 50))
    assert (params.blur_sigma[0] > 0).all()
    assert not params.solarize[0].any()
    assert stats.binomtest(int((params.blur_sigma[1] > 0).sum()), 5000, 0.1).pvalue > 1e-3
    assert stats.binomtest(int(params.solarize[1].sum()), 5000, 0.2).pvalue > 1e-3
    largest = params.saturation.max()
    assert 1.15 < float(largest) <= 1.2
    assert float(SimCLRAugment(moco_v2(32)).params(torch.arange(500), 0, (90, 90)).crop[..., 2:].prod(-1).min()) > 1500


@pytest.mark.parametrize("indices", [None, torch.tensor([2, 0])])
def test_multi_crop(indices: torch.Tensor | None) -> None:
    """One tensor per size; views are numbered across sizes, so no small view repeats the draw of a large one."""
    ids = IDS if indices is None else IDS[indices]
    augment = MultiCropAugment(swav(48, 20, 2, 3), seed=1, dtype=torch.float16, impl="native")
    large, small = augment(IMAGES, ids, 7, indices)
    assert (large.shape, small.shape) == ((2, len(ids), 3, 48, 48), (3, len(ids), 3, 20, 20))
    assert large.dtype == small.dtype == torch.float16
    config = swav(48, 20, 2, 3)[1][0]
    expected = SimCLRAugment(config, views=5, seed=1, dtype=torch.float16, impl="native")(IMAGES, ids, 7, indices)
    assert torch.equal(small, expected[2:])
    crops = [group.params(ids, 7, (40, 50)).crop for group in augment.groups]
    assert float(crops[0][..., 2:].prod(-1).float().max()) > 0.14 * 2000 > float(crops[1][..., 2:].prod(-1).max()) - 60


def test_multi_crop_takes_a_sequence_per_size() -> None:
    augment = MultiCropAugment([byol(32), (AugmentConfig.cifar(20), 1)], impl="native")
    views = augment(IMAGES, IDS, 0)
    assert [tuple(view.shape) for view in views] == [(2, 3, 3, 32, 32), (1, 3, 3, 20, 20)]
    assert torch.equal(views[0], SimCLRAugment(byol(32), impl="native")(IMAGES, IDS, 0))


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ([], ValueError, "groups is empty"),
        ([32], TypeError, r"a group must be \(AugmentConfig, views\) or a sequence of AugmentConfig, got 32"),
        ([(AugmentConfig(32), 0)], ValueError, "views must be 1 to 65536, got 0"),
        ([(AugmentConfig(32), 65536), (AugmentConfig(20), 1)], ValueError, "first_view must be 0 to 65535 for 1 views"),
        ([("cifar", 2)], TypeError, "config must be an AugmentConfig"),
    ],
)
def test_multi_crop_refuses(groups: list[object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MultiCropAugment(groups)  # type: ignore[arg-type]

"""The resident loader and the containers: every id once, and a position is all the state there is."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastclr.augment.images import RaggedImages
from fastclr.data import Batch, ImageDataset, Order, ResidentLoader, stratified
from fastclr.data.order import permutation, raw_bits


def dataset(count: int, ragged: bool = False) -> ImageDataset:
    """Images whose every byte is their row, with ids that are not rows."""
    images: Tensor | RaggedImages = (
        torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 2, 3, 3).clone()
    )
    if ragged:
        heights = torch.arange(count) % 3 + 1
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), (heights * 6).cumsum(0)])
        data = torch.arange(count, dtype=torch.uint8).repeat_interleave(heights * 6)
        images = RaggedImages(data, starts[:-1], torch.stack([heights, torch.full_like(heights, 2)], 1))
    ids = torch.arange(count) * 7 + 5
    return ImageDataset(
        images, ids, torch.arange(count) % 4, ("a", "b", "c", "d"), tuple(map(str, range(count))), "test"
    )


def pixel(images: Tensor | RaggedImages, index: int) -> int:
    """Return the one value of an image."""
    image = images[index] if isinstance(images, Tensor) else images.image(index)
    return int(image.unique().item())


@given(st.integers(1, 60), st.integers(1, 20), st.sampled_from([1, 2, 3, 8]), st.integers(0, 2**64 - 1), st.data())
def test_every_id_once_over_all_ranks(count: int, batch_size: int, world: int, seed: int, data: st.DataObject) -> None:
    """Without dropping every id comes, only the padding of the last step comes twice, and ranks take equal steps."""
    source = dataset(count)
    epoch, start = data.draw(st.integers(0, 1000)), 0
    loaders = [
        ResidentLoader(source, Order(batch_size, seed, drop_last=False, rank=r, world_size=world)) for r in range(world)
    ]
    ids = [[batch.ids.tolist() for batch in loader.epoch(epoch, start)] for loader in loaders]
    assert len({len(steps) for steps in ids}) == 1 and len(ids[0]) == len(loaders[0]) == -(
        -count // (batch_size * world)
    )
    for step in zip(*ids, strict=True):
        assert len({len(part) for part in step}) == 1 and 1 <= len(step[0]) <= batch_size
    seen = sorted(i for steps in ids for step in steps for i in step)
    padding = -count % world if count % (batch_size * world) else 0
    assert set(seen) == set(source.ids.tolist()) and len(seen) == count + padding


@given(st.integers(1, 60), st.integers(1, 20), st.sampled_from([1, 2, 3, 8]), st.integers(0, 2**64 - 1))
def test_ranks_partition_what_one_process_sees(count: int, batch_size: int, world: int, seed: int) -> None:
    """With drop_last, the ranks' shares of a step joined together are the step of a single process."""
    source = dataset(count)
    if count < batch_size * world:
        with pytest.raises(ValueError, match=f"needs {batch_size * world} images"):
            ResidentLoader(source, Order(batch_size, seed, world_size=world))
        return
    whole = ResidentLoader(source, Order(batch_size * world, seed))
    parts = [ResidentLoader(source, Order(batch_size, seed, rank=r, world_size=world)).epoch(3) for r in range(world)]
    steps = 0
    for step, shares in zip(whole.epoch(3), zip(*parts, strict=True), strict=True):
        assert step.ids.tolist() == [i for share in shares for i in share.ids.tolist()]
        steps += 1
    assert steps == len(whole) == count // (batch_size * world)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
def test_images_ids_and_labels_belong_together(ragged: bool, drop_last: bool) -> None:
    """A batch carries the pixels, the id and the label of the same row."""
    source = dataset(23, ragged)
    for batch in ResidentLoader(source, Order(5, drop_last=drop_last)).epoch(0):
        assert isinstance(batch.images, RaggedImages) is ragged
        rows = [pixel(batch.images, i) for i in range(len(batch))]
        assert batch.ids.tolist() == [row * 7 + 5 for row in rows]
        assert batch.labels.tolist() == [row % 4 for row in rows]


@pytest.mark.parametrize("start", range(6))
def test_starting_in_the_middle_gives_the_remaining_batches(start: int) -> None:
    """A second loader that starts at a step continues as the first one would have."""
    source = dataset(23)
    whole = list(ResidentLoader(source, Order(5, seed=4, drop_last=False)).epoch(7))
    rest = list(ResidentLoader(source, Order(5, seed=4, drop_last=False)).epoch(7, start))
    assert len(rest) == 5 - start
    for expected, actual in zip(whole[start:], rest, strict=True):
        assert torch.equal(expected.ids, actual.ids) and torch.equal(expected.images, actual.images)  # type: ignore[arg-type]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    """Equal positions give equal orders; another seed or epoch, or an order without shuffling, differs."""
    source = dataset(50)
    order = [ResidentLoader(source, Order(5, seed=1)).plan.permuted(2).tolist() for _ in range(2)]
    assert order[0] == order[1] != ResidentLoader(source, Order(5, seed=2)).plan.permuted(2).tolist()
    assert order[0] != ResidentLoader(source, Order(5, seed=1)).plan.permuted(3).tolist()
    loader = ResidentLoader(source, Order(5, seed=1))
    list(loader.epoch(9))
    assert loader.plan.permuted(2).tolist() == order[0]
    assert ResidentLoader(source, Order(5, shuffle=False)).plan.permuted(2).tolist() == list(range(50))


def philox(counter: int, seed: int, stream: int) -> list[int]:
    """Philox4x64-10 in Python integers, from the paper of Salmon et al. (2011)."""
    mask, key, block = 2**64 - 1, [seed, stream], [counter, 0, 0, 0]
    for _ in range(10):
        low, high = 0xD2E7470EE14C6C93 * block[0], 0xCA5A826395121157 * block[2]
        block = [high >> 64 ^ block[1] ^ key[0], high & mask, low >> 64 ^ block[3] ^ key[1], low & mask]
        key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
    return block


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_random_words_follow_the_published_generator(seed: int, stream: int) -> None:
    """The order rests on Philox4x64-10 and not on how a version of NumPy or PyTorch shuffles."""
    expected = [word for counter in range(1, 4) for word in philox(counter, seed, stream)]
    assert raw_bits(12, seed, stream).tolist() == expected
    assert permutation(12, seed, stream).tolist() == sorted(range(12), key=expected.__getitem__)


def test_orders_are_uniform() -> None:
    """Over many epochs every image stands at every place about equally often."""
    places = torch.stack([permutation(8, 0, epoch) for epoch in range(4000)])
    counts = torch.stack([(places == value).sum(0) for value in range(8)]).double()
    chi2 = ((counts - 500) ** 2 / 500).sum().item()
    assert chi2 < 90  # 49 degrees of freedom: the mean is 49 and 90 is exceeded once in 3,000


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 11}, "needs 11 images .* has 10"),
        ({"batch_size": 6, "world_size": 2}, "needs 12 images .* has 10"),
        ({"batch_size": 2, "rank": 2, "world_size": 2}, "rank 2 of world_size 2"),
        ({"batch_size": 2, "world_size": 0}, "world_size 0"),
        ({"batch_size": 2, "seed": -1}, "seed must be in 0 .. 2\\*\\*64 - 1, got -1"),
    ],
)
def test_loader_refuses(kwargs: dict[str, Any], message: str) -> None:
    """Arguments out of range are errors that name expected and actual, before anything is loaded."""
    with pytest.raises(ValueError, match=message):
        ResidentLoader(dataset(10), Order(**kwargs))


def test_loader_refuses_positions_and_empty_data() -> None:
    """A position outside the epoch is an error at the call, not at the first batch."""
    loader = ResidentLoader(dataset(10), Order(3))
    for epoch, start in ((-1, 0), (0, -1), (0, 4)):
        with pytest.raises(ValueError, match="must be"):
            loader.epoch(epoch, start)
    with pytest.raises(ValueError, match="empty: test"):
        ResidentLoader(dataset(0), Order(3, drop_last=False))


def test_containers_refuse() -> None:
    """Wrong dtypes, shapes, lengths and labels are named."""
    images, ids = torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.arange(2)
    with pytest.raises(TypeError, match=r"Batch.images must be torch.uint8, got torch.float32"):
        Batch(images.float(), ids, ids)
    with pytest.raises(ValueError, match=r"must be \[N, H, W, C\] with 1 to 16 channels, got \[2, 3, 4, 17\]"):
        Batch(torch.zeros(2, 3, 4, 17, dtype=torch.uint8), ids, ids)
    with pytest.raises(TypeError, match=r"Batch.ids must be torch.int64, got torch.int32"):
        Batch(images, ids.int(), ids)
    with pytest.raises(ValueError, match=r"Batch.labels must be \[2\] like images, got \[1\]"):
        Batch(images, ids, ids[:1])
    with pytest.raises(ValueError, match=r"labels must be in -1 .. 0, got 0 .. 1"):
        ImageDataset(images, ids, ids, ("one",), ("x", "y"), "test")
    with pytest.raises(ValueError, match="names must have 2 entries, got 1"):
        ImageDataset(images, ids, ids, ("one", "two"), ("x",), "test")
    with pytest.raises(TypeError, match=r"Batch.texts must be torch.int64, got torch.int32"):
        Batch(images, ids, ids, torch.zeros(2, 5, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"Batch.texts must be \[2, L\] like images, got \[3, 5\]"):
        Batch(images, ids, ids, torch.zeros(3, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"Batch.image_ids must be \[2\] like images, got \[2, 1\]"):
        Batch(images, ids, ids, image_ids=ids[:, None])
    assert len(Batch(images, ids, ids).to("cpu")) == 2


def test_texts_stay_with_their_images() -> None:
    """A selection, or a copy to a device, takes the tokens and the ids of content along."""
    images, ids = torch.zeros(3, 4, 4, 3, dtype=torch.uint8), torch.arange(3)
    batch = Batch(images, ids, ids, torch.arange(6).view(3, 2), ids + 10, ids + 20)
    chosen = batch.to("cpu").select(torch.tensor([2, 0]))
    texts = [tensor.tolist() for tensor in (chosen.texts, chosen.text_ids, chosen.image_ids) if tensor is not None]
    assert chosen.ids.tolist() == [2, 0] and texts == [[[4, 5], [0, 1]], [12, 10], [22, 20]]
    without = Batch(images, ids, ids).select(ids)
    assert without.texts is without.text_ids is without.image_ids is None


@pytest.mark.parametrize("ragged", [False, True])
def test_select_and_fingerprint(ragged: bool) -> None:
    """A selection keeps what belongs to an image; the fingerprint changes with any part of the data and only then."""
    source = dataset(12, ragged)
    rows = torch.tensor([3, 3, 11, 0])
    chosen = source.select(rows)
    assert [pixel(chosen.images, i) for i in range(4)] == rows.tolist() and chosen.names == ("3", "3", "11", "0")
    assert chosen.ids.tolist() == [26, 26, 82, 5] and chosen.labels.tolist() == [3, 3, 3, 0]
    assert dataset(12, ragged).fingerprint == source.fingerprint == source.select(torch.arange(12)).fingerprint
    prints = {source.fingerprint, chosen.fingerprint, source.select(torch.arange(12).flip(0)).fingerprint}
    flipped = dataset(12, ragged)
    (flipped.images if isinstance(flipped.images, Tensor) else flipped.images.data).view(-1)[-1] += 1
    relabelled = dataset(12, ragged)
    relabelled.labels[0] = -1
    assert len(prints | {flipped.fingerprint, relabelled.fingerprint}) == 5
    assert source.labelled and not relabelled.labelled
    with pytest.raises(TypeError, match="int64"):
        source.select(torch.tensor([True] * 12))
    with pytest.raises(IndexError, match=r"0 .. 11, got -1 .. 12"):
        source.select(torch.tensor([-1, 12]))


def test_nbytes_counts_pixels() -> None:
    """Dense and ragged storage report the bytes of their pixels."""
    assert dataset(4).nbytes == 4 * 2 * 3 * 3
    assert dataset(4, ragged=True).nbytes == (1 + 2 + 3 + 1) * 2 * 3


@given(st.lists(st.integers(-1, 3), max_size=80), st.floats(0.01, 0.99), st.integers(0, 2**64 - 1))
def test_stratified_takes_a_share_of_every_class(labels: list[int], fraction: float, seed: int) -> None:
    """Every class gives its rounded share, never all of it, and unknown labels give nothing."""
    rows = stratified(torch.tensor(labels, dtype=torch.int64), fraction, seed).tolist()
    assert rows == sorted(set(rows))
    for label in range(-1, 4):
        total, taken = labels.count(label), sum(labels[row] == label for row in rows)
        if label < 0 or total < 2:
            assert taken == 0
        else:
            assert 1 <= taken < total and abs(taken - fraction * total) <= 1


def test_stratified_depends_on_the_seed_and_checks_the_fraction() -> None:
    """Another seed takes other images; 0 and 1 are no fractions."""
    labels = torch.arange(100) % 2
    chosen = [stratified(labels, 0.1, seed).tolist() for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    for fraction in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            stratified(labels, fraction, 0)


def test_import_is_light_and_order_is_the_same_in_a_new_process() -> None:
    """Importing takes no decoder, and hash randomisation or a fresh process does not move the order."""
    code = (
        "import json, sys; import fastclr.data; from fastclr.data.label_subsets import permutation; import torch;"
        "heavy = [m for m in ('PIL', 'torchvision', 'timm') if m in sys.modules];"
        "print(json.dumps([heavy, torch.cuda.is_initialized(), permutation(1000, 5, 6).tolist()]))"
    )
    heavy, cuda, order = json.loads(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    )
    assert heavy == [] and not cuda and order == permutation(1000, 5, 6).tolist()


def test_cuda_memory_is_checked_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set larger than the device's free memory is refused with a way out."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    with pytest.raises(ValueError, match="resize_shorter"):
        ResidentLoader(dataset(10), Order(2), device="cuda")

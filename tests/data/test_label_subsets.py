"""Which labels a fine-tuning may use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastclr.data import ImageDataset
from fastclr.data.label_subsets import label_subset, labelled_rows, subset_name

# classes of 200, 50, 30 and 1 images, and 19 images of unknown class, shuffled
LABELS = torch.cat([torch.full((n,), c) for c, n in ((0, 200), (1, 50), (2, 30), (3, 1), (-1, 19))])
LABELS = LABELS[torch.randperm(300, generator=torch.Generator().manual_seed(0))]


def dataset(names: list[str], labels: torch.Tensor) -> ImageDataset:
    count = len(names)
    images = torch.zeros(count, 4, 4, 3, dtype=torch.uint8)
    return ImageDataset(images, torch.arange(count), labels, ("a", "b", "c", "d"), tuple(names), "here")


@pytest.mark.parametrize(("share", "expected"), [(0.01, [2, 1, 1, 1]), (0.1, [20, 5, 3, 1]), (1.0, [200, 50, 30, 1])])
def test_every_class_gives_its_share_and_at_least_one(share: float, expected: list[int]) -> None:
    rows = label_subset(LABELS, share, seed=0)
    assert torch.bincount(LABELS[rows]).tolist() == expected  # which also refuses a -1
    assert rows.tolist() == sorted(set(rows.tolist()))


def test_subsets_are_reproducible_differ_by_seed_and_are_nested() -> None:
    few, more = label_subset(LABELS, 0.1, seed=3), label_subset(LABELS, 0.3, seed=3)
    assert torch.equal(few, label_subset(LABELS, 0.1, seed=3))
    assert set(few.tolist()) < set(more.tolist())
    assert not torch.equal(few, label_subset(LABELS, 0.1, seed=4))


def test_every_image_of_a_class_is_as_likely() -> None:
    """Over 400 seeds each of 30 images comes 3 times in 30: 40 +- 6 times each, and none is favoured."""
    labels = torch.zeros(30, dtype=torch.int64)
    counts = sum(torch.bincount(label_subset(labels, 0.1, seed), minlength=30) for seed in range(400))
    assert int(counts.min()) > 15 and int(counts.max()) < 70


def test_a_list_names_images_by_their_last_part_or_in_full(tmp_path: Path) -> None:
    names = ["n01/n01_7.JPEG", "n01/n01_8.JPEG", "n02/n02_7.JPEG", "n02/same.JPEG", "n01/same.JPEG"]
    images = dataset(names, torch.tensor([0, 0, 1, 1, -1]))
    path = tmp_path / "1percent.txt"
    path.write_text("n02_7.JPEG\n\nn01/n01_8.JPEG\nn02/same.JPEG\nn02_7.JPEG\n")
    assert labelled_rows(images, str(path), seed=0).tolist() == [1, 2, 3]
    assert subset_name(str(path)) == "1percent"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x.png\n" * 2 + "".join(f"y{i}.png\n" for i in range(7)), r"8 names in .* are not among .*'x.png', .*\.\.\."),
        ("same.png\n", "1 names in .* fit more than one training image: 'same.png'"),
        ("b/same.png\n", "1 names in .* are of unknown class: 'b/same.png'"),
        (" \n", "names no image"),
    ],
)
def test_a_list_is_refused(text: str, message: str, tmp_path: Path) -> None:
    images = dataset(["a/same.png", "b/same.png", "a/z.png"], torch.tensor([0, -1, 0]))
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        labelled_rows(images, str(path), seed=0)


@pytest.mark.parametrize("share", ["0%", "101%", "-1%", "ten%", "nan%", "nowhere.txt", "0.1"])
def test_neither_a_share_nor_a_file(share: str) -> None:
    with pytest.raises(ValueError, match="share must be"):
        labelled_rows(dataset(["a/1.png"], torch.tensor([0])), share, seed=0)


def test_a_table_of_labels_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("name,label\na/1.png,cat\n")
    with pytest.raises(ValueError, match=r"l\.csv is a table of labels: --labels takes it"):
        labelled_rows(dataset(["a/1.png"], torch.tensor([0])), str(tmp_path / "l.csv"), seed=0)


def test_no_label_at_all() -> None:
    with pytest.raises(ValueError, match="all 5 are -1"):
        label_subset(torch.full((5,), -1), 0.5, seed=0)


@pytest.mark.parametrize(("share", "name"), [("1%", "1pct"), ("10%", "10pct"), ("100%", "100pct"), ("0.5%", "0.5pct")])
def test_names_of_shares(share: str, name: str) -> None:
    assert subset_name(share) == name

"""Classes from a CSV file."""

from __future__ import annotations

import tarfile
import unicodedata
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastclr.data import ImageDataset, Splits, load_splits
from fastclr.data.make_sets import label_splits
from fastclr.sources.label_file import read_labels
from fastclr.training.build import load_data
from fastclr.training.config import PretrainConfig


def write(root: Path, names: list[str]) -> Path:
    """A folder of images whose pixels hold their place in `names`."""
    for index, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2), (index, 0, 0)).save(root / name)
    return root


def table(path: Path, text: str) -> Path:
    """A CSV file."""
    path.write_text(text, encoding="utf-8")
    return path


def dataset(names: tuple[str, ...], labels: list[int] | None = None, classes: tuple[str, ...] = ()) -> ImageDataset:
    """Black images with the given names."""
    count = len(names)
    known = torch.full((count,), -1) if labels is None else torch.tensor(labels)
    return ImageDataset(torch.zeros(count, 2, 2, 3, dtype=torch.uint8), torch.arange(count), known, classes, names, "x")


def classes_by_name(images: ImageDataset) -> dict[str, str | None]:
    """The class name of each image, None where it is unknown."""
    return {
        name: None if label < 0 else images.classes[label]
        for name, label in zip(images.names, images.labels.tolist(), strict=True)
    }


def test_csv(tmp_path: Path) -> None:
    """Quoted commas, a byte order mark, other columns, another order, empty labels, names of any kind."""
    text = '\ufefflabel,note,name\ncat,,a.png\n"big, dog",x,"sub/b, 1.png"\n,,c.png\n\u732b,,\u65e5.png\ncat,,a.png\n'
    assert read_labels(table(tmp_path / "l.csv", text)) == {
        "a.png": "cat",
        "sub/b, 1.png": "big, dog",
        "c.png": None,
        "\u65e5.png": "\u732b",
    }


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_spaces_around_values(delimiter: str, tmp_path: Path) -> None:
    """They make no further class, and hide no quotes; those within a value stay."""
    rows = ["name, label", "a.png, cat", "b.png,cat ", ' c d.png ,"cat"', 'e.png, "big, dog"', "f.png,  "]
    text = "\n".join(rows).replace(",", delimiter).replace(f"big{delimiter}", "big,") + "\n"
    assert read_labels(table(tmp_path / "l.csv", text)) == {
        **dict.fromkeys(["a.png", "b.png", "c d.png"], "cat"),
        "e.png": "big, dog",
        "f.png": None,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have the columns name .* and label, .* but lacks name and label: it has none"),
        ("name,class\na,b\n", "lacks label: it has name, class"),
        ("name,label\n", "names no image"),
        ("name,label\n,cat\n", "line 2 has no name"),
        ("name,label\na,cat\nb,cat\na,dog\n", "line 4: 'a' was 'cat' before and is 'dog' now"),
        ('name,label\n"a,cat\n', "unexpected end of data"),
    ],
)
def test_bad_csv(text: str, message: str, tmp_path: Path) -> None:
    """What is wrong is said with the file and the line."""
    with pytest.raises(ValueError, match=rf"l\.csv.*{message}"):
        read_labels(table(tmp_path / "l.csv", text))


def test_csv_that_is_no_text(tmp_path: Path) -> None:
    """A file in another encoding is refused, a missing one named."""
    (tmp_path / "l.csv").write_bytes("name,label\nä,b\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"l\.csv: 'utf-8' codec"):
        read_labels(tmp_path / "l.csv")
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        read_labels(tmp_path / "none.csv")


def test_label_splits_of_one_split() -> None:
    """Classes are numbered by name, the rest is unknown, the pixels are shared."""
    images = dataset(("a", "b", "c", "d"))
    labelled = label_splits(Splits(images, None), {"c": "dog", "a": "cat", "d": None}).train
    assert labelled.classes == ("cat", "dog") and labelled.labels.tolist() == [0, -1, 1, -1]
    assert labelled.images is images.images and labelled.fingerprint != images.fingerprint
    unknown = {f"x{i}": "cat" for i in range(7)}
    with pytest.raises(ValueError, match=r"name 7 images that are not in x: 'x0', 'x1', 'x2', 'x3', 'x4'$"):
        label_splits(Splits(images, None), {"a": "cat", **unknown})


def test_label_splits() -> None:
    """A split that the mapping does not mention keeps its classes under the new numbers; unknown stays unknown."""
    train, test = dataset(("train/0", "train/1")), dataset(("test/0", "test/1"), [0, -1], ("dog",))
    splits = label_splits(Splits(train, test), {"train/0": "dog", "train/1": "cat"})
    assert splits.train.labels.tolist() == [1, 0] and splits.test is not None
    assert splits.test.classes == ("cat", "dog") and splits.test.labels.tolist() == [1, -1]
    with pytest.raises(ValueError, match="1 test classes that the training set lacks: dog"):
        label_splits(Splits(train, test), {"train/0": "cat"})
    assert label_splits(Splits(train, None), {"train/0": "cat"}).test is None


def test_a_flat_folder_gets_classes_and_a_held_out_part(tmp_path: Path) -> None:
    """With a CSV a flat folder is as good as one with class folders."""
    names = [f"{i:02d}.png" for i in range(20)]
    root = write(tmp_path / "flat", names)
    rows = "".join(f"{name},{'cat' if i % 2 else 'dog'}\n" for i, name in enumerate(names) if i != 5)
    labels = table(tmp_path / "l.csv", "name,label\n" + rows)
    assert load_splits(root).test is None
    splits = load_splits(root, labels=labels)
    assert splits.held_out and splits.test is not None
    expected = {name: None if i == 5 else ("cat" if i % 2 else "dog") for i, name in enumerate(names)}
    assert classes_by_name(splits.train) | classes_by_name(splits.test) == expected
    assert None not in classes_by_name(splits.test).values()
    config = PretrainConfig(data=str(root), labels=str(labels), cache="off")
    assert load_data(config).train.fingerprint == splits.train.fingerprint


@pytest.mark.parametrize("packed", [False, True])
def test_names_in_folders_with_splits(packed: bool, tmp_path: Path) -> None:
    """The split's folder belongs to the name; folders that wrap everything may be left out."""
    root = write(tmp_path / "top", ["train/1.png", "train/2.png", "test/1.png", "test/2.png"])
    path = root
    if packed:
        path = tmp_path / "top.tar"
        with tarfile.open(path, "w") as archive:
            archive.add(root, "top")
    prefix = "top/" if packed else ""
    text = f"name,label\n{prefix}train/1.png,cat\ntrain/2.png,dog\ntest/1.png,dog\n"
    splits = load_splits(path, labels=table(tmp_path / "l.csv", text))
    assert classes_by_name(splits.train) == {"1.png": "cat", "2.png": "dog"}
    assert splits.test is not None and classes_by_name(splits.test) == {"1.png": "dog"}
    with pytest.raises(ValueError, match=r"name 1 images that are not in .*: '1\.png'"):
        load_splits(path, labels=table(tmp_path / "l.csv", "name,label\n1.png,cat\n"))


def test_a_test_folder_keeps_its_classes_when_the_csv_is_silent(tmp_path: Path) -> None:
    """Labels for the training images alone do not unlabel the test images, and replace the folders' classes."""
    names = ["train/x/1.png", "train/y/2.png", "train/y/3.png", "test/cat/1.png", "test/dog/2.png"]
    root = write(tmp_path / "root", names)
    text = "name,label\ntrain/x/1.png,dog\ntrain/y/2.png,cat\n"
    splits = load_splits(root, labels=table(tmp_path / "l.csv", text))
    assert classes_by_name(splits.train) == {"x/1.png": "dog", "y/2.png": "cat", "y/3.png": None}
    assert splits.test is not None and classes_by_name(splits.test) == {"cat/1.png": "cat", "dog/2.png": "dog"}


def test_unreadable_files_are_no_unknown_names(tmp_path: Path) -> None:
    """A CSV may name a file that turns out to be damaged."""
    root = write(tmp_path / "root", ["a.png", "b.png"])
    (root / "c.png").write_bytes(b"damaged")
    text = "name,label\na.png,cat\nb.png,dog\nc.png,dog\n"
    splits = load_splits(root, labels=table(tmp_path / "l.csv", text), holdout=0)
    assert classes_by_name(splits.train) == {"a.png": "cat", "b.png": "dog"}
    assert [name for name, _ in splits.train.skipped] == ["c.png"]


@pytest.mark.parametrize(
    "text",
    [
        "name,label\na.png,cat\nsub/b.png,dog\n",
        "name\tlabel\r\n./a.png\tcat\r\nsub\\b.png\tdog\r\n",
        "id;file_name;label\n1;.\\a.png;cat\n2;./sub/../sub/b.png;dog\n",
        '"File_Name"; "Label"\n"a.png";"cat"\nphotos/sub/b.png;dog\n',
        "label\tname\ncat\t{root}/a.png\ndog\t{root}/sub/b.png\n",
    ],
)
def test_tables_of_other_programs(text: str, tmp_path: Path) -> None:
    """Separators, headers and ways to write a path; all of them name the same two images."""
    root = write(tmp_path / "photos", ["a.png", "sub/b.png"])
    labels = table(tmp_path / "l.csv", text.replace("{root}", str(root)))
    assert classes_by_name(load_splits(root, labels=labels, holdout=0).train) == {"a.png": "cat", "sub/b.png": "dog"}


def test_names_with_commas_and_accents(tmp_path: Path) -> None:
    """A tab may separate names with commas; two ways to write an accent are one name; a name that is there wins."""
    nfd = unicodedata.normalize("NFD", "caf\u00e9.png")
    root = write(tmp_path / "photos", ["a, b.png", nfd, "x\\y.png"])
    text = "name\tlabel\na, b.png\tcat\ncaf\u00e9.png\tdog\nx\\y.png\tcat\n"
    splits = load_splits(root, labels=table(tmp_path / "l.csv", text), holdout=0)
    assert classes_by_name(splits.train) == {"a, b.png": "cat", nfd: "dog", "x\\y.png": "cat"}
    twice = "name,label\na.png,cat\n./a.png,dog\n"
    with pytest.raises(ValueError, match=r"name './a\.png' twice, as 'cat' and as 'dog'"):
        load_splits(write(tmp_path / "one", ["a.png"]), labels=table(tmp_path / "l.csv", twice))


def test_a_table_beside_the_images_it_names(tmp_path: Path) -> None:
    """metadata.csv of Hugging Face lies in the folder of a split, and names its files without it."""
    root = write(tmp_path / "set", ["train/1.png", "train/2.png", "test/1.png"])
    labels = table(root / "train" / "metadata.csv", "file_name,label\n1.png,cat\n2.png,dog\n")
    assert classes_by_name(load_splits(root, labels=labels).train) == {"1.png": "cat", "2.png": "dog"}
    labels = table(root / "train" / "metadata.csv", "file_name,label\ntrain/1.png,cat\n./2.png,dog\ntest/1.png,dog\n")
    splits = load_splits(root, labels=labels)
    assert classes_by_name(splits.train) == {"1.png": "cat", "2.png": "dog"} and splits.test is not None
    assert classes_by_name(splits.test) == {"1.png": "dog"}


def test_one_table_for_images_of_all_kinds(tmp_path: Path) -> None:
    """It may name images of other folders of the source, and those of a test set that lies elsewhere."""
    root = write(tmp_path / "set", ["train/1.png", "train/2.png", "test/1.png", "extra/9.png", "notes/8.png"])
    rows = ["train/1.png,cat", "train/2.png,dog", "test/1.png,dog", "extra/9.png,cat"]
    labels = table(tmp_path / "l.csv", "\n".join(["name,label", *rows]))
    whole = load_splits(root, labels=labels)
    assert classes_by_name(whole.train) == {"1.png": "cat", "2.png": "dog"}
    apart = load_splits(
        root / "train", root / "test", labels=table(tmp_path / "l.csv", "\n".join(["name,label", *rows[:3]]))
    )
    assert apart.test is not None and classes_by_name(apart.test) == {"1.png": "dog"}
    assert classes_by_name(apart.train) == {"1.png": "cat", "2.png": "dog"}
    with pytest.raises(ValueError, match=r"name 1 images that are not in .*train or .*test: 'extra/9\.png'"):
        load_splits(root / "train", root / "test", labels=table(tmp_path / "l.csv", "\n".join(["name,label", *rows])))


def test_labels_are_apart_in_the_fingerprint(tmp_path: Path) -> None:
    """Other labels leave the images' part as it is, for decoded images and for listed ones."""
    root = write(tmp_path / "set", [f"{i}.png" for i in range(6)])
    labels = table(tmp_path / "l.csv", "name,label\n" + "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(6)))
    for loader in ("resident", "torch"):
        bare = load_splits(root, loader=loader).train  # type: ignore[arg-type]
        known = load_splits(root, labels=labels, holdout=0, loader=loader).train  # type: ignore[arg-type]
        (images, none), (same, some) = (each.fingerprint.split("-") for each in (bare, known))
        assert images == same and none != some and len({bare.joint_fingerprint(), known.joint_fingerprint()}) == 2
    assert (
        load_splits(root).train.fingerprint.split("-")[0]
        == load_splits(root, loader="resident").train.image_fingerprint
    )


def test_a_share_is_no_table() -> None:
    with pytest.raises(ValueError, match="labels must be a CSV file; --share takes a share such as 1%, got '1%'"):
        PretrainConfig(labels="1%")

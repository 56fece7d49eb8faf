"""Links in folders and archives: followed into a stated folder only, never in circles, and what is lost is told."""

from __future__ import annotations

import os
import shutil
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from fastclr.cli import main
from fastclr.data import ImageDataset, Order, load_splits, make_loader


def pictures(folder: Path, numbers: range) -> None:
    """Write images whose pixels are their numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number:03d}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A class folder and images elsewhere on the disk, and links to them, to others, and in circles."""
    store = tmp_path / "store"
    pictures(store / "dogs", range(5))
    pictures(store / "single", range(100, 103))
    pictures(tmp_path / "private", range(200, 202))
    pictures(tmp_path / "set" / "cat", range(10, 14))
    (tmp_path / "set" / "dog").symlink_to(store / "dogs")
    (tmp_path / "set" / "cat" / "x.png").symlink_to(store / "single" / "100.png")
    (store / "dogs" / "circle").symlink_to(store / "dogs")
    (store / "dogs" / "up").symlink_to(tmp_path)
    (store / "dogs" / "private").symlink_to(tmp_path / "private")
    (tmp_path / "set" / "dog again").symlink_to(store / "dogs")
    (tmp_path / "set" / "broken.png").symlink_to(tmp_path / "gone.png")
    return tmp_path / "set"


def test_a_snapshot_of_hugging_faces_cache_needs_no_permission(tmp_path: Path) -> None:
    """Its links lead into the blobs of its own repository; those that lead elsewhere are not followed."""
    repository = tmp_path / "hub" / "datasets--someone--things"
    snapshot, blobs = repository / "snapshots" / "0a1b2c", repository / "blobs"
    pictures(tmp_path / "cat", range(5))
    pictures(tmp_path / "dog", range(10, 15))
    blobs.mkdir(parents=True)
    for number, image in enumerate(sorted(tmp_path.glob("*/*.png"))):
        image.rename(blobs / f"hash{number}")
        name = snapshot / image.relative_to(tmp_path)
        name.parent.mkdir(parents=True, exist_ok=True)
        name.symlink_to(Path("../../../blobs") / f"hash{number}")  # as the hub's client makes them
    plain = tmp_path / "plain"
    shutil.copytree(snapshot, plain)
    train, copied = (load_splits(place, holdout=0).train for place in (snapshot, plain))
    assert train.names == copied.names and train.fingerprint == copied.fingerprint and len(train) == 10
    with closing(make_loader(load_splits(snapshot, loader="torch").train, "torch", Order(3), workers=1)) as loader:
        assert len(next(iter(loader.epoch(0))).ids) == 3
    with tarfile.open(blobs / "hashtar", "w") as archive:
        for index, image in enumerate(sorted(plain.glob("*/*.png"))):
            archive.add(image, f"{index}.png")
    shards = repository / "snapshots" / "1b2c3d" / "train-0.tar"
    shards.parent.mkdir()
    shards.symlink_to("../../blobs/hashtar")
    for kind in ("resident", "torch"):
        found = load_splits(shards.parent, holdout=0, loader=kind).train  # type: ignore[arg-type]
        assert len(found) == 10
    with pytest.raises(ValueError, match=r"a repository in Hugging Face's cache: give one of .*0a1b2c, .*1b2c3d$"):
        load_splits(repository)
    pictures(tmp_path / "private", range(200, 220))
    (snapshot / "out").symlink_to(tmp_path / "private")
    with pytest.raises(ValueError, match=r"20 of the 30 images .* would be lost"):
        load_splits(snapshot)


def test_many_lost_images_are_an_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their number, the links, and what to do are said, by every command."""
    message = (
        f"11 of the 15 images of {root} would be lost: they lie behind 3 symbolic link(s) that are not followed, such "
        "as 'cat/x.png', 'dog', 'dog again'. Name the folder into which links may lead with --follow-links FOLDER"
    )
    assert main(["data", str(root)]) == 2
    assert message in capsys.readouterr().err
    for number in range(300, 411):
        Image.new("RGB", (8, 8)).save(root / "cat" / f"{number}.png")
    skipped = dict(load_splits(root, cache="off").train.skipped)  # 11 of 126 are told only
    assert skipped["dog"] == "symbolic link, not followed: 5 image(s) lie behind it"
    assert skipped["broken.png"] == "symbolic link, not followed: it leads nowhere"


def test_links_into_a_folder_are_followed(root: Path, tmp_path: Path) -> None:
    """Class folders and files count as if they lay there; what leads elsewhere or in circles is left out and named."""
    links = tmp_path / "store"
    splits = load_splits(root, cache=tmp_path / "cache", holdout=0, follow_links=links)
    train = splits.train
    assert isinstance(train, ImageDataset)
    assert train.names == (
        *(f"cat/{i:03d}.png" for i in range(10, 14)),
        "cat/x.png",
        *(f"dog/{i:03d}.png" for i in range(5)),
    )
    assert train.images[:, 0, 0, 0].tolist() == [10, 11, 12, 13, 100, 0, 1, 2, 3, 4]  # type: ignore[index]
    assert train.classes == ("cat", "dog")
    circle = "symbolic link, not followed: it leads in a circle, or to a folder that is listed already"
    skipped = dict(train.skipped)
    assert skipped["dog/private"] == f"symbolic link, not followed: it leads out of {links}, 2 image(s) lie behind it"
    assert skipped["dog/circle"] == skipped["dog again"] == circle and "leads out of" in skipped["dog/up"]
    assert not (tmp_path / "cache").exists()
    everything = load_splits(root, cache="off", holdout=0, follow_links=tmp_path).train
    assert dict(everything.skipped)["dog/up"] == circle and "dog/private/200.png" in everything.names
    for kind in ("torch", "dali"):
        index = load_splits(root, holdout=0, follow_links=links, loader=kind).train  # type: ignore[arg-type]
        with closing(make_loader(index, kind, Order(4, shuffle=False, drop_last=False), workers=1)) as loader:  # type: ignore[arg-type]
            assert [i for batch in loader.epoch(0) for i in batch.ids.tolist()] == train.ids.tolist()


@pytest.mark.parametrize("kept", [".git/annex/objects", ".dvc/cache"])
def test_links_into_a_hidden_folder_of_the_source(kept: str, tmp_path: Path) -> None:
    """Such a folder is not listed, so images behind links into it are lost or followed like all others."""
    root = tmp_path / "set"
    pictures(root / "cat", range(4))
    pictures(root / kept, range(100, 106))
    (root / "dog").mkdir()
    for number in range(100, 106):
        (root / "dog" / f"{number}.png").symlink_to(Path("..") / kept / f"{number}.png")
    (root / "cat" / "again.png").symlink_to("000.png")
    with pytest.raises(ValueError, match=r"6 of the 10 images .* behind 6 symbolic link\(s\) .*'dog/100\.png'"):
        load_splits(root, cache="off")
    train = load_splits(root, cache="off", holdout=0, follow_links=root).train
    assert isinstance(train, ImageDataset)
    assert train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, *range(100, 106)]  # type: ignore[index]
    assert dict(train.skipped) == {"cat/again.png": "symbolic link, not followed: it leads to what is listed anyway"}


def test_the_folder_must_exist(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"follow_links must be the folder into which links may lead, and .*nowhere"):
        load_splits(root, follow_links=tmp_path / "nowhere")


def test_the_command_line_follows(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(root), "--follow-links", str(tmp_path / "store")]) == 0
    assert "cat 5, dog 5" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_hard_links_in_a_tar(suffix: str, tmp_path: Path) -> None:
    """A second name of a file is an image as it is in the folder, whichever name the archive stores first."""
    root = tmp_path / "root"
    for place, folder in enumerate(("a", "b", ".kept")):
        pictures(root / folder, range(10 * place, 10 * place + 3))
    links = {"a/again.png": "b/011.png", "b/0again.png": "b/011.png", "b/x.png": ".kept/020.png"}
    for name, target in links.items():
        os.link(root / target, root / name)
    path = tmp_path / f"links.{suffix}"
    with tarfile.open(path, "w:gz" if suffix == "tar.gz" else "w") as archive:
        archive.add(root, ".")
    with tarfile.open(path) as archive:
        assert sum(member.islnk() for member in archive) == 3
    packed, plain = load_splits(path, cache="off", holdout=0).train, load_splits(root, cache="off", holdout=0).train
    assert isinstance(packed, ImageDataset) and isinstance(packed.images, Tensor)
    assert packed.images[:, 0, 0, 0].tolist() == [0, 1, 2, 11, 10, 11, 12, 11, 20] and packed.skipped == ()
    assert packed.names == plain.names and packed.fingerprint == plain.fingerprint
    if suffix == "tar":
        index = load_splits(path, holdout=0, loader="torch").train
        with closing(make_loader(index, "torch", Order(9, shuffle=False, drop_last=False), workers=0)) as loader:
            images = next(iter(loader.epoch(0))).images
        assert isinstance(images, Tensor) and torch.equal(images, packed.images)


def test_symbolic_links_in_a_tar_are_lost_images(tmp_path: Path) -> None:
    """More than a tenth is an error, as in a folder; links to listed images, hidden and other ones are none."""
    root, path = tmp_path / "root", tmp_path / "links.tar"
    pictures(root / "a", range(9))
    pictures(root / ".git", range(50, 51))
    for name, target in {"a/in.png": "../.git/050.png", "a/0.png": "000.png", ".b.png": "c.png", "n": "m"}.items():
        (root / name).symlink_to(target)
    with tarfile.open(path, "w") as archive:
        archive.add(root, ".")
    train = load_splits(path, cache="off", holdout=0).train  # a tenth
    assert len(train) == 9 and dict(train.skipped)["./a/in.png"] == "symbolic link, not followed"
    (root / "out.png").symlink_to(tmp_path / "gone.png")
    with tarfile.open(path, "w") as archive:
        archive.add(root, ".")
    message = r"2 of the 11 images .* behind 2 symbolic link\(s\) .* 'a/in\.png', 'out\.png'\. Pack .*tar --dereference"
    for follow in (None, tmp_path):
        with pytest.raises(ValueError, match=message):
            load_splits(path, follow_links=follow)

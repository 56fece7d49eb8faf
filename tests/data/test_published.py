"""Data sets by name: found in torchvision's layout, fetched with torchvision's code, read like torchvision."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_cases import CONTENT, stl_files, write_archive, write_folder
from torch import Tensor
from torchvision import datasets

from fastclr.cli import main
from fastclr.data import load_dataset, load_splits
from fastclr.sources.published import PUBLISHED, locate
from fastclr.training.build import load_data
from fastclr.training.config import PretrainConfig
from fastclr.training.evaluation import can_evaluate, run_features


def pretend(monkeypatch: pytest.MonkeyPatch, name: str, archive: Path, address: str = "") -> None:
    """Let torchvision expect the small archive instead of the published one."""
    kind, content = getattr(datasets, PUBLISHED[name].kind), CONTENT[name]

    def md5(data: bytes) -> str:
        return hashlib.md5(data).hexdigest()

    monkeypatch.setattr(kind, "url", address)
    monkeypatch.setattr(kind, "tgz_md5", md5(archive.read_bytes()) if archive.exists() else "")
    for field in ("train_list", "test_list"):
        monkeypatch.setattr(kind, field, [[file, md5(content[file])] for file, _ in getattr(kind, field)])
    if name != "stl10":
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(content[kind.meta["filename"]])})


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A web server for the folder ``www``."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    (tmp_path / "www").mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(tmp_path / "www"))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def pixels(dataset: Any) -> Tensor:
    """The images of a torchvision data set, [N, H, W, 3]."""
    return torch.stack([torch.from_numpy(np.array(image)) for image, _ in dataset])


@pytest.mark.parametrize("packed", [False, True])
def test_stl10_equals_torchvision(packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels, labels and order of all three splits, from the folder and from the archive."""
    content = CONTENT["stl10"]
    write_folder(tmp_path / "root" / "stl10_binary", content)
    path = tmp_path / "root" / "stl10_binary"
    if packed:
        path = write_archive(tmp_path / "stl10_binary.tar.gz", "stl10_binary", content)
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    splits = load_splits(path)
    assert splits.test is not None and isinstance(splits.train.images, Tensor)
    for mine, split in ((splits.train, "train+unlabeled"), (splits.test, "test")):
        expected = datasets.STL10(str(tmp_path / "root"), split=split)
        assert torch.equal(torch.as_tensor(mine.images), pixels(expected))
        assert mine.labels.tolist() == expected.labels.tolist()
        assert list(mine.classes) == expected.classes
        assert mine.ids.tolist() == list(range(len(expected)))
    assert splits.train.names[6:8] == ("train/0006", "unlabeled/00000") and not splits.train.labelled


def test_stl10_through_the_cache(tmp_path: Path) -> None:
    """The second start finds the images in the right order without reading the binary files."""
    path = write_folder(tmp_path / "stl10_binary", CONTENT["stl10"])
    first = load_splits(path, cache=tmp_path / "cache")
    again = load_splits(path, cache=tmp_path / "cache")
    assert "image_fingerprint" in vars(again.train) and again.train.fingerprint == load_splits(path).train.fingerprint
    assert torch.equal(torch.as_tensor(again.train.images), torch.as_tensor(first.train.images))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"unlabeled_X.bin": None}, "is STL-10, but lacks unlabeled_X.bin"),
        ({"train_X.bin": bytes(100)}, r"train_X.bin must be a multiple of 27648 bytes \(96 x 96 x 3\), got 100"),
        ({"train_y.bin": b"\1\2"}, r"labels must be \[10\] like images, got \[5\]"),
        ({"test_y.bin": bytes([11] * 5)}, r"labels must be in -1 .. 9, got 10"),
    ],
)
def test_damaged_stl10(damage: dict[str, bytes | None], message: str, tmp_path: Path) -> None:
    """What is missing or of the wrong length is named."""
    content = {**stl_files(unlabelled=3), **damage}
    path = write_folder(tmp_path / "stl", {name: data for name, data in content.items() if data is not None})
    with pytest.raises(ValueError, match=message):
        load_splits(path)


def test_pixels_are_not_resized(tmp_path: Path) -> None:
    """An option without effect is an error; one that asks for no change is none."""
    path = write_folder(tmp_path / "stl", stl_files(unlabelled=3))
    with pytest.raises(ValueError, match=r"resize_shorter is for image files, .* 96 px .*resize_shorter=64"):
        load_splits(path, resize_shorter=64)
    with pytest.raises(ValueError, match="resize_shorter is for image files"):
        load_dataset(path, resize_shorter=64)
    assert len(load_splits(path, resize_shorter=96).train) == 10


def test_stl10_does_not_start_without_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little memory is an error before anything is read."""
    path = write_folder(tmp_path / "stl", CONTENT["stl10"])
    with pytest.raises(ValueError, match=r"the 612 images of .* take about 0\.0169 GB decoded, but 0\.0169 GB may be"):
        load_splits(path, memory_limit=612 * 27648 - 1)
    assert len(load_splits(path, memory_limit=612 * 27648).train) + 12 > 100
    monkeypatch.setattr("fastclr.data.decode_many.available_memory", lambda: 2 * 612 * 27648 - 2)
    with pytest.raises(ValueError, match="half of the free memory"):
        load_splits(path)


def test_evaluation_leaves_out_unlabelled_images(tmp_path: Path) -> None:
    """STL-10's labelled images make the bank of a kNN: the unlabelled ones take no part."""
    from fastclr.evaluate import knn_accuracy

    path = write_folder(tmp_path / "stl", stl_files(unlabelled=20))
    data = load_splits(path)
    assert can_evaluate(data)
    features = run_features(torch.nn.Flatten(), data, PretrainConfig(data=str(path), device="cpu", amp="off"))
    assert features.train_labels.tolist() == [i % 10 for i in range(7)] and len(features.train) == 7
    assert 0.0 <= knn_accuracy(features, k=7) <= 1.0


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_equals_torchvision(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels, labels and class names of both splits."""
    write_folder(tmp_path / PUBLISHED[name].unpacked, CONTENT[name])
    pretend(monkeypatch, name, tmp_path / "no archive")
    splits = load_splits(name, data_root=tmp_path)
    for mine, train in ((splits.train, True), (splits.test, False)):
        expected = getattr(datasets, PUBLISHED[name].kind)(str(tmp_path), train=train)
        assert mine is not None and torch.equal(torch.as_tensor(mine.images), pixels(expected))
        assert mine.labels.tolist() == expected.targets and list(mine.classes) == expected.classes


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
@pytest.mark.parametrize("packed", [False, True])
def test_names_are_looked_up_in_the_data_root(name: str, packed: bool, tmp_path: Path) -> None:
    """Unpacked or packed as torchvision leaves them; both functions and the configuration know the names."""
    known = PUBLISHED[name]
    root = tmp_path / "sets"
    if packed:
        root.mkdir()
        path = write_archive(root / known.packed, known.unpacked, CONTENT[name])
    else:
        path = write_folder(root / known.unpacked, CONTENT[name])
    assert locate(name, root) == path
    expected = load_splits(path)
    assert load_splits(name, data_root=root).train.fingerprint == expected.train.fingerprint
    assert expected.test is not None
    assert load_dataset(name, "test", data_root=root).fingerprint == expected.test.fingerprint
    config = PretrainConfig(data=name, data_root=str(root), cache="off")
    assert load_data(config).train.fingerprint == expected.train.fingerprint
    assert load_splits(path, name, data_root=root).test is not None


def test_a_path_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is called like a data set is reached by its path."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "cifar10" / "x", CONTENT["cifar10"])
    assert load_splits("./cifar10").train.labels.tolist() == [1, 9] * 5
    assert load_splits(Path("cifar10")).train.labels.tolist() == [1, 9] * 5
    with pytest.raises(ValueError, match=r"a folder of that name is \./cifar10"):
        load_splits("cifar10")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_missing_files_are_explained(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was looked for, where, and three ways to get it, in one line; nothing is made."""
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", "--data", name, "--device", "cpu"]) == 2
    text = capsys.readouterr().err
    known = PUBLISHED[name]
    for part in (f"files of {name} are not in data", known.unpacked, known.packed, "--download", "--data-root"):
        assert part in text, text
    assert known.address in text and text.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_addresses_and_layout_are_torchvisions(name: str) -> None:
    """What this package says about a data set is what torchvision does."""
    known, kind = PUBLISHED[name], getattr(datasets, PUBLISHED[name].kind)
    assert (known.unpacked, known.packed, known.address) == (kind.base_folder, kind.filename, kind.url)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_download(name: str, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's own code fetches, checks and unpacks; the second time nothing is fetched."""
    known = PUBLISHED[name]
    archive = write_archive(tmp_path / "www" / known.packed, known.unpacked, CONTENT[name])
    pretend(monkeypatch, name, archive, f"{server}/{known.packed}")
    root = tmp_path / "new" / "root"
    splits = load_splits(name, data_root=root, download=True)
    assert splits.train.fingerprint == load_splits(archive).train.fingerprint
    assert [path.name for path in root.iterdir()] == [known.unpacked]
    archive.unlink()
    assert load_splits(name, data_root=root, download=True).train.fingerprint == splits.train.fingerprint


@pytest.mark.parametrize("trouble", ["absent", "damaged", "offline"])
def test_failed_downloads(trouble: str, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, no file, or another file: one message with the address, and nothing that looks whole."""
    known = PUBLISHED["cifar10"]
    archive = write_archive(tmp_path / "www" / known.packed, known.unpacked, CONTENT["cifar10"])
    address = "http://127.0.0.1:9" if trouble == "offline" else server
    pretend(monkeypatch, "cifar10", archive, f"{address}/{known.packed}")
    if trouble == "damaged":
        archive.write_bytes(archive.read_bytes()[:-10])
    elif trouble == "absent":
        archive.unlink()
    root = tmp_path / "root"
    with pytest.raises(OSError, match=f"could not be downloaded into .*root: .*Fetch {known.address}"):
        load_splits("cifar10", data_root=root, download=True)
    assert list(root.iterdir()) == []


def test_two_downloads_at_once(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower one takes what the faster one left."""
    known = PUBLISHED["cifar10"]
    archive = write_archive(tmp_path / "www" / known.packed, known.unpacked, CONTENT["cifar10"])
    pretend(monkeypatch, "cifar10", archive, f"{server}/{known.packed}")
    found: list[Path] = []
    barrier = threading.Barrier(3)

    def work() -> None:
        barrier.wait()
        found.append(Path(locate("cifar10", tmp_path / "root", download=True)))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "root" / known.unpacked] * 3
    assert len(load_splits(found[0]).train) == 10

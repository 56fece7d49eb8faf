from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import tarfile
import warnings
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import torch
from export_cases import StoredRun, stored_run
from PIL import Image

import fastclr.transfer.embed
import fastclr.transfer.feature_parts
from fastclr.cli import main
from fastclr.data import load_dataset
from fastclr.data.open_source import open_source
from fastclr.evaluate import extract_features
from fastclr.training.run import Run
from fastclr.transfer.embed import embed
from fastclr.transfer.feature_file import FeatureFile, nearest, read_features, read_settings, write_features


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run with random weights, small parts and small batches."""
    monkeypatch.setattr(fastclr.transfer.feature_parts, "PART", 32)
    return stored_run(tmp_path / "run", "resnet18", 32, width=0.125)


def test_features_ids_names_and_labels_are_those_of_the_images(run: Run, pictures: Path, tmp_path: Path) -> None:
    done = embed(run, pictures, tmp_path / "f.npz", split="train", batch_size=24, device="cpu")
    assert done is not None and done.images == 128 and not done.skipped and done.resumed == 0
    table = read_features(tmp_path / "f.npz")
    dataset = load_dataset(pictures, "train")
    expected = extract_features(run.load_encoder(), dataset.images, run.config.augment).features
    np.testing.assert_allclose(table.features, expected.numpy(), atol=1e-5)
    assert table.features.dtype == np.float32
    assert table.ids.tolist() == dataset.ids.tolist() and table.labels.tolist() == dataset.labels.tolist()
    assert tuple(table.names) == tuple(f"train/{name}" for name in dataset.names) and table.classes == dataset.classes
    assert not (tmp_path / "f.npz.parts").exists()
    with np.load(tmp_path / "f.npz") as plain:  # NumPy alone reads it
        assert set(plain.files) == {"features", "ids", "names", "labels", "classes", "settings", "skipped"}


def test_a_tar_gives_what_its_folder_gives(run: Run, pictures: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "pictures.tar.gz", "w:gz") as archive:
        for path in sorted(pictures.rglob("*.png"), reverse=True):  # stored in another order
            archive.add(path, path.relative_to(pictures))
    embed(run, pictures, tmp_path / "folder.npz", device="cpu")
    embed(run, tmp_path / "pictures.tar.gz", tmp_path / "tar.parquet", device="cpu")
    folder, tar = read_features(tmp_path / "folder.npz"), read_features(tmp_path / "tar.parquet")
    assert len(folder) == 192 and folder.ids.tolist() == list(range(192))
    assert folder.names.tolist() == tar.names.tolist() and folder.labels.tolist() == tar.labels.tolist()
    np.testing.assert_allclose(folder.features, tar.features, atol=1e-6)
    assert folder.settings == {**tar.settings, "contents": folder.settings["contents"]}
    assert folder.classes == tar.classes


def test_parquet_has_one_row_per_image(run: Run, tmp_path: Path) -> None:
    import pyarrow.parquet

    embed(run, "shapes", tmp_path / "f.parquet", split="test", half=True, device="cpu")
    columns = pyarrow.parquet.read_table(tmp_path / "f.parquet").to_pydict()
    assert list(columns) == ["id", "name", "label", "features"]
    dataset = load_dataset("shapes", "test")
    assert columns["label"] == dataset.labels.tolist()
    expected = extract_features(run.load_encoder(), dataset.images[:8], run.config.augment).features
    np.testing.assert_allclose(columns["features"][:8], expected.numpy(), rtol=1e-3, atol=1e-3)


def test_z_goes_through_the_head(tmp_path: Path, pictures: Path) -> None:
    folder = str(tmp_path / "run")
    tiny = ["--width", "0.125", "--epochs", "1", "--warmup-epochs", "0", "--batch-size", "32", "--device", "cpu"]
    assert main(["pretrain", "--preset", "demo", "--data", str(pictures), "--out", folder, *tiny]) == 0
    out = tmp_path / "z.npz"
    command = ["embed", folder, str(pictures), "--out", str(out), "--features", "z", "--split", "test"]
    assert main([*command, "--device", "cpu"]) == 0
    run = Run.open(Path(folder))
    h = extract_features(run.load_encoder(), load_dataset(pictures, "test").images, run.config.augment).features
    weights = run.latest_checkpoint().method  # the head of the demo: linear, ReLU, linear
    hidden = torch.relu(h @ weights["head.0.weight"].T + weights["head.0.bias"])
    expected = hidden @ weights["head.2.weight"].T + weights["head.2.bias"]
    np.testing.assert_allclose(read_features(out).features, expected.numpy(), atol=1e-4)


def embed_until_killed(part: int, folder: Path, images: Path, out: Path) -> None:
    parts = fastclr.transfer.feature_parts
    whole, numbers = parts.write_atomically, itertools.count(1)

    def dying(path: Path, write: Any) -> None:
        if next(numbers) == part:
            path.with_name(path.name + ".tmp").write_bytes(b"torn")
            os.kill(os.getpid(), signal.SIGKILL)
        whole(path, write)

    parts.PART, parts.write_atomically = 32, dying
    run = Run.open(folder)
    how: dict[str, Any] = {"batch_size": 16, "device": "cpu", "loader": "torch", "workers": 1}
    embed(StoredRun(folder, run.config), str(images), out, **how)


def test_a_killed_call_goes_on_and_ends_with_the_same_file(run: Run, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.npz"
    (pictures_here := tmp_path / "images").mkdir()
    shutil.copytree(pictures, pictures_here, dirs_exist_ok=True)
    (pictures_here / "train" / "square" / "broken.png").write_bytes(b"no picture")
    forked.run(embed_until_killed, 3, run.folder, pictures_here, out, status=-signal.SIGKILL)
    assert not out.exists()
    assert len(list((tmp_path / "f.npz.parts").glob("part-*.npz"))) == 2  # killed in the third
    seen: list[int] = []
    collect = fastclr.transfer.embed.collect

    def counting(module, batches, augment, autocast):  # type: ignore[no-untyped-def]
        seen.extend(len(batch) for batch in batches)
        return collect(module, batches, augment, autocast)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastclr.transfer.embed, "collect", counting)
        done = embed(run, pictures_here, out, batch_size=16, device="cpu", loader="torch", workers=0)
    assert done is not None and done.resumed == 64
    assert sum(seen) == 192 - 2 * 32
    assert [name for name, _ in done.skipped] == ["train/square/broken.png"]
    embed(run, pictures_here, tmp_path / "whole.npz", batch_size=16, device="cpu")
    one, other = read_features(out), read_features(tmp_path / "whole.npz")
    assert one.ids.tolist() == other.ids.tolist() and one.skipped == other.skipped
    np.testing.assert_array_equal(one.features, other.features)


def test_existing_files_and_parts_of_other_settings_are_refused(run: Run, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.npz"
    assert embed(run, pictures, out, split="test", device="cpu") is not None
    before = out.read_bytes()
    assert embed(run, pictures, out, split="test", device="cpu") is None  # the same: nothing to do
    with pytest.raises(ValueError, match=r"other settings \(dtype: 'float32' there, 'float16' now\)"):
        embed(run, pictures, out, split="test", half=True, device="cpu")
    with pytest.raises(ValueError, match="images: "):
        embed(run, pictures, out, split="train", device="cpu")
    assert out.read_bytes() == before
    (tmp_path / "notes.npz").write_text("mine")
    with pytest.raises(ValueError, match="no file of features"):
        embed(run, pictures, tmp_path / "notes.npz", device="cpu")
    assert (tmp_path / "notes.npz").read_text() == "mine"
    (tmp_path / "g.npz.parts").mkdir()
    (tmp_path / "g.npz.parts" / "settings.json").write_text(json.dumps({"features": "z"}))
    with pytest.raises(ValueError, match="features: 'z' there, 'h' now"):
        embed(run, pictures, tmp_path / "g.npz", device="cpu")


@pytest.mark.parametrize("kind", ["folder", "tar", "npz", "arrays"])
def test_other_images_under_the_same_names_are_other_images(kind: str, run: Run, tmp_path: Path) -> None:
    """A camera numbers its pictures anew every day."""
    sources: list[Any] = []
    for day in range(2):
        pixels = np.random.default_rng(day).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
        folder = tmp_path / f"day{day}"
        folder.mkdir()
        for index, image in enumerate(pixels):
            Image.fromarray(image).save(folder / f"{index}.bmp")  # all of one size
            os.utime(folder / f"{index}.bmp", (1000 + day, 1000 + day))
        with tarfile.open(tmp_path / f"day{day}.tar", "w") as archive:
            archive.add(folder, "photos")
        os.utime(tmp_path / f"day{day}.tar", (1000 + day, 1000 + day))
        np.savez(tmp_path / f"day{day}.npz", images=pixels)
        places = {"folder": folder, "tar": tmp_path / f"day{day}.tar", "npz": tmp_path / f"day{day}.npz"}
        sources.append(places.get(kind, pixels))
    first, second = sources
    out = tmp_path / "f.npz"
    assert embed(run, first, out, device="cpu") is not None and embed(run, first, out, device="cpu") is None
    with pytest.raises(ValueError, match=r"made with other settings \(contents: "):
        embed(run, second, out, device="cpu")
    shutil.rmtree(tmp_path / "f.npz.parts", ignore_errors=True)
    parts = fastclr.transfer.feature_parts.Parts(tmp_path / "f.npz.parts", read_settings(out), 4)
    parts.open()  # as a kill leaves it
    out.unlink()
    with pytest.raises(ValueError, match=r"made with other settings \(contents: "):
        embed(run, second, out, device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out": "f.csv"}, r"ends in \.npz or \.parquet"),
        ({"out": "no/such/folder/f.npz"}, "folder that does not exist"),
        ({"source": "no/such/place"}, "does not exist"),
        ({"split": "val"}, "all, train or test"),
        ({"features": "y"}, "must be h"),
        ({"batch_size": 0}, "batch_size"),
        ({"loader": "disk"}, "loader must be one of"),
        ({"source": "shapes", "loader": "dali"}, "shapes holds pixels"),
    ],
)
def test_bad_arguments_are_refused(
    change: dict[str, str], message: str, run: Run, pictures: Path, tmp_path: Path
) -> None:
    arguments = {"source": str(pictures), "out": "f.npz", **change}
    out = tmp_path / arguments.pop("out")
    with pytest.raises(ValueError, match=message):
        embed(run, arguments.pop("source"), out, **arguments)  # type: ignore[arg-type]
    assert not out.exists()


def test_mostly_unreadable_images_are_an_error_and_can_be_mended(run: Run, tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "f.npz"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.png").write_bytes(b"no picture")
    Image.new("RGB", (40, 50), (200, 0, 0)).save(folder / "3.png")
    with pytest.raises(ValueError, match="3 of 4 images"):
        embed(run, folder, out, device="cpu")
    assert not out.exists()
    for index in range(2):
        Image.new("RGB", (40 + index, 50), (0, 200, 0)).save(folder / f"{index}.png")
    done = embed(run, folder, out, device="cpu")
    assert done is not None and done.images == 3
    table = read_features(out)
    assert table.ids.tolist() == [0, 1, 3] and table.labels.tolist() == [-1] * 3 and table.classes == ()
    assert [name for name, _ in table.skipped] == ["2.png"]


def test_listing_keeps_splits_apart(pictures: Path) -> None:
    everything, train, test = (
        [entry.path for entry in open_source(pictures).listed(split)[0]] for split in ("all", "train", "test")
    )
    assert everything == train + test
    assert (len(train), len(test)) == (128, 64)
    with pytest.raises(ValueError, match="no images of the split test"):
        open_source(pictures / "train").listed("test")


def test_nearest_equals_scikit_learn() -> None:
    from sklearn.neighbors import NearestNeighbors

    generator = np.random.default_rng(0)
    features = generator.normal(size=(200, 16)).astype(np.float32)
    distances, rows = NearestNeighbors(n_neighbors=8, metric="cosine").fit(features).kneighbors(features[5:6])
    cosines, found = nearest(features, features[5], 8)
    assert found.tolist() == rows[0].tolist()
    np.testing.assert_allclose(cosines, 1 - distances[0], atol=1e-6)
    features.flags.writeable = False  # as parquet gives it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cosines, others = nearest(features, features[5], 7, without=5)
    assert others.tolist() == rows[0, 1:].tolist()
    with pytest.raises(ValueError, match="between 1 and the 199"):
        nearest(features, features[5], 200, without=5)
    with pytest.raises(ValueError, match=r"\[N, F\] and \[F\]"):
        nearest(features, features[5, :8], 3)


def test_names_that_are_no_text_survive(tmp_path: Path) -> None:
    names = np.array(["caf\u00e9.png", "bad\udcff.png"])
    rows = np.arange(2, dtype=np.int64)
    table = FeatureFile(np.eye(2, dtype=np.float32), rows, names, rows - 1, ("a", "b"), {"features": "h"})
    for suffix, second in ((".npz", "bad\udcff.png"), (".parquet", "bad\\udcff.png")):
        write_features(tmp_path / f"f{suffix}", table)
        found = read_features(tmp_path / f"f{suffix}")
        assert found.names.tolist() == ["caf\u00e9.png", second]
        np.testing.assert_array_equal(found.features, table.features)


def test_search(
    run: Run, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "load_encoder", StoredRun.load_encoder)
    out = str(tmp_path / "f.npz")
    assert main(["embed", str(run.folder), str(pictures), "--out", out, "--device", "cpu"]) == 0
    assert "192 images of 64 features" in capsys.readouterr().out
    table = read_features(Path(out))
    cosines, rows = nearest(table.features, table.features[7], 3, without=7)
    assert main(["search", out, "7", "--k", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(str(table.names[row]) in line for row, line in zip(rows, lines[1:], strict=True))
    assert f"{cosines[0]:.4f}" in lines[1]
    assert main(["search", out, str(table.names[7]), "--k", "3"]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    picture = str(pictures / str(table.names[7]))
    assert main(["search", out, picture, "--k", "1", "--run", str(run.folder), "--device", "cpu"]) == 0
    assert str(table.names[7]) in capsys.readouterr().out.splitlines()[1]  # itself
    assert main(["search", out, picture]) == 2
    assert "--run" in capsys.readouterr().err
    assert main(["search", out, "no-such-image"]) == 2
    assert "neither the id nor the name" in capsys.readouterr().err
    other = stored_run(tmp_path / "other", "resnet18", 32, width=0.25)
    assert main(["search", out, picture, "--run", str(other.folder)]) == 2
    assert "not made by the current encoder" in capsys.readouterr().err


def test_parts_follow_no_link_and_adopt_nothing(
    run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, parts, prey = tmp_path / "f.npz", tmp_path / "f.npz.parts", tmp_path / "prey"
    prey.write_text("precious")
    (tmp_path / "elsewhere").mkdir()
    parts.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="is a link"):
        embed(run, pictures, out, split="test", device="cpu")
    assert not list((tmp_path / "elsewhere").iterdir())
    parts.unlink()
    parts.mkdir()
    (parts / "part-00000000.npz").write_bytes(b"whose?")
    with pytest.raises(ValueError, match="has no settings of fastclr"):
        embed(run, pictures, out, split="test", device="cpu")
    (parts / "part-00000000.npz").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: parts.stat().st_uid + 1)
        with pytest.raises(ValueError, match="belongs to another user"):
            embed(run, pictures, out, split="test", device="cpu")
    (parts / "settings.json.tmp").symlink_to(prey)
    with monkeypatch.context() as patch:  # the links lie there when the parts are put together

        def full(descriptor: int, start: int, size: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space left"):
            embed(run, pictures, out, split="test", device="cpu")
    for name in ("whole", "whole.npy"):
        (parts / name).unlink(missing_ok=True)
        (parts / name).symlink_to(prey)
    (tmp_path / "f.npz.tmp").symlink_to(prey)
    done = embed(run, pictures, out, split="test", device="cpu")
    assert done is not None and done.images == done.resumed == 64
    assert prey.read_text() == "precious" and not parts.exists()


def test_parts_that_are_damaged_are_made_again(
    run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out, parts = tmp_path / "f.npz", tmp_path / "f.npz.parts"
    with monkeypatch.context() as patch:

        def full(path: Path, table: FeatureFile) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(fastclr.transfer.embed, "write_features", full)
        with pytest.raises(OSError, match="No space left"):
            embed(run, pictures, out, split="train", batch_size=32, device="cpu")
    assert len(list(parts.glob("part-*.npz"))) == 4
    (parts / "part-00000000.npz").write_bytes(b"")
    with np.load(parts / "part-00000002.npz") as part:
        stored = dict(part)
    np.savez(parts / "part-00000002.npz", **{**stored, "features": stored["features"] * np.nan})
    np.savez(parts / "part-00000003.npz", **{**stored, "rows": stored["rows"] + 10**6})
    np.savez(parts / "part-00000009.npz", rows=np.array([{}], dtype=object))
    done = embed(run, pictures, out, split="train", batch_size=32, device="cpu")
    assert done is not None and done.images == 128 and done.resumed == 32
    assert caplog.text.count("is damaged, and its images are embedded again") == 4
    embed(run, pictures, tmp_path / "whole.npz", split="train", device="cpu")
    one, other = read_features(out), read_features(tmp_path / "whole.npz")
    np.testing.assert_allclose(one.features, other.features, atol=1e-6)
    assert one.names.tolist() == other.names.tolist()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("features", np.full((3, 2), np.nan, np.float32), "must be finite"),
        ("features", np.zeros((3, 2), np.int32), "features must be of kind 'f'"),
        ("features", np.zeros((2, 2), np.float32), r"must be \[N, F\]"),
        ("features", np.zeros((), np.float32), "unsized|must be"),
        ("labels", np.array([0, 1, 2]), r"labels must be in -1 .. 1"),
        ("names", np.arange(3), "names must be of kind 'U'"),
        ("classes", np.arange(2), "classes in it must be"),
        ("settings", np.array("5"), "settings in it must be"),
        ("settings", np.array("[" * 100_000), "recursion"),
        ("skipped", np.array("[[1, 2]]"), "skipped in it must be"),
        ("ids", np.array([{}, {}, {}], dtype=object), "allow_pickle"),
    ],
)
def test_files_of_features_are_checked(name: str, value: np.ndarray, message: str, tmp_path: Path) -> None:  # type: ignore[type-arg]
    rows = np.arange(3, dtype=np.int64)
    table = FeatureFile(np.eye(3, 2, dtype=np.float32), rows, rows.astype(str), rows * 0, ("a", "b"), {})
    write_features(tmp_path / "f.npz", table)
    with np.load(tmp_path / "f.npz") as stored:
        arrays = {**stored, name: value}
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(ValueError, match=f"f.npz is no file of features that fastclr wrote: .*{message}"):
        read_features(tmp_path / "f.npz")


def test_features_that_are_no_numbers_are_not_written(run: Run, pictures: Path, tmp_path: Path) -> None:
    encoder = run.load_encoder()
    torch.nn.init.constant_(next(encoder.parameters()), torch.inf)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(FloatingPointError, match="features must be finite"):
        patch.setattr(StoredRun, "load_encoder", lambda self: encoder)
        embed(run, pictures, tmp_path / "f.npz", split="test", device="cpu")
    assert not (tmp_path / "f.npz").exists()

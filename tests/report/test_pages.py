from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from html_pages import cells, pixels, read_page, section
from PIL import Image
from tiny_run import TINY
from torch.nn import functional as F

from fastclr.augment import SimCLRAugment
from fastclr.cli import main
from fastclr.data import load_splits
from fastclr.evaluate import lbfgs_probe
from fastclr.report import Missing, write_comparison, write_report
from fastclr.report.blocks import Table
from fastclr.report.feature_sections import sheet_section
from fastclr.report.material import Sheet, make_sheet
from fastclr.training.build import build, load_data
from fastclr.training.evaluation import run_features
from fastclr.training.loop import pretrain_in
from fastclr.training.method_presets import with_method
from fastclr.training.run import Run

SECTIONS = [
    "overview",
    "training",
    "views",
    "map",
    "neighbours",
    "confusion",
    "collapse",
    "configuration",
    "environment",
]


def test_a_finished_run_has_every_section(finished: Path) -> None:
    page = read_page(finished / "report.html")
    assert [s.attributes["id"] for s in page.all("section")] == SECTIONS
    assert page.all("h1")[0].text == "whole"
    assert not page.all("p", **{"class": "missing"})
    overview = section(page, "overview")
    records = Run.open(finished).metrics.read()
    knn = next(r["eval/knn_top1"] for r in reversed(records) if r["kind"] == "eval")
    assert f"{100 * knn:.2f}%" in overview.text and "finished, 3 epochs" in overview.text
    assert "fine-tuning" in overview.text and "not evaluated" in overview.text
    assert len(section(page, "training").all("svg")) == 7
    assert len(section(page, "map").all("svg")) >= 2
    assert torch.__version__ in section(page, "environment").text


def test_results_appear_with_their_protocols(copied: Path, few: None, pictures: Path) -> None:
    run = Run.open(copied)
    confusion = [[5, 2], [1, 9]]
    run.add_result(
        "probe-lbfgs",
        {"protocol": "lbfgs", "accuracy": 14 / 17, "accuracy_std": None, "classes": ["a", "b"], "confusion": confusion},
    )
    write_report(run, load_splits(pictures))
    page = read_page(copied / "report.html")
    rows = {row[0]: row[1:] for row in cells(section(page, "overview").all("table")[0])}
    assert rows["probe-lbfgs"][0] == "82.35%" and "protocol=lbfgs" in rows["probe-lbfgs"][1]
    assert "linear probe" not in rows  # it was evaluated
    (matrix,) = section(page, "confusion").all("table")
    assert cells(matrix) == [["a", "5", "2"], ["b", "1", "9"]] and "probe-lbfgs" in matrix.all("caption")[0].text


def test_the_sheet_shows_the_views_of_the_first_epoch(finished: Path) -> None:
    run = Run.open(finished)
    dataset = load_data(run.config).train
    (table,) = section(read_page(finished / "report.html"), "views").all("table")
    first, second, third = (row.all("img") for row in table.all("tbody")[0].all("tr"))
    names = [picture.attributes["alt"].partition(" of ")[2] for picture in first]
    chosen = dataset.select(torch.tensor([dataset.names.index(name) for name in names]))
    views = SimCLRAugment(run.config.augment, 2, run.config.seed, impl="reference")(chosen.images, chosen.ids, 0)
    mean, std = torch.tensor(run.config.augment.mean), torch.tensor(run.config.augment.std)
    for row, view in zip((second, third), views, strict=True):
        for picture, expected in zip(row, view, strict=True):
            shown = (expected.permute(1, 2, 0) * std + mean).clamp(0, 1).numpy() * 255
            assert np.abs(pixels(picture) - shown).max() <= 1.01
    for picture, image in zip(first, chosen.images, strict=True):
        assert np.abs(pixels(picture).astype(int) - image.numpy()).max() <= 1  # 32 px: not even cropped


@pytest.mark.parametrize(("method", "count"), [("byol", 2), ("dino", 10), ("jigsaw", 1)])
def test_the_sheet_shows_the_views_that_the_method_trains_on(
    method: str, count: int, tmp_path: Path, pictures: Path
) -> None:
    augment = dataclasses.replace(TINY.augment, size=48, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    config = with_method(dataclasses.replace(TINY, data=str(pictures), augment=augment), method)
    training = build(config)
    dataset = training.data.train
    sheet = make_sheet(Run(tmp_path / method, config), dataset)
    assert isinstance(sheet, Sheet)
    chosen = dataset.select(torch.tensor([dataset.names.index(name) for name in sheet.names]))
    made = training.augment(chosen.images, chosen.ids, 0)
    views = [view for group in (made if isinstance(made, tuple) else (made,)) for view in group]
    assert len(views) == sheet.count == count and len(sheet.views) == min(count, 4)
    for shown, view in zip(sheet.views, views, strict=False):
        expected = view.permute(0, 2, 3, 1) * torch.tensor(augment.std) + torch.tensor(augment.mean)
        assert shown.shape == expected.shape
        assert (shown - 255 * expected.clamp(0, 1)).abs().max() <= 0.51
    table = sheet_section(sheet)
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["image", *(f"view {number + 1}" for number in range(min(count, 4)))]
    assert ("the first 4 of their 10 views" in table.caption) == (method == "dino")


def test_neighbours_equal_scikit_learn(finished: Path) -> None:
    from sklearn.neighbors import NearestNeighbors

    run = Run.open(finished)
    data = load_data(run.config)
    assert data.test is not None
    features = run_features(run.load_encoder(), data, run.config).test.numpy()
    (table,) = section(read_page(finished / "report.html"), "neighbours").all("table")
    for row in table.all("tbody")[0].all("tr"):
        names = [picture.attributes["alt"].rpartition(", ")[0] for picture in row.all("img")]
        query = data.test.names.index(names[0])
        finder = NearestNeighbors(n_neighbors=6, metric="cosine").fit(features)
        found = finder.kneighbors(features[query : query + 1], return_distance=False)[0].tolist()
        assert [data.test.names[i] for i in found if i != query][:5] == names[1:]
        classes = [name.split("/")[0] for name in names]
        marks = [mark.text for cell in row.children[1:] for mark in cell.all("b")]
        assert marks == ["\N{CHECK MARK}" if c == classes[0] else "\N{MULTIPLICATION X}" for c in classes[1:]]


def test_the_confusion_is_that_of_the_probe_and_counts_every_test_image(finished: Path) -> None:
    run = Run.open(finished)
    data = load_data(run.config)
    assert data.test is not None
    confusion = section(read_page(finished / "report.html"), "confusion")
    (matrix,) = confusion.all("table")
    scores = lbfgs_probe(run_features(run.load_encoder(), data, run.config), l2=1e-3).scores
    assert [[int(cell) for cell in row[1:]] for row in cells(matrix)] == scores.confusion
    assert f"{100 * scores.top1:.2f}% right" in confusion.text
    counted = {row[0]: sum(map(int, row[1:])) for row in cells(matrix)}
    names, counts = np.unique([name.split("/")[0] for name in data.test.names], return_counts=True)
    assert counted == dict(zip(names.tolist(), counts.tolist(), strict=True))


def test_changed_options_stand_out(finished: Path) -> None:
    everything = section(read_page(finished / "report.html"), "configuration").all("details")[0].all("table")[0]
    rows = everything.all("tbody")[0].all("tr")
    marked = {row.children[0].text for row in rows if row.attributes.get("class") == "marked"}
    differing = {row[0] for row in cells(everything) if row[1] != row[2]}
    assert marked == differing and {"width", "epochs", "lr"} <= marked and len(rows) > 40


def test_an_unlabelled_run(tmp_path: Path, few: None) -> None:
    folder = tmp_path / "<script>alert(1)"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(12):
        array = generator.integers(0, 256, (40 + index, 48, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / f"<img src=x onerror=alert({index})>&'\".png")
    (folder / "bad\udcff.png").write_bytes((folder / "<img src=x onerror=alert(3)>&'\".png").read_bytes())
    config = dataclasses.replace(TINY, data=str(folder), epochs=1, batch_size=4)
    page = read_page(write_report(*pretrain_in(tmp_path / "run", config)))
    assert [s.attributes["id"] for s in page.all("section")] == SECTIONS
    assert "have no labels" in section(page, "confusion").text
    assert "13 training images" in section(page, "map").text
    assert "no class" in section(page, "neighbours").all("img")[0].attributes["alt"]
    assert not section(page, "neighbours").all("b")
    alts = " ".join(picture.attributes["alt"] for picture in page.all("img"))
    assert "<img src=x onerror=alert(3)>&'\".png" in alts and "bad\\udcff.png" in alts


def test_a_run_killed_halfway(copied: Path, few: None, pictures: Path) -> None:
    shutil.rmtree(copied / "checkpoints")
    (copied / "environment.json").unlink()
    lines = (copied / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copied / "metrics.jsonl").write_text("".join(lines[:4]) + lines[4][:20])
    assert main(["report", str(copied), "--device", "cpu"]) == 0
    page = read_page(copied / "report.html")
    overview = section(page, "overview")
    assert "stopped in epoch 2 of 3" in overview.text
    before = f"{100 * json.loads(lines[0])['eval/knn_top1']:.2f}%"
    assert ["kNN before training", before] in [row[:2] for row in cells(overview.all("table")[0])]
    assert "after epoch 0" not in page.text
    for name in ("map", "neighbours", "confusion", "collapse"):
        assert "no checkpoint" in section(page, name).text
    assert section(page, "views").all("img")
    assert "did not record its environment" in section(page, "environment").text


def test_scores_of_an_online_probe_are_drawn_where_a_run_has_them(copied: Path, finished: Path, tmp_path: Path) -> None:
    log = copied / "metrics.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    scores = iter((0.25, 0.4375))
    for record in records[1:]:  # after the evaluation before training
        record |= {"train/linear_top1": 0.125} if record["kind"] == "train" else {"eval/linear_top1": next(scores)}
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    run = Run.open(copied)
    write_report(run, Missing("not needed"))
    page = read_page(copied / "report.html")
    (drawn,) = [each for each in section(page, "training").all("svg") if "online probe, test" in str(each.attributes)]
    assert "online probe, test: 25% first, 43.8% last" in str(drawn.attributes)
    assert "online probe, training: 12.5% first" in str(drawn.attributes)
    overview = section(page, "overview")
    assert "online probe after epoch 3" in overview.text and "43.75%" in overview.text
    assert ["online probe, last", "43.75%"] in [row[:2] for row in cells(overview.all("table")[0])]
    assert "not evaluated" in overview.text  # the probe of `fastclr probe` is another
    write_comparison([Run.open(finished), run], tmp_path / "both.html")
    titles = [each.text for each in section(read_page(tmp_path / "both.html"), "training").all("h3")]
    assert "Online probe, test" in titles


def test_a_run_that_recorded_nothing(copied: Path, few: None) -> None:
    (copied / "metrics.jsonl").unlink()
    write_report(Run.open(copied), Missing("The images are at the sea."))
    page = read_page(copied / "report.html")
    assert "nothing recorded yet" in section(page, "overview").text
    assert (
        section(page, "training").text.count("Nothing was recorded.") == 4
    )  # the method's own curves have no names yet
    for name in ("views", "map", "neighbours", "confusion", "collapse"):
        assert "The images are at the sea." in section(page, name).text


def test_images_that_are_gone(copied: Path, few: None, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "data": "no/such/place"}))
    assert main(["report", str(copied)]) == 0
    assert "without pictures" in capsys.readouterr().err
    page = read_page(copied / "report.html")
    assert not page.all("img") and "no/such/place" in section(page, "views").text
    assert len(section(page, "training").all("svg")) == 7
    assert main(["report", str(copied), "--data", str(pictures), "--device", "cpu"]) == 0
    assert read_page(copied / "report.html").all("img")


def test_collapsed_and_broken_features_are_named(
    copied: Path, few: None, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.open(copied)
    whole = run.load_encoder()
    values = {"collapsed": 1.0, "broken": float("nan")}
    for name, value in values.items():
        encoder = torch.nn.Sequential(whole, torch.nn.Linear(64, 64, bias=False), torch.nn.Flatten())
        torch.nn.init.zeros_(encoder[1].weight)
        encoder[1].register_parameter("bias", torch.nn.Parameter(torch.full((64,), value)))
        monkeypatch.setattr(Run, "load_encoder", lambda _, encoder=encoder: encoder)
        write_report(run, load_splits(pictures))
        page = read_page(copied / "report.html")
        if name == "collapsed":
            assert "have collapsed: their effective rank is 1.00" in section(page, "collapse").text
            assert "all features are the same" in section(page, "map").text
        else:
            assert "NaN" in section(page, "collapse").text and "NaN" in section(page, "map").text


def test_given_features_are_used_as_they_are(copied: Path, pictures: Path) -> None:
    """Features that are identical within a class: all neighbours share the class, and all predictions are right."""
    run, data = Run.open(copied), load_splits(pictures)
    assert data.test is not None
    count = len(data.train.classes)
    generator = torch.Generator().manual_seed(0)

    def fake(labels: torch.Tensor) -> torch.Tensor:
        noise = 0.01 * torch.randn(len(labels), count + 4, generator=generator)
        return F.pad(F.one_hot(labels, count).float(), (0, 4)) + noise

    from fastclr.evaluate import Features

    features = Features(fake(data.train.labels), data.train.labels, fake(data.test.labels), data.test.labels)
    write_report(run, data, features)
    page = read_page(copied / "report.html")
    assert "100.00% right" in section(page, "confusion").text
    assert {mark.text for mark in section(page, "neighbours").all("b")} == {"\N{CHECK MARK}"}


def test_a_report_leaves_out_files_that_are_damaged_behind_their_header(
    copied: Path, few: None, pictures: Path, tmp_path: Path
) -> None:
    """Listing images finds sound headers; a report that cannot decode some is written from the others."""
    root = Path(shutil.copytree(pictures, tmp_path / "root"))
    files = sorted(root.rglob("*.png"))
    for file in files[::3]:
        content = file.read_bytes()
        file.write_bytes(content[:-40] + bytes(28) + content[-12:])
    data = load_splits(root, loader="torch")
    assert len(data.train) == 128  # nothing was decoded yet
    write_report(Run.open(copied), data)
    page = read_page(copied / "report.html")
    assert not section(page, "views").all("p", **{"class": "missing"})
    assert not section(page, "map").all("p", **{"class": "missing"})
    for file in files:
        file.write_bytes(file.read_bytes()[:-40])
    write_report(Run.open(copied), data)
    (reason,) = section(read_page(copied / "report.html"), "views").all("p", **{"class": "missing"})
    assert "cannot be read: '" in reason.text

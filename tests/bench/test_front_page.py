"""README: its blocks follow the files, its two languages say the same, its links and imports exist, its code runs."""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import report_front
from report_data import Result, load_all
from report_front import DROP_INS, KINDS, WORDS, compared, front_blocks

import fastclr
from fastclr.bench.rows import Row, Spread
from fastclr.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
ENGLISH, CHINESE = (ROOT / name for name in report_front.FRONT)
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
NTXENT = {"dim": 128, "dtype": "float32", "layout": "ntxent", "learnable": False, "device": "cpu"}


def fields(text: str) -> dict[str, Any]:
    """What both languages share."""
    prose = re.sub(r"https?://\S+", "", CODE.sub("", text))
    plain = re.sub(r"\]\([^)]*\)|`[^`]*`|<!--.*?-->", "]", prose)
    return {
        "headings": [line.count("#") for line in prose.splitlines() if line.startswith("#")],
        "blocks of code": CODE.findall(text),
        "links": Counter(re.findall(r"\]\(([^)]*)\)", prose)) - Counter(report_front.FRONT.keys()),
        "inline code": Counter(re.findall(r"`[^`]+`", prose)),
        "numbers": Counter(NUMBER.findall(plain)),
        "rows": sum(line.startswith("|") for line in prose.splitlines()),
    }


def test_both_languages_have_the_same_headings_code_links_and_numbers() -> None:
    english, chinese = (fields(path.read_text()) for path in (ENGLISH, CHINESE))
    for name, found in english.items():
        assert chinese[name] == found, name
    assert len(english["headings"]) > 5 and english["blocks of code"] and english["numbers"]


def test_the_comparison_notices_what_differs() -> None:
    text = "# A\n\nSee `x`, 3.5 and [b](c.md).\n\n```\nrun 1\n```\n"
    for other in ("## A", "run 2", "`y`", "3.6", "(d.md)", "[b](c.md) 7"):
        known = {"## A": "# A", "run 2": "run 1", "`y`": "`x`", "3.6": "3.5"}
        changed = re.sub(known.get(other, r"\[b\]\(c.md\)"), other, text)
        assert changed != text and fields(changed) != fields(text), other


@pytest.mark.parametrize("path", [ENGLISH, CHINESE, ROOT / "docs" / "results.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = CODE.sub("", path.read_text())
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    assert len(targets) > 5
    for target in targets:
        name, _, anchor = target.partition("#")
        found = path.parent / name if name else path
        assert found.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in slugs, target


def test_the_page_is_short_and_says_first_what_it_is() -> None:
    lines = ENGLISH.read_text().splitlines()
    assert len(lines) < 92
    assert sum(bool(line) and not line.startswith("<!--") for line in lines) <= 75  # that a reader sees
    first = " ".join(lines[:8])
    for part in ("Apache-2.0, which asks nothing of the weights", "no telemetry", "nothing is fetched unless you ask"):
        assert part in first, part


@pytest.mark.parametrize("each", DROP_INS, ids=lambda each: each.theirs)
def test_a_drop_in_exists_and_so_does_what_it_replaces(each: Any) -> None:
    for dotted in (each.ours, each.theirs):
        module, _, name = dotted.rpartition(".")
        package = module.partition(".")[0]  # `losses` and `solo` are folders of checkouts
        if package == "fastclr" or (package not in ("losses", "solo") and find_spec(package)):
            assert callable(getattr(importlib.import_module(module), name)), dotted


def test_every_method_and_every_loss_of_the_table_exists_and_none_is_missing() -> None:
    named = [name for _, names, _ in KINDS for name in names]
    assert sorted(named) == sorted(METHODS)
    losses = {loss for _, _, found in KINDS for loss in found}
    public = {name for name in vars(fastclr.losses)["__all__"] if name.endswith("Loss")}
    assert losses == public


def test_factors_are_those_of_the_files() -> None:
    results = load_all(ROOT / "benchmarks" / "results")
    text = front_blocks(results, {}, "en")["drop-ins"]
    rows = [row for result in results for row in result.rows if row.provider == "open_clip" and row.ratio]
    (line,) = [line for line in text.splitlines() if "open_clip.loss.ClipLoss" in line]
    cells = [cell.strip() for cell in line.split("|")]
    assert any(f"{row.ratio.median:.1f}x" == cells[4].lstrip("~") for row in rows if row.ratio)


def timed(suite: str, case: str, provider: str, ratio: float, **values: Any) -> Row:
    row = Row(suite=suite, case=case, provider=provider, status="ok", work=1000, n=9, **values)
    row.time = Spread(0.01 * ratio, 0.01 * ratio, 0.01 * ratio)
    row.ratio = Spread(ratio, ratio, ratio)
    return row


def made(rows: list[Row]) -> Result:
    machine = {"device": "cpu", "cpu": "Some CPU", "threads": 2, "malloc": "default", "versions": {"torch": "2.14.1"}}
    return Result(Path("some.json"), machine, rows, {}, ["make bench"], [])


def test_headlines_compare_with_the_fastest_library_and_say_where() -> None:
    rows = []
    for images in (256, 1024, 2048):
        for name, ratio, count in (("fastclr", 1.0, 1024 * images), ("pytorch", 4.0, 64 * images**2)):
            size = NTXENT | {"rows": 2 * images}
            rows.append(timed("loss", str(images), name, ratio, parameters=size, peak_bytes=count))
    for case, factors in (("cifar-32", (30.0, 12.5)), ("photos-224", (2.5, 9.0))):
        rows.append(timed("augment", case, "fastclr", 1.0))
        rows += [timed("augment", case, name, x) for name, x in zip(("kornia", "dali"), factors, strict=True)]
    for language in WORDS:
        text = front_blocks([made(rows)], {}, language)["headlines"]
        for part in ("128", "2 MiB", "256 MiB", "2,048", "10 ms", "4.0", "100,000", "12.5", "2.5", "dali", "kornia"):
            assert part in text, (language, part)
        assert "Some CPU" in text and "(benchmarks/results/some.json)" in text and "9.0" not in text


def test_what_no_file_has_is_left_out() -> None:
    size = NTXENT | {"rows": 4096}
    alone = made([timed("loss", "a", "fastclr", 1.0, parameters=size), timed("augment", "cifar-32", "fastclr", 1.0)])
    found = front_blocks([alone], {}, "en")
    assert "x" not in found["headlines"].replace("Some CPU", "") and "not measured" in found["drop-ins"]
    assert "No GPU run" in found["unknown"] and compared(DROP_INS[0], []) is None


def test_the_output_shown_is_that_of_its_file() -> None:
    found = json.loads((ROOT / report_front.RESULTS_FOLDER / "front" / "example.json").read_text())
    example, *others = found["knn_top1"].values()
    text = ENGLISH.read_text()
    assert f"kNN {100 * example:.1f}%\n{example}\n" in text
    assert all(f" {100 * other:.1f}%" in text for other in others) and len(others) == 2
    assert f"{found['processor_s'] / 60:.0f} minutes of one core" in text


def test_accuracies_of_few_labels_are_those_of_their_file() -> None:
    stored = json.loads((ROOT / report_front.RESULTS_FOLDER / "front" / "few-labels.json").read_text())
    text = (ROOT / "docs" / "few-labels.md").read_text()
    pretraining, *_ = stored["commands"]
    assert pretraining.removesuffix(" --out RUN") in text.replace("\\\n    ", "")
    for name, found in stored["results"].items():
        spread = f" +- {100 * found['std']:.1f}" if found.get("std") else ""
        assert f"{100 * found['accuracy']:.1f}%{spread}" in text, name
    assert f"from the first ({100 * stored['results']['distill-1pct-self']['teacher_accuracy']:.1f}%)" in text


@pytest.mark.slow
def test_the_example_runs_on_a_folder_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And prints lines of the form that README shows."""
    code = CODE.findall(ENGLISH.read_text())
    (block,) = [each for each in code if "fastclr.pretrain" in each]
    (printed,) = [each for each in code if each.startswith("```text")]
    source = "\n".join(block.splitlines()[1:-1])
    shorter = re.sub(r"epochs=\d+", "epochs=1, batch_size=32", source)
    assert shorter != source
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(pictures)
    exec(compile(shorter, "README.md", "exec"), {})
    assert (tmp_path / "features.npz").is_file() and (tmp_path / "runs" / "photos" / "report.html").is_file()
    said = "\n".join(capsys.readouterr())
    expected = printed.splitlines()[1:-1]
    assert len(expected) >= 3 and {*map(form, expected)} <= {*map(form, said.splitlines())}


def form(line: str) -> str:
    """Return a line without its numbers."""
    return NUMBER.sub("N", line)

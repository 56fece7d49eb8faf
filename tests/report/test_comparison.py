"""The page and the table that compare several runs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from html_pages import cells, read_page, section

from fastclr.cli import main
from fastclr.report import Missing, write_comparison, write_report
from fastclr.training.results import score_rows
from fastclr.training.run import Run


def test_a_comparison_of_runs(finished: Path, copied: Path, tmp_path: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "lr": 0.25, "knn_k": 7}))
    Run.open(copied).add_result("knn", {"accuracy": 0.123, "k": 7})
    out = tmp_path / "compare.html"
    assert main(["report", str(finished), str(copied), "--out", str(out)]) == 0
    page = read_page(out)
    (differing,) = section(page, "configuration").all("table")
    assert [row[0] for row in cells(differing)] == ["lr", "knn_k"]
    assert [row[1:] for row in cells(differing)] == [["0.1", "0.25"], ["20", "7"]]
    names = [cell.text for cell in differing.all("thead")[0].all("th")][1:]
    assert len(set(names)) == 2 and all(name.endswith("/whole") for name in names)
    scores = {row[0]: row[1:] for row in cells(section(page, "scores").all("table")[1])}
    assert scores["knn"][0] == "\N{EM DASH}" and scores["knn"][1].startswith("12.30%")
    for drawing in section(page, "training").all("svg"):
        styles = [path.attributes.get("style", "") for path in drawing.all("path")]
        assert all(any(f"stroke: var(--{colour})" in style for style in styles) for colour in ("c0", "c1"))
    assert main(["report", str(finished), str(copied), "--out", str(out)]) == 0  # a report may be written anew


def test_the_table_of_a_comparison(
    finished: Path, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(copied, tmp_path / "new")
    (tmp_path / "new" / "metrics.jsonl").unlink()
    run = Run.open(copied)
    run.add_result("knn-z", {"accuracy": 0.9})
    run.add_result("knn", {"accuracy": 0.123, "k": 7})
    run.add_result("probe-augmented", {"accuracy": 0.4})
    run.add_result("probe-lbfgs", {"accuracy": 0.25})
    capsys.readouterr()
    out = tmp_path / "c.html"
    assert main(["compare", str(finished), str(copied), str(tmp_path / "new"), "--out", str(out)]) == 0
    head, *rows = [re.split(r"  +", line) for line in capsys.readouterr().out.split("\n\n")[0].splitlines()]
    assert head == ["run", "method", "kNN", "linear", "images", "seconds", "processor", "memory"]
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    train = [r for r in records if r["kind"] == "train"]
    cost = [f"{train[-1]['time/train_s']:.0f}", f"{sum(r['time/processor_s'] for r in train):.0f}"]
    cost.append(f"{max(r['memory/peak_bytes'] for r in train) / 2**20:,.0f} MiB")
    assert all(r["time/processor_s"] > 0 and r["memory/peak_bytes"] > 2**27 for r in train)
    knn = f"{100 * next(r['eval/knn_top1'] for r in reversed(records) if r['kind'] == 'eval'):.2f}%"
    assert [row[1:] for row in rows] == [
        ["SimCLR", knn, "\N{EM DASH}", "384", *cost],  # 3 epochs of 128 images
        ["SimCLR", "12.30%", "25.00% (lbfgs)", "384", *cost],
        ["SimCLR", "\N{EM DASH}", "\N{EM DASH}", "0", "0", "\N{EM DASH}", "\N{EM DASH}"],
    ]
    assert cells(section(read_page(out), "scores").all("table")[0]) == rows


def test_scores_of_a_shorter_training_are_not_those_of_the_run(finished: Path, copied: Path, tmp_path: Path) -> None:
    run = Run.open(copied)
    step = run.newest_step()
    assert step is not None
    matrix = {"confusion": [[3, 1], [0, 4]], "classes": ["a", "b"]}
    run.add_result("knn", {"accuracy": 0.9, "step": step - 1, **matrix})
    run.add_result("probe-lbfgs", {"accuracy": 0.4, "step": step - 1})
    run.add_result("probe-augmented", {"accuracy": 0.3, "step": step})
    table = write_comparison([Run.open(finished), run], tmp_path / "both.html")
    first, second = table.rows
    assert second[2] == first[2] and second[3] == "30.00% (augmented)"  # as last seen in training
    rows = {name: score for name, score, _ in score_rows(run)}
    assert rows[f"knn, of step {step - 1}"] == "90.00%" and rows["probe-augmented"] == "30.00%" and "knn" not in rows
    write_report(run, Missing("not needed"))
    assert "From the result" not in section(read_page(copied / "report.html"), "confusion").text


def test_comparisons_that_make_no_sense_are_refused(finished: Path, copied: Path, tmp_path: Path) -> None:
    one, other = Run.open(finished), Run.open(copied)
    (tmp_path / "mine.html").write_text("<html>my page</html>")
    for runs, out, message in (
        ([one], "a.html", "at least 2"),
        ([one, one], "a.html", "given twice"),
        ([one, other], "a.pdf", "must end in .html"),
        ([one, other], "no/such/a.html", "does not exist"),
        ([one, other], "mine.html", "not a fastclr report"),
    ):
        with pytest.raises(ValueError, match=message):
            write_comparison(runs, tmp_path / out)
    assert (tmp_path / "mine.html").read_text() == "<html>my page</html>" and not (tmp_path / "a.html").exists()

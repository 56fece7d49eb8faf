"""The pages with numbers, their plots and the page of a machine match the results files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import report
import report_data
from report_plots import digest_of, stored_digest

from fastclr.bench.rows import Row, Spread
from fastclr.bench.suite import FORMAT

ROOT = Path(__file__).resolve().parents[2]


def test_pages_and_plots_say_what_the_results_say() -> None:
    assert report.main(["--check"]) == 0


def timed(suite: str, case: str, provider: str, seconds: float, ratio: float, **values: Any) -> Row:
    row = Row(suite=suite, case=case, provider=provider, status="ok", work=100, n=9, **values)
    row.time = Spread(seconds, 0.9 * seconds, 1.2 * seconds)
    row.ratio, row.reference = Spread(ratio, ratio, ratio), "fastclr"
    return row


def results(device: str, rows: list[Row], missing: list[str] | None = None, malloc: str = "default") -> dict[str, Any]:
    where = {"gpu": "NVIDIA H200", "power_limit": "700.00 W", "driver": "580.1"} if device == "cuda" else {}
    machine = {"device": device, "cpu": "Some CPU", "threads": 2, "commit": "0123456789abcdef", "dirty": True, **where}
    machine |= {"malloc": malloc, "rehearsal": False}
    machine["versions"] = {"torch": "2.11.0", "triton": "3.6.0"}
    return {
        "format": FORMAT,
        "machine": machine,
        "commands": ["make bench-gpu"],
        "ceilings": {"copy bytes": 4.3e12},
        "missing": missing or [],
        "rows": [row.as_json() for row in rows],
    }


def some_rows(dtype: str = "bfloat16", device: str = "cuda") -> list[Row]:
    parameters = {"rows": 4096, "dim": 128, "dtype": dtype, "layout": "ntxent", "learnable": False, "device": device}
    rows = [
        timed("loss", "a", "fastclr", 0.002, 1.0, parameters=parameters, peak_bytes=2**20, floor_s=0.001),
        timed("loss", "a", "lightly", 0.006, 3.0, parameters=parameters, peak_bytes=2**24, versions={"lightly": "1.6"}),
        Row(suite="loss", case="a", provider="memeff", status="wrong", parameters=parameters, note="error 5e-01"),
        Row(suite="loss", case="a", provider="gone", status="not installed", parameters=parameters, note="no module"),
        timed("augment", "cifar-32", "fastclr", 0.01, 1.0, unit="views"),
    ]
    return rows


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with only the pages that have numbers, and a folder of results."""
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "RESULTS", tmp_path / "benchmarks" / "results")
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    for page in report.PAGES:
        names = [found[1] for found in report.BLOCK.finditer((ROOT / page).read_text())]
        blocks = [f"{report.BEGIN.format(name=name)}\nold\n{report.END}\n" for name in names]
        (tmp_path / page).write_text("before\n" + "".join(blocks) + "after\n")
    return tmp_path


def write(tree: Path, name: str, contents: dict[str, Any]) -> Path:
    path = tree / "benchmarks" / "results" / name
    path.write_text(json.dumps(contents))
    return path


def call(tree: Path, *arguments: str) -> int:
    return report.main([*arguments, "--results", str(tree / "benchmarks" / "results")])


def test_a_changed_number_is_noticed_in_the_pages_and_in_the_plot(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = results("cuda", some_rows())
    path = write(tree, "h200.json", contents)
    assert call(tree, "--check") == 1
    assert call(tree) == 0
    assert call(tree, "--check") == 0
    page = (tree / report.RESULTS_PAGE).read_text()
    assert page.startswith("before\n") and page.endswith("-->\nafter\n") and "\nold" not in page
    contents["rows"][0]["time"]["median"] = 0.004
    path.write_text(json.dumps(contents))
    capsys.readouterr()
    assert call(tree, "--check") == 1
    said = capsys.readouterr().out
    for name in ("README.md", report.RESULTS_PAGE, "docs/bench-loss.svg"):
        assert name in said, name
    assert "docs/bench-augment.svg" not in said


def test_the_caption_tells_where_how_and_with_what(tree: Path) -> None:
    write(tree, "h200.json", results("cuda", some_rows()))
    call(tree)
    page = (tree / report.RESULTS_PAGE).read_text()
    for part in ("NVIDIA H200", "700.00 W", "driver 580.1", "PyTorch 2.11.0", "Triton 3.6.0", "lightly 1.6", "n = 9"):
        assert part in page, part
    for part in ("commit 0123456789", "with uncommitted changes", "`make bench-gpu`", "benchmarks/results/h200.json"):
        assert part in page, part
    assert "3.0x time, 16.0x memory" in page and "50%" in page
    assert "wrong gradient" in page and "not installed" in page
    assert "Not measured on a GPU:** training step" in page


def test_a_gpu_goes_before_a_cpu_and_nothing_measured_is_said_plainly(tree: Path) -> None:
    write(tree, "a-cpu.json", results("cpu", some_rows("float32", "cpu")))
    call(tree)
    page = (tree / report.RESULTS_PAGE).read_text()
    assert "Some CPU" in page and "Not measured on a GPU: everything" in page
    write(tree, "h200.json", results("cuda", some_rows()))
    call(tree)
    page = (tree / report.RESULTS_PAGE).read_text()
    memory, times = page.split("<!-- nt-xent: ")
    assert "Some CPU" not in times and "everything" not in page
    assert "Some CPU" in memory  # bytes are counted, wherever


def test_the_other_losses_have_a_table_from_a_file_of_their_own(tree: Path) -> None:
    write(tree, "cpu.json", results("cpu", some_rows("float32", "cpu")))
    call(tree)
    assert "SupCon" not in (tree / report.RESULTS_PAGE).read_text()
    sizes = {"rows": 2048, "dim": 128, "device": "cpu"}
    rows = []
    for suite, loss, peer in (("contrast", "sup_con", "supcontrast"), ("gram", "barlow_twins", "lightly")):
        parameters = sizes | {"loss": loss}
        rows.append(timed(suite, loss, "fastclr", 0.02, 1.0, parameters=parameters, peak_bytes=2**20, floor_s=0.01))
        rows.append(timed(suite, loss, peer, 0.1, 5.0, parameters=parameters, peak_bytes=2**24))
        rows.append(Row(suite=suite, case=loss, provider="unfit", status="unsuitable", parameters=parameters))
    write(tree, "cpu-losses.json", results("cpu", rows))
    assert call(tree, "--check") == 1 and call(tree) == 0 and call(tree, "--check") == 0
    page = (tree / report.RESULTS_PAGE).read_text()
    assert "| SupCon, 100 classes | 2,048 | 128 | ~20 ms" in page and "supcontrast 5.0x time, 16.0x memory |" in page
    assert "| Barlow Twins | 2,048 |" in page and "cpu-losses.json" in page and "unfit" not in page


def test_publishing_replaces_results_of_the_same_kind_and_refuses_unfinished_ones(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tree, "old-cpu.json", results("cpu", some_rows("float32", "cpu")))
    write(tree, "h200.json", results("cuda", some_rows()))
    new = tmp_path / "new-cpu.json"
    new.write_text(json.dumps(results("cpu", some_rows("float32", "cpu"), ["loss/b"])))
    before = {path.name: path.read_bytes() for path in (tree / "benchmarks" / "results").iterdir()}
    rehearsal = results("cpu", some_rows("float32", "cpu"))
    rehearsal["machine"]["rehearsal"] = True
    partial = results("cuda", some_rows()[:2])
    other = tmp_path / "h200.json"
    for contents, said in ((rehearsal, "rehearsal"), (None, "1 case"), (partial, "lacks augment"), ([], "no results")):
        if contents is not None:
            path = other if contents is partial else new
            path.write_text(json.dumps(contents))
            assert call(tree, "--publish", str(path)) == 2
        else:
            other.write_text(json.dumps(results("cuda", some_rows())))
            new.write_text(json.dumps(results("cpu", some_rows("float32", "cpu"), ["loss/b"])))
            assert call(tree, "--publish", str(other), str(new)) == 2  # the first is good
        assert said in capsys.readouterr().err
        assert before == {path.name: path.read_bytes() for path in (tree / "benchmarks" / "results").iterdir()}
    new.write_text(json.dumps(results("cpu", some_rows("float32", "cpu"))))
    assert call(tree, "--publish", str(new)) == 0
    found = {path.name for path in (tree / "benchmarks" / "results").iterdir()}
    assert found == {"new-cpu.json", "h200.json"}


def test_a_record_is_told_with_its_clock_and_a_rehearsal_is_not(tree: Path, tmp_path: Path) -> None:
    write(tree, "h200.json", results("cuda", some_rows()))
    record = {"rehearsal": False, "target": 0.9, "epochs": 500, "epochs_done": 500, "compile_s": 41.0, "clock_s": 777.0}
    record |= {"passed": {"epoch": 480}, "curve": [], "config": {"encoder": "resnet18"}, "commands": ["make record"]}
    record |= {"supervised": {"accuracy": 0.9512, "epochs": 100}, "final": {"knn": 0.9031, "probe": 0.91}}
    record |= {"machine": results("cuda", [])["machine"]}
    new = tmp_path / "record-h200.json"
    new.write_text(json.dumps(record))
    assert call(tree, "--publish", str(new)) == 0
    page = (tree / report.RESULTS_PAGE).read_text()
    assert "777.0 s of training and 41.0 s of compilation" in page and "kNN 90.31%" in page and "epoch 480" in page
    assert "with labels 95.12% after 100 epochs" in page and call(tree, "--check") == 0
    new.write_text(json.dumps(record | {"rehearsal": True}))
    assert call(tree, "--publish", str(new)) == 2


def test_the_page_has_every_row_and_needs_nothing_else(tree: Path) -> None:
    rows = [*some_rows(), timed("step", "r18", "fastclr", 1.0, 1.0, stages={"forward": Spread(0.6, 0.6, 0.6)})]
    rows.append(timed("ladder", "+loss", "+loss", 2.0, 1.0, unit="images", note="<b>"))
    write(tree, "h200.json", results("cuda", rows, ["loader/views-4000"]))
    path = tree / "page.html"
    call(tree, "--page", str(path))
    page = path.read_text()
    for part in ("NVIDIA H200", "memeff", "error 5e-01", "no module", "+loss", "loader/views-4000", "4.3e+12", "<svg"):
        assert part in page, part
    assert "<b>" not in page and "&lt;b&gt;" in page
    assert not re.search(r"(src|href)=[\"']https?:", page)


def test_other_files_are_no_results(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="no results"):
        report_data.load(tmp_path / "other.json")


def test_kept_memory_has_a_sentence_of_its_own_and_survives_the_other_file(tree: Path) -> None:
    usual = results("cpu", some_rows("float32", "cpu"))
    write(tree, "cpu.json", usual)
    faster = [row for row in some_rows("float32", "cpu") if row.suite == "loss"]
    faster[1].ratio = Spread(1.5, 1.5, 1.5)
    write(tree, "a-cpu-kept.json", results("cpu", faster, malloc="keeps freed memory"))
    call(tree)
    page = (tree / report.RESULTS_PAGE).read_text()
    assert "| 3.0x time" in page and "cpu.json" in page
    assert "N = 2,048 takes ~2 ms [1.8 ms, 2.4 ms] in fastclr, lightly 1.5x time, 16.0x memory, [a-cpu" in page
    again = tree / "elsewhere"
    again.mkdir()
    (again / "new.json").write_text(json.dumps(usual))
    call(tree, "--publish", str(again / "new.json"))
    names = {path.name for path in (tree / "benchmarks" / "results").iterdir()}
    assert names == {"a-cpu-kept.json", "new.json"}


def test_digest_follows_the_numbers() -> None:
    assert digest_of({"a": [1, 2.0]}) != digest_of({"a": [1, 2.5]})
    assert stored_digest(f"<svg>digest:{digest_of(1)}</svg>") == digest_of(1)
    assert stored_digest("<svg></svg>") is None

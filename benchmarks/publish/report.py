"""Writes the tables of README, methods and findings, the plots, or a page, from the JSON files in benchmarks/results.

python benchmarks/publish/report.py                     rewrite the tables of README and docs, and the plots
python benchmarks/publish/report.py --check             exit status 1 if they do not match the files
python benchmarks/publish/report.py --page OUT.html     one page with everything, of --results FOLDER
python benchmarks/publish/report.py --publish FILE...   copy files into benchmarks/results, then rewrite
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from findings_table import findings_block, load_findings
from methods_table import block, load_tables, missing
from report_data import Result, in_order, load, load_all, load_records
from report_page import TITLES, page
from report_plots import augment_plot, augment_shown, digest_of, loss_plot, loss_shown, stored_digest
from report_tables import augment_table, caption, headline_losses, loss_table, losses_table, malloc_text, record_text

from fastclr.bench.machine import DEFAULT_MALLOC

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
METHODS_PAGE, FINDINGS_PAGE = "docs/methods.md", "docs/findings.md"
BEGIN, END = "<!-- written by benchmarks/publish/report.py -->", "<!-- end -->"
PLOTS = {"loss": ("docs/bench-loss.svg", loss_plot, loss_shown)}
PLOTS["augment"] = ("docs/bench-augment.svg", augment_plot, augment_shown)  # type: ignore[assignment]


def best(results: Sequence[Result], suite: str) -> Result:
    """Return the result that the README shows: one from a GPU if there is one."""
    found = [result for result in results if any(row.time for row in result.suite(suite))]
    if not found:
        raise ValueError(f"benchmarks/results has no {suite} results")
    return found[0]


def readme_block(results: Sequence[Result]) -> str:
    """Return the text between the README's markers."""
    parts = []
    loss = best(results, "loss")
    rows = headline_losses(loss.suite("loss"))
    dtype = rows[0].parameters["dtype"]
    what = f"NT-Xent, forward and backward, D = 128, {dtype}, tau 0.1"
    parts += [*loss_table(rows), "", caption(what, loss, rows, link(loss)), ""]
    for other in kept_memory(results, loss):
        parts += [f"{malloc_text(headline_losses(other.suite('loss')))}, [{other.path.name}]({link(other)}).", ""]
    parts += [f"![time and memory of NT-Xent over the number of rows]({PLOTS['loss'][0]})", ""]
    parts += losses_block(results)
    augment = best(results, "augment")
    rows = augment.suite("augment")
    photos = all(row.parameters.get("photos", True) for row in rows if "photos" in row.case)
    what = f"SimCLR's augmentation; 224 px from {'photos' if photos and not augment.on_gpu else 'noise of their size'}"
    parts += [*augment_table(rows), "", caption(what, augment, rows, link(augment), "medians"), ""]
    parts += [f"![views per second]({PLOTS['augment'][0]})", ""]
    for path, record in load_records(RESULTS).items():
        parts += [f"{record_text(record)}, [{path.name}](benchmarks/results/{path.name}).", ""]
    parts.append(not_on_gpu(results))
    return "\n".join(parts)


def losses_block(results: Sequence[Result]) -> list[str]:
    """The table of the losses beside NT-Xent, from one file that has both of their suites; nothing without one."""
    shown = next((result for result in results if result.suite("contrast") and result.suite("gram")), None)
    if shown is None:
        return []
    rows = [*shown.suite("contrast"), *shown.suite("gram")]
    what = "The other losses, N pairs (SupCon: N images in two views), forward and backward, float32"
    return [*losses_table(rows), "", caption(what, shown, rows, link(shown)), ""]


def kept_memory(results: Sequence[Result], shown: Result) -> list[Result]:
    """Return the CPU results other than `shown` for which the C library kept freed memory."""
    cpus = [] if shown.on_gpu else [result for result in results if not result.on_gpu and result is not shown]
    return [result for result in cpus if result.malloc != DEFAULT_MALLOC and result.suite("loss")]


def not_on_gpu(results: Sequence[Result]) -> str:
    """State plainly which suites have no numbers from a GPU."""
    measured = {row.suite for result in results if result.on_gpu for row in result.rows if row.time}
    missing = [title.lower() for suite, title in TITLES.items() if suite not in measured]
    if not missing:
        return "Every suite has been measured on a GPU."
    if not measured:
        return (
            "**Not measured on a GPU: everything.** No number above or elsewhere in this project comes from a GPU yet."
        )
    return f"**Not measured on a GPU:** {'; '.join(missing)}."


def link(result: Result) -> str:
    """Return the path of a results file relative to the README."""
    return f"benchmarks/results/{result.path.name}"


def stale(results: Sequence[Result], readme: str) -> list[str]:
    """Return the documents that do not match the files."""
    found = [] if split(readme)[1] == readme_block(results) else ["README.md"]
    found += [name for name, inside in tables().items() if split((ROOT / name).read_text())[1] != inside]
    for suite, (name, _, shown) in PLOTS.items():
        path = ROOT / name
        rows = best(results, suite).suite(suite)
        if not path.is_file() or stored_digest(path.read_text()) != digest_of(shown(rows)):
            found.append(name)
    return found


def tables() -> dict[str, str]:
    """Return the text between the markers of the other pages."""
    return {METHODS_PAGE: block(load_tables(RESULTS)), FINDINGS_PAGE: findings_block(load_findings(RESULTS))}


def split(readme: str) -> tuple[str, str, str]:
    """Return the text before, between and after the markers."""
    before, rest = readme.split(BEGIN + "\n")
    inside, after = rest.split("\n" + END)
    return before, inside, after


def rewrite(results: Sequence[Result]) -> None:
    """Write the blocks of README and of the pages, and the plots."""
    for name, inside in {"README.md": readme_block(results), **tables()}.items():
        path = ROOT / name
        before, _, after = split(path.read_text())
        path.write_text(f"{before}{BEGIN}\n{inside}\n{END}{after}")
    for suite, (name, draw, _) in PLOTS.items():
        (ROOT / name).write_text(draw(best(results, suite).suite(suite)))


def kind(result: Result) -> tuple[bool, str | None, str]:
    """Return the properties that a newer file must share with the older one it replaces."""
    return result.on_gpu, result.machine.get("gpu"), result.malloc


def publish(files: Sequence[Path]) -> None:
    """Copy complete results files into benchmarks/results, replacing older ones of the same device kind and suites.

    Nothing changes until every file is checked, and the README can be written from the resulting set.

    Raises:
        ValueError: a file is a rehearsal, has cases to go, or would replace one that has more suites.
    """
    records = [file for file in files if file in load_records(file.parent)]
    methods = [file for file in files if file in load_tables(file.parent)]
    findings = [file for file in files if file in load_findings(file.parent)]
    new = [load(file) for file in files if file not in (*records, *methods, *findings)]
    for file in files:
        if file.parent.resolve() == RESULTS.resolve():
            raise ValueError(f"{file} exists already")
    there, gone = load_all(RESULTS), []
    for result in new:
        if result.machine.get("rehearsal") is not False:
            raise ValueError(f"{result.path} is a rehearsal, or of a single question: publish what a suite measured")
        if result.missing:
            raise ValueError(f"{result.path} has {len(result.missing)} case(s) to go: run its command again first")
        suites = {row.suite for row in result.rows}
        for old in there:
            lost = sorted({row.suite for row in old.rows} - suites)
            if not lost and kind(old) == kind(result):
                gone.append(old)
            elif old.path.name == result.path.name:
                raise ValueError(f"{result.path} lacks {', '.join(lost) or 'the machine'} of the file that it replaces")
    older = replaced(methods)
    readme_block(in_order([*(old for old in there if old not in gone), *new]))
    for path in (*(old.path for old in gone), *older):
        path.unlink(missing_ok=True)
    for file in files:
        shutil.copyfile(file, RESULTS / file.name)


def replaced(tables: Sequence[Path]) -> list[Path]:
    """Return the published tables of methods, all of which a new one replaces.

    Raises:
        ValueError: there is more than one new table, or it lacks a method that a published one has.
    """
    if not tables:
        return []
    if len(tables) > 1:
        raise ValueError(f"there is one table of methods, got {', '.join(map(str, tables))}")
    there, new = load_tables(RESULTS), load_tables(tables[0].parent)[tables[0]]
    for path, stored in there.items():
        if lost := sorted(set(stored["methods"]) - set(missing(stored)) - (set(new["methods"]) - set(missing(new)))):
            raise ValueError(f"{tables[0]} lacks {', '.join(lost)} of {path.name}")
    return list(there)


def main(arguments: list[str]) -> int:
    """Parse the command line and run; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--publish", type=Path, nargs="+", metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        return run(options)
    except (ValueError, OSError) as error:
        print(f"report: error: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    """Do what the options say."""
    if options.publish:
        publish(options.publish)
    results = load_all(options.results)
    if not results:
        raise ValueError(f"{options.results} has no results")
    if options.page:
        options.page.parent.mkdir(parents=True, exist_ok=True)
        records = [record_text(record) for record in load_records(options.results).values()]
        options.page.write_bytes(page(results, records))
        print(options.page)
        return 0
    if options.check:
        found = stale(results, (ROOT / "README.md").read_text())
        print(
            "\n".join(f"{name} differs from benchmarks/results: run benchmarks/publish/report.py" for name in found),
            end="",
        )
        return int(bool(found))
    rewrite(results)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Writes the blocks of README and docs, and the plots, or a page, from the JSON files in benchmarks/results.

python benchmarks/publish/report.py                     rewrite the blocks of README and docs, and the plots
python benchmarks/publish/report.py --check             exit status 1 if they do not match the files
python benchmarks/publish/report.py --page OUT.html     one page with everything, of --results FOLDER
python benchmarks/publish/report.py --publish FILE...   copy files into benchmarks/results, then rewrite
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from findings_plot import effects_shown, effects_svg, grid_shown, grid_svg
from findings_table import by_tier, findings_block, load_findings, plot_of
from memory_curve import curves
from memory_plot import memory_shown, memory_svg
from methods_table import block, load_tables, missing
from report_data import Result, in_order, load, load_all, load_records
from report_front import FRONT, front_blocks
from report_page import page
from report_plots import augment_plot, augment_shown, digest_of, loss_plot, loss_shown, stored_digest
from report_results import best, results_blocks
from report_tables import record_text

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
RESULTS_PAGE, METHODS_PAGE, FINDINGS_PAGE = "docs/results.md", "docs/methods.md", "docs/findings.md"
PAGES = (*FRONT, RESULTS_PAGE, METHODS_PAGE, FINDINGS_PAGE)
BEGIN, END = "<!-- {name}: written by benchmarks/publish/report.py -->", "<!-- end -->"
BLOCK = re.compile(BEGIN.format(name=r"([\w-]+)") + "\n(.*?)" + END, re.DOTALL)


def blocks(results: Sequence[Result]) -> dict[str, dict[str, str]]:
    """Return the blocks of every page by name."""
    methods = load_tables(RESULTS)
    return {
        **{name: front_blocks(results, methods, language) for name, language in FRONT.items()},
        RESULTS_PAGE: results_blocks(results, load_records(RESULTS)),
        METHODS_PAGE: {"methods": block(methods)},
        FINDINGS_PAGE: {"findings": findings_block(load_findings(RESULTS))},
    }


def filled(name: str, text: str, inside: Mapping[str, str]) -> str:
    """Return a page with its blocks exchanged.

    Raises:
        ValueError: the page lacks a block, or has one that nobody writes.
    """
    there = [found[1] for found in BLOCK.finditer(text)]
    if sorted(there) != sorted(inside):
        raise ValueError(f"{name} must have the blocks {', '.join(inside)}, it has {', '.join(there) or 'none'}")
    return BLOCK.sub(lambda found: f"{BEGIN.format(name=found[1])}\n{inside[found[1]]}\n{END}", text)


def plots(results: Sequence[Result]) -> dict[str, tuple[str, Callable[[], str]]]:
    """Return the digest of the numbers of every plot by its name, and how it is drawn."""
    loss, augment = (best(results, suite).suite(suite) for suite in ("loss", "augment"))
    found: dict[str, tuple[str, Callable[[], str]]] = {
        "docs/bench-loss.svg": (digest_of(loss_shown(loss)), partial(loss_plot, loss)),
        "docs/bench-augment.svg": (digest_of(augment_shown(augment)), partial(augment_plot, augment)),
    }
    if counted := curves(results):
        found["docs/loss-memory.svg"] = (digest_of(memory_shown(counted[1])), partial(memory_svg, counted[1]))
    for tier, suites in by_tier(load_findings(RESULTS)).items():
        name, records = f"docs/{plot_of(tier)}", list(suites.values())
        if tier == "grid":
            found[name] = (digest_of(grid_shown(records[0])), partial(grid_svg, records[0]))
        else:
            found[name] = (digest_of(effects_shown(records)), partial(effects_svg, records))
    return found


def stale(results: Sequence[Result]) -> list[str]:
    """Return the pages and plots that do not match the files."""
    found = []
    for name, inside in blocks(results).items():
        text = (ROOT / name).read_text()
        found += [name] if filled(name, text, inside) != text else []
    for name, (digest, _) in plots(results).items():
        path = ROOT / name
        found += [] if path.is_file() and stored_digest(path.read_text()) == digest else [name]
    return found


def rewrite(results: Sequence[Result]) -> None:
    """Write the blocks of all pages, and the plots."""
    for name, inside in blocks(results).items():
        path = ROOT / name
        path.write_text(filled(name, path.read_text(), inside))
    for name, (_, draw) in plots(results).items():
        (ROOT / name).write_text(draw())


def kind(result: Result) -> tuple[bool, str | None, str]:
    """Return the properties that a newer file must share with the older one it replaces."""
    return result.on_gpu, result.machine.get("gpu"), result.malloc


def publish(files: Sequence[Path]) -> None:
    """Copy complete results files into benchmarks/results, replacing older ones of the same device kind and suites.

    Nothing changes until every file is checked, and the pages can be written from the resulting set. An older file
    stays if it timed a library in a suite that the new one did not.

    Raises:
        ValueError: a file is a rehearsal, has cases to go, or would overwrite one that has more suites.
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
        for old in there:
            lost = sorted({row.suite for row in old.rows} - {row.suite for row in result.rows})
            same = old.path.name == result.path.name
            if not lost and kind(old) == kind(result) and (same or old.timed() <= result.timed()):
                gone.append(old)
            elif same:
                raise ValueError(f"{result.path} lacks {', '.join(lost) or 'the machine'} of the file that it replaces")
    older = replaced(methods)
    blocks(in_order([*(old for old in there if old not in gone), *new]))
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
        found = stale(results)
        print(
            "\n".join(f"{name} differs from benchmarks/results: run benchmarks/publish/report.py" for name in found),
            end="",
        )
        return int(bool(found))
    rewrite(results)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The page about one run, and how a page is made of its sections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fastclr import __version__
from fastclr.data import Splits
from fastclr.evaluate import Features
from fastclr.files import write_atomically
from fastclr.methods import METHODS
from fastclr.report.blocks import Block, Missing, Section
from fastclr.report.feature_sections import (
    confusion_section,
    diagnostics_section,
    map_section,
    neighbours_section,
    sheet_section,
)
from fastclr.report.material import Material, Sample, collect
from fastclr.report.run_sections import (
    collapse_note,
    config_tables,
    environment_table,
    results_table,
    tiles,
    training_charts,
)
from fastclr.sources.printable import printable
from fastclr.training.run import Run

if TYPE_CHECKING:
    from jinja2 import Template

GENERATOR = "fastclr report"

# loaded when a page is written, and missed before a training rather than after it
for package in ("jinja2", "matplotlib"):
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"reports need {package}: pip install 'fastclr[train]'", name=package)


def write_report(
    run: Run, data: Splits | Missing, features: Features | None = None, say: Callable[[str], None] = lambda line: None
) -> Path:
    """Write ``report.html``, a single file that needs no network, into the run's folder, and return its path.

    Args:
        run: the run; it may be unfinished, unlabelled or not evaluated.
        data: its images, or why they are missing.
        features: of all labelled images under the encoder of the last checkpoint, if already computed.
        say: takes a line before each part that takes seconds.

    Raises:
        OSError: the file could not be written.
    """
    say("report: features")
    material = collect(run, data, features)
    path = run.folder / "report.html"
    contents = run_page(material, say)
    write_atomically(path, lambda file: file.write(contents))
    return path


def run_page(material: Material, say: Callable[[str], None]) -> bytes:
    """Return the page about one run; `say` takes a line before each part that takes seconds."""
    config, sample = material.run.config, material.sample
    title = METHODS[config.method].title
    lead = f"{title}, {config.encoder} x{config.width:g} at {config.augment.size} px on {config.data}"

    def of_sample(blocks: Callable[[Sample], list[Block]]) -> list[Block]:
        return [sample] if isinstance(sample, Missing) else blocks(sample)

    say("report: curves")
    curves = training_charts([material], ["this run"], "step")
    features = of_sample(lambda known: map_section(known, say))
    say("report: neighbours and confusion")
    sections = [
        Section("overview", "Overview", [tiles(material), results_table(material)]),
        Section("training", "Training", [curves]),
        Section("views", "Augmentation", [sheet_section(material.sheet)]),
        Section("map", "Map of the features", features),
        Section("neighbours", "Nearest neighbours", of_sample(neighbours_section)),
        Section("confusion", "Confusion matrix", [confusion_section(material)]),
        Section("collapse", "Collapse diagnostics", [*collapse_note(material), *of_sample(diagnostics_section)]),
        Section("configuration", "Configuration", config_tables(config)),
        Section("environment", "Environment", environment_table(material)),
    ]
    return page(material.run.folder.resolve().name, lead, sections)


def page(title: str, lead: str, sections: Sequence[Section]) -> bytes:
    """Return a complete page, with a link to each of its sections."""
    generator = f"{GENERATOR} {__version__}"
    return template().render(title=title, lead=lead, sections=sections, generator=generator).encode()


@cache
def template() -> Template:
    """Return the template of all pages: it escapes all texts for markup, and whatever a reader cannot see."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("fastclr.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")

"""The sections of a page that show images and features."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from fastclr.evaluate import Features, alignment, confusion_counts, effective_rank, lbfgs_probe, spectrum, uniformity
from fastclr.files import fits
from fastclr.report.blocks import Block, Cell, Charts, Figure, Missing, Paragraph, Table
from fastclr.report.charts import Series, line_chart, scatter_chart
from fastclr.report.material import Material, Sample, Sheet
from fastclr.report.pictures import embedded
from fastclr.training.results import current_results, percent

NEIGHBOURS = 5
QUERIES = 8
COLOURED = 10  # classes; more colours cannot be told apart
MATRIX_UP_TO = 20  # classes; a larger matrix cannot be read, so that only the confusions are listed
LISTED = 20
PROBE_L2 = 1e-3  # of the probe behind the confusion matrix: selecting it would take 46 fits for one table
COLLAPSED = 2.0  # effective rank below which the features lie on little more than a line


def sheet_section(sheet: Sheet | Missing) -> Block:
    """Return a few images and the views that training made of them."""
    if isinstance(sheet, Missing):
        return sheet
    rows: list[Sequence[str | Cell]] = []
    views = [(f"view {number}", pictures) for number, pictures in enumerate(sheet.views, start=1)]
    for what, pictures in (("image", sheet.originals), *views):
        named = zip(pictures, sheet.names, strict=True)
        rows.append((what, *(Cell(picture=embedded(pixels, f"{what} of {name}")) for pixels, name in named)))
    head = ("", *(str(number + 1) for number in range(len(sheet.names))))
    some = f"the first {len(views)} of their {sheet.count} views" if len(views) < sheet.count else "their views"
    caption = (
        f"Images as an evaluation sees them, and {some} in the first epoch, as the method gets them: what it does to "
        "them itself, such as turning them or cutting them into patches, is not shown."
    )
    return Table(head, rows, caption, "pictures")


def map_section(sample: Sample, say: Callable[[str], None]) -> list[Block]:
    """Return the features in two dimensions, coloured by class where classes are known; `say` takes two lines."""
    if len(sample.features) < 5:
        return [Missing(f"A map needs at least 5 images; there are {len(sample.features)}.")]
    unit = F.normalize(sample.features, dim=1)
    if float(unit.std(dim=0).max()) < 1e-6:
        return [Missing("There is nothing to map: all features are the same.")]
    say("report: PCA")
    charts = [pca_chart(sample, unit)]
    say("report: t-SNE")
    charts.append(tsne_chart(sample, unit))
    return [Charts([*charts, *umap_charts(sample, unit)])]


def pca_chart(sample: Sample, unit: Tensor) -> Figure:
    """Return the first two principal components."""
    from sklearn.decomposition import PCA

    model = PCA(n_components=2, random_state=0)
    places = model.fit_transform(unit.numpy())
    shares = " and ".join(f"{share:.0%}" for share in model.explained_variance_ratio_)
    text = f"PCA of the features of {sample.what}, each of length 1; the components hold {shares} of the variance."
    return scatter_chart("PCA", grouped(sample, places), text)


def tsne_chart(sample: Sample, unit: Tensor) -> Figure:
    """Return a t-SNE map."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(unit) - 1) / 3)
    # an angle of 0.8 takes three quarters of the time of 0.5, for the same trustworthiness
    places = TSNE(init="pca", perplexity=perplexity, angle=0.8, random_state=0).fit_transform(unit.numpy())
    text = f"t-SNE (perplexity {perplexity:.0f}) of the same features; distances between groups mean little."
    return scatter_chart("t-SNE", grouped(sample, places), text)


def umap_charts(sample: Sample, unit: Tensor) -> list[Figure]:
    """Return a UMAP map if umap-learn is there; it is no part of any extra, so its absence is no gap."""
    try:
        import umap
    except ImportError:
        return []
    places = umap.UMAP(metric="cosine", random_state=0).fit_transform(unit.numpy())
    return [scatter_chart("UMAP", grouped(sample, places), "UMAP (cosine) of the same features.")]


def grouped(sample: Sample, places: Any) -> list[tuple[str, list[tuple[float, float]]]]:
    """Return the points of each class, the classes with most points by name, the rest together without one."""
    labels, classes = sample.dataset.labels.tolist(), sample.dataset.classes
    counts = {label: labels.count(label) for label in set(labels) if label >= 0}
    named = sorted(sorted(counts, key=lambda label: (-counts[label], label))[:COLOURED])
    groups: list[tuple[str, list[tuple[float, float]]]] = [(classes[label], []) for label in named]
    others: list[tuple[float, float]] = []
    index = {label: number for number, label in enumerate(named)}
    for label, (x, y) in zip(labels, places.tolist(), strict=True):
        (groups[index[label]][1] if label in index else others).append((x, y))
    if not groups:
        return [("images", others)]
    return [*groups, ("", others)] if others else groups


def neighbours_section(sample: Sample) -> list[Block]:
    """Return sample images with the images whose features are most similar."""
    count = min(NEIGHBOURS, len(sample.features) - 1)
    if count < 1:
        return [Missing("Neighbours need at least 2 images.")]
    unit = F.normalize(sample.features, dim=1)
    queries = query_rows(sample.dataset.labels)
    cosines = unit[queries] @ unit.T
    cosines[torch.arange(len(queries)), torch.tensor(queries)] = -math.inf
    best, found = cosines.topk(count, dim=1)
    rows = []
    for query, values, neighbours in zip(queries, best.tolist(), found.tolist(), strict=True):
        own = int(sample.dataset.labels[query])
        cells = [cell(sample, query, "query")]
        for value, row in zip(values, neighbours, strict=True):
            label = int(sample.dataset.labels[row])
            cells.append(cell(sample, row, f"{value:.3f}", None if own < 0 or label < 0 else own == label))
        rows.append(cells)
    head = ("image", *(f"neighbour {rank + 1}" for rank in range(count)))
    caption = f"The most similar among {sample.what} under the cosine, which is the number below each"
    if bool((sample.dataset.labels >= 0).any()):
        caption += "; a check mark or a cross says whether the class is the same"
    return [Table(head, rows, f"{caption}.", "pictures")]


def query_rows(labels: Tensor) -> list[int]:
    """Return rows of images to search with: the first of each class, or without classes spread over all."""
    classes = [label for label in labels.unique().tolist() if label >= 0]
    if classes:
        return [int((labels == label).nonzero()[0]) for label in classes[:QUERIES]]
    count = min(QUERIES, len(labels))
    return [index * len(labels) // count for index in range(count)]


def cell(sample: Sample, row: int, text: str, same: bool | None = None) -> Cell:
    """Return a picture with its class and a text below."""
    dataset = sample.dataset
    label, name = int(dataset.labels[row]), dataset.names[row]
    kind = dataset.classes[label] if label >= 0 else "no class"
    images = dataset.images
    pixels = images[row] if isinstance(images, Tensor) else images.image(row)
    return Cell(kind if label >= 0 else "", text, embedded(pixels, f"{name}, {kind}"), same)


def confusion_section(material: Material) -> Block:
    """Return which class is taken for which: by a stored result, or by a probe at one l2 on the images shown."""
    for name, result in current_results(material.run).items():
        if isinstance(result, dict) and is_matrix(result.get("confusion"), result.get("classes")):
            caption = f"Rows: true class; columns: predicted class; test images. From the result {name}."
            return confusion_table(torch.tensor(result["confusion"]), list(result["classes"]), caption)
    sample = material.sample
    if isinstance(sample, Missing):
        return sample
    if sample.bank is None:
        return Missing("There is no confusion matrix: the images have no labels, or there are no test images.")
    vectors, labels = sample.bank
    if labels.unique().numel() < 2:
        return Missing("There is no confusion matrix: a probe needs at least 2 classes.")
    features, classes = Features(vectors, labels, sample.features, sample.dataset.labels), sample.dataset.classes
    probe = lbfgs_probe(features, l2=PROBE_L2)
    counts = confusion_counts(probe.classifier.logits(features.test), features.test_labels, len(classes))
    caption = (
        f"Rows: true class; columns: predicted class; {sample.what}. The lbfgs probe with l2 {PROBE_L2:g} on the "
        f"features of {len(labels)} training images, {percent(probe.scores.top1)} right; fastclr probe takes all "
        "images and selects l2."
    )
    return confusion_table(counts, list(classes), caption)


def is_matrix(counts: object, classes: object) -> bool:
    """Tell whether a result holds a matrix of counts with a name for each row and column."""
    if not fits(counts, list[list[int]]) or not fits(classes, list[str]):
        return False
    rows, names = cast("list[list[int]]", counts), cast("list[str]", classes)
    small = all(0 <= count < 2**31 for row in rows for count in row)
    return bool(names) and small and [len(row) for row in rows] == [len(names)] * len(names)


def confusion_table(counts: Tensor, classes: Sequence[str], caption: str) -> Block:
    """Return the matrix, shaded, or of many classes the commonest confusions."""
    if len(classes) > MATRIX_UP_TO:
        wrong = counts.clone().fill_diagonal_(0)
        values, places = wrong.flatten().topk(min(LISTED, wrong.numel()))
        rows = [
            (classes[place // len(classes)], classes[place % len(classes)], str(value))
            for value, place in zip(values.tolist(), places.tolist(), strict=True)
            if value > 0
        ]
        if not rows:
            return Missing("No test image was put into a wrong class.")
        return Table(("true class", "taken for", "images"), rows, f"{caption} The commonest confusions.")
    shares = (counts / counts.sum(dim=1, keepdim=True).clamp_min(1)).tolist()
    cells = [(name, *map(str, row)) for name, row in zip(classes, counts.tolist(), strict=True)]
    return Table(("true class", *classes), cells, caption, "counts", shades=shares)


def diagnostics_section(sample: Sample) -> list[Block]:
    """Return whether the features have collapsed: rank, spectrum, alignment, uniformity."""
    features = sample.features
    if len(features) < 3:
        return [Missing(f"The diagnostics need at least 3 images; there are {len(features)}.")]
    rank, most = effective_rank(features), min(features.shape)
    first, second = sample.pairs
    rows = [
        ("effective rank", f"{rank:.1f}", f"1 to {most}", "How many directions the features use; near 1: collapsed."),
        ("alignment", f"{alignment(first, second):.3f}", "0 to 4", "Mean squared distance of two views; 0: the same."),
        (
            "uniformity",
            f"{uniformity(features):.3f}",
            "about -4 to 0",
            "How evenly the sphere is covered; 0: one point.",
        ),
    ]
    caption = f"Of h, the encoder's features, of {sample.what}; alignment of {len(first)} pairs of new views."
    parts: list[Block] = [Table(("measure", "value", "range", "meaning"), rows, caption)]
    if rank < COLLAPSED:
        warning = f"The features have collapsed: their effective rank is {rank:.2f} of {most}."
        parts.insert(0, Paragraph(warning, warning=True))
    values = spectrum(features)
    values = (values / values.sum().clamp_min(1e-30)).clamp_min(1e-12)[: min(len(features) - 1, features.shape[1])]
    line = Series("share of the variance", range(1, len(values) + 1), values.tolist())
    text = "Eigenvalues of the covariance of the features, as shares of their sum; a cliff: unused dimensions."
    chart = line_chart("Spectrum", [line], "rank of the eigenvalue", text, log=True)
    sources = "Effective rank: RankMe (Garrido et al., ICML 2023). Alignment and uniformity: Wang and Isola, ICML 2020."
    return [*parts, Charts([chart]), Paragraph(sources)]

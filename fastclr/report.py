"""One picture of a run: its loss, its accuracy, what the augmentation does, and where the images ended up."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor

from fastclr.augment import SimCLRAugment
from fastclr.checkpoint import write_atomically
from fastclr.data import Splits
from fastclr.evaluate import Features
from fastclr.run import Run

PAIRS = 8
POINTS = 1000  # of the map: t-SNE of more is slow and no clearer


def write_report(run: Run, data: Splits, features: Features | None) -> None:
    """Draw ``report.png``: loss, kNN accuracy, augmented pairs and, given `features`, a t-SNE map of test images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), layout="constrained")
    axes = figure.subplots(2, 2)
    records = run.metrics.read()
    draw_curves(axes[0, 0], axes[0, 1], records)
    draw_pairs(axes[1, 0], run, data)
    if features is not None:
        draw_map(axes[1, 1], features, data)
    else:
        axes[1, 1].set_axis_off()
    figure.suptitle(f"{run.folder.name}: {run.config.encoder} x{run.config.width:g} on {run.config.data}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(run.folder / "report.png", lambda file: file.write(buffer.getvalue()))


def draw_curves(left: Any, right: Any, records: list[dict[str, Any]]) -> None:
    """Draw the loss over steps, and contrastive and kNN accuracy over epochs."""
    train = [r for r in records if r["kind"] == "train"]
    evaluations = [r for r in records if r["kind"] == "eval"]
    left.plot([r["step"] for r in train], [r["loss"] for r in train], color="tab:blue")
    left.set(title="NT-Xent loss", xlabel="step", ylabel="loss")
    if train:
        per_epoch = max(r["step"] for r in train) / max(r["epoch"] for r in train)
        epochs = [r["step"] / per_epoch for r in train]
        accuracy = [100 * r["contrastive_accuracy"] for r in train]
        right.plot(epochs, accuracy, color="tab:gray", label="contrastive accuracy (training)")
    if evaluations:
        knn = [100 * r["knn"] for r in evaluations]
        right.plot([r["epoch"] for r in evaluations], knn, "o-", color="tab:orange", label="kNN accuracy (test)")
    right.set(title="accuracy", xlabel="epoch", ylabel="%", ylim=(0, 100))
    right.legend(loc="lower right")
    for axis in (left, right):
        axis.grid(alpha=0.3)


def draw_pairs(axis: Any, run: Run, data: Splits) -> None:
    """Draw a grid of images and both of their views."""
    chosen = data.train.select(torch.arange(min(PAIRS, len(data.train))))
    config = run.config.augment
    views = SimCLRAugment(config, views=2, seed=run.config.seed)(chosen.images, chosen.ids, 0)
    columns = [to_picture(view, config.mean, config.std) for view in views]
    axis.imshow(torch.cat([torch.cat(list(column), dim=1) for column in columns], dim=0).numpy())
    axis.set(title=f"two views of {len(chosen)} images", xticks=[], yticks=[])


def to_picture(view: Tensor, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> Tensor:
    """Return ``[N, S, S, 3]`` in [0, 1] of normalised ``[N, 3, S, S]``."""
    picture = view.float().cpu().permute(0, 2, 3, 1)
    if std is not None:
        picture = picture * torch.tensor(std)
    if mean is not None:
        picture = picture + torch.tensor(mean)
    return picture.clamp(0, 1)


def draw_map(axis: Any, features: Features, data: Splits) -> None:
    """Draw a t-SNE map of test features under the cosine, coloured by class."""
    from sklearn.manifold import TSNE

    points = torch.nn.functional.normalize(features.test[:POINTS].cpu(), dim=1)
    labels = features.test_labels[:POINTS].cpu()
    if len(points) < 3:
        axis.set_axis_off()
        return
    perplexity = min(30.0, (len(points) - 1) / 3)
    places = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(points.numpy())
    classes = data.test.classes if data.test is not None else ()
    for index, name in enumerate(classes):
        own = (labels == index).numpy()
        axis.scatter(places[own, 0], places[own, 1], s=7, label=name, color=f"C{index % 10}")
    axis.set(title=f"t-SNE of the features of {len(points)} test images", xticks=[], yticks=[])
    if 0 < len(classes) <= 10:
        axis.legend(fontsize="small", markerscale=2, loc="best")

"""Use the features of a run in scikit-learn: a classifier on a few labels, clusters, and what is odd.

    python examples/features_in_sklearn.py [features.npz]

The file is what `fastclr embed RUN IMAGES --out features.npz` writes. Without it a small run on the built-in shapes
makes one; on two cores all of it takes half a minute. The rest needs NumPy and scikit-learn alone.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import normalized_mutual_info_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import normalize


def embedded(folder: Path) -> Path:
    """Pretrain on the built-in shapes for a moment, and embed their test images."""
    import fastclr

    run = fastclr.pretrain("shapes", preset="demo", width=0.25, epochs=2, knn_every=0, out=folder / "run")
    run.embed("shapes", folder / "features.npz", split="test")
    return folder / "features.npz"


def main(path: Path) -> None:
    """Classify, group, and look for outliers."""
    with np.load(path) as table:
        names, classes, labels = table["names"], table["classes"], table["labels"]
        features = normalize(table["features"])  # cosines are what the training compared
    known = labels >= 0  # -1 is an unknown class
    split = train_test_split(features[known], labels[known], train_size=0.5, stratify=labels[known], random_state=0)
    few, rest, few_labels, rest_labels = split
    classifier = LogisticRegression(C=10, max_iter=1000).fit(few, few_labels)
    print(f"accuracy {classifier.score(rest, rest_labels):.3f} (chance {1 / len(classes):.3f}), {len(few)} labels")
    groups = KMeans(len(classes), n_init=10, random_state=0).fit_predict(features)
    print(f"clusters and classes share {normalized_mutual_info_score(labels, groups):.3f} of their information")
    odd = IsolationForest(random_state=0).fit(features).score_samples(features).argsort()[:3]
    print(f"the oddest images: {', '.join(names[odd])}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as work:
            main(embedded(Path(work)))

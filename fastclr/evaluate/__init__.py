"""What an encoder has learnt: kNN and linear probes on frozen features, and how its features are spread.

The protocol is enforced, not hoped for: evaluation mode, no gradients, and a hash of every weight and buffer of the
encoder before and after, because published probes have been contaminated by batch statistics that kept moving.
"""

from fastclr.evaluate.augmented import crop_and_flip, fit_augmented
from fastclr.evaluate.diagnostics import alignment, effective_rank, spectrum, uniformity
from fastclr.evaluate.features import (
    CROP_ABOVE,
    CROP_FRACTION,
    Extracted,
    Features,
    evaluation_batches,
    evaluation_params,
    extract_features,
    image_sizes,
    labelled_features,
    labelled_splits,
)
from fastclr.evaluate.guard import frozen, state_hash
from fastclr.evaluate.knn import knn_accuracy, knn_predict, knn_scores, nearest
from fastclr.evaluate.layers import feature_module
from fastclr.evaluate.linear import LinearClassifier, fit_adam
from fastclr.evaluate.logistic import fit_logistic, select_l2
from fastclr.evaluate.online import OnlineProbe, OnlineStep
from fastclr.evaluate.probe import (
    ProbeResult,
    augmented_probe,
    lbfgs_probe,
    precomputed_probe,
    probe_accuracy,
    summary,
)
from fastclr.evaluate.scores import Scores, label_ranks, score

__all__ = [
    "CROP_ABOVE",
    "CROP_FRACTION",
    "Extracted",
    "Features",
    "LinearClassifier",
    "OnlineProbe",
    "OnlineStep",
    "ProbeResult",
    "Scores",
    "alignment",
    "augmented_probe",
    "crop_and_flip",
    "effective_rank",
    "evaluation_batches",
    "evaluation_params",
    "extract_features",
    "feature_module",
    "fit_adam",
    "fit_augmented",
    "fit_logistic",
    "frozen",
    "image_sizes",
    "knn_accuracy",
    "knn_predict",
    "knn_scores",
    "label_ranks",
    "labelled_features",
    "labelled_splits",
    "lbfgs_probe",
    "nearest",
    "precomputed_probe",
    "probe_accuracy",
    "score",
    "select_l2",
    "spectrum",
    "state_hash",
    "summary",
    "uniformity",
]

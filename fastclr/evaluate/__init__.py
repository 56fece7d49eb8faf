"""Evaluation of an encoder: kNN and linear probes on frozen features, and diagnostics of how they are spread.

The protocol is enforced, not assumed: evaluation mode, no gradients, and a hash of every weight and buffer of the
encoder before and after, because published probes have been contaminated by batch statistics that kept updating.
"""

from fastclr.evaluate.augmented import fit_augmented
from fastclr.evaluate.diagnostics import alignment, effective_rank, spectrum, uniformity
from fastclr.evaluate.features import (
    Extracted,
    Features,
    evaluation_batches,
    extract_features,
    labelled_features,
    labelled_splits,
)
from fastclr.evaluate.frozen_encoder import frozen, state_hash
from fastclr.evaluate.knn import knn_accuracy, knn_predict, knn_scores, nearest
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
from fastclr.evaluate.retrieval import Retrieval, retrieve
from fastclr.evaluate.scores import Scores, confusion_counts, label_ranks, score
from fastclr.evaluate.zero_shot import class_embeddings, embed_texts, zero_shot_scores

__all__ = [
    "Extracted",
    "Features",
    "LinearClassifier",
    "OnlineProbe",
    "OnlineStep",
    "ProbeResult",
    "Retrieval",
    "Scores",
    "alignment",
    "augmented_probe",
    "class_embeddings",
    "confusion_counts",
    "effective_rank",
    "embed_texts",
    "evaluation_batches",
    "extract_features",
    "fit_adam",
    "fit_augmented",
    "fit_logistic",
    "frozen",
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
    "retrieve",
    "score",
    "select_l2",
    "spectrum",
    "state_hash",
    "summary",
    "uniformity",
    "zero_shot_scores",
]

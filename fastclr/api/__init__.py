"""The Python door: `pretrain` starts a run, a `Run` is what can be done with it, and the commands call these."""

from fastclr.api.few_labels import FewLabels, v2
from fastclr.api.lookup import compare, search, survey
from fastclr.api.pretraining import pretrain
from fastclr.api.runs import Run

__all__ = ["FewLabels", "Run", "compare", "pretrain", "search", "survey", "v2"]

"""SimCLR v2 from Python and for its command: pretrain, fine-tune on few labels, distil into a student."""

from __future__ import annotations

import os
from collections.abc import Sized
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from typing_extensions import Unpack

from fastclr.api.option_types import DistillOwn, FinetuneOwn, PretrainKeywords
from fastclr.api.pretraining import configured
from fastclr.api.runs import Run
from fastclr.api.starting import default_folder
from fastclr.environment import use_stored_threads
from fastclr.parallel import speaks
from fastclr.report import write_report
from fastclr.training.config import PretrainConfig
from fastclr.training.keywords import take
from fastclr.training.stopping import Interrupted
from fastclr.transfer.classifier import Trained
from fastclr.transfer.distill import DistillConfig
from fastclr.transfer.finetune import FinetuneConfig
from fastclr.transfer.simclr_v2 import Finished, Plan, run_v2

HEAD_LAYERS = 3  # Chen et al. 2020b; v1 and its presets have 2


class FewLabels(NamedTuple):
    """The run, and the networks of all stages after pretraining, the student last without `controls`."""

    run: Run
    stages: list[Trained]


def v2(
    data: str | os.PathLike[str] | Sized = "",
    *,
    method: str | None = None,
    encoder: str | nn.Module | None = None,
    preset: str | None = None,
    out: str | os.PathLike[str] | None = None,
    finetune: FinetuneOwn | FinetuneConfig | None = None,
    distill: DistillOwn | DistillConfig | None = None,
    self_first: bool = False,
    controls: bool = False,
    **options: Unpack[PretrainKeywords],
) -> FewLabels:
    """Pretrain, fine-tune on few labels, and distil into a student; the same call goes on after a stop.

    Finished stages are not repeated. The pretraining has a head of three layers unless ``head_layers`` says otherwise.

    Args:
        data: as for `fastclr.pretrain`, and so are `method`, `encoder`, `preset` and `options`.
        method: likewise.
        encoder: likewise.
        preset: likewise.
        out: the folder. Default: ``runs/v2-`` followed by the name of the preset, otherwise of the data.
        finetune: options of `FinetuneConfig`, such as ``{"share": "1%"}``.
        distill: options of `DistillConfig`, such as ``{"student": "resnet18"}``.
        self_first: first distil the fine-tuned network into its own architecture, and then the student from that.
        controls: also train from scratch on the same labels, and the student on the labels alone.
        options: of the pretraining.

    Raises:
        TypeError: there is no such option.
        ValueError: a value or the data do not fit, or a finished stage was made with other settings.
        Interrupted: a signal came; finished stages and the checkpoint of the present one are kept.
    """
    config = configured(preset, data, method, encoder, dict(options), head_layers=HEAD_LAYERS)
    plan = Plan(
        finetune=made(FinetuneConfig, finetune),
        distill=made(DistillConfig, distill),
        self_first=self_first,
        controls=controls,
    )
    done = run_stages(config, v2_folder(config, preset) if out is None else Path(out), plan)
    return FewLabels(Run._of(done.run, done.data), done.stages)


def made(owner: type[Any], options: Any) -> Any:
    """Return a configuration from its options, or as it was given."""
    return options if isinstance(options, owner) else take(owner, dict(options or {}))


def v2_folder(config: PretrainConfig, preset: str | None) -> Path:
    """Return the folder of a run that none was named for."""
    plain = default_folder(config, preset)
    return plain.with_name(f"v2-{plain.name}")


def run_stages(config: PretrainConfig, folder: Path, plan: Plan) -> Finished:
    """Run what is not finished in `folder`, and write the report; errors are those of `run_v2`."""
    use_stored_threads(folder)
    try:
        done = run_v2(folder, config, plan)
    except Interrupted as interrupt:
        interrupt.args = (f"{interrupt}; the same call goes on in {folder}",)
        raise
    if speaks():
        write_report(done.run, done.data, say=done.run.say)
    return done

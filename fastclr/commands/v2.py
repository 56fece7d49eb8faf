"""`fastclr v2`: all stages of SimCLR v2 in one command."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fastclr.api.few_labels import HEAD_LAYERS, run_stages, v2_folder
from fastclr.commands.preset import ConfigCommand, parse
from fastclr.parallel import speaks
from fastclr.sources.printable import show
from fastclr.transfer.distill import DistillConfig
from fastclr.transfer.finetune import FinetuneConfig
from fastclr.transfer.simclr_v2 import Plan, format_stages


@dataclass(kw_only=True)
class V2Options(ConfigCommand):
    """Pretrain, fine-tune on few labels, and distil into a student; repeat the command to continue after a stop.

    The pretraining has a head of three layers unless --head-layers says otherwise; fine-tuning starts from
    its first.
    """

    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    out: Path | None = None
    """Folder of the run. Default: runs/v2- followed by the name of the preset, otherwise of the data."""
    self_first: bool = False
    """First distil the fine-tuned network into its own architecture, and then the student from that."""
    controls: bool = False
    """Also train from scratch on the same labels, and the student on the labels alone."""


def main(arguments: list[str]) -> None:
    """Run the remaining stages, and print a table."""
    for stage in ("finetune", "distill"):
        if any(argument.partition("=")[0] == f"--{stage}.labels" for argument in arguments):
            raise ValueError(
                f"--{stage}.labels is no option: the share of the labels is --{stage}.share, as in "
                f"--{stage}.share 1%, and --labels FILE.csv gives the classes of all stages"
            )
    options = parse(V2Options, arguments, "fastclr v2", head_layers=HEAD_LAYERS)
    folder = options.out or v2_folder(options.config, options.preset)
    plan = Plan(
        finetune=options.finetune,
        distill=options.distill,
        self_first=options.self_first,
        controls=options.controls,
    )
    done = run_stages(options.config, folder, plan)
    if not speaks():
        return
    show(format_stages(done.stages))
    show(f"\n{folder}: {', '.join(stage.result['name'] for stage in done.stages)}")

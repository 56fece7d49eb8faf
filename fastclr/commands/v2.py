"""`fastclr v2`: all stages of SimCLR v2 in one command."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.commands.preset import PRESET_HELP, base_config, parse
from fastclr.environment import use_stored_threads
from fastclr.parallel import speaks
from fastclr.report import write_report
from fastclr.sources.printable import show
from fastclr.training.config import PretrainConfig
from fastclr.training.stopping import Interrupted
from fastclr.transfer.distill import DistillConfig
from fastclr.transfer.finetune import FinetuneConfig
from fastclr.transfer.simclr_v2 import Plan, format_stages, run_v2

HEAD_LAYERS = 3  # Chen et al. 2020b; v1 and its presets have 2


@dataclass
class V2Options:
    """Pretrain, fine-tune on few labels, and distil into a student; repeat the command to continue after a stop.

    The pretraining has a head of three layers unless --head-layers says otherwise; fine-tuning starts from
    its first.
    """

    config: PretrainConfig
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    preset: Annotated[str | None, tyro.conf.arg(help=PRESET_HELP)] = None
    out: Path | None = None
    """Folder of the run. Default: runs/v2- followed by the name of the preset, otherwise of the data."""
    self_first: bool = False
    """First distil the fine-tuned network into its own architecture, and then the student from that."""
    controls: bool = False
    """Also train from scratch on the same labels, and the student on the labels alone."""


def main(arguments: list[str]) -> None:
    """Run the remaining stages, and print a table."""
    base = dataclasses.replace(base_config(arguments), head_layers=HEAD_LAYERS)
    options = parse(V2Options, base, arguments, "fastclr v2")
    name = options.preset or Path(options.config.data).name.partition(".")[0]
    folder = options.out or Path("runs") / f"v2-{name}"
    plan = Plan(
        finetune=options.finetune,
        distill=options.distill,
        self_first=options.self_first,
        controls=options.controls,
    )
    use_stored_threads(folder)
    try:
        run, data, stages = run_v2(folder, options.config, plan)
    except Interrupted as interrupt:
        interrupt.args = (f"{interrupt}; run the same command again to continue in {folder}",)
        raise
    if not speaks():
        return
    write_report(run, data)
    show(format_stages(stages))
    show(f"\n{folder}: {', '.join(stage.result['name'] for stage in stages)}")

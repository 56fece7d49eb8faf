"""A run that is killed, or whose disk fills up, resumes from its last checkpoint and ends bit-identical."""

from __future__ import annotations

import dataclasses
import re
import resource
from pathlib import Path
from typing import Any

import pytest
from effort import EFFORT
from forked import run
from kill_run import KINDS, differences, latest, main
from tiny_run import TINY

from fastclr.training.checkpoint_writer import CheckpointWriter
from fastclr.training.loop import pretrain_in

KILLS = 6 * EFFORT
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A folder with a run that was killed six times or more, `killed`, and one that was not, `whole`."""
    folder = tmp_path_factory.mktemp("kill")
    (folder / "output.txt").write_text(run(main, [str(folder), str(pictures), "--kills", str(KILLS)]).out)
    return folder


def test_a_run_that_is_killed_again_and_again_ends_bit_identical(work: Path) -> None:
    output = (work / "output.txt").read_text()
    killed = re.search(r"kills (\{.*\}): bit-identical", output)
    assert killed and all(f"'{kind}'" in killed[1] for kind in KINDS), output  # later moments may lie after the end
    assert differences(work / "killed", work / "whole") == []


def test_a_full_disk_stops_the_run_and_it_goes_on_when_there_is_room(
    work: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the third checkpoint on, the operating system rejects files larger than the encoder's."""
    config = dataclasses.replace(TINY, data=str(pictures), checkpoint_every=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    saved: list[int] = []
    save = CheckpointWriter.save

    def save_until_full(writer: CheckpointWriter, checkpoint: Any) -> None:
        save(writer, checkpoint)
        saved.append(checkpoint.step)
        if len(saved) == 2:
            writer.wait()
            size = (tmp_path / "run" / "encoder.safetensors").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, hard))

    monkeypatch.setattr(CheckpointWriter, "save", save_until_full)
    try:
        with pytest.raises(OSError, match=r"could not write .*step-00000003\.pt.*the checkpoint of step 2 is kept"):
            pretrain_in(tmp_path / "run", config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = latest(tmp_path / "run")
    assert kept is not None and kept.step == 2
    assert not list((tmp_path / "run").rglob("*.tmp"))
    monkeypatch.undo()
    pretrain_in(tmp_path / "run", config, resume=True)
    assert differences(tmp_path / "run", work / "whole") == []

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_checkpoint import make
from torch import nn

from fastclr.files import write_atomically
from fastclr.training.checkpoint import load_checkpoint, load_latest, save_checkpoint
from fastclr.training.checkpoint_writer import CheckpointWriter, copy_to_cpu


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in (".lock", "last"))


def latest_step(folder: Path) -> int:
    checkpoint = load_latest(folder, pytest.fail)
    assert checkpoint is not None
    return checkpoint.step


class Gate:
    """Blocks the writing thread before it writes, until released."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, checkpoint: object) -> None:
        self.entered.set()
        assert self.opened.wait(30)


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    with CheckpointWriter(folder) as writer:
        for step in (1, 2, 3, 4):
            writer.save(make(step))
    assert names(folder) == ["step-00000003.pt", "step-00000004.pt"]
    assert [load_checkpoint(folder / name).step for name in names(folder)] == [3, 4]


def test_last_is_a_name_of_the_newest(tmp_path: Path) -> None:
    """Also where something was put in its place, which is not written through."""
    folder, other = tmp_path / "run" / "checkpoints", tmp_path / "other"
    other.write_text("mine")
    with CheckpointWriter(folder, keep=1) as writer:
        (folder / "last").symlink_to(other)
        for step in (1, 2):
            writer.save(make(step))
            writer.wait()
            assert os.readlink(folder / "last") == f"step-{step:08d}.pt"  # relative: a copied folder is whole
            assert load_checkpoint(folder / "last").step == step
    assert other.read_text() == "mine" and not (folder / "last.tmp").exists()
    assert latest_step(folder) == 2


def test_a_file_system_without_links_has_checkpoints_without_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with CheckpointWriter(tmp_path) as writer:
        writer.save(make(1))
    assert names(tmp_path) == ["step-00000001.pt"] and not (tmp_path / "last").is_symlink()


def test_one_is_kept_and_a_step_can_be_written_again(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, keep=1) as writer:
        for size in (10, 20):
            writer.save(make(5, size))
    assert names(tmp_path) == ["step-00000005.pt"]
    assert load_checkpoint(tmp_path / "step-00000005.pt").method["w"].numel() == 20
    with pytest.raises(ValueError, match="at least 1, got 0"):
        CheckpointWriter(tmp_path, keep=0)


def test_training_goes_on_while_the_state_of_the_call_is_written(tmp_path: Path) -> None:
    gate, state = Gate(), make(1)
    with CheckpointWriter(tmp_path, before=gate) as writer:
        writer.save(state)
        assert gate.entered.wait(30)
        assert names(tmp_path) == []  # `save` has returned, and nothing is written yet
        state.method["w"].fill_(99.0)
        state.optimizer["param_groups"].append({"lr": 1.0})
        gate.opened.set()
    loaded = load_checkpoint(tmp_path / "step-00000001.pt")
    assert torch.equal(loaded.method["w"], torch.ones(10)) and loaded.optimizer["param_groups"] == []


def test_a_second_save_waits_for_the_first(tmp_path: Path) -> None:
    gate = Gate()
    writer = CheckpointWriter(tmp_path, before=gate)
    writer.save(make(1))
    assert gate.entered.wait(30)
    second = threading.Thread(target=writer.save, args=(make(2),))
    second.start()
    second.join(0.3)
    assert second.is_alive() and names(tmp_path) == []
    gate.opened.set()
    second.join(30)
    writer.close()
    assert names(tmp_path) == ["step-00000001.pt", "step-00000002.pt"]


def test_a_copy_shares_nothing_and_loads_like_the_original() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    state, moments = model.state_dict(), optimizer.state_dict()
    expected = copy.deepcopy((state, moments))
    copied_state, copied_moments = copy_to_cpu(state), copy_to_cpu(moments)
    with torch.no_grad():
        for tensor in [*state.values(), *(t for m in moments["state"].values() for t in m.values())]:
            tensor.zero_()
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    other.load_state_dict(copied_state)
    for name, tensor in expected[0].items():
        assert torch.equal(other.state_dict()[name], tensor)
    assert copied_state["0.weight"].stride() == state["0.weight"].stride()
    restored = torch.optim.AdamW(other.parameters())
    restored.load_state_dict(copied_moments)
    for index, moment in expected[1]["state"].items():
        for key, tensor in moment.items():
            assert torch.equal(restored.state_dict()["state"][index][key], tensor)


def test_a_failed_write_surfaces_at_the_next_call_and_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = CheckpointWriter(tmp_path)
    writer.save(make(1))
    writer.wait()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fastclr.training.checkpoint.torch.save", full)
        writer.save(make(2))
        with pytest.raises(OSError, match=r"No space left on device.*; the checkpoint of step 1 is kept"):
            writer.wait()
        writer.wait()  # it is told once
        writer.save(make(3))
        with pytest.raises(OSError, match="No space left"):
            writer.save(make(4))
    assert names(tmp_path) == ["step-00000001.pt"] and latest_step(tmp_path) == 1
    writer.save(make(5))
    writer.close()
    assert latest_step(tmp_path) == 5
    with pytest.raises(ValueError, match="closed"):
        writer.save(make(6))


def test_what_comes_before_a_checkpoint_can_stop_it(tmp_path: Path) -> None:
    def export(checkpoint: object) -> None:
        write_atomically(tmp_path / "no folder" / "encoder", lambda file: None)

    writer = CheckpointWriter(tmp_path / "checkpoints", before=export)
    writer.save(make(1))
    with pytest.raises(OSError, match=r"encoder.*; there is no earlier checkpoint"):
        writer.close()
    assert names(tmp_path / "checkpoints") == []


def test_an_error_on_its_way_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fastclr.training.checkpoint.os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk gone"))
    )
    warned = pytest.warns(RuntimeWarning, match="disk gone")
    with warned, pytest.raises(FloatingPointError, match="the loss"), CheckpointWriter(tmp_path) as writer:
        writer.save(make(1))
        raise FloatingPointError("the loss")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_never_written(tmp_path: Path, value: float) -> None:
    with CheckpointWriter(tmp_path) as writer:
        writer.save(make(1))
        bad = make(2)
        bad.method["criterion.temperature"] = torch.tensor([1.0, value])
        bad.method["count"] = torch.tensor(3)  # integers are passed over
        with pytest.raises(FloatingPointError, match=r"criterion\.temperature .* step 2: .*step 1 is kept"):
            writer.save(bad)
    assert names(tmp_path) == ["step-00000001.pt"]


def test_leftovers_of_a_kill_are_removed_and_nothing_else(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "step-00000001.pt", make(1))
    (tmp_path / "step-00000002.pt.tmp").write_bytes(b"half")
    (tmp_path / "mine.txt").write_bytes(b"x")
    CheckpointWriter(tmp_path).close()
    assert names(tmp_path) == ["mine.txt", "step-00000001.pt"]


def test_a_damaged_later_checkpoint_does_not_push_out_good_ones(tmp_path: Path) -> None:
    """The run went back to step 8 because step 12 was damaged; with keep=1 the file of step 12 must not count."""
    save_checkpoint(tmp_path / "step-00000008.pt", make(8))
    (tmp_path / "step-00000012.pt").write_bytes(b"damaged")
    with CheckpointWriter(tmp_path, keep=1) as writer:
        writer.save(make(10))
    assert names(tmp_path) == ["step-00000010.pt"] and latest_step(tmp_path) == 10


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A disk with `free` bytes, which deleted files add to."""
    state = SimpleNamespace(free=0)
    unlink = Path.unlink

    def give_back(path: Path, missing_ok: bool = False) -> None:
        size = path.stat().st_size if path.exists() else 0
        unlink(path, missing_ok=missing_ok)
        state.free += size

    monkeypatch.setattr(shutil, "disk_usage", lambda _: state)
    monkeypatch.setattr(Path, "unlink", give_back)
    return state


MILLION = 10**6  # float32 values: 4 MB, and 1 MiB is added for what else is in a file


def test_too_little_space_is_found_before_anything_is_written(tmp_path: Path, disk: SimpleNamespace) -> None:
    def fail(_: Any) -> None:
        pytest.fail("written")

    writer = CheckpointWriter(tmp_path, before=fail)
    disk.free = 8_900_000  # of 4 MB, 1 MiB, and 4 MB for what `before` makes of the weights
    with pytest.raises(OSError, match=r"needs 9\.0 MB, 8\.9 MB are free; there is no earlier checkpoint"):
        writer.save(make(1, MILLION))
    assert names(tmp_path) == []
    writer.close()


def test_older_checkpoints_make_room_but_the_last_good_one_stays(tmp_path: Path, disk: SimpleNamespace) -> None:
    disk.free = 10**9
    with CheckpointWriter(tmp_path, keep=3) as writer:
        for step in (1, 2, 3):
            writer.save(make(step, MILLION))
            writer.wait()
        disk.free = 10**6
        writer.save(make(4, MILLION))  # the 8 MB of the oldest two are enough
        writer.wait()
        assert names(tmp_path) == ["step-00000003.pt", "step-00000004.pt"]
        disk.free = 10**5
        with pytest.raises(OSError, match=r"needs 5\.0 MB, 0\.1 MB are free; the checkpoint of step 4 is kept"):
            writer.save(make(5, MILLION))  # one would not be enough: none is deleted
    assert names(tmp_path) == ["step-00000003.pt", "step-00000004.pt"]


def test_room_is_made_from_damaged_ones_first(tmp_path: Path, disk: SimpleNamespace) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path / f"step-0000000{step}.pt", make(step, MILLION))
    newest = tmp_path / "step-00000002.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    disk.free = 2 * 10**6
    writer = CheckpointWriter(tmp_path)
    writer.save(make(2, MILLION))
    writer.wait()
    writer.close()
    assert names(tmp_path) == ["step-00000001.pt", "step-00000002.pt"]
    assert latest_step(tmp_path) == 2


LOCKED = """
import os, sys, time
from pathlib import Path
from fastclr.training.checkpoint_writer import CheckpointWriter
writer = CheckpointWriter(Path(sys.argv[1]))
if os.fork() == 0:
    time.sleep(60)  # as a data worker that outlives a killed run
print("open", flush=True)
time.sleep(60)
"""


def test_a_folder_has_one_writing_process_until_that_is_gone(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LOCKED, str(tmp_path)], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"open\n"
        (tmp_path / "step-00000002.pt.tmp").write_bytes(b"being written")
        with pytest.raises(BlockingIOError, match=rf"another process is training in {tmp_path.parent}"):
            CheckpointWriter(tmp_path)
        assert names(tmp_path) == ["step-00000002.pt.tmp"]
        process.kill()
        process.wait()
        CheckpointWriter(tmp_path).close()
        assert names(tmp_path) == []
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


UNCLOSED = """
import sys, time
from pathlib import Path
sys.path[:0] = {tests!r}
from test_checkpoint import make
from fastclr.training.checkpoint_writer import CheckpointWriter
def slow(checkpoint):
    time.sleep(0.5)
    if sys.argv[2] == "fail":
        raise OSError("the disk is full")
CheckpointWriter(Path(sys.argv[1]), before=slow).save(make(3))
"""


@pytest.mark.parametrize("what", ["write", "fail"])
def test_a_program_that_just_ends_loses_nothing_silently(tmp_path: Path, what: str) -> None:
    script = UNCLOSED.format(tests=[str(folder) for folder in Path(__file__).parents[:2]])
    command = [sys.executable, "-c", script, str(tmp_path), what]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    if what == "write":
        assert latest_step(tmp_path) == 3 and result.stderr == ""
    else:
        assert names(tmp_path) == [] and "the disk is full; there is no earlier checkpoint" in result.stderr

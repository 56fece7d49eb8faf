"""What the loaders that stream take of a machine: reads ahead, memory, threads, processes, packages."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stream_cases import contents, encode, photo, write_photos

from fastclr.data import DaliLoader, ImageDataset, ImageIndex, Loader, Order, TorchLoader, load_splits, make_loader
from fastclr.data.torch_loader import start_worker
from fastclr.sources.byte_ranges import Storage

NO_DALI = "NVIDIA DALI is not installed: pip install 'fastclr[dali]'"
KINDS = ["dali", "torch"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    """The index of 40 JPEGs."""
    root = write_photos(tmp_path_factory.mktemp("photos") / "root", 40)
    train = load_splits(root, holdout=0, loader="torch").train
    assert isinstance(train, ImageIndex)
    return train


def build(index: ImageIndex | ImageDataset, kind: Any, order: Order, **options: Any) -> Loader:
    """Make a loader, or skip the test where DALI is missing."""
    if kind == "dali":
        pytest.importorskip("nvidia.dali", reason=NO_DALI)
    return make_loader(index, kind, order, **options)


@dataclass(frozen=True)
class Counted(Storage):
    """A storage that counts what all processes read from it."""

    count: Any = None

    def read(self, row: int) -> bytes:
        """Count, and read."""
        with self.count.get_lock():
            self.count.value += 1
        return super().read(row)


def settled(count: Any, expected: int) -> int:
    """Return the count some time after it has come to what is expected, however busy the machine is."""
    end = time.monotonic() + 60
    while count.value < expected and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.7)
    return int(count.value)


@pytest.mark.parametrize("prefetch", [1, 3])
@pytest.mark.parametrize(("kind", "workers"), [("dali", 2), ("torch", 2)])
def test_reads_stay_within_the_prefetch_depth(kind: str, workers: int, prefetch: int, index: ImageIndex) -> None:
    """While the consumer holds a batch, as many more are read as were asked for, and no image of another."""
    count = multiprocessing.Value("q", 0)
    storage = Counted(*(getattr(index.storage, name) for name in ("files", "file", "offsets", "sizes")), count=count)
    loader = build(replace(index, storage=storage), kind, Order(4), workers=workers, prefetch=prefetch)
    batches = loader.epoch(0)
    ahead = prefetch * (workers if kind == "torch" else 1)
    for taken in (1, 2, 3):
        next(batches)
        expected = 4 * min(taken + ahead, 10)
        assert settled(count, expected) == expected
    assert len(list(batches)) == 7 and count.value == 40
    loader.close()


@pytest.mark.parametrize("kind", [*KINDS, "resident"])
def test_memory_is_flat_over_many_epochs(kind: str, tmp_path: Path) -> None:
    """Fifty epochs, 144 MB of pixels, take no more memory than five."""
    for seed in range(16):
        (tmp_path / f"{seed}.jpg").write_bytes(encode(photo(seed, 200, 300 + seed), "JPEG"))
    images = load_splits(tmp_path, loader="resident" if kind == "resident" else "torch").train
    loader = build(images, kind, Order(8), workers=1)

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if not Path("/proc/self/statm").exists():
        pytest.skip("the system does not tell how much memory a process takes")
    for epoch in range(5):
        list(loader.epoch(epoch))
    before = resident_bytes()
    for epoch in range(5, 55):
        for batch in loader.epoch(epoch):
            assert len(batch) == 8
    assert resident_bytes() - before < 30e6
    loader.close()


def test_dali_threads_end_with_the_loader(index: ImageIndex) -> None:
    """After close no thread of the loader is left, also when an epoch was abandoned."""
    loader = build(index, "dali", Order(4), workers=2)
    next(loader.epoch(0))
    running = loader.epoch(1)
    next(running)
    assert any(thread.name.startswith("fastclr-") for thread in threading.enumerate())
    loader.close()
    assert not any(thread.name.startswith("fastclr-") for thread in threading.enumerate())


def test_torch_workers_end_with_the_loader(index: ImageIndex) -> None:
    """Workers live as long as the loader, not longer."""
    loader = build(index, "torch", Order(4), workers=2)
    workers = set()
    for epoch in range(3):
        list(loader.epoch(epoch))
        workers |= {child.pid for child in multiprocessing.active_children()}
    assert len(workers) == 2
    loader.close()
    assert not workers & {child.pid for child in multiprocessing.active_children()}


@pytest.mark.slow
def test_spawned_workers(index: ImageIndex, tmp_path: Path) -> None:
    """Workers that start from nothing give the same batches as no workers."""
    script = tmp_path / "script.py"
    script.write_text(
        "import hashlib, sys, torch\n"
        "from fastclr.data import Order, load_splits, make_loader\n"
        "if __name__ == '__main__':\n"
        "    torch.multiprocessing.set_start_method('spawn')\n"
        "    train = load_splits(sys.argv[1], holdout=0, loader='torch').train\n"
        "    for batch in make_loader(train, 'torch', Order(8, seed=3), workers=1).epoch(2):\n"
        "        print(batch.ids.tolist(), hashlib.md5(batch.images.data.numpy().tobytes()).hexdigest())\n"
    )
    root = index.source.removesuffix(" (train)")
    done = subprocess.run([sys.executable, str(script), root], capture_output=True, text=True, check=True)
    expected = []
    for batch in TorchLoader(index, Order(8, seed=3), workers=0).epoch(2):
        assert not isinstance(batch.images, torch.Tensor)
        digest = hashlib.md5(batch.images.data.numpy().tobytes()).hexdigest()
        expected.append(f"{batch.ids.tolist()} {digest}")
    assert done.stdout.splitlines() == expected


def test_shared_memory_is_checked(index: ImageIndex, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the batches of the workers would not fit, the error says what to change; no worker dies of it."""
    monkeypatch.setattr("fastclr.data.torch_loader.SHARED_MEMORY", tmp_path)
    mean = index.nbytes / len(index)

    class Status:
        f_frsize, f_bavail = 1, int(mean * 8 * 2 * 2)

    monkeypatch.setattr(os, "statvfs", lambda path: Status)
    TorchLoader(index, Order(8), workers=2, prefetch=2)
    Status.f_bavail -= 2
    with pytest.raises(ValueError, match=r"choose fewer workers .* \(docker run --shm-size\)"):
        TorchLoader(index, Order(8), workers=2, prefetch=2)
    assert [len(batch) for batch in TorchLoader(index, Order(8), workers=0).epoch(0)] == [8] * 5


def test_without_dali(index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where DALI is missing, the loader says what to install."""
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastclr\[dali\]'"):
        DaliLoader(index, Order(4))


def test_default_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of a job on one machine share its cores."""
    from fastclr.data import unreadable

    monkeypatch.setattr(unreadable, "available_cores", lambda: 32)
    assert unreadable.default_workers() == 32
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert unreadable.default_workers() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert unreadable.default_workers() == 1


def test_two_loaders_at_a_time(index: ImageIndex) -> None:
    """A loader to train and one to evaluate run side by side, of any kind."""
    loaders = [build(index, kind, Order(8, drop_last=False), workers=1) for kind in (*KINDS, *KINDS)]
    for batches in zip(*(loader.epoch(4) for loader in loaders), strict=True):
        assert len({tuple(contents(batch)) for batch in batches}) == 1
    for loader in loaders:
        loader.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_go_on_when_the_whole_job_is_signalled(number: signal.Signals, index: ImageIndex) -> None:
    """A scheduler or a terminal signals every process of a job; the consumer decides when the workers end."""
    loader = build(index, "torch", Order(4), workers=2)
    before = set(multiprocessing.active_children())
    batches = loader.epoch(0)
    for _ in range(2):
        next(batches)  # each worker has made one, and so is past its start
    workers = set(multiprocessing.active_children()) - before
    others = ["kill", f"-{number.name[3:]}", *(str(worker.pid) for worker in workers)]
    subprocess.run(others, check=True)  # not this process, which is their parent
    assert len(list(batches)) == len(loader) - 2
    assert len(workers) == 2 and all(worker.is_alive() for worker in workers)
    for worker in workers:
        worker.terminate()  # as Python does for what is left at its end
        worker.join(20)
        assert not worker.is_alive()
    with pytest.raises(RuntimeError, match=r"exited unexpectedly|killed by signal"):
        list(loader.epoch(1))
    loader.close()


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="only a forked worker inherits the mask")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_that_are_starting_survive_the_signal(
    number: signal.Signals, index: ImageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that has not yet set up its handling of signals when the job is signalled goes on as well."""

    def start_late(worker: int) -> None:
        time.sleep(1.0 * worker)
        start_worker(worker)

    monkeypatch.setattr("fastclr.data.torch_loader.start_worker", start_late)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    loader = build(index, "torch", Order(4), workers=2)
    before = set(multiprocessing.active_children())
    batches = loader.epoch(0)
    next(batches)  # of the first worker; the second one sleeps
    for worker in set(multiprocessing.active_children()) - before:
        subprocess.run(["kill", f"-{number.name[3:]}", str(worker.pid)], check=True)
    assert len(list(batches)) == len(loader) - 1
    assert signal.pthread_sigmask(signal.SIG_BLOCK, set()) == mask
    loader.close()

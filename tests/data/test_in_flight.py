"""Work in order within a budget of bytes: never more than the budget, never a hang, whatever the sizes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stream_cases import encode, photo, write_tar

from fastclr.data.in_flight import Budget, work_in_order
from fastclr.data.loader_choice import has_dali
from fastclr.sources.byte_ranges import Admit, Encoded
from fastclr.sources.decode import decode_image, decoding_bytes


def image_of(size: int, reads: list[int] | None = None, in_sequence: bool = False) -> Encoded:
    """Something of `size` bytes that says nothing about an image."""

    def read(admit: Admit) -> bytes:
        admit(bytes(min(size, 4)), size)
        if reads is not None:
            reads.append(size)
        return bytes(size)

    return Encoded(read, size if in_sequence else -1, in_sequence)


@pytest.mark.parametrize("seed", range(4))
def test_the_budget_holds_and_nothing_hangs(seed: int) -> None:
    """With sizes up to the whole budget, at most that is held, and all results come in order."""
    rng = np.random.default_rng(seed)
    sizes = rng.choice([1, 10, 100, 400, 1000], 300).tolist()
    held, most, lock = 0, 0, threading.Lock()

    def work(name: str, data: bytes) -> int:
        nonlocal held, most
        with lock:
            held += len(data)
            most = max(most, held)
        time.sleep(0.0001 * int(name) % 0.0007)
        with lock:
            held -= len(data) - len(data) // 3  # a third is kept until it is consumed
        if int(name) % 17 == 0:
            with lock:
                held -= len(data) // 3
            raise ValueError("damaged")
        return len(data)

    seen = []
    stream = ((str(number), image_of(size)) for number, size in enumerate(sizes))
    for name, result in work_in_order(stream, work, 1000, 5, size_of=lambda size: size // 3):
        assert result == ("ValueError: damaged" if int(name) % 17 == 0 else sizes[int(name)])
        with lock:
            held -= 0 if isinstance(result, str) else result // 3
        seen.append(int(name))
    assert seen == list(range(300)) and most <= 1000 and held == 0


def test_what_takes_more_than_the_budget_is_not_read() -> None:
    """It becomes a reason, from a file and from an archive; what follows is read."""
    for in_sequence in (False, True):
        reads: list[int] = []
        stream = [(str(size), image_of(size, reads, in_sequence)) for size in (5, 1001, 7)]
        results = dict(work_in_order(stream, lambda name, data: len(data), 1000, 2))
        assert results["5"] == 5 and results["7"] == 7 and sorted(reads) == [5, 7]
        assert str(results["1001"]).startswith(("MemoryError: takes about 0 MB to decode", "OSError: larger than 1000"))


def test_members_of_an_archive_are_not_read_far_ahead() -> None:
    """What can only be read in sequence waits, encoded, for an eighth of the budget at most."""
    ahead, most, read = 0, 0, 0

    def stream() -> Iterator[tuple[str, Encoded]]:
        nonlocal ahead, most, read
        for number in range(100):
            ahead += 50
            yield str(number), image_of(50, None, in_sequence=True)
            most = max(most, ahead)

    for _ in work_in_order(stream(), lambda name, data: len(data), 1000, 4):
        ahead -= 50
    assert ahead == 0 and most <= 1000 // 8 + 50


def test_a_consumer_that_stops_early_ends_the_work() -> None:
    """Threads that wait for bytes are let go."""
    results = work_in_order(((str(n), image_of(600)) for n in range(50)), lambda name, data: data, 1000, 3, None, len)
    next(results)
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastclr-decode")]


def test_bytes_go_to_the_oldest() -> None:
    """A later ticket waits for the earlier one, and one that has taken a part is served before all."""
    budget = Budget(100)
    order: list[int] = []

    def take(ticket: int, count: int) -> None:
        budget.take(ticket, count)
        order.append(ticket)

    threads = [threading.Thread(target=take, args=(ticket, 60)) for ticket in (2, 1)]
    for thread in threads:
        thread.start()
    budget.take(0, 30, last=False)
    budget.take(0, 90)  # more than there is, but nobody else holds any
    time.sleep(0.05)
    assert order == []
    budget.give_back(120)
    threads[1].join()
    assert order == [1]
    budget.give_back(60)
    threads[0].join()
    assert order == [1, 2]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_the_size_of_an_image_is_known_before_it_is_decoded(kind: str) -> None:
    """The estimate is a bound of what is made of it, and follows the reduced size of a JPEG."""
    data = encode(photo(0, 300, 400), kind)
    estimate = decoding_bytes(data)
    assert estimate is not None and 7 * 300 * 400 <= estimate <= 24 * 300 * 400
    assert decode_image(data).nbytes <= estimate
    smaller = decoding_bytes(data, 75)
    assert smaller is not None and (smaller < estimate / 3 if kind == "JPEG" else smaller < estimate)
    assert decoding_bytes(data[:10]) is None and decoding_bytes(b"") is None


MEASURE = """
import contextlib, os, sys, threading, time
from multiprocessing import active_children
import numpy, torch, PIL.Image, tqdm
from fastclr import SimCLRAugment
from fastclr.data import Order, load_splits, make_loader
from fastclr.report.data_survey import survey

def status(key):
    (line,) = (line for line in open("/proc/self/status") if line.startswith(key))
    return int(line.split()[1]) * 1024

def shared(pid):  # what a process takes, with its part of what it shares with others
    (line,) = (line for line in open(f"/proc/{pid}/smaps_rollup") if line.startswith("Pss:"))
    return int(line.split()[1]) * 1024

def watch():
    global peak
    while True:
        with contextlib.suppress(OSError, ValueError):
            peak = max(peak, sum(shared(pid) for pid in (os.getpid(), *(c.pid for c in active_children()))))
        time.sleep(0.005)

def train(kind):
    view_bytes, batch_size = 2 * 3 * 224**2 * 4, 32 if kind == "resident" else 96
    step = {"batch_size": batch_size, "view_bytes": view_bytes}
    images = load_splits(path, holdout=0, loader=kind, cache="off", memory_limit=limit, **step).train
    loader, augment = make_loader(images, kind, Order(batch_size), workers=2), SimCLRAugment(224)
    for epoch in range(2):
        for batch in loader.epoch(epoch):
            views = augment(batch.images, batch.ids, epoch)
    loader.close()

path, kind, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
before = status("VmRSS")
if kind == "survey":
    survey(path, memory_limit=limit)
elif kind == "load":
    load_splits(path, holdout=0, loader="resident", cache="off", memory_limit=limit)
else:
    if kind == "dali":
        from fastclr.data.dali_decoder import DaliDecoder
        DaliDecoder(8, 2, torch.device("cpu"), False).close()  # loads its libraries
    before = peak = shared(os.getpid())
    threading.Thread(target=watch, daemon=True).start()
    train(kind)
    print((peak - before) / limit)
    sys.exit()
print((status("VmHWM") - before) / limit)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory as Linux does")
@pytest.mark.parametrize(
    ("kind", "contents", "limit"),
    [
        ("survey", "large", 640_000_000),
        ("survey", "archive", 200_000_000),
        ("survey", "sparse", 200_000_000),
        ("load", "large", 560_000_000),
        ("load", "many", 210_000_000),
        ("resident", "some", 170_000_000),
        ("torch", "some", 350_000_000),
        pytest.param("dali", "some", 450_000_000, marks=pytest.mark.skipif(not has_dali(), reason="needs DALI")),
    ],
)
def test_the_peak_stays_near_the_budget(kind: str, contents: str, limit: int, tmp_path: Path) -> None:
    """Large files, archives of much more than their size, sets that fill it, steps with views: at most 1.3 times."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.png").write_bytes(encode(photo(0, 20, 30), "PNG"))
    flat = np.zeros((3000, 4000, 3), dtype=np.uint8)
    if contents == "large":
        data = encode(Image.fromarray(flat if kind == "survey" else flat[:, :3600]), "PNG", compress_level=1)
        for number in range(15):
            (root / f"{number}.png").write_bytes(data)
    elif contents == "archive":
        bitmap = encode(photo(0, 30, 40), "BMP") + bytes(8_000_000)
        write_tar(root / "x.tar.gz", {f"{number}.bmp": bitmap for number in range(30)})
        root = root / "x.tar.gz"
    elif contents == "sparse":
        for name, size in (("b.png", 2**33), ("c.tif", 2**30), ("d.webp", 2**30)):
            with open(root / name, "wb") as file:
                file.truncate(size)
    else:
        for number in range(400 if contents == "many" else 200):
            (root / f"{number}.jpg").write_bytes(encode(photo(number % 8, 400, 400), "JPEG"))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, str(root), kind, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) <= 1.3

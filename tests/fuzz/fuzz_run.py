"""Give readers many damaged inputs: ``fuzz_run.py KIND,KIND,... SEED FOLDER``; `COUNTS` says how many each.

It ends with 0 if every input was read or refused with an error that a command shows in one line. What was read last
lies in FOLDER, should the process die.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mutations import changed, damaged
from source_cases import Case, captions, csv, header, pickles, shards, tables, tar

SHOWN = (ValueError, TypeError, OSError, FloatingPointError, MemoryError)  # what fastclr.cli shows in one line
LIMIT = 12 * 2**30  # bytes of address space


def npz(folder: Path) -> Case:
    """Files of features as .npz and .parquet, and parts of them."""
    from fastclr.transfer.feature_file import FeatureFile, nearest, read_features, read_settings, write_features
    from fastclr.transfer.feature_parts import Parts

    rows = np.arange(4, dtype=np.int64)
    table = FeatureFile(np.eye(4, dtype=np.float32), rows, rows.astype(str), rows % 2, ("a", "b"), {"features": "h"})
    path, columns = folder / "f.npz", folder / "f.parquet"
    write_features(path, table)
    write_features(columns, table)
    whole, whole_columns = path.read_bytes(), columns.read_bytes()
    with np.load(path) as stored:
        arrays = dict(stored)
    odd = [
        np.zeros(0),
        np.float32(1),
        np.array("x"),
        np.full((4, 4), np.nan),
        rows[:2],
        rows.astype(np.uint8),
        rows - 9,
    ]
    part = {"rows": rows, "features": table.features, "failed": np.array('{"7": "x"}')}

    def case(rng: random.Random) -> None:
        path.unlink(missing_ok=True)
        if rng.random() < 0.5:
            path.write_bytes(damaged(whole, rng))
        else:
            np.savez(path, **{**arrays, rng.choice(list(arrays)): rng.choice(odd)})
        parts = Parts(folder, {"dtype": "float32"}, 4)
        np.savez(folder / "part.npz", **{**part, rng.choice(list(part)): rng.choice(odd)})
        with contextlib.suppress(Exception):  # as in Parts.open, which names the part
            parts.read(folder / "part.npz")
        with contextlib.suppress(ValueError):
            read_settings(path)
        columns.write_bytes(damaged(whole_columns, rng))
        with contextlib.suppress(ValueError):
            read_features(columns)
        found = read_features(path)
        nearest(found.features, found.features[found.row_of("1")], 2)

    return case


def stl(folder: Path) -> Case:
    """The binary files of STL-10, longer, shorter and with labels that are none."""
    from fastclr.data.stl import IMAGE_BYTES, read_stl
    from fastclr.sources.folder import index_folder

    files = {name: bytes(IMAGE_BYTES) for name in ("train_X.bin", "test_X.bin", "unlabeled_X.bin")}
    files |= {"train_y.bin": b"\x01", "test_y.bin": b"\x0a"}

    def case(rng: random.Random) -> None:
        spoilt = rng.choice([*files, "train_y.bin", "test_y.bin"])
        for name, content in files.items():
            (folder / name).write_bytes(damaged(content, rng) if name == spoilt else content)
        read_stl(index_folder(folder), "")

    return case


def config(folder: Path) -> Case:
    """Configurations, results and environments of runs."""
    from damaged_cases import STORED

    from fastclr.environment import read_environment
    from fastclr.training.results import score_rows
    from fastclr.training.run import Run

    stored = json.loads((STORED / "config.json").read_text())
    others = {
        "environment.json": json.loads((STORED / "environment.json").read_text()),
        "results.json": {"knn": {"accuracy": 0.5, "k": 20}, "demo": {"a": {"accuracy": 0.1}}, "x": [1]},
    }

    def write(path: Path, value: object, rng: random.Random) -> None:
        text = json.dumps(changed(value, rng)).encode()
        path.write_bytes(damaged(text, rng) if rng.random() < 0.3 else text)

    def case(rng: random.Random) -> None:
        write(folder / "config.json", stored, rng)
        run = Run.open(folder)
        for name, value in others.items():
            write(folder / name, value, rng)
        with contextlib.suppress(ValueError):
            score_rows(run)
        read_environment(folder)

    return case


def metrics(folder: Path) -> Case:
    """Logs, read and cut back."""
    from damaged_cases import STORED

    from fastclr.report.material import Material, Missing
    from fastclr.report.run_sections import training_charts
    from fastclr.training.metrics import MetricsLog
    from fastclr.training.run import Run

    records = [json.loads(line) for line in (STORED / "end.jsonl").read_text().splitlines()]
    run = Run.open(STORED)
    log = MetricsLog(folder / "metrics.jsonl")

    def case(rng: random.Random) -> None:
        lines = [json.dumps(changed(record, rng) if rng.random() < 0.4 else record) for record in records]
        text = "\n".join(lines).encode() + b"\n"
        log.path.write_bytes(damaged(text, rng) if rng.random() < 0.3 else text)
        found = log.read()
        log.keep_up_to(8, 2)
        if rng.random() < 0.02:
            training_charts([Material(run, found, Missing(""), Missing(""))], ["run"], "epoch")

    return case


def checkpoint(folder: Path) -> Case:
    """Checkpoints: bytes that are damaged, and contents that were changed and sealed anew."""
    import torch
    from damaged_cases import seal

    from fastclr.training.checkpoint import load_checkpoint, load_state

    module = torch.nn.Linear(3, 2)
    contents: dict[str, Any] = {"config": {"encoder": "resnet18"}, "fingerprint": "ab", "epoch": 1, "step_in_epoch": 2}
    contents |= {"step": 6, "method": dict(module.state_dict()), "totals": {"loss": torch.ones(())}}
    contents |= {"optimizer": {"state": {0: {"m": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}, "probe": {}}
    contents |= {"seconds": (1.0, 2.0)}
    old = {name: value for name, value in contents.items() if name not in ("method", "totals")}
    old |= {"model": contents["method"], "loss": {"log_temperature": torch.zeros(())}, "totals": torch.ones(5)}
    path = folder / "step-00000006.pt"
    seal(path, contents)
    whole = path.read_bytes()
    pool = [5, -1, None, "x", [], {}, (1.0,), float("nan"), 10**30, torch.zeros(0), torch.full((2, 3), torch.nan)]
    pool += [torch.zeros(1).expand(10**9), torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3).to(torch.bfloat16)]

    def case(rng: random.Random) -> None:
        kind = rng.random()
        if kind < 0.2:
            path.write_bytes(damaged(whole, rng))
        elif kind < 0.4:  # torch reads what is damaged: the seal is that of the damaged bytes
            seal_bytes(path, damaged(whole[:-90], rng))
        else:
            seal(path, changed(rng.choice((contents, old)), rng, pool), rng.choice((2, 3)))
        load_state(module, load_checkpoint(path).method, "it")

    return case


def seal_bytes(path: Path, data: bytes) -> None:
    """Write bytes with a digest that fits."""
    import hashlib

    from fastclr.training.checkpoint import END_RECORD, FORMAT

    path.write_bytes(data + END_RECORD.format(format=FORMAT, digest=hashlib.sha256(data).hexdigest()).encode())


def cache(folder: Path) -> Case:
    """Decoded images: bytes that are damaged, and contents that were changed and sealed anew."""
    import torch
    from safetensors.torch import load_file, save_file

    from fastclr.augment.images import RaggedImages
    from fastclr.data import ImageDataset, Splits
    from fastclr.data.cache_file import Origin, digest, read_splits, write_splits

    images = RaggedImages(torch.zeros(60, dtype=torch.uint8), torch.tensor([0, 30]), torch.tensor([[2, 5], [5, 2]]))
    ids = torch.arange(2)
    origin = Origin(("r",), ("/r",), ("c",))
    path = folder / "x.fastclr.safetensors"
    write_splits(path, Splits(ImageDataset(images, ids, ids, ("a", "b"), ("x", "y"), "r"), None), origin)
    whole, tensors = path.read_bytes(), load_file(path)
    about = json.loads(bytes(tensors["about"].numpy()))
    odd = [ids, ids * 2**40, -ids - 1, torch.zeros(2, 2), torch.zeros(0, dtype=torch.uint8), torch.full((2, 2), 2**31)]

    def case(rng: random.Random) -> None:
        if rng.random() < 0.3:
            path.write_bytes(damaged(whole, rng))
        else:
            now = {name: tensor.clone() for name, tensor in tensors.items()}
            if rng.random() < 0.6:
                text = json.dumps(changed(about, rng)).encode()
                now["about"] = torch.frombuffer(bytearray(text), dtype=torch.uint8).clone()
            else:
                now[rng.choice(list(now))] = rng.choice(odd).clone()
            stored = {**vars(origin), "digest": digest(now)}
            save_file(now, path, {"fastclr": json.dumps(changed(stored, rng) if rng.random() < 0.1 else stored)})
        train = read_splits(path, origin).train
        assert isinstance(train, ImageDataset)
        if isinstance(train.images, RaggedImages):
            [train.images.image(index) for index in range(len(train))]

    return case


def operators(folder: Path) -> Case:
    """Arguments of the native operators and the losses; torch itself refuses wrong kinds with a RuntimeError.

    The operators of the losses are Python, and their arguments are checked by the functions that call them.
    """
    import torch

    import fastclr.augment.op
    from fastclr import NTXentLoss, nt_xent
    from fastclr.augment import AugmentConfig

    assert fastclr.augment.op
    sampler = AugmentConfig.cifar(8).sampler()
    sizes = torch.tensor([[4, 5], [6, 3]])
    rows = torch.zeros(1, 2, 16)
    rows[..., 2:4] = 3
    rows[..., 5:8] = 1
    data = torch.arange(200, dtype=torch.uint8)
    z = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    apply = {"data": data, "offsets": torch.tensor([0, 60]), "sizes": sizes, "params": rows, "size": 8, "style": 0}
    apply |= {"planar": False, "mean": [], "std": [], "dtype": torch.float32, "channels_last": False}
    draw = {"ids": torch.arange(2), "sizes": sizes, "seed": 0, "epoch": 0, "first_view": 0, "views": 2, "size": 8}
    calls: list[tuple[Callable[..., object], dict[str, Any]]] = [
        (torch.ops.fastclr.augment_apply, apply),
        (torch.ops.fastclr.augment_params, {**draw, **sampler}),
        (nt_xent, {"z0": z, "z1": z, "temperature": 0.5, "normalize": True, "reduction": "mean"}),
        (lambda **given: NTXentLoss(given.pop("temperature"))(*given.values()), {"temperature": 0.5, "z0": z, "z1": z}),
    ]
    odd: list[Any] = [0, -1, 1, 3, 2**31, 2**62, 0.0, float("nan"), 1e30, True, "max", [], [0.5] * 3, None]
    odd += [torch.zeros(0), torch.zeros(2), torch.zeros(2, 2), -sizes, sizes * 2**40, sizes.int(), rows * torch.nan]
    odd += [rows - 1, rows * 1e9, z.T, z.half(), z * torch.inf, data[:10], data.view(2, 100), torch.arange(4) + 2**40]
    odd += [torch.arange(4) - 7, z[:0], z.expand(2, 4, 8), torch.tensor(0.0), torch.tensor(-1.0), data[::2]]

    def case(rng: random.Random) -> None:
        call, given = rng.choice(calls)
        given = dict(given)
        for _ in range(rng.randint(1, 3)):
            given[rng.choice(list(given))] = rng.choice(odd)
        (folder / "input").write_text(repr({name: str(value)[:200] for name, value in given.items()}))
        with contextlib.suppress(RuntimeError, IndexError):  # torch's refusals
            call(**given)

    return case


def arrays(folder: Path) -> Case:
    """Files of images as NumPy writes them."""
    from fastclr.data.array_file import read_arrays
    from fastclr.data.decode_many import DecodeOptions

    images, labels = np.zeros((3, 4, 4, 3), np.uint8), np.arange(3)
    odd: list[Any] = [images[0], images.astype(np.float32) + 2, images.astype(np.int64), labels - 2, labels * 2**40]
    odd += [np.array("x"), np.zeros((0, 4, 4)), np.zeros((3, 0, 4)), images[..., :2], np.full((3, 4, 4), np.nan)]
    names = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    np.save(folder / "whole.npy", images)
    np.savez(folder / "whole.npz", **names)
    whole = {suffix: (folder / f"whole.{suffix}").read_bytes() for suffix in ("npy", "npz")}
    options = DecodeOptions(memory_limit=10**8)

    def case(rng: random.Random) -> None:
        path = folder / f"images.{rng.choice(('npy', 'npz'))}"
        if rng.random() < 0.6:
            path.write_bytes(damaged(whole[path.suffix[1:]], rng))
        elif path.suffix == ".npy":
            np.save(path, rng.choice(odd))
        else:
            np.savez(path, **{**names, rng.choice(list(names)): rng.choice(odd)})
        read_arrays(path, options)

    return case


KINDS: dict[str, Callable[[Path], Case]] = {
    "header": header,
    "tar": tar,
    "stl": stl,
    "cls": lambda folder: shards(folder, "cls"),
    "json": lambda folder: shards(folder, "json"),
    "csv": csv,
    "captions": captions,
    "pickle": pickles,
    "npz": npz,
    "arrays": arrays,
    "table": tables,
    "config": config,
    "metrics": metrics,
    "checkpoint": checkpoint,
    "cache": cache,
    "operators": operators,
}


COUNTS = {
    "header": 2000,
    "tar": 1500,
    "cls": 1000,
    "json": 1000,
    "csv": 2000,
    "captions": 1000,
    "arrays": 500,
    "table": 500,
    "stl": 500,
    "pickle": 3500,
    "npz": 600,
    "config": 1400,
}
COUNTS |= {"metrics": 1000, "checkpoint": 1000, "cache": 1500, "operators": 1000}


def main(kind: str, seed: int, folder: Path) -> int:
    """Run one kind; print the inputs that were not handled, and return how many there were."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    case, failures = KINDS[kind](folder), 0
    for number in range(COUNTS[kind]):
        try:
            case(random.Random(f"{kind} {seed} {number}"))
        except SHOWN:
            pass
        except Exception:
            failures += 1
            print(f"{kind} {number}: {traceback.format_exc()}")
            if failures >= 5:
                break
    return failures


if __name__ == "__main__":
    total = 0
    for name in sys.argv[1].split(","):
        start = time.perf_counter()
        total += main(name, int(sys.argv[2]), Path(sys.argv[3]))
        print(f"{name}: {COUNTS[name]} inputs, {time.perf_counter() - start:.0f} s", flush=True)
    sys.exit(min(total, 100))

"""Times a few workloads of the fastclr on the path, one sample per line of standard input.

Both revisions of a comparison run this file, so it uses only the public names `NTXentLoss` and `SimCLRAugment`, and
`probe_accuracy` of `fastclr.evaluate`.
A line is `WORKLOAD INNER`; the answer is seconds per run. An empty line ends the process.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable

import torch

import fastclr


def loss(rows: int, dtype: torch.dtype, device: str) -> Callable[[], object]:
    """NT-Xent, forward and backward, D = 128."""
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(rows // 2, 128, generator=generator).to(device, dtype).requires_grad_() for _ in range(2)]
    module = fastclr.NTXentLoss(0.1).to(device)

    def run() -> None:
        for view in views:
            view.grad = None
        module(*views).backward()

    return run


def augment(size: int, source: tuple[int, int], count: int, device: str) -> Callable[[], object]:
    """Two views of a batch of noise."""
    config = fastclr.AugmentConfig.cifar(32) if size == 32 else fastclr.AugmentConfig.imagenet(size)
    images = torch.randint(0, 256, (count, *source, 3), dtype=torch.uint8).to(device)
    made, ids, epochs = fastclr.SimCLRAugment(config, views=2), torch.arange(count, device=device), itertools.count()
    return lambda: made(images, ids, next(epochs))


def probe(rows: int, width: int) -> Callable[[], object]:
    """Logistic regression on features whose covariance has eigenvalues of many magnitudes, at one l2."""
    from fastclr.evaluate import Features, probe_accuracy

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (rows,), generator=generator)
    features = torch.randn(10, width, generator=generator)[labels] + 4 * torch.randn(rows, width, generator=generator)
    features = features * torch.logspace(0, -2, width) @ torch.randn(width, width, generator=generator)
    data = Features(features, labels, features[:100], labels[:100])
    return lambda: probe_accuracy(data)


WORKLOADS: dict[str, Callable[[], Callable[[], object]]] = {
    "loss-M32-float32": lambda: loss(32, torch.float32, "cpu"),
    "loss-M256-float32": lambda: loss(256, torch.float32, "cpu"),
    "loss-M2048-float32": lambda: loss(2048, torch.float32, "cpu"),
    "loss-M8192-float32": lambda: loss(8192, torch.float32, "cpu"),
    "augment-32": lambda: augment(32, (32, 32), 512, "cpu"),
    "augment-224": lambda: augment(224, (375, 500), 32, "cpu"),
    "probe-2000x512": lambda: probe(2000, 512),
}
ON_GPU: dict[str, Callable[[], Callable[[], object]]] = {
    "loss-M4096-bfloat16-cuda": lambda: loss(4096, torch.bfloat16, "cuda"),
    "loss-M65536-bfloat16-cuda": lambda: loss(65536, torch.bfloat16, "cuda"),
    "augment-32-cuda": lambda: augment(32, (32, 32), 2048, "cuda"),
    "augment-224-cuda": lambda: augment(224, (375, 500), 256, "cuda"),
}


def wait() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Answer requests until an empty line."""
    torch.set_num_threads(int(sys.argv[1]))
    print(fastclr.__file__, flush=True)
    known, ready = WORKLOADS | ON_GPU, {}
    for line in sys.stdin:
        if not line.strip():
            break
        name, inner = line.split()
        if name not in ready:
            ready[name] = known[name]()
            ready[name]()
        wait()
        begin = time.perf_counter()
        for _ in range(int(inner)):
            ready[name]()
        wait()
        print((time.perf_counter() - begin) / int(inner), flush=True)


if __name__ == "__main__":
    main()

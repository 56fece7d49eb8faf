"""Peak memory of NT-Xent over the batch size: the bytes that a benchmark counted, and the powers that they follow.

The bytes are those of PyTorch's allocator beyond the embeddings (benchmarks/memory.py), forward and backward. They
follow from the code and the sizes, not from the machine, so that curves go on beyond what was counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from report_data import Result

from fastclr.bench.rows import OURS

# what a library stores grows with this power of N
DEGREES = {OURS: 1, "pytorch": 2, "pytorch-compile": 2, "lightly": 2, "solo-learn": 2, "pytorch-metric-learning": 3}
DIM, DTYPE = 128, "float32"
AGREE = 0.2  # the second largest count is met within this share: small batches have lower terms too


@dataclass(frozen=True)
class Curve:
    """Bytes over images N: ``a N^degree`` through the largest count.

    Args:
        name: the library.
        degree: of the polynomial.
        points: images and bytes, in order of images.

    Raises:
        ValueError: the second largest count is off the curve.
    """

    name: str
    degree: int
    points: Sequence[tuple[int, int]]

    def __post_init__(self) -> None:
        if self.degree > 1 and len(self.points) > 1:
            images, counted = self.points[-2]
            if abs(self.at(images) / counted - 1) > AGREE:
                raise ValueError(
                    f"{self.name} needs {counted:,} bytes at {images:,} images, its law of degree {self.degree} says "
                    f"{self.at(images):,.0f}"
                )

    @property
    def factor(self) -> float:
        """The coefficient a, in bytes."""
        images, counted = self.points[-1]
        return counted / images**self.degree

    def at(self, images: float) -> float:
        """Return the bytes at any number of images."""
        return float(self.factor * images**self.degree)

    def within(self, limit: float) -> int:
        """Return the largest number of images that needs at most `limit` bytes."""
        return int((limit / self.factor) ** (1 / self.degree) * (1 + 1e-12))


def curves(results: Sequence[Result]) -> tuple[Result, dict[str, Curve]] | None:
    """Return the curves of the libraries with enough counts, and the CPU result that has most of them, or nothing."""
    found = [(each, curves_of(each)) for each in results if not each.on_gpu]
    usable = [(each, made) for each, made in found if OURS in made and len(made) > 1]
    return max(usable, key=lambda pair: (len(pair[1]), len(pair[0].timed())), default=None)


def curves_of(result: Result) -> dict[str, Curve]:
    """Return the curves of one result."""
    wanted = {"layout": "ntxent", "dim": DIM, "dtype": DTYPE, "learnable": False}
    points: dict[str, list[tuple[int, int]]] = {}
    for row in result.suite("loss"):
        if row.peak_bytes and all(row.parameters.get(name) == value for name, value in wanted.items()):
            points.setdefault(row.provider, []).append((int(row.parameters["rows"]) // 2, row.peak_bytes))
    return {name: Curve(name, degree, sorted(points[name])) for name, degree in DEGREES.items() if name in points}

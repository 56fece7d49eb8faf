"""Split rows in any order into two views by their sample ids."""

from __future__ import annotations

from torch import Tensor


def pair_rows(ids: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Indices of the first and the second row of every sample.

    Args:
        ids: ``[2N]`` integers; every value must occur exactly twice. Checking that synchronises with the device.
        rows: expected number of ids.

    Returns:
        Two index tensors ``[N]``.

    Raises:
        TypeError: ids are not an integer tensor.
        ValueError: the number of ids is not `rows`, or a sample does not occur exactly twice.
    """
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex():
        raise TypeError(f"labels must be an integer tensor, got {getattr(ids, 'dtype', type(ids).__name__)}")
    if ids.dim() != 1 or len(ids) != rows:
        raise ValueError(f"expected one label for each of the {rows} rows, got {list(ids.shape)}")
    _, counts = ids.unique(return_counts=True)
    if not bool((counts == 2).all()):
        found = sorted(set(counts.tolist()))
        raise ValueError(f"two views need every label exactly twice, got labels that occur {found} times")
    order = ids.argsort(stable=True)
    return order[0::2], order[1::2]

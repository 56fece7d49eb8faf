"""Philox4x32-10 against the known-answer vectors of Random123 1.14 (kat_vectors)."""

from __future__ import annotations

import numpy as np
import pytest

from fastclr.augment.reference import philox

ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), ANSWERS)
def test_philox_numpy(counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...]) -> None:
    words = philox([np.array(word) for word in counter], [np.array(word) for word in key])
    assert tuple(int(word) for word in words) == answer


@pytest.mark.parametrize(("counter", "key", "answer"), ANSWERS)
def test_philox_native(counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...]) -> None:
    host = pytest.importorskip("fastclr._host", reason="the pybind11 module is not built")
    assert tuple(host.philox(counter, key)) == answer


def test_philox_broadcasts() -> None:
    """Arrays give the same results as their elements one by one."""
    blocks, samples = np.arange(5)[:, None], np.array([3, 2**32 - 1])
    words = philox([blocks, np.array(7), samples, np.array(0)], [np.array(1), np.array(2)])
    for i, j in np.ndindex(5, 2):
        single = philox([np.array(i), np.array(7), samples[j], np.array(0)], [np.array(1), np.array(2)])
        assert [int(word[i, j]) for word in words] == [int(word) for word in single]

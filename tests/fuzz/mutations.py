"""Random damage to bytes, to values as JSON has them, and to tensors; a seed decides all."""

from __future__ import annotations

import copy
import random
from typing import Any

BYTES = [
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x80",
    b"\xff" * 8,
    b"(",
    b".",
    b"{",
    b"[",
    b"[" * 100_000,
]
VALUES: list[Any] = [5, -1, 0, 1e9, 1e308, float("nan"), float("inf"), 10**30, 10**400, True, None, "", "x", [], {}]
VALUES += [[[]], [1, "a"], {"a": {}}, "\x1b[2J", "../../x", "a" * 5000, [0] * 50, -(2**63), 2**63]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return bytes after one to four changes: flipped, replaced, removed, repeated or cut off."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not found:
            return bytes(found)
        start = rng.randrange(len(found))
        length = min(len(found) - start, rng.choice((1, 1, 2, 4, 8, 32, 300)))
        kind = rng.randrange(7)
        if kind == 0:
            found[start] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[start] = rng.randrange(256)
        elif kind == 2:
            value = rng.choice(BYTES)
            found[start : start + len(value)] = value
        elif kind == 3:
            del found[start : start + length]
        elif kind == 4:
            found[start:start] = found[start : start + length]
        elif kind == 5:
            there = rng.randrange(len(found))
            found[start : start + length] = found[there : there + length]
        else:
            del found[start:]
    return bytes(found)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of everything inside of nested dicts and lists."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in ((*path, key), *places(value[key], (*path, key)))]


def changed(value: Any, rng: random.Random, pool: list[Any] | None = None) -> Any:
    """Return a copy of nested dicts and lists with one to three places replaced, removed or added."""
    found = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        there = places(found)
        if not there or rng.random() < 0.03:
            found = copy.deepcopy(rng.choice(pool or VALUES))
            continue
        *path, key = rng.choice(there)
        owner = found
        for name in path:
            owner = owner[name]
        kind = rng.randrange(6)
        if kind == 0:
            del owner[key]
        elif kind == 1 and isinstance(owner, dict):
            owner[rng.choice(("a", "size", "\x00", "classes"))] = copy.deepcopy(rng.choice(pool or VALUES))
        else:
            owner[key] = copy.deepcopy(rng.choice(pool or VALUES))
    return found

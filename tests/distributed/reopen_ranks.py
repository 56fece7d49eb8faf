"""Opens and closes the world several times in each process, with the ranks at different paces, for torchrun."""

from __future__ import annotations

import os
import time

from fastclr.parallel import open_world

ROUNDS = 6


def main() -> None:
    """Meet in every world, and print how many there were."""
    rank = int(os.environ["RANK"])
    for number in range(ROUNDS):
        if rank == number % 2:
            time.sleep(0.5)
        with open_world("cpu") as world:
            if world.any(10 * number + rank) != 10 * number + 1:
                raise RuntimeError(f"the ranks met in different worlds: round {number}")
    if rank == 0:
        print("worlds", ROUNDS)


if __name__ == "__main__":
    main()

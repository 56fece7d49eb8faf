"""Opens worlds: several times in each process, with the ranks at different paces, for torchrun; and in given groups."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch import distributed

import fastclr.parallel
from fastclr.parallel import open_world
from fastclr.training.texts import agreed

ROUNDS = 6


def meet_without_a_cpu_backend() -> dict[str, Any]:
    """Exchange values on the CPU in a group that the caller initialised for GPUs alone, of which there are none."""
    distributed.init_process_group("cuda:gloo")
    rank = distributed.get_rank()
    found: dict[str, Any] = {}
    try:
        with open_world("cpu"):
            pass
    except ValueError as error:
        found["refused"] = str(error)
    fastclr.parallel.resolve_device = lambda name: torch.device(name)
    torch.cuda.set_device = lambda device: None
    groups = []
    for _ in range(2):
        with open_world("cuda") as world:
            groups.append(world.cpu_group)
            world.barrier()
            found["any"] = world.any(10 + rank)
            found["joined"] = world.join(world.part(5), 5)
            found["sum"] = world.sum(torch.tensor(rank + 1))
            found["agreed"] = agreed("same", world), agreed(f"rank {rank}", world)
            found["device"] = str(world.device)
    found["one group"] = groups[0] is groups[1] and groups[0] is not distributed.group.WORLD
    return found


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

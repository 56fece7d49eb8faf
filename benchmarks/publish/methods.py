"""The table of methods: every method on the same 10,000 images of CIFAR-10, for the same number of images drawn.

A ResNet-18 of a quarter of the width is trained for 40 epochs. Three rates are tried on seed 0, on training images that
no training sees; two other seeds at the best rate are scored on the test images, by kNN and by logistic regression on
frozen features. An epoch draws every image once, however many views of it the method makes.

Trainings have one thread each and run --jobs at a time. Each stores its result when it ends; called again, the command
goes on with those that are missing, and repeats one that was killed. Methods are those of `fastclr methods`. The
encoders of the first reported seed are kept in OUT/methods/encoders, one file each, with their SHA-256 in the results.

What a step costs is measured apart, with --costs, while nothing else runs: see method_costs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import method_costs
import method_run
import torch
from method_run import ENCODERS, FACTORS, IMAGES, SEEDS, TOY_IMAGES, TUNING_SEED, UNTRAINED, Images, Planned
from methods_table import missing, table

from fastclr.bench import machine
from fastclr.bench.jobs import Pool
from fastclr.files import locked, write_text_atomically
from fastclr.methods import METHODS

FORMAT = 1
COSTS = "costs.json"
SAME = ("device", "cpu", "versions", "threads", "malloc", "rehearsal")
NAMES = (UNTRAINED, *(name for name, method in METHODS.items() if not method.uses_texts))
TAIL = 2000  # characters of a failed training's output


@dataclass
class Plan:
    """What is to be trained, as far as it is known, and what is done.

    Args:
        names: the methods, in order.
        folder: of the results, one file each.
        rehearse: whether they are rehearsals.
        done: results by name of the training.
        failed: those that ended without a result, in this call.
    """

    names: Sequence[str]
    folder: Path
    rehearse: bool
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    def read(self, planned: Planned) -> bool:
        """Take up the stored result of a training, if there is one of the same configuration."""
        path = self.folder / f"{planned.name}.json"
        if not path.is_file():
            return False
        stored = json.loads(path.read_text())
        wanted = json.loads(json.dumps(planned.config(self.rehearse).as_dict()))
        # an option that is new with its default, or gone, changes nothing
        if any(wanted.get(name, value) != value for name, value in stored["config"].items()):
            return False
        self.done[planned.name] = stored
        return True

    def tuning(self, name: str) -> list[Planned]:
        """Return the trainings that choose a method's rate."""
        return [] if name == UNTRAINED else [Planned(name, factor, TUNING_SEED) for factor in FACTORS]

    def reported(self, name: str) -> list[Planned] | None:
        """Return the trainings that are reported; none where every rate failed, None while rates are not known."""
        if name == UNTRAINED:
            return [Planned(name, 1.0, seed) for seed in SEEDS]
        found = [self.done.get(planned.name) for planned in self.tuning(name)]
        if any(result is None for result in found):
            return None
        good = [result for result in found if result is not None and result["status"] == "ok"]
        if not good:
            return []
        best = max(good, key=lambda result: float(result["linear"]))
        return [Planned(name, best["factor"], seed) for seed in SEEDS]

    def refresh(self) -> None:
        """Take up all results that are stored."""
        for name in self.names:
            for planned in self.tuning(name):
                self.read(planned)
            for planned in self.reported(name) or ():
                self.read(planned)

    def next(self, running: Sequence[Planned]) -> Planned | None:
        """Return the next training that can start; None where there is none now."""
        for name in self.names:
            for planned in (*self.tuning(name), *(self.reported(name) or ())):
                if planned.name not in self.done and planned.name not in self.failed and planned not in running:
                    return planned
        return None

    def left(self) -> list[str]:
        """Return the method of every training that is not done, those included whose rate is not known yet."""
        found = []
        for name in self.names:
            reported = self.reported(name)
            known = [*self.tuning(name), *(reported or ())]
            found += [name] * sum(planned.name not in self.done for planned in known)
            found += [name] * (len(SEEDS) if reported is None else 0)
        return found

    def seconds(self, name: str) -> float:
        """Return how long a training of a method takes: as its others did, else as those of other methods did."""
        took = [(r["method"], r["wall_s"]) for r in self.done.values() if r["method"] != UNTRAINED]
        own = [seconds for method, seconds in took if method == name]
        return statistics.fmean(own or [seconds for _, seconds in took] or [math.nan])

    def remaining(self, jobs: int) -> str:
        """Return the time that is left, in words."""
        seconds = sum(self.seconds(name) for name in self.left() if name != UNTRAINED) / jobs
        if not math.isfinite(seconds):
            return "time left unknown"
        hours, minutes = divmod(math.ceil(seconds / 60), 60)
        return f"about {hours} h {minutes:02d} min left"


def call(plan: Plan, options: argparse.Namespace, stored: Callable[[], None]) -> None:
    """Train what is left, `jobs` at a time, until the budget is spent.

    Args:
        plan: what to train.
        options: of the command.
        stored: called when a result is there.
    """
    end = math.inf if options.budget is None else time.monotonic() + 60 * options.budget

    def following(running: Sequence[Planned]) -> Planned | None:
        planned = plan.next(running)
        # how long it takes is not known at first, and no comparison with that is true
        late = planned is not None and time.monotonic() + plan.seconds(planned.method) > end
        return None if late else planned

    def ended(planned: Planned, status: int) -> None:
        report(planned, plan, status, options)
        stored()

    def arguments(planned: Planned) -> list[str]:
        made = [planned.method, str(planned.factor), str(planned.seed)]
        out = plan.folder / f"{planned.name}.json"
        made += ["--data", options.data, "--work", str(options.work), "--out", str(out)]
        made += ["--images", str(options.images)]
        return made + (["--rehearse"] if options.rehearse else [])

    def log(planned: Planned) -> Path:
        path: Path = options.work / f"{planned.name}.log"
        return path

    pool = Pool(options.jobs, following, method_run.main, arguments, log, ended)
    pool.run(until=end)  # what still runs then is repeated by the next call


def report(planned: Planned, plan: Plan, status: int, options: argparse.Namespace) -> None:
    """Print how a training ended, and what is left."""
    if not plan.read(planned):
        plan.failed.add(planned.name)
        log = (options.work / f"{planned.name}.log").read_text(errors="replace")
        print(f"{planned.said}: ended with status {status} and no result\n{log[-TAIL:]}", file=sys.stderr, flush=True)
        return
    result = plan.done[planned.name]
    what = f"{result['status']}: {result.get('note', '')}"
    if result["status"] == "ok":
        what = f"kNN {100 * result['knn']:.1f}%, linear {100 * result['linear']:.1f}% on {result['scored_on']}"
    count = len(plan.done)
    print(
        f"[{count}/{count + len(plan.left())}] {planned.said}: {what}, {result['wall_s']:.0f} s; "
        f"{plan.remaining(options.jobs)}",
        flush=True,
    )


def write(path: Path, plan: Plan, here: dict[str, Any], commands: Sequence[str]) -> dict[str, Any]:
    """Write everything that is done to one file, and return its contents."""
    trainings = [plan.done[name] for name in sorted(plan.done)]
    contents: dict[str, Any] = {"format": FORMAT, "machine": here, "commands": list(commands), "trainings": trainings}
    contents["methods"] = list(NAMES)
    contents["missing"] = missing(contents)
    kept = sorted((plan.folder.parent / ENCODERS).glob("*.safetensors"))
    costs = plan.folder.parent / COSTS
    contents["costs"] = json.loads(costs.read_text()) if costs.exists() else None
    contents["encoders"] = {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in kept}
    write_text_atomically(path, json.dumps(contents, indent=1) + "\n")
    return contents


def measure_costs(plan: Plan, options: argparse.Namespace, here: Mapping[str, Any]) -> None:
    """Measure what a step of each method costs, and store it in place of what was there."""
    images = Images.load(options.data, options.work, options.images)
    found: dict[str, Any] = {"commit": machine.commit(), "load": here["load"]}
    found["rounds"] = method_costs.rounds(plan.names, images, options.rehearse)
    write_text_atomically(plan.folder.parent / COSTS, json.dumps(found, indent=1) + "\n")


def check_images(plan: Plan) -> None:
    """Raise a ValueError if results are of different images."""
    found = {json.dumps([result["images"], result["train_images"]]) for result in plan.done.values()}
    if len(found) > 1:
        raise ValueError(f"{plan.folder} has results of other images: use another --out")


def run(options: argparse.Namespace) -> int:
    """Do what the options say."""
    torch.set_num_threads(1)  # as the trainings have
    here = machine.describe(torch.device("cpu")) | {"rehearsal": options.rehearse}
    path = options.out / f"methods-{machine.slug(here)}.json"
    before = json.loads(path.read_text()) if path.exists() else {"machine": here, "commands": []}
    for name in SAME:
        if before["machine"].get(name) != here.get(name):
            raise ValueError(
                f"{path} has results of {name} {before['machine'].get(name)!r}, this is {here.get(name)!r}: "
                "use another --out"
            )
    names = [name for name in NAMES if name in options.only] if options.only else list(NAMES)
    folder = options.out / "methods" / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    everything, plan = (Plan(chosen, folder, options.rehearse) for chosen in (NAMES, names))
    commands = list(before["commands"])
    if not options.report:
        commands = list(dict.fromkeys([*commands, machine.command_line()]))

    def stored() -> dict[str, Any]:
        everything.refresh()
        check_images(everything)
        return write(path, everything, here, commands)

    if options.report:
        print(table(stored()))
        print(path)
        return 0
    options.work = options.out / "methods" / "work"
    options.work.mkdir(parents=True, exist_ok=True)
    with locked(options.work / ".lock", f"another process trains in {options.out}"):
        for left in options.work.glob("tmp*"):  # of trainings that were killed
            shutil.rmtree(left)
        stored()
        plan.refresh()
        if options.costs:
            measure_costs(plan, options, here)
        else:
            call(plan, options, stored)
        contents = stored()
    print(table(contents))
    print(path)
    left = plan.left()
    if left:
        print(f"{len(left)} trainings to go, {plan.remaining(options.jobs)}: run the command again", flush=True)
    return int(bool(plan.failed))


def main(arguments: list[str]) -> int:
    """Parse the command line and run; return 1 if a training failed, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="CIFAR-10: a folder or archive of JPEG files, or its own archive")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder of the results")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help="methods (default: all)")
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="start nothing that would take longer")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, with one thread each (default: 2)")
    parser.add_argument("--images", type=int, default=IMAGES, help="to train on (default: %(default)s)")
    parser.add_argument("--costs", action="store_true", help="measure what a step costs, and train nothing")
    parser.add_argument("--report", action="store_true", help="print the table of what is there, and train nothing")
    parser.add_argument("--rehearse", action="store_true", help="toy settings: a few images for two epochs")
    options = parser.parse_args(arguments)
    if options.rehearse:
        options.data, options.images = options.data or "shapes", min(options.images, TOY_IMAGES)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that trainings end with this process
    try:
        if not options.data and not options.report:
            raise ValueError("CIFAR-10 is needed: pass --data PATH")
        if options.jobs < 1 or options.images < 10:
            raise ValueError(f"--jobs must be at least 1 and --images 10, got {options.jobs} and {options.images}")
        return run(options)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (ValueError, OSError) as error:
        print(f"methods: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

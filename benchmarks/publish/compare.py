"""Compares the working tree with another revision: builds both, and times them in turn on the same workloads.

python benchmarks/publish/compare.py BASE               BASE is any git revision: a commit, a branch, a tag
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from compare_worker import ON_GPU, WORKLOADS

from fastclr.bench import machine
from fastclr.bench.rows import NOISY, Spread
from fastclr.bench.table import spread

ROOT = Path(__file__).resolve().parents[2]
HERE, BASE = "this tree", "base"
SAMPLE_S, ROUNDS, REHEARSED_ROUNDS = 0.1, 15, 1


def git(*arguments: str) -> str:
    """Run git on this repository; if it fails, raise with its message."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def build(tree: Path, target: Path) -> Path:
    """Build a source tree's package, including its native code, into `target`."""
    request = "cuda" if torch.cuda.is_available() else "cpu"
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(target / "tmp")]
    command += ["--build-lib", str(target / "lib")]
    done = subprocess.run(
        command, cwd=tree, env=os.environ | {"FASTCLR_BUILD": request}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(f"the build of {tree.name} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return target / "lib"


class Worker:
    """A process that times one of the two builds."""

    def __init__(self, library: Path, threads: int) -> None:
        environment = os.environ | {"PYTHONPATH": str(library), "PYTHONSAFEPATH": "1"}
        command = [
            sys.executable,
            "-W",
            "ignore",
            str(ROOT / "benchmarks" / "publish" / "compare_worker.py"),
            str(threads),
        ]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=library
        )
        found = Path(self._answer())
        if not found.is_relative_to(library):
            self.close()
            raise ValueError(f"expected fastclr from {library}, got {found}")

    def seconds(self, workload: str, inner: int) -> float:
        """Return seconds per run."""
        if self.process.stdin is None:
            raise ValueError("the worker has no input")
        self.process.stdin.write(f"{workload} {inner}\n")
        self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        line = self.process.stdout.readline() if self.process.stdout is not None else ""
        if not line:
            raise ValueError("a revision cannot run a workload; its error message is above")
        return line.strip()

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def compare(workers: dict[str, Worker], workloads: list[str], rounds: int) -> list[dict[str, object]]:
    """Time both in turn, and print medians, spreads and the ratio, which is taken round by round."""
    results: list[dict[str, object]] = []
    for workload in workloads:
        slowest = max(worker.seconds(workload, 1) for worker in workers.values())
        inner = max(1, int(SAMPLE_S / slowest))
        samples: dict[str, list[float]] = {name: [] for name in workers}
        for turn in range(rounds):
            order = list(workers.items())
            for name, worker in order if turn % 2 == 0 else order[::-1]:
                samples[name].append(worker.seconds(workload, inner))
        ratio = Spread.of([here / base for here, base in zip(samples[HERE], samples[BASE], strict=True)])
        same = ratio.p20 <= 1 <= ratio.p80 or rounds == REHEARSED_ROUNDS
        verdict = "no difference" if same else ("slower" if ratio.median > 1 else "faster")
        times = {name: Spread.of(found) for name, found in samples.items()}
        print(
            f"{workload:<28}base {spread(times[BASE]):<34}here {spread(times[HERE]):<34}"
            f"here/base {ratio.median:.3f} [{ratio.p20:.3f}, {ratio.p80:.3f}]  {verdict}"
            + (f"  (noisy: spread above {NOISY:.0%})" if ratio.noisy else ""),
            flush=True,
        )
        entry: dict[str, object] = {name: vars(value) for name, value in times.items()}
        results.append({"workload": workload, "n": rounds, "inner": inner, **entry, "ratio": vars(ratio)})
    return results


def main(arguments: list[str]) -> int:
    """Build both, compare, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "compare")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rehearse", action="store_true", help="one round")
    parser.add_argument("--workloads", nargs="+", metavar="NAME", help="some of: " + ", ".join(WORKLOADS | ON_GPU))
    options = parser.parse_args(arguments)
    workers: dict[str, Worker] = {}
    tree = options.out.resolve() / "tree"
    try:
        known = list(WORKLOADS | (ON_GPU if torch.cuda.is_available() else {}))
        if unknown := sorted(set(options.workloads or []) - set(known)):
            raise ValueError(f"workloads must be among {', '.join(known)}, got {', '.join(unknown)}")
        commit = git("rev-parse", "--verify", f"{options.base}^{{commit}}")
        remove(tree)
        git("worktree", "add", "--force", "--detach", str(tree), commit)
        libraries = {BASE: build(tree, tree.parent / "base"), HERE: build(ROOT, tree.parent / "here")}
        for name, library in libraries.items():
            workers[name] = Worker(library, options.threads)
        rounds = REHEARSED_ROUNDS if options.rehearse else ROUNDS
        results = compare(workers, options.workloads or known, rounds)
        about = {"base": commit, "machine": machine.describe(torch.device("cpu")), "results": results}
        path = options.out / f"compare-{commit[:10]}.json"
        path.write_text(json.dumps(about, indent=1) + "\n")
        print(path)
    except ValueError as error:
        print(f"compare: error: {error}", file=sys.stderr)
        return 2
    finally:
        for worker in workers.values():
            worker.close()
        remove(tree)
    return 0


def remove(tree: Path) -> None:
    """Remove the other revision's source tree; its build stays, and only changed sources are rebuilt next time."""
    if tree.exists():
        git("worktree", "remove", "--force", str(tree))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

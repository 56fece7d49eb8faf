"""A quarter of an hour with a GPU: the most valuable first, each stage in its box, what is left goes to the record.

    python benchmarks/publish/gpu_day.py --out FOLDER --minutes N [--kit ARCHIVE] [--data CIFAR] [--rehearse]

Every stage writes JSON into FOLDER as it goes, and a call goes on where the last one stopped: first the stages whose
boxes have time left, then those that were cut short. A stage that fails or hangs costs its box and no more. With an
archive of `gpu_kit.py`, nothing is compiled here: it brings the package, its kernels and the libraries to compare with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiled_ahead import place

HERE = Path(__file__).resolve().parent
# a stage stops itself between cases; after that it is interrupted, then killed
GRACE_S, REHEARSED_GRACE_S = 25.0, 120.0


@dataclass(frozen=True)
class Stage:
    """A part of the day.

    Args:
        name: unique.
        minutes: its box, over all calls; infinite for what takes all that is left.
        command: of Python, without `--out` and `--minutes`.
        needs_data: whether it is left out without images.
        tail_s: what it may take beyond the minutes that it is told, to write its state.
        least_s: with less time it is not started.
    """

    name: str
    minutes: float
    command: tuple[str, ...]
    needs_data: bool = False
    tail_s: float = 0.0
    least_s: float = 20.0


STAGES = (
    Stage("numerics", 3, (str(HERE / "gpu_boxed.py"), "numerics")),
    Stage("losses", 3, ("-m", "fastclr.bench", "--suites", "loss", "--headlines")),
    Stage("tiles", 2, (str(HERE / "gpu_boxed.py"), "tiles")),
    Stage("augmentation", 1, ("-m", "fastclr.bench", "--suites", "augment", "--headlines")),
    Stage("record", float("inf"), (str(HERE / "record.py"),), needs_data=True, tail_s=45, least_s=120),
)


class Day:
    """The state of all stages, in one file."""

    def __init__(self, out: Path, rehearse: bool) -> None:
        self.path, self.rehearse = out / "gpu-day.json", rehearse
        stored = json.loads(self.path.read_text()) if self.path.exists() else {}
        if stored.get("rehearsal", rehearse) != rehearse:
            raise ValueError(f"{self.path} is of {'a rehearsal' if not rehearse else 'a GPU'}: use another OUT")
        self.stages: dict[str, dict[str, Any]] = stored.get("stages", {})
        self.calls: list[dict[str, Any]] = stored.get("calls", [])

    def write(self) -> None:
        """Write the file, whole at any time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        contents = {"format": 1, "rehearsal": self.rehearse, "calls": self.calls, "stages": self.stages}
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(contents, indent=1) + "\n")
        new.replace(self.path)

    def left(self, stage: Stage) -> float:
        """Seconds in the box of a stage."""
        used = self.stages.get(stage.name, {}).get("seconds", 0.0)
        return 60 * stage.minutes - used

    def is_done(self, stage: Stage) -> bool:
        """Whether nothing of a stage is left to do: it ended by itself, without a failure."""
        return bool(self.stages.get(stage.name, {}).get("status") == "done")

    def note(self, stage: Stage, status: str, seconds: float) -> None:
        """Record a call of a stage."""
        entry = self.stages.setdefault(stage.name, {"seconds": 0.0, "calls": 0})
        entry |= {"status": status, "seconds": round(entry["seconds"] + seconds, 1), "calls": entry["calls"] + 1}
        self.write()


def run_stage(stage: Stage, seconds: float, arguments: list[str], environment: dict[str, str], grace: float) -> str:
    """Run a stage for about so long: `done`, `failed`, `stopped` (time was up) or `killed`."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        *stage.command,
        *arguments,
        "--minutes",
        f"{max(0.0, seconds - stage.tail_s) / 60:.4f}",
    ]
    begin = time.monotonic()
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        status = process.wait(seconds + grace)
    except BaseException as error:
        is_late = isinstance(error, subprocess.TimeoutExpired)
        end_group(process)
        if not is_late:  # Ctrl-C, or the machine's own limit
            raise
        return "killed"
    if time.monotonic() - begin >= seconds - stage.tail_s:
        return "stopped"
    return "failed" if status else "done"


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ask a stage and all that it started to stop, then kill them."""
    for sign, wait in ((signal.SIGINT, 5.0), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, sign)
            process.wait(wait)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def unpack(archive: Path, folder: Path) -> dict[str, Any]:
    """Unpack the archive of `gpu_kit.py`, unless it was unpacked there before; return its description."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    stamp = folder / ".unpacked"
    if not stamp.exists() or stamp.read_text() != digest:
        shutil.rmtree(folder, ignore_errors=True)
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
        place(folder / "triton")
        stamp.write_text(digest)
    described: dict[str, Any] = json.loads((folder / "kit.json").read_text())
    return described


def with_kit(environment: dict[str, str], folder: Path, kit: dict[str, Any]) -> dict[str, str]:
    """The environment in which stages find what the archive brings."""
    paths = [str(folder / "site"), str(HERE), *filter(None, [environment.get("PYTHONPATH")]), str(folder / "peers")]
    found = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1", "TRITON_CACHE_DIR": str(folder / "triton")}
    if kit.get("commit"):
        found["FASTCLR_COMMIT"] = kit["commit"]
    return environment | found


def main(arguments: list[str]) -> int:
    """Run the stages; return 1 if one failed, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder of the results")
    parser.add_argument("--work", type=Path, default=Path("runs/record"), help="folder of the record between calls")
    parser.add_argument("--minutes", type=float, default=9.5, help="for this call (default: %(default)s)")
    parser.add_argument("--data", default="", help="CIFAR-10, for the record; without it the record is left out")
    parser.add_argument("--kit", type=Path, help="archive of gpu_kit.py")
    parser.add_argument("--kit-folder", type=Path, default=Path("build/kit"), help="where it is unpacked")
    parser.add_argument("--rehearse", action="store_true", help="toy sizes, on any machine")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    end = begin + 60 * options.minutes
    environment = dict(os.environ)
    try:
        day = Day(options.out, options.rehearse)
        kit: dict[str, Any] = {}
        if options.kit:
            kit = unpack(options.kit, options.kit_folder.resolve())
            environment = with_kit(environment, options.kit_folder.resolve(), kit)
    except (ValueError, OSError, tarfile.TarError) as error:
        print(f"gpu-day: error: {error}", file=sys.stderr)
        return 2
    day.calls.append({"minutes": options.minutes, "kit": kit, "unpacked_s": round(time.monotonic() - begin, 1)})
    day.write()
    wanted = [stage for stage in STAGES if options.data or options.rehearse or not stage.needs_data]
    common = ["--out", str(options.out), *(["--rehearse"] if options.rehearse else [])]
    grace = REHEARSED_GRACE_S if options.rehearse else GRACE_S
    failed: set[str] = set()
    for boxed in (True, False):  # then those that were cut short, with what is left of the call
        for stage in wanted:
            left = end - time.monotonic()
            seconds = min(left, day.left(stage)) if boxed else left
            if day.is_done(stage) or stage.name in failed or seconds < (0 if options.rehearse else stage.least_s):
                continue
            own = ["--work", str(options.work), "--data", options.data] if stage.needs_data else []
            print(f"gpu-day: {stage.name}: {seconds:.0f} s", flush=True)
            started = time.monotonic()
            status = run_stage(stage, seconds, [*common, *own], environment, min(grace, max(5.0, left - seconds + 5.0)))
            day.note(stage, status, time.monotonic() - started)
            failed |= {stage.name} if status == "failed" else set()
    for stage in wanted:
        entry = day.stages.get(stage.name, {"status": "not started", "seconds": 0.0})
        print(f"gpu-day: {stage.name:<14}{entry['status']:<12}{entry['seconds']:8.1f} s")
    print(day.path)
    return int(any(entry["status"] in ("failed", "killed") for entry in day.stages.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A long run at tiny size: does it need ever more memory or space, does it become slower?

    python tests/stress/soak.py [--steps 2000] [--methods fst rl] [--out FILE]

Each method runs in a process of its own (tests/toy.py). Reported: growth of the resident memory
after the first tenth of the steps, bytes per step of the logs in each quarter, sizes of the
checkpoint, and in each tenth the steps per second of CPU time (what else the machine does must not
count).
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

import train
from plumbing.folder import RunFolder
from tests import toy

LOGS, PAGE = ("log.jsonl", "samples.txt"), os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Bytes of memory that this process has in use (Linux)."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * PAGE


def soak(method: str, steps: int, folder: Path) -> dict:
    """Run a method for so many steps -> its metrics. Changes what is right in this process for
    good.
    """
    # step -> (seconds of CPU time, resident bytes, bytes of each file)
    samples, save = {}, RunFolder.save

    def watched(run, state):
        save(run, state)
        sizes = {name: (run.path / name).stat().st_size for name in (*LOGS, "checkpoint.pt")}
        samples[state["step"]] = time.process_time(), resident(), sizes

    toy.take_over()
    RunFolder.save = watched
    settings = {
        "--method": method,
        "--base": folder / "base.pt",
        "--steps": steps,
        "--eval-every": steps // 40,
    }
    # at 1e-3 answers never end after a while: all get the same
    settings |= {"--out": folder / method, "--lr": 1e-5}
    train.main([*toy.SIZES, *(str(word) for pair in settings.items() for word in pair)])
    at = [samples[steps * i // 40] for i in range(41)]
    memory, tenths, quarters = [m for _, m, _ in at[4:]], at[::4], at[::10]
    logs = {
        name: [
            round((b[2][name] - a[2][name]) / (steps / 4), 1)
            for a, b in itertools.pairwise(quarters)
        ]
        for name in LOGS
    }
    return {
        "steps": steps,
        "resident_mb_after_a_tenth": round(memory[0] / 2**20, 1),
        "growth": round(max(memory) / memory[0] - 1, 4),
        "bytes_per_step": logs,
        "checkpoint_bytes": [
            min(s["checkpoint.pt"] for *_, s in at[4:]),
            max(s["checkpoint.pt"] for *_, s in at[4:]),
        ],
        "steps_per_second": [
            round((steps / 10) / (b[0] - a[0]), 1) for a, b in itertools.pairwise(tenths)
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--steps",
        type=int,
        default=2000,
        help="of each method, a multiple of 40 (default: %(default)s)",
    )
    parser.add_argument("--methods", nargs="+", default=["fst", "rl"])
    parser.add_argument("--out", default="", help="file for the metrics")
    args, metrics = parser.parse_args(), {}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        toy.make_base(Path(folder) / "base.pt")
        for method in args.methods:
            if (child := os.fork()) == 0:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                sys.stderr = sys.stdout  # the bar
                metrics = soak(method, args.steps, Path(folder))
                (Path(folder) / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
                os._exit(0)
            if os.waitpid(child, 0)[1]:
                sys.exit(f"{method}: the run failed")
            metrics[method] = json.loads(
                (Path(folder) / "metrics.json").read_text(encoding="utf-8")
            )
            print(method, json.dumps(metrics[method]), flush=True)
    if args.out:
        Path(args.out).write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

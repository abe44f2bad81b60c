"""Kill runs at random moments, resume them, and compare the end with a run that nobody killed.

    python experiments/kill.py [--kills 100] [--methods fst rl gepa] [--seed 0]

Half of the kills come at a random time, half at a random file operation (the moment before it is carried out). The
runs are tiny (tests/toy.py). Exits with 1 if a log line, a sample or a weight differs.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

import train
from run import Run
from tasks import text
from tests import toy

SIZES = [*toy.SIZES, "--steps", "12", "--eval-every", "3"]


def live(argv: list[str], out: Path, fate: int, note: int) -> None:
    """The life of a child: a run that kills itself at its file operation number `fate`. Never returns.

    note: a file where it says what it is doing, for the figures on where the kills struck.
    """
    done = 0

    def watch(event, args):
        nonlocal done
        if event in ("open", "os.mkdir", "os.rename", "os.truncate") and str(out) in str(args[0]):
            if done == fate:
                os.pwrite(note, f"{'file ' + event:20}".encode(), 0)
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1

    def noted(function):
        return lambda *args: (os.pwrite(note, f"{function.__name__:20}".encode(), 0), function(*args))[1]

    text.verify, text.parse_instruction = toy.verify, toy.parse_instruction
    for holder, name in [(train, "fast_phase"), (train, "slow_step"), (train, "evaluate"), (Run, "save")]:
        setattr(holder, name, noted(getattr(holder, name)))
    os.pwrite(note, b"start               ", 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stderr = sys.stdout  # the bar; a traceback still gets through
    sys.addaudithook(watch)
    try:
        train.main(argv)
        os._exit(0)
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        os._exit(1)


def drive(method: str, kills: int, rng: random.Random, folder: Path) -> tuple[int, Counter]:
    """Runs of a method, killed `kills` times in all -> how many runs that were, and what the kills struck.

    Raises AssertionError for a run that ends otherwise than one that nobody disturbed.
    """
    start = ["--method", method, "--base", str(folder / "base.pt"), *SIZES]
    note, struck, reference, took, runs = os.open(folder / "note", os.O_CREAT | os.O_RDWR), Counter(), None, 0.0, 0
    while reference is None or struck.total() < kills:
        out, status = folder / f"{method}-{runs}", None
        while status != 0:
            argv = ["--resume", str(out)] if (out / "config.json").exists() else [*start, "--out", str(out)]
            disturb, by_clock = reference is not None and struck.total() < kills, rng.random() < 0.5
            began = time.perf_counter()
            if (child := os.fork()) == 0:
                live(argv, out, rng.randrange(40) if disturb and not by_clock else -1, note)
            if disturb and by_clock:
                time.sleep(rng.uniform(0, took))
                os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            if status == signal.SIGKILL:
                struck[os.pread(note, 20, 0).decode().strip()] += 1
            assert status in (0, signal.SIGKILL), f"a run failed by itself: {argv}"
        if reference is None:
            reference, took = toy.outcome(out), time.perf_counter() - began
        assert toy.equal(toy.outcome(out), reference), f"{out} differs from the undisturbed {folder / method}-0"
        runs += 1
    return runs - 1, struck


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="of each method (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", default=["fst", "rl", "gepa"])
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    torch.optim.AdamW([torch.zeros(1)])  # the first one loads half of torch: once, not in every child
    with tempfile.TemporaryDirectory() as folder:
        toy.make_base(Path(folder) / "base.pt")
        for method in args.methods:
            runs, struck = drive(method, args.kills, random.Random(args.seed), Path(folder))
            where = ", ".join(f"{what} {n}" for what, n in struck.most_common())
            print(f"{method}: {struck.total()} kills over {runs} runs, every log and weight as undisturbed ({where})")


if __name__ == "__main__":
    main()

"""Kill runs at random moments, resume them, and compare the end with a run that nobody killed.

    python tests/stress/kill.py [--kills 100] [--methods fst rl gepa] [--seed 0] [--out FILE]

A kill is a SIGKILL: at a random time, or the moment before a random file operation, or half-way
through a random write, of the log, the samples, the checkpoint or the settings. A resumed run is
killed like any other. The runs are tiny (tests/toy.py). Exits with 1 if a log line, a sample or a
weight differs.
"""

import argparse
import builtins
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

import train
from plumbing.folder import RunFolder
from tests import toy

SIZES = [*toy.SIZES, "--steps", "12", "--eval-every", "3"]
OPERATIONS = ("open", "os.mkdir", "os.rename", "os.truncate")


def live(argv: list[str], out: Path, how: str, fate: int, note: int) -> None:
    """The life of a child: a run that kills itself at its file operation or its write number
    `fate`. Never returns.

    how: "operation" or "write", anything else for a life without an end. note: a file where the
    child says what it is doing, for the metrics on where the kills struck.
    """
    done, real_open = Counter(), builtins.open

    def doing(what):
        os.pwrite(note, f"{what:40}".encode(), 0)

    def fated(kind) -> bool:
        done[kind] += 1
        return how == kind and done[kind] == fate

    def watch(event, args):
        if event in OPERATIONS and str(out) in str(args[0]) and fated("operation"):
            doing(f"before {event.removeprefix('os.')}")
            os.kill(os.getpid(), signal.SIGKILL)

    def watched_open(path, mode="r", *rest, **options):
        file = real_open(path, mode, *rest, **options)
        if str(out) in str(path) and mode[0] in "wa":
            write = file.write

            def torn(data):
                if fated("write"):
                    write(data[: len(data) // 2])
                    file.flush()
                    doing(f"half a write of {Path(path).name.removesuffix('.tmp')}")
                    os.kill(os.getpid(), signal.SIGKILL)
                return write(data)

            file.write = torn
        return file

    def noted(function):
        return lambda *args: (doing(function.__name__), function(*args))[1]

    toy.take_over()
    for holder, name in [
        (train, "fast_phase"),
        (train, "slow_step"),
        (train, "evaluate"),
        (RunFolder, "save"),
    ]:
        setattr(holder, name, noted(getattr(holder, name)))
    doing("resuming" if "--resume" in argv else "starting")
    builtins.open = watched_open
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
    """Runs of a method, killed `kills` times in all -> how many runs that were, and what the kills
    struck.

    Raises AssertionError for a run that ends otherwise than one that nobody disturbed.
    """
    start = ["--method", method, "--base", str(folder / "base.pt"), *SIZES]
    note, struck, reference, took, runs = (
        os.open(folder / "note", os.O_CREAT | os.O_RDWR),
        Counter(),
        None,
        0.0,
        0,
    )
    while reference is None or struck.total() < kills:
        out, status = folder / f"{method}-{runs}", None
        while status != 0:
            argv = (
                ["--resume", str(out)]
                if (out / "config.json").exists()
                else [*start, "--out", str(out)]
            )
            how = rng.choice(["clock", "clock", "operation", "write"])
            if reference is None or struck.total() == kills:
                how = "let live"
            began = time.perf_counter()
            if (child := os.fork()) == 0:
                live(argv, out, how, rng.randint(1, 40 if how == "operation" else 24), note)
            if how == "clock":
                time.sleep(rng.uniform(0, took))
                os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            if status == signal.SIGKILL:
                struck[os.pread(note, 40, 0).decode().strip()] += 1
            expected = status in (0, signal.SIGKILL)
            toy.require(expected, f"a run failed by itself: {argv}")
        if reference is None:
            reference, took = toy.outcome(out), time.perf_counter() - began
        same = toy.equal(toy.outcome(out), reference)
        toy.require(same, f"{out} differs from the undisturbed {folder / method}-0")
        runs += 1
    return runs - 1, struck


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--kills", type=int, default=100, help="of each method (default: %(default)s)"
    )
    parser.add_argument("--methods", nargs="+", default=["fst", "rl", "gepa"])
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", default="", help="file for the metrics")
    args, metrics = parser.parse_args(), {}
    torch.set_num_threads(1)  # threads do not survive a fork
    # the first one loads half of torch: once, not in every child
    torch.optim.AdamW([torch.zeros(1)])
    with tempfile.TemporaryDirectory() as folder:
        toy.make_base(Path(folder) / "base.pt")
        for method in args.methods:
            runs, struck = drive(method, args.kills, random.Random(args.seed), Path(folder))
            where = ", ".join(f"{what} {n}" for what, n in struck.most_common())
            metrics[method] = {
                "kills": struck.total(),
                "runs": runs,
                "struck": dict(struck.most_common()),
            }
            print(
                f"{method}: {struck.total()} kills over {runs} runs, every log and weight as "
                f"undisturbed ({where})",
                flush=True,
            )
    if args.out:
        Path(args.out).write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Full disks, damaged checkpoints and numbers that are not finite, many times over: what is lost?

    python tests/stress/faults.py [--disks 30] [--damages 1000] [--steps 60] [--seed 0] [--out FILE]

The runs are tiny (tests/toy.py). Raises AssertionError where more is lost than
docs/RUNS.md says.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import sys
import tempfile
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

import rl
import train
from plumbing.files import load_checkpoint
from tasks import formats
from tests import toy


def run(*argv, limit: int = resource.RLIM_INFINITY) -> tuple[int, str]:
    """train.py in a process of its own, that can write files of at most `limit` bytes -> exit code,
    what it said.
    """
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        said, code = io.StringIO(), 1
        try:
            with contextlib.redirect_stderr(said):
                train.main([str(word) for word in argv])
            code = 0
        except SystemExit as ended:
            code = ended.code
        finally:
            os.write(writer, said.getvalue()[-2000:].encode())
            os._exit(code)
    os.close(writer)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(reader, encoding="utf-8") as file:
        return code, file.read()


def finish(*argv) -> None:
    """Carry train.py through in a process of its own. Raises AssertionError if it fails."""
    code, said = run(*argv)
    toy.require(code == 0, said)


def full_disks(times: int, rng: random.Random, folder: Path) -> dict:
    """Runs whose disk is full at a random size of a file, gone on with when there is room again."""
    argv = ["--base", folder / "base.pt", *toy.SIZES, "--steps", "12", "--eval-every", "3"]
    finish(*argv, "--out", folder / "whole")
    reference, struck = toy.outcome(folder / "whole"), 0
    largest = (folder / "whole" / "checkpoint.pt").stat().st_size
    for i in range(times):
        out, checkpoint = folder / f"disk-{i}", folder / f"disk-{i}" / "checkpoint.pt"
        finish(*argv, "--out", out, "--steps", "3")
        limit = rng.randrange(rng.choice([8_000, largest]))
        code, said = run("--resume", out, "--steps", "12", limit=limit)
        load_checkpoint(checkpoint)  # whole, and of some step
        lines = sum("train.py: " in line for line in said.splitlines())
        toy.require(code == 2 and lines == 1, (limit, code, said))
        toy.require("File too large" in said, said)
        struck += 1
        finish("--resume", out, "--steps", "12")
        toy.require(toy.equal(toy.outcome(out), reference), f"{out} differs")
    return {"injected": struck}


def damages(times: int, rng: random.Random, folder: Path) -> dict:
    """Checkpoints with a flipped bit or a lost end: named as damaged, or the same as before (a bit
    of padding).
    """
    path, copy = folder / "whole" / "checkpoint.pt", folder / "damaged.pt"
    whole, contents, harmless = path.read_bytes(), load_checkpoint(path), 0
    for i in range(times):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        copy.write_bytes(damaged if i % 2 else whole[: rng.randrange(len(whole))])
        try:
            same = toy.equal(load_checkpoint(copy), contents)
            toy.require(same, "a damaged checkpoint was taken for another one")
            harmless += 1
        except ValueError as error:
            toy.require("is damaged" in str(error), error)
    return {"injected": times, "harmless": harmless}


def numbers(steps: int, rng: random.Random, folder: Path) -> dict:
    """A run with gradients and rewards that are not finite in random steps, never more than four on
    end.
    """
    update, verify, bad = rl.update, toy.verify, {}
    for step in range(steps):
        if rng.random() < 0.4 and sum(s in bad for s in range(step - 4, step)) < 4:
            bad[step] = rng.choice(["loss", "reward"])

    def failing_update(*, sampled_logprobs, **settings):
        if bad.get(step_of["now"]) == "loss":
            sampled_logprobs = sampled_logprobs * float("nan")
        return update(sampled_logprobs=sampled_logprobs, **settings)

    step_of, slow_step = {"now": -1}, train.slow_step

    def counted(learner, questions):
        step_of["now"] = learner.step
        return slow_step(learner, questions)

    def failing_verify(question, words):
        return float("inf") if bad.get(step_of["now"]) == "reward" else verify(question, words)

    argv = [
        "--method",
        "rl",
        "--base",
        folder / "base.pt",
        *toy.SIZES,
        "--steps",
        steps,
        "--eval-every",
        steps,
    ]
    # with one update alone the old log-probs are not read
    argv += ["--substeps", "2", "--out", folder / "numbers"]
    patches = (
        mock.patch.object(rl, "update", failing_update),
        mock.patch.object(train, "slow_step", counted),
    )
    with patches[0], patches[1], mock.patch.object(formats, "verify", failing_verify):
        finish(*argv)
    lines = toy.kinds(folder / "numbers", "slow")
    skipped = [
        i for i, line in enumerate(lines) if line["skipped"] > (lines[i - 1]["skipped"] if i else 0)
    ]
    # else nothing was learned
    bad = [i for i in sorted(bad) if bad[i] == "reward" or lines[i]["dropped_groups"] < 2]
    toy.require(skipped == bad, (skipped, bad))
    weights = load_checkpoint(folder / "numbers" / "checkpoint.pt")["model"].values()
    finite = all(weight.isfinite().all() for weight in weights)
    toy.require(finite, "weights that are not finite were saved")
    return {"injected": len(bad), "steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--disks", type=int, default=30, help="runs on a full disk (default: %(default)s)"
    )
    parser.add_argument(
        "--damages", type=int, default=1000, help="of a checkpoint (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=60, help="of the run with bad numbers (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--out", default="", help="file for the metrics")
    args, metrics = parser.parse_args(), {}
    torch.set_num_threads(1)
    # the first one loads half of torch: once, not in every child
    torch.optim.AdamW([torch.zeros(1)])
    toy.take_over()
    with tempfile.TemporaryDirectory() as folder:
        toy.make_base(Path(folder) / "base.pt")
        for fault, times in (
            (full_disks, args.disks),
            (damages, args.damages),
            (numbers, args.steps),
        ):
            metrics[fault.__name__] = fault(times, random.Random(args.seed), Path(folder))
            print(fault.__name__, json.dumps(metrics[fault.__name__]), flush=True)
    if args.out:
        Path(args.out).write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Run train.py with seeds 0, 1 and 2, and print what came out: for docs/EXERCISES.md.

    python experiments/seeds.py NAME --tasks strings --steps 30      options: those of train.py

The runs are out/NAME-0, out/NAME-1 and out/NAME-2; one that is finished is not repeated. Give
changed code, or other options, another NAME. `--prompt right` begins with the prompt that names all
hidden rules.
"""

import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev

from measure import last, read
from root import ROOT
from run import right_prompt, write_prompt

from plumbing import command_line
from view import Run, of

SEEDS = (0, 1, 2)
LAST = 5  # gradient steps, over which entropy and tokens are averaged
ROW = "{:26}" + 5 * "{:>10}"  # a name, a metric of each seed, their mean and standard deviation


def make(name: str, options: list[str], seed: int) -> Run:
    """Carry a run through, or go on with it, unless it is finished. Exits where train.py does."""
    out = Path("out") / f"{name}-{seed}"
    if (out / "result.json").exists():
        return read(out)

    # The hidden rules are a function of the task's name and the seed. The last --prompt counts.
    if "right" in options:
        if "--tasks" not in options[:-1]:
            raise ValueError("--prompt right needs --tasks with one task")
        task = options[options.index("--tasks") + 1]
        path = Path("out") / f"right-{task}-{seed}.txt"
        write_prompt(path, right_prompt(task, seed))
        options = [*options, "--prompt", str(path)]

    # The bar shows how far it is; what a run prints is in its samples.txt, too.
    command = [sys.executable, str(ROOT / "train.py"), *options]
    command += ["--seed", str(seed), "--out", str(out)]
    if (out / "config.json").exists():
        command += ["--resume", str(out)]  # train.py refuses where other options are given
    ended = subprocess.run(command, stdout=subprocess.DEVNULL)
    if ended.returncode:
        raise SystemExit(ended.returncode)
    return read(out)


def metrics_of(one: Run) -> dict[str, float]:
    """What came out of a run; docs/RUNS.md explains the metrics."""
    metrics = {"validation accuracy": last(one, "val_acc"), "KL to the base": last(one, "kl_base")}

    # Of the last gradient steps, and of all.
    steps = of(one.lines, "slow")
    if len(steps) > 1:
        first, *later = steps[-LAST - 1 :]
        tokens = later[-1]["tokens"] - first["tokens"]
        rollouts = later[-1]["rollouts"] - first["rollouts"]
        metrics["entropy per token"] = fmean(step["entropy"] for step in later)
        metrics["tokens per rollout"] = tokens / rollouts
        metrics["largest gradient norm"] = max(step["grad_norm"] or 0 for step in steps)

    # Of the fast phases.
    accepted = [change for phase in of(one.lines, "fast") for change in phase["accepted"]]
    metrics["prompts accepted"] = len(accepted)
    metrics["of these, a line deleted"] = sum(change["new"] == "none" for change in accepted)
    return metrics | {"rollouts": one.result["rollouts"]}


def main(argv):
    parser = command_line.script_parser(__file__, __doc__)
    parser.add_argument("name", help="of the runs; options of train.py follow")
    name = parser.parse_args(argv[:1]).name
    with command_line.failures_in_one_line("stopped; the same command goes on from there"):
        runs = [metrics_of(make(name, argv[1:], seed)) for seed in SEEDS]

    print(ROW.format(name, *[f"seed {seed}" for seed in SEEDS], "mean", "std"))
    for metric in runs[0]:
        values = [metrics[metric] for metrics in runs]
        values += [fmean(values), stdev(values)]
        print(ROW.format(metric, *[f"{value:.3f}" for value in values]))


if __name__ == "__main__":
    main(sys.argv[1:])

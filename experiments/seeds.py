"""Run train.py with seeds 0, 1 and 2, and print what came out: for docs/EXERCISES.md.

    python experiments/seeds.py NAME --tasks strings --steps 30      options: those of train.py

The runs are out/NAME-0, out/NAME-1 and out/NAME-2; one that is finished is not repeated. Give
changed code another NAME. `--prompt right` begins with the prompt that names all hidden rules.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev

from root import ROOT

from tasks import formats, make_task

SEEDS = (0, 1, 2)
LAST = 5  # gradient steps, over which entropy and tokens are averaged


def write_right_prompt(options: list[str], seed: int) -> list[str]:
    """The options, with the file of the seed's right prompt in place of "right"."""
    if "right" not in options:
        return options

    # The hidden rules are a function of the task's name and the seed.
    name = options[options.index("--tasks") + 1]
    prompt = formats.prompt_text(make_task(name, seed).instructions)
    path = Path("out") / f"right-{name}-{seed}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(prompt, encoding="utf-8")
    return [str(path) if option == "right" else option for option in options]


def run(name: str, options: list[str], seed: int) -> Path:
    """Carry a run through, unless it is finished -> its folder. Exits where train.py does."""
    out = Path("out") / f"{name}-{seed}"
    if (out / "result.json").exists():
        print(f"{out} is finished already")
        return out

    # The bar shows how far it is; what a run prints is in its samples.txt, too.
    command = [sys.executable, str(ROOT / "train.py"), *write_right_prompt(options, seed)]
    command += ["--seed", str(seed), "--out", str(out)]
    ended = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    if ended.returncode:
        raise SystemExit(ended.returncode)
    return out


def lines_of(out: Path, kind: str) -> list[dict]:
    """The lines of one kind in the log of a run."""
    text = (out / "log.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return [line for line in lines if line["kind"] == kind]


def figures_of(out: Path) -> dict[str, float]:
    """What came out of a run; docs/RUNS.md explains the figures."""
    last = lines_of(out, "eval")[-1]
    figures = {"validation accuracy": last["val_acc"], "KL to the base": last["kl_base"]}

    # Of the gradient steps.
    steps = lines_of(out, "slow")
    if len(steps) > 1:
        first, *later = steps[-LAST - 1 :]
        tokens = later[-1]["tokens"] - first["tokens"]
        rollouts = later[-1]["rollouts"] - first["rollouts"]
        figures["entropy per token"] = fmean(step["entropy"] for step in later)
        figures["tokens per rollout"] = tokens / rollouts
        figures["largest gradient norm"] = max(step["grad_norm"] or 0 for step in steps)

    # Of the fast phases.
    accepted = []
    for phase in lines_of(out, "fast"):
        accepted += phase["accepted"]
    figures["prompts accepted"] = len(accepted)
    figures["of these, a line deleted"] = sum(change["new"] == "none" for change in accepted)

    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return figures | {"rollouts": result["rollouts"]}


def print_row(name: str, cells: list[str]) -> None:
    print(f"{name:26}" + "".join(cell.rjust(10) for cell in cells))


def main(argv: list[str]) -> None:
    if not argv or argv[0].startswith("-"):
        print("seeds.py: first a name for the runs, then options of train.py", file=sys.stderr)
        raise SystemExit(2)
    name, *options = argv
    runs = [figures_of(run(name, options, seed)) for seed in SEEDS]

    # A row for each figure: every seed, their mean and their standard deviation.
    print_row(name, [f"seed {seed}" for seed in SEEDS] + ["mean", "std"])
    for figure in runs[0]:
        values = [figures[figure] for figures in runs]
        values += [fmean(values), stdev(values)]
        print_row(figure, [f"{value:.3f}" for value in values])


if __name__ == "__main__":
    main(sys.argv[1:])

"""fst against rl and gepa on one domain: same base, same tasks, learning rates swept alike, all rollouts counted.

    python experiments/compare.py                 about 25 minutes on 2 cores; finished runs are not repeated

First a sweep of the learning rate for fst and rl, on a task that is not reported. Then every method at its best one,
on the tasks of `--seeds`. Writes experiments/results/compare.json, the runs' logs beside it, and a figure.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev

from tqdm import tqdm

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
RATES = ("0.0001", "0.0003", "0.001", "0.003")
SWEEP_SEED = 100
STEPS = {"fst": 60, "gepa": 60, "rl": 80}  # rl spends nothing on prompts, so it takes more steps for as many rollouts
SWEEP_STEPS = {"fst": 30, "rl": 40}


def run(name: str, method: str, seed: int, steps: int, lr: str, domain: str) -> list[dict]:
    """The eval lines of a run, which is made where it is not there yet; one thread, so that two fit on two cores."""
    log = RESULTS / "compare" / f"{name}.jsonl"
    if not log.exists():
        out = ROOT / "out" / "compare" / name
        command = [sys.executable, "train.py", "--method", method, "--tasks", domain, "--seed", str(seed), "--lr", lr]
        command += ["--steps", str(steps), "--out", str(out), "--device", "cpu"]
        if (out / "config.json").exists():
            command = [sys.executable, "train.py", "--resume", str(out)]
        result = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{result.stderr[-2000:]}")
        log.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(out / "log.jsonl", log.with_suffix(".part"))
        log.with_suffix(".part").rename(log)
    return [line for line in map(json.loads, log.read_text().splitlines()) if line["kind"] == "eval"]


def compare(fst: list[dict], rl: list[dict]) -> dict:
    """Figures of a pair of runs on the same task."""
    best = max(rl, key=lambda e: e["val_acc"])
    reached = next((e for e in fst if e["val_acc"] >= best["val_acc"]), None)
    budget = min(fst[-1]["rollouts"], rl[-1]["rollouts"])
    fst_end, rl_end = ([e for e in evals if e["rollouts"] <= budget][-1] for evals in (fst, rl))
    return {
        "rl_best": best["val_acc"], "rl_best_rollouts": best["rollouts"], "rl_best_kl": best["kl_base"],
        "fst_rollouts_to_rl_best": reached and reached["rollouts"], "fst_kl_at_rl_best": reached and reached["kl_base"],
        "equal_rollouts": budget, "fst_end": fst_end["val_acc"], "rl_end": rl_end["val_acc"],
    }  # fmt: skip


def plot(curves: dict[str, list[list[dict]]], path: Path) -> None:
    """Validation accuracy over rollouts: every seed thin, the mean of the seeds bold."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    for (method, runs), colour in zip(curves.items(), ("tab:orange", "tab:blue", "tab:green"), strict=True):
        for evals in runs:
            axes.plot([e["rollouts"] for e in evals], [e["val_acc"] for e in evals], color=colour, lw=0.7, alpha=0.5)
        columns = list(zip(*runs, strict=True))  # evaluations come at the same steps in every seed
        xs, ys = ([mean(e[key] for e in column) for column in columns] for key in ("rollouts", "val_acc"))
        axes.plot(xs, ys, color=colour, lw=2.5, label=method)
    axes.set(xlabel="rollouts, all kinds counted", ylabel="validation accuracy", ylim=(0, 1))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--domain", default="strings")
    parser.add_argument("--lr", choices=RATES, help="skip the sweep, take this one for both")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="at least two")
    args = parser.parse_args()
    domain, pool = args.domain, ThreadPoolExecutor(2)

    def run_all(jobs: dict[str, tuple]) -> dict[str, list[dict]]:
        return dict(zip(jobs, tqdm(pool.map(lambda name: run(name, *jobs[name]), jobs), total=len(jobs)), strict=True))

    table, best = {}, dict.fromkeys(SWEEP_STEPS, args.lr)
    if not args.lr:
        sweep = {
            f"{domain}-sweep-{method}-{lr}": (method, SWEEP_SEED, SWEEP_STEPS[method], lr, domain)
            for lr in RATES for method in SWEEP_STEPS
        }  # fmt: skip
        evals = run_all(sweep)
        table = {m: {lr: evals[f"{domain}-sweep-{m}-{lr}"][-1]["val_acc"] for lr in RATES} for m in SWEEP_STEPS}
        best = {method: max(row, key=row.get) for method, row in table.items()}
        print("sweep of the learning rate, final validation accuracy:", json.dumps(table, indent=1), "best:", best)

    def name(method: str, seed: int) -> str:
        return f"{domain}-{method}-{seed}" + (f"-{best[method]}" if method in best else "")

    jobs = {
        name(method, seed): (method, seed, steps, best.get(method, RATES[0]), domain)
        for seed in args.seeds for method, steps in STEPS.items()
    }  # fmt: skip
    evals = run_all(jobs)
    curves = {method: [evals[name(method, seed)] for seed in args.seeds] for method in STEPS}
    pairs = [compare(a, b) for a, b in zip(curves["fst"], curves["rl"], strict=True)]
    final = {method: [runs[-1]["val_acc"] for runs in curves[method]] for method in STEPS}
    for method, values in final.items():
        print(f"{method:5} final validation accuracy {mean(values):.3f} +- {stdev(values):.3f}   {values}")
    for seed, pair in zip(args.seeds, pairs, strict=True):
        print(f"seed {seed}: {pair}")
    result = {"domain": domain, "seeds": args.seeds, "sweep": table, "best": best, "final": final, "pairs": pairs}
    (RESULTS / "compare.json").write_text(json.dumps(result, indent=1) + "\n")
    plot(curves, ROOT / "experiments" / "figures" / "compare.png")


if __name__ == "__main__":
    main()

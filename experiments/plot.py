"""Figures and the table of claims, from the files that run.py left (claims.py says how).

python experiments/plot.py        writes experiments/results/claims.json and docs/figures/*.png
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean

from claims import DOMAINS, all_claims, exercises, kl_sweep, load, outcomes, pairs, sweep

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "docs" / "figures"
COLOURS = {"fst": "tab:orange", "rl": "tab:blue", "gepa": "tab:green"}


def panel(axes, runs: dict, name: Callable[[str], str], x: str, xlabel: str, title: str) -> None:
    """Validation accuracy over something: every seed thin, the mean of the seeds bold."""
    for method, colour in COLOURS.items():
        curves = [group[0]["evals"] for _, group in pairs(runs, name(method))]
        for evals in curves:
            axes.plot(
                [e[x] for e in evals],
                [e["val_acc"] for e in evals],
                color=colour,
                lw=0.7,
                alpha=0.5,
            )
        if curves:
            # evaluations come at the same steps in every seed
            columns = list(zip(*curves, strict=True))
            xs, ys = (
                [mean(e[key] for e in column) for column in columns] for key in (x, "val_acc")
            )
            axes.plot(xs, ys, color=colour, lw=2.5, label=method)
    axes.set(xlabel=xlabel, ylabel="validation accuracy", ylim=(0, 1), title=title)
    axes.spines[["top", "right"]].set_visible(False)


def draw(runs: dict) -> None:
    """efficiency.png: accuracy over rollouts on each domain; kl.png: over the distance to the base;
    stream.png.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    FIGURES.mkdir(parents=True, exist_ok=True)
    for name in ("efficiency", "kl", "stream"):  # of other runs
        (FIGURES / f"{name}.png").unlink(missing_ok=True)
    there = [domain for domain in DOMAINS if pairs(runs, f"fst-{domain}-{{}}")]
    kinds = {
        "efficiency": ("rollouts", "rollouts, all kinds counted"),
        "kl": ("kl_base", "KL to the base, nats per token"),
    }
    for file, (x, label) in kinds.items() if there else ():
        figure, axes = plt.subplots(1, len(there), figsize=(4 * len(there), 3.4), squeeze=False)
        for domain, ax in zip(there, axes[0], strict=True):
            panel(
                ax, runs, lambda method, domain=domain: f"{method}-{domain}-{{}}", x, label, domain
            )
        axes[0][0].legend(frameon=False)
        figure.tight_layout()
        figure.savefig(FIGURES / f"{file}.png", dpi=110)
    if group := pairs(runs, "stream-fst-{}", "stream-rl-{}"):
        tasks = [task["task"] for task in group[0][1][0]["result"]["tasks"]]
        figure, axes = plt.subplots(1, len(tasks), figsize=(4 * len(tasks), 3.4), squeeze=False)
        for i, ax in enumerate(axes[0]):
            own = {
                name: r | {"evals": [e for e in r["evals"] if e["task"] == i]}
                for name, r in runs.items()
                if "evals" in r
            }
            panel(
                ax,
                own,
                lambda method: f"stream-{method}-{{}}",
                "rollouts",
                "rollouts",
                f"{tasks[i]}, stage {i + 1}",
            )
        axes[0][0].legend(frameon=False)
        figure.tight_layout()
        figure.savefig(FIGURES / "stream.png", dpi=110)


def main() -> None:
    runs = load()
    if "base" not in runs:
        sys.exit("plot.py: there are no results yet: make them with python experiments/run.py")
    result = {"sweep": sweep(runs), "kl_sweep": kl_sweep(runs), "claims": all_claims(runs)}
    result |= {"outcomes": outcomes(runs), "exercises": exercises(runs)}
    (ROOT / "experiments" / "results" / "claims.json").write_text(
        json.dumps(result, indent=1) + "\n",
        encoding="utf-8",
    )
    draw(runs)
    for line in result["claims"]:
        figures = ", ".join(
            f"{name} {f['mean']} ± {f['std']}" for name, f in line["figures"].items()
        )
        print(
            f"{line['claim']:40} {line['where']:24} n {line['n']}  {figures}   "
            f"{line.get('verdict', '')}"
        )


if __name__ == "__main__":
    main()

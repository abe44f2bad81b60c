"""Draw docs/figures from the finished runs: each seed thin, the mean of the seeds bold.

python experiments/plot.py
"""

import numpy as np
import run
from matplotlib.figure import Figure
from measure import Runs, load
from root import KEPT, ROOT

LABELS = {"rollouts": "rollouts, all counted", "kl_base": "KL to the base, nats per token"}
COLOURS = {"fst": "tab:orange", "rl": "tab:blue", "gepa": "tab:green"}


def panel(axes, runs: Runs, names, stage, x, title):
    """Validation accuracy over x, a figure of the log. names: of the runs, with METHOD in it."""
    for method, colour in COLOURS.items():
        name = names.replace("METHOD", method)
        curves = []
        for one in [by_name[name] for by_name in runs.values() if name in by_name]:
            evals = one.evals(stage)
            curves.append([[line[key] for line in evals] for key in (x, "val_acc")])
            axes.plot(*curves[-1], color=colour, lw=0.7, alpha=0.4)
        # Evaluations come at the same steps in every seed.
        if curves:
            axes.plot(*np.mean(curves, axis=0), color=colour, lw=2.5, label=method)
    axes.set(xlabel=LABELS[x], ylim=(0, 1), title=title)
    axes.spines[["top", "right"]].set_visible(False)


def draw(kept, folder):
    """efficiency.png and kl.png, a panel for each domain; stream.png, one for each stage."""
    runs = load(kept)
    domains = [(f"METHOD-{domain}", 0, domain) for domain in run.DOMAINS]
    stream = []
    for i, task in enumerate(run.STREAM.split()):
        stream.append(("stream-METHOD", i, f"stage {i + 1}: {task}"))
    pictures = {
        "efficiency": ("rollouts", domains),
        "kl": ("kl_base", domains),
        "stream": ("rollouts", stream),
    }
    for file, (x, panels) in pictures.items():
        figure = Figure(figsize=(16, 3.4), layout="constrained")
        row = figure.subplots(1, 4, sharey=True)
        for axes, (names, stage, title) in zip(row, panels, strict=True):
            panel(axes, runs, names, stage, x, title)
        row[0].set_ylabel("validation accuracy")
        figure.legend(*row[0].get_legend_handles_labels(), frameon=False, loc="outside right")
        figure.savefig(folder / f"{file}.png", dpi=110)


if __name__ == "__main__":
    draw(KEPT, ROOT / "docs" / "figures")

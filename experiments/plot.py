"""Draw docs/figures from the finished runs: each seed thin, the mean of the seeds bold.

python experiments/plot.py
"""

import numpy as np
import run
from matplotlib.figure import Figure
from measure import load
from root import KEPT, ROOT

from plumbing import command_line

LABELS = {"rollouts": "rollouts, all counted", "kl_base": "KL to the base, nats per token"}
COLOURS = {"fst": "tab:orange", "rl": "tab:blue", "gepa": "tab:green", "examples": "tab:purple"}


def panel(axes, runs, names, stage, x):
    """Validation accuracy over x, a metric of the log. names: of the runs, with METHOD in them."""
    for method, colour in COLOURS.items():
        name = names.replace("METHOD", method)
        curves = []
        for one in [by_name[name] for by_name in runs if name in by_name]:
            evals = one.stages[stage].evals
            curve = [[line[key] for line in evals] for key in (x, "val_acc")]
            axes.plot(*curve, color=colour, lw=0.7, alpha=0.4)
            curves.append(curve)
        # Evaluations come at the same steps in every seed.
        if curves:
            axes.plot(*np.mean(curves, axis=0), color=colour, lw=2.5, label=method)
    axes.spines[["top", "right"]].set_visible(False)


def picture(path, runs, x, panels):
    """A panel for each (names of runs, stage, title), side by side."""
    figure = Figure(figsize=(19, 3.8), layout="constrained")
    row = figure.subplots(1, 4, sharey=True)
    for axes, (names, stage, title) in zip(row, panels, strict=True):
        panel(axes, runs, names, stage, x)
        axes.set(xlabel=LABELS[x], ylim=(0, 1), title=title)
    row[0].set_ylabel("validation accuracy")

    # All panels have the same methods.
    figure.legend(*row[0].get_legend_handles_labels(), frameon=False, loc="outside right")
    figure.savefig(path, dpi=110)


def draw(kept, folder):
    """efficiency.png and kl.png, a panel for each domain; stream.png, for each stage; words.png."""
    runs = load(kept)
    domains = [(f"METHOD-{domain}", 0, domain) for domain in run.DOMAINS]
    tasks = enumerate(run.STREAM.split())
    stages = [("stream-METHOD", i, f"stage {i + 1}: {task}") for i, task in tasks]
    kinds = [(f"words-METHOD-{kind}", 0, kind) for kind in run.KINDS]
    picture(folder / "efficiency.png", runs, "rollouts", domains)
    picture(folder / "kl.png", runs, "kl_base", domains)
    picture(folder / "stream.png", runs, "rollouts", stages)
    picture(folder / "words.png", runs, "rollouts", kinds)


if __name__ == "__main__":
    command_line.script_parser(__file__, __doc__).parse_args()
    with command_line.failures_in_one_line("stopped"):
        draw(KEPT, ROOT / "docs" / "figures")

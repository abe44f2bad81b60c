"""Write the README's figures from experiments/results, so that no figure is typed by hand.

python experiments/report.py
"""

import json
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- figures: written by experiments/report.py -->\n", "<!-- end of figures -->\n"


def spread(values: list[float]) -> str:
    return f"{mean(values):.2f} ± {stdev(values):.2f}"


def base_table(base: dict) -> str:
    """What the base can do, a row per exam, a column per length of the rule."""
    figures, rows = base["figures"], []
    for level, kind in (("seen", "solve"), ("task", "solve"), ("seen", "reflect"), ("task", "reflect")):
        cells = " | ".join(f"{figures[f'strings/{level}/{kind}/{n}']:.2f}" for n in (1, 2, 3))
        rows.append(
            f"| {kind}, {'lengths often seen' if level == 'seen' else 'at the difficulty of tasks'} | {cells} |"
        )
    look_up = [value for name, value in figures.items() if name.startswith("strings/look up/")]
    return "\n".join([
        f"The shipped base: {base['step']} steps in {base['elapsed'] / 60:.0f} minutes on 2 cores; at least "
        f"{base['questions']} questions a figure.",
        "",
        "| share right, rules of | 1 operation | 2 operations | 3 operations |",
        "|---|---|---|---|",
        *rows,
        "",
        f"The right line of a prompt of one to six is looked up in {min(look_up):.3f} (worst place) to "
        f"{max(look_up):.3f} of the cases. On whole tasks the base is right in "
        f"{figures['strings/task/seed prompt']:.3f} with the seed prompt and in "
        f"{figures['strings/task/right prompt']:.2f} with the right one.",
    ])  # fmt: skip


def compare_table(result: dict) -> str:
    """fst, rl and gepa at the end, and how many rollouts fst needs for rl's best."""
    pairs, seeds = result["pairs"], result["seeds"]
    reached = [pair["fst_rollouts_to_rl_best"] for pair in pairs]
    swept = "the best of a sweep" if result["sweep"] else "one for both, **not swept yet**"
    lines = [f"{len(seeds)} seeds, every rollout counted. Learning rates: {swept}.", ""]
    lines.append("| method | learning rate | final validation accuracy, mean ± std over seeds | every seed |")
    lines.append("|---|---|---|---|")
    for method, values in result["final"].items():
        rate = result["best"].get(method, "frozen")
        lines.append(f"| {method} | {rate} | {spread(values)} | {', '.join(f'{v:.2f}' for v in values)} |")
    lines += [
        "",
        "| seed | rl's best, after rollouts | fst there after | KL to base, rl / fst | at equal rollouts, rl / fst |",
    ]
    lines.append("|---|---|---|---|---|")
    for seed, pair, rollouts in zip(seeds, pairs, reached, strict=True):
        kl = "-" if rollouts is None else f"{pair['fst_kl_at_rl_best']:.3f}"
        lines.append(
            f"| {seed} | {pair['rl_best']:.2f}, {pair['rl_best_rollouts']} | {rollouts or 'never'} | "
            f"{pair['rl_best_kl']:.3f} / {kl} | {pair['rl_end']:.2f} / {pair['fst_end']:.2f} |"
        )
    return "\n".join(lines)


def section() -> str:
    """The README's figures, between their two marks."""
    results, parts = ROOT / "experiments" / "results", []
    if (path := results / "compare.json").exists():
        result = json.loads(path.read_text())
        parts += ["![accuracy over rollouts](experiments/figures/compare.png)", compare_table(result)]
        lr = "" if result["sweep"] else f" --lr {result['best']['fst']}"
        parts.append(f"    python experiments/compare.py{lr} && python experiments/report.py")
    if (path := results / "base.json").exists():
        parts += [base_table(json.loads(path.read_text()))]
        parts.append(
            "    python experiments/base.py --out experiments/results/base.json && python experiments/report.py"
        )
    return BEGIN + "\n" + "\n\n".join(parts) + "\n\n" + END


def main() -> None:
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(before + section() + rest.split(END)[1])


if __name__ == "__main__":
    main()

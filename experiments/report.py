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
    for level, where in (("seen", "lengths often seen"), ("task", "at the difficulty of tasks")):
        missing = figures[f"strings/{level}/reflect/2, one missing"]
        rows.append(f"| reflect, the last operation missing, {where} | | {missing:.2f} | |")
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


def fault_table(kill: dict, faults: dict, fuzz: dict, soak: dict) -> str:
    """What was done to runs, how often, and what was lost by it."""
    rows = []
    for method, figures in kill.items():
        moments = ", ".join(f"{what} {n}" for what, n in figures["struck"].items())
        rows.append((
            f"`{method}` killed, also while resuming",
            f"{figures['kills']} kills over {figures['runs']} runs: {moments}",
            "the steps since the last checkpoint; once resumed, no log line, sample or weight differs",
        ))  # fmt: skip
    disks, damages, numbers = faults["full_disks"], faults["damages"], faults["numbers"]
    rows += [
        ("disk full at a random byte", f"{disks['injected']} runs", "as above"),
        (
            "checkpoint with a flipped bit or a lost end",
            f"{damages['injected']}",
            f"nothing: refused as damaged, but for {damages['harmless']} that left what is read as it was",
        ),
        (
            "loss or reward not finite",
            f"{numbers['injected']} of {numbers['steps']} steps",
            "these steps; the weights stay finite",
        ),
    ]
    for kind, name in (("random_tokens", "random tokens"), ("mutated_document", "damaged real documents")):
        figures = fuzz[kind]
        rows.append((
            f"{name} as answer, reflection and prompt",
            f"{figures['sequences']:,}",
            f"{figures['findings']} exceptions, wrong rewards or smuggled lines",
        ))  # fmt: skip
    for method, figures in soak.items():
        rates, logs, sizes = figures["steps_per_second"], figures["bytes_per_step"], figures["checkpoint_bytes"]
        log = ", ".join(f"{value:.0f}" for value in logs["log.jsonl"])
        rows.append((
            f"`{method}` for long",
            f"{figures['steps']:,} steps",
            f"memory at most {figures['growth']:+.1%} after the first tenth; log {log} bytes a step (by quarters); "
            f"checkpoint {sizes[0] / 1000:.0f} to {sizes[1] / 1000:.0f} kB; {min(rates):.0f} to {max(rates):.0f} steps "
            "per second of CPU time",
        ))  # fmt: skip
    lines = ["| fault | how often | what was lost |", "|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def speed_table(bench: dict) -> str:
    """What is how many times faster than what, and where a cycle's time goes."""
    sampling, step, memory = bench["sampling"], bench["slow step"], bench["memory"]["prefix MiB"]
    main, long = sampling["1x rows, 1x prompt"], sampling["1x rows, 16x prompt"]
    real, cycle = sampling["real lengths, per 1000 tokens"], bench["cycle"]
    rows = [("naive recompute, 36 tokens in 256 rows", main.get("naive", 0) / main["shared"])]
    rows.append(("copied prefixes, prompts 16 times as long", long["copied"] / long["shared"]))
    if "transformers" in main:
        rows.append(("`transformers` generate, 36 greedy tokens in 256 rows", main["transformers"] / main["shared"]))
        rows.append(("the same, prompts 16 times as long", long["transformers"] / long["shared"]))
        rows.append(
            ("the same at the main job's prompts, answers of real lengths", real["transformers"] / real["shared"])
        )
    if "trl step" in step:
        rows.append(("a GRPO step of TRL, rollouts included", step["trl step"] / step["step"]))
    growth = sampling["4x rows, 1x prompt"]["shared"] / main["shared"]
    parts = {name: seconds / cycle["seconds"] for name, seconds in cycle["parts"].items()}
    shares = ", ".join(f"{name} {share:.0%}" for name, share in parts.items() if share >= 0.02)
    load = " to ".join(map(str, bench["load"]))
    return "\n".join([
        f"Speed, {bench['threads']} thread(s) on 2 cores, **with other programs at work (load {load})**; medians of "
        "interleaved rounds in one process, so read the ratios, not the clock.",
        "",
        "| compared with | this is faster |",
        "|---|---|",
        *(f"| {name} | {ratio:.1f} times |" for name, ratio in rows),
        "",
        f"An update takes {step['update'] / step['products']:.1f} times as long as its matrix products alone. Four "
        f"times the rows cost {growth:.1f} times the time. Prefixes of the longest prompts: {memory['shared']:.1f} MiB "
        f"shared, {memory['copied']:.0f} MiB copied. A cycle of the main job: {shares}; "
        f"{cycle['python and text']:.1%} in text and bookkeeping.",
    ])  # fmt: skip


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
    if (path := results / "bench.json").exists():
        parts += [speed_table(bench := json.loads(path.read_text()))]
        quick = " --quick" if bench["quick"] else ""
        parts.append(f"    python experiments/bench.py{quick} && python experiments/report.py")
    faults = [results / f"{name}.json" for name in ("kill", "faults", "fuzz", "soak")]
    if all(path.exists() for path in faults):
        parts += ["What was done to runs of a tiny base, and what it cost:"]
        parts.append(fault_table(*(json.loads(path.read_text()) for path in faults)))
        scripts = (f"python experiments/{path.stem}.py --out experiments/results/{path.name}" for path in faults)
        parts.append("\n".join(f"    {script}" for script in scripts))
    return BEGIN + "\n" + "\n\n".join(parts) + "\n\n" + END


def main() -> None:
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(before + section() + rest.split(END)[1])


if __name__ == "__main__":
    main()

"""Write the README's figures from experiments/results, so that no figure is typed by hand.

python experiments/report.py
"""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- figures: written by experiments/report.py -->\n", "<!-- end of figures -->\n"


def base_table(base: dict) -> str:
    """What the base can do: a row per domain, and per rule's length 1/2/3 where there are three figures."""
    figures = base["figures"]
    columns = {
        "solve, seen": "seen/solve", "solve, task": "task/solve", "reflect, seen": "seen/reflect",
        "reflect, task": "task/reflect",
    }  # fmt: skip
    lines = [
        "| | " + " | ".join(columns) + " | one missing, seen, task | look up, worst | seed prompt | right prompt |"
    ]
    lines.append("|---" * 9 + "|")
    for domain in dict.fromkeys(name.split("/")[0] for name in figures):
        cells = ["/".join(f"{figures[f'{domain}/{key}/{n}']:.2f}" for n in (1, 2, 3)) for key in columns.values()]
        cells.append(
            ", ".join(f"{figures[f'{domain}/{level}/reflect/2, one missing']:.2f}" for level in ("seen", "task"))
        )
        cells.append(f"{min(v for k, v in figures.items() if k.startswith(f'{domain}/look up')):.3f}")
        cells += [f"{figures[f'{domain}/task/{prompt} prompt']:.3f}" for prompt in ("seed", "right")]
        lines.append(f"| {domain} | {' | '.join(cells)} |")
    return "\n".join([
        f"The shipped base: {base['step']} steps in {base['elapsed'] / 60:.0f} minutes on 2 cores. Share right of at "
        f"least {base['questions']} questions a figure, greedy, for rules of 1/2/3 operations; `seen`: difficulties "
        "that the corpus shows often, `task`: that of tasks. `reflect`: one proposal from three failures (held-out "
        "rules), with no instruction yet, or with the last of two operations missing. `seed prompt`, `right prompt`: "
        "whole tasks.",
        "",
        *lines,
    ])  # fmt: skip


def in_short(claim: dict) -> str:
    """The ratio of a claim, or the share saved, or else the mean of what is compared; and the verdict."""
    figures = claim["figures"]
    if "ratio" in figures:
        said = f"{figures['ratio']['mean']:.1f} times"
    elif "share saved" in figures:
        said = "-" if (share := figures["share saved"]["mean"]) is None else f"{share:.0%}"
    else:
        beside = [name for name in figures if name.startswith(("fst,", "rl,")) and "of the peak" not in name]
        compared = {name: f["mean"] for name, f in figures.items() if name not in beside}
        said = "; ".join(
            f"{name} {'-' if value is None else f'{value:.{2 if value >= 0.1 else 3}f}'}"
            for name, value in compared.items()
        )
    return said + (f" (*{claim['verdict']}*)" if "verdict" in claim else "")


def of_several(claim: dict) -> bool:
    """Whether a claim is of several domains, one after the other."""
    return claim["claim"].startswith(("plasticity", "continual"))


def summary(claims: list[dict]) -> str:
    """Claim by domain in short, then those that are of several domains, a row each."""
    several = [*filter(of_several, claims)]
    table: dict[tuple, dict[str, str]] = {}
    for claim in (c for c in claims if c not in several):
        domain, *variant = claim["where"].split(", ")
        table.setdefault((", ".join([claim["claim"], *variant]), claim["paper"], claim["bar"]), {})[domain] = in_short(
            claim
        )
    domains = list(dict.fromkeys(domain for row in table.values() for domain in row))
    lines = [f"| claim | the paper | bar | {' | '.join(domains)} |", "|---" * (3 + len(domains)) + "|"]
    lines += [
        f"| {' | '.join(about)} | {' | '.join(row.get(d, '') for d in domains)} |" for about, row in table.items()
    ]
    if several:
        lines += ["", "| claim | where | the paper | bar | here |", "|---" * 5 + "|"]
        lines += [f"| {c['claim']} | {c['where']} | {c['paper']} | {c['bar']} | {in_short(c)} |" for c in several]
    return "\n".join(lines)


def claims_table(claims: list[dict]) -> str:
    """The paper's claims beside what was measured."""
    lines = ["| claim | where | the paper | here, mean ± std | seeds | bar | verdict |", "|---" * 7 + "|"]
    for claim in claims:
        cells = []
        for name, figure in claim["figures"].items():
            spread = "" if figure["std"] is None else f" ± {figure['std']:.3g}"
            missing = figure["values"].count(None)
            never = f" ({missing} of {claim['n']} never)" if missing else ""
            cells.append(f"{name} " + ("-" if figure["mean"] is None else f"{figure['mean']:.4g}{spread}") + never)
        verdict = claim.get("verdict", "reported")
        lines.append(
            f"| {claim['claim']} | {claim['where']} | {claim['paper']} | {'; '.join(cells)} | {claim['n']} | "
            f"{claim['bar']} | {verdict} |"
        )
    return "\n".join(lines)


def number(figure: dict, digits: int) -> str:
    """mean ± std"""
    std = "" if figure["std"] is None else f" ± {figure['std']:,.{digits}f}"
    return f"{figure['mean']:,.{digits}f}{std}"


def outcome_table(outcomes: dict) -> str:
    """What every method ended with on every domain, and what it cost."""
    titles = (
        "domain, method", "steps", "rollouts", "tokens", "validation accuracy", "KL to the base", "minutes, one thread",
        "seeds",
    )  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, o in outcomes.items():
        figures = (("rollouts", 0), ("tokens", 0), ("accuracy", 2), ("KL", 3), ("minutes", 1))
        cells = " | ".join(number(o[key], digits) for key, digits in figures)
        lines.append(f"| {name} | {o['steps']} | {cells} | {len(o['accuracy']['values'])} |")
    return "\n".join(lines)


def exercise_table(exercises: dict) -> str:
    """What changes to fst on strings come to."""
    lines = ["| change | steps | rollouts | validation accuracy | KL to the base | seeds |", "|---" * 6 + "|"]
    for name, e in exercises.items():
        change = f"`{name}`" if name.startswith("-") else name
        cells = (number(e["rollouts"], 0), number(e["accuracy"], 2), number(e["KL"], 3))
        lines.append(f"| {change} | {e['step']} | {' | '.join(cells)} | {len(e['accuracy']['values'])} |")
    return "\n".join(lines)


def headline(claims: list[dict]) -> str:
    """The sentence above all figures; "" before there are any."""
    ratios = {c["where"]: c for c in claims if c["claim"] == "data efficiency, rollouts" and "," not in c["where"]}
    said = ", ".join(f"{w} {c['figures']['ratio']['mean']:.1f} ({c['verdict']})" for w, c in ratios.items())
    seeds = min((c["n"] for c in ratios.values()), default=0)
    if not seeds:
        return ""
    return (
        "**Rollouts that `rl` needs for its best validation accuracy, for each one that `fst` needs to get there: "
        f"{said}** (geometric means over at least {seeds} seeds; all rollouts counted, those for scoring prompts and "
        "for reflecting too, a reflection as one)."
    )


def sweep_table(table: dict[str, dict[str, float]]) -> str:
    """What the sweep came to, for every method and learning rate."""
    rates = list(next(iter(table.values())))
    lines = ["| learning rate | " + " | ".join(rates) + " |", "|---" * (1 + len(rates)) + "|"]
    return "\n".join(lines + [f"| {m} | {' | '.join(f'{row[r]:.3f}' for r in rates)} |" for m, row in table.items()])


def kl_sweep_table(table: dict[str, dict[str, float]]) -> str:
    """What `rl` came to with every KL coefficient."""
    lines = ["| KL coefficient of `rl` | " + " | ".join(table) + " |", "|---" * (1 + len(table)) + "|"]
    for key, title in (("accuracy", "validation accuracy"), ("KL", "KL to the base")):
        lines.append(f"| {title} | {' | '.join(f'{row[key]:.3f}' for row in table.values())} |")
    return "\n".join(lines)


VERDICTS = (
    "A claim *holds* where the difference, paired by seed, is more than two standard errors and the bar is met; it is "
    "*short of the bar* where only the first is so. With so many lines one or two pass by chance. Where a method first "
    "gets somewhere is read off means over three evaluations (every 5 steps); a run that never does counts with all "
    "it took."
)


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
    peaks = ", ".join(f"{name} {mib:.0f}" for name, mib in bench["memory"]["peak MiB"].items())
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
        if "compiled" in main:
            rows += [
                (f"{what}, with `--compile`", times["transformers"] / times["compiled"])
                for what, times in (("the 36 greedy tokens", main), ("the answers of real lengths", real))
            ]
    if "trl step" in step:
        rows.append(("a GRPO step of TRL, rollouts included", step["trl step"] / step["step"]))
    growth = sampling["4x rows, 1x prompt"]["shared"] / main["shared"]
    parts = {name: seconds / cycle["seconds"] for name, seconds in cycle["parts"].items()}
    shares = ", ".join(f"{name} {share:.0%}" for name, share in parts.items() if share >= 0.02)
    load, floor = " to ".join(map(str, bench["load"])), ""
    if "products" in main:
        share = main["products"] / main["shared"]
        floor = f"The matrix products of its decode steps are {share:.0%} of sampling those 256 rows. "
    return "\n".join([
        f"Speed, {bench['threads']} thread(s) on 2 cores; medians of "
        "interleaved rounds in one process, so read the ratios, not the clock "
        f"(load of the machine at the beginning and end: {load}).",
        "",
        "| compared with | this is faster |",
        "|---|---|",
        *(f"| {name} | {ratio:.1f} times |" for name, ratio in rows),
        "",
        f"{floor}An update takes {step['update'] / step['products']:.1f} times as long as its matrix products alone. "
        f"Four times the rows cost {growth:.1f} times the time. Prefixes of the longest prompts: "
        f"{memory['shared']:.1f} MiB shared, {memory['copied']:.0f} MiB copied (peak of all memory, MiB: {peaks}). "
        f"A cycle of the main job: {shares}; "
        f"{cycle['python and text']:.1%} in text and bookkeeping; "
        f"{cycle['outside torch in a slow step']:.0%} of a slow step pass in Python, outside torch.",
    ])  # fmt: skip


def drawn(name: str) -> bool:
    return (ROOT / "experiments" / "figures" / f"{name}.png").exists()


def section() -> str:
    """The README's figures, between their two marks."""
    results, parts = ROOT / "experiments" / "results", []
    if (path := results / "claims.json").exists():
        result = json.loads(path.read_text())
        images = [
            f"![{name}](experiments/figures/{name}.png)" for name in ("efficiency", "kl", "stream") if drawn(name)
        ]
        if all_figures := claims_table(result["claims"]) if result["claims"] else "":
            variants = [c for c in result["claims"] if ", " in c["where"] and not of_several(c)]
            main = [c for c in result["claims"] if c not in variants]
            parts += [*images[:1], headline(main), summary(main), VERDICTS, *images[1:]]
            folded = {"All figures, mean ± std over the seeds": all_figures}
            if variants:
                folded = {"The same with other settings": summary(variants)} | folded
            parts += [f"<details><summary>{what}</summary>\n\n{t}\n\n</details>" for what, t in folded.items()]
            parts += ["What the runs ended with:", outcome_table(result["outcomes"])]
        parts.append(
            "The learning rates of all these runs come from this sweep (`strings`, three seeds of its own; validation "
            "accuracy, the mean of the last three evaluations): the best, or a lower one within 0.02 of it. `distill` "
            "has that of `fst`, `gepa` needs none."
        )
        parts += [sweep_table(result["sweep"])]
        if result["kl_sweep"]:
            parts += [kl_sweep_table(result["kl_sweep"])]
        if result["exercises"]:
            parts += ["Five changes to `fst` on `strings` (the exercises below):", exercise_table(result["exercises"])]
        made_by = dict.fromkeys(c["command"] for c in result["claims"]) or ["python experiments/run.py --only sweep"]
        commands = [*made_by, "python experiments/plot.py && python experiments/report.py"]
        parts.append("\n".join(f"    {command}" for command in commands))
    if (path := results / "base.json").exists():
        parts += [base_table(base := json.loads(path.read_text()))]
        parts.append(
            f"    python experiments/base.py --questions {base['questions']} --out experiments/results/base.json\n"
            "    python experiments/report.py"
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
    return BEGIN + "\n" + "\n\n".join(filter(None, parts)) + "\n\n" + END


def main() -> None:
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(before + section() + rest.split(END)[1])


if __name__ == "__main__":
    main()

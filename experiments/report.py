"""Write docs/RESULTS.md from experiments/results, so that no figure in it is typed by hand.

python experiments/report.py
"""

import json
from pathlib import Path

from claims import VARIANTS

ROOT = Path(__file__).parent.parent
PATH = "experiments/results"
REPORT = "python experiments/report.py"
PLOT = f"python experiments/plot.py && {REPORT}"
METHODS = ("rl", "gepa", "fst")


def base_table(base: dict) -> str:
    """What the base can do: a row per domain, and per rule's length 1/2/3 where there are three
    figures.
    """
    figures = base["figures"]
    columns = {
        "solve, seen": "seen/solve",
        "solve, task": "task/solve",
        "reflect, seen": "seen/reflect",
        "reflect, task": "task/reflect",
    }
    lines = [
        "| | "
        + " | ".join(columns)
        + " | one missing, seen, task | look up, worst | seed prompt | right prompt |"
    ]
    lines.append("|---" * 9 + "|")
    for domain in dict.fromkeys(name.split("/")[0] for name in figures):
        cells = [
            "/".join(f"{figures[f'{domain}/{key}/{n}']:.2f}" for n in (1, 2, 3))
            for key in columns.values()
        ]
        cells.append(
            ", ".join(
                f"{figures[f'{domain}/{level}/reflect/2, one missing']:.2f}"
                for level in ("seen", "task")
            )
        )
        cells.append(
            f"{min(v for k, v in figures.items() if k.startswith(f'{domain}/look up')):.3f}"
        )
        cells += [
            f"{figures[f'{domain}/task/{prompt} prompt']:.3f}" for prompt in ("seed", "right")
        ]
        lines.append(f"| {domain} | {' | '.join(cells)} |")
    return "\n".join(
        [
            f"The shipped base: {base['step']} steps in {base['elapsed'] / 60:.0f} minutes on 2 "
            f"cores. Share right of at least {base['questions']} questions a figure, greedy but "
            "for the last two columns, for rules of 1/2/3 operations; `seen`: difficulties that "
            "the corpus shows often, `task`: that of tasks, with held-out rules if there are any. "
            "`reflect`: one new instruction for a held-out rule (if there are any) from three "
            "failures, starting from none; `one missing`: starting from the first of two "
            "operations. `look up, worst`: the instruction restated, at the worst place in the "
            "prompt. `seed prompt`, `right prompt`: whole tasks, other ones than in the runs.",
            "",
            *lines,
        ]
    )


def compared(claim: dict) -> dict[str, str]:
    """What a claim compares, by name: shown instead is its ratio, or the share saved, if it has one
    (named "").
    """
    figures = claim["figures"]
    if "ratio" in figures:  # a bound where one never got there, for it counts with all that it took
        never = {
            name for name, figure in figures.items() if name != "ratio" and None in figure["values"]
        }
        bound = (
            "at least "
            if never == {"rl"}
            else "about "
            if "rl" in never
            else "at most "
            if never
            else ""
        )
        return {"": f"{bound}{figures['ratio']['mean']:.1f} times"}
    if "share saved" in figures:
        return {"": "-" if (share := figures["share saved"]["mean"]) is None else f"{share:.0%}"}
    means = {name: figure["mean"] for name, figure in figures.items()}
    return {
        name: "-" if value is None else f"{value:.{2 if value >= 0.1 else 3}f}"
        for name, value in means.items()
        # those stand beside what is compared
        if not name.startswith(("fst,", "rl,")) or "of the peak" in name
    }


def verdict(claim: dict) -> str:
    return f" (*{claim['verdict']}*)" if "verdict" in claim else ""


def of_several(claim: dict) -> bool:
    """Whether a claim is of several domains: one after the other, or their mean."""
    return claim["claim"].startswith(("plasticity", "continual")) or claim["where"].startswith(
        "mean of"
    )


def summary(claims: list[dict]) -> str:
    """Claim by domain in short, then those that are of several domains, a row each."""
    several = [*filter(of_several, claims)]
    table: dict[tuple, dict[str, str]] = {}
    for claim in (c for c in claims if c not in several):
        domain, *variant = claim["where"].split(", ")
        shown = compared(claim)
        title = ", ".join([claim["claim"], *variant]) + (
            f": {' / '.join(shown)}" if any(shown) else ""
        )
        row = table.setdefault((title, claim["paper"], claim["bar"]), {})
        row[domain] = " / ".join(shown.values()) + verdict(claim)
    domains = list(dict.fromkeys(domain for row in table.values() for domain in row))
    lines = [
        f"| claim | the paper | bar | {' | '.join(domains)} |",
        "|---" * (3 + len(domains)) + "|",
    ]
    lines += [
        f"| {' | '.join(about)} | {' | '.join(row.get(d, '') for d in domains)} |"
        for about, row in table.items()
    ]
    if several:
        lines += ["", "| claim | where | the paper | bar | here |", "|---" * 5 + "|"]
    for claim in several:
        here = "; ".join(f"{name} {value}" for name, value in compared(claim).items()) + verdict(
            claim
        )
        lines.append(
            f"| {claim['claim']} | {claim['where']} | {claim['paper']} | {claim['bar']} | {here} |"
        )
    return "\n".join(lines)


def claims_table(claims: list[dict]) -> str:
    """The paper's claims beside what was measured."""
    lines = [
        "| claim | where | the paper | here, mean ± std | seeds | bar | verdict |",
        "|---" * 7 + "|",
    ]
    for claim in claims:
        cells = []
        for name, figure in claim["figures"].items():
            known = [value for value in figure["values"] if value is not None]
            spread = "" if figure["std"] is None else f" ± {figure['std']:.3g}"
            if name == "ratio":  # its mean is geometric
                spread = f" ({min(known):.3g} to {max(known):.3g})"
            missing = figure["values"].count(None)
            never = f" ({missing} of {claim['n']} never)" if missing else ""
            cells.append(
                f"{name} "
                + ("-" if figure["mean"] is None else f"{figure['mean']:.4g}{spread}")
                + never
            )
        verdict = claim.get("verdict", "reported")
        lines.append(
            f"| {claim['claim']} | {claim['where']} | {claim['paper']} | {'; '.join(cells)} | "
            f"{claim['n']} | {claim['bar']} | {verdict} |"
        )
    return "\n".join(lines)


def number(figure: dict, digits: int) -> str:
    """mean ± std, or "-" where there is nothing."""
    if figure["mean"] is None:
        return "-"
    std = "" if figure["std"] is None else f" ± {figure['std']:,.{digits}f}"
    return f"{figure['mean']:,.{digits}f}{std}"


def outcome_table(outcomes: dict) -> str:
    """What every method ended with on every domain, and what it cost."""
    titles = (
        "domain, method",
        "steps",
        "rollouts",
        "tokens",
        "validation accuracy",
        "KL to the base",
        "minutes, one thread",
        "entropy, nats",
        "questions without spread",
        "seeds",
    )
    digits = {
        "rollouts": 0,
        "tokens": 0,
        "accuracy": 2,
        "KL": 3,
        "minutes": 1,
        "entropy": 3,
        "dropped": 0,
    }
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, o in outcomes.items():
        cells = " | ".join(number(o[key], n) for key, n in digits.items())
        lines.append(f"| {name} | {o['steps']} | {cells} | {len(o['accuracy']['values'])} |")
    late = (
        "Entropy and questions without spread, of 32, are means over the last ten gradient steps."
    )
    return "\n".join([*lines, "", late])


def exercise_table(exercises: dict) -> str:
    """What changes to fst on strings come to."""
    titles = (
        "change",
        "steps",
        "rollouts",
        "validation accuracy",
        "difference by seed",
        "KL to the base",
        "seeds",
    )
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, e in exercises.items():
        change = f"`{name}`" if name.startswith("-") else name
        figures = (("rollouts", 0), ("accuracy", 2), ("difference", 2), ("KL", 3))
        cells = (number(e[key], digits) for key, digits in figures)
        lines.append(
            f"| {change} | {e['step']} | {' | '.join(cells)} | {len(e['accuracy']['values'])} |"
        )
    return "\n".join(lines)


def named(claims: list[dict], name: str) -> dict[str, dict]:
    """Domain -> the claim of that name, of the runs as they are."""
    return {c["where"]: c for c in claims if c["claim"] == name and not is_variant(c)}


def ends_table(claims: list[dict], outcomes: dict) -> str:
    """Where the methods end on each domain, and what they cost; "" before there are any."""
    ends, cells = named(claims, "more than either method alone"), named(claims, "both channels")
    if not ends:
        return ""
    lines = ["| validation accuracy at the end | base | `rl` | `gepa` | `fst` |", "|---" * 5 + "|"]
    for domain, claim in ends.items():
        figures = [
            cells[domain]["figures"]["base, seed prompt"],
            *(claim["figures"][m] for m in METHODS),
        ]
        lines.append(f"| {domain} | {' | '.join(number(figure, 2) for figure in figures)} |")
    for unit in ("rollouts", "tokens"):
        costs = [
            [o[unit]["mean"] for name, o in outcomes.items() if name.endswith(f", {m}")]
            for m in METHODS
        ]
        lines.append(f"| {unit} | | {' | '.join(f'{sum(c) / len(c):,.0f}' for c in costs)} |")
    return "\n".join(lines)


def headline(claims: list[dict]) -> str:
    """How many rollouts and tokens the methods need; "" before there are any figures."""

    def times(name: str) -> str:
        return ", ".join(
            f"{w} {' '.join(compared(c).values())}{verdict(c)}"
            for w, c in named(claims, name).items()
        )

    if not (ratios := named(claims, rollouts := "data efficiency, rollouts")):
        return ""
    others = {
        "To nine tenths of `rl`'s best, where noise on a plateau counts for less": (
            f"{rollouts} to 0.9 of rl's best"
        ),
        "In tokens, to its best": "data efficiency, tokens",
        "In rollouts, for `gepa`, which never changes the weights": (
            "data efficiency of gepa, rollouts"
        ),
    }
    seeds = " or ".join(map(str, sorted({c["n"] for c in ratios.values()})))
    return " ".join(
        [
            "**The rollouts that `rl` takes to its best accuracy, over those that `fst` takes to "
            f"get there: {times(rollouts)}.** Geometric means over {seeds} seeds; all rollouts "
            "count, those that score prompts and reflections too.",
            *(f"{what}: {found}." for what, name in others.items() if (found := times(name))),
        ]
    )


def sweep_table(table: dict[str, dict[str, float]], setting: str = "learning rate") -> str:
    """What a sweep came to: a row for every method, a column for every value of the setting."""
    tried = sorted({value for row in table.values() for value in row}, key=float)
    lines = [f"| {setting} | " + " | ".join(tried) + " |", "|---" * (1 + len(tried)) + "|"]
    for method, row in table.items():
        lines.append(
            f"| {method} | {' | '.join(f'{row[v]:.3f}' if v in row else '-' for v in tried)} |"
        )
    return "\n".join(lines)


def kl_sweep_table(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """What every method came to with every KL coefficient, in every figure."""
    rows = {
        f"`{method}`, {title}": row
        for title, table in figures.items()
        for method, row in table.items()
    }
    return sweep_table(rows, "KL coefficient")


VERDICTS = (
    "The bars are this project's, mostly stricter than the paper's wording. Where what is compared "
    "differs within noise (t-test, paired by seed, 95%), a claim *does not hold at this scale*. "
    "Else it *holds* where what it is past its bar is beyond noise, too, *holds on average* where "
    "the bar is met by the mean alone (not enough for `both channels`), and is *short of the bar* "
    "where it is not met. With so many lines one or two pass by chance. When a method first "
    "reaches a level is judged by the mean of up to three evaluations in a row, five steps apart "
    "(one step for zero reward; the one before training is left out), so what comes early is told "
    "roughly. An `rl` that never gains 0.02 counts with all that it took (*at least*), and so does "
    "what never gets where `rl` does (*at most*); *about*: both. Of the peak: of the best that "
    "either method had in that stage. Where `fst` is always above `rl`, 1.00 says no more than "
    "that it does not fall within the stage."
)


def fault_table(kill: dict, faults: dict, fuzz: dict, soak: dict) -> str:
    """What was done to runs, how often, and what was lost by it."""
    rows = []
    for method, figures in kill.items():
        rows.append(
            (
                f"`{method}` killed, also while resuming",
                f"{figures['kills']} kills over {figures['runs']} runs, in "
                f"{len(figures['struck'])} places",
                "the steps since the last checkpoint; once resumed, no log line, sample or weight "
                "differs",
            )
        )
    disks, damages, numbers = faults["full_disks"], faults["damages"], faults["numbers"]
    rows += [
        ("disk full at a random byte", f"{disks['injected']} runs", "as above"),
        (
            "checkpoint with a flipped bit or a lost end",
            f"{damages['injected']}",
            f"nothing: refused as damaged, but for {damages['harmless']} that left what is read as "
            "it was",
        ),
        (
            "loss or reward not finite",
            f"{numbers['injected']} of {numbers['steps']} steps",
            "these steps; the weights stay finite",
        ),
    ]
    for kind, name in (
        ("random_tokens", "random tokens"),
        ("mutated_document", "damaged real documents"),
    ):
        figures = fuzz[kind]
        rows.append(
            (
                f"{name} as answer, reflection and prompt",
                f"{figures['sequences']:,}",
                f"{figures['findings']} exceptions, wrong rewards or smuggled lines",
            )
        )
    for method, figures in soak.items():
        rates, logs, sizes = (
            figures["steps_per_second"],
            figures["bytes_per_step"],
            figures["checkpoint_bytes"],
        )
        log = ", ".join(f"{value:.0f}" for value in logs["log.jsonl"])
        rows.append(
            (
                f"`{method}` for long",
                f"{figures['steps']:,} steps",
                f"memory at most {figures['growth']:+.1%} after the first tenth; log {log} bytes a "
                f"step (by quarters); checkpoint {sizes[0] / 1000:.0f} to {sizes[1] / 1000:.0f} "
                f"kB; {min(rates):.0f} to {max(rates):.0f} steps per second of CPU time",
            )
        )
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
        rows.append(
            (
                "`transformers` generate, 36 greedy tokens in 256 rows",
                main["transformers"] / main["shared"],
            )
        )
        rows.append(("the same, prompts 16 times as long", long["transformers"] / long["shared"]))
        rows.append(
            (
                "the same at the main job's prompts, answers of real lengths",
                real["transformers"] / real["shared"],
            )
        )
        if "compiled" in main:
            rows += [
                (f"{what}, with `--compile`", times["transformers"] / times["compiled"])
                for what, times in (
                    ("the 36 greedy tokens", main),
                    ("the answers of real lengths", real),
                )
            ]
    if "trl step" in step:
        rows.append(("a GRPO step of TRL, rollouts included", step["trl step"] / step["step"]))
    growth = sampling["4x rows, 1x prompt"]["shared"] / main["shared"]
    parts = {name: seconds / cycle["seconds"] for name, seconds in cycle["parts"].items()}
    shares = ", ".join(f"{name} {share:.0%}" for name, share in parts.items() if share >= 0.02)
    load, floor = " to ".join(map(str, bench["load"])), ""
    if "products" in main:
        share = main["products"] / main["shared"]
        floor = (
            f"The matrix products of its decode steps are {share:.0%} of sampling those 256 rows. "
        )
    return "\n".join(
        [
            f"Speed, {bench['threads']} thread(s) on 2 cores; medians of interleaved rounds in one "
            "process, so read the ratios, not the clock (load of the machine at the beginning and "
            f"end: {load}).",
            "",
            "| compared with | this is faster |",
            "|---|---|",
            *(f"| {name} | {ratio:.1f} times |" for name, ratio in rows),
            "",
            f"{floor}An update takes {step['update'] / step['products']:.1f} times as long as its "
            f"matrix products alone. Four times the rows cost {growth:.1f} times the time. "
            f"Prefixes of the longest prompts: {memory['shared']:.1f} MiB shared, "
            f"{memory['copied']:.0f} MiB copied (peak of all memory, MiB: {peaks}). A cycle of the "
            f"main job: {shares}; {cycle['python and text']:.1%} in text and bookkeeping; "
            f"{cycle['outside torch in a slow step']:.0%} of a slow step pass in Python, outside "
            "torch.",
        ]
    )


def gpu_text(gpu: dict) -> str:
    """What a GPU makes of it."""
    times = {
        words: f"{gpu[words]['replayed'] / gpu[words]['launched']:.1f}"
        for words in ("answers", "reflections")
    }
    cycles, whole = gpu["seconds"], gpu["train.py"]
    accuracy = ", ".join(f"{name} {value:.2f}" for name, value in whole["accuracy"].items())
    repeats = "repeat" if gpu["the same log"]["replayed"] else "do not repeat"
    return (
        f"On a GPU ({gpu['device']}, torch {gpu['torch']}) decode steps are replayed from CUDA "
        f"graphs: {gpu['answers']['replayed']:,} tokens a second of answers in 256 rows, "
        f"{times['answers']} times as many as launched kernel by kernel; "
        f"{gpu['reflections']['replayed']:,} of reflections in 16 rows, {times['reflections']} "
        f"times. Two cycles of the main job take {cycles['replayed']:.1f} s, "
        f"{cycles['launched']:.1f} s if launched (the shorter of two runs), and {repeats} number "
        f"by number. `python train.py --seed 0` takes {whole['seconds']:.0f} s: "
        f"{whole['rollouts']:,} rollouts, validation accuracy {accuracy}."
    )


def image(name: str) -> list[str]:
    """The line that shows a figure, if it was drawn."""
    drawn = (ROOT / "docs" / "figures" / f"{name}.png").exists()
    return [f"![{name}](figures/{name}.png)"] if drawn else []


def read(name: str) -> dict | None:
    """Results by their name; None where they were not made."""
    path = ROOT / "experiments" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def is_variant(claim: dict) -> bool:
    """Whether a claim is of runs with other settings: then these end the name of its place."""
    return claim["where"].endswith(tuple(VARIANTS))


def main_parts(result: dict) -> list[str]:
    """Where the methods end, what it took them, and the claims in short."""
    claims = result["claims"]
    ends = ends_table(claims, result["outcomes"])
    parts = []
    if ends:
        parts += ["## Where the methods end", *image("efficiency"), ends, headline(claims)]
    usual = [claim for claim in claims if not is_variant(claim) and claim["bar"] != "-"]
    parts += ["## The claims in short", summary(usual), VERDICTS, *image("kl"), *image("stream")]
    parts.append(f"    python experiments/run.py\n    {PLOT}")
    return parts


def sweep_parts(result: dict) -> list[str]:
    """What the sweeps came to."""
    parts = [
        "## The sweeps",
        "The learning rates of all runs come from this sweep (`strings`, three seeds of its own; "
        "validation accuracy, the mean of the last three evaluations): the best. `distill` has "
        "that of `fst`, `gepa` none.",
        sweep_table(result["sweep"]),
    ]
    if any(result["kl_sweep"].values()):
        parts.append("A method's own KL coefficient is the largest within 0.02 of the best:")
        parts.append(kl_sweep_table(result["kl_sweep"]))
    parts.append("    python experiments/run.py --only sweep own-kl\n    " + PLOT)
    return parts


def claims_parts(result: dict) -> list[str]:
    """All claims and what all runs ended with."""
    claims = result["claims"]
    variants = [claim for claim in claims if is_variant(claim)]
    parts = []
    if variants:
        parts += ["## Claims with other settings", summary(variants)]
    parts += ["## What the runs ended with", outcome_table(result["outcomes"])]
    parts += ["## Claims, mean ± std over the seeds", claims_table(claims)]
    commands = dict.fromkeys(claim["command"] for claim in claims)
    parts.append("\n".join(f"    {command}" for command in [*commands, PLOT]))
    return parts


def exercise_parts(result: dict) -> list[str]:
    """What came of the exercises."""
    if not result["exercises"]:
        return []
    command = "    python experiments/run.py --only sweep domains exercises --domains strings"
    return ["## Exercises", exercise_table(result["exercises"]), f"{command}\n    {PLOT}"]


def base_parts() -> list[str]:
    """What the base can do."""
    base = read("base")
    if not base:
        return []
    command = (
        f"    python experiments/exam.py --questions {base['questions']} --out {PATH}/base.json"
    )
    return ["## The base", base_table(base), f"{command}\n    {REPORT}"]


def fault_parts() -> list[str]:
    """What runs survive."""
    faults = {name: read(name) for name in ("kill", "faults", "fuzz", "soak")}
    if not all(faults.values()):
        return []
    commands = [f"    python tests/stress/{name}.py --out {PATH}/{name}.json" for name in faults]
    return ["## Faults", fault_table(*faults.values()), "\n".join([*commands, f"    {REPORT}"])]


def speed_parts() -> list[str]:
    """How fast all of it is."""
    parts = []
    if bench := read("bench"):
        quick = " --quick" if bench["quick"] else ""
        command = f"    python experiments/bench.py{quick} && {REPORT}"
        parts += ["## Speed", speed_table(bench), command]
    if gpu := read("gpu"):
        parts += [gpu_text(gpu), f"    python experiments/gpu.py --out {PATH}/gpu.json"]
    return parts


def results_page() -> str:
    """docs/RESULTS.md: all figures."""
    parts = ["# All figures", "Written by experiments/report.py from experiments/results."]
    result = read("claims")
    if result:
        parts += main_parts(result) if result["claims"] else []
        parts += sweep_parts(result)
        parts += claims_parts(result) if result["claims"] else []
        parts += exercise_parts(result)
    parts += base_parts() + fault_parts() + speed_parts()
    return "\n\n".join(parts) + "\n"


def main() -> None:
    (ROOT / "docs" / "RESULTS.md").write_text(results_page(), encoding="utf-8")


if __name__ == "__main__":
    main()

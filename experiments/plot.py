"""Figures and the table of claims, from the files that run.py left.

    python experiments/plot.py        writes experiments/results/claims.json and experiments/figures/*.png

Every figure of a claim is one per seed, paired between methods by seed. A claim *holds* where the mean difference
exceeds two standard errors and the bar is met; with the first alone it is short of the bar.
"""

import json
import sys
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from statistics import mean, stdev

import numpy as np

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "experiments" / "results" / "runs"
FIGURES = ROOT / "experiments" / "figures"
DOMAINS = ("strings", "numbers", "facts", "star_graph")
COLOURS = {"fst": "tab:orange", "rl": "tab:blue", "gepa": "tab:green"}
ZERO = 0.02  # validation accuracy that counts as having left zero


def load() -> dict[str, dict]:
    """All finished runs by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RUNS.glob("*.json"))}


def pairs(runs: dict, *names: str) -> list[tuple[int, list[dict]]]:
    """Names with {} for the seed -> (seed, the runs of that seed) for all seeds that have every one of them."""
    head, tail = names[0].split("{}")
    seeds = [n[len(head) : len(n) - len(tail)] for n in runs if n.startswith(head) and n.endswith(tail)]
    seeds = sorted(int(seed) for seed in seeds if seed.isdigit())
    found = ((seed, [runs.get(name.format(seed)) for name in names]) for seed in seeds)
    return [(seed, group) for seed, group in found if all(group)]


def first_at(evals: list[dict], target: float) -> dict | None:
    """The first evaluation that reaches an accuracy."""
    return next((e for e in evals if e["val_acc"] >= target), None)


def reach(fst: list[dict], rl: list[dict]) -> dict:
    """Where both first reach the best of `rl`, or leave zero where `rl` never does; `rl` then counts with all it took.

    -> target; rl's evaluation; fst's, or None where it never gets there
    """
    target = max(ZERO, max(e["val_acc"] for e in rl))
    return {"target": target, "rl": first_at(rl, target) or rl[-1], "fst": first_at(fst, target)}


def asymptote(evals: list[dict]) -> float:
    """A of R = R0 + (A - R0) / (1 + (C_mid / C)^B), C in rollouts: the least squares fit with A <= 1.

    R0 is what was measured before training. For every B and C_mid of a grid the best A is in closed form.
    """
    cost, reward = (np.array([e[key] for e in evals], dtype=float) for key in ("rollouts", "val_acc"))
    shape, middle = np.meshgrid(np.linspace(0.5, 8, 31), np.geomspace(cost[1] / 4, 2 * cost[-1], 60))
    with np.errstate(divide="ignore"):
        rise = 1 / (1 + (middle[..., None] / cost) ** shape[..., None])  # (60, 31, evaluations)
    gained = reward - reward[0]
    height = np.clip((rise * gained).sum(-1) / np.square(rise).sum(-1), -reward[0], 1 - reward[0])
    errors = np.square(height[..., None] * rise - gained).sum(-1)
    return float(reward[0] + height.flat[errors.argmin()])


def forgotten(base: dict, run: dict) -> float:
    """How much of the base's skills is gone: the drop of the share right, averaged over the domains."""
    return mean(base["skills"].values()) - mean(run["skills"].values())


def spread(values: list[float | None]) -> dict:
    """Mean, standard deviation and all values, one per seed; None, for never, is kept but not averaged."""
    known = [v for v in values if v is not None]
    return {
        "mean": round(mean(known), 4) if known else None,
        "std": round(stdev(known), 4) if len(known) > 1 else None,
        "values": [v if v is None else round(v, 4) for v in values],
    }


def row(claim: str, where: str, paper: str, bar: str, seeds: Iterable[int], figures: dict[str, list], **test) -> dict:
    """A line of the table. figures: name -> one per seed. test: `difference` per seed, and `met`, for a verdict."""
    seeds = list(seeds)
    row = {"claim": claim, "where": where, "paper": paper, "bar": bar, "seeds": seeds, "n": len(seeds)}
    row["figures"] = {name: spread(values) for name, values in figures.items()}
    if test:
        d = test["difference"]
        if len(d) < 3:
            row["verdict"] = "too few seeds"
        elif mean(d) <= 2 * stdev(d) / len(d) ** 0.5:
            row["verdict"] = "does not hold at this scale"
        else:
            row["verdict"] = "holds" if test["met"] else "short of the bar"
    return row


def domain_claims(runs: dict, domain: str, against: str = "rl") -> Iterable[dict]:
    """What fst against rl on one domain says. against: "rlkl" for rl with its own best KL coefficient."""
    group = pairs(runs, f"fst-{domain}-{{}}", f"{against}-{domain}-{{}}")
    if not group:
        return
    seeds, both = [seed for seed, _ in group], [pair for _, pair in group]

    def each(figure: Callable[[dict], float]) -> dict[str, list]:  # method -> one figure per seed
        return {m: [figure(pair[i]) for pair in both] for i, m in enumerate(("fst", "rl"))}

    met = [reach(fst["evals"], rl["evals"]) for fst, rl in both]
    for label, unit, paper in (("rollouts", "rollouts", "-"), ("steps", "step", "up to 3x fewer")):
        cost = {m: [r[m] and r[m][unit] for r in met] for m in ("fst", "rl")}
        ratio = [0.0 if a is None else b / max(a, 1) for a, b in zip(cost["fst"], cost["rl"], strict=True)]  # 0: never
        yield row(
            f"data efficiency, {label}", domain, paper, ">= 3x fewer", seeds, cost | {"ratio": ratio},
            difference=[r - 1 for r in ratio], met=mean(ratio) >= 3,
        )  # fmt: skip
    heights = each(lambda run: asymptote(run["evals"]))
    above = [a - b for a, b in zip(*heights.values(), strict=True)]
    yield row("asymptote", domain, "higher", ">= 0.10 higher", seeds, heights, difference=above, met=mean(above) >= 0.1)
    if all(r["rl"]["val_acc"] >= ZERO for r in met):
        kl = {m: [r[m] and r[m]["kl_base"] for r in met] for m in ("fst", "rl")}
        saved = [1 - a / b if a is not None else 0.0 for a, b in zip(kl["fst"], kl["rl"], strict=True)]
        at_the_end = each(lambda run: run["result"]["tasks"][0]["kl_base"][0])
        neutral = {f"{m}, neutral prompt, at the end": values for m, values in at_the_end.items()}
        yield row(
            "stays close: KL at rl's best", domain, "up to 70% less", ">= 70% less", seeds,
            kl | {"share saved": saved} | neutral, difference=saved, met=mean(saved) >= 0.7,
        )  # fmt: skip
    drops = each(lambda run: forgotten(runs["base"], run))
    less = [b - a for a, b in zip(*drops.values(), strict=True)]
    losses = {f"{m}, corpus loss": values for m, values in each(lambda run: run["corpus_loss"]).items()}
    yield row(
        "forgets less: drop of base skills", domain, "no worse", "a third of rl's", seeds, drops | losses,
        difference=less, met=mean(drops["fst"]) <= mean(drops["rl"]) / 3,
    )  # fmt: skip
    if domain == "star_graph":
        cost = each(lambda run: (first_at(run["evals"], ZERO) or run["evals"][-1])["step"])
        ratio = [rl / max(fst, 1) for fst, rl in zip(*cost.values(), strict=True)]
        yield row(
            "zero-reward regime: steps to leave zero", domain, "about 50 against 250", ">= 5x earlier", seeds,
            cost | {"ratio": ratio}, difference=[r - 1 for r in ratio], met=mean(ratio) >= 5,
        )  # fmt: skip
    names = ("base, seed prompt", "base, evolved prompt", "trained, seed prompt", "trained, evolved prompt")
    cells = [list(chain(*fst["result"]["tasks"][0]["accuracy"].values())) for fst, _ in both]
    quadrants = {name: [cell[i] for cell in cells] for i, name in enumerate(names)}
    means = [mean(values) for values in quadrants.values()]
    yield row(
        "both channels", domain, "joint best", "joint best, singles above neither", seeds, quadrants,
        difference=[cell[3] - max(cell[:3]) for cell in cells], met=min(means[1:3]) > means[0],
    )  # fmt: skip


def other_claims(runs: dict) -> Iterable[dict]:
    """Plasticity, the stream, distillation, who reflects."""
    for name in sorted({n.rsplit("-", 1)[0] for n in runs if n.startswith("plasticity") and "-after-fst-" in n}):
        second, first = name.split("-")[1], name.split("-")[4]
        triples = pairs(runs, f"rl-{second}-{{}}", f"{name}-{{}}", f"{name.replace('-fst-', '-rl-')}-{{}}")
        if triples:
            final = {
                f"rl from {what}": [group[i]["evals"][-1]["val_acc"] for _, group in triples]
                for i, what in enumerate(("the base", f"fst on {first}", f"rl on {first}"))
            }
            base, fst, rl = final.values()
            yield row(
                "plasticity", f"{first}, then {second}", "kept; rl's collapses", ">= 0.95 of the base's",
                [seed for seed, _ in triples], final, difference=[a - b for a, b in zip(fst, rl, strict=True)],
                met=mean(fst) >= 0.95 * mean(base),
            )  # fmt: skip
    if group := pairs(runs, "stream-fst-{}", "stream-rl-{}"):
        stages = [[stage_ends(run["evals"]) for run in pair] for _, pair in group]
        for i, task in enumerate(group[0][1][0]["result"]["tasks"]):
            ends = {m: [pair[k][i][0] for pair in stages] for k, m in enumerate(("fst", "rl"))}
            peaks = [max(pair[0][i][1], pair[1][i][1], 1e-9) for pair in stages]
            share = {f"{m}, of the peak": [a / p for a, p in zip(v, peaks, strict=True)] for m, v in ends.items()}
            yield row(
                f"continual, stage {i + 1}", task["task"], "rl stalls", "fst >= 0.90 of the peak",
                [seed for seed, _ in group], ends | share,
                difference=[a - b for a, b in zip(*ends.values(), strict=True)],
                met=mean(share["fst, of the peak"]) >= 0.9,
            )  # fmt: skip
    for claim, paper, other in (("FST-distill", "between", "distill"), ("reflector", "frozen", "frozen")):
        for domain in DOMAINS:
            if group := pairs(runs, f"{other}-{domain}-{{}}", f"fst-{domain}-{{}}", f"rl-{domain}-{{}}"):
                final = {
                    m: [g[i]["evals"][-1]["val_acc"] for _, g in group] for i, m in enumerate((other, "fst", "rl"))
                }
                yield row(claim, domain, paper, "reported", [seed for seed, _ in group], final)


def outcomes(runs: dict) -> dict[str, dict]:
    """What the runs of a method on a domain ended with, "domain, method": accuracy, KL, and what they cost."""
    table = {}
    for domain in DOMAINS:
        for method in ("fst", "rl", "rlkl", "gepa", "distill", "frozen"):
            if group := pairs(runs, f"{method}-{domain}-{{}}"):
                made = [run for _, [run] in group]
                last = [run["evals"][-1] for run in made]
                table[f"{domain}, {method}"] = {
                    "accuracy": spread([e["val_acc"] for e in last]),
                    "KL": spread([e["kl_base"] for e in last]),
                    "rollouts": spread([float(e["rollouts"]) for e in last]),
                    "steps": last[0]["step"],
                    "minutes": None
                    if any(run["resumed"] for run in made)
                    else spread([r["seconds"] / 60 for r in made]),
                }
    return table


def exercises(runs: dict) -> dict[str, dict]:
    """A change to fst on strings -> what it has come to, beside fst as it is at the same step with the same seeds."""
    names = ["fst-strings", *dict.fromkeys(n.rsplit("-", 1)[0] for n in runs if n.startswith("exercise-"))]
    group, table = [made for _, made in pairs(runs, *(f"{name}-{{}}" for name in names))], {}
    for name, made in zip(names, zip(*group, strict=True), strict=False) if len(names) > 1 else ():
        step = group[0][-1]["evals"][-1]["step"]  # of an exercise; fst goes on for longer
        ends = [next(e for e in run["evals"] if e["step"] == step) for run in made]
        label = "as it is" if name == names[0] else "--" + name.removeprefix("exercise-").replace("=", " ")
        figures = {"accuracy": "val_acc", "KL": "kl_base", "rollouts": "rollouts"}
        table[label] = {title: spread([float(e[key]) for e in ends]) for title, key in figures.items()} | {"step": step}
    return table


def command(line: dict) -> str:
    """What makes the runs of a claim, and the learning rates that they have."""
    named = {"plasticity": "plasticity", "continual": "stream", "FST-distill": "distill", "reflector": "reflector"}
    only = next((experiment for start, experiment in named.items() if line["claim"].startswith(start)), "")
    only = f"domains {only}".strip() + (" kl" if "own KL" in line["where"] else "")
    return f"python experiments/run.py --only sweep {only} --seeds {' '.join(map(str, line['seeds']))}"


def sweep(runs: dict) -> dict[str, dict[str, float]]:
    """Method -> learning rate -> final validation accuracy."""
    table: dict[str, dict[str, float]] = {}
    for name, run in runs.items():
        if name.startswith("sweep-"):
            _, method, rate = name.split("-")
            table.setdefault(method, {})[rate] = run["evals"][-1]["val_acc"]
    return {method: {rate: row[rate] for rate in sorted(row, key=float)} for method, row in table.items()}


def stage_ends(evals: list[dict]) -> list[tuple[float, float]]:
    """Of a stream's run: for each task its accuracy at the end of its stage, and its best within it.

    The last evaluation of a stage is the one at its last step, which the log counts to the next task's begin.
    """
    tasks, steps = {e["task"] for e in evals}, sorted({e["step"] for e in evals})
    length = steps[-1] / len(tasks)
    result = []
    for task in sorted(tasks):
        own = [e["val_acc"] for e in evals if e["task"] == task and task * length < e["step"] <= (task + 1) * length]
        result.append((own[-1], max(own)))
    return result


def panel(axes, runs: dict, name: Callable[[str], str], x: str, xlabel: str, title: str) -> None:
    """Validation accuracy over something: every seed thin, the mean of the seeds bold."""
    for method, colour in COLOURS.items():
        curves = [group[0]["evals"] for _, group in pairs(runs, name(method))]
        for evals in curves:
            axes.plot([e[x] for e in evals], [e["val_acc"] for e in evals], color=colour, lw=0.7, alpha=0.5)
        if curves:
            columns = list(zip(*curves, strict=True))  # evaluations come at the same steps in every seed
            xs, ys = ([mean(e[key] for e in column) for column in columns] for key in (x, "val_acc"))
            axes.plot(xs, ys, color=colour, lw=2.5, label=method)
    axes.set(xlabel=xlabel, ylabel="validation accuracy", ylim=(0, 1), title=title)
    axes.spines[["top", "right"]].set_visible(False)


def draw(runs: dict) -> None:
    """efficiency.png: accuracy over rollouts on each domain; kl.png: over the distance to the base; stream.png."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    FIGURES.mkdir(parents=True, exist_ok=True)
    there = [domain for domain in DOMAINS if pairs(runs, f"fst-{domain}-{{}}")]
    kinds = {
        "efficiency": ("rollouts", "rollouts, all kinds counted"),
        "kl": ("kl_base", "KL to the base, nats per token"),
    }
    for file, (x, label) in kinds.items() if there else ():
        figure, axes = plt.subplots(1, len(there), figsize=(4 * len(there), 3.4), squeeze=False)
        for domain, ax in zip(there, axes[0], strict=True):
            panel(ax, runs, lambda method, domain=domain: f"{method}-{domain}-{{}}", x, label, domain)
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
                ax, own, lambda method: f"stream-{method}-{{}}", "step", "gradient steps", f"{tasks[i]}, stage {i + 1}"
            )
        axes[0][0].legend(frameon=False)
        figure.tight_layout()
        figure.savefig(FIGURES / "stream.png", dpi=110)


def main() -> None:
    runs = load()
    if "base" not in runs:
        sys.exit("plot.py: there are no results yet: make them with python experiments/run.py")
    claims = [line for domain in DOMAINS for line in domain_claims(runs, domain)]
    for domain in DOMAINS:
        own = (line for line in domain_claims(runs, domain, "rlkl") if line["claim"].startswith(("data", "stays")))
        claims += [line | {"where": f"{domain}, rl with its own KL coefficient"} for line in own]
    claims = [line | {"command": command(line)} for line in chain(claims, other_claims(runs))]
    result = {"sweep": sweep(runs), "claims": claims, "outcomes": outcomes(runs), "exercises": exercises(runs)}
    (ROOT / "experiments" / "results" / "claims.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(runs)
    for line in claims:
        figures = ", ".join(f"{name} {f['mean']} ± {f['std']}" for name, f in line["figures"].items())
        print(f"{line['claim']:40} {line['where']:24} n {line['n']}  {figures}   {line.get('verdict', '')}")


if __name__ == "__main__":
    main()

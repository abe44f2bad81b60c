"""What the claims are made of: figures of the finished runs that run.py left; plot.py saves them.

Every figure of a claim is one per seed, paired between methods by seed. A claim *holds* where the
mean difference and what it is past its bar are both beyond noise (paired t-tests at 95%), *on
average* where the bar is met by the mean alone; with the difference alone it is short of the bar.
Where a method first reaches an accuracy is read off means over three evaluations, for a peak or a
crossing of single ones is often noise.
"""

import json
from collections.abc import Callable, Iterable
from itertools import chain
from math import log
from pathlib import Path
from statistics import geometric_mean, mean, stdev

import numpy as np

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "experiments" / "results" / "runs"
DOMAINS = ("strings", "numbers", "facts", "star_graph")
# changes to fst, on strings
EXERCISES = ("method=gepa+passes=45", "passes=3", "passes=0", "batch=8", "lr=0.003")
SECOND, OWN = "rl with its own KL coefficient", "each with its own KL coefficient"
# their runs, what makes them
VARIANTS = {SECOND: ("fst", "rlkl", "kl"), OWN: ("fstkl", "rlkl", "own-kl")}
ZERO = 0.02  # gain in validation accuracy that counts as one
# Student's t, 95%, by seeds
T = {3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26, 15: 2.14}


def load() -> dict[str, dict]:
    """All finished runs by name."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(RUNS.glob("*.json"))
    }


def pairs(runs: dict, *names: str) -> list[tuple[int, list[dict]]]:
    """Names with {} for the seed -> (seed, the runs of that seed) for all seeds that have every one
    of them.
    """
    head, tail = names[0].split("{}")
    seeds = [
        n[len(head) : len(n) - len(tail)] for n in runs if n.startswith(head) and n.endswith(tail)
    ]
    seeds = sorted(int(seed) for seed in seeds if seed.isdigit())
    found = ((seed, [runs.get(name.format(seed)) for name in names]) for seed in seeds)
    return [(seed, group) for seed, group in found if all(group)]


def first_at(evals: list[dict], target: float) -> dict | None:
    """The first evaluation that reaches an accuracy."""
    return next((e for e in evals if e["val_acc"] >= target), None)


def at_the_end(evals: list[dict]) -> float:
    """The mean accuracy of the last three evaluations after training began."""
    return mean(e["val_acc"] for e in evals[1:][-3:])


def beyond_noise(differences: list[float]) -> bool:
    """Whether the mean of three differences or more is above zero by a t-test."""
    n = len(differences)
    return (
        n > 2 and mean(differences) > T[max(k for k in T if k <= n)] * stdev(differences) / n**0.5
    )


def smooth(evals: list[dict]) -> list[dict]:
    """Evaluations with the mean accuracy of each and the two before. That of the base, before
    training, stays apart.
    """
    near = [evals[max(i - 2, 1) : i + 1] for i in range(1, len(evals))]
    means = [mean(e["val_acc"] for e in group) for group in near]
    return evals[:1] + [e | {"val_acc": value} for e, value in zip(evals[1:], means, strict=True)]


def by_step(rewards: list[float]) -> list[dict]:
    """The mean rewards of all steps as evaluations; before training there were none."""
    return [{"step": step, "val_acc": reward} for step, reward in enumerate([0.0, *rewards])]


def reach(fst: list[dict], rl: list[dict], share: float = 1.0) -> dict:
    """Where both first reach a share of the best of `rl`, or the least gain where `rl` makes none
    and counts with all it took.

    -> target; rl's evaluation, and whether it learned; fst's evaluation, or None where it never
    gets there
    """
    fst, rl = smooth(fst), smooth(rl)
    target = max(share * max(e["val_acc"] for e in rl), rl[0]["val_acc"] + ZERO)
    there = first_at(rl, target)
    return {
        "target": target,
        "rl": there or rl[-1],
        "learned": there is not None,
        "fst": first_at(fst, target),
    }


def saved(
    both: list[tuple[dict, dict]], met: list[dict], unit: str, ours: str = "fst"
) -> tuple[dict, list[float]]:
    """Runs of ours and rl, and where they met -> what each took to get there and how many times as
    much rl took.

    What never got there counts with all that it took, so that it is so many times at most; for a
    test, which the second list is for, as no better than rl.
    """
    ends = [run["evals"][-1] for run, _ in both]
    times = [r["rl"][unit] / (r["fst"] or end)[unit] for r, end in zip(met, ends, strict=True)]
    cost = {ours: [r["fst"] and r["fst"][unit] for r in met]}
    cost |= {"rl": [r["rl"][unit] if r["learned"] else None for r in met]}
    tested = [t if r["fst"] else min(t, 1.0) for t, r in zip(times, met, strict=True)]
    return cost | {"ratio": times}, tested


def asymptote(evals: list[dict]) -> float:
    """A of R = R0 + (A - R0) / (1 + (C_mid / C)^B), C in rollouts: the least squares fit with A <=
    1.

    R0 is what was measured before training. For every B from 1 on and C_mid of a grid within the
    run (beyond it A would be a guess) the best A is in closed form.
    """
    cost, reward = (
        np.array([e[key] for e in evals], dtype=float) for key in ("rollouts", "val_acc")
    )
    shape, middle = np.meshgrid(np.linspace(1, 8, 29), np.geomspace(cost[1] / 4, cost[-1], 60))
    with np.errstate(divide="ignore"):
        rise = 1 / (1 + (middle[..., None] / cost) ** shape[..., None])  # (60, 29, evaluations)
    gained = reward - reward[0]
    height = np.clip((rise * gained).sum(-1) / np.square(rise).sum(-1), -reward[0], 1 - reward[0])
    errors = np.square(height[..., None] * rise - gained).sum(-1)
    return float(reward[0] + height.flat[errors.argmin()])


def forgotten(base: dict, run: dict, but: str = "") -> float:
    """How much of the base's skills is gone: the drop of the share right, averaged over the domains
    `but` for one.
    """
    return mean(
        share - run["skills"][domain] for domain, share in base["skills"].items() if domain != but
    )


def forgotten_corpus(base: dict, run: dict) -> float:
    """How much worse the corpus is predicted than by the base."""
    return run["corpus_loss"] - base["corpus_loss"]


def spread(values: list[float | None], geometric: bool = False) -> dict:
    """Mean, standard deviation and all values, one per seed; None, for never, is kept but not
    averaged.
    """
    known = [v for v in values if v is not None]
    centre = geometric_mean if geometric else mean
    return {
        "mean": round(centre(known), 4) if known else None,
        "std": round(stdev(known), 4) if len(known) > 1 else None,
        "values": [v if v is None else round(v, 4) for v in values],
    }


def row(
    claim: str,
    where: str,
    paper: str,
    bar: str,
    seeds: Iterable[int],
    figures: dict[str, list],
    **test,
) -> dict:
    """A line of the table. figures: name -> one per seed; the mean of a "ratio" is the geometric
    one.

    test, for a verdict: `difference` per seed where there is one, and `past`: how far past each of
    its bars it is. With `sure` it is not enough to be past them on average.
    """
    seeds = list(seeds)
    row = {
        "claim": claim,
        "where": where,
        "paper": paper,
        "bar": bar,
        "seeds": seeds,
        "n": len(seeds),
    }
    row["figures"] = {name: spread(values, name == "ratio") for name, values in figures.items()}
    if test:
        difference, past = test["difference"], test["past"]
        if len(difference) < 3:
            row["verdict"] = "too few seeds" if len(seeds) < 3 else "too few seeds to compare"
        elif not beyond_noise(difference):
            row["verdict"] = "does not hold at this scale"
        elif all(map(beyond_noise, past)):
            row["verdict"] = "holds"
        else:
            on_average = min(map(mean, past)) >= 0 and not test.get("sure")
            row["verdict"] = "holds on average" if on_average else "short of the bar"
    return row


def forgetting(
    base: dict, where: str, seeds: list[int], made: dict[str, list[list]], more: dict
) -> Iterable[dict]:
    """What fst and rl have lost of the base: two lines.

    made: method -> the runs of each seed, of which the mean counts. more: figures that stand beside
    the skills.
    """
    kinds = (
        ("drop of base skills", forgotten, more),
        ("rise of the corpus loss", forgotten_corpus, {}),
    )
    for label, loss, beside in kinds:
        lost = {
            m: [mean(loss(base, run) for run in of_seed) for of_seed in found]
            for m, found in made.items()
        }
        yield row(
            f"forgets less: {label}",
            where,
            "no worse",
            "a third of rl's",
            seeds,
            lost | beside,
            difference=[b - a for a, b in zip(*lost.values(), strict=True)],
            past=[[b / 3 - a for a, b in zip(*lost.values(), strict=True)]],
        )


def domain_claims(
    runs: dict, domain: str, ours: str = "fst", against: str = "rl"
) -> Iterable[dict]:
    """What fst against rl on one domain says; there may be runs of them under other names."""
    group = pairs(runs, f"{ours}-{domain}-{{}}", f"{against}-{domain}-{{}}")
    if not group:
        return
    seeds, both = [seed for seed, _ in group], [pair for _, pair in group]

    def each(figure: Callable[[dict], float]) -> dict[str, list]:  # method -> one figure per seed
        return {m: [figure(pair[i]) for pair in both] for i, m in enumerate(("fst", "rl"))}

    met = [reach(fst["evals"], rl["evals"]) for fst, rl in both]
    for label, unit, paper in (("rollouts", "rollouts", "-"), ("steps", "step", "up to 3x fewer")):
        figures, times = saved(both, met, unit)
        yield row(
            f"data efficiency, {label}",
            domain,
            paper,
            ">= 3x fewer",
            seeds,
            figures,
            difference=[*map(log, times)],
            past=[[log(t / 3) for t in times]],
        )
    nearly = [reach(fst["evals"], rl["evals"], share=0.9) for fst, rl in both]
    yield row(
        "data efficiency, tokens", domain, "-", "reported", seeds, saved(both, met, "tokens")[0]
    )
    where = "data efficiency, rollouts to 0.9 of rl's best"
    yield row(where, domain, "-", "reported", seeds, saved(both, nearly, "rollouts")[0])
    heights, ends = (
        each(lambda run: asymptote(run["evals"])),
        each(lambda run: at_the_end(run["evals"])),
    )
    above, at_end = (
        [a - b for a, b in zip(*values.values(), strict=True)] for values in (heights, ends)
    )
    yield row(
        "asymptote",
        domain,
        "higher",
        ">= 0.10 higher",
        seeds,
        heights | {f"{m}, last evaluations": values for m, values in ends.items()},
        # a fit may go beyond all measured
        difference=above,
        past=[[d - 0.1 for d in ds] for ds in (above, at_end)],
    )
    for label, key in (("", "kl_base"), (", seed prompt", "neutral_kl")):
        # else there is no reward to match
        there = [r["learned"] and r["fst"] is not None for r in met]
        kl = {
            m: [r[m][key] if ok else None for r, ok in zip(met, there, strict=True)]
            for m in ("fst", "rl")
        }
        shares = [
            None if a is None or not b else 1 - a / b for a, b in zip(*kl.values(), strict=True)
        ]
        known = [share for share in shares if share is not None]
        test = {"difference": known, "past": [[share - 0.7 for share in known]]}
        bar, test = ("reported", {}) if label else (">= 70% less", test)
        yield row(
            f"stays close: KL at rl's best{label}",
            domain,
            "up to 70% less",
            bar,
            seeds,
            kl | {"share saved": shares},
            **test,
        )
    yield row(
        "stays close: KL at the end, seed prompt",
        domain,
        "-",
        "reported",
        seeds,
        each(lambda run: run["evals"][-1]["neutral_kl"]),
    )
    others = each(lambda run: forgotten(runs["base"], run, but=domain))
    others = {f"{m}, other domains": values for m, values in others.items()}
    yield from forgetting(runs["base"], domain, seeds, each(lambda run: [run]), others)
    if domain == "star_graph":
        rewarded = [
            (seed, [{"evals": by_step(run["reward"])} for run in pair]) for seed, pair in group
        ]
        looked_at = pairs(runs, f"zero-{ours}-{{}}", f"zero-{against}-{{}}")  # after every step
        for what, found in (("validation leaves", looked_at), ("rewards leave", rewarded)):
            if not found:
                continue
            of_seeds, measured = zip(*found, strict=True)
            last = measured[0][1]["evals"][-1]["step"]
            # the least gain
            off_zero = [reach(fst["evals"], rl["evals"], share=0.0) for fst, rl in measured]
            figures, times = saved(measured, off_zero, "step")
            yield row(
                f"zero-reward regime: steps until {what} zero (rl has {last})",
                domain,
                "about 50 against 250",
                ">= 5x earlier",
                of_seeds,
                figures,
                difference=[*map(log, times)],
                past=[[log(t / 5) for t in times]],
            )
            # a fast phase is no step, but costs
            for unit in ("rollouts", "tokens") if found is looked_at else ():
                label = f"zero-reward regime: {unit} until {what} zero"
                yield row(
                    label, domain, "-", "reported", of_seeds, saved(measured, off_zero, unit)[0]
                )
    names = (
        "base, seed prompt",
        "base, evolved prompt",
        "trained, seed prompt",
        "trained, evolved prompt",
    )
    cells = [list(chain(*fst["result"]["tasks"][0]["accuracy"].values())) for fst, _ in both]
    quadrants = {name: [cell[i] for cell in cells] for i, name in enumerate(names)}
    yield row(
        "both channels",
        domain,
        "joint best",
        "both best, either better than none",
        seeds,
        quadrants,
        difference=[cell[3] - max(cell[:3]) for cell in cells],
        past=[[cell[i] - cell[0] for cell in cells] for i in (1, 2)],
        sure=True,
    )
    names = f"{ours}-{domain}-{{}}", f"{against}-{domain}-{{}}", f"gepa-{domain}-{{}}"
    if group := pairs(runs, *names):
        seeds = [seed for seed, _ in group]
        ends = {
            m: [at_the_end(made[i]["evals"]) for _, made in group]
            for i, m in enumerate(("fst", "rl", "gepa"))
        }
        yield row(
            "more than either method alone",
            domain,
            "-",
            "fst above both, at the end of the runs",
            seeds,
            ends,
            difference=[fst - max(rl, gepa) for fst, rl, gepa in zip(*ends.values(), strict=True)],
            past=[],
        )
        both = [(gepa, rl) for _, (_, rl, gepa) in group]
        met = [reach(gepa["evals"], rl["evals"]) for gepa, rl in both]
        yield row(
            "data efficiency of gepa, rollouts",
            domain,
            "-",
            "-",
            seeds,
            saved(both, met, "rollouts", "gepa")[0],
        )


def forgetting_over_all(runs: dict, ours: str = "fst", against: str = "rl") -> Iterable[dict]:
    """The mean over the domains, seed by seed, where all of them have run."""
    if group := pairs(runs, *(f"{m}-{d}-{{}}" for m in (ours, against) for d in DOMAINS)):
        n, seeds = len(DOMAINS), [seed for seed, _ in group]
        made = {
            "fst": [runs_of[:n] for _, runs_of in group],
            "rl": [runs_of[n:] for _, runs_of in group],
        }
        yield from forgetting(runs["base"], "mean of the domains", seeds, made, {})


def plasticity_claims(runs: dict, ours: str = "fst", against: str = "rl") -> Iterable[dict]:
    """What weights that were trained before learn of another task, for every pair of tasks and over
    all pairs.

    One pair's figure may be all or nothing, so the mean of the pairs, seed by seed, says more than
    each.
    """
    names = sorted(
        {n.rsplit("-", 1)[0] for n in runs if n.startswith("plasticity") and f"-after-{ours}-" in n}
    )
    of_seed: dict[int, list] = {}  # for every pair the final accuracy from each beginning

    def named(accuracies: list) -> dict[str, list]:  # one from each beginning for every seed
        base, fst, rl = (list(column) for column in zip(*accuracies, strict=True))
        return {"rl from the base": base, "rl from fst": fst, "rl from rl": rl}

    def line(where: str, seeds: list[int], final: list) -> dict:
        figures = named(final)
        base, fst, rl = figures.values()
        return row(
            "plasticity",
            where,
            "kept; rl's collapses",
            ">= 0.95 of the base's",
            seeds,
            figures,
            difference=[a - b for a, b in zip(fst, rl, strict=True)],
            past=[[a - 0.95 * b for a, b in zip(fst, base, strict=True)]],
        )

    for name in names:
        second, first = name.split("-")[1], name.split("-")[4]
        fresh, other = (name.replace(f"-{ours}-", f"-{start}-") for start in ("base", against))
        fresh = fresh if first == second else f"rl-{second}"
        triples = pairs(runs, *(f"{start}-{{}}" for start in (fresh, name, other)))
        if triples:
            seeds, where = (
                [s for s, _ in triples],
                f"{first}, then {'other rules' if first == second else second}",
            )
            final = [[at_the_end(run["evals"]) for run in triple] for _, triple in triples]
            yield line(where, seeds, final)
            whole = [
                [mean(e["val_acc"] for e in run["evals"][1:]) for run in triple]
                for _, triple in triples
            ]
            yield row("plasticity, mean over the run", where, "-", "-", seeds, named(whole))
            for seed, accuracies in zip(seeds, final, strict=True):
                of_seed.setdefault(seed, []).append(accuracies)
    complete = {seed: found for seed, found in of_seed.items() if len(found) == len(names) > 1}
    if complete:
        yield line(
            "mean of the pairs",
            [*complete],
            [[*map(mean, zip(*f, strict=True))] for f in complete.values()],
        )


def other_claims(runs: dict) -> Iterable[dict]:
    """Forgetting over all domains, plasticity, the stream, distillation, who reflects, prompts
    first.
    """
    yield from forgetting_over_all(runs)
    yield from plasticity_claims(runs)
    if group := pairs(runs, "stream-fst-{}", "stream-rl-{}"):
        stages = [[stage_ends(run["evals"]) for run in pair] for _, pair in group]
        for i, task in enumerate(group[0][1][0]["result"]["tasks"]):
            ends = {m: [pair[k][i][0] for pair in stages] for k, m in enumerate(("fst", "rl"))}
            peaks = [max(pair[0][i][1], pair[1][i][1]) for pair in stages]
            share = {
                f"{m}, of the peak": [
                    a / p if p >= ZERO else None for a, p in zip(v, peaks, strict=True)
                ]
                for m, v in ends.items()
            }
            known = [[a, b] for a, b in zip(*share.values(), strict=True) if a is not None]
            yield row(
                f"continual, stage {i + 1}",
                task["task"],
                "rl stalls",
                "fst >= 0.90 of the peak",
                [seed for seed, _ in group],
                ends | share,
                difference=[a - b for a, b in known],
                past=[[a - 0.9 for a, _ in known]],
            )
        seeds, last = [seed for seed, _ in group], {}
        for k, m in enumerate(("fst", "rl")):
            final = [
                [e["val_acc"] for e in pair[k]["evals"][-len(stages[0][k]) :]] for _, pair in group
            ]
            last[f"{m} on the last task"] = [accuracies[-1] for accuracies in final]
            last[f"{m} on those before"] = [mean(accuracies[:-1]) for accuracies in final]
        own = [
            [t["accuracy"]["trained weights"][1] for t in fst["result"]["tasks"][:-1]]
            for _, (fst, _) in group
        ]
        last["fst on those before, each with the prompt it had"] = [*map(mean, own)]
        yield row("continual, all tasks at the end", "the stream", "-", "reported", seeds, last)
    others = (
        ("FST-distill", "between", "distill"),
        ("reflector", "frozen", "frozen"),
        ("prompts first", "-", "gepa+rl"),
    )
    for claim, paper, other in others:
        for domain in DOMAINS:
            if group := pairs(
                runs, f"{other}-{domain}-{{}}", f"fst-{domain}-{{}}", f"rl-{domain}-{{}}"
            ):
                final = {
                    m: [at_the_end(g[i]["evals"]) for _, g in group]
                    for i, m in enumerate((other, "fst", "rl"))
                }
                yield row(claim, domain, paper, "reported", [seed for seed, _ in group], final)


def late(figures: list[float | None]) -> float | None:
    """The mean of a run's last ten gradient steps, without those that were skipped; None where
    there is none.
    """
    known = [figure for figure in figures[-10:] if figure is not None]
    return mean(known) if known else None


def outcomes(runs: dict) -> dict[str, dict]:
    """What the runs of a method on a domain ended with, "domain, method": accuracy, KL, what they
    cost, and how much there was left to learn from.
    """
    called = {
        "rlkl": SECOND,
        "fstkl": "fst with its own KL coefficient",
        "frozen": "fst, base reflects",
    }
    table = {}
    for domain in DOMAINS:
        for method in ("fst", "fstkl", "rl", "rlkl", "gepa", "distill", "frozen"):
            if group := pairs(runs, f"{method}-{domain}-{{}}"):
                made = [run for _, [run] in group]
                last = [run["evals"][-1] for run in made]
                table[f"{domain}, {called.get(method, method)}"] = {
                    "accuracy": spread([e["val_acc"] for e in last]),
                    "KL": spread([e["kl_base"] for e in last]),
                    "rollouts": spread([float(e["rollouts"]) for e in last]),
                    "tokens": spread([float(e["tokens"]) for e in last]),
                    "steps": last[0]["step"],
                    "minutes": spread([run["seconds"] / 60 for run in made]),
                    "entropy": spread([late(run["entropy"]) for run in made]),
                    "dropped": spread([late(run["dropped_groups"]) for run in made]),
                }
    return table


def exercises(runs: dict) -> dict[str, dict]:
    """A change to fst on strings -> what it has come to, beside fst as it is at the same step with
    the same seeds.
    """
    begun = {n.rsplit("-", 1)[0] for n in runs}
    names = [
        "fst-strings",
        *(name for change in EXERCISES if (name := f"exercise-{change}") in begun),
    ]
    group, table = [made for _, made in pairs(runs, *(f"{name}-{{}}" for name in names))], {}
    if len(names) == 1 or not group:
        return table
    step = group[0][-1]["evals"][-1]["step"]  # of an exercise; fst goes on for longer
    of_all = [
        [next(e for e in run["evals"] if e["step"] == step) for run in made]
        for made in zip(*group, strict=True)
    ]
    for name, ends in zip(names, of_all, strict=True):
        label = (
            "as it is"
            if name == names[0]
            else name.replace("exercise-", "--").replace("+", " --").replace("=", " ")
        )
        figures = {"accuracy": "val_acc", "KL": "kl_base", "rollouts": "rollouts"}
        table[label] = {
            title: spread([float(e[key]) for e in ends]) for title, key in figures.items()
        } | {"step": step}
        changed = [
            e["val_acc"] - as_it_is["val_acc"] for e, as_it_is in zip(ends, of_all[0], strict=True)
        ]
        table[label]["difference"] = spread(changed)
    return table


def command(line: dict) -> str:
    """What makes the runs of a claim, and the learning rates that they have."""
    named = {
        "plasticity": "plasticity",
        "continual": "stream",
        "FST-distill": "distill",
        "reflector": "reflector",
        "prompts first": "prompt-first",
    }
    zero = "zero" if "until validation" in line["claim"] else ""
    only = next(
        (experiment for start, experiment in named.items() if line["claim"].startswith(start)), zero
    )
    others = next(
        (needed for variant, (*_, needed) in VARIANTS.items() if variant in line["where"]), ""
    )
    only = " ".join(filter(None, ("domains", only, others)))
    return (
        f"python experiments/run.py --only sweep {only} --seeds {' '.join(map(str, line['seeds']))}"
    )


def swept(
    runs: dict, kind: str, figure: Callable[[list[dict]], float]
) -> dict[str, dict[str, float]]:
    """Method -> setting -> a figure of its runs' evaluations, the mean of the seeds."""
    table: dict[str, dict[str, list]] = {}
    for name, run in runs.items():
        if name.startswith(f"{kind}-"):
            _, method, setting, _ = name.split("-")
            table.setdefault(method, {}).setdefault(setting, []).append(figure(run["evals"]))
    return {
        method: {key: mean(row[key]) for key in sorted(row, key=float)}
        for method, row in table.items()
    }


def sweep(runs: dict) -> dict[str, dict[str, float]]:
    """Method -> learning rate -> validation accuracy over the last three evaluations, the mean of
    the seeds.
    """
    return swept(runs, "sweep", at_the_end)


def kl_sweep(runs: dict) -> dict[str, dict[str, dict[str, float]]]:
    """Accuracy and KL -> method -> KL coefficient -> what it came to, the mean of the seeds."""
    figures = {
        "validation accuracy": at_the_end,
        "KL to the base": lambda evals: evals[-1]["kl_base"],
    }
    return {name: swept(runs, "klsweep", figure) for name, figure in figures.items()}


def stage_ends(evals: list[dict]) -> list[tuple[float, float]]:
    """Of a stream's run: for each task its accuracy at the end of its stage, and its best within
    it, both smoothed.

    The evaluation at the step of a switch is the last of the one stage, and the beginning of the
    next.
    """
    tasks, steps = {e["task"] for e in evals}, sorted({e["step"] for e in evals})
    length = steps[-1] / len(tasks)
    result = []
    for task in sorted(tasks):
        stage = [
            e
            for e in evals
            if e["task"] == task and task * length <= e["step"] <= (task + 1) * length
        ]
        own = [e["val_acc"] for e in smooth(stage)[1:]]
        result.append((own[-1], max(own)))
    return result


def all_claims(runs: dict) -> list[dict]:
    """The table: claims of every domain, also of VARIANTS, of several domains; each with the
    command of its runs.
    """
    claims = [line for domain in DOMAINS for line in domain_claims(runs, domain)]
    kept = ("data", "asymptote", "stays", "forgets", "zero", "plasticity")
    for variant, (*methods, _) in VARIANTS.items():
        of_all = chain(
            forgetting_over_all(runs, *methods),
            plasticity_claims(runs, *methods) if variant == OWN else (),
        )
        lines = chain(*(domain_claims(runs, domain, *methods) for domain in DOMAINS), of_all)
        lines = (line for line in lines if line["claim"].startswith(kept) and line["bar"] != "-")
        claims += [line | {"where": f"{line['where']}, {variant}"} for line in lines]
    return [line | {"command": command(line)} for line in chain(claims, other_claims(runs))]

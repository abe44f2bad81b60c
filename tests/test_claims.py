"""experiments/claims.py: what the claims are made of."""

import random
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))

import claims  # noqa: E402


def evals(*rows, task=0):
    names = ("step", "rollouts", "val_acc", "kl_base")
    made = [{"task": task} | dict(zip(names, row, strict=True)) for row in rows]
    return [e | {"tokens": 10 * e["rollouts"], "neutral_kl": 2 * e["kl_base"]} for e in made]


# smoothed: 0, 0.3, 0.47, 0.5, 0.5
RL = evals(
    (0, 0, 0.0, 0.0),
    (10, 100, 0.3, 0.2),
    (20, 200, 0.64, 0.4),
    (30, 300, 0.56, 0.6),
    (40, 400, 0.3, 0.7),
)


def test_fst_is_measured_where_it_first_reaches_the_best_of_rl():
    fst = evals((0, 0, 0.0, 0.0), (10, 90, 0.5, 0.1), (20, 180, 0.9, 0.2))
    found = claims.reach(fst, RL)
    assert (found["target"], found["rl"]["rollouts"], found["fst"]["rollouts"]) == (
        pytest.approx(0.5),
        300,
        90,
    )
    nearly = claims.reach(fst, RL, share=0.9)
    assert (nearly["target"], nearly["rl"]["rollouts"]) == (pytest.approx(0.45), 200)
    assert found["learned"] and claims.reach(fst[:1], RL)["fst"] is None


def test_no_accuracy_is_counted_before_it_is_reached():
    late = evals((0, 0, 0.0, 0.0), (5, 10, 0.0, 0.0), (10, 20, 0.9, 0.0), (15, 30, 0.9, 0.0))
    assert [e["val_acc"] for e in claims.smooth(late)] == pytest.approx([0, 0, 0.45, 0.6])


def test_who_never_gets_there_gains_nothing_by_stopping_early():
    def pair(fst: dict | None, rl: int) -> tuple[dict, tuple]:
        return {"fst": fst, "rl": {"rollouts": rl}, "learned": True}, (
            {"evals": [{"rollouts": 300}]},
            {},
        )

    met, both = zip(pair(None, 400), pair(None, 60), pair({"rollouts": 100}, 400), strict=True)
    figures, tested = claims.saved(both, met, "rollouts")
    assert figures["ratio"] == pytest.approx([4 / 3, 0.2, 4])  # at most, in the first two
    assert tested == pytest.approx([1, 0.2, 4]) and figures["fst"] == [None, None, 100]


def test_where_rl_never_leaves_zero_all_that_it_took_counts():
    zero = evals((0, 0, 0.0, 0.0), (10, 100, 0.01, 0.2), (20, 200, 0.0, 0.4))
    found = claims.reach(evals((0, 0, 0.0, 0.0), (10, 90, 0.05, 0.1)), zero)
    assert (found["target"], found["rl"]["rollouts"], found["fst"]["rollouts"]) == (
        claims.ZERO,
        200,
        90,
    )
    assert not found["learned"]


@pytest.mark.parametrize("height", [0.2, 0.55, 0.9])
def test_the_asymptote_of_a_sigmoid_is_found_through_noise(height):
    rng, start = random.Random(0), 0.05
    curve = evals((0, 0, start, 0))
    for cost in range(500, 20_001, 500):
        rise = 1 / (1 + (4000 / cost) ** 3)
        curve.append(
            curve[0]
            | {"rollouts": cost, "val_acc": start + (height - start) * rise + rng.gauss(0, 0.01)}
        )
    assert claims.asymptote(curve) == pytest.approx(height, abs=0.02)


def test_an_asymptote_is_an_accuracy_and_a_flat_curve_has_its_own():
    rising = evals((0, 0, 0.0, 0), (10, 100, 0.2, 0), (20, 200, 0.5, 0), (30, 300, 0.95, 0))
    assert 0.95 < claims.asymptote(rising) <= 1
    flat = evals((0, 0, 0.1, 0), (10, 100, 0.1, 0), (20, 200, 0.1, 0))
    assert claims.asymptote(flat) == pytest.approx(0.1)


CLEAR = [0.3, 0.4, 0.5]


@pytest.mark.parametrize(
    ("difference", "past", "verdict"),
    [
        (CLEAR, [], "holds"),
        (CLEAR, [CLEAR, [0.1, 0.11, 0.12]], "holds"),
        (CLEAR, [CLEAR, [0.1, -0.1, 0.03]], "holds on average"),
        (CLEAR, [CLEAR, [0.1, -0.1, -0.03]], "short of the bar"),
        ([0.5, -0.4, 0.2], [], "does not hold at this scale"),
        # 2.4 standard errors: of three, too few
        ([0.1, 0.2, 0.45], [], "does not hold at this scale"),
        ([0.5, 0.5], [], "too few seeds"),
        ([-0.3, -0.4, -0.5], [], "does not hold at this scale"),
    ],
)
def test_a_claim_holds_beyond_noise(difference, past, verdict):
    seeds, test = range(len(difference)), {"difference": difference, "past": past}
    line = claims.row("c", "w", "p", "b", seeds, {"x": difference}, **test)
    assert line["verdict"] == verdict and line["n"] == len(difference)
    sure = claims.row("c", "w", "p", "b", seeds, {"x": difference}, **test, sure=True)["verdict"]
    assert sure == ("short of the bar" if verdict == "holds on average" else verdict)
    assert "verdict" not in claims.row("c", "w", "p", "b", [0], {"x": [0.5]})


def test_a_step_that_was_skipped_has_no_figures():
    assert claims.late([9.0] + 8 * [1.0] + [None, 4.0]) == pytest.approx(12 / 9)
    assert claims.late([None]) is None and claims.late([]) is None


def test_what_was_never_reached_is_kept_but_not_averaged():
    figures = claims.row("c", "w", "p", "b", [0, 1, 2], {"x": [1.0, None, 3.0]})["figures"]["x"]
    assert figures == {"mean": 2, "std": round(2**0.5, 4), "values": [1, None, 3]}


def test_the_mean_of_ratios_is_geometric():
    assert (
        claims.row("c", "w", "p", "b", [0, 1], {"ratio": [0.5, 8.0]})["figures"]["ratio"]["mean"]
        == 2
    )


def test_where_rl_does_not_learn_no_kl_is_matched_and_nothing_breaks():
    flat = evals(*((step, 10 * step, 0.03, 0.0) for step in (0, 10, 20)))
    accuracy = {"base weights": [0.0, 0.4], "trained weights": [0.1, 0.9]}
    runs = {"base": {"skills": {"star_graph": 1.0, "other": 1.0}, "corpus_loss": 0.1}}
    for seed in range(3):
        runs |= {
            f"{m}-star_graph-{seed}": record(flat, accuracy, 1.0, "star_graph")
            for m in ("fst", "rl")
        }
        runs |= {f"zero-{m}-{seed}": {"evals": flat} for m in ("fst", "rl")}
    lines = {
        line["claim"].split(" (")[0]: line for line in claims.domain_claims(runs, "star_graph")
    }
    kl = lines["stays close: KL at rl's best"]
    assert (
        kl["verdict"] == "too few seeds to compare"
        and kl["figures"]["share saved"]["values"] == [None] * 3
    )
    for claim in (
        "data efficiency, rollouts",
        "zero-reward regime: steps until validation leaves zero",
    ):
        assert lines[claim]["verdict"] == "does not hold at this scale"


def test_rewards_tell_to_the_step_where_zero_is_left():
    # means over three steps: 0.01 and 0.027 for the last two
    early, late = [0.3, 0.4, 0.4], [0.0, 0.0, 0.03, 0.05]
    fst, rl = claims.by_step(early), claims.by_step(late)
    found = claims.reach(fst, rl, share=0.0)
    assert (found["fst"]["step"], found["rl"]["step"], found["learned"]) == (1, 4, True)


def test_validation_leaves_zero_in_the_runs_that_are_looked_at_after_every_step():
    accuracy = {"base weights": [0.0, 0.4], "trained weights": [0.1, 0.9]}
    runs = {"base": {"skills": {"star_graph": 1.0, "other": 1.0}, "corpus_loss": 0.1}}
    for seed in range(3):
        runs |= {
            f"{m}-star_graph-{seed}": record(RL, accuracy, 1.0, "star_graph") for m in ("fst", "rl")
        }
    assert not any(
        "validation" in line["claim"] for line in claims.domain_claims(runs, "star_graph")
    )
    # the mean of three is above the least gain from the second of these on
    late = [0.0] * 11 + [0.03] * 4
    for seed in (4, 5, 6, 7):
        runs[f"zero-fst-{seed}"] = {
            "evals": evals((0, 0, 0.0, 0.0), (1, 10, 0.5, 0.0), (2, 20, 0.5, 0.0))
        }
        runs[f"zero-rl-{seed}"] = {
            "evals": evals(*((step, 5 * step, value, 0.0) for step, value in enumerate(late)))
        }
    line, cost, _ = (
        c for c in claims.domain_claims(runs, "star_graph") if "validation" in c["claim"]
    )
    assert (
        cost["figures"]["rl"]["mean"] == 60
        and cost["figures"]["ratio"]["mean"] == 6
        and "verdict" not in cost
    )
    assert line["seeds"] == [4, 5, 6, 7] and line["figures"]["ratio"]["values"] == 4 * [12]
    assert "(rl has 14)" in line["claim"] and line["verdict"] == "holds"
    assert (
        claims.command(line)
        == "python experiments/run.py --only sweep domains zero --seeds 4 5 6 7"
    )


def test_seeds_are_paired():
    runs = dict.fromkeys(
        ["fst-strings-0", "fst-strings-2", "fst-strings-10", "rl-strings-2", "rl-strings-10"], "run"
    )
    runs |= {"fst-strings-deep-2": "another", "base": "base"}
    assert [seed for seed, _ in claims.pairs(runs, "fst-strings-{}", "rl-strings-{}")] == [2, 10]


def test_the_end_of_a_stage_is_its_last_step():
    stream = [
        {"task": task, "step": step, "val_acc": round(0.1 * task + 0.01 * step, 3)}
        for step in range(0, 61, 10)
        for task in range(3)
    ]
    assert claims.stage_ends(stream) == [pytest.approx((end, end)) for end in (0.15, 0.45, 0.75)]


def record(curve, accuracy, skill, domain="strings"):
    tasks = [{"task": domain, "accuracy": accuracy, "kl_base": [0.3, 0.1]}]
    kept = {
        "skills": {domain: skill, "other": skill},
        "corpus_loss": 0.1,
        "entropy": [],
        "dropped_groups": [],
    }
    return {
        "evals": curve,
        "reward": [e["val_acc"] for e in curve[1:]],
        "result": {"tasks": tasks},
        **kept,
    }


def test_the_claims_of_a_domain():
    runs = {"base": {"skills": {"strings": 1.0, "other": 1.0}, "corpus_loss": 0.1}}
    for seed in range(3):
        fst = evals((0, 0, 0.0, 0.0), (10, 90, 0.5, 0.1 + seed / 100), (30, 300, 0.9, 0.2))
        accuracy = {"base weights": [0.0, 0.4], "trained weights": [0.1, 0.9]}
        runs |= {
            f"fst-strings-{seed}": record(fst, accuracy, 0.99),
            f"rl-strings-{seed}": record(RL, accuracy, 0.7),
        }
    lines = {line["claim"]: line for line in claims.domain_claims(runs, "strings")}
    assert (
        lines["data efficiency, rollouts"]["figures"]["ratio"]["values"] == [round(300 / 90, 4)] * 3
    )
    assert lines["data efficiency, rollouts"]["verdict"] == "holds"
    assert (
        lines["data efficiency, rollouts to 0.9 of rl's best"]["figures"]["ratio"]["values"]
        == [2.2222] * 3
    )
    assert lines["data efficiency, tokens"]["figures"]["rl"]["mean"] == 3000
    assert lines["stays close: KL at rl's best"]["verdict"] == "holds"
    assert lines["forgets less: drop of base skills"]["figures"]["rl"]["mean"] == pytest.approx(0.3)
    assert lines["forgets less: rise of the corpus loss"]["figures"]["fst"]["mean"] == 0.0
    assert (
        lines["both channels"]["verdict"] == "holds"
        and "more than either method alone" not in lines
    )
    assert lines["asymptote"]["figures"]["fst"]["mean"] > 0.85
    assert not any("zero-reward" in claim for claim in lines) and not [
        *claims.domain_claims(runs, "facts")
    ]


def test_forgetting_is_also_averaged_over_the_domains_by_seed():
    runs = {"base": {"skills": {"strings": 1.0}, "corpus_loss": 0.1}}
    for place, domain in enumerate(claims.DOMAINS):
        for seed in (0, 1, 2, 3):
            if (domain, seed) != ("facts", 3):  # without one of the domains a seed has no mean
                # in a domain all or nothing, on average the same
                left = 1 - 0.3 * (place % 2 == seed % 2)
                runs[f"fst-{domain}-{seed}"] = {"skills": {"strings": 0.99}, "corpus_loss": 0.101}
                runs[f"rl-{domain}-{seed}"] = {
                    "skills": {"strings": left},
                    "corpus_loss": 0.13 + seed / 100,
                }
    skills, corpus = claims.forgetting_over_all(runs)
    assert skills["where"] == corpus["where"] == "mean of the domains" and skills["seeds"] == [
        0,
        1,
        2,
    ]
    assert skills["figures"]["rl"]["values"] == 3 * [0.15] and skills["verdict"] == "holds"
    assert corpus["figures"]["rl"]["values"] == [0.03, 0.04, 0.05] and corpus["verdict"] == "holds"


def test_other_kl_coefficients_are_asked_what_they_are_there_for():
    runs = {"base": {"skills": {"strings": 1.0, "other": 1.0}, "corpus_loss": 0.1}}
    accuracy = {"base weights": [0.0, 0.4], "trained weights": [0.1, 0.9]}
    for seed in range(3):
        runs |= {
            f"{name}-strings-{seed}": record(RL, accuracy, 0.9) for name in ("fst", "rl", "rlkl")
        }
        runs[f"fstkl-strings-{seed}"] = record(RL, accuracy, 1.0)
    for variant, lost, needs in ((claims.SECOND, 0.1, "kl"), (claims.OWN, 0.0, "own-kl")):
        lines = [line for line in claims.all_claims(runs) if line["where"] == f"strings, {variant}"]
        assert {line["claim"].split()[0].strip(":,") for line in lines} == {
            "data",
            "asymptote",
            "stays",
            "forgets",
        }
        [skills] = [line for line in lines if line["claim"] == "forgets less: drop of base skills"]
        assert {m: f["mean"] for m, f in skills["figures"].items() if "," not in m} == {
            "fst": lost,
            "rl": 0.1,
        }
        assert (
            skills["command"]
            == f"python experiments/run.py --only sweep domains {needs} --seeds 0 1 2"
        )
    # what was trained with its own learns another task, rl's as little as rl's with the default
    for seed in range(3):
        ends = {
            "rl-numbers": 0.4,
            **{f"plasticity-numbers-after-{m}-strings": 0.1 for m in ("rl", "rlkl", "fst")},
        }
        for name, accuracy in (ends | {"plasticity-numbers-after-fstkl-strings": 0.4}).items():
            runs[f"{name}-{seed}"] = record(
                evals((0, 0, 0.0, 0.0), (80, 100, accuracy, 0.1)), None, 1.0
            )
    lines = {
        line["where"]: line for line in claims.all_claims(runs) if line["claim"] == "plasticity"
    }
    own = lines.pop(f"strings, then numbers, {claims.OWN}")
    assert {name: f["mean"] for name, f in own["figures"].items()} == pytest.approx(
        {"rl from the base": 0.4, "rl from fst": 0.4, "rl from rl": 0.1}
    )
    assert own["verdict"] == "holds" and "--only sweep domains plasticity own-kl" in own["command"]
    assert [(where, line["figures"]["rl from fst"]["mean"]) for where, line in lines.items()] == [
        ("strings, then numbers", pytest.approx(0.1))
    ]


def test_each_channel_alone_and_each_method_alone_are_tested_too():
    runs = {"base": {"skills": {"strings": 1.0, "other": 1.0}, "corpus_loss": 0.1}}
    for seed in range(3):
        # alone: 0, 0.1, 0.2
        cells = {"base weights": [0.0, 0.4], "trained weights": [0.1 * seed, 0.9]}
        runs |= {f"{m}-strings-{seed}": record(RL, cells, 0.9) for m in ("fst", "rl")}
        worse = [e | {"val_acc": e["val_acc"] / 2} for e in RL]
        runs |= {f"gepa-strings-{seed}": record(worse, cells, 0.9)}
    lines = {line["claim"]: line for line in claims.domain_claims(runs, "strings")}
    assert lines["both channels"]["verdict"] == "short of the bar"
    alone = lines["more than either method alone"]
    gepa = lines["data efficiency of gepa, rollouts"]["figures"]
    # it took 400, and is not there; rl took 300
    assert gepa["gepa"]["mean"] is None and gepa["ratio"]["mean"] == 0.75
    assert alone["verdict"] == "does not hold at this scale"  # fst is as good as rl
    assert [f["mean"] for f in alone["figures"].values()] == pytest.approx([0.5, 0.5, 0.25])


def test_the_end_of_the_stream_is_of_all_its_tasks():
    def stream(*last):
        made = [
            e | {"task": t}
            for t in range(2)
            for e in evals((0, 0, 0.0, 0.0), (5, 9, 0.2, 0.0), (10, 20, 0.4, 0.0))
        ]
        made += [e for t in range(2) for e in evals((20, 40, last[t], 0.0), task=t)]
        tasks = [
            {"task": name, "accuracy": {"trained weights": [0.0, 0.7]}}
            for name in ("strings", "facts")
        ]
        return {"evals": made, "result": {"tasks": tasks}}

    runs = {
        f"stream-{m}-{s}": stream(*last)
        for s in range(3)
        for m, last in (("fst", (0.1, 0.8)), ("rl", (0.2, 0.3)))
    }
    *_, line = claims.other_claims(runs)
    figures = {name: f["mean"] for name, f in line["figures"].items()}
    assert line["claim"] == "continual, all tasks at the end" and figures == {
        "fst on the last task": 0.8,
        "fst on those before": 0.1,
        "rl on the last task": 0.3,
        "rl on those before": 0.2,
        "fst on those before, each with the prompt it had": 0.7,
    }


def test_plasticity_compares_three_beginnings():
    def ending(accuracy):
        return {"evals": evals((0, 0, 0.0, 0.0), (80, 100, accuracy, 0.1))}

    runs = {"base": {}}
    for seed in (0, 1, 2):
        runs[f"rl-numbers-{seed}"] = ending(0.4)
        runs[f"plasticity-numbers-after-fst-strings-{seed}"] = ending(0.39 + seed / 100)
        runs[f"plasticity-numbers-after-rl-strings-{seed}"] = ending(0.1)
    line, whole = claims.other_claims(runs)
    assert whole["claim"] == "plasticity, mean over the run" and "verdict" not in whole
    assert (line["where"], line["verdict"]) == ("strings, then numbers", "holds on average")
    assert [f["mean"] for f in line["figures"].values()] == pytest.approx([0.4, 0.4, 0.1])
    for seed in (0, 1, 2, 3):  # a pair that is all or nothing; seed 3 lacks the other pair
        for begins, accuracy in {"base": 0.2, "fst": 0.2, "rl": 0.2 * (seed == 1)}.items():
            runs[f"plasticity-strings-after-{begins}-strings-{seed}"] = ending(accuracy)
    *_, pair, _, over_all = claims.other_claims(runs)
    assert (pair["where"], pair["verdict"]) == (
        "strings, then other rules",
        "does not hold at this scale",
    )
    assert (over_all["where"], over_all["seeds"], over_all["verdict"]) == (
        "mean of the pairs",
        [0, 1, 2],
        "holds",
    )
    assert [f["mean"] for f in over_all["figures"].values()] == pytest.approx(
        [0.3, 0.3, 0.0833], abs=1e-4
    )


def test_outcomes_and_exercises_compare_ends_at_the_same_step():
    runs = {"base": {}}
    for seed in (0, 1):
        none = {"entropy": [], "dropped_groups": []}
        runs[f"frozen-facts-{seed}"] = {
            "evals": evals((0, 0, 0.0, 0.0), (60, 500, 0.5, 0.1)),
            "seconds": 60,
        } | none
        long = evals((0, 0, 0.0, 0.0), (30, 300, 0.4 + seed / 5, 0.1), (60, 600, 0.9, 0.2))
        short = evals((0, 0, 0.0, 0.0), (30, 250, 0.3, 0.4))
        runs[f"fst-strings-{seed}"] = {"evals": long, "seconds": 90} | {
            "entropy": [9.0, *10 * [0.5]],
            "dropped_groups": [2, 4],
        }
        runs[f"exercise-method=gepa+passes=45-{seed}"] = {"evals": short}
    table = claims.exercises(runs)
    assert (
        list(table) == ["as it is", "--method gepa --passes 45"] and table["as it is"]["step"] == 30
    )
    assert table["--method gepa --passes 45"]["difference"]["values"] == [-0.1, -0.3]
    assert (
        table["as it is"]["accuracy"]["values"] == [0.4, 0.6]
        and table["--method gepa --passes 45"]["rollouts"]["mean"] == 250
    )
    (name, ended), (other, idle) = claims.outcomes(runs).items()
    assert idle["entropy"]["mean"] is None and other == "facts, fst, base reflects"
    assert (name, ended["steps"], ended["rollouts"]["mean"]) == ("strings, fst", 60, 600)
    assert ended["minutes"]["mean"] == 1.5 and ended["tokens"]["mean"] == 6000
    assert (ended["entropy"]["mean"], ended["dropped"]["mean"]) == (0.5, 3)


@pytest.mark.parametrize(
    ("claim", "where", "only"),
    [
        ("asymptote", "facts", "domains"),
        ("stays close", "facts, rl with its own KL coefficient", "domains kl"),
        ("continual, stage 2", "numbers", "domains stream"),
        ("prompts first", "numbers", "domains prompt-first"),
    ],
)
def test_a_claim_says_which_command_makes_its_runs(claim, where, only):
    line = {"claim": claim, "where": where, "seeds": [0, 2]}
    assert claims.command(line) == f"python experiments/run.py --only sweep {only} --seeds 0 2"

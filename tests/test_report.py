"""experiments/report.py: docs/RESULTS.md and the README show what the results say."""

import sys
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))

import report  # noqa: E402
from claims import DOMAINS  # noqa: E402


def test_the_page_of_results_is_what_the_report_writes():
    page = (ROOT / "docs" / "RESULTS.md").read_text(encoding="utf-8")
    assert page == report.results_page(), "run: python experiments/report.py"


def test_the_table_in_the_readme_shows_the_results():
    result = report.read("claims")
    figures = {
        (claim["claim"], claim["where"]): {
            name: figure["mean"] for name, figure in claim["figures"].items()
        }
        for claim in result["claims"]
    }
    heads = ["validation accuracy at the end", "base", "`rl`", "`gepa`", "`fst`"]
    heads += ["rollouts, `rl` / `fst`", "tokens"]
    rows = [f"| {' | '.join(heads)} |"]
    for domain in DOMAINS:
        base = figures["both channels", domain]["base, seed prompt"]
        ends = figures["more than either method alone", domain]
        cells = [base, ends["rl"], ends["gepa"], ends["fst"]]
        cells = [f"{cell:.2f}" for cell in cells]
        for cost in ("rollouts", "tokens"):
            cells.append(f"{figures[f'data efficiency, {cost}', domain]['ratio']:.1f}")
        rows.append(f"| {domain} | {' | '.join(cells)} |")
    spent = []
    for method in ("rl", "gepa", "fst"):
        of_domains = [result["outcomes"][f"{d}, {method}"]["rollouts"] for d in DOMAINS]
        spent.append(f"{mean(figure['mean'] for figure in of_domains):,.0f}")
    rows.append(f"| rollouts in all | | {' | '.join(spent)} | | |")
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert [row for row in rows if row not in lines] == []


def test_what_a_gpu_did_is_told_as_it_was_measured():
    whole = report.read("gpu")["train.py"]
    speeds = {
        "answers": {"replayed": 3000, "launched": 1200},
        "reflections": {"replayed": 90, "launched": 100},
    }
    gpu = speeds | {
        "device": "X",
        "torch": "2",
        "seconds": {"replayed": 8.44, "launched": 21.0},
        "train.py": whole,
    }
    text = report.gpu_text(gpu | {"the same log": {"replayed": False}})
    assert (
        "3,000 tokens a second of answers in 256 rows, 2.5 times as many" in text
        and "rows, 0.9 times" in text
    )
    assert "take 8.4 s, 21.0 s if launched (the shorter of two runs), and do not repeat" in text


def test_the_table_of_faults_says_what_was_found():
    kill = {
        "rl": {"kills": 5, "runs": 2, "struck": {"half a write of log.jsonl": 3, "resuming": 2}}
    }
    faults = {"full_disks": {"injected": 7}, "damages": {"injected": 1000, "harmless": 4}}
    faults["numbers"] = {"injected": 9, "steps": 60}
    fuzz = {
        kind: {"sequences": 100_000, "findings": 3}
        for kind in ("random_tokens", "mutated_document")
    }
    soak = {
        "steps": 2000,
        "growth": 0.0123,
        "steps_per_second": [9.8, 10.2],
        "checkpoint_bytes": [1000, 2000],
    }
    soak["bytes_per_step"] = {"log.jsonl": [300.2, 310.0], "samples.txt": [1, 1]}
    table = report.fault_table(kill, faults, fuzz, {"fst": soak})
    assert "| 5 kills over 2 runs, in 2 places |" in table and "| 9 of 60 steps |" in table
    assert "| 100,000 | 3 exceptions" in table and "but for 4 that left" in table
    assert (
        "memory at most +1.2% after" in table
        and "log 300, 310 bytes a step" in table
        and "10 to 10 steps per second" in table
    )


def test_the_table_of_claims_says_where_a_method_never_got_there():
    reached = {"mean": 120.0, "std": 3.25, "values": [117, None, 123]}
    ratio = {"mean": 4.0, "std": 9.9, "values": [2.0, 8.0]}
    claim = {
        "claim": "data efficiency",
        "where": "facts",
        "paper": "3x",
        "bar": ">= 3x",
        "n": 3,
        "verdict": "holds",
    }
    never = {"mean": None, "std": None, "values": [None] * 3}
    table = report.claims_table(
        [claim | {"figures": {"fst": reached, "rl": never, "ratio": ratio}}]
    )
    assert (
        "| fst 120 ± 3.25 (1 of 3 never); rl - (3 of 3 never); ratio 4 (2 to 8) | 3 | >= 3x | "
        "holds |" in table
    )


def test_the_summary_has_a_column_for_every_domain_and_a_row_for_every_variant():
    claim = {
        "claim": "asymptote",
        "where": "facts",
        "paper": "higher",
        "bar": "more",
        "verdict": "holds",
    }
    claim["figures"] = {
        "fst": {"mean": 0.5},
        "rl": {"mean": 0.25},
        "fst, last evaluations": {"mean": 0.75},
    }
    cost = {"fst": {"values": [3.0]}, "rl": {"values": [9.0]}, "ratio": {"mean": 3.25}}
    times = {"figures": cost, "claim": "steps", "where": "strings"}
    bound = times | {"figures": cost | {"rl": {"values": [None]}}, "where": "facts"}
    never = {
        "figures": {"rl": {"mean": None}, "share saved": {"mean": None}},
        "claim": "KL",
        "where": "strings",
    }
    plasticity = {"claim": "plasticity", "where": "strings, then numbers"}
    lines = report.summary(
        [claim | more for more in ({}, times, bound, never, {"where": "facts, gentle"}, plasticity)]
    )
    assert lines.split("\n") == [
        "| claim | the paper | bar | facts | strings |",
        "|---|---|---|---|---|",
        "| asymptote: fst / rl | higher | more | 0.50 / 0.25 (*holds*) |  |",
        "| steps | higher | more | at least 3.2 times (*holds*) | 3.2 times (*holds*) |",
        "| KL | higher | more |  | - (*holds*) |",
        "| asymptote, gentle: fst / rl | higher | more | 0.50 / 0.25 (*holds*) |  |",
        "",
        "| claim | where | the paper | bar | here |",
        "|---|---|---|---|---|",
        "| plasticity | strings, then numbers | higher | more | fst 0.50; rl 0.25 (*holds*) |",
    ]


def test_a_ratio_is_a_bound_where_a_method_never_got_there():
    shown = []
    for fst, rl in ((1, 2), (1, None), (None, 2), (None, None)):
        figures = {"fst": {"values": [3, fst]}, "rl": {"values": [9, rl]}, "ratio": {"mean": 2.5}}
        shown.append(report.compared({"figures": figures})[""])
    assert shown == ["2.5 times", "at least 2.5 times", "at most 2.5 times", "about 2.5 times"]


def test_the_table_of_the_base_has_a_row_for_every_domain():
    exams = [
        f"{level}/{kind}/{n}"
        for level in ("seen", "task")
        for kind in ("solve", "reflect")
        for n in (1, 2, 3)
    ]
    exams += [f"{level}/reflect/2, one missing" for level in ("seen", "task")]
    exams += ["look up/line 1 of 2", "look up/line 2 of 2", "task/seed prompt", "task/right prompt"]
    figures = {f"{d}/{exam}": i / 100 for d in ("strings", "facts") for i, exam in enumerate(exams)}
    table = report.base_table({"figures": figures, "step": 9, "elapsed": 120, "questions": 500})
    row = "0.00/0.01/0.02 | 0.06/0.07/0.08 | 0.03/0.04/0.05 | 0.09/0.10/0.11 | 0.12, 0.13 | 0.140"
    row += " | 0.160 | 0.170 |"
    assert f"| strings | {row}" in table and f"| facts | {row}" in table


def test_the_sweep_shows_every_rate():
    table = report.sweep_table(
        {"fst": {"0.001": 0.5, "0.003": 0.25}, "rl": {"0.001": 0.125, "0.003": 0.0}}
    )
    assert report.sweep_table({"fst": {"0.1": 0.5}, "rl": {"1": 0.25}}).endswith(
        "0.500 | - |\n| rl | - | 0.250 |"
    )
    assert (
        "| fst | 0.500 | 0.250 |" in table
        and "| rl | 0.125 | 0.000 |" in table
        and "| 0.001 | 0.003 |" in table
    )


def test_the_sweep_of_the_kl_coefficient_shows_what_it_costs():
    accuracy = {"fst": {"0": 0.75}, "rl": {"0": 0.5, "0.1": 0.25}}
    table = report.kl_sweep_table(
        {"validation accuracy": accuracy, "KL to the base": {"rl": {"0": 2.0, "0.1": 0.125}}}
    )
    assert (
        "| KL coefficient | 0 | 0.1 |" in table
        and "`rl`, validation accuracy | 0.500 | 0.250 |" in table
    )
    assert (
        "`rl`, KL to the base | 2.000 | 0.125 |" in table
        and "`fst`, validation accuracy | 0.750 | - |" in table
    )


def test_outcomes_exercises_and_the_headline_are_means_over_seeds():
    figure = {"mean": 1234.5, "std": 0.25, "values": [1, 2, 3]}
    ended = {"steps": 60} | dict.fromkeys(
        ("accuracy", "difference", "KL", "rollouts", "tokens", "minutes"), figure
    )
    ended |= {"entropy": {"mean": None}, "dropped": figure}
    row = "| facts, rl | 60 | 1,234 ± 0 | 1,234 ± 0 | 1,234.50 ± 0.25 | 1,234.500 ± 0.250 | "
    row += "1,234.5 ± 0.2"
    assert f"{row} | - | 1,234 ± 0 | 3 |" in report.outcome_table({"facts, rl": ended})
    table = report.exercise_table(
        {"as it is": ended | {"step": 30}, "--cycle 30": ended | {"step": 30}}
    )
    assert "| as it is | 30 |" in table and "| `--cycle 30` | 30 | 1,234 ± 0 |" in table


def test_the_page_begins_with_where_the_methods_end_and_what_it_took_them():
    def claim(name, where="facts", never=None, **means):
        figures = {m: {"mean": v, "std": None, "values": [v, never or v]} for m, v in means.items()}
        figures |= {"rl": figures.get("rl", {"values": [1, None]})}
        return {"claim": name, "where": where, "n": 3, "figures": figures}

    claims = [
        claim("data efficiency, rollouts", ratio=4.25) | {"verdict": "does not hold at this scale"},
        claim("data efficiency of gepa, rollouts", ratio=8.5),
        claim("both channels", **{"base, seed prompt": 0.0}),
        claim("more than either method alone", fst=0.5, rl=0.25, gepa=0.375),
    ]
    variant = claim(
        "data efficiency, rollouts", where=f"facts, {next(iter(report.VARIANTS))}", ratio=9.0
    )
    said = report.headline([*claims, variant])
    assert (
        "get there: facts at least 4.2 times (*does not hold at this scale*).** Geometric means "
        "over 3 seeds" in said
    )
    assert "the weights: facts at least 8.5 times." in said and "9.0" not in said
    # of a sweep alone there is none
    assert report.headline(claims[2:]) == report.ends_table(claims[:2], {}) == ""
    outcomes = {
        f"{d}, {m}": {"rollouts": {"mean": n}, "tokens": {"mean": 9.0 * n}}
        for d in ("a", "b")
        for m, n in (("rl", 10), ("gepa", 2000), ("fst", 30))
    }
    table = report.ends_table(claims, outcomes)
    assert (
        "| facts | 0.00 | 0.25 | 0.38 | 0.50 |" in table
        and "| rollouts | | 10 | 2,000 | 30 |" in table
    )
    assert "| tokens | | 90 | 18,000 | 270 |" in table

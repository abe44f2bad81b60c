"""experiments/report.py: verdicts, and pages that show what the finished runs say."""

from pathlib import Path

import measure
import numpy as np
import pytest
import report
import run
from root import KEPT

from plumbing.command_line import parse
from tests.records import curve, write_run
from train import Config

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("past", "word"),
    [
        ([0.3, 0.4, 0.5], "**holds**"),
        ([0.1, -0.1, 0.03], "*not shown*"),  # past the bar on average only
        ([0.5, -0.4, 0.2], "*not shown*"),
        ([0.1, 0.2, 0.45], "*not shown*"),  # 2.4 standard errors: of three, too few
        ([-0.3, -0.4, -0.5], "**fails**"),
        ([-0.3, -0.4, 0.5], "*not shown*"),
        ([0.2, 0.2, 0.2], "**holds**"),  # nothing varies
        ([0.0, 0.0, 0.0], "*not shown*"),
        ([-0.1, -0.1, -0.1], "**fails**"),
        ([0.5, 0.5], "*not shown*"),  # two seeds
        ([], "*missing*"),
    ],
)
def test_a_verdict_is_one_of_three_words(past, word):
    assert report.verdict(np.array(past)) == word


def runs_of(**accuracies) -> list:
    """For each seed runs by name, with an accuracy; `-` in names as `_`."""
    runs = [{} for _ in range(max(map(len, accuracies.values())))]
    for name, ends in accuracies.items():
        for seed, at_end in enumerate(ends):
            runs[seed][name.replace("_", "-")] = curve(0.0, at_end)
    return runs


def test_metrics_are_sums_over_the_seeds_that_all_runs_have():
    runs = runs_of(fst_strings=[0.5, 0.6, 0.7], rl_strings=[0.2, 0.4])
    line = ["ends higher", "end fst-strings", "0.5 of end rl-strings + 0.02", "end rl-strings"]
    seeds = report.paired(" ".join(line), runs)
    assert seeds == [runs[0], runs[1]]
    assert report.values(line[2], seeds) == pytest.approx([0.12, 0.22])
    assert report.values("0.70", seeds) == pytest.approx([0.7, 0.7])
    cells = report.judge(line, runs)
    assert cells[1] == "`end fst-strings`: 0.55±0.07" and cells[4:] == ["2", "*not shown*"]


def test_a_star_or_a_comma_stands_for_a_mean_seed_by_seed():
    seeds = [{}, {}]
    for i, domain in enumerate(run.DOMAINS):
        seeds[0][f"fst-{domain}"] = curve(0.0, 0.1 * i)
        seeds[1][f"fst-{domain}"] = curve(0.0, 0.2 * i)
    assert report.values("end fst-*", seeds) == pytest.approx([0.15, 0.3])
    assert report.values("end fst-numbers,fst-facts", seeds[:1]) == pytest.approx([0.15])
    del seeds[0]["fst-facts"]
    assert report.paired("end fst-*", seeds) == [seeds[1]]


def test_a_claim_is_judged_where_all_its_runs_are_there():
    row = ["where it ends", "end fst-facts", "end rl-facts + 0.10", "end rl-facts"]
    ours = [0.5, 0.6, 0.7]
    assert report.judge(row, runs_of(fst_facts=ours))[-2:] == ["0", "*missing*"]
    runs = runs_of(fst_facts=ours, rl_facts=[0.1, 0.2, 0.3, 0.4])
    assert report.judge(row, runs)[-2:] == ["3", "**holds**"]
    only_told = ["ceiling", "end fst-facts", "", "end rl-facts"]
    assert report.judge(only_told, runs)[-2:] == ["3", ""]


def test_what_stands_beside_a_claim_takes_no_seed_from_it():
    row = ["where it ends", "end fst-facts", "0.40", "end rl-facts"]
    cells = report.judge(row, runs_of(fst_facts=[0.5, 0.6, 0.7], rl_facts=[0.1, 0.2]))
    assert cells[1:] == [
        "`end fst-facts`: 0.60±0.10",
        "0.40",
        "`end rl-facts`: 0.15±0.07",
        "3",
        "**holds**",
    ]


def test_lines_stand_for_each_domain_or_stage():
    rows = report.rows_of("a DOMAIN | b\nstage STAGE | c\nplain |")
    assert [row[0] for row in rows[:4]] == ["a strings", "a numbers", "a facts", "a star_graph"]
    assert [row[0] for row in rows[4:]] == ["stage 1", "stage 2", "stage 3", "stage 4", "plain"]


def test_the_page_works_with_any_part_of_the_runs(tmp_path):
    kept = tmp_path / "runs"
    nothing = report.page(kept)
    assert "from 0 finished runs of" in nothing and "holds**" in nothing and "nan" not in nothing
    for one in run.all_runs():
        number = 2 if "numbers-facts" in one.name or "facts-numbers" in one.name else 1
        number = {"stream": 4, "sweep": 3}.get(one.experiment, number)
        if one.seed in (0, 1, 2, 100, 101):
            up = 0.2 if one.method == "rl" else 0.6
            write_run(kept, one.name, one.seed, ["strings"] * number, up + one.seed / 1000)
    (tmp_path / "exam.md").write_text("an exam", encoding="utf-8")
    (tmp_path / "bench-cpu.md").write_text("a bench", encoding="utf-8")
    page = report.page(kept)
    head, _, lines = page.partition("## Single domains")
    assert "*missing*" not in lines and "nan" not in page
    assert "an exam" in lines and "a bench" in lines
    assert "| strings | 0.00±0.00 | 0.15±0.00 | 0.45±0.00 | 0.45±0.00 |" in head
    assert "| fst-strings | 0.45±0.00 | 0.30±0.00 | 2,010±0 |" in lines
    ends = "| `end fst-strings`: 0.45±0.00 | `end rl-strings + 0.10`: 0.25±0.00 |"
    assert ends in lines and lines.count("| chosen |") == 2


def test_the_sweep_chooses_what_stays_nearest_to_the_base_of_what_is_as_good():
    scores = {("0.001", "0.1"): 0.60, ("0.0003", "0.1"): 0.59, ("0.0003", "0.001"): 0.61}
    assert report.chosen(scores | {("0.0001", "0.3"): 0.58}) == ("0.001", "0.1")


@pytest.fixture(scope="module")
def kept():
    """The finished runs, read once."""
    return measure.load()


@pytest.mark.parametrize("method", ["fst", "rl"])
def test_the_settings_of_all_runs_are_those_that_the_sweep_chose(kept, method):
    scores = report.sweep_scores(kept, method)
    one = next(one for one in run.all_runs() if one.method == method)
    cfg = parse(Config, run.command(one, run.Place()))
    assert (cfg.lr, cfg.kl_coef) == tuple(map(float, report.chosen(scores)))


def test_the_page_of_results_is_what_the_report_writes(kept, monkeypatch):
    monkeypatch.setattr(report, "load", lambda folder: kept)
    page = (ROOT / "docs" / "RESULTS.md").read_text(encoding="utf-8")
    assert page == report.page(KEPT), "run: python experiments/report.py"


def test_the_table_in_the_readme_shows_the_results(kept):
    table = report.readme_table(kept)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    if "of the base before" in readme:  # true only as long as runs are missing
        assert "| - |" in table
    else:
        assert f"{table}\n" in readme

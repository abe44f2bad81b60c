"""experiments/report.py: the README shows what the results say, and nothing else."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))

import report  # noqa: E402


def test_the_figures_of_the_readme_are_those_of_the_results():
    readme = (ROOT / "README.md").read_text()
    assert readme.count(report.BEGIN) == readme.count(report.END) == 1
    assert report.section() in readme, "run: python experiments/report.py"


def test_a_seed_that_never_reached_rl_is_said_so():
    pair = {"rl_best": 0.5, "rl_best_rollouts": 900, "rl_best_kl": 0.1, "fst_rollouts_to_rl_best": None}
    pair |= {"fst_kl_at_rl_best": None, "equal_rollouts": 900, "fst_end": 0.25, "rl_end": 0.5}
    result = {
        "seeds": [0, 1],
        "sweep": {},
        "best": {"fst": "1", "rl": "2"},
        "pairs": [pair, pair | {"fst_rollouts_to_rl_best": 7, "fst_kl_at_rl_best": 0.2}],
    }
    table = report.compare_table(result | {"final": {"fst": [0.25, 0.75], "rl": [0.5, 0.5], "gepa": [0.0, 0.5]}})
    assert "| fst | 1 | 0.50 ± 0.35 | 0.25, 0.75 |" in table and "| gepa | frozen |" in table
    assert "| 0 | 0.50, 900 | never | 0.100 / - | 0.50 / 0.25 |" in table
    assert "| 1 | 0.50, 900 | 7 | 0.100 / 0.200 | 0.50 / 0.25 |" in table

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


def test_the_table_of_faults_says_what_was_found():
    kill = {"rl": {"kills": 5, "runs": 2, "struck": {"half a write of log.jsonl": 3, "resuming": 2}}}
    faults = {"full_disks": {"injected": 7}, "damages": {"injected": 1000, "harmless": 4}}
    faults["numbers"] = {"injected": 9, "steps": 60}
    fuzz = {kind: {"sequences": 100_000, "findings": 3} for kind in ("random_tokens", "mutated_document")}
    soak = {"steps": 2000, "growth": 0.0123, "steps_per_second": [9.8, 10.2], "checkpoint_bytes": [1000, 2000]}
    soak["bytes_per_step"] = {"log.jsonl": [300.2, 310.0], "samples.txt": [1, 1]}
    table = report.fault_table(kill, faults, fuzz, {"fst": soak})
    assert "| 5 kills over 2 runs: half a write of log.jsonl 3, resuming 2 |" in table and "| 9 of 60 steps |" in table
    assert "| 100,000 | 3 exceptions" in table and "but for 4 that left" in table
    assert (
        "memory at most +1.2% after" in table
        and "log 300, 310 bytes a step" in table
        and "10 to 10 steps per second" in table
    )


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

"""experiments/compare.py: what is compared with what."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))

import compare  # noqa: E402


def evals(*rows):
    return [dict(zip(("rollouts", "val_acc", "kl_base"), row, strict=True)) for row in rows]


RL = evals((0, 0.0, 0.0), (100, 0.3, 0.2), (200, 0.5, 0.4), (300, 0.4, 0.6))


def test_fst_is_measured_where_it_first_reaches_the_best_of_rl_and_at_equal_rollouts():
    fst = evals((0, 0.0, 0.0), (90, 0.5, 0.1), (180, 0.9, 0.2), (270, 0.8, 0.3))
    assert compare.compare(fst, RL) == {
        "rl_best": 0.5, "rl_best_rollouts": 200, "rl_best_kl": 0.4,
        "fst_rollouts_to_rl_best": 90, "fst_kl_at_rl_best": 0.1,
        "equal_rollouts": 270, "fst_end": 0.8, "rl_end": 0.5,
    }  # fmt: skip


def test_a_run_that_never_reaches_it_is_left_in():
    figures = compare.compare(evals((0, 0.0, 0.0), (400, 0.1, 0.1)), RL)
    assert figures["fst_rollouts_to_rl_best"] is None and figures["fst_kl_at_rl_best"] is None
    assert (figures["equal_rollouts"], figures["fst_end"], figures["rl_end"]) == (300, 0.0, 0.4)


def test_a_finished_run_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "RESULTS", tmp_path)
    monkeypatch.setattr(compare.subprocess, "run", lambda *a, **k: pytest.fail("it ran again"))
    (tmp_path / "compare").mkdir()
    lines = [{"kind": "slow", "reward": 1}, {"kind": "eval", "val_acc": 0.5}]
    (tmp_path / "compare" / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert compare.run("x", "fst", 0, 6, "0.001", "strings") == [lines[1]]

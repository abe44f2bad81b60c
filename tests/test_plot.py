"""experiments/plot.py: the table and the figures are written."""

import json
import sys
from pathlib import Path

import pytest
from test_claims import RL, evals, record

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))

import claims  # noqa: E402
import plot  # noqa: E402


def test_claims_and_figures_are_made_of_the_runs(tmp_path, monkeypatch, capsys):
    results = tmp_path / "experiments" / "results"
    (results / "runs").mkdir(parents=True)
    runs = {"base": {"skills": {"strings": 1.0, "other": 1.0}, "corpus_loss": 0.1}}
    accuracy = {"base weights": [0.0, 0.4], "trained weights": [0.1, 0.9]}
    for seed in range(3):
        fst = evals((0, 0, 0.0, 0.0), (10, 90, 0.5, 0.1), (30, 300, 0.9, 0.2))
        runs |= {f"fst-strings-{seed}": record(fst, accuracy, 0.99) | {"seconds": 60}}
        runs |= {f"rl-strings-{seed}": record(RL, accuracy, 0.7) | {"seconds": 30}}
    for name, run in runs.items():
        (results / "runs" / f"{name}.json").write_text(json.dumps(run), encoding="utf-8")
    monkeypatch.setattr(claims, "RUNS", results / "runs")
    monkeypatch.setattr(plot, "ROOT", tmp_path)
    monkeypatch.setattr(plot, "FIGURES", tmp_path / "figures")
    plot.main()
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == ["efficiency.png", "kl.png"]
    written = json.loads((results / "claims.json").read_text(encoding="utf-8"))
    assert written["claims"] == claims.all_claims(runs) and set(written["outcomes"]) == {
        "strings, fst",
        "strings, rl",
    }
    assert "data efficiency, rollouts" in capsys.readouterr().out


def test_without_results_it_says_how_to_make_them(monkeypatch):
    monkeypatch.setattr(plot, "load", dict)
    with pytest.raises(SystemExit, match="there are no results yet"):
        plot.main()

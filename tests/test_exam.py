"""experiments/exam.py: every exam is held, on the domains that the base knows."""

import json
import sys
from pathlib import Path

import pytest

from tests import toy

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))

import exam  # noqa: E402
import report  # noqa: E402


def test_all_figures_are_measured_on_the_bases_domains(tmp_path, monkeypatch, capsys):
    toy.make_base(
        tmp_path / "base.pt", known=["numbers"], about={"step": 3, "minutes": 1.0, "elapsed": 60.0}
    )
    out = tmp_path / "base.json"
    monkeypatch.setattr(
        sys,
        "argv",
        ["exam.py", "--base", str(tmp_path / "base.pt"), "--questions", "3", "--out", str(out)],
    )
    exam.main()
    result = json.loads(out.read_text(encoding="utf-8"))
    assert len(result["figures"]) == 41 and all(
        0 <= share <= 1 for share in result["figures"].values()
    )
    assert {name.split("/")[0] for name in result["figures"]} == {"numbers"}
    assert "3 steps in 1 minutes" in report.base_table(result)
    assert capsys.readouterr().out.count("\n") == 41


def test_other_vocabularies_and_no_questions_are_refused_in_one_line(tmp_path, monkeypatch):
    toy.make_base(tmp_path / "other.pt", vocabulary="other")
    toy.make_base(tmp_path / "base.pt")
    for path, n, said in (
        ("other.pt", "3", "knows another vocabulary"),
        ("base.pt", "0", "at least 1, not 0"),
    ):
        monkeypatch.setattr(
            sys, "argv", ["exam.py", "--base", str(tmp_path / path), "--questions", n]
        )
        with pytest.raises(SystemExit, match=f"^exam.py: .*{said}"):
            exam.main()


def test_what_is_no_base_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["exam.py", "--base", str(tmp_path / "none.pt")])
    with pytest.raises(
        SystemExit, match=r"^exam.py: no checkpoint at .*none.pt, or none that may be read$"
    ):
        exam.main()

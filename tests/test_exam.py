"""experiments/exam.py: every exam is held, on the domains that the base knows."""

import exam
import pytest

from base.prepare import load_base
from tests import toy


def test_a_row_has_a_number_for_each_exam(tmp_path):
    toy.make_base(tmp_path / "base.pt")
    model = load_base(tmp_path / "base.pt").model
    cells = exam.examine(model, 3, "numbers")
    assert len(cells) == len(exam.HEAD) and cells[0] == "numbers"
    for words, cell in zip(exam.HEAD, cells, strict=True):
        assert cell.count("/") == words.count("/")
    shares = [float(share) for cell in cells[1:] for share in cell.split("/")]
    assert all(0 <= share <= 1 for share in shares)


@pytest.mark.parametrize(
    ("name", "n", "said"),
    [
        ("other.pt", "3", "knows another vocabulary"),
        ("base.pt", "0", "--questions must be 1 at least"),
        ("none.pt", "3", "no checkpoint at"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, capsys, name, n, said):
    toy.make_base(tmp_path / "other.pt", vocabulary="other")
    toy.make_base(tmp_path / "base.pt")
    with pytest.raises(SystemExit) as ended:
        exam.main(["--base", str(tmp_path / name), "--questions", n])
    [line] = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.startswith("exam.py: ") and said in line

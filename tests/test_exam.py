"""experiments/exam.py: every exam is held, on the domains that the base knows."""

import random
import re
from types import SimpleNamespace

import exam
import pytest

from base.prepare import load_base
from model import GPT, GPTConfig
from tasks import domains
from tasks.formats import parse_prompt
from tasks.world import Outcome
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


def test_whole_tasks_are_asked_with_the_rules_named_or_not(monkeypatch):
    def answer(sampler, jobs):
        [(prompt, questions)] = jobs
        return SimpleNamespace(outcomes=[Outcome(float(bool(prompt)), None)] * len(questions))

    monkeypatch.setattr(exam.Sampler, "answer", answer)
    tiny = GPT(GPTConfig(8, n_layer=1))
    assert exam.whole_tasks(tiny, "numbers", 30, True) == 1
    assert exam.whole_tasks(tiny, "numbers", 30, False) == 0


@pytest.mark.parametrize(
    ("level", "length", "held_out"),
    [("seen", 1, False), ("seen", 3, False), ("task", 1, False), ("task", 2, True)],
)
def test_only_at_the_level_of_tasks_rules_are_held_out(level, length, held_out):
    domain = domains()["numbers"]
    rules = domain.rules(length, held_out)
    for seed in range(20):
        item = exam.draw(random.Random(seed), domain, "solve", level, length)
        topic = re.search("ask ([a-z]+):", item.question)[1]
        rule = parse_prompt(item.prompt)[topic]
        assert tuple(rule.split()) in rules


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

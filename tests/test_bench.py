"""experiments/bench.py: what competes does the same work, and the table says who was faster."""

import bench
import pytest
from bench import SPECIAL, WORLD, generated, sampled

from base.prepare import load_base
from sampling import sample
from tests import toy
from tests.llama import llama_of
from tests.naive import sample_naive

ROWS = 4 * bench.GROUP


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model whose answers end after a few tokens."""
    path = tmp_path_factory.mktemp("bench") / "base.pt"
    toy.make_base(path, n_kv_head=1)
    return load_base(path).model


@pytest.fixture(autouse=True)
def few_questions(monkeypatch):
    monkeypatch.setattr(bench, "QUESTIONS", 4)


def test_a_race_gives_the_median_for_each_unit_of_work_without_the_first_round(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(bench, "ROUNDS", 4)
    ours = iter([100, 1, 2, 30, 4])
    theirs = iter([100, 6, 7, 6, 60])

    def runner(takes):
        now[0] += next(takes)
        return 2

    bench.race("a token", {"ours": lambda: runner(ours), "theirs": lambda: runner(theirs)})
    [line] = capsys.readouterr().out.splitlines()
    assert line == "| a token | ours | theirs | 1.5 | 3.25 | 2.2 |"  # of 0.5, 1, 15 and 2


def test_a_table_compares_the_first_with_each_of_the_others(capsys):
    bench.compare("a token", ["ours", "theirs", "others"], [[9, 9, 9], [0.5, 1.25, 0.25]])
    first, second = capsys.readouterr().out.splitlines()
    assert first == "| a token | ours | theirs | 0.5 | 1.25 | 2.5 |" and "| 0.5 |" in second


def test_all_samplers_write_the_same_greedy_answers(model):
    pytest.importorskip("transformers")
    ours = {"max_new": 12, "temperature": 0.0}
    theirs = {"max_new_tokens": 12, "do_sample": False}
    llama = llama_of(model, **SPECIAL)
    n = sampled(sample, model, eos=WORLD.eos, **ours)
    assert n == sampled(sample_naive, model, eos=WORLD.eos, **ours)
    assert n == generated(llama, **theirs) < 12 * ROWS
    all_long = generated(llama, min_new_tokens=12, **theirs)
    assert all_long == sampled(sample, model, eos=-1, **ours) == 12 * ROWS


def test_a_step_of_trl_and_one_of_ours_take_turns(model, capsys, monkeypatch):
    pytest.importorskip("trl")
    before = [p.clone() for p in model.parameters()]
    monkeypatch.setattr(bench, "ROUNDS", 1)
    learners = []
    slow_step = bench.slow_step

    def watched(learner, questions):
        learners.append(learner)
        return slow_step(learner, questions)

    monkeypatch.setattr(bench, "slow_step", watched)
    bench.bench_step(model, "cpu")
    assert {learner.cfg.method for learner in learners} == {"rl"}
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("| a gradient step | train.py | TRL |")
    assert all((p == q).all() for p, q in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("device", ["abacus", "cuda"])
def test_a_wrong_option_is_said_in_one_line(capsys, monkeypatch, device):
    monkeypatch.setattr(bench.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        bench.main(["--device", device])
    [line] = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.startswith("bench.py: ") and device in line

"""experiments/measure.py: what is measured in finished runs."""

import json

import measure
import pytest

from tasks import make_task
from tests.records import curve, evaluation, logged, run_of, write_run

# After training began there are two means of three, both 0.5.
RL = curve(0.0, 0.3, 0.64, 0.56, 0.3)


def test_the_end_is_the_mean_of_the_last_three_evaluations_after_training_began():
    assert measure.end(curve(0.9, 0.1, 0.2, 0.3, 0.4)) == pytest.approx(0.3)
    assert measure.end(curve(0.9, 0.1, 0.3)) == pytest.approx(0.2)


def test_fst_is_measured_where_it_first_reaches_the_best_of_rl():
    # The best mean of rl is 0.5. It is there after 200 rollouts, fst after 60.
    fst = curve(0.0, 0.5, 0.5, cost=60)
    assert measure.saved(fst, RL, "rollouts") == pytest.approx(0.7)
    assert measure.saved(fst, RL, "tokens") == pytest.approx(0.7)
    late = curve(0.0, 0.0, 0.9, 0.9, 0.9, cost=60)
    assert measure.saved(late, RL, "rollouts") == pytest.approx(1 - 120 / 200)


def test_who_never_gets_there_gains_nothing_by_stopping_early():
    assert measure.saved(curve(0.0, 0.1, cost=10), RL, "rollouts") == 0
    assert measure.saved(curve(0.0, 0.1, cost=400), RL, "rollouts") == -1


def test_an_rl_that_learns_nothing_counts_with_all_that_it_took():
    flat = curve(0.0, 0.01, 0.01, 0.0)
    assert measure.saved(curve(0.0, 0.05, cost=30), flat, "rollouts") == pytest.approx(0.9)
    lucky = curve(0.0, 0.04, 0.0, 0.0)  # the best mean of three is 0.013
    assert measure.saved(curve(0.0, 0.05, cost=30), lucky, "rollouts") == pytest.approx(0.9)
    # There is no KL at which it does as well.
    assert measure.saved(curve(0.0, 0.05), flat, "kl_base") == 0
    assert measure.saved(curve(0.0, 0.5), RL, "kl_base") == pytest.approx(1 - 0.25 / 0.32)


def test_rewards_tell_when_zero_is_left():
    runs = []
    # Means of three: fst is there at the first one, rl at the sixth; a lucky batch does not count.
    for rewards in ([0.3, 0.4, 0.5], [0.03, 0.0, 0.0, 0.0, 0.0, 0.0, 0.03, 0.05]):
        log = [evaluation(0, 0, 0.0)]
        for step, reward in enumerate(rewards, 1):
            log.append(logged("slow", step, 100 * step, reward=reward))
        runs.append(run_of(log, "strings"))
    assert measure.earlier(*runs, "step") == 1 - 3 / 8


def test_fst_may_be_measured_with_as_many_rollouts_as_another_run_took():
    fst = curve(0.0, 0.5, 0.7, 0.9, cost=60)
    assert measure.as_cheap(fst, curve(0.0, 0.2, cost=130)) == 0.7
    assert measure.as_cheap(fst, curve(0.0, 0.2, cost=10)) == 0.0


def stream():
    """Two stages of 10 steps. Where the first one ends, the second task is evaluated, too."""
    log = curve(0.0, 0.2, 0.4).lines
    log += [evaluation(10, 200, 0.1, task=1)]
    log += [evaluation(12, 260, 0.3, task=1), evaluation(14, 320, 0.9, task=1)]
    log += [logged("slow", 20, 400, task=1)]
    log += [evaluation(20, 400, 0.8, task=1)]
    return run_of(log, "strings", "facts")


def test_a_stage_has_the_evaluations_from_its_beginning_to_its_end():
    steps = [[line["step"] for line in stage.evals] for stage in stream().stages]
    assert steps == [[0, 5, 10], [10, 12, 14, 20]]
    assert measure.end(stream()) == pytest.approx((0.3 + 0.9 + 0.8) / 3)


def test_within_a_third_of_what_the_first_stage_took():
    # The first stage took 200 rollouts, so 66 count: those of step 12.
    assert measure.within_third(stream(), "2") == 0.3
    assert measure.within_third(stream(), "1") == 0.0


def test_rules_are_named_by_what_they_do_and_lines_may_be_of_another_domain():
    task = make_task("strings", 0)
    assert [task.rules[topic] for topic in ("red", "blue")] == [("mirror", "weave"), ("sort",)]
    prompt = {"red": "weave mirror", "blue": "plus minus", "gold": "raise"}
    log = [evaluation(0, 0, 0.0), logged("fast", 0, 10, population=[[prompt, 0.5]], accepted=[])]
    log.append(logged("fast", 10, 20, task=1, population=[[{}, 0.5]], accepted=[]))
    run = run_of(log, "strings", "strings")
    assert measure.named(run, "12") == pytest.approx(1 / 6)
    assert measure.named(run, "3") == 0
    assert measure.own_lines(run) == pytest.approx(2 / 3)
    run = run_of([evaluation(0, 0, 0.0), logged("slow", 0, 10)], "strings")
    assert (measure.named(run, "12"), measure.own_lines(run)) == (0, 1)


def test_runs_are_read_from_what_is_kept_of_them(tmp_path):
    write_run(tmp_path, "fst-strings", 3, ["strings", "facts"], up=0.6)
    (tmp_path / "rl-strings-0").mkdir()  # not finished
    write_run(tmp_path, "rl-strings", 1, ["strings"], up=0.3)
    (tmp_path / "rl-strings-1").rename(tmp_path / "rl-strings-1.old")  # put aside
    [by_name] = measure.load(tmp_path)
    one = by_name["fst-strings"]
    assert list(by_name) == ["fst-strings"]
    assert (one.config["seed"], len(one.stages)) == (3, 2)
    # A fast phase takes 1 second, a step 2.
    assert [line["time"] for line in one.stages[0].evals] == [1, 3, 5, 7]
    assert measure.last(one, "time") == 16
    assert measure.skills(one) == pytest.approx(-0.09) and measure.noticed(one) == 0.5
    assert measure.text_loss(one) == 40
    assert (measure.stage(one, "2", "at_end"), measure.stage(one, "2", "both")) == (0.5, 0.6)
    worth = [measure.stage(one, "1", key) for key in ("neither", "prompt", "weights")]
    assert worth == [0.0, 0.3, 0.1]
    assert measure.first_phase(one) == 0.5 and measure.stage_ends(one) == pytest.approx(0.55)


def test_a_run_that_goes_on_after_its_end_has_no_metrics_yet(tmp_path):
    write_run(tmp_path, "fst-strings", 0, ["strings"], up=0.6)
    with open(tmp_path / "fst-strings-0" / "log.jsonl", "a", encoding="utf-8") as log:
        log.write(json.dumps(logged("slow", 21, 999999)) + "\n")
    with pytest.raises(ValueError, match="fst-strings-0: this run has not reached its end"):
        measure.load(tmp_path)


def phase(step: int, surprise: bool, recalled=()) -> dict:
    """The log line of a fast phase."""
    found = {"population": [[{"red": "sort"}, 0.5]], "accepted": [], "recalled": list(recalled)}
    return logged("fast", step, 10 + step, step // 20, surprise=surprise, **found)


def test_a_surprise_belongs_where_a_stage_begins_but_for_the_first_one():
    start = evaluation(0, 0, 0.0)
    log = [start, phase(0, False), phase(6, True), phase(12, False), phase(18, False)]
    assert measure.noticed(run_of(log, "strings")) == 0.75
    log = [start, phase(0, False), phase(18, False), phase(24, True), phase(30, False)]
    assert measure.noticed(run_of(log, "strings", "numbers")) == 1
    log[-1] = phase(30, True)
    assert measure.noticed(run_of(log, "strings", "numbers")) == 0.75


def test_the_prompt_that_comes_back_is_that_of_the_first_stage():
    for recalled, is_back in (([], False), ([{"red": "left"}], False), ([{"red": "sort"}], True)):
        log = [evaluation(0, 0, 0.0), phase(0, False), phase(24, True, recalled), phase(30, True)]
        assert measure.recalled(run_of(log, "strings", "strings")) is is_back


def test_a_stream_is_sound_where_all_stages_are():
    one = curve(0.0)
    one.result = {"tasks": [{"at_end": 0.9}, {"at_end": 0.45}]}
    assert measure.sound(one) == 0
    one.result = {"tasks": [{"at_end": 0.9}, {"at_end": 0.46}]}
    assert measure.sound(one) == 1

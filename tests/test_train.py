"""train.py: the loop's bookkeeping, and faults that cost nothing."""

import dataclasses
import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest
import torch
from tqdm import tqdm

import fast_context
import model
import rl
import sampling
import tasks
import train
from base import corpus, exams
from base.prepare import open_base
from fast_context import Population
from model import completion_logprobs
from plumbing import command_line, processes
from plumbing.files import load_checkpoint
from plumbing.folder import RunFolder
from sampling import Sampler
from tasks import domains, formats, world
from tests import toy
from train import METHODS, Learner

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.usefixtures("toy_world")


def learner_of(out) -> Learner:
    """The learner of the run in a folder, as it was at the last checkpoint."""
    argv = ["--resume", str(out)]
    cfg = command_line.start(train.Config, argv)
    folder = RunFolder(cfg.out, "", cfg.resume)
    learner = Learner(cfg, open_base(cfg, cfg.device), cfg.device, folder)
    folder.restore(learner)
    return learner


def watch_evaluations(monkeypatch) -> list[bool]:
    """A list whose one element says whether an evaluation is going on."""
    evaluating = [False]
    evaluate = train.evaluate

    def watched(*args):
        evaluating[0] = True
        result = evaluate(*args)
        evaluating[0] = False
        return result

    monkeypatch.setattr(train, "evaluate", watched)
    return evaluating


def result_of(out) -> dict:
    return json.loads((out / "result.json").read_text(encoding="utf-8"))


# --- the log ---


def test_every_line_of_the_log_has_exactly_its_fields(start):
    fields = {
        "slow": "reward entropy kl_base grad_norm dropped_groups skipped seconds",
        "fast": "calls reflections proposed accepted population surprise dropped recalled seconds",
        "eval": "val_acc kl_base neutral_acc neutral_kl greedy_acc neutral_greedy prompt",
    }
    out = start(steps=9)
    lines = [
        json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    for line in lines:
        own = fields[line["kind"]].split()
        assert list(line) == ["kind", "step", "task", "rollouts", "tokens", *own]
    assert [line["step"] for line in lines if line["kind"] == "slow"] == list(range(1, 10))
    assert [line["step"] for line in lines if line["kind"] == "fast"] == [0, 4, 8]  # the cycle is 4
    assert [line["step"] for line in lines if line["kind"] == "eval"] == [0, 4, 8]
    assert all(a["rollouts"] <= b["rollouts"] for a, b in itertools.pairwise(lines))
    # else these tests would show little
    assert any(line["kind"] == "slow" and line["grad_norm"] for line in lines)
    assert any(line["kind"] == "fast" and line["accepted"] for line in lines)


@pytest.mark.parametrize("method", METHODS)
def test_rollouts_and_tokens_are_all_that_was_sampled_but_for_evaluations(
    start, monkeypatch, method
):
    counts = {True: 0, False: 0}
    tokens = {True: 0, False: 0}
    evaluating = watch_evaluations(monkeypatch)

    def count(rollouts, *_, **settings):
        counts[evaluating[0]] += len(rollouts.lengths)
        tokens[evaluating[0]] += int(rollouts.lengths.sum())

    toy.watch(monkeypatch, sampling, "sample", count)
    out = start(method=method, steps=7)
    lines = toy.log_of(out)
    assert lines[-1]["rollouts"] == counts[False] > 0 and counts[True] > 0
    assert lines[-1]["tokens"] == tokens[False] > counts[False]
    gradient = len(toy.kinds(out, "slow")) * 2 * 4
    fast = sum(line["calls"] for line in toy.kinds(out, "fast"))
    assert lines[-1]["rollouts"] == gradient + fast
    assert (gradient == 0) == (method == "gepa") and (fast == 0) == (method == "rl")
    assert result_of(out)["rollouts"] == counts[False]


def test_evaluation_does_not_disturb_training(start):
    often = start("often", eval_every=1)
    seldom = start("seldom", eval_every=5)
    assert toy.kinds(often, "slow", "fast") == toy.kinds(seldom, "slow", "fast")
    assert len(toy.kinds(often, "eval")) > len(toy.kinds(seldom, "eval"))


def test_a_stream_goes_through_its_tasks_and_evaluates_on_the_next_one_where_a_stage_ends(start):
    argv = ["--tasks", "strings", "strings:2"]
    out = start("run", *argv, stage=4, steps=8, eval_every=2)
    assert [line["task"] for line in toy.kinds(out, "slow")] == [0, 0, 0, 0, 1, 1, 1, 1]
    evaluated = [(line["step"], line["task"]) for line in toy.kinds(out, "eval")]
    assert evaluated == [(0, 0), (2, 0), (4, 0), (4, 1), (6, 1), (8, 1)]
    first, second = learner_of(out).tasks
    assert first.rules != second.rules


def test_each_task_is_told_with_the_prompt_that_it_was_last_trained_under(start):
    out = start("run", "--tasks", "strings", "numbers", steps=6, stage=3, cycle=6, passes=40)
    [fast] = toy.kinds(out, "fast")  # none begins in the second stage
    best = fast["population"][0][0]
    assert best and [task["evolved"] for task in result_of(out)["tasks"]] == [best, best]


def test_entropy_and_kl_are_per_token(start, monkeypatch):
    seen = []
    toy.watch(monkeypatch, Sampler, "answer", lambda answers, *_, **settings: seen.append(answers))
    out = start(method="rl", steps=1, eval_every=1, lr=0.3, temperature=0.8)
    slow = toy.kinds(out, "slow")[0]
    last = toy.kinds(out, "eval")[-1]
    # before the evaluation at step 1 there were one at step 0, and the rollouts
    _, sampled, evaluated, *_ = seen

    total = 0.0
    count = 0
    for logprobs, completion in zip(sampled.logprobs, sampled.completions, strict=True):
        total -= logprobs[: len(completion)].sum().item()
        count += len(completion)
    assert slow["entropy"] == pytest.approx(total / count, abs=1e-6) and total > 0

    learner = learner_of(out)
    total = 0.0
    count = 0
    for context, completion in zip(evaluated.contexts, evaluated.completions, strict=True):
        with torch.no_grad():
            logp = completion_logprobs(learner.policy, [context], [completion], 0.8)
            logb = completion_logprobs(learner.base, [context], [completion], 0.8)
        total += ((logb - logp).exp() - 1 - (logb - logp)).sum().item()
        count += len(completion)
    assert last["kl_base"] == pytest.approx(total / count, abs=1e-5) and total > 0.01


def test_an_evaluation_in_parts_has_the_same_metrics(start, monkeypatch):
    whole = start("whole", steps=4)
    monkeypatch.setattr(processes, "ROLLOUTS_AT_ONCE", 3)  # of 4 questions
    monkeypatch.setattr(model, "ROWS_AT_ONCE", 3)
    parts = toy.kinds(start("parts", steps=4), "eval")
    for one, other in zip(toy.kinds(whole, "eval"), parts, strict=True):
        assert one.pop("kind") == other.pop("kind") and one.pop("prompt") == other.pop("prompt")
        assert one == pytest.approx(other, abs=1e-5)


def test_greedy_accuracy_is_measured_at_temperature_0(start, monkeypatch):
    seen = []

    def note(answers, sampler, jobs, samples=1):
        scores = [outcome.score for outcome in answers.outcomes]
        seen.append((sampler.temperature, sum(scores) / len(scores)))

    toy.watch(monkeypatch, Sampler, "answer", note)
    [line] = toy.kinds(start("run", "--greedy", method="rl", steps=0, temperature=0.7), "eval")
    assert seen[:2] == [(0.7, line["val_acc"]), (0.0, line["greedy_acc"])]


@pytest.mark.parametrize("method", ["fst", "rl", "gepa"])
def test_what_was_evaluated_is_evaluated_again_only_with_other_weights_or_another_prompt(
    start, monkeypatch, method
):
    measured = []
    evaluating = watch_evaluations(monkeypatch)

    def note(answers, sampler, jobs, samples=1):
        if evaluating[0]:
            weights = sum(p.double().sum().item() for p in sampler.model.parameters())
            [(prompt, _)] = jobs
            measured.append((weights, formats.prompt_text(prompt)))

    toy.watch(monkeypatch, Sampler, "answer", note)
    out = start(method=method, steps=12)
    evaluations = toy.kinds(out, "eval")
    weights = {weights for weights, _ in measured}
    assert len(measured) == len(set(measured)) < 2 * len(evaluations) + 4
    versions = 1 if method == "gepa" else len(evaluations)
    assert len(weights) == versions == (1 if method == "gepa" else 4)


def test_what_is_shown_at_the_end_of_a_stage_is_of_the_task_that_was_trained_on(start):
    out = start("run", "--tasks", "strings", "numbers", steps=6, stage=3, eval_every=3)
    shown = re.findall(
        r"step (\d): (\w+), validation", (out / "samples.txt").read_text(encoding="utf-8")
    )
    assert shown == [("0", "strings"), ("3", "strings"), ("6", "numbers")]


def test_evaluations_also_tell_of_the_prompt_that_the_run_began_with(start, monkeypatch):
    for line in toy.kinds(start("rl", method="rl"), "eval"):
        assert line["neutral_acc"] == line["val_acc"] and line["neutral_kl"] == line["kl_base"]
    monkeypatch.setattr(Population, "best", property(lambda population: {"red": "sort"}))
    out = start("fst", steps=6, eval_every=6)
    last = toy.kinds(out, "eval")[-1]
    task = result_of(out)["tasks"][0]
    assert last["prompt"] == {"red": "sort"} and last["neutral_kl"] != last["kl_base"]
    assert last["neutral_acc"] == round(task["accuracy"]["final weights"][0], 6)
    assert last["neutral_kl"] == round(task["kl_base"][0], 6)


def test_noise_is_new_in_every_turn_and_the_same_in_every_evaluation(start, monkeypatch):
    seeds = {True: [], False: []}
    evaluating = watch_evaluations(monkeypatch)

    def note(sampler, learner, model, seed):
        seeds[evaluating[0]].append(seed)

    toy.watch(monkeypatch, Learner, "sampler", note)
    start("one", "--seed", "2", steps=5)
    start("other", "--seed", "3", steps=5)
    assert set(seeds[True]) == {2, 3}
    assert len(seeds[False]) > 10 and len(set(seeds[False])) == len(seeds[False])


def test_settings_arrive_where_they_are_used(start, monkeypatch):
    seen = {}

    def note_update(metrics, *, optimizer, temperature, kl_coef, substeps, **settings):
        decay = optimizer.defaults["weight_decay"]
        seen.update(temperature=temperature, kl_coef=kl_coef, substeps=substeps, decay=decay)

    def note_evolve(report, phase, surprise):
        seen.update(memory=phase.population.memory_size, surprise=surprise)

    toy.watch(monkeypatch, rl, "update", note_update)
    toy.watch(monkeypatch, train, "evolve", note_evolve)
    settings = {"temperature": 0.7, "kl_coef": 0.3, "substeps": 2, "memory": 1}
    start("run", "--no-surprise", steps=1, **settings)
    assert seen == settings | {"decay": 0.0, "surprise": False}


@pytest.mark.parametrize("reflector", ["self", "base"])
def test_the_policy_reflects_or_the_base(start, monkeypatch, reflector):
    samplers = []
    learners = []
    toy.watch(monkeypatch, Sampler, "reflect", lambda _, sampler, asked: samplers.append(sampler))
    toy.watch(monkeypatch, train, "slow_step", lambda _, learner, asked: learners.append(learner))
    start(steps=1, reflector=reflector)
    [learner] = learners
    right = learner.base if reflector == "base" else learner.policy
    assert samplers and all(sampler.model is right for sampler in samplers)


@pytest.mark.parametrize("method", ["fst", "distill"])
def test_all_answers_to_learn_from_are_the_policys(start, monkeypatch, method):
    models = []
    learners = []
    evaluating = watch_evaluations(monkeypatch)

    def note(answers, sampler, jobs, samples=1):
        if not evaluating[0]:
            models.append(sampler.model)

    toy.watch(monkeypatch, Sampler, "answer", note)
    toy.watch(monkeypatch, train, "slow_step", lambda _, learner, asked: learners.append(learner))
    start(method=method, steps=1)
    [learner] = learners
    assert len(models) > 2 and all(model is learner.policy for model in models)


def test_questions_are_those_of_the_task_that_is_trained_on_or_measured(start, monkeypatch):
    trained = []
    measured = []

    def note_step(reward, learner, asked):
        trained.extend((learner.trained_task, question.want[0].isdigit()) for question in asked)

    def note_evaluation(evaluation, learner, model, index, prompt):
        *_, want = evaluation.sample
        measured.append((index, want[0].isdigit()))

    toy.watch(monkeypatch, train, "slow_step", note_step)
    toy.watch(monkeypatch, train, "evaluate", note_evaluation)
    start("run", "--tasks", "strings", "numbers", stage=2, steps=4)
    assert set(trained) == set(measured) == {(0, False), (1, True)}


def test_every_answer_is_learned_from_with_its_own_reward(start, monkeypatch):
    answered = []
    learned = []
    toy.watch(monkeypatch, Sampler, "answer", lambda answers, *_, **__: answered.append(answers))

    def note(metrics, *, completions, rewards, **settings):
        scores = [outcome.score for outcome in answered[-1].outcomes]
        assert completions is answered[-1].completions and rewards.tolist() == scores
        learned.append(fmean(scores))

    toy.watch(monkeypatch, rl, "update", note)
    out = start(steps=6)
    assert [line["reward"] for line in toy.kinds(out, "slow")] == pytest.approx(learned, abs=1e-6)
    assert len(set(learned)) > 1


def test_the_same_seed_gives_the_same_run_in_every_process(start, base, tmp_path):
    # Another process has other hashes.
    code = (
        "import sys; from tests import toy; import train; toy.take_over(); train.main(sys.argv[1:])"
    )
    other = tmp_path / "other"
    command = [sys.executable, "-c", code, *toy.SIZES, "--base", base, "--steps", "5"]
    command = [*command, "--out", other]
    subprocess.run(command, cwd=ROOT, env=toy.OTHER_HASHES | {"OMP_NUM_THREADS": "1"}, check=True)
    out = start(steps=5)
    assert toy.equal(toy.outcome(out), toy.outcome(other))
    assert any(line["accepted"] for line in toy.kinds(out, "fast"))


def test_accepted_children_are_logged_with_the_line_that_changed_and_its_reflection(start):
    changes = []
    for line in toy.kinds(start(steps=9), "fast"):
        changes += line["accepted"]
    assert changes
    for change in changes:
        assert list(change) == ["topic", "old", "new", "before", "after", "how"]
        assert change["old"] != change["new"] and change["how"].startswith(
            f"reflect {change['topic']}: "
        )


def test_the_bar_moves_with_the_calls_of_a_fast_phase(start, monkeypatch):
    shown = []
    monkeypatch.setattr(tqdm, "set_postfix", lambda bar, *_, **metrics: shown.append(metrics))
    fast, *_ = toy.kinds(start(steps=1), "fast")
    rollouts = [metrics["rollouts"] for metrics in shown if metrics.get("rollouts")]
    moves = rollouts[: rollouts.index(fast["calls"]) + 1]
    assert len(moves) > 2 and moves == sorted(moves)


def test_a_task_that_is_named_again_is_the_same_and_a_number_makes_another(start):
    argv = ["--tasks", "strings", "numbers", "strings", "strings:2", "numbers"]
    learner = learner_of(start("run", *argv, steps=0))
    strings, numbers, again, other, numbers_again = [task.rules for task in learner.tasks]
    assert strings == again != other and numbers == numbers_again
    assert learner.tasks[3].name == "strings:2" and learner.tasks[3].domain.name == "strings"
    assert learner.validation[0] == learner.validation[2]


# --- questions ---


@pytest.fixture
def asked(monkeypatch):
    """Every question that is asked: {"train": [...], "validation": [...]}."""
    seen = {"train": [], "validation": []}
    evaluating = watch_evaluations(monkeypatch)

    def note(answers, sampler, jobs, samples=1):
        where = "validation" if evaluating[0] else "train"
        for _, questions in jobs:
            seen[where] += questions

    toy.watch(monkeypatch, Sampler, "answer", note)
    return seen


def test_validation_questions_never_occur_in_training(start, asked, monkeypatch):
    make_task = world.make_task

    def short(*args):
        # two letters make 528 questions: enough of them come twice
        return dataclasses.replace(make_task(*args), difficulties=(2,))

    monkeypatch.setattr(world, "make_task", short)
    start(eval_questions=64, steps=8, batch=16, anchor=16)
    train_set = set(asked["train"])
    validation = set(asked["validation"])
    assert len(train_set) > 90 and len(validation) > 30 and not train_set & validation


def test_the_fast_phase_sees_the_first_questions_of_the_coming_steps(start, monkeypatch):
    ahead = []
    used = []
    phases = []
    toy.watch(monkeypatch, train, "fast_phase", lambda _, learner, asked, bar: ahead.append(asked))
    toy.watch(monkeypatch, train, "slow_step", lambda _, learner, asked: used.append(asked))
    toy.watch(monkeypatch, train, "evolve", lambda _, phase, surprise: phases.append(phase))
    # The second phase looks ahead from the last step of one task to the first of the next.
    start("run", "--tasks", "strings", "numbers", stage=5, steps=8)
    cycles = [used[i : i + 2] for i in (0, 4)]  # no more than the anchor questions, 2 a step
    assert ahead == [list(itertools.chain(*cycle)) for cycle in cycles]
    for phase, questions in zip(phases, ahead, strict=True):
        assert phase.anchor == questions
        assert len(phase.lessons) == 4 and not {*phase.lessons} & {*phase.anchor}
    assert ahead[0] != ahead[1]


def test_another_seed_has_other_questions(start):
    asked = []
    # In this domain all seeds have the same rules.
    for seed in (0, 1):
        learner = learner_of(start(f"run{seed}", tasks="star_graph", seed=seed, steps=0))
        asked.append((learner.questions_of(0, 4), learner.validation[0]))
    for first, second in zip(*asked, strict=True):
        assert first != second


def test_a_question_is_one_group_over_all_prompts_of_the_population(start, monkeypatch):
    seen = []

    def note(metrics, *, optimizer, contexts, groups, **settings):
        texts = [formats.decode(tokens) for tokens in contexts]
        seen.append((texts, groups.tolist(), optimizer.param_groups[0]["lr"]))

    toy.watch(monkeypatch, rl, "update", note)
    monkeypatch.setattr(train, "WARMUP", 4)
    start(steps=6, batch=3, lr=0.01, passes=20)
    rates = [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01]
    assert [lr for _, _, lr in seen] == pytest.approx(rates)
    for contexts, groups, _ in seen:
        assert sorted(itertools.chain(*groups)) == list(range(12)) and len(groups) == 3
        for group in groups:
            # a context is there once for its two rollouts
            parts = [contexts[i // 2].split("ask ") for i in group]
            assert len({question for _, question in parts}) == 1  # one question
            prompts = Counter(prompt for prompt, _ in parts)
            assert set(prompts.values()) == {2}  # under two prompts, two rollouts each


def test_rollouts_and_the_closing_table_are_under_the_prompt(start, tmp_path, monkeypatch):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("red: sort\nblue: reverse raise\n", encoding="utf-8")
    seen = []

    def note(answers, sampler, jobs, samples=1):
        seen.extend(prompt for prompt, _ in jobs)

    toy.watch(monkeypatch, Sampler, "answer", note)
    start(method="rl", steps=2, prompt=prompt)
    assert seen and all(prompt == {"red": "sort", "blue": "reverse raise"} for prompt in seen)


def test_questions_longer_than_the_context_are_refused_at_the_start(capsys, tmp_path):
    toy.make_base(tmp_path / "b.pt", block_size=200)
    said = toy.refused(capsys, "--base", tmp_path / "b.pt", "--out", tmp_path / "run")
    assert "the texts of strings can take" in said and "reads 200" in said


def test_answers_longer_than_what_is_sampled_are_refused_at_the_start(
    capsys, base, monkeypatch, tmp_path
):
    needed = world.longest_answer(tasks.make_task("strings", 2))  # the seed of toy runs
    argv = [*toy.SIZES, "--base", str(base), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(world.ToyWorld, "answer_tokens", needed - 1)
    said = toy.refused(capsys, *argv)
    assert f"right answers of strings take up to {needed} tokens, {needed - 1} are sampled" in said
    monkeypatch.setattr(world.ToyWorld, "answer_tokens", needed)
    train.main([*argv, "--steps", "0"])


# --- numbers ---


def failing(monkeypatch, steps):
    """Gradients that are not finite in some steps."""
    update = rl.update
    calls = itertools.count(1)

    def sometimes(**settings):
        if next(calls) in steps:
            return {"kl_base": float("nan"), "grad_norm": float("nan"), "dropped_groups": 0}
        return update(**settings)

    monkeypatch.setattr(rl, "update", sometimes)


def test_a_step_without_finite_numbers_is_skipped_and_counted(start, monkeypatch):
    failing(monkeypatch, {2, 3, 5})
    out = start(steps=6)
    train.main(["--resume", str(out), "--steps", "7"])
    assert [line["skipped"] for line in toy.kinds(out, "slow")] == [0, 1, 2, 2, 3, 3, 3]
    assert toy.kinds(out, "slow")[1]["grad_norm"] is None  # NaN is not JSON


def test_a_reward_that_is_not_finite_moves_no_weight(start, base, monkeypatch):
    monkeypatch.setattr(formats, "verify", lambda question, words: float("inf"))
    out = start(steps=1, method="rl")
    line = toy.kinds(out, "slow")[0]
    assert line["skipped"] == 1 and line["reward"] is None
    trained = load_checkpoint(out / "checkpoint.pt")["model"]
    assert toy.equal(trained, load_checkpoint(base)["model"])


def test_a_run_that_keeps_failing_stops_with_its_last_good_checkpoint(
    start, monkeypatch, capsys, tmp_path
):
    failing(monkeypatch, set(range(3, 99)))
    with pytest.raises(SystemExit) as ended:
        start(steps=30, eval_every=1, lr=0.02)
    assert ended.value.code == 2
    out = tmp_path / "run"
    said = capsys.readouterr().err
    assert "not finite in 5 steps on end, the last is step 7: try an --lr below 0.02; go on" in said
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 2
    monkeypatch.undo()
    train.main(["--resume", str(out), "--lr", "0.001", "--steps", "4"])
    assert [line["skipped"] for line in toy.kinds(out, "slow")] == [0, 0, 0, 0]


def test_weights_that_are_not_finite_are_noticed(start, monkeypatch, capsys):
    slow_step = train.slow_step

    def broken(learner, questions):
        with torch.no_grad():
            learner.policy.head.weight[0] = float("nan")
        return slow_step(learner, questions)

    monkeypatch.setattr(train, "slow_step", broken)
    with pytest.raises(SystemExit):
        start(steps=30)
    assert "not finite" in capsys.readouterr().err


def test_equal_rewards_teach_nothing_and_are_no_fault(start, base, monkeypatch):
    monkeypatch.setattr(formats, "verify", lambda question, words: 1.0)
    out = start(steps=3)
    for line in toy.kinds(out, "slow"):
        assert line["reward"] == 1 and line["dropped_groups"] == 2
        assert line["grad_norm"] is None and line["skipped"] == 0
    trained = load_checkpoint(out / "checkpoint.pt")["model"]
    assert toy.equal(trained, load_checkpoint(base)["model"])


def test_the_smallest_sizes(start, monkeypatch):
    sizes = {"batch": 1, "group": 2, "population": 1, "cycle": 1, "anchor": 1, "eval_questions": 1}
    with monkeypatch.context() as patch:
        patch.setattr(fast_context, "PROPOSALS_AT_ONCE", 1)
        out = start("one", steps=3, **sizes)
    assert len(toy.kinds(out, "slow")) == len(toy.kinds(out, "fast")) == 3
    out = start("large", anchor=999, passes=1, cycle=1, steps=1)  # all questions there are
    assert toy.kinds(out, "fast")[0]["calls"] == 2


def test_a_budget_below_one_scoring_leaves_the_prompts_alone(start):
    lines = toy.kinds(start(passes=0), "fast")
    assert [(line["calls"], line["population"]) for line in lines] == [(0, [[{}, 0.0]])] * 2


# --- what people see ---


def test_the_closing_table(start, capsys):
    out = start()
    said = capsys.readouterr().out
    result = result_of(out)
    for words in ("base weights", "final weights", "seed prompt", "evolved prompt"):
        assert words in said
    assert "KL to the base" in said and str(out) in said
    [task] = result["tasks"]
    for topic, rule in task["hidden"].items():
        evolved = task["evolved"].get(topic, "none")
        assert re.search(rf"^{topic} +{rule} +{evolved}$", said, re.MULTILINE)
    assert f"{result['rollouts']} rollouts, all counted" in said
    population = load_checkpoint(out / "checkpoint.pt")["population"]
    assert task["evolved"] == population["candidates"][0][1]


def test_the_closing_table_tells_the_base_from_the_trained_weights(start):
    out = start(method="rl", steps=4, lr=0.3, eval_questions=64)
    first, last = toy.kinds(out, "eval")
    [task] = result_of(out)["tasks"]
    base = round(task["accuracy"]["base weights"][0], 6)
    final = round(task["accuracy"]["final weights"][0], 6)
    assert base == first["val_acc"] != last["val_acc"] == final


def test_each_task_of_a_stream_closes_with_the_prompt_that_it_had(start):
    out = start("stream", "--tasks", "strings", "numbers", steps=8, stage=4)
    results = result_of(out)["tasks"]
    prompts = [line["population"][0][0] for line in toy.kinds(out, "fast")]
    assert [task["task"] for task in results] == ["strings", "numbers"] and len(prompts) == 2
    assert [task["evolved"] for task in results] == prompts


def test_the_closing_table_tells_how_each_stage_ended(start):
    # Stages end between the evaluations.
    argv = ["--tasks", "strings", "numbers", "strings"]
    out = start("stream", *argv, steps=9, stage=3, eval_every=2)
    at_end = [task["at_end"] for task in result_of(out)["tasks"]]
    found = {(line["step"], line["task"]): line["val_acc"] for line in toy.kinds(out, "eval")}
    places = [(3, 0), (6, 1), (9, 2)]
    assert [round(accuracy, 6) for accuracy in at_end] == [found[place] for place in places]


def test_a_stage_that_a_short_run_does_not_reach_is_not_trained(start, capsys):
    out = start("short", "--tasks", "strings", "numbers", method="rl", steps=1, stage=3)
    first, second = result_of(out)["tasks"]
    assert first["at_end"] is not None and second["at_end"] is None
    said = capsys.readouterr().out
    assert "nan" not in said and said.count("not trained") == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_ends_between_two_evaluations_tells_how_it_ended(start, method):
    out = start(method=method, steps=5, eval_every=4, eval_questions=64, lr=0.03)
    [task] = result_of(out)["tasks"]
    seed_prompt, evolved = task["accuracy"]["final weights"]
    assert task["at_end"] == (seed_prompt if method == "distill" else evolved)


def test_a_task_that_comes_back_is_measured_once(start, monkeypatch):
    seen = []
    toy.watch(monkeypatch, Sampler, "answer", lambda answers, *_: seen.append(answers))
    start("once", "--tasks", "strings", method="rl", steps=0)
    n = len(seen)
    start("twice", "--tasks", "strings", "strings", method="rl", steps=0)
    assert len(seen) == 2 * n


def test_the_memory_is_shown_and_written_at_the_end(start, monkeypatch, capsys):
    prompts = [{"red": "sort"}, {"blue": "left raise"}]
    init = Population.__init__

    def with_memory(population, *args):
        init(population, *args)
        population.memory = prompts

    monkeypatch.setattr(Population, "__init__", with_memory)
    out = start(method="rl", steps=0)
    assert result_of(out)["memory"] == prompts
    said = capsys.readouterr().out
    assert all(str(prompt) in said for prompt in prompts)


def test_distillation_learns_without_rewards_what_the_best_prompt_says(start, monkeypatch):
    seen = []
    teachers = []

    def note(metrics, *, policy, teacher, contexts, teacher_contexts, temperature, **settings):
        seen.append((contexts, teacher_contexts))
        teachers.append(next(teacher.parameters()).clone())
        assert teacher is not policy and temperature == 0.8

    toy.watch(monkeypatch, rl, "distill", note)
    out = start(method="distill", steps=20, temperature=0.8)
    bests = [line["population"][0][0] for line in toy.kinds(out, "fast")]
    assert len(seen) == 20 and any(bests)
    # a teacher that moves with its pupil leads it nowhere
    assert torch.equal(teachers[0], teachers[-1])
    for step, (contexts, prompted) in enumerate(seen):
        best = bests[step // 4]
        for plain, with_prompt in zip(contexts, prompted, strict=True):
            question = formats.decode(plain[1:]).removeprefix("rules\n")
            assert formats.decode(with_prompt[1:]) == formats.prompt_text(best) + question
    # it is measured as it is trained
    assert all(line["prompt"] == {} for line in toy.kinds(out, "eval"))


def test_the_trained_weights_are_a_base_for_another_run(start):
    first = start("first", "--lr", "0.1", steps=3)
    argv = ["--base", str(first / "weights.pt"), "--tasks", "numbers"]
    second = start("second", *argv, method="rl", steps=0)
    trained = load_checkpoint(first / "checkpoint.pt")["model"]
    assert toy.equal(load_checkpoint(second / "checkpoint.pt")["model"], trained)


def test_base_skills_are_measured_where_asked_for(start):
    out = start("skilled", "--skills", steps=1, eval_every=5)
    first, last = toy.kinds(out, "skills")  # also where a run ends between two evaluations
    assert (first["step"], last["step"]) == (0, 1)
    assert set(first["skills"]) == set(domains())
    assert all(0 <= rate <= 1 for rate in first["skills"].values())
    # random weights: about the logarithm of the vocabulary
    assert 4 < first["corpus_loss"] < 8
    assert sum(len(exams.skill_items(domain)) for domain in domains().values()) >= 1000
    assert not toy.kinds(start("plain", steps=0), "skills")


NEW_DOMAIN = """
from tasks import Domain

DOMAIN = Domain(
    name="abacus",
    operations={
        "up": lambda s: tuple((d + 1) % 10 for d in s),
        "down": lambda s: tuple((d - 2) % 10 for d in s),
        "turn": lambda s: s[1:] + s[:1],
        "flip": lambda s: s[::-1],
        "double": lambda s: tuple(2 * d % 10 for d in s),
        "order": lambda s: tuple(sorted(s)),
        "ends": lambda s: s[-1:] + s[1:-1] + s[:1],
        "front": lambda s: s[1::-1] + s[2:],
    },
    draw=lambda rng, length: tuple(rng.randrange(10) for _ in range(length)),
    corpus_difficulties={3: 0.9, 4: 0.1},
    task_difficulties=(4,),
    words=tuple("0123456789"),
    show=lambda s: " ".join(map(str, s)),
)
"""


def forget_the_domains():
    """What is found in tasks/ is found anew."""
    for cached in (tasks.domains, formats.encoding, formats.fingerprint):
        getattr(cached, "cache_clear", lambda: None)()


def test_a_new_domain_is_one_file(start, tmp_path, monkeypatch):
    # put into tasks/, it is found, tokenized and pretrained on without any other edit
    (tmp_path / "abacus.py").write_text(NEW_DOMAIN, encoding="utf-8")
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    forget_the_domains()
    try:
        toy.make_base(tmp_path / "new.pt", n_embd=16)
        argv = ["--tasks", "abacus", "--base", str(tmp_path / "new.pt")]
        out = start("abacus", *argv, steps=5)
        assert len(toy.kinds(out, "slow")) == 5
        assert len(formats.encode("double:")) == 1
        documents = corpus.documents([tasks.domains()["abacus"]], 0, 0, 20)
        assert any("order" in formats.decode(tokens) for tokens, _ in documents)
    finally:
        monkeypatch.undo()
        forget_the_domains()


def test_changes_of_the_prompt_are_shown_with_the_reflection_that_made_them(start, capsys):
    out = start(steps=9)
    said = capsys.readouterr().out
    assert said.count("none  ->  ") and said.count("\n    reflect ") and said.count("\n    ask ")
    for line in ("none  ->  ", "\n    reflect "):
        assert line in (out / "samples.txt").read_text(encoding="utf-8")

"""train.py: the loop's bookkeeping, and faults that cost nothing."""

import dataclasses
import itertools
import json
import re

import pytest
import torch

import pretrain
import rl
import run
import tasks
import train
from config import METHODS, parse_config
from model import load_checkpoint
from tasks import domains, exams, text
from tests import toy

pytestmark = pytest.mark.usefixtures("toy_world")


# --- the log ---


def test_every_line_of_the_log_has_exactly_its_fields(start):
    fields = {
        "slow": "reward entropy kl_base grad_norm dropped_groups skipped seconds",
        "fast": "calls reflections proposed accepted merged population seconds",
        "eval": "val_acc kl_base neutral_acc neutral_kl prompt",
    }
    out = start(steps=9)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    for line in lines:
        assert list(line) == ["kind", "step", "task", "rollouts", "tokens", *fields[line["kind"]].split()]
    assert [line["step"] for line in lines if line["kind"] == "slow"] == list(range(1, 10))
    assert [line["step"] for line in lines if line["kind"] == "fast"] == [0, 4, 8]  # the cycle is 4
    assert [line["step"] for line in lines if line["kind"] == "eval"] == [0, 4, 8]
    assert all(a["rollouts"] <= b["rollouts"] for a, b in itertools.pairwise(lines))
    assert any(line["kind"] == "slow" and line["grad_norm"] for line in lines)  # else these tests would show little
    assert any(line["kind"] == "fast" and line["accepted"] for line in lines)


@pytest.mark.parametrize("method", METHODS)
def test_rollouts_and_tokens_are_all_that_was_sampled_but_for_evaluations(start, monkeypatch, method):
    counts, tokens, evaluating = {True: 0, False: 0}, {True: 0, False: 0}, [False]
    sample, evaluate = pretrain.sample, train.evaluate

    def counted(*args, **settings):
        rollouts = sample(*args, **settings)
        counts[evaluating[0]] += len(rollouts.lengths)
        tokens[evaluating[0]] += int(rollouts.lengths.sum())
        return rollouts

    def counted_evaluate(*args):
        evaluating[0] = True
        result = evaluate(*args)
        evaluating[0] = False
        return result

    monkeypatch.setattr(pretrain, "sample", counted)
    monkeypatch.setattr(train, "evaluate", counted_evaluate)
    out = start(method=method, steps=7)
    lines = toy.log_of(out)
    assert lines[-1]["rollouts"] == counts[False] > 0 and counts[True] > 0
    assert lines[-1]["tokens"] == tokens[False] > counts[False]
    gradient, fast = len(toy.kinds(out, "slow")) * 2 * 4, sum(line["calls"] for line in toy.kinds(out, "fast"))
    assert lines[-1]["rollouts"] == gradient + fast
    assert (gradient == 0) == (method == "gepa") and (fast == 0) == (method == "rl")
    assert json.loads((out / "result.json").read_text())["rollouts"] == counts[False]


def test_evaluation_does_not_disturb_training(start):
    often, seldom = start("often", eval_every=1), start("seldom", eval_every=5)
    assert toy.kinds(often, "slow", "fast") == toy.kinds(seldom, "slow", "fast")
    assert len(toy.kinds(often, "eval")) > len(toy.kinds(seldom, "eval"))


def test_a_stream_goes_through_its_tasks_and_evaluates_on_all_when_a_stage_ends(start):
    argv = ["--tasks", "strings", "strings"]
    out = start("run", *argv, stage=4, steps=8, eval_every=2)
    assert [line["task"] for line in toy.kinds(out, "slow")] == [0, 0, 0, 0, 1, 1, 1, 1]
    evaluated = [(line["step"], line["task"]) for line in toy.kinds(out, "eval")]
    assert evaluated == [(0, 0), (0, 1), (2, 0), (4, 0), (4, 1), (6, 1), (8, 0), (8, 1)]
    tasks = run.Run(parse_config(["--resume", str(out)])).tasks
    assert tasks[0].rules != tasks[1].rules


def test_each_task_is_told_with_the_prompt_that_it_was_last_trained_under(start):
    out = start("run", "--tasks", "strings", "numbers", steps=6, stage=3, cycle=6, passes=40)
    [fast] = toy.kinds(out, "fast")  # none begins in the second stage
    best = fast["population"][0][0]
    assert best and [t["evolved"] for t in json.loads((out / "result.json").read_text())["tasks"]] == [best, best]


def test_entropy_and_kl_are_per_token(start, monkeypatch):
    seen, answer, score = [], train.answer, rl.score
    monkeypatch.setattr(train, "answer", lambda *args, **kw: seen.append(answer(*args, **kw)) or seen[-1])
    out = start(method="rl", steps=1, eval_every=1, lr=0.3)
    slow, last = toy.kinds(out, "slow")[0], toy.kinds(out, "eval")[-1]
    _, sampled, evaluated, *_ = seen  # before the evaluation at step 1 there were one at step 0, and the rollouts
    total = count = 0.0
    for logprobs, completion in zip(sampled.logprobs, sampled.completions, strict=True):
        total, count = total - logprobs[: len(completion)].sum().item(), count + len(completion)
    assert slow["entropy"] == pytest.approx(total / count, abs=1e-6) and total > 0
    base, total, count = run.Run(parse_config(["--resume", str(out)])).base, 0.0, 0
    for i, (context, completion) in enumerate(zip(evaluated.contexts, evaluated.completions, strict=True)):
        log_r = score(base, [context], [completion], 1.0)[0] - evaluated.logprobs[i, : len(completion)]
        total, count = total + (log_r.exp() - 1 - log_r).sum().item(), count + len(completion)
    assert last["kl_base"] == pytest.approx(total / count, abs=1e-5) and total > 0.01


@pytest.mark.parametrize("method", ["fst", "rl", "gepa"])
def test_what_was_evaluated_is_evaluated_again_only_with_other_weights_or_another_prompt(start, monkeypatch, method):
    measured, generator_of = [], train.generator_of  # in train.py only evaluations use it

    def watched(model, *settings):
        generate, weights = generator_of(model, *settings), sum(p.double().sum().item() for p in model.parameters())
        return lambda prompts, *rest: (measured.append((weights, *prompts[0])), generate(prompts, *rest))[1]

    monkeypatch.setattr(train, "generator_of", watched)
    out = start(method=method, steps=12)
    evaluations, weights = toy.kinds(out, "eval"), {w for w, *_ in measured}
    assert len(measured) == len(set(measured)) < 2 * len(evaluations) + 4
    assert len(weights) == (1 if method == "gepa" else len(evaluations)) == (1 if method == "gepa" else 4)


def test_what_is_shown_at_the_end_of_a_stage_is_of_the_task_that_was_trained_on(start):
    out = start("run", "--tasks", "strings", "numbers", steps=6, stage=3, eval_every=3)
    shown = re.findall(r"step (\d): (\w+), validation", (out / "samples.txt").read_text())
    assert shown == [("0", "strings"), ("3", "strings"), ("6", "numbers")]


def test_evaluations_also_tell_of_the_prompt_that_the_run_began_with(start, monkeypatch):
    same = toy.kinds(start("rl", method="rl"), "eval")
    assert all((e["neutral_acc"], e["neutral_kl"]) == (e["val_acc"], e["kl_base"]) for e in same)
    monkeypatch.setattr(run.Run, "best", lambda self: {"red": "sort"})
    out = start("fst", steps=6, eval_every=6)
    last, task = toy.kinds(out, "eval")[-1], json.loads((out / "result.json").read_text())["tasks"][0]
    assert last["prompt"] == {"red": "sort"} and last["neutral_kl"] != last["kl_base"]
    assert last["neutral_acc"] == round(task["accuracy"]["trained weights"][0], 6)
    assert last["neutral_kl"] == round(task["kl_base"][0], 6)


# --- questions ---


@pytest.fixture
def asked(monkeypatch):
    """Every question that is asked: {"train": [...], "validation": [...]}."""
    seen, where, answer, evaluate = {"train": [], "validation": []}, ["train"], train.answer, train.evaluate

    def watched(generate, jobs, samples=1):
        seen[where[0]] += [question for _, questions in jobs for question in questions]
        return answer(generate, jobs, samples)

    def watched_evaluate(*args):
        where[0] = "validation"
        result = evaluate(*args)
        where[0] = "train"
        return result

    monkeypatch.setattr(train, "answer", watched)
    monkeypatch.setattr(train, "evaluate", watched_evaluate)
    return seen


def test_validation_questions_never_occur_in_training(start, asked, monkeypatch):
    make_task = run.make_task  # two letters make 528 questions: enough of them come twice
    monkeypatch.setattr(run, "make_task", lambda *args: dataclasses.replace(make_task(*args), difficulties=(2,)))
    start(eval_questions=64, steps=8, batch=16, anchor=16)
    train_set, validation = set(asked["train"]), set(asked["validation"])
    assert len(train_set) > 90 and len(validation) > 30 and not train_set & validation


def test_the_fast_phase_sees_exactly_the_questions_of_the_coming_steps(start, monkeypatch):
    ahead, used, anchors = [], [], []
    fast_phase, slow_step, evolve = train.fast_phase, train.slow_step, train.evolve
    monkeypatch.setattr(train, "fast_phase", lambda run, qs: (ahead.append(qs), fast_phase(run, qs))[1])
    monkeypatch.setattr(train, "slow_step", lambda run, qs: (used.append(qs), slow_step(run, qs))[1])
    monkeypatch.setattr(
        train, "evolve", lambda p, anchor, *a, **k: (anchors.append(anchor), evolve(p, anchor, *a, **k))[1]
    )
    start(steps=8)
    steps = [used[i : i + 4] for i in (0, 4)]  # the cycle is 4
    assert ahead == [[q for batch in cycle for q in batch] for cycle in steps]
    assert anchors == [questions[:4] for questions in ahead] and ahead[0] != ahead[1]


def test_a_question_is_one_group_over_all_prompts_of_the_population(start, monkeypatch):
    seen, update = [], rl.update

    def watched(policy, base, optimizer, contexts, completions, logprobs, rewards, groups, **settings):
        seen.append(([text.decode(tokens) for tokens in contexts], groups.tolist(), optimizer.param_groups[0]["lr"]))
        return update(policy, base, optimizer, contexts, completions, logprobs, rewards, groups, **settings)

    monkeypatch.setattr(train.rl, "update", watched)
    start(steps=4, batch=3, lr=0.01, warmup=4, passes=20)
    assert [lr for _, _, lr in seen] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    for contexts, groups, _ in seen:
        assert sorted(i for group in groups for i in group) == list(range(12)) and len(groups) == 3
        for group in groups:  # a context is there once for its two rollouts
            assert len({contexts[i // 2].split("ask ")[1] for i in group}) == 1  # one question
            prompts = [contexts[i // 2].split("ask ")[0] for i in group]
            assert {prompts.count(prompt) for prompt in prompts} == {2}  # under two prompts, two rollouts each


# --- numbers ---


def failing(monkeypatch, steps):
    """Gradients that are not finite in some steps."""
    update = rl.update

    def sometimes(policy, base, optimizer, *rest, **settings):
        failing.calls += 1
        if failing.calls in steps:
            return {"kl_base": float("nan"), "grad_norm": float("nan"), "dropped_groups": 0}
        return update(policy, base, optimizer, *rest, **settings)

    failing.calls = 0
    monkeypatch.setattr(train.rl, "update", sometimes)


def test_a_step_without_finite_numbers_is_skipped_and_counted(start, monkeypatch):
    failing(monkeypatch, {2, 3, 5})
    out = start(steps=6)
    assert [line["skipped"] for line in toy.kinds(out, "slow")] == [0, 1, 2, 2, 3, 3]
    assert toy.kinds(out, "slow")[1]["grad_norm"] is None  # NaN is not JSON


def test_a_reward_that_is_not_finite_moves_no_weight(start, base, monkeypatch):
    monkeypatch.setattr(text, "verify", lambda question, words: float("inf"))
    out = start(steps=1, method="rl")
    assert toy.kinds(out, "slow")[0]["skipped"] == 1 and toy.kinds(out, "slow")[0]["reward"] is None
    assert toy.equal(load_checkpoint(out / "checkpoint.pt")["model"], load_checkpoint(base)["model"])


def test_a_run_that_keeps_failing_stops_with_its_last_good_checkpoint(start, monkeypatch, capsys, tmp_path):
    failing(monkeypatch, set(range(3, 99)))
    with pytest.raises(SystemExit) as ended:
        start(steps=30, eval_every=1, lr=0.02)
    assert ended.value.code == 2
    out, said = tmp_path / "run", capsys.readouterr().err
    assert "not finite in 5 steps on end, the last is step 7: try an --lr below 0.02; go on" in said
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 2
    monkeypatch.undo()
    train.main(["--resume", str(out), "--lr", "0.001", "--steps", "4"])
    assert [line["skipped"] for line in toy.kinds(out, "slow")] == [0, 0, 0, 0]


def test_weights_that_are_not_finite_are_noticed(start, monkeypatch, capsys):
    slow_step = train.slow_step

    def broken(run, questions):
        with torch.no_grad():
            run.policy.head.weight[0] = float("nan")
        return slow_step(run, questions)

    monkeypatch.setattr(train, "slow_step", broken)
    with pytest.raises(SystemExit):
        start(steps=30)
    assert "not finite" in capsys.readouterr().err


def test_equal_rewards_teach_nothing_and_are_no_fault(start, base, monkeypatch):
    monkeypatch.setattr(text, "verify", lambda question, words: 1.0)
    out = start(steps=3)
    for line in toy.kinds(out, "slow"):
        assert (line["reward"], line["dropped_groups"], line["grad_norm"], line["skipped"]) == (1, 2, None, 0)
    assert toy.equal(load_checkpoint(out / "checkpoint.pt")["model"], load_checkpoint(base)["model"])


def test_the_smallest_sizes(start):
    out = start("one", batch=1, group=2, population=1, cycle=1, anchor=1, width=1, eval_questions=1, steps=3)
    assert len(toy.kinds(out, "slow")) == len(toy.kinds(out, "fast")) == 3
    out = start("large", anchor=999, passes=1, cycle=1, steps=1)  # the anchor set is all that there is
    assert toy.kinds(out, "fast")[0]["calls"] == 2


def test_a_budget_below_one_scoring_leaves_the_prompts_alone(start):
    out = start(passes=0)
    assert [(line["calls"], line["population"]) for line in toy.kinds(out, "fast")] == [(0, [[{}, 0.0]])] * 2


# --- what people see ---


def test_the_closing_table(start, capsys):
    out = start()
    said, result = capsys.readouterr().out, json.loads((out / "result.json").read_text())
    for words in ("base weights", "trained weights", "seed prompt", "evolved prompt", "KL to the base", str(out)):
        assert words in said
    [task] = result["tasks"]
    for topic, rule in task["hidden"].items():
        assert f"{topic:8}{rule:26}{task['evolved'].get(topic, 'none')}" in said
    assert f"{result['rollouts']} rollouts, all counted" in said
    assert task["evolved"] == load_checkpoint(out / "checkpoint.pt")["population"]["candidates"][0][1]


def test_each_task_of_a_stream_closes_with_the_prompt_that_it_had(start):
    out = start("stream", "--tasks", "strings", "numbers", steps=8, stage=4)
    tasks = json.loads((out / "result.json").read_text())["tasks"]
    prompts = [line["population"][0][0] for line in toy.kinds(out, "fast")]
    assert [task["task"] for task in tasks] == ["strings", "numbers"] and len(prompts) == 2
    assert [task["evolved"] for task in tasks] == prompts


def test_distillation_learns_without_rewards_what_the_best_prompt_says(start, monkeypatch):
    distill, seen, teachers = rl.distill, [], []

    def spy(policy, teacher, optimizer, contexts, taught, completions, temperature):
        seen.append((contexts, taught))
        teachers.append(next(teacher.parameters()).clone())
        assert teacher is not policy
        return distill(policy, teacher, optimizer, contexts, taught, completions, temperature)

    monkeypatch.setattr(rl, "distill", spy)
    out = start(method="distill", steps=20)
    bests = [line["population"][0][0] for line in toy.kinds(out, "fast")]
    assert len(seen) == 20 and any(bests)
    assert torch.equal(teachers[0], teachers[-1])  # a teacher that moves with its pupil leads it nowhere
    for step, (contexts, prompted) in enumerate(seen):
        best = bests[step // 4]
        for plain, with_prompt in zip(contexts, prompted, strict=True):
            question = text.decode(plain[1:]).removeprefix("rules\n")
            assert text.decode(with_prompt[1:]) == text.prompt_text(best) + question
    assert all(line["prompt"] == {} for line in toy.kinds(out, "eval"))  # it is measured as it is trained


def test_the_trained_weights_are_a_base_for_another_run(start):
    first = start("first", "--lr", "0.1", steps=3)
    second = start("second", "--base", str(first / "weights.pt"), "--tasks", "numbers", method="rl", steps=0)
    trained = load_checkpoint(first / "checkpoint.pt")["model"]
    assert toy.equal(load_checkpoint(second / "checkpoint.pt")["model"], trained)


def test_base_skills_are_measured_where_asked_for(start):
    [first, *_] = toy.kinds(start("skilled", "--skills", steps=0), "skills")
    assert set(first["skills"]) == set(domains()) and all(0 <= rate <= 1 for rate in first["skills"].values())
    assert 4 < first["corpus_loss"] < 8  # random weights: about the logarithm of the vocabulary
    assert sum(len(exams.skills(domain)) for domain in domains().values()) >= 1000
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


def test_a_new_domain_is_one_file(start, tmp_path, monkeypatch):
    # put into tasks/, it is found, tokenized and pretrained on without any other edit
    (tmp_path / "abacus.py").write_text(NEW_DOMAIN)
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    for cached in (tasks.domains, text.encoding, text.fingerprint):
        getattr(cached, "cache_clear", lambda: None)()
    try:
        toy.make_base(tmp_path / "new.pt", n_embd=16)
        out = start("abacus", "--tasks", "abacus", "--base", str(tmp_path / "new.pt"), steps=5)
        assert len(toy.kinds(out, "slow")) == 5
        assert len(text.encode("double:")) == 1
        documents = pretrain.corpus.documents([tasks.domains()["abacus"]], 0, 0, 20)
        assert any("order" in text.decode(tokens) for tokens, _ in documents)
    finally:
        monkeypatch.undo()
        for cached in (tasks.domains, text.encoding, text.fingerprint):
            getattr(cached, "cache_clear", lambda: None)()


def test_changes_of_the_prompt_are_shown_with_the_reflection_that_made_them(start, capsys):
    out = start(steps=9)
    said = capsys.readouterr().out
    assert said.count("none  ->  ") and said.count("\n    reflect ") and said.count("\n    ask ")
    for line in ("none  ->  ", "\n    reflect "):
        assert line in (out / "samples.txt").read_text()


def test_what_a_model_wrote_cannot_steer_the_terminal(start, capsys):
    finished = run.Run(parse_config(["--resume", str(start(steps=0))]))
    capsys.readouterr()
    finished.say("a\x1b[2J\r\x07é\nb")
    assert capsys.readouterr().out == "a?[2J???\nb\n"

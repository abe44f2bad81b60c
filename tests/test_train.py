"""train.py: the loop's bookkeeping, resuming bit by bit, and faults that cost nothing."""

import dataclasses
import gc
import itertools
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pretrain
import rl
import train
from config import Config, parse_config
from model import load_checkpoint, save_checkpoint
from tasks import text
from tests import toy

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "base.pt"
    toy.make_base(path)
    return path


@pytest.fixture(autouse=True)
def toy_world(monkeypatch):
    """A hash decides what is right; the machine's threads are left to others."""
    torch.set_num_threads(1)
    monkeypatch.setattr(text, "verify", toy.verify)
    monkeypatch.setattr(text, "parse_instruction", toy.parse_instruction)


@pytest.fixture
def start(base, tmp_path):
    """A function that carries a small run through, in a folder of a name -> the folder."""

    def start(name="run", *argv, **options) -> Path:
        options = {"base": base, "steps": 6, "out": tmp_path / name} | options
        flags = [word for key, value in options.items() for word in ("--" + key.replace("_", "-"), str(value))]
        train.main([*toy.SIZES, *flags, *argv])
        return tmp_path / name

    return start


def refused(capsys, *argv) -> str:
    """The one line with which `train.py argv` ends, with code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        train.main([str(word) for word in argv])
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train.py: ")]
    assert len(lines) == 1
    del ended
    gc.collect()  # the exception kept the run, and so its lock
    return lines[0]


def kinds(out: Path, *wanted: str) -> list[dict]:
    return [line for line in toy.log_of(out) if line["kind"] in wanted]


# --- the log ---


def test_every_line_of_the_log_has_exactly_its_fields(start):
    fields = {
        "slow": "reward entropy kl_base grad_norm dropped_groups skipped seconds",
        "fast": "calls proposed accepted population",
        "eval": "val_acc kl_base prompt",
    }
    out = start(steps=9)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    for line in lines:
        assert list(line) == ["kind", "step", "task", "rollouts", *fields[line["kind"]].split()]
    assert [line["step"] for line in lines if line["kind"] == "slow"] == list(range(1, 10))
    assert [line["step"] for line in lines if line["kind"] == "fast"] == [0, 4, 8]  # the cycle is 4
    assert [line["step"] for line in lines if line["kind"] == "eval"] == [0, 4, 8]
    assert all(a["rollouts"] <= b["rollouts"] for a, b in itertools.pairwise(lines))
    assert any(line["kind"] == "slow" and line["grad_norm"] for line in lines)  # else these tests would show little
    assert any(line["kind"] == "fast" and line["accepted"] for line in lines)


@pytest.mark.parametrize("method", ["fst", "rl", "gepa"])
def test_rollouts_are_all_that_was_sampled_but_for_evaluations(start, monkeypatch, method):
    counts, evaluating, sample, evaluate = {True: 0, False: 0}, [False], pretrain.sample, train.evaluate

    def counted(*args, **settings):
        rollouts = sample(*args, **settings)
        counts[evaluating[0]] += len(rollouts.lengths)
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
    gradient, fast = len(kinds(out, "slow")) * 2 * 4, sum(line["calls"] for line in kinds(out, "fast"))
    assert lines[-1]["rollouts"] == gradient + fast
    assert (gradient == 0) == (method == "gepa") and (fast == 0) == (method == "rl")
    assert json.loads((out / "result.json").read_text())["rollouts"] == counts[False]


def test_evaluation_does_not_disturb_training(start):
    often, seldom = start("often", eval_every=1), start("seldom", eval_every=5)
    assert kinds(often, "slow", "fast") == kinds(seldom, "slow", "fast")
    assert len(kinds(often, "eval")) > len(kinds(seldom, "eval"))


def test_a_stream_goes_through_its_tasks_and_evaluates_on_all(start, monkeypatch):
    argv = ["--tasks", "strings", "strings"]
    out = start("run", *argv, stage=3)
    assert [line["task"] for line in kinds(out, "slow")] == [0, 0, 0, 1, 1, 1]
    assert [(line["step"], line["task"]) for line in kinds(out, "eval")] == [(0, 0), (0, 1), (4, 0), (4, 1)]
    tasks = train.Run(parse_config([*toy.SIZES, "--resume", str(out)])).tasks
    assert tasks[0].rules != tasks[1].rules


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
    make_task = train.make_task  # two letters make 528 questions: enough of them come twice
    monkeypatch.setattr(train, "make_task", lambda *args: dataclasses.replace(make_task(*args), difficulty=2))
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
        for group in groups:
            assert len({contexts[i].split("ask ")[1] for i in group}) == 1  # one question
            prompts = [contexts[i].split("ask ")[0] for i in group]
            assert {prompts.count(prompt) for prompt in prompts} == {2}  # under two prompts, two rollouts each


# --- resuming ---


@pytest.mark.parametrize("method", ["fst", "rl", "gepa"])
@pytest.mark.parametrize("first", [5, 8])  # in the middle of a cycle and at no evaluation; at both
def test_a_resumed_run_equals_one_that_never_stopped(start, method, first):
    whole, parts = start("whole", method=method, steps=10), start("parts", method=method, steps=first)
    before = load_checkpoint(parts / "checkpoint.pt")
    train.main(["--resume", str(parts), "--steps", "10"])
    a, b = toy.outcome(whole), toy.outcome(parts)
    assert a[0] == b[0] and toy.equal(a, b)
    moved = [not torch.equal(w, before["model"][name]) for name, w in a[3]["model"].items()]
    assert any(moved) == (method != "gepa")  # or the weights would prove nothing
    assert (len(a[3]["population"]["lineage"]) > 1) == (method != "rl")


def test_resuming_a_finished_run_changes_nothing_and_may_go_on(start):
    out = start(steps=0)
    assert [line["kind"] for line in toy.log_of(out)] == ["eval"]
    before = toy.outcome(out)
    train.main(["--resume", str(out)])
    assert toy.equal(before, toy.outcome(out))
    train.main(["--resume", str(out), "--steps", "4"])
    assert toy.equal(toy.outcome(out), toy.outcome(start("whole", steps=4)))


def test_half_written_files_are_undone(start):
    out = start(steps=5)
    with open(out / "log.jsonl", "a") as file:
        file.write('{"kind": "slow", "step": 6, "task": 0}\n{"kind": "sl')  # a step past the checkpoint, a torn line
    with open(out / "samples.txt", "a") as file:
        file.write("[step 6] half")
    (out / "checkpoint.pt.tmp").write_bytes((out / "checkpoint.pt").read_bytes()[:999])
    (out / "config.json.tmp").write_text('{"steps"')
    train.main(["--resume", str(out), "--steps", "9"])
    assert toy.equal(toy.outcome(out), toy.outcome(start("whole", steps=9)))


def test_a_run_without_its_first_checkpoint_starts_from_scratch(start):
    out = start(steps=0)
    (out / "checkpoint.pt").unlink()
    train.main(["--resume", str(out), "--steps", "5"])
    assert toy.equal(toy.outcome(out), toy.outcome(start("whole", steps=5)))


def test_ctrl_c_saves_and_says_how_to_go_on(start, monkeypatch, capsys):
    slow_step = train.slow_step

    def interrupted(run, questions):
        reward = slow_step(run, questions)
        if run.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return reward

    monkeypatch.setattr(train, "slow_step", interrupted)
    out = start(steps=6)
    assert f"stopped after step 3; go on from the last checkpoint with: python train.py --resume {out}" in (
        capsys.readouterr().out
    )
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 3
    monkeypatch.setattr(train, "slow_step", slow_step)
    train.main(["--resume", str(out)])
    assert toy.equal(toy.outcome(out), toy.outcome(start("whole", steps=6)))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_same_seed_gives_the_same_run_in_every_process(base, tmp_path):
    code = (
        "import sys; from tests import toy; from tasks import text; import train\n"
        "text.verify, text.parse_instruction = toy.verify, toy.parse_instruction; train.main(sys.argv[1:])"
    )
    runs = []
    for hash_seed in ("1", "2"):
        argv = [*toy.SIZES, "--base", str(base), "--steps", "5", "--out", str(tmp_path / hash_seed)]
        settings = {"PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
        runs.append(subprocess.Popen([sys.executable, "-c", code, *argv], cwd=ROOT, env=os.environ | settings))
    assert [run.wait() for run in runs] == [0, 0]
    assert toy.equal(toy.outcome(tmp_path / "1"), toy.outcome(tmp_path / "2"))
    assert any(line["kind"] == "fast" and line["accepted"] for line in toy.log_of(tmp_path / "1"))


# --- folders ---


def test_a_folder_with_another_run_is_refused(start, capsys, base):
    out = start(steps=1)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert f"holds another run: choose another, or go on with --resume {out}" in refused(
        capsys, "--base", base, "--out", out
    )
    (out / "config.json").unlink()  # its settings are lost, the run is not
    assert "holds another run" in refused(capsys, "--base", base, "--out", out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        name: data for name, data in before.items() if name != "config.json"
    }


def test_a_log_without_its_checkpoint_is_not_overwritten(start, capsys, tmp_path, base):
    out = start(steps=5)
    log = (out / "log.jsonl").read_bytes()
    (out / "checkpoint.pt").rename(out / "elsewhere.pt")
    assert "does not fit the last checkpoint" in refused(capsys, "--resume", out)
    assert (out / "log.jsonl").read_bytes() == log
    (out / "elsewhere.pt").rename(out / "checkpoint.pt")
    (out / "log.jsonl").write_bytes(log[:-9])
    assert "does not fit the last checkpoint" in refused(capsys, "--resume", out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "samples.txt").write_text("poems")
    assert "samples.txt does not fit" in refused(capsys, "--base", base, "--out", tmp_path / "mine")
    assert (tmp_path / "mine" / "samples.txt").read_text() == "poems"


@pytest.mark.skipif(train.fcntl is None, reason="no locks here")
def test_of_two_runs_in_a_folder_the_second_is_refused(start, capsys, base):
    out = start(steps=1)
    first = train.Run(parse_config(["--resume", str(out)]))
    assert f"another process is at work in {out}" in refused(capsys, "--resume", out)
    first.lock.close()  # as the system does for a process that was killed
    train.main(["--resume", str(out)])


def test_without_locks_all_else_works(start, monkeypatch):
    monkeypatch.setattr(train, "fcntl", None)
    train.main(["--resume", str(start(steps=1)), "--steps", "2"])


def test_new_runs_get_new_folders(monkeypatch, tmp_path, base):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        train.main([*toy.SIZES, "--base", str(base), "--steps", "0"])
    assert sorted(os.listdir("out")) == ["fst-strings-seed0-1", "fst-strings-seed0-2"]


def test_a_folder_that_cannot_be_written(capsys, tmp_path, base, monkeypatch):
    (tmp_path / "file").write_text("mine")
    assert "Not a directory" in refused(capsys, "--base", base, "--out", tmp_path / "file" / "run")
    assert "File exists" in refused(capsys, "--base", base, "--out", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"

    def forbidden(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", forbidden)
    assert f"Permission denied: '{tmp_path / 'new'}'" in refused(capsys, "--base", base, "--out", tmp_path / "new")


def test_a_full_disk_keeps_the_last_checkpoint(start, capsys):
    resource = pytest.importorskip("resource")
    out = start(steps=2)
    before, limits = (out / "checkpoint.pt").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))  # logs fit, checkpoints do not
    try:
        said = refused(capsys, "--resume", out, "--steps", "6")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in said and f"{out / 'checkpoint.pt'}" in said and f"--resume {out}" in said
    assert (out / "checkpoint.pt").read_bytes() == before and not (out / "checkpoint.pt.tmp").exists()
    train.main(["--resume", str(out), "--steps", "6"])
    assert toy.equal(toy.outcome(out), toy.outcome(start("whole", steps=6)))


def test_a_damaged_or_foreign_checkpoint_is_not_gone_on_with(start, capsys, base):
    out = start(steps=2)
    path = out / "checkpoint.pt"
    whole, log = path.read_bytes(), (out / "log.jsonl").read_bytes()
    rng = random.Random(0)
    for _ in range(20):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            assert toy.equal(load_checkpoint(path), load_checkpoint(path))  # in a name or in padding: harmless
        except ValueError as error:
            assert "damaged" in str(error)
    for damaged in (whole[:-1], whole[: len(whole) // 2], b""):
        path.write_bytes(damaged)
        assert "damaged" in refused(capsys, "--resume", out)
    path.write_bytes(base.read_bytes())
    assert "of no run" in refused(capsys, "--resume", out)
    path.write_bytes(whole)
    assert (out / "log.jsonl").read_bytes() == log
    train.main(["--resume", str(out), "--steps", "3"])


# --- the base ---


def test_a_base_that_was_asked_for_and_cannot_be_used_is_refused(capsys, tmp_path, base):
    whole, path, out = base.read_bytes(), tmp_path / "b.pt", tmp_path / "run"
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    assert "no checkpoint at" in refused(capsys, "--base", path, "--out", out)
    for data, said in (
        (whole[: len(whole) // 2], "damaged"),
        (bytes(flipped), "damaged"),
        (b"hello", "damaged, or no checkpoint of this program"),
    ):
        path.write_bytes(data)
        assert said in refused(capsys, "--base", path, "--out", out)
        assert path.read_bytes() == data
    toy.make_base(path, vocabulary="another")
    assert "knows another vocabulary, or is none" in refused(capsys, "--base", path, "--out", out)
    save_checkpoint(path, {"step": 3})
    assert "or is none" in refused(capsys, "--base", path, "--out", out)
    assert not (out / "config.json").exists()  # so that the same --out works with another base


@pytest.fixture
def default_base(monkeypatch, tmp_path):
    """The default base of a fresh clone (still missing), and pretraining that takes no time."""
    monkeypatch.chdir(tmp_path)
    path = Path(Config.base)
    path.parent.mkdir()
    minutes = []
    monkeypatch.setattr(train, "pretrain", lambda p, device, **s: (minutes.append(s["minutes"]), toy.make_base(p)))
    return path, minutes


def test_a_missing_default_base_is_trained(default_base, capsys):
    path, minutes = default_base
    train.main([*toy.SIZES, "--steps", "0"])
    assert f"the base {path} is not there yet: training one, 12 minutes" in capsys.readouterr().out
    train.main([*toy.SIZES, "--steps", "0"])
    assert minutes == [12] and path.exists()


def test_a_default_base_of_another_vocabulary_is_replaced_and_kept(default_base, capsys):
    path, minutes = default_base
    toy.make_base(path, vocabulary="another")
    old = path.read_bytes()
    train.main([*toy.SIZES, "--steps", "0"])
    assert "knows another vocabulary: training one" in capsys.readouterr().out and minutes == [12]
    [kept] = [file for file in path.parent.iterdir() if file != path]
    assert kept.read_bytes() == old and load_checkpoint(path)["vocabulary"] == text.fingerprint()


def test_a_damaged_default_base_is_left_alone(default_base, capsys):
    path, minutes = default_base
    path.write_bytes(b"hello")
    assert "damaged" in refused(capsys, *toy.SIZES)
    assert path.read_bytes() == b"hello" and minutes == []


def test_pretraining_again_keeps_every_old_base(default_base):
    path, minutes = default_base
    contents = set()
    for n in (8, 12, 12):
        toy.make_base(path, n_hidden=n)
        contents.add(path.read_bytes())
        train.main(["--pretrain", "--minutes", "3"])
    assert minutes == [3, 3, 3] and {f.read_bytes() for f in path.parent.iterdir() if f != path} == contents
    assert len(contents) == 2 and not Path("out").exists()


def test_a_run_does_not_go_on_with_another_base(start, capsys, tmp_path):
    toy.make_base(tmp_path / "b.pt")
    out = start(steps=2, base=tmp_path / "b.pt")
    toy.make_base(tmp_path / "b.pt", n_hidden=12)
    assert "began with another base" in refused(capsys, "--resume", out)
    toy.make_base(tmp_path / "moved.pt")
    train.main(["--resume", str(out), "--base", str(tmp_path / "moved.pt"), "--steps", "3"])


def test_a_begun_run_whose_base_is_gone_does_not_train_one(default_base, capsys):
    path, minutes = default_base
    train.main([*toy.SIZES, "--steps", "1", "--out", "run"])
    path.unlink()
    assert "no checkpoint at" in refused(capsys, "--resume", "run")
    assert minutes == [12]


def test_questions_longer_than_the_context_are_refused_at_the_start(capsys, tmp_path):
    toy.make_base(tmp_path / "b.pt", block_size=200)
    said = refused(capsys, "--base", tmp_path / "b.pt", "--out", tmp_path / "run")
    assert "the texts of strings can take" in said and "reads 200" in said


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
    assert [line["skipped"] for line in kinds(out, "slow")] == [0, 1, 2, 2, 3, 3]
    assert kinds(out, "slow")[1]["grad_norm"] is None  # NaN is not JSON


def test_a_reward_that_is_not_finite_moves_no_weight(start, base, monkeypatch):
    monkeypatch.setattr(text, "verify", lambda question, words: float("inf"))
    out = start(steps=1, method="rl")
    assert kinds(out, "slow")[0]["skipped"] == 1 and kinds(out, "slow")[0]["reward"] is None
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
    assert [line["skipped"] for line in kinds(out, "slow")] == [0, 0, 0, 0]


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
    for line in kinds(out, "slow"):
        assert (line["reward"], line["dropped_groups"], line["grad_norm"], line["skipped"]) == (1, 2, None, 0)
    assert toy.equal(load_checkpoint(out / "checkpoint.pt")["model"], load_checkpoint(base)["model"])


def test_the_smallest_sizes(start):
    out = start("one", batch=1, group=2, population=1, cycle=1, anchor=1, width=1, eval_questions=1, steps=3)
    assert len(kinds(out, "slow")) == len(kinds(out, "fast")) == 3
    out = start("large", anchor=999, passes=1, cycle=1, steps=1)  # the anchor set is all that there is
    assert kinds(out, "fast")[0]["calls"] == 2


def test_a_budget_below_one_scoring_leaves_the_prompts_alone(start):
    out = start(passes=0)
    assert [(line["calls"], line["population"]) for line in kinds(out, "fast")] == [(0, [[{}, 0.0]])] * 2


# --- what people see ---


def test_the_closing_table(start, capsys):
    out = start()
    said, result = capsys.readouterr().out, json.loads((out / "result.json").read_text())
    for words in ("base weights", "trained weights", "seed prompt", "evolved prompt", "KL to the base", str(out)):
        assert words in said
    for topic, rule in result["hidden"].items():
        assert f"{topic:8}{rule:26}{result['evolved'].get(topic, 'none')}" in said
    assert f"{result['rollouts']} rollouts, all counted" in said
    assert result["evolved"] == load_checkpoint(out / "checkpoint.pt")["population"]["candidates"][0][1]


def test_changes_of_the_prompt_are_shown(start, capsys):
    out = start(steps=9)
    assert "none  ->  " in capsys.readouterr().out and "none  ->  " in (out / "samples.txt").read_text()


def test_what_a_model_wrote_cannot_steer_the_terminal(start, capsys):
    run = train.Run(parse_config(["--resume", str(start(steps=0))]))
    capsys.readouterr()
    run.say("a\x1b[2J\r\x07é\nb")
    assert capsys.readouterr().out == "a?[2J???\nb\n"

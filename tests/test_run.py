"""run.py: resuming bit by bit, a folder for each run, and bases that cannot be used."""

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import model
import pretrain
import run
import train
from config import METHODS, Config, parse_config
from model import load_checkpoint, save_checkpoint
from tasks import TOPICS, corpus, make_task, text
from tests import test_model, toy

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.usefixtures("toy_world")


# --- resuming ---


@pytest.mark.parametrize("method", METHODS)
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
    code = "import sys; from tests import toy; import train; toy.take_over(); train.main(sys.argv[1:])"
    runs = []
    for hash_seed in ("1", "2"):
        argv = [*toy.SIZES, "--base", str(base), "--steps", "5", "--out", str(tmp_path / hash_seed)]
        settings = {"PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
        runs.append(subprocess.Popen([sys.executable, "-c", code, *argv], cwd=ROOT, env=os.environ | settings))
    assert [run.wait() for run in runs] == [0, 0]
    assert toy.equal(toy.outcome(tmp_path / "1"), toy.outcome(tmp_path / "2"))
    assert any(line["kind"] == "fast" and line["accepted"] for line in toy.log_of(tmp_path / "1"))


# --- folders ---


def test_a_compiled_run_samples_with_the_compiled_step_and_is_the_same(start, monkeypatch):
    calls = []

    def compile(step, dynamic):
        assert step is model.decode_step and dynamic
        return lambda *arguments: calls.append(1) or step(*arguments)

    plain = start("plain", steps=2)
    monkeypatch.setattr(torch, "compile", compile)
    compiled = start("compiled", "--compile", steps=2)
    assert calls and toy.equal(toy.outcome(plain), toy.outcome(compiled))


class FakeGraph:
    """A CUDA graph of decode_step, as a CPU can have one: a replay calls it again with what was recorded."""

    recording, recorded = None, 0

    def __enter__(self):
        FakeGraph.recording = self

    def __exit__(self, *_):
        FakeGraph.recording, FakeGraph.recorded = None, FakeGraph.recorded + 1

    def replay(self):
        for part, value in zip(self.outputs, model.decode_step(*self.arguments), strict=True):
            part.copy_(value)


def test_a_captured_step_is_recorded_once_a_chunk_and_samples_the_same(monkeypatch):
    def decode_step(*arguments):
        if graph := FakeGraph.recording:  # nothing is computed while a graph is recorded
            graph.arguments, graph.outputs = arguments, (torch.zeros_like(arguments[1]), torch.zeros(len(arguments[1])))
            return graph.outputs
        return model.decode_step(*arguments)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, capture_error_mode: graph)
    monkeypatch.setattr(run, "decode_step", decode_step)
    gpt, (prompts, questions) = test_model.make_model(), test_model.make_batch()
    noise = torch.rand(3 * 4 * 2, 30, generator=torch.Generator().manual_seed(0))
    captured = run.decoder(False, "cuda")
    for weights in gpt, test_model.make_model(scale=2.0):  # of two models, one after the other
        both = [
            model.sample(weights, prompts, questions, 2, noise=noise, **test_model.SETTINGS, decode=decode)
            for decode in (model.decode_step, captured)
        ]
        for plain, other in zip(*(vars(rollouts).values() for rollouts in both), strict=True):
            assert torch.equal(plain, other)
    assert FakeGraph.recorded == 2 * 4  # 29 steps in chunks of 8
    assert run.decoder(False, "cpu") is decode_step


def test_a_folder_with_another_run_is_refused(start, capsys, base):
    out = start(steps=1)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert f"holds another run: choose another, or go on with --resume {out}" in toy.refused(
        capsys, "--base", base, "--out", out
    )
    (out / "config.json").unlink()  # its settings are lost, the run is not
    assert "holds another run" in toy.refused(capsys, "--base", base, "--out", out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        name: data for name, data in before.items() if name != "config.json"
    }


def test_a_log_without_its_checkpoint_is_not_overwritten(start, capsys, tmp_path, base):
    out = start(steps=5)
    log = (out / "log.jsonl").read_bytes()
    (out / "checkpoint.pt").rename(out / "elsewhere.pt")
    assert "does not fit the last checkpoint" in toy.refused(capsys, "--resume", out)
    assert (out / "log.jsonl").read_bytes() == log
    (out / "elsewhere.pt").rename(out / "checkpoint.pt")
    (out / "log.jsonl").write_bytes(log[:-9])
    assert "does not fit the last checkpoint" in toy.refused(capsys, "--resume", out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "samples.txt").write_text("poems")
    assert "samples.txt does not fit" in toy.refused(capsys, "--base", base, "--out", tmp_path / "mine")
    assert (tmp_path / "mine" / "samples.txt").read_text() == "poems"


@pytest.mark.skipif(pretrain.fcntl is None, reason="no locks here")
def test_of_two_runs_in_a_folder_the_second_is_refused(start, capsys, base):
    out = start(steps=1)
    first = run.Run(parse_config(["--resume", str(out)]))
    assert f"another process is at work in {out}" in toy.refused(capsys, "--resume", out)
    first.lock.close()  # as the system does for a process that was killed
    train.main(["--resume", str(out)])


def test_without_locks_all_else_works(start, monkeypatch):
    monkeypatch.setattr(pretrain, "fcntl", None)
    train.main(["--resume", str(start(steps=1)), "--steps", "2"])


def test_new_runs_get_new_folders(monkeypatch, tmp_path, base):
    monkeypatch.chdir(tmp_path)
    os.makedirs("out/fst-strings-seed0-2")  # of a run that is just beginning
    for _ in range(2):
        train.main([*toy.SIZES, "--seed", "0", "--base", str(base), "--steps", "0"])
    made = {int(path.parent.name.removeprefix("fst-strings-seed0-")) for path in Path("out").glob("*/config.json")}
    assert made == {1, 3}


def test_a_folder_that_cannot_be_written(capsys, tmp_path, base, monkeypatch):
    (tmp_path / "file").write_text("mine")
    assert "Not a directory" in toy.refused(capsys, "--base", base, "--out", tmp_path / "file" / "run")
    assert "File exists" in toy.refused(capsys, "--base", base, "--out", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"

    def forbidden(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", forbidden)
    assert f"Permission denied: '{tmp_path / 'new'}'" in toy.refused(capsys, "--base", base, "--out", tmp_path / "new")


def test_a_full_disk_keeps_the_last_checkpoint(start, capsys):
    resource = pytest.importorskip("resource")
    out = start(steps=2)
    before, limits = (out / "checkpoint.pt").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))  # logs fit, checkpoints do not
    try:
        said = toy.refused(capsys, "--resume", out, "--steps", "6")
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
        assert "damaged" in toy.refused(capsys, "--resume", out)
    path.write_bytes(base.read_bytes())
    assert "of no run" in toy.refused(capsys, "--resume", out)
    path.write_bytes(whole)
    assert (out / "log.jsonl").read_bytes() == log
    train.main(["--resume", str(out), "--steps", "3"])


def test_a_folder_that_may_not_be_written_to(capsys, tmp_path, base, monkeypatch):
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o555)

    def refusing(call):
        def refuse(path, *args, **more):
            if mine in Path(path).parents:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return call(path, *args, **more)

        return refuse

    if os.access(mine, os.W_OK):  # root may write everywhere: refuse in place of the system
        monkeypatch.setattr(os, "mkdir", refusing(os.mkdir))
        monkeypatch.setattr("builtins.open", refusing(open))
    for out in (mine, mine / "run"):
        assert "Permission denied" in toy.refused(capsys, *toy.SIZES, "--base", base, "--out", out)
    assert not list(mine.iterdir())


def test_a_checkpoint_of_another_shape_is_not_gone_on_with(start, capsys):
    out = start(steps=1)
    path = out / "checkpoint.pt"
    whole = load_checkpoint(path)
    for changed in (
        {"population": 3},
        {"model": {name: weight[:1] for name, weight in whole["model"].items()}},
        {"optimizer": {}},
        {"population": whole["population"] | {"candidates": []}},
        {"sizes": {"../elsewhere": 0}},  # nothing but the two logs may be cut
    ):
        save_checkpoint(path, whole | changed)
        assert "does not hold the state of the run" in toy.refused(capsys, "--resume", out)
    save_checkpoint(path, {name: part for name, part in whole.items() if name != "shown"})
    assert "does not hold the state of the run" in toy.refused(capsys, "--resume", out)
    torch.save({"format": model.FORMAT - 1}, path)
    assert f"reads format {model.FORMAT}, not {model.FORMAT - 1}" in toy.refused(capsys, "--resume", out)
    torch.save({"format": model.FORMAT, "model": Path("/")}, path)
    assert "holds more than tensors and plain data" in toy.refused(capsys, "--resume", out)


# --- prompts that people write ---


@pytest.fixture
def prompt(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("red: sort\nblue: reverse raise\n")
    return path


RULES = {"red": "sort", "blue": "reverse raise"}


@pytest.mark.parametrize("method", ["fst", "rl", "gepa"])
def test_a_run_begins_with_a_prompt_and_resumes_without_its_file(start, prompt, method):
    whole = start("whole", method=method, steps=6, prompt=prompt)
    first = toy.kinds(whole, "eval")[0]
    assert (first["step"], first["prompt"]) == (0, RULES)
    if method == "rl":
        assert all(line["prompt"] == RULES for line in toy.kinds(whole, "eval"))
    parts = start("parts", method=method, steps=0, prompt=prompt)
    prompt.unlink()
    train.main(["--resume", str(parts), "--steps", "3"])
    train.main(["--resume", str(parts), "--steps", "6"])
    assert toy.equal(toy.outcome(whole), toy.outcome(parts))
    for name in ("checkpoint.pt", "result.json"):  # back to the beginning, where only config.json knows the prompt
        (parts / name).unlink()
    for name in ("log.jsonl", "samples.txt"):
        (parts / name).write_bytes(b"")
    train.main(["--resume", str(parts), "--steps", "6"])
    assert toy.equal(toy.outcome(whole), toy.outcome(parts))


def test_rollouts_and_the_closing_table_are_under_the_prompt(start, prompt, monkeypatch):
    seen, answer = [], train.answer

    def watched(generate, jobs, **settings):
        seen.extend(rules for rules, _ in jobs)
        return answer(generate, jobs, **settings)

    monkeypatch.setattr(train, "answer", watched)
    start(method="rl", steps=2, prompt=prompt)
    assert seen and all(rules == RULES for rules in seen)


def test_a_bad_prompt_writes_nothing(capsys, base, tmp_path, prompt):
    prompt.write_text("red: sort\n\x1b[2Jpurple: rain")
    said = toy.refused(capsys, "--base", base, "--out", tmp_path / "run", "--prompt", prompt)
    assert f"--prompt {prompt}: line 2 of the prompt" in said and said.isprintable()
    said = toy.refused(capsys, "--base", base, "--out", tmp_path / "run", "--prompt", tmp_path / "none")
    assert "No such file" in said and str(tmp_path / "none") in said
    assert not (tmp_path / "run").exists()


def test_a_prompt_in_a_damaged_config_is_refused(start, capsys):
    out = start(steps=1)
    settings = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(settings | {"prompt": "red: sort\nask red: a"}))
    assert "line 2 of the prompt" in toy.refused(capsys, "--resume", out)


def test_a_prompt_with_more_topics_needs_more_context(start, monkeypatch):
    monkeypatch.setattr(run, "REFLECTION_TOKENS", 0)  # else reflections are the longest texts
    finished = run.Run(parse_config(["--resume", str(start(steps=0))]))
    finished.base = SimpleNamespace(cfg=SimpleNamespace(block_size=1))
    needs = []
    for topics in (TOPICS[:4], TOPICS):
        finished.start = dict.fromkeys(topics, "sort")
        with pytest.raises(ValueError, match="can take") as error:
            finished.check_context()
        needs.append(int(re.search(r"(\d+) tokens", str(error.value))[1]))
    assert needs[1] > needs[0]


def test_a_task_whose_right_answers_would_be_cut_off_is_refused(capsys, base, monkeypatch, tmp_path):
    task = make_task("strings", 2)  # the seed of toy runs
    rules = {topic: rule for topic, rule in task.rules.items() if len(rule) == 3}
    [(topic, rule)] = rules.items()
    state = task.domain.draw(random.Random(0), task.difficulties[0])
    answer = f"{topic}: {' '.join(rule)}\n{corpus.steps_text(task.domain, rule, state)}"
    needed = len(text.encode(answer)) + 1  # and the end of the sequence
    assert run.longest_answer(task) == needed
    monkeypatch.setattr(run, "ANSWER_TOKENS", needed - 1)
    said = toy.refused(capsys, *toy.SIZES, "--base", base, "--out", tmp_path / "out")
    assert f"right answers of strings take up to {needed} tokens, {needed - 1} are sampled" in said
    monkeypatch.setattr(run, "ANSWER_TOKENS", needed)
    train.main([*toy.SIZES, "--base", str(base), "--out", str(tmp_path / "out"), "--steps", "0"])


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert run.pick_device("auto") == run.pick_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert run.pick_device("cpu") == "cpu"
    for name in ("auto", "cuda"):
        with pytest.raises(ValueError, match="3 processes need as many GPUs, here are 2"):
            run.pick_device(name)


def test_several_processes_do_not_run_on_apples_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert run.pick_device("auto") == run.pick_device("mps") == "mps"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert run.pick_device("auto") == "cpu"
    with pytest.raises(ValueError, match="--device mps: this machine has none for 2 processes; use --device auto"):
        run.pick_device("mps")


# --- the base ---


@pytest.mark.skipif(pretrain.fcntl is None, reason="no locks here")
def test_of_two_trainings_of_a_base_the_second_is_refused(default_base, capsys):
    path, minutes = default_base
    with pretrain.lock(pretrain.beside(path, ".lock"), "taken"):  # as another process does
        assert f"another process is training {path}: wait" in toy.refused(
            capsys, *toy.SIZES
        )  # it trains the base first
        toy.make_base(path)
        before = path.read_bytes()
        assert f"another process is training {path}: wait" in toy.refused(capsys, "--pretrain")
    assert minutes == [] and path.read_bytes() == before and [*path.parent.glob("*.pt")] == [path]
    train.main(["--pretrain", "--minutes", "3"])
    assert minutes == [3]


def test_a_base_that_was_asked_for_and_cannot_be_used_is_refused(capsys, tmp_path, base):
    whole, path, out = base.read_bytes(), tmp_path / "b.pt", tmp_path / "run"
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    assert "no checkpoint at" in toy.refused(capsys, "--base", path, "--out", out)
    for data, said in (
        (whole[: len(whole) // 2], "damaged"),
        (bytes(flipped), "damaged"),
        (b"hello", "damaged, or no checkpoint of this program"),
    ):
        path.write_bytes(data)
        assert said in toy.refused(capsys, "--base", path, "--out", out)
        assert path.read_bytes() == data
    toy.make_base(path, vocabulary="another")
    assert "knows another vocabulary, or is none" in toy.refused(capsys, "--base", path, "--out", out)
    save_checkpoint(path, {"step": 3})
    assert "or is none" in toy.refused(capsys, "--base", path, "--out", out)
    assert not (out / "config.json").exists()  # so that the same --out works with another base


@pytest.fixture
def default_base(monkeypatch, tmp_path):
    """The default base of a fresh clone (still missing), and pretraining that takes no time."""
    monkeypatch.chdir(tmp_path)
    path = Path(Config.base)
    path.parent.mkdir()
    minutes = []
    monkeypatch.setattr(run, "pretrain", lambda p, device, names, **s: (minutes.append(s["minutes"]), toy.make_base(p)))
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
    [kept] = path.parent.glob("base-*.pt")
    assert kept.read_bytes() == old and load_checkpoint(path)["vocabulary"] == text.fingerprint()


def test_a_damaged_default_base_is_left_alone(default_base, capsys):
    path, minutes = default_base
    path.write_bytes(b"hello")
    assert "damaged" in toy.refused(capsys, *toy.SIZES)
    assert path.read_bytes() == b"hello" and minutes == []


def test_pretraining_again_keeps_every_old_base(default_base):
    path, minutes = default_base
    contents = set()
    for n in (8, 12, 12):
        toy.make_base(path, n_hidden=n)
        contents.add(path.read_bytes())
        train.main(["--pretrain", "--minutes", "3"])
    assert minutes == [3, 3, 3] and {f.read_bytes() for f in path.parent.glob("base-*.pt")} == contents
    assert len(contents) == 2 and not Path("out").exists()


def test_a_run_does_not_go_on_with_another_base(start, capsys, tmp_path):
    toy.make_base(tmp_path / "b.pt")
    out = start(steps=2, base=tmp_path / "b.pt")
    toy.make_base(tmp_path / "b.pt", n_hidden=12)
    assert "began with another base" in toy.refused(capsys, "--resume", out)
    toy.make_base(tmp_path / "moved.pt")
    train.main(["--resume", str(out), "--base", str(tmp_path / "moved.pt"), "--steps", "3"])


def test_a_begun_run_whose_base_is_gone_does_not_train_one(default_base, capsys):
    path, minutes = default_base
    train.main([*toy.SIZES, "--steps", "1", "--out", "run"])
    path.unlink()
    assert "no checkpoint at" in toy.refused(capsys, "--resume", "run")
    assert minutes == [12]


def test_questions_longer_than_the_context_are_refused_at_the_start(capsys, tmp_path):
    toy.make_base(tmp_path / "b.pt", block_size=200)
    said = toy.refused(capsys, "--base", tmp_path / "b.pt", "--out", tmp_path / "run")
    assert "the texts of strings can take" in said and "reads 200" in said


def test_a_task_that_the_base_was_not_trained_on_is_refused(start, tmp_path, capsys):
    toy.make_base(tmp_path / "strings.pt", known=["strings"])
    said = toy.refused(capsys, *toy.SIZES, "--tasks", "facts", "--base", str(tmp_path / "strings.pt"))
    assert "knows strings, not facts" in said

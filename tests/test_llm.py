"""words/llm.py: whole runs of train.py with a pretrained model, here a random one of toy size."""

import json
import math
import random
import re
import zlib

import pytest
import torch

import sampling
import train
from sampling import completions_of
from tests import toy
from tests.tiny_llm import change_json, make_folder
from words import examples, llm
from words.pretrained import load
from words.tasks import TOPIC, make_task, words_of
from words.world import EXAMPLE, Outcome, WordWorld

SIZES = "--tasks sums labels --batch 2 --group 4 --cycle 2 --anchor 4 --minibatch 3 --passes 30"
SIZES += " --lr 0.01 --stage 2 --eval-every 2 --eval-questions 4 --device cpu"
SIZES = SIZES.split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """A function that carries out a run whose rewards are hashes: random weights get none."""

    def texts_of(world, rollouts):
        return [world.decode(completion) for completion in completions_of(rollouts)]

    def grade(self, question, completion):
        words = f"{question.ask} {completion}"
        return Outcome(float(zlib.crc32(words.encode("utf-8", "replace")) % 3 == 0), completion)

    monkeypatch.setattr(sampling, "texts_of", texts_of)
    monkeypatch.setattr(WordWorld, "grade", grade)

    def start(*argv, name="run"):
        out = tmp_path / name
        train.main([*SIZES, "--llm", str(folder), "--out", str(out), *argv])
        return out

    return start


def test_a_run_leaves_what_a_run_of_the_toy_world_leaves(run):
    out = run("--skills")
    lines = toy.log_of(out)
    assert {line["kind"] for line in lines} == {"slow", "fast", "eval", "skills"}
    for line in toy.kinds(out, "eval"):
        for metric in ("val_acc", "neutral_acc", "greedy_acc", "neutral_greedy"):
            assert 0 <= line[metric] <= 1
    changed = [line["kl_base"] for line in toy.kinds(out, "slow") if line["kl_base"] is not None]
    assert changed and max(changed) > 0
    losses = [line["text_loss"] for line in toy.kinds(out, "skills")]
    assert losses[0] != losses[-1] and all(map(math.isfinite, losses))

    # What is found is named apart in the log, and the page shows it.
    accepted = [child for line in toy.kinds(out, "fast") for child in line["accepted"]]
    assert accepted
    assert all(child["how"].startswith(("worked example ", "reflection: ")) for child in accepted)
    page = (out / "view.html").read_text(encoding="utf-8")
    assert "fst on sums, labels" in page
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert [task["task"] for task in result["tasks"]] == ["sums", "labels"]
    assert (out / "weights.pt").exists()


@pytest.mark.parametrize("method", ["rl", "gepa", "distill"])
def test_every_method_runs_on_it(run, method):
    out = run("--method", method, "--tasks", "addition")
    assert toy.kinds(out, "eval")[-1]["step"] == 2


def test_a_run_that_was_stopped_goes_on_exactly(run, folder, monkeypatch):
    whole = run(name="whole")
    out = run("--steps", "2", name="halves")
    monkeypatch.chdir(folder.parent)  # the path of the model is kept whole
    train.main(["--resume", str(out), "--steps", "4", "--llm", folder.name])
    assert toy.log_of(out) == toy.log_of(whole)


def test_no_question_of_the_gradient_or_of_scores_ever_stands_in_a_prompt(run, monkeypatch):
    answered = []
    answer = sampling.Sampler.answer

    def watched(sampler, jobs, samples=1):
        answered.extend(jobs)
        return answer(sampler, jobs, samples)

    monkeypatch.setattr(sampling.Sampler, "answer", watched)
    run("--steps", "4")
    shown = 0
    for prompt, questions in answered:
        shown += TOPIC in prompt
        if len(questions) != 3:  # so many lessons are a minibatch
            _instruction, *lines = prompt.get(TOPIC, "").split("\n")
            told = [words_of(re.fullmatch(EXAMPLE, line)[1]) for line in lines]
            assert not any(words_of(question.ask) in told for question in questions)
    assert shown > 5


def test_rl_trains_under_a_fixed_prompt_of_examples(run, tmp_path, capsys):
    capsys.readouterr()
    examples.main(["sums"])
    file = tmp_path / "prompt.txt"
    text = capsys.readouterr().out
    file.write_text(text, encoding="utf-8")
    out = run("--method", "rl", "--tasks", "sums", "--prompt", str(file))
    assert toy.kinds(out, "eval")[-1]["prompt"] == {TOPIC: text.rstrip("\n")}

    # Going on, the same file may be named again.
    train.main(["--resume", str(out), "--prompt", str(file)])


def test_the_settings_of_such_a_run_are_its_own_where_none_are_given(run, folder):
    cfg = train.command_line.parse(train.Config, ["--llm", str(folder)])
    for name, value in llm.SETTINGS.items():
        assert getattr(cfg, name) == value
    assert cfg.steps == cfg.stage and cfg.llm == str(folder.resolve())
    cfg = train.command_line.parse(train.Config, ["--llm", "smollm2", "--lr", "0.5"])
    assert cfg.lr == 0.5 and cfg.llm == "smollm2"


# --- bad input ---


def test_bad_input_is_one_line_with_code_2(tmp_path, folder, capsys, monkeypatch):
    said = toy.refused(capsys, "--llm", "gpt5", "--out", tmp_path / "run")
    assert "--llm gpt5: it is neither 'smollm2' nor a GGUF file nor a folder" in said
    assert "unknown task 'strings'" in toy.refused(capsys, "--llm", folder, "--tasks", "strings")
    assert "leave out --llm" in toy.refused(capsys, "--llm", folder, "--pretrain")
    assert "unknown task 'sums'" in toy.refused(capsys, "--tasks", "sums")
    make_folder(tmp_path / "other")
    change_json(tmp_path / "other" / "config.json", model_type="mamba")
    out = ("--out", tmp_path / "run")
    assert "architecture 'mamba'" in toy.refused(capsys, "--llm", tmp_path / "other", *out)
    (tmp_path / "other" / "tokenizer.json").unlink()
    assert "no tokenizer.json" in toy.refused(capsys, "--llm", tmp_path / "other", *out)
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("\n47 + 5 = 52 + 0", encoding="utf-8")
    said = toy.refused(capsys, "--llm", folder, "--prompt", prompt)
    assert "line 2 of the prompt" in said
    short = make_folder(tmp_path / "short", max_position_embeddings=64)
    said = toy.refused(capsys, "--llm", short, *out)
    assert "tokens, the model reads 64: choose a model with a longer context" in said


# --- what is left, and numbers ---


def test_the_loss_on_the_held_out_text_is_that_of_its_tokens(folder, monkeypatch):
    model, tokenizer = load(str(folder))
    base = llm.Pretrained(model, WordWorld(tokenizer), {}, 0)
    tokens = base.world.encode_start(llm.HELD_OUT.read_text(encoding="utf-8"))
    monkeypatch.setattr(llm, "WINDOW", 100)
    total = 0.0
    with torch.no_grad():
        for begin in range(0, len(tokens) - 1, 100):
            window = torch.tensor(tokens[begin : begin + 101])
            logits = model(window[None, :-1])[0]
            total += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
    assert base.skills(model)["text_loss"] == pytest.approx(total / (len(tokens) - 1), rel=1e-4)


def test_other_weights_have_another_checksum(folder, tmp_path):
    make_folder(tmp_path / "other", seed=1)
    names = (str(folder), str(folder), str(tmp_path / "other"))
    opened = [llm.open_llm(name, "cpu") for name in names]
    first, again, other = (base.checksum for base in opened)
    assert first == again != other


def test_in_bfloat16_weights_and_log_probabilities_stay_in_float32(folder):
    # As on a GPU: sampling, scoring and a gradient, with products in bfloat16.
    model, tokenizer = load(str(folder))
    sampler = sampling.Sampler(model, WordWorld(tokenizer), 1.0, torch.Generator().manual_seed(0))
    asked = make_task("sums", 0).questions(random.Random(0), 3, "questions")
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        answers = sampler.answer([({}, asked)], samples=2)
        logprobs = train.completion_logprobs(model, answers.contexts, answers.completions, 1.0)
        logprobs.sum().backward()
    assert logprobs.dtype == answers.logprobs.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(
        p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in model.parameters()
    )
    torch.testing.assert_close(
        answers.logprobs[:, : logprobs.size(1)], logprobs.detach(), atol=0.3, rtol=0.1
    )


def test_every_weight_counts_for_the_checksum(folder, monkeypatch):
    opened = load(str(folder))
    monkeypatch.setattr(llm, "load", lambda name: opened)
    checksums = {llm.open_llm("", "cpu").checksum}
    weights = list(opened[0].parameters())
    for weight in weights:
        with torch.no_grad():
            weight.view(-1)[0] += 1
        checksums.add(llm.open_llm("", "cpu").checksum)
    assert len(checksums) == 1 + len(weights)

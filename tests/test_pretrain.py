"""base/pretrain.py: the schedule, the loss, and a training that is interrupted."""

import itertools
import random
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import base.pretrain as module
from base import batches, corpus
from base.batches import length_batches
from base.exams import base_rates
from base.pretrain import pretrain
from model import GPT, GPTConfig
from plumbing.files import beside, load_checkpoint
from tasks import domains, formats

WORLDS = list(domains())
TINY = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_hidden": 16}


@pytest.fixture
def tiny(monkeypatch):
    """A model that trains at once, and a clock of its own: each look at it is 0.1 seconds later."""
    looks = itertools.count()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(looks) / 10))
    monkeypatch.setattr(module, "GPTConfig", lambda vocab_size: GPTConfig(vocab_size, **TINY))
    monkeypatch.setattr(module, "base_rates", lambda model, domain: "rates")


def test_a_document_weighs_as_the_root_of_its_length(tiny, tmp_path, monkeypatch):
    """The gradient of a step, against a sum over documents that are neither padded nor batched."""
    documents, made = corpus.documents([domains()["strings"]], 0, 0, 12), []
    lengths = [sum(learn) for _, learn in documents]
    assert max(lengths) > 10 * min(lengths)
    monkeypatch.setattr(module.corpus, "documents", lambda *_: documents)

    class Done(Exception):
        """Ends the training in its first step."""

    class Recorder(torch.optim.SGD):
        def step(self):
            raise Done

    def recorders(model):
        made.append(model)
        return [Recorder(model.parameters(), lr=0.0)] * 2

    monkeypatch.setattr(module, "optimizers_of", recorders)
    with pytest.raises(Done):
        pretrain(tmp_path / "base.pt", "cpu", ["strings"], minutes=1, batch=12, seed=0)
    [model], loss = made, 0.0
    found = model.head.weight.grad.clone()
    model.zero_grad()
    for (tokens, learn), n in zip(documents, lengths, strict=True):
        tokens, learned = torch.tensor(tokens), torch.tensor(learn[1:], dtype=torch.bool)
        logprobs = model(tokens[None, :-1])[0].log_softmax(-1)[range(len(learned)), tokens[1:]]
        loss -= logprobs[learned].mean() * n**0.5 / sum(n**0.5 for n in lengths)
    loss.backward()
    torch.testing.assert_close(found, model.head.weight.grad, atol=1e-7, rtol=1e-4)


def test_domains_join_in_one_by_one_while_documents_are_easy(tiny, tmp_path, monkeypatch):
    seen, clock = [], iter(range(1000))
    documents = corpus.documents

    def spy(worlds, seed, step, n, easy):
        seen.append((len(worlds), easy))
        return documents(worlds, seed, step, n, easy)

    monkeypatch.setattr(corpus, "documents", spy)
    # A second for every look.
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    pretrain(tmp_path / "base.pt", "cpu", [*domains()], minutes=1, batch=2, seed=0)
    stages = list(dict.fromkeys(seen))
    assert stages == [(1, True), (2, True), (3, True), (4, True), (4, False)]
    assert abs(seen.count((4, False)) / len(seen) - 0.6) < 0.1


def test_a_base_is_written_and_its_rates_can_be_looked_at(tiny, tmp_path, capsys):
    path = tmp_path / "base.pt"
    pretrain(path, "cpu", WORLDS, minutes=0.02, batch=4, seed=0)
    contents = load_checkpoint(path)
    assert contents["vocabulary"] == formats.fingerprint()
    assert contents["step"] > 0 and contents["elapsed"] >= 1.2
    assert not beside(path, ".partial").exists() and "base written" in capsys.readouterr().out
    model = GPT(GPTConfig(**contents["model_config"]))
    model.load_state_dict(contents["model"])
    assert base_rates(model, next(iter(domains().values()))).startswith(f"{WORLDS[0]}: solve 0.")


def test_an_interrupted_pretraining_goes_on_with_its_own_schedule(
    tiny, tmp_path, monkeypatch, capsys
):
    path, seen = tmp_path / "base.pt", []
    documents = corpus.documents
    monkeypatch.setattr(module, "LOOK_EVERY", 2)

    def stop_at_step_five(worlds, seed, step, *rest):
        seen.append(step)
        if step == 5:
            raise KeyboardInterrupt
        return documents(worlds, seed, step, *rest)

    monkeypatch.setattr(corpus, "documents", stop_at_step_five)
    with pytest.raises(KeyboardInterrupt):
        pretrain(path, "cpu", WORLDS, minutes=0.05, batch=2, seed=0)
    assert not path.exists()
    partial = load_checkpoint(beside(path, ".partial"))
    assert partial["step"] == 4

    def watched(worlds, seed, step, *rest):
        seen.append(step)
        return documents(worlds, seed, step, *rest)

    # Going on, the 0.05 minutes of its start count.
    monkeypatch.setattr(corpus, "documents", watched)
    pretrain(path, "cpu", WORLDS, minutes=99, batch=2, seed=0)
    assert seen[:7] == [0, 1, 2, 3, 4, 5, 4] and "going on with" in capsys.readouterr().out
    assert load_checkpoint(path)["seconds"] == 60 * 0.05

    # Weights and learning rates went on, too: it is as if it had never stopped.
    whole = tmp_path / "whole.pt"
    pretrain(whole, "cpu", WORLDS, minutes=0.05, batch=2, seed=0)
    for name, weight in load_checkpoint(whole)["model"].items():
        torch.testing.assert_close(load_checkpoint(path)["model"][name], weight, atol=1e-5, rtol=0)


def test_the_learning_rate_rises_for_fifty_steps_and_falls_to_zero_over_the_second_half(
    tiny, tmp_path, monkeypatch
):
    made, rates = [], []
    optimizers_of, documents = module.optimizers_of, corpus.documents

    def keep(model):
        made.append(optimizers_of(model))
        return made[0]

    def watched(*arguments):
        rates.append([group["lr"] for optimizer in made[0] for group in optimizer.param_groups])
        return documents(*arguments)

    # 200 looks at the clock.
    monkeypatch.setattr(module, "optimizers_of", keep)
    monkeypatch.setattr(corpus, "documents", watched)
    pretrain(tmp_path / "base.pt", "cpu", ["strings"], minutes=20 / 60, batch=2, seed=0)
    for peak, seen in zip((0.02, 4e-3), zip(*rates, strict=True), strict=True):
        n = len(seen)
        assert seen[0] == pytest.approx(peak / 50) and seen[24] == pytest.approx(peak / 2)
        assert seen[49] == seen[n // 2 - 1] == peak == max(seen)
        assert seen[3 * n // 4] == pytest.approx(peak / 2, rel=0.05) and seen[-1] < 0.03 * peak


def test_what_does_not_fit_the_model_is_refused_before_training(tiny, tmp_path, monkeypatch):
    short = partial(GPTConfig, **TINY, block_size=60)
    monkeypatch.setattr(module, "GPTConfig", short)
    said = r"a document of the corpus has \d+ tokens, the model reads 60.*reflect"
    with pytest.raises(ValueError, match=said) as error:
        pretrain(tmp_path / "base.pt", "cpu", ["strings"], minutes=1, batch=2, seed=0)
    assert "\n" not in str(error.value) and not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "of", ["another vocabulary", "other domains", "another seed", "another model"]
)
def test_what_another_training_left_is_not_overwritten(tiny, tmp_path, monkeypatch, of):
    path = tmp_path / "base.pt"
    with monkeypatch.context() as another:
        if of == "another vocabulary":
            another.setattr(formats, "fingerprint", lambda: "another")
        if of == "another model":
            another.setattr(module, "GPTConfig", partial(GPTConfig, **TINY | {"n_layer": 2}))
        names, seed = WORLDS[: 1 if of == "other domains" else None], int(of == "another seed")
        pretrain(path, "cpu", names, minutes=0.005, batch=2, seed=seed)
    path.rename(left := beside(path, ".partial"))
    before = left.read_bytes()
    said = r"base.pt.partial is of a training with other domains, another vocab"
    with pytest.raises(ValueError, match=said):
        pretrain(path, "cpu", WORLDS, minutes=0.02, batch=2, seed=0)
    assert left.read_bytes() == before and not path.exists()


@pytest.mark.parametrize("bad, ends", [({1, 2, 3, 4}, True), ({2, 3, 4, 5, 6}, False)])
def test_a_loss_that_is_not_finite_skips_the_step_and_in_the_end_stops(
    tiny, tmp_path, monkeypatch, bad, ends
):
    documents, entropy, now = corpus.documents, torch.nn.functional.cross_entropy, []

    def watched(worlds, seed, step, *rest):
        now.append(step)
        return documents(worlds, seed, step, *rest)

    def broken(*arguments, **settings):
        return entropy(*arguments, **settings) * (float("nan") if now[-1] in bad else 1)

    monkeypatch.setattr(corpus, "documents", watched)
    monkeypatch.setattr(batches, "F", SimpleNamespace(cross_entropy=broken))
    monkeypatch.setattr(module, "LOOK_EVERY", 1)
    settings = {"minutes": 0.015, "batch": 2, "seed": 0}  # about nine steps
    if ends:
        pretrain(tmp_path / "base.pt", "cpu", WORLDS, **settings)
        saved = load_checkpoint(tmp_path / "base.pt")
    else:
        said = "not finite in 5 steps on end, the last is step 6"
        with pytest.raises(FloatingPointError, match=said):
            pretrain(tmp_path / "base.pt", "cpu", WORLDS, **settings)
        assert not (tmp_path / "base.pt").exists()
        saved = load_checkpoint(tmp_path / "base.pt.partial")
        assert saved["step"] == 2  # the last good one
    assert all(weight.isfinite().all() for weight in saved["model"].values())


def test_learning_rates_lower_the_loss_on_a_few_documents():
    torch.manual_seed(0)
    model = GPT(GPTConfig(formats.encoding().n_vocab, **TINY))
    optimizers = module.optimizers_of(model)
    rng = random.Random(0)
    domain = next(iter(domains().values()))
    documents = [corpus.encode_document(corpus.reciting_document(rng, domain)) for _ in range(3)]
    losses = []
    for _ in range(40):
        loss = 0.0
        for tokens, targets in length_batches(documents, "cpu"):
            logits = model(tokens[:, :-1]).flatten(0, 1)
            part = torch.nn.functional.cross_entropy(logits, targets.flatten())
            part.backward()
            loss += part.item()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss)
    assert losses[-1] < 0.5 * losses[0]


def test_every_parameter_has_one_optimizer_and_only_matrices_of_blocks_have_muon():
    model = GPT(GPTConfig(40, n_layer=2, n_head=2, n_embd=16, n_hidden=24))
    muon, adamw = module.optimizers_of(model)
    matrices = [id(p) for group in muon.param_groups for p in group["params"]]
    others = [id(p) for group in adamw.param_groups for p in group["params"]]
    assert sorted(matrices + others) == sorted(id(p) for p in model.parameters())
    assert isinstance(muon, torch.optim.Muon) and len(matrices) == 2 * 7
    assert id(model.embedding.weight) in others and id(model.head.weight) in others


@pytest.mark.parametrize("n, share", [(1, 0.2), (2, 0.3), (3, 0.4), (4, 0.4)])
def test_the_easy_part_is_longer_with_more_domains(tiny, n, share):
    training = module.Training(WORLDS[:n], "cpu", 10, 2, 0)
    assert training.easy_seconds == pytest.approx(600 * share)


def test_only_matrices_of_blocks_decay():
    muon, adamw = module.optimizers_of(GPT(GPTConfig(40, **TINY)))
    decay = [group["weight_decay"] for group in (*muon.param_groups, *adamw.param_groups)]
    assert decay == [0.1, 0.0]

